//! The client stack: the layer around hyper-util's client.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::Either;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::{TokioExecutor, TokioTimer},
};
use mcp_session_recovery::{Principal, RequestBody, ResponseBody, SessionRecoveryLayer};
use tower::{ServiceBuilder, retry::RetryLayer, util::BoxCloneService};

use super::{
    body::ClientBody,
    endpoint::Endpoint,
    headers::from_upstream,
    options::Options,
    own_headers::OwnHeaders,
    reason::Unanswered,
    retry::WaitForUpstream,
    stop::{Stop, Stopping},
};

/// For a connection, TLS included. Answers may take as long as they like: some tools do.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Less than the five seconds after which Node and uvicorn close an idle connection, so that no
/// request is sent just then: whether such a request was executed nobody could tell.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// How often an HTTP/2 connection is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What every connection forwards through, so that there is one table of sessions: a client may
/// call on one connection and listen on another.
pub type Upstream =
    BoxCloneService<Request<ClientBody>, Response<ResponseBody<Stopping<Incoming>>>, Unanswered>;

/// From top to bottom: sessions; the end, when the proxy is told to stop; waiting for a server that
/// is away; the credentials, so that the layer's own requests have them, too; the client.
pub fn connect(
    options: &Options,
    endpoint: &Endpoint,
    own_headers: OwnHeaders,
    mut sessions: SessionRecoveryLayer,
    stop: Stop,
) -> io::Result<Upstream> {
    if let Some(header) = options.access.principal() {
        sessions =
            sessions.principal(move |request| request.headers.get(&header).map(Principal::from));
    }
    let connector = connector(endpoint)?;
    let calls = client(&connector, usize::MAX);
    // A server allows some hundred streams on an HTTP/2 connection. Listening streams stay open,
    // so they would use them up, and the next call would wait for ever: each of them gets a
    // connection of its own.
    let listening = client(&connector, 0);
    let send = move |request: Request<RequestBody<ClientBody>>| match *request.method() {
        Method::GET => Either::Left(listening.request(request.map(|_| Empty::<Bytes>::new()))),
        _ => Either::Right(calls.request(request)),
    };
    let own_headers = Arc::new(own_headers);
    Ok(ServiceBuilder::new()
        .boxed_clone()
        .layer(sessions)
        .layer(stop)
        .layer(RetryLayer::new(WaitForUpstream::new(
            options.upstream_options.wait,
        )))
        .map_request(move |mut request: Request<_>| {
            own_headers.set(request.headers_mut());
            request
        })
        .map_response(|mut response: Response<_>| {
            from_upstream(response.headers_mut());
            response
        })
        .service_fn(send))
}

fn client<C, B>(connector: &C, max_idle: usize) -> Client<C, B>
where
    C: Connect + Clone,
    B: Body<Data: Send> + Send,
{
    Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(max_idle)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .build(connector.clone())
}

fn connector(endpoint: &Endpoint) -> io::Result<impl Connect + Clone + Send + Sync + use<>> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_keepalive(Some(PING_INTERVAL));
    let builder = HttpsConnectorBuilder::new();
    let provider = rustls::crypto::ring::default_provider();
    let builder = match endpoint.is_https() {
        true => builder.with_provider_and_native_roots(provider)?,
        // Then the system's roots need not be there.
        false => {
            let config = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()
                .map_err(io::Error::other)?
                .with_root_certificates(rustls::RootCertStore::empty());
            builder.with_tls_config(config.with_no_client_auth())
        }
    };
    let connector = builder
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);
    Ok(ServiceBuilder::new()
        .map_future(Box::pin)
        .timeout(CONNECT_TIMEOUT)
        .service(connector))
}
