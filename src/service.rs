//! The service: sends each request down one of its ways.

use std::{
    fmt, mem,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::{
    SessionRecoveryLayer,
    body::{Collect, Collected, RequestBody, ResponseBody},
    future::ResponseFuture,
    recovery::{Candidate, Exchange, Plan, Route, Shared},
};

/// An HTTP client service whose MCP sessions do not die.
///
/// Made by [`SessionRecoveryLayer`], or with [`new`](Self::new) for the defaults. See the
/// [crate documentation](crate) for what it does.
///
/// Clones share the recorded sessions. The service must be called, and its futures polled, within
/// a tokio runtime with its time driver enabled.
#[derive(Clone)]
pub struct SessionRecovery<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> SessionRecovery<S> {
    /// Wraps a service, with every knob of [`SessionRecoveryLayer`] at its default.
    pub fn new(inner: S) -> Self {
        tower::Layer::layer(&SessionRecoveryLayer::new(), inner)
    }

    pub(crate) fn with(inner: S, shared: Shared) -> Self {
        Self {
            inner,
            shared: Arc::new(shared),
        }
    }

    /// The service that this one wraps.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service that this one wraps, mutably.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service that this one wraps, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for SessionRecovery<S>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Body + Send + Unpin + 'static,
    B::Error: Send,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Send,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let route = Route::of(&self.shared, &request);
        if let Route::Untouched = route {
            return ResponseFuture::untouched(self.inner.call(request.map(RequestBody::untouched)));
        }

        let (parts, body) = request.into_parts();
        let mut collect = Collect::new(body, self.shared.config.max_body_bytes);
        // Most bodies are there at once. If this one is not, the future asks again, with a waker.
        let collected = pin!(&mut collect).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(collected) = collected else {
            let inner = self.release();
            return ResponseFuture::late(self.shared.clone(), route, parts, collect, inner);
        };
        let body = match collected {
            Collected::Whole(kept) => Ok(kept),
            Collected::Unkept(body) => Err(body),
        };
        let session = match route {
            Route::Session(session) => session,
            Route::Candidate | Route::Untouched => {
                let (candidate, body) = Candidate::new(&self.shared, &parts, body);
                let sending = self.inner.call(Request::from_parts(parts, body));
                return match candidate {
                    Some(candidate) => ResponseFuture::candidate(sending, candidate),
                    None => ResponseFuture::untouched(sending),
                };
            }
        };
        match Exchange::plan(&self.shared, session, parts, body, self.inner.clone()) {
            Plan::Send(request, exchange) => {
                ResponseFuture::exchange(self.inner.call(request), exchange)
            }
            Plan::Wait(exchange, body, flight) => {
                self.release();
                ResponseFuture::wait(exchange, body, flight)
            }
            Plan::Answer(response) => {
                self.release();
                ResponseFuture::answer(response)
            }
        }
    }
}

impl<S: Clone> SessionRecovery<S> {
    /// Gives up the readiness of the inner service, and whatever it holds for that, while there
    /// is something else to wait for (rule E3). Gives a clone to be made ready later.
    fn release(&mut self) -> S {
        let inner = self.inner.clone();
        drop(mem::replace(&mut self.inner, inner.clone()));
        inner
    }
}

impl<S: fmt::Debug> fmt::Debug for SessionRecovery<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRecovery")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
