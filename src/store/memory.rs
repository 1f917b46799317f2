//! A store in memory.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    LONGEST_TTL, Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreFuture, StoreKey,
    Stored,
};

/// A store in memory: for tests, and for several layers of one process that are to know each
/// other's sessions.
///
/// A cheap handle: clones share what is stored. It is gone with the process.
///
/// Holds at most the bytes that it was made for, counting 128 for each value beyond its own; over
/// that, a new value is an error of the kind [`Full`](StoreErrorKind::Full). Time is tokio's, so
/// that a test with a paused clock decides when values expire.
///
/// ```
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
/// # runtime.block_on(async {
/// use std::time::Duration;
///
/// use mcp_session_recovery::store::{MemoryStore, SessionStore, StoreKey};
///
/// let store = MemoryStore::new();
/// let key = StoreKey::from_bytes([7; 32]);
/// store.save(key, "value".into(), None, Duration::from_secs(60)).await?;
/// let stored = store.clone().load(key).await?;
/// assert_eq!(stored.map(|stored| stored.value), Some("value".into()));
/// # Ok::<(), mcp_session_recovery::store::StoreError>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    max_bytes: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<StoreKey, Entry>,
    by_expiry: BTreeSet<(Instant, StoreKey)>,
    bytes: usize,
    /// One for all keys, so that no key sees a revision again.
    last_revision: u64,
}

struct Entry {
    stored: Stored,
    expires: Instant,
}

/// About what an entry takes beyond its value, in both collections.
const OVERHEAD: usize = 128;

impl MemoryStore {
    /// A store for 64 MiB.
    pub fn new() -> Self {
        Self::with_max_bytes(64 * 1024 * 1024)
    }

    /// A store for so many bytes.
    pub fn with_max_bytes(max_bytes: usize) -> Self {
        let table = Mutex::default();
        Self(Arc::new(Shared { max_bytes, table }))
    }

    /// How many values are stored.
    pub fn len(&self) -> usize {
        self.table().entries.len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The table, without what has expired.
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every critical section leaves the table whole.
        let mut table = self.0.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(Instant::now());
        table
    }
}

impl SessionStore for MemoryStore {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        Box::pin(async move {
            let table = self.table();
            Ok(table.entries.get(&key).map(|entry| entry.stored.clone()))
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        Box::pin(async move {
            let mut table = self.table();
            let current = table.entries.get(&key).map(|entry| &entry.stored);
            if current.map(|stored| stored.revision) != expected {
                return Ok(Saved::Conflict);
            }
            let freed = current.map_or(0, |stored| size(&stored.value));
            if table.bytes - freed + size(&value) > self.0.max_bytes {
                return Err(FULL);
            }
            Ok(Saved::Yes(table.insert(key, value, ttl)))
        })
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            self.table().remove(&key);
            Ok(())
        })
    }
}

const FULL: StoreError = StoreError::new(StoreErrorKind::Full, "its memory is used up");

fn size(value: &Bytes) -> usize {
    value.len() + OVERHEAD
}

impl Table {
    fn insert(&mut self, key: StoreKey, value: Bytes, ttl: Duration) -> Revision {
        self.remove(&key);
        self.last_revision += 1;
        let revision = Revision::new(self.last_revision);
        let expires = Instant::now() + ttl.min(LONGEST_TTL);
        self.bytes += size(&value);
        self.by_expiry.insert((expires, key));
        let stored = Stored { value, revision };
        self.entries.insert(key, Entry { stored, expires });
        revision
    }

    fn remove(&mut self, key: &StoreKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= size(&entry.stored.value);
            self.by_expiry.remove(&(entry.expires, *key));
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((expires, key)) = self.by_expiry.first().copied() {
            if expires > now {
                return;
            }
            self.remove(&key);
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn key(byte: u8) -> StoreKey {
        StoreKey::from_bytes([byte; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn n6_a_value_that_has_expired_gives_back_its_memory() {
        let store = MemoryStore::with_max_bytes(OVERHEAD + 4);
        let saved = store.save(key(1), "1234".into(), None, DAY).await.unwrap();
        assert!(matches!(saved, Saved::Yes(_)));

        let full = store.save(key(2), "".into(), None, DAY).await;
        tokio::time::advance(DAY).await;
        let saved = store.save(key(2), "12".into(), None, DAY).await;

        assert_eq!(full, Err(FULL));
        assert!(matches!(saved, Ok(Saved::Yes(_))));
        assert_eq!(store.load(key(1)).await, Ok(None));
        assert_eq!(store.len(), 1);
    }

    #[tokio::test]
    async fn n5_a_full_store_still_replaces_and_removes() {
        let store = MemoryStore::with_max_bytes(OVERHEAD + 4);
        let Ok(Saved::Yes(first)) = store.save(key(1), "1234".into(), None, DAY).await else {
            panic!("not saved");
        };

        let larger = store.save(key(1), "12345".into(), Some(first), DAY).await;
        let smaller = store.save(key(1), "123".into(), Some(first), DAY).await;

        assert_eq!(larger, Err(FULL));
        assert!(matches!(smaller, Ok(Saved::Yes(_))));
        store.remove(key(1)).await.unwrap();
        assert!(store.is_empty() && store.table().bytes == 0);
    }

    #[tokio::test]
    async fn n7_it_is_empty_until_something_is_stored() {
        let store = MemoryStore::new();
        assert!(store.is_empty());
        let key = StoreKey::from_bytes([1; 32]);
        store.save(key, Bytes::new(), None, DAY).await.unwrap();
        assert!(!store.is_empty());
    }
}
