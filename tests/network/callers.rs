//! Those who call: each has a session, makes calls in it, listens, begins anew at times, and ends
//! what it has begun.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tower::ServiceExt;

use crate::{
    account::World,
    client::{CALLER, RECOVERY, SENDING, SESSION_ID, Stack},
    plan::{CALM_CALL, Plan},
    random::Random,
};

/// A request waits for a recovery, is sent, is given another recovery, and is sent again.
const HEAD: Duration = Duration::from_millis(2 * (3_000 + 5_000) + 200);
/// What is under way when the connection breaks takes that long to be noticed, besides.
const CALL: Duration = Duration::from_secs(40);

const _: () = assert!(SENDING.as_secs() == 3 && RECOVERY.as_secs() == 5);

pub async fn live(number: usize, world: World, client: Stack, plan: Arc<Plan>) {
    let mut random = Random::of(plan.seed, 100 + number as u64);
    let mut me = Caller::begin(&world, &client, &plan).await;
    loop {
        let now = me.now();
        if now >= plan.end {
            break;
        }
        let is_storm = plan.is_storm(now);
        let is_calm = plan.calm_at(now).is_some();
        if is_storm && random.chance(4) {
            me.end().await;
            me = Caller::begin(&world, &client, &plan).await;
            continue;
        }
        if random.chance(10) && me.listening.is_none() {
            me.listen();
        }
        if !plan.is_quiet(now) {
            let mut calls = JoinSet::new();
            for _ in 0..1 + random.below(3) {
                let gives_up = is_storm && random.chance(10);
                let gives_up = gives_up.then(|| Duration::from_millis(random.below(2_000)));
                calls.spawn(me.clone().call(gives_up));
            }
            calls.join_all().await;
        }
        let most = if is_storm || is_calm { 1_200 } else { 6_000 };
        sleep(Duration::from_millis(random.below(most))).await;
    }
    me.end().await;
}

#[derive(Clone)]
struct Caller {
    number: usize,
    world: World,
    client: Stack,
    plan: Arc<Plan>,
    id: HeaderValue,
    listening: Option<AbortHandle>,
}

enum Told {
    Answer,
    Lost,
    Status(StatusCode),
    Broken(String),
}

impl Caller {
    fn now(&self) -> u64 {
        self.world.state().now().as_millis() as u64
    }

    fn request(&self, method: Method, message: Option<Value>) -> Request<Full<Bytes>> {
        let body = message.map_or_else(Bytes::new, |it| Bytes::from(it.to_string()));
        let request = Request::builder()
            .method(method)
            .uri("http://server/mcp")
            .header(CALLER, self.number)
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(Full::new(body));
        let mut request = request.expect("a request");
        if !self.id.is_empty() {
            let headers = request.headers_mut();
            headers.insert(SESSION_ID, self.id.clone());
            headers.insert(
                "mcp-protocol-version",
                HeaderValue::from_static("2025-11-25"),
            );
        }
        request
    }

    /// Makes a session, however often that takes.
    async fn begin(world: &World, client: &Stack, plan: &Arc<Plan>) -> Self {
        let number = {
            let mut state = world.state();
            state.last_owner += 1;
            state.last_owner
        };
        let mut me = Self {
            number,
            world: world.clone(),
            client: client.clone(),
            plan: plan.clone(),
            id: HeaderValue::from_static(""),
            listening: None,
        };
        let initialize = json!({
            "jsonrpc": "2.0",
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": { "name": number.to_string(), "version": "1" },
            },
        });
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        loop {
            let request = me.request(Method::POST, Some(initialize.clone()));
            if let Ok(response) = me.client.clone().oneshot(request).await {
                let id = response.headers().get(SESSION_ID).cloned();
                let body = response.into_body().collect().await;
                if let Some(id) = id {
                    me.id = id;
                    let request = me.request(Method::POST, Some(initialized.clone()));
                    let answer = me.client.clone().oneshot(request).await;
                    if body.is_ok() && answer.is_ok_and(|it| it.status().is_success()) {
                        break;
                    }
                    me.delete().await;
                    me.id = HeaderValue::from_static("");
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
        me.world.state().living.push(number);
        me
    }

    async fn end(self) {
        self.delete().await;
        if let Some(listening) = self.listening {
            listening.abort();
        }
        self.world.state().living.retain(|it| *it != self.number);
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
            sleep(Duration::from_millis(300)).await;
        }
    }

    fn listen(&mut self) {
        let me = self.clone();
        let listening = tokio::spawn(async move {
            loop {
                let request = me.request(Method::GET, None);
                if let Ok(response) = me.client.clone().oneshot(request).await {
                    let mut body = response.into_body();
                    while let Some(Ok(_)) = body.frame().await {}
                }
                sleep(Duration::from_millis(700)).await;
            }
        });
        self.listening = Some(listening.abort_handle());
    }

    async fn call(self, gives_up: Option<Duration>) {
        let (key, start) = {
            let mut state = self.world.state();
            (state.next_key(), state.now())
        };
        let calling = self.tell(key);
        let told = match gives_up {
            None => timeout(CALL, calling).await,
            Some(after) => match timeout(after, calling).await {
                Ok(told) => Ok(told),
                Err(_) => return,
            },
        };
        let state = &mut *self.world.state();
        let (end, number, times) = (state.now(), self.number, state.times(key));
        let Ok((told, head)) = told else {
            return state.check(false, "every call ends", || {
                format!("call {key} of {number}, of which there is no end")
            });
        };
        state.check(head - start <= HEAD, "every call ends", || {
            format!(
                "call {key} of {number} took {:?} to be answered",
                head - start
            )
        });
        let what = match &told {
            Told::Answer => {
                state.counts.succeeded += 1;
                state.check(times == 1, "an answer is to what was executed", || {
                    format!("call {key} was executed {times} times")
                });
                "its answer".to_owned()
            }
            Told::Lost => {
                state.counts.lost += 1;
                "that its answer is lost".to_owned()
            }
            Told::Status(status) => {
                let holds = *status != StatusCode::NOT_FOUND || times == 0;
                state.check(holds, "404 is told of what was not executed", || {
                    format!("call {key} was executed {times} times")
                });
                status.to_string()
            }
            Told::Broken(how) => {
                state.counts.broken += 1;
                how.clone()
            }
        };
        let took = end - start;
        state.tell(|| format!("{number}: call {key} is told {what} after {took:?}"));
        let (from, to) = (start.as_millis() as u64, end.as_millis() as u64);
        if self
            .plan
            .calm_at(from)
            .is_some_and(|calm| calm.holds(from, to))
        {
            state.counts.in_calm += 1;
            let holds = matches!(told, Told::Answer) && took <= CALM_CALL;
            state.check(holds, "while all is well every call succeeds", || {
                format!("call {key} of {number} was told {what} after {took:?}")
            });
        }
    }

    /// What a call is told, and when its head was there.
    async fn tell(&self, key: u64) -> (Told, Duration) {
        let message = json!({
            "jsonrpc": "2.0",
            "id": key,
            "method": "tools/call",
            "params": { "name": "count", "key": key },
        });
        let request = self.request(Method::POST, Some(message));
        let answer = self.client.clone().oneshot(request).await;
        let head = self.world.state().now();
        let response = match answer {
            Ok(response) => response,
            Err(error) => return (Told::Broken(error.to_string()), head),
        };
        let status = response.status();
        let is_stream = response.headers().get("content-type")
            == Some(&"text/event-stream".parse().expect("a header"));
        let mut text = Vec::new();
        let mut body = response.into_body();
        let broken = loop {
            match body.frame().await {
                None => break None,
                Some(Err(error)) => break Some(error.to_string()),
                Some(Ok(frame)) => text.extend(frame.into_data().unwrap_or_default()),
            }
        };
        if !status.is_success() {
            return (Told::Status(status), head);
        }
        let text = String::from_utf8_lossy(&text);
        let messages: Vec<Value> = match is_stream {
            true => events(&text).collect(),
            false => serde_json::from_str(&text).into_iter().collect(),
        };
        let mut own = messages.iter().filter(|it| it["id"] == json!(key));
        let (first, second) = (own.next(), own.next());
        let mut state = self.world.state();
        state.check(second.is_none(), "one answer", || {
            format!("call {key}: {text}")
        });
        let strangers = messages
            .iter()
            .any(|it| it.get("id").is_some_and(|id| *id != json!(key)));
        state.check(!strangers, "one's own answers", || {
            format!("call {key}: {text}")
        });
        let told = match first {
            Some(answer) if answer["result"]["key"] == json!(key) => Told::Answer,
            Some(answer) if answer["error"]["code"] == json!(-32000) => Told::Lost,
            _ => {
                state.check(!is_stream, "an answer that is lost is told", || {
                    format!("call {key} was told {text:?} and {broken:?}")
                });
                Told::Broken(broken.unwrap_or_else(|| text.into_owned()))
            }
        };
        (told, head)
    }
}

/// The messages of the events that are whole, and of the type that MCP knows: the layer gives one
/// that was cut another type.
fn events(text: &str) -> impl Iterator<Item = Value> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    whole.split("\n\n").filter_map(|event| {
        let field = |name: &str| event.lines().rev().find_map(|it| it.strip_prefix(name));
        let is_message = field("event: ").is_none_or(|it| it == "message");
        let data = field("data: ").filter(|_| is_message)?;
        serde_json::from_str(data).ok()
    })
}
