//! The servers as the service below the layer.

use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use mcp_session_recovery::RequestBody;
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};
use tower::Service;

use crate::{
    account::Tag,
    faults::Ending,
    server::{Act, Ids, SESSION_ID, Seen, act},
    wire::{Broken, Life, Sent, Wire},
    world::World,
};

thread_local! {
    /// It is a caller who asks whether the service is ready.
    pub static IS_CALLER: Cell<bool> = const { Cell::new(false) };
}

pub struct Servers {
    world: World,
    is_ready: bool,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Servers {
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            is_ready: false,
            wait: None,
        }
    }
}

impl Clone for Servers {
    fn clone(&self) -> Self {
        Self::new(&self.world)
    }
}

impl Service<Request<RequestBody<Sent>>> for Servers {
    type Response = Response<Wire>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Wire>, Broken>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.wait.is_none() && !self.is_ready && !IS_CALLER.get() {
            let wait = self.world.state().is_ready_after();
            self.wait = wait.map(|wait| Box::pin(sleep(wait)));
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<Sent>>) -> Self::Future {
        let is_ready = std::mem::take(&mut self.is_ready);
        let mut state = self.world.state();
        state
            .account
            .check(is_ready, "made ready before it is called", String::new);
        drop(state);
        Box::pin(serve(self.world.clone(), request))
    }
}

async fn serve(
    world: World,
    request: Request<RequestBody<Sent>>,
) -> Result<Response<Wire>, Broken> {
    let (head, body) = request.into_parts();
    let Some(tag) = head.extensions.get::<Tag>().cloned() else {
        world
            .state()
            .account
            .violate("never another's session", "a request without extensions");
        return Err(Broken);
    };
    let called = Instant::now();
    let Ok(body) = body.collect().await;
    let body = body.to_bytes();
    let seen = Seen {
        host: usize::from(head.uri.host() == Some("b.test")),
        message: serde_json::from_slice(&body).unwrap_or(Value::Null),
        method: head.method,
        headers: head.headers,
        tag,
    };
    let mut serving = Serving::new(&world, &seen, called);
    let act = {
        let mut state = world.state();
        let before = state.account.upstreams.len();
        let act = act(&mut state, &world, &seen);
        if state.account.upstreams.len() > before {
            serving.made = Some(before);
        }
        serving.alive = state.account.alive.take();
        act
    };
    match act {
        Act::Answer(after, life, response) => {
            if let Some(life) = life {
                tokio::select! {
                    biased;
                    Ending::Break | Ending::Close = ended(&life) => return Err(Broken),
                    () = sleep(after) => {}
                }
            } else {
                sleep(after).await;
            }
            serving.deliver(response.status());
            Ok(*response)
        }
        Act::Break(after) => {
            sleep(after).await;
            Err(Broken)
        }
        Act::Hang(Some(life)) => {
            ended(&life).await;
            Err(Broken)
        }
        Act::Hang(None) => pending().await,
    }
}

async fn ended(life: &Arc<Life>) -> Ending {
    poll_fn(|cx| life.poll_ended(cx)).await
}

/// Accounts for the time that a server takes, and for what its caller did not wait for.
struct Serving {
    world: World,
    tag: Tag,
    is_own: bool,
    called: Instant,
    handshake: Option<usize>,
    made: Option<usize>,
    /// It is the layer's `notifications/initialized` without an id.
    accepts: bool,
    alive: Option<usize>,
    is_delivered: bool,
}

impl Serving {
    fn new(world: &World, seen: &Seen, called: Instant) -> Self {
        let is_own = !seen.is_layers();
        let mut state = world.state();
        if is_own {
            let held = state.account.held.entry(seen.tag.number).or_default();
            held.since.push(called);
        }
        let lineage = seen.message["params"]["clientInfo"]["version"].as_str();
        let handshake = lineage
            .filter(|_| seen.is_handshake())
            .and_then(|it| it.parse().ok());
        Self {
            world: world.clone(),
            tag: seen.tag.clone(),
            is_own,
            called,
            handshake,
            made: None,
            accepts: seen.is_layers()
                && seen.rpc_method() == "notifications/initialized"
                && !seen.headers.contains_key(SESSION_ID),
            alive: None,
            is_delivered: false,
        }
    }

    fn deliver(&mut self, status: StatusCode) {
        self.is_delivered = true;
        let state = &mut *self.world.state();
        let account = &mut state.account;
        if let Some(made) = self.made {
            account.delivered(made);
            let host = &state.hosts[account.upstreams[made].host];
            // Its sender will be told, by whatever the server says to a stranger.
            account.upstreams[made].is_denied = !host.sessions.values().any(|it| it.serial == made);
        }
        if self.accepts && status.is_success() {
            account.accepted(&self.tag);
        }
        if let Some(alive) = self.alive.filter(|_| status.is_success()) {
            account.proves_life(alive);
            let host = account.upstreams[alive].host;
            if state.hosts[host].ids == Ids::Constant {
                account.proves_life_of(&self.tag);
            }
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut state = self.world.state();
        let account = &mut state.account;
        if self.is_own {
            let held = account.held.entry(self.tag.number).or_default();
            if let Some(position) = held.since.iter().position(|since| *since == self.called) {
                held.since.swap_remove(position);
            }
            held.time += self.called.elapsed();
        }
        if let Some(lineage) = self.handshake {
            account.lineages[lineage].attempts.under_way -= 1;
        }
        if let Some(made) = self.made {
            account.upstreams[made].is_excused |= !self.is_delivered;
        }
    }
}
