//! A tower layer for HTTP clients that keeps MCP sessions alive when servers forget them.

#![forbid(unsafe_code)]
#![warn(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    rust_2018_idioms
)]

mod body;
mod future;
mod layer;
mod mcp;
mod recovery;
mod service;
mod session;

pub use self::{
    body::{RequestBody, ResponseBody},
    future::ResponseFuture,
    layer::SessionRecoveryLayer,
    mcp::{Answer, Changes, Classify, Compatible, Message, Strict, Verdict},
    recovery::{Outcome, Recovery, RecoveryEvent, Refusal},
    service::SessionRecovery,
    session::{Failure, Sessions},
};
