//! The proxy example, as a program: a client that gets itself a token (RFC 9728).

use http::{HeaderValue, Method};
use serde_json::json;
use testing::loopback::*;
use testing::*;

use crate::scene::Scene;

const METADATA: &str = "/.well-known/oauth-protected-resource";

/// An upstream that wants a token, and says where to get one.
async fn protected(args: &[&str]) -> Scene {
    let scene = Scene::with(Profile::TypeScript, args).await;
    let upstream = scene.upstream.url();
    let at = upstream.replace("/mcp", "");
    scene.server.on(move |seen| {
        Some(if seen.uri.starts_with(METADATA) {
            json_reply(
                200,
                &json!({
                    "resource": upstream,
                    "authorization_servers": ["https://login.test"],
                    "scopes_supported": ["tools"],
                }),
            )
        } else {
            let mut reply = reply(401, None, "");
            for challenge in [
                format!("Bearer resource_metadata=\"{at}{METADATA}/mcp\", scope=\"tools\""),
                format!("Bearer scope=x, resource_metadata={at}{METADATA}"),
                "Basic realm=\"x\"".to_owned(),
                "Bearer resource_metadata=\"https://other.test/elsewhere\"".to_owned(),
            ] {
                let challenge = HeaderValue::try_from(challenge).unwrap();
                reply.headers_mut().append("www-authenticate", challenge);
            }
            reply
        })
    });
    scene
}

#[tokio::test]
async fn a_client_that_is_challenged_finds_the_proxy_as_the_resource() {
    for public in [None, Some("https://tools.test")] {
        // Given an upstream that wants a token,
        let args = public.map(|origin| ["--public-origin", origin]);
        let mut scene = protected(args.as_ref().map_or(&[], |args| args)).await;
        let own = scene.proxy.url.replace("/mcp", "");
        let called = public.unwrap_or(&own);
        for client in [http1(), http2()] {
            // when a client is told so,
            let answer = scene.post(&client, None, &initialize()).await;
            assert_eq!(answer.status, 401);
            let challenges: Vec<_> = answer.headers.get_all("www-authenticate").iter().collect();

            // then it is sent to metadata that are the proxy's own,
            assert_eq!(
                challenges,
                [
                    &format!(
                        "Bearer resource_metadata=\"{called}{METADATA}/mcp\", scope=\"tools\""
                    ),
                    &format!("Bearer scope=x, resource_metadata=\"{called}{METADATA}\""),
                    "Basic realm=\"x\"",
                    "Bearer resource_metadata=\"https://other.test/elsewhere\"",
                ]
            );
            for path in [METADATA.to_owned(), format!("{METADATA}/mcp")] {
                let url = format!("{own}{path}");
                let answer = fetch(&client, to(&url, request(Method::GET, None, ""))).await;
                assert_eq!(answer.status, 200);
                assert_eq!(
                    answer.message(),
                    json!({
                        "resource": format!("{called}/mcp"),
                        "authorization_servers": ["https://login.test"],
                        "scopes_supported": ["tools"],
                    })
                );
                assert_eq!(scene.server.seen().last().unwrap().uri, path);
            }
        }
        // and whoever runs the proxy is told what to do where that does not work, once.
        scene.proxy.logs("--header-file FILE").await;
        assert_eq!(
            scene.proxy.log().lines().count(),
            1,
            "{}",
            scene.proxy.log()
        );
    }
}

#[tokio::test]
async fn an_upstream_without_metadata_has_none() {
    let scene = Scene::new(Profile::TypeScript).await;
    scene
        .server
        .on(|_| Some(reply(404, Some("text/plain"), "nothing")));
    let url = scene.proxy.url.replace("/mcp", METADATA);
    let answer = fetch(&http1(), to(&url, request(Method::GET, None, ""))).await;
    assert_eq!((answer.status, answer.text()), (404, "nothing"));
    // Nobody else's are the proxy's business.
    let before = scene.server.seen().len();
    for (method, path) in [(Method::GET, "/other"), (Method::POST, "/mcp")] {
        let answer = fetch(
            &http1(),
            to(&format!("{url}{path}"), request(method, None, "")),
        )
        .await;
        assert_eq!(answer.status, 404);
    }
    assert_eq!(scene.server.seen().len(), before);
}
