//! How long the layer may keep a caller waiting for its own answer (rule J5).

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

/// How often other tasks get their turn before it is too late.
const TURNS: usize = 4;

/// What is left of the time that the layer may add to one request. What the request itself takes
/// does not count.
pub(super) struct Allowance {
    left: Duration,
}

impl Allowance {
    pub(super) fn new(left: Duration) -> Self {
        Self { left }
    }

    /// Waits for `work`, but no longer than is left. `None` if that was too short.
    pub(super) async fn spend<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        self.spend_at_most(self.left, work).await
    }

    /// Waits for `work`, but no longer than `share`, nor than is left.
    pub(super) async fn spend_at_most<T>(
        &mut self,
        share: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let started = Instant::now();
        let mut work = pin!(work);
        let mut done = timeout(share.min(self.left), &mut work).await.ok();
        // What ends at the same moment counts: a recovery has no more time than who waits for it.
        for _ in 0..TURNS {
            if done.is_some() {
                break;
            }
            yield_now().await;
            done = poll_fn(|cx| match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
        }
        self.left = self.left.saturating_sub(started.elapsed());
        done
    }

    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// A part of what is left, for what must not take all of it.
    pub(super) fn share(&self, parts: u32) -> Duration {
        self.left / parts
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn j5_all_that_is_added_comes_out_of_one_allowance() {
        let mut allowance = Allowance::new(Duration::from_secs(10));
        let started = Instant::now();
        let quarter = allowance.share(4);
        assert!(
            allowance
                .spend_at_most(quarter, pending::<()>())
                .await
                .is_none()
        );
        assert_eq!(started.elapsed(), Duration::from_millis(2500));
        // The request's own time.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        assert!(allowance.spend(pending::<()>()).await.is_none());
        assert_eq!(started.elapsed(), Duration::from_millis(7500));
        assert!(allowance.spend(pending::<()>()).await.is_none());
        assert!(
            allowance.spend(async {}).await.is_some(),
            "what is ready takes no time"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn j5_for_ever_is_no_time_that_overflows() {
        let mut allowance = Allowance::new(Duration::MAX);
        assert!(allowance.spend(async {}).await.is_some());
    }
}
