//! What the tests have in common.

use std::fmt::Debug;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{HttpService, Outcome, Recovery, ResponseBody, SessionRecovery};
use testing::*;
use tower::{Service, ServiceExt};

/// A request of the caller's, with a body that can be cloned.
pub(crate) async fn whole(request: Request<CallerBody>) -> Request<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Request::from_parts(parts, Full::new(body))
}

/// Sends a request with a body of any type; gives the head and the body of the answer.
pub(crate) async fn send<S, B, R>(client: &S, request: Request<B>) -> Response<Bytes>
where
    S: Service<Request<B>, Response = Response<R>, Error: Debug> + Clone,
    R: http_body_util::BodyExt<Error: Debug>,
{
    let (head, body) = client.clone().oneshot(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

/// Loses a session and has it recovered through the service, with bodies that `make` makes of what is
/// sent: the call is answered, after one handshake.
pub(crate) async fn recovers<S, B>(
    server: &Server,
    client: SessionRecovery<S>,
    url: &str,
    make: impl Fn(Full<Bytes>) -> B,
) where
    S: HttpService<B, Error: Debug, ResBody: http_body_util::BodyExt<Error: Debug>>,
    B: http_body_util::BodyExt<Error: Send> + Send + Unpin + 'static,
    ResponseBody<S::ResBody>: http_body_util::BodyExt<Error: Debug>,
{
    let send = async |request| {
        let mut request = whole(request).await.map(&make);
        *request.uri_mut() = url.parse().unwrap();
        send(&client, request).await
    };
    let opened = send(post(None, &initialize())).await;
    assert_eq!(opened.status(), 200);
    let session = opened.headers()["mcp-session-id"].to_str().unwrap();
    let accepted = send(post(Some(session), &initialized())).await;
    assert_eq!(accepted.status(), 202);
    server.restart();

    let answer = send(post(Some(session), &tool_call(7))).await;
    let recovery = answer.extensions().get::<Recovery>();
    assert_eq!(recovery.map(Recovery::outcome), Some(Outcome::Replayed));
    assert_eq!(answer.status(), 200);
    let text = String::from_utf8_lossy(answer.body());
    assert!(text.contains(r#""arguments":{"n":7}"#), "{text}");
    // One handshake since the loss.
    assert_eq!(server.live().len(), 1);
}
