//! Three replicas behind a balancer that ties a session to one of them with a cookie (rule E11).

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    process::{Client, Program, Server},
    program::Proxy,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Forwards to the replica that the cookie names. Where there is none of that name, the next one in
/// turn is chosen, and its cookie set.
#[derive(Clone)]
struct Balancer {
    state: Arc<Mutex<Replicas>>,
    client: HyperClient<HttpConnector, Body>,
}

struct Replicas {
    /// Names and URLs.
    known: Vec<(String, String)>,
    turn: usize,
    /// Whose session each request was for, by the cookie that it went out with.
    last: String,
}

impl Balancer {
    async fn start(urls: impl IntoIterator<Item = String>) -> (Self, String, JoinHandle<()>) {
        let known = urls.into_iter().enumerate();
        let known = known.map(|(number, url)| (format!("{number}-0"), url));
        let balancer = Self {
            state: Arc::new(Mutex::new(Replicas {
                known: known.collect(),
                turn: 0,
                last: String::new(),
            })),
            client: HyperClient::builder(TokioExecutor::new()).build_http(),
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(balancer.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        (balancer, url, serving)
    }

    /// The replica that the last call went to.
    fn last(&self) -> usize {
        let last = self.state.lock().unwrap().last.clone();
        last.split('-').next().unwrap().parse().unwrap()
    }

    /// A replica has been replaced: no cookie names the new one yet.
    fn replace(&self, number: usize, generation: usize) {
        self.state.lock().unwrap().known[number].0 = format!("{number}-{generation}");
    }
}

async fn forward(State(balancer): State<Balancer>, mut request: Request) -> Response {
    let cookies = request.headers().get_all(header::COOKIE).iter();
    let route = cookies
        .filter_map(|it| it.to_str().ok())
        .flat_map(|it| it.split("; "))
        .find_map(|it| it.strip_prefix("route="))
        .map(str::to_owned);
    let is_call = request.method() == http::Method::POST;
    let ((name, url), is_new) = {
        let mut state = balancer.state.lock().unwrap();
        let named = state
            .known
            .iter()
            .find(|(name, _)| Some(name) == route.as_ref());
        let named = named.cloned();
        let is_new = named.is_none();
        let chosen = named.unwrap_or_else(|| {
            state.turn += 1;
            state.known[state.turn % state.known.len()].clone()
        });
        if is_call {
            state.last = chosen.0.clone();
        }
        (chosen, is_new)
    };
    *request.uri_mut() = url.parse().unwrap();
    request.headers_mut().remove(header::HOST);
    let mut response = match balancer.client.request(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    };
    if is_new {
        let cookie = format!("route={name}; Path=/; HttpOnly");
        let cookie = HeaderValue::from_str(&cookie).unwrap();
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

#[tokio::test]
#[ignore = "needs Python packages: tests/interop/install"]
async fn e11_the_first_call_after_each_of_ten_losses_is_answered() {
    // Given a client that keeps cookies, through the proxy and a balancer, of three replicas,
    let program = Program::new("servers/py1.py", &["--json"]);
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Server::start(program).await);
    }
    let (balancer, url, _serving) = Balancer::start(replicas.iter().map(Server::url)).await;
    let mut proxy = Proxy::start(&url, &["--log", "debug"]).await;
    let mut client = Client::connect(Program::new("clients/py1.py", &[]), &proxy.url).await;
    let mut served = Vec::new();

    for loss in 1..=10 {
        let answer = client.call("echo", json!({"text": "hello"}), PATIENCE);
        assert_eq!(answer.await.expect("an answer")["text"], "hello");

        // when the replica that has the session is killed and another takes its place,
        let number = balancer.last();
        replicas[number].restart().await;
        balancer.replace(number, loss);

        // then the first call is answered, by another one,
        let answer = client.call("echo", json!({"text": "hello"}), PATIENCE);
        let answer = answer.await.expect("an answer");
        assert_eq!(
            answer["text"],
            "hello",
            "loss {loss}: {answer}\n{}",
            proxy.log()
        );
        served.push(balancer.last());
        // with one handshake.
        proxy.logs_often("session recovered", loss).await;
        let recovered = proxy.log().matches("session recovered").count();
        assert_eq!(recovered, loss, "{}", proxy.log());
        assert!(
            !proxy.log().contains("session not recovered"),
            "{}",
            proxy.log()
        );
    }
    let is_error = |event: &serde_json::Value| event["event"] == "error";
    assert!(!client.seen().iter().any(is_error), "{:?}", client.seen());
    println!("\n| ten losses behind a balancer | answered, by replicas {served:?} |");
}
