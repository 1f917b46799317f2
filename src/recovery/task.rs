//! One recovery, from the claim to the new epoch (rules E2, E9, E10, E12, H2, H3, I3).

use std::sync::Arc;
#[cfg(feature = "store")]
use std::time::Duration;

use http::request::Parts;
use http_body::Body;
#[cfg(feature = "store")]
use tokio::time::sleep;
use tokio::{
    runtime::Handle,
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};
use tracing::Instrument;

#[cfg(feature = "store")]
use super::{
    agree::{Adopted, Agreement},
    drain::in_background,
    restore::catch_up,
};
use super::{
    client::Client,
    handshake::{Established, HalfOpen, shake_hands},
    report::{Recovered, Report},
    restore::{restore, tell},
};
#[cfg(feature = "store")]
use crate::session::{Assigned, Chain};
use crate::{
    Failure,
    config::Shared,
    http_service::HttpService,
    mcp::Changes,
    session::{Epoch, Leader, RecoveryError, Session},
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
    // It may be another service's that has recorded the session.
    #[cfg(feature = "store")]
    super::reconcile::<S, B>(shared);
    let recovery = RecoveryTask {
        client: Arc::new(Client::<S, B>::of_trigger(shared, session, trigger)),
        shared: shared.clone(),
        session: session.clone(),
        expired,
    };
    let report = recovery.report(leader);
    let span = report.span.clone();
    // Without a runtime the report is dropped, which ends the recovery as cancelled.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(recovery.run(report).instrument(span));
    }
}

/// Goes on where another process does, or lets go of a session that another has ended, although no
/// request has asked for it (rules N3, N6). There is no handshake for that.
#[cfg(feature = "store")]
pub(super) fn follow<S, B>(shared: &Arc<Shared<S>>, session: &Arc<Session>)
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    let doing = shared.persistence.as_ref().map(|it| it.doing_for(session));
    let expired = session.chain().current();
    let Some(client) = Client::<S, B>::of_epoch(shared, session, &expired) else {
        return;
    };
    let recovery = RecoveryTask {
        client: Arc::new(client),
        shared: shared.clone(),
        session: session.clone(),
        expired,
    };
    in_background(Duration::MAX, async move {
        recovery.follow().await;
        drop(doing);
    });
}

struct RecoveryTask<S, B> {
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    expired: Arc<Epoch>,
    client: Arc<Client<S, B>>,
}

/// The next epoch.
enum Next<'a, S: HttpService<B>, B: Body<Error: Send> + Send + 'static> {
    /// A handshake has made it.
    Made(Arc<Epoch>, HalfOpen<'a, S, B>),
    /// Another process has (rule N3).
    #[cfg(feature = "store")]
    Adopted(Adopted),
}

impl<S, B> RecoveryTask<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn report(&self, leader: Leader) -> Report {
        let on_recovery = self.shared.config.on_recovery.clone();
        #[cfg_attr(not(feature = "store"), expect(unused_mut))]
        let mut report = Report::new(&self.session, &self.expired, on_recovery, leader);
        #[cfg(feature = "store")]
        if self.shared.sessions.is_kept() {
            let (shared, session) = (self.shared.clone(), self.session.clone());
            // What has changed meanwhile was not written.
            report.cancelled = Some(Box::new(move || {
                session.stays();
                shared.changed(&session);
            }));
        }
        report
    }

    async fn run(self, mut report: Report) {
        let mut has_turn = true;
        let next = self.next(report.started, &mut has_turn).await;
        let Some(leader) = report.leader.take() else {
            return;
        };
        // Whoever is told of the end may flush the store before that is told.
        #[cfg(feature = "store")]
        let _doing = self.shared.persistence.as_ref().map(|it| it.doing());
        let waited = leader.waiting();
        let result = match next {
            Err(error) => {
                let failure = error.failure;
                #[cfg(feature = "store")]
                if self.shared.sessions.is_kept() {
                    self.session.stays();
                }
                match has_turn {
                    true => leader.fail(error),
                    false => leader.give_up(error),
                }
                // What has changed meanwhile was not written.
                self.shared.changed(&self.session);
                self.session.recount();
                super::make_room::<S, B>(&self.shared);
                Err(failure)
            }
            Ok((next, recovered)) => self.publish(leader, next, recovered),
        };
        report.send(waited, result);
    }

    /// Nobody waits for this: until it is over, requests go on in the epoch that there is.
    #[cfg(feature = "store")]
    async fn follow(self) {
        let deadline = self.shared.config.deadline(Instant::now());
        let own = &self.expired;
        let agreement = Agreement::new(&self.shared, &self.session, &self.client, own);
        let Some(mut agreement) = agreement.map(Agreement::without_a_request) else {
            return;
        };
        let adopted = match agreement.newer(deadline).await {
            Ok(Some(newer)) => newer,
            // It is gone again, or the store is away.
            Ok(None) => return self.shared.changed(&self.session),
            Err(_ended) => return,
        };
        let patience = self.shared.config.recovery_timeout;
        let Some(leader) = Chain::follow(&self.session, own, patience) else {
            return;
        };
        if !adopted.is_alive {
            // Nobody goes on there any more, so there is nothing to go on to. The store is to hold this
            // epoch, then.
            let _ = adopted.take_over(&self.shared, &self.session);
            self.session.outrank(own, &adopted.epoch);
            leader.release();
            return self.shared.changed(&self.session);
        }
        // There was no handshake that could have been of no use (rule J4).
        adopted.epoch.settle();
        let is_another = adopted.epoch.id() != own.id();
        let mut report = self.report(leader);
        if let Some(leader) = report.leader.take() {
            let waited = leader.waiting();
            let replaced = own.clone();
            let (next, recovered) = self.adopt(adopted, deadline).await;
            let result = self.publish(leader, next, recovered);
            if result.is_ok() && is_another {
                self.end_later(replaced);
            }
            report.send(waited, result);
        }
    }

    /// Makes the next epoch, or finds that there is one.
    /// `has_turn` is false afterwards if it never came to a handshake.
    async fn next(
        &self,
        started: Instant,
        has_turn: &mut bool,
    ) -> Result<(Next<'_, S, B>, Recovered), RecoveryError> {
        let deadline = self.shared.config.deadline(started);
        let expired = self.expired.clone();
        #[cfg(feature = "store")]
        let mut agreement =
            Agreement::new(&self.shared, &self.session, &self.client, &self.expired);
        #[cfg(feature = "store")]
        let expired = match &mut agreement {
            Some(agreement) => match agreement.newer(deadline).await? {
                Some(adopted) if adopted.is_alive => {
                    return Ok(self.adopt(adopted, deadline).await);
                }
                Some(expired) => {
                    let _ = expired.take_over(&self.shared, &self.session);
                    expired.epoch
                }
                None => expired,
            },
            None => expired,
        };
        let Some(turn) = self.turn(started).await else {
            *has_turn = false;
            return Err(Failure::TimedOut.into());
        };
        let (client, session, shared) = (&self.client, &self.session, &self.shared);
        let established = shake_hands(client, session, &expired, shared, deadline);
        let established = timeout_at(deadline, established)
            .await
            .unwrap_or_else(|_| Err(Failure::TimedOut.into()))?;
        // Who has the next waits neither for what is restored nor for a store.
        drop(turn);
        let mut recovered = self.restore(&established, deadline).await;
        let before = expired.handshake().map(|handshake| &handshake.affinity);
        let affinity = self.client.affinity(before);
        let handshake = self.client.handshake(established.accepted, affinity);
        let id = established.session.upstream().id.clone();
        let epoch = expired.next(id, established.result, handshake);
        #[cfg(feature = "store")]
        let epoch = match &mut agreement {
            Some(agreement) => match agreement.propose(epoch, deadline).await? {
                (epoch, None) => epoch,
                // What this one has made is dropped, and with that ended.
                (_, Some(adopted)) => return Ok(self.adopt(adopted, deadline).await),
            },
            None => epoch,
        };
        recovered.epoch = epoch.number();
        Ok((Next::Made(Arc::new(epoch), established.session), recovered))
    }

    /// Waits for a turn to make a handshake, unless it would come too late (rule E12).
    async fn turn(&self, started: Instant) -> Option<OwnedSemaphorePermit> {
        let limit = self.shared.config.max_handshakes;
        let endpoint = self.session.endpoint();
        let handshakes = self.shared.sessions.handshakes(endpoint, limit);
        let latest = self.shared.config.latest_turn(started);
        if Instant::now() > latest {
            return None;
        }
        timeout_at(latest, handshakes.acquire_owned())
            .await
            .ok()?
            .ok()
    }

    /// The session is about to go on in the epoch that the store holds. What this process has changed in
    /// the one before is told to that first: whoever waits may change it again.
    #[cfg(feature = "store")]
    async fn adopt(&self, adopted: Adopted, deadline: Instant) -> (Next<'_, S, B>, Recovered) {
        let changes = match (self.expired.result(), adopted.epoch.result()) {
            (Some(old), Some(new)) => new.changes_from(old),
            _ => Changes::default(),
        };
        let mut recovered = Recovered {
            epoch: adopted.epoch.number(),
            changes,
            ..Recovered::default()
        };
        let own = adopted.take_over(&self.shared, &self.session);
        self.session.is_agreed();
        if self.shared.config.restore_state {
            let deadline = self.telling_until(deadline);
            recovered.restored = self.session.state();
            recovered.not_restored =
                catch_up(&self.shared, &self.session, &adopted.epoch, own, deadline).await;
        }
        (Next::Adopted(adopted), recovered)
    }

    /// Tells the new session what the old one held.
    async fn restore(&self, established: &Established<'_, S, B>, deadline: Instant) -> Recovered {
        let mut recovered = Recovered {
            changes: match self.expired.result() {
                Some(old) => established.result.changes_from(old),
                None => Changes::default(),
            },
            ..Recovered::default()
        };
        let state = self.session.state();
        if self.shared.config.restore_state && !state.is_empty() {
            recovered.restored = state.clone();
            let deadline = self.telling_until(deadline);
            recovered.not_restored =
                restore(&self.client, &established.session, state, deadline).await;
        }
        recovered
    }

    /// Whoever waits has no more time than this: what is not restored must not cost it.
    fn telling_until(&self, deadline: Instant) -> Instant {
        let patience = self.shared.config.recovery_timeout;
        deadline - patience.min(deadline - Instant::now()) / 16
    }

    /// Publishes the epoch. If the session was forgotten meanwhile, what a handshake has made is
    /// ended instead.
    fn publish(
        &self,
        leader: Leader,
        next: Next<'_, S, B>,
        recovered: Recovered,
    ) -> Result<Recovered, Failure> {
        let (epoch, assigned) = match &next {
            Next::Made(epoch, made) => (epoch.clone(), made.assigned()),
            #[cfg(feature = "store")]
            Next::Adopted(adopted) => (adopted.epoch.clone(), None),
        };
        self.session.announce(epoch.promised());
        let sessions = &self.shared.sessions;
        let published = sessions.publish(&self.session, leader, epoch, assigned);
        if let Err(leader) = published {
            #[cfg(feature = "store")]
            self.forgotten(next);
            // What the store holds by now is not for an earlier epoch to write over.
            #[cfg(feature = "store")]
            if self.shared.sessions.is_kept() {
                self.session.stays();
            }
            leader.fail(Failure::Forgotten.into());
            return Err(Failure::Forgotten);
        }
        match next {
            Next::Made(_, session) => {
                session.keep();
                super::make_room::<S, B>(&self.shared);
                #[cfg(feature = "store")]
                if self.shared.sessions.is_kept() {
                    self.session.is_told();
                }
            }
            #[cfg(feature = "store")]
            Next::Adopted(_) => {}
        }
        // What was not agreed on in time is written when the store is there.
        self.shared.changed(&self.session);
        if self.shared.config.restore_state {
            // What the old session accepted meanwhile.
            let later = self.session.state().changes_from(&recovered.restored);
            tell::<S, B>(&self.shared, &self.session, later);
        }
        Ok(recovered)
    }

    /// Ends an epoch that is not the one that the processes have agreed on, when those who are still in
    /// it have had their time (rule G6).
    #[cfg(feature = "store")]
    fn end_later(&self, epoch: Arc<Epoch>) {
        let (shared, session) = (self.shared.clone(), self.session.clone());
        // Whoever is found in the store with its id is not to enter it (rule A5).
        let id = epoch.id();
        let in_use = id.map(|id| shared.sessions.still_uses(&session, id));
        in_background(Duration::MAX, async move {
            sleep(shared.config.orphan_timeout).await;
            let is_taken = in_use.as_ref().is_some_and(Assigned::is_taken);
            drop(in_use);
            if !is_taken {
                super::end::<S, B>(&shared, &session, &epoch);
            }
        });
    }

    /// Somebody else may go on in what was made for a session that this process had no more room
    /// for, unless it has ended, or another session has taken its place.
    #[cfg(feature = "store")]
    fn forgotten(&self, next: Next<'_, S, B>) {
        if let Next::Made(epoch, session) = next {
            let is_displaced = self.shared.sessions.is_displaced(&self.session);
            if !is_displaced && self.shared.keeps(&self.session, &epoch) {
                session.keep();
            }
        }
    }
}
