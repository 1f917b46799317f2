//! The proxy example, as a program: what it forwards, and how.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{program::Proxy, scene::Scene};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use testing::loopback::*;
use testing::*;
use tokio::sync::Notify;

#[tokio::test]
async fn a_session_survives_the_loss_for_clients_of_either_http_version() {
    for (name, client) in [("HTTP/1.1", http1()), ("HTTP/2", http2())] {
        // Given a session through the proxy,
        let mut scene = Scene::new(Profile::TypeScript).await;
        let session = scene.handshake(&client).await;
        assert_eq!(scene.call(&client, &session, 1).await, 1, "{name}");

        // when the server forgets it,
        scene.server.restart();

        // then the client calls as before, and the log has one line about it, without the id.
        assert_eq!(scene.call(&client, &session, 2).await, 2, "{name}");
        assert_eq!(scene.call(&client, &session, 3).await, 3, "{name}");
        assert_eq!(scene.server.count("initialize"), 2, "{name}");
        let line = scene.proxy.logs("session recovered").await;
        assert!(line.contains("127.0.0.1") && line.contains("epoch=1"));
        assert_eq!(scene.proxy.log().lines().count(), 1, "{name}");
        assert!(!scene.proxy.log().contains("secret"), "{name}");
    }
}

/// A3, E1: the clients of a proxy share it, and nothing else.
#[tokio::test]
async fn clients_of_one_proxy_keep_their_sessions_apart() {
    // Given three clients, each with a session and a token of its own,
    let scene = Scene::new(Profile::TypeScript).await;
    let token = |n: usize| format!("Bearer secret-of-{n}");
    let with_token = |n, mut request: Request<CallerBody>| {
        let token = token(n).parse().unwrap();
        request.headers_mut().insert("authorization", token);
        request
    };
    let clients = [http1(), http1(), http2()];
    let mut sessions = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        let request = scene.request(Method::POST, None, &initialize().to_string());
        let answer = fetch(client, with_token(n, request)).await;
        sessions.push(answer.session().unwrap().to_owned());
    }

    // when the server forgets them all, and all call at once, on connections old and new,
    scene.server.restart();
    let calls = (0..30).map(|call| {
        let (n, scene) = (call % 3, &scene);
        let client = if call < 15 {
            clients[n].clone()
        } else {
            http1()
        };
        let message = tool_call(call as u64).to_string();
        let request = scene.request(Method::POST, Some(&sessions[n]), &message);
        async move { fetch(&client, with_token(n, request)).await }
    });
    let answers = futures::future::join_all(calls).await;

    // then each session has been recovered once, with its own client's token, and each call was
    // sent in the session of its client,
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(scene.server.count("initialize"), 6);
    let owner = |session: &str| {
        scene
            .server
            .all("notifications/initialized")
            .iter()
            .find(|seen| seen.session() == Some(session))
            .and_then(|seen| seen.header("authorization").map(str::to_owned))
    };
    let live = scene.server.live();
    assert_eq!(live.len(), 3);
    let mut owners: Vec<_> = live.iter().map(|session| owner(session)).collect();
    owners.sort();
    assert_eq!(owners, [0, 1, 2].map(|n| Some(token(n))));
    for call in scene.server.all("tools/call") {
        let session = call.session().unwrap().to_owned();
        if live.contains(&session) {
            let sent = call.header("authorization").map(str::to_owned);
            assert_eq!(sent, owner(&session));
        }
    }
    // and each client has been told of no id but its own.
    for (call, answer) in answers.iter().enumerate() {
        assert_eq!(answer.session(), Some(&*sessions[call % 3]));
    }
}

#[tokio::test]
async fn an_event_passes_when_it_arrives() {
    for (name, client) in [("HTTP/1.1", http1()), ("HTTP/2", http2())] {
        for method in [Method::GET, Method::POST] {
            // Given a stream in which nothing has been sent yet,
            let scene = Scene::new(Profile::TypeScript).await;
            let session = scene.handshake(&client).await;
            let (tap, body) = tap();
            let mut body = Some(body);
            scene.server.on(move |_| body.take().map(event_stream));
            let call = match method {
                Method::POST => tool_call(1).to_string(),
                _ => String::new(),
            };
            let request = scene.request(method.clone(), Some(&session), &call);
            let mut response = open(&client, request).await.into_body();

            // when an event is sent, and later another,
            for event in ["data: {\"one\":1}\n\n", ": a comment\n\n"] {
                tap.send(event);
                // then it is there before anything else is sent.
                let got = chunk(&mut response).await.expect("an event");
                assert_eq!(got, event, "{name} {method}");
            }
        }
    }
}

#[tokio::test]
async fn a_large_request_body_passes_while_it_is_sent() {
    // Given an upstream that reads a body as it comes,
    let read = Arc::new((Mutex::new(0), Notify::new()));
    let counted = read.clone();
    let upstream = Loopback::serve(tower::service_fn(move |request: Request<_>| {
        let counted = counted.clone();
        async move {
            let mut body: hyper::body::Incoming = request.into_body();
            while let Some(chunk) = chunk(&mut body).await {
                *counted.0.lock().unwrap() += chunk.len();
                counted.1.notify_one();
            }
            Ok::<_, TestError>(Response::new(full("read")))
        }
    }))
    .await;
    let proxy = Proxy::start(&upstream.url(), &[]).await;

    for client in [http1(), http2()] {
        *read.0.lock().unwrap() = 0;
        // when a client sends more than the layer keeps, and does not end it,
        let (tap, body) = tap();
        let request = Request::post(&proxy.url).body(body).unwrap();
        let response = tokio::spawn(async move { fetch(&client, request).await });
        static MEGABYTE: [u8; 1024 * 1024] = [b' '; 1024 * 1024];
        for _ in 0..3 {
            tap.send(std::str::from_utf8(&MEGABYTE).unwrap());
        }

        // then it arrives all the same.
        soon("three megabytes arrive", async {
            while *read.0.lock().unwrap() < 3 * MEGABYTE.len() {
                read.1.notified().await;
            }
        })
        .await;
        drop(tap);
        assert_eq!(response.await.unwrap().text(), "read");
    }
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_its_request() {
    for (name, client) in [("HTTP/1.1", http1()), ("HTTP/2", http2())] {
        // Given a call that is not answered, and a stream that is open,
        let scene = Scene::new(Profile::TypeScript).await;
        let session = scene.handshake(&client).await;
        let (stream_tap, stream) = tap();
        let (call_tap, call) = tap();
        let arrived = Arc::new(Notify::new());
        let (mut stream, mut call) = (Some(event_stream(stream)), Some(call));
        let arrives = arrived.clone();
        scene.server.on_async(move |seen| {
            if seen.method == Method::GET {
                let stream = stream.take().expect("one GET");
                return Some(Box::pin(async { Ok(stream) }));
            }
            let call = call.take().expect("one call");
            arrives.notify_one();
            Some(Box::pin(async {
                let _dropped_if_cancelled = call;
                std::future::pending().await
            }))
        });
        let get = scene.request(Method::GET, Some(&session), "");
        let open_stream = open(&client, get).await;
        let post = scene.request(Method::POST, Some(&session), &tool_call(1).to_string());
        let other = client.clone();
        let calling = tokio::spawn(async move { other.request(post).await });
        soon(name, arrived.notified()).await;

        // when the client leaves, then so does the proxy.
        drop(open_stream);
        stream_tap.gone().await;
        calling.abort();
        call_tap.gone().await;
    }
}

#[tokio::test]
async fn headers_that_end_at_the_proxy_are_dropped_in_both_directions() {
    // Given an upstream that answers with hop-by-hop headers,
    let scene = Scene::new(Profile::TypeScript).await;
    scene.server.on(|_| {
        let mut reply = reply(200, Some("text/plain"), "hello");
        for (name, value) in [
            ("connection", "x-up, Keep-Alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("x-up", "dropped"),
            ("x-stays", "up"),
            ("mcp-session-id", "stays"),
        ] {
            reply.headers_mut().insert(name, value.parse().unwrap());
        }
        Some(reply)
    });

    // when a client sends some of its own,
    let mut request = scene.request(Method::POST, None, "{}");
    for (name, value) in [
        ("connection", "close, X-Down"),
        ("connection", "x-other"),
        ("x-down", "dropped"),
        ("x-other", "dropped"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic secret"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("trailer", "x-last"),
        ("upgrade", "websocket"),
        ("expect", "100-continue"),
        ("accept-encoding", "gzip"),
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "https"),
        ("last-event-id", "stays"),
        ("x-stays", "down"),
        ("x-stays", "twice"),
    ] {
        let name = http::HeaderName::from_static(name);
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let answer = fetch(&http1(), request).await;

    // then each side sees what is meant for it, and its own name as the host.
    let seen = &scene.server.seen()[0];
    let mut names: Vec<_> = seen.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "accept-encoding",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "last-event-id",
            "via",
            "x-stays"
        ]
    );
    let host = scene.upstream.address.to_string();
    assert_eq!(seen.header("host"), Some(&*host));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.headers.get_all("x-stays").iter().count(), 2);

    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let mut names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    names.retain(|name| *name != "connection"); // The client asked for `close`.
    assert_eq!(
        names,
        [
            "content-length",
            "content-type",
            "date",
            "mcp-session-id",
            "x-stays"
        ]
    );
}

#[tokio::test]
async fn a_request_goes_to_the_path_of_the_upstream_with_both_queries() {
    let server = Server::new(Profile::TypeScript);
    let upstream = Loopback::serve(server.service()).await;
    let client = http1();
    for (own, sent, arrives) in [
        ("", "", ""),
        ("", "?b=2", "?b=2"),
        ("?key=secret", "", "?key=secret"),
        ("?key=secret", "?b=2", "?key=secret&b=2"),
    ] {
        let proxy = Proxy::start(&(upstream.url() + own), &[]).await;
        for (method, body) in [(Method::POST, "{}"), (Method::OPTIONS, "")] {
            let request = to(&(proxy.url.clone() + sent), request(method, None, body));
            fetch(&client, request).await;
            let uri = server.seen().last().unwrap().uri.clone();
            assert_eq!(uri, format!("/mcp{arrives}"));
        }
        assert!(!proxy.says.contains("secret") && !proxy.log().contains("secret"));

        // Nothing else is served.
        let before = server.seen().len();
        for path in [
            "/",
            "/mcp/",
            "/mcp2",
            "/.well-known/oauth-authorization-server",
        ] {
            let url = proxy.url.replace("/mcp", path);
            let answer = fetch(&client, to(&url, post(None, &initialize()))).await;
            assert_eq!(answer.status, 404, "{path}");
        }
        assert_eq!(server.seen().len(), before);
    }
}

#[tokio::test]
async fn an_upstream_that_gives_no_answer_is_a_502_with_one_line() {
    // Given an upstream that is gone, and one that breaks off,
    let gone = Loopback::serve(Server::new(Profile::TypeScript).service()).await;
    let gone_url = format!("{}?key=secret", gone.url());
    drop(gone);
    let broken = Loopback::serve(tower::service_fn(|_| async {
        Err::<Reply, _>(TestError("secret"))
    }))
    .await;
    for (url, why) in [
        (
            gone_url,
            "the upstream cannot be reached: connection refused\n",
        ),
        (
            broken.url(),
            "the upstream ended the connection before it answered\n",
        ),
    ] {
        let mut proxy = Proxy::start(&url, &["--log", "trace", "--wait", "0"]).await;
        for client in [http1(), http2()] {
            // when a client calls,
            let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;

            // then it is told, in a line that holds no secret.
            assert_eq!((answer.status, answer.text()), (502, why));
            assert_eq!(
                answer.header("content-type"),
                Some("text/plain; charset=utf-8")
            );
        }
        proxy.logs(why.trim_end()).await;
        assert!(!proxy.log().contains("secret"), "{}", proxy.log());
    }
}

/// Nor does the end of a connection turn into the end of a stream.
#[tokio::test]
async fn a_stream_that_breaks_upstream_breaks_for_the_client() {
    let scene = Scene::new(Profile::TypeScript).await;
    for client in [http1(), http2()] {
        let (tap, body) = tap();
        let mut body = Some(body);
        scene.server.on(move |_| body.take().map(event_stream));
        let request = scene.request(Method::POST, None, "{}");
        let mut body = open(&client, request).await.into_body();
        tap.send("data: {}\n\n");
        assert_eq!(chunk(&mut body).await.unwrap(), "data: {}\n\n");
        tap.fail();
        let end = soon("the end", body.frame()).await;
        assert!(end.is_some_and(|frame| frame.is_err()));
    }
}

/// But that of a listening stream does: some clients listen no longer when it broke twice.
#[tokio::test]
async fn a_listening_stream_that_breaks_upstream_ends_for_the_client() {
    for client in [http1(), http2()] {
        let scene = Scene::new(Profile::TypeScript).await;
        let session = scene.handshake(&client).await;
        let (tap, body) = tap();
        let mut body = Some(body);
        scene.server.on(move |_| body.take().map(event_stream));
        let get = scene.request(Method::GET, Some(&session), "");
        let mut body = open(&client, get).await.into_body();
        tap.send("data: {}\n\ndata: cut");
        assert_eq!(chunk(&mut body).await.unwrap(), "data: {}\n\ndata: cut");
        tap.fail();
        assert!(chunk(&mut body).await.is_none());
    }
}

/// G1, H1, H3 through the program: one listening stream goes on over two losses.
#[tokio::test]
async fn a_listening_stream_goes_on_in_the_new_session() {
    // Given a client that listens and has subscribed,
    let scene = Scene::new(Profile::TypeScript).await;
    let client = http2();
    let session = scene.handshake(&client).await;
    let subscribe = json!({"jsonrpc": "2.0", "id": 7, "method": "resources/subscribe", "params": {"uri": "test://x"}});
    scene.post(&client, Some(&session), &subscribe).await;
    let (taps, mut tapped) = tokio::sync::mpsc::unbounded_channel();
    let server = scene.server.clone();
    scene.server.on(move |seen| {
        let live = seen.method == Method::GET && server_knows(&server, seen);
        live.then(|| {
            let (tap, body) = tap();
            let _ = taps.send((tap, seen.session().unwrap().to_owned()));
            event_stream(body)
        })
    });
    let get = scene.request(Method::GET, Some(&session), "");
    let response = open(&client, get).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut current = tapped.recv().await.unwrap();

    for n in 1..3 {
        // when the server forgets the session and a call finds that out,
        scene.server.restart();
        scene.call(&client, &session, n).await;

        // then the stream continues with what the new session sends, and what the layer does.
        let old = std::mem::replace(&mut current, soon("a GET", tapped.recv()).await.unwrap());
        old.0.gone().await;
        assert_ne!(old.1, current.1);
        assert_eq!(scene.server.subscriptions(&current.1), ["test://x"]);
        current.0.send("data: {\"updated\":true}\n\n");
        let mut seen = String::new();
        while !(seen.contains("updated") && seen.contains("tools/list_changed")) {
            let chunk = chunk(&mut body).await.expect("the stream goes on");
            seen += std::str::from_utf8(&chunk).unwrap();
        }
        assert_eq!(seen.matches("data:").count(), 2, "{seen}");
    }
}

fn server_knows(server: &Server, seen: &Seen) -> bool {
    let live = server.live();
    seen.session()
        .is_some_and(|id| live.iter().any(|live| live == id))
}

/// Streams must not use up what calls need.
#[tokio::test]
async fn calls_pass_beside_many_open_streams_on_one_connection() {
    // Given as many open streams as many servers allow on a connection, and more,
    let scene = Scene::new(Profile::TypeScript).await;
    let client = http2();
    let session = scene.handshake(&client).await;
    let streams = (0..300).map(|_| {
        let get = scene.request(Method::GET, Some(&session), "");
        open(&client, get)
    });
    let streams = futures::future::join_all(streams).await;
    assert!(streams.iter().all(|stream| stream.status() == 200));

    // when the client calls, then it is answered.
    assert_eq!(scene.call(&client, &session, 1).await, 1);

    // Idle connections to the upstream are not kept until it closes them.
    drop(streams);
    let before = scene.upstream.connections();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.call(&client, &session, 2).await, 2);
    assert_eq!(scene.upstream.connections(), before);
}
