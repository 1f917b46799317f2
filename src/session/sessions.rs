//! The sessions that a layer has recorded: found, recorded, forgotten (rules A1, A3 to A5, B4, I1, I2,
//! K2, K10).

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, Weak},
};

use http::{HeaderMap, HeaderValue, Uri};
use tokio::sync::Semaphore;

use super::{
    Endpoint, Initialize, Key, Pauses, Principal, Reassigned, Session, random_id,
    table::{Table, TableLimits},
};
use crate::sync::{
    Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicU64, AtomicUsize, Ordering},
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

    /// How many sessions are recorded, but for those that have made room and wait for a store to hear of
    /// them.
    pub fn len(&self) -> usize {
        self.read().len
    }

    /// Whether no session is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every session. Requests that carry their ids pass through untouched from then on;
    /// nothing is sent to any server. What a store keeps of them stays there, and is found again; what
    /// it has not been told of yet is lost ([`flush`](Self::flush) before tells it).
    pub fn forget_all(&self) {
        let mut table = self.write();
        let forgotten = std::mem::take(&mut *table);
        // Of handshakes under way, and of what waits in an earlier epoch, the server still says whose
        // each is.
        table.assigned = forgotten.assigned;
        table.earlier = forgotten.earlier;
        #[cfg(feature = "store")]
        {
            table.in_use = forgotten.in_use;
        }
        // Before anybody can publish an epoch of theirs, which would be listed.
        for session in forgotten.by_id.all() {
            table
                .earlier
                .left(session.endpoint(), &session.chain().current());
            session.forget();
        }
        drop(table);
        // What sessions hold of their callers may ask the table.
        drop((forgotten.by_id, forgotten.moved, forgotten.groups));
        #[cfg(feature = "store")]
        drop(forgotten.unwritten);
        self.write().earlier.drop_unused();
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
        for session in table.by_id.may_have(id) {
            let has_own_uri = session.has_uri(uri);
            let endpoint = session.endpoint();
            let is_it = session.id() == id
                && session.principal() == principal
                && (has_own_uri || endpoint.has_uri(uri))
                && endpoint.has_hosts_of(uri, headers);
            if is_it {
                // The session that was used last is the last one used.
                if session.last_use() + 1 != self.0.clock.load(Ordering::Relaxed) {
                    session.touch(self.tick());
                }
                return Some(FoundSession {
                    session: session.clone(),
                    has_own_uri,
                });
            }
        }
        None
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
        uri: Option<Uri>,
        initialize: Initialize,
        pauses: Pauses,
        limits: TableLimits,
    ) -> (Arc<Session>, Evicted) {
        let upstream = key.id.clone();
        let used = self.tick();
        // Somebody who goes by this id is being looked for in a store.
        #[cfg(feature = "store")]
        let is_asked = (self.kept_by().iter()).any(|it| it.is_asking(&key));
        #[cfg(not(feature = "store"))]
        let is_asked = false;
        // Dropped last: what they hold of their callers may ask the table.
        let (holders, _given_away, _earlier);
        let mut displaced = Vec::new();
        let mut table = self.write();
        // While the record of an endpoint's only session is replaced, too.
        table.handed_out.inserted(&key.endpoint, &upstream);
        table.assigned.take(&key.endpoint, &upstream);
        holders = table.holders(&key.endpoint, &upstream);
        // The record that took its place meanwhile, too: another renewal made that.
        let is_renewed = |holder: &Arc<Session>| renews.is_some_and(|it| it.key() == holder.key());
        if let Some(renewed) = holders.iter().find(|holder| is_renewed(holder)) {
            key.id = renewed.id().clone();
        }
        let mut replaced = None;
        for holder in &holders {
            if *holder.key() == key {
                table.remove(holder);
                replaced = Some(holder);
            } else if table.expire(holder, Reassigned::Another) {
                displaced.push(holder);
            }
        }
        _given_away = table.earlier.reassign(&key.endpoint, &upstream);
        let is_renewed = holders.iter().any(is_renewed);
        if is_asked && !is_renewed || table.get(&key).is_some() {
            key.id = random_id();
        }
        key.endpoint = table.endpoint(&key);
        let session = Arc::new(Session::new(key, upstream, uri, initialize, pauses));
        #[cfg(feature = "store")]
        session.takes_place_of(replaced);
        #[cfg(not(feature = "store"))]
        let _ = replaced;
        session.touch(used);
        // It counts: whoever makes one too many pays for it.
        _earlier = table.insert(&session, used, &self.0.bytes);
        table.handed_out.removed(session.endpoint());
        let evicted = self.make_room(&mut table, limits);
        drop(table);
        self.changed(displaced);
        (session, evicted)
    }

    /// Of these there is news, such as that they have lost their sessions (rule A5), which the next process
    /// is to know as well.
    pub(crate) fn changed<'a>(&self, sessions: impl IntoIterator<Item = &'a Arc<Session>>) {
        #[cfg(feature = "store")]
        self.0.kept_by.changed(sessions);
        #[cfg(not(feature = "store"))]
        let _ = sessions;
    }

    /// Lists a session that another process recorded, or that this one has forgotten for want of room,
    /// unless it is there already. `None` if another one has its key. `follows` says that what others have
    /// gone on from is recovered.
    ///
    /// If another has its id upstream, nobody knows to whom the server has given that last: from here on
    /// it is neither's (rule A5).
    #[cfg(feature = "store")]
    pub(super) fn restore(
        &self,
        session: Arc<Session>,
        limits: TableLimits,
        follows: bool,
    ) -> Option<(Arc<Session>, Evicted)> {
        let used = self.tick();
        // Dropped last: what they hold of their callers may ask the table.
        let (in_use, _earlier);
        let mut table = self.write();
        if let Some(recorded) = table.get(session.key()) {
            // It may have been given the key while the store was asked.
            let is_it = recorded.is_recorded_as(&session);
            return is_it.then(|| (recorded.clone(), Evicted::new()));
        }
        in_use = table.in_use.get(session.key());
        let goes_on = |it: &&Arc<Session>| it.is_to_go_on() && it.may_be(&session);
        let session = match in_use.as_ref().filter(goes_on) {
            // Who only watches is not recovered, and goes on where the store says.
            Some(in_use) if follows || !in_use.is_overtaken_by(&session) => {
                in_use.is_found_as(&session);
                in_use.clone()
            }
            _ => session,
        };
        session.is_back();
        session.touch(used);
        let mut displaced = Vec::new();
        if let Some(id) = session.chain().current().id() {
            if table.uses(session.endpoint(), id) {
                table.assigned.take(session.endpoint(), id);
                displaced = table.holders(session.endpoint(), id);
                displaced.push(session.clone());
                displaced.retain(|it| table.expire(it, Reassigned::OneOfTwo));
            }
        }
        _earlier = table.insert(&session, used, &self.0.bytes);
        let evicted = self.make_room(&mut table, limits);
        drop(table);
        self.changed(&displaced);
        Some((session, evicted))
    }

    /// Whether there is a session with this key.
    #[cfg(feature = "store")]
    pub(super) fn is_recorded(&self, key: &Key) -> bool {
        self.read().get(key).is_some()
    }

    /// Whether another session has been given the key of this one.
    #[cfg(feature = "store")]
    pub(crate) fn is_displaced(&self, session: &Session) -> bool {
        let table = self.read();
        let recorded = table.get(session.key());
        recorded.is_some_and(|it| !it.is_recorded_as(session))
    }

    /// The sessions that were used since this returned `since`, and what it returns now.
    #[cfg(feature = "store")]
    pub(super) fn used_since(&self, since: u64) -> (u64, Vec<Arc<Session>>) {
        // From here on, the session that was used last notes its next use, too.
        let now = self.tick();
        let table = self.read();
        let used = table
            .by_id
            .all()
            .filter(|session| session.last_use() >= since);
        (now, used.cloned().collect())
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

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::fixture::{ENDPOINT, recorded};

    #[test]
    fn e12_each_endpoint_has_turns_of_its_own_as_long_as_somebody_takes_or_awaits_one() {
        let sessions = Sessions::new();
        let [one, two] = [ENDPOINT, "http://other.test/mcp"].map(|uri| {
            let session = recorded(&sessions, uri, "1");
            session.endpoint().clone()
        });
        let turns = sessions.handshakes(&one, 1);
        let others = sessions.handshakes(&two, 1);
        assert!(!Arc::ptr_eq(&turns, &others));
        assert!(Arc::ptr_eq(&turns, &sessions.handshakes(&one, 1)));
        drop((turns, others));
        // Of the endpoints that nobody makes handshakes at nothing is kept.
        let _turns = sessions.handshakes(&one, 1);
        assert_eq!(sessions.0.handshakes.lock().unwrap().len(), 1);
    }

    #[test]
    fn k10_nothing_is_kept_of_an_endpoint_without_sessions() {
        let sessions = Sessions::new();
        let session = recorded(&sessions, ENDPOINT, "1");
        sessions.forget(&session);
        let table = sessions.read();
        assert!(table.groups.is_empty() && table.by_id.is_empty());
        assert_eq!(sessions.0.bytes.load(Ordering::Relaxed), 0);
    }
}
