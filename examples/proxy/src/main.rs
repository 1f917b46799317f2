//! A proxy that gives any MCP client, in any language, sessions that do not die.
//!
//! ```sh
//! cargo run --release -p proxy -- \
//!     --listen 127.0.0.1:4400 --upstream http://127.0.0.1:4101/mcp
//! ```
//!
//! Point the client at `http://127.0.0.1:4400/mcp`: restarts of the server behind it are no longer
//! its concern. Each recovery is one line in the log, on standard error.
//!
//! Shows the layer at work for many callers at once, over hyper-util's client with TLS: one table
//! of sessions for all connections and what belongs below the layer (`upstream.rs`), and everything
//! that a proxy owes to HTTP and to the people who run it: what it refuses (`admission.rs`,
//! `guard.rs`, `hops.rs`, `redirect.rs`), what it does not forward (`headers.rs`), slow clients (`busy.rs`, `body.rs`,
//! `taking.rs`) and a slow upstream (`retry.rs`, `lost.rs`), authorization (`oauth.rs`, `own_headers.rs`), how it
//! stops (`stop.rs`, `serve.rs`).
//!
//! With the feature `store`, `--store` keeps the sessions in a file or in Redis (`store.rs`), so that
//! they outlive the proxy, and several proxies share them:
//!
//! ```sh
//! cargo run --release -p proxy --features store -- \
//!     --upstream http://127.0.0.1:4101/mcp --store sessions.redb
//! ```
//!
//! Without `--principal` what tells the clients of one proxy apart is the session id, which servers
//! make unguessable. A client with the id of another one's session can do to it whatever the server
//! lets it do, and can have it recovered with its own credentials. That is right for one user. For
//! several, say what tells them apart, or run a proxy each.

mod admission;
mod body;
mod busy;
mod duration;
mod endpoint;
mod forward;
mod guard;
mod headers;
mod hops;
mod listener;
mod listening;
mod lost;
mod oauth;
mod options;
mod own_headers;
mod quiet;
mod reason;
mod redirect;
mod reply;
mod retry;
mod serve;
mod signals;
mod stop;
#[cfg(feature = "store")]
mod store;
mod taking;
mod upstream;

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
};

use clap::Parser;
use mcp_session_recovery::{SessionRecoveryLayer, Sessions};
use tracing::warn;
use tracing_subscriber::{filter::Targets, prelude::*};

use self::{
    endpoint::Endpoint, forward::Forward, guard::Guard, listener::Listener, options::Options,
    own_headers::OwnHeaders, signals::Signals, stop::Stop,
};

/// Two sockets for each client, and some for the rest.
const MOST_CONNECTIONS: u64 = 10_000;
const OTHER_FILES: u64 = 32;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    // The HTTP libraries' own logs hold headers, so they stay silent at every level.
    let targets = Targets::new()
        .with_target("mcp_session_recovery", options.log)
        .with_target(module_path!(), options.log);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .init();

    // Two sockets for each open stream are soon more files than a process may open by default.
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let most = (files.saturating_sub(OTHER_FILES) / 2).clamp(1, MOST_CONNECTIONS);
    let max_connections = options.limits.max_connections.map_or(most, u64::from);

    // Checked here and not by clap, which would repeat the URL, and with it a secret.
    let endpoint =
        Endpoint::parse(&options.upstream).map_err(|why| format!("--upstream: {why}"))?;
    let upstream_options = &options.upstream_options;
    let own_headers = OwnHeaders::new(
        &upstream_options.header,
        upstream_options.header_file.as_deref(),
    )?;
    let stop = Stop::default();
    let table = Sessions::new();
    let sessions = SessionRecoveryLayer::new().sessions(table.clone());
    #[cfg(feature = "store")]
    let sessions = store::with_store(sessions, &options.store_options).await?;
    let upstream = upstream::connect(&options, &endpoint, own_headers, sessions, stop.clone())
        .map_err(|why| format!("--upstream: {why}"))?;
    let listener = Listener::bind(&options.listen)
        .await
        .map_err(|why| format!("cannot listen on {}: {why}", options.listen))?;
    if listener
        .address()
        .is_some_and(|address| endpoint.is_at(address))
    {
        return Err("--upstream: this is the proxy itself".to_owned());
    }

    let signals = Signals::catch().map_err(|why| format!("cannot catch signals: {why}"))?;
    if listener.is_for_others() && options.access.principal().is_none() {
        warn!(
            "other machines can connect, and all are served as one user; --principal or \
             --principal-header tells users apart"
        );
    }
    // Nobody may be there to read it.
    let _ = writeln!(
        stdout(),
        "listening on {listener}{}, forwarding to {endpoint}",
        listener.address().map_or("", |_| endpoint.path()),
    );
    let guard = Guard::new(&options, listener.ip());
    let forward = Forward::new(&options, guard, endpoint, upstream, stop.clone());
    // What it has to tell the store would go with it.
    #[cfg(feature = "store")]
    let _kept = forward.clone();
    let max_connections = usize::try_from(max_connections).unwrap_or(usize::MAX);
    serve::serve(
        listener,
        forward,
        &options.limits,
        max_connections,
        stop,
        signals,
    )
    .await;
    #[cfg(feature = "store")]
    store::flush(&table).await;
    Ok(())
}
