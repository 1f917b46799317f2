//! Why a session was not recovered.

use std::fmt;

use bytes::Bytes;
use http::{Response, StatusCode};

/// Why a session was not recovered.
///
/// Says the kind of the failure and never holds what a server or a transport said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Too many attempts were of no use; see
    /// [`recovery_budget`](crate::SessionRecoveryLayer::recovery_budget).
    OutOfBudget,
    /// The session was forgotten while it was being recovered, or before it could be.
    Forgotten,
    /// The runtime that ran the recovery shut down, or there was none.
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
            Self::OutOfBudget => f.write_str("the recovery budget is spent"),
            Self::Forgotten => f.write_str("the session was forgotten"),
            Self::Cancelled => f.write_str("the runtime shut down"),
        }
    }
}

/// A failed recovery, as those who waited for it learn of it.
#[derive(Clone)]
pub(crate) struct Failed {
    pub(crate) failure: Failure,
    /// The 401 or 403 that the caller can act on (rule J1).
    pub(crate) challenge: Option<Box<Response<Bytes>>>,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            challenge: None,
        }
    }
}
