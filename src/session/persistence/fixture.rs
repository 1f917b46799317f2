//! What the tests of this folder keep sessions in.

use std::{sync::Arc, time::Duration};

use super::{Persistence, PersistenceConfig};
use crate::{
    Sessions,
    session::{TableLimits, fixture::PAUSES},
    store::{MemoryStore, SessionStore},
};

/// A table that is kept in a store in memory.
pub(super) fn persistence() -> (Arc<Persistence>, Sessions) {
    persistence_in(MemoryStore::new())
}

/// A table that is kept in this store.
pub(super) fn persistence_in(store: impl SessionStore) -> (Arc<Persistence>, Sessions) {
    let sessions = Sessions::new();
    let config = PersistenceConfig {
        store: Arc::new(store),
        timeout: Duration::from_millis(250),
        ttl: Duration::from_secs(60),
        recovery_timeout: Duration::from_secs(10),
        pauses: PAUSES,
        table: TableLimits {
            sessions: 10,
            bytes: usize::MAX,
        },
        max_subscriptions: 10,
    };
    (Persistence::new(config, sessions.clone()), sessions)
}
