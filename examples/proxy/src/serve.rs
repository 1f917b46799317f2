//! Listens, until told to stop.

use std::{pin::pin, time::Duration};

use http::{
    HeaderName,
    header::{AUTHORIZATION, COOKIE},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tower::ServiceBuilder;
use tower_http::sensitive_headers::SetSensitiveRequestHeadersLayer;
use tracing::{debug, info, warn};

use super::{forward::Forward, options::Options, signals::Signals, stop::Stop};

const SECRETS: [HeaderName; 3] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("mcp-session-id"),
];

const MAX_HEADER_BYTES: usize = 64 * 1024;

/// For the headers of a request to arrive in, and for an idle connection; longer than clients
/// keep one, so that they are the ones to close it.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);

/// How often an HTTP/2 connection is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Every listening stream of a client is one, and they stay open.
const MAX_STREAMS: u32 = 4096;

/// For the ends of streams to reach their clients.
const FLUSH: Duration = Duration::from_secs(1);

/// Serves until a signal, then lets calls under way go on for a while, but not after a second one.
pub async fn serve(
    listener: TcpListener,
    forward: Forward,
    options: &Options,
    stop: Stop,
    mut signals: Signals,
) {
    let server = server();
    let service = ServiceBuilder::new()
        // So that no HTTP/2 connection keeps them in a table, and no `Debug` shows them.
        .layer(SetSensitiveRequestHeadersLayer::new(SECRETS))
        .service_fn(move |request| forward.clone().forward(request));
    let service = TowerToHyperService::new(service);

    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = signals.next() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, say: it may pass.
                warn!("cannot accept a connection: {}", error.kind());
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // An event is a small packet, and must not wait for the next.
        let _ = stream.set_nodelay(true);
        let connection = server.serve_connection(TokioIo::new(stream), service.clone());
        let connection = connections.watch(connection.into_owned());
        tokio::spawn(async move {
            if connection.await.is_err() {
                debug!("a connection broke");
            }
        });
    }
    drop(listener);
    info!("stopping");

    let mut closed = pin!(connections.shutdown());
    tokio::select! {
        () = &mut closed => return,
        // Nothing is lost in a listening stream: its client opens another.
        () = stop.no_more_calls() => {}
        () = sleep(Duration::from_secs(options.grace)) => {}
        () = signals.next() => {}
    }
    stop.end();
    let _ = tokio::time::timeout(FLUSH, closed).await;
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEADER_BYTES);
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    server
}
