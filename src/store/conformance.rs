//! What every [`SessionStore`] has to hold, as a test suite.
//!
//! ```
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! # runtime.block_on(async {
//! use mcp_session_recovery::store::{MemoryStore, conformance};
//!
//! conformance::check(MemoryStore::new()).await;
//! # });
//! ```
//!
//! It uses random keys, leaves none of them behind, and takes about two seconds, so it may run
//! against a database that is in use. A violation is a panic that says what was violated.

use std::{
    collections::HashSet, fmt::Debug, future::poll_fn, sync::Arc, task::Poll, time::Duration,
};

use bytes::Bytes;
use tokio::{task::JoinSet, time::sleep};

use super::{Revision, Saved, SessionStore, StoreError, StoreKey, Stored};

/// Checks everything, one after the other. Needs a tokio runtime with its time driver, and a clock
/// that is not paused if the store has one of its own.
pub async fn check(store: impl SessionStore) {
    let store = Arc::new(store);
    values(&*store).await;
    keys(&*store).await;
    comparisons(&*store).await;
    removal(&*store).await;
    expiry(&*store).await;
    races(&store).await;
    dropped_futures(&*store).await;
}

const TTL: Duration = Duration::from_secs(60);
/// Long enough for a store to do what it does within it, and short enough to wait for.
const SHORT: Duration = Duration::from_millis(400);

/// What is saved is what is loaded, byte for byte.
pub async fn values(store: &impl SessionStore) {
    let key = random_key();
    let loaded = ok(store.load(key).await);
    assert_eq!(loaded, None, "a key that was never saved has a value");

    let every_byte: Vec<u8> = (0..=255).cycle().take(1024 * 1024).collect();
    let mut expected = None;
    for value in [
        &b"{\"v\":1}"[..],
        b"",
        b"\0",
        b"\r\n$-1\r\n",
        b"\xff\xfe not UTF-8",
        &every_byte,
    ] {
        let saved = save(store, key, value, expected, TTL).await;
        let Stored {
            value: loaded,
            revision,
        } = present(store, key).await;
        assert_eq!(Saved::Yes(revision), saved, "load gives another revision");
        // Not `assert_eq`, which would print a mebibyte.
        assert!(loaded == value, "{} bytes came back changed", value.len());
        expected = Some(revision);
    }
    ok(store.remove(key).await);
}

/// Keys that differ in one bit are two keys.
pub async fn keys(store: &impl SessionStore) {
    let key = random_key();
    let flipped = |bit: usize| {
        let mut bytes = *key.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        StoreKey::from_bytes(bytes)
    };
    let neighbours: Vec<_> = (0..256).step_by(15).map(flipped).collect();
    for (number, key) in neighbours.iter().enumerate() {
        saved(save(store, *key, &[number as u8], None, TTL).await);
    }
    assert_eq!(ok(store.load(key).await), None, "two keys share a value");
    for (number, key) in neighbours.iter().enumerate() {
        let value = present(store, *key).await.value;
        assert_eq!(*value, [number as u8], "two keys share a value");
        ok(store.remove(*key).await);
    }
}

/// A value is replaced only by whoever knows its revision.
pub async fn comparisons(store: &impl SessionStore) {
    let key = random_key();
    let never = Revision::new(u64::MAX);
    let conflict = save(store, key, b"0", Some(never), TTL).await;
    assert_eq!(conflict, Saved::Conflict, "replaced what does not exist");
    assert_eq!(ok(store.load(key).await), None, "a conflict left a value");

    let first = saved(save(store, key, b"1", None, TTL).await);
    let conflict = save(store, key, b"2", None, TTL).await;
    assert_eq!(conflict, Saved::Conflict, "a new value replaced one");
    let second = saved(save(store, key, b"3", Some(first), TTL).await);
    assert_ne!(first, second, "two values have one revision");
    let conflict = save(store, key, b"4", Some(first), TTL).await;
    assert_eq!(conflict, Saved::Conflict, "an old revision was good enough");

    let stored = present(store, key).await;
    assert_eq!(*stored.value, *b"3", "a conflict changed the value");
    assert_eq!(stored.revision, second, "a conflict changed the revision");

    // A value that is saved again as it is has another revision all the same.
    let third = saved(save(store, key, b"3", Some(second), TTL).await);
    assert!(![first, second].contains(&third), "a revision came back");
    ok(store.remove(key).await);
}

/// What is removed is gone, and its revisions with it.
pub async fn removal(store: &impl SessionStore) {
    let key = random_key();
    ok(store.remove(key).await);
    let mut revisions = HashSet::new();
    for _ in 0..8 {
        let first = saved(save(store, key, b"value", None, TTL).await);
        let second = saved(save(store, key, b"value", Some(first), TTL).await);
        ok(store.remove(key).await);
        assert_eq!(ok(store.load(key).await), None, "a removed key has a value");
        let conflict = save(store, key, b"late", Some(second), TTL).await;
        assert_eq!(conflict, Saved::Conflict, "replaced what was removed");
        let new = revisions.insert(first) && revisions.insert(second);
        assert!(new, "a revision came back after the value was removed");
    }
}

/// A value lasts as long as it was saved for, and no longer.
pub async fn expiry(store: &impl SessionStore) {
    let [brief, renewed, shortened, endless] = [(); 4].map(|()| random_key());
    let first = saved(save(store, brief, b"value", None, SHORT).await);
    let revision = saved(save(store, renewed, b"value", None, SHORT).await);
    saved(save(store, renewed, b"value", Some(revision), TTL).await);
    let revision = saved(save(store, shortened, b"value", None, TTL).await);
    saved(save(store, shortened, b"value", Some(revision), SHORT).await);
    saved(save(store, endless, b"value", None, Duration::MAX).await);

    sleep(SHORT + SHORT / 2).await;

    for key in [brief, shortened] {
        assert_eq!(ok(store.load(key).await), None, "a value did not expire");
    }
    present(store, renewed).await;
    present(store, endless).await;
    let conflict = save(store, brief, b"late", Some(first), TTL).await;
    assert_eq!(conflict, Saved::Conflict, "replaced what had expired");
    let second = saved(save(store, brief, b"value", None, TTL).await);
    assert_ne!(
        first, second,
        "a revision came back after the value expired"
    );
    for key in [brief, renewed, shortened, endless] {
        ok(store.remove(key).await);
    }
}

/// Of those who save at once, one does; and nobody's value is lost.
pub async fn races<S: SessionStore>(store: &Arc<S>) {
    const TASKS: u32 = 8;
    const ROUNDS: u32 = 4;
    let key = random_key();
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move { save(&*store, key, &[number as u8], None, TTL).await });
    }
    let outcomes = tasks.join_all().await;
    let won = outcomes.iter().filter(|saved| **saved != Saved::Conflict);
    assert_eq!(won.count(), 1, "not one of several new values was saved");
    ok(store.remove(key).await);

    saved(save(&**store, key, &0_u32.to_be_bytes(), None, TTL).await);
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                increment(&*store, key).await;
            }
        });
    }
    tasks.join_all().await;
    let count = number_in(&present(&**store, key).await);
    assert_eq!(count, TASKS * ROUNDS, "a value was overwritten unseen");
    ok(store.remove(key).await);
}

async fn increment(store: &impl SessionStore, key: StoreKey) {
    loop {
        let stored = present(store, key).await;
        let next = (number_in(&stored) + 1).to_be_bytes();
        let saved = save(store, key, &next, Some(stored.revision), TTL).await;
        if saved != Saved::Conflict {
            return;
        }
    }
}

fn number_in(stored: &Stored) -> u32 {
    let bytes = (*stored.value).try_into();
    u32::from_be_bytes(bytes.expect("a value came back with another length"))
}

/// A future that is dropped under way leaves the value before or the value after, and a store that
/// works.
pub async fn dropped_futures(store: &impl SessionStore) {
    let key = random_key();
    for polls in 0..4 {
        let before = saved(save(store, key, b"before", None, TTL).await);
        let after = Bytes::from_static(b"after");
        let mut saving = store.save(key, after, Some(before), TTL);
        for _ in 0..polls {
            let done = poll_fn(|cx| Poll::Ready(saving.as_mut().poll(cx).is_ready())).await;
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(saving);
        drop(store.load(key));
        let value = present(store, key).await.value;
        let whole = [&b"before"[..], b"after"].contains(&&*value);
        assert!(whole, "a save that was dropped left half a value");
        // What is still to happen finds another revision.
        ok(store.remove(key).await);
    }
}

fn random_key() -> StoreKey {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("no randomness to be had");
    StoreKey::from_bytes(bytes)
}

async fn save(
    store: &impl SessionStore,
    key: StoreKey,
    value: &[u8],
    expected: Option<Revision>,
    ttl: Duration,
) -> Saved {
    let value = Bytes::copy_from_slice(value);
    ok(store.save(key, value, expected, ttl).await)
}

async fn present(store: &impl SessionStore, key: StoreKey) -> Stored {
    let loaded = ok(store.load(key).await);
    loaded.expect("what was saved is absent")
}

fn saved(saved: Saved) -> Revision {
    match saved {
        Saved::Yes(revision) => revision,
        Saved::Conflict => panic!("a save with the right revision was a conflict"),
    }
}

fn ok<T: Debug>(result: Result<T, StoreError>) -> T {
    result.expect("the store failed")
}
