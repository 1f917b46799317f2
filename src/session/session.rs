//! One session of a caller: what was recorded of it, and what it has come to.

mod counting;
#[cfg(test)]
mod tests;

pub(crate) use self::counting::uri_bytes;
pub(super) use self::counting::{Counts, headers_bytes};

use std::{
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Uri};

use super::{
    Chain, Endpoint, Epoch, EventLog, Logged, Pauses, PendingChanges, Principal, State,
    StateChange, StreamOrigin,
    accepted::{AcceptedRequests, Listening, LostRequests},
    assigned::Ids,
    endpoint::is_spelled_alike,
};
use crate::{
    mcp::{EventIds, Id, ListChanged},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

/// A caller's session.
// In this order: what every request reads stands first, up to the beginning of the chain, next to the
// count of references. Of many sessions in use hardly any is in the processor's caches, and each
// line of memory that a request reads of one costs more than all it does there.
#[repr(C)]
pub(crate) struct Session {
    key: Key,
    /// The URI that it was made with, if that has a query: without one it is the endpoint's.
    uri: Option<Box<Uri>>,
    last_use: AtomicU64,
    chain: Chain,
    initialize: Initialize,
    memory: Mutex<Memory>,
    /// A use that is not later than that: its key in its group, which the lock of the table guards.
    use_known: AtomicU64,
    /// What is known of the ids that its endpoint hands out.
    ids: OnceLock<Arc<Ids>>,
    /// Another process recorded it: who asked there is not known.
    #[cfg(feature = "store")]
    is_restored: bool,
}

/// What a session goes by: no two have the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The caller's id.
    pub(crate) id: HeaderValue,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) principal: Option<Principal>,
}

/// The caller's `initialize` request (rule B3).
#[derive(Clone)]
pub(crate) struct Initialize {
    pub(crate) accept: Option<HeaderValue>,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) body: Bytes,
    /// The headers that say who asked: for rule D8 alone, and never lent to anybody.
    pub(crate) credentials: HeaderMap,
    /// So may its extensions: a layer below may add credentials that go by them.
    pub(crate) extensions: Extensions,
}

#[derive(Default)]
struct Memory {
    /// Made when first needed, since most sessions need none.
    content: Option<Box<Content>>,
    /// What the rest of the session takes up, in bytes.
    other: usize,
    /// How many bytes the session is counted for, and where; nowhere once it is forgotten.
    counted: usize,
    counts: Option<Counts>,
    /// What the store is known to hold of it, if there is a store.
    #[cfg(feature = "store")]
    synced: Option<Box<super::synced::Synced>>,
    /// The session was forgotten for want of room.
    #[cfg(feature = "store")]
    has_made_room: bool,
}

#[derive(Default)]
struct Content {
    event_log: EventLog,
    accepted: AcceptedRequests,
    state: State,
    /// Changes of state whose answers may come on another stream than that of their requests.
    asked: PendingChanges,
    /// The lists that the caller is still to be told about (rule H3).
    notices: ListChanged,
}

impl Session {
    /// A session that a server has just answered for with the id `upstream`. It was made with this URI,
    /// if that has a query.
    pub(crate) fn new(
        mut key: Key,
        mut upstream: HeaderValue,
        uri: Option<Uri>,
        initialize: Initialize,
        pauses: Pauses,
    ) -> Self {
        key.id.set_sensitive(true);
        upstream.set_sensitive(true);
        let first = Arc::new(Epoch::first(upstream, &key.id));
        Self {
            key,
            uri: uri.map(Box::new),
            last_use: AtomicU64::new(0),
            chain: Chain::new(first, pauses),
            initialize,
            memory: Mutex::default(),
            use_known: AtomicU64::new(0),
            ids: OnceLock::new(),
            #[cfg(feature = "store")]
            is_restored: false,
        }
    }

    /// A session that another process recorded, in an epoch that it was in.
    #[cfg(feature = "store")]
    pub(super) fn restored(
        mut key: Key,
        epoch: Epoch,
        initialize: Initialize,
        pauses: Pauses,
        state: State,
        synced: super::synced::Synced,
    ) -> Self {
        key.id.set_sensitive(true);
        let content = Content {
            state,
            ..Content::default()
        };
        let memory = Memory {
            content: (!content.state.is_empty()).then(|| Box::new(content)),
            synced: Some(Box::new(synced)),
            ..Memory::default()
        };
        Self {
            key,
            uri: None,
            last_use: AtomicU64::new(0),
            chain: Chain::new(Arc::new(epoch), pauses),
            initialize,
            memory: Mutex::new(memory),
            use_known: AtomicU64::new(0),
            ids: OnceLock::new(),
            is_restored: true,
        }
    }

    /// It is recorded, with others of this endpoint.
    pub(super) fn hold(&self, ids: Arc<Ids>) {
        self.ids.get_or_init(|| ids);
    }

    /// Whether its endpoint was known to hand out more than one id when it was recorded, or since.
    pub(super) fn ids_differ(&self) -> bool {
        self.ids.get().is_some_and(|ids| ids.differ())
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.key.endpoint
    }

    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.key.principal.as_ref()
    }

    /// The caller's id.
    pub(crate) fn id(&self) -> &HeaderValue {
        &self.key.id
    }

    /// The URI that the session was made with. Nearly all of its requests have the same.
    pub(crate) fn uri(&self) -> &Uri {
        let uri = self.uri.as_deref();
        uri.unwrap_or_else(|| self.key.endpoint.uri())
    }

    /// Whether a URI is the session's own to the letter.
    pub(crate) fn has_uri(&self, uri: &Uri) -> bool {
        is_spelled_alike(self.uri(), uri)
    }

    pub(crate) fn initialize(&self) -> &Initialize {
        &self.initialize
    }

    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The credentials that an epoch was made with (rule D8). Those of one that another process made
    /// are not known before they have been of use.
    pub(crate) fn credentials<'a>(&'a self, epoch: &'a Epoch) -> Option<&'a HeaderMap> {
        match epoch.handshake() {
            Some(handshake) => Some(&handshake.headers),
            #[cfg(feature = "store")]
            None if self.is_restored => epoch.shown_by(),
            None => Some(&self.initialize.credentials),
        }
    }

    /// Remembers that events were let through (rule G3).
    pub(crate) fn remember(&self, ids: &EventIds, origin: &mut StreamOrigin, limit: usize) {
        self.content(|content| content.event_log.remember(ids, origin, limit));
    }

    /// What a GET with this `Last-Event-ID` asks to resume, that was sent `before` there was this epoch.
    pub(crate) fn find_event(&self, last_event_id: &HeaderValue, before: Option<u64>) -> Logged {
        match &self.lock_memory().content {
            Some(content) => content.event_log.find_event(last_event_id, before),
            None => Logged::Unknown,
        }
    }

    /// A listening stream is open in this epoch, or is being opened, as long as the caller has what
    /// is given.
    pub(crate) fn listens(self: &Arc<Self>, epoch: u64) -> Listening {
        Listening::new(self.clone(), epoch)
    }

    /// Requests were accepted with 202 in this epoch, to be answered on a listening stream.
    pub(crate) fn accept(&self, epoch: u64, requests: &[Id]) {
        if requests.is_empty() {
            return;
        }
        let news = self.accepted(|accepted| accepted.accept(epoch, requests));
        // Whoever is woken may look at once.
        if let Some(news) = news {
            news.notify_waiters();
        }
    }

    /// A listening stream brought what may be the response to one of those.
    pub(crate) fn responded(&self, data: &str) {
        self.accepted(|accepted| accepted.read(data));
    }

    /// It brought a large one.
    pub(crate) fn responded_to(&self, id: Id) {
        self.accepted(|accepted| accepted.answer(id));
    }

    /// Those that were accepted before this epoch, and whose answers will not come, once. Another stream
    /// of theirs has so long to bring them.
    pub(crate) fn take_lost(&self, epoch: u64, patience: Duration) -> LostRequests {
        let mut memory = self.lock_memory();
        let content = memory.content.as_mut();
        let lost = content.map(|content| {
            let lost = content.accepted.take_lost(epoch, patience);
            for id in &lost.ids {
                content.asked.answered(id, false);
            }
            lost
        });
        let lost = lost.unwrap_or_default();
        if !lost.ids.is_empty() {
            self.count(&mut memory);
        }
        lost
    }

    pub(super) fn accepted<T>(&self, with: impl FnOnce(&mut AcceptedRequests) -> T) -> T {
        self.content(|content| with(&mut content.accepted))
    }

    /// Requests for changes were sent whose answers may come on another stream (rule H1).
    pub(crate) fn ask(&self, changes: &PendingChanges) {
        self.content(|content| content.asked.also(changes));
    }

    /// Whether there are any whose answers have not come.
    pub(crate) fn is_asking(&self) -> bool {
        let memory = self.lock_memory();
        let content = memory.content.as_ref();
        content.is_some_and(|content| !content.asked.is_empty())
    }

    /// The changes that these messages accept, of those that were asked for.
    pub(crate) fn answered_changes(&self, messages: &[u8]) -> Vec<StateChange> {
        let mut changes = Vec::new();
        if self.is_asking() {
            self.content(|content| content.asked.look(messages, |change| changes.push(change)));
        }
        changes
    }

    /// Notes a change that the server accepted (rule H1).
    pub(crate) fn apply(&self, change: StateChange, limit: usize) {
        let mut memory = self.lock_memory();
        #[cfg(feature = "store")]
        if let Some(synced) = &mut memory.synced {
            synced.unstored.note(change.clone());
        }
        let content = memory.content.get_or_insert_default();
        content.state.apply(change, limit);
        self.count(&mut memory);
    }

    /// What a new session has to be told.
    pub(crate) fn state(&self) -> State {
        let memory = self.lock_memory();
        memory
            .content
            .as_ref()
            .map(|content| content.state.clone())
            .unwrap_or_default()
    }

    #[cfg(feature = "store")]
    pub(super) fn has_made_room(&self) -> bool {
        self.lock_memory().has_made_room
    }

    #[cfg(feature = "store")]
    pub(super) fn set_made_room(&self, has_made_room: bool) {
        self.lock_memory().has_made_room = has_made_room;
    }

    /// Looks at what the store is known to hold, if there is one.
    #[cfg(feature = "store")]
    pub(super) fn synced<T>(
        &self,
        look: impl FnOnce(&mut super::synced::Synced) -> T,
    ) -> Option<T> {
        self.lock_memory().synced.as_deref_mut().map(look)
    }

    /// Looks at the state together with what the store is known to hold, or changes both.
    #[cfg(feature = "store")]
    pub(super) fn with_synced<T>(
        &self,
        with: impl FnOnce(&mut State, &mut super::synced::Synced) -> T,
    ) -> T {
        let mut memory = self.lock_memory();
        let memory = &mut *memory;
        let synced = memory.synced.get_or_insert_default();
        let mut none = State::default();
        let state = memory.content.as_mut().map(|content| &mut content.state);
        let done = with(state.unwrap_or(&mut none), synced);
        if !none.is_empty() {
            memory.content.get_or_insert_default().state = none;
        }
        self.count(memory);
        done
    }

    /// The caller is to be told that these lists may have changed (rule H3).
    pub(crate) fn announce(&self, lists: ListChanged) {
        if lists != ListChanged::default() {
            self.content(|content| content.notices = lists);
        }
    }

    /// The lists that the caller is to be told about now, once.
    pub(crate) fn take_notices(&self) -> Option<ListChanged> {
        let mut memory = self.lock_memory();
        let notices = std::mem::take(&mut memory.content.as_mut()?.notices);
        Some(notices).filter(|notices| *notices != ListChanged::default())
    }

    pub(super) fn touch(&self, used: u64) {
        self.last_use.fetch_max(used, Ordering::Relaxed);
    }

    pub(super) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    pub(super) fn use_known(&self) -> u64 {
        self.use_known.load(Ordering::Relaxed)
    }

    pub(super) fn know_use(&self, used: u64) {
        self.use_known.store(used, Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        self.chain.forget();
        self.count_nowhere();
    }

    fn content<T>(&self, with: impl FnOnce(&mut Content) -> T) -> T {
        let mut memory = self.lock_memory();
        let done = with(memory.content.get_or_insert_default());
        self.count(&mut memory);
        done
    }

    fn lock_memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
