//! A recovery under way, as those see it who wait for it (rules E3, E9).

use std::{
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    Failure,
    session::RecoveryError,
    sync::{
        Instant,
        atomic::{AtomicUsize, Ordering},
        timeout_at,
    },
};

/// How long a flight is waited for before it is abandoned, however little time a recovery has: it
/// has to come to its end first, since there is one at a time.
const AT_LEAST: Duration = Duration::from_secs(1);

/// How a recovery ended.
pub(crate) type FlightResult = Result<(), Arc<RecoveryError>>;

/// A recovery under way. Its clones are the same one.
#[derive(Clone)]
pub(crate) struct Flight {
    number: u64,
    end: Arc<End>,
    abandoned: Option<Instant>,
}

/// How a flight has ended, and who waits for that. They are woken in the order in which they came.
#[derive(Default)]
struct End {
    result: OnceLock<FlightResult>,
    told: Notify,
    /// How many requests have waited so far.
    waiting: AtomicUsize,
}

/// What tells everyone who waits for a flight how it ended; if it is dropped before, that it was cancelled.
pub(super) struct FlightEnd(Arc<End>);

impl Flight {
    /// `patience` is how long the recovery may take.
    pub(super) fn new(number: u64, now: Instant, patience: Duration) -> (Self, FlightEnd) {
        let end = Arc::new(End::default());
        let flight = Self {
            number,
            end: end.clone(),
            abandoned: now.checked_add(patience.saturating_mul(2).max(AT_LEAST)),
        };
        (flight, FlightEnd(end))
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many requests have waited for it so far.
    pub(super) fn waiting(&self) -> usize {
        self.end.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn is_abandoned(&self, now: Instant) -> bool {
        self.abandoned.is_some_and(|abandoned| abandoned <= now)
    }

    /// Waits for the recovery to end, or to be abandoned: then it is claimed again.
    pub(crate) async fn ended(self) -> FlightResult {
        match self.abandoned {
            None => self.result().await,
            Some(abandoned) => timeout_at(abandoned, self.result()).await.unwrap_or(Ok(())),
        }
    }

    /// How long it is until it is abandoned.
    pub(crate) fn abandoned_in(&self) -> Duration {
        self.abandoned.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        })
    }

    /// Waits for it to end, for as long as that may take.
    pub(crate) async fn result(self) -> FlightResult {
        self.end.waiting.fetch_add(1, Ordering::Relaxed);
        let mut told = pin!(self.end.told.notified());
        // Before it is looked, so that nothing is missed.
        told.as_mut().enable();
        let result = || self.end.result.get().cloned();
        if let Some(result) = result() {
            return result;
        }
        told.await;
        result().unwrap_or_else(cancelled)
    }
}

fn cancelled() -> FlightResult {
    Err(Arc::new(Failure::Cancelled.into()))
}

impl FlightEnd {
    pub(super) fn tell(&self, result: FlightResult) {
        // The first word counts.
        if self.0.result.set(result).is_ok() {
            self.0.told.notify_waiters();
        }
    }
}

impl Drop for FlightEnd {
    fn drop(&mut self) {
        self.tell(cancelled());
    }
}
