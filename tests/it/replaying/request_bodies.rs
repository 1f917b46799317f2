//! Rules F4 and F7: the replay is the same request, whatever its body is like, unless it was not kept.

use http::{HeaderMap, HeaderValue, Method, Version};
use http_body::Body;
use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, Refusal, SessionRecoveryLayer};
use serde_json::json;
use testing::mocked::*;
use testing::scenario::hang;
use testing::*;
use tokio_test::{assert_pending, task};
use tower::ServiceExt;

/// F4, K1: at the limit it is kept, over it, it is not, however it is cut.
#[tokio::test(start_paused = true)]
async fn f4_a_body_over_the_limit_is_not_sent_again_but_the_session_is_recovered() {
    // Larger than an initialize, which has to be kept in any case.
    let mut body = tool_call(1);
    body["params"]["padding"] = json!("x".repeat(300));
    let body = body.to_string();
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    for cuts in [0, 1, 2, 7] {
        for over in [false, true] {
            // Given a limit,
            let limit = body.len() - usize::from(over);
            let scene = lost(SessionRecoveryLayer::new().max_body_bytes(limit)).await;
            let cut = |len| body.as_bytes().chunks(len);
            let mut trailers = Some(&trailers);
            let sent = match cuts {
                // In one piece that says how long it is.
                0 => {
                    trailers = None;
                    full(body.clone())
                }
                cuts => cut(body.len().div_ceil(cuts))
                    .fold(Script::new(), |script, piece| script.data(piece).yields())
                    .trailers(trailers.unwrap().clone())
                    .boxed(),
            };

            // when a body of about that size finds the session dead,
            let answer = scene.send(posting(&scene.session, sent)).await;

            // then it gets through whole, and is sent again only if it was kept.
            let name = format!("{cuts} pieces, over: {over}");
            let calls = scene.server.all("tools/call");
            assert!(
                calls
                    .iter()
                    .all(|call| call.body == body && call.trailers.as_ref() == trailers),
                "{name}"
            );
            if over {
                assert_eq!(
                    (answer.status, answer.outcome()),
                    (404, refused(Refusal::BodyNotBuffered)),
                    "{name}"
                );
                assert_eq!(
                    answer.message()["error"]["message"],
                    "Session not found",
                    "{name}"
                );
            } else {
                assert_eq!(
                    (echoed(&answer), answer.outcome()),
                    (1, Some(Outcome::Replayed)),
                    "{name}"
                );
            }
            assert_eq!(calls.len(), if over { 1 } else { 2 }, "{name}");
            // Whoever comes next finds the session alive.
            let next = scene.send(post(Some(&scene.session), &ping(2))).await;
            assert_eq!(
                (next.status, next.recovery, scene.server.count("initialize")),
                (200, None, 2),
                "{name}"
            );
        }
    }
}

/// F4: what is too large is not held until its end.
#[tokio::test(start_paused = true)]
async fn f4_a_body_over_the_limit_is_streamed() {
    // Given a session, and a body that has not come to its end,
    let (mut inner, scene) = by_hand(SessionRecoveryLayer::new().max_body_bytes(256)).await;
    let (feeder, fed) = feed();
    let sending = posting(&scene.session, fed);
    let sending = tokio::spawn(scene.client.oneshot(sending));

    // when it is as large as what is kept, then it is not sent yet;
    feeder.data([b'x'; 256]);
    settle().await;
    assert!(inner.poll_request().is_pending());

    // when it is larger, then it is on its way, and what follows goes through as it comes.
    feeder.data("y");
    let (request, answer) = soon(inner.next_request()).await.unwrap();
    let mut body = request.into_body();
    assert_eq!(body.size_hint().exact(), None);
    let mut frames = Vec::new();
    for _ in 0..2 {
        frames.extend(
            soon(body.frame())
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap(),
        );
    }
    assert_pending!(task::spawn(body.frame()).poll());
    feeder.data("z");
    frames.extend(
        soon(body.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
    );
    assert_eq!(frames, [&[b'x'; 256][..], b"yz"].concat());
    assert_pending!(task::spawn(body.frame()).poll());
    drop(feeder);
    assert!(soon(body.frame()).await.is_none());
    answer.send_response(reply(202, None, ""));
    assert_eq!(soon(sending).await.unwrap().unwrap().status(), 202);
}

/// F4: one that comes while a recovery is under way is sent for the first time after it.
#[tokio::test(start_paused = true)]
async fn f4_a_body_over_the_limit_that_waited_is_sent_once_in_the_new_session() {
    let scene = lost(SessionRecoveryLayer::new().max_body_bytes(200)).await;
    let (gate, trigger) = scene.recovering().await;
    let mut big = tool_call(2);
    big["params"]["padding"] = json!("x".repeat(1000));
    let late = scene.spawn(post(Some(&scene.session), &big));
    settle().await;
    assert_eq!(scene.server.count("tools/call"), 1);
    gate.open();
    let answers = join([trigger, late]).await;
    assert_eq!(
        (echoed(&answers[1]), answers[1].outcome()),
        (2, Some(Outcome::Waited))
    );
    assert_eq!(calls_outside(&scene.server, &scene.session), [1, 2]);
}

/// F4, F6: a body that breaks half-way reaches the server as far as it goes, with its error, and
/// is not sent again.
#[tokio::test(start_paused = true)]
async fn f4_a_body_that_breaks_is_passed_on_with_its_error_and_not_sent_again() {
    for late in [false, true] {
        let scene = lost(SessionRecoveryLayer::new()).await;
        let half = Script::new().data(r#"{"jsonrpc":"2.0",""#);
        let half = if late { half.yields() } else { half };
        let answer = scene
            .send(posting(&scene.session, half.data("id").error("reset")))
            .await;
        assert_eq!(
            (answer.status, answer.outcome()),
            (404, refused(Refusal::BodyNotBuffered))
        );
        let sent = own(&scene.server);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].body, r#"{"jsonrpc":"2.0","id"#);
        assert_eq!(sent[0].body_error.as_deref(), Some("reset"));
        assert_eq!(echoed(&scene.call(1).await), 1);
        assert_eq!(scene.server.count("initialize"), 2);
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Trace(u64);

/// F7, A: whatever the request was.
#[tokio::test(start_paused = true)]
async fn f7_the_replay_is_the_same_request_in_another_session() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
    let call = tool_call(1).to_string();
    let batch = json!([tool_call(1), ping(2)]).to_string();
    let in_frames = |text: &str| {
        text.as_bytes()
            .chunks(3)
            .fold(Script::new(), |script, piece| script.data(piece))
    };
    let late = in_frames(&call)
        .yields()
        .data(" ")
        .yields()
        .yields()
        .data("\n");
    let (feeder, fed) = feed();
    let mut feeder = Some(feeder);
    let bodies: Vec<(&str, CallerBody, Option<u64>)> = vec![
        ("one frame", full(call.clone()), Some(call.len() as u64)),
        (
            "many frames",
            in_frames(&call).boxed(),
            Some(call.len() as u64),
        ),
        (
            "not there at once",
            late.boxed(),
            Some(call.len() as u64 + 2),
        ),
        ("fed", BodyExt::boxed(fed), Some(call.len() as u64)),
        (
            "with trailers",
            in_frames(&call).trailers(trailers.clone()).boxed(),
            // Which would be sent as a `Content-Length`, and without them.
            None,
        ),
        (
            "trailers late",
            Script::new()
                .data(&call)
                .yields()
                .trailers(trailers.clone())
                .boxed(),
            None,
        ),
        (
            "trailers alone",
            Script::new().trailers(trailers).boxed(),
            None,
        ),
        ("empty", full(""), Some(0)),
        ("empty, told late", Script::new().yields().boxed(), Some(0)),
        (
            "empty frames",
            Script::new().data("").data(&call).data("").boxed(),
            Some(call.len() as u64),
        ),
        ("a batch", full(batch.clone()), Some(batch.len() as u64)),
        ("malformed", full("{\"jsonrpc\": \"2.0\", "), Some(19)),
        ("no text", full(vec![0xff, 0x00, 0xfe]), Some(3)),
    ];
    for (name, body, size) in bodies {
        // Given a session that died, and a request of it that is like no other,
        let scene = lost(SessionRecoveryLayer::new()).await;
        let mut request = posting(&scene.session, body);
        *request.uri_mut() = format!("{URI}?key=a%20b&x").parse().unwrap();
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        for (header, value) in [
            ("x-two", "1"),
            ("x-two", "2"),
            ("mcp-method", "tools/call"),
            ("content-encoding", "identity"),
        ] {
            headers.append(header, value.parse().unwrap());
        }
        request.extensions_mut().insert(Trace(7));
        let expected_headers = request.headers().clone();

        // when it finds out,
        let answering = scene.spawn(request);
        settle().await;
        if name == "fed" {
            let feeder = feeder.take().unwrap();
            feeder.data(&call[..10]);
            settle().await;
            feeder.data(&call[10..]);
        }
        let answer = join([answering]).await.remove(0);
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{name}");

        // then all but the session is as it was.
        let sent = own(&scene.server);
        let [first, again] = sent.try_into().expect("two of them");
        let head = |seen: &Seen| {
            (
                seen.method.clone(),
                seen.uri.clone(),
                *seen.extensions.get::<Arrived>().unwrap(),
            )
        };
        assert_eq!(head(&first), head(&again), "{name}");
        assert_eq!(
            (&first.body, &first.trailers),
            (&again.body, &again.trailers),
            "{name}"
        );
        assert_eq!(
            again.trailers.is_some(),
            name.contains("trailers"),
            "{name}"
        );
        assert_eq!(
            (&first.body_error, &again.body_error),
            (&None, &None),
            "{name}"
        );
        let arrived = Arrived {
            version: Version::HTTP_2,
            exact_size: size,
        };
        assert_eq!(
            head(&again),
            (Method::POST, format!("{URI}?key=a%20b&x"), arrived),
            "{name}"
        );
        assert_eq!(again.extensions.get(), Some(&Trace(7)), "{name}");
        assert_eq!(first.headers, expected_headers, "{name}");
        let new = scene.server.last("notifications/initialized");
        let mut expected_headers = expected_headers;
        expected_headers.insert(SESSION_ID, new.headers[SESSION_ID].clone());
        assert_eq!(again.headers, expected_headers, "{name}");
        assert!(again.headers[SESSION_ID].is_sensitive(), "{name}");
    }
}

/// F7: whichever way the target is written, and whatever bytes a header may hold.
#[tokio::test(start_paused = true)]
async fn f7_the_target_and_the_headers_are_the_same_to_the_byte() {
    for (opened, called) in [
        (URI, "http://mcp.test/mcp?"),
        ("/mcp", "/mcp?a=1&b=%2F"),
        ("http://mcp.test", "http://mcp.test/?a"),
        (
            "https://user@[::1]:8443/a%2Fb//c",
            "https://user@[::1]:8443/a%2Fb//c?d=/e?f",
        ),
    ] {
        // Given a session at such a target, and a request of it with odd headers,
        let server = Server::new(Profile::TypeScript);
        let client = mocked(&server, SessionRecoveryLayer::new());
        let at = |mut request: http::Request<CallerBody>, uri: &str| {
            *request.uri_mut() = uri.parse().unwrap();
            request
                .headers_mut()
                .insert("host", "mcp.test".parse().unwrap());
            request
        };
        let opening = send(&client, at(post(None, &initialize()), opened)).await;
        let session = opening.session().unwrap().to_owned();
        server.restart();
        let mut call = at(post(Some(&session), &tool_call(1)), called);
        let headers = call.headers_mut();
        headers.append(
            "x-odd",
            HeaderValue::from_bytes(b"caf\xe9 \t\x80\xff").unwrap(),
        );
        headers.append("x-odd", HeaderValue::from_static(""));
        headers
            .get_mut("authorization")
            .unwrap()
            .set_sensitive(true);

        // when it finds the session dead,
        let answer = send(&client, call).await;

        // then it is made again as it was, and the secret is still marked as one.
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{called}");
        let [first, again] = own(&server).try_into().expect("two of them");
        assert_eq!(
            (&first.method, &first.uri),
            (&again.method, &again.uri),
            "{called}"
        );
        let mut headers = first.headers.clone();
        headers.insert(SESSION_ID, again.headers[SESSION_ID].clone());
        assert_eq!(again.headers, headers, "{called}");
        assert_eq!(again.headers.get_all("x-odd").iter().count(), 2, "{called}");
        let handshake = server.last("initialize");
        assert_eq!(handshake.uri, first.uri, "{called}");
        for seen in [again, handshake, server.last("notifications/initialized")] {
            assert!(seen.headers["authorization"].is_sensitive(), "{called}");
        }
    }
}

/// F7: event ids do not cross epochs.
#[tokio::test(start_paused = true)]
async fn f7_a_last_event_id_is_not_sent_again() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    let mut call = post(Some(&scene.session), &tool_call(1));
    call.headers_mut()
        .insert(LAST_EVENT_ID, "7".parse().unwrap());
    assert_eq!(echoed(&scene.send(call).await), 1);
    let calls = scene.server.all("tools/call");
    assert_eq!(
        (
            calls[0].header(LAST_EVENT_ID),
            calls[1].header(LAST_EVENT_ID)
        ),
        (Some("7"), None)
    );
}

/// B1, F7: an `initialize` whose body takes its time is recorded like any other.
#[tokio::test(start_paused = true)]
async fn a_session_whose_initialize_took_its_time_is_recovered() {
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let text = initialize().to_string();
    let body = Script::new()
        .data(&text[..20])
        .yields()
        .data(&text[20..])
        .yields();
    let opening = request(Method::POST, None, "").map(|_| body.boxed());
    let session = send(&client, opening).await.session().unwrap().to_owned();
    server.restart();
    let scene = Scene {
        server,
        client,
        session,
    };
    assert_eq!(echoed(&scene.call(1).await), 1);
    assert_eq!(scene.server.last("initialize").body, text);
}

/// F4, G2: a GET that was left behind moves with its session, but not without its body.
#[tokio::test(start_paused = true)]
async fn f4_g2_a_get_whose_body_was_not_kept_is_not_sent_again_without_it() {
    for (length, times) in [(500, 2), (501, 1)] {
        // Given a GET with a body that is not answered while its session is recovered,
        let scene = live(SessionRecoveryLayer::new().max_body_bytes(500)).await;
        hang(&scene.server, "GET");
        let body = "x".repeat(length);
        let get = request(Method::GET, Some(&scene.session), body.clone());
        let getting = scene.spawn(get);
        settle().await;
        scene.server.restart();

        // when that is over,
        let ping = post(Some(&scene.session), &json!({"id": 7, "method": "ping"}));
        assert_eq!(scene.send(ping).await.outcome(), Some(Outcome::Replayed));
        settle().await;

        // then it is sent again with its body, or not at all.
        let seen = scene.server.all("GET");
        assert_eq!(seen.len(), times, "{length}");
        assert!(seen.iter().all(|seen| seen.body == body), "{length}");
        getting.abort();
    }
}
