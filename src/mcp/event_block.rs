//! An event that is still open, or too large to be kept: what is known of it without its bytes.

use memchr::{memchr, memchr2};

use super::{
    Id,
    skim::{scalar, string},
};

/// How much is kept of the data's beginning, in bytes, and of its end.
const BEGINNING: usize = 4096;
const END: usize = 512;
/// The longest `id` or event type that is read, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// The lines since the last blank one. Whatever their size, little of them is kept.
#[derive(Default)]
pub(super) struct EventBlock {
    line: Line,
    after_cr: bool,
    /// A line that is part of an event: one that a client keeps until the blank line.
    has_field: bool,
    has_data: bool,
    event_type: Vec<u8>,
    /// That of the last `id` line which counts.
    id: Option<BlockId>,
    has_id_line: bool,
    beginning: Vec<u8>,
    end: Vec<u8>,
}

/// The value of an `id` line.
pub(super) enum BlockId {
    Short(Vec<u8>),
    /// Longer than is read.
    Long,
}

/// The line that the bytes so far end in.
enum Line {
    /// As much as there is of its name.
    Name(Name),
    /// The colon is there, the value is not.
    Colon(Field),
    Value(Field, Vec<u8>),
}

/// A name, up to the letter that tells that it is none of those that are known.
#[derive(Default)]
struct Name {
    letters: [u8; LONGEST + 1],
    len: usize,
}

const LONGEST: usize = "event".len();

impl Name {
    fn add(&mut self, letters: &[u8]) {
        let room = &mut self.letters[self.len..];
        let len = letters.len().min(room.len());
        room[..len].copy_from_slice(&letters[..len]);
        self.len += len;
    }

    fn get(&self) -> &[u8] {
        &self.letters[..self.len]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Id,
    Retry,
    /// A comment, or a name that no client knows.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(Name::default())
    }
}

impl Field {
    const NAMES: [&[u8]; 3] = [b"data", b"event", b"id"];

    fn named(name: &[u8]) -> Self {
        match name {
            b"data" => Self::Data,
            b"event" => Self::Event,
            b"id" => Self::Id,
            b"retry" => Self::Retry,
            _ => Self::Other,
        }
    }

    fn is_of_event(self) -> bool {
        matches!(self, Self::Data | Self::Event | Self::Id)
    }
}

impl EventBlock {
    /// The lines of an event that was kept so far.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut block = Self::default();
        block.feed(bytes);
        block
    }

    /// More of the block, which does not end in these bytes, or ends with them.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr2(b'\n', b'\r', bytes);
            self.add(&bytes[..end.unwrap_or(bytes.len())]);
            let Some(end) = end else { break };
            self.end_line();
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
        }
    }

    /// More of the line.
    fn add(&mut self, mut bytes: &[u8]) {
        if let Line::Name(name) = &mut self.line {
            let colon = memchr(b':', bytes);
            name.add(&bytes[..colon.unwrap_or(bytes.len())]);
            let Some(colon) = colon else { return };
            bytes = &bytes[colon + 1..];
            self.line = Line::Colon(Field::named(name.get()));
        }
        if let Line::Colon(field) = self.line {
            let Some(first) = bytes.first() else { return };
            bytes = &bytes[usize::from(*first == b' ')..];
            if field == Field::Data {
                self.begin_data_line();
            }
            self.line = Line::Value(field, Vec::new());
        }
        if let Line::Value(field, value) = &mut self.line {
            match field {
                Field::Data => self.add_data(bytes),
                Field::Event | Field::Id => {
                    let room = MAX_VALUE + 1 - value.len();
                    value.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Field::Retry | Field::Other => {}
            }
        }
    }

    fn begin_data_line(&mut self) {
        if std::mem::replace(&mut self.has_data, true) {
            self.add_data(b"\n");
        }
    }

    fn add_data(&mut self, bytes: &[u8]) {
        let room = BEGINNING - self.beginning.len();
        self.beginning
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        let kept = &bytes[bytes.len().saturating_sub(END)..];
        let excess = (self.end.len() + kept.len()).saturating_sub(END);
        self.end.drain(..excess);
        self.end.extend_from_slice(kept);
    }

    fn end_line(&mut self) {
        let (field, value) = match std::mem::take(&mut self.line) {
            Line::Name(name) => (Field::named(name.get()), Vec::new()),
            Line::Colon(field) => (field, Vec::new()),
            Line::Value(field, value) => {
                self.end_value(field, value);
                return;
            }
        };
        if field == Field::Data {
            self.begin_data_line();
        }
        self.end_value(field, value);
    }

    fn end_value(&mut self, field: Field, value: Vec<u8>) {
        self.has_field |= field.is_of_event();
        match field {
            Field::Event => self.event_type = value,
            Field::Id => {
                self.has_id_line = true;
                if memchr(0, &value).is_none() {
                    self.id = Some(match value.len() <= MAX_VALUE {
                        true => BlockId::Short(value),
                        false => BlockId::Long,
                    });
                }
            }
            Field::Data | Field::Retry | Field::Other => {}
        }
    }

    /// Whether a client has begun an event: not with a comment, a `retry` line, or nothing.
    pub(super) fn is_in_event(&self) -> bool {
        let may_be = |name: &[u8]| {
            let known = || Field::NAMES.iter().any(|known| known.starts_with(name));
            !name.is_empty() && known()
        };
        self.has_field
            || match &self.line {
                Line::Name(name) => may_be(name.get()),
                Line::Colon(field) | Line::Value(field, _) => field.is_of_event(),
            }
    }

    /// Whether the bytes so far end with a line.
    pub(super) fn is_at_line_start(&self) -> bool {
        matches!(&self.line, Line::Name(name) if name.len == 0)
    }

    /// Bytes that end the line, so that what follows is one of its own.
    pub(super) fn end_of_line(&self) -> &'static str {
        match &self.line {
            Line::Name(name) if name.len == 0 => "",
            // Half a number is another number, and no client takes one with a sign behind it.
            Line::Colon(Field::Retry) | Line::Value(Field::Retry, _) => "-\n",
            _ => "\n",
        }
    }

    /// Whether a line of it sets an id, or does once it is ended.
    pub(super) fn sets_id(&self) -> bool {
        self.has_id_line
            || match &self.line {
                Line::Name(name) => name.get() == b"id",
                Line::Colon(field) | Line::Value(field, _) => *field == Field::Id,
            }
    }

    /// The id that it makes the last one, when it ends.
    pub(super) fn take_id(&mut self) -> Option<BlockId> {
        self.id.take()
    }

    /// The data, as much as is known of it, if clients take it for a message.
    pub(super) fn into_message(self) -> Option<LargeData> {
        let is_message = matches!(&*self.event_type, b"" | b"message");
        (self.has_data && is_message).then_some(LargeData {
            beginning: self.beginning,
            end: self.end,
        })
    }
}

/// What is known of data that are too large to be kept.
#[derive(Debug)]
pub(crate) struct LargeData {
    beginning: Vec<u8>,
    end: Vec<u8>,
}

/// What a large message answers, by what is known of it.
pub(crate) enum LargeAnswer {
    /// Nothing: it begins as a request or a notification.
    None,
    /// The request with this id.
    Of(Id),
    /// Nobody knows which.
    Some,
}

impl LargeData {
    pub(crate) fn answer(&self) -> LargeAnswer {
        match self.begins_with() {
            Begins::Method => LargeAnswer::None,
            // Of members with the same name the last one counts.
            begins => match (self.last_id(), begins) {
                (Some(id), _) | (None, Begins::Id(id)) => LargeAnswer::Of(id),
                (None, _) => LargeAnswer::Some,
            },
        }
    }

    /// What the first of the members says that can be told without the rest.
    fn begins_with(&self) -> Begins {
        let mut found = Begins::Unknown;
        let Some(mut rest) = self.beginning.trim_ascii_start().strip_prefix(b"{") else {
            return found;
        };
        loop {
            let Some((name, after)) = string(rest.trim_ascii_start()) else {
                return found;
            };
            let Some(value) = after.trim_ascii_start().strip_prefix(b":") else {
                return found;
            };
            let value = value.trim_ascii_start();
            let name = serde_json::from_slice::<String>(name).unwrap_or_default();
            if name == "method" {
                return Begins::Method;
            }
            let Some((value, after)) = scalar(value) else {
                return found;
            };
            if name == "id" {
                if let Some(id) = Id::from_json(value) {
                    found = Begins::Id(id);
                }
            }
            match after.trim_ascii_start().strip_prefix(b",") {
                Some(after) => rest = after,
                None => return found,
            }
        }
    }

    /// The id, if it is the last member, as some servers write it.
    fn last_id(&self) -> Option<Id> {
        let text = self.end.trim_ascii_end().strip_suffix(b"}")?;
        let text = text.trim_ascii_end();
        // A scalar before the closing brace is the last member's: in it nothing nests.
        let colon = (0..text.len()).rev().filter(|at| text[*at] == b':');
        for colon in colon {
            let value = text[colon + 1..].trim_ascii_start();
            let Some((value, b"")) = scalar(value) else {
                continue;
            };
            let name = text[..colon].trim_ascii_end();
            let Some(before) = name.strip_suffix(b"\"id\"") else {
                continue;
            };
            return match before.trim_ascii_end().last() {
                Some(b',' | b'{') => Id::from_json(value),
                _ => None,
            };
        }
        None
    }
}

enum Begins {
    Method,
    Id(Id),
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e6_a_line_may_end_with_cr_alone() {
        let mut block = EventBlock::of(b"id: 1\r");
        block.feed(b"id: 2\r");
        assert!(matches!(block.take_id(), Some(BlockId::Short(id)) if *id == *b"2"));
    }

    #[test]
    fn g3_of_a_long_value_no_more_is_kept_than_shows_that_it_is_long() {
        let mut block = EventBlock::of(b"id: ");
        (0..10).for_each(|_| block.feed(&[b'x'; MAX_VALUE]));
        assert!(
            matches!(&block.line, Line::Value(Field::Id, value) if value.len() == MAX_VALUE + 1)
        );
    }
}
