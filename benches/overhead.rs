//! What a request pays for the layer: `cargo bench -p benches --bench overhead`.
//!
//! Every case is measured bare, too, in the same run: the difference is the layer's. The services
//! are built, and the requests made, outside the timed part; the servers answer at once, so that
//! nothing else is measured. Yardsticks are what a user knows the price of: tower's `Retry`, which
//! clones each request in order to send it again, and tower-http's `FollowRedirect`.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, Ready, ready},
    iter::repeat_n,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use divan::Bencher;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use mcp_session_recovery::{SessionRecovery, SessionRecoveryLayer};
use tower::{Layer, Service, retry};
use tower_http::follow_redirect::FollowRedirect;

fn main() {
    divan::main();
}

/// A server that answers at once, from within `call`.
///
/// An `initialize` gets a new session, a GET an event stream. `kill` makes it forget the sessions:
/// the next request with an id is answered 404.
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
        let initializes =
            request.method() == Method::POST && !request.headers().contains_key(SESSION_ID);
        let (body, content_type) = match *request.method() {
            Method::GET => (&b""[..], "text/event-stream"),
            _ if initializes => (INITIALIZE_RESULT, "application/json"),
            _ => (&b"{}"[..], "application/json"),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(body)));
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        if initializes {
            let id = self.sessions.fetch_add(1, Relaxed);
            let id = HeaderValue::try_from(format!("session-{id}")).unwrap();
            response.headers_mut().insert(SESSION_ID, id);
        } else if self.dead.load(Relaxed) {
            self.dead.store(false, Relaxed);
            *response.status_mut() = StatusCode::NOT_FOUND;
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

fn get(session: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = request(Method::GET, session, Full::default());
    request.headers_mut().remove(CONTENT_TYPE);
    let trace = HeaderValue::from_static("2");
    request.headers_mut().insert("x-other-trace", trace);
    request
}

fn initialize() -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from_static(INITIALIZE.as_bytes()));
    request(Method::POST, None, body)
}

/// A body in so many frames.
#[derive(Clone)]
struct Frames(VecDeque<Bytes>);

impl Frames {
    fn of(body: Bytes, frames: usize) -> Self {
        let size = body.len() / frames;
        Self(
            (0..frames)
                .map(|n| body.slice(n * size..(n + 1) * size))
                .collect(),
        )
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|frame| Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|frame| frame.len() as u64).sum())
    }
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

/// Measures one request after the other.
fn measure<S, B, R>(bencher: Bencher<'_, '_>, mut service: S, request: Request<B>)
where
    S: Service<Request<B>, Response = R, Error = Infallible>,
    B: Clone,
{
    bencher
        .with_inputs(|| request.clone())
        .bench_local_values(|request| send(&mut service, request));
}

/// tower's `Retry` with a policy that keeps a copy of each request and sends none again.
fn retry() -> impl Service<Request<Full<Bytes>>, Response = impl Sized, Error = Infallible> {
    #[derive(Clone)]
    struct Never;

    impl<R> retry::Policy<Request<Full<Bytes>>, R, Infallible> for Never {
        type Future = Ready<()>;

        fn retry(
            &mut self,
            _: &mut Request<Full<Bytes>>,
            _: &mut Result<R, Infallible>,
        ) -> Option<Ready<()>> {
            None
        }

        fn clone_request(
            &mut self,
            request: &Request<Full<Bytes>>,
        ) -> Option<Request<Full<Bytes>>> {
            Some(request.clone())
        }
    }

    retry::Retry::new(Never, Server::default())
}

/// A client of a server with this many recorded sessions, the last of which has the given epoch;
/// and the id of that session.
fn client(sessions: usize, epoch: usize) -> (SessionRecovery<Server>, String) {
    let server = Server::default();
    let layer = SessionRecoveryLayer::new()
        .max_sessions(usize::MAX)
        .max_sessions_bytes(usize::MAX);
    let mut client = layer.layer(server.clone());
    let mut id = String::new();
    for _ in 0..sessions {
        let response = send(&mut client, initialize());
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
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod not_mcp {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        measure(bencher, Server::default(), get(None));
    }

    #[divan::bench]
    fn layer(bencher: Bencher<'_, '_>) {
        measure(bencher, client(1, 0).0, get(None));
    }

    #[divan::bench]
    fn tower_retry(bencher: Bencher<'_, '_>) {
        measure(bencher, retry(), get(None));
    }

    #[divan::bench]
    fn tower_http_follow_redirect(bencher: Bencher<'_, '_>) {
        measure(bencher, FollowRedirect::new(Server::default()), get(None));
    }
}

/// A request with a session id that the layer does not know.
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod unknown_session {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        measure(bencher, Server::default(), post(Some("unknown"), 1024));
    }

    #[divan::bench]
    fn layer(bencher: Bencher<'_, '_>) {
        measure(bencher, client(1, 0).0, post(Some("unknown"), 1024));
    }
}

/// A tool call in a live session, by the size of its body.
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod live_session {
    use super::*;

    const SIZES: [usize; 3] = [1024, 64 * 1024, 1024 * 1024];

    #[divan::bench(args = SIZES)]
    fn bare(bencher: Bencher<'_, '_>, size: usize) {
        measure(bencher, Server::default(), post(Some("session-0"), size));
    }

    #[divan::bench(args = SIZES)]
    fn layer(bencher: Bencher<'_, '_>, size: usize) {
        let (client, id) = client(1, 0);
        measure(bencher, client, post(Some(&id), size));
    }

    #[divan::bench(args = SIZES)]
    fn layer_epoch_3(bencher: Bencher<'_, '_>, size: usize) {
        let (client, id) = client(1, 3);
        measure(bencher, client, post(Some(&id), size));
    }

    #[divan::bench(args = SIZES)]
    fn tower_retry(bencher: Bencher<'_, '_>, size: usize) {
        measure(bencher, retry(), post(Some("session-0"), size));
    }

    #[divan::bench(args = SIZES)]
    fn tower_http_follow_redirect(bencher: Bencher<'_, '_>, size: usize) {
        let service = FollowRedirect::new(Server::default());
        measure(bencher, service, post(Some("session-0"), size));
    }
}

/// A tool call of 16 KiB whose body comes in 16 frames.
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod sixteen_frames {
    use super::*;

    fn request(session: &str) -> Request<Frames> {
        let body = Frames::of(tool_call(16 * 1024), 16);
        super::request(Method::POST, Some(session), body)
    }

    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        measure(bencher, Server::default(), request("session-0"));
    }

    #[divan::bench]
    fn layer(bencher: Bencher<'_, '_>) {
        let (client, id) = client(1, 0);
        measure(bencher, client, request(&id));
    }
}

/// A tool call of 1 KiB with so many sessions recorded.
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod among_sessions {
    use super::*;

    const SESSIONS: [usize; 3] = [1, 1_000, 100_000];

    /// One of them is in use.
    #[divan::bench(args = SESSIONS)]
    fn one_in_use(bencher: Bencher<'_, '_>, sessions: usize) {
        let (client, id) = client(sessions, 0);
        measure(bencher, client, post(Some(&id), 1024));
    }

    /// Each is used in turn, so that none is in the processor's caches if there are many.
    #[divan::bench(args = SESSIONS)]
    fn each_in_turn(bencher: Bencher<'_, '_>, sessions: usize) {
        let (mut client, _) = client(sessions, 0);
        let template = post(None, 1024);
        let mut number = 0;
        bencher
            .with_inputs(|| {
                number = (number + 7919) % sessions;
                let mut request = template.clone();
                let id = HeaderValue::try_from(format!("session-{number}")).unwrap();
                request.headers_mut().insert(SESSION_ID, id);
                request
            })
            .bench_local_values(|request| send(&mut client, request));
    }
}

/// A tool call of 1 KiB, by the number of threads that use clones of one service.
#[divan::bench_group(sample_size = 16, sample_count = 500, threads = [1, 2])]
mod threads {
    use super::*;

    fn measure<S, R>(bencher: Bencher<'_, '_>, service: S, session: &str)
    where
        S: Service<Request<Full<Bytes>>, Response = R, Error = Infallible> + Clone + Sync,
    {
        let template = post(Some(session), 1024);
        bencher
            .with_inputs(|| (service.clone(), Some(template.clone())))
            .bench_refs(|(service, request)| send(service, request.take().unwrap()));
    }

    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        measure(bencher, Server::default(), "session-0");
    }

    #[divan::bench]
    fn layer(bencher: Bencher<'_, '_>) {
        let (client, id) = client(1, 0);
        measure(bencher, client, &id);
    }
}

/// An `initialize`, which records a session.
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod initialize {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        measure(bencher, Server::default(), super::initialize());
    }

    #[divan::bench]
    fn layer(bencher: Bencher<'_, '_>) {
        measure(bencher, client(1, 0).0, super::initialize());
    }
}

/// A GET that is answered with an event stream.
#[divan::bench_group(sample_size = 16, sample_count = 500)]
mod get {
    use super::*;

    #[divan::bench]
    fn bare(bencher: Bencher<'_, '_>) {
        measure(bencher, Server::default(), super::get(Some("session-0")));
    }

    #[divan::bench]
    fn layer(bencher: Bencher<'_, '_>) {
        let (client, id) = client(1, 0);
        measure(bencher, client, super::get(Some(&id)));
    }
}
