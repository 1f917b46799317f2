//! rmcp's Streamable HTTP client over any tower HTTP service.
//!
//! [rmcp] sends MCP over HTTP through a [`StreamableHttpClient`], which it has for
//! `reqwest::Client`. [`TowerClient`] is one for whatever is a
//! [`Service`](tower_service::Service) of `http` types: a hyper client, an axum router in a test, a
//! stack with time-outs, retries, authorization, tracing and metrics as tower layers.
//!
//! ```
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use rmcp::transport::{
//!     StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
//! };
//! use rmcp_tower_client::TowerClient;
//! # use rmcp::ServiceExt;
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//!
//! let http = Client::builder(TokioExecutor::new()).build_http();
//! let config = StreamableHttpClientTransportConfig::with_uri("http://localhost:3000/mcp");
//! let transport = StreamableHttpClientTransport::with_client(TowerClient::new(http), config);
//! let client = ().serve(transport).await?;
//! client.list_tools(None).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it does
//!
//! What rmcp's own client does, answer by answer; the tests compare the two.
//!
//! - **Requests** carry the session, the bearer token and the custom headers of the transport's
//!   configuration, and `Last-Event-ID` where a stream is resumed. Custom headers that the transport
//!   alone decides about are an error (`ReservedHeaderConflict`).
//! - **Answers to a POST**: 202, 204, and an empty 2xx to what awaits no response are `Accepted`;
//!   JSON and event streams are told by their media type; anything else is `UnexpectedContentType`.
//! - **Sessions**: 404 to a request in a session is `SessionExpired`.
//! - **Authorization**: 401 with a challenge is `AuthRequired`, 403 with one `InsufficientScope`, with
//!   the scope that it names.
//! - **Refusals**: a JSON-RPC error is the answer, whatever the status; 429 and 5xx without one are
//!   `HttpStatus` with `Retry-After`; other statuses are `UnexpectedServerResponse` with the
//!   beginning of the body. A `server/discover` that is refused is told so that rmcp falls back to
//!   `initialize`.
//! - **405** to a GET is `ServerDoesNotSupportSse`; to a DELETE it is a session that the server keeps.
//! - **Limits** of the configuration (`max_sse_event_size`, `max_json_response_size`,
//!   `max_error_response_size`) bound all that is kept of an answer while it is read.
//!
//! In two places it differs. A JSON-RPC error that answers a request with another id than its own,
//! or none, gets the request's: with rmcp's own client the caller waits for ever. And the text of a
//! refusal is read as UTF-8, whatever its `charset`.
//!
//! # What is the stack's
//!
//! Redirects, cookies, compression, proxies, user information in a URL (all of which `reqwest::Client`
//! may do for rmcp) are for layers beneath. A time-out layer bounds the time to the head of an answer;
//! event streams may be open for hours.
//!
//! # With a layer that keeps sessions alive
//!
//! `mcp-session-recovery` makes an expired session anew beneath this client, where rmcp does it too and
//! where it does not: servers that answer 400 instead of 404, answers that are lost with the session,
//! subscriptions. One of the two recovers, not both:
//!
//! ```
//! # use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! # use rmcp::transport::{
//! #     StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig,
//! # };
//! # use rmcp_tower_client::TowerClient;
//! use mcp_session_recovery::SessionRecoveryLayer;
//! use tower::Layer;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//!
//! let http = Client::builder(TokioExecutor::new()).build_http();
//! let stack = SessionRecoveryLayer::new().layer(http);
//! let config = StreamableHttpClientTransportConfig::with_uri("http://localhost:3000/mcp")
//!     .reinit_on_expired_session(false);
//! let transport = StreamableHttpClientTransport::with_client(TowerClient::new(stack), config);
//! # drop(transport);
//! # }
//! ```
//!
//! # Versions of rmcp
//!
//! rmcp 3.11 and later 3.x. Its types are in this crate's interface, so a new major version of rmcp
//! means one of this crate.
//!
//! [rmcp]: https://docs.rs/rmcp
//! [`StreamableHttpClient`]: rmcp::transport::streamable_http_client::StreamableHttpClient

mod answer;
mod body;
mod client;
mod error;
mod events;
mod mime;
mod refusal;
mod request;
mod resumption;

pub use self::{client::TowerClient, error::Error};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
