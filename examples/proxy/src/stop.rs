//! Stopping: who is still busy, and the end of streams that would never end by themselves.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// A handle on everything that is under way.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    ended: CancellationToken,
    calls: TaskTracker,
}

impl Stop {
    /// Counts a call as under way until the token is dropped.
    pub fn call(&self) -> TaskTrackerToken {
        self.calls.token()
    }

    /// Waits until no call is under way.
    pub async fn no_more_calls(&self) {
        self.calls.close();
        self.calls.wait().await;
    }

    /// Ends whatever is still under way.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Ready once everything is to end.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// A body that ends, as if it were complete, when everything is to end: to a client that is a
    /// stream to be opened again, and no error. `call` is held until then.
    pub fn body<B>(&self, body: B, call: Option<TaskTrackerToken>) -> Stopping<B> {
        Stopping {
            body,
            ended: self.ended.clone().cancelled_owned(),
            stopped: false,
            call,
        }
    }
}

pin_project! {
    /// See [`Stop::body`].
    pub struct Stopping<B> {
        #[pin]
        body: B,
        #[pin]
        ended: WaitForCancellationFutureOwned,
        stopped: bool,
        call: Option<TaskTrackerToken>,
    }
}

impl<B: Body<Data = Bytes>> Body for Stopping<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if *this.stopped {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if this.ended.poll(cx).is_pending() {
            return Poll::Pending;
        }
        *this.stopped = true;
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.stopped || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
