//! What a request pays for the layer: `cargo bench --bench overhead`.
//!
//! Every case is measured bare, too, in the same run: the difference is the layer's. The services
//! answer at once, so that nothing else is measured; the request is made outside the timed part.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    iter::repeat_n,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use divan::Bencher;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Body;
use http_body_util::Full;
use mcp_session_recovery::{SessionRecovery, SessionRecoveryLayer};
use tower::{Layer, Service};

fn main() {
    divan::main();
}

/// A server that answers at once, from within `call`.
///
/// A request without a session id gets a new session. `kill` makes it forget them all: the next
/// request with an id is answered 404.
#[derive(Clone, Default)]
struct Server {
    sessions: Arc<AtomicUsize>,
    dead: Arc<AtomicBool>,
}

impl Server {
    fn kill(&self) {
        self.dead.store(true, Relaxed);
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let known = request.headers().contains_key(SESSION_ID);
        let body = match known {
            true => &b"{}"[..],
            false => INITIALIZE_RESULT,
        };
        let mut response = Response::new(Full::new(Bytes::from_static(body)));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if known && self.dead.load(Relaxed) {
            self.dead.store(false, Relaxed);
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        if !known {
            let id = self.sessions.fetch_add(1, Relaxed);
            let id = HeaderValue::try_from(format!("session-{id}")).unwrap();
            response.headers_mut().insert(SESSION_ID, id);
        }
        response
    }
}

impl<B> Service<Request<B>> for Server {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(&request)))
    }
}

const SESSION_ID: &str = "mcp-session-id";
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
const INITIALIZE_RESULT: &[u8] = br#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}"#;

/// A tool call of this size in bytes.
fn tool_call(size: usize) -> Bytes {
    let head = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":""#;
    let mut text = head.to_owned();
    text.extend(repeat_n('x', size - head.len() - 4));
    text.push_str("\"}}}");
    text.into()
}

/// A request with eight headers, as an MCP client sends it.
fn request<B>(method: Method, session: Option<&str>, body: B) -> Request<B> {
    let request = Request::builder()
        .method(method)
        .uri("http://127.0.0.1:8080/mcp")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("authorization", "Bearer 0123456789abcdef")
        .header("user-agent", "bench/1")
        .header("accept-encoding", "gzip")
        .header("mcp-protocol-version", "2025-11-25");
    match session {
        Some(session) => request.header(SESSION_ID, session).header("x-trace", "1"),
        None => request.header("x-trace", "1").header("x-tenant", "2"),
    }
    .body(body)
    .unwrap()
}

fn post(session: Option<&str>, size: usize) -> Request<Full<Bytes>> {
    request(Method::POST, session, Full::new(tool_call(size)))
}

/// Sends a request to a service that answers at once.
fn send<S, B, R>(service: &mut S, request: Request<B>) -> R
where
    S: Service<Request<B>, Response = R, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    match pin!(service.call(request)).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        _ => unreachable!("the server answers at once"),
    }
}

/// A client of a server with this many recorded sessions, the last of which has the given epoch;
/// and the id of that session.
fn client(sessions: usize, epoch: usize) -> (SessionRecovery<Server>, String) {
    let server = Server::default();
    let layer = SessionRecoveryLayer::new().max_sessions(usize::MAX);
    let mut client = layer.layer(server.clone());
    let mut id = String::new();
    for _ in 0..sessions {
        let initialize = Full::new(Bytes::from_static(INITIALIZE.as_bytes()));
        let response = send(&mut client, request(Method::POST, None, initialize));
        id = response.headers()[SESSION_ID].to_str().unwrap().to_owned();
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(_)) = body
            .as_mut()
            .poll_frame(&mut Context::from_waker(Waker::noop()))
        {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        for _ in 0..epoch {
            server.kill();
            let replayed = client.call(post(Some(&id), 1024)).await.unwrap();
            assert_eq!(replayed.status(), StatusCode::OK);
        }
    });
    (client, id)
}

/// A request that is none of the layer's business.
#[divan::bench_group]
mod not_mcp {
    use super::*;

    fn request() -> Request<Full<Bytes>> {
        let mut request = super::request(Method::GET, None, Full::default());
        request.headers_mut().remove("content-type");
        request
    }

    #[divan::bench]
    fn bare(bencher: Bencher) {
        let mut server = Server::default();
        bencher
            .with_inputs(request)
            .bench_local_values(|request| send(&mut server, request));
    }

    #[divan::bench]
    fn layer(bencher: Bencher) {
        let (mut client, _) = client(1, 0);
        bencher
            .with_inputs(request)
            .bench_local_values(|request| send(&mut client, request));
    }
}

/// A request with a session id that the layer does not know.
#[divan::bench_group]
mod unknown_session {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher) {
        let mut server = Server::default();
        bencher
            .with_inputs(|| post(Some("unknown"), 1024))
            .bench_local_values(|request| send(&mut server, request));
    }

    #[divan::bench]
    fn layer(bencher: Bencher) {
        let (mut client, _) = client(1, 0);
        bencher
            .with_inputs(|| post(Some("unknown"), 1024))
            .bench_local_values(|request| send(&mut client, request));
    }
}

/// A tool call in a live session, by the size of its body.
#[divan::bench_group]
mod live_session {
    use super::*;

    const SIZES: [usize; 3] = [1024, 64 * 1024, 1024 * 1024];

    #[divan::bench(args = SIZES)]
    fn bare(bencher: Bencher, size: usize) {
        let mut server = Server::default();
        let template = post(Some("session-0"), size);
        bencher
            .with_inputs(|| template.clone())
            .bench_local_values(|request| send(&mut server, request));
    }

    #[divan::bench(args = SIZES)]
    fn layer(bencher: Bencher, size: usize) {
        let (mut client, id) = client(1, 0);
        let template = post(Some(&id), size);
        bencher
            .with_inputs(|| template.clone())
            .bench_local_values(|request| send(&mut client, request));
    }

    #[divan::bench(args = SIZES)]
    fn layer_epoch_3(bencher: Bencher, size: usize) {
        let (mut client, id) = client(1, 3);
        let template = post(Some(&id), size);
        bencher
            .with_inputs(|| template.clone())
            .bench_local_values(|request| send(&mut client, request));
    }
}
