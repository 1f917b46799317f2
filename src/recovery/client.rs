//! The layer's own requests to the server (rules E4 to E6).

use std::{marker::PhantomData, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, TRANSFER_ENCODING},
    request::Parts,
};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use serde_json::{Value, value::RawValue};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    Failure,
    body::{BufferedBody, RequestBody},
    config::Shared,
    http_service::HttpService,
    mcp::{Id, LAST_EVENT_ID, MCP_METHOD, Message, MessageReader, PROTOCOL_VERSION, SESSION_ID},
    session::Epoch,
};

/// How long the rest of a body is read, once what was wanted of it has been found, so that its
/// connection can be used again.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends the layer's own messages as if they came from a caller.
pub(super) struct Client<S, B> {
    shared: Arc<Shared<S>>,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
    body: PhantomData<fn(B)>,
}

/// The session that a message belongs to.
#[derive(Clone, Default)]
pub(super) struct UpstreamSession {
    pub(super) id: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
}

impl UpstreamSession {
    pub(super) fn of(epoch: &Epoch) -> Self {
        Self {
            id: epoch.id().cloned(),
            version: epoch.version().cloned(),
        }
    }
}

/// What a server answered to a JSON-RPC request.
pub(super) enum Reply {
    Result(Box<RawValue>),
    Error(i64),
}

impl<S, B> Client<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// `recorded` are the headers of the caller's `initialize`; those of the `trigger` that
    /// describe the caller win over them, so that fresh credentials do.
    pub(super) fn new(shared: Arc<Shared<S>>, recorded: &HeaderMap, trigger: &Parts) -> Self {
        let mut headers = overlay(recorded, &trigger.headers);
        for name in [TRANSFER_ENCODING, EXPECT, CONTENT_LENGTH] {
            headers.remove(name);
        }
        headers.remove(SESSION_ID);
        headers.remove(PROTOCOL_VERSION);
        // It names the method of the recorded message alone.
        headers.remove(MCP_METHOD);
        // The layer reads the answers itself.
        if let Some(encoding) = headers.get_mut(ACCEPT_ENCODING) {
            *encoding = HeaderValue::from_static("identity");
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static(
            "application/json, text/event-stream",
        ));
        Self {
            shared,
            uri: trigger.uri.clone(),
            version: trigger.version,
            headers,
            extensions: trigger.extensions.clone(),
            body: PhantomData,
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn request(
        &self,
        method: Method,
        upstream: &UpstreamSession,
        body: Bytes,
    ) -> Request<RequestBody<B>> {
        let mut headers = self.headers.clone();
        if let Some(id) = &upstream.id {
            headers.insert(SESSION_ID, id.clone());
        }
        if let Some(version) = &upstream.version {
            headers.insert(PROTOCOL_VERSION, version.clone());
        }
        if method == Method::POST {
            headers.insert(CONTENT_LENGTH, body.len().into());
        } else {
            headers.remove(CONTENT_TYPE);
        }
        let mut request = Request::new(RequestBody::buffered(BufferedBody::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
        *request.extensions_mut() = self.extensions.clone();
        request
    }

    /// Sends one message. An error of the inner service is told by its kind alone: its text may
    /// hold a URL (rule L1).
    pub(super) async fn post(
        &self,
        upstream: &UpstreamSession,
        message: Bytes,
    ) -> Result<Response<S::ResBody>, Failure> {
        let request = self.request(Method::POST, upstream, message);
        self.shared
            .inner
            .send(request)
            .await
            .map_err(|_| Failure::Transport)
    }

    /// Ends a session that nobody will use. Nobody waits for that, nor for its answer.
    pub(super) fn delete(&self, upstream: &UpstreamSession, patience: Duration) {
        if upstream.id.is_some() {
            let sending =
                self.shared
                    .inner
                    .send(self.request(Method::DELETE, upstream, Bytes::new()));
            in_background(patience, async move {
                if let Ok(response) = sending.await {
                    drain(Box::pin(response.into_body())).await;
                }
            });
        }
    }

    /// Reads the answer to the request with this id: to the answer, not to the end of the stream.
    pub(super) async fn reply(
        &self,
        upstream: &UpstreamSession,
        headers: &HeaderMap,
        body: S::ResBody,
        id: &Id,
        limit: usize,
    ) -> Result<Reply, Failure> {
        let mut reader = MessageReader::new(headers, limit).ok_or(Failure::Malformed)?;
        let mut body = Box::pin(body);
        let mut found = Found {
            id,
            reply: None,
            pings: Vec::new(),
        };
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(Failure::Truncated);
            };
            if let Ok(mut data) = frame.into_data() {
                use bytes::Buf;
                let data = data.copy_to_bytes(data.remaining());
                reader.read(&data, |message| found.look(message));
            }
            for ping in found.pings.drain(..) {
                self.answer_ping(upstream, &ping);
            }
            if let Some(reply) = found.reply.take() {
                drain_in_background(body);
                return Ok(reply);
            }
        }
        reader.finish(|message| found.look(message));
        found.reply.ok_or(Failure::Malformed)
    }

    /// A server may ping before it answers (specification 2025-11-25, Lifecycle, Initialization).
    fn answer_ping(&self, upstream: &UpstreamSession, id: &Id) {
        let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
        let sending = self
            .shared
            .inner
            .send(self.request(Method::POST, upstream, answer.into()));
        in_background(self.shared.config.recovery_timeout, async move {
            if let Ok(response) = sending.await {
                drain(Box::pin(response.into_body())).await;
            }
        });
    }
}

/// What an answer's messages are searched for.
struct Found<'a> {
    id: &'a Id,
    reply: Option<Reply>,
    pings: Vec<Id>,
}

impl Found<'_> {
    fn look(&mut self, message: &[u8]) {
        let (mut pings, mut reply) = (Vec::new(), None);
        let read = Message::each(message, |message| {
            if message.is_request() && message.method() == Some("ping") {
                pings.extend(message.parsed_id());
            } else if reply.is_none() && message.answers(self.id) {
                reply = Some(match (message.error(), message.result()) {
                    (None, Some(result)) => Reply::Result(result.to_owned()),
                    (error, _) => Reply::Error(error.map_or(0, code)),
                });
            }
        });
        if read.is_some() {
            self.pings.append(&mut pings);
            self.reply = self.reply.take().or(reply);
        }
    }
}

fn code(error: &RawValue) -> i64 {
    serde_json::from_str::<Value>(error.get())
        .ok()
        .and_then(|error| error["code"].as_i64())
        .unwrap_or_default()
}

/// Headers that describe a message rather than the caller (rule E5).
fn describes_message(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("content-")
        || text.starts_with("mcp-")
        || [
            ACCEPT,
            ACCEPT_ENCODING,
            EXPECT,
            TRANSFER_ENCODING,
            LAST_EVENT_ID,
        ]
        .contains(name)
}

/// `base`, with the headers of `caller` that describe the caller in place of its own.
pub(crate) fn overlay(base: &HeaderMap, caller: &HeaderMap) -> HeaderMap {
    let mut headers = base.clone();
    for name in caller.keys().filter(|name| !describes_message(name)) {
        headers.remove(name);
        for value in caller.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

/// Reads a body to its end while others go on, so that its connection can be used again.
pub(super) fn drain_in_background<R>(body: Pin<Box<R>>)
where
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    in_background(DRAIN_TIMEOUT, drain(body));
}

async fn drain<R: Body>(mut body: Pin<Box<R>>) {
    while let Some(Ok(frame)) = body.frame().await {
        drop::<Frame<_>>(frame);
    }
}

fn in_background(patience: Duration, work: impl Future<Output = ()> + Send + 'static) {
    // While a runtime shuts down there is none, and nothing to be done.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(timeout(patience, work));
    }
}
