//! The server, in the same process, and the account of what it did.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use mcp_session_recovery::{RequestBody, Sessions};
use serde_json::{Value, json};
use tokio::{
    sync::{Barrier, Notify},
    time::sleep,
};
use tower::util::BoxCloneSyncService;

use crate::random::Random;

pub const SESSION_ID: &str = "mcp-session-id";
/// Whose a request is.
pub const CALLER: &str = "x-caller";

/// When its caller began, in the order of all that happens.
pub const BEGAN: &str = "x-began";

pub type Sent = RequestBody<Full<Bytes>>;
pub type Answered = Response<UnsyncBoxBody<Bytes, Infallible>>;
pub type Service = BoxCloneSyncService<Request<Sent>, Answered, Broken>;

/// The error of the transport.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

struct Session {
    id: String,
    owner: u64,
    is_alive: bool,
    /// Since when whoever made it has known of it, in the order of all that happens.
    known: Option<u64>,
    /// The answer to its `initialize` was given.
    is_delivered: bool,
    is_initialized: bool,
    /// Its end was asked for, or its caller cannot name it any more.
    is_given_up: bool,
    ended: Arc<Notify>,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub calls: AtomicU64,
    pub answered: AtomicU64,
    pub lost: AtomicU64,
    pub dropped: AtomicU64,
    pub handshakes: AtomicU64,
    pub recovered: AtomicU64,
    pub strayed: AtomicU64,
}

struct State {
    random: Random,
    sessions: Vec<Session>,
    /// Those that live, by id.
    alive: HashMap<String, usize>,
    /// All that a caller was ever given an id for.
    given_to: HashMap<(u64, String), Vec<usize>>,
    given: u64,
    executed: HashSet<u64>,
    violation: Option<String>,
    refused: u64,
    hangs: Option<bool>,
    cuts: bool,
}

pub struct Server {
    counts_ids: bool,
    state: Mutex<State>,
    healed: Notify,
    counts: Counts,
    last_key: AtomicU64,
    order: AtomicU64,
    meeting: Barrier,
    forgotten: AtomicU64,
}

fn header<T: FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

impl Server {
    pub fn new(counts_ids: bool, callers: usize) -> Arc<Self> {
        Arc::new(Self {
            counts_ids,
            state: Mutex::new(State {
                random: Random::new(u64::from(counts_ids)),
                sessions: Vec::new(),
                alive: HashMap::new(),
                given_to: HashMap::new(),
                given: 0,
                executed: HashSet::new(),
                violation: None,
                refused: 0,
                hangs: None,
                cuts: true,
            }),
            healed: Notify::new(),
            counts: Counts::default(),
            last_key: AtomicU64::new(0),
            order: AtomicU64::new(0),
            meeting: Barrier::new(callers),
            forgotten: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn counts_ids(&self) -> bool {
        self.counts_ids
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A place in the order of all that happens.
    pub fn next_in_order(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    pub fn next_key(&self) -> u64 {
        self.counts.calls.fetch_add(1, Ordering::Relaxed);
        self.last_key.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits for all who are well; one of them is told `true`.
    pub async fn meet(&self) -> bool {
        self.meeting.wait().await.is_leader()
    }

    pub fn was_executed(&self, key: u64) -> bool {
        self.state().executed.contains(&key)
    }

    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.state().violate(what);
        }
    }

    /// The first thing that went wrong.
    pub fn verdict(&self) {
        if let Some(violation) = self.state().violation.take() {
            panic!("{violation}");
        }
    }

    /// The sessions that nobody will use.
    pub fn left(&self) -> Vec<usize> {
        let state = self.state();
        let left =
            |session: &Session| session.is_alive && session.is_delivered && !session.is_given_up;
        let sessions = state.sessions.iter().enumerate();
        sessions
            .filter(|(_, it)| left(it))
            .map(|(at, _)| at)
            .collect()
    }

    pub fn forget_all(&self) {
        let state = &mut *self.state();
        for (_, at) in state.alive.drain() {
            state.sessions[at].end();
        }
        if self.counts_ids {
            state.given = 0;
        }
    }

    pub fn forget_some(&self, which: u64) {
        let state = &mut *self.state();
        let sessions = &mut state.sessions;
        state.alive.retain(|_, at| {
            let is_kept = (which >> (*at % 64)) & 1 == 0;
            if !is_kept {
                sessions[*at].end();
            }
            is_kept
        });
    }

    pub fn refuse(&self, what: u64) {
        self.state().refused = what;
    }

    /// Nothing is answered for a while; what comes is executed, or not.
    pub fn hang(&self, executes: bool) {
        self.state().hangs = Some(executes);
    }

    pub fn heal(&self) {
        let mut state = self.state();
        state.refused = 0;
        state.hangs = None;
        drop(state);
        self.healed.notify_waiters();
    }

    /// Nothing goes wrong any more, but that sessions expire.
    pub fn be_well(&self) {
        self.heal();
        self.state().cuts = false;
    }

    /// The layer is made to forget all sessions. It tells no server, and leaves alone from then on
    /// what it has known before.
    pub fn forgotten_by(&self, sessions: &Sessions) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        sessions.forget_all();
        let mut state = self.state();
        state
            .sessions
            .iter_mut()
            .for_each(|it| it.is_given_up = true);
    }

    /// How often that was.
    pub fn times_forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    pub fn service(self: &Arc<Self>) -> Service {
        let server = self.clone();
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let server = server.clone();
            server.arrives(&request);
            async move { server.answer(request).await }
        }))
    }

    /// What is known as soon as a request is sent.
    fn arrives(&self, request: &Request<Sent>) {
        if request.method() == Method::DELETE {
            let id: Option<String> = header(request.headers(), SESSION_ID);
            let mut state = self.state();
            if let Some(at) = id.and_then(|id| state.find(&id)) {
                state.sessions[at].is_given_up = true;
            }
        }
    }

    async fn answer(&self, request: Request<Sent>) -> Result<Answered, Broken> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let seen = Seen {
            began: header(&head.headers, BEGAN).unwrap_or(0),
            caller: header(&head.headers, CALLER).unwrap_or(u64::MAX),
            session: header(&head.headers, SESSION_ID),
            message: serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null),
            method: head.method,
        };
        let (before, after) = {
            let random = &mut self.state().random;
            (random.below(4), random.below(4))
        };
        pause(before).await;
        let hangs = self.state().hangs;
        if hangs != Some(false) {
            let (answered, made) = self.act(&seen, after);
            if hangs.is_none() {
                pause(after).await;
                if let Some(made) = made {
                    self.state().sessions[made].is_delivered = true;
                }
                return Ok(answered);
            }
        }
        let _ = tokio::time::timeout(Duration::from_millis(30), self.healed.notified()).await;
        Err(Broken)
    }

    fn act(&self, seen: &Seen, after: u64) -> (Answered, Option<usize>) {
        let state = &mut *self.state();
        let method = match seen.message["method"].as_str() {
            Some(method) => method,
            None => seen.method.as_str(),
        };
        let is_refused = match state.refused {
            0 => false,
            1 => method == "initialize",
            2 => method == "notifications/initialized",
            _ => true,
        };
        if is_refused {
            return (status(StatusCode::SERVICE_UNAVAILABLE), None);
        }
        let id = &seen.message["id"];
        if method == "initialize" {
            self.counts.handshakes.fetch_add(1, Ordering::Relaxed);
            let result = json!({
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "serverInfo": { "name": "server", "version": "1" },
            });
            let made = state.begin(seen.caller, self.counts_ids);
            let mut response = json(json!({ "jsonrpc": "2.0", "id": id, "result": result }));
            let id = state.sessions[made].id.parse().expect("a header");
            response.headers_mut().insert(SESSION_ID, id);
            return (response, Some(made));
        }
        let Some(at) = seen.session.as_ref().and_then(|id| state.find(id)) else {
            return (status(StatusCode::NOT_FOUND), None);
        };
        let session = &mut state.sessions[at];
        // It had been known before there was anything to decide about this request.
        let (owner, known) = (session.owner, session.known);
        let is_known = known.is_some_and(|known| known < seen.began);
        if owner != seen.caller {
            self.counts.strayed.fetch_add(1, Ordering::Relaxed);
            let is_known = is_known && !state.was_overtaken(seen.caller, at);
            if is_known || !self.counts_ids {
                state.violate(|| format!("{method} of {} in a session of {owner}", seen.caller));
            }
        }
        let session = &mut state.sessions[at];
        let answered = match method {
            "notifications/initialized" => {
                session.is_initialized = true;
                if owner == seen.caller {
                    session.known.get_or_insert_with(|| self.next_in_order());
                }
                status(StatusCode::ACCEPTED)
            }
            "tools/call" => {
                let key = seen.message["params"]["key"].as_u64().unwrap_or_default();
                if !session.is_initialized && (is_known || !self.counts_ids) {
                    state.violate(|| format!("call {key} in a session that is not initialized"));
                }
                if !state.executed.insert(key) {
                    state.violate(|| format!("call {key} was executed twice"));
                }
                let message = json!({ "jsonrpc": "2.0", "id": id, "result": { "key": key } });
                match state.random.chance(50) {
                    true => json(message),
                    false => events(message, after, state.cuts && state.random.chance(10)),
                }
            }
            "GET" => listen(session.ended.clone()),
            "DELETE" => {
                session.end();
                let id = session.id.clone();
                state.alive.remove(&id);
                status(StatusCode::OK)
            }
            _ => json(json!({ "jsonrpc": "2.0", "id": id, "result": {} })),
        };
        (answered, None)
    }
}

struct Seen {
    began: u64,
    caller: u64,
    session: Option<String>,
    message: Value,
    method: Method,
}

impl State {
    fn violate(&mut self, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(what);
    }

    fn begin(&mut self, owner: u64, counts: bool) -> usize {
        self.given += 1;
        let id = match counts {
            true => self.given.to_string(),
            false => format!("{:016x}", self.random.next()),
        };
        let at = self.sessions.len();
        let before = self.alive.insert(id.clone(), at);
        assert!(before.is_none(), "an id is given out once");
        let given_to = self.given_to.entry((owner, id.clone())).or_default();
        given_to.push(at);
        self.sessions.push(Session {
            id,
            owner,
            is_alive: true,
            known: None,
            is_delivered: false,
            is_initialized: false,
            is_given_up: false,
            ended: Arc::default(),
        });
        at
    }

    /// Whether a caller may have learned later that it has the id of this session, although it was
    /// given the id before: an answer from before the server forgot everything, that came late.
    fn was_overtaken(&self, caller: u64, at: usize) -> bool {
        let Session { id, known, .. } = &self.sessions[at];
        let given_to = self.given_to.get(&(caller, id.clone()));
        given_to.into_iter().flatten().any(|other| {
            let other = &self.sessions[*other];
            other.is_delivered && other.known.is_none_or(|it| Some(it) > *known)
        })
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.alive.get(id).copied()
    }
}

impl Session {
    fn end(&mut self) {
        if std::mem::take(&mut self.is_alive) {
            // For who listens, and who is about to.
            self.ended.notify_waiters();
            self.ended.notify_one();
        }
    }
}

async fn pause(some: u64) {
    match some {
        0 => {}
        1 => tokio::task::yield_now().await,
        some => sleep(Duration::from_millis(some)).await,
    }
}

fn status(status: StatusCode) -> Answered {
    let body = Empty::new().boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn typed(kind: &'static str, body: UnsyncBoxBody<Bytes, Infallible>) -> Answered {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static(kind));
    response
}

fn json(message: Value) -> Answered {
    let body = Full::new(Bytes::from(message.to_string()));
    typed("application/json", body.boxed_unsync())
}

/// An event stream with the message, or one that ends without.
fn events(message: Value, after: u64, is_cut: bool) -> Answered {
    let event = Bytes::from(format!("data: {message}\n\n"));
    let event = if is_cut {
        event.slice(..event.len() / 2)
    } else {
        event
    };
    let body = StreamBody::new(stream::once(Box::pin(async move {
        pause(after).await;
        Ok(Frame::data(event))
    })));
    typed("text/event-stream", body.boxed_unsync())
}

/// A stream with nothing in it, for as long as the session lives.
fn listen(ended: Arc<Notify>) -> Answered {
    let body = StreamBody::new(stream::once(Box::pin(async move {
        ended.notified().await;
        Ok(Frame::data(Bytes::from_static(b": ended\n\n")))
    })));
    typed("text/event-stream", body.boxed_unsync())
}
