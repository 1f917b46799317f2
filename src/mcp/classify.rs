//! What an answer says about the session that its request was sent in (rule D1).

use std::sync::Arc;

use http::StatusCode;

use super::HttpAnswer;

/// What an answer says about the session that its request was sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Decides from an answer whether the session has expired.
///
/// Asked about answers other than 2xx with a status for which [`examines`](Self::examines) is true,
/// once their body has been read; all others mean [`Verdict::Alive`] and are never delayed. Implemented for
/// closures, too, which [`classify_fn`] saves from naming the type of their parameter:
///
/// ```
/// use mcp_session_recovery::{Classify, Compatible, SessionRecoveryLayer, Verdict, classify_fn};
///
/// // A gateway in front of the server says 410 where it should say 404.
/// let layer = SessionRecoveryLayer::new().classify(classify_fn(|answer| {
///     if answer.status() == http::StatusCode::GONE {
///         Verdict::Expired
///     } else {
///         Compatible.classify(answer)
///     }
/// }));
/// # let _ = layer;
/// ```
///
/// [`HttpAnswer::new`] makes what to test it with.
pub trait Classify: Send + Sync + 'static {
    /// What this answer says about the session.
    ///
    /// Of a body that comes slowly it is shown what has come, and asked again about the rest of it if
    /// that is [`Verdict::Alive`] so far: see
    /// [`recovery_timeout`](crate::SessionRecoveryLayer::recovery_timeout).
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict;

    /// Whether an answer with this status may be about the session at all. A 2xx is not: it is passed
    /// on as it comes, whatever this says, since it may be a stream. Only where it may is the body
    /// read (up to [`max_error_body_bytes`](crate::SessionRecoveryLayer::max_error_body_bytes))
    /// before the caller gets it. By default every 4xx and 5xx.
    fn examines(&self, status: StatusCode) -> bool {
        status.is_client_error() || status.is_server_error()
    }
}

/// The closure as it is, for which [`Classify`] is implemented: here its parameter needs no type.
///
/// ```
/// use mcp_session_recovery::{SessionRecoveryLayer, Verdict, classify_fn};
///
/// let layer = SessionRecoveryLayer::new().classify(classify_fn(|answer| {
///     match answer.status().as_u16() {
///         404 | 410 => Verdict::Expired,
///         _ => Verdict::Alive,
///     }
/// }));
/// # let _ = layer;
/// ```
pub fn classify_fn<F>(classify: F) -> F
where
    F: Fn(&HttpAnswer<'_>) -> Verdict + Send + Sync + 'static,
{
    classify
}

impl<F> Classify for F
where
    F: Fn(&HttpAnswer<'_>) -> Verdict + Send + Sync + 'static,
{
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        self(answer)
    }
}

impl Classify for Arc<dyn Classify> {
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        (**self).classify(answer)
    }

    fn examines(&self, status: StatusCode) -> bool {
        (**self).examines(status)
    }
}

impl Classify for Box<dyn Classify> {
    fn classify(&self, answer: &HttpAnswer<'_>) -> Verdict {
        (**self).classify(answer)
    }

    fn examines(&self, status: StatusCode) -> bool {
        (**self).examines(status)
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Response};

    use super::*;
    use crate::Strict;

    #[test]
    fn d1_a_classify_may_be_boxed_or_shared() {
        let [gone, missing] = [StatusCode::GONE, StatusCode::NOT_FOUND]
            .map(|status| Response::builder().status(status).body("").unwrap());
        let boxed: Box<dyn Classify> = Box::new(Strict);
        let shared: Arc<dyn Classify> = Arc::new(Strict);
        for classify in [&boxed as &dyn Classify, &shared] {
            assert!(classify.examines(missing.status()) && !classify.examines(gone.status()));
            let answer = HttpAnswer::new(&Method::POST, None, &missing);
            assert_eq!(classify.classify(&answer), Verdict::Expired);
        }
        let closure = classify_fn(|answer| match answer.status() {
            StatusCode::GONE => Verdict::Expired,
            _ => Verdict::Alive,
        });
        assert!(closure.examines(gone.status()) && closure.examines(missing.status()));
        assert!(!closure.examines(StatusCode::FOUND) && !closure.examines(StatusCode::OK));
        let answer = HttpAnswer::new(&Method::POST, None, &gone);
        assert_eq!(closure.classify(&answer), Verdict::Expired);
    }
}
