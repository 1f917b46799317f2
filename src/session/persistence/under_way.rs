//! What is being done for sessions in the background, and may have something to write after that.

use std::sync::Arc;

use tokio::sync::watch;

use super::Persistence;
use crate::session::Session;

/// How much there is of it.
pub(super) struct UnderWay(watch::Sender<usize>);

/// One piece of it, until it is dropped.
pub(crate) struct Doing(watch::Sender<usize>);

/// The same, for a session that is not forgotten for want of room before that.
pub(crate) struct DoingFor {
    persistence: Arc<Persistence>,
    session: Arc<Session>,
    _doing: Doing,
}

impl Persistence {
    /// Something is done that may have something to be written after it, until this is dropped.
    pub(crate) fn doing(&self) -> Doing {
        self.under_way.begin()
    }

    /// The same for a session.
    pub(crate) fn doing_for(self: &Arc<Self>, session: &Arc<Session>) -> DoingFor {
        session.with_synced(|_, synced| synced.doing += 1);
        DoingFor {
            persistence: self.clone(),
            session: session.clone(),
            _doing: self.doing(),
        }
    }
}

impl UnderWay {
    pub(super) fn begin(&self) -> Doing {
        self.0.send_modify(|many| *many += 1);
        Doing(self.0.clone())
    }

    pub(super) fn is_none(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Waits until there is none.
    pub(super) async fn none(&self) {
        let mut many = self.0.subscribe();
        let _ = many.wait_for(|many| *many == 0).await;
    }
}

impl Default for UnderWay {
    fn default() -> Self {
        Self(watch::channel(0).0)
    }
}

impl Drop for DoingFor {
    fn drop(&mut self) {
        self.session.with_synced(|_, synced| synced.doing -= 1);
        self.persistence.written();
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        self.0.send_modify(|many| *many -= 1);
    }
}
