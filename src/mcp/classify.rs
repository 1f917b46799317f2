//! What an answer says about the session that its request was sent in (rules D1 to D3).

use std::fmt;

use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

use super::Message;

/// What an answer says about the session that its request was sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The session lives; the answer is the caller's.
    Alive,
    /// The server does not know the session any more.
    Expired,
    /// The answer does not prove either. The layer asks the server with a `ping` and treats the
    /// session as expired only if that is answered so.
    Unsure,
}

/// Decides from an answer whether the session is dead.
///
/// Asked about answers with a status for which [`examines`](Self::examines) is true, once their
/// body has been read; all others mean [`Verdict::Alive`] and are never delayed. Implemented for
/// closures, too:
///
/// ```
/// use mcp_session_recovery::{HttpAnswer, Classify, Compatible, SessionRecoveryLayer, Verdict};
///
/// // A gateway in front of the server says 410 where it should say 404.
/// let layer = SessionRecoveryLayer::new().classify(|answer: &HttpAnswer<'_>| {
///     if answer.status() == http::StatusCode::GONE {
///         Verdict::Expired
///     } else {
///         Compatible.classify(answer)
///     }
/// });
/// # let _ = layer;
/// ```
pub trait Classify: Send + Sync + 'static {
    /// What this answer says about the session.
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict;

    /// Whether an answer with this status may be about the session at all. Only then is its body
    /// read (up to [`max_error_body_bytes`](crate::SessionRecoveryLayer::max_error_body_bytes))
    /// before the caller gets it. By default every 4xx and 5xx.
    fn examines(&self, status: StatusCode) -> bool {
        status.is_client_error() || status.is_server_error()
    }
}

impl<F> Classify for F
where
    F: Fn(&HttpAnswer<'_>) -> Verdict + Send + Sync + 'static,
{
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        self(answer)
    }
}

/// An answer to a request of a recorded session, for [`Classify`].
///
/// Its `Debug` shows the method and the status alone.
pub struct HttpAnswer<'a> {
    method: &'a Method,
    message: Option<&'a [u8]>,
    status: StatusCode,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl<'a> HttpAnswer<'a> {
    pub(crate) fn new(
        method: &'a Method,
        message: Option<&'a [u8]>,
        head: &'a http::response::Parts,
        body: &'a [u8],
    ) -> Self {
        Self {
            method,
            message,
            status: head.status,
            headers: &head.headers,
            body,
        }
    }

    /// The method of the HTTP request.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The JSON-RPC message that the request carried, if it was a single one and was kept.
    pub fn message(&self) -> Option<Message<'a>> {
        Message::single(self.message?)
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers of the answer.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// The body of the answer, as far as the limit let it be read.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The message text of the JSON-RPC error in the body, if there is one.
    fn error_message_contains(&self, needles: &[&str]) -> bool {
        serde_json::from_slice::<Value>(self.body).is_ok_and(|body| {
            body["error"]["message"]
                .as_str()
                .is_some_and(|text| needles.iter().any(|needle| text.contains(needle)))
        })
    }

    /// Whether this is JSON-RPC's "method not found" to this very request. Such a 404 comes from a
    /// server that knows the session (or has none) and lacks the method.
    fn is_method_not_found(&self) -> bool {
        if memchr::memmem::find(self.body, b"-32601").is_none() {
            return false;
        }
        let Some(asked) = self.message().and_then(|message| message.parsed_id()) else {
            return false;
        };
        let Some(answer) = Message::single(self.body) else {
            return false;
        };
        answer.parsed_id() == Some(asked)
            && answer.error().is_some_and(|error| {
                serde_json::from_str::<Value>(error.get())
                    .is_ok_and(|error| error["code"] == -32601)
            })
    }
}

impl fmt::Debug for HttpAnswer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAnswer")
            .field("method", self.method)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// The default: 404 as the specification has it, and the servers known to answer otherwise.
///
/// - 404 is [`Expired`](Verdict::Expired), whatever its body (specification 2025-11-25,
///   Transports, Session Management), with two exceptions: a JSON-RPC error −32601 with the
///   request's own id means that the method is unknown, and the session
///   [`Alive`](Verdict::Alive); to a GET it is [`Unsure`](Verdict::Unsure), since servers without
///   a listening stream answer 404 where they should answer 405.
/// - 400 is expired if the message of its JSON-RPC error contains `No valid session ID provided`
///   (the TypeScript SDK's example server and those made from it) or `Server not initialized`
///   (TypeScript servers with one transport per process).
/// - 500 is expired if its text contains `Session service terminated` (rmcp, while a handler of
///   the expired session still runs).
#[derive(Clone, Copy, Debug, Default)]
pub struct Compatible;

impl Classify for Compatible {
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        let expired = match answer.status {
            StatusCode::NOT_FOUND if answer.method == Method::GET => return Verdict::Unsure,
            StatusCode::NOT_FOUND => !answer.is_method_not_found(),
            StatusCode::BAD_REQUEST => answer.error_message_contains(&[
                "No valid session ID provided",
                "Server not initialized",
            ]),
            StatusCode::INTERNAL_SERVER_ERROR => {
                memchr::memmem::find(answer.body, b"Session service terminated").is_some()
            }
            _ => false,
        };
        if expired {
            Verdict::Expired
        } else {
            Verdict::Alive
        }
    }

    fn examines(&self, status: StatusCode) -> bool {
        matches!(
            status,
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR
        )
    }
}

/// The letter of the specification: 404 is [`Expired`](Verdict::Expired), nothing else is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Strict;

impl Classify for Strict {
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        match answer.status {
            StatusCode::NOT_FOUND => Verdict::Expired,
            _ => Verdict::Alive,
        }
    }

    fn examines(&self, status: StatusCode) -> bool {
        status == StatusCode::NOT_FOUND
    }
}
