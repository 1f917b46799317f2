//! Sessions that outlive the proxy, with real clients, servers and `redis-server` (rules N1, N3, N4).

use std::{
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode, header};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use testing::loopback::soon;
use tokio::{net::TcpListener, time::sleep};

use crate::{
    process::{Client, Program, Server, free_port},
    program::Proxy,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A `redis-server`. It is killed when this is dropped.
pub struct Redis {
    pub port: u16,
    process: Option<Child>,
    directory: TempDir,
}

impl Redis {
    pub async fn start() -> Self {
        let mut redis = Self {
            port: free_port(),
            process: None,
            directory: tempfile::tempdir().expect("a directory"),
        };
        redis.run(&[]).await;
        redis
    }

    /// Starts it, with nothing in it but what the arguments bring.
    pub async fn run(&mut self, arguments: &[&str]) {
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--repl-diskless-sync-delay", "0"])
            .args(arguments)
            .current_dir(&self.directory)
            .stdout(Stdio::null())
            .spawn();
        self.process = Some(process.expect("tests/stores/install has been run"));
        self.until("redis-server answers", &["ping"], "PONG").await;
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        let killed = Command::new("kill").args([signal, &pid]).status();
        assert!(killed.expect("kill").success());
    }

    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output();
        let output = output.expect("tests/stores/install has been run");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub async fn until(&self, what: &str, arguments: &[&str], says: &str) {
        soon(what, async {
            while !self.cli(arguments).contains(says) {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A hop that sends each request to the next of its URLs, and notes what came of it.
#[derive(Clone)]
struct Hop {
    urls: Arc<Vec<String>>,
    turn: Arc<Mutex<usize>>,
    seen: Arc<Mutex<Vec<Passed>>>,
    client: HyperClient<HttpConnector, Body>,
}

struct Passed {
    method: Method,
    /// Its session's id, in the request and in the answer.
    asked: Option<String>,
    answered: Option<String>,
    status: StatusCode,
}

impl Hop {
    async fn start(urls: impl IntoIterator<Item = String>) -> (Self, String) {
        let hop = Self {
            urls: Arc::new(urls.into_iter().collect()),
            turn: Arc::default(),
            seen: Arc::default(),
            client: HyperClient::builder(TokioExecutor::new()).build_http(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().fallback(pass).with_state(hop.clone());
        // It ends with the runtime of the test.
        tokio::spawn(async move { axum::serve(listener, router).await });
        (hop, url)
    }

    /// The sessions that were made, and those that were ended, from a request on.
    fn sessions_since(&self, first: usize) -> (Vec<String>, Vec<String>) {
        let seen = self.seen.lock().unwrap();
        let seen = &seen[first..];
        let is_made = |it: &&Passed| it.asked.is_none() && it.status.is_success();
        let made = seen.iter().filter(is_made);
        let is_ended = |it: &&Passed| it.method == Method::DELETE && it.status.is_success();
        let ended = seen.iter().filter(is_ended);
        (
            made.filter_map(|it| it.answered.clone()).collect(),
            ended.filter_map(|it| it.asked.clone()).collect(),
        )
    }

    /// The ids of the last sessions that something was posted in.
    fn last_asked(&self, many: usize) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap();
        let posts = seen.iter().rev().filter(|it| it.method == Method::POST);
        posts.take(many).map(|it| it.asked.clone()).collect()
    }

    fn len(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

async fn pass(State(hop): State<Hop>, mut request: Request) -> Response {
    let url = {
        let mut turn = hop.turn.lock().unwrap();
        *turn += 1;
        &hop.urls[*turn % hop.urls.len()]
    };
    *request.uri_mut() = url.parse().unwrap();
    request.headers_mut().remove(header::HOST);
    let session = |headers: &HeaderMap| {
        let id = headers.get("mcp-session-id")?;
        Some(id.to_str().unwrap().to_owned())
    };
    let (method, asked) = (request.method().clone(), session(request.headers()));
    let response = match hop.client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    };
    hop.seen.lock().unwrap().push(Passed {
        method,
        asked,
        answered: session(response.headers()),
        status: response.status(),
    });
    response
}

async fn echoes(client: &mut Client, when: &str) {
    let answer = client.call("echo", json!({"text": when}), PATIENCE).await;
    let answer = answer.unwrap_or_else(|| panic!("{when}: {:?}", client.seen()));
    assert_eq!(answer["text"], when, "{answer}");
}

/// Ends a proxy, by a signal, and starts another at the same place.
async fn restarted(proxy: Proxy, signal: &str, upstream: &str, args: &[&str]) -> Proxy {
    proxy.signal(signal);
    proxy.ends().await;
    Proxy::start(upstream, args).await
}

/// N1: whatever is restarted, every call is answered.
async fn outlives(client: Program, server: Program, store: &str) {
    let mut server = Server::start(server).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let args = ["--listen", &*listen, "--store", store, "--grace", "0s"];
    let mut proxy = Proxy::start(&server.url(), &args).await;
    let mut client = Client::connect(client, &proxy.url).await;
    echoes(&mut client, "first").await;

    for round in 0..2 {
        // A signal that the proxy heeds, and one that it does not survive.
        let signal = ["TERM", "KILL"][round];
        server.restart().await;
        echoes(&mut client, "after the server's restart").await;
        proxy = restarted(proxy, signal, &server.url(), &args).await;
        echoes(&mut client, "after the proxy's restart").await;
        proxy.signal(signal);
        proxy.ends().await;
        server.restart().await;
        proxy = Proxy::start(&server.url(), &args).await;
        echoes(&mut client, "after both").await;
        echoes(&mut client, "and again").await;
    }
    let is_error = |event: &Value| event["event"] == "error";
    assert!(!client.seen().iter().any(is_error), "{:?}", client.seen());
}

async fn outlives_in_redis(client: Program, server: Program) {
    let redis = Redis::start().await;
    outlives(client, server, &redis.url()).await;
}

async fn outlives_in_a_file(client: Program, server: Program) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("sessions.redb");
    outlives(client, server, file.to_str().unwrap()).await;
}

const TS1: Program = Program::new("servers/ts1.mjs", &[]);
const PY1: Program = Program::new("servers/py1.py", &[]);

#[tokio::test]
#[ignore = "needs redis-server, Node.js and Python packages: tests/{stores,interop}/install"]
async fn n1_python_calls_through_all_restarts_with_redis() {
    outlives_in_redis(Program::new("clients/py1.py", &[]), TS1).await;
}

#[tokio::test]
#[ignore = "needs redis-server, Node.js and Python packages: tests/{stores,interop}/install"]
async fn n1_typescript_calls_through_all_restarts_with_redis() {
    outlives_in_redis(Program::new("clients/ts1.mjs", &[]), PY1).await;
}

#[tokio::test]
#[ignore = "needs Node.js and Python packages: tests/interop/install"]
async fn n1_python_calls_through_all_restarts_with_a_file() {
    outlives_in_a_file(Program::new("clients/py1.py", &[]), TS1).await;
}

#[tokio::test]
#[ignore = "needs Node.js and Python packages: tests/interop/install"]
async fn n1_typescript_calls_through_all_restarts_with_a_file() {
    outlives_in_a_file(Program::new("clients/ts1.mjs", &[]), PY1).await;
}

/// N3, N4: the requests of one client, in turns through two proxies.
#[tokio::test]
#[ignore = "needs redis-server, Node.js and Python packages: tests/{stores,interop}/install"]
async fn n3_n4_one_client_of_two_proxies_goes_on_in_one_epoch() {
    // Given a client of both, which has subscribed to something, through one of them,
    let redis = Redis::start().await;
    let mut server = Server::start(TS1).await;
    let (below, url) = Hop::start([server.url()]).await;
    let args = ["--store", &*redis.url(), "--log", "debug"];
    let one = Proxy::start(&url, &args).await;
    let other = Proxy::start(&url, &args).await;
    let (_above, url) = Hop::start([one.url.clone(), other.url.clone()]).await;
    let mut client = Client::connect(Program::new("clients/py1.py", &[]), &url).await;
    let subscribe = json!({"do": "subscribe", "uri": "test://counter"});
    let subscribe = client.does(subscribe).await;
    let subscribed = client.outcome(subscribe, PATIENCE).await.unwrap();
    assert_eq!(subscribed["event"], "result", "{subscribed}");
    echoes(&mut client, "through one").await;
    echoes(&mut client, "through the other").await;

    for loss in 0..3 {
        // when the server is restarted, and both find out at once,
        let before = below.len();
        server.restart().await;
        let echo = json!({"do": "call", "tool": "echo", "args": {"text": "at once"}});
        let calls = [
            client.does(echo.clone()).await,
            client.does(echo.clone()).await,
        ];
        for call in calls {
            let answer = client.outcome(call, PATIENCE).await.unwrap();
            assert_eq!(answer["text"], "at once", "{answer}");
        }

        // then calls through both are answered, in the one session that is left,
        for _ in 0..4 {
            echoes(&mut client, "in turns").await;
        }
        soon("one session is left", async {
            loop {
                let (made, ended) = below.sessions_since(before);
                assert!((1..=2).contains(&made.len()), "{loss}: {made:?}");
                if made.len() == ended.len() + 1 {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let (made, ended) = below.sessions_since(before);
        let left: Vec<_> = made.iter().filter(|id| !ended.contains(id)).collect();
        for id in below.last_asked(4) {
            assert_eq!(id.as_ref(), Some(left[0]), "{loss}");
        }

        // and the listening stream brings what the client has subscribed to.
        let before = client.seen().len();
        let is_updated = |event: &Value| event["method"] == "notifications/resources/updated";
        let mut tries = 0;
        while !client.seen()[before..].iter().any(is_updated) {
            tries += 1;
            let log = || [one.log(), other.log()].join("\n");
            assert!(tries < 30, "{loss}: {:?}\n{}", client.seen(), log());
            client.call("touch", json!({}), PATIENCE).await;
            sleep(Duration::from_millis(200)).await;
        }
    }
    let is_error = |event: &Value| event["event"] == "error";
    assert!(!client.seen().iter().any(is_error), "{:?}", client.seen());
}
