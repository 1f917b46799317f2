//! Whatever a server streams, however it is cut and ends, and wherever the session is lost: the
//! caller reads what was sent, and at most the events that the rules add. Rules G1, G5 to G9, H3.

#![no_main]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{HeaderValue, Response};
use libfuzzer_sys::fuzz_target;
use mcp_session_recovery::{SessionRecovery, SessionRecoveryLayer};
use mcp_session_recovery_fuzz::*;
use serde_json::{Value, json};
use tower::Layer;

/// What streams are made of: fields, line ends, answers, and what no server should send.
const WORDS: &[&str] = &[
    "\n",
    "\n\n",
    "\r",
    "\r\r",
    "\r\n",
    "\r\n\r\n",
    "data: x\n",
    "data: x\r",
    "data: x\n\n",
    "data: x\r\n\r\n",
    "data: ",
    "data:",
    "data",
    "id: 7\n",
    "id: 7\n\n",
    "id\r",
    "id:",
    "id: a\0",
    "event: message\n",
    "event: other\n",
    "event:",
    "retry: 5\n",
    ": comment\n",
    ":",
    " ",
    "\u{feff}",
    "\0",
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
    "{\"result\":1,\"id\":\"two\"}",
    "{\"id\":1,\"error\":{}}",
    "{\"id\":3,\"result\":{}}",
    "{\"id\":1,\"method\":\"ping\",\"params\":{\"result\":0}}",
    "[{\"id\":1,\"result\":1},{\"id\":\"two\",\"result\":2}]",
    "{\"id\":1,\ndata: \"result\":{}}",
    "data: {\"id\":1,\"result\":{}}\n\n",
    "data: {\"id\":\"two\",\"result\":{}}\r\r",
];

/// What many of make an event that is too large.
const FILLERS: &[&str] = &[
    "so that a line becomes so long that nobody should keep it",
    "so that there are so many lines that nobody should keep them\ndata: ",
    "so that there is so little in so many lines\n: ",
];

#[derive(Arbitrary, Debug)]
struct Input {
    asks: Asks,
    /// Compressed, say: it is no stream that the layer can read.
    is_encoded: bool,
    /// What the stream begins with: one of the fillers, but seldom, since that takes its time.
    begins: u8,
    old: Pieces,
    /// Whether the server waits for each chunk to be read.
    is_paced: bool,
    /// After how many chunks the session is lost, if it is.
    lost_after: Option<u8>,
    /// How the old stream ends when all has been sent.
    end: End,
    /// Whether it stays silent for long before it goes on after the loss.
    is_late: bool,
    /// What comes in the new session.
    new: Pieces,
    new_end: End,
    /// Whether the server promises to announce changed lists.
    promises: bool,
}

#[derive(Arbitrary, Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Call,
    Batch,
    Listen,
}

impl Asks {
    /// The ids of the requests that the stream is to answer.
    fn ids(self) -> Vec<Value> {
        match self {
            Self::Call => vec![json!(1)],
            Self::Batch => vec![json!(1), json!("two")],
            Self::Listen => vec![],
        }
    }
}

/// The largest event that is certainly read.
const MAX_EVENT: usize = 1 << 20;
/// Enough for more than two of them.
const MAX_STREAM: usize = 5 << 19;
/// What may be held of a stream: some copies of the largest event while it grows, and event ids
/// of 1 KiB each.
const MAX_HELD: usize = 4 << 20;
/// The first of the numbers that stand for fillers.
const SELDOM: usize = 200;
/// Longer than the `orphan_timeout`.
const LONG: Duration = Duration::from_secs(31);

/// A server that can forget its session, and the streams that it has opened.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sessions: usize,
    is_lost: bool,
    streams: Vec<Option<Feeder>>,
}

impl Server {
    fn service(&self, input: &Input) -> ServerService {
        let (server, promises, is_encoded) = (self.clone(), input.promises, input.is_encoded);
        serve(move |seen| {
            let mut state = server.0.lock().unwrap();
            let message = seen.message();
            let method = message["method"].as_str().unwrap_or_default();
            if method == "initialize" {
                state.sessions += 1;
                state.is_lost = false;
                let capabilities = json!({"tools": {"listChanged": promises}});
                let result = json!({"protocolVersion": VERSION, "capabilities": capabilities});
                let mut answer = json_reply(200, &json!({"id": message["id"], "result": result}));
                let id = HeaderValue::from(state.sessions);
                answer.headers_mut().insert(SESSION_ID, id);
                return answer.into();
            }
            let live = state.sessions.to_string();
            if state.is_lost || seen.session() != Some(&*live) {
                return reply(404, "text/plain", Feed::text("Session not found")).into();
            }
            match method {
                "ping" => json_reply(200, &json!({"id": message["id"], "result": {}})).into(),
                "notifications/initialized" => reply(202, "text/plain", Feed::of([])).into(),
                _ => state.open(is_encoded).into(),
            }
        })
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// How many streams have been opened.
    fn opened(&self) -> usize {
        self.state(|state| state.streams.len())
    }

    /// Sends something in a stream. False if nobody reads that any longer.
    fn send(&self, stream: usize, step: Step) -> bool {
        let feeder = self.state(|state| state.streams[stream].clone());
        feeder.is_some_and(|feeder| feeder.send(step))
    }

    fn end(&self, stream: usize, end: End) {
        end.step().map(|step| self.send(stream, step));
        self.state(|state| state.streams[stream] = None);
    }
}

impl State {
    fn open(&mut self, is_encoded: bool) -> Response<Feed> {
        let (feeder, feed) = feed();
        self.streams.push(Some(feeder));
        let mut reply = reply(200, "text/event-stream", feed);
        if is_encoded {
            let encoding = HeaderValue::from_static("gzip");
            reply.headers_mut().insert("content-encoding", encoding);
        }
        reply
    }
}

/// A stream that is sent and read, so far.
struct Scene {
    server: Server,
    client: SessionRecovery<ServerService>,
    session: HeaderValue,
    stream: Answer,
    /// The chunks that the server sent while somebody read them, and all of them as one.
    chunks: Vec<Bytes>,
    sent: Vec<u8>,
    heap: Heap,
}

impl Scene {
    async fn open(input: &Input, bytes: usize) -> Self {
        let server = Server::default();
        let client = SessionRecoveryLayer::new().layer(server.service(input));
        let first = send(&client, initialize()).await.expect("an answer");
        let session = session_of(&first.head).expect("a session");
        let requests: Vec<Value> = input.asks.ids().iter().map(call).collect();
        let asked = match input.asks {
            Asks::Listen => get(&session),
            Asks::Call => post(Some(&session), &requests[0]),
            Asks::Batch => post(Some(&session), Value::Array(requests)),
        };
        let sent = Vec::with_capacity(bytes);
        let heap = Heap::now();
        let stream = send(&client, asked).await.expect("an answer");
        Self {
            server,
            client,
            session,
            stream,
            chunks: Vec::new(),
            sent,
            heap,
        }
    }

    fn send(&mut self, stream: usize, chunk: &Bytes) {
        if self.server.send(stream, Step::Data(chunk.clone())) {
            self.chunks.push(chunk.clone());
            self.sent.extend_from_slice(chunk);
        }
    }

    /// The server forgets the session, and a request finds it out.
    async fn lose(&self) {
        self.server.state(|state| state.is_lost = true);
        let ping = json!({"id": "the ping", "method": "ping"});
        let answer = send(&self.client, post(Some(&self.session), ping)).await;
        assert_eq!(answer.expect("an answer").head.status, 200);
        settle().await;
    }

    /// What the caller read besides the server's chunks, which come in order and as they were.
    fn added(&self) -> Vec<(usize, Bytes)> {
        let mut own = self.chunks.iter().peekable();
        let mut added = Vec::new();
        for (at, chunk) in self.stream.chunks().into_iter().enumerate() {
            match own.next_if(|own| **own == chunk) {
                Some(_) => {}
                None => added.push((at, chunk)),
            }
        }
        assert_eq!(own.next(), None, "lost on the way, or changed: {added:?}");
        added
    }
}

fn call(id: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "x"}})
}

impl Input {
    async fn test(self) {
        let mut old = Vec::new();
        if let Some(filler) = FILLERS.get(usize::from(self.begins).wrapping_sub(SELDOM)) {
            old.extend_from_slice(b"data: ");
            old.extend(filler.repeat(MAX_STREAM / filler.len()).bytes());
        }
        old.extend(self.old.text(WORDS, MAX_STREAM));
        let (old, new) = (self.old.cut(old), self.new.chunks(WORDS, MAX_STREAM));
        let bytes = [&old, &new].map(|chunks| chunks.iter().map(Bytes::len).sum::<usize>());
        let mut scene = Scene::open(&self, bytes.iter().sum()).await;

        let lost_after = self.lost_after.map(|after| old.len().min(after.into()));
        let (before, after) = old.split_at(lost_after.unwrap_or(old.len()));
        for chunk in before {
            scene.send(0, chunk);
            if self.is_paced {
                settle().await;
            }
        }
        settle().await;
        if lost_after.is_some() {
            scene.lose().await;
        }
        match self.asks {
            Asks::Listen => self.listen(scene, after, &new, lost_after.is_some()).await,
            _ => self.answer(scene, after, lost_after.is_some()).await,
        }
    }

    /// G5, G6, G7: each request has one answer at most, the server's or the layer's.
    async fn answer(&self, mut scene: Scene, after: &[Bytes], lost: bool) {
        if lost && self.is_late {
            tokio::time::sleep(LONG).await;
        }
        let expired = scene.stream.end().is_some();
        let is_late = lost && self.is_late && !expired;
        let in_time = scene.sent.len();
        for chunk in after {
            scene.send(0, chunk);
        }
        scene.server.end(0, self.end);
        settle().await;
        assert!(scene.heap.peak() <= MAX_HELD, "{} held", scene.heap.peak());

        let server = Events::read(&scene.sent);
        let ids = self.asks.ids();
        let waits = |server: &Events| {
            // Nobody knows what is in an event that is too large, so it counts as the answer.
            let is_read = !self.is_encoded && server.largest <= MAX_EVENT / 2;
            is_read && ids.iter().any(|id| server.answered(id) == Answered::No)
        };
        let may_be_resumed = !expired && !server.last_id.is_empty();
        let added = scene.added();
        let [(at, errors)] = &added[..] else {
            assert_eq!(added, [], "one chunk at most");
            assert!(!expired, "it ended by itself");
            assert!(!is_late || !waits(&Events::read(&scene.sent[..in_time])));
            let has_ended = self.end != End::Hangs;
            assert!(!has_ended || may_be_resumed || !waits(&server), "no answer");
            assert_eq!(scene.stream.end(), self.end.seen());
            return;
        };

        assert_eq!(*at, scene.chunks.len(), "it is the last");
        assert!(!self.is_encoded && !may_be_resumed);
        let end = match self.end {
            End::Trailers if !expired => self.end,
            _ => End::Clean,
        };
        assert_eq!(scene.stream.end(), end.seen());
        let reason = match expired {
            true => "session_expired",
            false => "stream_ended",
        };
        let caller = scene.stream.chunks().concat();
        assert_eq!(at_boundary(&caller), Some(true), "{errors:?}");
        let caller = Events::read(&caller);
        let messages = caller.messages();
        let (own, errors) = messages.split_at(server.messages().len());
        assert_eq!(own, server.messages());
        let mut waiting: Vec<_> = ids
            .iter()
            .filter(|id| server.answered(id) != Answered::Yes)
            .collect();
        for error in errors {
            let error: Value = serde_json::from_str(error).expect("JSON");
            let position = waiting.iter().position(|id| **id == error["id"]);
            let id = waiting.remove(position.expect("an id that waits"));
            assert_eq!(error, lost_answer(id, reason));
        }
        let unanswered = |id: &&&Value| server.answered(id) == Answered::No;
        assert_eq!(waiting.iter().find(unanswered), None, "not answered");
    }

    /// G1, H3: the old stream up to a boundary, perhaps a notice, the new stream.
    async fn listen(&self, mut scene: Scene, after: &[Bytes], new: &[Bytes], lost: bool) {
        let moves = lost && !self.is_encoded;
        let has_moved = |scene: &Scene| scene.server.opened() == 2;
        let may_move = |scene: &Scene| moves && at_boundary(&scene.sent) != Some(false);
        let must_move = |scene: &Scene| moves && at_boundary(&scene.sent) == Some(true);
        let mut rest = after.iter();
        loop {
            assert!(!has_moved(&scene) || may_move(&scene), "inside an event");
            assert!(has_moved(&scene) || !must_move(&scene), "it stays");
            let Some(chunk) = rest.next().filter(|_| !has_moved(&scene)) else {
                break;
            };
            scene.send(0, chunk);
            settle().await;
        }
        let boundary = scene.chunks.len();
        let end = if has_moved(&scene) {
            assert!(!scene.server.send(0, Step::Yield), "it is still read");
            for chunk in new {
                scene.send(1, chunk);
            }
            scene.server.end(1, self.new_end);
            self.new_end
        } else {
            scene.server.end(0, self.end);
            self.end
        };
        settle().await;
        let end = match end {
            // A caller reconnects after that, as it would anyway.
            _ if moves && !has_moved(&scene) => {
                tokio::time::sleep(LONG).await;
                End::Clean
            }
            end => end,
        };
        assert!(scene.heap.peak() <= MAX_HELD, "{} held", scene.heap.peak());
        assert_eq!(scene.stream.end(), end.seen());

        let added = scene.added();
        let [(at, notice)] = &added[..] else {
            assert_eq!(added, [], "one chunk at most");
            let is_quiet = at_boundary(&scene.sent) == Some(true) && end == End::Hangs;
            assert!(!(has_moved(&scene) && self.promises && is_quiet), "untold");
            return;
        };
        assert!(self.promises && has_moved(&scene) && *at >= boundary);
        let read = scene.stream.chunks();
        let (ahead, with) = (read[..*at].concat(), read[..=*at].concat());
        assert_ne!(at_boundary(&ahead), Some(false), "inside an event");
        let (ahead, with) = (Events::read(&ahead), Events::read(&with));
        let messages = with.messages();
        let (last, others) = messages.split_last().expect("the notice");
        assert_eq!(others, ahead.messages());
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        assert_eq!(
            serde_json::from_str::<Value>(last).ok(),
            Some(changed),
            "{notice:?}"
        );
    }
}

fn lost_answer(id: &Value, reason: &str) -> Value {
    let message = "The response was lost; the request may have been executed";
    let error = json!({"code": -32000, "message": message, "data": {"reason": reason}});
    json!({"jsonrpc": "2.0", "id": id, "error": error})
}

fuzz_target!(|input: Input| run(input.test()));
