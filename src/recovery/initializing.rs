//! `initialize` on its way, which a server may answer when nobody waits for that any more (rule I3).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::{
    client::{Client, UpstreamSession},
    drain::{drain, in_background},
    handshake::session_id,
};
use crate::{Failure, http_service::HttpService};

type Sending<R> = Pin<Box<dyn Future<Output = Result<Option<Response<R>>, Failure>> + Send>>;

/// What comes of an `initialize`. If this is dropped before the answer is there, that is waited for as long
/// again as a recovery may take, and the session that it brings is ended.
pub(super) struct Initializing<S: HttpService<B>, B: Body<Error: Send> + Send + 'static> {
    client: Arc<Client<S, B>>,
    sending: Option<Sending<S::ResBody>>,
    is_given_up: Arc<AtomicBool>,
}

impl<S: HttpService<B>, B: Body<Error: Send> + Send + 'static> Initializing<S, B> {
    pub(super) fn new(client: &Arc<Client<S, B>>, body: Bytes) -> Self {
        let is_given_up = Arc::<AtomicBool>::default();
        let (sender, may_go) = (client.clone(), is_given_up.clone());
        let sending = async move {
            // What has not been sent by the time that it is given up never is.
            let may_go = || !may_go.load(Ordering::Acquire);
            // It goes out under no id.
            let upstream = UpstreamSession::default();
            sender.post_if(&upstream, body, may_go).await
        };
        Self {
            client: client.clone(),
            sending: Some(Box::pin(sending)),
            is_given_up,
        }
    }
}

impl<S: HttpService<B>, B: Body<Error: Send> + Send + 'static> Future for Initializing<S, B> {
    type Output = Result<Response<S::ResBody>, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // If the inner service panics, there is nothing to wait for.
        let mut sending = self.sending.take().expect("polled after it was ready");
        let Poll::Ready(answer) = sending.as_mut().poll(cx) else {
            self.sending = Some(sending);
            return Poll::Pending;
        };
        Poll::Ready(answer?.ok_or(Failure::Transport))
    }
}

impl<S: HttpService<B>, B: Body<Error: Send> + Send + 'static> Drop for Initializing<S, B> {
    fn drop(&mut self) {
        let Some(sending) = self.sending.take() else {
            return;
        };
        self.is_given_up.store(true, Ordering::Release);
        let client = self.client.clone();
        in_background(client.patience(), async move {
            let Ok(Some(response)) = sending.await else {
                return;
            };
            let (head, body) = response.into_parts();
            if head.status.is_success() {
                let id = session_id(&head.headers);
                client.delete(&UpstreamSession::of_handshake(id, None));
            }
            drain(Box::pin(body)).await;
        });
    }
}
