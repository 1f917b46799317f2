//! A store in a file.

mod file;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::oneshot;

use self::{
    file::{Change, Changed, StoreFile},
    writer::Writer,
};
use super::{
    Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreFuture, StoreKey, Stored,
};

/// A store in a file of this machine, for one process at a time: a [redb](https://www.redb.org)
/// database. Needs the feature `redb`, and Rust 1.90.
///
/// # Durability
///
/// What was acknowledged is in the file and synchronized (`fsync`), so it survives a crash of the
/// process at any point, and one of the machine as far as its disks keep what they promise. A
/// change that was not acknowledged is there whole or not at all. Changes that come together are
/// written together, so a slow disk does not make a queue.
///
/// # Who can read it
///
/// The file is made for its owner alone (mode 600 on Unix). Whoever can read it can enter the
/// sessions in it, unless the store is `Sealed` (feature `seal`).
///
/// # When it fails
///
/// A full disk is an error of the kind [`Full`](StoreErrorKind::Full), and so on; after any failure
/// to write the file is opened anew, so the store works again when the disk does.
///
/// A cheap handle: clones share the file. To drop the last one closes it, which waits for the write
/// that is under way.
#[derive(Clone)]
pub struct RedbStore(Arc<Shared>);

struct Shared {
    file: Arc<StoreFile>,
    writer: Writer,
}

const STOPPED: StoreError = StoreError::new(StoreErrorKind::Unavailable, "its thread has ended");

impl RedbStore {
    /// Opens the store in the file `path`, which is made if there is none. Reads all of the file
    /// to see that it is whole, and mends what a crash has left.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened or made, is open in another process, or holds something
    /// else.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        let opening = tokio::task::spawn_blocking(move || Self::open_blocking(path));
        opening.await.map_err(|_| STOPPED)?
    }

    fn open_blocking(path: PathBuf) -> Result<Self, StoreError> {
        let file = Arc::new(StoreFile::open(path)?);
        let writer = Writer::start(file.clone())?;
        Ok(Self(Arc::new(Shared { file, writer })))
    }

    async fn change(&self, change: Change) -> Result<Changed, StoreError> {
        let (done, outcome) = oneshot::channel();
        self.0.writer.send(change, done).await.ok_or(STOPPED)?;
        outcome.await.map_err(|_| STOPPED)?
    }
}

impl SessionStore for RedbStore {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        let file = self.0.file.clone();
        Box::pin(async move {
            let reading = tokio::task::spawn_blocking(move || file.read(&key));
            reading.await.map_err(|_| STOPPED)?
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        let change = Change::Save {
            key,
            value,
            expected,
            ttl,
        };
        Box::pin(async move {
            let changed = self.change(change).await?;
            Ok(changed.map_or(Saved::Conflict, Saved::Yes))
        })
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        Box::pin(async move { self.change(Change::Remove { key }).await.map(drop) })
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore").finish_non_exhaustive()
    }
}
