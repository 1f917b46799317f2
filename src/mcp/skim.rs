//! The members of a JSON-RPC message, found without reading what is in them.

use memchr::memchr2;

use super::Id;

/// What the members of a single message say that the layer goes by on every way.
///
/// To parse a message takes ten times as long as to find where its strings end. What its members hold
/// is skipped, and not checked: a message that is broken inside counts, as one does that is too
/// large to be read. Only what is certain is told.
#[derive(Default)]
pub(super) struct Skimmed<'a> {
    /// The text of it, which has no escapes.
    pub(super) method: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    has_outcome: bool,
}

impl<'a> Skimmed<'a> {
    /// `None` where parsing has to tell: a batch, names or a method with escapes, no JSON.
    pub(super) fn of(json: &'a [u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut rest = json.trim_ascii().strip_prefix(b"{")?;
        loop {
            let (name, after) = string(rest.trim_ascii_start())?;
            let value = after.trim_ascii_start().strip_prefix(b":")?;
            let (value, after) = value_of(value.trim_ascii_start())?;
            // Of members with the same name the last one counts.
            match plain(name)? {
                b"method" => found.method = Some(plain(value)?),
                b"id" => found.id = Some(value),
                b"result" | b"error" => found.has_outcome = true,
                _ => {}
            }
            match after.trim_ascii_start().split_first()? {
                (b',', after) => rest = after,
                (b'}', []) => return Some(found),
                _ => return None,
            }
        }
    }

    /// A response answers a request of the other side.
    pub(super) fn is_response(&self) -> bool {
        self.method.is_none() && self.has_outcome
    }

    /// The id, if it is one that JSON-RPC has.
    pub(super) fn id(&self) -> Option<Id> {
        Id::from_json(self.id?)
    }
}

/// The text of a JSON string without escapes.
fn plain(string: &[u8]) -> Option<&[u8]> {
    let text = string.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    (!text.contains(&b'\\')).then_some(text)
}

/// The JSON string that the text begins with, and what follows it.
pub(super) fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    text.strip_prefix(b"\"")?;
    let mut at = 1;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        match text[at] {
            b'"' => return Some(text.split_at(at + 1)),
            _ => at += 2,
        }
    }
}

/// The JSON string, number or word that the text begins with, and what follows it.
pub(super) fn scalar(text: &[u8]) -> Option<(&[u8], &[u8])> {
    match text.first()? {
        b'"' => string(text),
        b'{' | b'[' => None,
        _ => {
            let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n');
            let end = text.iter().position(is_end).unwrap_or(text.len());
            Some(text.split_at(end))
        }
    }
}

/// The JSON value that the text begins with, and what follows it.
fn value_of(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if !matches!(text.first()?, b'{' | b'[') {
        return scalar(text);
    }
    let (mut at, mut depth) = (0, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => {
                let (string, _) = string(&text[at..])?;
                at += string.len();
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(text.split_at(at));
        }
    }
}

#[cfg(test)]
mod tests {
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
