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
    // What many of make an event that is too large.
    "so that a line becomes so long that nobody should keep it",
    "so that there are so many lines that nobody should keep them\ndata: ",
    "so that there is so little in so many lines\n: ",
];

#[derive(Arbitrary, Debug)]
struct Input {
    asks: Asks,
    /// Compressed, say: it is no stream that the layer can read.
    is_encoded: bool,
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
    Batch(Size),
    Listen,
}

impl Asks {
    /// The ids of the requests that the stream is to answer.
    fn ids(self) -> Vec<Value> {
        match self {
            Self::Call => vec![json!(1)],
            Self::Batch(more) => {
                let more = (0..more.up_to(MAX_BATCH)).map(|id| json!(id + 10));
                [json!(1), json!("two")].into_iter().chain(more).collect()
            }
            Self::Listen => vec![],
        }
    }

    /// Those of them that are attended to.
    fn attended(self) -> Vec<Value> {
        let ids = self.ids();
        if ids.len() > MAX_ATTENDED {
            vec![]
        } else {
            ids
        }
    }
}

/// The largest batch that is attended to.
const MAX_ATTENDED: usize = 1024;
const MAX_BATCH: usize = 1100;

/// The largest event that is certainly read.
const MAX_EVENT: usize = 1 << 20;
/// What may be held of a stream: some copies of the largest event while it grows, and event ids
/// of 1 KiB each.
const MAX_HELD: usize = 4 << 20;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// What the layer says of lists that may have changed.
const NOTICE: &str = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n";
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
            Asks::Batch(_) => post(Some(&session), Value::Array(requests)),
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
        let [old, new] = [&self.old, &self.new].map(|stream| stream.chunks(WORDS, MAX_TEXT));
        let bytes = old.iter().chain(&new).map(Bytes::len).sum::<usize>();
        // The end of a line besides.
        let mut scene = Scene::open(&self, bytes + 2).await;

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
        let ids = self.asks.attended();
        let answered = server.answered(&ids);
        let waits = |server: &Events, answered: &[Answered]| {
            // Nobody knows what is in an event that is too large, so it counts as the answer.
            let is_read = !self.is_encoded && server.largest <= MAX_EVENT / 2;
            is_read && answered.contains(&Answered::No)
        };
        let may_be_resumed = !expired && !server.last_id.is_empty();
        let added = scene.added();
        let [(at, errors)] = &added[..] else {
            assert_eq!(added, [], "one chunk at most");
            assert!(!expired, "it ended by itself");
            let in_time = Events::read(&scene.sent[..in_time]);
            assert!(!is_late || !waits(&in_time, &in_time.answered(&ids)));
            let has_ended = self.end != End::Hangs;
            assert!(
                !has_ended || may_be_resumed || !waits(&server, &answered),
                "no answer"
            );
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
        assert!(at_boundary(&caller), "{errors:?}");
        let caller = Events::read(&caller);
        let messages = caller.messages();
        let (own, errors) = messages.split_at(server.messages().len());
        assert_eq!(own, server.messages());
        // In the order in which they were asked for.
        let mut waiting = ids.iter().zip(&answered);
        for error in errors {
            let error: Value = serde_json::from_str(error).expect("JSON");
            let (id, answered) = waiting
                .find(|(id, answered)| **id == error["id"] || **answered == Answered::No)
                .expect("one that waits");
            assert_ne!(*answered, Answered::Yes);
            assert_eq!(error, lost_answer(id, reason));
        }
        let unanswered = |(_, answered): &(_, &Answered)| **answered == Answered::No;
        assert_eq!(waiting.find(unanswered), None, "not answered");
    }

    /// G1, H3: the old stream up to a boundary, perhaps a notice, the new stream.
    async fn listen(&self, mut scene: Scene, after: &[Bytes], new: &[Bytes], lost: bool) {
        let moves = lost && !self.is_encoded;
        let mut rest = after.iter();
        let has_moved = loop {
            let has_moved = scene.server.opened() == 2;
            let may_move = scene.heap.aside(|| at_boundary(&scene.sent));
            assert_eq!(has_moved, moves && may_move);
            let Some(chunk) = rest.next().filter(|_| !has_moved) else {
                break has_moved;
            };
            scene.send(0, chunk);
            settle().await;
        };
        let end = match has_moved {
            true => {
                assert!(!scene.server.send(0, Step::Yield), "it is still read");
                self.go_on(&mut scene, new);
                self.new_end
            }
            false => {
                scene.server.end(0, self.end);
                self.end
            }
        };
        settle().await;
        let end = match end {
            // A caller reconnects after that, as it would anyway.
            _ if moves && !has_moved => {
                tokio::time::sleep(LONG).await;
                End::Clean
            }
            end => end,
        };
        assert!(scene.heap.peak() <= MAX_HELD, "{} held", scene.heap.peak());
        assert_eq!(scene.stream.end(), end.seen());

        if !has_moved {
            assert_eq!(scene.stream.chunks(), scene.chunks);
            return;
        }
        let mut read = scene.stream.chunks();
        let notice = read.iter().position(|chunk| *chunk == NOTICE.as_bytes());
        if let Some(notice) = notice {
            assert!(self.promises);
            let ahead = read[..notice].concat();
            assert!(at_boundary(&ahead), "inside an event");
            assert_eq!(end_of_line(&ahead), "", "inside a line");
            read.remove(notice);
        }
        assert_eq!(read.concat(), scene.sent);
        let has_room = at_boundary(&scene.sent) && end_of_line(&scene.sent).is_empty();
        let is_quiet = has_room && end == End::Hangs;
        assert!(notice.is_some() || !self.promises || !is_quiet, "untold");
    }

    /// The new stream goes on where the old one stopped.
    fn go_on(&self, scene: &mut Scene, new: &[Bytes]) {
        let end_of_line = scene.heap.aside(|| end_of_line(&scene.sent));
        scene.sent.extend_from_slice(end_of_line.as_bytes());
        let begins = scene.sent.len();
        for chunk in new {
            scene.send(1, chunk);
        }
        scene.server.end(1, self.new_end);
        // A byte order mark is none there, and nor is the beginning of one that does not come.
        let begins = begins..scene.sent.len().min(begins + BYTE_ORDER_MARK.len());
        if BYTE_ORDER_MARK.starts_with(&scene.sent[begins.clone()]) {
            scene.sent.drain(begins);
        }
    }
}

fn lost_answer(id: &Value, reason: &str) -> Value {
    let message = "The response was lost; the request may have been executed";
    let error = json!({"code": -32000, "message": message, "data": {"reason": reason}});
    json!({"jsonrpc": "2.0", "id": id, "error": error})
}

fuzz_target!(|input: Input| run(input.test()));
