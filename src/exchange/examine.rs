//! Reads a verdict out of an answer, and acts on it (rules D1 to D7, J1, J2).

use http::{Method, Response, header::CONTENT_LENGTH};
use http_body::Body;
use tokio::time::timeout;
use tracing::debug;

use super::{Exchange, replay::replay};
use crate::{
    Outcome,
    body::{BufferedBody, ReadAhead, ResponseBody},
    config::Config,
    http_service::{HttpService, LayerResponse, LayerResult},
    mcp::{HttpAnswer, Verdict},
    recovery::{self, ping},
    session::{Claim, FlightResult},
};

/// An answer that may be about the session, read as far as the limit allows.
pub(crate) struct Examined<R: Body> {
    head: http::response::Parts,
    body: ReadAhead<R>,
}

impl<R: Body> Examined<R> {
    /// Reads the body, so that its connection is free again before anything else is sent.
    pub(super) async fn read(response: Response<R>, config: &Config) -> Self {
        let (head, body) = response.into_parts();
        let mut body = ReadAhead::new(body);
        let limit = config.max_error_body_bytes;
        // What has been read when the time is up stays read.
        let _ = timeout(config.recovery_timeout, body.fill(limit)).await;
        Self { head, body }
    }

    /// Gives up what was not read of the body, since its connection may be the only one that a
    /// recovery can use (rule D5).
    fn drop_rest(&mut self) {
        if self.body.drop_rest() {
            self.head.headers.remove(CONTENT_LENGTH);
        }
    }

    pub(super) fn verdict(
        &self,
        config: &Config,
        method: &Method,
        message: Option<&[u8]>,
    ) -> Verdict {
        // After a truncated answer nothing is done over (rule F6).
        if self.body.is_broken() || !config.classify.examines(self.head.status) {
            return Verdict::Alive;
        }
        let body = self.body.bytes(config.max_error_body_bytes);
        config
            .classify
            .classify(&HttpAnswer::of(method, message, &self.head, &body))
    }
}

/// Finds out whether an answer means that the session has expired, and recovers it if so. Gives
/// what the caller gets.
///
/// Thousands may wait here for one recovery, so what only follows it is boxed, and made when its
/// time has come.
#[expect(
    clippy::manual_async_fn,
    reason = "which would keep the parameters twice"
)]
pub(crate) fn examine<S, B>(
    exchange: Exchange<S, B>,
    response: Response<S::ResBody>,
) -> impl Future<Output = LayerResult<S, B>> + Send
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    async move {
        let config = &exchange.shared.config;
        let mut answer = Examined::read(response, config).await;
        let message = exchange.body.as_ref().map(BufferedBody::data);
        let verdict = answer.verdict(config, exchange.head.method(), message.as_deref());
        drop(message);
        if let Some(outcome) = exchange.outcome {
            // It was sent again, and is not sent a third time (rule F1).
            if verdict == Verdict::Alive {
                exchange.session.chain().lives(exchange.epoch());
            }
            return Ok(exchange.give_back(answer, outcome));
        }
        let expired = match verdict {
            Verdict::Alive => false,
            _ if exchange.summary().is_initialize => false,
            Verdict::Expired => true,
            Verdict::Unsure => exchange.has_moved() || Box::pin(exchange.ping()).await,
        };
        if !expired {
            exchange.session.chain().lives(exchange.epoch());
            return Ok(exchange.pass(answer));
        }
        debug!(
            host = exchange.session.endpoint().host(),
            epoch = exchange.epoch().number(),
            status = answer.head.status.as_u16(),
            "session expired"
        );
        if !config.reinitialize {
            return Ok(exchange.give_back(answer, Outcome::Detected));
        }
        answer.drop_rest();
        match exchange.recover().await {
            Ok(_) => {
                let snapshot = exchange.session.chain().snapshot().0;
                Box::pin(replay(exchange, answer, snapshot)).await
            }
            Err(error) => {
                let outcome = Outcome::Failed(error.failure);
                Ok(match &error.challenge {
                    Some(challenge) => exchange
                        .mark(Response::clone(challenge), outcome)
                        .map(ResponseBody::whole),
                    None => exchange.give_back(answer, outcome),
                })
            }
        }
    }
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn has_moved(&self) -> bool {
        self.session.chain().current().number() != self.epoch().number()
    }

    /// Whether the server, when asked, does not know the session (rule D4).
    async fn ping(&self) -> bool {
        let config = &self.shared.config;
        let trigger = self.head.unpack();
        let asked = ping::<S, B>(&self.shared, &self.session, self.epoch(), &trigger);
        let expired = async {
            let Some((response, message)) = asked.await else {
                return false;
            };
            let answer = Examined::read(response, config).await;
            answer.verdict(config, &Method::POST, Some(&message)) == Verdict::Expired
        };
        tokio::time::timeout(config.recovery_timeout, expired)
            .await
            .unwrap_or(false)
    }

    /// Waits for the one recovery of the epoch, and starts it if this request is the first.
    async fn recover(&self) -> FlightResult {
        match self.session.chain().claim(self.snapshot()) {
            Claim::Moved(epoch) => Ok(epoch),
            Claim::Failed(error) => Err(error),
            Claim::Join(flight) => flight.ended().await,
            Claim::Lead(flight, leader) => {
                recovery::start::<S, B>(
                    self.shared.clone(),
                    self.session.clone(),
                    self.epoch().clone(),
                    &self.head.unpack(),
                    leader,
                );
                flight.ended().await
            }
        }
    }

    /// The answer that was read ahead, whole again.
    pub(super) fn pass(&self, answer: Examined<S::ResBody>) -> LayerResponse<S, B> {
        let mut response = Response::from_parts(answer.head, ResponseBody::wrapped(answer.body));
        self.epoch()
            .translate_response(response.headers_mut(), self.session.id());
        response
    }

    /// The request's own answer, with what happened.
    pub(super) fn give_back(
        &self,
        answer: Examined<S::ResBody>,
        outcome: Outcome,
    ) -> LayerResponse<S, B> {
        self.mark(self.pass(answer), outcome)
    }
}
