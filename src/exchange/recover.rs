//! Waits for the session to be there again, and sees to it that somebody recovers it
//! (rules D6, E1, E3, E10, J1).

use std::sync::Arc;

use http::{
    Method, Response,
    header::{AUTHORIZATION, SET_COOKIE},
};
use http_body::Body;

use super::{Exchange, allowance::Allowance};
use crate::{
    Failure, Outcome,
    body::ResponseBody,
    http_service::{HttpService, LayerResponse},
    recovery,
    session::{Chain, Claim, RecoveryError},
};

impl<S, B> Exchange<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Waits for the one recovery of the session, and starts it if nobody has. From then on the
    /// request is one of the epoch that is current.
    pub(super) async fn recover(
        &mut self,
        allowance: &mut Allowance,
    ) -> Result<(), Arc<RecoveryError>> {
        let mut denied = None;
        self.led = false;
        loop {
            let own = || self.head.header(&AUTHORIZATION);
            let patience = self.shared.config.recovery_timeout;
            let (session, leads) = (&self.session, self.leads());
            let seen = self.snapshot();
            let flight = match Chain::claim(session, seen, own().as_ref(), patience, leads) {
                Claim::NotLed => {
                    let failure = denied.unwrap_or(Failure::Paused);
                    return Err(Arc::new(failure.into()));
                }
                Claim::Moved(snapshot) => {
                    self.enter(snapshot);
                    return Ok(());
                }
                // It had made room while the request was under way, and is there once more.
                Claim::Failed(error)
                    if error.failure == Failure::Forgotten && self.shared.has(&self.session) =>
                {
                    continue;
                }
                Claim::Failed(error) => return Err(error),
                Claim::Join(flight) => {
                    // What it led before is over.
                    self.led = false;
                    flight
                }
                Claim::Lead(epoch, flight, leader) => {
                    self.led = true;
                    let head = self.unpack();
                    recovery::start::<S, B>(&self.shared, &self.session, epoch, &head, leader);
                    flight
                }
            };
            // Wakes to claim again: by now the session may have moved on once more, or the recovery
            // have been abandoned. One timer for both, since thousands may wait here.
            let abandoned = flight.abandoned_in();
            let is_bounded = abandoned <= allowance.left();
            match allowance.spend_at_most(abandoned, flight.result()).await {
                None if is_bounded => {}
                None => return Err(Arc::new(Failure::TimedOut.into())),
                Some(Ok(())) => {}
                // It failed a while ago, and others have recovered the session since.
                Some(Err(_)) if self.epoch().is_replaced() => {}
                // Somebody else's credentials were denied: these may do.
                Some(Err(error)) if !error.concerns(own().as_ref()) => {
                    denied = Some(error.failure);
                }
                Some(Err(error)) => return Err(error),
            }
        }
    }

    /// Whether the request may start a recovery (rule D7).
    pub(super) fn leads(&self) -> bool {
        self.shared.config.reinitialize && self.may_show_expiry()
    }

    /// Whether an answer to it may show that a session has expired (rule D7).
    pub(super) fn may_show_expiry(&self) -> bool {
        matches!(*self.head.method(), Method::POST | Method::GET)
    }

    /// The 401 or 403 that the handshake met with this caller's credentials (rule J1). Its cookies are for
    /// whoever triggered the recovery.
    pub(super) fn challenge(&self, error: &RecoveryError) -> Option<LayerResponse<S, B>> {
        let mut challenge = Response::clone(error.challenge.as_ref()?);
        if !self.led {
            challenge.headers_mut().remove(SET_COOKIE);
        }
        let outcome = Outcome::Failed(error.failure);
        Some(self.mark(challenge, outcome).map(ResponseBody::whole))
    }

    /// What the layer may still add to this request.
    pub(super) fn take_allowance(&mut self) -> Allowance {
        let all = || Allowance::new(self.shared.config.recovery_timeout);
        self.allowance.take().unwrap_or_else(all)
    }
}
