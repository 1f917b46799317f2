//! Test servers on a loopback port, and a client to reach them with.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};
use tower::{BoxError, Service};

use crate::{Answer, CallerBody, Reply, TestError};

/// What a test waits for has happened long before this is over, or never will.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    let happened = tokio::time::timeout(PATIENCE, happens).await;
    happened.unwrap_or_else(|_| panic!("never happened: {what}"))
}

/// A service that is served on a free port, HTTP/1.1 and HTTP/2. Dropping it is its SIGKILL.
pub struct Loopback {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Loopback {
    pub async fn serve<S, R>(service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        Self::serve_at("127.0.0.1:0", service).await
    }

    /// The same on a port that another one may have had.
    pub async fn serve_at<S, R>(address: impl ToSocketAddrs, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
    {
        let plain = async |stream| Some(stream);
        Self::serve_with(address, service, |_| {}, plain).await
    }

    /// The same with a server set up by the test, and something between it and the socket.
    pub async fn serve_with<S, R, I, F>(
        address: impl ToSocketAddrs,
        service: S,
        set_up: impl FnOnce(&mut auto::Builder<TokioExecutor>),
        accept: impl Fn(TcpStream) -> F + Clone + Send + 'static,
    ) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: Into<BoxError>,
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<I>> + Send,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let mut server = auto::Builder::new(TokioExecutor::new());
        set_up(&mut server);
        let task = tokio::spawn(async move {
            // Its connections end with it.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                let _ = stream.set_nodelay(true);
                while open.try_join_next().is_some() {}
                let (server, accept) = (server.clone(), accept.clone());
                let service = TowerToHyperService::new(service.clone());
                open.spawn(async move {
                    if let Some(stream) = accept(stream).await {
                        let io = TokioIo::new(stream);
                        let _ = server.serve_connection(io, service).await;
                    }
                });
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub type Http = Client<HttpConnector, CallerBody>;

/// A client with a pool of its own.
pub fn http1() -> Http {
    Client::builder(TokioExecutor::new()).build(connector())
}

/// One that speaks HTTP/2 without asking, all on one connection.
pub fn http2() -> Http {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build(connector())
}

fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

/// The request as it goes to `url` instead.
pub fn to(url: &str, mut request: Request<CallerBody>) -> Request<CallerBody> {
    *request.uri_mut() = url.parse::<Uri>().expect("a URL");
    request
}

/// Sends a request, and gives the answer once its head is there.
pub async fn open(client: &Http, request: Request<CallerBody>) -> Response<Incoming> {
    soon("a response", client.request(request))
        .await
        .expect("a response")
}

/// Sends a request and reads the answer.
pub async fn fetch(client: &Http, request: Request<CallerBody>) -> Answer {
    let (head, body) = open(client, request).await.into_parts();
    let body = soon("the end of a body", body.collect()).await;
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        recovery: None,
        body: body.expect("a whole body").to_bytes(),
        trailers: None,
        body_error: None,
    }
}

/// The next chunk of a response; `None` at its end.
pub async fn chunk<B>(body: &mut B) -> Option<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Debug,
{
    loop {
        let frame = soon("a chunk", body.frame()).await?;
        let chunk = frame.expect("no error").into_data().expect("data");
        // The end of an HTTP/2 stream may be a frame of its own.
        if !chunk.is_empty() {
            return Some(chunk);
        }
    }
}

/// A body that a test writes, and that tells when whoever reads it has gone.
pub struct Tap(mpsc::UnboundedSender<Result<Frame<Bytes>, TestError>>);

impl Tap {
    pub fn send(&self, data: &'static str) {
        let _ = self
            .0
            .send(Ok(Frame::data(Bytes::from_static(data.as_bytes()))));
    }

    /// Breaks the body.
    pub fn fail(&self) {
        let _ = self.0.send(Err(TestError("broken")));
    }

    pub async fn gone(&self) {
        soon("the reader leaves", self.0.closed()).await;
    }
}

pub fn tap() -> (Tap, CallerBody) {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let frames = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    (Tap(sender), StreamBody::new(frames).boxed())
}

pub fn event_stream(body: CallerBody) -> Reply {
    let mut reply = Response::new(body);
    let content_type = "text/event-stream".parse().unwrap();
    reply.headers_mut().insert("content-type", content_type);
    reply
}
