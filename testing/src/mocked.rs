//! What the tests of recovery and replay share: a client whose inner service is a mock that
//! panics when it is called without having been made ready (rule E4), and scenes to begin with.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body;
use http_body_util::BodyExt;
use mcp_session_recovery::{
    Failure, Outcome, RecoveryEvent, Refusal, RequestBody, SessionRecovery, SessionRecoveryLayer,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use tokio_test::task;
use tower::{Layer, Service, ServiceExt, util::Oneshot};
use tower_test::mock::{self, Handle, Mock};

use crate::*;

pub type Sent = Request<RequestBody<CallerBody>>;
pub type Mocked = SessionRecovery<Mock<Sent, Reply>>;

/// What a request arrived with, beyond what [`Seen`] has. In its extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub version: http::Version,
    pub exact_size: Option<u64>,
}

/// A client of the server whose every request goes through a mock.
pub fn mocked(server: &Server, layer: SessionRecoveryLayer) -> Mocked {
    let (service, mut handle) = mock::pair::<Sent, Reply>();
    let server = server.service();
    tokio::spawn(async move {
        while let Some((mut request, answer)) = handle.next_request().await {
            let arrived = Arrived {
                version: request.version(),
                exact_size: request.body().size_hint().exact(),
            };
            request.extensions_mut().insert(arrived);
            let answering = server.clone().oneshot(request);
            tokio::spawn(async move {
                match answering.await {
                    Ok(reply) => answer.send_response(reply),
                    Err(error) => answer.send_error(error),
                }
            });
        }
    });
    layer.layer(service)
}

/// A session through a mock that the test serves itself, with [`serve`].
pub async fn by_hand(layer: SessionRecoveryLayer) -> (Handle<Sent, Reply>, Scene) {
    let (service, mut inner) = mock::pair();
    let client = layer.layer(service);
    let server = Server::new(Profile::TypeScript);
    let caller = client.clone();
    let opening = tokio::spawn(async move { handshake(&caller).await });
    serve(&mut inner, &server).await;
    serve(&mut inner, &server).await;
    let session = opening.await.expect("no panic");
    let scene = Scene {
        server,
        client,
        session,
    };
    (inner, scene)
}

/// Lets the server answer the next request.
pub async fn serve(inner: &mut Handle<Sent, Reply>, server: &Server) {
    let (request, answer) = soon(inner.next_request()).await.expect("a request");
    let reply = server.service().oneshot(request).await;
    answer.send_response(reply.expect("a reply"));
}

/// A session, and the server and client that it is between.
pub struct Scene<C = Mocked> {
    pub server: Server,
    pub client: C,
    pub session: String,
}

/// A session that the server knows.
pub async fn live(layer: SessionRecoveryLayer) -> Scene {
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, layer);
    let session = handshake(&client).await;
    Scene {
        server,
        client,
        session,
    }
}

/// A session that the server has forgotten.
pub async fn lost(layer: SessionRecoveryLayer) -> Scene {
    let scene = live(layer).await;
    scene.server.restart();
    scene
}

impl Scene {
    /// The same session and server, with a client of another process.
    pub fn in_another_process(&self, layer: SessionRecoveryLayer) -> Self {
        Self {
            server: self.server.clone(),
            client: mocked(&self.server, layer),
            session: self.session.clone(),
        }
    }
}

impl<S> Scene<SessionRecovery<S>>
where
    S: Service<Sent, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: std::fmt::Debug + Send + 'static,
{
    pub async fn call(&self, id: u64) -> Answer {
        self.send(post(Some(&self.session), &tool_call(id))).await
    }

    pub async fn send(&self, request: Request<CallerBody>) -> Answer {
        soon(send(&self.client, request)).await
    }

    /// Sends a request in a task of its own. Dropping the task is up to the test.
    pub fn spawn(&self, request: Request<CallerBody>) -> JoinHandle<Answer> {
        let client = self.client.clone();
        tokio::spawn(async move { read(client.oneshot(request).await.expect("an answer")).await })
    }

    pub fn spawn_call(&self, id: u64) -> JoinHandle<Answer> {
        self.spawn(post(Some(&self.session), &tool_call(id)))
    }

    /// A request whose head is all that matters, such as a GET, whose stream does not end.
    pub async fn head(&self, request: Request<CallerBody>) -> http::Response<()> {
        let response = soon(self.client.clone().oneshot(request)).await;
        response.expect("an answer").map(drop)
    }

    /// A request that the test polls itself.
    pub fn poll_by_hand(&self, request: Request<CallerBody>) -> task::Spawn<Responding<S>> {
        task::spawn(Box::pin(self.client.clone().oneshot(request)))
    }

    /// A recovery that has got as far as its `initialize`, and the request that started it.
    pub async fn recovering(&self) -> (Gate, JoinHandle<Answer>) {
        let before = self.server.count("initialize");
        let gate = hold(&self.server, "initialize");
        let trigger = self.spawn_call(1);
        settle().await;
        assert_eq!(self.server.count("initialize"), before + 1);
        (gate, trigger)
    }
}

pub type Responding<S> = Pin<Box<Oneshot<SessionRecovery<S>, Request<CallerBody>>>>;
pub type Answering = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

/// Opens the way for answers that are held back.
pub struct Gate(watch::Sender<bool>);

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

/// Holds back the answers to `what` until the gate is opened.
pub fn hold(server: &Server, what: &'static str) -> Gate {
    let (sender, receiver) = watch::channel(false);
    let holder = server.clone();
    server.on_async(move |seen| {
        if seen.what() != what {
            return None;
        }
        let (server, seen, mut receiver) = (holder.clone(), seen.clone(), receiver.clone());
        Some(Box::pin(async move {
            let _ = receiver.wait_for(|open| *open).await;
            Ok(server.default_answer(&seen))
        }))
    });
    Gate(sender)
}

/// The same where the server does at once what it is asked for.
pub fn hold_answer(server: &Server, what: &'static str) -> Gate {
    let (sender, receiver) = watch::channel(false);
    let holder = server.clone();
    server.on_async(move |seen| {
        (seen.what() == what).then(|| {
            let (answer, mut receiver) = (holder.default_answer(seen), receiver.clone());
            Box::pin(async move {
                let _ = receiver.wait_for(|open| *open).await;
                Ok(answer)
            }) as Answering
        })
    });
    Gate(sender)
}

/// Gives every `what` another answer than the server's own, which is made all the same: it is
/// given to `instead`, which can take the new session's id from it.
pub fn replace(
    server: &Server,
    what: &'static str,
    mut instead: impl FnMut(&Seen, Reply) -> Reply + Send + 'static,
) {
    let holder = server.clone();
    server.on(move |seen| {
        (seen.what() == what).then(|| {
            let own = holder.default_answer(seen);
            instead(seen, own)
        })
    });
}

/// `reply` with the session id of another one.
pub fn with_id_of(other: &Reply, mut reply: Reply) -> Reply {
    if let Some(id) = other.headers().get(SESSION_ID) {
        reply.headers_mut().insert(SESSION_ID, id.clone());
    }
    reply
}

/// The events of all recoveries through a layer.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<RecoveryEvent>>>);

impl Events {
    pub fn of(layer: SessionRecoveryLayer) -> (SessionRecoveryLayer, Self) {
        let events = Self::default();
        let told = events.clone();
        let layer = layer.on_recovery(move |event| told.0.lock().unwrap().push(event.clone()));
        (layer, events)
    }

    pub fn all(&self) -> Vec<RecoveryEvent> {
        self.0.lock().unwrap().clone()
    }

    pub fn outcomes(&self) -> Vec<Result<(), Failure>> {
        self.all().iter().map(RecoveryEvent::result).collect()
    }
}

/// Fails a test that would wait for ever. On the paused clock that costs no time.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("this never ends")
}

/// What is joined is given in order.
pub async fn join(tasks: impl IntoIterator<Item = JoinHandle<Answer>>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(soon(task).await.expect("no panic"));
    }
    answers
}

/// The argument that the server echoed: which call this is the answer to.
pub fn echoed(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{answer:?}");
    let message = answer.message();
    assert_eq!(
        message["id"], message["result"]["echo"]["arguments"]["n"],
        "{message}"
    );
    message["id"].as_u64().expect("an id")
}

/// What failed, if the recovery did.
pub fn failure(answer: &Answer) -> Option<Failure> {
    match answer.outcome() {
        Some(Outcome::Failed(failure)) => Some(failure),
        _ => None,
    }
}

/// The calls that arrived in sessions other than `session`, in order of their ids.
pub fn calls_outside(server: &Server, session: &str) -> Vec<u64> {
    let mut calls: Vec<u64> = server
        .all("tools/call")
        .iter()
        .filter(|seen| seen.session() != Some(session))
        .map(|seen| seen.message()["id"].as_u64().unwrap())
        .collect();
    calls.sort_unstable();
    calls
}

pub fn with_headers(
    mut request: Request<CallerBody>,
    headers: &[(&'static str, &'static str)],
) -> Request<CallerBody> {
    headers.iter().for_each(|(name, _)| {
        request.headers_mut().remove(*name);
    });
    headers.iter().for_each(|(name, value)| {
        request.headers_mut().append(*name, value.parse().unwrap());
    });
    request
}

pub fn set_level() -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": "logging/setLevel", "params": {"level": "info"}})
}

pub fn response(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"roots": []}})
}

pub fn ping(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

/// A POST of the session with any body.
pub fn posting<B>(session: &str, body: B) -> Request<CallerBody>
where
    B: Body<Data = Bytes, Error = TestError> + Send + Sync + 'static,
{
    request(Method::POST, Some(session), "").map(|_| BodyExt::boxed(body))
}

pub fn refused(refusal: Refusal) -> Option<Outcome> {
    Some(Outcome::NotReplayed(refusal))
}

/// The requests of a session's own, without the handshakes.
pub fn own(server: &Server) -> Vec<Seen> {
    let mut seen = server.seen();
    seen.retain(|seen| !["initialize", "notifications/initialized"].contains(&&*seen.what()));
    seen
}
