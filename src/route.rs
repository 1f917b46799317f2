//! The ways that a request can go (rules A1, A2, B1).

use std::sync::Arc;

use http::{Method, Request, request::Parts};
use http_body::Body;

use crate::{
    body::{BufferedBody, RequestBody},
    config::Shared,
    exchange::{Candidate, Exchange, Prepared},
    http_service::HttpService,
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

/// The way that it goes, now that its body is there.
pub(crate) enum Way<S, B: Body> {
    Untouched(Request<RequestBody<B>>),
    Candidate(Box<Candidate<S>>, Request<RequestBody<B>>),
    Session(Prepared<S, B>),
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

    /// Decides about the request with its body, whenever that came.
    pub(crate) fn prepare<S, B>(
        self,
        shared: &Arc<Shared<S>>,
        parts: Parts,
        body: Result<BufferedBody, RequestBody<B>>,
    ) -> Way<S, B>
    where
        S: HttpService<B>,
        B: Body<Error: Send> + Send + 'static,
    {
        match self {
            Self::Session(session) => Way::Session(Exchange::prepare(shared, session, parts, body)),
            Self::Candidate | Self::Untouched => {
                let candidate = body
                    .as_ref()
                    .ok()
                    .and_then(|body| Candidate::of(shared, &parts, body));
                let body = body.map_or_else(|body| body, RequestBody::buffered);
                let request = Request::from_parts(parts, body);
                match candidate {
                    Some(candidate) => Way::Candidate(Box::new(candidate), request),
                    None => Way::Untouched(request),
                }
            }
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
