//! Reads a verdict out of an answer, and acts on it (rules D1 to D7, J1, J2).

use http::Response;
use http_body::Body;
use tracing::debug;

use super::{
    Answered, Config, Delivered, Exchange, Inner, Outcome,
    client::{Client, UpstreamSession},
    run,
};
use crate::{
    body::{BufferedBody, ReadAhead, ResponseBody},
    mcp::{HttpAnswer, Id, Verdict},
    session::{Claim, Epoch, Landing},
};

/// An answer that may be about the session, read as far as the limit allows.
pub(crate) struct Examined<R: Body> {
    head: http::response::Parts,
    body: ReadAhead<R>,
}

impl<R: Body> Examined<R> {
    /// Nothing of the body has been read yet.
    pub(crate) fn new(response: Response<R>) -> Self {
        let (head, body) = response.into_parts();
        let body = ReadAhead::new(body);
        Self { head, body }
    }

    /// Reads the body, so that its connection is free again before anything else is sent.
    pub(super) async fn read(&mut self, config: &Config) {
        let limit = config.max_error_body_bytes;
        self.body.fill(limit, config.recovery_timeout).await;
    }

    fn verdict(&self, config: &Config, method: &http::Method, message: Option<&[u8]>) -> Verdict {
        // After a truncated answer nothing is done over (rule F6).
        if self.body.is_broken() || !config.classify.examines(self.head.status) {
            return Verdict::Alive;
        }
        let body = self.body.bytes(config.max_error_body_bytes);
        config
            .classify
            .classify(&HttpAnswer::new(method, message, &self.head, &body))
    }
}

/// Finds out whether an answer means that the session is dead, and recovers it if so. Gives what
/// the caller gets.
///
/// Thousands may wait here for one recovery, so what only follows it is boxed, and made when its
/// time has come.
#[expect(
    clippy::manual_async_fn,
    reason = "which would keep the parameters twice"
)]
pub(crate) fn examine<S, B>(
    mut exchange: Exchange<S, B>,
    mut answer: Examined<S::ResBody>,
) -> impl Future<Output = Answered<S, B>> + Send
where
    S: Inner<B>,
    B: Body + Send + 'static,
    B::Error: Send,
{
    async move {
        let config = &exchange.shared.config;
        answer.read(config).await;
        let expired = match exchange.verdict(&answer) {
            Verdict::Alive => false,
            _ if exchange.summary().is_initialize => false,
            Verdict::Expired => true,
            Verdict::Unsure => {
                exchange.has_moved() || Box::pin(exchange.ping_finds_it_dead()).await
            }
        };
        if !expired {
            exchange.session.chain().lives(exchange.epoch());
            return Ok(exchange.pass(answer, exchange.epoch()));
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
        match exchange.recover().await {
            Landing::Recovered(epoch) => match exchange.replay(answer, &epoch) {
                Ok(request) => Box::pin(exchange.send_again(epoch, request)).await,
                Err(response) => Ok(*response),
            },
            Landing::Failed(failed) => {
                let outcome = Outcome::Failed(failed.failure);
                Ok(match &failed.challenge {
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
    S: Inner<B>,
    B: Body + Send + 'static,
    B::Error: Send,
{
    pub(super) fn verdict(&self, answer: &Examined<S::ResBody>) -> Verdict {
        let message = self.body.as_ref().map(BufferedBody::data);
        answer.verdict(&self.shared.config, self.head.method(), message.as_deref())
    }

    fn has_moved(&self) -> bool {
        self.session.chain().current().number() != self.epoch().number()
    }

    /// Asks the server whether it knows the session, with the request's own credentials (rule D4).
    async fn ping_finds_it_dead(&self) -> bool {
        let config = &self.shared.config;
        let recorded = &self.session.initialize().headers;
        let client = Client::<S, B>::new(self.shared.clone(), recorded, &self.head.unpack());
        let id = Id::from("mcp-session-recovery/ping".to_owned());
        let ping = serde_json::json!({"jsonrpc": "2.0", "id": id.as_json(), "method": "ping"});
        let message = ping.to_string();
        let asking = async {
            let upstream = UpstreamSession::of(self.epoch());
            let posted = client.post(&upstream, message.clone().into()).await;
            let Ok(response) = posted else { return false };
            if response.status().is_success() {
                return false;
            }
            let mut answer = Examined::new(response);
            answer.read(config).await;
            let verdict = answer.verdict(config, &http::Method::POST, Some(message.as_bytes()));
            verdict == Verdict::Expired
        };
        tokio::time::timeout(config.recovery_timeout, asking)
            .await
            .unwrap_or(false)
    }

    /// Waits for the one recovery of the epoch, and starts it if this request is the first.
    async fn recover(&self) -> Landing {
        match self.session.chain().claim(&self.snapshot) {
            Claim::Moved(epoch) => Landing::Recovered(epoch),
            Claim::Failed(failed) => Landing::Failed(failed),
            Claim::Join(flight) => flight.landing().await,
            Claim::Lead(flight, leader) => {
                run::spawn::<S, B>(
                    self.shared.clone(),
                    self.session.clone(),
                    self.epoch().clone(),
                    &self.head.unpack(),
                    leader,
                );
                flight.landing().await
            }
        }
    }

    /// The answer that was read ahead, whole again.
    pub(super) fn pass(&self, answer: Examined<S::ResBody>, epoch: &Epoch) -> Delivered<S, B> {
        let mut response = Response::from_parts(answer.head, ResponseBody::wrapped(answer.body));
        epoch.translate_response(response.headers_mut(), self.session.id());
        response
    }

    /// The request's own answer, with what happened.
    pub(super) fn give_back(
        &self,
        answer: Examined<S::ResBody>,
        outcome: Outcome,
    ) -> Delivered<S, B> {
        self.mark(self.pass(answer, self.epoch()), outcome)
    }
}
