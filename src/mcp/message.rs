//! JSON-RPC messages, looked at without copying them.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde_json::{Value, value::RawValue};

/// A borrowed look at one JSON-RPC message of the caller.
///
/// Given to [`replay_when`](crate::SessionRecoveryLayer::replay_when) and found through
/// [`Answer::message`](crate::Answer::message). Its `Debug` shows the method alone, since the
/// rest is content.
pub struct Message<'a> {
    method: Option<Cow<'a, str>>,
    id: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut message = Self {
            method: None,
            id: None,
            params: None,
            result: None,
            error: None,
        };
        // Nobody escapes the names that JSON-RPC has, so they are borrowed, unless somebody does.
        if let Ok(members) = serde_json::from_str::<BTreeMap<&str, &'a RawValue>>(text) {
            members
                .into_iter()
                .for_each(|(name, value)| message.set(name, value));
        } else {
            let members: BTreeMap<String, &'a RawValue> = serde_json::from_str(text).ok()?;
            members
                .iter()
                .for_each(|(name, value)| message.set(name, value));
        }
        Some(message)
    }

    fn set(&mut self, name: &str, value: &'a RawValue) {
        match name {
            "method" => self.method = string(value.get()),
            "id" => self.id = Some(value),
            "params" => self.params = Some(value),
            "result" => self.result = Some(value),
            "error" => self.error = Some(value),
            _ => {}
        }
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

/// A JSON string, borrowed unless it has escapes.
fn string(text: &str) -> Option<Cow<'_, str>> {
    match serde_json::from_str::<&str>(text) {
        Ok(string) => Some(string.into()),
        Err(_) => serde_json::from_str::<String>(text).ok().map(Cow::from),
    }
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
            let items: Vec<&'a RawValue> = serde_json::from_str(text).ok()?;
            let items: Option<Vec<_>> = items
                .into_iter()
                .map(|item| Message::parse(item.get()))
                .collect();
            return items.map(Self::Batch);
        }
        Message::parse(text).map(Self::One)
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

    /// The notification that ends the handshake (rule F3).
    pub(crate) fn is_initialized(&self) -> bool {
        self.single().is_some_and(|message| {
            !message.is_request() && message.method() == Some("notifications/initialized")
        })
    }

    /// Whether any of them is a response (rule F2).
    pub(crate) fn has_response(&self) -> bool {
        self.as_slice().iter().any(Message::is_response)
    }

    /// The ids of the requests among them, which wait for an answer each.
    pub(crate) fn request_ids(&self) -> Vec<Id> {
        self.as_slice()
            .iter()
            .filter(|message| message.is_request())
            .filter_map(Message::parsed_id)
            .collect()
    }
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
        let has = |body: &str| Messages::parse(body.as_bytes()).unwrap().has_response();
        assert!(has(r#"{"id":7,"result":null}"#));
        assert!(has(
            r#"[{"id":7,"method":"ping"},{"id":1,"error":{"code":1}}]"#
        ));
        assert!(!has(r#"{"id":7,"method":"ping"}"#));
        assert!(!has(r#"{}"#));
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
