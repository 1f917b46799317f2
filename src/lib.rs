//! A tower layer for HTTP clients that keeps MCP sessions alive when servers forget them.
//!
//! MCP servers over Streamable HTTP forget sessions: they restart, deploy, expire idle ones, move
//! behind a load balancer. From then on they answer every request of the session with 404, and the
//! client has to start over with a new `initialize` (specification 2025-11-25, Transports, Session
//! Management). [`SessionRecoveryLayer`] does that for any HTTP client that is a tower service. It
//! records the `initialize` that passes through, notices when the server no longer knows the
//! session, repeats the handshake through the inner service, restores what the session held, and
//! sends the request once more. The caller keeps the session id it was first given and notices
//! nothing.
//!
//! # Example
//!
//! Around hyper-util's client, to be used like that client:
//!
//! ```
//! use std::time::Duration;
//!
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use hyper::body::Incoming;
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use mcp_session_recovery::{ResponseBody, SessionRecoveryLayer};
//! use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
//!
//! async fn post(
//!     client: impl Service<
//!         Request<Full<Bytes>>,
//!         Response = Response<ResponseBody<Incoming>>,
//!         Error = BoxError,
//!     >,
//!     session_id: &str,
//!     message: &'static str,
//! ) -> Result<Response<ResponseBody<Incoming>>, BoxError> {
//!     let request = Request::post("http://127.0.0.1:8080/mcp")
//!         .header("content-type", "application/json")
//!         .header("accept", "application/json, text/event-stream")
//!         .header("mcp-session-id", session_id)
//!         .body(Full::from(message))?;
//!     client.oneshot(request).await
//! }
//!
//! let client = ServiceBuilder::new()
//!     .map_err(BoxError::from)
//!     .layer(
//!         SessionRecoveryLayer::new()
//!             .recovery_timeout(Duration::from_secs(5))
//!             .on_recovery(|event| eprintln!("{}: {:?}", event.host(), event.result())),
//!     )
//!     .service(Client::builder(TokioExecutor::new()).build_http());
//!
//! // Answered, even if the server was restarted since it handed out the session id.
//! let answer = post(client, "the-id", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
//! # drop(answer);
//! ```
//!
//! # Guarantees
//!
//! - **The caller's session id stays valid for ever.** The layer translates it, and
//!   `MCP-Protocol-Version` if the new server speaks another version, in both directions.
//! - **One handshake for each loss**, however many requests meet the dead session at once. It runs
//!   in a task of its own: a caller that gives up neither stops it nor harms the others.
//! - **A request is sent at most twice**, and the second time only after the server said that it
//!   does not know the session. Never after a transport error, never a JSON-RPC response.
//! - **Streams go on.** A listening stream (GET) continues in the new session inside the same
//!   response body. Log level and resource subscriptions are set again before anyone uses the new
//!   session. An answer that can no longer come is reported as a JSON-RPC error, at once.
//! - **Nothing is lost when recovery fails.** The caller gets its own 404, intact, or the 401 or 403
//!   that the handshake was answered with. Attempts have a budget: no server causes a storm.
//! - **Nothing secret is told.** Session ids, credentials, queries and bodies reach no log, span,
//!   event, error or `Debug`.
//! - **What is not the layer's business passes untouched**: requests without a recorded session,
//!   and all traffic of revision 2026-07-28, which has no sessions. No buffering, no allocation.
//!
//! What happened to a request is told in its response's extensions ([`Recovery`]), what happened
//! to a session through [`SessionRecoveryLayer::on_recovery`] ([`RecoveryEvent`]) and a `tracing`
//! span named `session_recovery`.
//!
//! # Where to put it in a stack
//!
//! The layer sends its own requests (`initialize`, `notifications/initialized`, `ping`, what
//! restores state, `DELETE`) through the service that it wraps. So:
//!
//! | layer | place | why |
//! |---|---|---|
//! | authentication | below | the handshake needs credentials; a 401 is refreshed and retried there, before this layer sees it |
//! | per-request time-out | below | a handshake that hangs ends in time; above, it would cut off a request that waits for a recovery, which goes on for the others |
//! | overall deadline | above | it bounds all that a caller waits for |
//! | concurrency and rate limits | below | they count what is really sent; nothing of them is held while waiting |
//! | retry | below | a retry of a transport error is none of this layer's business; above, it would repeat whole recoveries |
//! | tracing of what is on the wire | below | each of the up to five requests shows |
//! | tracing of what callers see | above | one request, one answer |
//! | decompression | below | the layer reads JSON and event streams |
//! | redirects | below | an endpoint is what the caller asked for |
//!
//! # Sessions that outlive the process
//!
//! With the feature `store`, `SessionRecoveryLayer::store` keeps the sessions in a file or a
//! database. A new process goes on with them, and several processes that share a store share the
//! sessions: one of them recovers a session, the others follow. No credentials are stored. Requests
//! of sessions that the process knows do not wait for the store, others 250 ms at most, and none
//! fails because the store does. What is stored, how long, who must be able to read it, and what a
//! stolen store is worth, is told in the module `store`.
//!
//! # Limits
//!
//! - State that lives in the server process is gone with it: what a tool kept in memory, tasks,
//!   requests that the server had put to the client.
//! - A tool call that was running when the server died is not run again. The caller is told that
//!   its answer is lost and that it may have been executed.
//! - Sessions are remembered in memory: a new process of the client starts with none, unless they
//!   are kept in a store (below).
//! - Request bodies over [`max_body_bytes`](SessionRecoveryLayer::max_body_bytes) (1 MiB) are
//!   streamed and not sent again.
//! - The request body has to be `Unpin`, as hyper-util's client wants it, too; `Box::pin` makes any
//!   body so.
//! - A tokio runtime with its time driver is needed.

#![forbid(unsafe_code)]
#![warn(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    rust_2018_idioms
)]

mod body;
mod config;
mod exchange;
mod future;
mod http_service;
mod layer;
mod mcp;
mod outcome;
mod recovery;
mod route;
mod service;
mod session;
#[cfg(feature = "store")]
pub mod store;

pub use self::{
    body::{RequestBody, ResponseBody},
    future::ResponseFuture,
    http_service::HttpService,
    layer::SessionRecoveryLayer,
    mcp::{Changes, Classify, Compatible, HttpAnswer, Message, Strict, Verdict, classify_fn},
    outcome::{Failure, Outcome, Recovery, RecoveryEvent, Refusal},
    service::SessionRecovery,
    session::{Principal, Sessions},
};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
