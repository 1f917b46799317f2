//! The scripted server of the tests, whose script a fuzzer writes.

use std::{future::pending, sync::Arc, time::Duration};

use http::{HeaderMap, Response};
use http_body_util::BodyExt;
use testing::{Feed, Profile, Seen, Server, ServerService, TestError};

use crate::BROKEN;

/// What a server does about a request.
pub enum Acts {
    Answers(Response<Feed>),
    AnswersLate(Response<Feed>, Duration),
    /// The transport fails.
    Fails,
    /// No answer ever comes.
    Hangs,
}

impl From<Response<Feed>> for Acts {
    fn from(reply: Response<Feed>) -> Self {
        Self::Answers(reply)
    }
}

/// A server that reads each request to its end and then does as `acts` says.
pub fn serve(acts: impl Fn(Seen) -> Acts + Send + Sync + 'static) -> ServerService {
    let acts = Arc::new(acts);
    let server = Server::new(Profile::TypeScript);
    server.on_async(move |seen| {
        let (acts, seen) = (acts.clone(), seen.clone());
        Some(Box::pin(async move {
            match acts(seen) {
                Acts::Answers(reply) => Ok(reply.map(BodyExt::boxed)),
                Acts::AnswersLate(reply, after) => {
                    tokio::time::sleep(after).await;
                    Ok(reply.map(BodyExt::boxed))
                }
                Acts::Fails => Err(BROKEN),
                Acts::Hangs => pending().await,
            }
        }))
    });
    server.service()
}

/// How the body of a request ended: with trailers or not, or broken.
pub fn end(seen: &Seen) -> Result<Option<HeaderMap>, TestError> {
    match seen.body_error {
        Some(_) => Err(BROKEN),
        None => Ok(seen.trailers.clone()),
    }
}

pub fn reply(status: u16, content_type: &'static str, body: Feed) -> Response<Feed> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(body)
        .expect("a response")
}

pub fn json_reply(status: u16, message: &serde_json::Value) -> Response<Feed> {
    reply(status, "application/json", Feed::text(message.to_string()))
}
