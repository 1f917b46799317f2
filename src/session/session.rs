//! One session of a caller: what was recorded of it, and what it has come to.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use super::{
    BudgetLimits, Chain, Endpoint, Epoch, EventLog, Logged, State, StateChange, StreamOrigin,
};
use crate::mcp::{EventIds, ListChanged};

/// A caller's session.
pub(crate) struct Session {
    endpoint: Endpoint,
    id: HeaderValue,
    initialize: Initialize,
    chain: Arc<Chain>,
    /// Made when first needed, since most sessions need neither.
    memory: Mutex<Option<Box<Memory>>>,
    last_use: AtomicU64,
}

/// The caller's `initialize` request (rule B3).
pub(crate) struct Initialize {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Default)]
struct Memory {
    event_log: EventLog,
    state: State,
    /// The lists that the caller is still to be told about (rule H3).
    notices: ListChanged,
}

impl Session {
    /// A session that a server has just answered for with `id`.
    pub(crate) fn new(
        endpoint: Endpoint,
        mut id: HeaderValue,
        initialize: Initialize,
        limits: BudgetLimits,
    ) -> Self {
        id.set_sensitive(true);
        let first = Arc::new(Epoch::first(id.clone()));
        Self {
            endpoint,
            id,
            initialize,
            chain: Arc::new(Chain::new(first, limits)),
            memory: Mutex::default(),
            last_use: AtomicU64::new(0),
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The caller's id.
    pub(crate) fn id(&self) -> &HeaderValue {
        &self.id
    }

    pub(crate) fn initialize(&self) -> &Initialize {
        &self.initialize
    }

    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// Remembers that events were let through (rule G3).
    pub(crate) fn remember(&self, ids: &EventIds, origin: &StreamOrigin, limit: usize) {
        self.memory(|memory| memory.event_log.remember(ids, origin, limit));
    }

    /// What a GET with this `Last-Event-ID` asks to resume.
    pub(crate) fn find_event(&self, last_event_id: &HeaderValue) -> Logged {
        match &*self.lock_memory() {
            Some(memory) => memory.event_log.find_event(last_event_id),
            None => Logged::Unknown,
        }
    }

    /// Notes a change that the server accepted (rule H1).
    pub(crate) fn apply(&self, change: StateChange, limit: usize) {
        self.memory(|memory| memory.state.apply(change, limit));
    }

    /// What a new session has to be told.
    pub(crate) fn state(&self) -> State {
        let memory = self.lock_memory();
        memory
            .as_ref()
            .map(|memory| memory.state.clone())
            .unwrap_or_default()
    }

    /// The caller is to be told that these lists may have changed (rule H3).
    pub(crate) fn announce(&self, lists: ListChanged) {
        if lists != ListChanged::default() {
            self.memory(|memory| memory.notices = lists);
        }
    }

    /// The lists that the caller is to be told about now, once.
    pub(crate) fn take_notices(&self) -> Option<ListChanged> {
        let mut memory = self.lock_memory();
        let notices = std::mem::take(&mut memory.as_mut()?.notices);
        Some(notices).filter(|notices| *notices != ListChanged::default())
    }

    pub(super) fn touch(&self, used: u64) {
        self.last_use.fetch_max(used, Ordering::Relaxed);
    }

    pub(super) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    pub(super) fn forget(&self) {
        self.chain.forget();
    }

    fn memory<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        with(self.lock_memory().get_or_insert_default())
    }

    fn lock_memory(&self) -> MutexGuard<'_, Option<Box<Memory>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
