//! The members of a JSON-RPC message, found without reading what is in them.

use memchr::{memchr, memchr2};

use super::Id;

/// What the members of a single message say that the layer goes by on every way.
///
/// To parse a message takes ten times as long as to find where its strings end. What its members hold
/// is skipped, and not checked: a message that is broken inside counts, as one does that is too
/// large to be read. Only what is certain is told.
#[derive(Default)]
pub(crate) struct Skimmed<'a> {
    /// The text of it, which has no escapes.
    pub(crate) method: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    has_outcome: bool,
}

impl<'a> Skimmed<'a> {
    /// `None` where parsing has to tell: a batch, names or a method with escapes, no JSON.
    pub(crate) fn of(json: &'a [u8]) -> Option<Self> {
        let json = json.trim_ascii();
        let (found, len) = Self::first(json)?;
        (len == json.len()).then_some(found)
    }

    /// The same of the message that a text begins with, and its length.
    #[inline]
    pub(super) fn first(text: &'a [u8]) -> Option<(Self, usize)> {
        Self::usual(text).or_else(|| Self::any(text))
    }

    /// The same of one as nearly all are written; `None` of others.
    #[inline]
    fn usual(text: &'a [u8]) -> Option<(Self, usize)> {
        let rest = text.strip_prefix(br#"{"jsonrpc":"2.0","id":"#)?;
        let (id, rest) = rest.split_at(rest.iter().position(|byte| !byte.is_ascii_digit())?);
        let (method, rest) = match rest.strip_prefix(br#","method":""#) {
            None => (None, rest.strip_prefix(br#","result":"#)?),
            Some(rest) => {
                let (method, rest) = rest.split_at(memchr2(b'"', b'\\', rest)?);
                (Some(method), rest.strip_prefix(br#"","params":"#)?)
            }
        };
        let len = end_of_value(text, text.len() - rest.len())?;
        if text.get(len) != Some(&b'}') {
            return None;
        }
        let found = Self {
            method,
            id: Some(id),
            has_outcome: method.is_none(),
        };
        Some((found, len + 1))
    }

    fn any(text: &'a [u8]) -> Option<(Self, usize)> {
        let mut found = Self::default();
        if text.first() != Some(&b'{') {
            return None;
        }
        let mut at = 1;
        loop {
            at = skip_space(text, at);
            let (name, end) = Name::at(text, at)?;
            at = skip_space(text, end);
            if text.get(at) != Some(&b':') {
                return None;
            }
            at = skip_space(text, at + 1);
            let end = end_of_value(text, at)?;
            // Of members with the same name the last one counts.
            match name {
                Name::Method => found.method = Some(plain(text.get(at..end)?)?),
                Name::Id => found.id = text.get(at..end),
                Name::Outcome => found.has_outcome = true,
                Name::Other => {}
            }
            at = skip_space(text, end);
            match text.get(at)? {
                b',' => at += 1,
                b'}' => return Some((found, at + 1)),
                _ => return None,
            }
        }
    }

    /// A response answers a request of the other side.
    pub(super) fn is_response(&self) -> bool {
        self.method.is_none() && self.has_outcome
    }

    /// The id of a request.
    pub(crate) fn request_id(&self) -> Option<Id> {
        self.id().filter(|_| self.method.is_some())
    }

    /// The id, if it is one that JSON-RPC has.
    pub(super) fn id(&self) -> Option<Id> {
        Id::from_json(self.id?)
    }
}

/// The name of a member.
#[derive(Clone, Copy)]
enum Name {
    Method,
    Id,
    Outcome,
    Other,
}

impl Name {
    /// The name at this place, and where it ends. `None` for one with escapes, whatever it comes to.
    #[inline]
    fn at(text: &[u8], at: usize) -> Option<(Self, usize)> {
        // Those that JSON-RPC has are a word long, or shorter.
        if let Some(word) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            match word {
                b"\"method\"" => return Some((Self::Method, at + 8)),
                b"\"result\"" => return Some((Self::Outcome, at + 8)),
                b"\"params\"" => return Some((Self::Other, at + 8)),
                [b'"', b'i', b'd', b'"', ..] => return Some((Self::Id, at + 4)),
                _ => {}
            }
        }
        let end = end_of_string(text, at)?;
        match plain(text.get(at..end)?)? {
            b"id" => Some((Self::Id, end)),
            b"error" => Some((Self::Outcome, end)),
            _ => Some((Self::Other, end)),
        }
    }
}

/// The text of a JSON string without escapes.
pub(super) fn plain(string: &[u8]) -> Option<&[u8]> {
    let text = string.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    memchr(b'\\', text).is_none().then_some(text)
}

/// The JSON string that the text begins with, and what follows it.
pub(super) fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    Some(text.split_at(end_of_string(text, 0)?))
}

/// The JSON string, number or word that the text begins with, and what follows it.
pub(super) fn scalar(text: &[u8]) -> Option<(&[u8], &[u8])> {
    match text.first()? {
        b'{' | b'[' => None,
        _ => value_of(text),
    }
}

/// The JSON value that the text begins with, and what follows it.
pub(super) fn value_of(text: &[u8]) -> Option<(&[u8], &[u8])> {
    Some(text.split_at(end_of_value(text, 0)?))
}

/// The first place from `at` on that is not white space.
#[inline]
fn skip_space(text: &[u8], mut at: usize) -> usize {
    // Nearly always this one.
    while text
        .get(at)
        .is_some_and(|byte| *byte <= b' ' && byte.is_ascii_whitespace())
    {
        at += 1;
    }
    at
}

/// Where the JSON value ends that begins at `at`.
#[inline]
fn end_of_value(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => end_of_string(text, at),
        b'{' | b'[' => end_of_nested(text, at),
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n');
            let rest = &text[at..];
            Some(at + rest.iter().position(is_end).unwrap_or(rest.len()))
        }
    }
}

/// Where the object or array ends that begins at `at`.
fn end_of_nested(text: &[u8], mut at: usize) -> Option<usize> {
    // What a tool says in text, which is most of what is said.
    const TEXT: &[u8] = br#"{"content":[{"type":"text","text":"#;

    let mut depth = 0_usize;
    if text[at..].starts_with(TEXT) {
        depth = 3;
        at += TEXT.len();
    }
    loop {
        match text.get(at)? {
            b'"' => {
                at = end_of_string(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Where the JSON string ends that begins at `at`.
#[inline]
fn end_of_string(text: &[u8], at: usize) -> Option<usize> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    // Nearly all are names and other short words, which take longer to search than to look at.
    let mut start = at + 1;
    for _ in 0..2 {
        let Some(word) = text.get(start..).and_then(|rest| rest.first_chunk()) else {
            break;
        };
        let word = u64::from_le_bytes(*word);
        let quotes = bytes_equal(word, b'"');
        let ends = quotes | bytes_equal(word, b'\\');
        if ends != 0 {
            let place = ends.trailing_zeros();
            if quotes.trailing_zeros() == place {
                return Some(start + place as usize / 8 + 1);
            }
            break;
        }
        start += size_of::<u64>();
    }
    end_of_long_string(text, start)
}

/// Marks, by its highest bit, the first of the bytes of a word that equals this one, and may mark
/// any that come after it.
#[inline]
fn bytes_equal(word: u64, byte: u8) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let differences = word ^ (ONES * u64::from(byte));
    differences.wrapping_sub(ONES) & !differences & (ONES << 7)
}

/// Where a string ends whose text goes on at `start`: at a quote that is not escaped itself.
#[inline(never)]
fn end_of_long_string(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at += memchr(b'"', text.get(at..)?)?;
        let before = text[start..at].iter().rev();
        let is_escaped = before.take_while(|byte| **byte == b'\\').count() % 2 == 1;
        at += 1;
        if !is_escaped {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::mcp::Message;

    #[test]
    fn c4_what_is_skimmed_is_what_parsing_tells() {
        for json in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"text":"\"}]{[\\"}}"#,
            r#" { "id" : "x" , "result" : [ { } , [ ] , "id" ] } "#,
            r#"{"result":null,"id":-1.5e3,"error":null}"#,
            r#"{"result":{"id":7,"method":"a"},"id":9007199254740993}"#,
            r#"{"id":1,"error":{"code":1},"id":2}"#,
            r#"{"error":null,"id":1}"#,
            r#"{"method":"a"}"#,
            r#"{"id":null,"method":"a"}"#,
            r#"{"id":"\u0031","result":{}}"#,
            r#"{"id":100000000000000000000,"result":{}}"#,
        ] {
            let skimmed = Skimmed::of(json.as_bytes()).expect(json);
            let message = Message::single(json.as_bytes()).expect(json);
            let method = message.method().map(str::as_bytes);
            assert_eq!(skimmed.method, method, "{json}");
            assert_eq!(skimmed.is_response(), message.is_response(), "{json}");
            assert!(skimmed.id() == message.parsed_id(), "{json}");
        }
    }

    /// Where a string ends, and a value, byte by byte.
    fn plain_end(text: &[u8], at: usize) -> Option<usize> {
        let (mut at, mut depth, mut is_in_string) = (at, 0, false);
        if !matches!(text.get(at)?, b'"' | b'{' | b'[') {
            return end_of_value(text, at);
        }
        loop {
            match (text.get(at)?, is_in_string) {
                (b'\\', true) => at += 1,
                (b'"', _) => is_in_string = !is_in_string,
                (b'{' | b'[', false) => depth += 1,
                (b'}' | b']', false) => depth -= 1,
                _ => {}
            }
            at += 1;
            if depth == 0 && !is_in_string {
                return Some(at);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 50 } else { 20_000 }))]

        #[test]
        fn c4_however_a_message_is_cut_and_escaped_its_values_end_where_they_end(
            first in select(&["", "\"", "{", "{\"content\":[{\"type\":\"text\",\"text\":\""][..]),
            pieces in prop::collection::vec(select(PIECES), 0..20),
        ) {
            let text = format!("{first}{}", pieces.concat());
            prop_assert_eq!(end_of_value(text.as_bytes(), 0), plain_end(text.as_bytes(), 0));
        }

        #[test]
        fn c4_a_message_as_nearly_all_are_written_is_read_like_any(
            first in select(&[
                "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\",\"params\":",
                "{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":",
                "{\"jsonrpc\":\"2.0\",\"id\":",
            ][..]),
            pieces in prop::collection::vec(select(PIECES), 0..12),
            is_whole in any::<bool>(),
        ) {
            let end = if is_whole { "}" } else { "" };
            let text = format!("{first}{{{}}}{end}", pieces.concat());
            let text = text.as_bytes();
            let told = |(found, len): (Skimmed<'_>, usize)| {
                let id = found.id.map(<[u8]>::to_vec);
                (found.method.map(<[u8]>::to_vec), id, found.has_outcome, len)
            };
            if let Some(usual) = Skimmed::usual(text) {
                prop_assert_eq!(Some(told(usual)), Skimmed::any(text).map(told));
            }
        }
    }

    const PIECES: &[&str] = &[
        "\"",
        "\\",
        "\\\\",
        "\\\"",
        "x",
        "name",
        "a long text that goes on and on",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        " ",
        "1",
        "\"id\":2",
        "\"method\":\"b\"",
        "\"a\":\"b\"",
        "\"text\"",
        "\u{e4}",
        "null",
        "\n",
    ];

    #[test]
    fn c4_what_is_not_certain_is_left_to_the_parser() {
        for json in [
            "",
            "{}",
            "1",
            "[]",
            r#"[{"id":1,"result":{}}]"#,
            r#"{"\u0069d":1,"result":{}}"#,
            r#"{"method":"tools\/call","id":1}"#,
            r#"{"method":7,"id":1}"#,
            r#"{"id":1,"result":{}"#,
            "{\u{1}\"id\":1,\"result\":{}}",
            r#"{"id":1,"result":{}}}"#,
            r#"{"id":1,"result":{}} {}"#,
            r#"{"id":1,"result":{"text":"}"#,
            r#"{"id":1,"result":{"text":"\"}"#,
            r#"{"id":1 "result":{}}"#,
            r#"{"id":1,,"result":{}}"#,
            r#"{"id":1,"result":{},}"#,
            r#"{"id" 1}"#,
            r#"{id:1}"#,
        ] {
            assert!(Skimmed::of(json.as_bytes()).is_none(), "{json}");
        }
    }
}
