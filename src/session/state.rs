//! What a session holds on the server and a new one does not: rule H1.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    body::BufferedBody,
    mcp::{Messages, leading_method},
};

/// The longest request that is looked at for state. A subscription to a longer URI is not kept.
const MAX_MESSAGE: usize = 8 * 1024;

/// What has to be sent again in a new session.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) log_level: Option<String>,
    pub(crate) subscriptions: BTreeSet<String>,
    /// Subscriptions that were not kept, since there were too many.
    pub(crate) not_kept: usize,
}

/// A change of state that a request asks for.
pub(crate) enum StateChange {
    LogLevel(String),
    Subscribe(String),
    Unsubscribe(String),
}

impl StateChange {
    /// The changes that a request body asks for, in order. Nearly every body holds none, which is
    /// found out without parsing it.
    pub(crate) fn in_body(body: &BufferedBody) -> Vec<Self> {
        if body.len() > MAX_MESSAGE {
            return Vec::new();
        }
        let body = body.data();
        let may_hold_change = match leading_method(&body) {
            Some(method) => METHODS.contains(&method),
            None => has_name_of_method(&body),
        };
        if !may_hold_change {
            return Vec::new();
        }
        let Some(messages) = Messages::parse(&body) else {
            return Vec::new();
        };
        messages
            .as_slice()
            .iter()
            .filter(|message| message.is_request())
            .filter_map(|message| {
                let params: Value = serde_json::from_str(message.params()?.get()).ok()?;
                let text = |member: &str| params[member].as_str().map(str::to_owned);
                match message.method()? {
                    "logging/setLevel" => text("level").map(Self::LogLevel),
                    "resources/subscribe" => text("uri").map(Self::Subscribe),
                    "resources/unsubscribe" => text("uri").map(Self::Unsubscribe),
                    _ => None,
                }
            })
            .collect()
    }
}

const METHODS: [&[u8]; 3] = [
    b"logging/setLevel",
    b"resources/subscribe",
    b"resources/unsubscribe",
];

/// Whether the text of one of the methods, from its slash on, is in the body. The slash is rare.
fn has_name_of_method(body: &[u8]) -> bool {
    memchr::memchr_iter(b'/', body).any(|slash| {
        let rest = &body[slash + 1..];
        ["setLevel", "subscribe", "unsubscribe"]
            .iter()
            .any(|name| rest.starts_with(name.as_bytes()))
    })
}

impl State {
    /// Notes a change that the server accepted. At most `limit` subscriptions are kept (rule K8).
    pub(crate) fn apply(&mut self, change: StateChange, limit: usize) {
        match change {
            StateChange::LogLevel(level) => self.log_level = Some(level),
            StateChange::Subscribe(uri) => {
                if self.subscriptions.len() < limit || self.subscriptions.contains(&uri) {
                    self.subscriptions.insert(uri);
                } else {
                    self.not_kept += 1;
                }
            }
            StateChange::Unsubscribe(uri) => {
                self.subscriptions.remove(&uri);
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.subscriptions.iter().map(String::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.log_level.is_none() && self.subscriptions.is_empty() && self.not_kept == 0
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn state(bodies: &[&str]) -> State {
        let mut state = State::default();
        for change in bodies
            .iter()
            .flat_map(|body| StateChange::in_body(&Bytes::copy_from_slice(body.as_bytes()).into()))
        {
            state.apply(change, 2);
        }
        state
    }

    #[test]
    fn h1_the_last_log_level_and_the_open_subscriptions_are_kept() {
        let state = state(&[
            r#"{"id":1,"method":"logging/setLevel","params":{"level":"info"}}"#,
            r#"{"id":2,"method":"resources/subscribe","params":{"uri":"a"}}"#,
            r#"{"method":"logging\/setLevel","params":{"level":"error"},"id":3}"#,
            r#"[{"id":4,"method":"resources/subscribe","params":{"uri":"b"}},
                {"id":5,"method":"resources/unsubscribe","params":{"uri":"a"}}]"#,
            r#"{"id":6,"method":"tools/call","params":{"name":"resources/subscribe","uri":"c"}}"#,
            r#"{"id":7,"method":"resources/subscribe","params":{"uri":8}}"#,
        ]);
        assert_eq!(state.log_level.as_deref(), Some("error"));
        assert_eq!(Vec::from_iter(state.subscriptions), ["b"]);
    }

    #[test]
    fn k8_subscriptions_over_the_limit_are_counted_not_kept() {
        let subscribe = |uri| {
            format!(r#"{{"id":1,"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#)
        };
        let state = state(&[
            &subscribe("a"),
            &subscribe("b"),
            &subscribe("a"),
            &subscribe("c"),
        ]);
        assert_eq!((state.subscriptions.len(), state.not_kept), (2, 1));
    }
}
