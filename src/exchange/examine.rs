//! Reads a verdict out of an answer, and acts on it (rules D1 to D9, J1, J2, J4, J5).

use http::{
    Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH},
};
use http_body::Body;
use tracing::debug;

use super::{Exchange, allowance::Allowance, replay::replay};
use crate::{
    Outcome,
    body::{BufferedBody, ReadAhead, ResponseBody},
    config::Config,
    http_service::{HttpService, LayerResponse, LayerResult},
    mcp::{HttpAnswer, Verdict},
    recovery::{authorization, ping},
    session::{RecoveryError, Standing},
};

/// Of what the layer may add to a request, one part in so many is for the body of an error: the
/// rest is for doing something about it.
const BODY_PARTS: u32 = 4;

/// An answer that may be about the session, read as far as the limit allows.
pub(super) struct Examined<R: Body> {
    head: http::response::Parts,
    body: ReadAhead<R>,
}

impl<R: Body> Examined<R> {
    /// Reads the body, so that its connection is free again before anything else is sent.
    async fn read(response: Response<R>, config: &Config, allowance: &mut Allowance) -> Self {
        let (head, body) = response.into_parts();
        let mut body = ReadAhead::new(body);
        let fill = body.fill(config.max_error_body_bytes);
        let share = allowance.share(BODY_PARTS);
        // What has been read when the time is up stays read.
        let _ = allowance.spend_at_most(share, fill).await;
        Self { head, body }
    }

    /// What the answer says about the session. `same` tells that it was given to the very
    /// `authorization` that the epoch was made with.
    fn verdict(
        &self,
        config: &Config,
        method: &Method,
        message: Option<&[u8]>,
        same: bool,
    ) -> Verdict {
        // After a truncated answer nothing is done over (rule F6).
        if self.body.is_broken() || !config.classify.examines(self.head.status) {
            return Verdict::Alive;
        }
        let body = self.body.bytes(config.max_error_body_bytes);
        let answer = HttpAnswer::of(method, message, &self.head, &body);
        config
            .classify
            .classify(&answer.with_same_authorization(same))
    }

    /// Lets go of what has not been read. The answer is as long as what has been.
    fn drop_rest(&mut self) {
        if self.body.drop_rest() {
            self.head.headers.remove(CONTENT_LENGTH);
        }
    }

    /// Whether an answer that was found alive proves that the session is: one that broke off says
    /// nothing, and these only that the server did not look at the request (rule J4).
    fn is_proof(&self) -> bool {
        let status = self.head.status;
        !self.body.is_broken()
            && !status.is_server_error()
            && !matches!(
                status,
                StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::PROXY_AUTHENTICATION_REQUIRED
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
            )
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
    mut exchange: Exchange<S, B>,
    response: Response<S::ResBody>,
) -> impl Future<Output = LayerResult<S, B>> + Send
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    async move {
        let shared = exchange.shared.clone();
        let config = &shared.config;
        let mut allowance = exchange.take_allowance();
        let mut answer = Examined::read(response, config, &mut allowance).await;
        let verdict = exchange.verdict(&answer);
        if let Some(outcome) = exchange.outcome {
            // It was sent again, and is not sent a third time (rule F1).
            match verdict {
                Verdict::Alive => exchange.note_life(&answer),
                Verdict::Expired => exchange.session.chain().useless(exchange.epoch()),
                Verdict::Unsure => {}
            }
            return Ok(exchange.give_back(answer, outcome));
        }
        let expired = match verdict {
            Verdict::Alive => {
                exchange.note_life(&answer);
                false
            }
            Verdict::Expired => true,
            Verdict::Unsure => Box::pin(exchange.ask(answer.head.status, &mut allowance)).await,
        };
        if !expired {
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
        if !exchange.is_paused() {
            // What is left of it would hold its connection, which the recovery may need (rule D5).
            answer.drop_rest();
        }
        match exchange.recover(&mut allowance).await {
            Ok(()) => Box::pin(replay(exchange, answer, allowance)).await,
            Err(error) => Ok(exchange.fail(answer, &error)),
        }
    }
}

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn verdict(&self, answer: &Examined<S::ResBody>) -> Verdict {
        let message = self.body.as_ref().map(BufferedBody::data);
        let config = &self.shared.config;
        let same = self.has_epochs_authorization();
        let verdict = answer.verdict(config, self.head.method(), message.as_deref(), same);
        let is_not_found = answer.head.status == StatusCode::NOT_FOUND;
        match verdict {
            Verdict::Alive => Verdict::Alive,
            // It makes a session of its own (rule D7).
            _ if self.summary().is_initialize => Verdict::Alive,
            _ if self.is_about_nothing(answer) => Verdict::Alive,
            // Some servers answer so to the wrong credentials (rule D8).
            Verdict::Expired if is_not_found && !self.has_epochs_credentials() => Verdict::Unsure,
            verdict => verdict,
        }
    }

    /// A 404 where there was no session to be found (rules D7, E8).
    fn is_about_nothing(&self, answer: &Examined<S::ResBody>) -> bool {
        answer.head.status == StatusCode::NOT_FOUND && self.epoch().id().is_none()
    }

    /// Whether the request carries the `authorization` that its epoch was made with. Where that is
    /// not known, there is none to go by (rule N2).
    fn has_epochs_credentials(&self) -> bool {
        let credentials = self.session.credentials(self.epoch());
        credentials.is_none_or(|credentials| {
            self.head.header(&AUTHORIZATION).as_ref() == authorization(credentials)
        })
    }

    /// There is one, and it is that of the epoch (rule D9).
    fn has_epochs_authorization(&self) -> bool {
        self.head.header(&AUTHORIZATION).is_some()
            && self.session.credentials(self.epoch()).is_some()
            && self.has_epochs_credentials()
    }

    /// Whether the session must not be recovered for now (rule K6).
    fn is_paused(&self) -> bool {
        let own = self.head.header(&AUTHORIZATION);
        self.session.chain().is_paused(self.epoch(), own.as_ref())
    }

    /// An answer that was examined says by what it says that the session lives (rule J4).
    fn note_life(&self, answer: &Examined<S::ResBody>) {
        if answer.is_proof() && !self.is_about_nothing(answer) && !self.summary().is_initialize {
            self.session.chain().lives(self.epoch());
        }
    }

    /// Whether the session has expired, which an answer leaves open: asks the server, unless that
    /// is of no use (rules D4, D8, D9).
    async fn ask(&self, answered: StatusCode, allowance: &mut Allowance) -> bool {
        let config = &self.shared.config;
        if !config.reinitialize {
            return false;
        }
        let mut head = self.head.unpack();
        let chain = self.session.chain();
        match chain.standing(self.epoch(), authorization(&head.headers)) {
            Standing::Open => {}
            Standing::Expired => return true,
            Standing::Paused => return false,
        }
        let is_strangers = answered == StatusCode::NOT_FOUND
            && *self.head.method() == Method::POST
            && !self.has_epochs_credentials();
        if is_strangers {
            let credentials = self.session.credentials(self.epoch());
            head.headers = credentials.cloned().unwrap_or_default();
        }
        let asked = ping::<S, B>(&self.shared, &self.session, self.epoch(), &head);
        let Some(Ok((response, message))) = allowance.spend(asked).await else {
            return false;
        };
        let status = response.status();
        if status.is_success() {
            chain.lives(self.epoch());
            return false;
        }
        if is_strangers && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // The epoch's own credentials are no longer good: that proves nothing.
            return true;
        }
        let pong = Examined::read(response, config, allowance).await;
        let same = is_strangers || self.has_epochs_authorization();
        match pong.verdict(config, &Method::POST, Some(&message), same) {
            Verdict::Expired => true,
            Verdict::Unsure => status == answered,
            Verdict::Alive => false,
        }
    }

    /// The answer that was read ahead, whole again.
    fn pass(&self, answer: Examined<S::ResBody>) -> LayerResponse<S, B> {
        let mut response =
            Response::from_parts(answer.head, answer.body).map(ResponseBody::wrapped);
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

    /// What the caller gets when the recovery has failed: the challenge that its credentials met,
    /// or its own answer (rules J1, J2).
    pub(super) fn fail(
        &self,
        answer: Examined<S::ResBody>,
        error: &RecoveryError,
    ) -> LayerResponse<S, B> {
        match self.challenge(error) {
            Some(challenge) => challenge,
            None => self.give_back(answer, Outcome::Failed(error.failure)),
        }
    }
}
