//! The command line.

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use super::guard::Origin;

/// Forwards an MCP endpoint, and keeps the sessions of its clients alive.
#[derive(Debug, Parser)]
#[command(name = "proxy", max_term_width = 100)]
pub struct Options {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4400")]
    pub listen: String,

    /// The MCP endpoint, http or https; its path is the one that is served
    #[arg(long, value_name = "URL")]
    pub upstream: String,

    /// What is logged on standard error: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: LevelFilter,

    /// An Origin that is served although it is not local, as in https://app.example.com; for
    /// several, give it several times
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<Origin>,

    /// A name by which clients reach a proxy that listens on a loopback address, if it is not
    /// localhost: another proxy in front of this one may keep its own
    #[arg(long, value_name = "HOST")]
    pub allow_host: Vec<String>,

    /// The largest request body
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub max_body_bytes: usize,

    /// How long calls under way may go on when the proxy is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub grace: u64,
}
