//! Rules E5 and E7: what the handshake sends, and how it ends.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use testing::mocked::*;
use testing::*;
use tokio::time::Instant;

/// The headers as a sorted list, which has every value of every name.
fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut sorted: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    sorted.sort();
    sorted
}

#[derive(Clone, Debug, PartialEq)]
struct Tenant(&'static str);

/// E5.
#[tokio::test(start_paused = true)]
async fn e5_the_handshake_is_the_recorded_one_with_the_triggers_credentials() {
    // Given a session that was opened with some headers, and died,
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let mut opening = with_headers(
        post(None, &initialize()),
        &[
            ("accept", "application/json, text/event-stream;q=0.5"),
            ("accept-encoding", "identity"),
            ("authorization", "Bearer old"),
            ("content-language", "de"),
            ("content-length", "157"),
            ("content-type", "application/json;charset=utf-8"),
            ("cookie", "a=1"),
            ("cookie", "b=1"),
            ("cookie", "c=1"),
            ("mcp-client", "recorded"),
            ("user-agent", "caller/1"),
            ("x-only-recorded", "1"),
            ("x-only-recorded", "2"),
        ],
    );
    opening.extensions_mut().insert(Tenant("recorded"));
    let session = send(&client, opening).await.session().unwrap().to_owned();
    server.restart();

    // when a request with others finds it dead,
    let mut trigger = with_headers(
        post(Some(&session), &tool_call(1)),
        &[
            ("accept", "application/json"),
            ("accept-encoding", "gzip"),
            ("authorization", "Bearer new"),
            ("content-encoding", "identity"),
            ("content-length", "77"),
            ("content-type", "application/vnd.call+json"),
            ("cookie", "a=2"),
            ("cookie", "b=2"),
            ("expect", "100-continue"),
            ("last-event-id", "7"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "echo"),
            ("mcp-client", "trigger"),
            ("transfer-encoding", "chunked"),
            ("x-only-trigger", "1"),
            ("x-only-trigger", "2"),
        ],
    );
    *trigger.uri_mut() = format!("{URI}?key=new").parse().unwrap();
    *trigger.version_mut() = http::Version::HTTP_2;
    trigger.extensions_mut().insert(Tenant("trigger"));
    send(&client, trigger).await;

    // then what describes the caller is the trigger's, and what describes the message is not.
    let again = server.last("initialize");
    assert_eq!(
        (again.method, &*again.uri),
        (Method::POST, "http://mcp.test/mcp?key=new")
    );
    assert_eq!(again.extensions.get(), Some(&Tenant("trigger")));
    assert_eq!(
        again.extensions.get::<Arrived>().unwrap().version,
        http::Version::HTTP_2
    );
    let caller = [
        ("authorization", "Bearer new"),
        ("cookie", "a=2"),
        ("cookie", "b=2"),
        ("x-only-trigger", "1"),
        ("x-only-trigger", "2"),
    ];
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let callers = |headers: &HeaderMap| -> Vec<_> {
        let of_message = |name: &str| {
            name.starts_with("accept") || name.starts_with("content-") || name.starts_with("mcp-")
        };
        sorted(headers)
            .into_iter()
            .filter(|(name, _)| !of_message(name))
            .collect()
    };
    let length = again.body.len().to_string();
    let message = [
        ("accept", "application/json, text/event-stream;q=0.5"),
        ("content-length", &length),
        ("content-type", "application/json;charset=utf-8"),
    ];
    let mut expected: Vec<_> = caller.into_iter().chain(message).map(text).collect();
    expected.sort();
    assert_eq!(sorted(&again.headers), expected);

    // Nor do the other messages of the layer say anything else of the caller.
    let accepted = server.last("notifications/initialized");
    assert_eq!(callers(&accepted.headers), caller.map(text));
    assert_eq!(
        accepted.header("content-type"),
        Some("application/json;charset=utf-8")
    );
    assert_eq!(
        accepted.header("content-length"),
        Some(&*accepted.body.len().to_string())
    );
    assert_eq!(
        (accepted.uri, accepted.extensions.get()),
        (again.uri, Some(&Tenant("trigger")))
    );
}

/// E5: `Mcp-Method` and the like describe one message. What is not an `initialize` must not say
/// that it is one.
/// RFC 9110, 5.3: several lines of a header are one, with commas between them.
#[tokio::test(start_paused = true)]
async fn e5_what_a_caller_accepts_may_be_said_in_several_lines() {
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let lines = [
        ("accept", "application/json"),
        ("accept", "text/event-stream;q=0.5"),
    ];
    let opening = with_headers(post(None, &initialize()), &lines);
    let session = send(&client, opening).await.session().unwrap().to_owned();
    server.restart();
    send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(
        server.last("initialize").header("accept"),
        Some("application/json, text/event-stream;q=0.5")
    );
}

#[tokio::test(start_paused = true)]
async fn e5_a_recorded_mcp_method_is_that_of_initialize_alone() {
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let opening = with_headers(post(None, &initialize()), &[("mcp-method", "initialize")]);
    let session = send(&client, opening).await.session().unwrap().to_owned();
    server.restart();
    send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(server.count("initialize"), 2);
    assert_eq!(
        server
            .last("notifications/initialized")
            .header("mcp-method"),
        None
    );
}

/// E5: rmcp proposes a version without sessions and is given one with. Other bytes stay.
#[tokio::test(start_paused = true)]
async fn e5_what_is_proposed_is_the_version_negotiated_last_and_the_rest_is_as_recorded() {
    let body = |version: &str| {
        format!(
            r#" {{"params" : {{"clientInfo":{{"name":"\u0061","version":"protocolVersion"}}, "n":1.0e3,
            "protocolVersion":"{version}","capabilities":{{}}}},"method":"initialize","id":"i","jsonrpc":"2.0"}} "#
        )
    };
    let server = Server::new(Profile::Rmcp);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let opened = send(&client, request(Method::POST, None, body("2026-07-28"))).await;
    let session = opened.session().unwrap().to_owned();
    // The server is given back the version that was negotiated, not the one first proposed; and if
    // it answers with yet another, that one the next time.
    for (answered, then_proposed) in [
        ("2025-06-18", VERSION),
        (VERSION, "2025-06-18"),
        (VERSION, VERSION),
    ] {
        server.restart();
        server.set_version(answered);
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        let again = server.last("initialize");
        assert_eq!(again.body, body(then_proposed));
        assert_eq!(
            (again.session(), again.header(PROTOCOL_VERSION)),
            (None, None)
        );
    }
}

/// E5: a GET can find the session dead, too, and has headers of its own.
#[tokio::test(start_paused = true)]
async fn e5_a_get_that_finds_the_session_dead_makes_the_same_handshake() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    let trigger = with_headers(
        get(&scene.session, None),
        &[
            ("accept", "text/event-stream"),
            ("authorization", "Bearer new"),
        ],
    );
    assert_eq!(scene.head(trigger).await.status(), 200);
    let again = scene.server.last("initialize");
    assert_eq!(again.method, Method::POST);
    assert_eq!(
        again.header("accept"),
        Some("application/json, text/event-stream")
    );
    assert_eq!(again.header("content-type"), Some("application/json"));
    assert_eq!(again.header("authorization"), Some("Bearer new"));
    let exact = again.extensions.get::<Arrived>().unwrap().exact_size;
    assert_eq!(exact, Some(again.body.len() as u64));
}

/// E7: what accepts a session.
#[tokio::test(start_paused = true)]
async fn e7_any_success_with_any_body_accepts_the_session() {
    type Row = (u16, Option<&'static str>, fn() -> Script);
    let rows: [Row; 10] = [
        (202, None, Script::new),
        (202, Some("application/json"), Script::new),
        (202, Some("text/plain"), || Script::new().data("Accepted")),
        (202, Some("application/json"), || Script::new().data("null")),
        (200, Some("application/json"), || Script::new().data("{}")),
        (200, Some("text/event-stream"), Script::new),
        (204, None, Script::new),
        // An error in a body is none in the status.
        (200, Some("application/json"), || {
            Script::new()
                .data(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":""}}"#)
        }),
        // Bodies that break, or never end.
        (202, None, || Script::new().error("reset")),
        (200, Some("text/event-stream"), || {
            Script::new().data(": open\n\n").pending()
        }),
    ];
    for (n, (code, content_type, body)) in rows.into_iter().enumerate() {
        let scene = lost(SessionRecoveryLayer::new()).await;
        replace(&scene.server, "notifications/initialized", move |_, _| {
            let mut accepted = reply(code, content_type, "");
            *accepted.body_mut() = body().boxed();
            accepted
        });
        let started = Instant::now();
        let answer = scene.call(1).await;
        assert_eq!(
            (answer.status, answer.outcome()),
            (200, Some(Outcome::Replayed)),
            "row {n}"
        );
        assert!(started.elapsed() < Duration::from_secs(1), "row {n}");
        let accepted = scene.server.last("notifications/initialized");
        assert_eq!(
            scene.server.live(),
            [accepted.session().unwrap()],
            "row {n}"
        );
        assert_eq!(accepted.header(PROTOCOL_VERSION), Some(VERSION), "row {n}");
        assert_eq!(accepted.message(), initialized(), "row {n}");
        assert_eq!(scene.server.count("DELETE"), 0, "row {n}");
    }
}

/// E7: a session whose handshake did not end is ended, and not used.
#[tokio::test(start_paused = true)]
async fn e7_a_session_that_is_not_accepted_is_ended_and_not_used() {
    for code in [300, 400, 404, 409, 500, 503] {
        // Given a server that refuses the notification, once,
        let scene = lost(SessionRecoveryLayer::new()).await;
        let mut refusals = 1;
        replace(&scene.server, "notifications/initialized", move |_, own| {
            refusals -= 1;
            if refusals == 0 {
                reply(code, None, "no")
            } else {
                own
            }
        });

        // when a request finds the session dead,
        let trigger = with_headers(
            post(Some(&scene.session), &tool_call(1)),
            &[("authorization", "Bearer new")],
        );
        let answer = scene.send(trigger).await;

        // then it gets its own answer, and the half-open session is ended as its owner would.
        let refused = Failure::NotAccepted(http::StatusCode::from_u16(code).unwrap());
        assert_eq!((answer.status, failure(&answer)), (404, Some(refused)));
        assert_eq!(answer.message()["error"]["code"], -32001);
        settle().await;
        assert_eq!(
            scene.server.log()[3..],
            // With other credentials than the epoch's, the server is asked first (rule D8).
            ["ping", "initialize", "notifications/initialized", "DELETE"]
        );
        let (ended, opened) = (
            scene.server.last("DELETE"),
            scene.server.last("notifications/initialized"),
        );
        assert_eq!(
            (ended.session(), ended.header(PROTOCOL_VERSION)),
            (opened.session(), Some(VERSION))
        );
        assert_eq!(ended.header("authorization"), Some("Bearer new"));
        assert_eq!(
            (ended.body, ended.headers.get("content-type")),
            (Bytes::new(), None)
        );
        assert_eq!(scene.server.live(), [""; 0]);

        // The next request gets a session of its own, once the pause is over.
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        let answer = scene.call(2).await;
        assert_eq!(
            (echoed(&answer), answer.outcome()),
            (2, Some(Outcome::Replayed))
        );
    }
}
