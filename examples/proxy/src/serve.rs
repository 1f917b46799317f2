//! Listens, until told to stop.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{
    HeaderName, Request,
    header::{AUTHORIZATION, COOKIE},
};
use http_body_util::BodyExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceBuilder;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tracing::{debug, info, warn};

use super::{
    busy::{Activity, Holding},
    forward::Forward,
    listener::{Connection, Listener},
    options::Limits,
    quiet::Quiet,
    signals::Signals,
    stop::Stop,
    taking::Taking,
};

const SECRETS: [HeaderName; 3] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("mcp-session-id"),
];

const MAX_HEADER_BYTES: usize = 64 * 1024;

/// How often an HTTP/2 connection is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Every listening stream of a client is one, and they stay open.
const MAX_STREAMS: u32 = 4096;

/// For the ends of streams to reach their clients.
const FLUSH: Duration = Duration::from_secs(1);

/// Serves until a signal, then lets calls under way go on for a while, but not after a second one.
pub async fn serve(
    listener: Listener,
    forward: Forward,
    limits: &Limits,
    max_connections: usize,
    stop: Stop,
    mut signals: Signals,
) {
    let seats = Arc::new(Semaphore::new(max_connections));
    let connections = Connections {
        server: server(),
        forward,
        first_request: limits.head_timeout,
        next_request: limits.idle_timeout,
        taking: limits.write_timeout,
        closing: CancellationToken::new(),
        open: TaskTracker::new(),
    };
    let quiet = Quiet::default();
    loop {
        if seats.available_permits() == 0 {
            let full = format!("{max_connections} clients are connected; the next one waits");
            quiet.say(&full, |full| {
                warn!("{full}; --max-connections sets the limit")
            });
        }
        let accepted = async {
            let seat = seats.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, seat))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = signals.next() => break,
        };
        match accepted {
            Some((Ok(stream), seat)) => connections.begin(stream, seat),
            // Too many open files, say: it may pass.
            Some((Err(error), _)) => {
                let why = format!("cannot accept a connection: {}", error.kind());
                quiet.say(&why, |why| warn!("{why}"));
                sleep(Duration::from_millis(100)).await;
            }
            None => break,
        }
    }
    drop(listener);
    info!("stopping");

    connections.closing.cancel();
    connections.open.close();
    let mut closed = pin!(connections.open.wait());
    tokio::select! {
        () = &mut closed => return,
        // Nothing is lost in a listening stream: its client opens another.
        () = stop.no_more_calls() => {}
        () = sleep(limits.grace) => {}
        () = signals.next() => {}
    }
    stop.end();
    let _ = timeout(FLUSH, closed).await;
}

/// What all connections have in common.
struct Connections {
    server: auto::Builder<TokioExecutor>,
    forward: Forward,
    first_request: Duration,
    next_request: Duration,
    taking: Duration,
    closing: CancellationToken,
    open: TaskTracker,
}

impl Connections {
    /// Serves a connection until it is closed, idle for too long, or its client takes nothing.
    fn begin(&self, stream: Box<dyn Connection>, seat: OwnedSemaphorePermit) {
        let activity = Activity::default();
        let taking = Taking::new();
        let (forward, requests, answers) = (self.forward.clone(), activity.clone(), taking.clone());
        let service = ServiceBuilder::new()
            // So that no HTTP/2 connection keeps them in a table, and no `Debug` shows them.
            .layer(SetSensitiveRequestHeadersLayer::new(SECRETS))
            .service_fn(move |request: Request<_>| {
                let (forward, busy, answers) = (forward.clone(), requests.begin(), answers.clone());
                async move {
                    let reply = forward.forward(request).await?;
                    Ok::<_, std::convert::Infallible>(
                        reply.map(|body| answers.body(Holding::new(body, busy)).boxed_unsync()),
                    )
                }
            });
        let connection = self
            .server
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .into_owned();
        let (first, next) = (self.first_request, self.next_request);
        let (closing, patience) = (self.closing.clone(), self.taking);
        self.open.spawn(async move {
            let _seat = seat;
            let mut connection = pin!(connection);
            let idle = tokio::select! {
                closed = connection.as_mut() => return said(closed),
                () = activity.idle(first, next) => true,
                // What is on its way cannot be flushed.
                () = taking.stalled(patience) => {
                    return debug!("closed a connection whose client takes nothing of its answer");
                }
                () = closing.cancelled() => false,
            };
            connection.as_mut().graceful_shutdown();
            match idle {
                true => {
                    let _ = timeout(FLUSH, connection).await;
                    debug!("closed an idle connection");
                }
                false => said(connection.await),
            }
        });
    }
}

fn said<E>(closed: Result<(), E>) {
    if closed.is_err() {
        debug!("a connection broke");
    }
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        // `Activity` has its own.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEADER_BYTES);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    server
}
