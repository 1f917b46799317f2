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
//! of sessions for all connections (`upstream.rs`), and everything that a proxy owes to HTTP and
//! to the people who run it: what it refuses (`guard.rs`), what it does not forward
//! (`headers.rs`), how it stops (`stop.rs`, `serve.rs`).
//!
//! What tells the clients of one proxy apart is the session id, which servers make unguessable. A
//! client with the id of another one's session can do to it whatever the server lets it do, and
//! can have it recovered with its own credentials. So users who must be kept apart, each with a
//! token of their own, run a proxy each.

mod endpoint;
mod forward;
mod guard;
mod headers;
mod listening;
mod options;
mod reason;
mod serve;
mod signals;
mod stop;
mod upstream;

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
};

use clap::Parser;
use tokio::net::TcpListener;
use tracing_subscriber::{filter::Targets, prelude::*};

use self::{
    endpoint::Endpoint, forward::Forward, guard::Guard, options::Options, signals::Signals,
    stop::Stop,
};

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
    let _ = rlimit::increase_nofile_limit(u64::MAX);

    // Checked here and not by clap, which would repeat the URL, and with it a secret.
    let endpoint =
        Endpoint::parse(&options.upstream).map_err(|why| format!("--upstream: {why}"))?;
    let upstream = upstream::connect(&endpoint).map_err(|why| format!("--upstream: {why}"))?;
    let cannot_listen = |error| format!("cannot listen on {}: {error}", options.listen);
    let listener = TcpListener::bind(&options.listen)
        .await
        .map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    if endpoint.is_at(address) {
        return Err("--upstream: this is the proxy itself".to_owned());
    }

    let signals = Signals::catch().map_err(|why| format!("cannot catch signals: {why}"))?;
    // Nobody may be there to read it.
    let _ = writeln!(
        stdout(),
        "listening on http://{address}{}, forwarding to {endpoint}",
        endpoint.path(),
    );
    let guard = Guard::new(&options, address.ip());
    let stop = Stop::default();
    let forward = Forward::new(&options, guard, endpoint, upstream, stop.clone());
    serve::serve(listener, forward, &options, stop, signals).await;
    Ok(())
}
