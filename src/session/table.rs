//! The recorded sessions, by the caller's id and the endpoint (rules A1, A3, B4, I1, I2).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{HeaderMap, HeaderValue, Uri};

use super::{Endpoint, Session};

/// The sessions that a layer has recorded.
///
/// A cheap handle: clones share the table. By default every service made by
/// [`Layer::layer`](tower::Layer::layer) has a table of its own, which its clones share; give the
/// same one to several with [`SessionRecoveryLayer::sessions`], if they reach the same servers and
/// one may be asked about a session that another recorded.
///
/// [`SessionRecoveryLayer::sessions`]: crate::SessionRecoveryLayer::sessions
///
/// ```
/// use mcp_session_recovery::{SessionRecoveryLayer, Sessions};
///
/// let sessions = Sessions::new();
/// let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
/// assert!(sessions.is_empty());
/// # let _ = layer;
/// ```
#[derive(Clone, Default)]
pub struct Sessions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    table: RwLock<Table>,
    /// Counts uses, so that sessions can be ordered by their last one.
    clock: AtomicU64,
}

/// Sessions by id, and by a use that is known not to be later than their last.
#[derive(Default)]
struct Table {
    by_id: HashMap<HeaderValue, Vec<Entry>>,
    by_use: BTreeMap<u64, Arc<Session>>,
}

struct Entry {
    session: Arc<Session>,
    /// The key in `by_use`.
    use_known: u64,
}

impl Sessions {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many sessions are recorded.
    pub fn len(&self) -> usize {
        self.read().by_use.len()
    }

    /// Whether no session is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every session. Requests that carry their ids pass through untouched from then on;
    /// nothing is sent to any server.
    pub fn forget_all(&self) {
        let table = std::mem::take(&mut *self.write());
        table.by_use.values().for_each(|session| session.forget());
    }

    /// The session that a request with this id, URI and headers belongs to.
    pub(crate) fn find(
        &self,
        id: &HeaderValue,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<Arc<Session>> {
        let table = self.read();
        let entry = table
            .by_id
            .get(id)?
            .iter()
            .find(|entry| entry.session.endpoint().matches(uri, headers))?;
        // The session that was used last is the last one used.
        if entry.session.last_use() + 1 != self.0.clock.load(Ordering::Relaxed) {
            entry.session.touch(self.tick());
        }
        Some(entry.session.clone())
    }

    /// Records a session, in place of one with the same id and endpoint if there is one, and at
    /// the cost of the least recently used if there are `limit` others.
    pub(crate) fn insert(&self, session: Arc<Session>, limit: usize) {
        let used = self.tick();
        session.touch(used);
        let mut table = self.write();
        table.remove_at(session.id(), session.endpoint());
        while table.by_use.len() >= limit.max(1) {
            table.remove_least_recently_used();
        }
        let entry = Entry {
            session: session.clone(),
            use_known: used,
        };
        // Hardly ever is there a second session with the same id.
        let entries = table.by_id.entry(session.id().clone());
        entries.or_insert_with(|| Vec::with_capacity(1)).push(entry);
        table.by_use.insert(used, session);
    }

    /// Forgets a session, unless it has been replaced already.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        let mut table = self.write();
        table.remove(session.id(), |entry| Arc::ptr_eq(&entry.session, session));
    }

    fn tick(&self) -> u64 {
        self.0.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn remove_at(&mut self, id: &HeaderValue, endpoint: &Endpoint) {
        self.remove(id, |entry| entry.session.endpoint().same_as(endpoint));
    }

    fn remove(&mut self, id: &HeaderValue, mut is: impl FnMut(&Entry) -> bool) {
        let Some(entries) = self.by_id.get_mut(id) else {
            return;
        };
        if let Some(position) = entries.iter().position(&mut is) {
            let entry = entries.swap_remove(position);
            if entries.is_empty() {
                self.by_id.remove(id);
            }
            self.by_use.remove(&entry.use_known);
            entry.session.forget();
        }
    }

    /// A session's key in `by_use` is never later than its last use. So the first one whose key is
    /// exact is the least recently used; the others before it are moved to where they belong.
    fn remove_least_recently_used(&mut self) {
        while let Some((use_known, session)) = self.by_use.pop_first() {
            let last_use = session.last_use();
            let entries = self.by_id.get_mut(session.id());
            let entry = entries.and_then(|entries| {
                entries
                    .iter_mut()
                    .find(|entry| entry.use_known == use_known)
            });
            let Some(entry) = entry else { continue };
            if last_use == use_known {
                let id = session.id().clone();
                self.remove(&id, |entry| entry.use_known == use_known);
                return;
            }
            entry.use_known = last_use;
            self.by_use.insert(last_use, session);
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
