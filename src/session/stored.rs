//! A session as a store has it, and back (rules N2, N3).

use bytes::Bytes;
use http::HeaderValue;
use serde_json::value::RawValue;

use super::{
    Endpoint, Epoch, Handshake, Initialize, Key, Pauses, Session, State, StateChange,
    epoch::KnownEpoch, unstored::Unstored,
};
use crate::{
    mcp::{InitializeResult, ListChanged},
    store::{
        Revision, StoreKey,
        key::Digest,
        record::{self, Address, Header, Lists, Record, ResultDigest, UpstreamId},
    },
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
    /// It has been written or read. Until then, whatever has its key is of an earlier session: the
    /// server has just handed out the id anew.
    pub(super) is_known: bool,
    /// The epoch that it was seen to be in there last.
    pub(super) seen: Option<StoredEpoch>,
    /// The epochs that were published although the store did not answer.
    pub(super) unagreed: Vec<StoredEpoch>,
    /// What an epoch of this process's making has been told, where the store has brought more since.
    pub(super) told: Option<Box<State>>,
    /// It is to be written.
    pub(super) is_queued: bool,
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
    fn of(record: &Record) -> Self {
        Self {
            number: record.epoch,
            upstream: record.upstream.clone(),
        }
    }
}

impl Synced {
    pub(super) fn bytes(&self) -> usize {
        let unagreed = self.unagreed.capacity() * size_of::<StoredEpoch>();
        let told = self.told.as_ref();
        let told = told.map_or(0, |told| size_of::<State>() + told.bytes());
        size_of::<Self>() + self.unstored.bytes() + unagreed + told
    }

    /// The store holds the session in this epoch.
    pub(super) fn agreed(&mut self, epoch: StoredEpoch) {
        self.unagreed.retain(|it| it.number > epoch.number);
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

impl Key {
    /// What names it in a store.
    pub(super) fn stored(&self) -> StoreKey {
        let (address, principal, callers_id) = self.digests();
        StoreKey::of(&address, principal, callers_id)
    }

    fn digests(&self) -> (Address, Option<Digest>, Digest) {
        let principal = self.principal.as_ref();
        (
            self.endpoint.address(),
            principal.map(|principal| Digest::of(principal.as_bytes())),
            Digest::of(self.id.as_bytes()),
        )
    }
}

impl Endpoint {
    fn address(&self) -> Address {
        let (scheme, authority, path, host) = self.parts();
        Address {
            scheme,
            authority,
            path,
            host,
        }
    }
}

impl Session {
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

    /// What is stored of the session, if `epoch` is its current one and `state` its state. Nothing
    /// is where its `initialize` is no JSON.
    pub(super) fn record(&self, epoch: &Epoch, state: &State) -> Option<Record> {
        let (address, principal, callers_id) = self.key().digests();
        let initialize = self.initialize();
        let body = String::from_utf8(initialize.body.to_vec()).ok()?;
        let promised = match epoch.number() {
            0 => epoch.result().map(InitializeResult::list_changed),
            _ => Some(epoch.promised()),
        };
        let header = |value: &Option<HeaderValue>| value.iter().cloned().map(Header).collect();
        Some(Record {
            address,
            principal,
            callers_id,
            incarnation: self.incarnation(),
            epoch: epoch.stored(),
            upstream: self.upstream(epoch),
            result: epoch.result().map(|result| {
                let [server_info, capabilities, instructions] = result.digests();
                ResultDigest {
                    version: result.version().cloned().map(Header),
                    server_info,
                    capabilities,
                    instructions,
                }
            }),
            outdated_versions: epoch
                .outdated_versions()
                .iter()
                .cloned()
                .map(Header)
                .collect(),
            promised: promised.unwrap_or_default().into(),
            accept: header(&initialize.accept),
            content_type: header(&initialize.content_type),
            initialize: RawValue::from_string(body).ok()?,
            state: state.stored(),
        })
    }

    fn upstream(&self, epoch: &Epoch) -> UpstreamId {
        match epoch.id() {
            Some(id) if id == self.id() => UpstreamId::Callers,
            Some(id) => UpstreamId::Own(Header(id.clone())),
            None => UpstreamId::Stateless,
        }
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
            (Some(own), Some(other)) if synced.is_known && own != other => {
                synced.revision = None;
                true
            }
            _ => false,
        })
    }

    /// Whether another process has gone on, from `epoch` or from before it (rule N3). What was
    /// published without the store gives way to what others have written since, however many epochs
    /// that is on either side.
    pub(super) fn is_behind(&self, epoch: &Epoch, record: &Record) -> bool {
        let (stored, own) = (StoredEpoch::of(record), self.as_stored(epoch));
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
                is_later && !synced.unagreed.contains(&stored)
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

    /// The epoch in a record of this session, as this process counts them.
    pub(crate) fn stored_epoch(&self, record: &Record, handshake: Handshake) -> Epoch {
        let mut known = known_epoch(self.id(), record);
        known.number = known.number.max(self.chain().current().number() + 1);
        Epoch::restored(known, Some(handshake))
    }

    /// A session that another process recorded.
    pub(super) fn of_record(
        key: Key,
        record: &Record,
        revision: Revision,
        pauses: Pauses,
        max_subscriptions: usize,
    ) -> Self {
        let epoch = Epoch::restored(known_epoch(&key.id, record), None);
        let header = |values: &[Header]| values.first().map(|value| value.0.clone());
        let initialize = Initialize {
            accept: header(&record.accept),
            content_type: header(&record.content_type),
            body: Bytes::copy_from_slice(record.initialize.get().as_bytes()),
            credentials: Default::default(),
            extensions: Default::default(),
        };
        let state = State::of_stored(&record.state, max_subscriptions);
        let synced = Synced {
            revision: Some(revision),
            incarnation: record.incarnation,
            is_known: true,
            seen: Some(StoredEpoch::of(record)),
            ..Synced::default()
        };
        Self::restored(key, epoch, initialize, pauses, state, synced)
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
        self.with_synced(|_, synced| {
            if synced.seen.as_ref() != Some(&epoch) {
                synced.revision = None;
            }
        });
    }

    /// The session goes on in the epoch that the store holds.
    pub(crate) fn is_agreed(&self) {
        self.with_synced(|_, synced| {
            synced.unagreed.clear();
            synced.told = None;
        });
    }
}

impl State {
    fn stored(&self) -> record::State {
        let (log_level, subscriptions, not_kept) = self.parts();
        record::State {
            log_level: log_level.cloned(),
            subscriptions: subscriptions.clone(),
            not_kept: not_kept as u64,
        }
    }

    fn of_stored(stored: &record::State, limit: usize) -> Self {
        let mut state = Self::with_not_kept(stored.not_kept);
        let level = stored.log_level.iter().cloned().map(StateChange::LogLevel);
        let subscriptions = stored.subscriptions.iter().cloned();
        for change in level.chain(subscriptions.map(StateChange::Subscribe)) {
            state.apply(change, limit);
        }
        state
    }
}

fn known_epoch(callers_id: &HeaderValue, record: &Record) -> KnownEpoch {
    let sensitive = |mut id: HeaderValue| {
        id.set_sensitive(true);
        id
    };
    let promised: ListChanged = record.promised.into();
    KnownEpoch {
        number: record.epoch,
        stored: record.epoch,
        id: match &record.upstream {
            UpstreamId::Callers => Some(sensitive(callers_id.clone())),
            UpstreamId::Own(id) => Some(sensitive(id.0.clone())),
            UpstreamId::Stateless => None,
        },
        callers_id: callers_id.clone(),
        result: record.result.as_ref().map(|result| {
            let version = result.version.as_ref().map(|version| version.0.clone());
            let digests = [result.server_info, result.capabilities, result.instructions];
            InitializeResult::known(version, digests, promised)
        }),
        outdated_versions: record
            .outdated_versions
            .iter()
            .map(|version| version.0.clone())
            .collect(),
        promised,
    }
}

impl From<ListChanged> for Lists {
    fn from(lists: ListChanged) -> Self {
        Self {
            tools: lists.tools,
            prompts: lists.prompts,
            resources: lists.resources,
        }
    }
}

impl From<Lists> for ListChanged {
    fn from(lists: Lists) -> Self {
        Self {
            tools: lists.tools,
            prompts: lists.prompts,
            resources: lists.resources,
        }
    }
}
