//! The response to a request of the layer's own (rule E6).

use bytes::Buf;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use tokio::task::consume_budget;

use super::{
    client::{Client, UpstreamSession},
    drain::drain_in_background,
};
use crate::{
    Failure,
    body::EMPTY_FRAME,
    http_service::HttpService,
    mcp::{Id, Message, MessageReader, members},
};

/// How much may come beside an answer of the largest size and as much before it, in bytes.
const BESIDES: usize = 64 * 1024;

/// What a server answered to a JSON-RPC request.
pub(super) enum Reply {
    Result(Box<RawValue>),
    Error(i64),
}

impl<S, B> Client<S, B>
where
    S: HttpService<B>,
    B: Body<Error: Send> + Send + 'static,
{
    /// Reads the answer to the request with this id: to the answer, not to the end of the stream. It is
    /// of at most `limit` bytes, and so is all that comes before it, but for a little.
    pub(super) async fn reply(
        &self,
        upstream: &UpstreamSession,
        headers: &HeaderMap,
        body: S::ResBody,
        id: &Id,
        limit: usize,
    ) -> Result<Reply, Failure> {
        let mut reader = MessageReader::new(headers, limit).ok_or(Failure::Malformed)?;
        let mut body = Box::pin(body);
        let mut found = Found {
            id,
            reply: None,
            pings: Vec::new(),
        };
        let mut left = limit.saturating_mul(2).saturating_add(BESIDES);
        while let Some(frame) = body.frame().await {
            // A body that is always ready does not keep the thread.
            consume_budget().await;
            let Ok(frame) = frame else {
                return Err(Failure::Truncated);
            };
            let mut counted = EMPTY_FRAME;
            if let Ok(mut data) = frame.into_data() {
                let data = data.copy_to_bytes(data.remaining());
                counted = counted.max(data.len());
                reader.read(&data, |message| found.look(message));
            }
            for ping in found.pings.drain(..) {
                self.answer_ping(upstream, &ping);
            }
            if let Some(reply) = found.reply.take() {
                drain_in_background(body);
                return Ok(reply);
            }
            // Who waits longer keeps others from their turn (rule E12).
            left = left.checked_sub(counted).ok_or(Failure::Malformed)?;
            if reader.has_missed() {
                return Err(Failure::Malformed);
            }
        }
        reader.finish(|message| found.look(message));
        found.reply.ok_or(Failure::Malformed)
    }
}

/// What an answer's messages are searched for.
struct Found<'a> {
    id: &'a Id,
    reply: Option<Reply>,
    pings: Vec<Id>,
}

impl Found<'_> {
    fn look(&mut self, message: &[u8]) {
        let (mut pings, mut reply) = (Vec::new(), None);
        let read = Message::each(message, |message| {
            if message.is_request() && message.method() == Some("ping") {
                pings.extend(message.parsed_id());
            } else if reply.is_none() && message.answers(self.id) {
                reply = Some(match (message.error(), message.result()) {
                    (None, Some(result)) => Reply::Result(result.to_owned()),
                    (error, _) => Reply::Error(error.map_or(0, code)),
                });
            }
        });
        if read.is_some() {
            self.pings.append(&mut pings);
            self.reply = self.reply.take().or(reply);
        }
    }
}

fn code(error: &RawValue) -> i64 {
    let code = members(error.get(), ["code"]).and_then(|[code]| code);
    code.and_then(|code| serde_json::from_str(code.get()).ok())
        .unwrap_or_default()
}
