//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, ValueEnum};
use http::{HeaderName, header::AUTHORIZATION};
use tracing_subscriber::filter::LevelFilter;

use super::{duration, guard::Origin};

const EXAMPLES: &str = "\
Examples:
  A server on this machine that is often restarted:
      mcp-session-proxy --upstream http://127.0.0.1:4101/mcp
  A remote one that wants a token, which is read again when the file changes:
      mcp-session-proxy --upstream https://mcp.example.com/mcp --header-file token.txt
      (token.txt: Authorization: Bearer ...)
  A gateway for many users, each with a token of their own:
      mcp-session-proxy --upstream http://10.0.0.5:8000/mcp --listen 0.0.0.0:4400 \\
          --principal authorization

Point clients at http://127.0.0.1:4400/mcp (the upstream's path). GET /healthz answers \"ok\".
Durations: 500ms, 10s, 2m, 1h.";

/// Forwards an MCP endpoint (Streamable HTTP), and keeps the sessions of its clients alive when the
/// server forgets them.
#[derive(Debug, Parser)]
#[command(
    name = "mcp-session-proxy",
    version,
    max_term_width = 100,
    after_help = EXAMPLES
)]
pub struct Options {
    /// The MCP endpoint, http or https; its path is the one that is served
    #[arg(long, value_name = "URL")]
    pub upstream: String,

    /// Where to listen; port 0 takes a free one
    #[arg(
        long,
        value_name = "HOST:PORT|unix:PATH",
        default_value = "127.0.0.1:4400"
    )]
    pub listen: String,

    /// What is logged on standard error: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LevelFilter,

    #[command(flatten)]
    pub upstream_options: UpstreamOptions,

    #[command(flatten)]
    pub access: Access,

    #[command(flatten)]
    pub limits: Limits,

    #[cfg(feature = "store")]
    #[command(flatten)]
    pub store_options: crate::store::StoreOptions,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The upstream")]
pub struct UpstreamOptions {
    /// How long a request waits for an upstream that cannot be reached: a restart takes seconds
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    pub wait: Duration,

    /// A header for each request, in place of the client's, as in 'X-Team: blue'; for several, give
    /// it several times. Other users of this machine can see it: for a secret take --header-file
    // Checked in main, and not by clap, which would repeat it.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,

    /// A file with such headers, one a line; read again when it changes
    #[arg(long, value_name = "FILE")]
    pub header_file: Option<PathBuf>,

    /// What clients call this proxy, if another one is in front of it, as in
    /// https://tools.example.com: where clients that do OAuth are sent
    #[arg(long, value_name = "ORIGIN")]
    pub public_origin: Option<Origin>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Who is served")]
pub struct Access {
    /// An Origin that is served although it is not local, as in https://app.example.com; for
    /// several, give it several times
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<Origin>,

    /// A name by which clients reach a proxy that listens on a loopback address, if it is not
    /// localhost: another proxy in front of this one may keep its own
    #[arg(long, value_name = "HOST")]
    pub allow_host: Vec<String>,

    /// What tells users apart who must not share sessions: the Authorization of their requests
    #[arg(long, value_enum, conflicts_with = "principal_header")]
    pub principal: Option<PrincipalBy>,

    /// The same with another header, such as X-Forwarded-User, which only a gateway in front of
    /// this proxy can set
    #[arg(long, value_name = "NAME")]
    pub principal_header: Option<HeaderName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PrincipalBy {
    Authorization,
}

impl Access {
    /// The header that names the principal.
    pub fn principal(&self) -> Option<HeaderName> {
        let by = self
            .principal
            .map(|PrincipalBy::Authorization| AUTHORIZATION);
        by.or_else(|| self.principal_header.clone())
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// The largest request body
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub max_body_bytes: usize,

    /// For a new connection to send the head of its first request
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    pub head_timeout: Duration,

    /// For a request's body to be sent
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    pub body_timeout: Duration,

    /// For a client to take some of an answer that waits for it
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration::parse)]
    pub write_timeout: Duration,

    /// For a connection without a request, before it is closed; clients keep one for less, as a
    /// rule
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse)]
    pub idle_timeout: Duration,

    /// Clients' connections at a time; the next one waits. As many as there are files for, if not
    /// given, and 10,000 at most
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,

    /// How long calls under way may go on when the proxy is told to stop
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub grace: Duration,
}
