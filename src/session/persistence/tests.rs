//! What is made of answers that come late.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{fixture::persistence_in, *};
use crate::{
    session::{
        State, StateChange,
        fixture::{ENDPOINT, recorded},
    },
    store::{MemoryStore, StoreFuture},
};

/// A store that reads at once, and says what it has read when it may.
#[derive(Clone)]
struct Late {
    memory: MemoryStore,
    may_answer: Arc<Semaphore>,
}

impl SessionStore for Late {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        let it = self.clone();
        Box::pin(async move {
            let read = it.memory.load(key).await;
            let _answer = it.may_answer.acquire().await;
            read
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        self.memory.save(key, value, expected, ttl)
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        self.memory.remove(key)
    }
}

// What was asked before a write, and is answered after it, is no news: it would undo that (H1).
#[tokio::test(start_paused = true)]
async fn h1_n3_what_has_been_written_meanwhile_is_not_undone_by_what_was_read_before() {
    let store = Late {
        memory: MemoryStore::new(),
        may_answer: Arc::new(Semaphore::new(0)),
    };
    let may_answer = store.may_answer.clone();
    let (persistence, sessions) = persistence_in(store);
    let session = recorded(&sessions, ENDPOINT, "1");
    let epoch = session.chain().current();
    assert!(persistence.save(&session, &epoch, false).await.is_ok());

    let mut newer = pin!(persistence.newer(&session, persistence.deadline()));
    let mut context = Context::from_waker(Waker::noop());
    assert!(newer.as_mut().poll(&mut context).is_pending());
    let change = StateChange::Subscribe("file:///a".into());
    session.apply(change.clone(), 10);
    assert!(persistence.save(&session, &epoch, false).await.is_ok());
    may_answer.add_permits(1);

    assert!(matches!(newer.await, Newer::No));
    let is_told = session.state().changes_from(&State::default());
    assert_eq!(is_told, [change]);
}
