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
        #[pin]
        notified: Option<OwnedNotified>,
    }
}

impl Replaced {
    pub(crate) fn new(epoch: Arc<Epoch>) -> Self {
        Self {
            epoch,
            notified: None,
        }
    }
}

impl Future for Replaced {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if this.notified.is_none() {
            // Made before the flag is read, so that a replacement in between is not missed.
            let notified = this.epoch.replacement().notified_owned();
            this.notified.set(Some(notified));
        }
        if this.epoch.is_replaced() {
            return Poll::Ready(());
        }
        match this.notified.as_pin_mut() {
            Some(notified) => notified.poll(cx),
            None => Poll::Pending,
        }
    }
}

pin_project! {
    /// Ready once the epoch has been replaced and those left behind have had their time.
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
}

impl Future for OrphanTimer {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.sleep.is_none() {
            ready!(this.replaced.poll(cx));
        }
        let timeout = *this.timeout;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep(timeout)));
        // It is over even for what has used up tokio's budget.
        pin!(unconstrained(sleep.as_mut())).poll(cx)
    }
}
