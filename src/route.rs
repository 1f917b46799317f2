//! The ways that a request can go (rules A1, A2, B1).

use std::mem::swap;
#[cfg(feature = "store")]
use std::sync::Arc;

use http::{HeaderValue, Method, Request, request::Parts};

#[cfg(feature = "store")]
use crate::session::{Endpoint, Key};
use crate::{
    Principal,
    config::Shared,
    exchange::InSession,
    mcp::{MCP_METHOD, RequestHeaders, is_json},
    session::Session,
};

/// The way that a request goes, as far as its head tells.
pub(crate) enum Route {
    /// It is none of the layer's business.
    Untouched,
    /// It is, and its body is needed.
    Touched(Touched),
    /// If it belongs to a session, the store knows it (rule N1).
    #[cfg(feature = "store")]
    Unknown(Box<Key>),
}

/// A request that the layer looks at.
pub(crate) enum Touched {
    /// It may be an `initialize`, of this principal.
    Candidate(Option<Principal>),
    /// It belongs to a recorded session.
    Session(InSession),
}

impl Route {
    pub(crate) fn of<S, B>(shared: &Shared<S>, request: &mut Request<B>) -> Self {
        if !shared.config.enabled {
            return Self::Untouched;
        }
        let mut headers = RequestHeaders::of(request.headers());
        let is_sessionless = headers.is_sessionless();
        if headers.session_id.is_none() && (!may_initialize(request) || is_sessionless) {
            return Self::Untouched;
        }
        let mut principal = None;
        if let Some(principal_of) = &shared.config.principal {
            principal = with_parts(request, |parts| principal_of(parts));
            headers = RequestHeaders::of(request.headers());
        }
        let Some(id) = headers.session_id else {
            return Self::Touched(Touched::Candidate(principal));
        };
        let hosts = headers.has_host.then_some(request.headers());
        let found = shared
            .sessions
            .find(id, principal.as_ref(), request.uri(), hosts);
        match found {
            Some(found) if !is_sessionless || is_recorded_with(&found.session, headers.version) => {
                Self::Touched(Touched::Session(InSession {
                    session: found.session,
                    has_own_uri: found.has_own_uri,
                    has_last_event_id: headers.has_last_event_id,
                }))
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
        let Some(id) = RequestHeaders::of(headers).session_id else {
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
    pub(crate) fn of_found<B>(found: Option<Arc<Session>>, request: &Request<B>) -> Self {
        let headers = RequestHeaders::of(request.headers());
        match found {
            Some(session)
                if !headers.is_sessionless() || is_recorded_with(&session, headers.version) =>
            {
                Self::Touched(Touched::Session(InSession {
                    has_own_uri: session.has_uri(request.uri()),
                    session,
                    has_last_event_id: headers.has_last_event_id,
                }))
            }
            _ => Self::Untouched,
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

/// Whether the session was recorded with this very version (rule A2).
#[cold]
fn is_recorded_with(session: &Session, version: Option<&HeaderValue>) -> bool {
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
