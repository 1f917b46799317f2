//! Services that take a body type of their own, each wrapped with the line that the crate
//! documentation gives ("When it does not compile").

use std::convert::Infallible;

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{
    BodyExt, Full,
    combinators::{BoxBody, UnsyncBoxBody},
};
use mcp_session_recovery::{RequestBody, SessionRecoveryLayer};
use testing::{loopback::Loopback, *};
use tower::{ServiceBuilder, service_fn, util::BoxCloneService};

use crate::support::recovers;

type Http<B> = BoxCloneService<Request<B>, Reply, TestError>;

#[tokio::test]
async fn a_service_of_whole_bodies() {
    let server = Server::new(Profile::TypeScript);
    let whole: Http<Full<Bytes>> = BoxCloneService::new(server.service());
    let full = |body: RequestBody<_>| Full::new(body.whole().expect("a whole body"));
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(move |request: Request<_>| request.map(full))
        .service(whole);
    recovers(&server, client, URI, |body| body).await;
}

#[tokio::test]
async fn a_service_of_boxed_bodies() {
    let server = Server::new(Profile::TypeScript);
    let boxed: Http<BoxBody<Bytes, Infallible>> = BoxCloneService::new(server.service());
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(|request: Request<RequestBody<_>>| request.map(BodyExt::boxed))
        .service(boxed);
    recovers(&server, client, URI, |body| body).await;

    let server = Server::new(Profile::Python1);
    let boxed: Http<UnsyncBoxBody<Bytes, TestError>> = BoxCloneService::new(server.service());
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(|request: Request<RequestBody<_>>| request.map(BodyExt::boxed_unsync))
        .service(boxed);
    recovers(&server, client, URI, testing_body).await;
}

/// A body of another type than those that are cloned.
fn testing_body(body: Full<Bytes>) -> CallerBody {
    body.map_err(|never| match never {}).boxed()
}

#[tokio::test]
async fn a_service_of_axums_bodies() {
    let server = Server::new(Profile::TypeScript);
    let behind = server.service();
    let router = axum::Router::new().fallback_service(
        ServiceBuilder::new()
            .map_response(|reply: Reply| reply.map(Body::new))
            .map_err(|error: TestError| -> Infallible { panic!("{error}") })
            .service(behind),
    );
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(|request: Request<RequestBody<_>>| request.map(Body::new))
        .service(router);
    recovers(&server, client, URI, Body::new).await;
}

#[tokio::test]
async fn a_reqwest_client() {
    let server = Server::new(Profile::TypeScript);
    let upstream = Loopback::serve(server.service()).await;
    let client = reqwest::Client::new();
    let http = service_fn(move |request: Request<reqwest::Body>| {
        let client = client.clone();
        async move {
            client
                .execute(request.try_into()?)
                .await
                .map(Response::from)
        }
    });
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(|request: Request<RequestBody<_>>| request.map(reqwest::Body::wrap))
        .service(http);
    recovers(&server, client, &upstream.url(), |body| body).await;
}
