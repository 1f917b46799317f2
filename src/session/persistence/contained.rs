//! A store that panics has failed, and nothing else has (rule N5).

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;

use crate::store::{
    Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreFuture, StoreKey, Stored,
};

const PANICKED: StoreError = StoreError::new(StoreErrorKind::Other, "the store panicked");

/// A store whose panics are errors.
pub(super) struct Contained(pub(super) Arc<dyn SessionStore>);

impl SessionStore for Contained {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        contain(|| self.0.load(key))
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        contain(|| self.0.save(key, value, expected, ttl))
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        contain(|| self.0.remove(key))
    }
}

fn contain<'a, T: Send + 'a>(operation: impl FnOnce() -> StoreFuture<'a, T>) -> StoreFuture<'a, T> {
    let Ok(mut operation) = catch_unwind(AssertUnwindSafe(operation)) else {
        return Box::pin(async { Err(PANICKED) });
    };
    Box::pin(poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| operation.as_mut().poll(cx)));
        polled.unwrap_or(Poll::Ready(Err(PANICKED)))
    }))
}
