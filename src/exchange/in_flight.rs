//! A request under way: the one place that polls it, hot or cold.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Method, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::{
    Exchange,
    examine::examine,
    wait::{SetOut, set_out},
};
use crate::{
    Outcome,
    http_service::{HttpService, LayerResponse, LayerResult},
    session::OrphanTimer,
};

pin_project! {
    /// A request of a recorded session under way in its epoch, hot or cold, and whatever follows
    /// until the caller has its answer.
    #[project = InFlightProj]
    pub(crate) enum InFlight<S, B>
    where
        S: HttpService<B>,
        B: Body,
    {
        Sent {
            #[pin]
            sending: S::Future,
            // Not needed by what is answered at once.
            #[pin]
            orphan_timer: Option<OrphanTimer>,
            is_pending: bool,
            exchange: Option<Exchange<S, B>>,
        },
        Later { later: Later<S, B> },
    }
}

/// What takes longer than the answer itself: that may mean that the session has expired, or there is
/// none and the session has moved on.
pub(super) type Later<S, B> = Pin<Box<dyn Future<Output = Next<S, B>> + Send>>;

/// What follows that. Thousands of requests may have waited for one recovery: each lets go of what
/// it had for that before it goes on.
pub(super) enum Next<S: HttpService<B>, B: Body> {
    /// What the caller gets.
    Answer(LayerResult<S, B>),
    /// The request has been sent again.
    Sent(S::Future, Exchange<S, B>),
    Later(Later<S, B>),
}

impl<S: HttpService<B>, B: Body> Next<S, B> {
    pub(super) fn answer(response: LayerResponse<S, B>) -> Self {
        Self::Answer(Ok(response))
    }
}

const COMPLETED: &str = "ResponseFuture polled after completion";

impl<S, B> InFlight<S, B>
where
    S: HttpService<B>,
    B: Body,
{
    // Inlined, since what it gives is large.
    #[inline(always)]
    pub(crate) fn new(sending: S::Future, exchange: Exchange<S, B>) -> Self {
        Self::Sent {
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
    type Output = LayerResult<S, B>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LayerResult<S, B>> {
        loop {
            let next = match self.as_mut().project() {
                InFlightProj::Later { later } => ready!(later.as_mut().poll(cx)),
                InFlightProj::Sent {
                    sending,
                    mut orphan_timer,
                    is_pending,
                    exchange: sent,
                } => {
                    let exchange = sent.as_ref().expect(COMPLETED);
                    if let Poll::Ready(answer) = sending.poll(cx) {
                        let result = match answer {
                            Err(error) => Err(error),
                            Ok(response) if exchange.is_suspicious(&response) => {
                                let later = examine_apart(sent, response);
                                self.set(Self::Later { later });
                                continue;
                            }
                            Ok(response) => Ok(exchange.deliver(response)),
                        };
                        // Where it is: it is large.
                        *sent = None;
                        return Poll::Ready(result);
                    }
                    if !std::mem::replace(is_pending, true) {
                        orphan_timer.set(exchange.orphan_timer());
                    }
                    match orphan_timer.as_mut().as_pin_mut() {
                        Some(timer) => ready!(timer.poll(cx)),
                        None => return Poll::Pending,
                    }
                    if *exchange.head.method() == Method::GET {
                        let exchange = sent.take().expect(COMPLETED);
                        Next::Later(Box::pin(send_anew(exchange)))
                    } else if exchange.requests().is_empty() {
                        // Nobody waits for it by id: it has all the time it wants.
                        orphan_timer.set(None);
                        return Poll::Pending;
                    } else {
                        return Poll::Ready(Ok(exchange.orphaned()));
                    }
                }
            };
            match next {
                Next::Answer(result) => return Poll::Ready(result),
                Next::Sent(sending, exchange) => self.set(Self::new(sending, exchange)),
                Next::Later(later) => self.set(Self::Later { later }),
            }
        }
    }
}

/// Apart from the hot path, where the stack that it takes to make this future would be paid for by
/// every request.
#[cold]
#[inline(never)]
fn examine_apart<S, B>(
    exchange: &mut Option<Exchange<S, B>>,
    response: Response<S::ResBody>,
) -> Later<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let exchange = exchange.take().expect(COMPLETED);
    Box::pin(examine(exchange, response))
}

/// Sends a GET that was left behind without an answer in the epoch that is current now, as its
/// stream would have moved there (rules G1, G2, G4). It may be left behind there as well, any number
/// of times, so it is not waited for here.
async fn send_anew<S, B>(mut exchange: Exchange<S, B>) -> Next<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    exchange.outcome = Some(Outcome::Replayed);
    let body = exchange.body();
    match set_out(exchange, body).await {
        Ok((SetOut::Sent(sending, exchange), _)) => Next::Sent(sending, exchange),
        Ok((SetOut::Answer(response), _)) => Next::answer(response),
        Err(error) => Next::Answer(Err(error)),
    }
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
        let timer = |timeout| OrphanTimer::new(self.epoch().clone(), timeout);
        match *self.head.method() {
            Method::POST if config.answer_lost_requests => {
                Some(timer(config.orphan_timeout).or_abandoned())
            }
            // Without its body it would be another request (rule F4).
            Method::GET if self.body.is_none() => None,
            Method::GET if self.has_last_event_id => Some(timer(config.orphan_timeout)),
            Method::GET => Some(timer(Duration::ZERO)),
            _ => None,
        }
    }
}
