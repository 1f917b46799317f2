//! What a request pays for the layer, in instructions: `cargo bench -p benches --bench instructions`.
//!
//! Yardsticks are what a user knows the price of: tower's `Retry`, which clones each request in order
//! to send it again, and of tower-http `FollowRedirect` and `SetRequestHeader`.
//!
//! With `--features store` also what a store costs a call of a session that the process knows.
//!
//! Counted by callgrind, so that a change shows that a noisy clock would hide. Needs valgrind and
//! the runner of gungraun's own version: `cargo install gungraun-runner --version 0.18.2`.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{RequestBody, SessionRecovery, SessionRecoveryLayer};
use tower::{
    Layer, Service,
    retry::{Policy, Retry},
    util::ServiceFn,
};
use tower_http::{follow_redirect::FollowRedirect, set_header::SetRequestHeader};

use testing::benching::{INITIALIZE, INITIALIZE_RESULT, SESSION_ID, can_count, request};

fn main() {
    if can_count() {
        counted::run();
    }
}

type Body = Full<Bytes>;
type Answered = Ready<Result<Response<Body>, Infallible>>;
type Server<B> = ServiceFn<fn(Request<B>) -> Answered>;
type Client = SessionRecovery<Server<RequestBody<Body>>>;

static DEAD: AtomicBool = AtomicBool::new(false);
/// What is answered from now on, and its type.
static ANSWER: OnceLock<(&str, Bytes)> = OnceLock::new();
const URI: &str = "http://127.0.0.1:8080/mcp";

/// A server that answers at once, and 404 to what comes next in a session once it is `DEAD`.
fn answer<B>(request: Request<B>) -> Answered {
    let session = request.headers().get(SESSION_ID);
    let body = session.map_or(INITIALIZE_RESULT, |_| "{}");
    let mut response = Response::new(Full::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    if let Some((content_type, body)) = ANSWER.get() {
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        *response.body_mut() = Full::new(body.clone());
    }
    match session {
        None => {
            let id = request.headers().get("x-id").cloned();
            let id = id.unwrap_or(HeaderValue::from_static("session-0"));
            response.headers_mut().insert(SESSION_ID, id);
        }
        Some(_) if DEAD.swap(false, Relaxed) => *response.status_mut() = StatusCode::NOT_FOUND,
        Some(_) => {}
    }
    ready(Ok(response))
}

fn bare() -> Server<Body> {
    tower::service_fn(answer)
}

/// Keeps a copy of each request and sends none again.
#[derive(Clone)]
struct Never;

impl<R> Policy<Request<Body>, R, Infallible> for Never {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<Body>, _: &mut Result<R, Infallible>) -> Option<Ready<()>> {
        None
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Some(request.clone())
    }
}

fn retrying() -> Retry<Never, Server<Body>> {
    Retry::new(Never, bare())
}

fn redirecting() -> FollowRedirect<Server<Body>> {
    FollowRedirect::new(bare())
}

fn setting_a_header() -> SetRequestHeader<Server<Body>, HeaderValue> {
    let value = HeaderValue::from_static("value");
    SetRequestHeader::overriding(bare(), HeaderName::from_static("x-set"), value)
}

/// A client of so many recorded sessions, the last of them in this epoch.
fn layered(sessions: usize, epoch: usize) -> Client {
    layered_with(SessionRecoveryLayer::new(), sessions, epoch)
}

/// The same with a store that has them all.
#[cfg(feature = "store")]
fn stored(epoch: usize) -> Client {
    let store = mcp_session_recovery::store::MemoryStore::new();
    layered_with(SessionRecoveryLayer::new().store(store), 1, epoch)
}

fn layered_with(layer: SessionRecoveryLayer, sessions: usize, epoch: usize) -> Client {
    let server: Server<RequestBody<Body>> = tower::service_fn(answer);
    let mut client = layer.layer(server);
    let runtime = testing::benching::runtime();
    runtime.block_on(async {
        for number in (0..sessions).rev() {
            let mut request = request(Method::POST, URI, None, INITIALIZE);
            let id = HeaderValue::try_from(format!("session-{number}")).unwrap();
            request.headers_mut().insert("x-id", id);
            client
                .call(request)
                .await
                .unwrap()
                .into_body()
                .collect()
                .await
                .unwrap();
        }
        for _ in 0..epoch {
            DEAD.store(true, Relaxed);
            assert_eq!(
                client.call(call(1024)).await.unwrap().status(),
                StatusCode::OK
            );
        }
    });
    client
}

fn in_session(method: Method, body: Bytes) -> Request<Body> {
    let session = HeaderValue::from_static("session-0");
    request(method, URI, Some(&session), body)
}

fn call(size: usize) -> Request<Body> {
    let head = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"text":""#;
    let text = format!("{head}{}\"}}}}", "x".repeat(size - head.len() - 3));
    in_session(Method::POST, text.into())
}

/// A call that is answered with 1 KiB, as JSON or as an event.
fn call_answered(content_type: &'static str) -> Request<Body> {
    let head = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":""#;
    let json = format!("{head}{}\"}}]}}}}", "x".repeat(1024 - head.len() - 5));
    let body = match content_type {
        "application/json" => json.into(),
        _ => format!("event: message\ndata: {json}\n\n").into(),
    };
    ANSWER.get_or_init(|| (content_type, body));
    call(1024)
}

const JSON: &str = "application/json";
const STREAM: &str = "text/event-stream";

fn get() -> Request<Body> {
    in_session(Method::GET, Bytes::new())
}

fn unknown() -> Request<Body> {
    let mut request = call(1024);
    let id = HeaderValue::from_static("unknown");
    request.headers_mut().insert(SESSION_ID, id);
    request
}

fn not_mcp() -> Request<Body> {
    let mut request = request(Method::GET, URI, None, "");
    request.headers_mut().remove(CONTENT_TYPE);
    request
}

fn send<S, R>((mut service, request): (S, Request<Body>)) -> (S, R)
where
    S: Service<Request<Body>, Response = R, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let response = match pin!(service.call(black_box(request))).poll(&mut cx) {
        Poll::Ready(Ok(response)) => response,
        _ => unreachable!("the server answers at once"),
    };
    (service, response)
}

/// A service that has sent such a request, and read the answer, before: what is made once is none of
/// a request's costs.
fn warm<S, R>(service: S, request: impl Fn() -> Request<Body>) -> (S, Request<Body>)
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible>,
    R: http_body::Body<Data = Bytes, Error = Infallible>,
{
    let (service, _) = send_and_read((service, request()));
    (service, request())
}

/// Sends the request and reads the answer.
fn send_and_read<S, R>((service, request): (S, Request<Body>)) -> (S, usize)
where
    S: Service<Request<Body>, Response = Response<R>, Error = Infallible>,
    R: http_body::Body<Data = Bytes, Error = Infallible>,
{
    let (service, response) = send((service, request));
    let mut cx = Context::from_waker(Waker::noop());
    let mut body = pin!(response.into_body());
    let mut read = 0;
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
        read += frame.data_ref().map_or(0, Bytes::len);
    }
    (service, read)
}

mod counted {
    use gungraun::prelude::*;

    use super::*;

    #[library_benchmark]
    #[bench::not_mcp((bare(), not_mcp()))]
    #[bench::call((bare(), call(1024)))]
    #[bench::get((bare(), get()))]
    fn without(sent: (Server<Body>, Request<Body>)) -> impl Sized {
        send(sent)
    }

    #[library_benchmark]
    #[bench::not_mcp((retrying(), not_mcp()))]
    #[bench::call((retrying(), call(1024)))]
    #[bench::get((retrying(), get()))]
    fn tower_retry(sent: (Retry<Never, Server<Body>>, Request<Body>)) -> impl Sized {
        send(sent)
    }

    #[library_benchmark]
    #[bench::not_mcp((redirecting(), not_mcp()))]
    #[bench::call((redirecting(), call(1024)))]
    #[bench::get((redirecting(), get()))]
    fn follow_redirect(sent: (FollowRedirect<Server<Body>>, Request<Body>)) -> impl Sized {
        send(sent)
    }

    #[library_benchmark]
    #[bench::not_mcp((setting_a_header(), not_mcp()))]
    #[bench::call((setting_a_header(), call(1024)))]
    #[bench::get((setting_a_header(), get()))]
    fn set_request_header(
        sent: (SetRequestHeader<Server<Body>, HeaderValue>, Request<Body>),
    ) -> impl Sized {
        send(sent)
    }

    #[library_benchmark]
    #[bench::json(warm(bare(), || call_answered(JSON)))]
    #[bench::stream(warm(bare(), || call_answered(STREAM)))]
    fn answered_without(sent: (Server<Body>, Request<Body>)) -> impl Sized {
        send_and_read(sent)
    }

    #[library_benchmark]
    #[bench::json(warm(layered(1, 0), || call_answered(JSON)))]
    #[bench::stream(warm(layered(1, 0), || call_answered(STREAM)))]
    fn answered(sent: (Client, Request<Body>)) -> impl Sized {
        send_and_read(sent)
    }

    #[library_benchmark]
    #[bench::not_mcp((layered(1, 0), not_mcp()))]
    #[bench::unknown_session((layered(1, 0), unknown()))]
    #[bench::call((layered(1, 0), call(1024)))]
    #[bench::call_of_1_mib((layered(1, 0), call(1024 * 1024)))]
    #[bench::call_in_epoch_3((layered(1, 3), call(1024)))]
    #[bench::call_among_1000_sessions((layered(1000, 0), call(1024)))]
    #[bench::get((layered(1, 0), get()))]
    fn layer(sent: (Client, Request<Body>)) -> impl Sized {
        send(sent)
    }

    // A known session's calls with a store (rule N1).
    #[cfg(feature = "store")]
    #[library_benchmark]
    #[bench::not_mcp((stored(0), not_mcp()))]
    #[bench::call((stored(0), call(1024)))]
    #[bench::call_in_epoch_3((stored(3), call(1024)))]
    #[bench::get((stored(0), get()))]
    fn layer_with_store(sent: (Client, Request<Body>)) -> impl Sized {
        send(sent)
    }

    #[cfg(feature = "store")]
    #[library_benchmark]
    #[bench::json(warm(stored(0), || call_answered(JSON)))]
    fn answered_with_store(sent: (Client, Request<Body>)) -> impl Sized {
        send_and_read(sent)
    }

    #[cfg(feature = "store")]
    library_benchmark_group!(
        name = store,
        benchmarks = [layer_with_store, answered_with_store]
    );

    library_benchmark_group!(
        name = hot_path,
        benchmarks = [
            without,
            layer,
            tower_retry,
            follow_redirect,
            set_request_header,
            answered_without,
            answered
        ]
    );
    #[cfg(not(feature = "store"))]
    main!(library_benchmark_groups = hot_path);
    #[cfg(feature = "store")]
    main!(library_benchmark_groups = [hot_path, store]);

    pub(super) fn run() {
        main();
    }
}
