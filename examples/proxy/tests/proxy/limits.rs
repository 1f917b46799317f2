//! The proxy example, as a program: clients that are slow, and many.

use std::time::Duration;

use http_body_util::BodyExt;
use testing::loopback::*;
use testing::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{command::start, scene::address};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Until the other side closes; what it said.
async fn closes(what: &str, stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end, too.
    let _ = soon(what, stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed() {
    let (server, _upstream, proxy) = start(&["--head-timeout", "300ms"]).await;
    let half = &PREFACE[..12];
    let preface = [PREFACE, SETTINGS].concat();
    for (what, bytes) in [
        ("a silent one", b"" as &[u8]),
        ("half of HTTP/2's preface", half),
        ("HTTP/2 without a request", &preface),
        ("half a head", b"POST /mcp HTTP/1.1\r\nhost: localh"),
    ] {
        let mut stream = TcpStream::connect(address(&proxy)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        closes(what, &mut stream).await;
    }

    // One that sends a byte now and then is no better.
    let mut stream = TcpStream::connect(address(&proxy)).await.unwrap();
    stream.write_all(b"GET /mcp HTTP/1.1\r\n").await.unwrap();
    soon("a trickle ends", async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_an_open_stream_is_not() {
    let (_server, _upstream, proxy) =
        start(&["--idle-timeout", "300ms", "--head-timeout", "1h"]).await;
    // Given a stream that was opened before,
    let client = http1();
    let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
    let session = answer.session().unwrap();
    let stream = open(&client, to(&proxy.url, get(session, None))).await;

    // when a connection is idle after an answer, then it is closed,
    let mut idle = TcpStream::connect(address(&proxy)).await.unwrap();
    let health = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    idle.write_all(health).await.unwrap();
    let said = closes("an idle one", &mut idle).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");

    // and the stream is as open as ever.
    let mut body = stream.into_body();
    let frame = tokio::time::timeout(Duration::from_millis(500), async { body.frame().await });
    assert!(frame.await.is_err(), "the stream has ended");
}

#[tokio::test]
async fn a_body_that_takes_too_long_is_a_408() {
    let (server, _upstream, proxy) = start(&["--body-timeout", "300ms"]).await;
    for begun in [2, 2 * 1024 * 1024] {
        let mut stream = TcpStream::connect(address(&proxy)).await.unwrap();
        let head = "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; begun]).await.unwrap();
        let said = closes("a slow body", &mut stream).await;
        assert!(said.starts_with("HTTP/1.1 408"), "{begun}: {said}");
        assert!(said.contains("--body-timeout"), "{said}");
    }
    // None came through whole.
    assert!(server.seen().iter().all(|seen| seen.body_error.is_some()));
}

/// More than the sockets between them hold.
const LARGE: usize = 24 * 1024 * 1024;

/// A server whose answers to tool calls are large.
fn large(server: &Server) {
    server.on(|seen| {
        (seen.what() == "tools/call").then(|| {
            let id = &seen.message()["id"];
            let text = "x".repeat(LARGE);
            json_reply(
                200,
                &serde_json::json!({"jsonrpc": "2.0", "id": id, "result": text}),
            )
        })
    });
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let options = ["--write-timeout", "300ms", "--log", "debug"];
    let (server, _upstream, mut proxy) = start(&options).await;
    large(&server);
    for (nth, client) in [http1(), http2()].into_iter().enumerate() {
        // Given answers of which nobody takes anything,
        let call = to(&proxy.url, post(None, &tool_call(1)));
        let answer = open(&client, call).await;
        assert_eq!(answer.status(), 200);
        proxy
            .logs_often("takes nothing of its answer", nth + 1)
            .await;

        // when somebody asks for the rest, then there is none.
        let rest = soon("an end", answer.into_body().collect()).await;
        assert!(rest.is_err());
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_answer() {
    let (server, _upstream, proxy) = start(&["--write-timeout", "500ms"]).await;
    large(&server);
    let call = to(&proxy.url, post(None, &tool_call(1)));
    let mut body = open(&http1(), call).await.into_body();
    let (mut read, mut next) = (0, LARGE / 8);
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
        // Pauses, which are together longer than the limit.
        if read > next {
            next += LARGE / 8;
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    }
    assert!(read > LARGE);
    // Nor is a listening stream without events one that nobody reads.
    let client = http1();
    let answer = fetch(&client, to(&proxy.url, post(None, &initialize()))).await;
    let session = answer.session().unwrap();
    let mut stream = open(&client, to(&proxy.url, get(session, None)))
        .await
        .into_body();
    let silence = tokio::time::timeout(Duration::from_millis(1200), stream.frame());
    assert!(silence.await.is_err());
    assert!(!proxy.log().contains("takes nothing"));
}

#[tokio::test]
async fn at_the_limit_of_connections_the_next_client_waits_its_turn() {
    // Given as many clients as there may be,
    let (_server, _upstream, mut proxy) = start(&["--max-connections", "2"]).await;
    let first = [(); 2].map(|()| std::net::TcpStream::connect(address(&proxy)).unwrap());
    proxy
        .logs("2 clients are connected; the next one waits")
        .await;

    // when more come, then they wait,
    let health = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut more = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address(&proxy)).await.unwrap();
        stream.write_all(health).await.unwrap();
        more.push(stream);
    }
    let waits = tokio::time::timeout(Duration::from_millis(200), more[0].readable());
    assert!(waits.await.is_err());

    // and are served when there is room; the log has said it once.
    drop(first);
    for stream in &mut more {
        let said = closes("an answer", stream).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    assert_eq!(proxy.log().matches("next one waits").count(), 1);
}
