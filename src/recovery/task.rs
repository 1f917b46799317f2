//! One recovery, from the claim to the new epoch (rules E2, E9, E10, E12, H2, H3, I3, M2, M3).

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use http::request::Parts;
use http_body::Body;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tracing::{Instrument, Span, info, info_span, warn};

use super::{
    client::Client,
    handshake::{Established, shake_hands},
    restore::{restore, tell},
};
use crate::{
    Failure, RecoveryEvent,
    config::{OnRecovery, Shared},
    http_service::HttpService,
    mcp::Changes,
    session::{Epoch, Leader, RecoveryError, Session, State},
};

/// Recovers the session in a task of its own, which no caller can stop.
pub(crate) fn start<S, B>(
    shared: &Arc<Shared<S>>,
    session: &Arc<Session>,
    expired: Arc<Epoch>,
    trigger: &Parts,
    leader: Leader,
) where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let host = session.endpoint().host();
    let span = info_span!("session_recovery", host, epoch = expired.number() + 1);
    let report = Report {
        span: span.clone(),
        host,
        expired: expired.number(),
        started: Instant::now(),
        on_recovery: shared.config.on_recovery.clone(),
        leader: Some(leader),
    };
    let recovery = RecoveryTask {
        client: Arc::new(Client::of_trigger(shared, session, trigger)),
        shared: shared.clone(),
        session: session.clone(),
        expired,
    };
    // Without a runtime the report is dropped, which ends the recovery as cancelled.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(recovery.run(report).instrument(span));
    }
}

struct RecoveryTask<S, B> {
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    expired: Arc<Epoch>,
    client: Arc<Client<S, B>>,
}

/// What came of a recovery, apart from the epoch.
#[derive(Default)]
struct Recovered {
    changes: Changes,
    restored: State,
    not_restored: Vec<&'static str>,
}

impl<S, B> RecoveryTask<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    async fn run(self, mut report: Report) {
        let deadline = self.shared.config.deadline(report.started);
        let handshakes = self
            .shared
            .sessions
            .handshakes(self.session.endpoint(), self.shared.config.max_handshakes);
        let turn = timeout_at(deadline, handshakes.acquire()).await;
        let has_turn = turn.is_ok();
        let established = match turn {
            Ok(_) => self.establish(deadline).await,
            Err(_) => Err(Failure::TimedOut.into()),
        };
        let Some(leader) = report.leader.take() else {
            return;
        };
        let waited = leader.waiting();
        let result = match established {
            Err(error) => {
                let failure = error.failure;
                match has_turn {
                    true => leader.fail(error),
                    false => leader.give_up(error),
                }
                Err(failure)
            }
            Ok((established, recovered)) => {
                let restored = recovered.restored.clone();
                self.publish(leader, established, restored)
                    .map(|()| recovered)
            }
        };
        report.send(waited, result);
    }

    /// A new session, and in it what the old one held.
    async fn establish(
        &self,
        deadline: Instant,
    ) -> Result<(Established<'_, S, B>, Recovered), RecoveryError> {
        let config = &self.shared.config;
        let handshake = shake_hands(
            &self.client,
            self.session.initialize(),
            &self.expired,
            config,
            deadline,
        );
        let established = timeout_at(deadline, handshake)
            .await
            .unwrap_or_else(|_| Err(Failure::TimedOut.into()))?;
        let mut recovered = Recovered {
            changes: match self.expired.result() {
                Some(old) => established.result.changes_from(old),
                None => Changes::default(),
            },
            ..Recovered::default()
        };
        let state = self.session.state();
        if config.restore_state && !state.is_empty() {
            let upstream = established.session.upstream();
            // Whoever waits has no more time than this: what is not restored must not cost it.
            recovered.restored = state.clone();
            let deadline = deadline - config.recovery_timeout.min(deadline - Instant::now()) / 16;
            recovered.not_restored = restore(&self.client, upstream, state, deadline).await;
        }
        Ok((established, recovered))
    }

    /// Publishes the epoch. If the session was forgotten meanwhile, the new one is ended instead.
    fn publish(
        &self,
        leader: Leader,
        established: Established<'_, S, B>,
        restored: State,
    ) -> Result<(), Failure> {
        let before = self
            .expired
            .handshake()
            .map(|handshake| &handshake.affinity);
        let affinity = self.client.affinity(before);
        let handshake = self.client.handshake(established.accepted, affinity);
        let id = established.session.upstream().id.clone();
        let epoch = Arc::new(self.expired.next(id, established.result, handshake));
        self.session.announce(epoch.promised());
        match self.shared.sessions.publish(&self.session, leader, epoch) {
            Ok(()) => {
                established.session.keep();
                super::make_room::<S, B>(&self.shared);
                if self.shared.config.restore_state {
                    // What the old session accepted meanwhile.
                    let later = self.session.state().changes_from(&restored);
                    tell::<S, B>(&self.shared, &self.session, later);
                }
                Ok(())
            }
            Err(leader) => {
                leader.fail(Failure::Forgotten.into());
                Err(Failure::Forgotten)
            }
        }
    }
}

/// Tells of a recovery once, however it ends: a task that panics, or whose runtime shuts down, is
/// dropped, and its recovery is cancelled (rule M2).
struct Report {
    span: Span,
    host: String,
    expired: u64,
    started: Instant,
    on_recovery: Option<OnRecovery>,
    /// Until the recovery has ended.
    leader: Option<Leader>,
}

impl Report {
    fn send(&mut self, waited: usize, result: Result<Recovered, Failure>) {
        let elapsed = self.started.elapsed();
        let epoch = self.expired + u64::from(result.is_ok());
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
            // A second panic would end the process.
            let send = AssertUnwindSafe(|| self.send(waited, Err(Failure::Cancelled)));
            drop(catch_unwind(send));
        }
    }
}
