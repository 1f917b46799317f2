//! The recorded sessions, by what they go by.

#[cfg(feature = "store")]
use std::sync::Weak;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use http::HeaderValue;

use super::{
    Endpoint, Epoch, Key, Principal, Session,
    assigned::{Assignments, HandedOut},
    by_id::ById,
    earlier::Earlier,
    session::Counts,
};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// How many sessions a table holds, and how many bytes of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableLimits {
    pub(crate) sessions: usize,
    pub(crate) bytes: usize,
}

/// Each session stands in the table by the caller's id, by a use that is known not to be later than
/// its last unless it is unwritten, and, once it has moved on, by its upstream id.
#[derive(Default)]
pub(super) struct Table {
    pub(super) by_id: ById,
    pub(super) moved: ById,
    pub(super) groups: HashMap<Option<Principal>, HashMap<Arc<Endpoint>, Group>>,
    pub(super) assigned: Assignments,
    pub(super) earlier: Earlier,
    pub(super) handed_out: HandedOut,
    /// Those that stand by their use.
    pub(super) len: usize,
    /// Those that have made room, and that a store is still to hear of.
    #[cfg(feature = "store")]
    pub(super) unwritten: Vec<Arc<Session>>,
    #[cfg(feature = "store")]
    pub(super) in_use: InUse,
}

/// The sessions that have made room while somebody used them: whoever finds one of these in a store is to
/// go on in that, and not beside it.
#[cfg(feature = "store")]
#[derive(Default)]
pub(super) struct InUse {
    sessions: HashMap<Key, Weak<Session>>,
    /// As many of them are listed until it is looked which of them nobody uses any more.
    limit: usize,
}

#[cfg(feature = "store")]
impl InUse {
    const FEW: usize = 64;

    pub(super) fn insert(&mut self, session: &Arc<Session>) {
        if Arc::strong_count(session) == 1 {
            return;
        }
        if self.sessions.len() >= self.limit {
            self.sessions.retain(|_, it| it.strong_count() > 0);
            self.limit = Self::FEW.max(2 * self.sessions.len());
        }
        self.sessions
            .insert(session.key().clone(), Arc::downgrade(session));
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Session>> {
        self.sessions.get(key).and_then(Weak::upgrade)
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Session>> {
        self.sessions.remove(key).and_then(|it| it.upgrade())
    }
}

/// The sessions of a principal at an endpoint, by use.
#[derive(Default)]
pub(super) struct Group {
    pub(super) by_use: BTreeMap<u64, Arc<Session>>,
    /// What they hold. To ask each of them would take as long as there are many, at each that is
    /// forgotten.
    bytes: Arc<AtomicUsize>,
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.by_use.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Table {
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Session>> {
        let mut sessions = self.by_id.may_have(&key.id);
        sessions.find(|session| session.key() == key)
    }

    /// The endpoint of a key, shared with the sessions that are recorded there.
    pub(super) fn endpoint(&self, key: &Key) -> Arc<Endpoint> {
        let endpoints = self.groups.get(&key.principal);
        let known = endpoints.and_then(|endpoints| endpoints.get_key_value(&key.endpoint));
        known.map_or(&key.endpoint, |(known, _)| known).clone()
    }

    /// The sessions, whoever's, whose current epoch has this id upstream.
    pub(super) fn holders(&self, endpoint: &Endpoint, id: &HeaderValue) -> Vec<Arc<Session>> {
        let listed = self.by_id.may_have(id).chain(self.moved.may_have(id));
        listed
            .filter(|session| {
                **session.endpoint() == *endpoint && session.chain().current().id() == Some(id)
            })
            .cloned()
            .collect()
    }

    pub(super) fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        !self.holders(endpoint, id).is_empty() || self.assigned.has(endpoint, id)
    }

    /// Lists a session, whose bytes count with those of `all`. Gives an earlier one with its key that was
    /// in use, of which nothing comes back: whoever uses it may have let go of it by now, so that it must
    /// not be dropped while the table is locked.
    pub(super) fn insert(
        &mut self,
        session: &Arc<Session>,
        used: u64,
        all: &Arc<AtomicUsize>,
    ) -> Option<Arc<Session>> {
        #[cfg(feature = "store")]
        let earlier = self.in_use.remove(session.key());
        #[cfg(feature = "store")]
        if let Some(other) = earlier.as_ref().filter(|it| !Arc::ptr_eq(it, session)) {
            other.set_made_room(false);
        }
        #[cfg(not(feature = "store"))]
        let earlier = None;
        self.by_id.insert(session.id(), session);
        let current = session.chain().current();
        self.list_moved(session, &current);
        self.earlier.is_back(&current);
        let id = current.id().unwrap_or(session.id());
        session.hold(self.handed_out.inserted(session.endpoint(), id));
        self.count(session, used, all);
        earlier
    }

    /// From here on the session takes up room.
    pub(super) fn count(&mut self, session: &Arc<Session>, used: u64, all: &Arc<AtomicUsize>) {
        session.know_use(used);
        let group = self.group(session);
        group.by_use.insert(used, session.clone());
        session.count_in(Counts([all.clone(), group.bytes.clone()]));
        self.len += 1;
    }

    /// From here on it takes up none.
    pub(super) fn count_no_more(&mut self, session: &Session) {
        let counted = self.group(session).by_use.remove(&session.use_known());
        self.drop_empty_group(session);
        if counted.is_some() {
            session.count_nowhere();
            self.len -= 1;
        }
    }

    pub(super) fn remove(&mut self, session: &Arc<Session>) {
        if !self.by_id.remove(session.id(), session) {
            return;
        }
        let current = session.chain().current();
        self.unlist_moved(session, &current);
        self.earlier.left(session.endpoint(), &current);
        self.count_no_more(session);
        #[cfg(feature = "store")]
        self.unwritten.retain(|it| !Arc::ptr_eq(it, session));
        self.handed_out.removed(session.endpoint());
        if self.by_id.is_empty() {
            self.earlier.drop_unused();
        }
        session.forget();
    }

    pub(super) fn list_moved(&mut self, session: &Arc<Session>, epoch: &Epoch) {
        if let Some(id) = epoch.id().filter(|id| *id != session.id()) {
            self.moved.insert(id, session);
        }
    }

    pub(super) fn unlist_moved(&mut self, session: &Arc<Session>, epoch: &Epoch) {
        if let Some(id) = epoch.id() {
            self.moved.remove(id, session);
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
                .is_some_and(|group| group.by_use.is_empty())
            {
                endpoints.remove(session.endpoint());
            }
            if endpoints.is_empty() {
                self.groups.remove(&principal);
            }
        }
    }
}
