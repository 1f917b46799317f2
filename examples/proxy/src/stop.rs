//! Stopping: who is still busy, and the end of what would go on.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy;
use pin_project_lite::pin_project;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};
use tower::{BoxError, Layer, Service};

use super::reason::Unanswered;

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
}

/// Cuts off the upstream when everything is to end. It sits below the session layer, which then
/// says, in each stream that should have brought an answer, that there will be none.
impl<S> Layer<S> for Stop {
    type Service = Stoppable<S>;

    fn layer(&self, inner: S) -> Stoppable<S> {
        let ended = self.ended.clone();
        Stoppable { inner, ended }
    }
}

/// See [`Stop`].
#[derive(Debug, Clone)]
pub struct Stoppable<S> {
    inner: S,
    ended: CancellationToken,
}

impl<S, Q, R> Service<Request<Q>> for Stoppable<S>
where
    S: Service<Request<Q>, Response = Response<R>, Error = legacy::Error>,
    S::Future: Send + 'static,
{
    type Response = Response<Stopping<R>>;
    type Error = Unanswered;
    type Future = BoxFuture<'static, Result<Self::Response, Unanswered>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unanswered>> {
        self.inner.poll_ready(cx).map_err(Unanswered::Failed)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        // Nothing is lost in a listening stream: to its client the end means to open another.
        let ends_cleanly = *request.method() == Method::GET;
        let answer = self.inner.call(request);
        let ended = self.ended.clone();
        let stoppable = async move {
            let answer = tokio::select! {
                answer = answer => answer.map_err(Unanswered::Failed)?,
                () = ended.cancelled() => return Err(Unanswered::Stopped),
            };
            Ok(answer.map(|body| Stopping {
                body,
                ended: ended.cancelled_owned(),
                ends_cleanly,
                stopped: false,
            }))
        };
        stoppable.boxed()
    }
}

pin_project! {
    /// A body that ends, or breaks, when everything is to end.
    pub struct Stopping<B> {
        #[pin]
        body: B,
        #[pin]
        ended: WaitForCancellationFutureOwned,
        ends_cleanly: bool,
        stopped: bool,
    }
}

impl<B> Body for Stopping<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if *this.stopped {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if this.ended.poll(cx).is_pending() {
            return Poll::Pending;
        }
        *this.stopped = true;
        let broken = (!*this.ends_cleanly).then(|| Err("the proxy stops".into()));
        Poll::Ready(broken)
    }

    fn is_end_stream(&self) -> bool {
        self.stopped || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
