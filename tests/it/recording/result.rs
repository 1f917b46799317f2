//! What is read of the answer to the caller's `initialize` as it passes: rule B3.

use std::pin::pin;

use http::{HeaderMap, Method};
use http_body::Body;
use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, SessionRecoveryLayer, Sessions};
use serde_json::{Value, json};
use testing::transcript::transcript;
use testing::*;
use tokio::task::unconstrained;
use tower::ServiceExt;

/// What the server negotiates in these tests, unlike what is proposed, so that it can be seen
/// whether the layer knows it: it proposes what was negotiated (rule E5), if it does.
const NEGOTIATED: &str = "2025-06-18";

fn sessions(layer: SessionRecoveryLayer, server: &Server) -> (Client, Sessions) {
    let sessions = Sessions::new();
    (client(server, layer.sessions(sessions.clone())), sessions)
}

fn with_id(mut reply: Reply, id: &str) -> Reply {
    reply.headers_mut().insert(SESSION_ID, id.parse().unwrap());
    reply
}

/// Lets the session die, and gives the version that the layer proposes then.
async fn proposed_in_recovery(client: &Client, server: &Server, session: &str) -> Value {
    server.restart();
    let answer = send(client, post(Some(session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    server.last("initialize").message()["params"]["protocolVersion"].clone()
}

/// B3: the request is recorded, but for the headers that say who asked.
#[tokio::test]
async fn b3_a_recovery_repeats_the_initialize_that_was_recorded() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let body = "{ \"method\":\"initialize\",\"jsonrpc\":\"2.0\",\"id\":\"a\\u0062\",\n\"params\":{\"x\":1.50}}";
    let mut recorded = request(Method::POST, None, body);
    recorded
        .headers_mut()
        .insert("x-tenant", "7".parse().unwrap());
    let session = send(&client, recorded).await;
    server.restart();

    let answer = send(&client, post(session.session(), &tool_call(1))).await;

    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    let sent = server.last("initialize");
    assert_eq!(sent.body, body);
    assert_eq!(sent.header("x-tenant"), None);
    assert_eq!(sent.uri, URI);
}

/// What a server may write around a result. `{}` is where the result stands.
const ANSWERS: &[(&str, &str)] = &[
    ("application/json", "{}"),
    ("Application/JSON; charset=utf-8", "\r\n {} "),
    ("text/event-stream", "event: message\ndata: {}\n\n"),
    ("text/event-stream", "event: message\r\ndata: {}\r\n\r\n"),
    (
        "text/event-stream; charset=utf-8",
        "event: message\rdata: {}\r\r",
    ),
    ("text/event-stream", "data: {}\nid: 1\nretry: 3000\n\n"),
    (
        "text/event-stream",
        "data: \nid: 0\nretry: 3000\n\ndata:{}\nid: 1\n\n",
    ),
    (
        "text/event-stream",
        "\u{feff}id: p\nretry: 1500\ndata: \n\n: ping\n\ndata: {}\n\n",
    ),
    (
        "text/event-stream",
        "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\ndata: {}\n\n",
    ),
    // A question of the server's with the same id is no answer.
    (
        "text/event-stream",
        "data: {\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"ping\"}\n\ndata: {}\n\ndata: more\n\n",
    ),
];

/// B3: the negotiated version is read from the answer as it streams by, however it is written and
/// wherever it is cut, and the caller gets it as it was cut.
#[tokio::test]
async fn b3_the_result_is_read_as_it_passes() {
    let result =
        json!({"id": 0, "result": {"protocolVersion": NEGOTIATED, "note": "ü"}, "jsonrpc": "2.0"});
    for (content_type, text) in ANSWERS {
        let text = text.replace("{}", &result.to_string());
        let text = text.as_bytes();
        let two = (0..=text.len()).map(|at| Vec::from_iter([&text[..at], &text[at..]]));
        let bytewise = text.chunks(1).collect();
        for chunks in two.chain([bytewise]) {
            // Given a caller whose `initialize` is answered so,
            let server = Server::new(Profile::TypeScript);
            let client = client(&server, SessionRecoveryLayer::new());
            let script = || {
                let frames = chunks
                    .iter()
                    .fold(Script::new(), |script, chunk| script.data(chunk));
                frames.trailers(HeaderMap::from_iter([(
                    "x-sum".parse().unwrap(),
                    "1".parse().unwrap(),
                )]))
            };
            let mut reply = Some(with_id(stream(script()), "assigned"));
            let content_type = content_type.parse().unwrap();
            reply
                .as_mut()
                .unwrap()
                .headers_mut()
                .insert("content-type", content_type);
            server.on(move |_| reply.take());
            let request = post(None, &initialize());
            let response = client.clone().oneshot(request).await.unwrap();

            // when it has read the answer, which came as it was cut,
            // (By hand, so that tokio's budget for what is always ready is not in the way.)
            let seen = unconstrained(async { transcript(response.into_body()) }).await;
            assert_eq!(seen, transcript(script()));

            // then the layer knows what was negotiated.
            let proposed = proposed_in_recovery(&client, &server, "assigned").await;
            assert_eq!(proposed, NEGOTIATED, "{chunks:?}");
        }
    }
}

/// B3: the layer looks on; it neither hides how long the answer is nor waits for its end.
#[tokio::test]
async fn b3_a_caller_that_stops_at_the_last_byte_has_shown_the_layer_all() {
    for profile in [Profile::TypeScriptJson, Profile::TypeScript] {
        let server = Server::new(profile);
        server.set_version(NEGOTIATED);
        let client = client(&server, SessionRecoveryLayer::new());
        let request = post(None, &initialize());
        let response = client.clone().oneshot(request).await.unwrap();
        let session = response.headers()[SESSION_ID].clone();
        let mut body = pin!(response.into_body());
        let size = body.size_hint().exact();

        let frame = body.frame().await.unwrap().unwrap();

        assert_eq!(size, Some(frame.into_data().unwrap().len() as u64));
        assert!(body.is_end_stream());
        let session = session.to_str().unwrap();
        let proposed = proposed_in_recovery(&client, &server, session).await;
        assert_eq!(proposed, NEGOTIATED, "{profile:?}");
    }
}

/// B3: a session whose result the layer has not seen is recovered as it was made.
#[tokio::test]
async fn b3_a_session_without_a_known_result_is_recorded_all_the_same() {
    let result = |note: &str| {
        json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": NEGOTIATED, "note": note}})
            .to_string()
    };
    let event = |data: &str| format!("data: {data}\n\n");
    let long = "x".repeat(2048);
    let error = json!({"jsonrpc": "2.0", "id": 0, "error": {"code": 1, "message": "no"}});
    let other = result("").replace("\"id\":0", "\"id\":\"0\"");
    let sse = "text/event-stream";
    let whole = result("");
    let (begin, _) = whole.split_at(whole.len() - 1);
    for (content_type, script, what) in [
        (sse, Script::new().data(": nothing\n\n"), "never arrives"),
        (
            sse,
            Script::new().data(format!("data: {whole}")),
            "never ends",
        ),
        (sse, Script::new().data(event(&other)), "is another's"),
        (
            sse,
            Script::new().data(event(&error.to_string())),
            "is an error",
        ),
        (sse, Script::new().data(event("{}")), "is none"),
        (sse, Script::new().data(event(&result(&long))), "is over K3"),
        (
            "application/json",
            Script::new().data(result(&long)),
            "is over K3",
        ),
        (
            "application/json",
            Script::new().data(begin).error("broken"),
            "breaks",
        ),
        ("application/json", Script::new(), "is empty"),
        ("text/plain", Script::new().data(&whole), "is text"),
    ] {
        // Given an `initialize` whose result cannot be read,
        let server = Server::new(Profile::TypeScript);
        let layer = SessionRecoveryLayer::new().max_initialize_result_bytes(1024);
        let (client, sessions) = sessions(layer, &server);
        let mut reply = Some(with_id(stream(script), "assigned"));
        let content_type = content_type.parse().unwrap();
        reply
            .as_mut()
            .unwrap()
            .headers_mut()
            .insert("content-type", content_type);
        server.on(move |_| reply.take());

        // when the caller has its answer,
        let answer = send(&client, post(None, &initialize())).await;

        // then it has all of it, and a session that is recovered with what it had proposed.
        assert_eq!(
            answer.body_error.is_some(),
            what.starts_with("breaks"),
            "{what}"
        );
        assert!(what != "is over K3" || answer.body.len() > 2048, "{what}");
        assert_eq!((answer.session(), sessions.len()), (Some("assigned"), 1));
        let proposed = proposed_in_recovery(&client, &server, "assigned").await;
        assert_eq!(proposed, VERSION, "{what}");
    }
}

/// B3: the caller may not want to read to the end.
#[tokio::test]
async fn b3_a_caller_that_drops_the_answer_half_way_has_a_session_nevertheless() {
    for read in [0, 1, 2] {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let result = json!({"id": 0, "result": {"protocolVersion": NEGOTIATED}}).to_string();
        let (feeder, feed) = feed();
        let mut reply = Some(with_id(fed_stream(feed), "assigned"));
        server.on(move |_| reply.take());
        let request = post(None, &initialize());
        let response = client.clone().oneshot(request).await.unwrap();
        let mut body = pin!(Some(response.into_body()));
        feeder.data(format!("data: {}", &result[..10]));
        feeder.data(format!("{}\n\n", &result[10..]));
        for _ in 0..read {
            let body = body.as_mut().as_pin_mut().unwrap();
            body.get_mut().frame().await.unwrap().unwrap();
        }

        body.set(None);

        assert!(feeder.is_dropped());
        let proposed = proposed_in_recovery(&client, &server, "assigned").await;
        let known = if read < 2 { VERSION } else { NEGOTIATED };
        assert_eq!(proposed, known, "{read} read");
    }
}
