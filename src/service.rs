//! The service: sends each request down one of its ways.

use std::{
    fmt,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::{
    SessionRecoveryLayer, Sessions,
    body::{Collect, RequestBody, ResponseBody},
    future::ResponseFuture,
    recovery::{Candidate, Config, Exchange, Plan, Route, Shared, SharedService},
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
    shared: Arc<Shared<S>>,
}

impl<S> SessionRecovery<S> {
    /// Wraps a service, with every knob of [`SessionRecoveryLayer`] at its default.
    pub fn new(inner: S) -> Self
    where
        S: Clone,
    {
        tower::Layer::layer(&SessionRecoveryLayer::new(), inner)
    }

    pub(crate) fn with(inner: S, config: Config, sessions: Sessions) -> Self
    where
        S: Clone,
    {
        let shared = Shared {
            config,
            sessions,
            inner: SharedService::new(inner.clone()),
        };
        Self {
            inner,
            shared: Arc::new(shared),
        }
    }

    /// The service that this one wraps.
    pub fn get_ref(&self) -> &S {
        &self.inner
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

        let (mut parts, body) = request.into_parts();
        let mut collect = Collect::new(body, self.shared.config.max_body_bytes);
        // Most bodies are there at once. If this one is not, the future asks again, with a waker.
        let collected = pin!(&mut collect).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(body) = collected else {
            self.release();
            return ResponseFuture::late(self.shared.clone(), route, parts, collect);
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
        let (exchange, plan) = Exchange::plan(&self.shared, session, &mut parts, body);
        match plan {
            Plan::Send(body) => {
                let sending = self.inner.call(Request::from_parts(parts, body));
                ResponseFuture::exchange(sending, exchange)
            }
            Plan::Wait(body, flight) => {
                self.release();
                ResponseFuture::wait(exchange, body, flight)
            }
            Plan::Lost(requests) => {
                self.release();
                ResponseFuture::answer(exchange.lost_stream(&requests))
            }
        }
    }
}

impl<S: Clone> SessionRecovery<S> {
    /// Gives up the readiness of the inner service, and whatever it holds for that, while there
    /// is something else to wait for (rule E3).
    fn release(&mut self) {
        self.inner = self.shared.inner.get();
    }
}

impl<S: fmt::Debug> fmt::Debug for SessionRecovery<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionRecovery")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
