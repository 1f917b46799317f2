//! Clients above the layer: what they do, what they believe, and what they check.

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

    /// A handshake of the caller's own.
    async fn initialize(&self, random: &mut Random, old: Option<(usize, Option<HeaderValue>)>) {
        if std::mem::replace(&mut self.memory().is_initializing, true) {
            return;
        }
        let lineage = {
            let account = &mut self.world.state().account;
            account.lineages.push(Lineage {
                host: self.host,
                principal: self.principal,
                callers_id: None,
                is_known: false,
                is_ending: false,
                is_deleted: false,
                is_forgotten: false,
                is_abandoned: false,
                is_taken: false,
                current: None,
                superseded: HashMap::new(),
                attempts: Default::default(),
            });
            account.lineages.len() - 1
        };
        // With an id that the layer does not know, it is none of the layer's business (rule A1).
        let is_touched = old
            .as_ref()
            .is_none_or(|(_, id)| id.is_none() || self.is_on_record(id));
        let session = self
            .handshake(random, lineage, old.and_then(|(_, id)| id), is_touched)
            .await;
        let mut memory = self.memory();
        memory.is_initializing = false;
        let abandoned = match session {
            Some(session) => memory.session.replace(session),
            None => None,
        };
        drop(memory);
        let state = &mut self.world.state();
        if self
            .memory()
            .session
            .as_ref()
            .is_none_or(|mine| mine.lineage != lineage)
        {
            state.account.lineages[lineage].is_abandoned = true;
        }
        if let Some(abandoned) = abandoned {
            state.account.lineages[abandoned.lineage].is_abandoned = true;
        }
    }

    async fn handshake(
        &self,
        random: &mut Random,
        lineage: usize,
        old: Option<HeaderValue>,
        is_touched: bool,
    ) -> Option<Mine> {
        let is_constant = self.is_constant();
        let id = self.next_id();
        let body = json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "chaos", "version": lineage.to_string()},
        }});
        let is_touched = is_touched || is_constant;
        let old = old.filter(|_| !is_constant);
        let mut outgoing = Outgoing::post(Kind::Initialize, Some(lineage), body);
        outgoing.session = old.clone();
        outgoing.late = random
            .chance(5)
            .then(|| Duration::from_millis(random.below(300)));
        let outcomes = self.send(random, outgoing).await;
        let was_well = self.world.state().was_well(outcomes.start);
        let answer = outcomes.answer;
        let status = answer.as_ref().map(|answer| answer.status().as_u16());
        if was_well && !is_constant && status != Some(200) && !self.has_bad_token(&outcomes.tag) {
            let what = format!(
                "an initialize ({}) of {:?}: {status:?}",
                outcomes.tag.number, self.number
            );
            self.world
                .state()
                .account
                .violate("every call succeeds while all is well", what);
        }
        let answer = answer.filter(|answer| answer.status() == 200)?;
        let id_of = answer.headers().get(SESSION_ID).cloned();
        if let Some(callers_id) = &id_of {
            let mut state = self.world.state();
            let is_shared = !state.settings.has_principal;
            let account = &mut state.account;
            for (other, it) in account.lineages.iter_mut().enumerate() {
                let is_same = it.host == self.host
                    && (is_shared || it.principal == self.principal)
                    && it.callers_id.as_ref() == Some(callers_id);
                if is_same && other != lineage {
                    it.is_known = false;
                }
            }
            account.lineages[lineage].callers_id = id_of.clone();
            account.lineages[lineage].is_known = is_touched;
            // An id that is not on record for all that is known here may be.
            account.uncertain += usize::from(!is_touched && old.is_some());
        }
        let text = timeout(Duration::from_secs(20), answer.into_body().collect())
            .await
            .ok()?
            .ok()?;
        let text = text.to_bytes();
        let mut version = None;
        let mut look = |text: &str| {
            if let Ok(message) = serde_json::from_str::<Value>(text) {
                if message["id"].as_u64() == Some(id) {
                    version = message["result"]["protocolVersion"]
                        .as_str()
                        .map(str::to_owned);
                }
            }
        };
        Events::default().read(&text, &mut look);
        look(&String::from_utf8_lossy(&text));
        let version = version?;
        let mine = Mine {
            lineage,
            id: id_of,
            version: Some(version),
            level: Some(None),
            subscriptions: BTreeMap::new(),
            changing: BTreeSet::new(),
        };
        let body = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let mut outgoing = Outgoing::post(Kind::Initialized, Some(lineage), body);
        outgoing.of(&mine);
        let initialized = self.send(random, outgoing).await.answer?;
        initialized.status().is_success().then_some(mine)
    }

    async fn delete(&self, mine: Mine) {
        {
            let mut memory = self.memory();
            if memory
                .session
                .as_ref()
                .is_some_and(|it| it.lineage == mine.lineage)
            {
                memory.session = None;
            }
        }
        self.world.state().account.lineages[mine.lineage].is_ending = true;
        let mut outgoing =
            Outgoing::post(Kind::Act(Action::Delete), Some(mine.lineage), Value::Null);
        outgoing.method = Method::DELETE;
        outgoing.of(&mine);
        let outcomes = self.send(&mut Random::new(0), outgoing).await;
        let status = outcomes.answer.map(|answer| answer.status().as_u16());
        let mut state = self.world.state();
        let is_shared = !state.settings.has_principal;
        // A 404 may be about credentials, which are others by now: then it is kept (rule D8).
        state.account.uncertain += usize::from(status == Some(404));
        let account = &mut state.account;
        let lineages = &mut account.lineages;
        if matches!(status, Some(200..300 | 404)) {
            // The record may have gone over to whom the id was handed out again, or not yet.
            for (number, it) in lineages.iter_mut().enumerate() {
                let is_same = it.host == self.host
                    && (is_shared || it.principal == self.principal)
                    && it.callers_id == mine.id
                    && it.is_known;
                if is_same {
                    it.is_known = false;
                    it.is_deleted = true;
                    it.is_forgotten |= number != mine.lineage;
                    account.uncertain += usize::from(number != mine.lineage);
                }
            }
            lineages[mine.lineage].is_known = false;
            lineages[mine.lineage].is_deleted = true;
            lineages[mine.lineage].is_forgotten |= status == Some(404);
        } else {
            let lineage = &mut lineages[mine.lineage];
            lineage.is_abandoned = true;
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
        let mut outgoing = Outgoing::get(Kind::Act(Action::Listen), Some(mine.lineage));
        outgoing.of(&mine);
        let Outcomes {
            tag, start, answer, ..
        } = self.send(random, outgoing).await;
        let status = answer.as_ref().map(|answer| answer.status().as_u16());
        self.judge(&tag, start, status == Some(200), status, answer.as_ref());
        let Some(answer) = answer else { return };
        if status != Some(200) {
            return self.consider(random, &mine, status, &answer);
        }
        let most = Duration::from_millis(random.below(90_000));
        if random.chance(10) {
            sleep(most / 2).await;
        }
        self.read(&tag, answer, &HashMap::new(), most).await;
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
        let padding = outgoing.padding;
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
            if !is_short {
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

    /// Sends a request, and waits for its head.
    async fn send(&self, random: &mut Random, outgoing: Outgoing) -> Outcomes {
        let mut headers = HeaderMap::new();
        let text = |text: String| HeaderValue::from_str(&text).unwrap();
        let (token, route) = {
            let memory = self.memory();
            (memory.token, memory.route.clone())
        };
        headers.insert(
            "authorization",
            text(format!("Bearer p{}.v{token}", self.principal)),
        );
        if self.number % 3 == 0 {
            headers.insert("x-api-key", text(format!("key-{}", self.number)));
        }
        headers.insert(
            "accept",
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if outgoing.method == Method::POST {
            headers.insert("content-type", HeaderValue::from_static("application/json"));
        }
        let user = (self.number % 2 == 0).then(|| format!("user={}", self.number));
        let cookies: Vec<_> = user
            .into_iter()
            .chain(route.map(|it| format!("route={it}")))
            .collect();
        if !cookies.is_empty() {
            headers.insert("cookie", text(cookies.join("; ")));
        }
        if let Some(session) = &outgoing.session {
            headers.insert(SESSION_ID, session.clone());
        }
        if let Some(version) = &outgoing.version {
            headers.insert(PROTOCOL_VERSION, text(version.clone()));
        }
        if let Some(last_event_id) = &outgoing.last_event_id {
            headers.insert("last-event-id", text(last_event_id.clone()));
        }
        let number = self.world.state().account.next_tag();
        self.world.state().account.tell(|| {
            let Outgoing { kind, lineage, session, padding, late, unpolled, .. } = &outgoing;
            let after = &outgoing.last_event_id;
            format!("caller {}: {kind:?} {number} of session {lineage:?} with {session:?}, {padding} {late:?} {unpolled:?} {after:?}", self.number)
        });
        headers.insert("x-request", text(number.to_string()));
        if random.chance(10) {
            headers.insert("te", HeaderValue::from_static("trailers"));
            headers.insert("idempotency-key", text(number.to_string()));
            headers.insert("connection", HeaderValue::from_static("x-hop"));
            headers.insert("x-hop", text(number.to_string()));
        }
        let tag = Tag {
            number,
            principal: self.principal,
            host: self.host,
            kind: outgoing.kind,
            lineage: outgoing.lineage,
            presented: outgoing.session,
            headers: headers.clone(),
            keys: outgoing.calls.values().copied().collect(),
        };
        let mut body = match &outgoing.body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        body.push_str(&" ".repeat(outgoing.padding));
        let mut request = Request::new(Sent::new(Bytes::from(body), outgoing.late));
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = ["http://a.test/mcp", "http://b.test/mcp"][self.host]
            .parse()
            .unwrap();
        *request.headers_mut() = headers;
        request.extensions_mut().insert(tag.clone());

        let start = Instant::now();
        self.world.state().account.counts.requests += 1;
        let mut layer = self.layer.clone();
        let ready = layer.ready().await;
        let mut sending = Box::pin(ready.expect("it is always ready").call(request));
        let mut own = outgoing.late.unwrap_or_default();
        let mut result = None;
        if let Some(unpolled) = outgoing.unpolled {
            own += unpolled;
            self.world.state().account.unpolled.insert(number);
            match poll!(sending.as_mut()) {
                std::task::Poll::Ready(ready) => result = Some(Ok(ready)),
                std::task::Poll::Pending => sleep(unpolled).await,
            }
        }
        let result = match result {
            Some(result) => result,
            None => timeout(outgoing.patience, sending).await,
        };
        let mut state = self.world.state();
        state.account.waited(&tag, start, own);
        let answer: Option<Answer> = match result {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(Broken)) => None,
            Err(_) => {
                if outgoing.patience > Duration::from_secs(60) {
                    state.account.hangs(&tag);
                    if state.was_well(start) && tag.lineage.is_some() {
                        state.account.violate(
                            "every call succeeds while all is well",
                            format!("{number} hangs"),
                        );
                    }
                }
                drop(state);
                return Outcomes {
                    tag,
                    start,
                    answer: None,
                    gave_up: true,
                };
            }
        };
        drop(state);
        if let Some(answer) = &answer {
            let recovery = answer.extensions().get::<Recovery>();
            let (status, account) = (answer.status(), &self.world.state().account);
            account.tell(|| format!("    {number}: {status} {recovery:?}"));
        }
        if let Some(answer) = &answer {
            self.look(&tag, answer);
        }
        Outcomes {
            tag,
            start,
            answer,
            gave_up: false,
        }
    }

    /// What must hold of every answer's head.
    fn look(&self, tag: &Tag, answer: &Answer) {
        for set in answer.headers().get_all(header::SET_COOKIE) {
            let as_cookie = HeaderMap::from_iter([(header::COOKIE, set.clone())]);
            if let Some(route) = cookie(&as_cookie, "route") {
                self.memory().route = Some(route.to_owned());
            }
        }
        if answer.status() == 401 {
            let token = self.world.state().tokens[self.principal];
            self.memory().token = token;
        }
        let Some(id) = answer.headers().get(SESSION_ID) else {
            return;
        };
        if tag.kind != Kind::Initialize
            && tag.lineage.is_some()
            && Some(id) != tag.presented.as_ref()
        {
            let what = format!("{:?} {}", tag.kind, tag.number);
            self.world
                .state()
                .account
                .violate("a caller sees its own id", what);
        }
    }

    /// Reads answers to their end, or for so long.
    async fn read(
        &self,
        tag: &Tag,
        answer: Answer,
        calls: &HashMap<u64, u64>,
        most: Duration,
    ) -> Read {
        let is_event_stream = answer
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|it| it == "text/event-stream");
        let mut body = answer.into_body();
        let mut read = Read::default();
        let (mut events, mut whole, mut frames) = (Events::default(), Vec::new(), 0);
        let deadline = Instant::now() + most;
        let is_get = tag.kind.is_get();
        loop {
            let Ok(frame) = tokio::time::timeout_at(deadline, body.frame()).await else {
                read.is_dropped = true;
                break;
            };
            let Some(Ok(frame)) = frame else { break };
            frames += 1;
            if frames % 64 == 0 {
                tokio::task::yield_now().await;
            }
            let Ok(data) = frame.into_data() else {
                continue;
            };
            read.bytes.extend_from_slice(&data[..data.len().min(1000)]);
            if is_event_stream {
                events.read(&data, |event| self.heard(tag, event, calls, &mut read));
                if is_get && !calls.is_empty() && read.answered + read.lost >= calls.len() {
                    break;
                }
            } else {
                whole.extend_from_slice(&data);
            }
        }
        if !is_event_stream {
            self.heard(tag, &String::from_utf8_lossy(&whole), calls, &mut read);
        }
        read.last_id = events.last_id;
        read
    }

    /// What must hold of every message.
    fn heard(&self, tag: &Tag, text: &str, calls: &HashMap<u64, u64>, read: &mut Read) {
        let mut state = self.world.state();
        let is_shared = state.hosts[self.host].ids == Ids::Constant;
        let account = &mut state.account;
        let is_lied = account.lied.contains(&tag.number);
        account.tell(|| format!("    {:?} {} hears {:.200}", tag.kind, tag.number, text));
        for said in messages(text, calls).unwrap_or_default() {
            match said {
                Said::Other(lineage) => {
                    let is_own = lineage.is_none() || lineage == tag.lineage.map(|it| it as u64);
                    account.check(is_own || is_shared, "a caller sees its own answers", || {
                        format!("{:?} {} hears of session {lineage:?}", tag.kind, tag.number)
                    });
                }
                Said::Answer { key, says } => {
                    read.answered += 1;
                    account.answered(key, tag);
                    account.check(
                        is_lied || says == Some(key) || is_shared && tag.kind.is_get(),
                        "a caller sees its own answers",
                        || format!("call {key} is answered with {says:?}"),
                    );
                }
                Said::Lost { key, reason } => {
                    read.lost += 1;
                    let resumes = tag.kind == Kind::Resume || is_shared;
                    account.told_lost(key, tag, &reason, resumes);
                }
                Said::Foreign => account.check(
                    is_lied || tag.kind.is_get(),
                    "a caller sees its own answers",
                    || format!("{:?} {} got: {text}", tag.kind, tag.number),
                ),
            }
        }
    }

    /// Liveness: while all is well, a call succeeds.
    fn judge(
        &self,
        tag: &Tag,
        start: Instant,
        succeeded: bool,
        status: Option<u16>,
        answer: Option<&Answer>,
    ) {
        // A server with one id for all does not tell its callers apart.
        let is_excused = self.has_bad_token(tag) || self.is_constant();
        let mut state = self.world.state();
        // Nor does a recovery wait for who does not ask for it.
        let is_excused = is_excused || state.account.unpolled.contains(&tag.number);
        let is_excused = is_excused || state.account.misled.contains(&tag.number);
        state.account.counts.succeeded += u64::from(succeeded);
        let Some(number) = tag.lineage else { return };
        let mut upstreams = state.account.upstreams.iter().rev();
        let last = upstreams.find(|it| it.lineage == Some(number));
        let is_excused =
            is_excused || last.is_some_and(|it| it.is_disturbed && it.delivered.is_none());
        let is_excused = is_excused || self.is_elsewhere(&state, tag, number);
        let is_excused = is_excused || self.is_boths(&state, number, |it| !it.is_abandoned);
        let is_known = state.account.lineages[number].is_known
            && !state.account.lineages[number].is_taken
            && (!state.account.lineages[number].is_ending || tag.kind == Kind::Act(Action::Delete));
        let is_well = state.was_well(start);
        if !is_known || !is_well || is_excused {
            return;
        }
        state.account.counts.alive += 1;
        let recovery = answer.and_then(|answer| answer.extensions().get::<Recovery>());
        // It has been recovered, and has expired again before anything was answered. What is only
        // suspected of that is not asked about in a pause.
        let is_paused = recovery.is_none_or(|it| it.outcome() == Outcome::Failed(Failure::Paused));
        if is_paused && state.account.lineages[number].attempts.useless > 0 {
            return;
        }
        state
            .account
            .check(succeeded, "every call succeeds while all is well", || {
                format!(
                    "{:?} {} of session {number}: {status:?}, {recovery:?}",
                    tag.kind, tag.number
                )
            });
    }

    fn has_bad_token(&self, tag: &Tag) -> bool {
        let token = tag.headers["authorization"].to_str().unwrap_or_default();
        let version = token
            .rsplit_once(".v")
            .and_then(|(_, version)| version.parse().ok());
        let state = self.world.state();
        !state.is_good(self.principal, version.unwrap_or_default())
    }

    fn is_constant(&self) -> bool {
        self.world.state().hosts[self.host].ids == Ids::Constant
    }

    /// Whether the caller's own cookie says that its session is on another replica, which there is:
    /// an answer that was long under way has told it so.
    fn is_elsewhere(&self, state: &State, tag: &Tag, lineage: usize) -> bool {
        let host = &state.hosts[self.host];
        let route = cookie(&tag.headers, "route").map(str::to_owned);
        let mut replicas = (0..3).map(|number| host.replica(number));
        let mut sessions = host.sessions.values();
        let current = state.account.lineages[lineage].current;
        let session = sessions.find(|it| Some(it.serial) == current);
        host.replicated
            && session.is_some_and(|it| Some(&it.replica) != route.as_ref())
            && replicas.any(|it| Some(it) == route)
    }

    /// Where two callers of one principal were given one id, the record is both's.
    fn is_boths(&self, state: &State, lineage: usize, counts: impl Fn(&Lineage) -> bool) -> bool {
        let is_shared = !state.settings.has_principal;
        let id = &state.account.lineages[lineage].callers_id;
        (state.account.lineages.iter().enumerate()).any(|(number, it)| {
            number != lineage
                && it.host == self.host
                && (is_shared || it.principal == self.principal)
                && it.callers_id == *id
                && counts(it)
        })
    }

    /// Whether the layer knows this id, whosever it is.
    fn is_on_record(&self, id: &Option<HeaderValue>) -> bool {
        let state = self.world.state();
        let is_shared = !state.settings.has_principal;
        state.account.lineages.iter().any(|it| {
            it.is_known
                && it.host == self.host
                && (is_shared || it.principal == self.principal)
                && it.callers_id == *id
        })
    }

    fn is_known(&self, lineage: usize) -> bool {
        self.world.state().account.lineages[lineage].is_known
    }

    /// What a client does about a refusal: some begin anew.
    fn consider(&self, random: &mut Random, mine: &Mine, status: Option<u16>, _: &Answer) {
        let is_lost = matches!(status, Some(400 | 404));
        let gives_up = is_lost && (!self.is_known(mine.lineage) || random.chance(15));
        let mut memory = self.memory();
        if gives_up
            && memory
                .session
                .as_ref()
                .is_some_and(|it| it.lineage == mine.lineage)
        {
            memory.session = None;
            self.world.state().account.lineages[mine.lineage].is_abandoned = true;
        }
    }

    // What a client believes.

    /// Whether this change may begin: one at a time. Until it is known, nothing is.
    fn begins(&self, mine: &Mine, change: &str) -> bool {
        let mut memory = self.memory();
        let Some(it) = memory
            .session
            .as_mut()
            .filter(|it| it.lineage == mine.lineage)
        else {
            return false;
        };
        // One that was not answered may come late, so nothing is known of it any more.
        if !it.changing.insert(change.to_owned()) {
            return false;
        }
        match change {
            "level" => it.level = None,
            uri => drop(it.subscriptions.insert(uri.to_owned(), None)),
        }
        true
    }

    fn changed(&self, mine: &Mine, action: Action, change: String, level: &str) {
        let mut memory = self.memory();
        let Some(it) = memory
            .session
            .as_mut()
            .filter(|it| it.lineage == mine.lineage)
        else {
            return;
        };
        it.changing.remove(&change);
        match action {
            Action::SetLevel => it.level = Some(Some(level.to_owned())),
            _ => drop(
                it.subscriptions
                    .insert(change, Some(action == Action::Subscribe)),
            ),
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

    /// What the server holds is what the client believes.
    fn compare(&self, mine: &Mine) {
        let believed = self
            .memory()
            .session
            .clone()
            .filter(|it| it.lineage == mine.lineage);
        let Some(believed) = believed else { return };
        let mut state = self.world.state();
        let state = &mut *state;
        let lineage = &state.account.lineages[mine.lineage];
        let host = &state.hosts[self.host];
        let is_boths = self.is_boths(state, mine.lineage, |_| true);
        let is_told = |current: &usize| state.account.upstreams[*current].delivered.is_some();
        let tells_apart = host.ids != Ids::Constant && !is_boths && !lineage.is_taken;
        let Some(current) = lineage
            .current
            .filter(|_| lineage.is_known && tells_apart)
            .filter(is_told)
        else {
            return;
        };
        let session = host.sessions.values().find(|it| it.serial == current);
        let failed = state
            .account
            .upstreams
            .iter()
            .any(|it| it.lineage == Some(mine.lineage) && (it.is_disturbed || it.id.is_none()));
        let Some(session) = session.filter(|_| !failed) else {
            return;
        };
        let mut wrong = Vec::new();
        if let Some(level) = &believed.level {
            if *level != session.level {
                wrong.push(format!("level {:?} is {level:?}", session.level));
            }
        }
        for (uri, is) in &believed.subscriptions {
            if let Some(is) = *is {
                if is != session.subscriptions.contains(uri) {
                    wrong.push(format!("{uri} is thought to be {is}"));
                }
            }
        }
        state.account.counts.state_checked += 1;
        state.account.check(
            wrong.is_empty(),
            "the server holds what the caller believes",
            || {
                format!(
                    "caller {}, session {}: {wrong:?}",
                    self.number, mine.lineage
                )
            },
        );
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
