//! What passes, passes as it came: rules G8, G9.

use http_body::Body;
use http_body_util::BodyExt;
use mcp_session_recovery::SessionRecoveryLayer;
use serde_json::json;
use testing::streams::*;
use testing::*;

const EVENTS: &str =
    "event: message\ndata: {\"n\":1}\nid: 7\n\n: comment\n\ndata: two\ndata: lines\n\n";
const NEW: &str = "data: {\"n\":2}\n\n";

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

/// G1: trailers end a body; nothing can go on behind them.
#[tokio::test(start_paused = true)]
async fn nothing_comes_after_trailers() {
    let scene = scene(layer()).await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-trailer", "1".parse().unwrap());
    let mut old = Some(stream(Script::new().data(EVENTS).trailers(trailers)));
    let fed = Fed::default();
    let feeding = fed.clone();
    scene.server.on(move |seen| {
        (seen.what() == "GET").then(|| old.take().unwrap_or_else(|| feeding.add()))
    });
    let response = scene.unread(get(&scene.session, None)).await;
    scene.recover().await;
    let mut stream = Stream::of(response);
    settle().await;
    let expected = match fed.count() {
        0 => EVENTS.to_owned(),
        _ => {
            fed.data(0, NEW);
            EVENTS.to_owned() + NEW
        }
    };
    // The reader panics if it sees data after trailers.
    assert_eq!(stream.now().await, expected);
    assert!(stream.is_open() == (fed.count() == 1));
}

/// G8: what the layer may add to has no length; everything else keeps its own.
#[tokio::test(start_paused = true)]
async fn a_body_that_may_be_extended_has_no_length() {
    for (content_type, extended) in [
        ("text/event-stream", true),
        ("Text/Event-Stream ; charset=utf-8", true),
        ("application/json", false),
    ] {
        let scene = scene(layer()).await;
        let answer = format!("data: {}\n\n", result(1));
        let length = answer.len();
        scene.server.on(move |seen| {
            let touched = ["GET", "tools/call"].contains(&seen.what().as_str());
            touched.then(|| {
                let mut reply = reply(200, Some(content_type), &answer);
                reply.headers_mut().insert("content-length", length.into());
                reply
            })
        });
        for mut stream in [scene.listen().await, scene.call(1).await] {
            let exact = (!extended).then_some(length as u64);
            assert_eq!(stream.size_hint.exact(), exact, "{content_type}");
            assert_eq!(
                stream.head.headers.contains_key("content-length"),
                !extended
            );
            assert_eq!(stream.read_to_end().await.len(), length);
        }
    }
}

/// A body says that it has ended once it has, and not before: who asks does not read on.
#[tokio::test(start_paused = true)]
async fn g8_a_body_that_may_be_extended_says_when_it_has_ended() {
    let scene = scene(layer()).await;
    scene.server.on(|seen| match &*seen.what() {
        "GET" => Some(stream(Script::new().data(EVENTS))),
        // Without the response, which the error of G7 takes the place of.
        "tools/call" => Some(stream(Script::new().data(NEW).trailers(Default::default()))),
        "resources/subscribe" => Some(reply(200, Some("application/json"), &result(2))),
        _ => None,
    });
    let subscribe = json!({
        "jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": "file:///a"},
    });
    for (request, frames) in [
        (get(&scene.session, None), 1),
        (post(Some(&scene.session), &tool_call(1)), 3),
        (post(Some(&scene.session), &subscribe), 1),
    ] {
        let mut body = scene.unread(request).await.into_body();
        let mut read = 0;
        while !body.is_end_stream() {
            read += usize::from(body.frame().await.is_some());
        }
        assert_eq!(read, frames);
        assert!(body.frame().await.is_none());
    }
}

/// G9: every chunk is there as soon as the server has sent it, down to the first byte of an event.
#[tokio::test(start_paused = true)]
async fn bytes_pass_as_they_come_in_the_chunks_they_come_in() {
    let scene = scene(layer()).await;
    let answers = feed_all(&scene.server, "tools/call");
    let events = feed_all(&scene.server, "GET");
    let answer = format!("\u{feff}{EVENTS}data: {}\r\n\r\nafter", result(1));
    for (fed, mut stream) in [
        (events, scene.listen().await),
        (answers, scene.call(1).await),
    ] {
        let mut sent = Vec::new();
        for chunk in answer
            .as_bytes()
            .chunks(1)
            .chain([&b"data: x\n\nda"[..], b"", b"\xff\0"])
        {
            fed.data(0, chunk);
            sent.push(bytes::Bytes::copy_from_slice(chunk));
            stream.now().await;
            assert_eq!(stream.chunks, sent);
        }
        fed.end(0);
        stream.read_to_end().await;
        assert_eq!(stream.chunks, sent);
        assert!(stream.ended_cleanly());
    }
}

/// G1, G9: what cannot be read is not touched: no notice, no second stream behind the first.
#[tokio::test(start_paused = true)]
async fn a_compressed_listening_stream_is_left_alone() {
    let capabilities = serde_json::json!({"tools": {"listChanged": true}});
    let scene = scene_with(Profile::TypeScript, layer(), capabilities).await;
    let fed = Fed::default();
    let feeding = fed.clone();
    scene.server.on(move |seen| {
        let mut reply = (seen.what() == "GET").then(|| feeding.add())?;
        let headers = reply.headers_mut();
        headers.insert("content-encoding", "gzip".parse().unwrap());
        headers.insert("content-length", 1_000.into());
        Some(reply)
    });
    let mut stream = scene.listen().await;
    assert!(stream.head.headers.contains_key("content-length"));
    scene.recover().await;
    fed.data(0, b"\x1f\x8b");
    stream.now().await;
    assert_eq!(stream.chunks, [&b"\x1f\x8b"[..]]);
    fed.error(0);
    stream.read_to_end().await;
    assert_eq!(stream.end, Some(Err(TestError("broken"))));
    assert_eq!(fed.count(), 1);
}

/// G1: a stream that ends in the middle of an event, in a session that is gone, just ends.
#[tokio::test(start_paused = true)]
async fn g1_the_trailers_of_a_stream_that_is_left_do_not_pass() {
    // Given a stream that stops in the middle of an event, and goes on with trailers later,
    let scene = scene(layer()).await;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-trailer", "1".parse().unwrap());
    let script = Script::new().data("data: ha").yields().trailers(trailers);
    let mut old = Some(stream(script));
    scene
        .server
        .on(move |seen| (seen.what() == "GET").then(|| old.take().expect("one stream")));
    let response = scene.unread(get(&scene.session, None)).await;

    // when it is read after the session has moved,
    scene.recover().await;
    let mut stream = Stream::of(response);

    // then it ends cleanly.
    assert_eq!(stream.now().await, "data: ha");
    assert!(matches!(stream.end, Some(Ok(None))), "{:?}", stream.end);
}
