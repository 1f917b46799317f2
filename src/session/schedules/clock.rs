//! A clock that stands still until it is told to go on: tokio's needs a runtime.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    ops::{Add, Sub},
    pin::pin,
    task::{Poll, Waker},
    time::Duration,
};

thread_local! {
    // All of a schedule runs on one thread.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static WAITING: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0 - duration)
    }
}

/// As tokio's: what is ready is ready, however late it is.
pub(crate) async fn timeout_at<F: Future>(deadline: Instant, future: F) -> Result<F::Output, ()> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if Instant::now() >= deadline {
            return Poll::Ready(Err(()));
        }
        WAITING.with_borrow_mut(|waiting| waiting.push(cx.waker().clone()));
        Poll::Pending
    })
    .await
}

pub(super) fn advance(duration: Duration) {
    NOW.set(NOW.get() + duration);
    WAITING.take().into_iter().for_each(Waker::wake);
}

/// For the next schedule.
pub(super) fn reset() {
    NOW.set(Duration::ZERO);
    WAITING.take();
}
