//! What the layer goes by in the body of a request.

use std::sync::Arc;

use super::{Id, Message, skim::Skimmed};

/// How many messages of a batch are attended to. A larger batch passes like any other, but no
/// answer to it is missed: to keep count of those would cost more than it is worth.
pub(crate) const MAX_BATCH: usize = 1024;

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

impl Summary {
    /// `None` where the body is no JSON-RPC.
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        if let Some(skimmed) = Skimmed::of(body) {
            return Some(Self::of_skimmed(&skimmed));
        }
        if let Some(message) = Message::single(body) {
            let is_request = message.is_request();
            return Some(Self {
                is_initialize: message.initialize_id().is_some(),
                is_initialized: !is_request
                    && message.method() == Some("notifications/initialized"),
                has_response: message.is_response(),
                requests: match message.parsed_id().filter(|_| is_request) {
                    Some(id) => [id].into(),
                    None => Arc::default(),
                },
            });
        }
        let (mut has_response, mut messages, mut requests) = (false, 0, Vec::new());
        Message::each(body, |message| {
            has_response |= message.is_response();
            messages += 1;
            if messages > MAX_BATCH {
                requests = Vec::new();
            } else if message.is_request() {
                requests.extend(message.parsed_id());
            }
        })?;
        Some(Self {
            has_response,
            requests: requests.into(),
            ..Self::default()
        })
    }

    fn of_skimmed(message: &Skimmed<'_>) -> Self {
        let id = message.id();
        let is_request = id.is_some() && message.method.is_some();
        Self {
            is_initialize: is_request && message.method == Some(b"initialize"),
            is_initialized: !is_request && message.method == Some(b"notifications/initialized"),
            has_response: message.is_response(),
            requests: match id.filter(|_| is_request) {
                Some(id) => [id].into(),
                None => Arc::default(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Summary {
        Summary::of(body.as_bytes()).unwrap()
    }

    #[test]
    fn f2_a_batch_with_one_response_counts_as_one() {
        assert!(of(r#"{"id":7,"result":null}"#).has_response);
        assert!(of(r#"[{"id":7,"method":"ping"},{"id":1,"error":{"code":1}}]"#).has_response);
        assert!(!of(r#"{"id":7,"method":"ping"}"#).has_response);
        assert!(!of("{}").has_response);
    }

    #[test]
    fn f3_the_notification_that_ends_the_handshake_is_known_by_its_method() {
        assert!(of(r#"{"method":"notifications\/initialized"}"#).is_initialized);
        assert!(!of(r#"{"id":1,"method":"notifications/initialized"}"#).is_initialized);
        assert!(!of(r#"{"id":1,"method":"notifications\/initialized"}"#).is_initialized);
        assert!(!of(r#"{"method":"notifications\/cancelled"}"#).is_initialized);
        assert!(!of(r#"[{"method":"notifications/initialized"}]"#).is_initialized);
    }

    #[test]
    fn g6_the_requests_of_a_batch_wait_for_an_answer_each() {
        let summary = of(r#"[{"id":1,"method":"a"},{"method":"b"},{"id":"x","method":"c"}]"#);
        assert_eq!(summary.requests.len(), 2);
    }

    #[test]
    fn k_a_batch_over_the_limit_is_not_attended_to_but_for_its_responses() {
        let batch = |requests: usize| {
            let requests = vec![r#"{"id":1,"method":"a"}"#; requests].join(",");
            of(&format!(r#"[{requests},{{"id":2,"result":{{}}}}]"#))
        };
        let (most, more) = (batch(MAX_BATCH - 1), batch(MAX_BATCH));
        assert_eq!(
            (most.requests.len(), more.requests.len()),
            (MAX_BATCH - 1, 0)
        );
        assert!(most.has_response && more.has_response);
    }
}
