//! The recovery over real connections: hyper's server and hyper-util's client on loopback, HTTP/1.1
//! and HTTP/2. What only a socket shows: connections that are used again, and those that break.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::{
    client::legacy::Client as HyperClient,
    rt::{TokioExecutor, TokioIo},
};
use mcp_session_recovery::{Outcome, RequestBody, SessionRecovery, SessionRecoveryLayer};
use serde_json::json;
use testing::*;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Barrier,
    task::AbortHandle,
};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    H1,
    H2,
}

const BOTH: [Http; 2] = [Http::H1, Http::H2];

/// Which of a server's connections a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection(usize);

fn connection(seen: &Seen) -> Connection {
    *seen.extensions.get().expect("a connection")
}

/// A [`Server`] on loopback, until this is dropped.
struct Loopback {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    gate: Arc<OnceLock<Gate>>,
    listening: AbortHandle,
}

/// Holds the requests of one session back until there are as many as it was made for.
struct Gate {
    session: String,
    barrier: Barrier,
}

impl Loopback {
    async fn new(server: &Server, http: Http) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(OnceLock::<Gate>::new());
        let (server, count, closed) = (server.clone(), accepted.clone(), gate.clone());
        // Its connections are children of the task, and end with it.
        let listening = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = Connection(count.fetch_add(1, Ordering::SeqCst));
                let (server, gate) = (server.clone(), closed.clone());
                let service = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(number);
                    let (mut server, gate) = (server.service(), gate.clone());
                    async move {
                        let session = request.headers().get(SESSION_ID);
                        match gate.get() {
                            Some(gate) if session.is_some_and(|id| *id == gate.session) => {
                                gate.barrier.wait().await;
                            }
                            _ => {}
                        }
                        server.call(request).await
                    }
                });
                let stream = TokioIo::new(stream);
                connections.spawn(async move {
                    // How it ends is seen by the client.
                    let _ = match http {
                        Http::H1 => {
                            server::conn::http1::Builder::new()
                                .serve_connection(stream, service)
                                .await
                        }
                        Http::H2 => {
                            server::conn::http2::Builder::new(TokioExecutor::new())
                                .serve_connection(stream, service)
                                .await
                        }
                    };
                });
            }
        });
        Self {
            address,
            accepted,
            gate,
            listening: listening.abort_handle(),
        }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

type Wire =
    BoxCloneSyncService<Request<RequestBody<CallerBody>>, Reply, hyper_util::client::legacy::Error>;

/// hyper-util's client with the layer around it. Wherever a URI points, it connects to the server.
fn hyper_client(to: &Loopback, http: Http, layer: SessionRecoveryLayer) -> SessionRecovery<Wire> {
    let address = to.address;
    let connector = tower::service_fn(move |_: Uri| {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            std::io::Result::Ok(TokioIo::new(stream))
        })
    });
    let client = HyperClient::builder(TokioExecutor::new())
        .http2_only(http == Http::H2)
        .build::<_, RequestBody<CallerBody>>(connector)
        .map_response(|response: Response<Incoming>| {
            response.map(|body| body.map_err(|_| TestError("broken connection")).boxed())
        });
    layer.layer(BoxCloneSyncService::new(client))
}

async fn start(profile: Profile, http: Http) -> (Server, Loopback, SessionRecovery<Wire>, String) {
    let server = Server::new(profile);
    let loopback = Loopback::new(&server, http).await;
    let client = hyper_client(&loopback, http, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    (server, loopback, client, session)
}

/// E5, E6, E7, F1, F7, C1, D2: for every server profile, over either version of HTTP, the call after
/// the loss is answered as if nothing had happened, and so is the one after the next loss.
#[tokio::test]
async fn a_call_after_the_loss_is_answered_over_a_real_connection() {
    for (profile, http) in Profile::ALL
        .into_iter()
        .flat_map(|it| BOTH.map(|http| (it, http)))
    {
        // Given a session that the server has forgotten,
        let (server, _loopback, client, session) = start(profile, http).await;
        let before = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!((before.status, before.recovery), (200, None), "{profile:?}");

        for loss in 1..=2 {
            server.restart();

            // when the caller calls again,
            let after = send(&client, post(Some(&session), &tool_call(loss + 1))).await;

            // then it gets its answer, after one handshake and one replay of the same message.
            let context = format!("{profile:?} {http:?} {loss}");
            let answer = after.messages().pop().expect("an answer");
            assert_eq!(
                (after.status, &answer["id"]),
                (200, &json!(loss + 1)),
                "{context}"
            );
            assert_eq!(
                answer["result"]["echo"]["arguments"]["n"],
                loss + 1,
                "{context}"
            );
            assert_eq!(after.outcome(), Some(Outcome::Replayed), "{context}");
            assert!(after.session().is_none_or(|id| id == session), "{context}");
            let seen = server.seen();
            let [found_dead, initialize, initialized, replay] = &seen[seen.len() - 4..] else {
                panic!("{context}: {:?}", server.log());
            };
            assert_eq!(initialize.what(), "initialize", "{context}");
            assert_eq!(initialized.what(), "notifications/initialized", "{context}");
            assert_eq!(found_dead.body, replay.body, "{context}");
            assert_eq!(initialize.session(), None, "{context}");
            assert_eq!(initialized.session(), replay.session(), "{context}");
            assert_ne!(found_dead.session(), replay.session(), "{context}");
            assert_eq!(server.count("initialize"), loss as usize + 1, "{context}");
        }
    }
}

/// E1, F1: 64 requests on real connections find the session dead at once. There is one handshake, and
/// everyone gets the answer to its own request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_calls_that_find_the_session_dead_share_one_handshake() {
    for http in BOTH {
        // Given a server that has forgotten the session, and that says so when all 64 have arrived,
        let (server, loopback, client, session) = start(Profile::TypeScript, http).await;
        server.restart();
        let barrier = Barrier::new(64);
        let gate = Gate {
            session: session.clone(),
            barrier,
        };
        assert!(loopback.gate.set(gate).is_ok());

        // when 64 callers call,
        let calls = (0..64).map(|n| {
            let (client, session) = (client.clone(), session.clone());
            tokio::spawn(async move { send(&client, post(Some(&session), &tool_call(n))).await })
        });
        let answers = join_all(calls).await;

        // then each has its answer, after one handshake and 64 replays.
        for (n, answer) in answers.into_iter().enumerate() {
            let answer = answer.unwrap();
            assert_eq!(
                (answer.status, answer.outcome()),
                (200, Some(Outcome::Replayed))
            );
            assert_eq!(answer.message()["id"], n);
            assert_eq!(answer.message()["result"]["echo"]["arguments"]["n"], n);
        }
        assert_eq!(
            (server.count("initialize"), server.count("tools/call")),
            (2, 128),
            "{http:?}"
        );
        assert_eq!(server.live().len(), 1, "no session is left behind");
        if http == Http::H2 {
            assert_eq!(loopback.accepted(), 1);
        }
    }
}

/// D5: the 404's body is read before the recovery starts, so that its connection is free again: the
/// handshake goes by it, and no other is opened.
#[tokio::test]
async fn the_handshake_uses_the_connection_that_brought_the_404() {
    for http in BOTH {
        // Given a server whose 404 has a body in several pieces,
        let (server, loopback, client, session) = start(Profile::TypeScriptJson, http).await;
        server.restart();
        let dead = session.clone();
        server.on(move |seen| {
            let piece = || "x".repeat(10 * 1024);
            let body = Script::new()
                .data(piece())
                .yields()
                .data(piece())
                .yields()
                .data(piece());
            let mut reply = Response::new(body.boxed());
            *reply.status_mut() = http::StatusCode::NOT_FOUND;
            (seen.session() == Some(&dead)).then_some(reply)
        });
        let before = loopback.accepted();

        // when a call meets it,
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;

        // then `initialize` comes by the same connection.
        assert_eq!(
            (answer.status, answer.outcome()),
            (200, Some(Outcome::Replayed))
        );
        let seen = server.seen();
        let [found_dead, initialize, ..] = &seen[seen.len() - 4..] else {
            panic!("{:?}", server.log());
        };
        assert_eq!(initialize.what(), "initialize");
        assert_eq!(connection(initialize), connection(found_dead), "{http:?}");
        assert_eq!((before, loopback.accepted()), (1, 1), "{http:?}");
    }
}

/// D7, F6, J2: a connection that breaks is the caller's own error, even in the middle of a 404, and no
/// reason for a handshake.
#[tokio::test]
async fn a_broken_connection_starts_no_recovery() {
    for http in BOTH {
        // Given a server whose 404 breaks off,
        let (server, loopback, client, session) = start(Profile::TypeScript, http).await;
        server.restart();
        server.on(|seen| {
            let body = Script::new().data("half of a").yields().error("crash");
            let mut reply = Response::new(body.boxed());
            *reply.status_mut() = http::StatusCode::NOT_FOUND;
            (seen.what() == "tools/call").then_some(reply)
        });

        // when a call meets it, then the caller has the 404 as it came,
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!((answer.status, answer.recovery), (404, None), "{http:?}");
        assert_eq!(
            answer.body_error,
            Some(TestError("broken connection")),
            "{http:?}"
        );

        // and when the server is gone altogether, the error of the connection.
        drop(loopback);
        settle().await;
        let call = client.clone().oneshot(post(Some(&session), &tool_call(2)));
        assert!(call.await.is_err(), "{http:?}");
        assert_eq!(server.count("initialize"), 1, "{http:?}");
    }
}

/// G1, G8: a listening stream goes on in the new session, inside the same response, and the old one is
/// let go: the server need not keep it.
#[tokio::test]
async fn a_listening_stream_moves_to_another_connection_and_leaves_the_old_one() {
    for http in BOTH {
        // Given a listening stream of a caller that was promised no news of lists (rule H3),
        let server = Server::new(Profile::Rmcp);
        server.set_capabilities(json!({"tools": {}}));
        let loopback = Loopback::new(&server, http).await;
        let client = hyper_client(&loopback, http, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let (feeders, mut opened) = tokio::sync::mpsc::unbounded_channel();
        server.on(move |seen| {
            (seen.method == http::Method::GET).then(|| {
                let (feeder, stream) = feed();
                feeders.send(feeder).unwrap();
                fed_stream(stream)
            })
        });
        let response = client.clone().oneshot(get(&session, None)).await.unwrap();
        let mut stream = response.into_body();
        let old = opened.recv().await.unwrap();
        old.data("data: 1\n\n");
        assert_eq!(next(&mut stream).await, "data: 1\n\n");

        // when the session is lost, and a call has recovered it,
        server.restart();
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{http:?}");

        // then what happens in the new session is in the same stream,
        let reading = tokio::spawn(async move {
            let next = next(&mut stream).await;
            (stream, next)
        });
        let new = opened.recv().await.unwrap();
        new.data("data: 2\n\n");
        let (stream, second) = reading.await.unwrap();
        assert_eq!(second, "data: 2\n\n", "{http:?}");
        assert_ne!(server.last("GET").session(), Some(session.as_str()));

        // and nobody reads the old one any more; nor the new one, once the caller does not.
        until(|| old.is_dropped()).await;
        assert!(!new.is_dropped());
        drop(stream);
        until(|| new.is_dropped()).await;
    }
}

/// The next data of a body.
async fn next<R>(body: &mut mcp_session_recovery::ResponseBody<R>) -> Bytes
where
    R: http_body::Body<Data = Bytes, Error = TestError> + Unpin,
{
    let frame = body.frame().await.expect("more of the body");
    frame.unwrap().into_data().expect("data")
}

/// Waits for something that has to happen, on the other side of a socket.
async fn until(mut happened: impl FnMut() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("it never happened");
}
