//! How a listening stream is opened anew (rules G1, H3).

use std::{
    marker::PhantomData,
    pin::Pin,
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
use tokio::time::timeout;

use super::{Exchange, packed::PackedHead};
use crate::{
    body::{BufferedBody, Reconnect, Reconnecting, RequestBody},
    config::Shared,
    http_service::HttpService,
    mcp::{
        EventIds, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID, is_event_stream, list_changed_event,
    },
    recovery,
    session::{Epoch, Replaced, Session, StreamOrigin},
};

/// Opens a caller's listening stream in whatever epoch the session is in.
pub(super) struct Reconnector<S, B> {
    shared: Arc<Shared<S>>,
    session: Arc<Session>,
    /// The epoch that the stream is open in.
    epoch: Arc<Epoch>,
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
    pub(super) fn new(exchange: &Exchange<S, B>, epoch: &Arc<Epoch>) -> Self {
        Self {
            shared: exchange.shared.clone(),
            session: exchange.session.clone(),
            epoch: epoch.clone(),
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

impl<S, B> Reconnect<S::ResBody> for Reconnector<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn remember(&mut self, ids: &EventIds) {
        let origin = StreamOrigin {
            epoch: self.epoch.number(),
            requests: Arc::default(),
        };
        self.session
            .remember(ids, &origin, self.shared.config.max_event_ids);
        recovery::make_room::<S, B>(&self.shared);
    }

    fn poll_replaced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.replaced.as_mut().poll(cx)
    }

    fn reconnect(&mut self) -> Reconnecting<S::ResBody> {
        self.epoch = self.session.chain().current();
        self.replaced = Box::pin(Replaced::new(self.epoch.clone()));
        let sending = self.shared.inner.send(get(self.head.unpack(), &self.epoch));
        let patience = self.shared.config.recovery_timeout;
        Box::pin(async move {
            let response = timeout(patience, sending).await.ok()?.ok()?;
            let streams = response.status().is_success() && is_event_stream(response.headers());
            streams.then(|| response.into_body())
        })
    }

    fn take_notices(&mut self) -> Option<Bytes> {
        self.session.take_notices().map(list_changed_event)
    }
}
