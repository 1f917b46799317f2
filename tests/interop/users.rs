//! Somebody else's token, with the Python SDK's own users (rule D8).

use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper_util::{client::legacy::Client as HyperClient, rt::TokioExecutor};
use serde_json::json;
use testing::loopback::soon;

use crate::{
    process::{Client, Program, Server},
    program::Proxy,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a user is answered who presents a session id with a token of its own.
async fn present(url: &str, method: Method, id: &str, token: &str) -> StatusCode {
    let client = HyperClient::builder(TokioExecutor::new()).build_http();
    let call = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "stolen"}},
    });
    let mut request = Request::builder()
        .uri(url)
        .method(method.clone())
        .header("accept", "application/json, text/event-stream")
        .header("authorization", format!("Bearer {token}"))
        .header("mcp-session-id", id)
        .header("mcp-protocol-version", "2025-11-25");
    let mut body = String::new();
    if method == Method::POST {
        request = request.header("content-type", "application/json");
        body = call.to_string();
    }
    let request = request.body(Full::<bytes::Bytes>::from(body)).unwrap();
    let response = soon("an answer", client.request(request)).await;
    response.expect("an answer").status()
}

async fn echo(client: &mut Client) {
    let answer = client.call("echo", json!({"text": "hello"}), PATIENCE);
    let answer = answer.await.expect("an answer");
    assert_eq!(answer["text"], "hello", "{answer}");
}

#[tokio::test]
#[ignore = "needs Python packages: tests/interop/install"]
async fn d8_a_second_user_of_the_python_sdk_ends_no_session() {
    // Given a user of a server with a token verifier, through the proxy,
    let mut server = Server::start(Program::new("servers/py1.py", &["--users"])).await;
    let mut proxy = Proxy::start(&server.url(), &["--log", "debug"]).await;
    let program = Program::new("clients/py1.py", &["--token", "ada"]);
    let mut ada = Client::connect(program, &proxy.url).await;
    let connected = ada
        .sees(PATIENCE, |event| event["event"] == "session")
        .await;
    let id = connected.expect("its session")["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let subscribe = json!({"do": "subscribe", "uri": "test://counter"});
    let subscribe = ada.does(subscribe).await;
    ada.outcome(subscribe, PATIENCE).await.expect("an answer");

    for epoch in 0..2 {
        // when another one presents the id, again and again, in turns with its owner,
        for _ in 0..10 {
            for method in [Method::POST, Method::GET, Method::DELETE] {
                let status = present(&proxy.url, method.clone(), &id, "eve").await;
                // then that one is answered what the server answers,
                assert_eq!(status, StatusCode::NOT_FOUND, "{method} {epoch}");
            }
            echo(&mut ada).await;
        }
        // no session is made,
        let recovered = proxy.log().matches("session recovered").count();
        assert_eq!(recovered, epoch, "{}", proxy.log());
        // the owner's listening stream goes on,
        let before = ada.seen().len();
        let mut tries = 0;
        let is_updated =
            |event: &serde_json::Value| event["method"] == "notifications/resources/updated";
        while !ada.seen()[before..].iter().any(is_updated) {
            tries += 1;
            assert!(tries < 20, "{:?}\n{}", ada.seen(), proxy.log());
            ada.call("touch", json!({}), PATIENCE).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        // and so does the session when it is lost, as its owner's.
        server.restart().await;
        echo(&mut ada).await;
        proxy.logs_often("session recovered", epoch + 1).await;
    }
    assert!(!proxy.log().contains("eve") && !proxy.log().contains(&id));
    let is_error = |event: &serde_json::Value| event["event"] == "error";
    assert!(!ada.seen().iter().any(is_error), "{:?}", ada.seen());
}
