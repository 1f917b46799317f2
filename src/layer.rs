//! The layer: every knob, its default, and its reason.

use std::{fmt, sync::Arc, time::Duration};

use http::request::Parts;
use tower::Layer;

#[cfg(feature = "store")]
use crate::store::SessionStore;
use crate::{
    Classify, Compatible, Message, Principal, RecoveryEvent, SessionRecovery, Sessions,
    config::Config,
    session::{Pauses, TableLimits},
};

/// Wraps HTTP client services in [`SessionRecovery`].
///
/// Every knob has a default that suits a client of ordinary servers. The limits bound what the
/// layer holds in memory and how long it tries; none of them rejects a request.
///
/// ```
/// use std::time::Duration;
///
/// use mcp_session_recovery::SessionRecoveryLayer;
///
/// let layer = SessionRecoveryLayer::new()
///     .recovery_timeout(Duration::from_secs(5))
///     .replay_when(|message| message.method() != Some("tools/call"))
///     .on_recovery(|event| eprintln!("{}: epoch {}", event.host(), event.epoch()));
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct SessionRecoveryLayer {
    config: Config,
    sessions: Option<Sessions>,
}

impl SessionRecoveryLayer {
    /// A layer with every knob at its default.
    pub fn new() -> Self {
        Self {
            config: Config {
                enabled: true,
                reinitialize: true,
                classify: Arc::new(Compatible),
                replay_when: None,
                restore_state: true,
                answer_lost_requests: true,
                on_recovery: None,
                max_body_bytes: 1024 * 1024,
                max_initialize_bytes: 64 * 1024,
                table: TableLimits {
                    sessions: 10_000,
                    bytes: 256 * 1024 * 1024,
                },
                max_handshakes: 64,
                principal: None,
                max_initialize_result_bytes: 1024 * 1024,
                max_error_body_bytes: 64 * 1024,
                recovery_timeout: Duration::from_secs(10),
                pauses: Pauses {
                    first: Duration::from_millis(100),
                    longest: Duration::from_secs(10),
                },
                max_event_ids: 1024,
                max_subscriptions: 1024,
                orphan_timeout: Duration::from_secs(30),
                #[cfg(feature = "store")]
                store: None,
                #[cfg(feature = "store")]
                store_timeout: Duration::from_millis(250),
                #[cfg(feature = "store")]
                session_ttl: Duration::from_secs(24 * 60 * 60),
            },
            sessions: None,
        }
    }

    /// Whether the layer does anything at all. Default: `true`.
    ///
    /// With `false` every request passes as through no layer. It is a switch for a configuration
    /// file; `option_layer` would make another type of response.
    #[must_use]
    pub fn enabled(mut self, enabled: bool) -> Self {
        self.config.enabled = enabled;
        self
    }

    /// Whether an expired session is initialized again. Default: `true`.
    ///
    /// With `false` the layer only watches, and makes no handshake. The answer that shows a session to
    /// have expired comes back untouched, with a [`Recovery`](crate::Recovery) of
    /// [`Outcome::Detected`](crate::Outcome::Detected) in its extensions. A request that must not be sent,
    /// since the server calls another caller's session by its id by now, is answered 404 with the same;
    /// for callers of a server that has one id for all of them, that is every one but the last to begin.
    #[must_use]
    pub fn reinitialize(mut self, reinitialize: bool) -> Self {
        self.config.reinitialize = reinitialize;
        self
    }

    /// What decides from an answer whether the session is dead. Default: [`Compatible`].
    ///
    /// [`Strict`](crate::Strict) keeps to the letter of the specification; a closure can know a
    /// server better than either. See [`Classify`].
    #[must_use]
    pub fn classify(mut self, classify: impl Classify) -> Self {
        self.config.classify = Arc::new(classify);
        self
    }

    /// Whether a message may be sent again, in the new session, after the server answered that it
    /// does not know the old one. Default: every message may.
    ///
    /// A conforming server has not looked at a message that it answered 404, so sending it again
    /// is no repetition. Refuse it for methods that must never reach a server twice whatever stands
    /// between it and the client. The session is recovered all the same, and the caller gets its
    /// 404. A batch is sent again if each of its messages may be.
    ///
    /// Asked on the cold path alone; not asked about JSON-RPC responses, which are never sent
    /// again, nor about requests without a JSON-RPC message (a GET, say), which always are.
    #[must_use]
    pub fn replay_when(
        mut self,
        replay_when: impl Fn(&Message<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.config.replay_when = Some(Arc::new(replay_when));
        self
    }

    /// Whether the log level and the resource subscriptions that the caller had set are set again
    /// in a new session, before anyone uses it. Default: `true`.
    ///
    /// Costs one request for each of them, sixteen at a time. What is refused, or not answered
    /// within [`recovery_timeout`](Self::recovery_timeout), is named in
    /// [`RecoveryEvent::not_restored`] and does not fail the recovery.
    #[must_use]
    pub fn restore_state(mut self, restore_state: bool) -> Self {
        self.config.restore_state = restore_state;
        self
    }

    /// Whether a caller is told of an answer that can no longer come. Default: `true`.
    ///
    /// Told with a JSON-RPC error −32000 for the request, whose `data.reason` is
    /// `"session_expired"` or `"stream_ended"`, in the stream that should have brought the answer.
    /// Without it most clients wait for a time-out of their own.
    #[must_use]
    pub fn answer_lost_requests(mut self, answer_lost_requests: bool) -> Self {
        self.config.answer_lost_requests = answer_lost_requests;
        self
    }

    /// Called at the end of each recovery, successful or not. Default: nothing is.
    ///
    /// Called in the task of the recovery, so it must not block.
    #[must_use]
    pub fn on_recovery(
        mut self,
        on_recovery: impl Fn(&RecoveryEvent) + Send + Sync + 'static,
    ) -> Self {
        self.config.on_recovery = Some(Arc::new(on_recovery));
        self
    }

    /// The largest request body, in bytes, that is held while its request is under way, so that
    /// it can be sent again. Default: 1 MiB.
    ///
    /// A larger one is streamed. If it meets a dead session, the session is recovered for those
    /// who follow and the caller gets the 404.
    #[must_use]
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.config.max_body_bytes = bytes;
        self
    }

    /// The largest body of an `initialize` request, in bytes, that is remembered. Default: 64 KiB. What
    /// is remembered of its headers and its URI may take up 64 KiB apart from that, whatever the limit.
    ///
    /// A larger one passes, and its session is not recorded: the response says so with
    /// [`Outcome::NotRecorded`](crate::Outcome::NotRecorded). A store takes no session of more than 2 MiB.
    #[must_use]
    pub fn max_initialize_bytes(mut self, bytes: usize) -> Self {
        self.config.max_initialize_bytes = bytes;
        self
    }

    /// How many sessions are remembered. Default: 10,000; at least 1.
    ///
    /// One more, and the least recently used is forgotten of the principal, and there of the
    /// endpoint, that holds most: no caller and no server pushes out another's. Its requests pass
    /// through untouched from then on; if it had been recovered, its upstream session is ended with
    /// a DELETE, since nobody knows its id, once what is under way there has been answered or has had
    /// [`orphan_timeout`](Self::orphan_timeout). Each costs about 2 KiB beyond its `initialize` request.
    ///
    /// With a store (feature `store`) it goes on instead: its next request finds it there. Up to 256 more
    /// are remembered until the store has been told of them, and the server of what they hold.
    #[must_use]
    pub fn max_sessions(mut self, sessions: usize) -> Self {
        self.config.table.sessions = sessions;
        self
    }

    /// How many bytes all sessions together hold, about: what was recorded of them, and what
    /// subscriptions, event ids and recoveries leave behind. Default: 256 MiB.
    ///
    /// More, and sessions are forgotten as over [`max_sessions`](Self::max_sessions), from where
    /// most bytes are held; the last one stays.
    #[must_use]
    pub fn max_sessions_bytes(mut self, bytes: usize) -> Self {
        self.config.table.bytes = bytes;
        self
    }

    /// How many handshakes the layer makes at a time for one endpoint. Default: 64; at least 1.
    ///
    /// A server that restarts has lost all its sessions at once. Those beyond wait for their turn,
    /// oldest first, within seven eighths of [`recovery_timeout`](Self::recovery_timeout): with less time
    /// left, a handshake would be of no use. Who did not get a turn in that time may try again at once.
    /// What is restored after a handshake takes nobody's turn. Services that share their
    /// [`sessions`](Self::sessions) share this limit, too, and the first one to use it sets it.
    #[must_use]
    pub fn max_handshakes(mut self, handshakes: usize) -> Self {
        self.config.max_handshakes = handshakes;
        self
    }

    /// Who the caller of a request is. Default: all requests are one caller's.
    ///
    /// **A gateway has to set this.** Two principals never share a session: an id that one presents
    /// and another was given is an unknown id, and the request passes through untouched, so that the
    /// server itself answers it. Read it from what an authentication layer above has put into the
    /// request's extensions, or from a header that only such a layer can set. `None` is a principal
    /// of its own: the anonymous one.
    ///
    /// Asked of each request that carries a session id or may be an `initialize`.
    ///
    /// ```
    /// use mcp_session_recovery::{Principal, SessionRecoveryLayer};
    ///
    /// #[derive(Clone)]
    /// struct UserId(String);
    ///
    /// let layer = SessionRecoveryLayer::new().principal(|request| {
    ///     let user = request.extensions.get::<UserId>()?;
    ///     Some(Principal::from(user.0.as_str()))
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn principal(
        mut self,
        principal: impl Fn(&Parts) -> Option<Principal> + Send + Sync + 'static,
    ) -> Self {
        self.config.principal = Some(Arc::new(principal));
        self
    }

    /// The largest answer to `initialize`, in bytes, that is read. Default: 1 MiB.
    ///
    /// A larger one reaches the caller all the same. The layer then does not know the negotiated
    /// version; larger than this in a recovery, it fails the recovery.
    #[must_use]
    pub fn max_initialize_result_bytes(mut self, bytes: usize) -> Self {
        self.config.max_initialize_result_bytes = bytes;
        self
    }

    /// How much of the body of an answer, in bytes, is read to find out whether the session is
    /// dead. Default: 64 KiB.
    ///
    /// The caller gets all of it, if the answer is its; but where a recovery was tried and failed,
    /// what came after this much is gone, since it might have held the connection that the recovery
    /// needs.
    #[must_use]
    pub fn max_error_body_bytes(mut self, bytes: usize) -> Self {
        self.config.max_error_body_bytes = bytes;
        self
    }

    /// How long a recovery may take, handshake and restoring of state included. Default: 10 s.
    ///
    /// It bounds as well all that the layer adds to one request of a caller: reading the body of an
    /// answer that may mean an expired session, the `ping` of
    /// [`Verdict::Unsure`](crate::Verdict::Unsure), waiting for the recovery, and until the wrapped
    /// service is ready to take the request again. Then the caller has its own answer. `Duration::MAX`
    /// means for ever.
    ///
    /// An error whose body does not end, and does not speak of the session, is held back for three
    /// quarters of it.
    #[must_use]
    pub fn recovery_timeout(mut self, timeout: Duration) -> Self {
        self.config.recovery_timeout = timeout;
        self
    }

    /// How long a session is left alone after an attempt to recover it that was of no use: after
    /// the `first` one, and at the `longest`. Default: 100 ms, doubling to 10 s.
    ///
    /// An attempt is of no use if it failed, or if the new session was found expired before an
    /// answer proved that it lived. It is measured from the end of the attempt. Each pause is twice the one before, until there is a proof: a
    /// 2xx in the new session, or another answer of the server that is not a refusal to look at the
    /// request (401, 403, 429, 5xx). During a pause 404s pass through.
    #[must_use]
    pub fn recovery_pause(mut self, first: Duration, longest: Duration) -> Self {
        self.config.pauses = Pauses { first, longest };
        self
    }

    /// How many event ids are remembered for each session. Default: 1,024.
    ///
    /// The latest ones; a caller that resumes a stream of a dead session from an older one gets
    /// its 404.
    #[must_use]
    pub fn max_event_ids(mut self, event_ids: usize) -> Self {
        self.config.max_event_ids = event_ids;
        self
    }

    /// How many resource subscriptions are remembered for each session. Default: 1,024.
    ///
    /// Those beyond are not restored, which [`RecoveryEvent::not_restored`] tells. Nor is one that was
    /// asked for in a message larger than 8 KiB.
    #[must_use]
    pub fn max_subscriptions(mut self, subscriptions: usize) -> Self {
        self.config.max_subscriptions = subscriptions;
        self
    }

    /// How long requests that are under way in a session that is replaced may still be answered
    /// there. Default: 30 s.
    ///
    /// Then the caller is told that the answer is lost. See
    /// [`answer_lost_requests`](Self::answer_lost_requests).
    #[must_use]
    pub fn orphan_timeout(mut self, timeout: Duration) -> Self {
        self.config.orphan_timeout = timeout;
        self
    }

    /// The store that keeps sessions beyond the life of this process, and shares them with others.
    /// Default: none. Needs the feature `store`.
    ///
    /// A request with an id that no session of this process has asks the store first, and a recovery
    /// asks it before and after its handshake; neither waits longer than
    /// [`store_timeout`](Self::store_timeout). All other requests do not know of it. What is stored,
    /// for how long, and who must be able to read it, is told in the documentation of
    /// [`store`](crate::store).
    #[cfg(feature = "store")]
    #[must_use]
    pub fn store(mut self, store: impl SessionStore) -> Self {
        self.config.store = Some(Arc::new(store));
        self
    }

    /// How long a request waits for the [`store`](Self::store). Default: 250 ms.
    ///
    /// A request that waited in vain goes on as if there were no store.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.config.store_timeout = timeout;
        self
    }

    /// How long the [`store`](Self::store) keeps a session that is not used. Default: 24 hours.
    ///
    /// While it is used, its record is written again four times in that time.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn session_ttl(mut self, ttl: Duration) -> Self {
        self.config.session_ttl = ttl;
        self
    }

    /// The table to record sessions in. By default every call of [`layer`](Layer::layer) makes its
    /// own.
    #[must_use]
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = Some(sessions);
        self
    }
}

impl Default for SessionRecoveryLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone> Layer<S> for SessionRecoveryLayer {
    type Service = SessionRecovery<S>;

    fn layer(&self, inner: S) -> SessionRecovery<S> {
        let sessions = self.sessions.clone().unwrap_or_default();
        SessionRecovery::with(inner, self.config.clone(), sessions)
    }
}

impl fmt::Debug for SessionRecoveryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = &self.config;
        f.debug_struct("SessionRecoveryLayer")
            .field("reinitialize", &config.reinitialize)
            .field("restore_state", &config.restore_state)
            .field("answer_lost_requests", &config.answer_lost_requests)
            .field("max_body_bytes", &config.max_body_bytes)
            .field("max_sessions", &config.table.sessions)
            .field("recovery_timeout", &config.recovery_timeout)
            .field("recovery_pause", &config.pauses)
            .field("orphan_timeout", &config.orphan_timeout)
            .finish_non_exhaustive()
    }
}
