//! What users learn of recoveries: outcomes, failures, events (rules M1, M2).

use std::{error::Error, fmt, time::Duration};

use http::StatusCode;

use crate::mcp::Changes;

/// What happened to a request that met a dead session; found in its response's extensions.
///
/// ```
/// use mcp_session_recovery::{Outcome, Recovery};
///
/// fn was_replayed<B>(response: &http::Response<B>) -> bool {
///     response
///         .extensions()
///         .get::<Recovery>()
///         .is_some_and(|recovery| recovery.outcome() == Outcome::Replayed)
/// }
/// # assert!(!was_replayed(&http::Response::new(())));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    outcome: Outcome,
    epoch: u64,
}

/// What happened to a request that met a dead session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The session was recovered and the request sent again; this is the answer to that.
    Replayed,
    /// The request arrived during a recovery, waited for it, and was sent once, in the new session.
    Waited,
    /// The session was recovered. The request was the caller's own `notifications/initialized`,
    /// which the recovery has sent; this is the answer that it got.
    Initialized,
    /// The session was recovered, but the request was not sent again; this is its own answer.
    NotReplayed(Refusal),
    /// The answer that the request asked for is lost; this is an error of the layer that says so.
    AnswerLost,
    /// The session has expired, and
    /// [`reinitialize(false)`](crate::SessionRecoveryLayer::reinitialize) leaves it to the caller.
    Detected,
    /// The request was an `initialize` larger than
    /// [`max_initialize_bytes`](crate::SessionRecoveryLayer::max_initialize_bytes) or than
    /// [`max_body_bytes`](crate::SessionRecoveryLayer::max_body_bytes), or with headers of more than
    /// 64 KiB: its session is not recorded, and will not be recovered.
    NotRecorded,
    /// The session was not recovered. This is the request's own answer, or the 401 or 403 that the
    /// handshake was answered with.
    Failed(Failure),
}

/// Why a request was not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// It is a JSON-RPC response, or a batch with one: it answers a question of the dead session.
    Response,
    /// Its body was larger than [`max_body_bytes`](crate::SessionRecoveryLayer::max_body_bytes),
    /// or broke.
    BodyNotBuffered,
    /// [`replay_when`](crate::SessionRecoveryLayer::replay_when) said no.
    ReplayWhen,
    /// It asks to resume a stream of the dead session.
    LastEventId,
    /// The inner service was not ready to take it in time; see
    /// [`recovery_timeout`](crate::SessionRecoveryLayer::recovery_timeout).
    NotReady,
}

/// Why a session was not recovered.
///
/// Says the kind of the failure and never holds what a server or a transport said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The handshake was answered 401 or 403. The caller gets that answer, challenge and all.
    Denied(StatusCode),
    /// `initialize` was answered with a status other than 2xx.
    Refused(StatusCode),
    /// `initialize` was answered with a JSON-RPC error, of this code.
    Rpc(i64),
    /// The answer to `initialize` held no result for it, or was larger than
    /// [`max_initialize_result_bytes`](crate::SessionRecoveryLayer::max_initialize_result_bytes).
    Malformed,
    /// The answer to `initialize` broke off.
    Truncated,
    /// `notifications/initialized` was answered with a status other than 2xx.
    NotAccepted(StatusCode),
    /// The inner service failed.
    Transport,
    /// The recovery took longer than
    /// [`recovery_timeout`](crate::SessionRecoveryLayer::recovery_timeout).
    TimedOut,
    /// The attempt before was of no use, and it is too soon for another; see
    /// [`recovery_pause`](crate::SessionRecoveryLayer::recovery_pause).
    Paused,
    /// The session was forgotten while it was being recovered, or before it could be.
    Forgotten,
    /// The recovery was cut off: the runtime that ran it shut down, or the inner service panicked.
    Cancelled,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(status) => write!(f, "initialize was denied with {}", status.as_u16()),
            Self::Refused(status) => write!(f, "initialize was refused with {}", status.as_u16()),
            Self::Rpc(code) => write!(f, "initialize was answered with JSON-RPC error {code}"),
            Self::Malformed => f.write_str("the answer to initialize held no result"),
            Self::Truncated => f.write_str("the answer to initialize broke off"),
            Self::NotAccepted(status) => {
                write!(
                    f,
                    "notifications/initialized was refused with {}",
                    status.as_u16()
                )
            }
            Self::Transport => f.write_str("the inner service failed"),
            Self::TimedOut => f.write_str("the recovery timed out"),
            Self::Paused => f.write_str("it is too soon after an attempt that was of no use"),
            Self::Forgotten => f.write_str("the session was forgotten"),
            Self::Cancelled => f.write_str("the recovery was cut off"),
        }
    }
}

impl Error for Failure {}

impl Failure {
    /// A stable name in lower case, for the labels of metrics: `"denied"`, `"timed_out"`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Refused(_) => "refused",
            Self::Rpc(_) => "rpc",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::NotAccepted(_) => "not_accepted",
            Self::Transport => "transport",
            Self::TimedOut => "timed_out",
            Self::Paused => "paused",
            Self::Forgotten => "forgotten",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Outcome {
    /// A stable name in lower case, for the labels of metrics: `"replayed"`, `"not_replayed"`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Waited => "waited",
            Self::Initialized => "initialized",
            Self::NotReplayed(_) => "not_replayed",
            Self::AnswerLost => "answer_lost",
            Self::Detected => "detected",
            Self::NotRecorded => "not_recorded",
            Self::Failed(_) => "failed",
        }
    }
}

/// The name of [`as_str`](Outcome::as_str), and after a colon why, where there is a reason.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::NotReplayed(refusal) => write!(f, ": {refusal}"),
            Self::Failed(failure) => write!(f, ": {}", failure.as_str()),
            _ => Ok(()),
        }
    }
}

impl Refusal {
    /// A stable name in lower case, for the labels of metrics: `"response"`, `"replay_when"`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::BodyNotBuffered => "body_not_buffered",
            Self::ReplayWhen => "replay_when",
            Self::LastEventId => "last_event_id",
            Self::NotReady => "not_ready",
        }
    }
}

/// The name of [`as_str`](Refusal::as_str).
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Recovery {
    pub(crate) fn new(outcome: Outcome, epoch: u64) -> Self {
        Self { outcome, epoch }
    }

    /// What happened.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The number of the session's epoch after that: 0 for the caller's own handshake, one more
    /// for each recovery.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// A recovery that has ended; given to
/// [`on_recovery`](crate::SessionRecoveryLayer::on_recovery). Holds no secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecoveryEvent {
    pub(crate) host: String,
    pub(crate) result: Result<(), Failure>,
    pub(crate) epoch: u64,
    pub(crate) elapsed: Duration,
    pub(crate) waited: usize,
    pub(crate) changes: Changes,
    pub(crate) not_restored: Vec<&'static str>,
}

impl RecoveryEvent {
    /// The host of the session's endpoint.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether there is a new session, and why not.
    pub fn result(&self) -> Result<(), Failure> {
        self.result
    }

    /// The number of the epoch that the session is in now.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How long it took, from the first answer that showed the session dead.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// How many requests waited for it, the one that started it among them.
    pub fn waited(&self) -> usize {
        self.waited
    }

    /// What the new session's `InitializeResult` says otherwise than that of the session before.
    pub fn changes(&self) -> Changes {
        self.changes
    }

    /// What the old session held and the new one does not: the method of each request that was
    /// refused, failed or not kept when restoring state.
    pub fn not_restored(&self) -> &[&'static str] {
        &self.not_restored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m1_outcomes_have_stable_names_for_labels_and_logs() {
        for (outcome, label, shown) in [
            (Outcome::Replayed, "replayed", "replayed"),
            (
                Outcome::NotReplayed(Refusal::ReplayWhen),
                "not_replayed",
                "not_replayed: replay_when",
            ),
            (
                Outcome::Failed(Failure::Denied(StatusCode::UNAUTHORIZED)),
                "failed",
                "failed: denied",
            ),
        ] {
            assert_eq!((outcome.as_str(), &*outcome.to_string()), (label, shown));
        }
    }
}
