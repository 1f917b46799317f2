//! The cases of rmcp's own tests of its Streamable HTTP client, and what this client has of its own.

#![allow(unreachable_pub)]

mod gets;
mod limits;
mod posts;
mod recovery;
mod requests;
mod resuming;
mod stacks;
mod support;
mod transport;
