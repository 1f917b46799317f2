//! Test servers that behave as real ones do around session loss, and a caller to talk to them.
//!
//! The profiles are those that were measured on real servers; what a test needs beyond them it
//! scripts with [`Server::on`].

#[cfg(feature = "benching")]
pub mod benching;
mod bodies;
pub mod busy;
mod client;
pub mod logs;
pub mod loopback;
pub mod mocked;
mod profile;
mod replies;
mod requests;
pub mod scenario;
mod server;
pub mod streams;
pub mod transcript;
pub mod whose;

pub use self::{
    bodies::{Feed, Feeder, Script, Step, feed},
    client::{Answer, Client, client, events, handshake, read, send, settle},
    profile::Profile,
    replies::{
        Reply, TestBody, TestError, fed_stream, json_reply, pending_sse, reply, sse, stream,
    },
    requests::{
        CallerBody, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID, URI, VERSION, delete, full, get,
        initialize, initialized, post, request, tool_call,
    },
    server::{Seen, Server, ServerService},
};
