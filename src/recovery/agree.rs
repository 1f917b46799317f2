//! What a recovery has to do with other processes that share the store (rules N3, N4).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::time::{Instant, timeout_at};

use super::{
    client::Client,
    drain::in_background,
    handshake::{patience, whole},
};
use crate::{
    Failure,
    config::Shared,
    http_service::HttpService,
    mcp::{HttpAnswer, Verdict},
    session::{Affinity, Agreed, EndedBy, Epoch, Newer, Persistence, Session, StateChange},
    store::{Revision, record::Record},
};

/// One recovery's business with the store. All of it takes no longer than the store's time-out
/// (rule N5).
pub(super) struct Agreement<'a, S, B> {
    shared: &'a Arc<Shared<S>>,
    persistence: &'a Arc<Persistence>,
    session: &'a Arc<Session>,
    client: &'a Client<S, B>,
    /// Whoever made the epoch that is recovered, if the trigger is somebody else's: what a server says
    /// to a stranger proves nothing (rule D8).
    owner: Option<Client<S, B>>,
    /// How much longer the store may take.
    patience: Duration,
    /// Nobody has found that the epoch has expired.
    is_unasked: bool,
}

/// An epoch that another process has made.
pub(super) struct Adopted {
    pub(super) epoch: Arc<Epoch>,
    /// Whether the server still knows it.
    pub(super) is_alive: bool,
    record: Box<Record>,
    revision: Revision,
}

impl Adopted {
    /// What the store holds is taken over, by whoever has the lead: from here on this process may
    /// replace it. Gives what the epoch has not been told.
    pub(super) fn take_over<S>(&self, shared: &Shared<S>, session: &Session) -> Vec<StateChange> {
        let limit = shared.config.max_subscriptions;
        session.merge(&self.record, self.revision, limit)
    }
}

/// What a server says of a session that it is asked about.
#[derive(PartialEq, Eq)]
enum Said {
    /// Not that it does not know it.
    Alive,
    Expired,
    /// Not to whoever asked.
    Denied,
}

impl<'a, S, B> Agreement<'a, S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// `None` where there is no store.
    pub(super) fn new(
        shared: &'a Arc<Shared<S>>,
        session: &'a Arc<Session>,
        client: &'a Client<S, B>,
        expired: &Epoch,
    ) -> Option<Self> {
        let persistence = shared.persistence.as_ref()?;
        let owner = Client::of_epoch(shared, session, expired);
        let is_another = |it: &Client<S, B>| it.authorization() != client.authorization();
        Some(Self {
            shared,
            persistence,
            session,
            client,
            owner: owner.filter(is_another),
            patience: persistence.deadline() - Instant::now(),
            is_unasked: false,
        })
    }

    /// The same for an epoch that no request has found expired, so that none waits either.
    pub(super) fn without_a_request(mut self) -> Self {
        self.patience = self.shared.config.recovery_timeout;
        self.is_unasked = true;
        self
    }

    /// The epoch that another process has made meanwhile.
    /// Fails if another process has ended the session.
    pub(super) async fn newer(&mut self, deadline: Instant) -> Result<Option<Adopted>, Failure> {
        let until = self.until(deadline);
        let asked = Instant::now();
        let newer = self.persistence.newer(self.session, until).await;
        self.spend(asked.elapsed());
        match newer {
            Newer::No => Ok(None),
            Newer::Epoch(record, revision) => {
                Ok(Some(self.look_at(record, revision, deadline).await))
            }
            Newer::Ended => Err(self.ended()),
        }
    }

    /// Proposes an epoch. Gives it back, and that of another process if that was first and lives.
    /// Fails if another process has ended the session.
    pub(super) async fn propose(
        &mut self,
        mut epoch: Epoch,
        deadline: Instant,
    ) -> Result<(Epoch, Option<Adopted>), Failure> {
        loop {
            let until = self.until(deadline);
            let asked = Instant::now();
            let agreed = self.persistence.agree(self.session, &epoch, until).await;
            self.spend(asked.elapsed());
            let other = match agreed {
                Agreed::Proposed | Agreed::Left => return Ok((epoch, None)),
                Agreed::Other(record, revision) => self.look_at(record, revision, deadline).await,
                Agreed::Ended => return Err(self.ended()),
            };
            if other.is_alive {
                return Ok((epoch, Some(other)));
            }
            // It was written late, and has expired before that. Its session holds nothing any more.
            let _ = other.take_over(self.shared, self.session);
            epoch.come_after(&other.epoch);
        }
    }

    /// There is no session any more (rule N6). An epoch that has not expired is ended with it.
    fn ended(&self) -> Failure {
        // Whoever has ended it in this process meanwhile has ended the epoch.
        let is_there = !self.session.chain().is_forgotten();
        self.shared.sessions.forget(self.session);
        if self.is_unasked && is_there {
            super::end::<S, B>(self.shared, self.session, &self.session.chain().current());
        }
        Failure::Forgotten
    }

    fn spend(&mut self, time: Duration) {
        self.patience = self.patience.saturating_sub(time);
    }

    fn until(&self, deadline: Instant) -> Instant {
        let until = Instant::now().checked_add(self.patience);
        until.unwrap_or(deadline).min(deadline)
    }

    /// The epoch of another process, and whether the server knows it.
    async fn look_at(
        &mut self,
        record: Box<Record>,
        revision: Revision,
        deadline: Instant,
    ) -> Adopted {
        let epoch = Arc::new(self.epoch_of(&record));
        // What a server says of an id that it has given away is not about this session (rule A5).
        let meets = || self.shared.sessions.meet(self.session, &epoch);
        let is_lost = epoch.is_reassigned() || self.session.has_lost(&record, meets);
        let is_alive = !is_lost && self.is_alive(&epoch, deadline).await;
        Adopted {
            // By now it is known whose credentials are good.
            epoch: Arc::new(self.epoch_of(&record)),
            is_alive,
            record,
            revision,
        }
    }

    fn epoch_of(&self, record: &Record) -> Epoch {
        let mut accepted = Response::new(Bytes::new());
        *accepted.status_mut() = StatusCode::ACCEPTED;
        let client = self.owner.as_ref().unwrap_or(self.client);
        let handshake = client.handshake(accepted, Affinity::default());
        self.session.stored_epoch(record, handshake)
    }

    /// Asks the server whether it knows the epoch. Only a plain no is one.
    async fn is_alive(&mut self, epoch: &Arc<Epoch>, deadline: Instant) -> bool {
        if let Some(owner) = &self.owner {
            match self.ask(owner, epoch, deadline).await {
                // Those credentials are no longer good.
                Said::Denied => self.owner = None,
                said => return said == Said::Alive,
            }
        }
        self.ask(self.client, epoch, deadline).await != Said::Expired
    }

    async fn ask(&self, client: &Client<S, B>, epoch: &Arc<Epoch>, deadline: Instant) -> Said {
        let said = timeout_at(deadline, self.ask_for_long(client, epoch, deadline)).await;
        said.unwrap_or(Said::Alive)
    }

    async fn ask_for_long(
        &self,
        client: &Client<S, B>,
        epoch: &Arc<Epoch>,
        deadline: Instant,
    ) -> Said {
        let (response, ping) = match client.ping(epoch).await {
            Ok(Some(said)) => said,
            // It is another's by now.
            Ok(None) => return Said::Expired,
            Err(_) => return Said::Alive,
        };
        let config = &self.shared.config;
        let status = response.status();
        if status.is_success() || !config.classify.examines(status) {
            return Said::Alive;
        }
        let response = whole(response, config, patience(deadline)).await;
        let (head, body) = response.into_parts();
        let answer = HttpAnswer::of(&Method::POST, Some(&ping), &head, &body);
        match (config.classify.classify(&answer), status) {
            (Verdict::Expired, _) => Said::Expired,
            (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Said::Denied,
            _ => Said::Alive,
        }
    }
}

/// The session has ended, in an epoch that another process may have gone on from: that one is ended,
/// too, with the credentials of whoever ended the session (rule I1). Nobody waits.
pub(crate) fn end_everywhere<S>(shared: &Arc<Shared<S>>, session: &Arc<Session>, head: Parts) {
    for persistence in shared.sessions.kept_by() {
        let ending = persistence.ending(session);
        let ended = EndedBy::new(session.clone(), head.clone());
        // Each of its steps has a time-out of its own.
        in_background(Duration::MAX, async move {
            persistence.end(ended).await;
            drop(ending);
        });
    }
}
