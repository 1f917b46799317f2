//! What the answer to a POST is to rmcp.

use http::{Response, StatusCode};
use http_body::Body;
use rmcp::{
    model::{ClientJsonRpcMessage, ServerJsonRpcMessage},
    transport::streamable_http_client::{
        StreamableHttpError, StreamableHttpPostResponse, StreamableHttpResponseLimits,
    },
};
use tracing::warn;

use crate::{
    Error, body, error::BoxError, events, mime, refusal, request::SESSION_ID,
    resumption::Resumption,
};

type Result<T> = std::result::Result<T, StreamableHttpError<Error>>;

/// How much is shown of a body that is no message.
const PREVIEW: usize = 256;

/// What is known of a POST when its answer comes.
pub(crate) struct Posted {
    pub(crate) message: ClientJsonRpcMessage,
    pub(crate) in_session: bool,
    pub(crate) limits: StreamableHttpResponseLimits,
    /// Of the event stream that the answer may be.
    pub(crate) resumption: Resumption,
}

impl Posted {
    pub(crate) async fn answered<R>(
        self,
        response: Response<R>,
    ) -> Result<StreamableHttpPostResponse>
    where
        R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let status = response.status();
        refusal::challenge(status, response.headers())?;
        match status {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                Ok(StreamableHttpPostResponse::Accepted)
            }
            StatusCode::NOT_FOUND if self.in_session => Err(StreamableHttpError::SessionExpired),
            status if status.is_success() => self.succeeded(response).await,
            _ => self.refused(response).await,
        }
    }

    async fn succeeded<R>(self, response: Response<R>) -> Result<StreamableHttpPostResponse>
    where
        R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        // Nobody waits for more than that the message has arrived.
        let is_request = matches!(self.message, ClientJsonRpcMessage::Request(_));
        if !is_request && response.body().size_hint().exact() == Some(0) {
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        let session = session(&response);
        if mime::is(response.headers(), mime::EVENT_STREAM) {
            let limit = self.limits.max_sse_event_size;
            let events = events::read(response.into_body(), limit, self.resumption);
            return Ok(StreamableHttpPostResponse::Sse(events, session));
        }
        if mime::is(response.headers(), mime::JSON) {
            let limit = self.limits.max_json_response_size;
            let body = body::whole(response.into_body(), limit).await?;
            return match serde_json::from_slice(&body) {
                Ok(message) => {
                    let message = self.correlated(message);
                    Ok(StreamableHttpPostResponse::Json(message, session))
                }
                Err(error) if is_request => Err(no_message(&error, &body)),
                Err(error) => {
                    warn!(
                        "taking as accepted what is answered without a JSON-RPC message: {error}"
                    );
                    Ok(StreamableHttpPostResponse::Accepted)
                }
            };
        }
        if is_request {
            let content_type = mime::of(response.headers());
            return Err(StreamableHttpError::UnexpectedContentType(content_type));
        }
        warn!("taking as accepted what is answered with another content type");
        Ok(StreamableHttpPostResponse::Accepted)
    }

    async fn refused<R>(self, response: Response<R>) -> Result<StreamableHttpPostResponse>
    where
        R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let status = response.status();
        let is_json = mime::is(response.headers(), mime::JSON);
        let unavailable = match refusal::unavailable(status, response.headers()) {
            // A rate limit is the word of what stands in front of the server.
            Some(error) if !is_json || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(error.into());
            }
            unavailable => unavailable,
        };

        let session = session(&response);
        let shown = self.limits.max_error_response_size;
        // A message is read whole or not at all, a text as far as it is shown. Access that is denied
        // stays just that, whatever the body says.
        let read = if is_json && !refusal::is_denied(status) {
            body::whole(response.into_body(), self.limits.max_json_response_size).await
        } else {
            let beginning = body::beginning(response.into_body(), shown).await;
            beginning.map_err(StreamableHttpError::from)
        };
        let body = match read {
            Ok(body) => body,
            Err(StreamableHttpError::Client(_)) => "(it broke off)".into(),
            Err(too_large) => return Err(unavailable.map_or(too_large, Into::into)),
        };
        if is_json && !refusal::is_denied(status) {
            let text = String::from_utf8_lossy(&body);
            if let Ok(message @ ServerJsonRpcMessage::Error(_)) = serde_json::from_str(&text) {
                let message = self.correlated(message);
                return Ok(StreamableHttpPostResponse::Json(message, session));
            }
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(shown)]);
        if let Some(older) = refusal::of_discovery(&self.message, self.in_session, status, &text) {
            return Ok(older);
        }
        let text = format!("HTTP {status}: {text}");
        let unexpected = StreamableHttpError::UnexpectedServerResponse(text.into());
        Err(unavailable.map_or(unexpected, Into::into))
    }

    /// An error with the id of the request that it answers. Servers and what stands in front of them
    /// refuse with an id of their own or none, which rmcp takes for nobody's answer. HTTP knows whose
    /// it is.
    fn correlated(&self, message: ServerJsonRpcMessage) -> ServerJsonRpcMessage {
        match (message, &self.message) {
            (ServerJsonRpcMessage::Error(error), ClientJsonRpcMessage::Request(request)) => {
                ServerJsonRpcMessage::error(error.error, Some(request.id.clone()))
            }
            (message, _) => message,
        }
    }
}

fn session<R>(response: &Response<R>) -> Option<String> {
    let session = response.headers().get(SESSION_ID)?;
    session.to_str().ok().map(str::to_owned)
}

fn no_message(error: &serde_json::Error, body: &[u8]) -> StreamableHttpError<Error> {
    let preview = String::from_utf8_lossy(&body[..body.len().min(PREVIEW)]);
    let error = format!("the answer is not a JSON-RPC message: {error}: {preview:?}");
    StreamableHttpError::UnexpectedServerResponse(error.into())
}
