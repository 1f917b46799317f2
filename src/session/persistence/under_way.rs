//! What is being done for sessions in the background, and may have something to write after that.

use tokio::sync::watch;

/// How much there is of it.
pub(super) struct UnderWay(watch::Sender<usize>);

/// One piece of it, until it is dropped.
pub(crate) struct Doing(watch::Sender<usize>);

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

impl Drop for Doing {
    fn drop(&mut self) {
        self.0.send_modify(|many| *many -= 1);
    }
}
