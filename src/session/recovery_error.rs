//! A recovery that failed, as those who waited for it learn of it.

use bytes::Bytes;
use http::{HeaderValue, Response};

use super::session::headers_bytes;
use crate::Failure;

/// Why a recovery failed, and what the caller can act on.
#[derive(Clone)]
pub(crate) struct RecoveryError {
    pub(crate) failure: Failure,
    /// The 401 or 403 that the caller can act on (rule J1).
    pub(crate) challenge: Option<Box<Response<Bytes>>>,
    /// Whose credentials it answers.
    pub(crate) authorization: Option<HeaderValue>,
}

impl RecoveryError {
    /// What it holds, about, in bytes (rule K10).
    pub(super) fn bytes(&self) -> usize {
        let challenge = self.challenge.as_ref();
        let challenge = challenge.map_or(0, |it| headers_bytes(it.headers()) + it.body().len());
        challenge + self.authorization.as_ref().map_or(0, HeaderValue::len)
    }

    /// Whether it says anything to a caller with these credentials: a denial speaks of the ones it
    /// was given alone (rule J1).
    pub(crate) fn concerns(&self, authorization: Option<&HeaderValue>) -> bool {
        self.challenge.is_none() || self.authorization.as_ref() == authorization
    }
}

impl From<Failure> for RecoveryError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            challenge: None,
            authorization: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k10_what_a_denial_holds_counts() {
        let mut error = RecoveryError::from(Failure::Forgotten);
        assert_eq!(error.bytes(), 0);
        error.authorization = Some(HeaderValue::from_static("Bearer a"));
        assert_eq!(error.bytes(), 8);
        let body = Bytes::from_static(b"denied");
        error.challenge = Some(Box::new(Response::new(body.clone())));
        assert_eq!(error.bytes(), 8 + 6);
        let challenge = Response::builder().header("www-authenticate", "Bearer");
        let challenge = challenge.body(body).unwrap();
        let headers = headers_bytes(challenge.headers());
        error.challenge = Some(Box::new(challenge));
        assert!(headers >= "www-authenticateBearer".len());
        assert_eq!(error.bytes(), 8 + 6 + headers);
    }
}
