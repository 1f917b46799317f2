//! Event streams (WHATWG HTML, 9.2, Server-sent events), looked on as their bytes pass.

use std::{num::NonZeroUsize, sync::Arc};

use bytes::Buf;
use sse_core::{SseDecoder, SseEvent};

/// What the reader saw in a chunk.
#[derive(Debug)]
pub(crate) enum Event {
    /// The data of an event whose last byte was in the chunk.
    Data(String),
    /// The id that a client would resume from has become this one, after the data of its event.
    Id(Arc<str>),
    /// An event larger than the reader's limit: what was in it is not known.
    TooLarge,
}

/// Reads a stream's chunks one by one, as they pass.
///
/// Holds at most a small multiple of its limit, whatever the stream holds.
pub(crate) struct EventReader {
    decoder: SseDecoder,
    last_id: Option<Arc<str>>,
    /// The last three bytes, which tell whether an event is open.
    tail: [u8; 3],
}

/// A stream begins as if an event had just ended.
const BOUNDARY: [u8; 3] = *b"\n\n\n";

impl EventReader {
    /// A reader that gives up on events of more than `limit` bytes of data.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            decoder: SseDecoder::with_limit(NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN)),
            last_id: None,
            tail: BOUNDARY,
        }
    }

    /// Looks at a chunk and tells what it held.
    pub(crate) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(Event)) {
        self.follow(chunk);
        let mut rest = chunk;
        while rest.has_remaining() {
            match self.decoder.next(&mut rest) {
                Some(Ok(SseEvent::Message(message))) => each(Event::Data(message.data)),
                Some(Ok(SseEvent::Retry(_))) | None => {}
                Some(Err(_)) => each(Event::TooLarge),
            }
            // An event without data sets the id, too, without being told of.
            self.note_id(&mut each);
        }
    }

    fn note_id(&mut self, each: &mut impl FnMut(Event)) {
        let id = self.decoder.last_event_id();
        let same = match (id, &self.last_id) {
            (Some(id), Some(last)) => Arc::ptr_eq(id, last),
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.last_id = id.cloned();
            if let Some(id) = id.filter(|id| !id.is_empty()) {
                each(Event::Id(id.clone()));
            }
        }
    }

    /// Looks for the boundary alone, for streams whose events are of no interest any more.
    pub(crate) fn follow(&mut self, chunk: &[u8]) {
        let kept = chunk.len().min(self.tail.len());
        self.tail.rotate_left(kept);
        let start = self.tail.len() - kept;
        self.tail[start..].copy_from_slice(&chunk[chunk.len() - kept..]);
    }

    /// Whether a client could resume the stream from where it is.
    pub(crate) fn is_resumable(&self) -> bool {
        self.last_id.as_ref().is_some_and(|id| !id.is_empty())
    }

    /// Whether the last byte read ended an event, or none has been read.
    pub(crate) fn at_boundary(&self) -> bool {
        matches!(
            self.tail,
            [_, b'\n' | b'\r', b'\r'] | [_, b'\n', b'\n'] | [b'\n' | b'\r', b'\r', b'\n']
        )
    }

    /// Bytes that end an open event so that no client takes it for a message: what was cut off
    /// becomes an event of a type that nobody listens to. Empty if none is open.
    pub(crate) fn end_of_open_event(&self) -> &'static [u8] {
        match self.tail {
            _ if self.at_boundary() => b"",
            // Another line end would be the blank line that dispatches it.
            [.., b'\n' | b'\r'] => b"event: truncated\n\n",
            _ => b"\nevent: truncated\n\n",
        }
    }

    /// Begins anew: what is read next is another stream's.
    pub(crate) fn restart(&mut self) {
        self.decoder.clear();
        self.last_id = None;
        self.tail = BOUNDARY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> (EventReader, Vec<String>) {
        let mut reader = EventReader::new(1024);
        let mut events = Vec::new();
        for chunk in chunks {
            reader.read(chunk, |event| {
                events.push(match event {
                    Event::Id(id) => format!("id {id}"),
                    Event::Data(data) => data,
                    Event::TooLarge => "too large".to_owned(),
                });
            });
        }
        (reader, events)
    }

    #[test]
    fn e6_lines_end_with_lf_cr_or_crlf_and_fields_come_in_any_order() {
        for text in [
            "data: {}\nid: 1\nretry: 5\n\n",
            "id: 1\rdata: {}\r\r",
            "retry: 5\r\nid: 1\r\ndata:{}\r\n\r\n",
        ] {
            let (reader, events) = read(&[text.as_bytes()]);
            assert_eq!(events, ["{}", "id 1"], "{text:?}");
            assert!(reader.at_boundary(), "{text:?}");
        }
    }

    #[test]
    fn g1_a_boundary_is_where_no_event_is_open_however_the_bytes_are_cut() {
        for (text, boundary) in [
            ("", true),
            ("data: x", false),
            ("data: x\n", false),
            ("data: x\r\n", false),
            ("data: x\n\n", true),
            ("data: x\r\r", true),
            ("data: x\r\n\r\n", true),
            ("data: x\r\n\r", true),
            ("data: x\r\n\n", true),
            (": comment\n\n", true),
            ("data: x\n\ni", false),
        ] {
            let whole = read(&[text.as_bytes()]).0;
            assert_eq!(whole.at_boundary(), boundary, "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(
                read(&bytes).0.at_boundary(),
                boundary,
                "{text:?} byte by byte"
            );
        }
    }

    #[test]
    fn g3_an_id_without_data_counts_and_one_with_nul_does_not() {
        assert_eq!(read(&[b"id: 7\n\n"]).1, ["id 7"]);
        let (reader, events) = read(&[b"id: 7\n\nid: 8\0\ndata: x\n\n"]);
        assert_eq!(events, ["x", "id 7"]);
        assert!(reader.is_resumable());
        assert!(!read(&[b"id\ndata: x\n\n"]).0.is_resumable());
    }

    #[test]
    fn an_event_over_the_limit_is_given_up_and_the_next_one_read() {
        let mut reader = EventReader::new(16);
        let mut seen = Vec::new();
        let mut each = |event| {
            seen.push(match event {
                Event::Id(id) => id.to_string(),
                Event::Data(data) => data,
                Event::TooLarge => "too large".to_owned(),
            });
        };
        for _ in 0..64 {
            reader.read(b"data: 0123456789\n", &mut each);
        }
        reader.read(b"\ndata: next\n\n", &mut each);
        assert_eq!(seen, ["too large", "next"]);
    }
}
