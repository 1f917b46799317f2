//! The ids that servers hand out, and those that handshakes under way were given (rules A5, I3).
//!
//! Between the answer to a recovery's `initialize` and the publication of its epoch no record names
//! the id, and yet the server has said whose it is: not that of a session which had it before, and
//! no longer that of the handshake, should it be given to somebody else meanwhile.

use std::{collections::HashMap, sync::Arc};

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

/// What is known of the ids that each endpoint hands out, as long as there are sessions of it.
#[derive(Default)]
pub(super) struct HandedOut(HashMap<Arc<Endpoint>, Ids>);

struct Ids {
    first: HeaderValue,
    differ: bool,
    sessions: usize,
}

impl HandedOut {
    /// The endpoint has handed out an id.
    pub(super) fn note(&mut self, endpoint: &Endpoint, id: &HeaderValue) {
        if let Some(ids) = self.0.get_mut(endpoint) {
            ids.differ |= ids.first != id;
        }
    }

    /// Whether the endpoint is known to hand out more than one id, and so to tell its sessions apart.
    pub(super) fn differ(&self, endpoint: &Endpoint) -> bool {
        self.0.get(endpoint).is_some_and(|ids| ids.differ)
    }

    /// A session that has this id upstream is recorded.
    pub(super) fn inserted(&mut self, endpoint: &Arc<Endpoint>, id: &HeaderValue) {
        self.note(endpoint, id);
        let ids = self.0.entry(endpoint.clone());
        let ids = ids.or_insert_with(|| Ids {
            first: id.clone(),
            differ: false,
            sessions: 0,
        });
        ids.sessions += 1;
    }

    /// One is not recorded any more.
    pub(super) fn removed(&mut self, endpoint: &Endpoint) {
        if let Some(ids) = self.0.get_mut(endpoint) {
            ids.sessions = ids.sessions.saturating_sub(1);
            if ids.sessions == 0 {
                self.0.remove(endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Uri};

    use super::*;

    #[test]
    fn a5_what_an_endpoint_hands_out_is_known_as_long_as_it_has_sessions() {
        let uri = Uri::from_static("http://mcp.test/mcp");
        let endpoint = Arc::new(Endpoint::new(&uri, &HeaderMap::new()));
        let [one, two] = ["1", "2"].map(HeaderValue::from_static);
        let mut handed_out = HandedOut::default();
        // Of an endpoint without sessions nothing is kept.
        handed_out.note(&endpoint, &one);
        assert!(handed_out.0.is_empty());
        handed_out.inserted(&endpoint, &one);
        handed_out.inserted(&endpoint, &one);
        assert!(!handed_out.differ(&endpoint));
        handed_out.note(&endpoint, &two);
        handed_out.removed(&endpoint);
        assert!(handed_out.differ(&endpoint));
        handed_out.removed(&endpoint);
        assert!(handed_out.0.is_empty());
    }
}
