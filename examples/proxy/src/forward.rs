//! One request, from the client to the upstream and back.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version, header::CONTENT_TYPE,
    request::Parts,
};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::time::timeout;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    endpoint::Endpoint,
    guard::Guard,
    headers::{drop_hop_by_hop, to_upstream},
    listening::{Ending, is_stream},
    options::Options,
    reason::{TOO_LARGE, failure},
    stop::Stop,
    upstream::Upstream,
};

/// A client's request body, which breaks when it turns out too large.
pub type ClientBody = Limited<Incoming>;

/// How much of a refused request is read on, and how long, for its client to see the answer: one
/// that is still sending when the connection is closed sees an error instead.
const MAX_READ_ON: usize = 64 * 1024 * 1024;
const MAX_TIME_READ_ON: Duration = Duration::from_secs(5);

type Reply = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// Forwards requests. Clones share everything.
#[derive(Clone)]
pub struct Forward {
    shared: Arc<Shared>,
    upstream: Upstream,
}

struct Shared {
    guard: Guard,
    endpoint: Endpoint,
    max_body_bytes: usize,
    stop: Stop,
}

impl Forward {
    pub fn new(
        options: &Options,
        guard: Guard,
        endpoint: Endpoint,
        upstream: Upstream,
        stop: Stop,
    ) -> Self {
        let shared = Arc::new(Shared {
            guard,
            endpoint,
            max_body_bytes: options.max_body_bytes,
            stop,
        });
        Self { shared, upstream }
    }

    pub async fn forward(self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let (mut parts, body) = request.into_parts();
        let method = parts.method.clone();
        let reply = match self.shared.admit(&mut parts, &body) {
            Ok(()) => {
                let body = Limited::new(body, self.shared.max_body_bytes);
                self.send(Request::from_parts(parts, body)).await
            }
            Err((status, why)) => {
                warn!(%method, status = status.as_u16(), "refused: {why}");
                read_on(body).await;
                say(status, why)
            }
        };
        debug!(%method, status = reply.status().as_u16(), "answered");
        Ok(reply)
    }

    async fn send(self, request: Request<ClientBody>) -> Reply {
        let stop = &self.shared.stop;
        let listens = request.method() == Method::GET;
        let call = (!listens).then(|| stop.call());
        let answer = tokio::select! {
            answer = self.upstream.oneshot(request) => answer,
            () = stop.ended() => return say(StatusCode::SERVICE_UNAVAILABLE, "the proxy stops"),
        };
        match answer {
            Ok(mut response) => {
                drop_hop_by_hop(response.headers_mut());
                match listens && is_stream(response.headers()) {
                    true => response.map(|body| stop.body(Ending::new(body), None).boxed_unsync()),
                    false => response.map(|body| stop.body(body, call).boxed_unsync()),
                }
            }
            Err(error) => {
                let (status, why) = failure(&error);
                warn!(status = status.as_u16(), "not forwarded: {why}");
                say(status, &why)
            }
        }
    }
}

impl Shared {
    /// Makes a client's request the upstream's, unless it is refused.
    fn admit(&self, parts: &mut Parts, body: &Incoming) -> Result<(), (StatusCode, &'static str)> {
        self.guard
            .check(parts)
            .map_err(|why| (StatusCode::FORBIDDEN, why))?;
        if parts.uri.path() != self.endpoint.path() {
            return Err((StatusCode::NOT_FOUND, "this path is not served here"));
        }
        // One that does not tell its length breaks when it is over the limit.
        if body.size_hint().lower() > self.max_body_bytes as u64 {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE));
        }
        let too_long = (StatusCode::URI_TOO_LONG, "the query is too long");
        parts.uri = self.endpoint.uri(parts.uri.query()).ok_or(too_long)?;
        // Which version it is sent with is between the proxy and the upstream.
        parts.version = Version::HTTP_11;
        to_upstream(&mut parts.headers);
        Ok(())
    }
}

async fn read_on(body: Incoming) {
    let mut body = Limited::new(body, MAX_READ_ON);
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = timeout(MAX_TIME_READ_ON, reading).await;
}

/// An answer of the proxy's own: one line of text.
fn say(status: StatusCode, line: &str) -> Reply {
    let body = Full::from(format!("{line}\n"));
    let mut reply = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *reply.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, text);
    reply
}
