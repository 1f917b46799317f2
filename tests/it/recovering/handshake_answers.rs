//! Rules E6, J1 and K3: what the handshake takes for the answer to its `initialize`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::mocked::*;
use testing::*;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"new","version":"2"}}}"#;
const NOTICE: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

fn filled(text: &str) -> String {
    text.replace("RESULT", RESULT).replace("NOTICE", NOTICE)
}

/// A scene whose next `initialize` is answered `200` with this body in a new session.
async fn answering(
    content_type: &'static str,
    body: impl Fn() -> Script + Send + 'static,
) -> Scene {
    let scene = lost(SessionRecoveryLayer::new()).await;
    replace(&scene.server, "initialize", move |_, own| {
        let mut answer = reply(200, Some(content_type), "");
        *answer.body_mut() = body().boxed();
        with_id_of(&own, answer)
    });
    scene
}

/// E6.
#[tokio::test(start_paused = true)]
async fn e6_the_result_is_found_whatever_the_answer_looks_like() {
    const SSE: &str = "text/event-stream";
    for (content_type, body) in [
        ("application/json", "RESULT"),
        ("application/json", " \r\n RESULT\n"),
        ("application/json; charset=utf-8", "RESULT"),
        ("Application/JSON;charset=\"utf-8\"", "RESULT"),
        ("application/json", "[NOTICE,RESULT]"),
        (SSE, "data: RESULT\n\n"),
        ("text/event-stream; charset=utf-8", "data: RESULT\n\n"),
        ("Text/Event-Stream ;charset=utf-8", "data: RESULT\n\n"),
        // CR, CRLF and all of them at once.
        (SSE, "event: message\rdata: RESULT\r\r"),
        (SSE, "event: message\r\ndata: RESULT\r\n\r\n"),
        (SSE, "event: message\rdata:RESULT\n\r\n"),
        // Fields in any order, with and without the space, and ones that nobody knows.
        (SSE, "id: 5\ndata: RESULT\nretry: 3000\nevent: message\n\n"),
        (SSE, "retry:5\nx-unknown: data: 1\ndata:RESULT\nid\n\n"),
        (SSE, "\u{feff}data: RESULT\n\n"),
        // In several lines.
        (
            SSE,
            "data: {\"jsonrpc\":\"2.0\",\"id\":0,\ndata:\ndata: \"result\":{\"protocolVersion\":\"2025-11-25\"}}\n\n",
        ),
        // Priming events, as TypeScript, Python and rmcp have them.
        (
            SSE,
            "id: p_1\nretry: 1500\ndata: \n\nevent: message\nid: p_2\ndata: RESULT\n\n",
        ),
        (SSE, "data: \nid: 0\nretry: 3000\n\ndata: RESULT\nid: 1\n\n"),
        (SSE, "id: 1\r\n\r\ndata: RESULT\r\n\r\n"),
        // Comments, keep-alives.
        (
            SSE,
            ": ping - 2026-11-23 00:00:00\r\n\r\n:\n\n: data: {}\ndata: RESULT\n\n",
        ),
        // What a gateway puts first, and what is not for this request.
        (
            SSE,
            "event: message\ndata: NOTICE\n\ndata: NOTICE\n\ndata: RESULT\n\n",
        ),
        (
            SSE,
            "data: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}\n\ndata: RESULT\n\n",
        ),
        (
            SSE,
            "data: {\"jsonrpc\":\"2.0\",\"id\":\"0\",\"result\":{}}\n\ndata: RESULT\n\n",
        ),
        (
            SSE,
            "data: {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":1}}\n\ndata: RESULT\n\n",
        ),
        (
            SSE,
            "data: {\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"roots/list\"}\n\ndata: RESULT\n\n",
        ),
        (SSE, "data: no JSON at all\n\ndata: RESULT\n\n"),
    ] {
        // In one piece, byte by byte, and in a stream that goes on for ever.
        let body = filled(body);
        let whole = |body: &str| Script::new().data(body);
        let bytes = |body: &str| {
            body.as_bytes()
                .chunks(1)
                .fold(Script::new(), |script, byte| script.data(byte).yields())
        };
        for pieces in [whole, bytes] {
            for endless in [false, true] {
                if endless && !content_type.to_lowercase().starts_with(SSE) {
                    continue;
                }
                let answer = body.clone();
                let scene = answering(content_type, move || match endless {
                    true => pieces(&answer).pending(),
                    false => pieces(&answer),
                })
                .await;
                let started = Instant::now();
                let answer = scene.call(1).await;
                let name = format!("{content_type} {body:?}, endless: {endless}");
                assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{name}");
                // It is read to the result and no further.
                assert_eq!(started.elapsed(), Duration::ZERO, "{name}");
                let accepted = scene.server.last("notifications/initialized");
                assert_eq!(scene.server.live(), [accepted.session().unwrap()], "{name}");
                assert_eq!(accepted.header(PROTOCOL_VERSION), Some(VERSION), "{name}");
            }
        }
    }
}

/// E6, J2: anything else is a failed handshake. Nothing of it is used, and what the request was
/// answered with is what the caller gets.
#[tokio::test(start_paused = true)]
async fn e6_anything_but_a_result_is_a_failed_handshake() {
    const SSE: &str = "text/event-stream";
    const JSON: &str = "application/json";
    let status = |code: u16| http::StatusCode::from_u16(code).unwrap();
    let error = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32600,"message":"Session not found"}}"#;
    let too_many = r#"{"jsonrpc":"2.0","id":"server-error","error":{"code":-32603,"message":"Too many open sessions"}}"#;
    let of_another = RESULT.replace("\"id\":0", "\"id\":1");
    let of_text = RESULT.replace("\"id\":0", "\"id\":\"0\"");
    let in_event = |text: &str| format!("data: {text}\n\n");
    let rows: Vec<(u16, &str, String, Failure)> = vec![
        (301, JSON, String::new(), Failure::Refused(status(301))),
        (400, JSON, too_many.into(), Failure::Refused(status(400))),
        // Whatever it holds.
        (400, JSON, RESULT.into(), Failure::Refused(status(400))),
        (
            404,
            "text/html",
            "<html>".into(),
            Failure::Refused(status(404)),
        ),
        (500, JSON, String::new(), Failure::Refused(status(500))),
        (503, JSON, too_many.into(), Failure::Refused(status(503))),
        (200, JSON, error.into(), Failure::Rpc(-32600)),
        (200, SSE, in_event(error), Failure::Rpc(-32600)),
        (
            200,
            SSE,
            in_event(NOTICE) + &in_event(error) + &in_event(RESULT),
            Failure::Rpc(-32600),
        ),
        (200, JSON, "garbage".into(), Failure::Malformed),
        (
            200,
            JSON,
            RESULT[..RESULT.len() - 1].into(),
            Failure::Malformed,
        ),
        (200, JSON, "{}".into(), Failure::Malformed),
        (200, JSON, "null".into(), Failure::Malformed),
        (200, JSON, String::new(), Failure::Malformed),
        (
            200,
            JSON,
            r#"{"jsonrpc":"2.0","id":0,"result":null}"#.into(),
            Failure::Malformed,
        ),
        (
            200,
            JSON,
            r#"{"jsonrpc":"2.0","id":0,"result":"ok"}"#.into(),
            Failure::Malformed,
        ),
        (200, JSON, of_another.clone(), Failure::Malformed),
        (200, JSON, of_text, Failure::Malformed),
        (200, SSE, in_event(&of_another), Failure::Malformed),
        (200, SSE, String::new(), Failure::Malformed),
        (200, SSE, in_event(NOTICE), Failure::Malformed),
        (200, SSE, format!("data: {RESULT}\n"), Failure::Malformed),
        (200, SSE, RESULT.into(), Failure::Malformed),
        (200, "text/html", "<html>".into(), Failure::Malformed),
        (200, "text/plain", RESULT.into(), Failure::Malformed),
        (200, "application/jsonl", RESULT.into(), Failure::Malformed),
        (202, JSON, String::new(), Failure::Malformed),
    ];
    for (code, content_type, body, expected) in rows {
        // Given a server that answers the handshake so, at first,
        let name = format!("{code} {content_type} {body}");
        let scene = lost(SessionRecoveryLayer::new()).await;
        let own = scene.server.clone();
        let wrong = Arc::new(AtomicBool::new(true));
        let (is_wrong, content) = (wrong.clone(), content_type.to_owned());
        scene.server.on(move |seen| {
            (seen.what() == "initialize" && is_wrong.load(Ordering::Relaxed)).then(|| {
                with_id_of(
                    &own.default_answer(seen),
                    reply(code, Some(&content), &body),
                )
            })
        });

        // when a request finds the session dead, then its own answer is the caller's,
        let answer = scene.call(1).await;
        assert_eq!(
            (answer.status, failure(&answer)),
            (404, Some(expected)),
            "{name}"
        );
        assert_eq!(
            answer.message()["error"]["message"],
            "Session not found",
            "{name}"
        );
        settle().await;
        // the handshake goes no further, and what it may have opened is closed,
        let log = scene.server.log();
        let ending: &[&str] = if code < 300 { &["DELETE"] } else { &[] };
        assert_eq!(
            log[2..],
            [&["tools/call", "initialize"], ending].concat(),
            "{name}"
        );
        // and the next request is free to try again.
        wrong.store(false, Ordering::Relaxed);
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        let answer = scene.call(2).await;
        assert_eq!(
            (echoed(&answer), answer.outcome()),
            (2, Some(Outcome::Replayed)),
            "{name}"
        );
    }
}

/// E6, J1: the caller can act on a challenge.
#[tokio::test(start_paused = true)]
async fn e6_a_handshake_that_is_denied_gives_the_caller_the_challenge() {
    for what in ["initialize", "notifications/initialized"] {
        for code in [401, 403] {
            let scene = lost(SessionRecoveryLayer::new()).await;
            replace(&scene.server, what, move |_, _| {
                // As a network has it: the body comes after the head.
                let body = Script::new()
                    .yields()
                    .data("log in ")
                    .yields()
                    .data("first");
                let mut denied = reply(code, Some("text/plain"), "");
                *denied.body_mut() = body.boxed();
                let challenge = "Bearer resource_metadata=\"https://mcp.test/\"";
                denied
                    .headers_mut()
                    .insert("www-authenticate", challenge.parse().unwrap());
                denied
            });
            let answer = scene.call(1).await;
            let denied = Failure::Denied(http::StatusCode::from_u16(code).unwrap());
            assert_eq!(
                (answer.status, answer.text()),
                (code, "log in first"),
                "{what}"
            );
            assert_eq!(failure(&answer), Some(denied), "{what}");
            assert!(answer.header("www-authenticate").is_some(), "{what}");
            assert_eq!(scene.server.count("tools/call"), 1, "{what}");
        }
    }
}

/// E6: it is read to the result, not to the end of what the server sends.
#[tokio::test(start_paused = true)]
async fn e6_a_result_in_json_counts_once_it_is_there() {
    let script = |cut| {
        let (begin, end) = RESULT.as_bytes().split_at(cut);
        Script::new().data(begin).data(end)
    };
    for cut in [0, 40] {
        // Given a server that keeps the connection of a whole answer open, or breaks it,
        for broken in [false, true] {
            let scene = answering("application/json", move || match broken {
                true => script(cut).error("reset"),
                false => script(cut).pending(),
            })
            .await;
            // then nobody waits for the end of it.
            let started = tokio::time::Instant::now();
            let answer = scene.call(1).await;
            assert_eq!(answer.outcome(), Some(Outcome::Replayed));
            assert!(started.elapsed().is_zero());
        }
    }
}

/// E6: an answer that breaks off holds no result, and a transport error is no answer.
#[tokio::test(start_paused = true)]
async fn e6_an_answer_that_breaks_off_is_a_failed_handshake() {
    let half = &RESULT.as_bytes()[..40];
    for (content_type, body) in [
        ("application/json", half),
        ("text/event-stream", b"".as_slice()),
        ("text/event-stream", b"data: "),
    ] {
        let scene = answering(content_type, move || {
            Script::new().data(body).error("reset")
        })
        .await;
        let answer = scene.call(1).await;
        assert_eq!(
            (answer.status, failure(&answer)),
            (404, Some(Failure::Truncated))
        );
        assert_eq!(scene.server.count("notifications/initialized"), 1);
        settle().await;
        assert_eq!(scene.server.live(), [""; 0]);
    }
    for what in ["initialize", "notifications/initialized"] {
        let scene = lost(SessionRecoveryLayer::new()).await;
        scene.server.on_async(move |seen| {
            (seen.what() == what)
                .then(|| -> Answering { Box::pin(async { Err(TestError("refused")) }) })
        });
        let answer = scene.call(1).await;
        assert_eq!(
            (answer.status, failure(&answer)),
            (404, Some(Failure::Transport)),
            "{what}"
        );
    }
}

/// E6, K3: an answer to `initialize` has a limit.
#[tokio::test(start_paused = true)]
async fn k3_a_result_over_the_limit_is_a_failed_handshake_and_one_at_the_limit_is_none() {
    for (content_type, body) in [
        ("application/json", RESULT.to_owned()),
        ("text/event-stream", format!("data: {RESULT}\n\n")),
    ] {
        for (limit, fails) in [(RESULT.len(), false), (RESULT.len() - 1, true)] {
            let scene = lost(SessionRecoveryLayer::new().max_initialize_result_bytes(limit)).await;
            let body = body.clone();
            replace(&scene.server, "initialize", move |_, own| {
                with_id_of(&own, reply(200, Some(content_type), &body))
            });
            let answer = scene.call(1).await;
            assert_eq!(
                failure(&answer),
                fails.then_some(Failure::Malformed),
                "{content_type}"
            );
        }
    }
}

/// K3, E12: who waits for what can not come any more keeps others from their turn.
#[tokio::test(start_paused = true)]
async fn k3_an_answer_that_cannot_hold_the_result_any_more_is_not_waited_for() {
    const LIMIT: usize = 10_000;
    let large = |size| {
        format!(
            r#"{{"jsonrpc":"2.0","id":0,"result":{{"x":"{}"}}}}"#,
            "x".repeat(size)
        )
    };
    let (json, events) = ("application/json", "text/event-stream");
    let notice = large(LIMIT).replace(r#""id":0,"result""#, r#""method":"m","params""#);
    for (case, content_type, begins, fails_at_once) in [
        ("JSON over the limit", json, large(LIMIT), true),
        ("JSON that is no answer", json, NOTICE.to_owned(), true),
        (
            "an event over the limit",
            events,
            format!("data: {}\n\n", large(LIMIT)),
            true,
        ),
        (
            "events without end",
            events,
            format!("data: {NOTICE}\n\n").repeat(3_000),
            true,
        ),
        (
            "one event without end",
            events,
            format!("data: {}", large(2 * LIMIT + 65_536)),
            true,
        ),
        (
            "a large notification",
            events,
            format!("data: {notice}\n\n"),
            false,
        ),
        ("a comment", events, ": wait\n\n".to_owned(), false),
    ] {
        // Given an answer that begins like this and is not at its end,
        let scene = lost(SessionRecoveryLayer::new().max_initialize_result_bytes(LIMIT)).await;
        replace(&scene.server, "initialize", move |_, own| {
            let mut answer = reply(200, Some(content_type), "");
            *answer.body_mut() = Script::new().data(begins.clone()).pending().boxed();
            with_id_of(&own, answer)
        });
        // when a call is made, then it has failed at once, or when its time is over.
        let started = Instant::now();
        let failed = match fails_at_once {
            true => Failure::Malformed,
            false => Failure::TimedOut,
        };
        assert_eq!(failure(&scene.call(1).await), Some(failed), "{case}");
        let is_at_once = started.elapsed() < Duration::from_secs(1);
        assert_eq!(is_at_once, fails_at_once, "{case}");
    }
}

/// K: a frame without data counts as well.
#[tokio::test(start_paused = true)]
async fn k3_frames_without_data_come_to_the_limit_as_well() {
    let layer = SessionRecoveryLayer::new().max_initialize_result_bytes(10_000);
    let scene = lost(layer).await;
    replace(&scene.server, "initialize", move |_, own| {
        let mut answer = reply(200, Some("text/event-stream"), "");
        let frames = (0..2_000).fold(Script::new(), |script, _| script.data(""));
        *answer.body_mut() = frames.pending().boxed();
        with_id_of(&own, answer)
    });
    assert_eq!(failure(&scene.call(1).await), Some(Failure::Malformed));
}

/// E6: some servers ping before they answer, and answer when they are answered.
#[tokio::test(start_paused = true)]
async fn e6_a_ping_of_the_server_is_answered_in_the_new_session_before_its_result_comes() {
    for (id, with_session) in [(json!(0), true), (json!("srv/1"), true), (json!(7), false)] {
        // Given a server whose answer to initialize begins with a ping, and waits there,
        let scene = lost(SessionRecoveryLayer::new()).await;
        let (feeder, feed) = feed();
        let ping = json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
        feeder.data(format!(": hello\n\ndata: {ping}\n\ndata: {NOTICE}\n\n"));
        let mut feed = Some(feed);
        replace(&scene.server, "initialize", move |_, own| {
            let stream = fed_stream(feed.take().unwrap());
            if with_session {
                with_id_of(&own, stream)
            } else {
                stream
            }
        });
        let expected = json!({"jsonrpc": "2.0", "id": id, "result": {}});
        let is_answer = move |seen: &Seen| seen.message() == expected;
        scene.server.on(move |seen| {
            is_answer(seen).then(|| {
                feeder.data(format!("data: {RESULT}\n\n"));
                reply(202, None, "")
            })
        });

        if !with_session {
            scene.server.on(|seen| {
                (seen.what() == "notifications/initialized").then(|| reply(202, None, ""))
            });
        }

        // when a request finds the session dead,
        let trigger = with_headers(
            post(Some(&scene.session), &tool_call(1)),
            &[("authorization", "Bearer new")],
        );
        let started = Instant::now();
        let answer = scene.send(trigger).await;

        // then the ping is answered in the new session, once, and the handshake goes on.
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert_eq!(
            scene.server.log()[3..],
            [
                // With other credentials than the epoch's, the server is asked first (rule D8).
                "ping",
                "initialize",
                "POST",
                "notifications/initialized",
                "tools/call"
            ]
        );
        let pong = scene.server.last("POST");
        assert_eq!(
            pong.session(),
            scene.server.last("notifications/initialized").session()
        );
        assert_eq!(pong.session().is_some(), with_session);
        assert_ne!(pong.session(), Some(&*scene.session));
        assert_eq!(pong.header("authorization"), Some("Bearer new"));
        assert_eq!(pong.header("content-type"), Some("application/json"));
        if with_session {
            assert_eq!(
                (echoed(&answer), answer.outcome()),
                (1, Some(Outcome::Replayed))
            );
        }
    }
}

/// E6, E10: on a slow way, too. A handshake in which everything takes its time may take K5.
#[tokio::test(start_paused = true)]
async fn e6_a_ping_is_answered_on_a_slow_connection_too() {
    // Given a way to the server on which every request takes two seconds,
    let server = Server::new(Profile::TypeScript);
    let service = server.service();
    let client = SessionRecoveryLayer::new().layer(tower::service_fn(move |request: Sent| {
        let service = service.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            service.oneshot(request).await
        }
    }));
    let session = handshake(&client).await;
    server.restart();

    // when it pings before it answers the handshake,
    let (feeder, feed) = feed();
    feeder.data("data: {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"ping\"}\n\n");
    let mut feed = Some(feed);
    replace(&server, "initialize", move |_, own| {
        with_id_of(&own, fed_stream(feed.take().unwrap()))
    });
    server.on(move |seen| {
        (seen.what() == "POST").then(|| {
            feeder.data(format!("data: {RESULT}\n\n"));
            reply(202, None, "")
        })
    });

    // then the answer gets there all the same.
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(server.count("POST"), 1);
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
}

/// E6: whatever else the server asks for before it answers is the caller's to answer.
#[tokio::test(start_paused = true)]
async fn e6_nothing_but_a_ping_is_answered_in_a_handshake() {
    let scene = answering("text/event-stream", || {
        let ask = r#"data: {"jsonrpc":"2.0","id":5,"method":"roots/list"}"#;
        let result = r#"data: {"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;
        Script::new().data(format!("{ask}\n\n{result}\n\n"))
    })
    .await;
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    let responses = scene.server.all("POST");
    assert!(responses.is_empty(), "{responses:?}");
}

/// E6: what follows the result is read on for a while, so that its connection can be used again.
#[tokio::test(start_paused = true)]
async fn e6_the_rest_of_the_answer_is_read_in_the_background() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    let (feeder, feed) = feed();
    let mut feed = Some(feed);
    replace(&scene.server, "initialize", move |_, own| {
        with_id_of(&own, fed_stream(feed.take().expect("one handshake")))
    });
    feeder.data("data: {\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}\n\n");
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    assert!(!feeder.is_dropped());
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(feeder.is_dropped());
}

/// J1: so is what follows as much of a refusal as the caller gets.
#[tokio::test(start_paused = true)]
async fn j1_the_rest_of_a_refusal_is_read_in_the_background() {
    // Given a challenge without an end,
    let scene = lost(SessionRecoveryLayer::new()).await;
    let (feeder, feed) = feed();
    let mut feed = Some(feed);
    replace(&scene.server, "initialize", move |_, _| {
        let mut denied = fed_stream(feed.take().expect("one handshake"));
        *denied.status_mut() = http::StatusCode::UNAUTHORIZED;
        denied
    });
    feeder.data("log in");
    // then the caller gets what has come in time, and the rest is read for a while.
    let answer = scene.call(1).await;
    assert_eq!((answer.status, answer.text()), (401, "log in"));
    settle().await;
    assert!(!feeder.is_dropped());
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(feeder.is_dropped());
}
