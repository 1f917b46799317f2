//! The proxy example, as a program: how it ends.

use std::sync::Arc;

use http_body_util::BodyExt;
use serde_json::json;
use testing::loopback::*;
use testing::*;
use tokio::{net::TcpStream, sync::Notify};

use crate::{command::start, scene::Scene};

#[tokio::test]
async fn told_to_stop_it_ends_streams_in_which_nobody_waits_at_once() {
    for signal in ["TERM", "INT"] {
        for (name, client) in [("HTTP/1.1", http1()), ("HTTP/2", http2())] {
            // Given a client that listens, and one that has said nothing,
            let (_server, _upstream, proxy) = start(&["--grace", "3600"]).await;
            let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
            let session = answer.session().unwrap();
            let stream = open(&client, to(&proxy.url, get(session, None))).await;
            let address = proxy.url.split('/').nth(2).unwrap();
            let _silent = TcpStream::connect(address).await.unwrap();

            // when the proxy is told to stop,
            proxy.signal(signal);

            // then the stream ends as if it were complete, and so does the proxy.
            let rest = soon(name, stream.into_body().collect()).await;
            assert_eq!(rest.expect("a clean end").to_bytes(), "");
            assert_eq!(proxy.ends().await.0.code(), Some(0), "{signal} {name}");
        }
    }
}

#[tokio::test]
async fn told_to_stop_it_lets_calls_under_way_be_answered() {
    for client in [http1(), http2()] {
        // Given a call under way, and a stream that its answer may need,
        let (server, _upstream, mut proxy) = start(&["--grace", "3600"]).await;
        let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
        let session = answer.session().unwrap();
        let stream = open(&client, to(&proxy.url, get(session, None))).await;
        let (tap, body) = tap();
        let mut body = Some(event_stream(body));
        server.on(move |_| body.take());
        let call = to(&proxy.url, post(Some(session), &tool_call(1)));
        let mut call = open(&client, call).await.into_body();

        // when the proxy is told to stop,
        proxy.signal("TERM");
        proxy.logs("stopping").await;

        // then nobody is served any more, but the call can still be answered, and ends it.
        let address = proxy.url.split('/').nth(2).unwrap();
        assert!(TcpStream::connect(address).await.is_err());
        tap.send("data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n");
        assert!(chunk(&mut call).await.is_some());
        drop(tap);
        assert!(chunk(&mut call).await.is_none());
        let rest = soon("the end", stream.into_body().collect()).await;
        assert_eq!(rest.expect("a clean end").to_bytes(), "");
        assert_eq!(proxy.ends().await.0.code(), Some(0));
    }
}

/// G5, G7: nobody waits for an answer that will not come, and no client takes it for one.
#[tokio::test]
async fn calls_that_go_on_are_answered_with_an_error_after_the_grace_period_or_a_second_signal() {
    for (grace, client) in [("0", http1()), ("0", http2()), ("1h", http1())] {
        // Given a call whose answer has begun, and one that has none,
        let mut scene = Scene::with(Profile::TypeScript, &["--grace", grace]).await;
        let session = scene.handshake(&client).await;
        let arrived = Arc::new(Notify::new());
        let arrives = arrived.clone();
        scene.server.on_async(move |seen| {
            let begins = seen.message()["id"] == 1;
            arrives.notify_one();
            Some(Box::pin(async move {
                match begins {
                    true => Ok(pending_sse()),
                    false => std::future::pending().await,
                }
            }))
        });
        let call = |n| to(&scene.proxy.url, post(Some(&session), &tool_call(n)));
        let begun = open(&client, call(1)).await;
        soon("one", arrived.notified()).await;
        let (other, asking) = (call(2), client.clone());
        let waiting = tokio::spawn(async move { fetch(&asking, other).await });
        soon("the other", arrived.notified()).await;

        // when the proxy is told to stop, and waits no longer,
        scene.proxy.signal("TERM");
        scene.proxy.logs("stopping").await;
        if grace != "0" {
            scene.proxy.signal("TERM");
        }

        // then both are told that their answer is lost.
        let stream = soon("the end", begun.into_body().collect()).await;
        let error = events(&stream.expect("a clean end").to_bytes())
            .pop()
            .unwrap();
        assert_eq!(
            (&error["id"], &error["error"]["code"]),
            (&json!(1), &json!(-32000))
        );
        assert_eq!(error["error"]["data"]["reason"], "stream_ended");
        let answer = waiting.await.unwrap();
        let error = answer.message();
        assert_eq!((answer.status, &error["id"]), (200, &json!(2)));
        assert_eq!(error["error"]["data"]["reason"], "connection_lost");
        assert_eq!(scene.proxy.ends().await.0.code(), Some(0));
    }
}

/// Where the layer has no say, since there is no session, a stream breaks: an end would be a lie.
#[tokio::test]
async fn a_stream_without_a_session_breaks_when_it_is_cut_off() {
    let (server, _upstream, proxy) = start(&["--grace", "0"]).await;
    server.on(|_| Some(pending_sse()));
    let call = to(&proxy.url, post(None, &tool_call(1)));
    let begun = open(&http1(), call).await;
    proxy.signal("TERM");
    assert!(soon("the end", begun.into_body().collect()).await.is_err());
    assert_eq!(proxy.ends().await.0.code(), Some(0));
}
