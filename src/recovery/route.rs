//! Which requests are touched at all (rules A1, A2, B1).

use std::sync::Arc;

use http::{Method, Request};

use super::Shared;
use crate::{
    mcp::{MCP_METHOD, is_json, is_sessionless_version, session_headers},
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
    pub(crate) fn of<S, B>(shared: &Shared<S>, request: &Request<B>) -> Self {
        let headers = request.headers();
        let (session_id, version) = session_headers(headers);
        if session_id.is_none() && !may_initialize(request) {
            return Self::Untouched;
        }
        if version.is_some_and(is_sessionless_version) {
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

/// Whether a request without a session id may be an `initialize`, as far as its head tells.
fn may_initialize<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::POST
        && is_json(headers)
        && headers
            .get(MCP_METHOD)
            .is_none_or(|method| method == "initialize")
}
