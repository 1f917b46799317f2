//! A real server, rmcp's, and a real client, hyper-util's, over loopback: rules E5 to E7, G1 to
//! G6, H1, H3.

use std::{
    collections::HashMap,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mcp_session_recovery::{
    Outcome, RecoveryEvent, RequestBody, ResponseBody, SessionRecovery, SessionRecoveryLayer,
};
use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    model::{
        ResourceUpdatedNotificationParam, ServerCapabilities, ServerConfig, SubscribeRequestParams,
    },
    service::RequestContext,
    tool, tool_handler, tool_router,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService,
        session::local::{LocalSessionHandle, LocalSessionManager, SessionConfig},
    },
};
use serde_json::{Value, json};
use testing::streams::{Stream, lost};
use testing::*;
use tokio::{net::TcpListener, task::JoinHandle};
use tower::{Layer, ServiceExt};

const RESOURCE: &str = "test://resource";

/// What the server's handlers saw.
#[derive(Default)]
struct Seen {
    subscribed: Mutex<Vec<(String, Peer<RoleServer>)>>,
    levels: Mutex<Vec<String>>,
    /// Ends the handlers that hang, which the server would wait for.
    given_up: tokio::sync::Notify,
}

#[derive(Clone)]
struct Handler(Arc<Seen>);

#[tool_router]
impl Handler {
    #[tool(description = "Answers")]
    async fn answer(&self) -> String {
        "answered".to_owned()
    }

    #[tool(description = "Does not answer")]
    async fn hang(&self) -> String {
        self.0.given_up.notified().await;
        "too late".to_owned()
    }
}

#[tool_handler]
#[allow(deprecated)]
impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_logging();
        ServerConfig::new(capabilities.build())
    }

    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let mut subscribed = self.0.subscribed.lock().unwrap();
        subscribed.push((request.uri, context.peer));
        Ok(())
    }

    async fn set_level(
        &self,
        request: rmcp::model::SetLevelRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let level = serde_json::to_value(request.level).unwrap();
        self.0
            .levels
            .lock()
            .unwrap()
            .push(level.as_str().unwrap().to_owned());
        Ok(())
    }
}

/// A server, and a caller with a session on it.
struct Scene {
    sessions: Arc<LocalSessionManager>,
    seen: Arc<Seen>,
    client: SessionRecovery<Recorded>,
    /// The method, session and last event id of all that reached the wire.
    wire: Wire,
    events: Arc<Mutex<Vec<RecoveryEvent>>>,
    uri: String,
    session: String,
    serving: JoinHandle<()>,
}

type Wire = Arc<Mutex<Vec<(Method, Option<String>, Option<String>)>>>;
type Http = Client<HttpConnector, RequestBody<CallerBody>>;
type Recorded = tower::util::BoxCloneSyncService<
    Request<RequestBody<CallerBody>>,
    Response<HyperBody>,
    TestError,
>;
type HyperBody = http_body_util::combinators::MapErr<Incoming, fn(hyper::Error) -> TestError>;

impl Drop for Scene {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// On a real clock nothing waits for ever.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, future)
        .await
        .expect("this never ends")
}

impl Scene {
    async fn new(config: impl FnOnce(&mut SessionConfig)) -> Self {
        let mut sessions = LocalSessionManager::default();
        config(&mut sessions.session_config);
        let retry = sessions.session_config.sse_retry;
        let (sessions, seen) = (Arc::new(sessions), Arc::<Seen>::default());
        let handler = Handler(seen.clone());
        let mcp = StreamableHttpService::new(
            move || Ok(handler.clone()),
            sessions.clone(),
            StreamableHttpServerConfig::default().with_sse_retry(retry),
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let router = axum::Router::new().route_service("/mcp", mcp);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

        let wire = Wire::default();
        let recording = wire.clone();
        let http: Http = Client::builder(TokioExecutor::new()).build_http();
        let recorded = http
            .map_request(move |request: Request<RequestBody<CallerBody>>| {
                let header = |name| {
                    let value = request.headers().get(name)?;
                    Some(value.to_str().unwrap().to_owned())
                };
                let seen = (
                    request.method().clone(),
                    header(SESSION_ID),
                    header(LAST_EVENT_ID),
                );
                recording.lock().unwrap().push(seen);
                request
            })
            .map_response(|response: Response<Incoming>| {
                response.map(|body| {
                    let error: fn(hyper::Error) -> TestError = |_| TestError("hyper");
                    http_body_util::BodyExt::map_err(body, error)
                })
            })
            .map_err(|_| TestError("client"));
        let events = Arc::<Mutex<Vec<RecoveryEvent>>>::default();
        let told = events.clone();
        let layer = SessionRecoveryLayer::new()
            .on_recovery(move |event| told.lock().unwrap().push(event.clone()));
        let mut scene = Self {
            sessions,
            seen,
            client: layer.layer(Recorded::new(recorded)),
            wire,
            events,
            uri: format!("http://{address}/mcp"),
            session: String::new(),
            serving,
        };
        let answer = scene.send(post(None, &initialize())).await;
        scene.session = answer.session().expect("a session id").to_owned();
        assert_eq!(scene.post(&initialized()).await.status, 202);
        scene
    }

    async fn respond(&self, mut request: Request<CallerBody>) -> Response<ResponseBody<HyperBody>> {
        *request.uri_mut() = self.uri.parse().unwrap();
        soon(self.client.clone().oneshot(request))
            .await
            .expect("an answer")
    }

    async fn send(&self, request: Request<CallerBody>) -> Answer {
        let response = self.respond(request).await;
        soon(read(response)).await
    }

    async fn post(&self, message: &Value) -> Answer {
        self.send(post(Some(&self.session), message)).await
    }

    async fn open(&self, request: Request<CallerBody>) -> Stream {
        Stream::of(self.respond(request).await)
    }

    async fn listen(&self) -> Stream {
        self.open(get(&self.session, None)).await
    }

    /// Calls the tool that answers, and gives what happened on the way.
    async fn call(&self) -> Option<Outcome> {
        let answer = self.post(&call(1, "answer")).await;
        let messages = answer.messages();
        let answered = messages.last().expect("an answer");
        assert_eq!(
            answered["result"]["content"][0]["text"], "answered",
            "{answered}"
        );
        answer.outcome()
    }

    /// The server forgets every session. Its streams stay open for as long as the sessions are
    /// held.
    async fn forget(&self) -> HashMap<Arc<str>, LocalSessionHandle> {
        std::mem::take(&mut *self.sessions.sessions.write().await)
    }

    /// Waits until the server has closed every session, which it does behind their streams.
    async fn gone(&self) {
        while !self.sessions.sessions.read().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The last GET on the wire: its session and its last event id.
    fn last_get(&self) -> (Option<String>, Option<String>) {
        let wire = self.wire.lock().unwrap();
        let get = wire.iter().rev().find(|(method, ..)| method == Method::GET);
        get.map(|(_, session, id)| (session.clone(), id.clone()))
            .expect("a GET")
    }

    /// Changes the resource in every session that has subscribed to it, and still lives.
    async fn change_resource(&self) {
        let subscribed = self.seen.subscribed.lock().unwrap().clone();
        let (uri, peer) = subscribed.last().expect("a subscription");
        assert_eq!(uri, RESOURCE);
        let updated = ResourceUpdatedNotificationParam::new(RESOURCE);
        peer.notify_resource_updated(updated).await.unwrap();
    }
}

fn call(id: u64, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
}

/// The ids of the events in a stream.
fn event_ids(stream: &Stream) -> Vec<String> {
    let text = String::from_utf8(stream.bytes()).unwrap();
    let ids = text.lines().filter_map(|line| line.strip_prefix("id:"));
    ids.map(|id| id.trim().to_owned()).collect()
}

/// E5 to E7, F1, C1: whatever becomes of its sessions, a call is answered.
#[tokio::test]
async fn a_call_is_answered_however_often_the_server_forgets() {
    let scene = Scene::new(|_| ()).await;
    assert_eq!(scene.call().await, None);
    for epoch in 1..=3 {
        drop(scene.forget().await);
        assert_eq!(scene.call().await, Some(Outcome::Replayed));
        assert_eq!(scene.call().await, None);
        let event = scene
            .events
            .lock()
            .unwrap()
            .last()
            .cloned()
            .expect("a recovery");
        assert_eq!(
            (event.epoch(), event.result(), event.changes().any()),
            (epoch, Ok(()), false)
        );
        assert_eq!(
            scene.sessions.sessions.read().await.len(),
            1,
            "none is left behind"
        );
    }
    assert_eq!(scene.send(delete(&scene.session)).await.status, 202);
    assert!(scene.sessions.sessions.read().await.is_empty());
}

/// G1, H1, H3: the server behind a gateway changes, the caller's stream and subscription do not.
#[tokio::test]
async fn a_subscription_and_a_listening_stream_survive() {
    let scene = Scene::new(|_| ()).await;
    let subscribe = json!({"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": RESOURCE}});
    let set_level = json!({"jsonrpc": "2.0", "id": 3, "method": "logging/setLevel", "params": {"level": "error"}});
    assert_eq!(scene.post(&subscribe).await.status, 200);
    assert_eq!(scene.post(&set_level).await.status, 200);
    let mut stream = scene.listen().await;
    scene.change_resource().await;
    soon(stream.until("resources/updated", 1)).await;

    let mut old_sessions = Vec::new();
    for epoch in 1..=2 {
        old_sessions.push(scene.forget().await);
        assert_eq!(scene.call().await, Some(Outcome::Replayed));
        soon(stream.until("tools/list_changed", epoch)).await;
        scene.change_resource().await;
        soon(stream.until("resources/updated", 1 + epoch)).await;
        assert_eq!(scene.seen.subscribed.lock().unwrap().len(), 1 + epoch);
        assert_eq!(*scene.seen.levels.lock().unwrap(), vec!["error"; 1 + epoch]);
        let (session, last_event_id) = scene.last_get();
        assert_ne!(session.as_deref(), Some(scene.session.as_str()));
        assert_eq!(last_event_id, None);
    }
    assert!(stream.is_open());
    let methods: Vec<_> = stream
        .messages()
        .iter()
        .map(|m| m["method"].clone())
        .collect();
    let [updated, changed] = [
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    ];
    assert_eq!(methods, [updated, changed, updated, changed, updated]);
    assert!(
        scene
            .events
            .lock()
            .unwrap()
            .iter()
            .all(|event| event.not_restored().is_empty())
    );
}

/// G2, G4: after its idle time the server ends all streams cleanly, with a call in flight, and
/// knows nothing of them when the client resumes them.
#[tokio::test]
async fn streams_that_the_idle_expiry_ended_are_resumed_as_far_as_they_can_be() {
    let short = |config: &mut SessionConfig| config.keep_alive = Some(Duration::from_millis(300));
    let scene = Scene::new(short).await;
    let mut listening = scene.listen().await;
    let mut hanging = scene
        .open(post(Some(&scene.session), &call(5, "hang")))
        .await;

    // Nothing is added: the call's stream can be resumed, as far as is known.
    soon(hanging.read_to_end()).await;
    soon(listening.read_to_end()).await;
    assert!(hanging.ended_cleanly() && listening.ended_cleanly());
    assert_eq!(hanging.messages(), [] as [Value; 0]);
    let id = event_ids(&hanging).pop().expect("a priming event");

    scene.seen.given_up.notify_waiters();
    soon(scene.gone()).await;

    // The client resumes both in the same moment.
    let listen = get(
        &scene.session,
        event_ids(&listening).last().map(String::as_str),
    );
    let resume = get(&scene.session, Some(&id));
    let (mut resumed, new) = tokio::join!(scene.open(resume), scene.open(listen));
    soon(resumed.read_to_end()).await;
    assert_eq!(resumed.messages(), [lost(5, "session_expired")]);
    assert_eq!(resumed.outcome(), Some(Outcome::AnswerLost));
    assert_eq!(new.head.status, 200);
    assert_eq!(scene.events.lock().unwrap().len(), 1, "one recovery");
    let (session, last_event_id) = scene.last_get();
    assert_ne!(session.as_deref(), Some(scene.session.as_str()));
    assert_eq!(last_event_id, None);
}

/// D2: a call meets the expired session, whose handler may still be running.
#[tokio::test]
async fn a_call_right_after_the_idle_expiry_is_answered() {
    let short = |config: &mut SessionConfig| config.keep_alive = Some(Duration::from_millis(300));
    let scene = Scene::new(short).await;
    for _ in 0..2 {
        let mut hanging = scene
            .open(post(Some(&scene.session), &call(5, "hang")))
            .await;
        soon(hanging.read_to_end()).await;
        assert_eq!(scene.call().await, Some(Outcome::Replayed));
    }
}

/// G5: without priming events there is nothing to resume from.
#[tokio::test]
async fn a_call_that_the_idle_expiry_cut_off_gets_the_error() {
    let scene = Scene::new(|config| {
        config.keep_alive = Some(Duration::from_millis(300));
        config.sse_retry = None;
    })
    .await;
    let mut hanging = scene
        .open(post(Some(&scene.session), &call(5, "hang")))
        .await;
    soon(hanging.read_to_end()).await;
    assert_eq!(event_ids(&hanging), [""; 0]);
    assert_eq!(hanging.messages(), [lost(5, "stream_ended")]);
    assert!(hanging.ended_cleanly());
}

/// G2, G3, G4: rmcp counts its event ids from 0 in every session.
#[tokio::test]
async fn event_ids_that_collide_across_sessions_are_not_mistaken() {
    // Given an event id of a call that was lost with its session,
    let scene = Scene::new(|_| ()).await;
    let mut lost_call = scene
        .open(post(Some(&scene.session), &call(5, "hang")))
        .await;
    soon(lost_call.until("id:", 1)).await;
    let id = event_ids(&lost_call).pop().unwrap();
    let _held = scene.forget().await;
    let stream = scene.listen().await;
    assert_eq!(stream.outcome(), Some(Outcome::Replayed));

    // when the client resumes from it, then it means that call;
    let mut resumed = scene.open(get(&scene.session, Some(&id))).await;
    soon(resumed.read_to_end()).await;
    assert_eq!(resumed.messages(), [lost(5, "session_expired")]);

    // and when a call in the new session has used it, too, then it means that one.
    let mut new_call = scene
        .open(post(Some(&scene.session), &call(6, "hang")))
        .await;
    soon(new_call.until("id:", 1)).await;
    assert_eq!(event_ids(&new_call), [id.as_str()]);
    let resumed = scene.open(get(&scene.session, Some(&id))).await;
    assert_eq!(
        (resumed.head.status.as_u16(), resumed.outcome()),
        (200, None)
    );
    assert_eq!(scene.last_get().1, Some(id));
}
