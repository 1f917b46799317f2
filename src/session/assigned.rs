//! The ids that servers hand out, and those that handshakes under way were given (rules A5, I3).
//!
//! Between the answer to a recovery's `initialize` and the publication of its epoch no record names
//! the id, and yet the server has said whose it is: not that of a session which had it before, and
//! no longer that of the handshake, should it be given to somebody else meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use http::HeaderValue;

use super::{Endpoint, Session};
use crate::sync::atomic::{AtomicBool, Ordering};

/// The ids that handshakes under way were given, until what each made is published or given up.
#[derive(Default)]
pub(super) struct Assignments(HashMap<HeaderValue, Vec<Assignment>>);

struct Assignment {
    session: Arc<Session>,
    taken: Arc<AtomicBool>,
}

impl Assignments {
    pub(super) fn insert(&mut self, session: &Arc<Session>, id: &HeaderValue) -> Arc<AtomicBool> {
        let taken = Arc::new(AtomicBool::new(false));
        self.0.entry(id.clone()).or_default().push(Assignment {
            session: session.clone(),
            taken: taken.clone(),
        });
        taken
    }

    pub(super) fn remove(&mut self, id: &HeaderValue, taken: &Arc<AtomicBool>) {
        if let Some(assignments) = self.0.get_mut(id) {
            assignments.retain(|it| !Arc::ptr_eq(&it.taken, taken));
            if assignments.is_empty() {
                self.0.remove(id);
            }
        }
    }

    /// The server has just given this id to somebody.
    pub(super) fn take(&self, endpoint: &Endpoint, id: &HeaderValue) {
        self.current(endpoint, id)
            .for_each(|it| it.taken.store(true, Ordering::Release));
    }

    /// Whether a handshake of another session than this has the id.
    pub(super) fn is_anothers(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        self.current(session.endpoint(), id)
            .any(|it| !Arc::ptr_eq(&it.session, session))
    }

    /// Whether a handshake of this session has the id.
    pub(super) fn is_of(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        self.current(session.endpoint(), id)
            .any(|it| Arc::ptr_eq(&it.session, session))
    }

    /// Whether any handshake has the id.
    pub(super) fn has(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.current(endpoint, id).next().is_some()
    }

    fn current(&self, endpoint: &Endpoint, id: &HeaderValue) -> impl Iterator<Item = &Assignment> {
        let all = self.0.get(id).into_iter().flatten();
        all.filter(move |it| {
            **it.session.endpoint() == *endpoint && !it.taken.load(Ordering::Acquire)
        })
    }
}

/// What is known of the ids that each endpoint hands out, as long as somebody has a session of it: one that
/// has been forgotten may still have something under way.
#[derive(Default)]
pub(super) struct HandedOut {
    by_endpoint: HashMap<Arc<Endpoint>, Weak<Ids>>,
    /// As many of them are listed until it is looked which of them nobody needs any more.
    limit: usize,
}

/// The ids that an endpoint has handed out. Each of its sessions holds them.
pub(super) struct Ids {
    first: HeaderValue,
    differ: AtomicBool,
}

impl HandedOut {
    const FEW: usize = 64;

    fn get(&self, endpoint: &Endpoint) -> Option<Arc<Ids>> {
        self.by_endpoint.get(endpoint)?.upgrade()
    }

    /// The endpoint has handed out an id.
    pub(super) fn note(&self, endpoint: &Endpoint, id: &HeaderValue) {
        if let Some(ids) = self.get(endpoint).filter(|ids| ids.first != id) {
            ids.differ.store(true, Ordering::Release);
        }
    }

    /// Whether the endpoint is known to hand out more than one id, and so to tell its sessions apart.
    pub(super) fn differ(&self, endpoint: &Endpoint) -> bool {
        let ids = self.get(endpoint);
        ids.is_some_and(|ids| ids.differ.load(Ordering::Acquire))
    }

    /// The endpoint has handed out this id to a session, which is to hold what this gives.
    pub(super) fn inserted(&mut self, endpoint: &Arc<Endpoint>, id: &HeaderValue) -> Arc<Ids> {
        if let Some(ids) = self.get(endpoint) {
            self.note(endpoint, id);
            return ids;
        }
        if self.by_endpoint.len() >= self.limit {
            self.by_endpoint.retain(|_, ids| ids.strong_count() > 0);
            self.limit = Self::FEW.max(2 * self.by_endpoint.len());
        }
        let ids = Arc::new(Ids {
            first: id.clone(),
            differ: AtomicBool::new(false),
        });
        self.by_endpoint
            .insert(endpoint.clone(), Arc::downgrade(&ids));
        ids
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Uri};

    use super::*;

    fn endpoint(uri: &str) -> Arc<Endpoint> {
        let uri: Uri = uri.parse().unwrap();
        Arc::new(Endpoint::new(&uri, &HeaderMap::new()))
    }

    #[test]
    fn a5_what_an_endpoint_hands_out_is_known_as_long_as_somebody_has_a_session_of_it() {
        let endpoint = endpoint("http://mcp.test/mcp");
        let [one, two] = ["1", "2"].map(HeaderValue::from_static);
        let mut handed_out = HandedOut::default();
        // Of an endpoint without sessions nothing is kept.
        handed_out.note(&endpoint, &one);
        assert!(handed_out.by_endpoint.is_empty());
        let sessions = [(); 2].map(|()| handed_out.inserted(&endpoint, &one));
        assert!(!handed_out.differ(&endpoint));
        handed_out.note(&endpoint, &two);
        let [session, another] = sessions;
        drop(another);
        assert!(handed_out.differ(&endpoint));
        drop(session);
        assert!(!handed_out.differ(&endpoint));
        let _session = handed_out.inserted(&endpoint, &two);
        assert!(!handed_out.differ(&endpoint));
    }

    #[test]
    fn k10_endpoints_that_nobody_has_a_session_of_are_not_listed_for_ever() {
        let id = HeaderValue::from_static("1");
        let mut handed_out = HandedOut::default();
        let used = endpoint("http://used.test/");
        let _session = handed_out.inserted(&used, &id);
        for n in 0..10_000 {
            handed_out.inserted(&endpoint(&format!("http://{n}.test/")), &id);
            assert!(handed_out.by_endpoint.len() <= HandedOut::FEW);
        }
        assert!(handed_out.get(&used).is_some());
    }
}
