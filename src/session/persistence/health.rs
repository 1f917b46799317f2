//! Tells when the store fails, and when it is back (rule N5).

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use super::{Persistence, lock};
use crate::{
    session::{Session, Sessions},
    store::{StoreError, StoreErrorKind, record::RecordError},
};

/// A store is back when nothing has failed for so long: a part of it may be away still.
const QUIET: Duration = Duration::from_secs(10);
const UNSTORABLE: StoreError = StoreError::new(StoreErrorKind::Other, "a session cannot be stored");

#[derive(Default)]
pub(super) struct Health {
    is_failing: AtomicBool,
    /// When it last failed, if it is failing.
    failed: Mutex<Option<Instant>>,
}

impl Health {
    /// Notes what came of an operation.
    pub(super) fn noted<T>(&self, result: Result<T, StoreError>) -> Option<T> {
        match result {
            Ok(done) => {
                if self.is_failing.load(Ordering::Relaxed) && self.is_back() {
                    info!("the session store is back");
                }
                Some(done)
            }
            Err(error) => {
                self.is_failing.store(true, Ordering::Relaxed);
                if lock(&self.failed).replace(Instant::now()).is_none() {
                    warn!(reason = %error, "sessions are not stored for now");
                }
                None
            }
        }
    }

    /// Whether that is to be told now.
    fn is_back(&self) -> bool {
        let mut failed = lock(&self.failed);
        let is_back = failed.is_some_and(|at| at.elapsed() >= QUIET);
        if is_back {
            *failed = None;
            self.is_failing.store(false, Ordering::Relaxed);
        }
        is_back
    }

    /// The store holds something else than was saved.
    pub(super) fn garbage(&self, error: RecordError) {
        warn!(reason = %error, "a stored session is not readable");
    }
}

impl Persistence {
    /// There is no record of the session: whatever is tried, no store takes it.
    pub(super) fn cannot_store(&self, session: &Session, error: RecordError) {
        let is_known =
            session.with_synced(|_, synced| std::mem::replace(&mut synced.is_unstorable, true));
        if !is_known {
            warn!(reason = %error, "a session cannot be stored");
        }
    }
}

impl Sessions {
    /// Fails if there is one that was to be stored and cannot be.
    pub(super) fn are_storable(&self) -> Result<(), StoreError> {
        let (_, sessions) = self.used_since(0);
        let mut all = sessions.iter();
        let is_unstorable = all.any(|it| it.synced(|synced| synced.is_unstorable) == Some(true));
        (!is_unstorable).then_some(()).ok_or(UNSTORABLE)
    }
}
