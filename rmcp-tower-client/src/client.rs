use std::{collections::HashMap, fmt, future::poll_fn, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use rmcp::{
    model::ClientJsonRpcMessage,
    transport::streamable_http_client::{
        StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
        StreamableHttpResponseLimits,
    },
};
use tower_service::Service;
use tracing::debug;

use crate::{
    Error,
    answer::Posted,
    error::BoxError,
    events::{self, Events},
    mime, refusal,
    request::Outline,
    resumption::{Hopeless, Resumption},
};

type Headers = HashMap<HeaderName, HeaderValue>;
type Result<T> = std::result::Result<T, StreamableHttpError<Error>>;

/// rmcp's HTTP client over a tower service.
///
/// The service takes `http::Request<B>` and gives `http::Response` with whatever body. It is cloned
/// for every request, and the clone is made ready first: so limits, time-outs and load shedding of
/// the service apply. See the [crate's documentation](crate) for what it does with the answers.
///
/// `B` is what the service takes as a request body: [`Full<Bytes>`] if it is made with
/// [`new`](Self::new), and any `B: From<Bytes>` with [`with_body`](Self::with_body).
pub struct TowerClient<S, B = Full<Bytes>> {
    service: S,
    hopeless: Hopeless,
    body: PhantomData<fn() -> B>,
}

impl<S> TowerClient<S> {
    /// A client over a service that takes `Request<Full<Bytes>>`, as one does that takes any body.
    pub fn new(service: S) -> Self {
        Self::with_body(service)
    }
}

impl<S, B> TowerClient<S, B> {
    /// A client over a service that takes another body, `axum::body::Body` or `reqwest::Body`, say:
    /// `TowerClient::<_, Body>::with_body(service)`.
    pub fn with_body(service: S) -> Self {
        Self {
            service,
            hopeless: Hopeless::default(),
            body: PhantomData,
        }
    }

    /// The service.
    pub fn get_ref(&self) -> &S {
        &self.service
    }

    /// The service, to be changed. Clones that were made before do not see it.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.service
    }

    /// The service, back.
    pub fn into_inner(self) -> S {
        self.service
    }
}

impl<S: Clone, B> Clone for TowerClient<S, B> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            hopeless: self.hopeless.clone(),
            body: PhantomData,
        }
    }
}

impl<S, B> fmt::Debug for TowerClient<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TowerClient").finish_non_exhaustive()
    }
}

impl<S, B, R> StreamableHttpClient for TowerClient<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: From<Bytes> + Send + 'static,
    R: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Error = Error;

    fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        custom: Headers,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse>> + Send + '_ {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session, token, custom, limits)
    }

    fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        custom: Headers,
        limit: usize,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse>> + Send + '_ {
        let mut limits = StreamableHttpResponseLimits::default();
        limits.max_sse_event_size = limit;
        self.post_message_with_response_limits(uri, message, session, token, custom, limits)
    }

    fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        custom: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse>> + Send + '_ {
        let service = self.service.clone();
        let posted = Posted {
            message,
            in_session: session.is_some(),
            limits,
            resumption: Resumption::of_post(&self.hopeless, &uri, session.as_ref()),
        };
        let outline = Outline {
            uri,
            session,
            token,
            custom,
        };
        async move {
            let request = outline.post(serde_json::to_vec(&posted.message)?)?;
            let response = send(service, request).await?;
            posted.answered(response).await
        }
    }

    fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        token: Option<String>,
        custom: Headers,
    ) -> impl Future<Output = Result<Events>> + Send + '_ {
        let limit = StreamableHttpResponseLimits::default().max_sse_event_size;
        self.get_stream_with_max_sse_event_size(uri, session, last_event_id, token, custom, limit)
    }

    fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event_id: Option<String>,
        token: Option<String>,
        custom: Headers,
        limit: usize,
    ) -> impl Future<Output = Result<Events>> + Send + '_ {
        let service = self.service.clone();
        let last_event_id = last_event_id.as_deref();
        let resumption = Resumption::of_get(&self.hopeless, &uri, session.as_ref(), last_event_id);
        let outline = Outline {
            uri,
            session,
            token,
            custom,
        };
        let request = outline.get(last_event_id);
        async move {
            if resumption.is_hopeless() {
                debug!("not resuming a stream whose next event is too large");
                return Err(StreamableHttpError::ServerDoesNotSupportSse);
            }
            let response = send(service, request?).await?;
            let (status, headers) = (response.status(), response.headers());
            if status == StatusCode::METHOD_NOT_ALLOWED {
                return Err(StreamableHttpError::ServerDoesNotSupportSse);
            }
            refusal::challenge(status, headers)?;
            if let Some(error) = refusal::unavailable(status, headers) {
                return Err(error.into());
            }
            if status.is_client_error() {
                return Err(Error::status(status).into());
            }
            // Some servers label their streams as JSON.
            if !mime::is(headers, mime::EVENT_STREAM) && !mime::is(headers, mime::JSON) {
                let content_type = mime::of(headers);
                return Err(StreamableHttpError::UnexpectedContentType(content_type));
            }
            Ok(events::read(response.into_body(), limit, resumption))
        }
    }

    fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        token: Option<String>,
        custom: Headers,
    ) -> impl Future<Output = Result<()>> + Send + '_ {
        let service = self.service.clone();
        let outline = Outline {
            uri,
            session: Some(session),
            token,
            custom,
        };
        async move {
            let response = send(service, outline.delete()?).await?;
            match response.status() {
                StatusCode::METHOD_NOT_ALLOWED => {
                    debug!("the server keeps its sessions until they expire");
                    Ok(())
                }
                status if status.is_client_error() || status.is_server_error() => {
                    Err(Error::status(status).into())
                }
                _ => Ok(()),
            }
        }
    }
}

async fn send<S, B, R>(mut service: S, request: Request<Bytes>) -> Result<Response<R>>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: From<Bytes>,
{
    poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(Error::service)?;
    let response = service.call(request.map(B::from)).await;
    Ok(response.map_err(Error::service)?)
}
