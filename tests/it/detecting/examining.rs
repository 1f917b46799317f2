//! How an answer is read before it is judged: rule D5, and what `asking.rs` leaves of D4.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use mcp_session_recovery::{
    Failure, HttpAnswer as Judged, Outcome, Recovery, ResponseBody, SessionRecoveryLayer, Verdict,
};
use serde_json::{Value, json};
use testing::scenario::{answer, heal};
use testing::transcript::{frames, transcript};
use testing::*;
use tokio::time::Instant;
use tower::ServiceExt;

/// K4.
const LIMIT: usize = 64 * 1024;

type Answered = Response<ResponseBody<TestBody>>;

async fn call(client: &Client, request: Request<CallerBody>) -> Answered {
    client.clone().oneshot(request).await.unwrap()
}

fn outcome(response: &Answered) -> Option<Outcome> {
    response.extensions().get().map(Recovery::outcome)
}

/// What arrived after the caller's own handshake.
fn log(server: &Server) -> Vec<String> {
    server.log().split_off(2)
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())])
}

/// An answer with such a status and body.
fn with_status(
    status: u16,
    body: impl Body<Data = Bytes, Error = TestError> + Send + Sync + 'static,
) -> Reply {
    let mut reply = reply(status, Some("text/plain"), "");
    let headers = reply.headers_mut();
    headers.insert("x-server", "it".parse().unwrap());
    reply.map(|_| body.boxed())
}

/// A server of a caller with a session, that answers the next request of one kind so.
async fn answers_once(
    layer: SessionRecoveryLayer,
    what: &'static str,
    reply: Reply,
) -> (Server, Client, String) {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let mut reply = Some(reply);
    server.on(move |seen| reply.take_if(|_| seen.what() == what));
    (server, client, session)
}

/// D9, J5: an error that comes slowly is read as long as there is time to do something about it.
#[tokio::test(start_paused = true)]
async fn d9_an_error_whose_words_come_late_is_about_the_session_all_the_same() {
    for seconds in [1, 2, 3, 5, 7] {
        // Given a session that is lost, of which its server speaks slowly,
        let (feeder, feed) = feed();
        feeder.data("the session ");
        let slow = with_status(400, feed);
        let (server, client, session) =
            answers_once(SessionRecoveryLayer::new(), "tools/call", slow).await;
        server.restart();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            feeder.data("is invalid");
        });

        // when a call meets that, then it is recovered.
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{seconds}");
    }
}

/// D9, J5: so is the answer to the ping that is to settle it.
#[tokio::test(start_paused = true)]
async fn d9_a_ping_that_is_answered_slowly_settles_it_all_the_same() {
    for seconds in [0, 3, 6] {
        // Given a session that is lost, of which its server speaks, and slowly when it is pinged,
        let unclear = reply(400, None, "invalid session");
        let (server, client, session) =
            answers_once(SessionRecoveryLayer::new(), "tools/call", unclear).await;
        let (feeder, feed) = feed();
        feeder.data("invalid ");
        let mut slow = Some(with_status(400, feed));
        server.on(move |seen| slow.take_if(|_| seen.what() == "ping"));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            feeder.data("session");
        });

        // when a call meets that, then it is recovered.
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{seconds}");
        assert_eq!(server.count("ping"), 1);
    }
}

/// D4: the ping goes where the request went, as a message of its own; and whatever means expiry in
/// answer to a request means it in answer to the ping.
#[tokio::test]
async fn d4_a_ping_finds_a_session_dead_by_every_known_word_for_it() {
    let answers: [fn() -> Reply; 5] = [
        || reply(404, None, ""),
        || reply(404, None, &"x".repeat(2 * LIMIT)),
        || Profile::TypeScriptSingle.unknown_session(&Value::Null),
        || Profile::Everything.unknown_session(&Value::Null),
        || reply(500, None, "Session service terminated"),
    ];
    for pong in answers {
        // Given an answer that is not clear,
        let begun = with_status(404, full("none"));
        let (server, client, session) =
            answers_once(SessionRecoveryLayer::new(), "GET", begun).await;
        answer(&server, "ping", move |_| pong());

        // when the server is asked,
        let mut request = get(&session, None);
        *request.uri_mut() = format!("{URI}?key=fresh").parse().unwrap();
        let accept = "text/event-stream".parse().unwrap();
        request.headers_mut().insert("accept", accept);
        let response = call(&client, request).await;

        // then what it says decides.
        assert_eq!(outcome(&response), Some(Outcome::Replayed));
        let wanted = [
            "GET",
            "ping",
            "initialize",
            "notifications/initialized",
            "GET",
        ];
        assert_eq!(log(&server), wanted);
        let ping = server.last("ping");
        assert_eq!(ping.uri, format!("{URI}?key=fresh"));
        let length = ping.body.len().to_string();
        for (name, value) in [
            ("accept", "application/json, text/event-stream"),
            ("content-type", "application/json"),
            ("content-length", &length),
        ] {
            assert_eq!(ping.header(name), Some(value), "{name}");
        }
    }
}

/// D4: a layer that is only to watch sends nothing of its own, and tells no more than it knows.
#[tokio::test]
async fn d4_detection_alone_asks_nothing() {
    for dead in [false, true] {
        let server = Server::new(Profile::Rmcp);
        let client = client(&server, SessionRecoveryLayer::new().reinitialize(false));
        let session = handshake(&client).await;
        answer(&server, "GET", |_| reply(404, None, "none"));
        if dead {
            server.restart();
        }

        let seen = send(&client, get(&session, None)).await;

        assert_eq!((seen.status, seen.text()), (404, "none"));
        assert_eq!(seen.outcome(), None);
        assert_eq!(log(&server), ["GET"]);
    }
}

/// How an answer that was read may reach the caller after all.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Alive,
    StillAlive,
    Detected,
    NotRecovered,
}

/// D5: the caller gets every byte of an answer that was read, however long it is and however the
/// layer came to pass it on; and finds it as it was cut.
#[tokio::test]
async fn d5_an_answer_that_was_read_is_passed_on_whole() {
    type Making = fn() -> TestBody;
    let scripts: [(&str, Making); 6] = [
        ("nothing", || full("")),
        ("in one", || full(vec![b'x'; 100])),
        ("over the limit in one", || full(vec![b'x'; 3 * LIMIT])),
        ("just the limit", || {
            let script = Script::new().data(vec![b'x'; LIMIT - 1]).data("y");
            script.trailers(trailers()).boxed()
        }),
        ("over the limit", || {
            let many = (0..20).map(|n| vec![n; LIMIT / 7]);
            let begin = Script::new().yields();
            let script = many.fold(begin, |script, n| script.data(n).yields());
            script.trailers(trailers()).boxed()
        }),
        ("broken over the limit", || {
            let script = Script::new().data(vec![b'x'; LIMIT]).data("y").yields();
            script.error("broken").boxed()
        }),
    ];
    for (what, script) in scripts {
        for way in [
            Way::Alive,
            Way::StillAlive,
            Way::Detected,
            Way::NotRecovered,
        ] {
            // Given an answer with such a body,
            let layer = SessionRecoveryLayer::new().reinitialize(way != Way::Detected);
            let status = if way == Way::Alive { 400 } else { 404 };
            let (kind, request) = match way {
                Way::StillAlive => ("GET", get("secret-session-1", None)),
                _ => ("tools/call", post(Some("secret-session-1"), &tool_call(1))),
            };
            let mut refusal = with_status(status, script());
            let length = "7".parse().unwrap();
            refusal.headers_mut().insert("content-length", length);
            let (server, client, _) = answers_once(layer, kind, refusal).await;
            answer(&server, "initialize", |_| reply(503, None, ""));

            // when it is the caller's,
            let response = call(&client, request).await;

            // then it is all there.
            let case = format!("{what} {way:?}");
            assert_eq!(response.status().as_u16(), status, "{case}");
            assert_eq!(response.headers()["x-server"], "it", "{case}");
            let wanted = match way {
                Way::Alive | Way::StillAlive => None,
                Way::Detected => Some(Outcome::Detected),
                Way::NotRecovered => Some(Outcome::Failed(Failure::Refused(
                    StatusCode::SERVICE_UNAVAILABLE,
                ))),
            };
            assert_eq!(outcome(&response), wanted, "{case}");
            // What was over the limit was given up for the recovery, length and all.
            let rest_is_dropped = way == Way::NotRecovered
                && ["over the limit", "broken over the limit"].contains(&what);
            let length = response.headers().get("content-length").cloned();
            assert_eq!(length.is_none(), rest_is_dropped, "{case}");
            let body = response.into_body();
            if rest_is_dropped {
                let read = body.collect().await.expect("an end").to_bytes();
                assert!((LIMIT + 1..2 * LIMIT).contains(&read.len()), "{case}");
                continue;
            }
            match script().size_hint().exact() {
                Some(_) => assert_eq!(transcript(body), transcript(script()), "{case}"),
                None => assert_eq!(frames(body), frames(script()), "{case}"),
            }
        }
    }
}

/// A body without end that counts what was taken of it.
struct Endless(Arc<AtomicUsize>);

impl Body for Endless {
    type Data = Bytes;
    type Error = TestError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        const CHUNK: &[u8] = &[b'x'; 1000];
        self.0.fetch_add(CHUNK.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(CHUNK)))))
    }
}

/// D5: what is read for a verdict has a limit.
#[tokio::test]
async fn d5_a_body_without_end_is_read_to_the_limit() {
    for (status, limit) in [(404, LIMIT), (400, LIMIT), (404, 5000), (400, 5000)] {
        // Given an answer that never ends,
        let taken = Arc::new(AtomicUsize::new(0));
        let mut layer = SessionRecoveryLayer::new();
        if limit != LIMIT {
            layer = layer.max_error_body_bytes(limit);
        }
        let endless = with_status(status, Endless(taken.clone()));
        let (_server, client, session) = answers_once(layer, "tools/call", endless).await;

        // when a caller gets it,
        let response = call(&client, post(Some(&session), &tool_call(1))).await;

        // then no more of it was read than may be, and it means what it means.
        let read = taken.load(Ordering::Relaxed);
        assert!((limit..=limit + 2000).contains(&read), "{read} of {limit}");
        if status == 404 {
            assert_eq!(outcome(&response), Some(Outcome::Replayed));
            continue;
        }
        // What comes after that comes as the caller reads it.
        let mut body = pin!(response.into_body());
        for _ in 0..200 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.data_ref().unwrap().len(), 1000);
        }
        assert_eq!(taken.load(Ordering::Relaxed), 200_000);
    }
}

/// D5: a classifier is shown the beginning, and goes by that.
#[tokio::test]
async fn d5_a_verdict_is_given_on_the_bytes_within_the_limit() {
    let known = json!({"error": {"message": "No valid session ID provided"}}).to_string();
    for (limit, expired) in [(known.len(), true), (known.len() - 1, false)] {
        for chunk in [1, 7, known.len()] {
            let chunks = known.as_bytes().chunks(chunk);
            let script = chunks.fold(Script::new(), Script::data);
            let layer = SessionRecoveryLayer::new().max_error_body_bytes(limit);
            let refusal = with_status(400, script);
            let (_server, client, session) = answers_once(layer, "tools/call", refusal).await;

            let seen = send(&client, post(Some(&session), &tool_call(1))).await;

            let wanted = expired.then_some(Outcome::Replayed);
            assert_eq!(seen.outcome(), wanted, "{limit} {chunk}");
            assert!(expired || seen.text() == known, "{limit} {chunk}");
        }
    }
    let layer = SessionRecoveryLayer::new().max_error_body_bytes(5);
    let layer = layer.classify(|answer: &Judged<'_>| match answer.body() {
        b"12345" => Verdict::Alive,
        _ => Verdict::Expired,
    });
    let refusal = reply(404, None, "123456789");
    let (_server, client, session) = answers_once(layer, "tools/call", refusal).await;
    let seen = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!((seen.status, seen.text()), (404, "123456789"));
}

/// D5, J5: nor is a body that comes to a halt waited for longer than a quarter of what a recovery
/// may take, which leaves time to do something about it.
#[tokio::test(start_paused = true)]
async fn d5_a_body_that_stalls_is_judged_by_what_came() {
    for (status, begin, patience) in [
        (400, "no", None),
        (404, "Session ", None),
        (404, "", None),
        (404, "Session ", Some(3)),
    ] {
        // Given an answer that stops half-way,
        let (feeder, feed) = feed();
        feeder.data(begin);
        let mut layer = SessionRecoveryLayer::new();
        if let Some(seconds) = patience {
            layer = layer.recovery_timeout(Duration::from_secs(seconds));
        }
        let stalled = with_status(status, feed);
        let (server, client, session) = answers_once(layer, "tools/call", stalled).await;

        // when the time for it is up,
        let started = Instant::now();
        let response = call(&client, post(Some(&session), &tool_call(1))).await;
        let quarter = Duration::from_secs(patience.unwrap_or(10)) / 4;
        let quarters = if status == 404 { 1 } else { 3 };
        assert_eq!(started.elapsed(), quarter * quarters);

        // then it means what it means so far,
        if status == 404 {
            assert_eq!(outcome(&response), Some(Outcome::Replayed));
            assert!(feeder.is_dropped());
            continue;
        }
        // and if it is the caller's, so is what comes later.
        assert_eq!(
            (response.status().as_u16(), outcome(&response)),
            (400, None)
        );
        feeder.data(" more");
        drop(feeder);
        assert_eq!(read(response).await.text(), "no more");
        assert_eq!(log(&server), ["tools/call"]);
    }
}

/// D5, F6: after an answer that broke off nothing is done over.
#[tokio::test]
async fn d5_an_answer_that_breaks_is_the_callers_as_it_broke() {
    for request in [
        post(Some("secret-session-1"), &tool_call(1)),
        get("secret-session-1", None),
    ] {
        // Given a dead session whose server cannot even say so,
        let broken = || Script::new().data("Session ").yields().error("broken");
        let layer = SessionRecoveryLayer::new();
        let (server, client, session) =
            answers_once(layer, "tools/call", with_status(404, broken())).await;
        let mut listening = Some(with_status(404, broken()));
        server.on(move |seen| listening.take_if(|_| seen.method == Method::GET));
        server.restart();

        // when the caller's request meets that,
        let response = call(&client, request).await;

        // then the caller meets it, too, and the request was sent once;
        assert_eq!(response.status(), 404);
        assert_eq!(frames(response.into_body()), frames(broken()));
        settle().await;
        assert_eq!(log(&server).len(), 1);

        // the next one finds out.
        heal(&server);
        let next = send(&client, post(Some(&session), &tool_call(2))).await;
        assert_eq!(
            (next.status, next.outcome()),
            (200, Some(Outcome::Replayed))
        );
    }
}

/// D5: the answer is read to its end before anything else is sent, so that its connection is free.
#[tokio::test]
async fn d5_the_answer_is_read_before_the_recovery_starts() {
    for (what, request) in [
        ("tools/call", post(Some("secret-session-1"), &tool_call(1))),
        ("GET", get("secret-session-1", None)),
    ] {
        // Given a 404 that has not ended,
        let (feeder, feed) = feed();
        feeder.data("Session ");
        let layer = SessionRecoveryLayer::new();
        let (server, client, _) = answers_once(layer, what, with_status(404, feed)).await;
        server.restart();
        let sending = tokio::spawn(async move { call(&client, request).await });
        settle().await;
        feeder.data("not found");
        settle().await;
        assert_eq!(log(&server), [what]);

        // when it ends,
        drop(feeder);

        // then the recovery starts.
        assert_eq!(outcome(&sending.await.unwrap()), Some(Outcome::Replayed));
    }
}

/// D5: nor does one that is too long to be read to its end keep its connection.
#[tokio::test]
async fn d5_an_answer_that_nobody_will_get_is_dropped_before_the_request_is_sent_again() {
    let (feeder, feed) = feed();
    feeder.data(vec![b'x'; LIMIT + 1]);
    let layer = SessionRecoveryLayer::new();
    let (server, client, session) = answers_once(layer, "tools/call", with_status(404, feed)).await;
    let dropped = feeder.clone();
    let first = session.clone();
    server.on(move |seen| {
        let replayed = seen.what() == "tools/call" && seen.session() != Some(first.as_str());
        let status = if dropped.is_dropped() { 200 } else { 500 };
        replayed.then(|| reply(status, None, ""))
    });

    let seen = send(&client, post(Some(&session), &tool_call(1))).await;

    assert_eq!(
        (seen.status, seen.outcome()),
        (200, Some(Outcome::Replayed))
    );
}
