//! The ways that a request can go (rules A1, A2, B1).

use std::{mem::swap, sync::Arc};

use http::{HeaderMap, Method, Request, request::Parts};
use http_body::Body;

#[cfg(feature = "store")]
use crate::session::{Endpoint, Key};
use crate::{
    Principal,
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
    /// It may be an `initialize`, of this principal.
    Candidate(Option<Principal>),
    /// It belongs to a recorded session.
    Session(Arc<Session>),
    /// If it belongs to a session, the store knows it (rule N1).
    #[cfg(feature = "store")]
    Unknown(Box<Key>),
}

/// The way that it goes, now that its body is there.
#[allow(
    clippy::large_enum_variant,
    reason = "the hot path takes the largest, and does not allocate"
)]
pub(crate) enum Way<S, B: Body> {
    Untouched(Request<RequestBody<B>>),
    Candidate(Box<Candidate>, Request<RequestBody<B>>),
    Session(Prepared<S, B>),
}

impl Route {
    pub(crate) fn of<S, B>(shared: &Shared<S>, request: &mut Request<B>) -> Self {
        let (session_id, version) = session_headers(request.headers());
        if !shared.config.enabled || (session_id.is_none() && !may_initialize(request)) {
            return Self::Untouched;
        }
        let is_sessionless = version.is_some_and(is_sessionless_version);
        if is_sessionless && session_id.is_none() {
            return Self::Untouched;
        }
        let principal = match &shared.config.principal {
            Some(principal) => with_parts(request, |parts| principal(parts)),
            None => None,
        };
        let headers = request.headers();
        let Some(id) = session_headers(headers).0 else {
            return Self::Candidate(principal);
        };
        let found = shared
            .sessions
            .find(id, principal.as_ref(), request.uri(), headers);
        match found {
            Some(session) if !is_sessionless || is_recorded_with(&session, headers) => {
                Self::Session(session)
            }
            #[cfg(feature = "store")]
            None if shared.persistence.is_some() => Self::unknown(request, principal),
            _ => Self::Untouched,
        }
    }

    #[cfg(feature = "store")]
    #[cold]
    fn unknown<B>(request: &Request<B>, principal: Option<Principal>) -> Self {
        let headers = request.headers();
        let Some(id) = session_headers(headers).0 else {
            return Self::Untouched;
        };
        Self::Unknown(Box::new(Key {
            id: id.clone(),
            endpoint: Arc::new(Endpoint::new(request.uri(), headers)),
            principal,
        }))
    }

    /// Where a request goes whose session the store knows, or nobody.
    #[cfg(feature = "store")]
    pub(crate) fn of_found(found: Option<Arc<Session>>, headers: &HeaderMap) -> Self {
        let is_sessionless = session_headers(headers)
            .1
            .is_some_and(is_sessionless_version);
        match found {
            Some(session) if !is_sessionless || is_recorded_with(&session, headers) => {
                Self::Session(session)
            }
            _ => Self::Untouched,
        }
    }

    /// Decides about the request with its body, whenever that came.
    // Inlined, since what it gives is large.
    #[inline(always)]
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
        let principal = match self {
            Self::Session(session) => {
                return Way::Session(Exchange::prepare(shared, session, parts, body));
            }
            Self::Candidate(principal) => principal,
            #[cfg(feature = "store")]
            Self::Unknown(_) => None,
            Self::Untouched => None,
        };
        let candidate = match &body {
            Ok(body) => Candidate::of(&parts, principal, body),
            Err(_) => None,
        };
        let body = body.map_or_else(|body| body, RequestBody::buffered);
        let request = Request::from_parts(parts, body);
        match candidate {
            Some(candidate) => Way::Candidate(Box::new(candidate), request),
            None => Way::Untouched(request),
        }
    }
}

/// Shows the head of a request, which is not in one piece while it has its body.
fn with_parts<B, T>(request: &mut Request<B>, look: impl FnOnce(&Parts) -> T) -> T {
    let (mut parts, ()) = Request::new(()).into_parts();
    let mut exchange = |parts: &mut Parts| {
        swap(&mut parts.method, request.method_mut());
        swap(&mut parts.uri, request.uri_mut());
        swap(&mut parts.version, request.version_mut());
        swap(&mut parts.headers, request.headers_mut());
        swap(&mut parts.extensions, request.extensions_mut());
    };
    exchange(&mut parts);
    let seen = look(&parts);
    exchange(&mut parts);
    seen
}

/// Whether the session was recorded with the very version that these headers name (rule A2).
fn is_recorded_with(session: &Session, headers: &HeaderMap) -> bool {
    let version = session_headers(headers).1;
    version.is_some() && session.chain().first().version() == version
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
