//! A3, L1: the `Host` header, which is what an HTTP/1.1 server goes by.

use http::Request;
use mcp_session_recovery::{Outcome, SessionRecoveryLayer, Sessions};
use testing::scenario::Events;
use testing::*;

fn at(uri: &str, hosts: &[&str], mut request: Request<CallerBody>) -> Request<CallerBody> {
    *request.uri_mut() = uri.parse().unwrap();
    for host in hosts {
        let host = http::HeaderValue::from_bytes(host.as_bytes()).unwrap();
        request.headers_mut().append("host", host);
    }
    request
}

/// A3: a virtual host that is named by the `Host` header is an endpoint of its own. An id of one is
/// unknown to the other, and nothing recorded for one is sent to the other.
#[tokio::test(start_paused = true)]
async fn a3_a_host_header_that_names_another_host_makes_another_endpoint() {
    let one = (URI, &["a.test"][..]);
    for other in [
        (URI, &["b.test"][..]),
        (URI, &[][..]),
        (URI, &["a.test:81"][..]),
        (URI, &["a.test", "b.test"][..]),
        (URI, &["b.test", "a.test"][..]),
        (URI, &["mcp.test"][..]),
        (URI, &["a.test/x"][..]),
        (URI, &[""][..]),
        ("/mcp", &["a.test"][..]),
    ] {
        for (recorded, presented) in [(one, other), (other, one)] {
            let server = Server::new(Profile::TypeScriptJson);
            let client = client(&server, SessionRecoveryLayer::new());
            let request = at(recorded.0, recorded.1, post(None, &initialize()));
            let made = send(&client, request).await;
            let id = made.session().unwrap();
            server.restart();
            let request = at(presented.0, presented.1, post(Some(id), &tool_call(1)));
            let answer = send(&client, request).await;
            assert_eq!(
                (answer.status, answer.recovery),
                (404, None),
                "{presented:?}"
            );
            assert_eq!(server.count("initialize"), 1);

            let request = at(recorded.0, recorded.1, post(Some(id), &tool_call(1)));
            let answer = send(&client, request).await;
            assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{recorded:?}");
            let hosts = server.last("initialize").headers;
            let hosts: Vec<_> = hosts.get_all("host").iter().collect();
            assert_eq!(
                hosts, recorded.1,
                "the handshake goes where its trigger went"
            );
        }
    }
}

/// A3: a `Host` that says what the URI says is the same endpoint.
#[tokio::test(start_paused = true)]
async fn a3_a_host_header_that_names_the_uris_host_is_no_other_endpoint() {
    for host in ["mcp.test", "MCP.test", "mcp.test:80"] {
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new());
        let id = handshake(&client).await;
        server.restart();
        let answer = send(&client, at(URI, &[host], post(Some(&id), &tool_call(1)))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{host}");
    }
}

/// L1: what is reported of a host is a host, whoever sent what.
#[tokio::test(start_paused = true)]
async fn l1_a_host_that_is_reported_holds_no_user_information() {
    for (uri, host, told) in [
        ("/mcp", "user:secret@a.test", "a.test"),
        ("/mcp", "user:secret@a.test/x", ""),
        ("/mcp", "secret secret", ""),
        ("/mcp", "\u{e9}", ""),
        (
            "http://user:secret@a.test/mcp",
            "user:secret@b.test",
            "b.test",
        ),
        ("http://user:secret@a.test/mcp", "secret/", "a.test"),
    ] {
        let server = Server::new(Profile::TypeScriptJson);
        let (layer, events) = Events::of(SessionRecoveryLayer::new().sessions(Sessions::new()));
        let client = client(&server, layer);
        let made = send(&client, at(uri, &[host], post(None, &initialize()))).await;
        let id = made.session().unwrap();
        server.restart();
        send(&client, at(uri, &[host], post(Some(id), &tool_call(1)))).await;
        assert_eq!(events.all()[0].host(), told, "{uri} {host}");
    }
}
