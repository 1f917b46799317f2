//! What a request pays for the layer, in instructions: `cargo bench -p benches --bench instructions`.
//!
//! Counted by callgrind, so that a change shows that a noisy clock would hide. Needs valgrind and
//! the runner of gungraun's own version: `cargo install gungraun-runner --version 0.18.2`.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::pin,
    process::Command,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{RequestBody, SessionRecovery, SessionRecoveryLayer};
use tower::{Layer, Service, util::ServiceFn};

use testing::benching::{INITIALIZE, INITIALIZE_RESULT, SESSION_ID, request};

fn main() {
    let installed = |program, argument| Command::new(program).arg(argument).output().is_ok();
    if !installed("valgrind", "--version") || !installed("gungraun-runner", "--version") {
        eprintln!("Nothing is counted: valgrind or gungraun-runner is not installed.");
        return;
    }
    counted::run();
}

type Body = Full<Bytes>;
type Answered = Ready<Result<Response<Body>, Infallible>>;
type Server<B> = ServiceFn<fn(Request<B>) -> Answered>;
type Client = SessionRecovery<Server<RequestBody<Body>>>;

static DEAD: AtomicBool = AtomicBool::new(false);
const URI: &str = "http://127.0.0.1:8080/mcp";

/// A server that answers at once, and 404 to what comes next in a session once it is `DEAD`.
fn answer<B>(request: Request<B>) -> Answered {
    let session = request.headers().get(SESSION_ID);
    let body = session.map_or(INITIALIZE_RESULT, |_| "{}");
    let mut response = Response::new(Full::from(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
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

/// A client of so many recorded sessions, the last of them in this epoch.
fn layered(sessions: usize, epoch: usize) -> Client {
    let server: Server<RequestBody<Body>> = tower::service_fn(answer);
    let mut client = SessionRecoveryLayer::new().layer(server);
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

    library_benchmark_group!(name = hot_path, benchmarks = [without, layer]);
    main!(library_benchmark_groups = hot_path);

    pub(super) fn run() {
        main();
    }
}
