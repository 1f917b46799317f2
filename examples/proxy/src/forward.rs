//! One request, from the client to the upstream and back.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header::HOST, request::Parts};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mcp_session_recovery::ResponseBody;
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    admission::{Admission, Asks, Refusal},
    body::ClientBody,
    busy::Holding,
    endpoint::Endpoint,
    guard::Guard,
    listening::{Ending, is_stream},
    lost, oauth,
    options::Options,
    quiet::Quiet,
    reason::refused_body,
    redirect,
    reply::{Reply, boxed, read_on, say},
    stop::{Stop, Stopping},
    upstream::Upstream,
};

/// Forwards requests. Clones share everything.
#[derive(Clone)]
pub struct Forward {
    shared: Arc<Shared>,
    upstream: Upstream,
}

struct Shared {
    admission: Admission,
    endpoint: Endpoint,
    public_origin: Option<String>,
    max_body_bytes: usize,
    body_timeout: Duration,
    quiet: Quiet,
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
        let public_origin = &options.upstream_options.public_origin;
        let shared = Arc::new(Shared {
            admission: Admission::new(options, guard, endpoint.clone()),
            endpoint,
            public_origin: public_origin.as_ref().map(ToString::to_string),
            max_body_bytes: options.limits.max_body_bytes,
            body_timeout: options.limits.body_timeout,
            quiet: Quiet::default(),
            stop,
        });
        Self { shared, upstream }
    }

    pub async fn forward(self, request: Request<Incoming>) -> Result<Reply, Infallible> {
        let (mut parts, body) = request.into_parts();
        let method = parts.method.clone();
        let own_url = self.shared.own_url(&parts);
        let reply = match self.shared.admission.admit(&mut parts, &body) {
            Ok(Asks::Health) => say(StatusCode::OK, "ok"),
            Ok(asks) => {
                let (limit, patience) = (self.shared.max_body_bytes, self.shared.body_timeout);
                match ClientBody::read(body, limit, patience).await {
                    Ok(body) => {
                        let request = Request::from_parts(parts, body);
                        self.send(request, asks, &own_url).await
                    }
                    Err(broken) => self
                        .shared
                        .refuse((refused_body(broken), broken.to_string())),
                }
            }
            Err(refusal) => {
                read_on(body).await;
                self.shared.refuse(refusal)
            }
        };
        debug!(%method, status = reply.status().as_u16(), "answered");
        Ok(reply)
    }

    async fn send(self, request: Request<ClientBody>, asks: Asks, own_url: &str) -> Reply {
        let Self { shared, upstream } = self;
        let method = request.method().clone();
        // A listening stream brings no answer that anyone waits for.
        let call = (method != Method::GET).then(|| shared.stop.call());
        let body = request.body().whole();
        let response = match upstream.oneshot(request).await {
            Ok(response) => response,
            Err(error) => {
                let (status, why) = error.failure();
                shared.quiet.say(&why, |why| {
                    warn!(status = status.as_u16(), "not answered: {why}");
                });
                let lost = body.filter(|_| error.was_sent());
                let lost = lost.and_then(|body| lost::answer(&method, &body));
                return lost.map_or_else(|| say(status, &why), |lost| lost.map(boxed));
            }
        };
        match shared.answer(response, asks, own_url).await {
            Ok(reply) => reply.map(|body| Holding::new(body, call).boxed_unsync()),
            Err(why) => shared.refuse((StatusCode::BAD_GATEWAY, why)),
        }
    }
}

impl Shared {
    /// Makes the upstream's answer the proxy's.
    async fn answer(
        &self,
        mut response: Response<ResponseBody<Stopping<Incoming>>>,
        asks: Asks,
        own_url: &str,
    ) -> Result<Reply, String> {
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("the upstream speaks another protocol, which nobody asked for".to_owned());
        }
        redirect::rewrite(status, response.headers_mut(), &self.endpoint)?;
        let challenges = oauth::rewrite_challenges(response.headers_mut(), &self.endpoint, own_url);
        if challenges && status == StatusCode::UNAUTHORIZED {
            self.quiet.say(oauth::HINT, |hint| warn!("{hint}"));
        }
        match asks {
            Asks::Metadata => {
                let resource = format!("{own_url}{}", self.endpoint.path());
                let metadata = oauth::rewrite_metadata(response, &resource).await?;
                Ok(metadata.map(boxed))
            }
            Asks::Listening if is_stream(response.headers()) => {
                Ok(response.map(|body| Ending::new(body).boxed_unsync()))
            }
            _ => Ok(response.map(|body| body.boxed_unsync())),
        }
    }

    /// What its client calls the proxy, without a path.
    fn own_url(&self, parts: &Parts) -> String {
        if let Some(origin) = &self.public_origin {
            return origin.clone();
        }
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or(parts.uri.authority().map(|host| host.as_str()));
        format!("http://{}", host.unwrap_or("localhost"))
    }

    fn refuse(&self, (status, why): Refusal) -> Reply {
        self.quiet.say(&why, |why| {
            warn!(status = status.as_u16(), "refused: {why}");
        });
        say(status, &why)
    }
}
