//! What the examples share: a real MCP server that loses its sessions when told to, a caller that
//! knows nothing of session loss, and a look at the wire.

#![allow(dead_code, unreachable_pub, unused_imports)] // Each example uses a part of it.

mod caller;
mod server;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use self::{
    caller::{Answer, Caller, HttpClient, Messages},
    server::{RESOURCE, Server},
    wire::{Exchange, Ordinals, Wire},
};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
