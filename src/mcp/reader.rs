//! Reads the JSON-RPC messages of an answer, whichever of the two ways it comes.

use http::HeaderMap;
use memchr::memchr2;

use super::{Event, EventReader, Interest, LargeAnswer, Message, header};

/// Finds the messages in an answer's body: one in `application/json`, any number in
/// `text/event-stream`.
pub(crate) struct MessageReader(Format);

enum Format {
    Json {
        body: Vec<u8>,
        end: JsonEnd,
        limit: usize,
    },
    Events {
        reader: EventReader,
        limit: usize,
        /// A response may have been too large.
        missed: bool,
    },
    /// Nothing more will be found.
    Over,
}

impl MessageReader {
    /// `None` where the content type is neither of the two. At most `limit` bytes are held.
    pub(crate) fn new(headers: &HeaderMap, limit: usize) -> Option<Self> {
        if header::is_event_stream(headers) {
            let reader = EventReader::new(limit, Interest::All);
            Some(Self(Format::Events {
                reader,
                limit,
                missed: false,
            }))
        } else if header::is_json(headers) {
            Some(Self(Format::Json {
                body: Vec::new(),
                end: JsonEnd::default(),
                limit,
            }))
        } else {
            None
        }
    }

    /// Reads a chunk and gives each message that it completes.
    pub(crate) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(&[u8])) {
        match &mut self.0 {
            Format::Json { body, limit, .. } if chunk.len() > limit.saturating_sub(body.len()) => {
                self.0 = Format::Over;
            }
            Format::Json { body, end, .. } => {
                body.extend_from_slice(chunk);
                // Nobody has to wait for the end of a body that holds its message (rule E6).
                if end.is_in(chunk) {
                    each(body);
                    self.0 = Format::Over;
                }
            }
            Format::Events {
                reader,
                limit,
                missed,
            } => reader.read(chunk, |event| match event {
                Event::Data(data) if data.len() <= *limit => each(data),
                Event::Data(data) => {
                    let read = Message::each(data, |message| *missed |= message.is_response());
                    *missed |= read.is_none();
                }
                Event::Id(_) => {}
                Event::Large(data) => *missed |= !matches!(data.answer(), LargeAnswer::None),
            }),
            Format::Over => {}
        }
    }

    /// Whether the response that somebody waits for will not be found any more.
    pub(crate) fn has_missed(&self) -> bool {
        matches!(self.0, Format::Over | Format::Events { missed: true, .. })
    }

    /// The body has ended. An event that was still open does not count, as the format has it.
    pub(crate) fn finish(self, each: impl FnOnce(&[u8])) {
        if let Format::Json { body, .. } = self.0 {
            each(&body);
        }
    }
}

/// Finds where the object or array ends that a body begins with, without reading what is in it.
#[derive(Default)]
struct JsonEnd {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl JsonEnd {
    /// Whether it ends in this chunk, which is the next one.
    fn is_in(&mut self, chunk: &[u8]) -> bool {
        let mut rest = chunk;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                _ if std::mem::take(&mut self.is_escaped) => {}
                b'\\' if self.in_string => self.is_escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {
                    let end = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    rest = &rest[end..];
                }
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth <= 1 => return true,
                b'}' | b']' => self.depth -= 1,
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::CONTENT_TYPE};

    use super::*;

    fn read(chunks: &[&str]) -> Vec<String> {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        let mut reader = MessageReader::new(&headers, 64).unwrap();
        let mut read = Vec::new();
        for chunk in chunks {
            reader.read(chunk.as_bytes(), |message| {
                read.push(String::from_utf8(message.to_vec()).unwrap());
            });
        }
        read
    }

    #[test]
    fn e6_a_message_in_json_is_there_with_its_last_byte() {
        for message in [
            r#"{"id":1,"result":{"a":[{}],"b":"}]\\"}}"#,
            r#"[{"id":1,"result":{}},{"a":"\"}\\\""}]"#,
            "{}",
        ] {
            for cut in 0..message.len() {
                let (first, last) = message.split_at(cut);
                assert_eq!(read(&[first]), [""; 0], "{first}");
                assert_eq!(read(&[first, last]), [message], "{cut}");
                assert_eq!(read(&[first, last, "\n", "{}"]), [message], "{cut}");
            }
            let bytes: Vec<_> = message.split_inclusive(|_: char| true).collect();
            assert_eq!(read(&bytes), [message]);
        }
    }

    #[test]
    fn k3_a_message_over_the_limit_is_none() {
        let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(64));
        assert_eq!(read(&[&long]), [""; 0]);
        assert_eq!(read(&[&long[..60], &long[60..]]), [""; 0]);
    }
}
