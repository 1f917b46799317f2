//! Waiting in an epoch that may be replaced (rules G1, G6).

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
    task::coop::unconstrained,
    time::{Sleep, sleep},
};

use super::Epoch;

pin_project! {
    /// Ready once the epoch has been replaced. Costs nothing until it is polled.
    pub(crate) struct Replaced {
        epoch: Arc<Epoch>,
        is_over: fn(&Epoch) -> bool,
        #[pin]
        notified: Option<OwnedNotified>,
    }
}

impl Replaced {
    pub(crate) fn new(epoch: Arc<Epoch>) -> Self {
        Self {
            epoch,
            is_over: Epoch::is_replaced,
            notified: None,
        }
    }
}

impl Replaced {
    fn is_over(self: Pin<&Self>) -> bool {
        (self.is_over)(&self.epoch)
    }
}

impl Future for Replaced {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            if this.notified.is_none() {
                // Made before it is looked, so that what happens in between is not missed.
                let notified = this.epoch.replacement().notified_owned();
                this.notified.set(Some(notified));
            }
            if (this.is_over)(this.epoch) {
                return Poll::Ready(());
            }
            if let Some(notified) = this.notified.as_mut().as_pin_mut() {
                ready!(notified.poll(cx));
            }
            this.notified.set(None);
        }
    }
}

pin_project! {
    /// Ready once the epoch has been replaced, or abandoned, and those left behind have had their time.
    pub(crate) struct OrphanTimer {
        #[pin]
        replaced: Replaced,
        timeout: Duration,
        sleep: Option<Pin<Box<Sleep>>>,
    }
}

impl OrphanTimer {
    pub(crate) fn new(epoch: Arc<Epoch>, timeout: Duration) -> Self {
        Self {
            replaced: Replaced::new(epoch),
            timeout,
            sleep: None,
        }
    }
    /// The same for what cannot go on elsewhere: also if the epoch has been abandoned.
    pub(crate) fn or_abandoned(mut self) -> Self {
        self.replaced.is_over = Epoch::is_left;
        self
    }
}

impl Future for OrphanTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            if this.sleep.is_none() {
                ready!(this.replaced.as_mut().poll(cx));
            }
            let timeout = *this.timeout;
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep(timeout)));
            // It is over even for what has used up tokio's budget.
            ready!(pin!(unconstrained(sleep.as_mut())).poll(cx));
            // What was abandoned may be used again.
            if this.replaced.as_ref().is_over() {
                return Poll::Ready(());
            }
            *this.sleep = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::session::{
        Sessions,
        fixture::{ENDPOINT, recorded},
    };

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn is_over(timer: Pin<&mut OrphanTimer>, within: Duration) -> bool {
        timeout(within, timer).await.is_ok()
    }

    /// I2, G6: whoever can go on elsewhere waits for that; the others are told, unless the epoch is used
    /// again before their time is over.
    #[tokio::test(start_paused = true)]
    async fn i2_g6_what_is_abandoned_is_over_after_its_time_unless_it_is_back() {
        let session = recorded(&Sessions::new(), ENDPOINT, "1");
        let epoch = session.chain().first().clone();
        let mut moves = pin!(OrphanTimer::new(epoch.clone(), PATIENCE));
        let mut stays = pin!(OrphanTimer::new(epoch.clone(), PATIENCE).or_abandoned());
        epoch.abandon();
        assert!(!is_over(stays.as_mut(), PATIENCE / 2).await);
        #[cfg(feature = "store")]
        {
            session.chain().is_back();
            assert!(!is_over(stays.as_mut(), 2 * PATIENCE).await);
            epoch.abandon();
            assert!(!is_over(stays.as_mut(), PATIENCE / 2).await);
        }
        assert!(is_over(stays.as_mut(), PATIENCE).await);
        assert!(!is_over(moves.as_mut(), 2 * PATIENCE).await);
        epoch.replace();
        assert!(is_over(moves.as_mut(), 2 * PATIENCE).await);
    }
}
