//! What the bytes of event streams say without being decoded: where events end, and what may be in
//! them.

use std::{ops::Range, sync::LazyLock};

use memchr::{
    memchr2, memchr2_iter,
    memmem::{self, Finder},
    memrchr2, memrchr2_iter,
};

/// The letters that both an `id` field and a response have in them.
pub(super) static ID: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"id"));
static RESULT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"result\""));
/// What escaped letters begin with, in JSON.
pub(super) static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\\u00"));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// What the letters `id` may stand for.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// A line that sets the event's id.
    Field,
    /// A member of that name in the data.
    Member,
}

/// What the `id` at this place in whole events may stand for, if anything.
pub(super) fn mark(events: &[u8], at: usize) -> Option<Mark> {
    let before = at.checked_sub(1).map_or(b'\n', |before| events[before]);
    match (before, events.get(at + 2)?) {
        (b'\n' | b'\r', b':' | b'\n' | b'\r') => Some(Mark::Field),
        (b'"', b'"') => Some(Mark::Member),
        _ => None,
    }
}

/// Whether the escape at this place stands for a small letter, so that it may be part of a name.
pub(super) fn is_escape(events: &[u8], at: usize) -> bool {
    matches!(events.get(at + 4), Some(b'6' | b'7'))
}

/// Whether an event has escaped letters, and so may have any member.
pub(super) fn has_escape(event: &[u8]) -> bool {
    let mut escapes = ESCAPE.find_iter(event);
    escapes.any(|at| is_escape(event, at))
}

/// The data of a message, if the line with this place in it is all of them, as it nearly always is.
/// `None` where it takes decoding to tell.
pub(super) fn single_line(event: &[u8], place: usize) -> Option<&str> {
    let (before, after) = event.split_at(place);
    let start = memrchr2(b'\n', b'\r', before).map_or(0, |end| end + 1);
    let len = memchr2(b'\n', b'\r', after)?;
    let (line, others) = (&event[start..place + len], [&event[..start], &after[len..]]);
    let data = line.strip_prefix(b"data:")?;
    for other in others {
        if memmem::find(other, b"data").is_some() {
            return None;
        }
        if let Some(at) = memmem::find(other, b"event") {
            // As servers write it, if they do.
            let written = other[at..].strip_prefix(b"event: message");
            let is_line = matches!(written, Some([b'\n' | b'\r', ..]));
            let is_field = at == 0 || matches!(other[at - 1], b'\n' | b'\r');
            let is_only = memmem::find(&other[at + 5..], b"event").is_none();
            if !(is_line && is_field && is_only) {
                return None;
            }
        }
    }
    std::str::from_utf8(data.strip_prefix(b" ").unwrap_or(data)).ok()
}

/// Whether an event has a member that makes a message with an id a response.
pub(super) fn has_outcome(event: &[u8]) -> bool {
    RESULT.find(event).is_some() || ERROR.find(event).is_some()
}

/// Whether the second of two bytes ends a blank line, and with it an event. (An LF that may follow
/// belongs to it, but does no harm as a blank line of its own.)
fn is_boundary(first: u8, second: u8) -> bool {
    matches!((first, second), (b'\n', b'\n' | b'\r') | (b'\r', b'\r'))
}

/// Where the first event ends of those that end in `bytes`, which follow the byte `before`.
pub(super) fn first_boundary(before: u8, bytes: &[u8]) -> Option<usize> {
    memchr2_iter(b'\n', b'\r', bytes)
        .find(|&at| is_boundary(at.checked_sub(1).map_or(before, |at| bytes[at]), bytes[at]))
        .map(|at| at + 1)
}

/// Where the last one does.
pub(super) fn last_boundary(before: u8, bytes: &[u8]) -> Option<usize> {
    memrchr2_iter(b'\n', b'\r', bytes)
        .find(|&at| is_boundary(at.checked_sub(1).map_or(before, |at| bytes[at]), bytes[at]))
        .map(|at| at + 1)
}

/// The event that this place in whole events is in.
pub(super) fn event_around(events: &[u8], at: usize) -> Range<usize> {
    let (before, after) = events.split_at(at);
    let start = last_boundary(b'd', before).unwrap_or(0);
    let len = first_boundary(b'd', after).unwrap_or(after.len());
    start..at + len
}
