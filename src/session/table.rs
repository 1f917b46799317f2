//! The recorded sessions, by what they go by.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

// For what every request looks up: a third of the cost of the standard library's.
use foldhash::fast::RandomState;
use http::HeaderValue;

use super::{
    Endpoint, Epoch, Key, Principal, Session,
    assigned::{Assignments, HandedOut},
};

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
    pub(super) assigned: Assignments,
    pub(super) handed_out: HandedOut,
    pub(super) len: usize,
}

/// The sessions of a principal at an endpoint, by use.
pub(super) type Group = BTreeMap<u64, Arc<Session>>;

pub(super) struct Entry {
    pub(super) session: Arc<Session>,
    /// The key in its group.
    pub(super) use_known: u64,
}

impl Table {
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Session>> {
        let mut entries = self.by_id.get(&key.id)?.iter();
        entries
            .find(|entry| entry.session.key() == key)
            .map(|entry| &entry.session)
    }

    /// The endpoint of a key, shared with the sessions that are recorded there.
    pub(super) fn endpoint(&self, key: &Key) -> Arc<Endpoint> {
        let endpoints = self.groups.get(&key.principal);
        let known = endpoints.and_then(|endpoints| endpoints.get_key_value(&key.endpoint));
        known.map_or(&key.endpoint, |(known, _)| known).clone()
    }

    /// The sessions, whoever's, whose current epoch has this id upstream.
    pub(super) fn holders(&self, endpoint: &Endpoint, id: &HeaderValue) -> Vec<Arc<Session>> {
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

    pub(super) fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        !self.holders(endpoint, id).is_empty() || self.assigned.has(endpoint, id)
    }

    pub(super) fn insert(&mut self, session: &Arc<Session>, used: u64) {
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

    pub(super) fn list_moved(&mut self, session: &Arc<Session>, epoch: &Epoch) {
        if let Some(id) = epoch.id().filter(|id| *id != session.id()) {
            self.moved
                .entry(id.clone())
                .or_default()
                .push(session.clone());
        }
    }

    pub(super) fn unlist_moved(&mut self, session: &Arc<Session>, epoch: &Epoch) {
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
