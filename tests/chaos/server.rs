//! A server, and what it does about a request. It decides as the request arrives; the answer may
//! take its time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use crate::{
    account::{Account, Kind, Tag, Upstream},
    arrival,
    faults::{Down, Ending, Fault, Faults, Refuse},
    plan::{Action, Settings},
    random::Random,
    wire::{Life, Piece, Wire},
    world::{State, World},
};

pub const SESSION_ID: &str = "mcp-session-id";
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
const VERSIONS: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    Random,
    /// From 1, anew after each restart.
    Counting,
    Constant,
}

pub struct Host {
    number: usize,
    pub ids: Ids,
    style: Style,
    event_ids: bool,
    newline: &'static str,
    keeps_delete: bool,
    echoes_id: bool,
    pub replicated: bool,
    replicas: [u64; 3],
    next_replica: usize,
    pub sessions: BTreeMap<String, Session>,
    minted: u64,
    version: &'static str,
    pub faults: Faults,
    cookies: HashSet<String>,
}

pub struct Session {
    pub serial: usize,
    principal: usize,
    life: Arc<Life>,
    pub subscriptions: BTreeSet<String>,
    pub level: Option<String>,
    version: &'static str,
    streams: u64,
    /// What came after each event.
    events: HashMap<String, (Vec<u64>, Bytes)>,
    pub replica: String,
}

/// How a server says that it does not know a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    status: u16,
    body: &'static str,
    content_type: Option<&'static str>,
    /// It leaves no doubt.
    is_plain: bool,
}

const STYLES: [Style; 10] = {
    const fn style(
        status: u16,
        body: &'static str,
        content_type: Option<&'static str>,
        is_plain: bool,
    ) -> Style {
        Style {
            status,
            body,
            content_type,
            is_plain,
        }
    }
    const JSON: Option<&str> = Some("application/json");
    [
        style(
            404,
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#,
            JSON,
            true,
        ),
        style(404, "Not Found: Session not found", None, true),
        style(
            404,
            r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":OWN}"#,
            JSON,
            true,
        ),
        style(404, "", None, true),
        style(404, "<html>", Some("text/html"), true),
        style(
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}"#,
            JSON,
            true,
        ),
        style(
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}"#,
            JSON,
            true,
        ),
        style(
            401,
            "Unauthorized: Session not found",
            Some("text/plain"),
            false,
        ),
        style(400, "No active session", Some("text/plain"), false),
        style(
            503,
            "session is unknown on this API instance",
            Some("text/plain"),
            false,
        ),
    ]
};

pub enum Act {
    /// The answer, after a while, if the session lives that long.
    Answer(Duration, Option<Arc<Life>>, Box<Response<Wire>>),
    Break(Duration),
    Hang(Option<Arc<Life>>),
}

/// A request as it arrived.
pub struct Seen {
    pub method: Method,
    pub headers: HeaderMap,
    pub message: Value,
    pub tag: Tag,
    pub host: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn rpc_method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    /// What the layer sends on its own account. No caller says how long its message is.
    pub fn is_layers(&self) -> bool {
        match self.method {
            Method::DELETE => self.tag.kind != Kind::Act(Action::Delete),
            Method::GET => false,
            _ => self.headers.contains_key(header::CONTENT_LENGTH),
        }
    }

    pub fn is_handshake(&self) -> bool {
        self.is_layers() && self.rpc_method() == "initialize"
    }

    fn is_restore(&self) -> bool {
        let id = self.message["id"].as_str();
        id.is_some_and(|id| id.starts_with("mcp-session-recovery/restore"))
    }

    pub fn is_ping(&self) -> bool {
        self.message["id"] == "mcp-session-recovery/ping"
    }

    /// Principal and version of the token.
    pub fn token(&self) -> Option<(usize, u64)> {
        let token = self.header("authorization")?.strip_prefix("Bearer p")?;
        let (principal, version) = token.split_once(".v")?;
        Some((
            principal.parse().ok()?,
            version.split('.').next()?.parse().ok()?,
        ))
    }
}

impl Host {
    pub fn new(seed: u64, number: usize) -> Self {
        let mut random = Random::of(seed, 10 + number as u64);
        Self {
            number,
            ids: random.pick(&[
                Ids::Random,
                Ids::Random,
                Ids::Counting,
                Ids::Counting,
                Ids::Constant,
            ]),
            style: random.pick(&STYLES),
            event_ids: random.chance(50),
            newline: random.pick(&["\n", "\r\n"]),
            keeps_delete: random.chance(10),
            echoes_id: random.chance(60),
            replicated: number == 1 && random.chance(60),
            replicas: [0; 3],
            next_replica: 0,
            sessions: BTreeMap::new(),
            minted: 0,
            version: VERSIONS[0],
            faults: Faults::default(),
            cookies: HashSet::new(),
        }
    }

    /// A session is no more.
    pub fn expire(&mut self, id: &str, ending: Ending) {
        if let Some(session) = self.sessions.remove(id) {
            session.life.end(ending);
        }
    }

    pub fn expire_all(&mut self, ending: Ending) {
        while let Some(id) = self.sessions.keys().next().cloned() {
            self.expire(&id, ending);
        }
    }

    pub fn restart(&mut self, ending: Ending, random: &mut Random) {
        self.expire_all(ending);
        self.minted = 0;
        self.version = random.pick(&VERSIONS);
    }

    pub fn kill_replica(&mut self, ending: Ending, random: &mut Random) {
        let killed = random.index(3);
        let name = self.replica(killed);
        self.replicas[killed] += 1;
        let dead = self.sessions.iter().filter(|(_, it)| it.replica == name);
        let dead: Vec<_> = dead.map(|(id, _)| id.clone()).collect();
        dead.iter().for_each(|id| self.expire(id, ending));
    }

    pub fn replica(&self, number: usize) -> String {
        format!("r{number}.{}", self.replicas[number])
    }

    fn mint(&mut self, random: &mut Random) -> String {
        self.minted += 1;
        match self.ids {
            Ids::Random => format!("{:016x}", random.next()),
            Ids::Counting => self.minted.to_string(),
            Ids::Constant => "constant".to_owned(),
        }
    }

    pub fn has_set(&self, cookie: &str) -> bool {
        self.cookies.contains(cookie)
    }
}

/// Decides what becomes of a request.
pub fn act(state: &mut State, world: &World, seen: &Seen) -> Act {
    let arrivals = state.account.held.entry(seen.tag.number).or_default();
    arrivals.arrivals += 1;
    let thing = seen.tag.number * 64 + arrivals.arrivals;
    let mut random = Random::of(state.seed, thing);
    let settings = state.settings;
    arrival::check(state, seen);
    let is_good = seen
        .token()
        .is_none_or(|(principal, version)| state.is_good(principal, version));
    let now_tokens = is_good;
    let State { hosts, account, .. } = state;
    let host = &mut hosts[seen.host];
    let mut server = Serving {
        host,
        account,
        settings,
        world,
        seen,
        random: &mut random,
    };
    server.balanced(now_tokens)
}

struct Serving<'a> {
    host: &'a mut Host,
    account: &'a mut Account,
    settings: Settings,
    world: &'a World,
    seen: &'a Seen,
    random: &'a mut Random,
}

impl Serving<'_> {
    /// What a balancer does before a server has its say.
    fn balanced(&mut self, is_good: bool) -> Act {
        if !self.host.replicated {
            return self.act(is_good, String::new());
        }
        let route = cookie(&self.seen.headers, "route").map(str::to_owned);
        let known = (0..3).map(|number| self.host.replica(number));
        let known = known.into_iter().find(|it| Some(it) == route.as_ref());
        let is_new = known.is_none();
        let replica = known.unwrap_or_else(|| {
            self.host.next_replica = (self.host.next_replica + 1) % 3;
            self.host.replica(self.host.next_replica)
        });
        let mut act = self.act(is_good, replica.clone());
        if let (true, Act::Answer(_, _, answer)) = (is_new, &mut act) {
            let set = HeaderValue::from_str(&format!("route={replica}; Path=/")).unwrap();
            answer.headers_mut().append(header::SET_COOKIE, set);
            self.host.cookies.insert(replica);
        }
        act
    }

    fn act(&mut self, is_good: bool, replica: String) -> Act {
        let faults = &self.host.faults;
        if let Some(down) = faults.find(|fault| match fault {
            Fault::Down(down) => Some(down),
            _ => None,
        }) {
            if self.seen.is_restore() {
                self.is_disturbed();
            }
            self.delete_failed();
            return match down {
                Down::Transport => Act::Break(Duration::ZERO),
                Down::Status(status) => {
                    if status == 404 {
                        self.deny_current(404);
                    }
                    self.plain(status, "down", None)
                }
            };
        }
        if faults.has(Fault::Hang) && self.random.chance(30) {
            self.is_disturbed();
            self.delete_failed();
            let life = self.session().map(|session| session.life.clone());
            return Act::Hang(life);
        }
        if self.settings.checks_credentials && !is_good {
            self.is_disturbed();
            self.delete_failed();
            self.denied_ping();
            self.denied_attempt(401);
            let mut answer = self.plain(401, "token expired", Some("text/plain"));
            if let Act::Answer(_, _, answer) = &mut answer {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                answer
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, challenge);
            }
            return answer;
        }
        if self.seen.rpc_method() == "initialize" {
            return self.initialize(replica);
        }
        if self.host.faults.has(Fault::Stateless) {
            return match self.seen.method {
                Method::POST => self.execute(None),
                _ => self.plain(405, "", None),
            };
        }
        let Some(id) = self.seen.header(SESSION_ID).map(str::to_owned) else {
            self.deny_current(400);
            return match self.seen.method {
                Method::POST => self.plain(400, STYLES[5].body, STYLES[5].content_type),
                _ => self.plain(400, "Invalid or missing session ID", Some("text/plain")),
            };
        };
        let (principal, _) = self.seen.token().unwrap_or_default();
        match self.host.sessions.get(&id) {
            Some(session) if session.replica != replica => self.unknown(),
            Some(session) if session.principal != principal && self.settings.checks_credentials => {
                // It lives, and whoever asks properly is told so.
                self.plain(404, "Session not found", None)
            }
            Some(_) => self.of_session(&id),
            None => self.unknown(),
        }
    }

    fn of_session(&mut self, id: &str) -> Act {
        let serial = self.host.sessions[id].serial;
        match self.seen.method {
            Method::DELETE => match self.host.keeps_delete {
                true => {
                    self.delete_failed();
                    self.plain(405, "", None)
                }
                false => {
                    self.host.expire(id, Ending::Close);
                    self.plain(200, "", None)
                }
            },
            Method::GET if self.host.faults.has(Fault::NoListening) => {
                // That is not what it should say, but it is said.
                self.plain(404, "Not Found", None)
            }
            Method::GET => self.listen(id),
            _ if self.seen.rpc_method() == "notifications/initialized" => {
                let refusal = self.host.faults.find(|fault| match fault {
                    Fault::Refuse(Refuse::Initialized(status)) => Some(status),
                    _ => None,
                });
                if let Some(status) = refusal {
                    self.denied_attempt(status);
                    if status == 404 {
                        self.deny_current(404);
                    }
                    return self.plain(status, "refused", None);
                }
                self.account.upstreams[serial].is_initialized = true;
                if self.host.faults.has(Fault::Amnesia) {
                    self.host.expire(id, Ending::Close);
                }
                self.plain(202, "", None)
            }
            _ => {
                if self.seen.is_restore()
                    && (self.host.faults.has(Fault::Forgetful) && self.random.chance(50))
                {
                    self.is_disturbed();
                    return self.plain(400, "no", None);
                }
                self.execute(Some(id.to_owned()))
            }
        }
    }

    fn initialize(&mut self, replica: String) -> Act {
        let is_handshake = self.seen.is_handshake();
        let refuse = self.host.faults.find(|fault| match fault {
            Fault::Refuse(refuse) => Some(refuse),
            _ => None,
        });
        if let Some(Refuse::Status(status)) = refuse {
            self.denied_attempt(status);
            return self.plain(status, "refused", None);
        }
        let lineage = self.seen.message["params"]["clientInfo"]["version"].as_str();
        let lineage = lineage.and_then(|it| it.parse().ok());
        let (principal, _) = self.seen.token().unwrap_or_default();
        let is_stateless = self.host.faults.has(Fault::Stateless);
        let serial = self.account.upstreams.len();
        let id = (!is_stateless).then(|| self.host.mint(self.random));
        let value = id.as_ref().map(|id| HeaderValue::from_str(id).unwrap());
        if let Some(value) = &value {
            // Whoever had this id has lost its session.
            for upstream in &mut self.account.upstreams {
                if upstream.host == self.host.number && upstream.id.as_ref() == Some(value) {
                    upstream.is_denied = true;
                }
            }
        }
        self.account.upstreams.push(Upstream {
            host: self.host.number,
            lineage,
            id: value.clone(),
            by_layer: is_handshake,
            delivered: None,
            is_initialized: false,
            is_published: false,
            made_with: self.seen.headers.clone(),
            is_denied: false,
            is_excused: false,
            is_disturbed: false,
        });
        let version = self.host.version;
        if let Some(id) = &id {
            let session = Session {
                serial,
                principal,
                life: Arc::default(),
                subscriptions: BTreeSet::new(),
                level: None,
                version,
                streams: 0,
                events: HashMap::new(),
                replica,
            };
            self.host.expire(id, Ending::Close);
            self.host.sessions.insert(id.clone(), session);
        }
        let rpc_id = self.seen.message["id"].clone();
        let result = json!({
            "protocolVersion": version,
            "capabilities": {
                "tools": {"listChanged": self.random.chance(50)},
                "logging": {},
                "resources": {"subscribe": true},
            },
            "serverInfo": {"name": "chaos", "version": "1"},
        });
        let mut message = json!({"jsonrpc": "2.0", "id": rpc_id, "result": result});
        match refuse {
            Some(Refuse::Rpc) => {
                message = json!({"jsonrpc": "2.0", "id": rpc_id, "error": {"code": -32603, "message": "no"}});
            }
            Some(Refuse::WrongId) => message["id"] = json!("another"),
            _ => {}
        }
        let is_event_stream = self.random.chance(60);
        let mut script = Vec::new();
        if is_event_stream && self.host.faults.has(Fault::Pings) {
            for ping in 0..self.random.below(30) {
                let ping = json!({"jsonrpc": "2.0", "id": format!("server-ping-{ping}"), "method": "ping"});
                script.push(self.event(None, &ping.to_string(), Vec::new()));
            }
        }
        match refuse {
            Some(Refuse::Garbage) => {
                script.push(Piece::Data(
                    Bytes::from_static(b"\xff\xfe{{{\r\n\r\n{}"),
                    Vec::new(),
                ));
            }
            Some(Refuse::Endless) => {
                for _ in 0..40 {
                    script.push(Piece::Burst(500));
                    script.push(Piece::Wait(Duration::from_millis(700)));
                }
            }
            Some(Refuse::Huge) => {
                let huge = Bytes::from(vec![b'x'; 64 * 1024]);
                script.extend((0..24).map(|_| Piece::Data(huge.clone(), Vec::new())));
            }
            _ if is_event_stream => script.push(self.event(None, &message.to_string(), Vec::new())),
            _ => script.push(Piece::Data(message.to_string().into(), Vec::new())),
        }
        let content_type = if is_event_stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        let mut answer = self.answer(200, Some(content_type), script);
        if let Some(mut value) = value {
            value.set_sensitive(true);
            answer.headers_mut().insert(SESSION_ID, value);
        }
        self.cut(&mut answer);
        // Whether the caller gets it is seen when it is handed over.
        let life = id.map(|id| self.host.sessions[&id].life.clone());
        let life = life.filter(|_| refuse.is_none());
        Act::Answer(self.delay(), life, Box::new(answer))
    }

    /// Does what messages ask for, and answers.
    fn execute(&mut self, id: Option<String>) -> Act {
        let messages = match &self.seen.message {
            Value::Array(batch) => batch.clone(),
            one => vec![one.clone()],
        };
        let serial = match &id {
            Some(id) => Some(self.host.sessions[id].serial),
            None => self.serial(),
        };
        // While state is restored, the session is not in use yet.
        if !self.seen.is_layers() || self.seen.is_ping() {
            self.account.alive = serial;
        }
        let serial = serial.filter(|_| id.is_some());
        let mut answers = Vec::new();
        let lies =
            self.host.faults.has(Fault::Lies) && !self.seen.is_layers() && self.random.chance(40);
        if lies {
            self.account.lied.insert(self.seen.tag.number);
        }
        for message in &messages {
            let params = &message["params"];
            if let Some(key) = params["key"].as_u64() {
                if lies {
                    self.account.call(key).is_lied_about = true;
                }
                self.account.executed(key, serial);
            }
            if let Some(session) = id.as_ref().and_then(|id| self.host.sessions.get_mut(id)) {
                let uri = params["uri"].as_str().unwrap_or_default().to_owned();
                match message["method"].as_str().unwrap_or_default() {
                    "resources/subscribe" => drop(session.subscriptions.insert(uri)),
                    "resources/unsubscribe" => drop(session.subscriptions.remove(&uri)),
                    "logging/setLevel" => {
                        session.level = params["level"].as_str().map(str::to_owned)
                    }
                    _ => {}
                }
            }
            if message["method"].is_string() && !message["id"].is_null() {
                let key = params["key"].as_u64();
                let result = json!({"key": key});
                let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
                answers.push((key, answer));
            }
        }
        if answers.is_empty() {
            return self.plain(202, "", None);
        }
        if lies {
            return self.lie(answers);
        }
        if self.random.chance(50) {
            answers.reverse();
        }
        self.results(id, answers)
    }

    fn results(&mut self, id: Option<String>, answers: Vec<(Option<u64>, Value)>) -> Act {
        let keys: Vec<u64> = answers.iter().filter_map(|(key, _)| *key).collect();
        let life = id.as_ref().map(|id| self.host.sessions[id].life.clone());
        let delay = self.delay();
        if self.random.chance(40) {
            let answers: Vec<_> = answers.into_iter().map(|(_, answer)| answer).collect();
            let text = match self.seen.message.is_array() {
                true => Value::from(answers).to_string(),
                false => answers[0].to_string(),
            };
            let piece = Piece::Data(text.into(), keys.clone());
            let mut answer = self.answer(200, Some("application/json"), vec![piece]);
            answer.body_mut().calls = keys;
            self.cut(&mut answer);
            return Act::Answer(delay, life, Box::new(answer));
        }
        let newline = self.host.newline;
        let session = id.as_ref().and_then(|id| self.host.sessions.get_mut(id));
        let has_ids = self.host.event_ids && session.is_some() && self.random.chance(70);
        let stream = session.map_or(0, |session| {
            session.streams += 1;
            session.streams - 1
        });
        let mut script = Vec::new();
        let mut number = 0;
        let mut event_id = || {
            number += 1;
            has_ids.then(|| format!("{stream}/{}", number - 1))
        };
        let mut ids = Vec::new();
        if has_ids {
            let id = event_id();
            script.push(self.event(id.as_deref(), "", Vec::new()));
            ids.push((id, 0));
        }
        if self.random.chance(20) {
            let lineage = self.seen.tag.lineage;
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"lineage": lineage}});
            script.push(self.event(None, &note.to_string(), Vec::new()));
        }
        if self.random.chance(5) {
            script.push(Piece::Data(
                format!(": alive{newline}{newline}").into(),
                Vec::new(),
            ));
        }
        script.push(Piece::Wait(delay));
        let all: Vec<_> = answers
            .iter()
            .map(|(key, answer)| (*key, answer.to_string()))
            .collect();
        for (position, (key, answer)) in all.iter().enumerate() {
            let id = event_id();
            script.push(self.event(id.as_deref(), answer, key.iter().copied().collect()));
            ids.push((id, position + 1));
        }
        for (event, position) in ids {
            let (Some(event), Some(id)) = (event, &id) else {
                continue;
            };
            let rest: String = all[position..]
                .iter()
                .map(|(_, answer)| format!("data: {answer}{newline}{newline}"))
                .collect();
            let keys = all[position..].iter().filter_map(|(key, _)| *key).collect();
            if let Some(session) = self.host.sessions.get_mut(id) {
                session.events.insert(event, (keys, rest.into()));
            }
        }
        let mut answer = self.answer(200, Some("text/event-stream"), script);
        answer.body_mut().life = life.clone();
        answer.body_mut().calls = keys;
        self.cut(&mut answer);
        Act::Answer(Duration::ZERO, life, Box::new(answer))
    }

    fn lie(&mut self, answers: Vec<(Option<u64>, Value)>) -> Act {
        let event = |text: &str| Piece::Data(format!("data: {text}\n\n").into(), Vec::new());
        let mut answer = answers[0].1.clone();
        let (status, content_type, script) = match self.random.below(7) {
            0 => {
                answer["id"] = json!("another");
                (200, "text/event-stream", vec![event(&answer.to_string())])
            }
            1 => (200, "application/json", vec![event("{")]),
            2 => (
                200,
                "text/event-stream",
                vec![
                    Piece::Burst(2000),
                    Piece::Wait(Duration::from_secs(1)),
                    Piece::Burst(2000),
                    event("[[["),
                ],
            ),
            3 => {
                let huge = Bytes::from(vec![b'x'; 32 * 1024]);
                let pieces = (0..50).map(|_| Piece::Data(huge.clone(), Vec::new()));
                (200, "text/event-stream", pieces.collect())
            }
            // It has been executed, and the server says that it has not.
            4 => {
                self.deny_current(404);
                (404, "text/plain", vec![])
            }
            5 => {
                self.deny_current(404);
                (404, "text/plain", vec![Piece::Burst(3000), Piece::Hang])
            }
            _ => {
                answer["id"] = Value::Null;
                let text = answer.to_string();
                (
                    200,
                    "text/event-stream",
                    vec![event(&text), event(&text), Piece::Break],
                )
            }
        };
        let answer = self.answer(status, Some(content_type), script);
        Act::Answer(Duration::ZERO, None, Box::new(answer))
    }

    fn listen(&mut self, id: &str) -> Act {
        let lineage = self.seen.tag.lineage;
        let session = &self.host.sessions[id];
        let life = session.life.clone();
        let serial = session.serial;
        let last = self.seen.header("last-event-id").map(str::to_owned);
        let resumed = last.and_then(|last| session.events.get(&last)).cloned();
        self.account.alive = Some(serial);
        let delay = self.delay();
        let mut script = vec![Piece::Wait(delay)];
        let mut calls = Vec::new();
        match resumed {
            Some((keys, rest)) => {
                calls = keys.clone();
                script.push(Piece::Data(rest, keys));
            }
            None => {
                for number in 0..20 {
                    let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"lineage": lineage}});
                    let event_id = format!("l/{number}");
                    let event_id = self.host.event_ids.then_some(event_id.as_str());
                    script.push(self.event(event_id, &note.to_string(), Vec::new()));
                    script.push(Piece::Wait(Duration::from_millis(
                        300 + self.random.below(3000),
                    )));
                }
                script.push(Piece::Hang);
            }
        }
        let mut answer = self.answer(200, Some("text/event-stream"), script);
        answer.body_mut().life = Some(life.clone());
        answer.body_mut().calls = calls;
        self.cut(&mut answer);
        Act::Answer(Duration::ZERO, Some(life), Box::new(answer))
    }

    // How it is said.

    fn session(&self) -> Option<&Session> {
        self.host.sessions.get(self.seen.header(SESSION_ID)?)
    }

    /// The session that the request was sent in, as far as its sender knows.
    fn serial(&self) -> Option<usize> {
        let id = self.seen.headers.get(SESSION_ID);
        let is = |upstream: &Upstream| {
            upstream.host == self.host.number
                && upstream.id.as_ref() == id
                && (id.is_some() || upstream.lineage == self.seen.tag.lineage)
        };
        self.account.upstreams.iter().rposition(is)
    }

    /// Notes that the sender is told with this status, beyond doubt, that its session is no more. A 404
    /// may be about credentials.
    fn deny_current(&mut self, status: u16) {
        let Some(serial) = self.serial() else { return };
        let upstream = &self.account.upstreams[serial];
        let has_credentials =
            upstream.made_with.get("authorization") == self.seen.headers.get("authorization");
        let is_proof = self.seen.is_ping()
            || (self.seen.method == Method::POST && (has_credentials || status != 404));
        if is_proof {
            self.account.denied(serial);
        }
    }

    /// A ping that is denied settles it, whatever is denied.
    fn denied_ping(&mut self) {
        if let (true, Some(serial)) = (self.seen.is_ping(), self.serial()) {
            self.account.denied(serial);
        }
    }

    /// A handshake is denied: that says nothing of others' credentials (rule J1).
    fn denied_attempt(&mut self, status: u16) {
        let lineage = match self.seen.is_handshake() {
            true => self.seen.message["params"]["clientInfo"]["version"]
                .as_str()
                .and_then(|it| it.parse().ok()),
            false => self
                .serial()
                .and_then(|serial| self.account.upstreams[serial].lineage),
        };
        if let (401 | 403, Some(lineage), true) = (status, lineage, self.seen.is_layers()) {
            let credentials = self.seen.headers.get("authorization").cloned();
            self.account.lineages[lineage].attempts.denied = Some(credentials);
        }
    }

    fn is_disturbed(&mut self) {
        if let (true, Some(serial)) = (self.seen.is_restore(), self.serial()) {
            self.account.upstreams[serial].is_disturbed = true;
        }
    }

    fn delete_failed(&mut self) {
        if let (true, Some(serial)) = (self.seen.method == Method::DELETE, self.serial()) {
            self.account.upstreams[serial].is_excused = true;
        }
    }

    fn unknown(&mut self) -> Act {
        let style = self.host.style;
        if style.is_plain || self.seen.is_ping() {
            self.deny_current(style.status);
        }
        self.is_disturbed();
        self.delete_failed();
        if self.seen.method != Method::POST && style.status == 400 {
            return self.plain(400, "Invalid or missing session ID", Some("text/plain"));
        }
        let body = style
            .body
            .replace("OWN", &self.seen.message["id"].to_string());
        self.plain(style.status, &body, style.content_type)
    }

    fn plain(&mut self, status: u16, body: &str, content_type: Option<&'static str>) -> Act {
        let piece = Piece::Data(Bytes::copy_from_slice(body.as_bytes()), Vec::new());
        let answer = self.answer(status, content_type, vec![piece]);
        Act::Answer(self.delay(), None, Box::new(answer))
    }

    fn answer(
        &self,
        status: u16,
        content_type: Option<&'static str>,
        script: Vec<Piece>,
    ) -> Response<Wire> {
        let mut answer = Response::new(Wire::new(self.world, script));
        if let (true, Some(id)) = (
            self.host.echoes_id && self.seen.rpc_method() != "initialize",
            self.seen.headers.get(SESSION_ID),
        ) {
            answer.headers_mut().insert(SESSION_ID, id.clone());
        }
        *answer.status_mut() = http::StatusCode::from_u16(status).unwrap();
        if let Some(content_type) = content_type {
            let value = HeaderValue::from_static(content_type);
            answer.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        answer
    }

    fn event(&self, id: Option<&str>, data: &str, keys: Vec<u64>) -> Piece {
        let newline = self.host.newline;
        let id = id
            .map(|id| format!("id: {id}{newline}"))
            .unwrap_or_default();
        Piece::Data(format!("{id}data: {data}{newline}{newline}").into(), keys)
    }

    fn delay(&mut self) -> Duration {
        let is_late = self.host.faults.has(Fault::Late) && self.random.chance(50);
        let most = if is_late { 9_000 } else { 30 };
        Duration::from_millis(self.random.below(most))
    }

    fn cut(&mut self, answer: &mut Response<Wire>) {
        if self.host.faults.has(Fault::Cut) && self.random.chance(50) {
            let after = self.random.index(answer.body().bytes() + 1);
            let breaks = self.random.chance(50);
            answer.body_mut().cut(after, breaks);
        }
    }
}

impl Session {
    pub fn version(&self) -> &'static str {
        self.version
    }
}

pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let fields = headers.get_all(header::COOKIE).iter();
    let pairs = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'));
    let pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(it, _)| *it == name)
        .map(|(_, value)| value)
        .next()
}
