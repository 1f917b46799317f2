//! The future of a response: the states of the hot path. The cold path is boxed.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use crate::{
    body::{Collect, RequestBody, ResponseBody},
    recovery::{
        Candidate, Examined, Exchange, Inner, Plan, Route, Shared, examine, send_first, wait,
    },
    session::{Flight, InFlight, Orphaned},
};

pin_project! {
    /// The future of a response of [`SessionRecovery`](crate::SessionRecovery).
    pub struct ResponseFuture<S, B, R>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>>,
        B: Body,
        R: Body,
    {
        #[pin]
        state: State<S, B, R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, R>
    where
        S: Service<Request<RequestBody<B>>, Response = Response<R>>,
        B: Body,
        R: Body,
    {
        // None of the layer's business.
        Untouched { #[pin] sending: S::Future },
        // Maybe an `initialize`, under way.
        Candidate { #[pin] sending: S::Future, candidate: Option<Box<Candidate<S>>> },
        // A request of a recorded session, under way.
        Exchange { #[pin] sending: InFlight<S::Future>, exchange: Option<Exchange<S, B>> },
        // Whatever takes longer.
        Cold { cold: Cold<R, S::Error> },
        // The layer's own answer.
        Answer { response: Option<Response<Bytes>> },
    }
}

type Cold<R, E> = Pin<Box<dyn Future<Output = Result<Response<ResponseBody<R>>, E>> + Send>>;

const COMPLETED: &str = "ResponseFuture polled after completion";

impl<S, B, R> ResponseFuture<S, B, R>
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
    pub(crate) fn untouched(sending: S::Future) -> Self {
        State::Untouched { sending }.into()
    }

    pub(crate) fn candidate(sending: S::Future, candidate: Candidate<S>) -> Self {
        let candidate = Some(Box::new(candidate));
        State::Candidate { sending, candidate }.into()
    }

    pub(crate) fn exchange(sending: S::Future, exchange: Exchange<S, B>) -> Self {
        let sending = InFlight::new(sending);
        let exchange = Some(exchange);
        State::Exchange { sending, exchange }.into()
    }

    pub(crate) fn answer(response: Response<Bytes>) -> Self {
        let response = Some(response);
        State::Answer { response }.into()
    }

    /// Waits for a recovery, holding nothing of the inner service.
    pub(crate) fn wait(
        exchange: Exchange<S, B>,
        body: Option<RequestBody<B>>,
        flight: Flight,
    ) -> Self {
        let cold: Cold<R, S::Error> = Box::pin(wait(exchange, body, flight));
        State::Cold { cold }.into()
    }

    /// Waits for the body, holding nothing of the inner service.
    pub(crate) fn late(
        shared: Arc<Shared<S>>,
        route: Route,
        parts: Parts,
        collect: Collect<B>,
    ) -> Self {
        let cold: Cold<R, S::Error> = Box::pin(late(shared, route, parts, collect));
        State::Cold { cold }.into()
    }
}

impl<S, B, R> From<State<S, B, R>> for ResponseFuture<S, B, R>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
{
    fn from(state: State<S, B, R>) -> Self {
        Self { state }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B, R>
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
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let cold: Cold<R, S::Error> = match this.state.as_mut().project() {
                StateProj::Untouched { sending } => {
                    let response = ready!(sending.poll(cx))?;
                    return Poll::Ready(Ok(response.map(ResponseBody::untouched)));
                }
                StateProj::Candidate { sending, candidate } => {
                    let response = ready!(sending.poll(cx))?;
                    let candidate = candidate.take().expect(COMPLETED);
                    return Poll::Ready(Ok(candidate.settle(response)));
                }
                StateProj::Exchange {
                    mut sending,
                    exchange,
                } => {
                    let waiting = exchange.as_ref().expect(COMPLETED);
                    let orphan_timer = || waiting.orphan_timer(waiting.epoch());
                    let response = match ready!(sending.as_mut().poll(cx, orphan_timer)) {
                        Ok(response) => response?,
                        Err(Orphaned) => {
                            let ids = &waiting.summary().requests;
                            if ids.is_empty() {
                                sending.keep_waiting();
                                continue;
                            }
                            return Poll::Ready(Ok(waiting.lost_answer(ids)));
                        }
                    };
                    let exchange = exchange.take().expect(COMPLETED);
                    if !exchange.examines(&response) {
                        return Poll::Ready(Ok(exchange.deliver(response, exchange.epoch())));
                    }
                    examining(exchange, response)
                }
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
fn examining<S, B, R>(exchange: Exchange<S, B>, response: Response<R>) -> Cold<R, S::Error>
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
    Box::pin(examine(exchange, Examined::new(response)))
}

/// Collects a body that was not there at once, then does as the service would have done.
async fn late<S, B, R>(
    shared: Arc<Shared<S>>,
    route: Route,
    mut parts: Parts,
    collect: Collect<B>,
) -> Result<Response<ResponseBody<R>>, S::Error>
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
    let body = collect.await;
    let session = match route {
        Route::Session(session) => session,
        Route::Candidate | Route::Untouched => {
            let (candidate, body) = Candidate::new(&shared, &parts, body);
            let response = shared
                .inner
                .get()
                .send(Request::from_parts(parts, body))
                .await?;
            return Ok(match candidate {
                Some(candidate) => candidate.settle(response),
                None => response.map(ResponseBody::untouched),
            });
        }
    };
    let (exchange, plan) = Exchange::plan(&shared, session, &mut parts, body);
    match plan {
        Plan::Send(body) => send_first(exchange, Request::from_parts(parts, body)).await,
        Plan::Wait(body, flight) => wait(exchange, body, flight).await,
        Plan::Lost(requests) => Ok(exchange.lost_stream(&requests).map(ResponseBody::whole)),
    }
}

impl<S, B, R> fmt::Debug for ResponseFuture<S, B, R>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    B: Body,
    R: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
