//! What is told of a recovery (rules H2, M2, M3).

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;
use tracing::{Span, info, info_span, warn};

use crate::{
    Failure, RecoveryEvent,
    config::OnRecovery,
    mcp::Changes,
    session::{Epoch, Leader, Session, State},
};

/// What came of a recovery, apart from the epoch.
#[derive(Default)]
pub(super) struct Recovered {
    pub(super) epoch: u64,
    pub(super) changes: Changes,
    pub(super) restored: State,
    pub(super) not_restored: Vec<&'static str>,
}

/// Tells of a recovery once, however it ends: a task that panics, or whose runtime shuts down, is
/// dropped, and its recovery is cancelled (rule M2).
pub(super) struct Report {
    pub(super) span: Span,
    host: String,
    expired: u64,
    pub(super) started: Instant,
    on_recovery: Option<OnRecovery>,
    /// Until the recovery has ended.
    pub(super) leader: Option<Leader>,
    /// What is done if it is cancelled.
    pub(super) cancelled: Option<Box<dyn FnOnce() + Send>>,
}

impl Report {
    pub(super) fn new(
        session: &Session,
        expired: &Epoch,
        on_recovery: Option<OnRecovery>,
        leader: Leader,
    ) -> Self {
        let host = session.endpoint().host();
        let number = expired.number();
        Self {
            span: info_span!("session_recovery", host, epoch = number + 1),
            host,
            expired: number,
            started: Instant::now(),
            on_recovery,
            leader: Some(leader),
            cancelled: None,
        }
    }

    pub(super) fn send(&mut self, waited: usize, result: Result<Recovered, Failure>) {
        let elapsed = self.started.elapsed();
        let epoch = match &result {
            Ok(recovered) => recovered.epoch,
            Err(_) => self.expired,
        };
        let (result, recovered) = match result {
            Ok(recovered) => (Ok(()), recovered),
            Err(failure) => (Err(failure), Recovered::default()),
        };
        self.span.in_scope(|| match result {
            Ok(()) => info!(
                ?elapsed,
                waited,
                changed = recovered.changes.any(),
                not_restored = recovered.not_restored.len(),
                "session recovered"
            ),
            Err(failure) => warn!(?elapsed, waited, reason = %failure, "session not recovered"),
        });
        if let Some(on_recovery) = self.on_recovery.take() {
            on_recovery(&RecoveryEvent {
                host: std::mem::take(&mut self.host),
                result,
                epoch,
                elapsed,
                waited,
                changes: recovered.changes,
                not_restored: recovered.not_restored,
            });
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.take() {
            let waited = leader.waiting();
            drop(leader);
            if let Some(cancelled) = self.cancelled.take() {
                cancelled();
            }
            // A second panic would end the process.
            let send = AssertUnwindSafe(|| self.send(waited, Err(Failure::Cancelled)));
            drop(catch_unwind(send));
        }
    }
}
