//! The layer around a `reqwest::Client`, whose service takes a request type of its own: the adapter is
//! a few lines. Request and response bodies stream.
//!
//! ```console
//! $ cargo run --example reqwest --features reqwest                                # a server of its own
//! $ cargo run --example reqwest --features reqwest -- http://127.0.0.1:3000/mcp
//! ```

mod support;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::{Method, Request, Response};
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use mcp_session_recovery::{Recovery, SessionRecoveryLayer};
use serde_json::json;
use tower::{Layer, Service, ServiceExt};

use support::{BoxError, Caller, Messages, Server};

/// A `reqwest::Client` as a tower service of `http` types.
#[derive(Clone)]
struct Reqwest(reqwest::Client);

impl<B> Service<Request<B>> for Reqwest
where
    B: Body<Data = Bytes> + Send + Sync + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<reqwest::Body>;
    type Error = reqwest::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, reqwest::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), reqwest::Error>> {
        // A client takes as many requests as it is given.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let request = request.map(reqwest::Body::wrap).try_into()?;
            client.execute(request).await.map(Response::from)
        })
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (url, server) = match std::env::args().nth(1) {
        Some(url) => (url, None),
        None => {
            let server = Server::start().await?;
            (server.url().to_owned(), Some(server))
        }
    };

    let client = SessionRecoveryLayer::new().layer(Reqwest(reqwest::Client::new()));

    let caller = Caller::connect(client.clone(), &url).await?;
    println!("connected to {}", caller.server()["serverInfo"]["name"]);
    let Some(server) = server else {
        println!("ping: {}", caller.ask("ping", json!({})).await?.result()?);
        caller.leave().await?;
        return Ok(());
    };

    server.forget_sessions().await;
    println!("the server has forgotten every session");

    // A request body that takes its time: ten bytes every 10 ms. The layer keeps it as it passes, to
    // send it again if need be.
    let params = json!({"name": "steps", "arguments": {}, "_meta": {"progressToken": "p"}});
    let message = caller.request("tools/call", params).to_string();
    let chunks: Vec<_> = message
        .as_bytes()
        .chunks(10)
        .map(Bytes::copy_from_slice)
        .collect();
    println!("calling a tool, with a body in {} chunks", chunks.len());
    let body = StreamBody::new(stream::iter(chunks).then(|chunk| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, Infallible>(Frame::data(chunk))
    }));
    let request = caller.head(Method::POST).map(|()| Box::pin(body));

    // And a response body that does: each message is here as soon as the server has sent it.
    let started = Instant::now();
    let response = client.oneshot(request).await?;
    let recovery = response.extensions().get::<Recovery>();
    println!(
        "{}, {:?}",
        response.status(),
        recovery.map(Recovery::outcome)
    );
    let mut messages = Messages::new(response.into_body());
    while let Some(message) = messages.next().await? {
        println!("{:>5} ms  {message}", started.elapsed().as_millis());
    }
    caller.leave().await?;
    Ok(())
}
