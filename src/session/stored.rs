//! A session as a store has it, and back (rule N2).

use bytes::Bytes;
use http::HeaderValue;
use serde_json::value::RawValue;

use super::{
    Endpoint, Epoch, Handshake, Initialize, Key, Pauses, Session, State, StateChange,
    epoch::KnownEpoch,
    synced::{StoredEpoch, Synced},
};
use crate::{
    mcp::{InitializeResult, ListChanged},
    store::{
        Revision, StoreKey,
        key::Digest,
        record::{self, Address, Header, Lists, Record, ResultDigest, UpstreamId},
    },
};

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
            reassigned: epoch.is_reassigned(),
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

    pub(super) fn upstream(&self, epoch: &Epoch) -> UpstreamId {
        match epoch.id() {
            Some(id) if id == self.id() => UpstreamId::Callers,
            Some(id) => UpstreamId::Own(Header(id.clone())),
            None => UpstreamId::Stateless,
        }
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

    pub(super) fn of_stored(stored: &record::State, limit: usize) -> Self {
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
        is_reassigned: record.reassigned,
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
