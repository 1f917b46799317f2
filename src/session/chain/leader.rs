//! Who runs a recovery, and how that ends (rules E3, E9, E12, I3, J4).

use std::{sync::Arc, time::Duration};

use super::{Flight, flight::FlightEnd, state::State};
use crate::{
    Failure,
    session::{Epoch, Reassigned, RecoveryError, Session},
    sync::{Instant, atomic::Ordering},
};

/// The right, and the duty, to end a recovery. Dropping it ends it as cancelled, so that nobody
/// waits for a recovery that nobody runs.
pub(crate) struct Leader {
    session: Arc<Session>,
    flight: Flight,
    end: FlightEnd,
    has_ended: bool,
}

impl Leader {
    pub(super) fn take(of: &Arc<Session>, state: &mut State, patience: Duration) -> (Flight, Self) {
        of.chain().is_first.store(false, Ordering::Release);
        state.flights += 1;
        let (flight, end) = Flight::new(state.flights, Instant::now(), patience);
        state.flight = Some(flight.clone());
        let leader = Self {
            session: of.clone(),
            flight: flight.clone(),
            end,
            has_ended: false,
        };
        (flight, leader)
    }

    /// How many requests have waited for this recovery so far.
    pub(crate) fn waiting(&self) -> usize {
        self.flight.waiting()
    }

    /// Makes `epoch` the current one. Whoever waits goes on in it once that is told. If the session was
    /// forgotten meanwhile, or the flight was given up, nothing is published and the leader is given
    /// back.
    ///
    /// `shares` says that the server does not tell the session from another caller's, so that no
    /// answer can prove that the recovery was of use (rule A5). `is_taken` says that it has given the
    /// id to another by now: then the epoch has expired before anybody can be sent in it.
    pub(in crate::session) fn publish(
        mut self,
        epoch: Arc<Epoch>,
        shares: bool,
        lost: Option<Reassigned>,
    ) -> Result<Published, Self> {
        let chain = self.session.chain();
        let replaced = {
            let mut state = chain.lock();
            if state.forgotten || !state.is_under_way(self.flight.number()) {
                drop(state);
                return Err(self);
            }
            let replaced = state.publish(epoch, shares, chain.pauses);
            if let Some(to) = lost {
                state.expire(to);
            }
            replaced
        };
        self.has_ended = true;
        Ok(Published {
            leader: self,
            replaced,
        })
    }

    /// Ends the recovery without a new epoch.
    pub(crate) fn fail(mut self, error: RecoveryError) {
        self.end(error, true);
    }

    /// Gives the lead back: there is nothing to go on to. Whoever waits claims again.
    #[cfg(feature = "store")]
    pub(crate) fn release(mut self) {
        self.has_ended = true;
        let number = self.flight.number();
        {
            let mut state = self.session.chain().lock();
            if state.is_under_way(number) {
                state.flight = None;
            }
        }
        self.end.tell(Ok(()));
    }

    /// Ends the recovery without a new epoch, before it had its turn (rule E12). Since nothing was
    /// attempted, there is no pause.
    pub(crate) fn give_up(mut self, error: RecoveryError) {
        self.end(error, false);
    }

    fn end(&mut self, error: RecoveryError, attempted: bool) {
        self.has_ended = true;
        let error = Arc::new(error);
        // Whoever still waits for a flight that was given up claims again.
        let mut result = Ok(());
        {
            let chain = self.session.chain();
            let mut state = chain.lock();
            if state.is_under_way(self.flight.number()) {
                state.fail(error.clone(), attempted, chain.pauses);
                result = Err(error);
            }
        }
        self.end.tell(result);
    }
}

/// A recovery that has ended well, which nobody has been told yet.
#[must_use]
pub(in crate::session) struct Published {
    leader: Leader,
    replaced: Arc<Epoch>,
}

impl Published {
    /// Wakes whoever waited for it, and the streams of the epoch that it has replaced.
    pub(in crate::session) fn tell(self) {
        self.leader.end.tell(Ok(()));
        self.replaced.replace();
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Failure::Cancelled.into(), true);
        }
    }
}
