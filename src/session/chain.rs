//! The epochs of a session, and the one recovery at a time that makes the next
//! (rules D6, E1, E3, E9, J4).

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::{sync::watch, time::Instant};

use super::{BudgetLimits, Epoch, RecoveryError, budget::Budget};
use crate::Failure;

/// The epochs of one session.
pub(crate) struct Chain {
    first: Arc<Epoch>,
    /// No recovery has ever been claimed, so that there is no need to look at the state. It is
    /// what most requests find.
    unclaimed: AtomicBool,
    state: Mutex<State>,
    limits: BudgetLimits,
}

struct State {
    epoch: Arc<Epoch>,
    flight: Option<Flight>,
    /// How many recoveries of this epoch failed, and how the last one did.
    failures: u64,
    failed: Option<Arc<RecoveryError>>,
    budget: Budget,
    forgotten: bool,
}

/// What a request goes by: the epoch it is sent in, and how often that had failed to recover.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// `None` for the first one.
    epoch: Option<Arc<Epoch>>,
    failures: u64,
}

/// A recovery under way.
#[derive(Clone)]
pub(crate) struct Flight {
    ended: watch::Receiver<Option<FlightResult>>,
    waiting: Arc<AtomicUsize>,
}

/// How a recovery ended.
pub(crate) type FlightResult = Result<Arc<Epoch>, Arc<RecoveryError>>;

/// What a request that found its epoch dead has to do.
pub(crate) enum Claim {
    /// The session has moved on already.
    Moved(Arc<Epoch>),
    /// A recovery is under way.
    Join(Flight),
    /// It is this request that starts the recovery.
    Lead(Flight, Leader),
    /// There is no recovery to wait for.
    Failed(Arc<RecoveryError>),
}

impl Chain {
    pub(crate) fn new(first: Arc<Epoch>, limits: BudgetLimits) -> Self {
        Self {
            first: first.clone(),
            unclaimed: AtomicBool::new(true),
            state: Mutex::new(State {
                epoch: first,
                flight: None,
                failures: 0,
                failed: None,
                budget: Budget::full(limits, Instant::now()),
                forgotten: false,
            }),
            limits,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every critical section leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current epoch, and the recovery to wait for if there is one.
    pub(crate) fn snapshot(&self) -> (Snapshot, Option<Flight>) {
        if self.unclaimed.load(Ordering::Acquire) {
            let snapshot = Snapshot {
                epoch: None,
                failures: 0,
            };
            return (snapshot, None);
        }
        let state = self.lock();
        let snapshot = Snapshot {
            epoch: Some(state.epoch.clone()),
            failures: state.failures,
        };
        (snapshot, state.flight.clone())
    }

    /// The epoch of a snapshot.
    pub(crate) fn epoch<'a>(&'a self, snapshot: &'a Snapshot) -> &'a Arc<Epoch> {
        snapshot.epoch.as_ref().unwrap_or(&self.first)
    }

    pub(crate) fn current(&self) -> Arc<Epoch> {
        self.lock().epoch.clone()
    }

    /// Claims the recovery of the epoch in `seen`, which is dead.
    pub(crate) fn claim(self: &Arc<Self>, seen: &Snapshot) -> Claim {
        let mut state = self.lock();
        if state.epoch.number() != self.epoch(seen).number() {
            return Claim::Moved(state.epoch.clone());
        }
        if let Some(flight) = &state.flight {
            return Claim::Join(flight.clone());
        }
        if let Some(failed) = state
            .failed
            .as_ref()
            .filter(|_| state.failures != seen.failures)
        {
            // This request was sent before that recovery ended, and shares its fate.
            return Claim::Failed(failed.clone());
        }
        if state.forgotten {
            return Claim::Failed(Arc::new(Failure::Forgotten.into()));
        }
        if !state.budget.take(self.limits, Instant::now()) {
            return Claim::Failed(Arc::new(Failure::OutOfBudget.into()));
        }
        self.unclaimed.store(false, Ordering::Release);
        let (sender, ended) = watch::channel(None);
        let flight = Flight {
            ended,
            waiting: Arc::default(),
        };
        state.flight = Some(flight.clone());
        let leader = Leader {
            chain: self.clone(),
            ended: sender,
            waiting: flight.waiting.clone(),
            has_ended: false,
        };
        Claim::Lead(flight, leader)
    }

    /// An answer showed that the session of `epoch` lives: the recovery that made it was of use,
    /// and gets its attempt back (rule J4).
    pub(crate) fn lives(&self, epoch: &Epoch) {
        if epoch.prove() {
            self.lock().budget.refund(self.limits);
        }
    }

    /// No recovery shall be published any more (rule I3).
    pub(super) fn forget(&self) {
        self.lock().forgotten = true;
    }
}

impl Flight {
    /// Waits for the recovery to end.
    pub(crate) async fn ended(mut self) -> FlightResult {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let ended = self.ended.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Err(Arc::new(Failure::Cancelled.into())))
    }
}

/// The right, and the duty, to end a recovery. Dropping it ends it as cancelled, so that nobody
/// waits for a recovery that nobody runs.
pub(crate) struct Leader {
    chain: Arc<Chain>,
    ended: watch::Sender<Option<FlightResult>>,
    waiting: Arc<AtomicUsize>,
    has_ended: bool,
}

impl Leader {
    /// How many requests have waited for this recovery so far.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Makes `epoch` the current one and lets everyone go on in it. If the session was forgotten
    /// meanwhile, nothing is published and the leader is given back.
    pub(crate) fn publish(mut self, epoch: Arc<Epoch>) -> Result<(), Self> {
        let replaced = {
            let mut state = self.chain.lock();
            if state.forgotten {
                drop(state);
                return Err(self);
            }
            state.flight = None;
            state.failures = 0;
            state.failed = None;
            std::mem::replace(&mut state.epoch, epoch.clone())
        };
        self.has_ended = true;
        self.ended.send_replace(Some(Ok(epoch)));
        replaced.replace();
        Ok(())
    }

    /// Ends the recovery without a new epoch.
    pub(crate) fn fail(mut self, failed: RecoveryError) {
        self.end(failed);
    }

    fn end(&mut self, failed: RecoveryError) {
        self.has_ended = true;
        let failed = Arc::new(failed);
        {
            let mut state = self.chain.lock();
            state.flight = None;
            state.failures += 1;
            state.failed = Some(failed.clone());
        }
        self.ended.send_replace(Some(Err(failed)));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Failure::Cancelled.into());
        }
    }
}
