//! JSON-RPC messages, looked at without copying them.

use std::{borrow::Cow, fmt, sync::Arc};

use memchr::{memchr_iter, memchr2, memchr3};
use serde_core::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};

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
    /// Looks at the messages of a body one by one, be it a single one or a batch. Gives `None`, and
    /// may have shown some of them, where the body is no JSON-RPC.
    ///
    /// A batch of tiny messages takes up many times its size as [`Messages`].
    pub(crate) fn each(body: &'a [u8], mut each: impl FnMut(Self)) -> Option<()> {
        let text = std::str::from_utf8(body).ok()?.trim_ascii();
        if !text.starts_with('[') {
            each(serde_json::from_str(text).ok()?);
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

    /// The id as it stands in the message; `None` for a notification.
    pub fn id(&self) -> Option<&'a RawValue> {
        self.id
    }

    /// The parameters as they stand in the message. [`RawValue::get`] gives their JSON text.
    pub fn params(&self) -> Option<&'a RawValue> {
        self.params
    }

    pub(crate) fn result(&self) -> Option<&'a RawValue> {
        self.result
    }

    pub(crate) fn error(&self) -> Option<&'a RawValue> {
        self.error
    }

    /// A request expects an answer with its id.
    pub(crate) fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
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

impl<'de: 'a, 'a> Deserialize<'de> for Message<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

/// Takes the members that JSON-RPC has as they stand and skips the rest, so that nothing is
/// allocated.
struct MessageVisitor;

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
        while let Some(message) = messages.next_element()? {
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

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "method" => Name::Method,
                    "id" => Name::Id,
                    "params" => Name::Params,
                    "result" => Name::Result,
                    "error" => Name::Error,
                    _ => Name::Other,
                })
            }
        }

        deserializer.deserialize_identifier(NameVisitor)
    }
}

/// A JSON string, borrowed unless it has escapes.
fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    match plain_string(value) {
        Some(string) => Some(string.into()),
        None => serde_json::from_str::<String>(value.get())
            .ok()
            .map(Cow::from),
    }
}

/// A JSON string that has no escapes.
fn plain_string(value: &RawValue) -> Option<&str> {
    let string = value.get().strip_prefix('"')?.strip_suffix('"')?;
    (!string.contains('\\')).then_some(string)
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The id of a JSON-RPC request, equal by value whatever its spelling.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Id(Value);

impl Id {
    fn parse(raw: &RawValue) -> Option<Self> {
        if let Some(string) = plain_string(raw) {
            return Some(string.to_owned().into());
        }
        serde_json::from_str(raw.get()).ok().map(Self)
    }

    pub(crate) fn as_json(&self) -> &Value {
        &self.0
    }
}

impl From<String> for Id {
    fn from(id: String) -> Self {
        Self(Value::String(id))
    }
}

/// The messages of one body: a single one, or a batch (which revision 2025-03-26 allows).
#[derive(Debug)]
pub(crate) enum Messages<'a> {
    One(Message<'a>),
    Batch(Vec<Message<'a>>),
}

impl<'a> Messages<'a> {
    /// `None` where the body is no JSON-RPC.
    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?.trim_ascii();
        if text.starts_with('[') {
            return serde_json::from_str(text).ok().map(Self::Batch);
        }
        serde_json::from_str(text).ok().map(Self::One)
    }

    pub(crate) fn as_slice(&self) -> &[Message<'a>] {
        match self {
            Self::One(message) => std::slice::from_ref(message),
            Self::Batch(messages) => messages,
        }
    }

    /// The message, if it is the only one.
    pub(crate) fn single(&self) -> Option<&Message<'a>> {
        match self {
            Self::One(message) => Some(message),
            Self::Batch(_) => None,
        }
    }

    /// One request with the method `initialize` (rule B2).
    pub(crate) fn initialize(&self) -> Option<&Message<'a>> {
        self.single()
            .filter(|message| message.is_request() && message.method() == Some("initialize"))
    }

    pub(crate) fn summary(&self) -> Summary {
        let messages = self.as_slice();
        Summary {
            is_initialize: self.initialize().is_some(),
            is_initialized: self.single().is_some_and(|message| {
                !message.is_request() && message.method() == Some("notifications/initialized")
            }),
            has_response: messages.iter().any(Message::is_response),
            requests: messages
                .iter()
                .filter(|message| message.is_request())
                .filter_map(Message::parsed_id)
                .collect(),
        }
    }
}

/// What the layer goes by in the body of a request.
#[derive(Clone, Default)]
pub(crate) struct Summary {
    /// It is an `initialize` (rule D7).
    pub(crate) is_initialize: bool,
    /// It is the notification that ends the handshake (rule F3).
    pub(crate) is_initialized: bool,
    /// Any of its messages is a response (rule F2).
    pub(crate) has_response: bool,
    /// The ids of the requests among them, which wait for an answer each.
    pub(crate) requests: Arc<[Id]>,
}

/// The method of the message in a body, where it takes no parsing to see it: near the beginning,
/// as nearly every client writes it, with nothing before it that could have members of its own.
pub(crate) fn leading_method(body: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"\"method\"";
    let head = body[..body.len().min(128)].strip_prefix(b"{")?;
    let at = memchr_iter(b'm', head).find_map(|m| {
        let at = m.checked_sub(1)?;
        head[at..].starts_with(NAME).then_some(at)
    })?;
    if memchr3(b'{', b'[', b'\\', &head[..at]).is_some() {
        return None;
    }
    let value = head[at + NAME.len()..].trim_ascii_start();
    let value = value.strip_prefix(b":")?.trim_ascii_start();
    let value = value.strip_prefix(b"\"")?;
    let end = memchr2(b'"', b'\\', value)?;
    (value[end] == b'"').then_some(&value[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_equal_by_value_not_by_spelling() {
        let escaped = Messages::parse(br#"{"result":{},"id":"\u0061"}"#).unwrap();
        assert!(escaped.single().unwrap().answers(&Id::from("a".to_owned())));
        let number = Messages::parse(br#"{"result":{},"id":1}"#).unwrap();
        assert!(!number.single().unwrap().answers(&Id::from("1".to_owned())));
    }

    #[test]
    fn b2_only_a_single_request_initializes() {
        let is = |body: &str| {
            Messages::parse(body.as_bytes()).is_some_and(|messages| messages.initialize().is_some())
        };
        assert!(is(r#" {"id":0,"params":{},"method":"initialize"} "#));
        assert!(is(r#"{"id":0,"method":"initi\u0061lize"}"#));
        assert!(!is(r#"{"method":"initialize"}"#));
        assert!(!is(r#"{"id":0,"method":"notifications/initialized"}"#));
        assert!(!is(r#"[{"id":0,"method":"initialize"}]"#));
        assert!(!is(
            r#"{"id":0,"method":"tools/call","params":{"name":"initialize"}}"#
        ));
        assert!(!is(r#"{"id":0,"method":"initialize""#));
        assert!(!is("initialize"));
    }

    #[test]
    fn f2_a_batch_with_one_response_counts_as_one() {
        let has = |body: &str| {
            let messages = Messages::parse(body.as_bytes()).unwrap();
            messages.summary().has_response
        };
        assert!(has(r#"{"id":7,"result":null}"#));
        assert!(has(
            r#"[{"id":7,"method":"ping"},{"id":1,"error":{"code":1}}]"#
        ));
        assert!(!has(r#"{"id":7,"method":"ping"}"#));
        assert!(!has(r#"{}"#));
    }

    #[test]
    fn a_method_is_seen_without_parsing_only_where_it_is_certain() {
        for (body, method) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"a/b","params":{}}"#,
                Some("a/b"),
            ),
            (r#"{ "method" : "a" }"#, Some("a")),
            (r#"{"params":{"method":"a"},"method":"b"}"#, None),
            (r#"{"id":"method","method":"b"}"#, None),
            (r#"{"id":"\"method\":\"a\"","method":"b"}"#, None),
            (r#"{"method":"a\/b"}"#, None),
            (r#"{"method":1}"#, None),
            (r#"[{"method":"a"}]"#, None),
            (r#"{"method":"a"#, None),
            ("", None),
        ] {
            let seen = leading_method(body.as_bytes());
            assert_eq!(seen, method.map(str::as_bytes), "{body}");
        }
    }

    #[test]
    fn l1_debug_shows_the_method_alone() {
        let text = r#"{"id":"secret-id","method":"ping","params":{"key":"secret"}}"#;
        let shown = format!("{:?}", Messages::parse(text.as_bytes()).unwrap());
        assert!(
            shown.contains("ping") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
