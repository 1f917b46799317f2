//! A server, and what it does about a request. It decides as the request arrives; the answer may
//! take its time.

mod handshake;
mod host;
mod results;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use serde_json::{Value, json};

use crate::{
    account::{Account, Kind, Tag, Upstream},
    arrival,
    faults::{Down, Ending, Fault, Refuse},
    plan::{Action, Settings},
    random::Random,
    wire::{Life, Piece, Wire},
    world::{State, World},
};

use self::host::STYLES;
pub use self::host::{Host, Ids, Session};

pub const SESSION_ID: &str = "mcp-session-id";
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";

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
        id.is_some_and(|id| id.starts_with("mcp-recovery/restore"))
    }

    pub fn is_ping(&self) -> bool {
        self.message["id"] == "mcp-recovery/ping"
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
        if self.seen.rpc_method() == "notifications/initialized" {
            self.denied_attempt(style.status);
        }
        if self.seen.method != Method::POST && style.status == 400 {
            return self.plain(400, "Invalid or missing session ID", Some("text/plain"));
        }
        let body = style
            .body
            .replace("OWN", &self.seen.message["id"].to_string());
        let mut act = self.plain(style.status, &body, style.content_type);
        if let Act::Answer(_, _, answer) = &mut act {
            // One that ends cleanly says something else.
            if self.host.faults.has(Fault::Cut) && self.random.chance(50) {
                let after = self.random.index(answer.body().bytes() + 1);
                answer.body_mut().cut(after, true);
            }
            answer.body_mut().refuses = (!self.seen.is_layers()).then_some(self.seen.tag.number);
        }
        act
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
