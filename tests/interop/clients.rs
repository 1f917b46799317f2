//! Every client, with the server behind it killed: through the proxy, and without.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    process::{Client, Program, Server},
    program::Proxy,
};

/// What happens at all happens within seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Without the proxy, who says nothing for so long is said to hang.
const HANGS: Duration = Duration::from_secs(8);

async fn survives(client: Program, server: Program) {
    let without = without_proxy(client, server).await;
    let with = with_proxy(client, server).await;
    let cells: Vec<_> = without
        .iter()
        .zip(with)
        .map(|(without, with)| format!("{without} → {with}"))
        .collect();
    println!(
        "\n| client {}, server {} | {} |",
        client.name(),
        server.name(),
        cells.join(" | ")
    );
}

async fn echo(client: &mut Client, patience: Duration) -> Option<Value> {
    client
        .call("echo", json!({"text": "hello"}), patience)
        .await
}

/// A call that will not have ended when the server is killed.
async fn begin_slow(client: &mut Client) -> u64 {
    let slow = json!({"do": "call", "tool": "slow", "args": {"seconds": 600}});
    client.does(slow).await
}

fn is_updated(event: &Value) -> bool {
    event["event"] == "notification" && event["method"] == "notifications/resources/updated"
}

async fn with_proxy(client: Program, server: Program) -> [String; 3] {
    // Given a client whose user has subscribed to something,
    let mut server = Server::start(server).await;
    let mut proxy = Proxy::start(&server.url(), &["--log", "debug"]).await;
    let mut client = Client::connect(client, &proxy.url).await;
    let subscribe = client
        .does(json!({"do": "subscribe", "uri": "test://counter"}))
        .await;
    let subscribed = client
        .outcome(subscribe, PATIENCE)
        .await
        .expect("an outcome");
    assert_eq!(subscribed["event"], "result", "{subscribed}");
    let before = echo(&mut client, PATIENCE).await.expect("an answer");
    assert_eq!(before["text"], "hello");

    // when the server is killed and restarted, then the user sees no error,
    server.restart().await;
    let after = echo(&mut client, PATIENCE).await.expect("an answer");
    assert_eq!(after["text"], "hello", "{after}");
    let is_error = |event: &Value| event["event"] == "error";
    assert!(!client.seen().iter().any(is_error), "{:?}", client.seen());

    // and when it is killed with a call in flight, then its user is told what became of it,
    let streams = "method=POST status=200";
    let before = proxy.log().matches(streams).count();
    let slow = begin_slow(&mut client).await;
    proxy.logs_often(streams, before + 1).await;
    server.restart().await;
    let lost = client.outcome(slow, PATIENCE).await;
    let lost = lost.unwrap_or_else(|| panic!("hangs: {:?}", client.seen()));
    assert_eq!(lost["code"], -32000, "{lost}");
    let reason = lost["data"]["reason"].as_str().unwrap_or_default();
    assert!(
        ["stream_ended", "session_expired"].contains(&reason),
        "{lost}"
    );

    // and is notified of what it has subscribed to,
    let mut tries = 0;
    while client.sees(Duration::ZERO, is_updated).await.is_none() {
        tries += 1;
        assert!(tries < 10, "{:?}\n{}", client.seen(), proxy.log());
        let touched = client
            .call("touch", json!({}), PATIENCE)
            .await
            .expect("an answer");
        assert_eq!(touched["text"], "touched", "{touched}");
        client.sees(Duration::from_secs(2), is_updated).await;
    }
    // with one handshake for each loss, and nothing else to be told of.
    proxy.logs("epoch=2").await;
    let recovered = proxy.log().matches("session recovered").count();
    assert_eq!(recovered, 2, "{}", proxy.log());
    let close = client.does(json!({"do": "close"})).await;
    let closed = client
        .sees(PATIENCE, |event| event["event"] == "closed")
        .await;
    assert!(closed.is_some(), "{close}: {:?}", client.seen());
    [
        "answered".to_owned(),
        format!("error `{reason}`"),
        "notified".to_owned(),
    ]
}

/// What is seen is noted, and not judged. A client that has lost its session is of no use any
/// more, so each part has one of its own.
async fn without_proxy(program: Program, server: Program) -> [String; 3] {
    let mut server = Server::start(server).await;
    let url = server.url();
    let mut client = Client::connect(program, &url).await;
    echo(&mut client, PATIENCE).await;
    server.restart().await;
    let after = echo(&mut client, HANGS).await;
    let after = told(&client, after);

    let mut client = Client::connect(program, &url).await;
    let subscribe = client
        .does(json!({"do": "subscribe", "uri": "test://counter"}))
        .await;
    client.outcome(subscribe, PATIENCE).await;
    let slow = begin_slow(&mut client).await;
    // Nothing here tells that it is under way, but most likely it then is.
    echo(&mut client, PATIENCE).await;
    sleep(Duration::from_millis(500)).await;
    server.restart().await;
    let lost = client.outcome(slow, HANGS).await;
    let lost = told(&client, lost);

    client.call("touch", json!({}), HANGS).await;
    let notified = client.sees(Duration::from_secs(2), is_updated).await;
    let notified = if notified.is_some() {
        "notified"
    } else {
        "silence"
    };
    [after, lost, notified.to_owned()]
}

/// A server that answers in JSON has said nothing yet when it is killed, and is away for a moment.
async fn rides_out(client: Program, server: Program) {
    let without = without_wait(client, server).await;
    let names = [client.name(), server.name()];
    // Given a client with a call under way,
    let mut server = Server::start(server).await;
    let mut proxy = Proxy::start(&server.url(), &["--log", "debug"]).await;
    let mut client = Client::connect(client, &proxy.url).await;
    let before = echo(&mut client, PATIENCE).await.expect("an answer");
    assert_eq!(before["text"], "hello");
    let slow = begin_slow(&mut client).await;
    // Nothing tells that it is under way, but most likely it then is.
    sleep(Duration::from_millis(500)).await;

    // when the server is killed, then its user is told at once that the answer is lost,
    server.kill().await;
    let lost = client.outcome(slow, PATIENCE).await;
    let lost = lost.unwrap_or_else(|| panic!("hangs: {:?}", client.seen()));
    assert_eq!(lost["code"], -32000, "{lost}");
    assert_eq!(lost["data"]["reason"], "connection_lost", "{lost}");

    // a call that is made meanwhile waits, and is answered when the server is back,
    let call = json!({"do": "call", "tool": "echo", "args": {"text": "again"}});
    let call = client.does(call).await;
    let early = client.outcome(call, Duration::from_secs(2)).await;
    assert_eq!(early, None, "{}", proxy.log());
    server.restart().await;
    let answer = client.outcome(call, PATIENCE).await;
    let answer = answer.unwrap_or_else(|| panic!("hangs: {:?}", client.seen()));
    assert_eq!(answer["text"], "again", "{answer}");

    // and so is the next.
    let after = echo(&mut client, PATIENCE).await.expect("an answer");
    assert_eq!(after["text"], "hello", "{after}");
    proxy.logs("epoch=1").await;
    println!(
        "\n| client {}, server {} away | {} → error `connection_lost` | {} → answered |",
        names[0], names[1], without[0], without[1]
    );
}

/// The same without the proxy, for the table.
async fn without_wait(program: Program, server: Program) -> [String; 2] {
    let mut server = Server::start(server).await;
    let mut client = Client::connect(program, &server.url()).await;
    echo(&mut client, PATIENCE).await;
    let slow = begin_slow(&mut client).await;
    sleep(Duration::from_millis(500)).await;
    server.kill().await;
    let lost = client.outcome(slow, HANGS).await;
    let lost = told(&client, lost);
    let away = echo(&mut client, HANGS).await;
    [lost, told(&client, away)]
}

/// What a user sees, for the table.
fn told(client: &Client, outcome: Option<Value>) -> String {
    match outcome {
        Some(event) if event["event"] == "result" => "answered".to_owned(),
        Some(event) => {
            let kind = event["type"].as_str().unwrap_or_default();
            let message = event["message"].as_str().unwrap_or_default();
            // TypeScript's holds the server's answer.
            let inner = message.split_once(r#""message":""#);
            let inner = inner.and_then(|(_, rest)| rest.split_once('"'));
            let message = inner.map_or(message, |(message, _)| message);
            format!("{kind}: {}", message.lines().next().unwrap_or_default())
        }
        None if client.has_ended() => "crashes".to_owned(),
        None => "hangs".to_owned(),
    }
}

const TS1: Program = Program::new("servers/ts1.mjs", &[]);
const PY2: Program = Program::new("servers/py2.py", &[]);
const TS1_JSON: Program = Program::new("servers/ts1.mjs", &["--json"]);
const PY2_JSON: Program = Program::new("servers/py2.py", &["--json"]);

macro_rules! clients {
    ($($name:ident: $server:ident, $script:literal $($flag:literal)*;)*) => {$(
        #[tokio::test]
        #[ignore = "needs Node.js and Python packages: tests/interop/install"]
        async fn $name() {
            survives(Program::new($script, &[$($flag),*]), $server).await;
        }
    )*};
}

macro_rules! away {
    ($($name:ident: $server:ident, $script:literal $($flag:literal)*;)*) => {$(
        #[tokio::test]
        #[ignore = "needs Node.js and Python packages: tests/interop/install"]
        async fn $name() {
            rides_out(Program::new($script, &[$($flag),*]), $server).await;
        }
    )*};
}

away! {
    away_ts1_of_ts1: TS1_JSON, "clients/ts1.mjs";
    away_ts2_of_py2: PY2_JSON, "clients/ts2.mjs";
    away_py1_of_ts1: TS1_JSON, "clients/py1.py";
    away_py1_of_py2: PY2_JSON, "clients/py1.py";
    away_py2_of_ts1: TS1_JSON, "clients/py2.py";
    away_fastmcp4_of_py2: PY2_JSON, "clients/fastmcp4.py" "--legacy";
    away_rmcp_of_ts1: TS1_JSON, "rmcp";
}

clients! {
    client_ts1_of_ts1: TS1, "clients/ts1.mjs";
    client_ts1_of_py2: PY2, "clients/ts1.mjs";
    client_ts2_of_ts1: TS1, "clients/ts2.mjs";
    client_ts2_of_py2: PY2, "clients/ts2.mjs";
    client_py1_of_ts1: TS1, "clients/py1.py";
    client_py1_of_py2: PY2, "clients/py1.py";
    client_py2_of_ts1: TS1, "clients/py2.py";
    client_py2_of_py2: PY2, "clients/py2.py" "--legacy";
    client_fastmcp4_of_ts1: TS1, "clients/fastmcp4.py";
    client_fastmcp4_of_py2: PY2, "clients/fastmcp4.py" "--legacy";
    client_rmcp_of_ts1: TS1, "rmcp";
    client_rmcp_of_py2: PY2, "rmcp";
}
