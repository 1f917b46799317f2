//! One recovery, from the claim to the new epoch (rules E2, E9, E10, H2, H3, I3, M2, M3).

use std::sync::Arc;

use http::request::Parts;
use http_body::Body;
use tokio::{
    runtime::Handle,
    time::{Instant, timeout_at},
};
use tracing::{Instrument, info, info_span, warn};

use super::{
    client::Client,
    handshake::{Established, shake_hands},
    restore::restore,
};
use crate::{
    Failure, RecoveryEvent,
    config::Shared,
    http_service::HttpService,
    mcp::Changes,
    session::{Epoch, Handshake, Leader, RecoveryError, Session},
};

/// Recovers the session in a task of its own, which no caller can stop.
pub(crate) fn start<S, B>(
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    dead: Arc<Epoch>,
    trigger: &Parts,
    leader: Leader,
) where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let recovery = RecoveryTask {
        client: Arc::new(Client::new(
            shared.clone(),
            &session.initialize().headers,
            trigger,
        )),
        started: Instant::now(),
        shared,
        session,
        dead,
    };
    let span = info_span!(
        "session_recovery",
        host = recovery.session.endpoint().host(),
        epoch = recovery.dead.number() + 1,
    );
    // Without a runtime the leader is dropped, which ends the recovery as cancelled.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(recovery.run(leader).instrument(span));
    }
}

struct RecoveryTask<S, B> {
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    dead: Arc<Epoch>,
    client: Arc<Client<S, B>>,
    started: Instant,
}

/// What came of a recovery, apart from the epoch.
#[derive(Default)]
struct Report {
    changes: Changes,
    not_restored: Vec<&'static str>,
}

impl<S, B> RecoveryTask<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    async fn run(self, leader: Leader) {
        let deadline = self.started + self.shared.config.recovery_timeout;
        let (waited, result) = match self.establish(deadline).await {
            Err(failed) => {
                let waited = leader.waiting();
                let failure = failed.failure;
                leader.fail(failed);
                (waited, Err(failure))
            }
            Ok((established, report)) => self.publish(leader, established, report),
        };
        self.report(waited, result);
    }

    /// A new session, and in it what the old one held.
    async fn establish(
        &self,
        deadline: Instant,
    ) -> Result<(Established<'_, S, B>, Report), RecoveryError> {
        let config = &self.shared.config;
        let handshake = shake_hands(&self.client, self.session.initialize(), &self.dead, config);
        let established = timeout_at(deadline, handshake)
            .await
            .unwrap_or_else(|_| Err(Failure::TimedOut.into()))?;
        let mut report = Report {
            changes: match self.dead.result() {
                Some(old) => established.result.changes_from(old),
                None => Changes::default(),
            },
            not_restored: Vec::new(),
        };
        let state = self.session.state();
        if config.restore_state && !state.is_empty() {
            let upstream = established.session.upstream();
            report.not_restored = restore(&self.client, upstream, state, deadline).await;
        }
        Ok((established, report))
    }

    /// Publishes the epoch. If the session was forgotten meanwhile, the new one is ended instead.
    fn publish(
        &self,
        leader: Leader,
        established: Established<'_, S, B>,
        report: Report,
    ) -> (usize, Result<Report, Failure>) {
        let handshake = Handshake {
            headers: self.client.headers().clone(),
            accepted: established.accepted,
        };
        let id = established.session.upstream().id.clone();
        let epoch = Arc::new(self.dead.next(id, established.result, handshake));
        let waited = leader.waiting();
        self.session.announce(epoch.promised());
        match leader.publish(epoch) {
            Ok(()) => {
                established.session.keep();
                (waited, Ok(report))
            }
            Err(leader) => {
                leader.fail(Failure::Forgotten.into());
                (waited, Err(Failure::Forgotten))
            }
        }
    }

    fn report(&self, waited: usize, result: Result<Report, Failure>) {
        let elapsed = self.started.elapsed();
        let epoch = self.dead.number() + u64::from(result.is_ok());
        let (result, report) = match result {
            Ok(report) => (Ok(()), report),
            Err(failure) => (Err(failure), Report::default()),
        };
        match result {
            Ok(()) => info!(
                ?elapsed,
                waited,
                changed = report.changes.any(),
                not_restored = report.not_restored.len(),
                "session recovered"
            ),
            Err(failure) => warn!(?elapsed, waited, reason = %failure, "session not recovered"),
        }
        if let Some(on_recovery) = &self.shared.config.on_recovery {
            on_recovery(&RecoveryEvent {
                host: self.session.endpoint().host().to_owned(),
                result,
                epoch,
                elapsed,
                waited,
                changes: report.changes,
                not_restored: report.not_restored,
            });
        }
    }
}
