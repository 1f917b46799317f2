//! Tells when the store fails, and when it is back (rule N5).

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{info, warn};

use crate::store::{StoreError, record::RecordError};

#[derive(Default)]
pub(super) struct Health {
    failing: AtomicBool,
}

impl Health {
    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Notes what came of an operation.
    pub(super) fn noted<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(done) => {
                if self.failing.load(Ordering::Relaxed)
                    && self.failing.swap(false, Ordering::Relaxed)
                {
                    info!("the session store is back");
                }
                Some(done)
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(reason = %error, "sessions are not stored for now");
                }
                None
            }
        }
    }

    /// The store holds something else than was saved.
    pub(super) fn garbage(&self, error: RecordError) {
        warn!(reason = %error, "a stored session is not readable");
    }
}
