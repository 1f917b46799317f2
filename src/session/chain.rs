//! The epochs of a session, and the one recovery at a time that makes the next
//! (rules D6, E1, E3, E9, E10, J1, J4).
//!
//! The protocol, all of it under one lock:
//! - A request that finds its epoch expired *claims* its recovery. If one of the current epoch is
//!   under way, it joins that, whatever epoch it was sent in; if the session has moved on, it goes
//!   on in the current epoch; else it leads, if the pace allows.
//! - The leader's task holds the [`Leader`] and ends the flight by `publish` or `fail`, or by being
//!   dropped; or gives the lead back by `release`. The state changes first, then the flight's result is sent, then the old epoch's
//!   streams are told: whoever wakes finds the new state.
//! - A waiter holds a receiver of the result, made under the lock, so that none is missed. It
//!   claims again when it wakes, since the session may have moved on by then.
//! - A latecomer, who arrives while a flight is under way, finds it in its snapshot and waits.
//! - A flight whose task no longer runs is abandoned after twice its time: whoever waits for it then
//!   claims again, the first to do so leads, and what the old leader may still publish is refused.

mod flight;
mod leader;
mod state;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use http::HeaderValue;

use self::state::State;
pub(crate) use self::{flight::Flight, leader::Leader};
use super::{Epoch, Pauses, Reassigned, RecoveryError, Session};
use crate::{
    Failure,
    sync::{
        Instant, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// The epochs of one session.
// In this order: what most requests find, and all that they read then, stands first.
#[repr(C)]
pub(crate) struct Chain {
    /// Nothing but epoch 0 has ever been, so that there is no need to look at the state.
    is_first: AtomicBool,
    /// Nor at that epoch: in it requests and answers pass as they are.
    is_first_plain: bool,
    first: Arc<Epoch>,
    pauses: Pauses,
    state: Mutex<State>,
}

/// What a request goes by: the epoch it is sent in, and how often that had failed to recover.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// `None` for the first one.
    epoch: Option<Arc<Epoch>>,
    failures: u64,
}

/// What a request that found its epoch expired has to do.
pub(crate) enum Claim {
    /// The session has moved on: go on in this epoch.
    Moved(Snapshot),
    /// A recovery is under way.
    Join(Flight),
    /// It is this request that starts the recovery of the current epoch.
    Lead(Arc<Epoch>, Flight, Leader),
    /// There is no recovery to wait for.
    Failed(Arc<RecoveryError>),
    /// Nor is there, and this request must not start one.
    NotLed,
}

/// What is known of an epoch that may have expired (rules D4, K6).
pub(crate) enum Standing {
    /// Nothing: ask.
    Open,
    /// It is being recovered, or has been.
    Expired,
    /// It must not be recovered for now.
    Paused,
}

impl Chain {
    pub(crate) fn new(first: Arc<Epoch>, pauses: Pauses) -> Self {
        Self {
            is_first: AtomicBool::new(!first.is_reassigned()),
            is_first_plain: first.is_plain(),
            first: first.clone(),
            pauses,
            state: Mutex::new(State::new(first)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this epoch is the current one, and there to be used.
    pub(crate) fn is_current(&self, epoch: &Epoch) -> bool {
        let (snapshot, is_there) = self.snapshot();
        is_there && std::ptr::eq(&**self.epoch(&snapshot), epoch)
    }

    /// Whether this epoch is the current one, and nothing is about to take its place.
    #[cfg(feature = "store")]
    pub(crate) fn is_at_rest(&self, epoch: &Epoch) -> bool {
        std::ptr::eq(&*self.current(), epoch) && self.under_way().is_none()
    }

    /// The current epoch, and whether it is there to be used: it is not while it is recovered, nor
    /// once it is known to have expired.
    #[inline]
    pub(crate) fn snapshot(&self) -> (Snapshot, bool) {
        if self.is_first.load(Ordering::Acquire) {
            let snapshot = Snapshot {
                epoch: None,
                failures: 0,
            };
            return (snapshot, true);
        }
        self.later_snapshot()
    }

    fn later_snapshot(&self) -> (Snapshot, bool) {
        let state = self.lock();
        (state.snapshot(), state.flight.is_none() && !state.expired)
    }

    /// The caller's own handshake.
    pub(crate) fn first(&self) -> &Arc<Epoch> {
        &self.first
    }

    /// The epoch of a snapshot.
    pub(crate) fn epoch<'a>(&'a self, snapshot: &'a Snapshot) -> &'a Arc<Epoch> {
        snapshot.epoch.as_ref().unwrap_or(&self.first)
    }

    /// The same, unless requests and answers pass in it as they are.
    #[inline]
    pub(crate) fn changing<'a>(&'a self, snapshot: &'a Snapshot) -> Option<&'a Arc<Epoch>> {
        match &snapshot.epoch {
            None if self.is_first_plain => None,
            epoch => Some(epoch.as_ref().unwrap_or(&self.first)),
        }
    }

    /// What it holds, about, in bytes (rule K10).
    pub(super) fn bytes(&self) -> usize {
        let state = self.lock();
        let error = state.error.as_ref().map_or(0, |error| error.bytes());
        state.epoch.bytes() + error
    }

    pub(crate) fn current(&self) -> Arc<Epoch> {
        if self.is_first.load(Ordering::Acquire) {
            return self.first.clone();
        }
        self.lock().epoch.clone()
    }

    /// The recovery under way, if there is one to wait for.
    pub(crate) fn under_way(&self) -> Option<Flight> {
        if self.is_first.load(Ordering::Acquire) {
            return None;
        }
        let flight = self.lock().flight.clone();
        flight.filter(|flight| !flight.is_abandoned(Instant::now()))
    }

    /// Whether it is of use to ask the server about `epoch`.
    pub(crate) fn standing(&self, epoch: &Epoch, authorization: Option<&HeaderValue>) -> Standing {
        let now = Instant::now();
        let state = self.lock();
        if !state.is_in(epoch) || state.flight.is_some() || state.expired {
            Standing::Expired
        } else if !state.pace.allows(now, authorization) || state.asking.is_paused(now) {
            Standing::Paused
        } else {
            Standing::Open
        }
    }

    /// The server was asked about `epoch`, and gave a clear answer, or none (rules D9, K6).
    pub(crate) fn asked(&self, epoch: &Epoch, is_clear: bool) {
        let mut state = self.lock();
        match is_clear {
            _ if !state.is_in(epoch) => {}
            true => state.asking.reset(),
            false => state.asking.useless(self.pauses, Instant::now()),
        }
    }

    /// Whether the recovery of `epoch` would be refused if it was claimed now (rule K6): also if
    /// that is what shows that the recovery before was of no use.
    pub(crate) fn is_paused(&self, epoch: &Epoch, authorization: Option<&HeaderValue>) -> bool {
        self.lock().is_paused(epoch, authorization, self.pauses)
    }

    /// Whether the current epoch is being recovered.
    pub(crate) fn is_recovering(&self) -> bool {
        self.lock().flight.is_some()
    }

    /// Claims the recovery of the epoch in `seen`, which has expired, of a session, for a caller with
    /// these credentials. `patience` is how long the recovery may take; `leads`, whether the request
    /// may start it.
    pub(crate) fn claim(
        of: &Arc<Session>,
        seen: &Snapshot,
        authorization: Option<&HeaderValue>,
        patience: Duration,
        leads: bool,
    ) -> Claim {
        let chain = of.chain();
        let now = Instant::now();
        let mut state = chain.lock();
        state.drop_abandoned(now);
        if let Some(flight) = &state.flight {
            return Claim::Join(flight.clone());
        }
        if !state.is_in(chain.epoch(seen)) && !state.expired {
            return Claim::Moved(state.snapshot());
        }
        if state.forgotten {
            return Claim::Failed(Arc::new(Failure::Forgotten.into()));
        }
        if !leads {
            return Claim::NotLed;
        }
        if state.epoch.doubt() {
            // What made it was of no use.
            state.useless(chain.pauses);
        }
        if !state.pace.allows(now, authorization) {
            // A request that was sent before that recovery ended shares its fate.
            let shared = state
                .error
                .as_ref()
                .filter(|error| state.failures != seen.failures && error.concerns(authorization));
            let paused = || Arc::new(Failure::Paused.into());
            return Claim::Failed(shared.cloned().unwrap_or_else(paused));
        }
        // What is answered in it from here on does not make up for this attempt.
        state.epoch.settle();
        let (flight, leader) = Leader::take(of, &mut state, patience);
        Claim::Lead(state.epoch.clone(), flight, leader)
    }

    /// Takes the lead from this epoch to one that another process has made, unless that is a recovery's
    /// to find. There is no handshake for which there could be a pause.
    #[cfg(feature = "store")]
    pub(crate) fn follow(of: &Arc<Session>, epoch: &Epoch, patience: Duration) -> Option<Leader> {
        let mut state = of.chain().lock();
        let is_free = state.flight.is_none() && !state.forgotten;
        (is_free && state.is_in(epoch)).then(|| Leader::take(of, &mut state, patience).1)
    }

    /// An answer proved that the session of `epoch` lives (rule J4). While that is being recovered the
    /// answer may be older than what showed that it has expired.
    pub(crate) fn lives(&self, epoch: &Epoch) {
        if !epoch.is_unproven() {
            return;
        }
        let mut state = self.lock();
        if state.is_in(epoch) && state.flight.is_none() && epoch.settle() {
            state.pace.reset();
        }
    }

    /// A request that was sent again found its new epoch expired, too (rule J4).
    pub(crate) fn useless(&self, epoch: &Epoch) {
        if epoch.doubt() {
            self.lock().useless(self.pauses);
        }
    }

    /// Whether the current epoch is known to have expired without any request having met that.
    pub(super) fn is_expired(&self) -> bool {
        self.lock().expired
    }

    /// The current epoch is known to have expired: the server gave its id to somebody else
    /// (rule A5). One that does not tell its sessions apart may be sent it all the same. Gives whether
    /// that the id is another's was not known.
    pub(super) fn expire(&self, to: Reassigned, tells_apart: bool) -> bool {
        let mut state = self.lock();
        // It may have been thought not to.
        state.shares &= !tells_apart;
        let is_news = state.expire(to);
        self.is_first.store(false, Ordering::Release);
        is_news
    }

    /// The same of `epoch`, if that is the current one, where a store says so.
    #[cfg(feature = "store")]
    pub(super) fn expire_in(&self, epoch: &Epoch) {
        let mut state = self.lock();
        if state.is_in(epoch) {
            state.expire(Reassigned::OneOfTwo);
            self.is_first.store(false, Ordering::Release);
        }
    }

    /// No recovery shall be published any more (rule I3).
    pub(super) fn forget(&self) {
        self.lock().forgotten = true;
    }

    /// It is recorded once more.
    #[cfg(feature = "store")]
    pub(super) fn is_back(&self) {
        let mut state = self.lock();
        state.forgotten = false;
        state.epoch.is_back();
        // The server may have given its id away meanwhile (rule A5).
        if state.epoch.is_reassigned() {
            state.expired = true;
            self.is_first.store(false, Ordering::Release);
        }
    }

    pub(crate) fn is_forgotten(&self) -> bool {
        self.lock().forgotten
    }
}

impl State {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            epoch: Some(self.epoch.clone()),
            failures: self.failures,
        }
    }
}
