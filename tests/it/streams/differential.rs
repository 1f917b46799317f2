//! The layer and an oracle, given the same conversations: rules G1 to G6, G9, C4.
//!
//! The oracle is a plain reader of whole event streams and a plain account of which request was
//! answered where. Conversations are random, cut into random chunks, with losses at random places;
//! what the caller reads, how its streams end, which errors it gets, which ids are remembered and
//! what is executed must agree. Some requests are accepted with 202, and answered on the listening stream
//! or never. `DIFFERENTIAL_SEEDS=100000` runs as many conversations, and
//! `DIFFERENTIAL_FIRST` tells which one is the first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::{Value, json};
use testing::streams::*;
use testing::*;
use tokio::time::advance;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// What is accepted with 202.
const LATER: &str = "tasks/later";
const IDS: [&str; 6] = ["0", "1", "0/0", "0/1", "\u{e4}", "x y"];

/// A little generator of numbers.
struct Numbers(u64);

impl Numbers {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % below
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn is(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

/// An event stream as the standard reads it (WHATWG HTML, 9.2.6), in the plainest way.
#[derive(Default, Debug)]
struct Plain {
    events: Vec<Event>,
    last_id: String,
    is_in_event: bool,
    end_of_line: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
struct Event {
    /// The data, if clients take them for a message.
    message: Option<String>,
    /// The id that it made the last one.
    id: Option<String>,
}

impl Plain {
    fn read(stream: &[u8], last_id: &str) -> Self {
        let text = String::from_utf8_lossy(stream);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<_> = text.split('\n').collect();
        let open = lines.pop().unwrap_or_default();
        let mut plain = Self {
            last_id: last_id.to_owned(),
            ..Self::default()
        };
        let (mut kind, mut data, mut id) = (String::new(), String::new(), None);
        for line in lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            plain.is_in_event |= matches!(field, "data" | "event" | "id");
            match field {
                "" if line.is_empty() => {
                    let is_message = matches!(kind.as_str(), "" | "message");
                    let message = data.strip_suffix('\n').filter(|_| is_message);
                    if let Some(id) = &id {
                        plain.last_id.clone_from(id);
                    }
                    plain.events.push(Event {
                        message: message.map(str::to_owned),
                        id: id.take(),
                    });
                    (kind, data) = Default::default();
                    plain.is_in_event = false;
                }
                "data" => data += &format!("{value}\n"),
                "event" => kind = value.to_owned(),
                "id" if !value.contains('\0') => id = Some(value.to_owned()),
                _ => {}
            }
        }
        plain.is_in_event |= match open.split_once(':') {
            Some((name, _)) => matches!(name, "data" | "event" | "id"),
            None => ["data", "event", "id"]
                .iter()
                .any(|field| !open.is_empty() && field.starts_with(open)),
        };
        plain.end_of_line = match open {
            "" => "",
            _ if open.starts_with("retry:") => "-\n",
            _ => "\n",
        };
        plain
    }

    fn messages(&self) -> Vec<Value> {
        let messages = self
            .events
            .iter()
            .filter_map(|event| event.message.as_ref());
        messages
            .filter_map(|data| serde_json::from_str(data).ok())
            .collect()
    }
}

/// The requests that the data of an event answer.
fn responses(data: &str) -> Vec<u64> {
    let messages = match serde_json::from_str(data) {
        Ok(Value::Array(messages)) => messages,
        Ok(message) => vec![message],
        Err(_) => return Vec::new(),
    };
    let is_response = |message: &&Value| {
        message.get("method").is_none()
            && (message.get("result").is_some() || message.get("error").is_some())
    };
    let responses = messages.iter().filter(is_response);
    let ids = responses.filter_map(|message| message["id"].as_f64());
    ids.map(|id| id as u64).collect()
}

/// The requests of one call, and the streams that may answer them.
#[derive(Default)]
struct Call {
    epoch: usize,
    requests: Vec<u64>,
    /// In the order in which they were answered.
    answered: Vec<u64>,
}

impl Call {
    fn waiting(&self) -> Vec<u64> {
        self.since(self.answered.len())
    }

    /// Those that waited when so many had been answered.
    fn since(&self, answered: usize) -> Vec<u64> {
        let before = &self.answered[..answered.min(self.answered.len())];
        let requests = self.requests.iter().copied();
        requests.filter(|id| !before.contains(id)).collect()
    }

    fn read(&mut self, message: &str) {
        for id in responses(message) {
            if self.requests.contains(&id) && !self.answered.contains(&id) {
                self.answered.push(id);
            }
        }
    }

    fn give_up(&mut self) {
        self.answered.extend(self.waiting());
    }
}

/// What a stream of events is, as the log has it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Origin {
    Call(usize),
    /// A number of its own, and the epoch.
    Listening(usize, usize),
}

/// A stream of the caller's.
struct Open {
    stream: Stream,
    /// `None` if nobody knows.
    origin: Option<Origin>,
    epoch: usize,
    /// The id that it was resumed from.
    resumed: String,
    /// Where the server feeds it.
    feed: (Feeds, usize),
    /// What is still to be fed.
    script: Vec<u8>,
    /// What the server of now has sent, and how many of its events have been read.
    sent: Vec<u8>,
    read: usize,
    is_done: bool,
    /// It goes on in a body that has begun: of an older stream, or with what the layer had to say.
    goes_on: bool,
    /// What the caller should have read before.
    before: Vec<u8>,
    ends: Option<Ends>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Feeds {
    Calls,
    Gets,
}

#[derive(Clone, PartialEq, Debug)]
enum Ends {
    /// As the server ended it.
    Clean,
    Broken,
    /// With these errors, for this reason.
    Lost(Vec<u64>, &'static str),
}

impl Open {
    fn plain(&self) -> Plain {
        Plain::read(&self.sent, &self.resumed)
    }

    /// What has come of the server of now, and is let through.
    fn passed(&self) -> &[u8] {
        match self.sent.strip_prefix(BYTE_ORDER_MARK) {
            _ if !self.goes_on => &self.sent,
            Some(rest) => rest,
            // It may become one.
            None if BYTE_ORDER_MARK.starts_with(&self.sent) => b"",
            None => &self.sent,
        }
    }

    /// What the caller should have read.
    fn expected(&self) -> Vec<u8> {
        [&*self.before, self.passed()].concat()
    }
}

/// A request that was accepted with 202.
struct Accepted {
    epoch: usize,
    request: u64,
    /// Answered on a listening stream, or told to be lost.
    is_over: bool,
}

struct Conversation {
    numbers: Numbers,
    scene: Scene,
    calls: Fed,
    gets: Fed,
    epoch: usize,
    next_request: u64,
    next_listening: usize,
    executed: usize,
    /// How many requests the server has accepted.
    later: Arc<AtomicUsize>,
    accepted: Vec<Accepted>,
    origins: Vec<Call>,
    /// Each stream that told ids, in the order of its first one, and the ids with how many answers
    /// came before.
    log: Vec<(Origin, Vec<(String, usize)>)>,
    open: Vec<Open>,
}

impl Conversation {
    async fn new(seed: u64) -> Self {
        let scene = scene(SessionRecoveryLayer::new()).await;
        let (calls, gets) = (Fed::default(), feed_all(&scene.server, "GET"));
        let (feeding, living) = (calls.clone(), scene.server.clone());
        scene.server.on(move |seen| {
            let is_call = seen.what() == "tools/call" || seen.message().is_array();
            (is_call && is_live(&living, seen)).then(|| feeding.add())
        });
        let later = Arc::new(AtomicUsize::new(0));
        let (living, count) = (scene.server.clone(), later.clone());
        scene.server.on(move |seen| {
            (seen.what() == LATER && is_live(&living, seen)).then(|| {
                count.fetch_add(1, Ordering::Relaxed);
                reply(202, None, "")
            })
        });
        Self {
            numbers: Numbers::new(seed),
            scene,
            calls,
            gets,
            epoch: 0,
            next_request: 0,
            next_listening: 0,
            executed: 0,
            later,
            accepted: Vec::new(),
            origins: Vec::new(),
            log: Vec::new(),
            open: Vec::new(),
        }
    }

    /// What a server may send in a stream that is to answer these.
    fn script(&mut self, requests: &[u64]) -> Vec<u8> {
        let numbers = &mut self.numbers;
        let newline = numbers.one_of(&["\n", "\n", "\r\n", "\r"]);
        let mut text = String::new();
        if numbers.is(4) {
            text.push('\u{feff}');
        }
        if numbers.is(3) {
            text += &format!("id: {}\ndata: \n\n", numbers.one_of(&IDS));
        }
        let mut left = requests.to_vec();
        for _ in 0..numbers.below(8) {
            let id = format!("id: {}\n", numbers.one_of(&IDS));
            let request = match left.len() {
                0 => 900 + numbers.below(2) as u64,
                most => left[numbers.below(most)],
            };
            text += &match numbers.below(16) {
                0..3 => {
                    left.retain(|id| *id != request);
                    let name = numbers.one_of(&["id", "id", "id", "\\u0069d"]);
                    let member = numbers.one_of(&["result", "result", "error", "r\\u0065sult"]);
                    let number = numbers.one_of(&["", "", ".0", "e0"]);
                    let data = format!(r#"{{"{name}":{request}{number},"{member}":{{"a":"\n"}}}}"#);
                    let data = match numbers.below(6) {
                        0 => data.replace(',', ",\ndata:"),
                        1 => format!("[{data},{{\"id\":901,\"result\":0}}]"),
                        _ => data,
                    };
                    let kind = numbers.one_of(&["", "event: message\n", "event: message\n"]);
                    match numbers.below(3) {
                        0 => format!("{kind}{id}data: {data}\n\n"),
                        1 => format!("{kind}data: {data}\n{id}\n"),
                        _ => format!("data: {data}\n{kind}\n"),
                    }
                }
                3 => format!("event: other\ndata: {{\"id\":{request},\"result\":{{}}}}\n\n"),
                4 => format!(
                    "data: {{\"id\":{request},\"method\":\"a\",\"params\":{{\"result\":0}}}}\n\n"
                ),
                5 => format!("data: {{\"id\":\"{request}\",\"result\":{{}}}}\n\n"),
                6 => format!("data: {{\"id\":{request},\"result\":\n\n"),
                7 => ": comment\n".to_owned(),
                8 => ": comment\n\n".to_owned(),
                9 => "retry: 5\n".to_owned(),
                10 => format!("{id}\n"),
                11 => format!("{id}id: nul\0\ndata: x\n\n"),
                12 => "id\ndata: x\n\n".to_owned(),
                13 => format!("id: 7\n{id}data: x\n\n"),
                14 if numbers.is(150) => {
                    let filler = "i".repeat((1 << 20) + 5000);
                    left.retain(|id| *id != request);
                    format!("data: {{\"id\":{request},\"result\":\"{filler}\"}}\n{id}\n")
                }
                15 if numbers.is(150) => {
                    let filler = "d".repeat((1 << 20) + 5000);
                    format!(
                        "{id}data: {{\"method\":\"a\",\"params\":\"{filler}\",\"id\":{request}}}\n\n"
                    )
                }
                _ => "data: {\"method\":\"b\"}\n\n".to_owned(),
            };
        }
        text.replace('\n', newline).into_bytes()
    }

    async fn push(
        &mut self,
        stream: Stream,
        origin: Option<Origin>,
        resumed: &str,
        feed: (Feeds, usize),
    ) {
        let requests = match origin {
            Some(Origin::Call(call)) => self.origins[call].requests.clone(),
            _ => Vec::new(),
        };
        let script = self.script(&requests);
        // What the layer has to say comes before what the server has.
        settle().await;
        let before = match origin {
            Some(Origin::Listening(..)) => self.take_lost(),
            _ => Vec::new(),
        };
        self.open.push(Open {
            stream,
            origin,
            epoch: self.epoch,
            resumed: resumed.to_owned(),
            feed,
            script,
            sent: Vec::new(),
            read: 0,
            is_done: requests.is_empty(),
            goes_on: !before.is_empty(),
            before,
            ends: None,
        });
    }

    async fn call(&mut self) {
        let most = self.numbers.one_of(&[1, 1, 1, 2, 3]);
        let requests: Vec<_> = (0..most).map(|n| self.next_request + n).collect();
        self.next_request += most;
        let message = match &requests[..] {
            [id] => tool_call(*id),
            ids => ids.iter().map(|id| tool_call(*id)).collect(),
        };
        let stream = self
            .scene
            .open(post(Some(&self.scene.session), &message))
            .await;
        assert_eq!(stream.head.status, 200);
        self.executed += 1;
        self.origins.push(Call {
            epoch: self.epoch,
            requests,
            answered: Vec::new(),
        });
        let origin = Origin::Call(self.origins.len() - 1);
        let feed = (Feeds::Calls, self.calls.count() - 1);
        self.push(stream, Some(origin), "", feed).await;
    }

    /// A request that is accepted, to be answered on the listening stream.
    async fn accept(&mut self) {
        let request = self.next_request;
        self.next_request += 1;
        let message = json!({"jsonrpc": "2.0", "id": request, "method": LATER});
        let answer = self.scene.post(&message).await;
        assert_eq!((answer.status, answer.text()), (202, ""));
        self.accepted.push(Accepted {
            epoch: self.epoch,
            request,
            is_over: false,
        });
    }

    /// The server is going to answer one of them, on a listening stream or where nobody expects it.
    fn answer_accepted(&mut self) {
        let waiting = self.accepted.iter().filter(|it| !it.is_over);
        let waiting: Vec<_> = waiting.map(|it| it.request).collect();
        let open = self.open.iter().enumerate();
        let open = open.filter(|(_, one)| one.ends.is_none());
        let open: Vec<_> = open.map(|(at, _)| at).collect();
        if waiting.is_empty() || open.is_empty() {
            return;
        }
        let (request, at) = (self.numbers.one_of(&waiting), self.numbers.one_of(&open));
        let numbers = &mut self.numbers;
        let number = numbers.one_of(&["", "", ".0", "e0"]);
        let member = numbers.one_of(&["result", "result", "error", "method"]);
        let data = format!(r#"{{"id":{request}{number},"{member}":"m"}}"#);
        let data = match numbers.below(5) {
            0 => data.replace(',', ",\ndata:"),
            1 => format!("[{data},{{\"id\":901,\"result\":0}}]"),
            _ => data,
        };
        let fields = numbers.one_of(&["", "", "event: message\n", "id: 1\n", "event: other\n"]);
        let newline = numbers.one_of(&["\n", "\n", "\r\n", "\r"]);
        let event = format!("{fields}data: {data}\n\n").replace('\n', newline);
        let one = &mut self.open[at];
        let is_between = !one.plain().is_in_event && one.plain().end_of_line.is_empty();
        let place = if is_between { 0 } else { one.script.len() };
        one.script.splice(place..place, event.into_bytes());
    }

    /// The errors for what was accepted in epochs that are gone, which a listening stream begins
    /// with.
    fn take_lost(&mut self) -> Vec<u8> {
        let mut text = String::new();
        for one in &mut self.accepted {
            if !one.is_over && one.epoch < self.epoch {
                one.is_over = true;
                text += &lost_event(one.request);
            }
        }
        text.into_bytes()
    }

    async fn listen(&mut self) {
        let stream = self.scene.listen().await;
        assert_eq!(stream.head.status, 200);
        self.next_listening += 1;
        let origin = Origin::Listening(self.next_listening, self.epoch);
        let feed = (Feeds::Gets, self.gets.count() - 1);
        self.push(stream, Some(origin), "", feed).await;
    }

    fn fed(&self, feeds: Feeds) -> &Fed {
        match feeds {
            Feeds::Calls => &self.calls,
            Feeds::Gets => &self.gets,
        }
    }

    /// More of a stream, or its end.
    async fn feed(&mut self, at: usize) {
        let (feeds, number) = self.open[at].feed;
        let left = self.open[at].script.len();
        if left == 0 || self.numbers.is(12) {
            let ends = self.numbers.one_of(&[true, false]);
            match ends {
                true => self.fed(feeds).end(number),
                false => self.fed(feeds).error(number),
            }
            settle().await;
            return self.note_end(at, if ends { Ends::Clean } else { Ends::Broken });
        }
        let most = self.numbers.one_of(&[1, 8, 40, left, left]);
        let size = self.numbers.below(most.min(left) + 1);
        let chunk: Vec<_> = self.open[at].script.drain(..size).collect();
        self.fed(feeds).data(number, &chunk);
        settle().await;
        self.open[at].sent.extend(chunk);
        self.account(at);
        if self.leaves(at) {
            self.note_move(at);
        }
    }

    /// What the events of the last chunk come to.
    fn account(&mut self, at: usize) {
        let (origins, log) = (&mut self.origins, &mut self.log);
        let one = &mut self.open[at];
        let plain = one.plain();
        let events = plain.events[one.read..].to_vec();
        one.read = plain.events.len();
        let Some(origin) = one.origin else { return };
        let mut remember = |id: &Option<String>, answered| {
            if let Some(id) = id.as_ref().filter(|id| !id.is_empty()) {
                let known = log.iter().position(|(it, _)| *it == origin);
                let place = known.unwrap_or_else(|| {
                    log.push((origin, Vec::new()));
                    log.len() - 1
                });
                log[place].1.push((id.clone(), answered));
            }
        };
        match origin {
            Origin::Listening(..) => {
                for event in &events {
                    remember(&event.id, 0);
                    let answered = event.message.as_deref().map(responses).unwrap_or_default();
                    let accepted = self.accepted.iter_mut();
                    accepted
                        .filter(|it| answered.contains(&it.request))
                        .for_each(|it| it.is_over = true);
                }
            }
            Origin::Call(call) => {
                let call = &mut origins[call];
                one.is_done |= call.waiting().is_empty();
                for event in events.iter().filter(|_| !one.is_done) {
                    event.message.iter().for_each(|message| call.read(message));
                    if !call.waiting().is_empty() {
                        remember(&event.id, call.answered.len());
                    }
                }
                one.is_done |= call.waiting().is_empty();
            }
        }
    }

    /// What a stream that the server ends comes to.
    fn note_end(&mut self, at: usize, ends: Ends) {
        let epoch = self.epoch;
        let one = &mut self.open[at];
        one.ends = Some(match one.origin {
            Some(Origin::Call(call)) => {
                let call = &mut self.origins[call];
                let waiting = call.waiting();
                if one.is_done || waiting.is_empty() || !one.plain().last_id.is_empty() {
                    ends
                } else {
                    call.give_up();
                    Ends::Lost(waiting, "stream_ended")
                }
            }
            Some(Origin::Listening(..)) if one.epoch != epoch => Ends::Clean,
            _ => ends,
        });
    }

    /// Whether a listening stream has to be where the session is.
    fn leaves(&self, at: usize) -> bool {
        let one = &self.open[at];
        matches!(one.origin, Some(Origin::Listening(..)))
            && one.ends.is_none()
            && one.epoch != self.epoch
            && !one.plain().is_in_event
    }

    fn note_move(&mut self, at: usize) {
        let script = self.script(&[]);
        self.next_listening += 1;
        let number = self.gets.count() - 1;
        let lost = self.take_lost();
        let one = &mut self.open[at];
        assert_ne!(one.feed.1, number, "it was opened anew");
        let end_of_line = Plain::read(one.passed(), "").end_of_line;
        one.before = [one.expected(), end_of_line.into(), lost].concat();
        one.sent.clear();
        one.read = 0;
        one.resumed.clear();
        one.goes_on = true;
        one.epoch = self.epoch;
        one.origin = Some(Origin::Listening(self.next_listening, self.epoch));
        one.script = script;
        one.feed = (Feeds::Gets, number);
    }

    /// The server forgets the session, and a request finds it out.
    async fn lose(&mut self, by: usize) {
        self.scene.server.restart();
        self.epoch += 1;
        match by {
            0 => self.call().await,
            1 => self.accept().await,
            _ => self.scene.post_ping().await,
        }
        settle().await;
        for at in 0..self.open.len() {
            if self.leaves(at) {
                self.note_move(at);
            }
        }
    }

    /// The time for what was left behind is over.
    async fn orphan(&mut self) {
        advance(Duration::from_secs(31)).await;
        settle().await;
        let epoch = self.epoch;
        for one in &mut self.open {
            if one.ends.is_some() || one.epoch == epoch {
                continue;
            }
            match one.origin {
                Some(Origin::Listening(..)) => one.ends = Some(Ends::Clean),
                Some(Origin::Call(call)) if !one.is_done => {
                    let waiting = self.origins[call].waiting();
                    if !waiting.is_empty() {
                        self.origins[call].give_up();
                        one.ends = Some(Ends::Lost(waiting, "session_expired"));
                    }
                }
                _ => {}
            }
        }
    }

    fn is_listening(&self) -> bool {
        let open = self.open.iter().filter(|one| one.ends.is_none());
        let mut origins = open.filter_map(|one| one.origin);
        origins.any(|origin| matches!(origin, Origin::Listening(..)))
    }

    /// The stream that an id means, and how many answers came before it.
    fn find(&self, id: &str) -> Option<(Origin, usize)> {
        let mut found = None;
        for (origin, ids) in self.log.iter().rev() {
            let Some((_, answered)) = ids.iter().rev().find(|(of, _)| of == id) else {
                continue;
            };
            let is_open = match origin {
                Origin::Call(call) => !self.origins[*call].waiting().is_empty(),
                Origin::Listening(..) => true,
            };
            if is_open {
                return Some((*origin, *answered));
            }
            found.get_or_insert((*origin, *answered));
        }
        found
    }

    /// The caller resumes from an id; from an empty one, it does not.
    async fn resume(&mut self, id: &str) {
        let found = self.find(id);
        let is_open = |of: Origin| {
            let mut open = self.open.iter().filter(|one| one.ends.is_none());
            open.any(|one| one.origin == Some(of))
        };
        let listens = id.is_empty() || matches!(found, Some((Origin::Listening(..), _)));
        if listens && self.is_listening() {
            return;
        }
        let origin = match found {
            _ if id.is_empty() => None,
            Some((Origin::Call(call), answered)) if self.origins[call].epoch != self.epoch => {
                return self.resume_lost(id, call, answered).await;
            }
            // A client resumes once it has lost the stream.
            Some((origin @ Origin::Call(_), _)) if is_open(origin) => return,
            Some((Origin::Listening(_, epoch), _)) if epoch != self.epoch => None,
            Some((origin, _)) => Some(origin),
            None => None,
        };
        let stream = self.scene.open(self.get(id)).await;
        assert_eq!(stream.head.status, 200, "{id:?}");
        let asked = self.scene.server.last("GET");
        let passes = origin.is_some() || found.is_none() || id.is_empty();
        assert_eq!(asked.headers.contains_key(LAST_EVENT_ID), passes, "{id:?}");
        let origin = match (origin, listens) {
            (Some(Origin::Call(call)), _) => {
                let (_, answered) = found.unwrap_or((Origin::Call(call), 0));
                self.origins[call].answered.truncate(answered);
                origin
            }
            (None, true) => {
                self.next_listening += 1;
                Some(Origin::Listening(self.next_listening, self.epoch))
            }
            (origin, _) => origin,
        };
        let resumed = if passes { id } else { "" };
        let feed = (Feeds::Gets, self.gets.count() - 1);
        self.push(stream, origin, resumed, feed).await;
    }

    async fn resume_lost(&mut self, id: &str, call: usize, answered: usize) {
        let gets = self.scene.server.count("GET");
        let mut stream = self.scene.open(self.get(id)).await;
        stream.read_to_end().await;
        let lost = self.origins[call].since(answered);
        self.origins[call].give_up();
        let errors: Vec<_> = lost
            .iter()
            .map(|id| lost_(*id, "session_expired"))
            .collect();
        assert_eq!(stream.messages(), errors, "{id:?}");
        assert_eq!(stream.outcome(), Some(Outcome::AnswerLost));
        assert_eq!(self.scene.server.count("GET"), gets);
    }

    fn get(&self, id: &str) -> http::Request<CallerBody> {
        let mut request = get(&self.scene.session, None);
        let id = http::HeaderValue::from_bytes(id.as_bytes()).expect("a header's value");
        request.headers_mut().insert(LAST_EVENT_ID, id);
        request
    }

    /// Compares what the caller has read with what it should have.
    async fn compare(&mut self) {
        assert_eq!(self.calls.count(), self.executed, "executions");
        let accepted = self.later.load(Ordering::Relaxed);
        assert_eq!(accepted, self.accepted.len(), "executions");
        for one in &mut self.open {
            one.stream.now().await;
            let (got, expected) = (one.stream.bytes(), one.expected());
            let case = format!(
                "{:?} {:?}\n{:?}\n{:?}",
                one.origin,
                one.ends,
                String::from_utf8_lossy(&got[..got.len().min(2000)]),
                String::from_utf8_lossy(&expected[..expected.len().min(2000)]),
            );
            match &one.ends {
                None => assert!(one.stream.is_open() && got == expected, "{case}"),
                Some(Ends::Clean) => {
                    assert!(one.stream.ended_cleanly() && got == expected, "{case}");
                }
                Some(Ends::Broken) => {
                    let is_broken = matches!(one.stream.end, Some(Err(_)));
                    assert!(is_broken && got == expected, "{case}");
                }
                Some(Ends::Lost(requests, reason)) => {
                    assert!(one.stream.ended_cleanly(), "{case}");
                    assert!(got.starts_with(&expected), "{case}");
                    let read = Plain::read(&got, &one.resumed);
                    let sent = Plain::read(&expected, &one.resumed);
                    let mut messages = sent.messages();
                    messages.extend(requests.iter().map(|id| lost_(*id, reason)));
                    assert_eq!(read.messages(), messages, "{case}");
                    assert_eq!(read.last_id, sent.last_id, "{case}");
                    assert!(!read.is_in_event, "{case}");
                }
            }
        }
    }

    async fn run(&mut self) {
        for _ in 0..10 + self.numbers.below(60) {
            match self.numbers.below(24) {
                20 => self.accept().await,
                21..24 => self.answer_accepted(),
                0 | 1 => self.call().await,
                2 if !self.is_listening() => self.listen().await,
                3 => {
                    let by = self.numbers.below(4);
                    self.lose(by).await;
                }
                4 => self.orphan().await,
                5 => self.resume("").await,
                6 | 7 => {
                    let id = self.numbers.one_of(&IDS);
                    self.resume(id).await;
                }
                _ => {
                    let open = self.open.iter().enumerate();
                    let open = open.filter(|(_, one)| one.ends.is_none());
                    let open: Vec<_> = open.map(|(at, _)| at).collect();
                    if !open.is_empty() {
                        let at = self.numbers.one_of(&open);
                        self.feed(at).await;
                    }
                }
            }
        }
        self.compare().await;
        // What is remembered, in the session that was, and in the next.
        for loses in [false, true] {
            if loses {
                self.lose(2).await;
            }
            for id in IDS {
                for at in 0..self.open.len() {
                    if self.open[at].ends.is_none() {
                        let (feeds, number) = self.open[at].feed;
                        self.fed(feeds).end(number);
                        settle().await;
                        self.note_end(at, Ends::Clean);
                    }
                }
                self.resume(id).await;
            }
            self.compare().await;
        }
    }
}

/// It as the layer writes it.
fn lost_event(id: u64) -> String {
    let error = lost_(id, "session_expired")["error"].clone();
    format!("event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}\n\n")
}

/// The error of rule G7.
fn lost_(id: u64, reason: &str) -> Value {
    lost(json!(id), reason)
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn g1_g3_g4_g5_g6_g9_the_layer_and_the_oracle_agree() {
    let first = from_env("DIFFERENTIAL_FIRST").unwrap_or(0);
    let seeds = from_env("DIFFERENTIAL_SEEDS").unwrap_or(150);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true);
    for seed in first..first + seeds {
        let conversation = async {
            // The seed of a conversation that panics is the last one told.
            let told = Told(seed);
            Conversation::new(seed).await.run().await;
            drop(told);
        };
        runtime.build().expect("a runtime").block_on(conversation);
    }
}

/// Tells the seed of a conversation that did not end well.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the conversation is DIFFERENTIAL_FIRST={}", self.0);
        }
    }
}
