//! The future of a response: the one place that polls a request, hot or cold.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    body::{Collect, RequestBody, ResponseBody},
    config::Shared,
    exchange::{Answered, Candidate, Exchange, InFlight, Prepared, examine, send_anew, send_first},
    http_service::{HttpService, LayerResult},
    route::{Route, Way},
};

pin_project! {
    /// The future of a response of [`SessionRecovery`](crate::SessionRecovery).
    pub struct ResponseFuture<S, B>
    where
        S: HttpService<B>,
        B: Body,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B>
    where
        S: HttpService<B>,
        B: Body,
    {
        // None of the layer's business.
        Untouched { #[pin] sending: S::Future },
        // Maybe an `initialize`, under way.
        Candidate { #[pin] sending: S::Future, candidate: Option<(Box<Candidate>, Arc<Shared<S>>)> },
        // A request of a recorded session, under way.
        InFlight { #[pin] in_flight: InFlight<S, B> },
        // Whatever takes longer.
        Cold { cold: Cold<S, B> },
        // The layer's own answer.
        Answer { response: Option<Response<Bytes>> },
    }
}

type Cold<S, B> = Pin<Box<dyn Future<Output = LayerResult<S, B>> + Send>>;

const COMPLETED: &str = "ResponseFuture polled after completion";

impl<S, B> ResponseFuture<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    pub(crate) fn untouched(sending: S::Future) -> Self {
        State::Untouched { sending }.into()
    }

    pub(crate) fn candidate(
        sending: S::Future,
        candidate: Box<Candidate>,
        shared: Arc<Shared<S>>,
    ) -> Self {
        let candidate = Some((candidate, shared));
        State::Candidate { sending, candidate }.into()
    }

    pub(crate) fn in_flight(sending: S::Future, exchange: Exchange<S, B>) -> Self {
        let in_flight = InFlight::new(sending, exchange);
        State::InFlight { in_flight }.into()
    }

    pub(crate) fn answer(response: Response<Bytes>) -> Self {
        let response = Some(response);
        State::Answer { response }.into()
    }

    /// Waits for a recovery, holding nothing of the inner service.
    pub(crate) fn wait(exchange: Exchange<S, B>, unbuffered: Option<RequestBody<B>>) -> Self {
        let cold: Cold<S, B> = Box::pin(send_first(exchange, unbuffered));
        State::Cold { cold }.into()
    }

    /// Waits for the store, holding nothing of the inner service.
    #[cfg(feature = "store")]
    pub(crate) fn unknown(
        shared: Arc<Shared<S>>,
        key: Box<crate::session::Key>,
        request: http::Request<B>,
    ) -> Self {
        let cold: Cold<S, B> = Box::pin(unknown(shared, key, request));
        State::Cold { cold }.into()
    }

    /// Waits for the body, holding nothing of the inner service.
    pub(crate) fn late(
        shared: Arc<Shared<S>>,
        route: Route,
        parts: Parts,
        collect: Collect<B>,
    ) -> Self {
        let cold: Cold<S, B> = Box::pin(late(shared, route, parts, collect));
        State::Cold { cold }.into()
    }
}

impl<S, B> From<State<S, B>> for ResponseFuture<S, B>
where
    S: HttpService<B>,
    B: Body,
{
    fn from(state: State<S, B>) -> Self {
        Self { state }
    }
}

impl<S, B> Future for ResponseFuture<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    type Output = Result<Response<ResponseBody<S::ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let cold: Cold<S, B> = match this.state.as_mut().project() {
                StateProj::Untouched { sending } => {
                    let response = ready!(sending.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::untouched)));
                }
                StateProj::Candidate { sending, candidate } => {
                    let response = ready!(sending.poll(cx))?;
                    let (candidate, shared) = candidate.take().expect(COMPLETED);
                    return Poll::Ready(Ok(candidate.settle(&shared, response)));
                }
                StateProj::InFlight { in_flight } => match ready!(in_flight.poll(cx)) {
                    Answered::Done(result) => return Poll::Ready(result),
                    Answered::Suspicious(exchange, response) => examining(exchange, response),
                    Answered::LeftBehind(exchange) => Box::pin(send_anew(exchange)),
                },
                StateProj::Cold { cold } => return cold.as_mut().poll(cx),
                StateProj::Answer { response } => {
                    let response = response.take().expect(COMPLETED);
                    return Poll::Ready(Ok(response.map(ResponseBody::whole)));
                }
            };
            this.state.set(State::Cold { cold });
        }
    }
}

/// Apart from the hot path, where the stack that it takes to make this future would be paid for by
/// every request.
#[cold]
#[inline(never)]
fn examining<S, B>(exchange: Exchange<S, B>, response: Response<S::ResBody>) -> Cold<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    Box::pin(examine(exchange, response))
}

/// Asks the store for the session of a request, then does as the service would have done.
#[cfg(feature = "store")]
async fn unknown<S, B>(
    shared: Arc<Shared<S>>,
    key: Box<crate::session::Key>,
    request: http::Request<B>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    let found = match &shared.persistence {
        Some(persistence) => persistence.find(*key).await,
        None => None,
    };
    match Route::of_found(found, request.headers()) {
        Route::Untouched => {
            let request = request.map(RequestBody::untouched);
            let response = shared.inner.send(request).await?;
            Ok(response.map(ResponseBody::untouched))
        }
        route => {
            let (parts, body) = request.into_parts();
            let collect = Collect::new(body, shared.config.max_body_bytes);
            late(shared, route, parts, collect).await
        }
    }
}

/// Collects a body that was not there at once, then does as the service would have done, through a
/// clone that has yet to be made ready.
async fn late<S, B>(
    shared: Arc<Shared<S>>,
    route: Route,
    parts: Parts,
    collect: Collect<B>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    match route.prepare(&shared, parts, collect.await) {
        Way::Untouched(request) => {
            let response = shared.inner.send(request).await?;
            Ok(response.map(ResponseBody::untouched))
        }
        Way::Candidate(candidate, request) => {
            let response = shared.inner.send(request).await?;
            Ok(candidate.settle(&shared, response))
        }
        Way::Session(Prepared::Send(exchange, request)) => {
            // Made for the epoch that is current now; by the time the service is ready there may be
            // another.
            let unbuffered = exchange.unbuffered(request.into_body());
            send_first(exchange, unbuffered).await
        }
        Way::Session(Prepared::Wait(exchange, unbuffered)) => {
            send_first(exchange, unbuffered).await
        }
        Way::Session(Prepared::Answer(response)) => Ok(response.map(ResponseBody::whole)),
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: HttpService<B>,
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
