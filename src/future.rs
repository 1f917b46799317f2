//! The future of a response: the one place that polls a request, hot or cold.

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

use crate::{
    body::{Collect, RequestBody, ResponseBody},
    config::Shared,
    exchange::{Candidate, Exchange, InFlight, Prepared, send_first},
    http_service::{HttpService, LayerResult},
    route::Touched,
};
#[cfg(feature = "store")]
use crate::{exchange::unknown_session, route::Route, session::Found};

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

/// Whatever takes longer than a request under way.
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
        candidate: Option<Candidate>,
        shared: &Arc<Shared<S>>,
    ) -> Self {
        let Some(candidate) = candidate else {
            return Self::untouched(sending);
        };
        let candidate = Some((Box::new(candidate), shared.clone()));
        State::Candidate { sending, candidate }.into()
    }

    // Inlined, since what it gives is large.
    #[inline(always)]
    pub(crate) fn in_flight(sending: S::Future, exchange: Exchange<S, B>) -> Self {
        let in_flight = InFlight::new(sending, exchange);
        State::InFlight { in_flight }.into()
    }

    pub(crate) fn answer(response: Response<Bytes>) -> Self {
        let response = Some(response);
        State::Answer { response }.into()
    }

    /// Waits for a recovery, holding nothing of the inner service.
    pub(crate) fn wait(exchange: Exchange<S, B>, body: RequestBody<B>) -> Self {
        let cold: Cold<S, B> = Box::pin(send_first(exchange, body));
        State::Cold { cold }.into()
    }

    /// Waits for the store, holding nothing of the inner service.
    #[cfg(feature = "store")]
    pub(crate) fn unknown(
        shared: Arc<Shared<S>>,
        key: Box<crate::session::Key>,
        request: Request<B>,
    ) -> Self {
        let cold: Cold<S, B> = Box::pin(unknown(shared, key, request));
        State::Cold { cold }.into()
    }

    /// Waits for the body, holding nothing of the inner service.
    pub(crate) fn late(
        shared: Arc<Shared<S>>,
        touched: Touched,
        parts: Parts,
        collect: Collect<B>,
    ) -> Self {
        let cold: Cold<S, B> = Box::pin(late(shared, touched, parts, collect));
        State::Cold { cold }.into()
    }
}

impl<S, B> From<State<S, B>> for ResponseFuture<S, B>
where
    S: HttpService<B>,
    B: Body,
{
    #[inline(always)]
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
        match self.project().state.project() {
            StateProj::Untouched { sending } => {
                let response = ready!(sending.poll(cx))?;
                Poll::Ready(Ok(response.map(ResponseBody::untouched)))
            }
            StateProj::Candidate { sending, candidate } => {
                let response = ready!(sending.poll(cx))?;
                let (candidate, shared) = candidate.take().expect(COMPLETED);
                Poll::Ready(Ok(candidate.settle(&shared, response)))
            }
            StateProj::InFlight { in_flight } => in_flight.poll(cx),
            StateProj::Cold { cold } => cold.as_mut().poll(cx),
            StateProj::Answer { response } => {
                let response = response.take().expect(COMPLETED);
                Poll::Ready(Ok(response.map(ResponseBody::whole)))
            }
        }
    }
}

/// Asks the store for the session of a request, then does as the service would have done.
#[cfg(feature = "store")]
async fn unknown<S, B>(
    shared: Arc<Shared<S>>,
    key: Box<crate::session::Key>,
    request: Request<B>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    let found = match &shared.persistence {
        Some(persistence) => {
            crate::recovery::reconcile::<S, B>(&shared);
            match persistence.find(*key).await {
                Found::Session(session) => Some(session),
                Found::Displaced => {
                    return Ok(unknown_session().map(ResponseBody::whole));
                }
                Found::Nothing => None,
            }
        }
        None => None,
    };
    match Route::of_found(found, &request) {
        Route::Touched(touched) => {
            let (parts, body) = request.into_parts();
            let collect = Collect::new(body, shared.config.max_body_bytes);
            late(shared, touched, parts, collect).await
        }
        Route::Untouched | Route::Unknown(_) => {
            let request = request.map(RequestBody::untouched);
            let response = shared.inner.send(request).await?;
            Ok(response.map(ResponseBody::untouched))
        }
    }
}

/// Collects a body that was not there at once, then does as the service would have done, through a
/// clone that has yet to be made ready.
async fn late<S, B>(
    shared: Arc<Shared<S>>,
    touched: Touched,
    parts: Parts,
    collect: Collect<B>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + Unpin + 'static,
{
    let arrived = match &touched {
        Touched::Session(of) => Some(of.session.chain().snapshot().0),
        Touched::Candidate(_) => None,
    };
    let mut request = Request::from_parts(parts, collect.await);
    let of = match touched {
        Touched::Session(of) => of,
        Touched::Candidate(principal) => {
            let candidate = Candidate::of_request(&request, principal);
            let response = shared.inner.send(request).await?;
            return Ok(match candidate {
                Some(candidate) => candidate.settle(&shared, response),
                None => response.map(ResponseBody::untouched),
            });
        }
    };
    let (mut exchange, mut is_there) = Exchange::new(&shared, of, &request);
    if let Some(arrived) = arrived {
        is_there &= exchange.stays_in(arrived, request.body());
    }
    match exchange.prepare(is_there, request.headers_mut()) {
        // Where it could be sent, that was in the epoch that is current now; by the time the service
        // is ready there may be another.
        Prepared::Send | Prepared::Wait => send_first(exchange, request.into_body()).await,
        Prepared::Answer(response) => Ok(response.map(ResponseBody::whole)),
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
