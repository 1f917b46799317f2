//! What a `Classify` is asked about.

use std::fmt;

use http::{HeaderMap, Method, Response, StatusCode};

use super::{Id, Message};

/// An answer to a request of a recorded session, for [`Classify`](crate::Classify).
///
/// The layer makes it. To test a [`Classify`](crate::Classify) of one's own:
///
/// ```
/// use http::{Method, Response};
/// use mcp_session_recovery::{Classify, Compatible, HttpAnswer, Verdict};
///
/// let request = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
/// let response = Response::builder().status(404).body("Session not found")?;
/// let answer = HttpAnswer::new(&Method::POST, Some(request), &response);
/// assert_eq!(Compatible.classify(&answer), Verdict::Expired);
/// # Ok::<_, http::Error>(())
/// ```
///
/// Its `Debug` shows the method and the status alone.
pub struct HttpAnswer<'a> {
    method: &'a Method,
    message: Option<&'a [u8]>,
    /// That of a request which was not kept.
    request_id: Option<&'a Id>,
    status: StatusCode,
    headers: &'a HeaderMap,
    body: &'a [u8],
    same_authorization: bool,
}

impl<'a> HttpAnswer<'a> {
    /// The answer to an HTTP request with this method and, if it was buffered, this body.
    pub fn new(
        method: &'a Method,
        message: Option<&'a [u8]>,
        response: &'a Response<impl AsRef<[u8]>>,
    ) -> Self {
        Self {
            method,
            message,
            request_id: None,
            status: response.status(),
            headers: response.headers(),
            body: response.body().as_ref(),
            same_authorization: false,
        }
    }

    pub(crate) fn of(
        method: &'a Method,
        message: Option<&'a [u8]>,
        head: &'a http::response::Parts,
        body: &'a [u8],
    ) -> Self {
        Self {
            method,
            message,
            request_id: None,
            status: head.status,
            headers: &head.headers,
            body,
            same_authorization: false,
        }
    }

    /// Sets [`same_authorization`](Self::same_authorization). Default: `false`.
    #[must_use]
    pub fn with_same_authorization(mut self, same_authorization: bool) -> Self {
        self.same_authorization = same_authorization;
        self
    }

    /// The id of a request that was too large to be kept, as far as its ends tell.
    pub(crate) fn with_request_id(mut self, request_id: Option<&'a Id>) -> Self {
        self.request_id = request_id;
        self
    }

    pub(super) fn request_id(&self) -> Option<&'a Id> {
        self.request_id
    }

    /// The method of the HTTP request.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The JSON-RPC message that the request carried, if it was a single one and was kept.
    pub fn message(&self) -> Option<Message<'a>> {
        Message::single(self.message?)
    }

    /// The body of the request, if it was buffered.
    pub(super) fn request(&self) -> Option<&'a [u8]> {
        self.message
    }

    /// The same with another body.
    pub(super) fn with_body<'b>(&self, body: &'b [u8]) -> HttpAnswer<'b>
    where
        'a: 'b,
    {
        HttpAnswer { body, ..*self }
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

    /// Whether the request carried the very `authorization` that its session was made with: a 401
    /// to that is no word about the credentials alone.
    pub fn same_authorization(&self) -> bool {
        self.same_authorization
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l1_debug_shows_method_and_status_alone() {
        let response = Response::builder()
            .header("www-authenticate", "secret")
            .body("secret")
            .unwrap();
        let answer = HttpAnswer::new(&Method::POST, Some(b"secret"), &response);
        let shown = format!("{answer:?}");
        assert!(
            shown.contains("POST") && !shown.contains("secret"),
            "{shown}"
        );
    }
}
