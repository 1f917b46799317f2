//! Event streams (WHATWG HTML, 9.2, Server-sent events), looked on as their bytes pass.

use std::{
    num::NonZeroUsize,
    sync::{Arc, LazyLock},
};

use bytes::Buf;
use memchr::{memchr2, memchr2_iter, memmem::Finder, memrchr2_iter};
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

/// Which events' data a reader tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// None: ids alone.
    Ids,
    /// Those that may hold a JSON-RPC response.
    Responses,
    All,
}

/// Reads a stream's chunks one by one, as they pass.
///
/// Most events are of no interest but for their ids, and decoding them would cost more than
/// everything else that is done to them. So whole events are skimmed, and only those that are
/// looked for reach the decoder. Holds at most a small multiple of its limit, whatever the stream
/// holds.
pub(crate) struct EventReader {
    interest: Interest,
    decoder: SseDecoder,
    last_id: Option<Arc<str>>,
    open: Open,
    /// The last three bytes, which tell whether an event is open.
    tail: [u8; 3],
}

/// The event that the last chunk ended in.
enum Open {
    /// Its beginning; nothing, between events.
    Held(Vec<u8>),
    /// Large, or the first one: the decoder has its beginning.
    Decoding,
}

/// The largest beginning of an event that is held back from the decoder.
const MAX_HELD: usize = 4096;

/// A stream begins as if an event had just ended.
const BOUNDARY: [u8; 3] = *b"\n\n\n";

static ID_AFTER_LF: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\nid"));
static ID_AFTER_CR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\rid"));
static MEMBER_ID: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"id\""));
static RESULT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"result\""));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

impl EventReader {
    /// A reader that gives up on events of more than `limit` bytes of data.
    pub(crate) fn new(limit: usize, interest: Interest) -> Self {
        Self {
            interest,
            decoder: SseDecoder::with_limit(NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN)),
            last_id: None,
            // The decoder is to see the very beginning, where a byte order mark may be.
            open: Open::Decoding,
            tail: BOUNDARY,
        }
    }

    /// Looks at a chunk and tells what it held.
    pub(crate) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(Event)) {
        let before = self.tail[2];
        self.follow(chunk);
        if self.interest == Interest::All {
            return self.decode(chunk, &mut each);
        }
        let mut rest = chunk;
        let is_open = !matches!(&self.open, Open::Held(held) if held.is_empty());
        if is_open {
            let end = first_boundary(before, chunk);
            let (event, after) = chunk.split_at(end.unwrap_or(chunk.len()));
            self.go_on(event, &mut each);
            if end.is_none() {
                return;
            }
            self.close(&mut each);
            rest = after;
        }
        let (events, open) = rest.split_at(last_boundary(rest));
        self.skim(events, &mut each);
        self.go_on(open, &mut each);
    }

    /// More of the open event.
    fn go_on(&mut self, bytes: &[u8], each: &mut impl FnMut(Event)) {
        match &mut self.open {
            Open::Held(held) if held.len() + bytes.len() <= MAX_HELD => {
                held.extend_from_slice(bytes);
            }
            Open::Held(held) => {
                let held = std::mem::take(held);
                self.open = Open::Decoding;
                self.begin_decoding();
                self.decode(&held, each);
                self.decode(bytes, each);
            }
            Open::Decoding => self.decode(bytes, each),
        }
    }

    /// The open event has ended.
    fn close(&mut self, each: &mut impl FnMut(Event)) {
        match std::mem::replace(&mut self.open, Open::Held(Vec::new())) {
            Open::Decoding => {}
            Open::Held(mut held) => {
                self.skim(&held, each);
                held.clear();
                self.open = Open::Held(held);
            }
        }
    }

    /// Looks through whole events.
    fn skim(&mut self, events: &[u8], each: &mut impl FnMut(Event)) {
        let find = |finder: &LazyLock<Finder<'static>>| finder.find(events);
        // Lines that end with CR alone are rare enough to be left to the decoder.
        let mut found = find(&ID_AFTER_CR);
        if self.interest == Interest::Responses && find(&MEMBER_ID).is_some() {
            // A response has that, and one of these.
            found = [found, find(&RESULT), find(&ERROR)]
                .into_iter()
                .flatten()
                .min();
        }
        let skipped = found.map_or(events.len(), |at| last_boundary(&events[..at]));
        let (skipped, decoded) = events.split_at(skipped);
        let first = skipped.starts_with(b"id").then_some(0);
        for at in first
            .into_iter()
            .chain(ID_AFTER_LF.find_iter(skipped).map(|at| at + 1))
        {
            let line = &skipped[at..];
            let line = &line[..memchr2(b'\n', b'\r', line).unwrap_or(line.len())];
            let id = match line.get(2) {
                None => b"",
                Some(b':') => line[3..].strip_prefix(b" ").unwrap_or(&line[3..]),
                Some(_) => continue,
            };
            if !id.contains(&0) {
                let id = (!id.is_empty()).then(|| String::from_utf8_lossy(id).into());
                self.note_id(id, each);
            }
        }
        if !decoded.is_empty() {
            self.begin_decoding();
            self.decode(decoded, each);
        }
    }

    /// Brings the decoder to the beginning of an event.
    fn begin_decoding(&mut self) {
        self.decoder.reconnect_with_id(self.last_id.clone());
        // Past the place where a byte order mark may be.
        let _ = self.decoder.next(&mut &b"\n"[..]);
    }

    fn decode(&mut self, mut bytes: &[u8], each: &mut impl FnMut(Event)) {
        while bytes.has_remaining() {
            match self.decoder.next(&mut bytes) {
                Some(Ok(SseEvent::Message(_))) if self.interest == Interest::Ids => {}
                Some(Ok(SseEvent::Message(message))) => each(Event::Data(message.data)),
                Some(Ok(SseEvent::Retry(_))) | None => {}
                Some(Err(_)) => each(Event::TooLarge),
            }
            // An event without data sets the id, too, without being told of.
            let id = self.decoder.last_event_id();
            let same = match (id, &self.last_id) {
                (Some(id), Some(last)) => Arc::ptr_eq(id, last),
                (None, None) => true,
                _ => false,
            };
            if !same {
                let id = id.cloned();
                self.note_id(id, each);
            }
        }
    }

    fn note_id(&mut self, id: Option<Arc<str>>, each: &mut impl FnMut(Event)) {
        self.last_id = id;
        if let Some(id) = &self.last_id {
            each(Event::Id(id.clone()));
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
        self.last_id.is_some()
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
        self.open = Open::Decoding;
        self.tail = BOUNDARY;
    }
}

/// Whether the second of two bytes ends a blank line, and with it an event. (An LF that may follow
/// belongs to it, but does no harm as a blank line of its own.)
fn is_boundary(first: u8, second: u8) -> bool {
    matches!((first, second), (b'\n', b'\n' | b'\r') | (b'\r', b'\r'))
}

/// Where the event ends that is open at the beginning of `chunk`, after the byte `before`.
fn first_boundary(before: u8, chunk: &[u8]) -> Option<usize> {
    memchr2_iter(b'\n', b'\r', chunk)
        .find(|&at| is_boundary(at.checked_sub(1).map_or(before, |at| chunk[at]), chunk[at]))
        .map(|at| at + 1)
}

/// Where the last event in `bytes` ends; 0 if none does.
fn last_boundary(bytes: &[u8]) -> usize {
    memrchr2_iter(b'\n', b'\r', bytes)
        .find(|&at| at > 0 && is_boundary(bytes[at - 1], bytes[at]))
        .map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(chunks: &[&[u8]]) -> (EventReader, Vec<String>) {
        let mut reader = EventReader::new(1024, Interest::All);
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
        let mut reader = EventReader::new(16, Interest::All);
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

    /// What a reader makes of a stream cut at `cuts`: its data with a response, its ids, whether it
    /// could be resumed, and whether it stopped between events.
    fn skim(
        interest: Interest,
        stream: &[u8],
        cuts: &[usize],
    ) -> (Vec<String>, Vec<String>, bool, bool) {
        let mut reader = EventReader::new(1 << 20, interest);
        let (mut data, mut ids) = (Vec::new(), Vec::new());
        let mut start = 0;
        for &end in cuts.iter().chain([&stream.len()]) {
            reader.read(&stream[start..end], |event| match event {
                Event::Data(text)
                    if ["\"id\"", "\"result\""].iter().all(|it| text.contains(it)) =>
                {
                    data.push(text)
                }
                Event::Data(_) => {}
                Event::Id(id) => ids.push(id.to_string()),
                Event::TooLarge => unreachable!("nothing is that large"),
            });
            start = end;
        }
        (data, ids, reader.is_resumable(), reader.at_boundary())
    }

    /// A little generator of numbers.
    fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % below
        }
    }

    #[test]
    fn g9_skimming_finds_what_decoding_finds_however_the_bytes_are_cut() {
        const LINES: [&str; 16] = [
            "data: {}",
            "data: {\"id\":1,\"result\":{}}",
            "data: {\"id\":2,",
            "data:\"result\":2}",
            "event: message",
            ": comment",
            "id: 1",
            "id:22",
            "id",
            "id:",
            "id: nul\0",
            "idea: 3",
            " id: 4",
            "\u{feff}id: 5",
            "",
            "",
        ];
        for seed in 0..2_000 {
            let mut below = numbers(seed);
            let only = below(4);
            let mut stream = Vec::new();
            if below(4) == 0 {
                stream.extend_from_slice("\u{feff}".as_bytes());
            }
            for _ in 0..below(24) {
                stream.extend_from_slice(LINES[below(LINES.len())].as_bytes());
                let end = if only < 3 { only } else { below(3) };
                stream.extend_from_slice([&b"\n"[..], b"\r", b"\r\n"][end]);
                if below(100) == 0 {
                    stream.extend_from_slice(&[b'x'; MAX_HELD]);
                }
            }
            let mut cuts: Vec<_> = (0..below(12)).map(|_| below(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let decoded = skim(Interest::All, &stream, &[]);
            for interest in [Interest::Ids, Interest::Responses] {
                let skimmed = skim(interest, &stream, &cuts);
                let text = String::from_utf8_lossy(&stream);
                if interest == Interest::Responses {
                    assert_eq!(skimmed.0, decoded.0, "{seed}: {text:?} at {cuts:?}");
                }
                // Of two ids in one event the first may be told, too.
                let mut told = skimmed.1.iter();
                let all = decoded.1.iter().all(|id| told.any(|it| it == id));
                assert!(all, "{seed}: {skimmed:?} {decoded:?} {text:?} at {cuts:?}");
                assert_eq!(
                    (skimmed.2, skimmed.3),
                    (decoded.2, decoded.3),
                    "{seed}: {text:?} at {cuts:?}"
                );
            }
        }
    }
}
