//! Answers that can no longer come: rules G5, G7.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use mcp_session_recovery::SessionRecoveryLayer;
use serde_json::{Value, json};
use testing::streams::*;
use testing::*;
use tokio::time::advance;

const PROGRESS: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"result\":1}}\n\n";

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

/// What a POST's stream holds, and how it ends.
fn ended(text: impl AsRef<[u8]>, how: End) -> Script {
    let script = Script::new().data(text);
    match how {
        End::Clean => script,
        End::Broken => script.error("reset"),
        End::Trailers => script.trailers(trailers()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Clean,
    Broken,
    Trailers,
}

const ENDS: [End; 3] = [End::Clean, End::Broken, End::Trailers];

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())])
}

/// Sends `message` to a server that answers it with this stream.
async fn answered(layer: SessionRecoveryLayer, message: &Value, reply: Reply) -> Stream {
    let scene = scene(layer).await;
    let mut reply = Some(reply);
    scene
        .server
        .on(move |seen| (seen.what() != "initialize").then(|| reply.take())?);
    let mut stream = scene.open(post(Some(&scene.session), message)).await;
    stream.read_to_end().await;
    assert_eq!(scene.server.count("initialize"), 1);
    assert_eq!(stream.outcome(), None, "no session was lost");
    stream
}

/// Whether the server's bytes came as they were, and what was added.
fn added(stream: &Stream, sent: &[u8]) -> Vec<Value> {
    let read = stream.bytes();
    assert!(
        read.starts_with(sent),
        "{:?}",
        String::from_utf8_lossy(&read)
    );
    let whole = events(&read);
    let own = events(sent);
    assert_eq!(whole[..own.len()], own);
    whole[own.len()..].to_vec()
}

/// G5, F4: also a request that was too large to be kept, whose id is noted as it passes: before its
/// `params` or after them, as clients have it.
#[tokio::test(start_paused = true)]
async fn g5_a_request_over_the_limit_learns_that_its_answer_is_lost() {
    let text = "x".repeat(5_000);
    for body in [
        format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"id":1,"text":"{text}"}}}}"#
        ),
        format!(
            r#"{{"method":"tools/call","params":{{"text":"{text}","id":1}},"jsonrpc":"2.0","id":7}}"#
        ),
    ] {
        for is_orphaned in [false, true] {
            let scene = scene(layer().max_body_bytes(1_000)).await;
            match is_orphaned {
                true => never_answer(&scene.server, "tools/call"),
                false => scene.server.on(|seen| {
                    (seen.what() == "tools/call").then(|| stream(ended(PROGRESS, End::Broken)))
                }),
            }
            let call = request(http::Method::POST, Some(&scene.session), body.clone());
            if is_orphaned {
                let call = scene.spawn(call);
                settle().await;
                scene.recover().await;
                tokio::time::sleep(Duration::from_secs(31)).await;
                let answer = call.await.unwrap();
                assert_eq!(answer.message(), lost(7, "session_expired"));
            } else {
                let mut stream = scene.open(call).await;
                stream.read_to_end().await;
                let error = lost(7, "stream_ended");
                assert_eq!(added(&stream, PROGRESS.as_bytes()), [error]);
            }
        }
    }
}

/// G5, G7: a stream that ends without the answer, and leaves nothing to resume from, ends with an
/// error in its place.
#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_before_the_answer_ends_with_the_error() {
    let answer = result(1);
    let others = result(2);
    for text in [
        "".as_bytes(),
        b": comment\n\n",
        b": comment",
        b"retry: 5\n\n",
        b"data: \n\n",
        PROGRESS.as_bytes(),
        // Nothing to resume from: no id, an empty one, one with NUL, one of an event not ended.
        b"id\ndata: {}\n\n",
        b"id: 7\ndata: {}\n\nid:\ndata: {}\n\n",
        b"id: 7\0\ndata: {}\n\n",
        b"id: 7\ndata: {}\n",
        b"id: 7\r\ndata: {}\r\n",
        // Not the answer: to another request, a request of the server's, a notification.
        format!("data: {others}\n\n").as_bytes(),
        b"data: {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"result\":{},\"error\":0}}\n\n",
        b"data: {\"jsonrpc\":\"2.0\",\"id\":\"1\",\"result\":{}}\n\n",
        b"data: {\"jsonrpc\":\"2.0\",\"result\":{}}\n\n",
        // Not an event stream at all, whatever it says.
        answer.as_bytes(),
        b"<html>result</html>\n",
        b"\xff\xfe\0\xc3",
        b"data: \xff\xfe\0\n\n",
        "\u{feff}: comment\n\n".as_bytes(),
        // No final blank line: by the format no event.
        format!("data: {answer}\n").as_bytes(),
        format!("data: {answer}\r\n").as_bytes(),
        format!("data: {answer}\r").as_bytes(),
    ] {
        for end in ENDS {
            let case = format!("{:?} {end:?}", String::from_utf8_lossy(text));
            let body = stream(ended(text, end));
            let stream = answered(layer(), &tool_call(1), body).await;
            let read = stream.bytes();
            assert_eq!(read[..text.len()], *text, "{case}");
            let added = events(&read[text.len()..]);
            assert_eq!(added, [lost(1, "stream_ended")], "{case}");
            assert_eq!(stream.chunks.len(), 2, "{case}: in one piece");
            let trailers = (end == End::Trailers).then(trailers);
            assert_eq!(stream.end, Some(Ok(trailers)), "{case}");
        }
    }
}

/// G5: cut at any byte, the caller reads the answer or the error, and one of them once.
#[tokio::test(start_paused = true)]
async fn a_stream_cut_at_any_byte_has_one_answer() {
    for newline in ["\n", "\r\n", "\r"] {
        let text = format!("event: message\ndata: {}\n\n: after\n\n", result(1));
        let text = (PROGRESS.to_owned() + &text).replace('\n', newline);
        for cut in 0..=text.len() {
            let sent = &text.as_bytes()[..cut];
            let body = stream(ended(sent, ENDS[cut % 2]));
            let stream = answered(layer(), &tool_call(1), body).await;

            let own = events(sent);
            let has_answer = own.iter().any(|message| message["id"] == 1);
            let mut expected = own;
            if !has_answer {
                expected.push(lost(1, "stream_ended"));
            }
            assert_eq!(stream.messages(), expected, "{:?}", &text[..cut]);
            if has_answer {
                assert_eq!(stream.bytes(), sent, "{:?}", &text[..cut]);
                assert_eq!(stream.ended_cleanly(), cut % 2 == 0);
            }
        }
    }
}

/// G5: what was answered, can be resumed, or waits for nothing ends as the server ended it.
#[tokio::test(start_paused = true)]
async fn nothing_is_added_where_nobody_waits_in_vain() {
    let answer = |json: &str| format!("data: {json}\n\n");
    let error = r#"{"error":{"code":-1,"message":"no"},"jsonrpc":"2.0","id":1}"#;
    let escaped = r#"{"id":"\u0061","result":null,"jsonrpc":"2.0"}"#;
    let large = format!("{{\"id\":1,\"result\":\"{}\"}}", "x".repeat(3 << 20));
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/x"});
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    let call = tool_call(1);
    let named = json!({"jsonrpc": "2.0", "id": "a", "method": "tools/call"});
    for (case, message, text) in [
        ("a result", &call, answer(&result(1))),
        ("an error", &call, answer(error)),
        (
            "more behind it",
            &call,
            answer(&result(1)) + PROGRESS + "data: tr",
        ),
        ("the id spelled otherwise", &named, answer(escaped)),
        (
            "in several lines",
            &call,
            "data: {\"id\":1,\ndata: \"result\":{}}\n\n".to_owned(),
        ),
        ("an event too large to be read", &call, answer(&large)),
        ("in an array", &call, answer(&format!("[{}]", result(1)))),
        ("an event id", &call, format!("id: 7\ndata: \n\n{PROGRESS}")),
        (
            "an event id and an open event",
            &call,
            "id: 7\r\rdata: {\"id\":1,".to_owned(),
        ),
        ("a notification", &notification, PROGRESS.to_owned()),
        ("a response", &response, String::new()),
        ("no JSON-RPC", &json!(7), String::new()),
    ] {
        for end in ENDS {
            let reply = stream(ended(&text, end));
            let stream = answered(layer(), message, reply).await;
            assert!(stream.bytes() == text.as_bytes(), "{case} {end:?}");
            let expected = match end {
                End::Clean => Ok(None),
                End::Broken => Err(TestError("reset")),
                End::Trailers => Ok(Some(trailers())),
            };
            assert_eq!(stream.end, Some(expected), "{case} {end:?}");
        }
    }
}

/// G5: of a batch, those that have no answer yet are told of, each once.
#[tokio::test(start_paused = true)]
async fn every_request_of_a_batch_has_its_own_answer() {
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/x"});
    let named = json!({"jsonrpc": "2.0", "id": "b", "method": "ping"});
    let batch = json!([tool_call(1), notification, named, tool_call(3)]);
    let all = [json!(1), json!("b"), json!(3)];
    let data = |answers: &[String]| format!("data: {}\n\n", answers.join(",\ndata: "));
    for (text, lost_ids) in [
        (String::new(), all.to_vec()),
        (data(&[result("b")]), vec![json!(1), json!(3)]),
        (
            data(&[result(3)]) + &data(&[format!("[{}", result(1)), format!("{}]", result("b"))]),
            vec![],
        ),
        (
            data(&[format!("[{}]", result(3))]) + "data: [" + &result(1),
            vec![json!(1), json!("b")],
        ),
    ] {
        let stream = answered(layer(), &batch, stream(ended(&text, End::Clean))).await;
        let expected: Vec<_> = lost_ids
            .into_iter()
            .map(|id| lost(id, "stream_ended"))
            .collect();
        let added = match text.ends_with("\n\n") || text.is_empty() {
            true => added(&stream, text.as_bytes()),
            false => stream.messages().split_off(1),
        };
        assert_eq!(added, expected, "{text}");
    }
}

/// G5, F6: what is no event stream, or cannot be read, is not touched.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_readable_event_stream_is_left_alone() {
    for (content_type, encoding) in [
        ("application/json", None),
        ("text/plain", None),
        ("text/event-stream", Some("gzip")),
        ("text/event-stream", Some("br")),
    ] {
        let text = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"resu\x1f\x8b";
        let mut reply = stream(ended(text, End::Broken));
        let headers = reply.headers_mut();
        headers.insert("content-type", content_type.parse().unwrap());
        if let Some(encoding) = encoding {
            headers.insert("content-encoding", encoding.parse().unwrap());
        }
        let stream = answered(layer(), &tool_call(1), reply).await;
        assert_eq!(stream.bytes(), text, "{content_type} {encoding:?}");
        assert_eq!(stream.end, Some(Err(TestError("reset"))));
    }
}

/// G7: `answer_lost_requests(false)` leaves everything as the server leaves it.
#[tokio::test(start_paused = true)]
async fn nothing_is_reported_when_reports_are_turned_off() {
    let off = || layer().answer_lost_requests(false);
    for end in ENDS {
        for text in ["", PROGRESS, "data: {\"id\":1,"] {
            let stream = answered(off(), &tool_call(1), stream(ended(text, end))).await;
            assert_eq!(stream.bytes(), text.as_bytes(), "{end:?}");
            assert_eq!(stream.ended_cleanly(), end != End::Broken);
        }
    }

    let scene = scene(off()).await;
    let calls = feed_all(&scene.server, "tools/call");
    let mut open = scene.call(1).await;
    let gate = hold(&scene.server, "tools/call");
    let headless = scene.spawn(post(Some(&scene.session), &tool_call(2)));
    settle().await;
    scene.recover().await;
    open.now().await;
    advance(Duration::from_secs(600)).await;
    settle().await;
    assert!(open.is_open() && !headless.is_finished());
    calls.data(0, format!("data: {}\n\n", result(1)));
    calls.end(0);
    open.read_to_end().await;
    assert_eq!(open.messages().len(), 1);
    // The server that answers at last does not know the session, and that is not news.
    gate.open();
    assert_eq!(soon(headless).await.unwrap().status, 200);
    assert_eq!(scene.server.count("initialize"), 2);
}

/// G5, G9: an event of 100 MB passes in its chunks, and is taken for the answer it may have been.
#[tokio::test(start_paused = true)]
async fn an_event_of_100_megabytes_passes() {
    for end in [End::Clean, End::Broken] {
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let mut script = Script::new().data("data: {\"id\":1,\"result\":\"");
        for _ in 0..100 {
            script = script.data(&chunk);
        }
        script = script.data("\"}\n\n").data(PROGRESS);
        if end == End::Broken {
            script = script.error("reset");
        }
        let stream = answered(layer(), &tool_call(1), stream(script)).await;
        assert_eq!(stream.chunks.len(), 103);
        assert!(stream.chunks[1..101].iter().all(|passed| *passed == chunk));
        assert_eq!(stream.chunks[102], PROGRESS);
        assert_eq!(stream.ended_cleanly(), end == End::Clean);
    }
}

/// G5, G8: an answer that says by its status that there is nothing in it stays as it is.
#[tokio::test(start_paused = true)]
async fn g5_nothing_is_put_into_what_carries_no_answer() {
    for status in [202, 204, 205] {
        let scene = scene(layer()).await;
        answer_all(&scene.server, "tools/call", move || {
            let mut empty = reply(status, Some("text/event-stream"), "");
            let headers = empty.headers_mut();
            headers.insert("content-length", "0".parse().unwrap());
            empty
        });
        let call = post(Some(&scene.session), &tool_call(1));
        let mut stream = scene.open(call).await;
        assert_eq!(stream.read_to_end().await, "", "{status}");
        assert_eq!(stream.head.headers["content-length"], "0", "{status}");
    }
}

/// G5, G6: what was accepted so is answered on a listening stream, once.
#[tokio::test(start_paused = true)]
async fn g5_what_is_accepted_with_a_streams_type_is_answered_where_the_answer_comes() {
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let mut listening = scene.listen().await;
    answer_all(&scene.server, "tools/call", || {
        reply(202, Some("text/event-stream"), "")
    });
    let call = post(Some(&scene.session), &tool_call(1));
    let mut accepted = scene.open(call).await;
    assert_eq!(accepted.read_to_end().await, "");
    let result = format!("data: {}\n\n", result(1));
    fed.data(0, &result);
    assert_eq!(listening.now().await, result);
}
