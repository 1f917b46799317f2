//! How a listening stream is opened anew (rules G1, H3).

use std::{
    marker::PhantomData,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Request,
    header::{ACCEPT, ACCEPT_ENCODING},
    request::Parts,
};
use http_body::Body;
use tokio::{
    runtime::Handle,
    task::{JoinSet, coop::unconstrained},
    time::{Sleep, sleep_until, timeout},
};

use super::{Exchange, deliver::accept, packed::PackedHead};
use crate::{
    body::{BufferedBody, Reconnect, Reconnecting, RequestBody, Responded},
    config::Shared,
    http_service::HttpService,
    mcp::{
        EventIds, LAST_EVENT_ID, LargeAnswer, LostResponse, PROTOCOL_VERSION, SESSION_ID,
        carries_nothing, is_event_stream, list_changed_event,
    },
    recovery,
    session::{Epoch, Listening, LostRequests, Replaced, Session, StreamOrigin},
};

/// Opens a caller's listening stream in whatever epoch the session is in.
pub(super) struct Reconnector<S, B> {
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    /// The epoch that the stream is open in, or is being opened in.
    epoch: Arc<Epoch>,
    origin: StreamOrigin,
    /// Until the stream has ended.
    listening: Option<Listening>,
    /// How long another stream may still bring what is lost otherwise (rule G6).
    others: Option<Pin<Box<Sleep>>>,
    replaced: Pin<Box<Replaced>>,
    /// The caller's GET.
    head: PackedHead,
    marker: PhantomData<fn(B)>,
}

impl<S, B> Reconnector<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    pub(super) fn new(exchange: &Exchange<S, B>, epoch: &Arc<Epoch>, origin: StreamOrigin) -> Self {
        Self {
            shared: exchange.shared.clone(),
            session: exchange.session.clone(),
            epoch: epoch.clone(),
            origin,
            listening: Some(exchange.session.listens(epoch.number())),
            others: None,
            replaced: Box::pin(Replaced::new(epoch.clone())),
            head: exchange.head.clone(),
            marker: PhantomData,
        }
    }
}

/// The GET as it goes out in `epoch`: with the credentials of the request that made it.
fn get<B: Body>(mut parts: Parts, epoch: &Epoch) -> Request<RequestBody<B>> {
    if let Some(handshake) = epoch.handshake() {
        let mut headers = handshake.headers.clone();
        for name in [ACCEPT, SESSION_ID, PROTOCOL_VERSION] {
            if let Some(value) = parts.headers.remove(&name) {
                headers.insert(name, value);
            }
        }
        parts.headers = headers;
    }
    parts.headers.remove(LAST_EVENT_ID);
    // The stream goes on as it began: in plain text.
    parts.headers.remove(ACCEPT_ENCODING);
    epoch.translate_request(&mut parts.headers);
    Request::from_parts(parts, RequestBody::buffered(BufferedBody::default()))
}

/// Opens a stream whether its caller asks for what it brings or not: what it holds of the inner service
/// until then is not for others to wait for.
fn in_task<R: Send + 'static>(
    opening: impl Future<Output = Option<R>> + Send + 'static,
) -> Reconnecting<R> {
    let Ok(runtime) = Handle::try_current() else {
        return Box::pin(opening);
    };
    let mut task = JoinSet::new();
    task.spawn_on(opening, &runtime);
    // Dropped with this. A panic of the inner service ends the stream.
    Box::pin(async move { task.join_next().await?.ok()? })
}

impl<S, B> Reconnect<S::ResBody> for Reconnector<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn remember(&mut self, ids: &EventIds) {
        let limit = self.shared.config.max_event_ids;
        self.session.remember(ids, &mut self.origin, limit);
        recovery::make_room::<S, B>(&self.shared);
    }

    fn responded(&mut self, message: Responded<'_>) {
        match message {
            Responded::Whole(data) => {
                self.session.responded(data);
                for change in self.session.answered_changes(data.as_bytes()) {
                    accept::<S, B>(&self.shared, &self.session, self.epoch.number(), change);
                }
            }
            Responded::Large(data) => {
                if let LargeAnswer::Of(id) = data.answer() {
                    self.session.responded_to(id);
                }
            }
        }
    }

    fn poll_replaced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.replaced.as_mut().poll(cx)
    }

    fn reconnect(&mut self) -> Reconnecting<S::ResBody> {
        self.epoch = self.session.chain().current();
        let mut flight = self.session.chain().under_way();
        self.origin = StreamOrigin::listening(self.epoch.number());
        self.listening = Some(self.session.listens(self.epoch.number()));
        self.replaced = Box::pin(Replaced::new(self.epoch.clone()));
        let (shared, session) = (self.shared.clone(), self.session.clone());
        let (epoch, head) = (self.epoch.clone(), self.head.clone());
        in_task(async move {
            let patience = shared.config.recovery_timeout;
            // Known sooner than told.
            let has_moved = || !Arc::ptr_eq(&session.chain().current(), &epoch);
            let mut has_failed = false;
            loop {
                // There is no use in an epoch that is being recovered.
                if let Some(flight) = flight.take() {
                    let ended = timeout(patience.saturating_mul(2), flight.ended()).await;
                    // One that was abandoned or given up has made nothing (rule E10).
                    if matches!(ended, Ok(Ok(()))) && has_moved() {
                        break;
                    }
                }
                // If the server has given its id to somebody else (rule A5), the stream ends, and the
                // caller's own next request recovers the session; unless that has ended.
                let is_own = || {
                    // It may have made room, and is to go on.
                    shared.has(&session) && !shared.sessions.is_anothers(&session, &epoch)
                };
                let request = get(head.unpack(session.uri()), &epoch);
                let sending = shared.inner.send_if(request, is_own);
                let sent = timeout(patience, sending).await;
                // Also if that has come while the answer was waited for.
                let tells_apart = || shared.sessions.tells_apart(&session);
                let is_over = !shared.has(&session) || !is_own() && tells_apart();
                if matches!(sent, Ok(None)) || is_over {
                    return None;
                }
                if let Ok(Some(Ok(response))) = sent {
                    let status = response.status();
                    let streams = is_event_stream(response.headers()) && !carries_nothing(status);
                    if streams && status.is_success() {
                        // A proof of life (rule J4).
                        if epoch.is_unproven_recovery() {
                            session.chain().lives(&epoch);
                        }
                        return Some(response.into_body());
                    }
                }
                // The epoch may have been lost meanwhile.
                flight = session.chain().under_way();
                if has_moved() {
                    break;
                }
                if flight.is_none() || std::mem::replace(&mut has_failed, true) {
                    return None;
                }
            }
            // The epoch is being replaced, and the stream is about to be opened in the next.
            std::future::pending().await
        })
    }

    fn has_ended(&mut self) {
        self.listening = None;
    }

    fn poll_notices(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        loop {
            let lists = self.session.take_notices().map(list_changed_event);
            let config = &self.shared.config;
            let lost = match config.answer_lost_requests {
                true => (self.session).take_lost(self.epoch.number(), config.orphan_timeout),
                false => LostRequests::default(),
            };
            if !lost.ids.is_empty() {
                let lost = LostResponse::SessionExpired.events(&lost.ids);
                return Some([lists.unwrap_or_default(), lost].concat().into());
            }
            if lists.is_some() {
                return lists;
            }
            let listening = self.listening.as_mut();
            let mut is_news = listening.is_some_and(|it| it.poll_news(cx).is_ready());
            self.others = lost.until.map(|until| match self.others.take() {
                Some(others) if others.deadline() == until => others,
                _ => Box::pin(sleep_until(until)),
            });
            if let Some(others) = &mut self.others {
                // Also if all of the task's budget is used up.
                is_news |= pin!(unconstrained(others.as_mut())).poll(cx).is_ready();
            }
            if !is_news {
                return None;
            }
        }
    }
}
