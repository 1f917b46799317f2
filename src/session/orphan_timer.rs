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
