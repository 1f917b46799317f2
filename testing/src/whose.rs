//! Servers that tell users apart, or cannot tell sessions apart: whose each session is, and in whose
//! session a message was carried out.

use std::{collections::HashMap, fmt};

use http::{HeaderValue, Method, Request};
use mcp_session_recovery::{Principal, RequestBody, SessionRecoveryLayer};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower::{Service, ServiceExt};

use crate::*;

/// How a server calls its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ids {
    /// By a name that no session had before.
    #[default]
    Unique,
    /// By a number, and after a restart from 1 again.
    Counting,
    /// All by the same name.
    Constant,
}

#[derive(Default)]
pub(crate) struct Whose {
    ids: Ids,
    count: usize,
    only_owners: bool,
    owners: HashMap<String, Owner>,
    carried_out: Vec<(String, Value)>,
}

struct Owner {
    name: String,
    authorization: Option<HeaderValue>,
}

impl Server {
    /// Calls the sessions that it makes from now on like this.
    pub fn set_ids(&self, ids: Ids) {
        self.state().whose.ids = ids;
    }

    /// Calls the next session by the number after this one, if it counts.
    pub fn count_on_from(&self, count: usize) {
        self.state().whose.count = count;
    }

    /// Answers a session's requests to whoever has its `authorization`, and to everybody else as if
    /// there were no such session. The Python SDK with a token verifier does that.
    pub fn only_to_owners(&self) {
        self.state().whose.only_owners = true;
    }

    /// Calls a session that it has made otherwise.
    pub fn rename(&self, id: &str, name: &str) {
        let mut state = self.state();
        state.live.remove(id);
        state.live.insert(name.to_owned());
        if let Some(owner) = state.whose.owners.remove(id) {
            state.whose.owners.insert(name.to_owned(), owner);
        }
    }

    /// Knows one session no more.
    pub fn forget(&self, id: &str) {
        let mut state = self.state();
        state.live.remove(id);
        state.whose.owners.remove(id);
    }

    /// Which messages were carried out, each with the name of the client whose `initialize` made the
    /// session that it was carried out in.
    pub fn carried_out(&self) -> Vec<(String, Value)> {
        self.state().whose.carried_out.clone()
    }

    /// In whose session the request with this id was carried out, if it was.
    pub fn whose_was(&self, id: u64) -> Option<String> {
        let carried_out = self.carried_out().into_iter().rev();
        let mut of_id = carried_out.filter(|(_, message)| message["id"] == id);
        of_id.next().map(|(name, _)| name)
    }
}

impl Whose {
    pub(crate) fn mint(&mut self, minted: usize) -> String {
        self.count += 1;
        match self.ids {
            Ids::Unique => format!("secret-session-{minted}"),
            Ids::Counting => self.count.to_string(),
            Ids::Constant => "constant".to_owned(),
        }
    }

    pub(crate) fn open(&mut self, id: &str, seen: &Seen) {
        let name = seen.message()["params"]["clientInfo"]["name"].clone();
        let owner = Owner {
            name: name.as_str().unwrap_or_default().to_owned(),
            authorization: seen.headers.get("authorization").cloned(),
        };
        self.owners.insert(id.to_owned(), owner);
    }

    pub(crate) fn is_strangers(&self, id: &str, seen: &Seen) -> bool {
        let owner = self.owners.get(id).filter(|_| self.only_owners);
        owner.is_some_and(|it| it.authorization.as_ref() != seen.headers.get("authorization"))
    }

    pub(crate) fn note(&mut self, id: &str, seen: &Seen) {
        let name = self.owners.get(id).map_or("", |owner| &owner.name);
        let message = match seen.method {
            Method::POST => seen.message(),
            _ => json!({"method": seen.method.as_str()}),
        };
        self.carried_out.push((name.to_owned(), message));
    }

    pub(crate) fn restart(&mut self) {
        self.count = 0;
        self.owners.clear();
    }
}

/// An `initialize` of a client with this name.
pub fn initialize_as(name: &str) -> Value {
    let mut message = initialize();
    message["params"]["clientInfo"]["name"] = json!(name);
    message
}

/// Each user, by his `authorization`, is a principal.
pub fn by_user(layer: SessionRecoveryLayer) -> SessionRecoveryLayer {
    layer.principal(|parts| Some(Principal::from(parts.headers.get("authorization")?)))
}

/// A request with this `authorization`, or with none.
pub fn with_token(mut request: Request<CallerBody>, token: Option<&str>) -> Request<CallerBody> {
    let headers = request.headers_mut();
    match token {
        Some(token) => {
            let value = format!("Bearer {token}").parse().unwrap();
            headers.insert("authorization", value);
        }
        None => {
            headers.remove("authorization");
        }
    }
    request
}

/// A caller with a name and a token of its own.
#[derive(Clone)]
pub struct User<S = ServerService> {
    pub client: Client<S>,
    pub name: &'static str,
    pub session: String,
}

impl<S> User<S>
where
    S: Service<Request<RequestBody<CallerBody>>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    /// A user who has made a session.
    pub async fn connect(client: &Client<S>, name: &'static str) -> Self {
        let mut user = Self {
            client: client.clone(),
            name,
            session: String::new(),
        };
        user.initialize().await;
        user
    }

    /// Makes another session, and goes on in it.
    pub async fn initialize(&mut self) {
        let made = self.send(post(None, &initialize_as(self.name))).await;
        assert_eq!(made.status, 200);
        self.session = made.session().expect("a session id").to_owned();
        let accepted = self.send(post(Some(&self.session), &initialized())).await;
        assert_eq!(accepted.status, 202);
    }

    /// Sends a request with the user's own token, whatever session it names.
    pub async fn send(&self, request: Request<CallerBody>) -> Answer {
        streams::soon(send(&self.client, with_token(request, Some(self.name)))).await
    }

    pub async fn call(&self, id: u64) -> Answer {
        self.send(post(Some(&self.session), &tool_call(id))).await
    }

    pub async fn delete(&self) -> Answer {
        self.send(delete(&self.session)).await
    }

    /// Sends a request in a task of its own.
    pub fn spawn(&self, request: Request<CallerBody>) -> JoinHandle<Answer> {
        let (client, request) = (self.client.clone(), with_token(request, Some(self.name)));
        tokio::spawn(async move { read(client.oneshot(request).await.expect("an answer")).await })
    }

    pub fn spawn_call(&self, id: u64) -> JoinHandle<Answer> {
        self.spawn(post(Some(&self.session), &tool_call(id)))
    }
}
