//! Whatever a server answers, to the caller and to the layer's own requests: the caller gets the
//! answer that the rules give it, as the server sent it, and the server no more requests than they
//! allow. Rules B2, C2, D2, E5 to E7, F1, F2, F3, I1, I3, J1, J2.

#![no_main]

use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderValue, Method, Request};
use libfuzzer_sys::fuzz_target;
use mcp_session_recovery::{Failure, Outcome, Refusal, SessionRecoveryLayer, Sessions};
use mcp_session_recovery_fuzz::*;
use serde_json::{Value, json};
use tower::Layer;

/// What answers are made of: those that servers give, and what spoils them.
const WORDS: &[&str] = &[
    "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{}}}",
    "{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":",
    "{\"jsonrpc\":\"2.0\",\"id\":0,\"error\":{\"code\":-32602}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}",
    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32001,\"message\":\"Session not found\"}}",
    "{\"error\":{\"code\":-32000,\"message\":\"Bad Request: No valid session ID provided\"}}",
    "{\"error\":{\"message\":\"Bad Request: Server not initialized\"}}",
    "Session service terminated",
    "{\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}",
    "data: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\n",
    "{\"method\":\"notifications/message\"}",
    "data: ",
    "event: message\n",
    "id: 1\n",
    "\n\n",
    "\r\n\r\n",
    "\n",
    "{",
    "}",
    "[",
    ",",
    "]",
];

/// The default of `max_error_body_bytes`.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Twice as many as are attended to.
const MAX_BATCH: usize = 2048;
/// How many pings of a handshake are answered.
const MAX_PONGS: usize = 16;
/// Marks the caller's own request. Headers that begin so are not taken into the handshake (E5).
const ASKED: &str = "mcp-asked";

#[derive(Arbitrary, Debug)]
struct Input {
    asks: Asks,
    // `None` is what leads on to a recovery, and in it to a new session.
    initialize: Option<Reply>,
    first: Option<Reply>,
    ping: Option<Reply>,
    handshake: Option<Reply>,
    accepted: Option<Reply>,
    replay: Option<Reply>,
    delete: Option<Reply>,
}

/// What the caller asks, once it has a session.
#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Call,
    Batch(Size),
    Listen,
    Respond,
    Initialized,
    /// Again, with the old id.
    Initialize,
    Delete,
}

/// What arrives at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The caller's own `initialize`, before everything else.
    Initialize,
    /// What the caller asks then, for the first and the second time.
    First,
    Replay,
    // The layer's own requests.
    Ping,
    Handshake,
    Accepted,
    Delete,
    /// The answer to a server's ping.
    Pong,
}

/// What leads on to a recovery, and in it to a new session.
fn usual(kind: Kind) -> Sent {
    let result = json!({"protocolVersion": VERSION, "capabilities": {}});
    let initialized = json!({"jsonrpc": "2.0", "id": 0, "result": result});
    match kind {
        Kind::Initialize => Sent::json(200, Some(CALLERS), &initialized),
        Kind::Handshake => Sent::json(200, Some(NEW), &initialized),
        Kind::Replay => Sent::json(200, Some(NEW), &json!({"id": 1, "result": {}})),
        Kind::Accepted | Kind::Delete | Kind::Pong => Sent::json(202, None, &json!(null)),
        Kind::First | Kind::Ping => Sent::json(404, None, &json!("Session not found")),
    }
}

/// Whether an answer is certainly not about the session (rules D2, D9).
fn is_alive(sent: &Sent) -> bool {
    !matches!(
        sent.status.as_u16(),
        400 | 401 | 403 | 404 | 410 | 500 | 503
    )
}

/// Whether an answer certainly says that the session is dead.
fn is_expired(sent: &Sent) -> bool {
    // After a truncated answer nothing is done over, and one to this very request may say that
    // the method is unknown.
    sent.status == 404 && sent.end != End::Breaks && !contains(&sent.body(), "-32601")
}

fn call(id: usize) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call"})
}

impl Asks {
    fn request(self, session: &HeaderValue) -> Request<Feed> {
        let message = match self {
            Self::Call => call(1),
            Self::Batch(many) => (1..=many.up_to(MAX_BATCH)).map(call).collect(),
            Self::Respond => json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
            Self::Initialized => json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
            Self::Initialize => json!({"jsonrpc": "2.0", "id": 1, "method": "initialize"}),
            Self::Listen | Self::Delete => json!(null),
        };
        let mut request = match self {
            Self::Listen => get(session),
            Self::Delete => request(Method::DELETE, Some(session), Feed::of([])),
            _ => post(Some(session), message),
        };
        let asked = HeaderValue::from_static("1");
        request.headers_mut().insert(ASKED, asked);
        request
    }

    /// Whether a dead session is recovered on this request's account (rule D7).
    fn may_trigger(self) -> bool {
        !matches!(self, Self::Initialize | Self::Delete)
    }
}

/// What has arrived at the server, and with which id.
type Log = Arc<Mutex<Vec<(Kind, Option<HeaderValue>)>>>;

fn kind(seen: &Seen, log: &[(Kind, Option<HeaderValue>)]) -> Kind {
    let message = seen.message();
    if log.is_empty() {
        return Kind::Initialize;
    }
    if seen.headers.contains_key(ASKED) {
        return match log.iter().any(|(kind, _)| *kind == Kind::First) {
            false => Kind::First,
            true => Kind::Replay,
        };
    }
    match (&seen.method, message["method"].as_str()) {
        (&Method::DELETE, _) => Kind::Delete,
        (&Method::POST, Some("ping")) => Kind::Ping,
        (&Method::POST, Some("initialize")) => Kind::Handshake,
        (&Method::POST, Some("notifications/initialized")) => Kind::Accepted,
        (&Method::POST, None) if message.get("result").is_some() => Kind::Pong,
        _ => panic!("nobody asked for that: {seen:?}"),
    }
}

/// The request's own answer as it is given back after a recovery: what is beyond K4, or has not come in
/// time, is let go of before the handshake (rule D5).
fn cut(own: Sent, answer: &Answer) -> Sent {
    let has_length = |headers: &HeaderMap| headers.contains_key("content-length");
    let is_shortened = match has_length(&own.headers) {
        true => !has_length(&answer.head.headers),
        false => {
            let is_short = answer.chunks().concat().len() < own.body().len();
            (own.end == End::Hangs || is_short) && answer.end() == End::Clean.seen()
        }
    };
    if !is_shortened {
        return own;
    }
    let chunks = answer.chunks();
    assert!(own.end == End::Hangs || chunks.concat().len() >= MAX_ERROR_BODY);
    assert!(own.body().starts_with(&chunks.concat()));
    let mut headers = own.headers.clone();
    headers.remove("content-length");
    Sent {
        headers,
        chunks,
        end: End::Clean,
        ..own
    }
}

impl Input {
    fn reply(&self, kind: Kind) -> Option<&Reply> {
        match kind {
            Kind::Initialize => self.initialize.as_ref(),
            Kind::First => self.first.as_ref(),
            Kind::Replay => self.replay.as_ref(),
            Kind::Ping => self.ping.as_ref(),
            Kind::Handshake => self.handshake.as_ref(),
            Kind::Accepted => self.accepted.as_ref(),
            Kind::Delete => self.delete.as_ref(),
            Kind::Pong => None,
        }
    }

    /// The answer to a request; `None` if there is none.
    fn sent(&self, kind: Kind) -> Option<Sent> {
        match self.reply(kind) {
            None => Some(usual(kind)),
            Some(reply) => reply.sent(WORDS, MAX_TEXT),
        }
    }

    fn acts(&self, kind: Kind) -> Acts {
        let is_callers = matches!(kind, Kind::Initialize | Kind::First | Kind::Replay);
        match (self.sent(kind), self.reply(kind)) {
            (Some(sent), _) => sent.response().into(),
            // For its own answer a caller would wait for ever.
            (None, Some(Reply::Hangs)) if !is_callers => Acts::Hangs,
            (None, _) => Acts::Fails,
        }
    }

    async fn test(self) {
        let input = Arc::new(self);
        let log = Log::default();
        let (logged, acting) = (log.clone(), input.clone());
        let server = serve(move |seen| {
            let mut log = logged.lock().unwrap();
            let kind = kind(&seen, &log);
            log.push((kind, seen.headers.get(SESSION_ID).cloned()));
            acting.acts(kind)
        });
        let sessions = Sessions::new();
        let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
        let client = layer.layer(server);

        // B2: the handshake passes as it is, and makes a session if it should.
        let own = input.sent(Kind::Initialize);
        let first = send(&client, initialize()).await.ok();
        assert_eq!(first.is_some(), own.is_some());
        if let (Some(first), Some(own)) = (&first, &own) {
            own.assert_got(first, None);
        }
        let id = own.as_ref().and_then(Sent::session).cloned();
        let is_recorded = id.is_some() && own.is_some_and(|own| own.status.is_success());
        assert_eq!(sessions.len(), usize::from(is_recorded));
        let id = id.unwrap_or(HeaderValue::from_static("made up"));

        let answer = send(&client, input.asks.request(&id)).await.ok();
        settle().await;
        let log = log.lock().unwrap().clone();
        let kinds: Vec<_> = log.iter().map(|(kind, _)| *kind).collect();
        let outcome = answer.as_ref().and_then(Answer::outcome);
        input.assert_requests(&log, &kinds, &id);
        let own = input.sent(Kind::First);
        let is_about_the_session = is_recorded
            && input.asks != Asks::Delete
            && own.as_ref().is_some_and(|own| !is_alive(own));
        if !is_about_the_session {
            assert_eq!((kinds.len(), outcome), (2, None), "{kinds:?}");
        }
        if input.asks == Asks::Delete {
            let gone = |own: &Sent| own.status.is_success() || own.status == 404;
            let is_gone = own.as_ref().is_some_and(gone);
            assert_eq!(sessions.len(), usize::from(is_recorded && !is_gone));
        }
        let must = match input.asks {
            // The server is asked first whether it means it (rule D4).
            Asks::Listen => input.ping.is_none(),
            asks => asks.may_trigger(),
        };
        let must = must && is_about_the_session;
        if let Some(own) = own.filter(|own| must && is_expired(own)) {
            assert!(kinds.contains(&Kind::Handshake), "{own:?}");
        }
        input.assert_answer(answer, &kinds, &id);
    }

    /// What the caller gets, by what the layer says of it.
    fn assert_answer(&self, answer: Option<Answer>, kinds: &[Kind], id: &HeaderValue) {
        let Some(answer) = answer else {
            // The transport failed under the caller's request, not under one of the layer's.
            let is_asked = |kind: &&Kind| matches!(kind, Kind::First | Kind::Replay);
            let last = kinds.iter().rfind(is_asked).expect("a request");
            assert!(self.sent(*last).is_none(), "{kinds:?}");
            return;
        };
        let own = self.sent(Kind::First);
        let own = own.expect("an answer cannot come from nowhere");
        // The id that is the caller's on the way back.
        let new = self
            .sent(Kind::Handshake)
            .and_then(|sent| sent.session().cloned());
        let translated = new.map(|new| [new, id.clone()]);
        let translated = translated.as_ref();
        let outcome = answer.outcome();
        let was_replayed = kinds.contains(&Kind::Replay);
        assert_eq!(was_replayed, outcome == Some(Outcome::Replayed));
        match outcome {
            None => assert!(!kinds.contains(&Kind::Handshake)),
            Some(_) => assert!(kinds.contains(&Kind::Handshake) && self.asks.may_trigger()),
        }
        match outcome {
            Some(Outcome::Replayed) => {
                assert!(!matches!(self.asks, Asks::Respond | Asks::Initialized));
                let replay = self.sent(Kind::Replay).expect("an answer");
                replay.assert_got(&answer, translated);
            }
            Some(Outcome::Initialized) => {
                assert_eq!(self.asks, Asks::Initialized);
                let accepted = self.sent(Kind::Accepted).expect("an answer");
                // Its body is not waited for, and may be cut short.
                let chunks = answer.chunks();
                assert!(accepted.body().starts_with(&chunks.concat()));
                let mut headers = accepted.headers;
                if let Some(length) = answer.head.headers.get("content-length") {
                    headers.insert("content-length", length.clone());
                }
                let cut_short = Sent {
                    headers,
                    chunks,
                    end: End::Clean,
                    ..accepted
                };
                cut_short.assert_got(&answer, translated);
            }
            Some(Outcome::Failed(Failure::Denied(status))) => {
                assert_eq!(answer.head.status, status);
                self.assert_denied(&answer);
            }
            Some(Outcome::NotReplayed(Refusal::Response)) => {
                assert_eq!(self.asks, Asks::Respond);
                cut(own, &answer).assert_got(&answer, None);
            }
            Some(Outcome::Failed(_)) => {
                let is_usual = |kind| self.reply(kind).is_none();
                assert!(!is_usual(Kind::Handshake) || !is_usual(Kind::Accepted));
                cut(own, &answer).assert_got(&answer, None);
            }
            None => own.assert_got(&answer, None),
            Some(outcome) => panic!("{outcome:?}"),
        }
        // Whatever was made and is of no use is ended (rules E7, I3).
        let handshake = self.sent(Kind::Handshake);
        // The id that the session goes by is somebody's, still.
        let own = self.sent(Kind::Initialize);
        let is_new = |id: &HeaderValue| own.as_ref().and_then(Sent::session) != Some(id);
        let made = handshake
            .is_some_and(|sent| sent.status.is_success() && sent.session().is_some_and(is_new));
        let is_of_no_use = matches!(outcome, Some(Outcome::Failed(_)));
        let is_ended = kinds.contains(&Kind::Delete);
        assert_eq!(is_ended, made && is_of_no_use, "{kinds:?}");
    }

    /// J1: the caller can act on the answer that the handshake got.
    fn assert_denied(&self, answer: &Answer) {
        let sent = [Kind::Handshake, Kind::Accepted].map(|kind| self.sent(kind));
        let is_denial = |sent: &Sent| matches!(sent.status.as_u16(), 401 | 403);
        let denied = sent.into_iter().flatten().find(is_denial);
        let denied = denied.expect("a denial");
        assert_eq!(answer.head.status, denied.status);
        let (mut got, mut headers) = (answer.head.headers.clone(), denied.headers.clone());
        headers.remove(SESSION_ID);
        // As much of the body as may be read; the rest is not waited for.
        let (body, whole) = (answer.chunks().concat(), denied.body());
        assert_eq!(body, whole[..whole.len().min(MAX_ERROR_BODY)]);
        assert_eq!(answer.end(), Some(Ok(None)));
        let lengths = [&mut got, &mut headers].map(|headers| headers.remove("content-length"));
        let length = lengths[1].as_ref().map(|_| HeaderValue::from(body.len()));
        assert_eq!((&lengths[0], got), (&length, headers));
    }

    /// How often each request is sent, and with which id (rules C1, E5, F1).
    fn assert_requests(
        &self,
        log: &[(Kind, Option<HeaderValue>)],
        kinds: &[Kind],
        id: &HeaderValue,
    ) {
        use Kind::*;
        for kind in [Initialize, First, Replay, Ping, Handshake, Accepted, Delete] {
            let times = kinds.iter().filter(|sent| **sent == kind).count();
            assert!(times <= 1, "{kind:?} {times} times: {kinds:?}");
        }
        let pongs = kinds.iter().filter(|sent| **sent == Pong).count();
        let handshake = self.sent(Handshake);
        // A ping has a brace.
        let body = handshake.as_ref().map(Sent::body).unwrap_or_default();
        let pings = body.iter().filter(|byte| **byte == b'{').count();
        assert!(pongs <= pings.min(MAX_PONGS), "{pongs} pongs");
        let new = handshake.as_ref().and_then(Sent::session);
        for (kind, sent) in log {
            let expected = match kind {
                Initialize | Handshake => None,
                First | Ping => Some(id),
                Replay | Accepted | Delete | Pong => new,
            };
            assert_eq!(sent.as_ref(), expected, "{kind:?}");
        }
    }
}

fuzz_target!(|input: Input| run(input.test()));
