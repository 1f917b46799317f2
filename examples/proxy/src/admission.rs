//! Which requests are forwarded, and what becomes of their heads.

use http::{HeaderName, Method, StatusCode, Version, request::Parts};
use http_body::Body;
use hyper::body::Incoming;

use super::{
    body::Broken, endpoint::Endpoint, guard::Guard, headers::to_upstream, hops::Hops, oauth,
    options::Options, reason::refused_body,
};

/// Whether the proxy runs; for whoever restarts programs that do not.
const HEALTH: &str = "/healthz";

/// The status and the text of the answer to a request that is not forwarded.
pub type Refusal = (StatusCode, String);

/// Decides about requests.
#[derive(Debug)]
pub struct Admission {
    guard: Guard,
    endpoint: Endpoint,
    hops: Hops,
    principal: Option<HeaderName>,
    max_body_bytes: usize,
}

/// What a request is for.
#[derive(Debug, Clone, Copy)]
pub enum Asks {
    Endpoint,
    /// A listening stream of the endpoint.
    Listening,
    /// Where to get a token for the endpoint.
    Metadata,
    Health,
}

impl Admission {
    pub fn new(options: &Options, guard: Guard, endpoint: Endpoint) -> Self {
        Self {
            guard,
            endpoint,
            hops: Hops::new(),
            principal: options.access.principal(),
            max_body_bytes: options.limits.max_body_bytes,
        }
    }

    /// Makes a client's request the upstream's, unless it is refused.
    pub fn admit(&self, parts: &mut Parts, body: &Incoming) -> Result<Asks, Refusal> {
        let refuse = |status, why: &str| Err((status, why.to_owned()));
        if matches!(parts.method, Method::TRACE | Method::CONNECT) {
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not served here",
            );
        }
        if let Err(why) = self.guard.check(parts) {
            return refuse(StatusCode::FORBIDDEN, why);
        }
        let path = parts.uri.path();
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let (asks, uri) = if path == self.endpoint.path() {
            let listens = parts.method == Method::GET;
            let asks = if listens {
                Asks::Listening
            } else {
                Asks::Endpoint
            };
            (asks, self.endpoint.uri(parts.uri.query()))
        } else if path == HEALTH && reads {
            return Ok(Asks::Health);
        } else if oauth::is_metadata(path, &self.endpoint) && parts.method == Method::GET {
            (Asks::Metadata, self.endpoint.at(path))
        } else {
            return refuse(StatusCode::NOT_FOUND, "this path is not served here");
        };
        // One that does not tell its length breaks when it is over the limit.
        if body.size_hint().lower() > self.max_body_bytes as u64 {
            let large = Broken::TooLarge;
            return refuse(refused_body(large), &large.to_string());
        }
        let Some(uri) = uri else {
            return refuse(StatusCode::URI_TOO_LONG, "the query is too long");
        };
        to_upstream(&mut parts.headers, self.principal.as_ref());
        if let Err(why) = self.hops.add(&mut parts.headers, parts.version) {
            return refuse(StatusCode::LOOP_DETECTED, why);
        }
        parts.uri = uri;
        // Which version it is sent with is between the proxy and the upstream.
        parts.version = Version::HTTP_11;
        Ok(asks)
    }
}
