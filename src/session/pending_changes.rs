//! What a session was asked to hold, and has not said yet that it does (rule H1).

use super::StateChange;
use crate::mcp::{Id, MAX_BATCH, Message, Skimmed, is_batch};

/// The changes of state that requests ask for, each until its answer is there.
#[derive(Default)]
pub(crate) struct PendingChanges(pub(super) Vec<(Id, StateChange)>);

/// How many changes are kept in mind whose answers may come another way than that of their
/// requests. Those of one body are few, or they are in a batch.
const MAX_ASKED: usize = 64;

impl PendingChanges {
    /// The largest message that is looked at, in bytes. A subscription to a longer URI is not kept.
    pub(crate) const MAX_MESSAGE: usize = 8 * 1024;

    /// The changes that a request body asks for, in order; `None` if there are none. Nearly every
    /// body holds none, which is found out without parsing it: by the method, if the body is known to
    /// be one `message`.
    #[inline]
    pub(crate) fn in_body(body: &[u8], message: Option<&Skimmed<'_>>) -> Option<Self> {
        if body.len() > Self::MAX_MESSAGE && !is_batch(body) {
            return None;
        }
        let may_hold_change = match message {
            Some(message) => message.method.is_some_and(StateChange::is_method),
            None => may_hold_change(body),
        };
        may_hold_change
            .then(|| Self::parse(body))
            .filter(|pending| !pending.is_empty())
    }

    #[cold]
    fn parse(body: &[u8]) -> Self {
        let mut pending = Self::default();
        let mut messages = 0;
        let read = Message::each(body, |message| {
            messages += 1;
            let params = message.params().map_or(0, str::len);
            if message.is_request() && params <= Self::MAX_MESSAGE && messages <= MAX_BATCH {
                pending
                    .0
                    .extend(message.parsed_id().zip(StateChange::of(&message)));
            }
        });
        match read {
            Some(()) if messages <= MAX_BATCH => pending,
            _ => Self::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps those of another body in mind, too. An id that was used twice means the latest request;
    /// room is made by the oldest.
    pub(super) fn also(&mut self, others: &Self) {
        self.0
            .retain(|(id, _)| others.0.iter().all(|(other, _)| other != id));
        self.0.extend(others.0.iter().cloned());
        let over = self.0.len().saturating_sub(MAX_ASKED);
        self.0.drain(..over);
    }

    /// What they take up, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let text = |change: &StateChange| match change {
            StateChange::LogLevel(text)
            | StateChange::Subscribe(text)
            | StateChange::Unsubscribe(text) => text.len(),
        };
        let each = |(id, change): &(Id, StateChange)| id.held_bytes() + text(change);
        self.0.capacity() * size_of::<(Id, StateChange)>() + self.0.iter().map(each).sum::<usize>()
    }

    /// The request with this id has been answered. Gives the change, if that was with a result: a
    /// refusal changes nothing.
    pub(crate) fn answered(&mut self, id: &Id, is_result: bool) -> Option<StateChange> {
        let at = self.0.iter().position(|(asked, _)| asked == id)?;
        let (_, change) = self.0.remove(at);
        is_result.then_some(change)
    }

    /// Looks for answers in what is the whole of a JSON body, or the data of an event, and gives
    /// each change that was accepted. Whether there is nothing more to look for.
    pub(crate) fn look(&mut self, messages: &[u8], mut accepted: impl FnMut(StateChange)) -> bool {
        let mut answered = Vec::new();
        let read = Message::each(messages, |message| {
            if message.is_response() {
                let id = message.parsed_id();
                answered.extend(id.filter(|id| self.asks(id)).map(|id| {
                    let is_result = message.result().is_some() && message.error().is_none();
                    (id, is_result)
                }));
            }
        });
        if read.is_some() {
            for (id, is_result) in answered {
                self.answered(&id, is_result)
                    .into_iter()
                    .for_each(&mut accepted);
            }
        }
        self.is_empty()
    }

    fn asks(&self, id: &Id) -> bool {
        self.0.iter().any(|(asked, _)| asked == id)
    }
}

/// Whether the text of one of the methods, from its slash on, is in the body, or may be spelled
/// with escapes (rule C4). Slashes and such escapes are rare.
fn may_hold_change(body: &[u8]) -> bool {
    memchr::memchr2_iter(b'/', b'\\', body).any(|at| {
        let rest = &body[at + 1..];
        match body[at] {
            b'/' => ["setLevel", "subscribe", "unsubscribe"]
                .iter()
                .any(|name| rest.starts_with(name.as_bytes())),
            _ => rest
                .first()
                .is_some_and(|escaped| matches!(escaped, b'u' | b'/')),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(requests: &[(&str, &str)]) -> PendingChanges {
        let each = requests.iter().map(|(id, uri)| {
            format!(r#"{{"id":"{id}","method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#)
        });
        let batch = format!("[{}]", each.collect::<Vec<_>>().join(","));
        PendingChanges::in_body(batch.as_bytes(), None).unwrap()
    }

    fn accepted(pending: &mut PendingChanges, messages: &str) -> Vec<StateChange> {
        let mut accepted = Vec::new();
        pending.look(messages.as_bytes(), |change| accepted.push(change));
        accepted
    }

    fn subscribe(uri: &str) -> StateChange {
        StateChange::Subscribe(uri.to_owned())
    }

    #[test]
    fn h1_what_is_an_error_as_well_as_a_result_changes_nothing() {
        let mut pending = pending(&[("1", "a"), ("2", "b")]);
        let both = r#"{"id":"1","result":{},"error":{"code":1}}"#;
        assert_eq!(accepted(&mut pending, both), []);
        assert_eq!(
            accepted(&mut pending, r#"{"id":"2","result":{}}"#),
            [subscribe("b")]
        );
    }

    #[test]
    fn h1_an_id_that_is_used_again_means_the_latest_request_and_the_others_stay() {
        let mut asked = pending(&[("1", "a"), ("2", "b")]);
        asked.also(&pending(&[("1", "c"), ("3", "d")]));
        let answers = [1, 2, 3].map(|id| format!(r#"{{"id":"{id}","result":{{}}}}"#));
        let answers = format!("[{}]", answers.join(","));
        let changes = ["c", "b", "d"].map(subscribe);
        assert_eq!(accepted(&mut asked, &answers), changes);
        assert!(asked.is_empty());
    }

    #[test]
    fn k10_what_is_asked_for_counts() {
        assert_eq!(PendingChanges::default().bytes(), 0);
        let pending = pending(&[("12345", "file:///a"), ("7", "file:///bc")]);
        let each = size_of::<(Id, StateChange)>();
        let texts = "12345file:///a7file:///bc".len();
        assert_eq!(pending.bytes(), pending.0.capacity() * each + texts);
    }

    #[test]
    fn h1_a_message_over_8_kib_is_not_looked_at() {
        for (size, is_looked_at) in [(8 * 1024, true), (8 * 1024 + 1, false), (9_000, false)] {
            let body = |uri: &str| {
                format!(r#"{{"id":1,"method":"resources/subscribe","params":{{"uri":"{uri}"}}}}"#)
            };
            let body = body(&"x".repeat(size - body("").len()));
            let pending = PendingChanges::in_body(body.as_bytes(), None);
            assert_eq!(pending.is_some(), is_looked_at, "{size}");
        }
    }

    #[test]
    fn k_the_changes_of_a_batch_over_the_limit_are_not_attended_to() {
        for (messages, is_looked_at) in [(1024, true), (1025, false), (20_000, false)] {
            let each: Vec<_> = (0..messages)
                .map(|id| {
                    format!(
                        r#"{{"id":{id},"method":"resources/subscribe","params":{{"uri":"a"}}}}"#
                    )
                })
                .collect();
            let batch = format!("[{}]", each.join(","));
            let pending = PendingChanges::in_body(batch.as_bytes(), None);
            assert_eq!(pending.is_some(), is_looked_at, "{messages}");
        }
    }
}
