//! The JSON-RPC error that stands for a response that was lost (rule G7).

use bytes::Bytes;
use http::{HeaderValue, Response, header::CONTENT_TYPE};
use serde_json::json;

use super::{Id, message_event};

/// Why an answer can no longer come (rule G7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LostResponse {
    /// The session that was to give it is gone.
    SessionExpired,
    /// The stream that was to bring it has ended.
    StreamEnded,
}

impl LostResponse {
    /// The JSON-RPC error, as text without line breaks.
    fn error(self, id: &Id) -> String {
        let reason = match self {
            Self::SessionExpired => "session_expired",
            Self::StreamEnded => "stream_ended",
        };
        let error = json!({
            "code": -32000,
            "message": "The response was lost; the request may have been executed",
            "data": { "reason": reason },
        });
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
    }

    /// The error as an event for each of the requests.
    pub(crate) fn events(self, ids: &[Id]) -> Bytes {
        ids.iter()
            .map(|id| message_event(&self.error(id)))
            .collect::<String>()
            .into()
    }

    /// The error as the body of an answer: an array where the requests came as a batch.
    fn body(self, ids: &[Id], is_batch: bool) -> Bytes {
        let errors: Vec<_> = ids.iter().map(|id| self.error(id)).collect();
        match is_batch {
            true => format!("[{}]", errors.join(",")).into(),
            false => errors.concat().into(),
        }
    }

    /// An answer to a request whose own will not come (rule G6). Not a 404: a client that recovers
    /// by itself would send a request again that may have been executed.
    pub(crate) fn answer(self, ids: &[Id], is_batch: bool) -> Response<Bytes> {
        let mut response = Response::new(self.body(ids, is_batch));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// An event stream that holds nothing but the error (rule G4).
    pub(crate) fn stream(self, ids: &[Id]) -> Response<Bytes> {
        let mut response = Response::new(self.events(ids));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}
