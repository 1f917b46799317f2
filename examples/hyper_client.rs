//! The smallest useful thing: hyper-util's client over TLS with the layer around it, and tracing and
//! time-outs where they belong.
//!
//! ```console
//! $ cargo run --example hyper_client --features tls,trace                                # a TLS server of its own
//! $ cargo run --example hyper_client --features tls,trace -- https://mcp.example.com/mcp
//! ```

mod support;

use std::{io::IsTerminal, time::Duration};

use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use mcp_session_recovery::SessionRecoveryLayer;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use serde_json::json;
use tower::ServiceBuilder;
use tower_http::trace::TraceLayer;

use support::{BoxError, Caller, Server};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt()
        .with_env_filter("mcp_session_recovery=debug,tower_http::trace::on_response=debug")
        .with_ansi(std::io::stdout().is_terminal())
        .with_target(false)
        .init();

    let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()?;
    let (url, server, tls) = match std::env::args().nth(1) {
        Some(url) => (url, None, tls.with_native_roots()?),
        None => {
            let (server, certificate) = Server::start_tls().await?;
            let mut roots = RootCertStore::empty();
            roots.add(certificate)?;
            let tls = tls.with_root_certificates(roots);
            (server.url().to_owned(), Some(server), tls)
        }
    };
    // Messages are small: with TLS, each would wait 40 ms for the acknowledgment of the one before.
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls.with_no_client_auth())
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);

    let client = ServiceBuilder::new()
        // Above the layer: how long the caller waits in all, a recovery included. The recovery goes
        // on without it.
        .timeout(Duration::from_secs(30))
        .layer(SessionRecoveryLayer::new())
        // Below it: what is on the wire, those of a recovery too. The time-out is for a response's
        // head; streams go on for as long as they like.
        .layer(TraceLayer::new_for_http())
        .timeout(Duration::from_secs(10))
        .service(Client::builder(TokioExecutor::new()).build(connector));

    let caller = Caller::connect(client, &url).await?;
    let name = &caller.server()["serverInfo"]["name"];
    let answer = caller.ask("tools/list", json!({})).await?;
    let tools = answer.result()?["tools"].as_array().map_or(0, Vec::len);
    println!("connected to {name}, which has {tools} tools");

    if let Some(server) = &server {
        println!(
            "calling a tool: {}",
            caller.call("count", json!({})).await?.text()?
        );
        server.forget_sessions().await;
        println!("the server has forgotten every session");
        println!(
            "calling a tool: {}",
            caller.call("count", json!({})).await?.text()?
        );
    }
    caller.leave().await?;
    Ok(())
}
