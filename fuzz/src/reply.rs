//! Answers made of a fuzzer's bytes, and whether a caller has got one as it was sent.

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{SET_COOKIE, WWW_AUTHENTICATE},
};
use serde_json::Value;

use crate::{Answer, End, Feed, Flood, Pieces, SESSION_ID, Step, pick};

/// The session ids that a server may name.
pub const CALLERS: &str = "callers-session";
pub const NEW: &str = "new-session";

/// What comes of a request.
#[derive(Arbitrary, Debug)]
pub enum Reply {
    Answers {
        status: Status,
        session: Option<SessionId>,
        content_type: u8,
        is_encoded: bool,
        has_length: bool,
        flood: Option<Flood>,
        body: Pieces,
        end: End,
    },
    Fails,
    Hangs,
}

#[derive(Arbitrary, Debug)]
pub enum Status {
    Usual(u8),
    Any(u16),
}

#[derive(Arbitrary, Debug)]
pub enum SessionId {
    Callers,
    New,
    Other(Vec<u8>),
}

const STATUSES: &[u16] = &[200, 202, 204, 302, 400, 401, 403, 404, 405, 500, 503];
const CONTENT_TYPES: &[&str] = &[
    "application/json",
    "text/event-stream",
    "Application/JSON; charset=utf-8",
    "text/event-stream;charset=utf-8",
    "text/plain",
    "",
];

/// How many cookies of a handshake are kept.
const MAX_COOKIES: usize = 8;
/// Of which there may be many in an answer.
const FLOODS: &[HeaderName] = &[SET_COOKIE, WWW_AUTHENTICATE];

/// An answer as it was sent.
#[derive(Debug)]
pub struct Sent {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub chunks: Vec<Bytes>,
    pub end: End,
}

impl Reply {
    /// The answer, if there is one, with a body of at most `limit` bytes made of these words and
    /// others.
    pub fn sent(&self, words: &[&str], limit: usize) -> Option<Sent> {
        let Self::Answers {
            status,
            session,
            content_type,
            is_encoded,
            has_length,
            flood,
            body,
            end,
        } = self
        else {
            return None;
        };
        let status = match status {
            Status::Usual(number) => pick(STATUSES, *number),
            Status::Any(number) => 100 + number % 900,
        };
        let chunks = body.chunks(words, limit);
        let flood = flood.as_ref().map(|flood| flood.headers(FLOODS));
        let mut headers = flood.unwrap_or_default();
        let content_type = pick(CONTENT_TYPES, *content_type);
        headers.insert("content-type", HeaderValue::from_static(content_type));
        if *is_encoded {
            headers.insert("content-encoding", HeaderValue::from_static("gzip"));
        }
        if *has_length {
            let length = chunks.iter().map(Bytes::len).sum::<usize>();
            headers.insert("content-length", length.into());
        }
        let session = match session {
            None => None,
            Some(SessionId::Callers) => Some(HeaderValue::from_static(CALLERS)),
            Some(SessionId::New) => Some(HeaderValue::from_static(NEW)),
            Some(SessionId::Other(id)) => HeaderValue::from_bytes(id).ok(),
        };
        if let Some(session) = session {
            headers.insert(SESSION_ID, session);
        }
        Some(Sent {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            chunks,
            end: *end,
        })
    }
}

impl Sent {
    pub fn json(status: u16, session: Option<&'static str>, message: &Value) -> Self {
        let mut headers = HeaderMap::new();
        let json = HeaderValue::from_static("application/json");
        headers.insert("content-type", json);
        if let Some(session) = session {
            headers.insert(SESSION_ID, HeaderValue::from_static(session));
        }
        Self {
            status: StatusCode::from_u16(status).expect("a status"),
            headers,
            chunks: vec![message.to_string().into()],
            end: End::Clean,
        }
    }

    pub fn response(&self) -> Response<Feed> {
        let data = self.chunks.iter().cloned().map(Step::Data);
        let mut response = Response::new(Feed::of(data.chain(self.end.step())));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }

    pub fn session(&self) -> Option<&HeaderValue> {
        self.headers.get(SESSION_ID)
    }

    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// Whether the layer reads it as an event stream, if it reads it at all.
    fn is_stream(&self) -> bool {
        let content_type = self.headers["content-type"].as_bytes();
        self.status.is_success()
            && content_type.starts_with(b"text/event-stream")
            && !self.headers.contains_key("content-encoding")
    }

    /// That the caller has got this, with the first of two ids, if it is named, become the other.
    pub fn assert_got(&self, answer: &Answer, translated: Option<&[HeaderValue; 2]>) {
        assert_eq!(answer.head.status, self.status);
        let mut headers = self.headers.clone();
        if let (Some(id), Some([new, callers])) = (headers.get_mut(SESSION_ID), translated)
            && id == new
        {
            *id = callers.clone();
        }
        // What the layer may extend has no length.
        if self.is_stream() && !answer.head.headers.contains_key("content-length") {
            headers.remove("content-length");
        }
        let mut got = answer.head.headers.clone();
        let cookies = [&mut headers, &mut got].map(|headers| {
            let all: Vec<_> = headers.get_all(SET_COOKIE).iter().cloned().collect();
            headers.remove(SET_COOKIE);
            all
        });
        assert_eq!(got, headers);
        // What the handshake has set comes before (rule E11).
        let told = cookies[1].strip_suffix(&cookies[0][..]).expect("its own");
        let is_recovered = translated.is_some();
        assert!(told.len() <= if is_recovered { MAX_COOKIES } else { 0 });

        let (mut chunks, mut end) = (answer.chunks(), self.end);
        if self.is_stream() && chunks.len() > self.chunks.len() {
            let is_added = |at: &usize| self.chunks.get(*at) != chunks.get(*at);
            let added = (0..chunks.len()).find(is_added).expect("the added one");
            let added = String::from_utf8_lossy(&chunks.remove(added)).into_owned();
            // Whether it is right, another target finds out.
            match added.contains("stream_ended") {
                true if end == End::Breaks => end = End::Clean,
                true => {}
                false => assert!(added.contains("list_changed"), "{added}"),
            }
        }
        // What was read for a verdict may come in other chunks (rules D5, G9).
        match self.is_stream() {
            true => assert_eq!(chunks, self.chunks),
            false => assert!(chunks.concat() == self.body()),
        }
        assert_eq!(answer.end(), end.seen());
    }
}
