//! Waiting in an epoch that may be replaced (rules G1, G6).

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    sync::futures::OwnedNotified,
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
        this.sleep
            .get_or_insert_with(|| Box::pin(sleep(timeout)))
            .as_mut()
            .poll(cx)
    }
}

pin_project! {
    /// A request under way in an epoch that may be replaced.
    pub(crate) struct InFlight<F> {
        #[pin]
        sending: F,
        #[pin]
        orphan_timer: Option<OrphanTimer>,
        asked: bool,
    }
}

/// The request was left behind in an epoch that has been replaced, and not answered in time.
#[derive(Debug)]
pub(crate) struct Orphaned;

impl<F: Future> InFlight<F> {
    pub(crate) fn new(sending: F) -> Self {
        Self {
            sending,
            orphan_timer: None,
            asked: false,
        }
    }

    /// The outcome of the request. `orphan_timer` is asked for once, if there is anything to wait for:
    /// it gives `None` for what nobody waits for by id.
    pub(crate) fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        orphan_timer: impl FnOnce() -> Option<OrphanTimer>,
    ) -> Poll<Result<F::Output, Orphaned>> {
        let mut this = self.project();
        if let Poll::Ready(output) = this.sending.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if !std::mem::replace(this.asked, true) {
            this.orphan_timer.set(orphan_timer());
        }
        match this.orphan_timer.as_pin_mut() {
            Some(orphan_timer) => orphan_timer.poll(cx).map(|()| Err(Orphaned)),
            None => Poll::Pending,
        }
    }

    /// Nobody waits for it by id after all: it has all the time it wants.
    pub(crate) fn keep_waiting(self: Pin<&mut Self>) {
        self.project().orphan_timer.set(None);
    }
}
