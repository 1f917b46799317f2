//! Decompression, below: the layer reads JSON and event streams.

use mcp_session_recovery::SessionRecoveryLayer;
use testing::*;
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_http::{compression::CompressionLayer, decompression::DecompressionLayer};

use crate::support::recovers;

/// E4: with servers that answer with JSON and such that answer with events.
#[tokio::test]
async fn e4_answers_that_are_compressed_on_the_wire_are_read() {
    for profile in [Profile::TypeScript, Profile::TypeScriptJson] {
        let server = Server::new(profile);
        let compresses = CompressionLayer::new()
            .gzip(true)
            .compress_when(|_: _, _: _, _: &_, _: &_| true);
        let client = ServiceBuilder::new()
            .layer(SessionRecoveryLayer::new())
            .layer(DecompressionLayer::new())
            .service(compresses.layer(server.service()));
        recovers(&server, client, testing::URI, |body| body).await;
        let asked = server.seen().into_iter();
        let asked: Vec<_> = asked
            .map(|seen| seen.header("accept-encoding").map(str::to_owned))
            .collect();
        assert!(
            asked.iter().all(|it| it.as_deref() == Some("gzip")),
            "{asked:?}"
        );
    }
}

/// What is compressed there is: without the layer below, no body could be read.
#[tokio::test]
async fn what_comes_is_compressed() {
    let server = Server::new(Profile::TypeScript);
    let compresses = CompressionLayer::new()
        .gzip(true)
        .compress_when(|_: _, _: _, _: &_, _: &_| true);
    let mut request = post(None, &initialize());
    request
        .headers_mut()
        .insert("accept-encoding", "gzip".parse().unwrap());
    let answer = compresses.layer(server.service()).oneshot(request).await;
    assert_eq!(answer.unwrap().headers()["content-encoding"], "gzip");
}
