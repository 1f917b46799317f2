//! Sessions by one of their ids.

use std::{collections::HashMap, hash::BuildHasher, sync::Arc};

// For what every request looks up: a third of the cost of the standard library's.
use foldhash::fast::RandomState;
use http::HeaderValue;

use super::Session;

/// Sessions by one of their ids.
///
/// They stand under a digest of it, so that little is read on the way to a session: where many are
/// in use, hardly any of that is in the processor's caches. The id itself is compared once, with what
/// the session says of it.
#[derive(Default)]
pub(super) struct ById {
    sessions: HashMap<u64, Arc<Session>, RandomState>,
    /// Those whose place was taken: hardly ever do two have the same id.
    others: HashMap<u64, Vec<Arc<Session>>, RandomState>,
}

impl ById {
    /// The sessions that may have this id, and all that have.
    #[inline]
    pub(super) fn may_have(&self, id: &HeaderValue) -> impl Iterator<Item = &Arc<Session>> {
        let digest = self.digest(id);
        let others = self.others.get(&digest).into_iter().flatten();
        self.sessions.get(&digest).into_iter().chain(others)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Session>> {
        self.sessions.values().chain(self.others.values().flatten())
    }

    pub(super) fn insert(&mut self, id: &HeaderValue, session: &Arc<Session>) {
        let digest = self.digest(id);
        let session = session.clone();
        match self.sessions.contains_key(&digest) {
            false => drop(self.sessions.insert(digest, session)),
            true => self.others.entry(digest).or_default().push(session),
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, id: &HeaderValue, session: &Arc<Session>) -> bool {
        let digest = self.digest(id);
        let is_it = |it: &Arc<Session>| Arc::ptr_eq(it, session);
        if self.sessions.get(&digest).is_some_and(is_it) {
            self.sessions.remove(&digest);
            return true;
        }
        let Some(others) = self.others.get_mut(&digest) else {
            return false;
        };
        let Some(position) = others.iter().position(is_it) else {
            return false;
        };
        others.swap_remove(position);
        if others.is_empty() {
            self.others.remove(&digest);
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.others.is_empty()
    }

    fn digest(&self, id: &HeaderValue) -> u64 {
        self.sessions.hasher().hash_one(id)
    }
}
