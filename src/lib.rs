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
//! # In a gateway
//!
//! A client process that talks for one user needs nothing of this. **If requests of several users
//! pass through one layer, tell it whose each request is.** A session is something that its user
//! owns, and the layer acts for whoever presents its id: it makes handshakes, sets subscriptions
//! again, reopens streams. Without a [`principal`](SessionRecoveryLayer::principal) all requests
//! through a layer are one user's, and the id is all that it takes.
//!
//! ```
//! use mcp_session_recovery::{Principal, SessionRecoveryLayer};
//!
//! /// What an authentication layer above has found out and put into the request's extensions.
//! #[derive(Clone)]
//! struct User {
//!     id: String,
//! }
//!
//! let layer = SessionRecoveryLayer::new()
//!     .principal(|request| Some(Principal::from(request.extensions.get::<User>()?.id.as_str())));
//! # let _ = layer;
//! ```
//!
//! The principal is part of a session's key. An id that another principal presents is an id that the
//! layer does not know: the request goes to the server as it came, and the caller gets what the
//! server says to it, at every moment of the session's life. Nobody learns from that whether there is
//! such a session.
//!
//! - **Take it from what has been verified**, an extension that an authentication layer has set. A
//!   header is good enough only where something in front of the gateway sets it and removes the
//!   caller's.
//! - **It stays the same when a token is refreshed.** The subject of a token is a principal, the token
//!   is not: with the token for a principal, each refresh would lose the session.
//! - **`None` is a principal, too**: that of all requests that have none. Refuse them above the layer
//!   if there should be none.
//! - **The layer goes below the authentication of your users and above authentication to the server.**
//!   It has to see whose a request is, and its own requests have to get the credentials that the
//!   server wants of that user. They carry the extensions of the request that triggered them.
//!
//! What the layer does for its part, with principals or without:
//!
//! - A handshake has the credentials of the request that found the session expired, and nobody
//!   else's. What was recorded is sent to ask, with a `ping`, whether a session lives that a request
//!   with another `authorization` was answered in as if it had expired: somebody else's token ends no
//!   session. A
//!   deployment that tells users apart by other headers alone, or below the layer, needs principals.
//! - A 401 or 403 to a handshake goes to those who came with the same `authorization`. The others may
//!   try with theirs.
//! - Servers that count their sessions, and have been restarted, hand out one caller's id to another.
//!   The layer finds that out from its own table: the one who had it is recovered before its next
//!   request is sent, and a new caller is given another id where somebody still goes by that one.
//! - No caller and no server pushes out the sessions of another: what is over
//!   [`max_sessions`](SessionRecoveryLayer::max_sessions) or
//!   [`max_sessions_bytes`](SessionRecoveryLayer::max_sessions_bytes) goes at the cost of whoever
//!   holds most.
//!
//! `examples/gateway.rs` is a whole one: axum in front, many users, hyper behind.
//! [`docs/SECURITY.md`] tells what malicious callers and servers can try, and the tests that show
//! what comes of it.
//!
//! [`docs/SECURITY.md`]: https://github.com/mcp-session-recovery/mcp-session-recovery/blob/main/docs/SECURITY.md
//!
//! # Behind a load balancer
//!
//! A session lives in one replica of a server, unless the server keeps its sessions in something that
//! all replicas share. So a balancer has to bring all requests of a session to the same replica. When
//! that replica goes away, the session has expired, and the recovery makes one on another: all of its
//! requests, and all that follow, have to go to that one.
//!
//! | what ties a session to its replica | works | because |
//! |---|---|---|
//! | a cookie (ingress-nginx, AWS ALB, HAProxy, Envoy), and callers that keep cookies | yes | what the handshake's answers set goes with the rest of the recovery and with the replay, takes the place of the stale cookie in what follows, and reaches the caller's cookie jar with the answer |
//! | the same, and callers that keep none (reqwest and Node's `fetch` as they come), nor a layer below | no | nobody brings the cookie back, with or without this layer. Put a cookie jar below it or above |
//! | a hash of `Mcp-Session-Id` (nginx `hash $http_mcp_session_id consistent`, Envoy's ring hash) | if the hash of an id leads to the replica that made it | an `initialize` has no id, so its replica is chosen before there is one. Some servers make ids that lead back to them, most do not |
//! | the connection (a balancer of layer 4, a Kubernetes service) | with one connection | hold the pool to one: hyper-util's `pool_max_idle_per_host(1)` with a concurrency limit of 1, or HTTP/2. In HTTP/1 a listening stream takes a connection of its own |
//! | the client's address | yes | a recovery changes nothing about it; but all callers of a gateway share a replica |
//! | nothing (round robin) | **no** | see below |
//! | sessions in a database that the replicas share | yes | any replica will do |
//!
//! Without affinity `initialize` reaches one replica and `notifications/initialized` another, which
//! has never heard of the session. It works by chance, whether there is a recovery layer or not. With
//! it, this is how it shows:
//!
//! - The caller gets its 404, with [`Outcome::Failed`] and [`Failure::NotAccepted`] of 404 or 400 in
//!   its extensions, and [`RecoveryEvent::result`] says the same. That, again and again, means missing
//!   affinity and hardly anything else.
//! - Or the handshake succeeds and the replay meets an expired session: [`Outcome::Replayed`] on a
//!   404. It counts as an attempt without use, and the
//!   [pauses](SessionRecoveryLayer::recovery_pause) grow.
//!
//! The layer does not try until it is lucky: each attempt would leave a session on some replica, and
//! the next request would land on another one. A caller that sends no cookies is given none; only the
//! layer's own requests in a recovery carry what that recovery's answers have set.
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
//! | set-header, `map_request` | below | what the layer sends has it, too |
//! | what may be there or not (`option_layer`) | below | for this layer itself there is [`enabled`](SessionRecoveryLayer::enabled) |
//!
//! A rate limit cannot be cloned, so it needs a buffer above it; redirects of a POST need a policy
//! that clones its body (both below). A load shedder below fails a recovery whose handshake it sheds.
//! Each row is a test with the real layer of tower or tower-http: a session lost, and recovered through
//! it (`tests/it/stacks` and `tests/stacks` in the repository).
//!
#![doc = include_str!("docs/compile_errors.md")]
#![doc = include_str!("docs/names.md")]
//! # Sessions that outlive the process
//!
//! With the feature `store`, `SessionRecoveryLayer::store` keeps the sessions in a file or a
//! database. A new process goes on with them, and several processes that share a store share the
//! sessions: one of them recovers a session, the others follow. No credentials are stored. Requests
//! of sessions that the process knows do not wait for the store, others 250 ms at most, and none
//! fails because the store does. `Sessions::flush` waits, at the end of a process, until all is
//! written. What is stored, how long, who must be able to read it, and what a
//! stolen store is worth, is told in the module `store`.
//!
//! # Limits
//!
//! - State that lives in the server process is gone with it: what a tool kept in memory, tasks,
//!   requests that the server had put to the client.
//! - A tool call that was running when the server died is not run again. The caller is told that
//!   its answer is lost and that it may have been executed.
//! - Sessions are remembered in memory: a new process of the client starts with none, unless they
//!   are kept in a store.
//! - What others can make it hold, send or wait for is bounded. `docs/LIMITS.md` in the repository has
//!   each bound: what it protects against, its default, its knob, what happens beyond it, and the
//!   test that reaches it.
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
mod deadline;
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
mod sync;

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
