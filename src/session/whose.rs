//! Whose session the server means by an id (rules A5, I3).

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::HeaderValue;

use super::{Endpoint, Epoch, Key, Leader, Reassigned, Session, Sessions, table::Table};
use crate::sync::atomic::{AtomicBool, Ordering};

/// An id that a handshake was given, until what it made is published or given up.
pub(crate) struct Assigned {
    sessions: Sessions,
    id: HeaderValue,
    taken: Arc<AtomicBool>,
}

impl Assigned {
    /// Whether the server has given the id to somebody else since, and so has lost the session.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Says the same, also when what has the id is published or given up.
    pub(crate) fn taken(&self) -> Arc<AtomicBool> {
        self.taken.clone()
    }

    /// What has the id is given up. Gives it back if the half-open session is to be ended on the server
    /// (rules E7, I3): until that has been done, who is given the id is to be noted.
    pub(crate) fn must_end(self, session: &Session) -> Option<Self> {
        if self.is_taken() {
            // It is somebody else's, whether a record says so or not.
            return None;
        }
        let is_of_many = self.is_of_many(session);
        self.sessions
            .write()
            .assigned
            .give_up(&self.id, &self.taken);
        // Of a server with one id for all, the next recovery may have been given the same id again by
        // the time a DELETE is there.
        let chain = session.chain();
        let is_own = chain.current().id() == Some(&self.id);
        (is_of_many || !is_own || chain.is_forgotten()).then_some(self)
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(super) fn is_of_many(&self, session: &Session) -> bool {
        self.sessions.tells_apart(session)
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.sessions.unassign(&self.id, &self.taken);
    }
}

impl Sessions {
    /// The server has just given this id to a recovery of `session`. Whoever had it, or was about to,
    /// is known to have lost its session (rule A5): also this one, which is in the new one once that
    /// is published, and not before.
    pub(crate) fn assign(&self, session: &Arc<Session>, id: &HeaderValue) -> Assigned {
        // Dropped last: what it holds of a caller may ask the table.
        let (displaced, _given_away);
        let mut table = self.write();
        (displaced, _given_away) = table.given(session.endpoint(), id, Some(session));
        let taken = table.assigned.insert(session, id);
        drop(table);
        self.changed(&displaced);
        Assigned {
            sessions: self.clone(),
            id: id.clone(),
            taken,
        }
    }

    /// The server has just given this id to a session that is not recorded (rule B4). A record that went
    /// by it, here and at the server, does so no longer.
    pub(crate) fn pass_over(&self, key: &Key) {
        // Dropped last, as above.
        let (displaced, replaced, _given_away);
        let mut table = self.write();
        let has_id = |it: &&Arc<Session>| it.chain().current().id() == Some(&key.id);
        replaced = table.get(key).filter(has_id).cloned();
        replaced.iter().for_each(|it| table.remove(it));
        (displaced, _given_away) = table.given(&key.endpoint, &key.id, None);
        drop(table);
        self.changed(&displaced);
    }

    /// The session has left the epoch with this id, and still uses it, until this is dropped.
    #[cfg(feature = "store")]
    pub(crate) fn still_uses(&self, session: &Arc<Session>, id: &HeaderValue) -> Assigned {
        let taken = self.write().assigned.insert(session, id);
        Assigned {
            sessions: self.clone(),
            id: id.clone(),
            taken,
        }
    }

    pub(super) fn unassign(&self, id: &HeaderValue, taken: &Arc<AtomicBool>) {
        let _session = self.write().assigned.remove(id, taken);
    }

    /// The store holds `session` in this epoch of another process's. If another session has its id, nobody
    /// knows to whom the server has given that last: from here on it is neither's (rule A5). Gives
    /// whether that is so.
    #[cfg(feature = "store")]
    pub(crate) fn meet(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        let mut table = self.write();
        let Some(mut met) = table.meet(session, epoch) else {
            return false;
        };
        met.others
            .retain(|other| table.expire(other, Reassigned::OneOfTwo));
        drop(table);
        self.changed(&met.others);
        true
    }

    /// Publishes the epoch that a recovery made. Gives the leader back if that is too late.
    ///
    /// Another session whose current epoch has the same id upstream is known to have lost it
    /// (rule A5); or this one has, if the id was given to another since it was `assigned`.
    pub(crate) fn publish(
        &self,
        session: &Arc<Session>,
        leader: Leader,
        epoch: Arc<Epoch>,
        assigned: Option<&Assigned>,
    ) -> Result<(), Leader> {
        // Dropped last: what they hold of their callers may ask the table.
        let (mut others, met);
        let mut table = self.write();
        let before = session.chain().current();
        others = table.others(session, &epoch);
        let shares = !others.is_empty() && table.has_one_for_all(session, &epoch);
        let is_taken = assigned.is_some_and(Assigned::is_taken);
        // An adopted one may have met another since that was looked at.
        met = match assigned {
            None => table.meet(session, &epoch),
            Some(_) => None,
        };
        let (own, theirs) = match &met {
            Some(_) => (Some(Reassigned::OneOfTwo), Some(Reassigned::OneOfTwo)),
            None if is_taken => (Some(Reassigned::Another), None),
            None => (None, Some(Reassigned::Another)),
        };
        let published = leader.publish(epoch.clone(), shares, own)?;
        others.retain(|other| theirs.is_some_and(|to| table.expire(other, to)));
        table.unlist_moved(session, &before);
        table.earlier.left(session.endpoint(), &before);
        table.list_moved(session, &epoch);
        if let Some(it) = assigned {
            // From here on the record names the id: whoever ends that may end the session.
            table.assigned.remove(&it.id, &it.taken);
        }
        session.recount();
        // Whoever is woken may ask the table at once.
        drop(table);
        self.changed(&others);
        published.tell();
        Ok(())
    }

    /// Whether what is sent in this epoch of `session` would enter the session of somebody else
    /// (rule A5). A server that does not tell its sessions apart is not fought.
    pub(crate) fn is_anothers(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        self.is_anothers_but(session, epoch, |_| false)
    }

    /// The same where some of those who have the id do not count.
    fn is_anothers_but(
        &self,
        session: &Arc<Session>,
        epoch: &Epoch,
        is_left_out: impl Fn(&Session) -> bool,
    ) -> bool {
        if epoch.is_reassigned() {
            return true;
        }
        let Some(id) = epoch.id() else { return false };
        let chain = session.chain();
        let current = chain.current();
        if current.id() == Some(id) && !chain.is_forgotten() {
            // It may have been thought to be of a server with one id for all, which it is not.
            let has_lost =
                || chain.is_expired() && self.tells_apart(session) && self.has_another(session, id);
            return current.is_reassigned() || has_lost();
        }
        let table = self.read();
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        holders.any(|holder| !Arc::ptr_eq(&holder, session) && !is_left_out(&holder))
            || table.assigned.is_anothers(session, id)
    }

    /// Whether to end this epoch of `session` would end the session of somebody else (rules A5, I1).
    /// What a handshake of its own has left half-open under its id is its own to end.
    pub(crate) fn ends_anothers(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        match epoch.id() {
            Some(id) if epoch.is_reassigned_to_own() => self.has_another(session, id),
            // Who has lost it has nothing to be ended.
            _ => self.is_anothers_but(session, epoch, has_lost),
        }
    }

    /// Whether another session than this uses the id.
    fn has_another(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        let table = self.read();
        // Where there is one id for all, none is known to have expired.
        let tells_apart = table.tells_apart(session);
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        holders.any(|it| !Arc::ptr_eq(&it, session) && (!tells_apart || !has_lost(&it)))
            || table.assigned.is_anothers(session, id)
    }

    /// Whether the server has given an id that a handshake of `session` was given to somebody else since.
    /// That may have been noted in `taken`, and the other one have let go of it.
    pub(crate) fn is_given_away(
        &self,
        session: &Arc<Session>,
        id: &HeaderValue,
        taken: &AtomicBool,
    ) -> bool {
        // Who has been forgotten shares nothing.
        (self.tells_apart(session) || session.chain().is_forgotten())
            && (taken.load(Ordering::Acquire) || self.has_another(session, id))
    }

    /// Whether `session` goes on under this id, or a handshake of it that is under way is to.
    pub(crate) fn has_been_given(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        let (chain, current) = (session.chain(), session.chain().current());
        let is_own = current.id() == Some(id) && !current.is_reassigned();
        is_own && !chain.is_forgotten() || self.read().assigned.is_of(session, id)
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(crate) fn tells_apart(&self, session: &Session) -> bool {
        self.read().tells_apart(session)
    }

    /// Whether the server calls another session as the caller calls this one, which has moved on.
    pub(crate) fn calls_another(&self, session: &Session) -> bool {
        let was_given_away = session.chain().first().is_reassigned();
        was_given_away || self.names(session.endpoint(), session.id())
    }

    /// Whether a recorded session has this id upstream, or a recovery of one.
    pub(super) fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.read().names(endpoint, id)
    }

    /// Whether a recorded session uses this id upstream, so that it is not to be ended (rule I3). One
    /// that is known to have expired uses it no longer.
    pub(crate) fn uses(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.read().uses(endpoint, id)
    }
}

impl Table {
    /// The server has just given this id to somebody: to a handshake of `own`, if that is recorded. Gives
    /// who has lost it, of which that is news, and what is not to be dropped while the table is locked.
    fn given(
        &mut self,
        endpoint: &Endpoint,
        id: &HeaderValue,
        own: Option<&Arc<Session>>,
    ) -> (Vec<Arc<Session>>, Vec<Arc<Epoch>>) {
        self.handed_out.note(endpoint, id);
        self.assigned.take(endpoint, id);
        let mut displaced = self.holders(endpoint, id);
        displaced.retain(
            |holder| match own.is_some_and(|it| Arc::ptr_eq(it, holder)) {
                true => {
                    // While it is recovered, nothing is written of it.
                    self.expire(holder, Reassigned::OwnHandshake);
                    false
                }
                false => self.expire(holder, Reassigned::Another),
            },
        );
        (displaced, self.earlier.reassign(endpoint, id))
    }

    pub(super) fn uses(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        // Where there is one id for all, none is known to have expired.
        let tells_apart = self.handed_out.differ(endpoint);
        let mut holders = self.holders(endpoint, id).into_iter();
        holders.any(|holder| !tells_apart || !has_lost(&holder)) || self.assigned.has(endpoint, id)
    }

    /// The session's current epoch is known to have expired. Gives whether that is news.
    pub(super) fn expire(&self, session: &Session, to: Reassigned) -> bool {
        session.chain().expire(to, self.tells_apart(session))
    }

    /// Whether its endpoint is known to hand out more than one id, now or when the session was recorded:
    /// one that has been forgotten may have something under way longer than there are others.
    fn tells_apart(&self, session: &Session) -> bool {
        session.ids_differ() || self.handed_out.differ(session.endpoint())
    }

    /// The other sessions whose current epoch has the id of this one of `session`.
    fn others(&self, session: &Arc<Session>, epoch: &Epoch) -> Vec<Arc<Session>> {
        let holders = epoch.id().map(|id| self.holders(session.endpoint(), id));
        let mut others = holders.unwrap_or_default();
        others.retain(|other| !is_same(other, session));
        others
    }

    /// Whether the session had the id of this epoch before, too, and nobody ever another: the server has
    /// one for all.
    fn has_one_for_all(&self, session: &Session, epoch: &Epoch) -> bool {
        session.chain().current().id() == epoch.id() && !self.tells_apart(session)
    }

    /// Looks who else has the id of an epoch that another process has made, unless they are to share it.
    /// What has been left, and handshakes under way, have lost it.
    fn meet(&mut self, session: &Arc<Session>, epoch: &Epoch) -> Option<Met> {
        let id = epoch.id()?;
        if self.has_one_for_all(session, epoch) {
            return None;
        }
        let endpoint = session.endpoint();
        // What it has left itself is no other's, unless that was somebody else's since.
        let own = session.chain().first();
        let is_own = !own.is_reassigned();
        let mut met = Met {
            others: self.others(session, epoch),
            left: self.earlier.reassign(endpoint, id),
        };
        // Of these it is known that they have lost it.
        met.others.retain(|other| !has_lost(other));
        let is_assigned = self.assigned.is_anothers(session, id);
        let is_others = |left: &Arc<Epoch>| !is_own || !Arc::ptr_eq(left, own);
        let has_left = met.left.iter().any(is_others);
        if !is_assigned && met.others.is_empty() && !has_left {
            return None;
        }
        self.assigned.take(endpoint, id);
        Some(met)
    }
}

/// Whether it is certain that the session has lost the id that it has upstream.
fn has_lost(session: &Session) -> bool {
    session.chain().current().is_lost()
}

/// Whether these are one session, which may have been forgotten and found again.
fn is_same(one: &Arc<Session>, other: &Arc<Session>) -> bool {
    #[cfg(feature = "store")]
    if one.key() == other.key() {
        return one.is_recorded_as(other);
    }
    Arc::ptr_eq(one, other)
}

/// What has the id of an epoch that another process has made.
struct Met {
    others: Vec<Arc<Session>>,
    left: Vec<Arc<Epoch>>,
}
