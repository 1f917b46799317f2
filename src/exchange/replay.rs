//! The second and last sending of a request that found its epoch expired (rules F1 to F7, G2, G4, J5).

use std::future::poll_fn;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::{Exchange, LastEventId, allowance::Allowance, examine::Examined, in_flight::Next};
use crate::{
    Failure, Outcome, Refusal,
    body::ResponseBody,
    http_service::{HttpService, LayerResponse},
    mcp::Message,
    session::Affinity,
};

/// Sends the request again in the epoch that is current then, if that is allowed. Otherwise the
/// caller gets its own `answer`.
pub(super) async fn replay<S, B>(
    mut exchange: Exchange<S, B>,
    answer: Examined<S::ResBody>,
    mut allowance: Allowance,
) -> Next<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    if let Some(accepted) = exchange.accepted() {
        return Next::answer(exchange.bring_cookies(accepted.map(ResponseBody::whole)));
    }
    if let Some(refusal) = exchange.refusal() {
        return Next::answer(exchange.give_back_last(answer, Outcome::NotReplayed(refusal)));
    }
    let mut service = loop {
        let mut service = exchange.shared.inner.get();
        match allowance.spend(poll_fn(|cx| service.poll_ready(cx))).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Next::Answer(Err(error)),
            // It may never be (rule J5).
            None => {
                let not_sent = Outcome::NotReplayed(Refusal::NotReady);
                return Next::answer(exchange.give_back_last(answer, not_sent));
            }
        }
        // It may have made room meanwhile, and its id be another's by now: that shows when it is back.
        if exchange.has_ended() {
            let forgotten = Failure::Forgotten.into();
            return Next::answer(exchange.fail(answer, &forgotten));
        }
        if exchange.session.chain().is_current(exchange.epoch()) {
            break service;
        }
        // It has expired in its turn. Nothing of the service is held while that is seen to.
        drop(service);
        if let Err(error) = exchange.recover(&mut allowance).await {
            return Next::answer(exchange.fail(answer, &error));
        }
    };
    drop(answer);
    exchange.allowance = Some(allowance);
    // Whatever it brings goes to the caller (rule F1).
    exchange.outcome = Some(Outcome::Replayed);
    let mut request = Request::from_parts(exchange.unpack(), exchange.body());
    match exchange.address(request.headers_mut()) {
        Ok(()) => Next::Sent(service.call(request), exchange),
        Err(response) => Next::answer(exchange.bring_cookies(response.map(ResponseBody::whole))),
    }
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// The answer to the caller's own `notifications/initialized`, which the handshake of the epoch
    /// has sent (rule F3).
    pub(super) fn accepted(&self) -> Option<Response<Bytes>> {
        let handshake = self.epoch().handshake()?;
        // What a server says to a stranger is for the server to say (rule D8).
        if !self.summary().is_initialized || !self.has_epochs_credentials() {
            return None;
        }
        let mut accepted = handshake.accepted.clone();
        self.epoch()
            .translate_response(accepted.headers_mut(), self.session.id());
        Some(self.mark(accepted, Outcome::Initialized))
    }

    /// Why the request is not to be sent again, if so (rules F2, F4, F5, G4).
    fn refusal(&self) -> Option<Refusal> {
        if self.has_last_event_id {
            match self.last_event_id(&self.unpack().headers) {
                LastEventId::Refused => return Some(Refusal::LastEventId),
                LastEventId::Lost(_) => return None,
                LastEventId::Keep | LastEventId::Drop => {}
            }
        }
        let Some(body) = &self.body else {
            return Some(Refusal::BodyNotBuffered);
        };
        if self.summary().has_response {
            return Some(Refusal::Response);
        }
        let replay_when = self.shared.config.replay_when.as_ref()?;
        let mut replayable = true;
        let read = Message::each(&body.data(), |message| {
            replayable = replayable && replay_when(&message);
        });
        (read.is_some() && !replayable).then_some(Refusal::ReplayWhen)
    }

    /// The response to the request that triggered a recovery tells of the cookies that were set in
    /// it, if the caller sends cookies at all (rule E11).
    pub(super) fn bring_cookies<T>(&self, mut response: Response<T>) -> Response<T> {
        if let Some(affinity) = self.affinity_to_tell() {
            affinity.tell_before(response.headers_mut());
        }
        response
    }

    /// The request's own answer, which came before the handshake and tells of its cookies last.
    fn give_back_last(
        &self,
        answer: Examined<S::ResBody>,
        outcome: Outcome,
    ) -> LayerResponse<S, B> {
        let mut response = self.give_back(answer, outcome);
        if let Some(affinity) = self.affinity_to_tell() {
            affinity.tell_after(response.headers_mut());
        }
        response
    }

    fn affinity_to_tell(&self) -> Option<&Affinity> {
        let is_told = self.led && self.head.value(&http::header::COOKIE).is_some();
        let handshake = self.epoch().handshake().filter(|_| is_told)?;
        Some(&handshake.affinity)
    }
}
