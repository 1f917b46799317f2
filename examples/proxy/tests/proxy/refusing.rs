//! The proxy example, as a program: what it does not forward, and what it does not pass back.

use http::{HeaderName, Method};
use testing::loopback::*;
use testing::*;

use crate::{
    command::start,
    program::Proxy,
    scene::{Scene, raw, saying},
};

#[tokio::test]
async fn a_request_that_has_been_here_before_is_refused() {
    // Given two proxies that forward to each other,
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let first_address = free.local_addr().unwrap().to_string();
    drop(free);
    let second = Proxy::start(&format!("http://{first_address}/mcp"), &[]).await;
    let mut first = Proxy::start(&second.url, &["--listen", &first_address]).await;

    // when a client calls one, then the circle is open after one round.
    for client in [http1(), http2()] {
        for message in [post(None, &initialize()), get("session", None)] {
            let answer = fetch(&client, to(&first.url, message)).await;
            assert_eq!(answer.status, 508);
            assert!(
                answer.text().contains("--upstream leads back"),
                "{}",
                answer.text()
            );
        }
    }
    first.logs("--upstream leads back").await;

    // A chain is no circle, unless it is endless.
    let scene = Scene::new(Profile::TypeScript).await;
    for (hops, status) in [(3, 200), (15, 200), (16, 508)] {
        let mut request = scene.request(Method::POST, None, &initialize().to_string());
        for hop in 0..hops {
            let via = format!("1.1 mcp-session-proxy-{hop}").parse().unwrap();
            request.headers_mut().append("via", via);
        }
        assert_eq!(fetch(&http1(), request).await.status, status, "{hops}");
    }
}

#[tokio::test]
async fn methods_for_connections_are_refused() {
    let (server, _upstream, proxy) = start(&[]).await;
    for line in ["TRACE /mcp", "CONNECT localhost:80"] {
        let request = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = raw(&proxy, &request).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
    assert!(server.seen().is_empty());
}

/// A browser says so of what a page of another site asks for, where it does not say which.
#[tokio::test]
async fn what_another_sites_page_asks_for_is_refused() {
    let (server, _upstream, proxy) = start(&[]).await;
    for (site, origin, served) in [
        ("cross-site", None, false),
        ("cross-site", Some("http://localhost:6274"), true),
        ("cross-site", Some("https://evil.test"), false),
        ("same-site", None, true),
        ("same-origin", None, true),
        ("none", None, true),
    ] {
        let before = server.seen().len();
        let mut request = to(&proxy.url, request(Method::GET, None, ""));
        let name = HeaderName::from_static("sec-fetch-site");
        request.headers_mut().insert(name, site.parse().unwrap());
        if let Some(origin) = origin {
            request
                .headers_mut()
                .insert("origin", origin.parse().unwrap());
        }
        let answer = fetch(&http1(), request).await;
        assert_eq!(answer.status != 403, served, "{site} {origin:?}");
        assert_eq!(server.seen().len() > before, served, "{site} {origin:?}");
    }
}

#[tokio::test]
async fn the_log_tells_once_of_what_is_refused_often() {
    let (_server, _upstream, mut proxy) = start(&[]).await;
    let url = proxy.url.replace("/mcp", "/other");
    for _ in 0..20 {
        let answer = fetch(&http1(), to(&url, post(None, &initialize()))).await;
        assert_eq!(answer.status, 404);
    }
    proxy.logs("this path is not served here").await;
    assert_eq!(proxy.log().lines().count(), 1, "{}", proxy.log());
}

/// RFC 9112, 6.3: the chunks tell.
#[tokio::test]
async fn an_answer_with_chunks_and_a_length_is_whole() {
    let upstream = saying(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nwhole\r\n0\r\n\r\n",
    );
    let proxy = Proxy::start(&upstream.await, &[]).await;
    for client in [http1(), http2()] {
        let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
        assert_eq!(answer.text(), "whole");
        assert_ne!(answer.header("content-length"), Some("2"));
    }
}

#[tokio::test]
async fn another_protocol_is_not_passed_on() {
    let upstream =
        saying("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n");
    let proxy = Proxy::start(&upstream.await, &[]).await;
    for client in [http1(), http2()] {
        let answer = fetch(&client, to(&proxy.url, post(None, &tool_call(1)))).await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.text().contains("another protocol"));
    }
}

#[tokio::test]
async fn a_redirect_leads_to_the_proxy_or_nowhere() {
    let scene = Scene::new(Profile::TypeScript).await;
    let upstream = scene.upstream.url();
    for (location, leads) in [
        (upstream.clone(), Ok("/mcp")),
        (format!("{upstream}?a=b"), Ok("/mcp?a=b")),
        ("/mcp?a=b".to_owned(), Ok("/mcp?a=b")),
        (upstream.replace("http:", ""), Ok("/mcp")),
        ("/mcp/?key=secret".to_owned(), Err(format!("{upstream}/"))),
        (
            "https://other.test/mcp?key=secret".to_owned(),
            Err("https://other.test/mcp".to_owned()),
        ),
        (
            upstream.replace("http:", "https:"),
            Err(upstream.replace("http:", "https:")),
        ),
        ("http://user:secret@x/".to_owned(), Err("no URL".to_owned())),
    ] {
        for status in [301, 302, 303, 307, 308] {
            let to = location.parse::<http::HeaderValue>().unwrap();
            scene.server.on(move |_| {
                let mut reply = reply(status, None, "");
                reply.headers_mut().insert("location", to.clone());
                Some(reply)
            });
            let answer = scene.post(&http1(), None, &initialize()).await;
            match &leads {
                Ok(own) => {
                    assert_eq!(answer.status, status);
                    assert_eq!(answer.header("location"), Some(*own));
                }
                Err(there) => {
                    assert_eq!((answer.status, answer.header("location")), (502, None));
                    assert!(answer.text().contains(there), "{}", answer.text());
                }
            }
        }
    }
    assert!(
        !scene.proxy.log().contains("secret"),
        "{}",
        scene.proxy.log()
    );
}
