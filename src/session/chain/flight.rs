//! A recovery under way, as those see it who wait for it (rules E3, E9).

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

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
    ended: watch::Receiver<Option<FlightResult>>,
    waiting: Arc<AtomicUsize>,
    abandoned: Option<Instant>,
}

/// What tells everyone who waits for a flight how it ended.
pub(super) struct FlightEnd(watch::Sender<Option<FlightResult>>);

impl Flight {
    /// `patience` is how long the recovery may take.
    pub(super) fn new(number: u64, now: Instant, patience: Duration) -> (Self, FlightEnd) {
        let (sender, ended) = watch::channel(None);
        let flight = Self {
            number,
            ended,
            waiting: Arc::default(),
            abandoned: now.checked_add(patience.saturating_mul(2).max(AT_LEAST)),
        };
        (flight, FlightEnd(sender))
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many requests have waited for it so far.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
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
    pub(crate) async fn result(mut self) -> FlightResult {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let ended = self.ended.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Err(Arc::new(Failure::Cancelled.into())))
    }
}

impl FlightEnd {
    pub(super) fn tell(&self, result: FlightResult) {
        self.0.send_replace(Some(result));
    }
}
