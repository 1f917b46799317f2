//! The worst that one session, and one table, can be made to hold by a caller and by a server that
//! mean it: `cargo bench -p benches --bench hostile`.
//!
//! Bytes as an allocator counts them, of sessions at rest: nothing is under way. What the layer
//! itself counts (rule K10) is seen in the last column, where a table with room for 8 MiB is given
//! as many such sessions as would hold three times that.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header::SET_COOKIE};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{SessionRecoveryLayer, Sessions};
use serde_json::{Value, json};
use testing::benching::*;
use tower::{Layer, service_fn};

#[path = "support/counting.rs"]
mod counting;
use counting::{Counting, held};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const URI: &str = "http://bench.test/mcp";
const KIB: usize = 1024;
const ROOM: usize = 8 * KIB * KIB;

fn main() {
    runtime().block_on(async {
        head(
            "What a session can be made to hold",
            &[
                "by",
                "how",
                "bytes a session",
                "in a table with room for 8 MiB",
            ],
        );
        for hoard in HOARDS {
            measure(&hoard).await;
        }
    });
}

/// What a server answers to a request of a session, by its method.
type Script = fn(method: &str, nth: usize) -> Option<Response<ServerBody>>;
/// What a caller does in its session.
type Requests = fn(session: &HeaderValue) -> Vec<Request<Full<Bytes>>>;

struct Hoard {
    by: &'static str,
    how: &'static str,
    opening: fn() -> Request<Full<Bytes>>,
    /// Sent in the session, in order; the first frame of each answer is read.
    requests: Requests,
    /// How often the session is lost and asked for again, by the last of the requests.
    losses: usize,
    script: Script,
}

const ORDINARY: Hoard = Hoard {
    by: "nobody",
    how: "an ordinary session",
    opening: ordinary,
    requests: |_| Vec::new(),
    losses: 0,
    script: |_, _| None,
};

const HOARDS: [Hoard; 14] = [
    ORDINARY,
    Hoard {
        how: "an ordinary session that was recovered",
        requests: |session| vec![call(session)],
        losses: 1,
        ..ORDINARY
    },
    Hoard {
        by: "caller",
        how: "an `initialize` of 64 KiB, with headers of 60 KiB",
        opening: || {
            let pad = "x".repeat(63 * KIB);
            let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "pad": pad}});
            with_header(request(Method::POST, URI, None, body.to_string()), 60 * KIB)
        },
        ..ORDINARY
    },
    Hoard {
        by: "caller",
        how: "100 subscriptions of 7 KiB each",
        requests: |session| (0..100).map(|n| subscribe(session, n, 7 * KIB)).collect(),
        ..ORDINARY
    },
    Hoard {
        by: "caller",
        how: "3,000 short subscriptions",
        requests: |session| (0..3_000).map(|n| subscribe(session, n, 8)).collect(),
        ..ORDINARY
    },
    Hoard {
        by: "caller",
        how: "headers of 60 KiB in the request that triggers a recovery",
        requests: |session| vec![with_header(call(session), 60 * KIB)],
        losses: 2,
        ..ORDINARY
    },
    Hoard {
        by: "caller and server",
        how: "8 batches of 1,024 requests with ids of 40 bytes, accepted with 202",
        requests: |session| (0..8).map(|n| batch(session, n, 1024)).collect(),
        script: |method, _| (method == "batch").then(|| empty(202)),
        ..ORDINARY
    },
    Hoard {
        by: "caller and server",
        how: "8 batches of 1,024 requests, with an event id after each of 512 answers",
        requests: |session| (0..8).map(|n| batch(session, n, 1024)).collect(),
        script: |method, nth| {
            let answer = |at: usize| {
                format!(
                    "id: {nth}-{at}\ndata: {{\"jsonrpc\":\"2.0\",\"id\":\"{}\",\"result\":{{}}}}\n\n",
                    id(nth, at)
                )
            };
            (method == "batch").then(|| open_stream((0..512).map(answer).collect()))
        },
        ..ORDINARY
    },
    Hoard {
        by: "server",
        how: "3,000 event ids of 40 bytes in one stream",
        requests: |session| vec![call(session)],
        script: |method, _| {
            let event = |n: usize| format!("id: {n:040}\ndata: \n\n");
            (method == "tools/call").then(|| open_stream((0..3_000).map(event).collect()))
        },
        ..ORDINARY
    },
    Hoard {
        by: "server",
        how: "an event id of 64 KiB in each of 200 streams",
        requests: |session| (0..200).map(|_| call(session)).collect(),
        script: |method, nth| {
            (method == "tools/call")
                .then(|| open_stream(format!("id: {nth}{}\ndata: \n\n", "x".repeat(60 * KIB))))
        },
        ..ORDINARY
    },
    Hoard {
        by: "server",
        how: "another protocol version in each of 300 recoveries",
        requests: |session| vec![call(session)],
        losses: 300,
        script: |method, nth| {
            (method == "initialize").then(|| {
                let result = json!({"protocolVersion": format!("{nth:060}"), "capabilities": {}, "serverInfo": {}});
                json_answer(&json!({"jsonrpc": "2.0", "id": 0, "result": result}))
            })
        },
        ..ORDINARY
    },
    Hoard {
        by: "server",
        how: "60 KiB of body and of headers in the answer to `initialized`",
        requests: |session| vec![call(session)],
        losses: 1,
        script: |method, _| {
            (method == "notifications/initialized").then(|| {
                let mut reply = reply(
                    202,
                    "text/plain",
                    Full::from("x".repeat(60 * KIB)).boxed_unsync(),
                );
                let value = HeaderValue::try_from("x".repeat(60 * KIB)).unwrap();
                reply.headers_mut().insert("x-pad", value);
                reply
            })
        },
        ..ORDINARY
    },
    Hoard {
        by: "server",
        how: "64 cookies of 4 KiB in each of 8 recoveries",
        requests: |session| vec![call(session)],
        losses: 8,
        script: |method, nth| {
            (method == "notifications/initialized").then(|| {
                let mut reply = empty(202);
                for n in 0..64 {
                    let cookie = format!("c{n}={nth}{}", "x".repeat(4000));
                    reply
                        .headers_mut()
                        .append(SET_COOKIE, cookie.try_into().unwrap());
                }
                reply
            })
        },
        ..ORDINARY
    },
    Hoard {
        by: "server",
        how: "a 401 with 60 KiB of body and of headers to a recovery's `initialize`",
        requests: |session| vec![call(session)],
        losses: 1,
        script: |method, nth| {
            // The caller's own one is answered as ever.
            (method == "initialize" && nth % 2 == 0).then(|| {
                let mut reply = reply(
                    401,
                    "text/plain",
                    Full::from("x".repeat(60 * KIB)).boxed_unsync(),
                );
                let value = HeaderValue::try_from("x".repeat(60 * KIB)).unwrap();
                reply.headers_mut().insert("www-authenticate", value);
                reply
            })
        },
        ..ORDINARY
    },
];

fn ordinary() -> Request<Full<Bytes>> {
    request(Method::POST, URI, None, INITIALIZE)
}

fn call(session: &HeaderValue) -> Request<Full<Bytes>> {
    request(Method::POST, URI, Some(session), CALL)
}

fn with_header(mut request: Request<Full<Bytes>>, bytes: usize) -> Request<Full<Bytes>> {
    let value = HeaderValue::try_from("x".repeat(bytes)).unwrap();
    request.headers_mut().insert("x-pad", value);
    request
}

fn subscribe(session: &HeaderValue, nth: usize, bytes: usize) -> Request<Full<Bytes>> {
    let uri = format!("{nth}{}", "x".repeat(bytes));
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}});
    request(Method::POST, URI, Some(session), body.to_string())
}

fn id(nth: usize, at: usize) -> String {
    format!("{nth:020}-{at:019}")
}

fn batch(session: &HeaderValue, nth: usize, many: usize) -> Request<Full<Bytes>> {
    let one = |at| json!({"jsonrpc": "2.0", "id": id(nth, at), "method": "tools/list"});
    let body = Value::from_iter((0..many).map(one));
    request(Method::POST, URI, Some(session), body.to_string())
}

fn empty(status: u16) -> Response<ServerBody> {
    reply(status, "text/plain", Full::default().boxed_unsync())
}

fn json_answer(message: &Value) -> Response<ServerBody> {
    reply(
        200,
        "application/json",
        Full::from(message.to_string()).boxed_unsync(),
    )
}

/// One chunk of events; the caller goes away after it.
fn open_stream(events: String) -> Response<ServerBody> {
    event_stream(Full::<Bytes>::from(events))
}

/// Counts sessions, and knows the latest of them alone once it has lost the others.
#[derive(Default)]
struct Server {
    minted: AtomicUsize,
    lost: AtomicUsize,
    /// How often each kind of request has come.
    seen: Mutex<[usize; 4]>,
}

impl Server {
    fn answer(
        &self,
        session: Option<usize>,
        message: &Value,
        script: Script,
    ) -> Response<ServerBody> {
        let method = match message {
            Value::Array(_) => "batch",
            message => message["method"].as_str().unwrap_or_default(),
        };
        if session.is_some_and(|session| session <= self.lost.load(Relaxed)) {
            return empty(404);
        }
        let kind = match method {
            "initialize" => 0,
            "notifications/initialized" => 1,
            "batch" => 2,
            _ => 3,
        };
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            seen[kind] += 1;
            seen[kind]
        };
        let scripted = script(method, nth);
        match method {
            "initialize" => {
                let minted = self.minted.fetch_add(1, Relaxed) + 1;
                let mut answer = scripted.unwrap_or_else(|| {
                    reply(
                        200,
                        "application/json",
                        Full::from(INITIALIZE_RESULT).boxed_unsync(),
                    )
                });
                answer.headers_mut().insert(SESSION_ID, minted.into());
                answer
            }
            "notifications/initialized" => scripted.unwrap_or_else(|| empty(202)),
            _ => scripted.unwrap_or_else(|| {
                json_answer(&json!({"jsonrpc": "2.0", "id": message["id"], "result": {}}))
            }),
        }
    }
}

/// What so many sessions hold, and how many of them are remembered.
async fn hold(hoard: &Hoard, many: usize, room: usize) -> (isize, usize) {
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new()
        .sessions(sessions.clone())
        .recovery_pause(std::time::Duration::ZERO, std::time::Duration::ZERO)
        .max_sessions_bytes(room);
    let server = Arc::new(Server::default());
    let script = hoard.script;
    let behind = server.clone();
    let mut caller = layer.layer(service_fn(move |request: Request<_>| {
        let server = behind.clone();
        async move {
            let (head, body): (
                http::request::Parts,
                mcp_session_recovery::RequestBody<Full<Bytes>>,
            ) = Request::into_parts(request);
            let body = body.collect().await.unwrap().to_bytes();
            let session = head.headers.get(SESSION_ID);
            let session = session.map(|id| id.to_str().unwrap().parse().unwrap());
            let message = serde_json::from_slice(&body).unwrap_or_default();
            Ok::<_, Infallible>(server.answer(session, &message, script))
        }
    }));
    let before = held();
    for _ in 0..many {
        let answer = caller.send((hoard.opening)()).await.unwrap();
        let session = answer.headers()[SESSION_ID].clone();
        drain(answer.into_body()).await;
        let requests = (hoard.requests)(&session);
        let last = requests.last().cloned();
        if hoard.losses == 0 {
            for request in requests {
                first_frame(&mut caller, request).await;
            }
        }
        for _ in 0..hoard.losses {
            server.lost.store(server.minted.load(Relaxed), Relaxed);
            first_frame(&mut caller, last.clone().unwrap()).await;
        }
    }
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
    (held() - before, sessions.len())
}

async fn first_frame<C: Caller>(caller: &mut C, request: Request<Full<Bytes>>) {
    let answer = caller.send(request).await.unwrap();
    let mut body = Box::pin(answer.into_body());
    let _ = body.frame().await;
}

async fn measure(hoard: &Hoard) {
    let few = if measuring() { 4 } else { 1 };
    let (alone, remembered) = hold(hoard, few, usize::MAX).await;
    assert_eq!(remembered, few);
    let each = alone as usize / few;
    let table = match measuring() {
        false => "-".to_owned(),
        true => {
            let many = (3 * ROOM / each.max(1)).clamp(1, 4_000);
            let (held, remembered) = hold(hoard, many, ROOM).await;
            format!(
                "{:.1} MiB in {remembered}",
                held as f64 / (KIB * KIB) as f64
            )
        }
    };
    row([
        hoard.by.to_owned(),
        hoard.how.to_owned(),
        each.to_string(),
        table,
    ]);
}
