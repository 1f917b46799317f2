//! What the store turns out to have otherwise, and no request has asked about (rules N3, H1).

use std::{
    marker::PhantomData,
    sync::{Arc, Weak},
};

use http::Response;
use http_body::Body;

use super::{
    client::{Client, UpstreamSession},
    restore::tell,
    task::follow,
};
use crate::{
    config::Shared,
    http_service::HttpService,
    session::{Affinity, EndedBy, Reconcile, Session, StateChange},
    store::record::Record,
};

/// Sees to it that what the store turns out to have otherwise is seen to, by a service that is about to
/// tell it something, or to ask it.
pub(crate) fn reconcile<S, B>(shared: &Arc<Shared<S>>)
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    if let Some(persistence) = &shared.persistence {
        persistence.reconcile_with(|| Reconciler::<S, B> {
            shared: Arc::downgrade(shared),
            body: PhantomData,
        });
    }
}

/// The store's way to the server, as long as there is a service.
struct Reconciler<S, B> {
    shared: Weak<Shared<S>>,
    body: PhantomData<fn(B)>,
}

impl<S, B> Reconcile for Reconciler<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    fn asks(&self) -> bool {
        let shared = self.shared.upgrade();
        shared.is_some_and(|it| it.config.reinitialize)
    }

    fn tell(&self, session: &Arc<Session>, changes: Vec<StateChange>) {
        if let Some(shared) = self.shared.upgrade() {
            if shared.config.restore_state {
                tell::<S, B>(&shared, session, changes);
            }
        }
    }

    fn follow(&self, session: &Arc<Session>) {
        if let Some(shared) = self.shared.upgrade() {
            follow::<S, B>(&shared, session);
        }
    }

    fn let_go(&self, session: &Arc<Session>) {
        if let Some(shared) = self.shared.upgrade() {
            super::let_go::<S, B>(&shared, session);
        }
    }

    fn end(&self, ended: &EndedBy, record: &Record) {
        if let Some(shared) = self.shared.upgrade() {
            let session = &ended.session;
            let client = Client::<S, B>::of_trigger(&shared, session, &ended.head);
            let handshake = client.handshake(Response::default(), Affinity::default());
            let epoch = Arc::new(session.stored_epoch(record, handshake));
            client.delete(&UpstreamSession::of(&epoch), None);
        }
    }
}
