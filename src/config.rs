//! What the knobs come to, and what all clones of a service share.

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use tokio::time::Instant;

use crate::{
    RecoveryEvent,
    deadline::deadline,
    http_service::SharedService,
    mcp::{Classify, Message},
    session::{Epoch, Pauses, Principal, Session, Sessions, TableLimits},
};
#[cfg(feature = "store")]
use crate::{
    session::{Persistence, PersistenceConfig},
    store::SessionStore,
};

/// The knobs of [`SessionRecoveryLayer`](crate::SessionRecoveryLayer), where each is explained.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) enabled: bool,
    pub(crate) reinitialize: bool,
    pub(crate) classify: Arc<dyn Classify>,
    pub(crate) replay_when: Option<ReplayWhen>,
    pub(crate) restore_state: bool,
    pub(crate) answer_lost_requests: bool,
    pub(crate) on_recovery: Option<OnRecovery>,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_initialize_bytes: usize,
    pub(crate) table: TableLimits,
    pub(crate) max_handshakes: usize,
    pub(crate) principal: Option<PrincipalOf>,
    pub(crate) max_initialize_result_bytes: usize,
    pub(crate) max_error_body_bytes: usize,
    pub(crate) recovery_timeout: Duration,
    pub(crate) pauses: Pauses,
    pub(crate) max_event_ids: usize,
    pub(crate) max_subscriptions: usize,
    pub(crate) orphan_timeout: Duration,
    #[cfg(feature = "store")]
    pub(crate) store: Option<Arc<dyn SessionStore>>,
    #[cfg(feature = "store")]
    pub(crate) store_timeout: Duration,
    #[cfg(feature = "store")]
    pub(crate) session_ttl: Duration,
}

impl Config {
    /// When what begins at `start` has to be over (rule E10).
    pub(crate) fn deadline(&self, start: Instant) -> Instant {
        deadline(start, self.recovery_timeout)
    }

    /// Until when a handshake may be begun (rule E12). With less time left, it would be given up, and the
    /// server have it all the same.
    pub(crate) fn latest_turn(&self, start: Instant) -> Instant {
        let patience = self.recovery_timeout;
        deadline(start, patience - patience / 8)
    }
}

#[cfg(feature = "store")]
impl Config {
    /// What keeps these sessions, if there is a store.
    pub(crate) fn persistence(&self, sessions: &Sessions) -> Option<Arc<Persistence>> {
        let config = PersistenceConfig {
            store: self.store.clone()?,
            timeout: self.store_timeout,
            ttl: self.session_ttl,
            recovery_timeout: self.recovery_timeout,
            pauses: self.pauses,
            table: self.table,
            max_subscriptions: self.max_subscriptions,
        };
        Some(Persistence::new(config, sessions.clone()))
    }
}

pub(crate) type PrincipalOf = Arc<dyn Fn(&Parts) -> Option<Principal> + Send + Sync>;
pub(crate) type ReplayWhen = Arc<dyn Fn(&Message<'_>) -> bool + Send + Sync>;
pub(crate) type OnRecovery = Arc<dyn Fn(&RecoveryEvent) + Send + Sync>;

/// What all clones of a service share, and everything that is under way in them.
pub(crate) struct Shared<S> {
    pub(crate) config: Config,
    pub(crate) sessions: Sessions,
    pub(crate) inner: SharedService<S>,
    /// What keeps the sessions in a store, if there is one (rule N1).
    #[cfg(feature = "store")]
    pub(crate) persistence: Option<Arc<Persistence>>,
}

impl<S> Shared<S> {
    /// A session is new, or has changed. Without a store, that concerns nobody.
    pub(crate) fn changed(&self, session: &Arc<Session>) {
        #[cfg(feature = "store")]
        if let Some(persistence) = &self.persistence {
            return persistence.changed(session);
        }
        // Another service may have the store of the table.
        self.sessions.changed([session]);
    }

    /// Whether the session is recorded; once more, where it was forgotten for want of room.
    pub(crate) fn has(&self, session: &Arc<Session>) -> bool {
        #[cfg(feature = "store")]
        if let Some(persistence) = &self.persistence {
            persistence.recall(session);
            // It may have made room again at once.
            return !session.chain().is_forgotten() || session.is_to_go_on();
        }
        !session.chain().is_forgotten()
    }

    /// Whether somebody may go on with a session that this process has forgotten, in this epoch: then
    /// that is not to be ended (rule I2).
    pub(crate) fn keeps(&self, session: &Session, epoch: &Epoch) -> bool {
        #[cfg(feature = "store")]
        return (self.sessions.kept_by().iter()).any(|it| it.keeps(session, epoch));
        #[cfg(not(feature = "store"))]
        {
            let _ = (session, epoch);
            false
        }
    }
}
