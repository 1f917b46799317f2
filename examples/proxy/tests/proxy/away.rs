//! The proxy example, as a program: an upstream that is away for a moment, or goes while it works.

use http::Method;
use serde_json::json;
use testing::loopback::*;
use testing::*;

use crate::{program::Proxy, scene::Scene};

/// Clients try two or three times within seconds, and then listen no longer; and a 502 ends the
/// whole session of some.
#[tokio::test]
async fn requests_that_were_not_sent_wait_for_an_upstream_that_restarts() {
    for client in [http1(), http2()] {
        // Given an upstream that has gone,
        let mut scene = Scene::new(Profile::TypeScript).await;
        let session = scene.handshake(&client).await;
        let address = scene.upstream.address;
        drop(scene.upstream);
        scene.server.restart();

        // when clients call, listen, and begin sessions, and the upstream is back,
        let large = json!({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {
            "name": "echo", "arguments": {"text": "x".repeat(2 * 1024 * 1024)}}});
        let requests = [
            post(Some(&session), &tool_call(1)),
            get(&session, None),
            post(None, &initialize()),
            request(Method::GET, None, ""),
            // Larger than what is read first, and so it is still coming.
            post(None, &large),
        ];
        let answers = requests.map(|request| {
            let (client, request) = (client.clone(), to(&scene.proxy.url, request));
            tokio::spawn(async move { open(&client, request).await.status().as_u16() })
        });
        // Long enough for each to find nobody.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert!(answers.iter().all(|answer| !answer.is_finished()));
        scene.upstream = Loopback::serve_at(address, scene.server.service()).await;

        // then all are answered.
        let mut statuses = Vec::new();
        for answer in answers {
            statuses.push(soon("an answer", answer).await.unwrap());
        }
        assert_eq!(statuses[..3], [200, 200, 200]);
        assert!(!statuses.contains(&502), "{statuses:?}");
        let sent = scene.server.all("tools/call");
        let whole = sent.iter().filter(|seen| seen.body.len() > 2 * 1024 * 1024);
        assert_eq!(whole.count(), 1);
        assert_eq!(scene.call(&client, &session, 2).await, 2);
    }
}

#[tokio::test]
async fn they_wait_no_longer_than_they_are_told_to() {
    let gone = Loopback::serve(Server::new(Profile::TypeScript).service()).await;
    let url = gone.url();
    drop(gone);
    let proxy = Proxy::start(&url, &["--wait", "300ms"]).await;
    let started = std::time::Instant::now();
    for unknown in [get("unknown", None), post(Some("unknown"), &tool_call(1))] {
        let answer = fetch(&http1(), to(&proxy.url, unknown)).await;
        assert_eq!(answer.status, 502);
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}

/// G7: the request may have been executed, and so it is not sent again; but the session lives.
#[tokio::test]
async fn a_call_whose_connection_broke_is_answered_with_an_error() {
    for client in [http1(), http2()] {
        // Given an upstream that breaks off instead of answering,
        let scene = Scene::new(Profile::TypeScript).await;
        let session = scene.handshake(&client).await;
        scene.server.on_async(|seen| {
            let breaks = seen.method == Method::POST && !seen.body.is_empty();
            breaks.then(|| Box::pin(async { Err(TestError("secret")) }) as _)
        });

        // when clients call, alone or in a batch,
        let note = json!({"jsonrpc": "2.0", "method": "notifications/x"});
        let answered = json!({"jsonrpc": "2.0", "id": 5, "result": {}});
        let batch =
            json!([note, tool_call(2), answered, {"jsonrpc": "2.0", "id": "x", "method": "y"}]);
        for (message, ids) in [
            (tool_call(1), vec![json!(1)]),
            (batch, vec![json!(2), json!("x")]),
        ] {
            let before = scene.server.seen().len();
            let answer = scene.post(&client, Some(&session), &message).await;

            // then they are told so for each of their requests, which are sent once.
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let body = answer.message();
            let errors = body.as_array().cloned().unwrap_or(vec![body]);
            assert_eq!(errors.len(), ids.len());
            for (error, id) in errors.iter().zip(&ids) {
                assert_eq!(
                    (&error["id"], &error["error"]["code"]),
                    (id, &json!(-32000))
                );
                assert_eq!(error["error"]["data"]["reason"], "connection_lost");
            }
            assert_eq!(scene.server.seen().len(), before + 1);
        }

        // A message that is no request has no answer, and an `initialize` no session to be saved.
        assert_eq!(scene.post(&client, Some(&session), &note).await.status, 502);
        assert_eq!(scene.post(&client, None, &initialize()).await.status, 502);
        scene.server.on(|_| None);
    }
}
