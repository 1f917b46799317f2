//! Whatever a caller sends, in whatever frames, and whenever the session is lost: the server gets
//! the caller's bytes as they were, at most twice, and a JSON-RPC response once. Rules A1, A2, B1,
//! C1, E3, F1 to F4, F7, K1.

#![no_main]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request,
    header::{ACCEPT, CONNECTION, COOKIE},
};
use libfuzzer_sys::fuzz_target;
use mcp_session_recovery::{SessionRecoveryLayer, Sessions};
use mcp_session_recovery_fuzz::*;
use serde_json::{Value, json};
use tower::Layer;

/// Messages of every kind.
const MESSAGES: &[&str] = &[
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
    r#"{"id":2,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
    r#"{"id":2,"method":"logging/setLevel","params":{"level":"info"}}"#,
    r#"{"id":2,"method":"resources/subscribe","params":{"uri":"a"}}"#,
];
/// What spoils them.
const SCRAPS: &[&str] = &[
    r#""id":3"#,
    r#""method":"x""#,
    r#""result":1"#,
    r#""error":{}"#,
    "initialize",
    "{",
    "}",
    "[",
    "]",
    ",",
    " ",
    "x",
];

/// Marks the caller's request. Headers that begin so are not taken into the handshake (E5).
const ASKED: &str = "mcp-asked";
const METHODS: &[Method] = &[Method::POST, Method::GET, Method::DELETE, Method::PUT];
const CONTENT_TYPES: &[&str] = &["application/json", "text/plain", "a/b+json; c=d"];
const VERSIONS: &[&str] = &[VERSION, "2025-06-18", "2026-07-28", "x"];
/// Of which there may be many in a request.
const FLOODS: &[HeaderName] = &[COOKIE, CONNECTION, ACCEPT];
/// Twice as many as are attended to.
const MAX_BATCH: usize = 2048;
/// As many frames stay as they came.
const MAX_FRAMES: usize = 64;
/// What a frame without data counts for.
const EMPTY: usize = 64;
/// How long a handshake takes.
const SLOW: Duration = Duration::from_secs(1);

#[derive(Arbitrary, Debug)]
struct Input {
    max_body_bytes: Size,
    comes: Comes,
    method: u8,
    session: Names,
    content_type: u8,
    version: Option<u8>,
    mcp_method: Option<bool>,
    last_event_id: Option<Vec<u8>>,
    flood: Option<Flood>,
    messages: Messages,
    body: Pieces,
    /// Whether the body is not ready for a moment before each frame, as bits.
    pauses: u32,
    /// Whether the body says its size beforehand.
    is_told: bool,
    end: End,
}

/// What the body begins with.
#[derive(Arbitrary, Debug)]
enum Messages {
    None,
    One(u8),
    Batch(Vec<u8>),
    /// One of them so many times, and then another.
    Many(u8, Size, u8),
}

/// When the request comes.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// The session lives.
    Before,
    /// It is the first to meet the dead session.
    First,
    /// During the recovery.
    During,
    /// When the session has been recovered.
    After,
}

/// Which session the request names.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Its,
    Another,
    None,
}

/// A server that can forget its session, and the caller's requests that it has seen.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sessions: u64,
    is_lost: bool,
    asked: Vec<Seen>,
    others: usize,
}

impl Server {
    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn service(&self) -> ServerService {
        let server = self.clone();
        serve(move |seen| server.state(|state| state.act(seen)))
    }
}

impl State {
    fn act(&mut self, seen: Seen) -> Acts {
        let message = seen.message();
        let method = message["method"].as_str().unwrap_or_default();
        let live = self.sessions.to_string();
        let is_known = !self.is_lost && seen.session() == Some(&*live);
        let initializes = seen.session().is_none() && method == "initialize";
        let is_notified = method == "notifications/initialized";
        match seen.headers.contains_key(ASKED) {
            true => self.asked.push(seen),
            false => self.others += 1,
        }
        if initializes {
            self.sessions += 1;
            let is_slow = std::mem::take(&mut self.is_lost);
            let result = json!({"protocolVersion": VERSION, "capabilities": {}});
            let mut answer = json_reply(200, &json!({"id": message["id"], "result": result}));
            let id = HeaderValue::from(self.sessions);
            answer.headers_mut().insert(SESSION_ID, id);
            return match is_slow {
                true => Acts::AnswersLate(answer, SLOW),
                false => answer.into(),
            };
        }
        match (is_known, is_notified) {
            (false, _) => reply(404, "text/plain", Feed::text("Session not found")),
            (true, true) => reply(202, "text/plain", Feed::of([])),
            (true, false) => json_reply(200, &json!({"id": message["id"], "result": {}})),
        }
        .into()
    }
}

/// The caller's body, as it is to arrive.
struct Body {
    frames: Vec<Bytes>,
    end: Result<Option<HeaderMap>, TestError>,
    is_kept: bool,
}

impl Body {
    fn text(&self) -> Vec<u8> {
        self.frames.concat()
    }

    fn contains(&self, text: &str) -> bool {
        contains(&self.text(), text)
    }

    /// The messages in it, if it certainly is JSON-RPC.
    fn messages(&self) -> Vec<Value> {
        match serde_json::from_slice(&self.text()) {
            Ok(Value::Array(messages)) => messages,
            Ok(message) => vec![message],
            Err(_) => Vec::new(),
        }
    }

    /// Whether a response is in it: certainly, or perhaps.
    fn has_response(&self) -> (bool, bool) {
        let messages = self.messages();
        let is_response = |message: &Value| {
            let has = |member| message.get(member).is_some();
            !has("method") && (has("result") || has("error"))
        };
        let certainly = messages.iter().all(Value::is_object) && messages.iter().any(is_response);
        let perhaps = ["result", "error", "\\u"]
            .iter()
            .any(|text| self.contains(text));
        (certainly, perhaps)
    }
}

impl Input {
    fn body(&self) -> (Body, Feed) {
        let message = |number: &u8| pick(MESSAGES, *number);
        let mut text = match &self.messages {
            Messages::None => String::new(),
            Messages::One(number) => message(number).to_owned(),
            Messages::Batch(numbers) => {
                let messages: Vec<_> = numbers.iter().map(message).collect();
                format!("[{}]", messages.join(","))
            }
            Messages::Many(number, many, last) => {
                let mut messages = vec![message(number); many.up_to(MAX_BATCH)];
                messages.push(message(last));
                format!("[{}]", messages.join(","))
            }
        }
        .into_bytes();
        text.extend(self.body.text(SCRAPS, MAX_TEXT));
        let frames = self.body.cut(text);
        // A request whose body never ends is never sent.
        let end = match self.end {
            End::Hangs => End::Clean,
            end => end,
        };
        let steps = frames.iter().enumerate().flat_map(|(number, frame)| {
            let pauses = self.pauses >> (number % 32) & 1 == 1;
            let data = Step::Data(frame.clone());
            pauses.then_some(Step::Yield).into_iter().chain([data])
        });
        let wire = Feed::of(steps.chain(end.step()));
        let bytes = frames.iter().map(Bytes::len).sum();
        let empty = frames.iter().filter(|frame| frame.is_empty()).count();
        let body = Body {
            is_kept: bytes + EMPTY * empty <= self.max_body_bytes() && end != End::Breaks,
            end: end.seen().expect("an end"),
            frames,
        };
        let wire = if self.is_told { wire.told(bytes) } else { wire };
        (body, wire)
    }

    fn max_body_bytes(&self) -> usize {
        self.max_body_bytes.up_to(MAX_TEXT)
    }

    fn method(&self) -> &Method {
        &METHODS[usize::from(self.method) % METHODS.len()]
    }

    fn request(&self, session: &HeaderValue, body: Feed) -> Request<Feed> {
        let another = HeaderValue::from_static("another");
        let named = match self.session {
            Names::Its => Some(session),
            Names::Another => Some(&another),
            Names::None => None,
        };
        let mut request = request(self.method().clone(), named, body);
        let headers = request.headers_mut();
        if let Some(flood) = &self.flood {
            headers.extend(flood.headers(FLOODS));
        }
        let content_type = pick(CONTENT_TYPES, self.content_type);
        headers.insert("content-type", HeaderValue::from_static(content_type));
        headers.insert(ASKED, HeaderValue::from_static("1"));
        headers.remove(PROTOCOL_VERSION);
        if let Some(version) = self.version {
            let version = HeaderValue::from_static(pick(VERSIONS, version));
            headers.insert(PROTOCOL_VERSION, version);
        }
        if let Some(initializes) = self.mcp_method {
            let method = if initializes { "initialize" } else { "x" };
            headers.insert("mcp-method", HeaderValue::from_static(method));
        }
        let id = self.last_event_id.as_ref();
        if let Some(id) = id.and_then(|id| HeaderValue::from_bytes(id).ok()) {
            headers.insert(LAST_EVENT_ID, id);
        }
        request
    }

    async fn test(self) {
        let (server, sessions) = (Server::default(), Sessions::new());
        // The handshake's own body shall be kept.
        let setting_up = SessionRecoveryLayer::new().sessions(sessions.clone());
        let layer = setting_up.clone().max_body_bytes(self.max_body_bytes());
        let setting_up = setting_up.layer(server.service());
        let client = layer.layer(server.service());
        let first = send(&setting_up, initialize()).await.expect("an answer");
        let session = session_of(&first.head).expect("a session");
        let others = server.state(|state| {
            state.is_lost = self.comes != Comes::Before;
            state.others
        });

        let (body, wire) = self.body();
        let request = self.request(&session, wire);
        let headers = request.headers().clone();
        let ping = || post(Some(&session), json!({"id": 0, "method": "ping"}));
        match self.comes {
            Comes::Before | Comes::First => {}
            Comes::During => {
                let (client, ping) = (setting_up.clone(), ping());
                tokio::spawn(async move { send(&client, ping).await });
                settle().await;
            }
            Comes::After => drop(send(&setting_up, ping()).await.expect("an answer")),
        }
        let answer = send(&client, request).await.expect("an answer");
        tokio::time::sleep(2 * SLOW).await;

        let (asked, others) = server.state(|state| {
            let asked = std::mem::take(&mut state.asked);
            (asked, state.others - others)
        });
        // A ping of the caller's and its replay, a handshake of two, a ping of the layer's.
        assert!(others <= 5, "{others} requests");
        for seen in &asked {
            self.assert_arrived(seen, &body, &headers);
        }
        let id = |seen| Seen::session(seen).map(str::as_bytes);
        let ids: Vec<_> = asked.iter().map(id).collect();
        self.assert_times(&ids, &body, session.as_bytes());
        self.assert_recorded(&sessions, &body, &answer);
    }

    /// F7, G9: it is the caller's, but for what is translated.
    fn assert_arrived(&self, seen: &Seen, body: &Body, headers: &HeaderMap) {
        assert_eq!(seen.method, *self.method());
        let is_not_empty = |frame: &&Bytes| !frame.is_empty();
        let frames: Vec<_> = seen.frames.iter().filter(is_not_empty).collect();
        let own: Vec<_> = body.frames.iter().filter(is_not_empty).collect();
        // A great many are joined.
        if own.len() <= MAX_FRAMES {
            assert_eq!(frames, own);
        }
        assert!(seen.frames.concat() == body.text());
        assert_eq!(end(seen), body.end);
        let mut headers = headers.clone();
        let mut arrived = seen.headers.clone();
        for translated in [SESSION_ID, PROTOCOL_VERSION, LAST_EVENT_ID] {
            headers.remove(translated);
            arrived.remove(translated);
        }
        assert_eq!(arrived, headers);
    }

    fn is_touched(&self) -> bool {
        let version = self.version.map(|version| pick(VERSIONS, version));
        self.session == Names::Its && version != Some("2026-07-28")
    }

    /// F1 to F4: how often it arrives, and in which session.
    fn assert_times(&self, ids: &[Option<&[u8]>], body: &Body, own: &[u8]) {
        let its = match self.session {
            Names::Its => Some(own),
            Names::Another => Some(&b"another"[..]),
            Names::None => None,
        };
        let new = Some(&b"2"[..]);
        let may_trigger = [Method::POST, Method::GET].contains(self.method());
        let (has_response, may_have_response) = body.has_response();
        let may_initialize = body.contains("initialize") || body.contains("\\u");
        if !self.is_touched() || self.comes == Comes::Before {
            assert_eq!(ids, [its]);
            return;
        }
        match self.comes {
            Comes::Before => {}
            Comes::First => {
                assert!(
                    matches!(ids, [first] | [first, _] if *first == its),
                    "{ids:?}"
                );
                assert!(ids.get(1).is_none_or(|second| *second == new));
                let must_not = has_response || !body.is_kept || !may_trigger;
                assert!(!must_not || ids.len() == 1, "{ids:?}");
                let may_not = must_not || may_have_response || may_initialize;
                let resumes = self.last_event_id.is_some() && self.method() == Method::GET;
                assert!(may_not || resumes || ids.len() == 2, "{ids:?}");
            }
            // Its own `notifications/initialized` is answered with the handshake's.
            Comes::During | Comes::After if ids.is_empty() => {
                assert!(body.contains("initialized"));
            }
            Comes::During => {
                assert!(ids.len() <= 1, "it is sent once: {ids:?}");
                let stays = match body.is_kept {
                    true => has_response,
                    false => !body.contains("\"method\""),
                };
                assert!(!stays || ids == [its], "{ids:?}");
            }
            Comes::After => assert_eq!(ids, [new]),
        }
    }

    /// B1, B2: nothing but an `initialize` makes a session.
    fn assert_recorded(&self, sessions: &Sessions, body: &Body, answer: &Answer) {
        let is_candidate = self.session == Names::None && self.method() == Method::POST;
        if !is_candidate {
            return;
        }
        let is_recorded = sessions.len() == 2;
        let messages = body.messages();
        let is_initialize = |message: &Value| {
            message["method"] == "initialize"
                && (message["id"].is_u64() || message["id"].is_string())
        };
        let initializes = !body.text().starts_with(b"[") && messages.iter().any(is_initialize);
        let is_json = pick(CONTENT_TYPES, self.content_type) != "text/plain";
        let version = self.version.map(|version| pick(VERSIONS, version));
        let may = is_json
            && body.is_kept
            && self.mcp_method != Some(false)
            && version != Some("2026-07-28");
        assert!(!is_recorded || (may && body.contains("initialize")));
        assert!(!is_recorded || answer.head.status == 200);
        let must = may && initializes && body.contains("initialize");
        assert!(is_recorded || !must);
    }
}

fuzz_target!(|input: Input| run(input.test()));
