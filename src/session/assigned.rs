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
    /// What has the id is not to be used any more, and still to be ended.
    is_given_up: bool,
}

impl Assignments {
    pub(super) fn insert(&mut self, session: &Arc<Session>, id: &HeaderValue) -> Arc<AtomicBool> {
        let taken = Arc::new(AtomicBool::new(false));
        self.0.entry(id.clone()).or_default().push(Assignment {
            session: session.clone(),
            taken: taken.clone(),
            is_given_up: false,
        });
        taken
    }

    /// The id is nobody's from here on, but who is given it is still noted.
    pub(super) fn give_up(&mut self, id: &HeaderValue, taken: &Arc<AtomicBool>) {
        let assignments = self.0.get_mut(id).into_iter().flatten();
        for it in assignments.filter(|it| Arc::ptr_eq(&it.taken, taken)) {
            it.is_given_up = true;
        }
    }

    /// Gives the session, which must not be dropped while the table is locked.
    pub(super) fn remove(
        &mut self,
        id: &HeaderValue,
        taken: &Arc<AtomicBool>,
    ) -> Option<Arc<Session>> {
        let assignments = self.0.get_mut(id)?;
        let place = (assignments.iter()).position(|it| Arc::ptr_eq(&it.taken, taken))?;
        let removed = assignments.remove(place);
        if assignments.is_empty() {
            self.0.remove(id);
        }
        Some(removed.session)
    }

    /// The server has just given this id to somebody.
    pub(super) fn take(&self, endpoint: &Endpoint, id: &HeaderValue) {
        self.all(endpoint, id)
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
        self.all(endpoint, id)
            .filter(|it| !it.is_given_up && !it.taken.load(Ordering::Acquire))
    }

    fn all(&self, endpoint: &Endpoint, id: &HeaderValue) -> impl Iterator<Item = &Assignment> {
        let all = self.0.get(id).into_iter().flatten();
        all.filter(move |it| **it.session.endpoint() == *endpoint)
    }
}

/// What is known of the ids that each endpoint hands out, as long as there are sessions of it.
#[derive(Default)]
pub(super) struct HandedOut(HashMap<Arc<Endpoint>, Listed>);

struct Listed {
    ids: Arc<Ids>,
    sessions: usize,
}

/// The ids that an endpoint has handed out. Its sessions hold them: one that has been forgotten may still
/// have something under way.
pub(super) struct Ids {
    first: HeaderValue,
    differ: AtomicBool,
}

impl Ids {
    pub(super) fn differ(&self) -> bool {
        self.differ.load(Ordering::Acquire)
    }
}

impl HandedOut {
    /// The endpoint has handed out an id.
    pub(super) fn note(&self, endpoint: &Endpoint, id: &HeaderValue) {
        if let Some(it) = self.0.get(endpoint).filter(|it| it.ids.first != id) {
            it.ids.differ.store(true, Ordering::Release);
        }
    }

    /// Whether the endpoint is known to hand out more than one id, and so to tell its sessions apart.
    pub(super) fn differ(&self, endpoint: &Endpoint) -> bool {
        self.0.get(endpoint).is_some_and(|it| it.ids.differ())
    }

    /// A session that has this id upstream is recorded, which is to hold what this gives.
    pub(super) fn inserted(&mut self, endpoint: &Arc<Endpoint>, id: &HeaderValue) -> Arc<Ids> {
        self.note(endpoint, id);
        let listed = self.0.entry(endpoint.clone()).or_insert_with(|| Listed {
            ids: Arc::new(Ids {
                first: id.clone(),
                differ: AtomicBool::new(false),
            }),
            sessions: 0,
        });
        listed.sessions += 1;
        listed.ids.clone()
    }

    /// One is not recorded any more.
    pub(super) fn removed(&mut self, endpoint: &Endpoint) {
        if let Some(listed) = self.0.get_mut(endpoint) {
            listed.sessions = listed.sessions.saturating_sub(1);
            if listed.sessions == 0 {
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
        let ids = handed_out.inserted(&endpoint, &one);
        handed_out.inserted(&endpoint, &one);
        assert!(!handed_out.differ(&endpoint) && !ids.differ());
        handed_out.note(&endpoint, &two);
        handed_out.removed(&endpoint);
        assert!(handed_out.differ(&endpoint));
        handed_out.removed(&endpoint);
        assert!(handed_out.0.is_empty());
        // But by the sessions themselves.
        assert!(ids.differ());
        handed_out.inserted(&endpoint, &two);
        assert!(!handed_out.differ(&endpoint));
    }
}
