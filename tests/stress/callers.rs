//! Those who call.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{Outcome, Recovery, SessionRecovery};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::{
    random::Random,
    server::{BEGAN, CALLER, SESSION_ID, Server, Service},
};

pub const RECOVERY: Duration = Duration::from_secs(2);
pub const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// Whoever waits longer waits for ever: nothing takes more than the time of a few recoveries.
const FOR_EVER: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Caller {
    number: u64,
    server: Arc<Server>,
    client: SessionRecovery<Service>,
    id: HeaderValue,
    /// How often the layer had forgotten everybody when the session began.
    forgotten: u64,
}

#[derive(Debug)]
enum Told {
    Answer,
    Lost,
    Status(StatusCode),
    Broken,
}

impl Caller {
    pub fn new(number: u64, server: Arc<Server>, client: SessionRecovery<Service>) -> Self {
        Self {
            number,
            server,
            client,
            id: HeaderValue::from_static(""),
            forgotten: 0,
        }
    }

    pub async fn live(mut self, ends: Instant) {
        let mut random = Random::of(self.number, 3);
        self.begin().await;
        let mut listening = JoinSet::new();
        while Instant::now() < ends {
            let mut calls = JoinSet::new();
            for _ in 0..1 + random.below(4) {
                let calling = self.clone().call();
                let drops = random.chance(15).then(|| random.below(6_000));
                let server = self.server.clone();
                calls.spawn(async move {
                    let Some(micros) = drops else {
                        return calling.await;
                    };
                    let calling = timeout(Duration::from_micros(micros), calling);
                    calling.await.unwrap_or_else(|_| {
                        server.counts().dropped.fetch_add(1, Ordering::Relaxed);
                        Told::Broken
                    })
                });
            }
            let told = calls.join_all().await;
            if random.chance(5) && listening.len() < 2 {
                listening.spawn(self.clone().listen());
            }
            let is_unknown = told
                .iter()
                .all(|it| matches!(it, Told::Status(StatusCode::NOT_FOUND)));
            if random.chance(if is_unknown { 30 } else { 2 }) {
                self.delete().await;
                listening.abort_all();
                self.begin().await;
            }
            sleep(Duration::from_millis(random.below(4))).await;
            while listening.try_join_next().is_some() {}
        }
        self.delete().await;
    }

    /// Every call succeeds, also after all sessions were forgotten.
    pub async fn live_well(mut self) {
        self.begin().await;
        for round in 0..2 {
            if self.server.meet().await && round == 1 {
                self.server.forget_all();
            }
            self.server.meet().await;
            for _ in 0..4 {
                let told = self.clone().call().await;
                self.server.check(matches!(told, Told::Answer), || {
                    format!(
                        "all is well, and {} was told {told:?} in round {round}",
                        self.number
                    )
                });
            }
        }
        self.delete().await;
    }

    fn request(&self, method: Method, message: Option<Value>) -> Request<Full<Bytes>> {
        let body = message.map_or_else(Bytes::new, |it| Bytes::from(it.to_string()));
        let mut request = Request::builder()
            .method(method)
            .uri("http://server/mcp")
            .header(CALLER, self.number)
            .header(BEGAN, self.server.next_in_order())
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json");
        if !self.id.is_empty() {
            request = request.header(SESSION_ID, &self.id);
        }
        request.body(Full::new(body)).expect("a request")
    }

    async fn begin(&mut self) {
        self.id = HeaderValue::from_static("");
        self.forgotten = self.server.times_forgotten();
        let initialize = json!({
            "jsonrpc": "2.0",
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": { "name": "caller", "version": "1" },
            },
        });
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        loop {
            let request = self.request(Method::POST, Some(initialize.clone()));
            let response = self.client.clone().oneshot(request).await;
            let id = response
                .ok()
                .and_then(|it| it.headers().get(SESSION_ID).cloned());
            if let Some(id) = id {
                self.id = id;
                let request = self.request(Method::POST, Some(initialized.clone()));
                let answer = self.client.clone().oneshot(request).await;
                if answer.is_ok_and(|it| it.status().is_success()) {
                    return;
                }
                self.delete().await;
                self.id = HeaderValue::from_static("");
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks for the end until it is there.
    async fn delete(&self) {
        loop {
            let request = self.request(Method::DELETE, None);
            if let Ok(response) = self.client.clone().oneshot(request).await {
                let status = response.status();
                if status.is_success() || status == StatusCode::NOT_FOUND {
                    return;
                }
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn listen(self) {
        let request = self.request(Method::GET, None);
        if let Ok(response) = self.client.clone().oneshot(request).await {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
    }

    async fn call(self) -> Told {
        let key = self.server.next_key();
        let told = timeout(FOR_EVER, self.tell(key)).await;
        let Ok(told) = told else {
            self.server
                .check(false, || format!("call {key} has no end"));
            return Told::Broken;
        };
        let counts = self.server.counts();
        match told {
            Told::Answer => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                let holds = self.server.was_executed(key);
                self.server
                    .check(holds, || format!("call {key} was not executed"));
            }
            Told::Status(StatusCode::NOT_FOUND) => {
                let holds = !self.server.was_executed(key);
                self.server
                    .check(holds, || format!("call {key}: 404, and executed"));
            }
            Told::Lost => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
            }
            Told::Status(_) | Told::Broken => {}
        }
        told
    }

    async fn tell(&self, key: u64) -> Told {
        let message = json!({
            "jsonrpc": "2.0",
            "id": key,
            "method": "tools/call",
            "params": { "name": "count", "key": key },
        });
        let request = self.request(Method::POST, Some(message));
        let Ok(response) = self.client.clone().oneshot(request).await else {
            return Told::Broken;
        };
        let recovery = response.extensions().get::<Recovery>();
        let is_recovered = recovery.is_some_and(|it| it.outcome() == Outcome::Replayed);
        let counts = self.server.counts();
        counts
            .recovered
            .fetch_add(is_recovered.into(), Ordering::Relaxed);
        let status = response.status();
        let Ok(body) = response.into_body().collect().await;
        if !status.is_success() {
            return Told::Status(status);
        }
        let body = body.to_bytes();
        let text = String::from_utf8_lossy(&body);
        // One that was cut has been given another type.
        let whole = text
            .split("\n\n")
            .filter(|event| !event.contains("event: truncated"));
        let data =
            whole.filter_map(|event| event.lines().rev().find_map(|it| it.strip_prefix("data: ")));
        let mut messages: Vec<Value> = data
            .filter_map(|it| serde_json::from_str(it).ok())
            .collect();
        messages.extend(serde_json::from_str::<Value>(&text));
        let is_its = |message: &Value| message["id"] == json!(key);
        // An answer that was lost is told; but not by a layer that was made to forget the session.
        let is_known = self.forgotten == self.server.times_forgotten();
        let holds = match &*messages {
            [] => !is_known,
            [message] => is_its(message),
            _ => false,
        };
        self.server
            .check(holds, || format!("call {key} was told {text:?}"));
        match messages.first() {
            Some(message) if message["result"]["key"] == json!(key) => Told::Answer,
            Some(message) if message["error"]["code"] == json!(-32000) => Told::Lost,
            _ => Told::Broken,
        }
    }
}
