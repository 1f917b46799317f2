//! What a session holds on the server and a new one does not: rule H1.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use serde_json::{Value, json};

use crate::mcp::{Message, members, string};

/// What has to be sent again in a new session.
///
/// Its subscriptions are bounded in number (rule K8) and in bytes. Of those beyond, only how many
/// there are is known, and no more than [`MAX_NOT_KEPT`] are counted.
#[derive(Clone, Default)]
pub(crate) struct State {
    log_level: Option<String>,
    subscriptions: BTreeSet<String>,
    /// What the subscriptions take up, in bytes.
    held: usize,
    /// Digests of the subscriptions that were not kept.
    not_kept: HashSet<u64>,
}

/// A change of state that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StateChange {
    LogLevel(String),
    Subscribe(String),
    Unsubscribe(String),
}

/// The largest subscriptions of a session, all together, in bytes.
const MAX_HELD: usize = 256 * 1024;
/// What a subscription takes up besides its URI, in bytes.
const ENTRY: usize = 64;
/// How many subscriptions that were not kept are counted.
const MAX_NOT_KEPT: usize = 1024;
/// The longest log level that is kept, in bytes. Those of the specification have nine letters.
const MAX_LEVEL: usize = 64;

impl State {
    /// Notes a change that the server accepted. At most `limit` subscriptions are kept (rule K8).
    pub(crate) fn apply(&mut self, change: StateChange, limit: usize) {
        match change {
            StateChange::LogLevel(level) if level.len() <= MAX_LEVEL => {
                self.log_level = Some(level);
            }
            StateChange::LogLevel(_) => {}
            StateChange::Subscribe(uri) => {
                if self.subscriptions.contains(&uri) {
                    return;
                }
                let (size, digest) = (uri.len() + ENTRY, digest(&uri));
                if self.subscriptions.len() < limit && size <= MAX_HELD - self.held {
                    self.held += size;
                    self.subscriptions.insert(uri);
                    self.not_kept.remove(&digest);
                } else if self.not_kept.len() < MAX_NOT_KEPT {
                    self.not_kept.insert(digest);
                }
            }
            StateChange::Unsubscribe(uri) => {
                if self.subscriptions.remove(&uri) {
                    self.held -= uri.len() + ENTRY;
                } else {
                    self.not_kept.remove(&digest(&uri));
                }
            }
        }
    }

    /// The log level, the subscriptions, and how many more there are.
    #[cfg(feature = "store")]
    pub(super) fn parts(&self) -> (Option<&String>, &BTreeSet<String>, usize) {
        (
            self.log_level.as_ref(),
            &self.subscriptions,
            self.not_kept.len(),
        )
    }

    /// A state with so many subscriptions that are not known.
    #[cfg(feature = "store")]
    pub(super) fn with_not_kept(number: u64) -> Self {
        let number = number.min(MAX_NOT_KEPT as u64);
        Self {
            not_kept: (0..number).collect(),
            ..Self::default()
        }
    }

    /// What it takes up besides itself, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let level = self.log_level.as_ref().map_or(0, String::len);
        self.held + level + self.not_kept.len() * 2 * size_of::<u64>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.log_level.is_none() && self.subscriptions.is_empty() && self.not_kept.is_empty()
    }

    /// How many subscriptions were not kept.
    pub(crate) fn not_kept(&self) -> usize {
        self.not_kept.len()
    }

    /// What makes a session that holds the `old` state hold this one.
    pub(crate) fn changes_from(&self, old: &Self) -> Vec<StateChange> {
        let level = self.log_level.iter();
        let added = self.subscriptions.difference(&old.subscriptions).cloned();
        let removed = old.subscriptions.difference(&self.subscriptions).cloned();
        level
            .filter(|level| Some(*level) != old.log_level.as_ref())
            .cloned()
            .map(StateChange::LogLevel)
            .chain(added.map(StateChange::Subscribe))
            .chain(removed.map(StateChange::Unsubscribe))
            .collect()
    }

    /// What undoes those of the changes that were `told` which do not hold any more.
    pub(crate) fn changed_since(&self, told: &[StateChange]) -> Vec<StateChange> {
        let undo = |told: &StateChange| match told {
            StateChange::LogLevel(told) => {
                let level = self.log_level.as_ref();
                // What is not kept may hold all the same.
                let level = level.filter(|level| *level != told && told.len() <= MAX_LEVEL);
                level.cloned().map(StateChange::LogLevel)
            }
            StateChange::Subscribe(uri) => {
                let may_hold = self.subscriptions.contains(uri)
                    || self.not_kept.contains(&digest(uri))
                    || self.not_kept.len() >= MAX_NOT_KEPT;
                (!may_hold).then(|| StateChange::Unsubscribe(uri.clone()))
            }
            StateChange::Unsubscribe(uri) => {
                let holds = self.subscriptions.contains(uri);
                holds.then(|| StateChange::Subscribe(uri.clone()))
            }
        };
        told.iter().filter_map(undo).collect()
    }
}

fn digest(uri: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    uri.hash(&mut hasher);
    hasher.finish()
}

const SET_LEVEL: &str = "logging/setLevel";
const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";

impl StateChange {
    /// Whether this is the method of a request that asks for one.
    pub(super) fn is_method(method: &[u8]) -> bool {
        [SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE]
            .map(str::as_bytes)
            .contains(&method)
    }

    pub(super) fn of(message: &Message<'_>) -> Option<Self> {
        let (change, name): (fn(_) -> _, _) = match message.method()? {
            SET_LEVEL => (Self::LogLevel, "level"),
            SUBSCRIBE => (Self::Subscribe, "uri"),
            UNSUBSCRIBE => (Self::Unsubscribe, "uri"),
            _ => return None,
        };
        let [text] = members(message.params()?, [name])?;
        Some(change(string(text?)?.into_owned()))
    }

    /// What it is about: a level or a URI.
    #[cfg(feature = "store")]
    pub(super) fn text(&self) -> &str {
        match self {
            Self::LogLevel(text) | Self::Subscribe(text) | Self::Unsubscribe(text) => text,
        }
    }

    /// Whether nothing is left of this after another.
    #[cfg(feature = "store")]
    pub(super) fn is_undone_by(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::LogLevel(_), Self::LogLevel(_)) => true,
            (Self::LogLevel(_), _) | (_, Self::LogLevel(_)) => false,
            (one, other) => one.text() == other.text(),
        }
    }

    /// The method of the request that asks for it.
    pub(crate) fn method(&self) -> &'static str {
        match self {
            Self::LogLevel(_) => SET_LEVEL,
            Self::Subscribe(_) => SUBSCRIBE,
            Self::Unsubscribe(_) => UNSUBSCRIBE,
        }
    }

    /// The parameters of the request that asks for it.
    pub(crate) fn params(&self) -> Value {
        match self {
            Self::LogLevel(level) => json!({ "level": level }),
            Self::Subscribe(uri) | Self::Unsubscribe(uri) => json!({ "uri": uri }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mcp::Skimmed, session::PendingChanges};

    /// The changes in a body, which are the same whether its message was skimmed or not.
    fn in_body(body: &str) -> Option<PendingChanges> {
        let body = body.as_bytes();
        let skimmed = PendingChanges::in_body(body, Skimmed::of(body).as_ref());
        let plain = PendingChanges::in_body(body, None);
        let changes = |it: &Option<PendingChanges>| {
            let changes = it.iter().flat_map(|it| &it.0);
            changes
                .map(|(_, change)| change.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(changes(&skimmed), changes(&plain));
        skimmed
    }

    /// The state after requests that were each answered with a result.
    fn state(bodies: &[&str], limit: usize) -> State {
        let mut state = State::default();
        for body in bodies {
            let pending = in_body(body);
            for (_, change) in pending.unwrap_or_default().0 {
                state.apply(change, limit);
            }
        }
        state
    }

    fn subscribe(uri: &str) -> String {
        format!(r#"{{"id":1,"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#)
    }

    fn unsubscribe(uri: &str) -> String {
        subscribe(uri).replace("/sub", "/unsub")
    }

    fn subscriptions(state: State) -> Vec<String> {
        Vec::from_iter(state.subscriptions)
    }

    #[test]
    fn h1_the_last_log_level_and_the_open_subscriptions_are_kept() {
        let state = state(
            &[
                r#"{"id":1,"method":"logging/setLevel","params":{"level":"info"}}"#,
                r#"{"id":2,"method":"resources/subscribe","params":{"uri":"a"}}"#,
                r#"{"method":"logging\/setLevel","params":{"level":"error"},"id":3}"#,
                r#"[{"id":4,"method":"resources/subscribe","params":{"uri":"b"}},
                {"id":5,"method":"resources/unsubscribe","params":{"uri":"a"}}]"#,
                r#"{"id":6,"method":"tools/call","params":{"name":"resources/subscribe","uri":"c"}}"#,
                r#"{"id":7,"method":"resources/subscribe","params":{"uri":8}}"#,
                r#"{"method":"resources/subscribe","params":{"uri":"d"}}"#,
            ],
            9,
        );
        assert_eq!(state.log_level.as_deref(), Some("error"));
        assert_eq!(subscriptions(state), ["b"]);
    }

    #[test]
    fn c4_a_method_counts_however_it_is_spelled() {
        for body in [
            r#"{"id":1,"method":"resources\u002fsubscribe","params":{"uri":"a"}}"#,
            r#"{"id":1,"m\u0065thod":"resources/\u0073ubscribe","params":{"uri":"a"}}"#,
            r#"{"id":1,"method":"tools/call","params":{"uri":"a"},"method":"resources/subscribe"}"#,
            r#"{"id":1,"method":"resources/subscribe","params":{"\u0075ri":"\u0061"}}"#,
        ] {
            assert_eq!(subscriptions(state(&[body], 9)), ["a"], "{body}");
        }
        let last_counts =
            r#"{"id":1,"method":"resources/subscribe","params":{"uri":"a"},"method":"tools/call"}"#;
        assert!(state(&[last_counts], 9).is_empty());
    }

    #[test]
    fn h1_only_what_was_answered_with_a_result_is_a_change() {
        let body = r#"[{"id":1,"method":"resources/subscribe","params":{"uri":"a"}},
            {"id":"2","method":"resources/subscribe","params":{"uri":"b"}},
            {"id":3,"method":"resources/unsubscribe","params":{"uri":"c"}}]"#;
        let mut pending = in_body(body).unwrap();
        let mut accepted = Vec::new();
        let mut look =
            |messages: &str| pending.look(messages.as_bytes(), |change| accepted.push(change));

        assert!(!look(r#"{"method":"notifications/message","id":1}"#));
        assert!(!look(r#"{"id":1,"result":{}"#));
        assert!(!look(r#"[{"id":7,"result":{}},{"id":2,"result":{}}]"#));
        assert!(!look(r#"{"id":3,"error":{"code":-32602,"message":"no"}}"#));
        assert!(!look(r#"{"id":1.0,"result":{}}"#));
        assert!(!look(r#"{"id":1,"result":{}}"#));
        assert!(look(r#"{"\u0069d":"\u0032","result":{}}"#));

        let kept = ["a", "b"].map(|uri| StateChange::Subscribe(uri.to_owned()));
        assert_eq!(accepted, kept);
    }

    #[test]
    fn k8_subscriptions_over_the_limit_are_counted_not_kept() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(subscribe);
        let mut steps = vec![&*a, &b, &a, &c, &c];
        assert_eq!(state(&steps, 2).not_kept(), 1);
        assert_eq!(subscriptions(state(&steps, 2)), ["a", "b"]);
        steps.push(&d);
        assert_eq!(state(&steps, 2).not_kept(), 2);

        let [not_a, not_c] = ["a", "c"].map(unsubscribe);
        steps.extend([&*not_c, &not_a, &d]);
        assert_eq!(state(&steps, 2).not_kept(), 0);
        assert_eq!(subscriptions(state(&steps, 2)), ["b", "d"]);
    }

    #[test]
    fn k8_subscriptions_are_bounded_in_bytes_and_so_is_the_count_of_those_not_kept() {
        let mut state = State::default();
        let long = "x".repeat(8000);
        for number in 0..3000 {
            let uri = format!("{number}{long}");
            state.apply(StateChange::Subscribe(uri), usize::MAX);
        }
        assert!(state.held <= MAX_HELD && state.held + long.len() + 4 + ENTRY > MAX_HELD);
        assert_eq!(state.not_kept(), MAX_NOT_KEPT);

        for number in 0..3000 {
            let uri = format!("{number}{long}");
            state.apply(StateChange::Unsubscribe(uri), usize::MAX);
        }
        assert!(state.is_empty() && state.held == 0);

        state.apply(StateChange::LogLevel(long), 0);
        assert!(state.is_empty());
    }

    #[test]
    fn h1_the_state_comes_to_requests_that_make_it_again() {
        let state = state(
            &[
                &subscribe("a"),
                r#"{"id":1,"method":"logging/setLevel","params":{"level":"info"}}"#,
            ],
            9,
        );
        let requests: Vec<_> = state
            .changes_from(&State::default())
            .iter()
            .map(|change| format!("{} {}", change.method(), change.params()))
            .collect();
        assert_eq!(
            requests,
            [
                r#"logging/setLevel {"level":"info"}"#,
                r#"resources/subscribe {"uri":"a"}"#
            ]
        );
    }

    #[test]
    fn h1_what_was_accepted_meanwhile_is_the_difference() {
        let set_level = |level| {
            format!(r#"{{"id":1,"method":"logging/setLevel","params":{{"level":"{level}"}}}}"#)
        };
        let [a, b, c] = ["a", "b", "c"].map(subscribe);
        let restored = state(&[&a, &b, &set_level("info")], 9);
        let now = state(&[&b, &c, &set_level("error")], 9);
        let [a, c] = ["a", "c"].map(str::to_owned);
        assert_eq!(
            now.changes_from(&restored),
            [
                StateChange::LogLevel("error".to_owned()),
                StateChange::Subscribe(c),
                StateChange::Unsubscribe(a),
            ]
        );
        assert_eq!(now.changes_from(&now), []);
    }

    #[test]
    fn k10_what_the_state_holds_counts_as_it_comes_and_goes() {
        let mut state = State::default();
        assert!(state.is_empty() && state.bytes() == 0);
        for uri in ["file:///a", "file:///bc", "one too many"] {
            state.apply(StateChange::Subscribe(uri.to_owned()), 2);
            assert!(!state.is_empty());
        }
        let kept = 2 * ENTRY + "file:///afile:///bc".len();
        assert_eq!(state.bytes(), kept + 2 * size_of::<u64>());
        state.apply(StateChange::LogLevel("info".to_owned()), 2);
        assert_eq!(state.bytes(), kept + 2 * size_of::<u64>() + 4);
        for uri in ["one too many", "file:///a"] {
            state.apply(StateChange::Unsubscribe(uri.to_owned()), 2);
        }
        assert_eq!(state.bytes(), ENTRY + "file:///bcinfo".len());
    }

    #[test]
    fn h1_what_was_told_and_does_not_hold_any_more_is_undone() {
        let [level, longer] = ["info", "error"].map(|it| StateChange::LogLevel(it.into()));
        let [here, gone, back] = ["here", "gone", "back"];
        let [subscribe, unsubscribe]: [fn(String) -> StateChange; 2] =
            [StateChange::Subscribe, StateChange::Unsubscribe];
        let mut state = State::default();
        for change in [
            longer.clone(),
            subscribe(here.into()),
            subscribe(back.into()),
        ] {
            state.apply(change, 2);
        }
        let told = [level, subscribe(here.into()), subscribe(gone.into())];
        let undone = [longer.clone(), unsubscribe(gone.into())];
        assert_eq!(state.changed_since(&told), undone);
        let told = [longer, unsubscribe(back.into()), unsubscribe(gone.into())];
        assert_eq!(state.changed_since(&told), [subscribe(back.into())]);

        // What there was no room for may hold, and so may a level that is not kept.
        state.apply(subscribe(gone.into()), 2);
        let told = [
            subscribe(gone.into()),
            StateChange::LogLevel("x".repeat(MAX_LEVEL + 1)),
        ];
        assert_eq!(state.changed_since(&told), []);
        for number in 0..=MAX_NOT_KEPT {
            state.apply(subscribe(number.to_string()), 2);
        }
        let told = [subscribe(MAX_NOT_KEPT.to_string())];
        assert_eq!(state.changed_since(&told), []);
    }
}
