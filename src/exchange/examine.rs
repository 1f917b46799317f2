//! Reads a verdict out of an answer, and acts on it (rules D1 to D9, J1, J2, J4, J5).

use std::{sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH},
    request::Parts,
};
use http_body::Body;
use tracing::debug;

use super::{Exchange, allowance::Allowance, in_flight::Next, replay::replay};
use crate::{
    Outcome,
    body::{BufferedBody, ReadAhead, ResponseBody},
    config::Config,
    http_service::{HttpService, LayerResponse},
    mcp::{HttpAnswer, Id, Verdict},
    recovery::{authorization, ping},
    session::{Epoch, RecoveryError, Standing},
};

/// The time that the layer may add to a request has so many parts. What has come of an error's body
/// in the first decides; where that does not speak of the session, what has come before the last,
/// which is for doing something about it.
const PARTS: u32 = 4;

/// An answer that may be about the session, read as far as the limit allows.
pub(super) struct Examined<R: Body> {
    /// The epoch whose server gave it.
    epoch: Option<Arc<Epoch>>,
    head: http::response::Parts,
    body: ReadAhead<R>,
}

impl<R: Body> Examined<R> {
    /// Reads the body, so that its connection is free again before anything else is sent.
    async fn read(response: Response<R>, config: &Config, allowance: &mut Allowance) -> Self {
        let (head, body) = response.into_parts();
        let mut answer = Self {
            epoch: None,
            head,
            body: ReadAhead::new(body),
        };
        let share = allowance.share(PARTS);
        answer.read_for(share, config, allowance).await;
        answer
    }

    /// What it says: if that is nothing of the session, also in what comes of it later.
    async fn judged(
        &mut self,
        config: &Config,
        allowance: &mut Allowance,
        judge: impl Fn(&Self) -> Verdict,
    ) -> Verdict {
        let verdict = judge(self);
        let has_more = self.body.has_more(config.max_error_body_bytes);
        if verdict != Verdict::Alive || !has_more {
            return verdict;
        }
        let share = allowance.share(PARTS - 1) * (PARTS - 2);
        self.read_for(share, config, allowance).await;
        judge(self)
    }

    async fn read_for(&mut self, share: Duration, config: &Config, allowance: &mut Allowance) {
        let fill = self.body.fill(config.max_error_body_bytes);
        // What has been read when the time is up stays read.
        let _ = allowance.spend_at_most(share, fill).await;
    }

    /// What the answer says about the session. `same` tells that it was given to the very
    /// `authorization` that the epoch was made with.
    fn verdict(
        &self,
        config: &Config,
        method: &Method,
        message: Option<&[u8]>,
        large_id: Option<&Id>,
        same: bool,
    ) -> Verdict {
        // After a truncated answer nothing is done over (rule F6).
        if self.body.is_broken() || !config.classify.examines(self.head.status) {
            return Verdict::Alive;
        }
        let body = self.body.bytes(config.max_error_body_bytes);
        let answer = HttpAnswer::of(method, message, &self.head, &body);
        config.classify.classify(
            &answer
                .with_request_id(large_id)
                .with_same_authorization(same),
        )
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
/// Thousands may wait here for one recovery, so what follows that takes this one's place.
#[expect(
    clippy::manual_async_fn,
    reason = "which would keep the parameters twice"
)]
pub(crate) fn examine<S, B>(
    mut exchange: Exchange<S, B>,
    response: Response<S::ResBody>,
) -> impl Future<Output = Next<S, B>> + Send
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    async move {
        let shared = exchange.shared.clone();
        let config = &shared.config;
        let mut allowance = exchange.take_allowance();
        let mut answer = Examined::read(response, config, &mut allowance).await;
        answer.epoch = Some(exchange.epoch().clone());
        let verdict = match exchange.is_about_session(&answer) {
            true => {
                let judge = |answer: &_| exchange.verdict(answer);
                answer.judged(config, &mut allowance, judge).await
            }
            false => Verdict::Alive,
        };
        if let Some(outcome) = exchange.outcome {
            // It was sent again, and is not sent a third time (rule F1).
            match verdict {
                Verdict::Alive => exchange.note_life(&answer),
                Verdict::Expired if exchange.has_epochs_credentials() => {
                    exchange.session.chain().useless(exchange.epoch());
                }
                Verdict::Expired | Verdict::Unsure => {}
            }
            return Next::answer(exchange.give_back(answer, outcome));
        }
        let expired = match verdict {
            Verdict::Alive => {
                exchange.note_life(&answer);
                false
            }
            // Some servers answer so to the wrong credentials (rule D8).
            Verdict::Expired => {
                // With `reinitialize(false)` it is told, and does no harm.
                !config.reinitialize || exchange.has_epochs_credentials() || {
                    Box::pin(exchange.ask(answer.head.status, true, &mut allowance)).await
                }
            }
            Verdict::Unsure => {
                Box::pin(exchange.ask(answer.head.status, false, &mut allowance)).await
            }
        };
        if !expired {
            return Next::answer(exchange.pass(answer));
        }
        debug!(
            host = exchange.session.endpoint().host(),
            epoch = exchange.epoch().number(),
            status = answer.head.status.as_u16(),
            "session expired"
        );
        if !config.reinitialize {
            return Next::answer(exchange.give_back(answer, Outcome::Detected));
        }
        if !exchange.is_paused() {
            // What is left of it would hold its connection, which the recovery may need (rule D5).
            answer.drop_rest();
        }
        match exchange.recover(&mut allowance).await {
            Ok(()) => Next::Later(Box::pin(replay(exchange, answer, allowance))),
            Err(error) => Next::answer(exchange.fail(answer, &error)),
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
        let large_id = self.large_request_id();
        answer.verdict(
            config,
            self.head.method(),
            message.as_deref(),
            large_id.as_ref(),
            same,
        )
    }

    /// Not if the request makes a session of its own (rule D7), or there was none to be found.
    fn is_about_session(&self, answer: &Examined<S::ResBody>) -> bool {
        !self.is_initialize() && !self.is_of_no_session(answer)
    }

    /// Whether there was no session to be found (rules D7, E8).
    fn is_of_no_session(&self, answer: &Examined<S::ResBody>) -> bool {
        answer.head.status == StatusCode::NOT_FOUND && self.epoch().id().is_none()
    }

    /// Whether the request carries the `authorization` that its epoch was made with. If not, an answer
    /// may be about who asked (rule D8). Where that is not known, there is none to go by (rule N2).
    pub(super) fn has_epochs_credentials(&self) -> bool {
        let credentials = self.session.credentials(self.epoch());
        credentials.is_none_or(|credentials| {
            self.head.value(&AUTHORIZATION) == authorization(credentials).map(HeaderValue::as_bytes)
        })
    }

    /// There is one, and it is that of the epoch (rule D9).
    fn has_epochs_authorization(&self) -> bool {
        self.head.value(&AUTHORIZATION).is_some()
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
        if answer.is_proof() && self.is_about_session(answer) {
            self.session.chain().lives(self.epoch());
        }
    }

    /// Whether the session has expired, which an answer leaves open: asks the server, unless that
    /// is of no use (rules D4, D8, D9). `counts` says that the answer means it unless the session is
    /// found alive.
    async fn ask(&self, answered: StatusCode, counts: bool, allowance: &mut Allowance) -> bool {
        if !self.shared.config.reinitialize {
            return false;
        }
        let own = self.unpack();
        let chain = self.session.chain();
        match chain.standing(self.epoch(), authorization(&own.headers)) {
            Standing::Open => {}
            Standing::Expired => return true,
            Standing::Paused => return false,
        }
        if self.has_epochs_credentials() {
            return self.ask_as(&own, answered, allowance).await == Some(true);
        }
        let mut epochs = self.unpack();
        epochs.headers = self
            .session
            .credentials(self.epoch())
            .cloned()
            .unwrap_or_default();
        match self.epoch().handshake() {
            Some(handshake) => {
                epochs.uri = handshake.uri.clone();
                epochs.version = handshake.version;
                epochs.extensions = handshake.extensions.clone();
            }
            None => {
                epochs.uri = self.session.uri().clone();
                epochs.extensions = self.session.initialize().extensions.clone();
            }
        }
        match self.ask_as(&epochs, answered, allowance).await {
            Some(expired) => expired,
            // The epoch's own credentials are no longer good, which proves nothing (rule D8).
            None => counts || self.ask_as(&own, answered, allowance).await == Some(true),
        }
    }

    /// Whether a `ping` as this caller finds the session expired. `None` if the caller is denied.
    async fn ask_as(
        &self,
        caller: &Parts,
        answered: StatusCode,
        allowance: &mut Allowance,
    ) -> Option<bool> {
        if self.is_taken() {
            // It is another's to ask about.
            return Some(true);
        }
        let config = &self.shared.config;
        let chain = self.session.chain();
        let asked = ping::<S, B>(&self.shared, &self.session, self.epoch(), caller);
        let (response, message) = match allowance.spend(asked).await {
            // Also if it has become another's since.
            Some(Ok(Some(said))) if !self.is_given_away() => said,
            Some(Ok(_)) => return Some(true),
            Some(Err(_)) | None => {
                chain.asked(self.epoch(), false);
                return Some(false);
            }
        };
        let status = response.status();
        if status.is_success() {
            chain.asked(self.epoch(), true);
            chain.lives(self.epoch());
            return Some(false);
        }
        let credentials = self.session.credentials(self.epoch());
        let same = credentials
            .is_none_or(|epochs| authorization(&caller.headers) == authorization(epochs));
        let is_denied = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if is_denied && same && !self.has_epochs_credentials() {
            return None;
        }
        let mut pong = Examined::read(response, config, allowance).await;
        let judge =
            |pong: &Examined<_>| pong.verdict(config, &Method::POST, Some(&message), None, same);
        let expired = match pong.judged(config, allowance, judge).await {
            Verdict::Expired => true,
            Verdict::Unsure => status == answered,
            Verdict::Alive => false,
        };
        chain.asked(self.epoch(), expired || pong.is_proof());
        Some(expired)
    }

    /// The answer that was read ahead, whole again.
    fn pass(&self, answer: Examined<S::ResBody>) -> LayerResponse<S, B> {
        let epoch = answer.epoch.as_ref().unwrap_or(self.epoch()).clone();
        let mut response =
            Response::from_parts(answer.head, answer.body).map(ResponseBody::wrapped);
        // By now the request may be one of a later epoch.
        epoch.translate_response(response.headers_mut(), self.session.id());
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
