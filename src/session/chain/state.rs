//! What is known of a session's current epoch and its recovery, without the lock (rules A5, E10, J1,
//! J4, K6, N3).

use std::sync::Arc;

use http::HeaderValue;

use super::Flight;
use crate::{
    Failure,
    session::{Epoch, Pauses, Reassigned, RecoveryError, pace::Pace},
    sync::Instant,
};

pub(super) struct State {
    pub(super) epoch: Arc<Epoch>,
    /// The epoch is known to have expired, although no request has met that yet (rule A5).
    pub(super) expired: bool,
    /// The server calls the epoch as it called the one before, and another caller's, too: it does
    /// not tell its sessions apart.
    pub(super) shares: bool,
    pub(super) flight: Option<Flight>,
    pub(super) flights: u64,
    /// When the last recovery ended.
    ended: Instant,
    /// How many recoveries of this epoch failed, and how the last one did.
    pub(super) failures: u64,
    pub(super) error: Option<Arc<RecoveryError>>,
    pub(super) pace: Pace,
    /// The pace of asking about an epoch that the server gives no clear answer about.
    pub(super) asking: Pace,
    pub(super) forgotten: bool,
}

impl State {
    pub(super) fn new(first: Arc<Epoch>) -> Self {
        Self {
            expired: first.is_reassigned(),
            epoch: first,
            shares: false,
            flight: None,
            flights: 0,
            ended: Instant::now(),
            failures: 0,
            error: None,
            pace: Pace::default(),
            asking: Pace::default(),
            forgotten: false,
        }
    }

    /// Whether this epoch is the current one. Its number does not tell: while a store is away, two
    /// processes may each make one with the same.
    pub(super) fn is_in(&self, epoch: &Epoch) -> bool {
        std::ptr::eq(&*self.epoch, epoch)
    }

    pub(super) fn is_under_way(&self, number: u64) -> bool {
        self.flight
            .as_ref()
            .is_some_and(|flight| flight.number() == number)
    }

    pub(super) fn drop_abandoned(&mut self, now: Instant) {
        if self.flight.as_ref().is_some_and(|it| it.is_abandoned(now)) {
            self.flight = None;
        }
    }

    /// Whether the recovery of `epoch` would be refused if it was claimed now (rule K6): also if
    /// that is what shows that the recovery before was of no use.
    pub(super) fn is_paused(
        &self,
        epoch: &Epoch,
        authorization: Option<&HeaderValue>,
        pauses: Pauses,
    ) -> bool {
        if !self.is_in(epoch) || self.flight.is_some() {
            return false;
        }
        let mut pace = self.pace.clone();
        if epoch.may_be_of_no_use() {
            pace.useless(pauses, self.ended);
        }
        !pace.allows(Instant::now(), authorization)
    }

    /// The recovery that made the current epoch was of no use (rule J4).
    pub(super) fn useless(&mut self, pauses: Pauses) {
        let ended = self.ended;
        self.pace.useless(pauses, ended);
    }

    /// The current epoch is known to have expired: the server gave its id to somebody else, or to a
    /// handshake of its `own` session (rule A5). One that does not tell its sessions apart may be
    /// sent it all the same. Gives whether that the id is another's was not known.
    pub(super) fn expire(&mut self, to: Reassigned) -> bool {
        self.expired = true;
        !self.shares && self.epoch.reassign(to)
    }

    /// `epoch` takes the place of the current one, which is given back. The flight is over.
    pub(super) fn publish(
        &mut self,
        epoch: Arc<Epoch>,
        shares: bool,
        pauses: Pauses,
    ) -> Arc<Epoch> {
        let now = Instant::now();
        self.flight = None;
        self.ended = now;
        self.failures = 0;
        self.error = None;
        self.expired = false;
        self.shares = shares;
        if shares && epoch.settle() {
            self.pace.useless(pauses, now);
        }
        self.asking = Pace::default();
        std::mem::replace(&mut self.epoch, epoch)
    }

    /// The flight is over, and the current epoch is what it was. If nothing was `attempted`, there is
    /// no pause (rule E12).
    pub(super) fn fail(&mut self, error: Arc<RecoveryError>, attempted: bool, pauses: Pauses) {
        let now = Instant::now();
        self.flight = None;
        self.ended = now;
        self.failures += 1;
        match error.failure {
            _ if !attempted => {}
            Failure::Denied(_) => {
                let authorization = error.authorization.as_ref();
                self.pace.denied(pauses, now, authorization);
            }
            _ => self.pace.useless(pauses, now),
        }
        self.error = Some(error);
    }
}
