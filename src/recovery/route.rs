//! Which requests are touched at all (rules A1, A2, B1).

use std::sync::Arc;

use http::Request;

use super::{Candidate, Shared};
use crate::{
    mcp::{PROTOCOL_VERSION, SESSION_ID, is_sessionless_version},
    session::Session,
};

/// The way that a request goes, as far as its head tells.
pub(crate) enum Route {
    /// It is none of the layer's business.
    Untouched,
    /// It may be an `initialize`.
    Candidate,
    /// It belongs to a recorded session.
    Session(Arc<Session>),
}

impl Route {
    pub(crate) fn of<B>(shared: &Shared, request: &Request<B>) -> Self {
        let headers = request.headers();
        let session_id = headers.get(SESSION_ID);
        if session_id.is_none() && !Candidate::is_possible(request) {
            return Self::Untouched;
        }
        if headers
            .get(PROTOCOL_VERSION)
            .is_some_and(is_sessionless_version)
        {
            return Self::Untouched;
        }
        match session_id {
            None => Self::Candidate,
            Some(id) => match shared.sessions.find(id, request.uri(), headers) {
                Some(session) => Self::Session(session),
                None => Self::Untouched,
            },
        }
    }
}
