//! A recovery that failed, as those who waited for it learn of it.

use bytes::Bytes;
use http::Response;

use crate::Failure;

/// Why a recovery failed, and what the caller can act on.
#[derive(Clone)]
pub(crate) struct RecoveryError {
    pub(crate) failure: Failure,
    /// The 401 or 403 that the caller can act on (rule J1).
    pub(crate) challenge: Option<Box<Response<Bytes>>>,
}

impl From<Failure> for RecoveryError {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            challenge: None,
        }
    }
}
