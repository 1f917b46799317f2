//! A caller over hyper-util's client that does what real clients do, and says what it sees.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcp_session_recovery::{RequestBody, SessionRecoveryLayer};
use serde_json::{Value, json};
use sse_core::{SseDecoder, SseEvent};
use testing::{LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID, VERSION, loopback::soon};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
type Stack = BoxCloneSyncService<Request<Full<Bytes>>, Answer, BoxError>;

/// What came of a request.
#[derive(Debug, Clone)]
pub enum Seen {
    /// The text of a tool's result, or any other result as it is.
    Result(String),
    Error(Value),
    /// An answer without a message for the request.
    Status(u16, String),
    /// The connection broke with no answer.
    Broken,
    /// The stream that should have brought the answer ended without.
    Ended,
}

impl Seen {
    /// The reason that the layer gave for a lost answer.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Seen::Error(error) if error["code"] == -32000 => error["data"]["reason"].as_str(),
            _ => None,
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Result(_) => f.write_str("answered"),
            Seen::Error(_) if self.reason().is_some() => {
                write!(f, "error `{}`", self.reason().unwrap_or_default())
            }
            Seen::Error(error) => write!(f, "error {}", error["code"]),
            Seen::Status(status, body) if body.contains("message") => {
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                write!(
                    f,
                    "{status} {}",
                    body["error"]["message"].as_str().unwrap_or_default()
                )
            }
            Seen::Status(status, body) => write!(f, "{status} {body}"),
            Seen::Broken => f.write_str("connection error"),
            Seen::Ended => f.write_str("stream ends, no answer"),
        }
    }
}

pub struct Caller {
    link: Link,
    initializes: Arc<AtomicUsize>,
    next_id: u64,
    pub listening: Option<Listening>,
}

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Begins {
    Sent,
    Streams,
    Resumable,
}

/// What is needed to send something in the session.
#[derive(Clone)]
struct Link {
    stack: Stack,
    url: String,
    session: Option<String>,
}

impl Caller {
    /// A session of its own on a server.
    pub async fn connect(url: &str, with_layer: bool) -> Self {
        let initializes = Arc::new(AtomicUsize::new(0));
        let stack = match with_layer {
            true => stack_with_layer(initializes.clone()),
            false => stack(),
        };
        let mut caller = Self {
            link: Link {
                stack,
                url: url.to_owned(),
                session: None,
            },
            initializes,
            next_id: 0,
            listening: None,
        };
        let params = json!({
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "interop", "version": "1"},
        });
        let initialize = caller.message("initialize", params);
        let (answer, session) = caller.link.post(&initialize).await;
        assert!(matches!(answer, Seen::Result(_)), "{answer}");
        caller.link.session = session;
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let (accepted, _) = caller.link.post(&initialized).await;
        assert!(matches!(accepted, Seen::Status(202, _)), "{accepted}");
        caller
    }

    /// How many handshakes the server has seen from below the layer.
    pub fn initializes(&self) -> usize {
        self.initializes.load(Ordering::Relaxed)
    }

    fn message(&mut self, method: &str, params: Value) -> Value {
        self.next_id += 1;
        json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params})
    }

    pub async fn request(&mut self, method: &str, params: Value) -> Seen {
        let message = self.message(method, params);
        self.link.post(&message).await.0
    }

    pub async fn call(&mut self, (tool, args): (&str, Value)) -> Seen {
        self.request("tools/call", json!({"name": tool, "arguments": args}))
            .await
    }

    /// Begins a call, and comes back when it is under way: there is a stream for its answer, if
    /// there is to be one, and in that an event id, if it is to be resumable.
    pub async fn begin(&mut self, (tool, args): (&str, Value), way: Begins) -> JoinHandle<Seen> {
        let message = self.message("tools/call", json!({"name": tool, "arguments": args}));
        let link = self.link.clone();
        let (begun, mut begins) = watch::channel(Begins::Sent);
        let calling = tokio::spawn(async move {
            let sending = link.clone().send(Method::POST, Some(&message), None);
            let Ok(response) = sending.await else {
                return Seen::Broken;
            };
            let _ = begun.send(Begins::Streams);
            let has_id = || begun.send_modify(|begun| *begun = Begins::Resumable);
            link.read(response, &message["id"], has_id).await
        });
        let begins = begins.wait_for(|begun| *begun >= way);
        soon("the call begins", begins).await.expect("a stream");
        calling
    }

    /// Opens the listening stream, and opens it again whenever it ends, until this is dropped.
    pub async fn listen(&mut self) {
        let mut listening = Listening::start(self.link.clone());
        listening.opens_again(0).await;
        self.listening = Some(listening);
    }
}

impl Link {
    async fn post(&self, message: &Value) -> (Seen, Option<String>) {
        let sent = self.clone().send(Method::POST, Some(message), None);
        let Ok(response) = soon("an answer", sent).await else {
            return (Seen::Broken, None);
        };
        let session = response.headers().get(SESSION_ID);
        let session = session.map(|id| id.to_str().expect("text").to_owned());
        let read = self.read(response, &message["id"], || {});
        (soon("an answer", read).await, session)
    }

    fn send(
        self,
        method: Method,
        message: Option<&Value>,
        last_event_id: Option<&str>,
    ) -> impl Future<Output = Result<Answer, BoxError>> + use<> {
        let mut request = Request::builder()
            .method(method)
            .uri(&self.url)
            .header("accept", "application/json, text/event-stream");
        if let Some(session) = &self.session {
            request = request
                .header(SESSION_ID, session)
                .header(PROTOCOL_VERSION, VERSION);
        }
        if message.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(id) = last_event_id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let body = message.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::from(body)).expect("a request");
        self.stack.oneshot(request)
    }

    /// Reads what there is for a request. A stream that breaks off is resumed, if it can be.
    async fn read(&self, mut response: Answer, id: &Value, has_id: impl Fn()) -> Seen {
        loop {
            if !is_event_stream(&response) {
                let status = response.status().as_u16();
                let Ok(body) = response.into_body().collect().await else {
                    return Seen::Broken;
                };
                let text = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
                let message: Value = serde_json::from_str(&text).unwrap_or_default();
                return match answer(&message, id) {
                    Some(answer) => answer,
                    None => Seen::Status(status, text),
                };
            }
            let mut found = None;
            let read = events(&mut response, &has_id, |message| {
                found = answer(&message, id);
                found.is_none()
            });
            let last_id = read.await;
            if let Some(found) = found {
                return found;
            }
            let Some(last_id) = last_id else {
                return Seen::Ended;
            };
            // There may be no server just now.
            response = loop {
                sleep(Duration::from_millis(200)).await;
                let get = self.clone().send(Method::GET, None, Some(&last_id));
                if let Ok(response) = get.await {
                    break response;
                }
            };
        }
    }
}

/// Reads the messages of an event stream while they are wanted. Gives the last event id, if there
/// were any.
async fn events(
    response: &mut Answer,
    has_id: impl Fn(),
    mut wants_more: impl FnMut(Value) -> bool,
) -> Option<String> {
    let mut decoder = SseDecoder::with_limit(std::num::NonZeroUsize::MAX);
    let mut last_id = None;
    while let Some(Ok(frame)) = response.body_mut().frame().await {
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        while let Some(event) = decoder.next(&mut data) {
            let Ok(SseEvent::Message(event)) = event else {
                continue;
            };
            if let Some(id) = event.last_event_id.filter(|id| !id.is_empty()) {
                last_id = Some(id.to_string());
                has_id();
            }
            if event.data.is_empty() {
                continue;
            }
            let message = serde_json::from_str(&event.data).expect("JSON");
            if !wants_more(message) {
                return last_id;
            }
        }
    }
    last_id
}

fn answer(message: &Value, id: &Value) -> Option<Seen> {
    if id.is_null() || message["id"] != *id {
        return None;
    }
    if let Some(result) = message.get("result") {
        let text = result["content"][0]["text"].as_str().map(str::to_owned);
        return Some(Seen::Result(text.unwrap_or_else(|| result.to_string())));
    }
    Some(Seen::Error(message.get("error")?.clone()))
}

fn is_event_stream(response: &Answer) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"))
}

/// A listening stream, opened again and again.
pub struct Listening {
    state: watch::Receiver<Heard>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
pub struct Heard {
    /// How often a stream was opened.
    pub opened: usize,
    pub notifications: Vec<Value>,
    /// The last answer that was no stream.
    pub refused: Option<u16>,
}

impl Listening {
    fn start(link: Link) -> Self {
        let (sender, state) = watch::channel(Heard::default());
        let task = tokio::spawn(async move {
            let mut last_id: Option<String> = None;
            loop {
                let get = link.clone().send(Method::GET, None, last_id.as_deref());
                match get.await {
                    Ok(mut response) if is_event_stream(&response) => {
                        sender.send_modify(|heard| heard.opened += 1);
                        let read = events(
                            &mut response,
                            || {},
                            |message| {
                                sender.send_modify(|heard| heard.notifications.push(message));
                                true
                            },
                        );
                        last_id = read.await.or(last_id);
                    }
                    Ok(response) => {
                        let status = Some(response.status().as_u16());
                        sender.send_modify(|heard| heard.refused = status);
                    }
                    Err(_) => {}
                }
                sleep(Duration::from_millis(200)).await;
            }
        });
        Self { state, task }
    }

    /// Waits until a stream has been opened after the first `n`.
    pub async fn opens_again(&mut self, n: usize) {
        self.until("a listening stream", |heard| heard.opened > n)
            .await;
    }

    pub async fn until(&mut self, what: &str, happened: impl Fn(&Heard) -> bool) {
        let heard = self.state.wait_for(|heard| happened(heard));
        drop(soon(what, heard).await.expect("it listens"));
    }

    pub fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.state.borrow())
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn stack() -> Stack {
    let client = Client::builder(TokioExecutor::new()).build_http();
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .map_err(BoxError::from)
            .map_response(boxed)
            .service(client),
    )
}

fn stack_with_layer(initializes: Arc<AtomicUsize>) -> Stack {
    let client = Client::builder(TokioExecutor::new()).build_http();
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .map_err(BoxError::from)
            .map_response(boxed)
            .layer(SessionRecoveryLayer::new())
            .map_request(move |request: Request<RequestBody<Full<Bytes>>>| {
                // This caller sends nothing else without a session.
                let in_session = request.headers().contains_key(SESSION_ID);
                if request.method() == Method::POST && !in_session {
                    initializes.fetch_add(1, Ordering::Relaxed);
                }
                request
            })
            .service(client),
    )
}

fn boxed<B>(response: Response<B>) -> Answer
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}
