//! A server that is away while it restarts: a request that was never sent may be sent again.
//!
//! Calls made while a server restarts fail with a connection error, and some clients close their
//! session for good. tower's `Retry` below the layer, with a policy of a few lines, waits for the
//! server; then the layer makes a new session, since the server has lost the old one. Above the
//! layer it would repeat whole recoveries, and the layer's own requests would not wait.
//!
//! Only what had no connection is sent again. A request whose connection broke later may have been
//! executed.
//!
//! ```console
//! $ cargo run --example retry
//! ```

mod support;

use std::time::{Duration, Instant};

use http::Request;
use hyper_util::{
    client::legacy::{Client, Error},
    rt::TokioExecutor,
};
use mcp_session_recovery::{Recovery, SessionRecoveryLayer};
use serde_json::json;
use tokio::time::{Sleep, sleep};
use tower::{
    ServiceBuilder,
    retry::{Policy, RetryLayer},
};

use support::{BoxError, Caller, Server};

/// Waits for a server that cannot be reached. Each request has a clone of its own.
#[derive(Clone)]
struct WaitForServer {
    /// A restart takes seconds; after that, the caller should know.
    until: Option<Instant>,
    patience: Duration,
}

impl<B: Clone, R> Policy<Request<B>, R, Error> for WaitForServer {
    type Future = Sleep;

    fn retry(&mut self, _: &mut Request<B>, result: &mut Result<R, Error>) -> Option<Sleep> {
        let never_sent = matches!(result, Err(error) if error.is_connect());
        let until = *self
            .until
            .get_or_insert_with(|| Instant::now() + self.patience);
        (never_sent && Instant::now() < until).then(|| sleep(Duration::from_millis(200)))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        // The layer hands on bodies that can be cloned if the caller's can. It copies no data.
        Some(request.clone())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .layer(RetryLayer::new(WaitForServer {
            until: None,
            patience: Duration::from_secs(10),
        }))
        .service(
            Client::builder(TokioExecutor::new())
                // This server runs in this process: a connection would outlive its end.
                .pool_max_idle_per_host(0)
                .build_http(),
        );

    let server = Server::start().await?;
    let url = server.url().to_owned();
    let caller = Caller::connect(client, &url).await?;
    println!("connected to {}", caller.server()["serverInfo"]["name"]);

    drop(server);
    println!("the server has gone, and comes back in a second");
    let back = tokio::spawn({
        let url = url.clone();
        async move {
            sleep(Duration::from_secs(1)).await;
            Server::start_again(&url).await
        }
    });

    let called = Instant::now();
    let answer = caller.call("count", json!({})).await?;
    println!(
        "a call made meanwhile: {:?}, after {:.1?}; {:?}",
        answer.text()?,
        called.elapsed(),
        answer.recovery.as_ref().map(Recovery::outcome),
    );
    drop(back.await??);
    Ok(())
}
