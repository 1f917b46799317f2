//! Futures that are dropped at any step.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use shuttle::rand::{Rng, thread_rng};

/// More than anything here is polled for.
pub(super) const STEPS: usize = 6;

/// A future that is dropped after so many polls. Its output, if it had one before.
pub(super) struct Cut<F> {
    future: Option<Pin<Box<F>>>,
    steps: usize,
}

impl<F: Future> Cut<F> {
    pub(super) fn new(steps: usize, future: F) -> Self {
        let future = Some(Box::pin(future));
        Self { future, steps }
    }

    pub(super) fn somewhere(future: F) -> Self {
        Self::new(thread_rng().gen_range(0..STEPS), future)
    }
}

impl<F: Future> Future for Cut<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(steps) = self.steps.checked_sub(1) else {
            self.future = None;
            return Poll::Ready(None);
        };
        self.steps = steps;
        let future = self.future.as_mut().expect("it is not polled again");
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() && steps == 0 {
            // Whether or not anybody wakes it.
            cx.waker().wake_by_ref();
        }
        polled.map(Some)
    }
}
