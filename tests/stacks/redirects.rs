//! Redirects, below: an endpoint is what the caller asked for.

use bytes::Bytes;
use http_body_util::Full;
use mcp_session_recovery::{RequestBody, SessionRecoveryLayer};
use testing::*;
use tower::ServiceBuilder;
use tower_http::follow_redirect::{
    FollowRedirectLayer,
    policy::{PolicyExt, Standard, clone_body_fn},
};

use crate::support::recovers;

const MOVED: &str = "http://mcp.test/moved/mcp";

/// A server that has moved, and says so.
fn moved() -> Server {
    let server = Server::new(Profile::TypeScript);
    server.on(|seen| {
        (seen.uri != MOVED).then(|| {
            let mut moved = reply(307, None, "");
            let location = MOVED.parse().unwrap();
            moved.headers_mut().insert("location", location);
            moved
        })
    });
    server
}

/// E4: the handshake and the replay are redirected like all else.
#[tokio::test]
async fn e4_a_session_of_an_endpoint_that_has_moved_is_recovered() {
    let server = moved();
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .layer(FollowRedirectLayer::with_policy(
            Standard::default().and::<_, RequestBody<Full<Bytes>>, TestError>(clone_body_fn(
                RequestBody::try_clone,
            )),
        ))
        .service(server.service());
    let asked = "http://mcp.test/mcp";
    recovers(&server, client, asked, |body| body).await;

    // Each was sent to where the endpoint was, and then to where it is.
    let uris: Vec<_> = server.seen().into_iter().map(|seen| seen.uri).collect();
    assert_eq!(uris.len(), 12);
    for pair in uris.chunks(2) {
        assert_eq!(pair, [asked, MOVED]);
    }
}
