//! A request under way: the one place that polls it, hot or cold.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{Exchange, examine::examine, send_first};
use crate::{
    Outcome,
    body::RequestBody,
    http_service::{HttpService, LayerResult},
    session::OrphanTimer,
};

pin_project! {
    /// A request of a recorded session under way in its epoch, hot or cold.
    pub(crate) struct InFlight<S, B>
    where
        S: HttpService<B>,
        B: Body,
    {
        #[pin]
        sending: S::Future,
        // Not needed by what is answered at once.
        #[pin]
        orphan_timer: Option<OrphanTimer>,
        is_pending: bool,
        exchange: Option<Exchange<S, B>>,
    }
}

/// Whatever takes longer than the answer itself.
pub(crate) type Cold<S, B> = Pin<Box<dyn Future<Output = LayerResult<S, B>> + Send>>;

const COMPLETED: &str = "ResponseFuture polled after completion";

/// What became of a request under way.
pub(crate) enum Answered<S: HttpService<B>, B: Body> {
    /// What the caller gets is known.
    Done(LayerResult<S, B>),
    /// It is not, and this finds out: the answer may mean that the session has expired, or there is
    /// none and the session has moved on.
    Later(Cold<S, B>),
}

impl<S, B> InFlight<S, B>
where
    S: HttpService<B>,
    B: Body,
{
    // Inlined, since what it gives is large.
    #[inline(always)]
    pub(crate) fn new(sending: S::Future, exchange: Exchange<S, B>) -> Self {
        Self {
            sending,
            orphan_timer: None,
            is_pending: false,
            exchange: Some(exchange),
        }
    }
}

impl<S, B> Future for InFlight<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    type Output = Answered<S, B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<S, B>> {
        let mut this = self.project();
        let exchange = this.exchange.as_ref().expect(COMPLETED);
        if let Poll::Ready(answer) = this.sending.poll(cx) {
            let result = match answer {
                Err(error) => Err(error),
                Ok(response) if exchange.is_suspicious(&response) => {
                    return Poll::Ready(examine_apart(this.exchange, response));
                }
                Ok(response) => Ok(exchange.deliver(response)),
            };
            // Where it is: it is large.
            *this.exchange = None;
            return Poll::Ready(Answered::Done(result));
        }
        if !std::mem::replace(this.is_pending, true) {
            this.orphan_timer.set(exchange.orphan_timer());
        }
        match this.orphan_timer.as_mut().as_pin_mut() {
            Some(timer) => ready!(timer.poll(cx)),
            None => return Poll::Pending,
        }
        if *exchange.head.method() == Method::GET {
            let exchange = this.exchange.take().expect(COMPLETED);
            return Poll::Ready(Answered::Later(Box::pin(send_anew(exchange))));
        }
        if exchange.requests().is_empty() {
            // Nobody waits for it by id: it has all the time it wants.
            this.orphan_timer.set(None);
            return Poll::Pending;
        }
        Poll::Ready(Answered::Done(Ok(exchange.orphaned())))
    }
}

/// Sends a request through a service that was made ready for it, on the cold path.
pub(super) async fn send<S, B>(
    mut service: S,
    exchange: Exchange<S, B>,
    request: Request<RequestBody<B>>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let sending = service.call(request);
    // What its readiness held is the request's now.
    drop(service);
    // Large, and of no use once it is through.
    match Box::pin(InFlight::new(sending, exchange)).await {
        Answered::Done(result) => result,
        Answered::Later(later) => later.await,
    }
}

/// Apart from the hot path, where the stack that it takes to make this future would be paid for by
/// every request.
#[cold]
#[inline(never)]
fn examine_apart<S, B>(
    exchange: &mut Option<Exchange<S, B>>,
    response: Response<S::ResBody>,
) -> Answered<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let exchange = exchange.take().expect(COMPLETED);
    Answered::Later(Box::pin(examine(exchange, response)))
}

/// Sends a GET that was left behind without an answer in the epoch that is current now, as its
/// stream would have moved there (rules G1, G2, G4).
async fn send_anew<S, B>(mut exchange: Exchange<S, B>) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    exchange.outcome = Some(Outcome::Replayed);
    let body = exchange.body();
    send_first(exchange, body).await
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// What tells that the request was left behind in its epoch, if somebody may wait for its
    /// response by id (rule G6), or for its stream (rule G1). Nothing but an answer that is still to
    /// come is waited for.
    fn orphan_timer(&self) -> Option<OrphanTimer> {
        let config = &self.shared.config;
        let timeout = match *self.head.method() {
            Method::POST if config.answer_lost_requests => config.orphan_timeout,
            Method::GET if self.has_last_event_id => config.orphan_timeout,
            Method::GET => Duration::ZERO,
            _ => return None,
        };
        Some(OrphanTimer::new(self.epoch().clone(), timeout))
    }
}
