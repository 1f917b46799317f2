//! Nothing that is always ready keeps its thread, and nothing grows without end (section K).
//!
//! On the real clock: tokio's paused one stands still while anything is ready.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, RequestBody, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::answer;
use testing::*;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceExt, service_fn};

/// The same frame, whenever asked, for ever.
struct Always {
    frame: Bytes,
    polled: Arc<AtomicUsize>,
}

impl Body for Always {
    type Data = Bytes;
    type Error = TestError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        self.polled.fetch_add(1, Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.frame.clone()))))
    }
}

fn always(frame: &'static str) -> Always {
    Always {
        frame: frame.into(),
        polled: Arc::default(),
    }
}

fn always_reply(status: u16, content_type: Option<&str>, frame: &'static str) -> Reply {
    let mut reply = reply(status, content_type, "");
    *reply.body_mut() = always(frame).boxed();
    reply
}

const FRAMES: [&str; 4] = ["", "x", ":\n", "\n"];

/// K4, J5: an error whose frames never end is judged, and another task gets its turn.
#[tokio::test]
async fn k_an_error_that_is_always_ready_does_not_keep_the_thread() {
    for frame in FRAMES {
        for status in [404, 400, 500] {
            for limit in [64 * 1024, usize::MAX] {
                let server = Server::new(Profile::TypeScript);
                let layer = SessionRecoveryLayer::new()
                    .max_error_body_bytes(limit)
                    .recovery_timeout(Duration::from_millis(200));
                let client = client(&server, layer);
                let session = handshake(&client).await;
                // An empty frame counts for something, without which there would be no end to it.
                let limitless = limit == usize::MAX && frame.is_empty();
                if limitless {
                    continue;
                }
                let lives = session.clone();
                server.on(move |seen| {
                    let is_own = seen.what() == "tools/call" && seen.session() == Some(&lives);
                    is_own.then(|| always_reply(status, None, frame))
                });
                let started = Instant::now();
                let request = post(Some(&session), &tool_call(1));
                let response = timeout(Duration::from_secs(20), client.clone().oneshot(request));
                let response = response.await.expect("an answer").unwrap();
                let replayed = if status == 404 { 200 } else { status };
                assert_eq!(response.status(), replayed, "{frame:?}");
                assert!(started.elapsed() < Duration::from_secs(10));
            }
        }
    }
}

/// E6, K5: nor an answer to `initialize`, which is given up in time.
#[tokio::test]
async fn k_a_handshake_that_is_always_ready_ends_in_time() {
    for content_type in ["text/event-stream", "application/json"] {
        for frame in FRAMES {
            let server = Server::new(Profile::TypeScript);
            let layer = SessionRecoveryLayer::new().recovery_timeout(Duration::from_millis(200));
            let client = client(&server, layer);
            let session = handshake(&client).await;
            server.restart();
            answer(&server, "initialize", move |_| {
                always_reply(200, Some(content_type), frame)
            });
            let request = post(Some(&session), &tool_call(1));
            let answer = timeout(Duration::from_secs(20), send(&client, request));
            let answer = answer.await.expect("an answer");
            assert_eq!(answer.status, 404);
            let failed = matches!(
                answer.outcome(),
                Some(Outcome::Failed(Failure::TimedOut | Failure::Malformed))
            );
            assert!(failed, "{:?}", answer.outcome());
        }
    }
}

/// J1: nor a refusal, of which the caller gets a part.
#[tokio::test]
async fn k_a_refusal_that_is_always_ready_comes_in_part() {
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().recovery_timeout(Duration::from_secs(20));
    let client = client(&server, layer);
    let session = handshake(&client).await;
    server.restart();
    answer(&server, "initialize", |_| always_reply(401, None, "x"));
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.body.len(), 64 * 1024);
}

/// What is left of an answer that has said what it had to say is read to a limit, and no longer.
#[tokio::test]
async fn k_what_nobody_reads_any_more_is_let_go_of() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let polled = Arc::new(AtomicUsize::new(0));
    let counted = polled.clone();
    answer(&server, "notifications/initialized", move |_| {
        let mut reply = reply(202, None, "");
        let (frame, polled) = (Bytes::new(), counted.clone());
        *reply.body_mut() = Always { frame, polled }.boxed();
        reply
    });
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let read = polled.load(Relaxed);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(polled.load(Relaxed), read, "it is not read any more");
    assert!(read <= 2 * 1024 * 1024 / 64, "{read} frames without data");
}

/// K1: a request body without an end comes to its limit, inside `call` and outside.
#[tokio::test]
async fn k1_a_request_body_that_is_always_ready_is_passed_on() {
    for frame in FRAMES {
        for in_session in [true, false] {
            // Given a server that does not read what it is sent,
            let server = service_fn(
                move |request: Request<RequestBody<CallerBody>>| async move {
                    let mut reply = match request.headers().contains_key(SESSION_ID) {
                        true => reply(202, None, ""),
                        false => Server::new(Profile::TypeScript).default_answer(&Seen {
                            method: Method::POST,
                            uri: URI.to_owned(),
                            headers: request.headers().clone(),
                            body: initialize().to_string().into(),
                            frames: Vec::new(),
                            trailers: None,
                            extensions: http::Extensions::new(),
                            body_error: None,
                        }),
                    };
                    reply
                        .extensions_mut()
                        .insert(request.body().size_hint().lower());
                    Ok::<_, TestError>(reply)
                },
            );
            let client = SessionRecoveryLayer::new().layer(server);
            let known = handshake(&client).await;
            let polled = Arc::new(AtomicUsize::new(0));
            let body = Always {
                frame: frame.into(),
                polled: polled.clone(),
            };
            let request = request(Method::POST, in_session.then_some(&*known), "");
            // when a body has no end,
            let sending = client.oneshot(request.map(|_| body.boxed()));
            let answer = timeout(Duration::from_secs(20), sending).await;
            // then it is sent when it has come to the limit.
            let answer = answer.expect("an answer").unwrap();
            assert!(answer.status().is_success());
            let read = 1024 * 1024 / frame.len().max(1);
            assert!(polled.load(Relaxed) <= read + 1, "{frame:?}");
        }
    }
}

/// E6: of the pings in a handshake's answer 16 are answered, one after the other.
#[tokio::test(start_paused = true)]
async fn k_a_flood_of_pings_is_not_answered_with_a_flood() {
    let ping = |id: usize| json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string();
    let single: String = (0..2_000)
        .map(|id| format!("data: {}\n\n", ping(id)))
        .collect();
    let batch: Vec<_> = (0..1_000).map(ping).collect();
    let batch = format!("data: [{}]\n\n", batch.join(","));
    for pings in [single, batch] {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        let behind = server.clone();
        answer(&server, "initialize", move |seen| {
            let own = behind.default_answer(seen);
            let result = json!({
                "jsonrpc": "2.0", "id": seen.message()["id"],
                "result": {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": {}},
            });
            let mut reply = sse(&format!("{pings}data: {result}\n\n"));
            *reply.headers_mut() = own.headers().clone();
            reply
        });
        // Given a server that takes a second for each answer to a ping,
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, highest) = (now.clone(), most.clone());
        server.on_async(move |seen| {
            let is_pong = seen.what() == "POST" && seen.message()["result"].is_object();
            let now = counted.clone();
            is_pong.then(|| -> Pin<Box<dyn Future<Output = _> + Send>> {
                highest.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    now.fetch_sub(1, Relaxed);
                    Ok(reply(202, None, ""))
                })
            })
        });

        let answer = send(&client, post(Some(&session), &tool_call(1))).await;

        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(server.count("POST"), 16);
        assert_eq!(most.load(Relaxed), 1);
    }
}

/// E7: nor does it keep the layer from ending a session that it will not use.
#[tokio::test(start_paused = true)]
async fn e7_a_half_open_session_is_ended_whatever_becomes_of_the_answers_to_pings() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let behind = server.clone();
    answer(&server, "initialize", move |seen| {
        let own = behind.default_answer(seen);
        let ping = json!({"jsonrpc": "2.0", "id": "p", "method": "ping"});
        let error = json!({"jsonrpc": "2.0", "id": 0, "error": {"code": 1, "message": "no"}});
        let mut reply = sse(&format!("data: {ping}\n\ndata: {error}\n\n"));
        *reply.headers_mut() = own.headers().clone();
        reply
    });
    // Given a server that never answers a pong,
    server.on_async(|seen| {
        let is_pong = seen.what() == "POST" && seen.message()["result"].is_object();
        is_pong.then(|| -> Pin<Box<dyn Future<Output = _> + Send>> {
            Box::pin(std::future::pending())
        })
    });
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Failed(Failure::Rpc(1))));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(server.count("DELETE"), 1);
    assert!(server.live().is_empty());
}

/// D5: an error over the limit that holds its connection does not starve its own recovery.
#[tokio::test(start_paused = true)]
async fn d5_a_404_over_the_limit_gives_its_connection_up_for_the_recovery() {
    use std::sync::Mutex;
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    /// Holds the one connection until its body is read or dropped.
    struct Held(Script, Option<OwnedSemaphorePermit>);

    impl Body for Held {
        type Data = Bytes;
        type Error = TestError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
            let frame = Pin::new(&mut self.0).poll_frame(cx);
            if let Poll::Ready(None) = frame {
                self.1 = None;
            }
            frame
        }
    }

    let connection = Arc::new(Semaphore::new(1));
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new();
    let client = client(&server, layer);
    let session = handshake(&client).await;
    server.restart();
    let behind = server.clone();
    let page = Arc::new(Mutex::new("x".repeat(100 * 1024)));
    server.on_async(move |seen| {
        let (connection, behind, seen) = (connection.clone(), behind.clone(), seen.clone());
        let page = page.lock().unwrap().clone();
        Some(Box::pin(async move {
            let permit = connection.acquire_owned().await.unwrap();
            let mut reply = behind.default_answer(&seen);
            if reply.status() == StatusCode::NOT_FOUND {
                let script = Script::new().data(page).pending();
                *reply.body_mut() = Held(script, Some(permit)).boxed();
            }
            Ok(reply)
        }))
    });
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::Replayed))
    );
}

/// Comments without end.
struct Flood;

impl Body for Flood {
    type Data = Bytes;
    type Error = TestError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": c\n\n")))))
    }
}

/// The first answer to this floods its reader.
fn flood_once(server: &Server, what: &'static str) {
    let mut floods = true;
    server.on(move |seen| {
        let is_first = seen.what() == what && std::mem::take(&mut floods);
        is_first.then(|| {
            let mut reply = sse("");
            *reply.body_mut() = Flood.boxed();
            reply
        })
    });
}

/// G6, G1: an old stream that always has something is told, or moves, as one does that is silent.
#[tokio::test(start_paused = true)]
async fn g6_g1_an_old_stream_that_is_always_ready_is_left_in_time() {
    for listens in [false, true] {
        // Given a stream that floods its reader,
        let server = Server::new(Profile::TypeScript);
        let layer = SessionRecoveryLayer::new().orphan_timeout(Duration::from_millis(1));
        let client = client(&server, layer);
        let session = handshake(&client).await;
        let what = if listens { "GET" } else { "tools/call" };
        flood_once(&server, what);
        let request = match listens {
            true => get(&session, None),
            false => post(Some(&session), &tool_call(1)),
        };
        let mut response = client.clone().oneshot(request).await.unwrap();
        // when the session moves,
        server.restart();
        let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
        assert_eq!(send(&client, post(Some(&session), &ping)).await.status, 200);
        // then its reader hears of it.
        let mut has_ended = false;
        for _ in 0..100_000 {
            // Time goes on for who is never idle, too.
            tokio::time::advance(Duration::from_micros(10)).await;
            let frame = response.body_mut().frame().await.unwrap().unwrap();
            let data = frame.into_data().unwrap();
            has_ended = data != b": c\n\n"[..];
            if has_ended || server.count("GET") == 2 {
                break;
            }
        }
        assert!(has_ended || listens);
        assert_eq!(server.count("GET"), 2 * usize::from(listens));
    }
}

/// G6: it has its time from then on, however long it has had something before.
#[tokio::test(start_paused = true)]
async fn g1_what_an_old_stream_that_is_always_ready_says_is_read_before_it_is_left() {
    // Given a stream that has flooded its reader for longer than an old one has time,
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().orphan_timeout(Duration::from_millis(10));
    let client = client(&server, layer);
    let session = handshake(&client).await;
    flood_once(&server, "GET");
    let request = get(&session, None);
    let mut response = client.clone().oneshot(request).await.unwrap();
    let mut read = async || {
        tokio::time::advance(Duration::from_micros(10)).await;
        let frame = timeout(Duration::from_secs(1), response.body_mut().frame());
        let frame = frame.await.expect("the old stream always has something");
        frame.unwrap().unwrap();
    };
    for _ in 0..5_000 {
        read().await;
    }
    // when the session moves,
    server.restart();
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    assert_eq!(send(&client, post(Some(&session), &ping)).await.status, 200);
    // then the stream is read for that time still.
    for _ in 0..900 {
        read().await;
    }
    assert_eq!(server.count("GET"), 1);
}

/// G6: one whose answer another stream has brought goes on, and is neither ended nor held up.
#[tokio::test(start_paused = true)]
async fn g6_an_old_stream_that_is_answered_elsewhere_goes_on() {
    /// An id to resume from, and then comments without end.
    struct Flood(bool);

    impl Body for Flood {
        type Data = Bytes;
        type Error = TestError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
            let text = match std::mem::replace(&mut self.0, false) {
                true => "id: 1\ndata: {\"method\":\"notifications/message\"}\n\n",
                false => ": c\n\n",
            };
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
        }
    }

    // Given such a stream, and somebody who resumes it,
    let server = Server::new(Profile::TypeScript);
    let layer = SessionRecoveryLayer::new().orphan_timeout(Duration::from_millis(1));
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let (feeder, feed) = feed();
    let mut resumed = Some(fed_stream(feed));
    server.on(move |seen| match &*seen.what() {
        "tools/call" => {
            let mut reply = sse("");
            *reply.body_mut() = Flood(true).boxed();
            Some(reply)
        }
        "GET" => resumed.take(),
        _ => None,
    });
    let call = post(Some(&session), &tool_call(1));
    let mut flood = client.clone().oneshot(call).await.unwrap();
    flood.body_mut().frame().await.unwrap().unwrap();
    let resume = get(&session, Some("1"));
    let mut resumed = client.clone().oneshot(resume).await.unwrap();
    // when the session moves, and the time of the requests left behind has begun,
    server.restart();
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    assert_eq!(send(&client, post(Some(&session), &ping)).await.status, 200);
    for _ in 1..127 {
        flood.body_mut().frame().await.unwrap().unwrap();
    }
    // and is over when the answer has come there,
    feeder.data("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n");
    resumed.body_mut().frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // then the flood is read on.
    for _ in 0..1_000 {
        let frame = timeout(Duration::from_secs(60), flood.body_mut().frame()).await;
        let frame = frame.expect("it goes on").unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), b": c\n\n"[..]);
    }
}
