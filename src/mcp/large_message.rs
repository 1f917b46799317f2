//! A message that is too large to be kept: what its beginning and its end tell (rules B4, F2, G5).

use std::borrow::Cow;

use super::{
    Id,
    skim::{plain, string, value_of},
};

/// The id of the one request that a message is of which only the beginning is known, and the end, if
/// there is any: a client may put it, and `method`, before `params` or after them.
pub(crate) fn id_of_large_request(beginning: &[u8], end: &[u8]) -> Option<Id> {
    let (mut method, mut id) = (None, None);
    let mut rest = beginning.trim_ascii_start().strip_prefix(b"{")?;
    while let Some((name, value, after)) = member(rest) {
        match plain(name)? {
            b"method" => method = Some(value),
            b"id" => id = Some(value),
            _ => {}
        }
        rest = after;
    }
    for (name, value) in last_members(end) {
        match name {
            b"method" => method = method.or(Some(value)),
            b"id" => id = id.or(Some(value)),
            _ => {}
        }
    }
    method?;
    Id::from_json(id?)
}

/// Whether a message of which only the beginning is known certainly is a request or a notification.
pub(crate) fn is_large_request(beginning: &[u8]) -> bool {
    method_of_large(beginning).is_some()
}

/// Whether one certainly is an `initialize`.
pub(crate) fn is_large_initialize(beginning: &[u8]) -> bool {
    method_of_large(beginning) == Some(b"\"initialize\"")
}

/// Whether one of which the end is known is, by that.
pub(crate) fn ends_as_initialize(end: &[u8]) -> bool {
    let method = last_members(end).find(|(name, _)| *name == b"method");
    method.is_some_and(|(_, value)| value == b"\"initialize\"")
}

/// What follows the name `method`, as it is written, if that comes before an outcome.
fn method_of_large(beginning: &[u8]) -> Option<&[u8]> {
    let mut rest = beginning.trim_ascii_start().strip_prefix(b"{")?;
    loop {
        let (name, after) = string(rest.trim_ascii_start())?;
        let value = after.trim_ascii_start().strip_prefix(b":")?;
        let value = value.trim_ascii_start();
        // As JSON has it: however the name is escaped (rule C4).
        let name = match plain(name) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(serde_json::from_slice::<String>(name).ok()?.into_bytes()),
        };
        match &*name {
            b"method" => return Some(string(value).map_or(value, |(method, _)| method)),
            b"result" | b"error" => return None,
            _ => {}
        }
        let (_, after) = value_of(value)?;
        rest = after.trim_ascii_start().strip_prefix(b",")?;
    }
}

/// A member that is followed by another one: its name, its value, and what comes then.
fn member(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, after) = string(text.trim_ascii_start())?;
    let value = after.trim_ascii_start().strip_prefix(b":")?;
    let (value, after) = value_of(value.trim_ascii_start())?;
    Some((name, value, after.trim_ascii_start().strip_prefix(b",")?))
}

/// The members that the object ends with which a text ends with, last first, as far back as names and
/// values are strings without escapes, numbers or words. Its first member is none of them.
fn last_members(end: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = end.trim_ascii_end().strip_suffix(b"}");
    std::iter::from_fn(move || {
        let (before, value) = last_scalar(rest?.trim_ascii_end())?;
        let before = before.trim_ascii_end().strip_suffix(b":")?;
        let (before, name) = last_scalar(before.trim_ascii_end())?;
        rest = Some(before.trim_ascii_end().strip_suffix(b",")?);
        Some((plain(name)?, value))
    })
}

/// What comes before the plain string, number or word that the text ends with, and that.
fn last_scalar(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = match text.strip_suffix(b"\"") {
        Some(text) => memchr::memrchr2(b'"', b'\\', text)?,
        None => {
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            let length = text.iter().rev().take_while(|byte| is_part(byte)).count();
            text.len() - length
        }
    };
    let (before, scalar) = text.split_at(start);
    // A quotation mark may be one within a longer string.
    let is_whole = scalar.first()? != &b'\\' && !before.ends_with(b"\\");
    is_whole.then_some((before, scalar))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g5_the_ends_of_a_large_request_tell_its_id() {
        let id = |beginning: &str, end: &str| {
            let id = id_of_large_request(beginning.as_bytes(), end.as_bytes());
            id.map(|id| id.to_string())
        };
        let first = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"text":"xx"#;
        assert_eq!(id(first, ""), Some("7".to_owned()));
        let last = r#"{"method":"tools/call","params":{"id":1,"text":"xx"#;
        for end in [
            r#"xx","id":2},"jsonrpc":"2.0","id":7}"#,
            r#"xx","id":2}, "jsonrpc":"2.0", "id" : 7 } "#,
        ] {
            assert_eq!(id(last, end), Some("7".to_owned()), "{end}");
        }
        for end in [
            r#"xx"},"method":"tools/call","id":7,"jsonrpc":"2.0"}"#,
            r#"xx"} , "id" : 7 , "method" : "tools/call" } "#,
        ] {
            let first = r#"{"params":{"id":1,"method":"a","text":"xx"#;
            assert_eq!(id(first, end), Some("7".to_owned()), "{end}");
        }
        for end in [
            r#"xx"},"id":7}"#,
            r#"xx","method":"tools/call"},"id":7}"#,
            r#"xx\",\"method\":\"a\""},"id":7}"#,
        ] {
            assert_eq!(id(r#"{"params":{"text":"xx"#, end), None, "{end}");
        }
        for end in [
            "",
            r#"xx","id":2}}"#,
            r#""id":7"#,
            r#"{"id":7}}"#,
            r#"x\"id\":7}"#,
        ] {
            assert_eq!(id(last, end), None, "{end}");
        }
        // A response, and a batch.
        assert_eq!(id(r#"{"jsonrpc":"2.0","id":7,"result":{"x":"#, ""), None);
        assert_eq!(id(r#"[{"jsonrpc":"2.0","id":7,"method":"x","#, ""), None);
    }

    #[test]
    fn c4_the_name_of_the_method_is_seen_in_part_of_a_message_however_it_is_escaped() {
        assert!(is_large_request(br#"{"id":1,"method":"a","params":{"da"#));
        assert!(is_large_request(br#"{"id":1,"m\u0065tho\u0064" :"a"#));
        assert!(is_large_request(
            br#"{"\u006D\u0065\u0074\u0068\u006f\u0064":"a"#
        ));
        assert!(!is_large_request(
            br#"{"id":1,"result":{"methods":"\u0065 a"#
        ));
        assert!(!is_large_request(br#"{"id":1,"m\u0065tho"#));
        assert!(!is_large_request(br#"{"id":1,"m\u00"#));
        // What is named in a result, or after one, is none.
        assert!(!is_large_request(
            br#"{"result":{"method":"a"},"id":1,"x":"#
        ));
        assert!(!is_large_request(br#"{"id":1,"result":{"method":"a","da"#));
        assert!(!is_large_request(br#"{"result":"method","#));
        assert!(!is_large_request(br#"{"id":1,"result":1,"method":"a","#));
        assert!(!is_large_request(br#"{"id":1,"error":{},"method":"a","#));
        assert!(!is_large_request(br#"[{"id":1,"method":"a"},{"#));
        assert!(is_large_initialize(
            br#"{"id":1,"method" : "initialize","params":{"da"#
        ));
        assert!(!is_large_initialize(
            br#"{"id":1,"method":"initialized","params":{"da"#
        ));
    }
}
