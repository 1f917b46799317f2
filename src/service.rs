//! The service: sends each request down one of its ways.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::{
    SessionRecoveryLayer, Sessions,
    body::{Collect, RequestBody, ResponseBody},
    config::{Config, Shared},
    exchange::{Candidate, Exchange, Prepared},
    future::ResponseFuture,
    http_service::{HttpService, SharedService},
    route::{Route, Touched},
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
            #[cfg(feature = "store")]
            persistence: config.persistence(&sessions),
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

    /// The service that this one wraps, to be changed.
    ///
    /// A change is this clone's alone, unless the wrapped service shares its state with its own
    /// clones: other clones of this one have theirs, and so have the requests that the layer sends
    /// itself, and those that it does not send at once, since they wait for their body, their session
    /// or a store, or are answered without it. The first of these that this clone is called with leaves
    /// it with the service as it was wrapped, and the change is gone: what is to last is for the service
    /// before it is wrapped, or for what its clones share.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service that this one wraps, by value.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B> Service<Request<B>> for SessionRecovery<S>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    type Response = Response<ResponseBody<S::ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let touched = match Route::of(&self.shared, &mut request) {
            Route::Touched(touched) => touched,
            Route::Untouched => {
                let request = request.map(RequestBody::untouched);
                return ResponseFuture::untouched(self.inner.call(request));
            }
            #[cfg(feature = "store")]
            Route::Unknown(key) => {
                self.release();
                return ResponseFuture::unknown(self.shared.clone(), key, request);
            }
        };
        let (parts, body) = request.into_parts();
        let body = match Collect::at_once(body, self.shared.config.max_body_bytes) {
            Ok(body) => body,
            Err(collect) => {
                self.release();
                return ResponseFuture::late(self.shared.clone(), touched, parts, collect);
            }
        };
        let mut request = Request::from_parts(parts, body);
        let of = match touched {
            Touched::Session(of) => of,
            Touched::Candidate(principal) => {
                let candidate = Candidate::of_request(&request, principal);
                let sending = self.inner.call(request);
                return ResponseFuture::candidate(sending, candidate, &self.shared);
            }
        };
        let (mut exchange, is_there) = Exchange::new(&self.shared, of, &request);
        match exchange.prepare(is_there, request.headers_mut()) {
            Prepared::Send => ResponseFuture::in_flight(self.inner.call(request), exchange),
            Prepared::Wait => {
                self.release();
                ResponseFuture::wait(exchange, request.into_body())
            }
            Prepared::Answer(response) => {
                self.release();
                ResponseFuture::answer(*response)
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
