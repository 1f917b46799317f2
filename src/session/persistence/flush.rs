//! Waits until what was queued is written: before a process ends (rule N1).

use std::{
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::MutexGuard, time::timeout};

use super::{NO_ANSWER, Persistence, lock};
use crate::{
    Sessions,
    session::Session,
    store::{StoreError, StoreErrorKind},
};

/// How often what follows from what was written is waited for.
const ROUNDS: usize = 5;

impl Sessions {
    /// Waits until the stores have what they were to be told of these sessions: for a process that is
    /// about to end, or to hand over to another. Needs the feature `store`.
    ///
    /// Sessions are written in the background, so a process that just ends loses what it has not
    /// yet written. Call this when no request is under way any more, and keep the service until
    /// then: what it had to tell goes with it. What changes meanwhile may or may not be written.
    ///
    /// Each write is tried once, and given four times the layer's
    /// [`store_timeout`](crate::SessionRecoveryLayer::store_timeout), and so is what is under way
    /// already; once the store turns out to be away, the rest is not waited for. Without a store there
    /// is nothing to wait for. To give up on it is safe.
    ///
    /// # Errors
    ///
    /// When something could not be written, or is not known to have been, or when ever more is to be
    /// written. While the service lives it is tried again in the background, unless it is too large for
    /// any store.
    ///
    /// ```
    /// # use http::{Request, Response};
    /// # use mcp_session_recovery::RequestBody;
    /// # type Body = http_body_util::Full<bytes::Bytes>;
    /// # let http_client = tower::service_fn(|_: Request<RequestBody<Body>>| async {
    /// #     Response::builder().header("mcp-session-id", "1").body(Body::default())
    /// # });
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
    /// use mcp_session_recovery::{SessionRecoveryLayer, Sessions, store::MemoryStore};
    /// use tower::{Layer, Service};
    ///
    /// let sessions = Sessions::new();
    /// let store = MemoryStore::new();
    /// let layer = SessionRecoveryLayer::new().sessions(sessions.clone()).store(store.clone());
    /// let mut client = layer.layer(http_client);
    /// # let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#;
    /// # let request = Request::post("http://localhost/mcp")
    /// #     .header("content-type", "application/json")
    /// #     .body(Body::from(initialize))?;
    /// client.call(request).await?;
    ///
    /// // At the end of the process:
    /// sessions.flush().await?;
    /// assert_eq!(store.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn flush(&self) -> Result<(), StoreError> {
        let mut flushed = Ok(());
        for persistence in self.kept_by() {
            let result = persistence.flush().await;
            flushed = flushed.and(result);
        }
        flushed.and(self.are_storable())
    }
}

impl Sessions {
    /// Whether something keeps these in a store.
    pub(crate) fn is_kept(&self) -> bool {
        !self.kept_by().is_empty()
    }

    /// What does. Whichever of the services it belongs to that share them: a session is all of theirs.
    pub(crate) fn kept_by(&self) -> Vec<Arc<Persistence>> {
        self.0.kept_by.all()
    }
}

impl Persistence {
    async fn flush(self: &Arc<Self>) -> Result<(), StoreError> {
        self.touch_last();
        for _ in 0..ROUNDS {
            // Each of them may queue something, and what is written may show that there is more to do.
            let _ = timeout(self.patience(), self.under_way.none()).await;
            if self.flush_queue().await? {
                return Ok(());
            }
        }
        // There is always something more, or what is still under way may have something to be written.
        Err(NO_ANSWER)
    }

    /// Gives whether nothing is left, nor in the writer's hand, nor can come of what is under way.
    async fn flush_queue(&self) -> Result<bool, StoreError> {
        let patience = self.patience();
        let writing = self.start_writing(patience).await.ok_or(NO_ANSWER)?;
        let mut flushed = Ok(());
        // What fails is at the end again.
        let queued = lock(&self.queue).len();
        for _ in 0..queued {
            match self.write_next(&writing, patience).await {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    flushed = flushed.and(Err(error));
                    if is_away(error) {
                        break;
                    }
                }
            }
        }
        flushed?;
        // In this order: what is under way queues what comes of it before it is over. And while nobody
        // else writes.
        let is_all = self.under_way.is_none() && lock(&self.queue).is_empty();
        drop(writing);
        Ok(is_all)
    }

    /// The writer may be at something, and has more patience, or another flush. What that is has been
    /// written then, or is in the queue again. `None` if nothing is done for too long.
    async fn start_writing(&self, patience: Duration) -> Option<MutexGuard<'_, ()>> {
        loop {
            let before = self.done.load(Ordering::Relaxed);
            match timeout(patience, self.writing.lock()).await {
                Ok(writing) => return Some(writing),
                Err(_) if self.done.load(Ordering::Relaxed) == before => return None,
                Err(_) => {}
            }
        }
    }
}

fn is_away(error: StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::Unavailable | StoreErrorKind::TimedOut
    )
}

/// What keeps the sessions of a table in stores: usually one, and none where there is no store.
#[derive(Default)]
pub(in crate::session) struct KeptBy(Mutex<Vec<Weak<Persistence>>>);

impl KeptBy {
    pub(super) fn add(&self, persistence: &Arc<Persistence>) {
        let mut all = lock(&self.0);
        all.retain(|it| it.strong_count() > 0);
        all.push(Arc::downgrade(persistence));
    }

    /// Each of these has changed.
    pub(in crate::session) fn changed<'a>(
        &self,
        sessions: impl IntoIterator<Item = &'a Arc<Session>>,
    ) {
        let all = self.all();
        for session in sessions {
            all.iter().for_each(|it| it.changed(session));
        }
    }

    fn all(&self) -> Vec<Arc<Persistence>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}
