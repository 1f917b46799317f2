//! A store that does as the test says.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mcp_session_recovery::{
    SessionRecoveryLayer,
    store::{
        MemoryStore, Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreFuture,
        StoreKey, Stored,
    },
};

/// What the store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Works,
    /// Does what it is told, after so long.
    Slow(Duration),
    /// The same, also if nobody waits for it any more.
    Sent(Duration),
    /// Does what it is told, and says so after so long.
    Late(Duration),
    /// Does what it is told, and says that it is down.
    Unsaid,
    /// Does what it is told twice, and says how it went the second time.
    Twice,
    /// Never answers.
    Hangs,
    Down,
    /// The same, after so long.
    Refuses(Duration),
    /// Reads, and does not write.
    Full,
    Panics,
}

/// Clones share all.
#[derive(Clone)]
pub(super) struct FaultyStore(Arc<Shared>);

struct Shared {
    mode: Mutex<Mode>,
    /// What a third of the keys is subject to.
    third: Mutex<Mode>,
    memory: MemoryStore,
    keys: Mutex<Vec<StoreKey>>,
    loads: Mutex<usize>,
    saves: Mutex<usize>,
}

const DOWN: StoreError = StoreError::new(StoreErrorKind::Unavailable, "it is down");
const CORRUPT: StoreError = StoreError::new(StoreErrorKind::Corrupt, "it was sealed otherwise");
/// A value that the store cannot read.
const UNREADABLE: &str = "unreadable";
const FULL: StoreError = StoreError::new(StoreErrorKind::Full, "it is full");

impl FaultyStore {
    pub(super) fn new() -> Self {
        Self::over(MemoryStore::new())
    }

    /// Another process's way to the same store, which fails by itself.
    pub(super) fn another_way(&self) -> Self {
        Self::over(self.0.memory.clone())
    }

    fn over(memory: MemoryStore) -> Self {
        Self(Arc::new(Shared {
            mode: Mutex::new(Mode::Works),
            third: Mutex::new(Mode::Works),
            memory,
            keys: Mutex::default(),
            loads: Mutex::default(),
            saves: Mutex::default(),
        }))
    }

    pub(super) fn set(&self, mode: Mode) {
        *self.0.mode.lock().unwrap() = mode;
    }

    /// A third of the keys is kept where it does this.
    pub(super) fn set_third(&self, mode: Mode) {
        *self.0.third.lock().unwrap() = mode;
    }

    /// How many of the keys that it was given are not among that third, and how many there are.
    pub(super) fn outside_of_third(&self) -> (usize, usize) {
        let keys = self.0.keys.lock().unwrap();
        let outside = keys.iter().filter(|key| !is_in_third(key));
        (outside.count(), keys.len())
    }

    fn mode(&self, key: &StoreKey) -> Mode {
        let third = *self.0.third.lock().unwrap();
        if third != Mode::Works && is_in_third(key) {
            return third;
        }
        *self.0.mode.lock().unwrap()
    }

    /// Works, if it was full.
    pub(super) fn make_room(&self) {
        let mut mode = self.0.mode.lock().unwrap();
        if *mode == Mode::Full {
            *mode = Mode::Works;
        }
    }

    /// A layer with this store.
    pub(super) fn layer(&self) -> SessionRecoveryLayer {
        SessionRecoveryLayer::new().store(self.clone())
    }

    /// Loses all that it holds.
    pub(super) async fn lose_all(&self) {
        let keys = self.0.keys.lock().unwrap().clone();
        for key in keys {
            self.0.memory.remove(key).await.unwrap();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.memory.len()
    }

    pub(super) fn loads(&self) -> usize {
        *self.0.loads.lock().unwrap()
    }

    pub(super) fn saves(&self) -> usize {
        *self.0.saves.lock().unwrap()
    }

    /// Every value that there is, as text.
    pub(super) async fn values(&self) -> Vec<String> {
        let keys = self.0.keys.lock().unwrap().clone();
        let mut values = Vec::new();
        for key in keys {
            if let Some(stored) = self.0.memory.load(key).await.unwrap() {
                values.push(String::from_utf8(stored.value.to_vec()).unwrap());
            }
        }
        values
    }

    /// Puts something else in the place of every value.
    pub(super) async fn change(&self, change: impl Fn(String) -> String) {
        let keys = self.0.keys.lock().unwrap().clone();
        for key in keys {
            let stored = self.0.memory.load(key).await.unwrap();
            if let Some(Stored { value, revision }) = stored {
                let value = change(String::from_utf8(value.to_vec()).unwrap());
                let day = Duration::from_secs(86_400);
                let saved = self.0.memory.save(key, value.into(), Some(revision), day);
                assert_ne!(saved.await, Ok(Saved::Conflict));
            }
        }
    }

    /// Cannot read any more what it holds.
    pub(super) async fn spoil(&self) {
        self.change(|_| UNREADABLE.to_owned()).await;
    }

    async fn obey(mode: Mode, writes: bool) -> Result<(), StoreError> {
        match mode {
            Mode::Works | Mode::Late(_) | Mode::Unsaid | Mode::Twice => Ok(()),
            Mode::Slow(time) | Mode::Sent(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Mode::Hangs => std::future::pending().await,
            Mode::Down => Err(DOWN),
            Mode::Refuses(time) => {
                tokio::time::sleep(time).await;
                Err(DOWN)
            }
            Mode::Full if writes => Err(FULL),
            Mode::Full => Ok(()),
            Mode::Panics => panic!("the store panics, as it was told"),
        }
    }
}

impl FaultyStore {
    fn run<T: Send + 'static>(
        &self,
        key: &StoreKey,
        writes: bool,
        operation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let mode = self.mode(key);
        let run = async move {
            Self::obey(mode, writes).await?;
            let done = operation.await;
            if let Mode::Late(time) = mode {
                tokio::time::sleep(time).await;
            }
            if mode == Mode::Unsaid {
                return Err(DOWN);
            }
            done
        };
        match mode {
            Mode::Sent(_) => {
                let sent = tokio::spawn(run);
                Box::pin(async move { sent.await.unwrap() })
            }
            _ => Box::pin(run),
        }
    }
}

impl SessionStore for FaultyStore {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        *self.0.loads.lock().unwrap() += 1;
        let memory = self.0.memory.clone();
        self.run(&key, false, async move {
            match memory.load(key).await? {
                Some(stored) if stored.value == UNREADABLE => Err(CORRUPT),
                stored => Ok(stored),
            }
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        *self.0.saves.lock().unwrap() += 1;
        {
            let mut keys = self.0.keys.lock().unwrap();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let memory = self.0.memory.clone();
        let is_twice = self.mode(&key) == Mode::Twice;
        self.run(&key, true, async move {
            if is_twice {
                memory.save(key, value.clone(), expected, ttl).await?;
            }
            memory.save(key, value, expected, ttl).await
        })
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        let memory = self.0.memory.clone();
        // That takes no room.
        self.run(&key, false, async move { memory.remove(key).await })
    }
}

/// Chosen by what the key is, so that it is the same third all the time.
fn is_in_third(key: &StoreKey) -> bool {
    key.as_bytes()[0] < 85
}
