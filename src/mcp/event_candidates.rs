//! Where in whole events an answer may be, or an id: the rest is not looked at.

use memchr::{memchr, memchr2, memmem::FindIter};

use super::event_bytes::{ESCAPE, ID, Mark, is_escape, mark};

/// An event as servers write their messages: a line for each field, and all data in one.
pub(super) struct PlainEvent<'a> {
    pub(super) data: &'a [u8],
    pub(super) id: Option<&'a [u8]>,
    /// The events after it.
    pub(super) rest: &'a [u8],
}

impl<'a> PlainEvent<'a> {
    /// The first of whole events, if it is written so.
    pub(super) fn first_of(events: &'a [u8]) -> Option<Self> {
        let (before, rest) = other_fields(events)?;
        let value = rest.strip_prefix(b"data: ")?;
        let (data, end) = value.split_at(memchr2(b'\n', b'\r', value)?);
        let mut rest = end_of_line(end)?;
        let mut id = before;
        if !matches!(rest, [b'\n', ..]) {
            let after;
            (after, rest) = other_fields(rest)?;
            if before.is_some() && after.is_some() {
                return None;
            }
            id = before.or(after);
        }
        let rest = end_of_line(rest)?;
        Some(Self { data, id, rest })
    }
}

/// The value of an `id` line, if there is one here, and what follows it and the type of messages.
#[inline]
fn other_fields(mut rest: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    const TYPE: &[u8] = b"event: message";

    if let Some(end) = rest.strip_prefix(TYPE) {
        rest = end_of_line(end)?;
    }
    let Some(value) = rest.strip_prefix(b"id: ") else {
        return Some((None, rest));
    };
    let (id, end) = value.split_at(line_len(value)?);
    rest = end_of_line(end)?;
    if let Some(end) = rest.strip_prefix(TYPE) {
        rest = end_of_line(end)?;
    }
    Some((Some(id), rest))
}

/// What follows the end of a line, if that is what comes next.
#[inline]
fn end_of_line(end: &[u8]) -> Option<&[u8]> {
    match end {
        [b'\n', rest @ ..] => Some(rest),
        [b'\r', b'\n', rest @ ..] | [b'\r', rest @ ..] => Some(rest),
        _ => None,
    }
}

/// The length of a line up to a byte that ends it, or may: one of those that no text has.
#[inline]
fn line_len(line: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::MAX / 0xff;
    let mut at = 0;
    // The first byte below 14 is the first to have its high bit set.
    while let Some(word) = line.get(at..).and_then(|rest| rest.first_chunk()) {
        let word = u64::from_le_bytes(*word);
        let below = word.wrapping_sub(14 * EACH) & !word & (0x80 * EACH);
        if below != 0 {
            return Some(at + below.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    line[at..]
        .iter()
        .position(|byte| *byte < 14)
        .map(|place| at + place)
}

/// What may be of interest in whole events, in its order.
pub(super) struct Candidates<'a> {
    events: &'a [u8],
    ids: FindIter<'a, 'static>,
    escapes: Option<FindIter<'a, 'static>>,
    next_id: Option<(usize, Mark)>,
    next_escape: Option<(usize, Mark)>,
}

impl<'a> Candidates<'a> {
    pub(super) fn of(events: &'a [u8]) -> Self {
        // Hardly any stream escapes letters, and most have no escapes at all.
        let escapes = memchr(b'\\', events).map(|_| ESCAPE.find_iter(events));
        let mut candidates = Self {
            events,
            ids: ID.find_iter(events),
            escapes,
            next_id: None,
            next_escape: None,
        };
        candidates.find_id();
        candidates.find_escape();
        candidates
    }

    fn find_id(&mut self) {
        self.next_id = self.ids.find_map(|at| Some((at, mark(self.events, at)?)));
    }

    fn find_escape(&mut self) {
        self.next_escape = self.escapes.as_mut().and_then(|escapes| {
            let at = escapes.find(|at| is_escape(self.events, *at))?;
            Some((at, Mark::Member))
        });
    }

    pub(super) fn next(&mut self) -> Option<(usize, Mark)> {
        match (self.next_id, self.next_escape) {
            (Some((id, _)), Some((escape, _))) if escape < id => {
                let next = self.next_escape;
                self.find_escape();
                next
            }
            (None, next @ Some(_)) => {
                self.find_escape();
                next
            }
            (next, _) => {
                self.find_id();
                next
            }
        }
    }
}
