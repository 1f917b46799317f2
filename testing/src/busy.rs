//! A service that is not always ready.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use mcp_session_recovery::SessionRecoveryLayer;
use tokio::time::Sleep;
use tower::{Layer, Service};

use crate::{Client, Server, ServerService, mocked::Sent};

/// How long whoever is kept waiting waits.
pub const BUSY: Duration = Duration::from_secs(5);

/// A service that keeps those waiting who ask next, as many as it is told to.
pub struct Busy {
    inner: ServerService,
    load: Load,
    wait: Option<Pin<Box<Sleep>>>,
}

/// What it is told. Clones share all.
#[derive(Clone, Default)]
pub struct Load(Arc<AtomicUsize>);

/// A client of the server over such a service.
pub fn busy(server: &Server, layer: SessionRecoveryLayer) -> (Client<Busy>, Load) {
    let load = Load::default();
    let service = Busy {
        inner: server.service(),
        load: load.clone(),
        wait: None,
    };
    (layer.layer(service), load)
}

impl Load {
    /// So many who ask next have to wait.
    pub fn keep_waiting(&self, next: usize) {
        self.0.store(next, Relaxed);
    }

    /// The same, when the first of these requests has come.
    pub fn keep_waiting_after(&self, server: &Server, what: &'static str, next: usize) {
        let (mut load, behind) = (Some(self.clone()), server.clone());
        server.on(move |seen| {
            let load = load.take_if(|_| seen.what() == what)?;
            load.keep_waiting(next);
            Some(behind.default_answer(seen))
        });
    }

    /// Whether as many are waiting as were to be, or have been.
    pub fn is_waited_for(&self) -> bool {
        self.0.load(Relaxed) == 0
    }
}

impl Clone for Busy {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            load: self.load.clone(),
            wait: None,
        }
    }
}

impl Service<Sent> for Busy {
    type Response = <ServerService as Service<Sent>>::Response;
    type Error = <ServerService as Service<Sent>>::Error;
    type Future = <ServerService as Service<Sent>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let takes_one = |left: usize| left.checked_sub(1);
        if self.wait.is_none()
            && self
                .load
                .0
                .fetch_update(Relaxed, Relaxed, takes_one)
                .is_ok()
        {
            self.wait = Some(Box::pin(tokio::time::sleep(BUSY)));
        }
        match &mut self.wait {
            Some(wait) => wait.as_mut().poll(cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: Sent) -> Self::Future {
        self.inner.call(request)
    }
}
