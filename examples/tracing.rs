//! What a recovery looks like in the log: one span, with everything that was sent for it inside, and
//! one event at its end. No session id and no credential is in either.
//!
//! ```console
//! $ cargo run --example tracing --features trace
//! ```

mod support;

use std::io::IsTerminal;

use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mcp_session_recovery::SessionRecoveryLayer;
use serde_json::json;
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;
use tracing::{Instrument, info, info_span};

use support::{BoxError, Caller, Server};

/// The application, the layer, and one line for each exchange on the wire.
const FILTER: &str = "tracing=info,mcp_session_recovery=debug,\
    tower_http::trace::make_span=debug,tower_http::trace::on_response=debug";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter(FILTER)
        .with_ansi(std::io::stdout().is_terminal())
        .with_target(false)
        .init();

    let server = Server::start().await?;
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        // What is sent for a recovery is within its span. Unlike the layer, this one shows whole URIs:
        // give it a `make_span_with` of your own if there are secrets in yours.
        .layer(TraceLayer::new_for_http())
        .service(Client::builder(TokioExecutor::new()).build_http());

    let caller = Caller::connect(client, server.url())
        .instrument(info_span!("connecting"))
        .await?;
    server.forget_sessions().await;
    info!("the server has forgotten every session");

    let answer = caller
        .call("count", json!({}))
        .instrument(info_span!("calling a tool"))
        .await?;
    info!(answer = answer.text()?, "the caller has its answer");
    Ok(())
}
