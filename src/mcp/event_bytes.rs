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
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error\""));

/// What the letters `id` may stand for.
pub(super) enum Mark {
    /// A line that sets the event's id.
    Field,
    /// A member of that name in the data.
    Member,
}

/// What the `id` at this place may stand for, if anything. What follows the bytes is not known.
pub(super) fn mark(before: u8, bytes: &[u8], at: usize) -> Option<Mark> {
    let before = at.checked_sub(1).map_or(before, |before| bytes[before]);
    match (before, bytes.get(at + 2)) {
        (b'\n' | b'\r', None | Some(b':' | b'\n' | b'\r')) => Some(Mark::Field),
        (b'"', None | Some(b'"')) => Some(Mark::Member),
        _ => None,
    }
}

/// The data of an event, if the line with this place in it is all of them, as it nearly always is.
pub(super) fn single_line(event: &[u8], place: usize) -> Option<&str> {
    let (before, after) = event.split_at(place);
    let start = memrchr2(b'\n', b'\r', before).map_or(0, |end| end + 1);
    let end = place + memchr2(b'\n', b'\r', after)?;
    let others = [&event[..start], &event[end..]];
    if others.iter().any(|it| memmem::find(it, b"data").is_some()) {
        return None;
    }
    let data = event[start..end].strip_prefix(b"data:")?;
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
