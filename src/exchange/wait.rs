//! A request that finds its session being recovered (rules E3, F2, J3), or that is sent through a
//! service which has yet to be made ready.

use std::future::poll_fn;

use http::{Method, Request};
use http_body::Body;

use super::{Exchange, InFlight, exchange::unknown_session};
use crate::{
    Failure, Outcome, Recovery, Refusal,
    body::{RequestBody, ResponseBody},
    http_service::{HttpService, LayerResponse, LayerResult},
    mcp::{SESSION_ID, is_large_request},
    session::Snapshot,
};

/// Sends a request for the first time, once its session is there to be used and the inner service
/// is ready, and sees it through.
pub(crate) async fn send_first<S, B>(
    exchange: Exchange<S, B>,
    body: RequestBody<B>,
) -> LayerResult<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let (set_out, waited) = set_out(exchange, body).await?;
    let mut response = match set_out {
        // Large, and of no use once it is through.
        SetOut::Sent(sending, exchange) => Box::pin(InFlight::new(sending, exchange)).await?,
        SetOut::Answer(response) => response,
    };
    if let Some(waited) = waited {
        // If the new session had expired as well, the response tells of that.
        response.extensions_mut().get_or_insert(waited);
    }
    Ok(response)
}

/// What has become of a request that was to be sent for the first time.
pub(super) enum SetOut<S: HttpService<B>, B: Body> {
    Sent(S::Future, Exchange<S, B>),
    /// It was not sent, and this is what the caller gets.
    Answer(LayerResponse<S, B>),
}

/// Waits for the session, holding nothing of the inner service, then for that, and sends the
/// request. Tells, too, whether it has waited for a new session.
pub(super) async fn set_out<S, B>(
    mut exchange: Exchange<S, B>,
    body: RequestBody<B>,
) -> Result<(SetOut<S, B>, Option<Recovery>), S::Error>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    // It makes a session of its own (rule D7).
    let is_initialize = exchange.is_initialize();
    let mut stays = is_initialize;
    let is_response = exchange.is_response(&body);
    let mut has_waited = false;
    let (mut service, has_ended) = loop {
        if !stays && !exchange.is_current() {
            match exchange.wait(is_response).await {
                Waited::Moved => has_waited = true,
                Waited::Stays => stays = true,
                Waited::Answer(response) => return Ok((SetOut::Answer(response), None)),
            }
        }
        let mut service = exchange.shared.inner.get();
        poll_fn(|cx| service.poll_ready(cx)).await?;
        // It may have made room meanwhile, and its id be another's by now: that shows when it is back.
        let has_ended = !stays && exchange.has_ended();
        if stays || has_ended || exchange.is_current() {
            break (service, has_ended);
        }
    };
    if is_initialize && !exchange.is_current() {
        // It is answered in the session that there is now.
        exchange.enter(exchange.session.chain().snapshot().0);
    }
    let waited = has_waited.then(|| Recovery::new(Outcome::Waited, exchange.epoch().number()));
    let mut request = Request::from_parts(exchange.unpack(), body);
    if has_ended {
        exchange.outcome = Some(Outcome::Failed(Failure::Forgotten));
    }
    let is_taken = has_ended || exchange.is_taken();
    if is_taken && !is_initialize {
        let lost = match has_ended {
            true => None,
            false => exchange.lost_answer(request.headers()),
        };
        let answer = lost.map(|lost| lost.map(ResponseBody::whole));
        let answer = answer.unwrap_or_else(|| exchange.turn_away());
        return Ok((SetOut::Answer(answer), None));
    }
    let set_out = match exchange.address(request.headers_mut()) {
        Ok(()) => {
            if is_taken {
                request.headers_mut().remove(SESSION_ID);
            }
            SetOut::Sent(service.call(request), exchange)
        }
        Err(response) => SetOut::Answer(response.map(ResponseBody::whole)),
    };
    // What its readiness held is the request's now.
    drop(service);
    Ok((set_out, waited))
}

/// What a request does after it has waited for its session.
enum Waited<R> {
    /// It is one of the current epoch.
    Moved,
    /// It is sent in the epoch that was not replaced, or, if it must not be, where it arrived.
    Stays,
    /// It is not sent.
    Answer(R),
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn is_current(&self) -> bool {
        self.session.chain().is_current(self.epoch())
    }

    async fn wait(&mut self, is_response: bool) -> Waited<LayerResponse<S, B>> {
        if !self.leads() && !self.session.chain().is_recovering() {
            return Waited::Stays;
        }
        let arrived = self.snapshot().clone();
        let mut allowance = self.take_allowance();
        let recovered = self.recover(&mut allowance).await;
        self.allowance = Some(allowance);
        if let Err(error) = recovered {
            // The challenge is for those whose credentials met it; for the others the server's
            // answer is theirs (rules J1, J3).
            self.outcome = Some(Outcome::Failed(error.failure));
            return match self.challenge(&error) {
                Some(challenge) => Waited::Answer(challenge),
                None => {
                    // An earlier epoch's id is nobody's any more, or another's.
                    if !is_response && self.epoch().is_replaced() {
                        self.enter(self.session.chain().snapshot().0);
                    }
                    Waited::Stays
                }
            };
        }
        if let Some(accepted) = self.accepted() {
            return Waited::Answer(self.bring_cookies(accepted).map(ResponseBody::whole));
        }
        if !is_response {
            return Waited::Moved;
        }
        // It answers a question of the old session, whatever that id means in the new one.
        let new = self.epoch().id().cloned();
        self.enter(arrived);
        // If the server calls both by the same id, or another's, there is no way to the old one.
        if self.epoch().id() == new.as_ref() || self.is_taken() {
            self.outcome = Some(Outcome::NotReplayed(Refusal::Response));
            return Waited::Answer(self.turn_away());
        }
        Waited::Stays
    }

    /// The answer to a request that must not be sent: the server would take it for another's.
    fn turn_away(&self) -> LayerResponse<S, B> {
        let mut response = unknown_session();
        let only_tells = !self.shared.config.reinitialize;
        if let Some(outcome) = self.outcome.or(only_tells.then_some(Outcome::Detected)) {
            response = self.mark(response, outcome);
        }
        if *self.head.method() == Method::DELETE {
            self.note_end(response.status());
        }
        response.map(ResponseBody::whole)
    }

    /// A response is one of the epoch that it arrived in, however late its body is (rule F2). Gives whether
    /// that is the current one.
    pub(crate) fn stays_in(&mut self, arrived: Snapshot, body: &RequestBody<B>) -> bool {
        if self.is_response(body) {
            self.enter(arrived);
        }
        self.is_current()
    }

    /// Whether it is a JSON-RPC response, or a batch with one (rule F2). A body that was not
    /// buffered is taken for one unless it certainly is a request.
    fn is_response(&self, body: &RequestBody<B>) -> bool {
        match body.kept() {
            Some(_) => self.summary().has_response,
            None => !body.has_read(is_large_request),
        }
    }
}
