//! What the layer writes from a secret is marked as sensitive (rule L2).

use http::Request;
use http_body_util::BodyExt;
use mcp_session_recovery::SessionRecoveryLayer;
use serde_json::{Value, json};
use testing::logs::Logs;
use testing::scenario::answer;
use testing::*;
use tower::{ServiceBuilder, ServiceExt};

fn rpc(id: &str, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn call() -> Value {
    rpc("secret-id", "tools/call", json!({"name": "secret-tool"}))
}

/// Adds more credentials, and marks them all, as a careful caller does.
fn marked(mut request: Request<CallerBody>) -> Request<CallerBody> {
    let headers = request.headers_mut();
    headers.insert("cookie", "sid=secret-cookie".parse().unwrap());
    headers.insert("x-api-key", "secret-key".parse().unwrap());
    for name in ["authorization", "cookie", "x-api-key"] {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
    request
}

/// L2: every session id that the layer writes is marked, on each of its own requests and on each of
/// the caller's, and so are the credentials that the caller had marked.
#[tokio::test(start_paused = true)]
async fn l2_what_is_written_from_a_secret_is_marked_on_the_wire() {
    // Given a caller with state, a listening stream and a few losses of each kind,
    let server = Server::new(Profile::Python2);
    let client = client(&server, SessionRecoveryLayer::new());
    let send = |request| send(&client, marked(request));
    send(post(None, &initialize())).await;
    let session = "secret-session-1";
    for message in [
        initialized(),
        rpc("1", "logging/setLevel", json!({"level": "info"})),
        rpc("2", "resources/subscribe", json!({"uri": "a"})),
    ] {
        send(post(Some(session), &message)).await;
    }
    let listening = marked(get(session, None));
    let listening = client.clone().oneshot(listening).await.unwrap();
    let listening = tokio::spawn(read(listening));
    settle().await;
    server.restart();
    // A GET that is judged by a ping, a handshake in which the server pings,
    let behind = server.clone();
    answer(&server, "GET", move |seen| {
        match behind.live().iter().any(|id| Some(&**id) == seen.session()) {
            true => pending_sse(),
            false => behind.default_answer(seen),
        }
    });
    let behind = server.clone();
    answer(&server, "initialize", move |seen| {
        let made = behind.default_answer(seen);
        let ping = r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#;
        let result = json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": VERSION}});
        let mut answer = sse(&format!("data: {ping}\n\ndata: {result}\n\n"));
        answer.headers_mut().extend(made.headers().clone());
        answer
    });
    let found = tokio::spawn(client.clone().oneshot(marked(get(session, None))));
    settle().await;
    drop(found.await.unwrap().unwrap());
    send(post(Some(session), &call())).await;
    // a replay, and a session that is ended before it begins.
    server.restart();
    send(post(Some(session), &call())).await;
    answer(&server, "notifications/initialized", |_| {
        reply(500, None, "")
    });
    server.restart();
    send(post(Some(session), &call())).await;
    settle().await;
    listening.abort();

    // then nothing that was written for any of that is unmarked.
    let mut written = Vec::new();
    for seen in server.seen() {
        let what = seen.what();
        let by_caller = seen.session() == Some(session) && what != "ping";
        if let (false, Some(id)) = (by_caller, seen.headers.get(SESSION_ID)) {
            assert!(id.is_sensitive(), "{what}");
            written.push(what.clone());
        }
        for name in ["authorization", "cookie", "x-api-key"] {
            assert!(seen.headers[name].is_sensitive(), "{name} of {what}");
        }
    }
    written.sort();
    written.dedup();
    assert_eq!(
        written,
        [
            "DELETE",
            "GET",
            "POST",
            "logging/setLevel",
            "notifications/initialized",
            "ping",
            "resources/subscribe",
            "tools/call",
        ]
    );
}

/// L2, C2: the caller's id is marked where the layer writes it into a response.
#[tokio::test]
async fn l2_the_callers_id_is_marked_on_responses() {
    let server = Server::new(Profile::Python2);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    // Python servers say the id on everything.
    let behind = server.clone();
    server.on(move |seen| {
        let mut answer = behind.default_answer(seen);
        if let Some(id) = seen.headers.get(SESSION_ID) {
            let id = http::HeaderValue::from_bytes(id.as_bytes()).unwrap();
            answer.headers_mut().insert(SESSION_ID, id);
        }
        Some(answer)
    });
    server.restart();
    let mut answers = vec![
        send(&client, post(Some(&session), &initialized())).await,
        send(&client, post(Some(&session), &call())).await,
        send(&client, post(Some(&session), &initialized())).await,
    ];
    server.restart();
    answers.push(send(&client, post(Some(&session), &call())).await);
    // One whose replay meets a dead session again.
    let dead = server.clone();
    answer(&server, "tools/list", move |seen| {
        dead.restart();
        let mut answer = dead.default_answer(seen);
        let id = seen.headers[SESSION_ID].to_str().unwrap().parse().unwrap();
        answer.headers_mut().insert(SESSION_ID, id);
        answer
    });
    let list = rpc("1", "tools/list", json!({}));
    answers.push(send(&client, post(Some(&session), &list)).await);
    answers.push(send(&client, delete(&session)).await);

    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [202, 200, 202, 200, 404, 404]);
    for answer in answers {
        assert_eq!(answer.session(), Some(&*session));
        assert!(answer.headers[SESSION_ID].is_sensitive());
    }
}

/// L2: so a logging layer below, headers and all, shows no id that the layer wrote, and none of
/// the credentials that the caller had marked.
#[tokio::test]
async fn l2_a_trace_layer_below_shows_nothing_that_is_marked() {
    use tower_http::trace::{DefaultMakeSpan, TraceLayer};
    let (logs, _guard) = Logs::collect();
    let server = Server::new(Profile::TypeScript);
    let spans = DefaultMakeSpan::new()
        .level(tracing::Level::INFO)
        .include_headers(true);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .layer(TraceLayer::new_for_http().make_span_with(spans))
        .service(server.service());
    let send = |request: Request<CallerBody>| {
        let mut request = marked(request);
        if let Some(id) = request.headers_mut().get_mut(SESSION_ID) {
            id.set_sensitive(true);
        }
        let client = client.clone();
        async move {
            let response = client.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap()
        }
    };
    send(post(None, &initialize())).await;
    let session = "secret-session-1";
    send(post(Some(session), &initialized())).await;
    server.restart();
    send(post(Some(session), &call())).await;
    send(post(Some(session), &call())).await;

    assert_eq!(server.count("tools/call"), 3);
    let lines = logs.all();
    let requests: Vec<_> = lines.iter().filter(|line| line.name == "request").collect();
    assert_eq!(requests.len(), 7);
    for line in &lines {
        assert!(!line.fields.contains("secret"), "{line:?}");
    }
    let ids = requests
        .iter()
        .filter(|line| line.fields.contains("\"mcp-session-id\": Sensitive"));
    assert_eq!(ids.count(), 5);
}

/// L2, E11: the cookies that the layer puts on the trigger's answer, as it was told of them.
#[tokio::test(start_paused = true)]
async fn l2_the_cookies_of_a_handshake_are_marked_on_the_triggers_answer() {
    for is_replayed in [true, false] {
        let server = Server::new(Profile::Python2);
        let layer = SessionRecoveryLayer::new().replay_when(move |_| is_replayed);
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        let behind = server.clone();
        answer(&server, "initialize", move |seen| {
            let mut made = behind.default_answer(seen);
            let set = "route=secret-replica".parse().unwrap();
            made.headers_mut().insert("set-cookie", set);
            made
        });
        let trigger = marked(post(Some(&session), &call()));
        let answer = send(&client, trigger).await;
        assert_eq!(answer.status, if is_replayed { 200 } else { 404 });
        assert!(answer.headers["set-cookie"].is_sensitive());
    }
}
