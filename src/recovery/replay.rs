//! Sends a request in another epoch than it was made for (rules E3, F1 to F7, G2, G4, J3).

use std::{future::poll_fn, sync::Arc};

use http::{Request, Response};
use http_body::Body;

use super::{
    Answered, Delivered, Exchange, Inner, Outcome, Recovery, Refusal,
    examine::{Examined, examine},
    exchange::LastEventId,
};
use crate::{
    body::{RequestBody, ResponseBody},
    mcp::{Id, LostResponse, Verdict},
    session::{Epoch, Flight, InFlight, Landing, Orphaned},
};

impl<S, B> Exchange<S, B>
where
    S: Inner<B>,
    B: Body + Send + 'static,
    B::Error: Send,
{
    /// The request as it is sent again, in the epoch that the session has moved to; or what the
    /// caller gets instead.
    pub(super) fn replay(
        &mut self,
        answer: Examined<S::ResBody>,
        epoch: &Epoch,
    ) -> Result<Request<RequestBody<B>>, Box<Delivered<S, B>>> {
        if let Some(accepted) = self.accepted(epoch) {
            return Err(Box::new(accepted));
        }
        let mut parts = self.head.unpack();
        let refusal = match self.last_event_id_in(&parts.headers, epoch) {
            LastEventId::Refused => Some(Refusal::LastEventId),
            LastEventId::Lost(_) => None,
            LastEventId::Keep | LastEventId::Anew => self.refusal(),
        };
        if let Some(refusal) = refusal {
            let outcome = Outcome::NotReplayed(refusal);
            return Err(Box::new(self.give_back(answer, outcome)));
        }
        match self.address(&mut parts, Some(epoch)) {
            Ok(()) => Ok(Request::from_parts(parts, self.outgoing_body(None))),
            Err(requests) => {
                let lost = self.lost_stream(&requests);
                Err(Box::new(lost.map(ResponseBody::whole)))
            }
        }
    }

    /// Sends a request that was replayed. Once: what that brings goes to the caller.
    pub(super) fn send_again(
        self,
        epoch: Arc<Epoch>,
        request: Request<RequestBody<B>>,
    ) -> impl Future<Output = Answered<S, B>> + Send {
        let sending = self.send(&epoch, request);
        async move {
            let response = match sending.await {
                Ok(response) => response?,
                Err(Orphaned) => return Ok(self.lost_answer(&self.summary().requests)),
            };
            let response = if self.examines(&response) {
                let mut answer = Examined::new(response);
                Box::pin(answer.read(&self.shared.config)).await;
                if self.verdict(&answer) == Verdict::Alive {
                    self.session.chain().lives(&epoch);
                }
                self.pass(answer, &epoch)
            } else {
                self.deliver(response, &epoch)
            };
            Ok(self.mark(response, Outcome::Replayed))
        }
    }

    /// Sends a request that is made for `epoch`, and attends to it while it is under way.
    fn send(
        &self,
        epoch: &Arc<Epoch>,
        request: Request<RequestBody<B>>,
    ) -> impl Future<Output = Result<Result<Response<S::ResBody>, S::Error>, Orphaned>> + Send + use<S, B>
    {
        let mut sending = Box::pin(InFlight::new(self.shared.inner.get().send(request)));
        let somebody_waits = !self.summary().requests.is_empty();
        let mut orphan_timer = self.orphan_timer(epoch).filter(|_| somebody_waits);
        poll_fn(move |cx| sending.as_mut().poll(cx, || orphan_timer.take()))
    }

    /// The answer to the caller's own `notifications/initialized`, which the handshake has sent
    /// (rule F3).
    fn accepted(&self, epoch: &Epoch) -> Option<Delivered<S, B>> {
        if !self.summary().is_initialized {
            return None;
        }
        let mut accepted = epoch.handshake()?.accepted.clone();
        epoch.translate_response(accepted.headers_mut(), self.session.id());
        Some(
            self.mark(accepted, Outcome::Initialized)
                .map(ResponseBody::whole),
        )
    }

    /// Whether a request has nothing to wait for: a response answers a question of the old session,
    /// and an `initialize` makes a session of its own (rules F2, D7). A body that was not kept is
    /// taken for a response if no method is in sight.
    fn belongs_to_the_old_session(&self, unbuffered: Option<&RequestBody<B>>) -> bool {
        match unbuffered {
            Some(unbuffered) => !unbuffered.has_read(b"\"method\""),
            None => self.summary().is_initialize || self.summary().has_response,
        }
    }

    /// A 404 that says that the answers to these requests are lost (rule G6).
    pub(crate) fn lost_answer(&self, ids: &[Id]) -> Delivered<S, B> {
        let lost = LostResponse::SessionExpired.not_found(ids);
        self.mark(lost, Outcome::AnswerLost)
            .map(ResponseBody::whole)
    }
}

/// Sends a request whose body took its time, through a service that has yet to be made ready.
pub(crate) async fn send_first<S, B>(
    exchange: Exchange<S, B>,
    request: Request<RequestBody<B>>,
) -> Answered<S, B>
where
    S: Inner<B>,
    B: Body + Send + 'static,
    B::Error: Send,
{
    let epoch = exchange.epoch().clone();
    match exchange.send(&epoch, request).await {
        Err(Orphaned) => Ok(exchange.lost_answer(&exchange.summary().requests)),
        Ok(response) => {
            let response = response?;
            match exchange.examines(&response) {
                true => examine(exchange, Examined::new(response)).await,
                false => Ok(exchange.deliver(response, &epoch)),
            }
        }
    }
}

/// Waits for a recovery, then sends the request for the first time.
pub(crate) async fn wait<S, B>(
    mut exchange: Exchange<S, B>,
    body: Option<RequestBody<B>>,
    flight: Flight,
) -> Answered<S, B>
where
    S: Inner<B>,
    B: Body + Send + 'static,
    B::Error: Send,
{
    let dead = exchange.epoch().clone();
    let landing = match exchange.belongs_to_the_old_session(body.as_ref()) {
        true => None,
        false => Some(flight.landing().await),
    };
    let snapshot = match landing {
        Some(Landing::Recovered(_)) => exchange.session.chain().snapshot().0,
        _ => exchange.snapshot.clone(),
    };
    let epoch = exchange.session.chain().epoch(&snapshot).clone();
    if epoch.number() != dead.number() {
        if let Some(accepted) = exchange.accepted(&epoch) {
            return Ok(accepted);
        }
    }
    let mut parts = exchange.head.unpack();
    if let Err(requests) = exchange.address(&mut parts, Some(&epoch)) {
        return Ok(exchange.lost_stream(&requests).map(ResponseBody::whole));
    }
    let request = Request::from_parts(parts, exchange.outgoing_body(body));
    exchange.snapshot = snapshot;
    if let Some(Landing::Failed(failed)) = &landing {
        // The server's answer is the caller's (rule J3).
        exchange.outcome = Some(Outcome::Failed(failed.failure));
    }
    let mut response = send_first(exchange, request).await?;
    if let Some(Landing::Recovered(_)) = landing {
        let waited = Recovery::new(Outcome::Waited, epoch.number());
        // If the new session was dead as well, the response tells of that.
        response.extensions_mut().get_or_insert(waited);
    }
    Ok(response)
}
