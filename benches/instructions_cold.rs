//! What a recovery, a storm and a stream of a MiB pay for the layer, in instructions:
//! `cargo bench -p benches --bench instructions_cold`.
//!
//! As `instructions`, and apart from that: the more a binary has of the layer, the less of it is
//! inlined.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{RequestBody, SessionRecovery, SessionRecoveryLayer};
use testing::benching::*;
use tokio::runtime::Runtime;
use tower::{Layer, util::ServiceFn};

fn main() {
    if can_count() {
        counted::run();
    }
}

type Body = Full<Bytes>;
type Answered = Ready<Result<Response<ServerBody>, Infallible>>;
type Server<B> = ServiceFn<fn(Request<B>) -> Answered>;
type Bare = Server<Body>;
type Layered = SessionRecovery<Server<RequestBody<Body>>>;

const URI: &str = "http://127.0.0.1:8080/mcp";

/// The session that the server knows, and whether it has yet to be told that the handshake is over.
static SESSION: AtomicU64 = AtomicU64::new(0);
static IS_HALF_OPEN: AtomicBool = AtomicBool::new(false);
static ANSWERS_IN_STREAMS: AtomicBool = AtomicBool::new(false);
/// What is streamed, in place of any other answer.
static CHUNKS: OnceLock<Vec<Bytes>> = OnceLock::new();

/// A server that answers at once and knows one session.
fn answer<B>(request: Request<B>) -> Answered {
    let Some(id) = request.headers().get(SESSION_ID) else {
        let session = SESSION.fetch_add(1, Relaxed) + 1;
        IS_HALF_OPEN.store(true, Relaxed);
        let mut response = message(INITIALIZE_RESULT);
        response.headers_mut().insert(SESSION_ID, session.into());
        return ready(Ok(response));
    };
    ready(Ok(match CHUNKS.get() {
        _ if *id != HeaderValue::from(SESSION.load(Relaxed)) => {
            reply(404, "text/plain", whole("Session not found"))
        }
        _ if IS_HALF_OPEN.swap(false, Relaxed) => reply(202, "text/plain", whole("")),
        Some(chunks) => event_stream(Chunks::new(chunks.clone())),
        None => message(ANSWER),
    }))
}

fn message(json: &'static str) -> Response<ServerBody> {
    match ANSWERS_IN_STREAMS.load(Relaxed) {
        false => reply(200, "application/json", whole(json)),
        true => event_stream(Full::from(format!("event: message\ndata: {json}\n\n"))),
    }
}

fn whole(body: &'static str) -> ServerBody {
    Full::from(body).boxed_unsync()
}

/// A client in a session, and the runtime that it needs.
struct Client<C> {
    caller: C,
    session: HeaderValue,
    runtime: Runtime,
}

impl<C: Caller> Client<C> {
    fn new(mut caller: C) -> Self {
        let runtime = runtime();
        let session = runtime.block_on(handshake(&mut caller, URI));
        Self {
            caller,
            session,
            runtime,
        }
    }
}

fn bare() -> Client<Bare> {
    Client::new(tower::service_fn(answer))
}

fn layered() -> Client<Layered> {
    let server: Server<RequestBody<Body>> = tower::service_fn(answer);
    Client::new(SessionRecoveryLayer::new().layer(server))
}

/// The same after a recovery, so that what is made once is not counted; and the server has lost its
/// session again.
fn lost<C: Caller>(client: Client<C>, in_streams: bool, recover: Recover<C>) -> Client<C> {
    ANSWERS_IN_STREAMS.store(in_streams, Relaxed);
    SESSION.fetch_add(1, Relaxed);
    let client = recover(client);
    SESSION.fetch_add(1, Relaxed);
    client
}

type Recover<C> = fn(Client<C>) -> Client<C>;

/// The four round trips that a client makes which recovers its session itself.
fn four_round_trips(mut client: Client<Bare>) -> Client<Bare> {
    let Client {
        caller,
        session,
        runtime,
    } = &mut client;
    runtime.block_on(async {
        assert_eq!(call(caller, URI, session).await, 404);
        *session = handshake(caller, URI).await;
        assert_eq!(call(caller, URI, session).await, 200);
    });
    client
}

/// One call, which the layer recovers.
fn one_call(mut client: Client<Layered>) -> Client<Layered> {
    let sending = call(&mut client.caller, URI, &client.session);
    assert_eq!(client.runtime.block_on(sending), 200);
    client
}

const STORM: usize = 1000;

/// So many calls at once, a handshake, and all of them again.
fn storm_without(mut client: Client<Bare>) -> Client<Bare> {
    all(&mut client, 404);
    client.session = client.runtime.block_on(handshake(&mut client.caller, URI));
    all(&mut client, 200);
    client
}

/// So many calls at once, which the layer recovers.
fn storm(mut client: Client<Layered>) -> Client<Layered> {
    all(&mut client, 200);
    client
}

fn all<C: Caller>(client: &mut Client<C>, status: u16) {
    let calls = (0..STORM).map(|_| {
        let (mut caller, session) = (client.caller.clone(), &client.session);
        async move { call(&mut caller, URI, session).await }
    });
    let statuses = client.runtime.block_on(join_all(calls));
    assert!(statuses.iter().all(|it| *it == status));
}

/// What a stream of a MiB is made of.
#[derive(Clone, Copy)]
enum Events {
    Small,
    SmallWithIds,
    OneLarge,
}

const MIB: usize = 1024 * 1024;
const CHUNK: usize = 64 * 1024;

/// A client, and a request that such a stream answers.
fn streamed<C: Caller>(
    client: Client<C>,
    events: Events,
    method: Method,
) -> (Client<C>, Request<Body>) {
    let mut stream = String::with_capacity(MIB + CHUNK);
    match events {
        Events::OneLarge => {
            stream.push_str(r#"data: {"jsonrpc":"2.0","id":1,"result":{"text":""#);
            stream.extend(std::iter::repeat_n('x', MIB));
            stream.push_str("\"}}\n\n");
        }
        Events::Small | Events::SmallWithIds => {
            for n in 0.. {
                if stream.len() >= MIB {
                    break;
                }
                stream.push_str("event: message\n");
                if matches!(events, Events::SmallWithIds) {
                    stream.push_str(&format!("id: 7f3a_{n:08}\n"));
                }
                stream.push_str(&format!(
                    r#"data: {{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{n:08},"message":"step"}}}}"#
                ));
                stream.push_str("\n\n");
            }
            stream.push_str(&format!("event: message\ndata: {ANSWER}\n\n"));
        }
    }
    let stream = Bytes::from(stream);
    let starts = (0..stream.len()).step_by(CHUNK);
    let chunks = starts.map(|start| stream.slice(start..stream.len().min(start + CHUNK)));
    CHUNKS.get_or_init(|| chunks.collect());
    let body = if method == Method::POST { CALL } else { b"" };
    let request = request(method, URI, Some(&client.session), body);
    (client, request)
}

/// Sends the request and reads the stream to its end.
fn read<C: Caller>((mut client, request): (Client<C>, Request<Body>)) -> Client<C> {
    let reading = async {
        let response = client.caller.send(request).await.unwrap();
        drain(response.into_body()).await
    };
    assert!(client.runtime.block_on(reading) > MIB);
    client
}

mod counted {
    use gungraun::prelude::*;

    use super::*;

    #[library_benchmark]
    #[bench::json(lost(bare(), false, four_round_trips))]
    #[bench::stream(lost(bare(), true, four_round_trips))]
    fn recovered_call_without(client: Client<Bare>) -> impl Sized {
        four_round_trips(client)
    }

    #[library_benchmark]
    #[bench::json(lost(layered(), false, one_call))]
    #[bench::stream(lost(layered(), true, one_call))]
    fn recovered_call(client: Client<Layered>) -> impl Sized {
        one_call(client)
    }

    #[library_benchmark]
    #[bench::of_1000(lost(bare(), false, storm_without))]
    fn storm_without_layer(client: Client<Bare>) -> impl Sized {
        storm_without(client)
    }

    #[library_benchmark]
    #[bench::of_1000(lost(layered(), false, storm))]
    fn storm_with_layer(client: Client<Layered>) -> impl Sized {
        storm(client)
    }

    #[library_benchmark]
    #[bench::small_listening(streamed(bare(), Events::Small, Method::GET))]
    #[bench::small_answer(streamed(bare(), Events::Small, Method::POST))]
    #[bench::with_ids_listening(streamed(bare(), Events::SmallWithIds, Method::GET))]
    #[bench::with_ids_answer(streamed(bare(), Events::SmallWithIds, Method::POST))]
    #[bench::large_listening(streamed(bare(), Events::OneLarge, Method::GET))]
    #[bench::large_answer(streamed(bare(), Events::OneLarge, Method::POST))]
    fn mib_without(sent: (Client<Bare>, Request<Body>)) -> impl Sized {
        read(sent)
    }

    #[library_benchmark]
    #[bench::small_listening(streamed(layered(), Events::Small, Method::GET))]
    #[bench::small_answer(streamed(layered(), Events::Small, Method::POST))]
    #[bench::with_ids_listening(streamed(layered(), Events::SmallWithIds, Method::GET))]
    #[bench::with_ids_answer(streamed(layered(), Events::SmallWithIds, Method::POST))]
    #[bench::large_listening(streamed(layered(), Events::OneLarge, Method::GET))]
    #[bench::large_answer(streamed(layered(), Events::OneLarge, Method::POST))]
    fn mib(sent: (Client<Layered>, Request<Body>)) -> impl Sized {
        read(sent)
    }

    library_benchmark_group!(
        name = cold,
        benchmarks = [
            recovered_call_without,
            recovered_call,
            storm_without_layer,
            storm_with_layer,
            mib_without,
            mib
        ]
    );
    main!(library_benchmark_groups = cold);

    pub(super) fn run() {
        main();
    }
}
