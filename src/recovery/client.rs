//! The layer's own requests to the server (rules E4 to E6, E11).

use std::{
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE},
    request::Parts,
};
use http_body::Body;
use tokio::sync::Semaphore;

use super::{
    drain::{drain, in_background},
    headers::{authorization, callers_headers},
};
use crate::{
    Failure,
    body::{BufferedBody, RequestBody},
    config::Shared,
    http_service::HttpService,
    mcp::{Id, PROTOCOL_VERSION, SESSION_ID},
    session::{Affinity, Assigned, Epoch, Handshake, Session, Sessions},
    sync::atomic::AtomicBool,
};

/// How many pings are answered in a handshake, one at a time: a server could ask for any number.
const MAX_PINGS: usize = 16;

/// Sends the layer's own messages with the credentials of the request that triggered them.
pub(super) struct Client<S, B> {
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
    /// What the answers set.
    affinity: Mutex<Affinity>,
    pings_left: AtomicUsize,
    turns: Arc<Semaphore>,
    body: PhantomData<fn(B)>,
}

/// The session that a message belongs to.
#[derive(Clone, Default)]
pub(super) struct UpstreamSession {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    of: Of,
}

/// What has it.
#[derive(Clone, Default)]
enum Of {
    /// A handshake that has yet to be answered.
    #[default]
    Nothing,
    /// A handshake that was given its id, which may be taken.
    Handshake(Arc<AtomicBool>),
    Epoch(Arc<Epoch>),
}

impl UpstreamSession {
    pub(super) fn of(epoch: &Arc<Epoch>) -> Self {
        Self {
            id: epoch.id().cloned(),
            version: epoch.version().cloned(),
            of: Of::Epoch(epoch.clone()),
        }
    }

    /// Of a handshake that was given this id, if one was.
    pub(super) fn of_handshake(id: Option<HeaderValue>, assigned: Option<&Assigned>) -> Self {
        Self {
            id,
            version: None,
            of: assigned.map_or(Of::Nothing, |it| Of::Handshake(it.taken())),
        }
    }

    /// Whether its id is another's by now, so that what is sent under it would enter that one's session
    /// (rule A5).
    fn is_anothers(&self, sessions: &Sessions, session: &Arc<Session>) -> bool {
        match (&self.of, &self.id) {
            (Of::Nothing, _) | (_, None) => false,
            (Of::Handshake(taken), Some(id)) => sessions.is_given_away(session, id, taken),
            (Of::Epoch(epoch), _) => sessions.is_anothers(session, epoch),
        }
    }

    /// Whether it is still there to be used: nobody says whose the id of a handshake is once that is given
    /// up.
    fn is_in_use(&self, sessions: &Sessions, session: &Arc<Session>) -> bool {
        let is_given_up = match (&self.of, &self.id) {
            (Of::Handshake(_), Some(id)) => !sessions.has_been_given(session, id),
            _ => false,
        };
        !is_given_up && !self.is_anothers(sessions, session)
    }

    /// The same of what would end it (rule I3).
    fn ends_anothers(&self, sessions: &Sessions, session: &Arc<Session>) -> bool {
        let uses = |id| sessions.uses(session.endpoint(), id);
        let is_anothers = match &self.of {
            Of::Epoch(epoch) => epoch.may_be_anothers(),
            Of::Handshake(taken) => taken.load(Ordering::Acquire),
            Of::Nothing => false,
        };
        is_anothers || self.id.as_ref().is_some_and(uses)
    }
}

impl<S, B> Client<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// A client that goes by the head of a caller's request. Nobody else's headers are lent to it:
    /// but for `accept` and `content-type`, all are the trigger's (rule E5).
    pub(super) fn of_trigger(
        shared: &Arc<Shared<S>>,
        session: &Arc<Session>,
        trigger: &Parts,
    ) -> Self {
        let initialize = session.initialize();
        let mut headers = callers_headers(&trigger.headers);
        for (name, recorded, usual) in [
            (
                ACCEPT,
                &initialize.accept,
                "application/json, text/event-stream",
            ),
            (CONTENT_TYPE, &initialize.content_type, "application/json"),
        ] {
            let value = recorded.clone();
            headers.insert(name, value.unwrap_or(HeaderValue::from_static(usual)));
        }
        Self {
            shared: shared.clone(),
            session: session.clone(),
            uri: trigger.uri.clone(),
            version: trigger.version,
            headers,
            extensions: trigger.extensions.clone(),
            affinity: Mutex::default(),
            pings_left: AtomicUsize::new(MAX_PINGS),
            turns: Arc::new(Semaphore::new(1)),
            body: PhantomData,
        }
    }

    /// A client for a session that a recovery has made, as that recovery had it.
    pub(super) fn of_handshake(
        shared: &Arc<Shared<S>>,
        session: &Arc<Session>,
        handshake: &Handshake,
    ) -> Self {
        let (mut trigger, ()) = Request::new(()).into_parts();
        trigger.uri = handshake.uri.clone();
        trigger.version = handshake.version;
        trigger.headers = handshake.headers.clone();
        trigger.extensions = handshake.extensions.clone();
        Self::of_trigger(shared, session, &trigger)
    }

    /// A client for a session that the caller has made itself.
    pub(super) fn of_initialize(shared: &Arc<Shared<S>>, session: &Arc<Session>) -> Self {
        let (mut initialize, ()) = Request::new(()).into_parts();
        let recorded = session.initialize();
        initialize.uri = session.uri().clone();
        initialize.headers = recorded.credentials.clone();
        initialize.extensions = recorded.extensions.clone();
        Self::of_trigger(shared, session, &initialize)
    }

    /// A client for whoever made this epoch, or was seen to be of use in it, if that is known.
    #[cfg(feature = "store")]
    pub(super) fn of_epoch(
        shared: &Arc<Shared<S>>,
        session: &Arc<Session>,
        epoch: &Epoch,
    ) -> Option<Self> {
        match epoch.handshake() {
            Some(handshake) => Some(Self::of_handshake(shared, session, handshake)),
            None => {
                let mut client = Self::of_initialize(shared, session);
                client
                    .headers
                    .extend(callers_headers(session.credentials(epoch)?));
                Some(client)
            }
        }
    }

    /// The same caller, who knows what an epoch's affinity is.
    pub(super) fn in_epoch(mut self, epoch: &Epoch) -> Self {
        if let Some(handshake) = epoch.handshake() {
            handshake.affinity.translate(&mut self.headers);
        }
        self
    }

    /// Whose credentials its requests go out with.
    pub(super) fn authorization(&self) -> Option<&HeaderValue> {
        authorization(&self.headers)
    }

    /// What the answers so far set, and what callers may still send in its place.
    pub(super) fn affinity(&self, before: Option<&Affinity>) -> Affinity {
        let affinity = self.affinity.lock();
        let mut affinity = affinity.unwrap_or_else(PoisonError::into_inner).clone();
        affinity.outdate(before, &self.headers);
        affinity
    }

    /// What the session that this client has made leaves behind.
    pub(super) fn handshake(&self, mut accepted: Response<Bytes>, affinity: Affinity) -> Handshake {
        let mut headers = callers_headers(&self.headers);
        affinity.insert(&mut headers);
        // Others get that answer, too (rule F3): cookies are for whoever triggered the recovery.
        accepted.headers_mut().remove(SET_COOKIE);
        Handshake {
            uri: self.uri.clone(),
            version: self.version,
            headers,
            extensions: self.extensions.clone(),
            accepted,
            affinity,
        }
    }

    fn request(
        &self,
        method: Method,
        upstream: &UpstreamSession,
        body: Bytes,
    ) -> Request<RequestBody<B>> {
        let mut headers = self.headers.clone();
        let affinity = self.affinity.lock();
        affinity
            .unwrap_or_else(PoisonError::into_inner)
            .insert(&mut headers);
        if let Some(id) = &upstream.id {
            headers.insert(SESSION_ID, id.clone());
        }
        if let Some(version) = &upstream.version {
            headers.insert(PROTOCOL_VERSION, version.clone());
        }
        if method == Method::POST {
            headers.insert(CONTENT_LENGTH, body.len().into());
        } else {
            headers.remove(CONTENT_TYPE);
        }
        let mut request = Request::new(RequestBody::buffered(BufferedBody::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
        *request.extensions_mut() = self.extensions.clone();
        request
    }

    /// Sends one message, unless the session's id is another's by then. An error of the inner service is
    /// told by its kind alone: its text may hold a URL (rule L1).
    pub(super) async fn post(
        &self,
        upstream: &UpstreamSession,
        message: Bytes,
    ) -> Result<Option<Response<S::ResBody>>, Failure> {
        let request = self.request(Method::POST, upstream, message);
        let is_own = || !upstream.is_anothers(&self.shared.sessions, &self.session);
        let Some(response) = self.shared.inner.send_if(request, is_own).await else {
            return Ok(None);
        };
        let response = response.map_err(|_| Failure::Transport)?;
        if response.headers().contains_key(SET_COOKIE) {
            let affinity = self.affinity.lock();
            let mut affinity = affinity.unwrap_or_else(PoisonError::into_inner);
            affinity.learn(response.headers());
        }
        Ok(Some(response))
    }

    /// Ends a session that nobody will use, unless a recorded one has the same id (rule I3). Nobody
    /// waits for that, nor for its answer. If it is of a handshake, its id is `given_up`.
    pub(super) fn delete(&self, upstream: &UpstreamSession, given_up: Option<Assigned>) {
        let (shared, session) = (self.shared.clone(), self.session.clone());
        if upstream.id.is_some() && !upstream.ends_anothers(&shared.sessions, &session) {
            let request = self.request(Method::DELETE, upstream, Bytes::new());
            let upstream = upstream.clone();
            in_background(self.shared.config.recovery_timeout, async move {
                let is_own = || !upstream.ends_anothers(&shared.sessions, &session);
                shared.send_and_drain(request, is_own).await;
                drop(given_up);
            });
        }
    }

    /// Answers a server's `ping` (specification 2025-11-25, Lifecycle, Initialization: it may ping
    /// before the handshake is over).
    pub(super) fn answer_ping(&self, upstream: &UpstreamSession, id: &Id) {
        let take = |left: usize| left.checked_sub(1);
        if let Ok(_left) = self
            .pings_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            let request = self.request(Method::POST, upstream, answer.into());
            let (shared, turns) = (self.shared.clone(), self.turns.clone());
            let (session, upstream) = (self.session.clone(), upstream.clone());
            in_background(self.shared.config.recovery_timeout, async move {
                // One at a time.
                let _turn = turns.acquire().await;
                let is_own = || upstream.is_in_use(&shared.sessions, &session);
                shared.send_and_drain(request, is_own).await;
            });
        }
    }
}

impl<S> Shared<S> {
    /// Sends a request whose answer is of no interest, if it `may_go` by then.
    async fn send_and_drain<B>(
        &self,
        request: Request<RequestBody<B>>,
        may_go: impl FnOnce() -> bool,
    ) where
        S: HttpService<B>,
        B: Body<Error: Send> + Send + 'static,
    {
        if let Some(Ok(response)) = self.inner.send_if(request, may_go).await {
            drain(Box::pin(response.into_body())).await;
        }
    }
}
