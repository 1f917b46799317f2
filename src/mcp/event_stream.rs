//! Event streams (WHATWG HTML, 9.2, Server-sent events), looked on as their bytes pass.

use std::num::NonZeroUsize;

use bytes::Buf;
use memchr::memchr3;
use sse_core::{SseDecoder, SseEvent};

use super::{
    LargeData,
    event_block::{BlockId, EventBlock},
    event_bytes::{
        Mark, event_around, first_boundary, has_escape, has_outcome, last_boundary, single_line,
    },
    event_candidates::{Candidates, PlainEvent},
};

/// What the reader saw in a chunk.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The data of a message whose last byte was in the chunk. As they stand in the stream, where
    /// they need not be UTF-8.
    Data(&'a [u8]),
    /// The same of a message that is larger than the reader's limit.
    Large(LargeData),
    /// The id that a client would resume from has become this one, after the data of its event. As
    /// it stands in the stream, where it need not be UTF-8.
    Id(&'a [u8]),
}

/// Which messages a reader tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
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
    /// The largest event that is kept, in bytes.
    limit: usize,
    /// What has come since the last blank line.
    open: Vec<u8>,
    /// What is known of that, and of how much of it: known when it is first asked for, and not found
    /// out anew for each byte that comes.
    known: Option<(Box<EventBlock>, usize)>,
    /// In its place, once that is over the limit.
    large: Option<Box<EventBlock>>,
    /// The byte before what comes next.
    before: u8,
    /// The next event is the first, and may begin with a byte order mark.
    is_first: bool,
    /// The last id that a client has, as far as it is short enough to be kept.
    last_id: Vec<u8>,
    is_resumable: bool,
}

const BOM: &[u8] = "\u{feff}".as_bytes();
/// What an event may hold besides its data, in bytes.
const OTHER_FIELDS: usize = 4096;
/// What is kept allocated between events.
const USUAL: usize = 4096;
/// The longest id that is kept, in bytes.
const MAX_ID: usize = 64 * 1024;

impl EventReader {
    /// A reader that keeps events with up to `limit` bytes of data.
    pub(crate) fn new(limit: usize, interest: Interest) -> Self {
        Self {
            interest,
            limit: limit.saturating_add(OTHER_FIELDS),
            open: Vec::new(),
            known: None,
            large: None,
            before: b'\n',
            is_first: true,
            last_id: Vec::new(),
            is_resumable: false,
        }
    }

    /// The client has got this id from an earlier stream.
    pub(crate) fn resume_from(&mut self, id: &[u8]) {
        self.set_last_id(id);
    }

    /// Looks at a chunk and tells what it held.
    pub(crate) fn read(&mut self, mut chunk: &[u8], mut each: impl FnMut(Event<'_>)) {
        let Some(last) = chunk.last() else { return };
        let before = std::mem::replace(&mut self.before, *last);
        let mut ended = match last_boundary(before, chunk) {
            None => return self.hold(chunk),
            Some(boundary) => {
                let (ended, open) = chunk.split_at(boundary);
                chunk = open;
                ended
            }
        };
        if self.large.is_some() || !self.open.is_empty() {
            let first = first_boundary(before, ended).unwrap_or(ended.len());
            let (rest, whole) = ended.split_at(first);
            self.hold(rest);
            ended = whole;
            match self.large.take() {
                Some(large) => self.end_large(*large, &mut each),
                None => {
                    let mut open = std::mem::take(&mut self.open);
                    self.known = None;
                    self.look(&open, &mut each);
                    open.clear();
                    open.shrink_to(USUAL);
                    self.open = open;
                }
            }
        }
        if ended.len() <= self.limit {
            self.look(ended, &mut each);
        } else {
            self.look_one_by_one(ended, &mut each);
        }
        self.hold(chunk);
    }

    /// More of an event that goes on in the next chunk.
    fn hold(&mut self, bytes: &[u8]) {
        if let Some(large) = &mut self.large {
            return large.feed(bytes);
        }
        if bytes.len() <= self.limit - self.open.len() {
            return self.open.extend_from_slice(bytes);
        }
        // A byte order mark may be cut, too.
        let (few, bytes) = bytes.split_at(BOM.len().min(bytes.len()));
        self.open.extend_from_slice(few);
        let mut large = EventBlock::of(self.without_bom(&self.open));
        large.feed(bytes);
        self.open = Vec::new();
        self.known = None;
        self.large = Some(Box::new(large));
    }

    /// The same as [`Self::look`] where there may be an event that is over the limit.
    fn look_one_by_one(&mut self, mut events: &[u8], each: &mut impl FnMut(Event<'_>)) {
        while let Some(end) = first_boundary(b'\n', events) {
            let (event, rest) = events.split_at(end);
            events = rest;
            if event.len() <= self.limit {
                self.look(event, each);
            } else {
                let large = EventBlock::of(self.without_bom(event));
                self.end_large(large, each);
            }
        }
    }

    fn end_large(&mut self, mut large: EventBlock, each: &mut impl FnMut(Event<'_>)) {
        self.is_first = false;
        let id = large.take_id();
        if let Some(data) = large.into_message() {
            each(Event::Large(data));
        }
        match id {
            Some(BlockId::Short(id)) => {
                self.set_last_id(&id);
                tell(&id, each);
            }
            Some(BlockId::Long) => {
                self.last_id.clear();
                self.is_resumable = true;
            }
            None => {}
        }
    }

    /// Looks for what is of interest in whole events.
    fn look(&mut self, events: &[u8], each: &mut impl FnMut(Event<'_>)) {
        if events.is_empty() {
            return;
        }
        let mut events = self.without_bom(events);
        self.is_first = false;
        if self.interest == Interest::All {
            decode(events, each);
        }
        let mut last = None;
        if self.interest == Interest::Responses {
            // What is left of the end of the event before.
            events = events.strip_prefix(b"\n").unwrap_or(events);
            // One after the other where each has an id; where few have one, searching is faster.
            while let Some(event) = PlainEvent::first_of(events) {
                events = event.rest;
                if may_be_response(event.data) {
                    each(Event::Data(event.data));
                }
                let Some(id) = event.id else { break };
                tell(id, each);
                last = Some(id);
            }
        }
        if !events.is_empty() {
            last = self.search(events, each).or(last);
        }
        if let Some(id) = last {
            self.set_last_id(id);
        }
    }

    /// The same for events that may be written in any way. Gives the last id.
    fn search<'a>(&self, events: &'a [u8], each: &mut impl FnMut(Event<'_>)) -> Option<&'a [u8]> {
        // The id line that counts so far, which may be followed by the data of its event, and the last
        // one: what is before that is not looked at again. And the last id told.
        let (mut line, mut last) = (None, None);
        let mut decoded = 0;
        let mut candidates = Candidates::of(events);
        while let Some((at, mark)) = candidates.next() {
            match mark {
                Mark::Field => {
                    let mut counts = at;
                    if let Some((earlier, before)) = line {
                        // Of two in one event the last one counts.
                        if is_after_boundary(&events[before..at]) {
                            last = tell_line(events, earlier, each).or(last);
                        } else if id_in(&events[at..]).is_none() {
                            counts = earlier;
                        }
                    }
                    line = Some((counts, at));
                }
                Mark::Member if self.interest == Interest::Responses && at >= decoded => {
                    let event = event_around(events, at);
                    decoded = event.end;
                    if let Some((line, _)) = line.take_if(|(line, _)| *line < event.start) {
                        last = tell_line(events, line, each).or(last);
                    }
                    let place = at - event.start;
                    let event = &events[event];
                    if has_outcome(event) || has_escape(event) {
                        match single_line(event, place) {
                            Some(data) => each(Event::Data(data.as_bytes())),
                            None => decode(event, each),
                        }
                    }
                }
                Mark::Member => {}
            }
        }
        match line {
            Some((line, _)) => tell_line(events, line, each).or(last),
            None => last,
        }
    }

    fn set_last_id(&mut self, id: &[u8]) {
        self.is_resumable = !id.is_empty();
        self.last_id.clear();
        if id.len() <= MAX_ID {
            self.last_id.extend_from_slice(id);
        }
    }

    fn without_bom<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        match bytes.strip_prefix(BOM) {
            Some(rest) if self.is_first => rest,
            _ => bytes,
        }
    }

    /// Whether a client could resume the stream from where it is.
    pub(crate) fn is_resumable(&self) -> bool {
        self.is_resumable
    }

    fn with_open_block<T>(&mut self, ask: impl FnOnce(&EventBlock) -> T) -> T {
        if let Some(large) = &self.large {
            return ask(large);
        }
        if self.is_first && self.open.len() < BOM.len() {
            // It may be half a byte order mark.
            return ask(&EventBlock::of(&self.open));
        }
        let (mut block, known) = self.known.take().unwrap_or_default();
        let rest = match known {
            0 => self.without_bom(&self.open),
            _ => &self.open[known..],
        };
        block.feed(rest);
        let told = ask(&block);
        self.known = Some((block, self.open.len()));
        told
    }

    /// Whether another stream may go on from here: none of the events has been cut.
    pub(crate) fn is_between_events(&mut self) -> bool {
        self.open.is_empty() && self.large.is_none()
            || !begins_in_event(&self.open) && self.with_open_block(|open| !open.is_in_event())
    }

    /// Whether an event may be put in here, and the stream go on after it.
    pub(crate) fn has_room(&mut self) -> bool {
        self.open.is_empty() && self.large.is_none()
            || !begins_in_event(&self.open)
                && self.with_open_block(|open| open.is_at_line_start() && !open.is_in_event())
    }

    /// Bytes that end an open line, so that what follows is one of its own. Empty if none is open.
    pub(crate) fn end_of_line(&mut self) -> &'static str {
        self.with_open_block(EventBlock::end_of_line)
    }

    /// Bytes that end an open event so that no client takes it for a message: what was cut off
    /// becomes an event of a type that nobody listens to, and the id that it would have set stays
    /// what it was. Empty if none is open.
    pub(crate) fn end_of_open_event(&mut self) -> Vec<u8> {
        let (end_of_line, is_in_event, sets_id) =
            self.with_open_block(|open| (open.end_of_line(), open.is_in_event(), open.sets_id()));
        let mut end = end_of_line.as_bytes().to_vec();
        if is_in_event {
            if sets_id {
                end.extend([b"id: ", &*self.last_id, b"\n"].concat());
            }
            end.extend(b"event: truncated\n\n");
        }
        end
    }

    /// Begins anew: what is read next is another stream's, and comes without a byte order mark.
    pub(crate) fn restart(&mut self) {
        self.open = Vec::new();
        self.known = None;
        self.large = None;
        self.before = b'\n';
        self.is_first = false;
    }
}

/// Whether this is certainly in an event. Nearly every event begins with one of its own lines.
fn begins_in_event(open: &[u8]) -> bool {
    [&b"data:"[..], b"event:", b"id:"]
        .iter()
        .any(|field| open.starts_with(field))
}

/// Whether an event ended in these bytes. Nearly all ids are in the first or second line of theirs.
fn is_after_boundary(bytes: &[u8]) -> bool {
    [&b"\n\n"[..], b"\n\nevent: message\n"]
        .iter()
        .any(|end| bytes.ends_with(end))
        || last_boundary(b'd', bytes).is_some()
}

/// The id that the line sets which these bytes begin with. One with NUL counts for nothing.
fn id_in(line: &[u8]) -> Option<&[u8]> {
    let end = memchr3(b'\n', b'\r', 0, line).unwrap_or(line.len());
    if line.get(end) == Some(&0) {
        return None;
    }
    let id = line[..end].strip_prefix(b"id:").unwrap_or_default();
    Some(id.strip_prefix(b" ").unwrap_or(id))
}

/// Tells the id that is set at this place, if one is.
fn tell_line<'a>(
    events: &'a [u8],
    at: usize,
    each: &mut impl FnMut(Event<'_>),
) -> Option<&'a [u8]> {
    let id = id_in(&events[at..])?;
    tell(id, each);
    Some(id)
}

fn tell(id: &[u8], each: &mut impl FnMut(Event<'_>)) {
    if !id.is_empty() {
        each(Event::Id(id));
    }
}

/// Whether data may hold a response. Nearly all servers write the method of a request or a
/// notification first.
fn may_be_response(data: &[u8]) -> bool {
    let members = data.strip_prefix(br#"{"jsonrpc":"2.0","#);
    let members = members.or_else(|| data.strip_prefix(b"{"));
    let has_method = members.is_some_and(|members| members.starts_with(br#""method":""#));
    !has_method && (has_outcome(data) || has_escape(data))
}

/// The messages of whole events.
fn decode(mut events: &[u8], each: &mut impl FnMut(Event<'_>)) {
    let limit = NonZeroUsize::MIN.saturating_add(events.len());
    let mut decoder = SseDecoder::with_limit(limit);
    // Past the place where a byte order mark may be.
    let _ = decoder.next(&mut &b"\n"[..]);
    while events.has_remaining() {
        match decoder.next(&mut events) {
            Some(Ok(SseEvent::Message(message))) if message.event == "message" => {
                each(Event::Data(message.data.as_bytes()));
            }
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
