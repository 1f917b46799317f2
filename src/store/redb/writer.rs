//! The thread that writes the file.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot};

use super::file::{Change, Changed, StoreFile};
use crate::store::{StoreError, StoreErrorKind};

/// The thread that writes. A file has one writer at a time, and to synchronize takes longer than
/// all else: so what has come meanwhile is written at once, and acknowledged after that.
pub(super) struct Writer {
    changes: Option<mpsc::Sender<Pending>>,
    thread: Option<JoinHandle<()>>,
}

struct Pending {
    change: Change,
    done: oneshot::Sender<Result<Changed, StoreError>>,
}

/// How many changes wait, and are written at once.
const BATCH: usize = 64;

impl Writer {
    pub(super) fn start(file: Arc<StoreFile>) -> Result<Self, StoreError> {
        let (changes, pending) = mpsc::channel(BATCH);
        let thread = thread::Builder::new()
            .name("session-store".to_owned())
            .spawn(move || run(&file, pending))
            .map_err(|_| StoreError::new(StoreErrorKind::Unavailable, "no thread to be had"))?;
        Ok(Self {
            changes: Some(changes),
            thread: Some(thread),
        })
    }

    /// Has the change written; `None` if the thread has ended.
    pub(super) async fn send(
        &self,
        change: Change,
        done: oneshot::Sender<Result<Changed, StoreError>>,
    ) -> Option<()> {
        let changes = self.changes.as_ref()?;
        changes.send(Pending { change, done }).await.ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, whoever waited for it has learned so.
            let _ = thread.join();
        }
    }
}

fn run(file: &StoreFile, mut pending: mpsc::Receiver<Pending>) {
    let mut batch = Vec::with_capacity(BATCH);
    while pending.blocking_recv_many(&mut batch, BATCH) > 0 {
        let (changes, waiting): (Vec<_>, Vec<_>) = batch
            .drain(..)
            .map(|pending| (pending.change, pending.done))
            .unzip();
        match file.write(&changes) {
            Ok(outcomes) => {
                for (done, outcome) in waiting.into_iter().zip(outcomes) {
                    // Whoever asked may have given up.
                    let _ = done.send(Ok(outcome));
                }
            }
            Err(error) => {
                for done in waiting {
                    let _ = done.send(Err(error));
                }
            }
        }
    }
}
