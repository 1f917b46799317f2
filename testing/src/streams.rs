//! Streams as a caller reads them and as a server feeds them.
//!
//! A caller's stream is read by a task of its own, so that nothing is read unless the body wakes
//! its reader.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, response::Parts};
use http_body::{Body, SizeHint};
use http_body_util::BodyExt;
use mcp_session_recovery::{
    Outcome, Recovery, RequestBody, ResponseBody, SessionRecovery, SessionRecoveryLayer,
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
};
use tower::{Service, ServiceExt};

use crate::*;

/// A session, and the server and client that it is between.
pub struct Scene<C = Client> {
    pub server: Server,
    pub client: C,
    pub session: String,
}

/// A session whose server promises to announce no list, so that streams hold what is sent alone.
pub async fn scene(layer: SessionRecoveryLayer) -> Scene {
    scene_with(Profile::TypeScript, layer, json!({})).await
}

pub async fn scene_with(
    profile: Profile,
    layer: SessionRecoveryLayer,
    capabilities: Value,
) -> Scene {
    let server = Server::new(profile);
    server.set_capabilities(capabilities);
    let client = client(&server, layer);
    let session = handshake(&client).await;
    Scene {
        server,
        client,
        session,
    }
}

impl<S> Scene<SessionRecovery<S>>
where
    S: Service<Request<RequestBody<CallerBody>>, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    pub async fn send(&self, request: Request<CallerBody>) -> Answer {
        soon(send(&self.client, request)).await
    }

    pub async fn post(&self, message: &Value) -> Answer {
        self.send(post(Some(&self.session), message)).await
    }

    pub async fn open(&self, request: Request<CallerBody>) -> Stream {
        Stream::open(&self.client, request).await
    }

    /// A response whose body nobody reads yet.
    pub async fn unread(
        &self,
        request: Request<CallerBody>,
    ) -> http::Response<ResponseBody<TestBody>> {
        let response = soon(self.client.clone().oneshot(request)).await;
        response.expect("an answer")
    }

    /// Opens a listening stream.
    pub async fn listen(&self) -> Stream {
        self.open(get(&self.session, None)).await
    }

    /// Resumes from an event.
    pub async fn resume(&self, last_event_id: &str) -> Answer {
        self.send(get(&self.session, Some(last_event_id))).await
    }

    /// Calls a tool whose answer is a stream.
    pub async fn call(&self, id: u64) -> Stream {
        self.open(post(Some(&self.session), &tool_call(id))).await
    }

    /// The server forgets the session, and a request finds it out.
    pub async fn recover(&self) {
        self.server.restart();
        self.post_ping().await;
    }

    pub async fn post_ping(&self) {
        let answer = self.post(&ping()).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    }

    /// A request in a task of its own.
    pub fn spawn(&self, request: Request<CallerBody>) -> JoinHandle<Answer> {
        let client = self.client.clone();
        tokio::spawn(async move { read(client.oneshot(request).await.expect("an answer")).await })
    }
}

pub fn ping() -> Value {
    json!({"jsonrpc": "2.0", "id": "the ping", "method": "ping"})
}

/// A stream that a caller reads.
pub struct Stream {
    pub head: Parts,
    pub size_hint: SizeHint,
    /// All chunks so far.
    pub chunks: Vec<Bytes>,
    /// How it ended: with trailers or not, or broken.
    pub end: Option<Result<Option<HeaderMap>, TestError>>,
    pieces: UnboundedReceiver<Piece>,
    reader: JoinHandle<()>,
}

enum Piece {
    Chunk(Bytes),
    End(Result<Option<HeaderMap>, TestError>),
}

impl Stream {
    pub async fn open<S>(client: &SessionRecovery<S>, request: Request<CallerBody>) -> Self
    where
        S: Service<Request<RequestBody<CallerBody>>, Response = Reply> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: fmt::Debug + Send + 'static,
    {
        let response = soon(client.clone().oneshot(request)).await;
        Self::of(response.expect("an answer"))
    }

    pub fn of<R>(response: http::Response<ResponseBody<R>>) -> Self
    where
        R: Body<Data = Bytes, Error: Into<TestError> + Send> + Send + 'static,
    {
        let (head, body) = response.into_parts();
        let size_hint = body.size_hint();
        let (sender, pieces) = unbounded_channel();
        let reader = tokio::spawn(async move {
            let mut body = std::pin::pin!(body);
            let mut trailers = None;
            let end = loop {
                match body.frame().await {
                    None => break Ok(trailers),
                    Some(Err(error)) => break Err(error.into()),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(chunk) => {
                            assert!(trailers.is_none(), "data after trailers");
                            let _ = sender.send(Piece::Chunk(chunk));
                        }
                        Err(frame) => trailers = frame.into_trailers().ok(),
                    },
                }
            };
            let _ = sender.send(Piece::End(end));
        });
        Self {
            head,
            size_hint,
            chunks: Vec::new(),
            end: None,
            pieces,
            reader,
        }
    }

    /// Everything read so far, once all that can be read now has been.
    pub async fn now(&mut self) -> String {
        settle().await;
        while let Ok(piece) = self.pieces.try_recv() {
            self.take(piece);
        }
        self.text()
    }

    /// Everything read until the stream ended, and how it did.
    pub async fn read_to_end(&mut self) -> String {
        while self.end.is_none() {
            let piece = soon(self.pieces.recv()).await;
            self.take(piece.expect("the reader panicked"));
        }
        self.text()
    }

    /// Reads on until the stream has held this so many times.
    pub async fn until(&mut self, text: &str, times: usize) {
        while self.text().matches(text).count() < times {
            assert!(self.is_open(), "it ended: {:?}", self.text());
            let piece = self.pieces.recv().await;
            self.take(piece.expect("the reader panicked"));
        }
    }

    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::Chunk(chunk) => self.chunks.push(chunk),
            Piece::End(end) => self.end = Some(end),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The messages that a client would have read so far.
    pub fn messages(&self) -> Vec<Value> {
        events(&self.bytes())
    }

    pub fn is_open(&self) -> bool {
        self.end.is_none()
    }

    pub fn ended_cleanly(&self) -> bool {
        matches!(self.end, Some(Ok(_)))
    }

    pub fn outcome(&self) -> Option<Outcome> {
        let recovery = self.head.extensions.get::<Recovery>();
        recovery.map(|recovery| recovery.outcome())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The streams that a server opened, each fed from the test.
#[derive(Clone, Default)]
pub struct Fed(Arc<Mutex<Vec<Option<Feeder>>>>);

impl Fed {
    /// A new stream to feed.
    pub fn add(&self) -> Reply {
        let (feeder, feed) = feed();
        self.0.lock().unwrap().push(Some(feeder));
        fed_stream(feed)
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn get(&self, number: usize) -> Feeder {
        let feeders = self.0.lock().unwrap();
        feeders[number].clone().expect("a stream that is not ended")
    }

    pub fn data(&self, number: usize, data: impl AsRef<[u8]>) {
        self.get(number).data(data);
    }

    pub fn error(&self, number: usize) {
        self.get(number).error("broken");
    }

    /// Ends a stream cleanly.
    pub fn end(&self, number: usize) {
        self.0.lock().unwrap()[number] = None;
    }

    /// Whether the server still has the stream, and somebody reads it.
    pub fn is_open(&self, number: usize) -> bool {
        let feeders = self.0.lock().unwrap();
        feeders[number]
            .as_ref()
            .is_some_and(|feeder| !feeder.is_dropped())
    }

    /// Whether nobody reads the stream any longer.
    pub fn is_dropped(&self, number: usize) -> bool {
        self.get(number).is_dropped()
    }
}

/// Answers every `what` in a session that lives with a stream that is fed from the test.
pub fn feed_all(server: &Server, what: &'static str) -> Fed {
    let fed = Fed::default();
    let (feeding, living) = (fed.clone(), server.clone());
    server.on(move |seen| (seen.what() == what && is_live(&living, seen)).then(|| feeding.add()));
    fed
}

pub fn is_live(server: &Server, seen: &Seen) -> bool {
    seen.session()
        .is_some_and(|session| server.live().iter().any(|live| live == session))
}

/// Answers every `what` in a session that lives as told.
pub fn answer_all(
    server: &Server,
    what: &'static str,
    answer: impl Fn() -> Reply + Send + 'static,
) {
    let living = server.clone();
    server.on(move |seen| (seen.what() == what && is_live(&living, seen)).then(&answer));
}

/// Answers every `what` in a session that lives never.
pub fn never_answer(server: &Server, what: &'static str) {
    let living = server.clone();
    server.on_async(move |seen| {
        (seen.what() == what && is_live(&living, seen))
            .then(|| Box::pin(std::future::pending()) as Answering)
    });
}

pub type Answering =
    std::pin::Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send + 'static>>;

/// Fails a test that would wait for ever. On the paused clock that costs no time.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future)
        .await
        .expect("this never ends")
}

/// The error of rule G7, as a client reads it.
pub fn lost(id: impl Into<Value>, reason: &str) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": id.into(),
        "error": {
            "code": -32000,
            "message": "The response was lost; the request may have been executed",
            "data": {"reason": reason},
        },
    })
}

/// What a server answers to a request.
pub fn result(id: impl Into<Value>) -> String {
    json!({"jsonrpc": "2.0", "id": id.into(), "result": {"done": true}}).to_string()
}

/// Opens the way for answers that are held back.
pub struct Gate(tokio::sync::watch::Sender<bool>);

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }
}

/// Holds back the server's answers to `what` until the gate is opened.
pub fn hold(server: &Server, what: &'static str) -> Gate {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    let holder = server.clone();
    server.on_async(move |seen| {
        let (server, seen, mut gate) = (holder.clone(), seen.clone(), receiver.clone());
        (seen.what() == what).then(|| {
            Box::pin(async move {
                let _ = gate.wait_for(|open| *open).await;
                Ok(server.default_answer(&seen))
            }) as Answering
        })
    });
    Gate(sender)
}
