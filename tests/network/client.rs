//! The client: the layer over hyper-util's client, a time-out between them, and what notes what goes
//! out and comes in.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use mcp_session_recovery::{
    Principal, RequestBody, SessionRecovery, SessionRecoveryLayer, Sessions,
};
use tokio::time::timeout;
use tower::{
    BoxError, Layer, Service,
    util::{BoxCloneSyncService, ServiceExt},
};

use crate::{account::World, wire::Wire};

pub const SESSION_ID: &str = "mcp-session-id";
/// Whose a request is.
pub const CALLER: &str = "x-caller";
/// When it was sent, by the count of what the client sends and gets.
pub const SENT: &str = "x-sent";
/// Which session on the server an answer is of.
pub const SERIAL: &str = "x-serial";

/// For how long one sending waits for the head of its answer.
pub const SENDING: Duration = Duration::from_secs(3);
pub const RECOVERY: Duration = Duration::from_secs(5);

pub type Sent = RequestBody<Full<Bytes>>;
type Network = BoxCloneSyncService<Request<Sent>, Response<Incoming>, BoxError>;
pub type Stack = SessionRecovery<Tap>;

pub fn stack(world: &World, sessions: &Sessions) -> Stack {
    let connected = world.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let world = connected.clone();
        Box::pin(async move { Wire::connect(world).await.map(TokioIo::new) })
    });
    let client = Client::builder(TokioExecutor::new())
        // By the clock on the wall; the simulation has its own.
        .pool_idle_timeout(None)
        .build::<_, Sent>(connector);
    let mut layer = SessionRecoveryLayer::new()
        .sessions(sessions.clone())
        .recovery_timeout(RECOVERY)
        .orphan_timeout(Duration::from_secs(4));
    if world.state().settings.has_principal {
        layer = layer.principal(|request| {
            let caller = request.headers.get(CALLER)?;
            Some(Principal::from(caller.to_str().ok()?))
        });
    }
    layer.layer(Tap {
        network: BoxCloneSyncService::new(client.map_err(BoxError::from)),
        world: world.clone(),
    })
}

pub fn header<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Option<T> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// What is below the layer.
#[derive(Clone)]
pub struct Tap {
    network: Network,
    world: World,
}

impl Service<Request<Sent>> for Tap {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.network.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Sent>) -> Self::Future {
        let mut state = self.world.state();
        let sent = state.next_in_order();
        let caller: Option<usize> = header(request.headers(), CALLER);
        let method = request.method().clone();
        state.tell(|| format!("    {method} of {caller:?} is sent"));
        request.headers_mut().insert(SENT, HeaderValue::from(sent));
        if method == Method::DELETE {
            let id: Option<String> = header(request.headers(), SESSION_ID);
            if let Some(serial) = id.and_then(|id| state.find(&id)) {
                state.upstreams[serial].is_given_up = true;
            }
        }
        drop(state);
        let answer = self.network.call(request);
        let world = self.world.clone();
        Box::pin(async move {
            let response = timeout(SENDING, answer).await??;
            if let Some(serial) = header::<usize>(response.headers(), SERIAL) {
                let mut state = world.state();
                let order = state.next_in_order();
                state.tell(|| format!("session {serial} is known to the client"));
                state.upstreams[serial].delivered.get_or_insert(order);
            }
            Ok(response)
        })
    }
}
