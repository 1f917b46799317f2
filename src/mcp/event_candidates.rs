//! Where in whole events an answer may be, or an id: the rest is not looked at.

use memchr::{memchr, memchr2, memmem::FindIter};

use super::event_bytes::{ESCAPE, ID, Mark, is_escape, mark};

/// A message that is all there is to be looked at, as an answer that comes alone is.
pub(super) struct OnlyEvent<'a> {
    pub(super) data: &'a [u8],
    /// Where the line is that sets the id.
    pub(super) id_line: Option<usize>,
}

impl<'a> OnlyEvent<'a> {
    /// `None` if there is more, or the event is not written as servers write their messages.
    pub(super) fn of(events: &'a [u8]) -> Option<Self> {
        let (mut data, mut id_line) = (None, None);
        let mut at = 0;
        loop {
            let rest = &events[at..];
            let len = memchr2(b'\n', b'\r', rest)?;
            let end = len
                + if rest[len..].starts_with(b"\r\n") {
                    2
                } else {
                    1
                };
            match &rest[..len] {
                b"" if at + end == events.len() => {
                    let data = data?;
                    return Some(Self { data, id_line });
                }
                b"event: message" => {}
                line if line.starts_with(b"id:") && id_line.is_none() => id_line = Some(at),
                line if data.is_none() => data = Some(line.strip_prefix(b"data: ")?),
                _ => return None,
            }
            at += end;
        }
    }
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
