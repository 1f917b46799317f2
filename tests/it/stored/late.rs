//! Rule N3 over a store that does what it is told, and says so too late.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mcp_session_recovery::{
    SessionRecoveryLayer,
    store::{MemoryStore, Revision, Saved, SessionStore, StoreFuture, StoreKey, Stored},
};
use testing::mocked::*;
use testing::*;

/// How long each save takes before it is done, and after that, in milliseconds.
type Times = [(u64, u64)];

#[derive(Clone, Default)]
struct Late {
    memory: MemoryStore,
    times: Arc<Mutex<VecDeque<(u64, u64)>>>,
    /// The epochs that were saved.
    saved: Arc<Mutex<Vec<u64>>>,
}

impl Late {
    fn set(&self, times: &Times) {
        *self.times.lock().unwrap() = times.iter().copied().collect();
    }
}

async fn millis(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

impl SessionStore for Late {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        self.memory.load(key)
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        let (before, after) = self.times.lock().unwrap().pop_front().unwrap_or_default();
        Box::pin(async move {
            millis(before).await;
            let record: serde_json::Value = serde_json::from_slice(&value).unwrap();
            let saved = self.memory.save(key, value, expected, ttl).await;
            if matches!(saved, Ok(Saved::Yes(_))) {
                let epoch = record["epoch"].as_u64().unwrap();
                self.saved.lock().unwrap().push(epoch);
            }
            millis(after).await;
            saved
        })
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        self.memory.remove(key)
    }
}

#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_was_left_is_not_written_over_the_one_after_it() {
    // Given a recovery whose epoch is stored, although that is said too late, and so is written again,
    let store = Late::default();
    let scene = live(SessionRecoveryLayer::new().store(store.clone())).await;
    settle().await;
    store.set(&[
        (0, 300),
        (0, 0),
        (600, 0),
        (0, 300),
        (0, 0),
        (700, 0),
        (700, 0),
    ]);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    // when the session has moved on once more before that is done,
    scene.server.restart();
    assert_eq!(echoed(&scene.call(2).await), 2);
    millis(60_000).await;

    // then the store has gone from one epoch to the next, and never back.
    let saved = store.saved.lock().unwrap().clone();
    assert!(saved.is_sorted() && saved.ends_with(&[2]), "{saved:?}");
}
