//! The parsers of `src/mcp`, which look at no more than they have to, beside plain ones that look at
//! everything: event streams, JSON-RPC messages, their ids, and messages of which the beginning and
//! the end are known. Rules C4, E5, F2, F3, G3, G5.

#![no_main]
// What the layer needs of them besides is not needed here.
#![allow(dead_code, unexpected_cfgs, unreachable_pub, unused_imports)]

#[path = "../../src/mcp/mod.rs"]
mod mcp;

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use mcp::{Event, EventReader, Id, Interest, Summary};
use mcp_session_recovery_fuzz::*;
use serde_json::{Value, json};

const NAMES: &[&str] = &[
    "id",
    "method",
    "result",
    "error",
    "params",
    "jsonrpc",
    "x",
    "i\\u0064",
    "m\\u0065thod",
    "r\\u0065sult",
    "protocolVersion",
    "ID",
    "",
    "\\\"id",
    "\\\\",
];
const SCALARS: &[&str] = &[
    "null",
    "true",
    "1",
    "1.0",
    "1e0",
    "10e-1",
    "-0",
    "0",
    "-1",
    "\"1\"",
    "\"\\u0031\"",
    "9223372036854775807",
    "9223372036854775808",
    "\"two\"",
    "\"initialize\"",
    "\"notifications/initialized\"",
    "\"notifications\\/initialized\"",
    "\"\"",
    "\"\\\"id\\\":7}\"",
    "\"2025-06-18\"",
    "\"{\"",
    "\"]\"",
    "0.1",
    "1e-7",
    "\"\\\\\"",
];
const SPACES: &[&str] = &["", "", "", " ", "\n", "\t\r\n"];
const STREAM: &[&str] = &[
    "\n",
    "\n\n",
    "\r",
    "\r\r",
    "\r\n",
    "\r\n\r\n",
    "data: x\n",
    "data: x\n\n",
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
    "retry:",
    ": comment\n",
    ":",
    " ",
    "\u{feff}",
    "\0",
    "{\"id\":1,\"result\":{}}",
    "{\"id\":1,\ndata: \"result\":{}}",
    "data: {\"id\":1,\"result\":{}}\n\n",
    "event: message\ndata: {\"id\":1,\"result\":{}}\n\n",
    "event: message\nid: 8\ndata: {\"error\":1}\n\n",
    "a long line of nothing in particular",
];

/// The largest stream. Larger ones pass through another target.
const MAX_STREAM: usize = 1 << 20;

#[derive(Arbitrary, Debug)]
enum Input {
    Stream { pieces: Pieces, limit: Size },
    Message(Message),
    Batch(Vec<Message>),
    Ids(u8, u8, Vec<u8>),
    Text(Vec<u8>),
}

/// An object whose members have one name each.
#[derive(Arbitrary, Debug)]
struct Message {
    members: Vec<(u8, Json)>,
    spaces: u8,
}

#[derive(Arbitrary, Debug)]
enum Json {
    Scalar(u8),
    Array(Vec<Json>),
    Object(Vec<(u8, Json)>),
    /// A string of so many bytes.
    Long(Size),
}

impl Message {
    fn write(&self, text: &mut String) {
        let members: Vec<_> = self
            .members
            .iter()
            .map(|(name, json)| (*name, json))
            .collect();
        object(&members, self.spaces, text);
    }
}

fn object(members: &[(u8, &Json)], spaces: u8, text: &mut String) {
    let space = pick(SPACES, spaces);
    let mut names = Vec::new();
    text.push('{');
    for (name, json) in members {
        let name = pick(NAMES, *name);
        // What an escaped name is, too.
        let quoted = format!("\"{name}\"");
        let value: String = serde_json::from_str(&quoted).expect("a name");
        if names.contains(&value) {
            continue;
        }
        if !names.is_empty() {
            text.push(',');
        }
        names.push(value);
        *text += &format!("{space}{quoted}{space}:{space}");
        json.write(spaces, text);
        *text += space;
    }
    text.push('}');
}

impl Json {
    fn write(&self, spaces: u8, text: &mut String) {
        match self {
            Self::Scalar(number) => *text += pick(SCALARS, *number),
            Self::Long(bytes) => {
                // All of them together are no longer than one may be.
                let left = MAX_TEXT.saturating_sub(text.len());
                let long = "l".repeat(bytes.up_to(MAX_TEXT).min(left));
                *text += &format!("\"{long}\"");
            }
            Self::Array(elements) => {
                text.push('[');
                for (number, element) in elements.iter().enumerate() {
                    *text += if number == 0 { "" } else { "," };
                    element.write(spaces, text);
                }
                text.push(']');
            }
            Self::Object(members) => {
                let members: Vec<_> = members.iter().map(|(name, json)| (*name, json)).collect();
                object(&members, spaces, text);
            }
        }
    }
}

/// What one message comes to, read plainly.
struct Plain {
    method: Option<String>,
    id: Option<Value>,
    is_response: bool,
}

impl Plain {
    fn of(message: &Value) -> Self {
        let method = message["method"].as_str().map(str::to_owned);
        let id = &message["id"];
        let has = |member| message.get(member).is_some();
        Self {
            id: (id.is_string() || id.is_number()).then(|| id.clone()),
            is_response: method.is_none() && (has("result") || has("error")),
            method,
        }
    }

    fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }
}

fn summary(text: &str, messages: &[Value]) {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        return;
    };
    let summary = Summary::of(text.as_bytes()).expect("JSON-RPC");
    let all: Vec<_> = messages.iter().map(Plain::of).collect();
    let requests: Vec<_> = all.iter().filter(|it| it.is_request()).collect();
    assert_eq!(summary.has_response, all.iter().any(|it| it.is_response));
    if all.len() <= 1024 {
        assert_eq!(summary.requests.len(), requests.len());
        for (id, request) in summary.requests.iter().zip(&requests) {
            assert!(is(id, request.id.as_ref().expect("an id")), "{id}");
        }
    }
    let is = |method: &str| !value.is_array() && all[0].method.as_deref() == Some(method);
    let is_request = !requests.is_empty();
    assert_eq!(summary.is_initialize, is("initialize") && is_request);
    let is_initialized = is("notifications/initialized") && !is_request;
    assert_eq!(summary.is_initialized, is_initialized);
}

/// Whether an id is this one, as far as that can be seen in its JSON.
fn is(id: &Id, value: &Value) -> bool {
    let shown: Value = serde_json::from_str(&id.to_string()).expect("JSON");
    match (shown.as_f64(), value.as_f64()) {
        (Some(shown), Some(value)) => shown == value,
        _ => shown == *value,
    }
}

/// What is known of a message of which nobody has kept the middle.
fn large(text: &str, message: &Value) {
    const BEGINNING: usize = 4096;
    const END: usize = 512;
    if text.len() <= BEGINNING {
        return;
    }
    let beginning = &text.as_bytes()[..BEGINNING];
    let end = &text.as_bytes()[text.len() - END..];
    let plain = Plain::of(message);
    if mcp::is_large_request(beginning) {
        assert!(message.get("method").is_some());
    }
    if mcp::is_large_initialize(beginning) {
        assert_eq!(plain.method.as_deref(), Some("initialize"));
    }
    if let Some(id) = mcp::id_of_large_request(beginning, end) {
        assert!(message.get("method").is_some());
        assert!(is(&id, &message["id"]), "{id}");
    }
}

fn proposal(text: &str, message: &Value) {
    let version = HeaderValue::from_static("2025-11-25");
    let proposed = mcp::propose_version(&Bytes::from(text.to_owned()), Some(&version));
    let plain = Plain::of(message);
    let initializes = plain.is_request() && plain.method.as_deref() == Some("initialize");
    assert_eq!(proposed.is_some(), initializes);
    let Some((proposed, id)) = proposed else {
        return;
    };
    assert!(is(&id, &message["id"]), "{id}");
    let mut expected = message.clone();
    let params = expected.get_mut("params");
    match params.and_then(|params| params.get_mut("protocolVersion")) {
        Some(version) => *version = json!("2025-11-25"),
        None => assert!(proposed == text),
    }
    let proposed: Value = serde_json::from_slice(&proposed).expect("JSON");
    assert_eq!(proposed, expected);
}

fn ids(a: u8, b: u8, exponent: &[u8]) {
    let exponent: String = exponent
        .iter()
        .map(|digit| char::from(b'0' + digit % 10))
        .collect();
    let spelled = [
        pick(SCALARS, a).to_owned(),
        format!("{}e{exponent}", pick(SCALARS, b)),
        pick(SCALARS, b).to_owned(),
    ];
    let ids: Vec<_> = spelled
        .iter()
        .filter_map(|text| {
            let message = format!("{{\"method\":\"x\",\"id\":{text}}}");
            let _ = serde_json::from_str::<&serde_json::value::RawValue>(text).ok()?;
            Some(Summary::of(message.as_bytes())?.requests.first()?.clone())
        })
        .collect();
    let hasher = BuildHasherDefault::<DefaultHasher>::new();
    for a in &ids {
        let message = format!("{{\"method\":\"x\",\"id\":{a}}}");
        let again = Summary::of(message.as_bytes()).expect("JSON-RPC").requests[0].clone();
        assert!(again == *a, "{a}");
        for b in &ids {
            assert!((a == b) == (b == a));
            assert!(
                a != b || hasher.hash_one(a) == hasher.hash_one(b),
                "{a} {b}"
            );
            let [x, y] = [a, b].map(|id| serde_json::from_str::<Value>(&id.to_string()));
            if let (Ok(x), Ok(y)) = (x, y) {
                // Different numbers may be one `f64`, but not the other way round.
                let differ = match (x.as_f64(), y.as_f64()) {
                    (Some(x), Some(y)) => x != y,
                    _ => x != y,
                };
                assert!(!differ || a != b, "{a} {b}");
            }
        }
    }
}

/// What a reader makes of a stream: the messages, those that were too large, and the ids.
#[derive(Default, Debug, PartialEq)]
struct Told {
    data: Vec<String>,
    large: usize,
    ids: Vec<String>,
}

fn read(chunks: &[Bytes], limit: usize, interest: Interest) -> (Told, EventReader) {
    let mut reader = EventReader::new(limit, interest);
    let mut told = Told::default();
    for chunk in chunks {
        reader.read(chunk, |event| match event {
            Event::Data(data) => {
                let data = String::from_utf8_lossy(data).into_owned();
                told.data.extend((!data.is_empty()).then_some(data));
            }
            Event::Large(_) => told.large += 1,
            Event::Id(id) => told.ids.push(String::from_utf8_lossy(id).into_owned()),
        });
    }
    (told, reader)
}

fn stream(chunks: &[Bytes], limit: usize) {
    let text = chunks.concat();
    let plain = Events::read(&text);
    let (all, mut reader) = read(chunks, limit, Interest::All);
    let (responses, mut other) = read(chunks, limit, Interest::Responses);
    let messages = plain.messages();
    assert!(all.data.len() <= messages.len());
    if all.large == 0 {
        assert_eq!(all.data, messages);
    }
    // The same ids, but for those that another one followed at once.
    assert_eq!(all.ids.last(), responses.ids.last());
    if plain.last_id.len() <= 60_000 {
        let last = all.ids.last().map_or("", |id| id);
        assert!(plain.last_id.is_empty() || plain.last_id == last);
    }
    for reader in [&mut reader, &mut other] {
        assert_eq!(reader.is_resumable(), !plain.last_id.is_empty());
        let (boundary, line) = (at_boundary(&text), end_of_line(&text));
        assert_eq!(reader.is_between_events(), boundary);
        assert_eq!(reader.end_of_line(), line);
        assert_eq!(reader.has_room(), boundary && line.is_empty());
        // What closes an open event is no message, and changes no id.
        let closed = [&text[..], &reader.end_of_open_event()].concat();
        let closed = Events::read(&closed);
        assert_eq!(closed.messages(), messages);
        if plain.last_id.len() <= 60_000 {
            assert_eq!(closed.last_id, plain.last_id);
        }
    }
    // Whatever may be a response is told, if not alone. Without an id it is nobody's.
    let told = responses.data.join("\n");
    let is_response = |data: &&str| {
        let has = |name| data.contains(name);
        has("\"id\":") && (has("\"result\":") || has("\"error\":"))
    };
    if responses.large == 0 {
        for message in messages.into_iter().filter(is_response) {
            assert!(told.contains(message), "{message}");
        }
    }
}

fuzz_target!(|input: Input| match input {
    Input::Stream { pieces, limit } => {
        stream(&pieces.chunks(STREAM, MAX_STREAM), limit.up_to(MAX_STREAM));
    }
    Input::Message(message) => {
        let mut text = String::new();
        message.write(&mut text);
        if let Ok(message) = serde_json::from_str::<Value>(&text) {
            summary(&text, std::slice::from_ref(&message));
            large(&text, &message);
            proposal(&text, &message);
        }
    }
    Input::Batch(messages) => {
        let mut text = String::from("[");
        for (number, message) in messages.iter().enumerate() {
            text += if number == 0 { "" } else { "," };
            message.write(&mut text);
        }
        text.push(']');
        if let Ok(Value::Array(messages)) = serde_json::from_str(&text) {
            summary(&text, &messages);
        }
    }
    Input::Ids(a, b, exponent) => ids(a, b, &exponent),
    Input::Text(text) => {
        let _ = Summary::of(&text);
        let _ = mcp::id_of_large_request(&text, &text);
        let _ = (
            mcp::is_large_request(&text),
            mcp::is_large_initialize(&text),
        );
        let version = HeaderValue::from_static("2025-11-25");
        let _ = mcp::propose_version(&Bytes::from(text), Some(&version));
    }
});
