//! The recorded sessions, by what they go by (rules A1, A3 to A5, B4, I1 to I3, K2, K10).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

// For what every request looks up: a third of the cost of the standard library's.
use foldhash::fast::RandomState;
use http::{HeaderMap, HeaderValue, Uri};
use tokio::sync::Semaphore;

use super::{
    Assigned, Endpoint, Epoch, Initialize, Key, Leader, Pauses, Principal, Session,
    assigned::{Assignments, HandedOut},
    random_id,
};

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
pub struct Sessions(pub(super) Arc<Shared>);

#[derive(Default)]
pub(super) struct Shared {
    table: RwLock<Table>,
    /// Counts uses, so that sessions can be ordered by their last one.
    clock: AtomicU64,
    /// What all sessions hold, in bytes.
    pub(super) bytes: Arc<AtomicUsize>,
    /// Those that make handshakes at each endpoint (rule E12).
    handshakes: Mutex<HashMap<Arc<Endpoint>, Weak<Semaphore>>>,
    /// What keeps the sessions in stores.
    #[cfg(feature = "store")]
    pub(super) kept_by: super::persistence::KeptBy,
}

/// How many sessions a table holds, and how many bytes of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLimits {
    pub(crate) sessions: usize,
    pub(crate) bytes: usize,
}

/// Each session stands in the table by the caller's id, by a use that is known not to be later than
/// its last, and, once it has moved on, by its upstream id.
#[derive(Default)]
pub(super) struct Table {
    pub(super) by_id: HashMap<HeaderValue, Vec<Entry>, RandomState>,
    moved: HashMap<HeaderValue, Vec<Arc<Session>>>,
    pub(super) groups: HashMap<Option<Principal>, HashMap<Arc<Endpoint>, Group>>,
    assigned: Assignments,
    handed_out: HandedOut,
    pub(super) len: usize,
}

/// The sessions of a principal at an endpoint, by use.
pub(super) type Group = BTreeMap<u64, Arc<Session>>;

pub(super) struct Entry {
    pub(super) session: Arc<Session>,
    /// The key in its group.
    pub(super) use_known: u64,
}

/// A session that a request belongs to.
pub(crate) struct FoundSession {
    pub(crate) session: Arc<Session>,
    /// Whether the URI of the request is the session's own to the letter, as nearly all are.
    pub(crate) has_own_uri: bool,
}

/// Sessions that were forgotten to make room.
pub(crate) type Evicted = Vec<Arc<Session>>;

impl Sessions {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many sessions are recorded.
    pub fn len(&self) -> usize {
        self.read().len
    }

    /// Whether no session is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every session. Requests that carry their ids pass through untouched from then on;
    /// nothing is sent to any server. What a store keeps of them stays there, and is found again.
    pub fn forget_all(&self) {
        let mut table = self.write();
        let forgotten = std::mem::take(&mut *table);
        // Of handshakes under way the server still says whose each is.
        table.assigned = forgotten.assigned;
        drop(table);
        for entry in forgotten.by_id.values().flatten() {
            entry.session.forget();
        }
    }

    /// The session that a request of this principal with this id, URI and headers belongs to. No
    /// headers are needed if there is no `Host` among them.
    pub(crate) fn find(
        &self,
        id: &HeaderValue,
        principal: Option<&Principal>,
        uri: &Uri,
        headers: Option<&HeaderMap>,
    ) -> Option<FoundSession> {
        let table = self.read();
        let mut entries = table.by_id.get(id)?.iter();
        let (session, has_own_uri) = entries.find_map(|Entry { session, .. }| {
            let has_own_uri = session.has_uri(uri);
            let endpoint = session.endpoint();
            let is_it = session.principal() == principal
                && (has_own_uri || endpoint.has_uri(uri))
                && endpoint.has_hosts_of(uri, headers);
            is_it.then_some((session, has_own_uri))
        })?;
        // The session that was used last is the last one used.
        if session.last_use() + 1 != self.0.clock.load(Ordering::Relaxed) {
            session.touch(self.tick());
        }
        Some(FoundSession {
            session: session.clone(),
            has_own_uri,
        })
    }

    /// Records a session that a server has just given this id.
    ///
    /// A caller that `renews` its session by initializing in it goes on by the id that it has.
    /// Whoever else has that id upstream is known to have lost its session: a server does not hand out
    /// the id of one that it knows (rules A5, B4). And if somebody who has moved on still goes by
    /// it, the new caller is given another one to go by.
    pub(crate) fn record(
        &self,
        mut key: Key,
        renews: Option<&Arc<Session>>,
        initialize: Initialize,
        pauses: Pauses,
        limits: TableLimits,
    ) -> (Arc<Session>, Evicted) {
        let upstream = key.id.clone();
        let used = self.tick();
        let mut table = self.write();
        table.assigned.take(&key.endpoint, &upstream);
        let holders = table.holders(&key.endpoint, &upstream);
        let is_renewed = |holder: &Arc<Session>| renews.is_some_and(|it| Arc::ptr_eq(it, holder));
        if let Some(renewed) = holders.iter().find(|holder| is_renewed(holder)) {
            key.id = renewed.id().clone();
        }
        for holder in holders {
            if *holder.key() == key {
                table.remove(&holder);
            } else {
                holder.chain().expire();
            }
        }
        if table.get(&key).is_some() {
            key.id = random_id();
        }
        key.endpoint = table.endpoint(&key);
        let session = Arc::new(Session::new(key, upstream, initialize, pauses));
        session.touch(used);
        session.count_in(&self.0.bytes);
        // It counts: whoever makes one too many pays for it.
        table.insert(&session, used);
        let mut evicted = Vec::new();
        while table.len > limits.sessions.max(1) {
            evicted.extend(table.evict(|group| group.len()));
        }
        evicted.append(&mut self.make_room(&mut table, limits));
        (session, evicted)
    }

    /// Lists a session that another process recorded, unless it is there already.
    ///
    /// If another has its id upstream, the server has handed that out since (rule A5).
    #[cfg(feature = "store")]
    pub(super) fn restore(&self, session: Session, limits: TableLimits) -> Arc<Session> {
        let used = self.tick();
        let mut table = self.write();
        if let Some(session) = table.get(session.key()) {
            return session.clone();
        }
        let current = session.chain().current();
        if let Some(id) = current.id() {
            if table.names(session.endpoint(), id) {
                session.chain().expire();
            }
        }
        let session = Arc::new(session);
        session.touch(used);
        session.count_in(&self.0.bytes);
        // Those that make room are in the store themselves: nothing is ended.
        while table.len >= limits.sessions.max(1) && table.evict(|group| group.len()).is_some() {}
        table.insert(&session, used);
        self.make_room(&mut table, limits);
        session
    }

    /// The sessions that were used since this returned `since`, and what it returns now.
    #[cfg(feature = "store")]
    pub(super) fn used_since(&self, since: u64) -> (u64, Vec<Arc<Session>>) {
        // From here on, the session that was used last notes its next use, too.
        let now = self.tick();
        let table = self.read();
        let sessions = table.by_id.values().flatten().map(|entry| &entry.session);
        let used = sessions.filter(|session| session.last_use() >= since);
        (now, used.cloned().collect())
    }

    /// The server has just given this id to a recovery of `session`. Whoever had it, or was about to,
    /// is known to have lost its session (rule A5): also this one, which is in the new one once that
    /// is published, and not before.
    pub(crate) fn assign(&self, session: &Arc<Session>, id: &HeaderValue) -> Assigned {
        let mut table = self.write();
        table.handed_out.note(session.endpoint(), id);
        table.assigned.take(session.endpoint(), id);
        let taken = table.assigned.insert(session, id);
        let holders = table.holders(session.endpoint(), id);
        holders.iter().for_each(|holder| holder.chain().expire());
        Assigned::new(self.clone(), id.clone(), taken)
    }

    pub(super) fn unassign(&self, id: &HeaderValue, taken: &Arc<AtomicBool>) {
        self.write().assigned.remove(id, taken);
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
        let mut table = self.write();
        let mut others = match epoch.id() {
            Some(id) => table.holders(session.endpoint(), id),
            None => Vec::new(),
        };
        others.retain(|other| !Arc::ptr_eq(other, session));
        let before = session.chain().current();
        // If this one had the id before, too, and nobody ever another, the server has one for all.
        let shares = !others.is_empty()
            && before.id() == epoch.id()
            && !table.handed_out.differ(session.endpoint());
        leader.publish(epoch.clone(), shares)?;
        match assigned.is_some_and(Assigned::is_taken) && !shares {
            true => session.chain().expire(),
            false => others.iter().for_each(|other| other.chain().expire()),
        }
        table.unlist_moved(session, &before);
        table.list_moved(session, &epoch);
        session.recount();
        Ok(())
    }

    /// Whether what is sent in this epoch of `session` would enter the session of somebody else
    /// (rule A5). A server that does not tell its sessions apart is not fought.
    pub(crate) fn is_anothers(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        if epoch.is_reassigned() {
            return true;
        }
        let Some(id) = epoch.id() else { return false };
        let chain = session.chain();
        let current = chain.current();
        if current.id() == Some(id) && !chain.is_forgotten() {
            return current.is_reassigned();
        }
        let table = self.read();
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        holders.any(|holder| !Arc::ptr_eq(&holder, session))
            || table.assigned.is_anothers(session, id)
    }

    /// Whether the server has given an id that `session` was given to somebody else since.
    pub(crate) fn is_given_away(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        let table = self.read();
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        let is_anothers = |it: Arc<Session>| !Arc::ptr_eq(&it, session) && !it.chain().is_expired();
        table.handed_out.differ(session.endpoint())
            && (holders.any(is_anothers) || table.assigned.is_anothers(session, id))
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(super) fn tells_apart(&self, endpoint: &Endpoint) -> bool {
        self.read().handed_out.differ(endpoint)
    }

    /// Whether a recorded session has this id upstream, or a recovery of one.
    pub(crate) fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.read().names(endpoint, id)
    }

    /// Whether a recorded session uses this id upstream, so that it is not to be ended (rule I3). One
    /// that is known to have expired uses it no longer.
    pub(crate) fn uses(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        let table = self.read();
        // Where there is one id for all, none is known to have expired.
        let tells_apart = table.handed_out.differ(endpoint);
        let mut holders = table.holders(endpoint, id).into_iter();
        holders.any(|holder| !tells_apart || !holder.chain().is_expired())
            || table.assigned.has(endpoint, id)
    }

    /// Forgets a session, unless it has been replaced already.
    pub(crate) fn forget(&self, session: &Arc<Session>) {
        self.write().remove(session);
    }

    /// What lets at most `limit` handshakes at an endpoint go on at a time, oldest first.
    pub(crate) fn handshakes(&self, endpoint: &Arc<Endpoint>, limit: usize) -> Arc<Semaphore> {
        let handshakes = self.0.handshakes.lock();
        let mut handshakes = handshakes.unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = handshakes.get(endpoint).and_then(Weak::upgrade) {
            return semaphore;
        }
        handshakes.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(limit.clamp(1, Semaphore::MAX_PERMITS)));
        handshakes.insert(endpoint.clone(), Arc::downgrade(&semaphore));
        semaphore
    }

    fn tick(&self) -> u64 {
        self.0.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn get(&self, key: &Key) -> Option<&Arc<Session>> {
        let mut entries = self.by_id.get(&key.id)?.iter();
        entries
            .find(|entry| entry.session.key() == key)
            .map(|entry| &entry.session)
    }

    /// The endpoint of a key, shared with the sessions that are recorded there.
    fn endpoint(&self, key: &Key) -> Arc<Endpoint> {
        let endpoints = self.groups.get(&key.principal);
        let known = endpoints.and_then(|endpoints| endpoints.get_key_value(&key.endpoint));
        known.map_or(&key.endpoint, |(known, _)| known).clone()
    }

    /// The sessions, whoever's, whose current epoch has this id upstream.
    fn holders(&self, endpoint: &Endpoint, id: &HeaderValue) -> Vec<Arc<Session>> {
        let by_id = self.by_id.get(id).into_iter().flatten();
        let moved = self.moved.get(id).into_iter().flatten();
        by_id
            .map(|entry| &entry.session)
            .chain(moved)
            .filter(|session| {
                **session.endpoint() == *endpoint && session.chain().current().id() == Some(id)
            })
            .cloned()
            .collect()
    }

    fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        !self.holders(endpoint, id).is_empty() || self.assigned.has(endpoint, id)
    }

    fn insert(&mut self, session: &Arc<Session>, used: u64) {
        let entry = Entry {
            session: session.clone(),
            use_known: used,
        };
        // Hardly ever is there a second session with the same id.
        let entries = self.by_id.entry(session.id().clone());
        entries.or_insert_with(|| Vec::with_capacity(1)).push(entry);
        let current = session.chain().current();
        self.list_moved(session, &current);
        self.group(session).insert(used, session.clone());
        let id = current.id().unwrap_or(session.id());
        self.handed_out.inserted(session.endpoint(), id);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, session: &Arc<Session>) {
        let Some(entries) = self.by_id.get_mut(session.id()) else {
            return;
        };
        let is = |entry: &Entry| Arc::ptr_eq(&entry.session, session);
        let Some(position) = entries.iter().position(is) else {
            return;
        };
        let entry = entries.swap_remove(position);
        if entries.is_empty() {
            self.by_id.remove(session.id());
        }
        self.unlist_moved(session, &session.chain().current());
        self.group(session).remove(&entry.use_known);
        self.drop_empty_group(session);
        self.handed_out.removed(session.endpoint());
        self.len -= 1;
        session.forget();
    }

    fn list_moved(&mut self, session: &Arc<Session>, epoch: &Epoch) {
        if let Some(id) = epoch.id().filter(|id| *id != session.id()) {
            self.moved
                .entry(id.clone())
                .or_default()
                .push(session.clone());
        }
    }

    fn unlist_moved(&mut self, session: &Arc<Session>, epoch: &Epoch) {
        let Some(id) = epoch.id() else { return };
        if let Some(sessions) = self.moved.get_mut(id) {
            sessions.retain(|it| !Arc::ptr_eq(it, session));
            if sessions.is_empty() {
                self.moved.remove(id);
            }
        }
    }

    pub(super) fn group(&mut self, session: &Session) -> &mut Group {
        let endpoints = self.groups.entry(session.principal().cloned());
        let endpoints = endpoints.or_default();
        endpoints.entry(session.endpoint().clone()).or_default()
    }

    fn drop_empty_group(&mut self, session: &Session) {
        let principal = session.key().principal.clone();
        if let Some(endpoints) = self.groups.get_mut(&principal) {
            if endpoints
                .get(session.endpoint())
                .is_some_and(Group::is_empty)
            {
                endpoints.remove(session.endpoint());
            }
            if endpoints.is_empty() {
                self.groups.remove(&principal);
            }
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
