//! Clients above the layer: what they do, what they believe, and what they check.

mod belief;
mod exchange;
mod judgement;
mod lifecycle;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::poll;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, Recovery, Refusal, ResponseBody, SessionRecovery};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

use crate::{
    account::{Kind, Lineage, Tag},
    plan::{Action, Step},
    random::Random,
    reading::{Events, Said, messages},
    server::{Ids, PROTOCOL_VERSION, SESSION_ID, cookie},
    service::Servers,
    wire::{Broken, Sent, Wire},
    world::{State, World},
};

type Answer = Response<ResponseBody<Wire>>;

/// A client, and all that it has under way.
#[derive(Clone)]
pub struct Caller {
    pub world: World,
    pub layer: SessionRecovery<Servers>,
    number: usize,
    principal: usize,
    host: usize,
    memory: Arc<Mutex<Memory>>,
}

#[derive(Default)]
pub struct Memory {
    pub session: Option<Mine>,
    is_initializing: bool,
    token: u64,
    route: Option<String>,
    next_id: u64,
}

/// A client's session, and what it believes of it. `None` where it cannot know.
#[derive(Clone)]
pub struct Mine {
    pub lineage: usize,
    pub id: Option<HeaderValue>,
    version: Option<String>,
    pub level: Option<Option<String>>,
    pub subscriptions: BTreeMap<String, Option<bool>>,
    changing: BTreeSet<String>,
}

/// A request as a client makes it.
struct Outgoing {
    kind: Kind,
    method: Method,
    lineage: Option<usize>,
    session: Option<HeaderValue>,
    version: Option<String>,
    body: Value,
    padding: usize,
    /// By the id of the JSON-RPC request.
    calls: HashMap<u64, u64>,
    last_event_id: Option<String>,
    late: Option<Duration>,
    /// Polled once, and then not for a while.
    unpolled: Option<Duration>,
    patience: Duration,
}

/// What came of it.
struct Outcomes {
    tag: Tag,
    start: Instant,
    /// `None` if it failed, or the caller gave up.
    answer: Option<Answer>,
    gave_up: bool,
}

impl Caller {
    pub fn new(world: &World, layer: &SessionRecovery<Servers>, number: usize) -> Self {
        Self {
            world: world.clone(),
            layer: layer.clone(),
            number,
            principal: number / 4,
            host: number % 2,
            memory: Arc::default(),
        }
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// Most do, some never send any.
    fn keeps_cookies(&self) -> bool {
        self.number % 8 != 3
    }

    fn next_id(&self) -> u64 {
        let mut memory = self.memory();
        memory.next_id += 1;
        memory.next_id
    }

    /// Does one step.
    pub async fn act(self, action: Action, step: Step, others: Arc<Vec<Caller>>) {
        let mut random = Random::new(step.seed);
        if random.chance(80) || self.memory().token == 0 {
            let token = self.world.state().tokens[self.principal];
            self.memory().token = token;
        }
        let session = self.memory().session.clone();
        if action == Action::Initialize || session.is_none() {
            let old = session.filter(|_| random.chance(30));
            self.initialize(&mut random, old.map(|old| (old.lineage, old.id)))
                .await;
            if action == Action::Initialize {
                return;
            }
        }
        let Some(mine) = self.memory().session.clone() else {
            return;
        };
        match action {
            Action::Stranger => {
                self.intrude(&mut random, &others[random_other(step.seed)])
                    .await
            }
            Action::Delete => self.delete(mine).await,
            Action::Listen => self.listen(&mut random, mine).await,
            _ => self.post(&mut random, action, mine).await,
        }
    }

    async fn intrude(&self, random: &mut Random, other: &Caller) {
        let Some(theirs) = other.memory().session.clone() else {
            return;
        };
        if other.number == self.number || other.host != self.host {
            return;
        }
        let (id, key) = (self.next_id(), self.world.state().account.next_key());
        let body =
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"key": key}});
        let mut outgoing = Outgoing::post(Kind::Act(Action::Stranger), None, body);
        if random.chance(30) {
            outgoing = Outgoing::get(Kind::Act(Action::Stranger), None);
        }
        outgoing.of(&theirs);
        outgoing.lineage = None;
        let answer = self.send(random, outgoing).await.answer;
        if let Some(answer) = answer {
            let _ = timeout(Duration::from_secs(5), drain(answer)).await;
        }
    }

    async fn listen(&self, random: &mut Random, mine: Mine) {
        let last_id = self.listen_after(random, &mine, None).await;
        if last_id.is_some() && random.chance(50) {
            sleep(Duration::from_millis(random.below(20_000))).await;
            self.listen_after(random, &mine, last_id).await;
        }
    }

    /// Listens for a while, and gives the last event id.
    async fn listen_after(
        &self,
        random: &mut Random,
        mine: &Mine,
        last_event_id: Option<String>,
    ) -> Option<String> {
        let mut outgoing = Outgoing::get(Kind::Act(Action::Listen), Some(mine.lineage));
        outgoing.of(mine);
        outgoing.last_event_id = last_event_id;
        let Outcomes {
            tag, start, answer, ..
        } = self.send(random, outgoing).await;
        let status = answer.as_ref().map(|answer| answer.status().as_u16());
        self.judge(&tag, start, status == Some(200), status, answer.as_ref());
        let answer = answer?;
        if status != Some(200) {
            self.consider(random, mine, status, &answer);
            return None;
        }
        let most = Duration::from_millis(random.below(90_000));
        if random.chance(10) {
            sleep(most / 2).await;
        }
        self.read(&tag, answer, &HashMap::new(), most).await.last_id
    }

    /// Asks something, or says something.
    async fn post(&self, random: &mut Random, action: Action, mine: Mine) {
        let mut calls = HashMap::new();
        let mut request = |method: &str, mut params: Value| {
            let (id, key) = (self.next_id(), self.world.state().account.next_key());
            calls.insert(id, key);
            params["key"] = json!(key);
            json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
        };
        let uri = format!("test://{}", random.below(6));
        let level = random.pick(&["debug", "info", "error"]);
        let body = match action {
            Action::Batch => {
                let len = 1 + random.below(5);
                (0..len).map(|_| request("tools/call", json!({}))).collect()
            }
            Action::Notification => json!({"jsonrpc": "2.0", "method": "notifications/progress"}),
            Action::Response => json!({"jsonrpc": "2.0", "id": random.below(9), "result": {}}),
            Action::Subscribe => request("resources/subscribe", json!({"uri": uri})),
            Action::Unsubscribe => request("resources/unsubscribe", json!({"uri": uri})),
            Action::SetLevel => request("logging/setLevel", json!({"level": level})),
            _ => request("tools/call", json!({})),
        };
        let change = match action {
            Action::Subscribe | Action::Unsubscribe => Some(uri),
            Action::SetLevel => Some("level".to_owned()),
            _ => None,
        };
        if let Some(change) = &change {
            if !self.begins(&mine, change) {
                return;
            }
        }
        let mut outgoing = Outgoing::post(Kind::Act(action), Some(mine.lineage), body);
        outgoing.calls = calls.clone();
        outgoing.of(&mine);
        if change.is_none() {
            outgoing.vary(random);
        }
        let (padding, has_known_ids) = (outgoing.padding, outgoing.has_known_ids());
        let outcomes = self.send(random, outgoing).await;
        let (tag, start, gave_up) = (outcomes.tag, outcomes.start, outcomes.gave_up);
        let Some(answer) = outcomes.answer else {
            if !gave_up {
                self.judge(&tag, start, false, None, None);
            }
            return;
        };
        let status = answer.status().as_u16();
        let outcome = answer.extensions().get::<Recovery>().map(Recovery::outcome);
        let is_own_fault = matches!(
            outcome,
            Some(Outcome::NotReplayed(
                Refusal::Response | Refusal::BodyNotBuffered
            ))
        );
        let is_known = self.is_known(mine.lineage);
        let is_event_stream = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it == "text/event-stream");
        if !(200..300).contains(&status) {
            if !is_own_fault {
                self.judge(&tag, start, false, Some(status), Some(&answer));
            }
            self.consider(random, &mine, Some(status), &answer);
            let _ = timeout(Duration::from_secs(2), drain(answer)).await;
            return;
        }
        if calls.is_empty() {
            return self.judge(&tag, start, true, Some(status), None);
        }
        if random.chance(5) {
            sleep(Duration::from_millis(random.below(20_000))).await;
        }
        let is_short = change.is_none() && random.chance(5);
        let most = if is_short { random.below(200) } else { 100_000 };
        let read = self
            .read(&tag, answer, &calls, Duration::from_millis(most))
            .await;
        if let (Some(change), true) = (change, read.answered == calls.len()) {
            self.changed(&mine, action, change, level);
        }
        let is_told = read.answered + read.lost == calls.len();
        if read.is_dropped {
            if !is_short && has_known_ids {
                self.world.state().account.hangs(&tag);
            }
        } else {
            self.judge(
                &tag,
                start,
                read.answered == calls.len(),
                Some(status),
                None,
            );
            if read.answered == calls.len() && self.world.state().was_well(start) {
                self.compare(&mine);
            }
            let mut state = self.world.state();
            let is_lied = state.account.lied.contains(&tag.number);
            let must_be_told = is_event_stream && read.last_id.is_none() && !is_lied;
            if must_be_told
                && is_known
                && state.account.lineages[mine.lineage].is_known
                && padding == 0
            {
                state.account.check(
                    is_told,
                    "a lost answer is told once, and none that was not",
                    || {
                        let end = &read.bytes[read.bytes.len().saturating_sub(300)..];
                        let end = String::from_utf8_lossy(end);
                        format!("call {} ended without answer or error: {end:?}", tag.number)
                    },
                );
            }
        }
        if let (false, Some(last_id)) = (is_told, read.last_id) {
            sleep(Duration::from_millis(random.below(3000))).await;
            self.resume(random, mine, calls, last_id).await;
        }
    }

    /// Takes a stream up again where it ended.
    async fn resume(
        &self,
        random: &mut Random,
        mine: Mine,
        mut calls: HashMap<u64, u64>,
        last_id: String,
    ) {
        {
            let state = self.world.state();
            calls.retain(|_, key| {
                let call = &state.account.calls[key];
                call.answers + call.losses == 0
            });
        }
        let mut outgoing = Outgoing::get(Kind::Resume, Some(mine.lineage));
        outgoing.of(&mine);
        outgoing.last_event_id = Some(last_id);
        outgoing.calls = calls.clone();
        let Outcomes { tag, answer, .. } = self.send(random, outgoing).await;
        if let Some(answer) = answer.filter(|answer| answer.status() == 200) {
            self.read(&tag, answer, &calls, Duration::from_secs(40))
                .await;
        }
    }

    /// The last thing that a client does: a call that has to succeed, a look at what it believes,
    /// and the end of its session.
    pub async fn finish(&self) {
        let token = self.world.state().tokens[self.principal];
        self.memory().token = token;
        let mut random = Random::new(self.number as u64);
        if self.memory().session.is_none() {
            self.initialize(&mut random, None).await;
        }
        let Some(mine) = self.memory().session.clone() else {
            return;
        };
        self.post(&mut Random::new(7), Action::Call, mine.clone())
            .await;
        self.compare(&mine);
        let still = self.memory().session.clone();
        if let Some(mine) = still {
            self.delete(mine).await;
        }
    }
}

#[derive(Default)]
struct Read {
    answered: usize,
    lost: usize,
    bytes: Vec<u8>,
    last_id: Option<String>,
    /// Its caller did not wait for the end.
    is_dropped: bool,
}

impl Outgoing {
    fn post(kind: Kind, lineage: Option<usize>, body: Value) -> Self {
        Self {
            kind,
            method: Method::POST,
            lineage,
            session: None,
            version: None,
            body,
            padding: 0,
            calls: HashMap::new(),
            last_event_id: None,
            late: None,
            unpolled: None,
            patience: Duration::from_secs(150),
        }
    }

    fn get(kind: Kind, lineage: Option<usize>) -> Self {
        Self {
            method: Method::GET,
            ..Self::post(kind, lineage, Value::Null)
        }
    }

    /// Whether the layer knows the ids of the requests in it: of a batch over K1 it does not.
    fn has_known_ids(&self) -> bool {
        self.padding == 0 || self.kind != Kind::Act(Action::Batch)
    }

    fn of(&mut self, mine: &Mine) {
        self.session = mine.id.clone();
        self.version = mine.version.clone();
    }

    fn vary(&mut self, random: &mut Random) {
        match random.below(40) {
            0 => self.padding = 20_000,
            1 | 2 => self.late = Some(Duration::from_millis(random.below(2_000))),
            3 => self.unpolled = Some(Duration::from_millis(random.below(20_000))),
            4 | 5 => self.patience = Duration::from_millis(random.below(3_000)),
            _ => {}
        }
    }
}

async fn drain(answer: Answer) {
    let mut body = answer.into_body();
    let mut frames = 0;
    while let Some(Ok(_)) = body.frame().await {
        frames += 1;
        if frames % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn random_other(seed: u64) -> usize {
    Random::of(seed, 5).index(crate::plan::CALLERS)
}
