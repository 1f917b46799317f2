//! Event streams (WHATWG HTML, 9.2, Server-sent events), looked on as their bytes pass.

use std::num::NonZeroUsize;

use bytes::Buf;
use memchr::memchr3;
use sse_core::{SseDecoder, SseEvent};

use super::event_bytes::{
    ID, Mark, event_around, first_boundary, has_outcome, last_boundary, mark, single_line,
};

/// What the reader saw in a chunk.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The data of an event whose last byte was in the chunk.
    Data(&'a str),
    /// The id that a client would resume from has become this one, after the data of its event. As
    /// it stands in the stream, where it need not be UTF-8.
    Id(&'a [u8]),
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
/// Most events are of no interest, and decoding them would cost more than everything else that is
/// done to them. But both an `id` field and a response have the letters `id` in them, so a chunk is
/// searched for those, once. Only the event that it ends in is kept, since its rest is still to
/// come; and only events that may hold what is looked for are decoded.
pub(crate) struct EventReader {
    interest: Interest,
    /// The largest data of an event that are read, in bytes.
    limit: usize,
    /// As much as is kept of the event that the last chunk ended in; nothing, between events.
    open: Vec<u8>,
    /// The byte before that.
    before_open: u8,
    kind: Open,
    resumable: bool,
    /// The next event is the first, and may begin with a byte order mark.
    may_begin_with_bom: bool,
    /// The last three bytes, which tell whether an event is open.
    tail: [u8; 3],
}

/// What is known of the open event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// It holds nothing of interest so far.
    Plain,
    /// It may.
    Marked,
    /// It is over the limit, and not kept.
    TooLarge,
}

/// A stream begins as if an event had just ended.
const BOUNDARY: [u8; 3] = *b"\n\n\n";
const BOM: &[u8] = "\u{feff}".as_bytes();
/// What an event may hold besides its data, in bytes.
const OTHER_FIELDS: usize = 4096;
/// What is kept allocated between events.
const USUAL: usize = 4096;

impl EventReader {
    /// A reader that gives up on events with more than `limit` bytes of data.
    pub(crate) fn new(limit: usize, interest: Interest) -> Self {
        Self {
            interest,
            limit,
            open: Vec::new(),
            before_open: BOUNDARY[2],
            kind: Open::Plain,
            resumable: false,
            may_begin_with_bom: true,
            tail: BOUNDARY,
        }
    }

    /// Looks at a chunk and tells what it held.
    pub(crate) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(Event<'_>)) {
        let before = self.tail[2];
        self.follow(chunk);
        if self.may_begin_with_bom && self.open.is_empty() && chunk.len() >= BOM.len() {
            self.may_begin_with_bom = chunk.starts_with(BOM);
        }
        let first_mark = self.first_mark(before, chunk);
        if first_mark.is_none() && self.is_plain() && self.interest == Interest::Ids {
            return;
        }
        let Some(last) = last_boundary(before, chunk) else {
            return self.hold(before, chunk, first_mark.is_some(), &mut each);
        };
        let (ended, open) = chunk.split_at(last);
        let mut marked = first_mark.is_some();
        if first_mark.is_some_and(|at| at < last) || !self.is_plain() {
            let first = match self.open.is_empty() && self.kind == Open::Plain {
                true => 0,
                false => first_boundary(before, ended).unwrap_or(last),
            };
            let (rest, whole) = ended.split_at(first);
            self.hold(before, rest, false, &mut each);
            let event = std::mem::take(&mut self.open);
            self.look(self.before_open, &event, &mut each);
            self.look(if first == 0 { before } else { b'\n' }, whole, &mut each);
            self.open = event;
            marked = self.first_mark(b'\n', open).is_some();
        }
        self.open.clear();
        self.open.shrink_to(USUAL);
        self.kind = Open::Plain;
        self.hold(b'\n', open, marked, &mut each);
    }

    /// More of an event that goes on in the next chunk.
    fn hold(&mut self, before: u8, bytes: &[u8], marked: bool, each: &mut impl FnMut(Event<'_>)) {
        // Without an id, an event is of interest for its data alone.
        let plain = self.is_plain() && !marked && self.interest == Interest::Ids;
        if plain || self.kind == Open::TooLarge {
            return;
        }
        let limit = self.limit.saturating_add(OTHER_FIELDS);
        if bytes.len() > limit.saturating_sub(self.open.len()) {
            self.open = Vec::new();
            self.kind = Open::TooLarge;
            return each(Event::TooLarge);
        }
        if marked {
            self.kind = Open::Marked;
        }
        if self.open.is_empty() {
            self.before_open = before;
        }
        self.open.extend_from_slice(bytes);
    }

    /// Looks for what is of interest in whole events, which follow the byte `before`.
    fn look(&mut self, before: u8, mut events: &[u8], each: &mut impl FnMut(Event<'_>)) {
        if events.is_empty() {
            return;
        }
        if std::mem::replace(&mut self.may_begin_with_bom, false) {
            events = events.strip_prefix(BOM).unwrap_or(events);
        }
        if self.interest == Interest::All {
            decode(events, self.limit, each);
        }
        // The last id line, which may be followed by the data of its event.
        let mut id = None;
        let mut decoded = 0;
        for at in ID.find_iter(events) {
            match mark(before, events, at) {
                Some(Mark::Field) => {
                    if let Some(line) = id.replace(at) {
                        self.tell_id(&events[line..], each);
                    }
                }
                Some(Mark::Member) if self.interest == Interest::Responses && at >= decoded => {
                    let event = event_around(events, at);
                    decoded = event.end;
                    if let Some(line) = id.take_if(|line| *line < event.start) {
                        self.tell_id(&events[line..], each);
                    }
                    let place = at - event.start;
                    let event = &events[event];
                    if has_outcome(event) {
                        match single_line(event, place).filter(|it| it.len() <= self.limit) {
                            Some(data) => each(Event::Data(data)),
                            None => decode(event, self.limit, each),
                        }
                    }
                }
                Some(Mark::Member) | None => {}
            }
        }
        if let Some(line) = id {
            self.tell_id(&events[line..], each);
        }
    }

    /// Tells the id in the line that `events` begin with.
    fn tell_id(&mut self, events: &[u8], each: &mut impl FnMut(Event<'_>)) {
        let end = memchr3(b'\n', b'\r', 0, events).unwrap_or(events.len());
        if events.get(end) == Some(&0) {
            return;
        }
        let id = events[..end].strip_prefix(b"id:").unwrap_or_default();
        let id = id.strip_prefix(b" ").unwrap_or(id);
        self.resumable = !id.is_empty();
        if self.resumable {
            each(Event::Id(id));
        }
    }

    /// Whether what has come of the open event holds nothing of interest.
    fn is_plain(&self) -> bool {
        self.kind == Open::Plain && !self.may_begin_with_bom && self.interest != Interest::All
    }

    /// The first place of interest in bytes that may end anywhere.
    fn first_mark(&self, before: u8, bytes: &[u8]) -> Option<usize> {
        let mut places = ID.find_iter(bytes);
        let first = places.find(|at| match mark(before, bytes, *at) {
            Some(Mark::Field) => true,
            Some(Mark::Member) => self.interest == Interest::Responses,
            None => false,
        });
        first.or_else(|| bytes.ends_with(b"i").then(|| bytes.len() - 1))
    }

    fn follow(&mut self, chunk: &[u8]) {
        if let [.., a, b, c] = *chunk {
            self.tail = [a, b, c];
        } else {
            self.tail.rotate_left(chunk.len());
            let kept = self.tail.len() - chunk.len();
            self.tail[kept..].copy_from_slice(chunk);
        }
    }

    /// Whether a client could resume the stream from where it is.
    pub(crate) fn is_resumable(&self) -> bool {
        self.resumable
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
        *self = Self::new(self.limit, self.interest);
    }
}

/// The data of whole events.
fn decode(mut events: &[u8], limit: usize, each: &mut impl FnMut(Event<'_>)) {
    let limit = NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN);
    let mut decoder = SseDecoder::with_limit(limit);
    // Past the place where a byte order mark may be.
    let _ = decoder.next(&mut &b"\n"[..]);
    while events.has_remaining() {
        match decoder.next(&mut events) {
            Some(Ok(SseEvent::Message(message))) => each(Event::Data(&message.data)),
            Some(Ok(SseEvent::Retry(_))) | None => {}
            Some(Err(_)) => each(Event::TooLarge),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn read(chunks: &[&[u8]]) -> (EventReader, Vec<String>) {
        let mut reader = EventReader::new(1024, Interest::All);
        let mut events = Vec::new();
        for chunk in chunks {
            reader.read(chunk, |event| {
                events.push(match event {
                    Event::Id(id) => format!("id {}", id.escape_ascii()),
                    Event::Data(data) => data.to_owned(),
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
        let mut each = |event: Event<'_>| {
            seen.push(match event {
                Event::Id(id) => String::from_utf8_lossy(id).into_owned(),
                Event::Data(data) => data.to_owned(),
                Event::TooLarge => "too large".to_owned(),
            });
        };
        for lines in [64, 1024] {
            for _ in 0..lines {
                reader.read(b"data: 0123456789\n", &mut each);
            }
            reader.read(b"\ndata: next\n\n", &mut each);
        }
        assert_eq!(seen, ["too large", "next", "too large", "next"]);
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
                    data.push(text.to_owned());
                }
                Event::Data(_) => {}
                Event::Id(id) => ids.push(String::from_utf8_lossy(id).into_owned()),
                Event::TooLarge => unreachable!("nothing is that large"),
            });
            start = end;
        }
        (data, ids, reader.is_resumable(), reader.at_boundary())
    }

    /// What the decoder alone makes of the same stream.
    fn decode_all(mut stream: &[u8]) -> (Vec<String>, Vec<String>, bool, bool) {
        let boundary = read(&[stream]).0.at_boundary();
        let mut decoder = SseDecoder::new();
        let (mut data, mut ids, mut last) = (Vec::new(), Vec::new(), None);
        while stream.has_remaining() {
            if let Some(Ok(SseEvent::Message(message))) = decoder.next(&mut stream) {
                if ["\"id\"", "\"result\""]
                    .iter()
                    .all(|it| message.data.contains(it))
                {
                    data.push(message.data);
                }
            }
            let id = decoder.last_event_id().cloned();
            if id.as_ref().map(Arc::as_ptr) != last.as_ref().map(Arc::as_ptr) {
                ids.extend(id.as_deref().map(str::to_owned));
                last = id;
            }
        }
        (data, ids, last.is_some(), boundary)
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
                    stream.extend_from_slice(&[b'x'; USUAL]);
                }
            }
            let mut cuts: Vec<_> = (0..below(12)).map(|_| below(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let decoded = decode_all(&stream);
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
