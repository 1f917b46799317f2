//! The locks, atomics and clock of what many callers share, so that `session::schedules` can have
//! their every step in any order. In the library they are the usual ones.

#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic};
#[cfg(not(all(test, shuttle)))]
pub(crate) use tokio::time::{Instant, timeout_at};

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
};

#[cfg(all(test, shuttle))]
pub(crate) use crate::session::schedules::clock::{Instant, timeout_at};
