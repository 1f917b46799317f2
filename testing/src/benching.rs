//! What the benchmarks share: a server on loopback, a caller, and the arithmetic.

use std::{
    convert::Infallible,
    fmt::Debug,
    future::Future,
    net::TcpListener,
    pin::Pin,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::runtime::Runtime;
use tower::Service;

/// Whether what counts instructions is installed; says so if it is not.
pub fn can_count() -> bool {
    let installed = |program| Command::new(program).arg("--version").output().is_ok();
    let can = ["valgrind", "gungraun-runner"].into_iter().all(installed);
    if !can {
        eprintln!("Nothing is counted: valgrind or gungraun-runner is not installed.");
    }
    can
}

pub const SESSION_ID: &str = "mcp-session-id";
pub const INITIALIZE: &[u8] = br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
pub const INITIALIZED: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
pub const CALL: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"hello"}}}"#;
pub const ANSWER: &str =
    r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hello"}]}}"#;
pub const INITIALIZE_RESULT: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"bench","version":"1"}}}"#;

/// A request with the headers of an MCP client.
pub fn request(
    method: Method,
    uri: &str,
    session: Option<&HeaderValue>,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("authorization", "Bearer 0123456789abcdef")
        .header("user-agent", "bench/1");
    if let Some(session) = session {
        request = request
            .header(SESSION_ID, session)
            .header("mcp-protocol-version", "2025-11-25");
    }
    request.body(Full::new(body.into())).unwrap()
}

/// A bare HTTP client, or one with the layer around it.
pub trait Caller: Clone + 'static {
    type Body: Body<Data = Bytes, Error: Debug> + 'static;
    type Error: Debug;
    type Sending: Future<Output = Result<Response<Self::Body>, Self::Error>> + 'static;

    /// The request is on its way when this returns.
    fn send(&mut self, request: Request<Full<Bytes>>) -> Self::Sending;
}

impl<S, R> Caller for S
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error: Debug, Future: 'static>
        + Clone
        + 'static,
    R: Body<Data = Bytes, Error: Debug> + 'static,
{
    type Body = R;
    type Error = S::Error;
    type Sending = S::Future;

    fn send(&mut self, request: Request<Full<Bytes>>) -> S::Future {
        let ready = self.poll_ready(&mut Context::from_waker(Waker::noop()));
        assert!(ready.is_ready(), "HTTP clients are ready at any time");
        self.call(request)
    }
}

/// Reads a body to its end and gives its length.
pub async fn drain<R: Body<Data = Bytes, Error: Debug>>(body: R) -> usize {
    let mut body = std::pin::pin!(body);
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    length
}

/// A caller's handshake; gives its session id.
pub async fn handshake(caller: &mut impl Caller, uri: &str) -> HeaderValue {
    let answer = caller
        .send(request(Method::POST, uri, None, INITIALIZE))
        .await
        .unwrap();
    let session = answer.headers()[SESSION_ID].clone();
    drain(answer.into_body()).await;
    let initialized = request(Method::POST, uri, Some(&session), INITIALIZED);
    let accepted = caller.send(initialized).await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    drain(accepted.into_body()).await;
    session
}

/// A tool call, on its way when this returns; gives its status.
pub fn call<C: Caller>(
    caller: &mut C,
    uri: &str,
    session: &HeaderValue,
) -> impl Future<Output = StatusCode> + use<C> {
    let sending = caller.send(request(Method::POST, uri, Some(session), CALL));
    async move {
        let answer = sending.await.unwrap();
        let status = answer.status();
        drain(answer.into_body()).await;
        status
    }
}

pub type ServerBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a server has seen.
#[derive(Default)]
pub struct Stats {
    pub connections: AtomicUsize,
    pub requests: AtomicUsize,
    pub handshakes: AtomicUsize,
    /// Whether answers come as event streams, as most servers send them.
    pub streams: AtomicBool,
    generation: AtomicUsize,
}

impl Stats {
    /// The server forgets its sessions.
    pub fn kill(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    pub fn take(&self) -> (usize, usize, usize) {
        let [requests, handshakes, connections] =
            [&self.requests, &self.handshakes, &self.connections]
                .map(|count| count.swap(0, Relaxed));
        (requests, handshakes, connections)
    }

    fn session(&self) -> HeaderValue {
        let generation = self.generation.load(Relaxed);
        HeaderValue::try_from(format!("0123456789abcdef-{generation:016}")).unwrap()
    }

    fn answer(&self, message: &'static str) -> Response<ServerBody> {
        if !self.streams.load(Relaxed) {
            return reply(200, "application/json", Full::from(message).boxed_unsync());
        }
        let event = format!("event: message\ndata: {message}\n\n");
        event_stream(Chunks::new([event.into()]))
    }
}

/// A server on loopback, HTTP/1 and HTTP/2, on a thread of its own. It answers each message at
/// once; `stream` may answer what has a header `x-stream`.
pub fn serve(
    stream: impl Fn(&str) -> Response<ServerBody> + Send + Sync + 'static,
) -> (String, Arc<Stats>) {
    let stats = Arc::new(Stats::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let seen = stats.clone();
    pin(0);
    std::thread::spawn(move || {
        pin(1);
        let stream = Arc::new(stream);
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                seen.connections.fetch_add(1, Relaxed);
                let (seen, stream) = (seen.clone(), stream.clone());
                let service =
                    service_fn(move |request| answer(seen.clone(), stream.clone(), request));
                tokio::spawn(async move {
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(100_000);
                    // Ends with the client.
                    let _ = builder
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
    });
    (url, stats)
}

/// Keeps this thread on one core. Left to itself, the kernel has client and server share a core now
/// and then, which halves every figure for as long as it lasts.
fn pin(core: usize) {
    if let Some(core) = core_affinity::get_core_ids().unwrap_or_default().get(core) {
        core_affinity::set_for_current(*core);
    }
}

async fn answer(
    stats: Arc<Stats>,
    stream: Arc<impl Fn(&str) -> Response<ServerBody>>,
    request: Request<Incoming>,
) -> Result<Response<ServerBody>, Infallible> {
    stats.requests.fetch_add(1, Relaxed);
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let Some(session) = head.headers.get(SESSION_ID) else {
        stats.handshakes.fetch_add(1, Relaxed);
        let mut response = stats.answer(INITIALIZE_RESULT);
        response.headers_mut().insert(SESSION_ID, stats.session());
        return Ok(response);
    };
    if *session != stats.session() {
        let text = Full::from("Not Found: Session not found").boxed_unsync();
        return Ok(reply(404, "text/plain", text));
    }
    Ok(match head.headers.get("x-stream") {
        Some(kind) => stream(kind.to_str().unwrap()),
        None if body == INITIALIZED => reply(202, "text/plain", Full::default().boxed_unsync()),
        None => stats.answer(ANSWER),
    })
}

pub fn reply(status: u16, content_type: &'static str, body: ServerBody) -> Response<ServerBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status.try_into().unwrap();
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

pub fn event_stream(
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Response<ServerBody> {
    reply(200, "text/event-stream", body.boxed_unsync())
}

/// A body of these chunks. Its end comes a moment after its last chunk, as from real servers.
pub struct Chunks<I> {
    chunks: I,
    ending: bool,
}

impl<I: Iterator<Item = Bytes>> Chunks<I> {
    pub fn new(chunks: impl IntoIterator<IntoIter = I>) -> Self {
        Self {
            chunks: chunks.into_iter(),
            ending: false,
        }
    }
}

impl<I: Iterator<Item = Bytes> + Unpin> Body for Chunks<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.chunks.next() {
            Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            None if self.ending => Poll::Ready(None),
            None => {
                self.ending = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// hyper-util's pooled client.
pub fn hyper_client<B>(http2: bool) -> legacy::Client<HttpConnector, B>
where
    B: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    hyper_client_with(http2, usize::MAX)
}

/// One that keeps so many connections for the next request.
pub fn hyper_client_with<B>(http2: bool, idle: usize) -> legacy::Client<HttpConnector, B>
where
    B: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    legacy::Client::builder(TokioExecutor::new())
        .http2_only(http2)
        .pool_max_idle_per_host(idle)
        .http2_initial_max_send_streams(100_000)
        .build(connector)
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Whether this is `cargo bench`, rather than a test that the benchmark still runs.
pub fn measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Whether the command line asks for the section of this name: all of them if it names none.
pub fn wanted(section: &str) -> bool {
    let mut named = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .peekable();
    named.peek().is_none() || named.any(|it| it == section)
}

/// A quantity measured bare and through the layer, in turns.
pub struct Pair {
    pub bare: f64,
    pub layer: f64,
    /// The median of the rounds' ratios, layer to bare.
    pub ratio: f64,
}

/// Measures in turns, so that whatever else the machine does harms both alike. `measure` is told
/// whether it is the layer's turn.
pub fn in_turns(rounds: usize, mut measure: impl FnMut(bool) -> f64) -> Pair {
    let rounds = if measuring() { rounds } else { 1 };
    let (mut bare, mut layer, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    measure(false);
    measure(true);
    for round in 0..rounds {
        // Neither is always first.
        let first = measure(round % 2 == 1);
        let second = measure(round % 2 == 0);
        let (b, l) = if round % 2 == 1 {
            (second, first)
        } else {
            (first, second)
        };
        bare.push(b);
        layer.push(l);
        ratio.push(l / b);
    }
    Pair {
        bare: median(&mut bare),
        layer: median(&mut layer),
        ratio: median(&mut ratio),
    }
}

pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

pub fn quantile(values: &mut [f64], quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * quantile).round() as usize]
}

pub fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

/// The head of a Markdown table.
pub fn head(title: &str, columns: &[&str]) {
    println!("\n{title}\n\n| {} |", columns.join(" | "));
    println!("|{}", "---|".repeat(columns.len()));
}

pub fn row<const N: usize>(cells: [String; N]) {
    println!("| {} |", cells.join(" | "));
}
