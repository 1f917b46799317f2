//! JSON-RPC messages, looked at without copying them.

use std::{borrow::Cow, fmt};

use serde_core::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

use super::{Id, id::is_id, lenient_text::lenient_text, members::string};

/// A borrowed look at one JSON-RPC message of the caller.
///
/// Given to [`replay_when`](crate::SessionRecoveryLayer::replay_when) and found through
/// [`HttpAnswer::message`](crate::HttpAnswer::message). Its `Debug` shows the method alone, since the
/// rest is content.
pub struct Message<'a> {
    method: Option<Cow<'a, str>>,
    id: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// The message of a body that holds a single one; `None` where it holds a batch, or no
    /// JSON-RPC.
    pub(crate) fn single(body: &'a [u8]) -> Option<Self> {
        parse(without_mark(std::str::from_utf8(body).ok()?))
    }

    /// Looks at the messages of a body one by one, be it a single one or a batch. Gives `None`, and
    /// may have shown some of them, where the body is no JSON-RPC.
    ///
    /// A batch of tiny messages, collected, would take up many times its size. What is no UTF-8 is
    /// read as lenient servers and clients read it, with a replacement character in its place.
    pub(crate) fn each(body: &[u8], mut each: impl FnMut(Message<'_>)) -> Option<()> {
        let body = lenient_text(body);
        let text = without_mark(&body);
        if !text.starts_with('[') {
            each(parse(text)?);
            return Some(());
        }
        let mut batch = serde_json::Deserializer::from_str(text);
        batch.deserialize_seq(BatchVisitor(each)).ok()?;
        batch.end().ok()
    }

    /// The method, such as `tools/call`; `None` for a response.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref()
    }

    /// The JSON of the id as it stands in the message; `None` for a notification.
    pub fn id(&self) -> Option<&'a str> {
        self.id.map(RawValue::get)
    }

    /// The JSON of the parameters as it stands in the message.
    pub fn params(&self) -> Option<&'a str> {
        self.params.map(RawValue::get)
    }

    pub(crate) fn result(&self) -> Option<&'a RawValue> {
        self.result
    }

    pub(crate) fn error(&self) -> Option<&'a RawValue> {
        // Some servers write both members, and `null` for the one that there is none of.
        self.error.filter(|error| error.get() != "null")
    }

    /// A request expects an answer with its id.
    pub(crate) fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some_and(|id| is_id(id.get()))
    }

    /// The id of a request with the method `initialize` (rule B2).
    pub(crate) fn initialize_id(&self) -> Option<Id> {
        match self.method() {
            Some("initialize") => self.parsed_id(),
            _ => None,
        }
    }

    /// A response answers a request of the other side.
    pub(crate) fn is_response(&self) -> bool {
        self.method.is_none() && (self.result.is_some() || self.error.is_some())
    }

    pub(crate) fn parsed_id(&self) -> Option<Id> {
        Id::parse(self.id?)
    }

    /// Whether this is the answer to the request with this id.
    pub(crate) fn answers(&self, id: &Id) -> bool {
        self.is_response() && self.parsed_id().as_ref() == Some(id)
    }
}

/// Whether a body is a batch, if it is JSON-RPC at all.
pub(crate) fn is_batch(body: &[u8]) -> bool {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    body.trim_ascii_start().starts_with(b"[")
}

fn parse(text: &str) -> Option<Message<'_>> {
    let mut json = serde_json::Deserializer::from_str(text);
    let message = MessageVisitor.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(message)
}

/// The JSON of a body. A byte order mark is no part of it: clients skip that, too.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text).trim_ascii()
}

/// Takes the members that JSON-RPC has as they stand and skips the rest, so that nothing is
/// allocated. Of members with the same name the last one counts, as in all JSON parsers.
struct MessageVisitor;

// `Message` itself is public, and what reads it is not.
impl<'de> DeserializeSeed<'de> for MessageVisitor {
    type Value = Message<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<Message<'de>, M::Error> {
        let mut message = Message {
            method: None,
            id: None,
            params: None,
            result: None,
            error: None,
        };
        while let Some(name) = members.next_key()? {
            match name {
                Name::Method => message.method = string(members.next_value()?),
                Name::Id => message.id = Some(members.next_value()?),
                Name::Params => message.params = Some(members.next_value()?),
                Name::Result => message.result = Some(members.next_value()?),
                Name::Error => message.error = Some(members.next_value()?),
                Name::Other => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(message)
    }
}

struct BatchVisitor<F>(F);

impl<'de, F: FnMut(Message<'de>)> Visitor<'de> for BatchVisitor<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch of JSON-RPC messages")
    }

    fn visit_seq<S: SeqAccess<'de>>(mut self, mut messages: S) -> Result<(), S::Error> {
        while let Some(message) = messages.next_element_seed(MessageVisitor)? {
            (self.0)(message);
        }
        Ok(())
    }
}

/// The name of a message's member.
enum Name {
    Method,
    Id,
    Params,
    Result,
    Error,
    Other,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_bytes<E>(self, name: &[u8]) -> Result<Name, E> {
                Ok(match name {
                    b"method" => Name::Method,
                    b"id" => Name::Id,
                    b"params" => Name::Params,
                    b"result" => Name::Result,
                    b"error" => Name::Error,
                    _ => Name::Other,
                })
            }
        }

        // As bytes, since JSON has names that are no Unicode.
        deserializer.deserialize_bytes(NameVisitor)
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(body: &str) -> Message<'_> {
        Message::single(body.as_bytes()).unwrap()
    }

    #[test]
    fn c4_names_and_methods_count_by_value_however_they_are_escaped() {
        let message = single(
            r#"{"m\u0065thod":"resources\u002fsubscribe","\u0069d":"\u0061","p\u0061rams":{}}"#,
        );
        assert_eq!(message.method(), Some("resources/subscribe"));
        assert!(message.is_request() && message.params().is_some());
        assert!(message.parsed_id() == Some(Id::from("a".to_owned())));
        let answer = single(r#"{"r\u0065sult":{},"\u0069d":"\u0061"}"#);
        assert!(answer.answers(&Id::from("a".to_owned())));
        assert!(!single(r#"{"result":{},"id":1}"#).answers(&Id::from("1".to_owned())));
    }

    #[test]
    fn c4_of_members_with_one_name_the_last_counts() {
        let message = single(r#"{"id":1,"method":"a","id":"x","m\u0065thod":"b"}"#);
        assert_eq!(message.method(), Some("b"));
        assert!(message.parsed_id() == Some(Id::from("x".to_owned())));
        assert!(!single(r#"{"id":1,"method":"a","id":null}"#).is_request());
        assert!(!single(r#"{"id":1,"method":"a","method":7}"#).is_request());
    }

    #[test]
    fn c4_names_that_are_no_unicode_are_skipped() {
        assert!(single(r#"{"\ud800":1,"id":1,"method":"a"}"#).is_request());
    }

    #[test]
    fn b3_a_byte_order_mark_is_no_part_of_the_json() {
        assert!(single("\u{feff} {\"id\":1,\"result\":{}}").is_response());
        assert!(is_batch("\u{feff} []".as_bytes()) && !is_batch("\u{feff}{}".as_bytes()));
    }

    #[test]
    fn b2_only_a_single_request_initializes() {
        let is = |body: &str| {
            Message::single(body.as_bytes())
                .is_some_and(|message| message.initialize_id().is_some())
        };
        assert!(is(r#" {"id":0,"params":{},"method":"initialize"} "#));
        assert!(is(r#"{"id":0,"method":"initi\u0061lize"}"#));
        assert!(!is(r#"{"method":"initialize"}"#));
        assert!(!is(r#"{"id":null,"method":"initialize"}"#));
        assert!(!is(r#"{"id":0,"method":"notifications/initialized"}"#));
        assert!(!is(r#"[{"id":0,"method":"initialize"}]"#));
        assert!(!is(
            r#"{"id":0,"method":"tools/call","params":{"name":"initialize"}}"#
        ));
        assert!(!is(r#"{"id":0,"method":"initialize""#));
        assert!(!is("initialize"));
    }

    #[test]
    fn e6_an_error_that_is_null_is_none() {
        let answer = single(r#"{"id":1,"result":{},"error":null}"#);
        assert!(answer.is_response() && answer.error().is_none());
    }

    #[test]
    fn l1_debug_shows_the_method_alone() {
        let text = r#"{"id":"secret-id","method":"ping","params":{"key":"secret"}}"#;
        let shown = format!("{:?}", single(text));
        assert!(
            shown.contains("ping") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
