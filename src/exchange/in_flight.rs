//! A request under way: the one place that polls it, hot or cold.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{Exchange, examine};
use crate::{
    body::RequestBody,
    http_service::{HttpService, LayerResult},
    session::OrphanTimer,
};

pin_project! {
    /// A request of a recorded session under way in its epoch. `F` sends it: the inner service's
    /// own future on the hot path, one that makes a clone of it ready on the cold one.
    pub(crate) struct InFlight<F, S, B> {
        #[pin]
        sending: F,
        // Not needed by what is answered at once.
        #[pin]
        orphan_timer: Option<OrphanTimer>,
        is_pending: bool,
        exchange: Option<Exchange<S, B>>,
    }
}

/// What became of a request under way.
pub(crate) enum Answered<S: HttpService<B>, B: Body> {
    /// What the caller gets is known.
    Done(LayerResult<S, B>),
    /// The answer may mean that the session has expired.
    Suspicious(Exchange<S, B>, Response<S::ResBody>),
}

impl<F, S, B> InFlight<F, S, B> {
    pub(crate) fn new(sending: F, exchange: Exchange<S, B>) -> Self {
        Self {
            sending,
            orphan_timer: None,
            is_pending: false,
            exchange: Some(exchange),
        }
    }
}

impl<F, S, B> Future for InFlight<F, S, B>
where
    F: Future<Output = Result<Response<S::ResBody>, S::Error>>,
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    type Output = Answered<S, B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered<S, B>> {
        const COMPLETED: &str = "InFlight polled after completion";

        let mut this = self.project();
        if let Poll::Ready(answer) = this.sending.poll(cx) {
            let exchange = this.exchange.take().expect(COMPLETED);
            return Poll::Ready(match answer {
                Err(error) => Answered::Done(Err(error)),
                Ok(response) if exchange.is_suspicious(&response) => {
                    Answered::Suspicious(exchange, response)
                }
                Ok(response) => Answered::Done(Ok(exchange.deliver(response))),
            });
        }
        let exchange = this.exchange.as_ref().expect(COMPLETED);
        if !std::mem::replace(this.is_pending, true) {
            this.orphan_timer.set(exchange.orphan_timer());
        }
        match this.orphan_timer.as_mut().as_pin_mut() {
            Some(timer) => ready!(timer.poll(cx)),
            None => return Poll::Pending,
        }
        if exchange.summary().requests.is_empty() {
            // Nobody waits for it by id: it has all the time it wants.
            this.orphan_timer.set(None);
            return Poll::Pending;
        }
        Poll::Ready(Answered::Done(Ok(exchange.orphaned())))
    }
}

/// Sends a request through a service that has yet to be made ready.
pub(crate) async fn send<S, B>(
    exchange: Exchange<S, B>,
    request: Request<RequestBody<B>>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let sending = exchange.shared.inner.send(request);
    // Large, and of no use once it is through.
    match Box::pin(InFlight::new(sending, exchange)).await {
        Answered::Done(result) => result,
        Answered::Suspicious(exchange, response) => Box::pin(examine(exchange, response)).await,
    }
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// What tells that the request was left behind in its epoch, if somebody may wait for its
    /// response by id (rule G6).
    fn orphan_timer(&self) -> Option<OrphanTimer> {
        let config = &self.shared.config;
        (config.answer_lost_requests && *self.head.method() == Method::POST)
            .then(|| OrphanTimer::new(self.epoch().clone(), config.orphan_timeout))
    }
}
