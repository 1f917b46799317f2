//! What a store has to do (rules N1, N3, N7).

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{StoreError, StoreKey};

/// The future of an operation of a [`SessionStore`].
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keeps values by key, each for a time, and replaces one only if it is the one that was read.
///
/// A value is opaque: a store never looks into it and gives back the bytes that it was given. See
/// the [module documentation](super) for what is in it, and for an implementation to start from.
///
/// # What an implementation has to hold
///
/// - **Operations on a key are linearizable.** Of two saves that expect the same, one is
///   [`Saved::Yes`]. This is all that keeps two processes from going on in two sessions; a store
///   that reads from lagging replicas has to make its comparison where it writes.
/// - **A revision is never used twice for a key**, not even after the value was removed or expired.
///   A counter for all keys, or 64 random bits for each save, will do; a counter for each key
///   that starts anew will not.
/// - **What was acknowledged can be read**, until it expires or is removed. How much of it survives
///   a crash is for the store's documentation to say.
/// - **Values expire** when their time is over, and a value that has expired is absent in every
///   respect. A store may be late to give back the memory.
/// - **A future may be dropped at any point.** The operation then happens whole or not at all, now
///   or a little later.
/// - **Errors hold no secret**: a [`StoreError`] has no room for one.
///
/// A store need not be fast or always there. Callers wait for it only where they have to, and
/// never longer than the time-out that the layer is told; retries are the layer's business.
///
/// All of this is checked by the `conformance` module (feature `store-conformance`).
pub trait SessionStore: Send + Sync + 'static {
    /// The value of a key, and the revision to replace it by.
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>>;

    /// Gives a key a value for the time `ttl`, if its current revision is `expected`; `None` stands
    /// for a key that has no value.
    ///
    /// A `ttl` that is longer than the store can tell means the longest that it can.
    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved>;

    /// Removes the value of a key, whatever its revision. A key without one is no error.
    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()>;
}

/// A value as a store has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// The bytes that were saved.
    pub value: Bytes,
    /// The revision that they were saved as.
    pub revision: Revision,
}

/// Tells the values that a key has had from each other. Has no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision(u64);

/// What became of a value that was to be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// It is the key's value now, and this is its revision.
    Yes(Revision),
    /// The key's revision was not the expected one; its value stays.
    Conflict,
}

impl Revision {
    /// A revision that a store goes by.
    pub const fn new(revision: u64) -> Self {
        Self(revision)
    }

    /// What it was made from.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// The value may hold secrets, so only its length is told.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("len", &self.value.len())
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl<S: SessionStore + ?Sized> SessionStore for Arc<S> {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        (**self).load(key)
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        (**self).save(key, value, expected, ttl)
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        (**self).remove(key)
    }
}
