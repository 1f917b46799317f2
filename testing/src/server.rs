//! An in-process server that is told how to behave.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::Service;

use crate::{
    Profile, Reply, SESSION_ID, TestError, VERSION, json_reply, pending_sse, reply, whose::Whose,
};

/// A request as it arrived at a test server.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The chunks that it came in.
    pub frames: Vec<Bytes>,
    pub trailers: Option<HeaderMap>,
    pub extensions: http::Extensions,
    /// The error that the body ended with.
    pub body_error: Option<String>,
}

impl Seen {
    /// The JSON-RPC message, or null.
    pub fn message(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The JSON-RPC method, or the HTTP method where there is none.
    pub fn what(&self) -> String {
        match self.message()["method"].as_str() {
            Some(method) => method.to_owned(),
            None => self.method.to_string(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn session(&self) -> Option<&str> {
        self.header(SESSION_ID)
    }
}

type Hook = Box<
    dyn FnMut(&Seen) -> Option<Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>>
        + Send,
>;

/// An in-process server.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    profile: Profile,
    state: Mutex<State>,
    /// Locked while they are asked, so a hook must not add one.
    hooks: Mutex<Vec<Hook>>,
}

#[derive(Default)]
pub(crate) struct State {
    seen: Vec<Seen>,
    pub(crate) live: HashSet<String>,
    minted: usize,
    version: Option<String>,
    server_info: Option<Value>,
    capabilities: Option<Value>,
    levels: HashMap<String, Value>,
    subscriptions: HashMap<String, Vec<String>>,
    pub(crate) whose: Whose,
}

impl Server {
    pub fn new(profile: Profile) -> Self {
        Self(Arc::new(Inner {
            profile,
            state: Mutex::default(),
            hooks: Mutex::default(),
        }))
    }

    pub(crate) fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Forgets every session, as a restart does.
    pub fn restart(&self) {
        let mut state = self.state();
        state.live.clear();
        state.levels.clear();
        state.subscriptions.clear();
        state.whose.restart();
    }

    /// Answers with this version from now on, whatever is proposed.
    pub fn set_version(&self, version: &str) {
        self.state().version = Some(version.to_owned());
    }

    pub fn set_server_info(&self, info: Value) {
        self.state().server_info = Some(info);
    }

    pub fn set_capabilities(&self, capabilities: Value) {
        self.state().capabilities = Some(capabilities);
    }

    /// Lets `hook` answer any request that it wants to. The latest one is asked first.
    pub fn on(&self, mut hook: impl FnMut(&Seen) -> Option<Reply> + Send + 'static) {
        self.on_async(move |seen| {
            let reply = hook(seen)?;
            Some(Box::pin(async move { Ok(reply) }))
        });
    }

    /// The same with an answer that takes its time, or is an error of the transport.
    pub fn on_async(
        &self,
        hook: impl FnMut(
            &Seen,
        )
            -> Option<Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>>
        + Send
        + 'static,
    ) {
        self.0.hooks.lock().unwrap().push(Box::new(hook));
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// What arrived so far, by JSON-RPC method or else HTTP method.
    pub fn log(&self) -> Vec<String> {
        self.state().seen.iter().map(Seen::what).collect()
    }

    /// How often something arrived.
    pub fn count(&self, what: &str) -> usize {
        self.log().iter().filter(|seen| *seen == what).count()
    }

    /// The requests of one kind.
    pub fn all(&self, what: &str) -> Vec<Seen> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.what() == what)
            .collect()
    }

    pub fn last(&self, what: &str) -> Seen {
        self.all(what)
            .pop()
            .unwrap_or_else(|| panic!("no {what} arrived"))
    }

    /// The ids of the sessions that live on the server.
    pub fn live(&self) -> Vec<String> {
        self.state().live.iter().cloned().collect()
    }

    pub fn subscriptions(&self, session: &str) -> Vec<String> {
        self.state()
            .subscriptions
            .get(session)
            .cloned()
            .unwrap_or_default()
    }

    pub fn level(&self, session: &str) -> Option<Value> {
        self.state().levels.get(session).cloned()
    }

    /// Answers one request as the profile does.
    async fn answer(self, seen: Seen) -> Result<Reply, TestError> {
        self.state().seen.push(seen.clone());
        let hooked = {
            let mut hooks = self.0.hooks.lock().unwrap();
            hooks.iter_mut().rev().find_map(|hook| hook(&seen))
        };
        match hooked {
            Some(reply) => reply.await,
            None => Ok(self.default_answer(&seen)),
        }
    }

    /// What the profile answers.
    pub fn default_answer(&self, seen: &Seen) -> Reply {
        let profile = self.0.profile;
        let message = seen.message();
        let id = message["id"].clone();
        let method = message["method"].as_str().unwrap_or_default();
        let mut state = self.state();

        let Some(session) = seen.session().map(str::to_owned) else {
            if seen.method != Method::POST {
                return reply(400, None, "no session");
            }
            if method == "initialize" {
                return state.initialize(profile, seen);
            }
            let mut refused = json_reply(
                400,
                &json!({"jsonrpc": "2.0", "error": {"code": -32600, "message": "Missing session ID"}, "id": "server-error"}),
            );
            if matches!(profile, Profile::Python1 | Profile::Python2) {
                // Already dead.
                let minted = state.mint();
                state.live.remove(&minted);
                refused
                    .headers_mut()
                    .insert(SESSION_ID, minted.parse().unwrap());
            }
            if profile == Profile::Go {
                let minted = state.mint();
                let mut answer =
                    json_reply(200, &json!({"jsonrpc": "2.0", "result": {}, "id": id}));
                answer
                    .headers_mut()
                    .insert(SESSION_ID, minted.parse().unwrap());
                return answer;
            }
            return refused;
        };
        if profile == Profile::TypeScriptSingle && method == "initialize" {
            return state.initialize(profile, seen);
        }
        if !state.live.contains(&session) || state.whose.is_strangers(&session, seen) {
            if profile == Profile::Rmcp && seen.method == Method::DELETE {
                return profile.deleted();
            }
            return profile.unknown_session(&id);
        }
        state.whose.note(&session, seen);
        let mut answer = match (&seen.method, method) {
            (&Method::DELETE, _) => {
                state.live.remove(&session);
                return profile.deleted();
            }
            (&Method::GET, _) => pending_sse(),
            (_, "") => profile.accepted(),
            (_, method) if method.starts_with("notifications/") => profile.accepted(),
            (_, method) => {
                let params = &message["params"];
                match method {
                    "logging/setLevel" => {
                        state
                            .levels
                            .insert(session.clone(), params["level"].clone());
                    }
                    "resources/unsubscribe" => {
                        let uris = state.subscriptions.entry(session.clone());
                        let uris = uris.or_default();
                        uris.retain(|uri| *uri != params["uri"]);
                    }
                    "resources/subscribe" => state
                        .subscriptions
                        .entry(session.clone())
                        .or_default()
                        .push(params["uri"].as_str().unwrap().to_owned()),
                    _ => {}
                }
                let result = json!({"echo": params, "method": method});
                profile.answer(&json!({"jsonrpc": "2.0", "result": result, "id": id}))
            }
        };
        if profile.echoes_id() {
            answer
                .headers_mut()
                .insert(SESSION_ID, session.parse().unwrap());
        }
        answer
    }

    /// The server as a service.
    pub fn service(&self) -> ServerService {
        ServerService(self.clone())
    }
}

impl State {
    fn mint(&mut self) -> String {
        self.minted += 1;
        let id = self.whose.mint(self.minted);
        self.live.insert(id.clone());
        id
    }

    fn initialize(&mut self, profile: Profile, seen: &Seen) -> Reply {
        let message = &seen.message();
        let id = self.mint();
        self.whose.open(&id, seen);
        let proposed = message["params"]["protocolVersion"].clone();
        let version = match &self.version {
            Some(version) => json!(version),
            None if proposed == "2026-07-28" => json!(VERSION),
            None => proposed,
        };
        let result = json!({
            "protocolVersion": version,
            "capabilities": self.capabilities.clone().unwrap_or(json!({"tools": {"listChanged": true}, "logging": {}})),
            "serverInfo": self.server_info.clone().unwrap_or(json!({"name": "test", "version": "1"})),
        });
        let mut answer =
            profile.answer(&json!({"jsonrpc": "2.0", "result": result, "id": message["id"]}));
        answer.headers_mut().insert(SESSION_ID, id.parse().unwrap());
        answer
    }
}

/// A [`Server`] as a tower service.
#[derive(Clone)]
pub struct ServerService(Server);

impl<B> Service<Request<B>> for ServerService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: fmt::Display,
{
    type Response = Reply;
    type Error = TestError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TestError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let (mut frames, mut trailers, mut body_error) = (Vec::<Bytes>::new(), None, None);
            let mut body = std::pin::pin!(body);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => frames.push(data),
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    },
                    Err(error) => {
                        body_error = Some(error.to_string());
                        break;
                    }
                }
            }
            let seen = Seen {
                method: parts.method,
                uri: parts.uri.to_string(),
                headers: parts.headers,
                body: match &*frames {
                    [whole] => whole.clone(),
                    frames => frames.concat().into(),
                },
                frames,
                trailers,
                extensions: parts.extensions,
                body_error,
            };
            server.answer(seen).await
        })
    }
}
