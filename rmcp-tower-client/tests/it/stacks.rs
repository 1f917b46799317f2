//! What services it takes.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use rmcp::transport::{
    StreamableHttpClientTransport,
    streamable_http_client::{
        StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    },
};
use rmcp_tower_client::TowerClient;
use tower::{BoxError, Service, ServiceBuilder, service_fn, util::BoxCloneService};
use tower_http::follow_redirect::{
    FollowRedirectLayer,
    policy::{self, Action, PolicyExt},
};

use crate::support::{Scripted, answer, at, headers, http, json, ping, soon};

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

async fn send<C: StreamableHttpClient>(
    client: &C,
    uri: &str,
) -> Result<StreamableHttpPostResponse, StreamableHttpError<C::Error>> {
    let sent = client.post_message(
        uri.into(),
        ping(),
        Some("a session".into()),
        Some("a token".into()),
        headers(&[("x-api-key", "secret")]),
    );
    soon(sent).await
}

#[tokio::test]
async fn a_service_of_another_body_type() {
    let router = axum::Router::new().fallback(async || json(200, RESULT));
    let client = TowerClient::<_, Body>::with_body(router);
    assert!(matches!(
        send(&client, "/mcp").await,
        Ok(StreamableHttpPostResponse::Json(..))
    ));
}

#[tokio::test]
async fn a_boxed_service_that_is_not_sync_in_a_struct() {
    type Boxed = BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>;
    struct Agent(TowerClient<Boxed>);
    let service = service_fn(async |_: Request<Full<Bytes>>| {
        let response = Response::builder().header("content-type", "application/json");
        Ok::<_, BoxError>(response.body(Full::from(RESULT)).unwrap())
    });
    let agent = Agent(TowerClient::new(BoxCloneService::new(service)));
    assert!(matches!(
        send(&agent.0, "/mcp").await,
        Ok(StreamableHttpPostResponse::Json(..))
    ));
    // It makes a transport.
    let _ = StreamableHttpClientTransport::with_client(agent.0, at(&"http://localhost:1/".into()));
}

#[tokio::test]
async fn a_service_is_made_ready_before_it_is_called() {
    /// Ready when it is asked for the second time, and not for another clone.
    struct Slow(usize, Arc<AtomicUsize>);
    impl Clone for Slow {
        fn clone(&self) -> Self {
            Self(0, self.1.clone())
        }
    }
    impl Service<Request<Full<Bytes>>> for Slow {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            self.0 += 1;
            if self.0 == 2 {
                return Poll::Ready(Ok(()));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            assert_eq!(self.0, 2);
            self.1.fetch_add(1, Ordering::Relaxed);
            let mut response = Response::new(Empty::new());
            *response.status_mut() = StatusCode::ACCEPTED;
            ready(Ok(response))
        }
    }
    let calls = Arc::default();
    let client = TowerClient::new(Slow(0, Arc::clone(&calls)));
    for _ in 0..2 {
        assert!(matches!(
            send(&client, "/mcp").await,
            Ok(StreamableHttpPostResponse::Accepted)
        ));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_error_of_the_service_is_told_with_its_causes_and_can_be_downcast() {
    let client = TowerClient::new(http());
    let error = send(&client, "http://127.0.0.1:1/mcp").await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("Client error: the HTTP service failed: client error (Connect): "),
        "{text}"
    );
    assert!(text.contains("onnection refused"), "{text}");
    let StreamableHttpError::Client(error) = error else {
        panic!()
    };
    let source = std::error::Error::source(&error).unwrap();
    let source = source.downcast_ref::<hyper_util::client::legacy::Error>();
    assert!(source.unwrap().is_connect());
    assert_eq!(error.http_status(), None);
}

#[tokio::test]
async fn a_request_that_is_dropped_is_dropped_below() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::<AtomicUsize>::default();
    let told = dropped.clone();
    let client = TowerClient::new(service_fn(move |_: Request<Full<Bytes>>| {
        let dropped = Dropped(told.clone());
        async move {
            let _dropped = dropped;
            std::future::pending::<Result<Response<Empty<Bytes>>, BoxError>>().await
        }
    }));
    let sent = client.post_message("/".into(), ping(), None, None, HashMap::new());
    tokio::select! {
        biased;
        _ = sent => panic!("it never ends"),
        () = tokio::task::yield_now() => {}
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

/// Redirects that keep the message, to the same origin: as rmcp's own default client follows them.
#[tokio::test]
async fn redirects_are_followed_by_the_stack() {
    let other = Scripted::start(|_| json(200, RESULT)).await;
    let elsewhere = other.uri.clone();
    let server = Scripted::start(move |seen| match &*seen.path {
        "/mcp" => json(200, RESULT),
        "/elsewhere" => answer(307, &[("location", &elsewhere)], ""),
        "/loop" => answer(308, &[("location", "/loop")], ""),
        path => {
            let status = path.trim_start_matches('/').parse().unwrap();
            answer(status, &[("location", "/mcp")], "")
        }
    })
    .await;
    let at = |path: &str| server.uri.replace("/mcp", path);

    // The client itself follows none.
    let error = send(&TowerClient::new(http()), &at("/307"))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "unexpected server response: HTTP 307 Temporary Redirect: "
    );

    let policy = policy::clone_body_fn(|body: &Full<Bytes>| Some(body.clone()))
        .and::<_, _, hyper_util::client::legacy::Error>(policy::SameOrigin::new())
        .and::<_, Full<Bytes>, hyper_util::client::legacy::Error>(policy::Limited::new(10))
        .and::<_, Full<Bytes>, hyper_util::client::legacy::Error>(policy::redirect_fn(|attempt| {
            Ok(match attempt.status() {
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => Action::Follow,
                // They would make a GET of it.
                _ => Action::Stop,
            })
        }));
    let following = ServiceBuilder::new()
        .layer(FollowRedirectLayer::with_policy(policy))
        .service(http());
    let client = TowerClient::new(following);
    for status in [307, 308] {
        server.seen.lock().unwrap().clear();
        let sent = send(&client, &at(&format!("/{status}"))).await;
        assert!(
            matches!(sent, Ok(StreamableHttpPostResponse::Json(..))),
            "{sent:?}"
        );
        let seen = &server.seen()[1];
        assert_eq!((seen.path.as_str(), seen.what().as_str()), ("/mcp", "ping"));
        assert_eq!(seen.header("authorization"), Some("Bearer a token"));
        assert_eq!(seen.header("mcp-session-id"), Some("a session"));
    }
    for path in ["/301", "/302", "/303", "/elsewhere", "/loop"] {
        let error = send(&client, &at(path)).await.unwrap_err();
        assert!(
            matches!(error, StreamableHttpError::UnexpectedServerResponse(_)),
            "{error:?}"
        );
    }
    assert!(other.seen().is_empty(), "no header goes to another origin");
}
