//! What is known of a session's record in the store, and what of the session is not in it (rules H1,
//! N3, N5, N6).

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Epoch, Session, State, StateChange, persistence::Doing, unstored::Unstored};
use crate::store::{
    Revision,
    record::{Record, UpstreamId},
};

/// What the store is known to hold of a session.
#[derive(Default)]
pub(crate) struct Synced {
    /// The revision to replace; `None` where there is nothing.
    pub(super) revision: Option<Revision>,
    /// What this process has changed since it was last written or read.
    pub(super) unstored: Unstored,
    /// Tells the session from others that the server gives the same id.
    pub(super) incarnation: Option<u64>,
    /// Whose place it took under its key, if the store may hold that.
    pub(super) replaces: Option<u64>,
    /// It has been written or read. Until then, whatever has its key is of an earlier session: the
    /// server has just handed out the id anew.
    pub(super) is_known: bool,
    /// The epoch that it was seen to be in there last.
    pub(super) seen: Option<StoredEpoch>,
    /// The epochs that were published although the store did not answer.
    pub(super) unagreed: Vec<StoredEpoch>,
    /// The epochs that this process has told the store of since, or may have: that need not have said
    /// so.
    pub(super) sent: Vec<StoredEpoch>,
    /// The ids of epochs of other processes that another session had as well, so that they are neither's:
    /// a process that does not know may go on in one under a later number.
    pub(super) lost: Vec<UpstreamId>,
    /// What an epoch of this process's making has been told, where the store has brought more since.
    pub(super) told: Option<Box<State>>,
    /// It is about to be queued.
    pub(super) is_back: bool,
    /// It is to be written.
    pub(super) is_queued: bool,
    /// It is being written.
    pub(super) is_in_hand: bool,
    /// It was, and its epoch was about to be left: until it is written after that.
    pub(super) left: Option<Doing>,
    /// How often the store has been asked or told, and which of that it was answered last.
    pub(super) asked: u64,
    pub(super) answered: u64,
    /// How much is being done for it.
    pub(super) doing: usize,
    /// When this process last wrote it.
    pub(super) written: Option<Instant>,
    /// It was, and cannot be: there is no record of it.
    pub(super) is_unstorable: bool,
    /// The session has ended, and its record with it.
    pub(super) is_removed: bool,
}

/// An epoch as a record tells it from others.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct StoredEpoch {
    number: u64,
    upstream: UpstreamId,
}

/// How many epochs are kept in mind that were published without the store. One may have come to it
/// all the same, later than it was waited for.
const MAX_UNAGREED: usize = 8;

impl StoredEpoch {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            number: record.epoch,
            upstream: record.upstream.clone(),
        }
    }
}

impl Synced {
    pub(super) fn bytes(&self) -> usize {
        let epochs = self.unagreed.capacity() + self.sent.capacity();
        let unagreed = epochs * size_of::<StoredEpoch>();
        let lost = self.lost.capacity() * size_of::<UpstreamId>();
        let told = self.told.as_ref();
        let told = told.map_or(0, |told| size_of::<State>() + told.bytes());
        size_of::<Self>() + self.unstored.bytes() + unagreed + lost + told
    }

    /// The store is about to be told of this epoch.
    pub(super) fn sends(&mut self, epoch: &StoredEpoch) {
        if self.seen.as_ref() == Some(epoch) || self.sent.contains(epoch) {
            return;
        }
        if self.sent.len() >= MAX_UNAGREED {
            self.sent.remove(0);
        }
        self.sent.push(epoch.clone());
    }

    /// The store is about to be asked, or told, something. Gives its number.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// The store has answered that. Gives whether it is the latest that is known: what has been answered
    /// that was asked later is newer.
    pub(super) fn is_answered(&mut self, asked: u64) -> bool {
        let is_latest = asked > self.answered;
        self.answered = self.answered.max(asked);
        is_latest
    }

    /// The store holds the session in this epoch.
    pub(super) fn agreed(&mut self, epoch: StoredEpoch) {
        self.unagreed.retain(|it| it.number > epoch.number);
        self.sent.retain(|it| it.number > epoch.number);
        self.seen = Some(epoch);
    }

    /// This epoch is published although the store does not answer.
    pub(super) fn not_agreed(&mut self, epoch: StoredEpoch) {
        if self.unagreed.len() >= MAX_UNAGREED {
            self.unagreed.remove(0);
        }
        self.unagreed.push(epoch);
    }

    /// Whether the mark of a session that has ended is about this one.
    pub(super) fn is_ended_by(&self, mark: Option<u64>) -> bool {
        self.incarnation == mark && (mark.is_some() || self.is_known)
    }
}

impl Session {
    /// Whether the store, or the server, is still to hear of it: it has changed, or is about to.
    pub(super) fn is_unwritten(&self) -> bool {
        let is_recovering = self.chain().is_recovering();
        let is_unwritten = self.synced(|synced| {
            let is_to_be_written = synced.is_back || synced.is_queued || synced.is_in_hand;
            let is_at_work = is_recovering || synced.doing > 0;
            !synced.is_unstorable && (is_to_be_written || is_at_work)
        });
        is_unwritten == Some(true)
    }

    /// It is forgotten for want of room. Gives whether there is a store that may keep it.
    pub(super) fn makes_room(&self) -> bool {
        self.set_made_room(true);
        self.synced(|_| ()).is_some()
    }

    /// Whether it was, and may go on.
    pub(crate) fn is_to_go_on(&self) -> bool {
        self.has_made_room() && self.synced(|synced| synced.is_removed) != Some(true)
    }

    /// Whether it may be the session that was `found`, and is not known to be an earlier one with its key
    /// (rule A5).
    pub(super) fn may_be(&self, found: &Session) -> bool {
        if std::ptr::eq(self, found) {
            return true;
        }
        let theirs = found.synced(|it| it.incarnation).flatten();
        let own = self
            .synced(|it| it.incarnation.filter(|_| it.is_known))
            .flatten();
        own.is_none() || theirs.is_none() || own == theirs
    }

    /// It takes the place of this one under its key, and so in the store of what that may hold there: of
    /// this one, or of the one before.
    pub(super) fn takes_place_of(&self, replaced: Option<&Arc<Session>>) {
        let stored = replaced.and_then(|replaced| {
            let stored = replaced.synced(|synced| match synced.is_known {
                true => synced.incarnation,
                false => synced.replaces,
            });
            stored.flatten()
        });
        if stored.is_some() {
            self.with_synced(|_, synced| synced.replaces = stored);
        }
    }

    /// Whether a recorded session is the one that was `found`, and not a later one that was given its key
    /// (rule A5).
    pub(super) fn is_recorded_as(&self, found: &Session) -> bool {
        let of = |session: &Session| session.synced(|it| it.incarnation).flatten();
        match (of(self), of(found)) {
            _ if std::ptr::eq(self, found) => true,
            (Some(own), Some(theirs)) => own == theirs,
            // What this process has recorded itself has yet to be written.
            _ => self.synced(|it| it.is_known) == Some(true),
        }
    }

    /// It goes on as the session that was `found`, unless that is itself. If another process has gone on
    /// meanwhile, or noted that the server has given the id to another session, this one has expired.
    pub(super) fn is_found_as(&self, found: &Session) {
        if std::ptr::eq(self, found) {
            return;
        }
        let (current, theirs) = (self.chain().current(), found.chain().current());
        let is_given_away =
            theirs.is_reassigned() && found.as_stored(&theirs) == self.as_stored(&current);
        if is_given_away || self.is_overtaken_by(found) {
            self.chain().expire_in(&current);
        }
    }

    /// Whether another process has gone on, as the session that was `found` has it.
    pub(super) fn is_overtaken_by(&self, found: &Session) -> bool {
        let stored = found.as_stored(&found.chain().current());
        !std::ptr::eq(self, found) && self.is_behind_of(&self.chain().current(), stored)
    }

    /// It is recorded once more, and about to be written, so that it does not make room at once.
    pub(super) fn is_back(&self) {
        self.chain().is_back();
        self.set_made_room(false);
        self.with_synced(|_, synced| synced.is_back = true);
    }

    /// Whether it is to go on since the store has not been told of it, or of a change in it.
    pub(super) fn is_late(&self) -> bool {
        let is_late = self.synced(|synced| {
            let is_untold = !synced.is_known || !synced.unstored.is_empty();
            is_untold && !synced.is_unstorable
        });
        self.is_to_go_on() && is_late != Some(false)
    }

    /// What tells the session from others with the same key. Made when it is first needed.
    pub(super) fn incarnation(&self) -> Option<u64> {
        self.with_synced(|_, synced| {
            // Those that another process recorded have what that has given them.
            if synced.incarnation.is_none() && !synced.is_known {
                synced.incarnation = getrandom::u64().ok();
            }
            synced.incarnation
        })
    }

    /// Whether what the store holds under the session's key is of this session. Until something of it is
    /// known to have been written, or read, it may be of an earlier one.
    pub(super) fn is_in(&self, record: &Record) -> bool {
        self.with_synced(|_, synced| {
            let is_own = synced.incarnation.is_some() && synced.incarnation == record.incarnation;
            synced.is_known || is_own
        })
    }

    /// An epoch of this session as the store has it.
    pub(super) fn as_stored(&self, epoch: &Epoch) -> StoredEpoch {
        StoredEpoch {
            number: epoch.stored(),
            upstream: self.upstream(epoch),
        }
    }

    /// Whether the record is of another session, which the server gave the same id later (rule A5). The
    /// first to know the id from then on is that one: of this one the store holds nothing any more.
    pub(super) fn is_displaced_by(&self, record: &Record) -> bool {
        self.with_synced(|_, synced| match (synced.incarnation, record.incarnation) {
            (Some(own), Some(other)) => synced.is_known && own != other,
            _ => false,
        })
    }

    /// Whether another process has gone on, from `epoch` or from before it (rule N3). What was
    /// published without the store gives way to what others have written since, however many epochs
    /// that is on either side.
    pub(super) fn is_behind(&self, epoch: &Epoch, record: &Record) -> bool {
        self.is_behind_of(epoch, StoredEpoch::of(record))
    }

    fn is_behind_of(&self, epoch: &Epoch, stored: StoredEpoch) -> bool {
        let own = self.as_stored(epoch);
        self.with_synced(|_, synced| match synced.unagreed.is_empty() {
            true => {
                stored.number > own.number
                    || stored.number == own.number && stored.upstream != own.upstream
            }
            false => {
                let seen = synced.seen.as_ref();
                let is_new = |seen: &StoredEpoch| stored.number >= seen.number && stored != *seen;
                // One that a recovery has seen which failed is no less later than this.
                let is_later = stored.number > own.number || seen.is_none_or(is_new);
                // Its own may have come to the store without that having said so.
                let are_own = [&synced.unagreed, &synced.sent];
                let is_own = stored == own || are_own.iter().any(|it| it.contains(&stored));
                is_later && !is_own
            }
        })
    }

    /// The session stays in `epoch`, since what the store holds has expired: that is to know it for
    /// the later one.
    pub(crate) fn outrank(&self, epoch: &Epoch, expired: &Epoch) {
        epoch.outrank(expired);
        let epoch = self.as_stored(epoch);
        self.with_synced(|_, synced| synced.not_agreed(epoch));
    }

    /// The store holds this, in no later epoch than this process knows of. One that is older than what
    /// the store has held before is of a store that has lost what came since (rule N5).
    pub(super) fn take_in(&self, record: &Record, revision: Revision, limit: usize) {
        let is_lost = self.with_synced(|_, synced| {
            let seen = synced.seen.as_ref();
            let is_lost = seen.is_some_and(|seen| record.epoch < seen.number);
            if is_lost {
                synced.revision = Some(revision);
            }
            is_lost
        });
        if !is_lost {
            self.merge(record, revision, limit);
            let current = self.chain().current();
            if record.reassigned && StoredEpoch::of(record) == self.as_stored(&current) {
                self.chain().expire_in(&current);
            }
        }
    }

    /// The store holds this state: what this process has changed since it last knew is changed in
    /// that. Gives those changes.
    pub(crate) fn merge(
        &self,
        record: &Record,
        revision: Revision,
        limit: usize,
    ) -> Vec<StateChange> {
        let theirs = State::of_stored(&record.state, limit);
        self.with_synced(|state, synced| {
            let own = synced.unstored.changes();
            let mut merged = theirs;
            for change in own.iter().cloned() {
                merged.apply(change, limit);
            }
            let before = std::mem::replace(state, merged);
            // Who changed it has told the epoch that both are in, but not one that is not agreed on.
            if !synced.unagreed.is_empty() && synced.told.is_none() {
                synced.told = Some(Box::new(before));
            }
            synced.revision = Some(revision);
            synced.incarnation = record.incarnation.or(synced.incarnation);
            synced.is_known = true;
            synced.seen = Some(StoredEpoch::of(record));
            own
        })
    }

    /// What the epoch that the store holds now has not been told of the session's state.
    pub(super) fn take_untold(&self) -> Vec<StateChange> {
        self.with_synced(|state, synced| match synced.told.take() {
            Some(told) => state.changes_from(&told),
            None => Vec::new(),
        })
    }

    /// The epoch that is made holds all that is there, or is told of it.
    pub(crate) fn is_told(&self) {
        self.with_synced(|_, synced| synced.told = None);
    }

    /// The session stays in its epoch for now. If the store holds another, that is looked at again
    /// before anything is written in its place.
    pub(crate) fn stays(&self) {
        let epoch = self.as_stored(&self.chain().current());
        let _left = self.with_synced(|_, synced| {
            if synced.seen.as_ref() != Some(&epoch) {
                synced.revision = None;
            }
            // It is not left, and written if it is still there.
            synced.left.take()
        });
    }

    /// Whether the store was told all of the session by this process, in this epoch and not so long
    /// ago that it has expired there.
    pub(super) fn is_nothing_new(&self, epoch: &StoredEpoch, ttl: Duration) -> bool {
        self.with_synced(|_, synced| {
            let is_told = synced.revision.is_some() && synced.seen.as_ref() == Some(epoch);
            let has_expired = synced.written.is_some_and(|it| it.elapsed() >= ttl);
            is_told && synced.unstored.is_empty() && !has_expired
        })
    }

    /// Whether the epoch in a record is nobody's any more, since it `meets` another session with its id,
    /// or has before: then that one is known to have lost it as well (rule A5).
    pub(crate) fn has_lost(&self, record: &Record, meets: impl FnOnce() -> bool) -> bool {
        let id = &record.upstream;
        if self.with_synced(|_, synced| synced.lost.contains(id)) {
            return true;
        }
        let is_lost = meets();
        if is_lost {
            self.with_synced(|_, synced| {
                if synced.lost.len() >= MAX_UNAGREED {
                    synced.lost.remove(0);
                }
                synced.lost.push(id.clone());
            });
        }
        is_lost
    }

    /// The session goes on in the epoch that the store holds.
    pub(crate) fn is_agreed(&self) {
        self.with_synced(|_, synced| {
            synced.unagreed.clear();
            synced.told = None;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::{
            Sessions,
            fixture::{ENDPOINT, id, next, recorded},
        },
        store::record::Header,
    };

    #[test]
    fn n3_what_the_store_did_not_agree_to_gives_way_to_what_is_later_or_news_there() {
        // Given an epoch that was published while the store, which held the one before, did not answer,
        let session = recorded(&Sessions::new(), ENDPOINT, "1");
        let seen = session.as_stored(&session.chain().current());
        let own = next(&session, &id("own"));
        let proposed = session.as_stored(&own);
        session.with_synced(|_, synced| {
            synced.agreed(seen.clone());
            synced.not_agreed(proposed.clone());
        });
        let other = |number| StoredEpoch {
            number,
            upstream: UpstreamId::Own(Header(id("other"))),
        };
        // then it gives way to what has come to the store since, whatever its number,
        assert!(session.is_behind_of(&own, other(0)) && session.is_behind_of(&own, other(1)));
        assert!(session.is_behind_of(&own, other(2)));
        // and also if that was seen before,
        session.with_synced(|_, synced| synced.seen = Some(other(2)));
        assert!(session.is_behind_of(&own, other(2)));
        // but not to what was there before it, nor to itself.
        session.with_synced(|_, synced| synced.seen = Some(seen.clone()));
        assert!(!session.is_behind_of(&own, seen) && !session.is_behind_of(&own, proposed));
    }

    #[test]
    fn a5_n4_an_epoch_that_has_met_another_session_is_lost_for_good() {
        let session = recorded(&Sessions::new(), ENDPOINT, "1");
        let current = session.chain().current();
        let record = session.record(&current, &State::default()).unwrap();
        let never = || unreachable!("it is known");
        assert!(!session.has_lost(&record, || false));
        assert!(session.has_lost(&record, || true));
        assert!(session.has_lost(&record, never));
        // Under whatever number.
        let later = Record { epoch: 7, ..record };
        assert!(session.has_lost(&later, never));
    }

    #[test]
    fn k10_what_is_kept_until_the_store_has_agreed_is_counted() {
        let mut synced = Synced::default();
        let empty = synced.bytes();
        for number in 0..MAX_UNAGREED as u64 {
            let upstream = UpstreamId::Callers;
            synced.not_agreed(StoredEpoch { number, upstream });
        }
        let epochs = synced.bytes() - empty;
        let many = epochs / size_of::<StoredEpoch>();
        assert!((MAX_UNAGREED..=2 * MAX_UNAGREED).contains(&many));
        let mut told = State::default();
        told.apply(StateChange::Subscribe("x".repeat(1000)), 1);
        synced.told = Some(Box::new(told));
        let told = synced.bytes() - empty - epochs;
        assert!((1000 + size_of::<State>()..2000).contains(&told));
    }
}
