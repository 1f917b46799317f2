//! The crate documentation's table "Where to put it in a stack", the rows that set something in each
//! request, and layers that are there or not.

use http::{HeaderValue, Response, Uri, header::USER_AGENT};
use mcp_session_recovery::SessionRecoveryLayer;
use testing::mocked::*;
use testing::*;
use tower::{ServiceBuilder, limit::ConcurrencyLimitLayer};
use tower_http::set_header::{SetRequestHeaderLayer, SetResponseHeaderLayer};

use super::support::{RECOVERED, forgotten, recovers};

/// E4.
#[tokio::test(start_paused = true)]
async fn e4_headers_that_are_set_below_are_in_all_that_is_sent() {
    let server = Server::new(Profile::TypeScript);
    let api_key = SetRequestHeaderLayer::overriding(
        http::HeaderName::from_static("x-api-key"),
        HeaderValue::from_static("key"),
    );
    let agent = SetRequestHeaderLayer::if_not_present(USER_AGENT, |request: &Sent| {
        HeaderValue::try_from(format!("client/1 ({})", request.method())).ok()
    });
    let answered = SetResponseHeaderLayer::overriding(
        http::HeaderName::from_static("x-answered"),
        |response: &Reply| HeaderValue::from_str(response.status().as_str()).ok(),
    );
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .layer(api_key)
        .layer(agent)
        .layer(answered)
        .service(server.service());
    let scene = recovers(&server, client).await;
    assert_eq!(server.log(), RECOVERED);
    for seen in server.seen() {
        let set = (seen.header("x-api-key"), seen.header("user-agent"));
        assert_eq!(set, (Some("key"), Some("client/1 (POST)")));
    }
    let answer = scene.call(2).await;
    assert_eq!(answer.header("x-answered"), Some("200"));
}

/// A1, E4: the layer knows an endpoint by the URI that the caller asks, whatever becomes of it below.
#[tokio::test(start_paused = true)]
async fn e4_a_request_that_is_mapped_below_goes_where_all_of_its_session_go() {
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .map_request(|mut request: Sent| {
            *request.uri_mut() = Uri::from_static("http://10.0.0.5:8000/replica/mcp");
            request
        })
        .map_response(|response: Reply| -> Reply { response })
        .service(server.service());
    recovers(&server, client).await;
    assert_eq!(server.log(), RECOVERED);
    let uris = server.seen().into_iter().map(|seen| seen.uri);
    assert!({ uris }.all(|uri| uri == "http://10.0.0.5:8000/replica/mcp"));
}

/// E4.
#[tokio::test(start_paused = true)]
async fn e4_a_layer_below_may_be_optional() {
    for limit in [None, Some(1)] {
        let server = Server::new(Profile::TypeScript);
        let client = ServiceBuilder::new()
            .layer(SessionRecoveryLayer::new())
            .option_layer(limit.map(ConcurrencyLimitLayer::new))
            .service(server.service());
        recovers(&server, client).await;
        assert_eq!(server.log(), RECOVERED);
    }
}

/// A1: the layer itself is switched off instead, and the type of the stack stays what it is.
#[tokio::test(start_paused = true)]
async fn a1_the_layer_may_be_switched_off() {
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new().enabled(false))
        .service(server.service());
    let scene = forgotten(&server, client).await;
    let answer: Response<_> = scene.head(post(Some(&scene.session), &tool_call(1))).await;
    assert_eq!(answer.status(), 404);
    assert!(answer.extensions().is_empty());
    assert_eq!(server.count("initialize"), 1);
}
