//! A call whose session is replaced before its answer has begun (rule G6): it is executed once, and
//! the client's user is told.

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Uri, header};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client as HyperClient, rt::TokioExecutor};
use mcp_session_recovery::SessionRecoveryLayer;
use serde_json::{Value, json};
use testing::{
    Reply, json_reply,
    loopback::{Loopback, Tap, event_stream, soon, tap},
    reply,
};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

use crate::process::{Client, Program};

const PATIENCE: Duration = Duration::from_secs(20);
const ORPHAN_TIMEOUT: Duration = Duration::from_millis(300);

/// A server that answers in JSON. A payment is made at once, and its answer never begins.
#[derive(Clone, Default)]
struct Till(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    payments: usize,
    /// The number of the only session, which is that of the last handshake, too.
    session: usize,
    is_lost: bool,
    /// The listening streams.
    listening: Vec<Tap>,
}

impl Till {
    async fn start() -> (Self, Loopback) {
        let till = Self::default();
        let serving = till.clone();
        let service = service_fn(move |request: Request<_>| {
            let till = serving.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = collected(body).await;
                let message = serde_json::from_slice(&body).unwrap_or_default();
                Ok::<_, Infallible>(till.answer(&head, &message).await)
            }
        });
        (till, Loopback::serve(service).await)
    }

    async fn answer(&self, head: &http::request::Parts, message: &Value) -> Reply {
        let (id, method) = (&message["id"], message["method"].as_str());
        let answer =
            |result: Value| json_reply(200, &json!({"jsonrpc": "2.0", "id": id, "result": result}));
        let refuse = |status, text: &str| {
            let error = json!({"code": -32000, "message": text});
            json_reply(
                status,
                &json!({"jsonrpc": "2.0", "id": null, "error": error}),
            )
        };
        let session = head.headers.get("mcp-session-id");
        let pays = method == Some("tools/call") && message["params"]["name"] == "pay";
        {
            let mut state = self.0.lock().unwrap();
            let current = format!("session-{}", state.session);
            match session {
                None if method == Some("initialize") => {
                    state.session += 1;
                    state.is_lost = false;
                    let mut answer = answer(json!({
                        "protocolVersion": "2025-11-25",
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "till", "version": "1"},
                    }));
                    let id = format!("session-{}", state.session).parse().unwrap();
                    answer.headers_mut().insert("mcp-session-id", id);
                    return answer;
                }
                None => return refuse(400, "Bad Request: Mcp-Session-Id header is required"),
                Some(id) if state.is_lost || *id != *current => {
                    return refuse(404, "Session not found");
                }
                Some(_) if head.method == Method::GET => {
                    let (tap, body) = tap();
                    state.listening.push(tap);
                    return event_stream(body);
                }
                Some(_) => state.payments += usize::from(pays),
            }
        }
        match method {
            Some("tools/call") if pays => pending().await,
            Some("tools/call") => {
                let text = &message["params"]["arguments"]["text"];
                answer(json!({"content": [{"type": "text", "text": text}]}))
            }
            Some("tools/list") => {
                let tool = |name| json!({"name": name, "inputSchema": {"type": "object"}});
                answer(json!({"tools": [tool("pay"), tool("echo")]}))
            }
            Some(_) if !id.is_null() => answer(json!({})),
            _ => reply(202, None, ""),
        }
    }

    fn payments(&self) -> usize {
        self.0.lock().unwrap().payments
    }

    /// The session is lost, and with it the listening stream: who has one finds it out.
    fn lose(&self) {
        let mut state = self.0.lock().unwrap();
        state.is_lost = true;
        state.listening.clear();
    }
}

/// The layer as a proxy, with less patience than the real one has.
async fn recovering(upstream: &str) -> Loopback {
    let upstream: Uri = upstream.parse().expect("a URL");
    let client = HyperClient::builder(TokioExecutor::new()).build_http();
    let layer = SessionRecoveryLayer::new().orphan_timeout(ORPHAN_TIMEOUT);
    let forwarding = layer
        .layer(client)
        .map_request(move |mut request: Request<_>| {
            *request.uri_mut() = upstream.clone();
            request.headers_mut().remove(header::HOST);
            request
        });
    Loopback::serve(forwarding).await
}

async fn collected<B>(body: B) -> bytes::Bytes
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    body.collect().await.expect("a body").to_bytes()
}

async fn until(what: &str, happened: impl Fn() -> bool) {
    soon(what, async {
        while !happened() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

async fn pays_once(program: Program) {
    // Given a client that listens, and has made a payment whose answer has not begun,
    let (till, server) = Till::start().await;
    let proxy = recovering(&server.url()).await;
    let mut client = Client::connect(program, &proxy.url()).await;
    let listening = || !till.0.lock().unwrap().listening.is_empty();
    until("it listens", listening).await;
    let pay = json!({"do": "call", "tool": "pay", "args": {}});
    let pay = client.does(pay).await;
    until("a payment", || till.payments() == 1).await;

    // when its session is lost, and replaced,
    till.lose();
    let echo = json!({"do": "call", "tool": "echo", "args": {"text": "hello"}});
    let echo = client.does(echo).await;

    // then its user is told that the payment may have been made,
    let lost = client.outcome(pay, PATIENCE).await;
    let lost = lost.unwrap_or_else(|| panic!("hangs: {:?}", client.seen()));
    assert_eq!(lost["code"], -32000, "{lost}");
    assert_eq!(lost["data"]["reason"], "session_expired", "{lost}");
    // other calls are answered,
    let echo = client.outcome(echo, PATIENCE).await.expect("an answer");
    assert_eq!(echo["text"], "hello", "{echo}");
    let again = client.call("echo", json!({"text": "again"}), PATIENCE);
    let again = again.await.expect("an answer");
    assert_eq!(again["text"], "again", "{again}");
    // and it was made once, with one handshake for the loss.
    sleep(2 * ORPHAN_TIMEOUT).await;
    assert_eq!(till.payments(), 1, "{:?}", client.seen());
    assert_eq!(till.0.lock().unwrap().session, 2, "{:?}", client.seen());
    println!(
        "\n| client {}, a call without a head | told, executed once |",
        program.name()
    );
}

macro_rules! once {
    ($($name:ident: $script:literal $($flag:literal)*;)*) => {$(
        #[tokio::test]
        #[ignore = "needs Node.js and Python packages: tests/interop/install"]
        async fn $name() {
            pays_once(Program::new($script, &[$($flag),*])).await;
        }
    )*};
}

once! {
    g6_once_ts1: "clients/ts1.mjs";
    g6_once_ts2: "clients/ts2.mjs";
    g6_once_py1: "clients/py1.py";
    g6_once_py2: "clients/py2.py";
    g6_once_fastmcp4: "clients/fastmcp4.py";
    g6_once_rmcp: "rmcp";
}
