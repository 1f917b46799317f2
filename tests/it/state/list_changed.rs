//! Telling a caller that the lists it knows may have changed: rule H3.

use mcp_session_recovery::SessionRecoveryLayer;
use serde_json::{Value, json};
use testing::streams::*;
use testing::*;

const EVENT: &str = "data: {\"n\":2}\n\n";

/// Every list is promised, and one twice over.
fn all_lists() -> Value {
    json!({
        "tools": {"listChanged": true},
        "prompts": {"listChanged": true},
        "resources": {"listChanged": true, "subscribe": true},
    })
}

fn notices(lists: &[&str]) -> Vec<Value> {
    lists
        .iter()
        .map(|list| json!({"jsonrpc": "2.0", "method": format!("notifications/{list}/list_changed")}))
        .collect()
}

async fn promised(capabilities: Value) -> Scene {
    scene_with(
        Profile::TypeScript,
        SessionRecoveryLayer::new(),
        capabilities,
    )
    .await
}

/// H3: whatever the new server promises, the caller knows what it was promised at first.
#[tokio::test(start_paused = true)]
async fn a_recovery_announces_the_lists_that_the_first_server_promised() {
    for (capabilities, lists) in [
        (json!({}), vec![]),
        (
            json!({"tools": {}, "prompts": {"listChanged": false}}),
            vec![],
        ),
        (json!({"tools": {"listChanged": true}}), vec!["tools"]),
        (
            json!({"prompts": {"listChanged": true}, "logging": {"listChanged": true}}),
            vec!["prompts"],
        ),
        (
            json!({"resources": {"listChanged": true}, "tools": {"listChanged": 1}}),
            vec!["resources"],
        ),
        (all_lists(), vec!["tools", "prompts", "resources"]),
    ] {
        // Given a caller that listens to a server with these promises,
        let scene = promised(capabilities).await;
        let fed = feed_all(&scene.server, "GET");
        let mut stream = scene.listen().await;
        fed.data(0, EVENT);
        assert_eq!(stream.now().await, EVENT, "nothing before a recovery");

        for epoch in 1..=2 {
            // when the session moves to one with others,
            let others = if epoch == 1 { json!({}) } else { all_lists() };
            scene.server.set_capabilities(others);
            scene.recover().await;
            stream.now().await;
            fed.data(epoch, EVENT);
            stream.now().await;

            // then the caller's lists are announced once, ahead of what the new server says.
            let expected = [notices(&lists), vec![json!({"n": 2})]].concat();
            let told = stream
                .messages()
                .split_off(1 + (epoch - 1) * expected.len());
            assert_eq!(told, expected, "epoch {epoch}");
        }
        assert!(stream.is_open());
    }
}

/// H3: every notice is an event of its own, between the server's.
#[tokio::test(start_paused = true)]
async fn a_notice_never_falls_inside_an_event() {
    for newline in ["\n", "\r\n", "\r"] {
        let event = "event: message\ndata: {\"n\":1}\nid: 7\n\n".replace('\n', newline);
        for cut in 0..event.len() {
            // Given a new stream whose first event comes in two pieces,
            let scene = promised(all_lists()).await;
            let fed = Fed::default();
            let feeding = fed.clone();
            let first = event[..cut].to_owned();
            scene.server.on(move |seen| {
                let stream = (seen.what() == "GET").then(|| feeding.add())?;
                feeding.data(
                    feeding.count() - 1,
                    if feeding.count() == 2 { &first } else { "" },
                );
                Some(stream)
            });
            let mut stream = scene.listen().await;
            // when the session has moved there,
            scene.recover().await;
            stream.now().await;
            fed.data(1, &event[cut..]);
            stream.now().await;
            fed.data(1, &event);
            stream.now().await;

            // then the notices stand before or behind it,
            let lists = notices(&["tools", "prompts", "resources"]);
            let mut messages = stream.messages();
            messages.retain(|message| !lists.contains(message));
            assert_eq!(
                messages,
                [json!({"n": 1}), json!({"n": 1})],
                "{:?}",
                &event[..cut]
            );
            let told = stream.messages().len() - messages.len();
            assert_eq!(told, 3, "{:?}", &event[..cut]);
            // and every other byte is the server's.
            let is_notice =
                |chunk: &&bytes::Bytes| String::from_utf8_lossy(chunk).contains("list_changed");
            let kept: Vec<_> = stream
                .chunks
                .iter()
                .filter(|chunk| !is_notice(chunk))
                .collect();
            let kept: Vec<u8> = kept.into_iter().flatten().copied().collect();
            assert_eq!(String::from_utf8_lossy(&kept), event.repeat(2));
        }
    }
}

/// H3: a caller that does not listen is told as soon as it does, of all recoveries at once.
#[tokio::test(start_paused = true)]
async fn the_next_listening_stream_brings_what_nobody_listened_to() {
    let scene = promised(all_lists()).await;
    let (calls, gets) = (
        feed_all(&scene.server, "tools/call"),
        feed_all(&scene.server, "GET"),
    );
    let mut call = scene.call(1).await;
    calls.data(0, "id: p1\ndata: \n\n");
    call.now().await;
    scene.recover().await;
    scene.recover().await;

    // Not in the stream of a call, nor in one that resumes a call's,
    let mut in_session = scene.call(2).await;
    calls.data(1, "id: p2\ndata: \n\n");
    in_session.now().await;
    let mut resumed = scene.open(get(&scene.session, Some("p2"))).await;
    assert_eq!(resumed.now().await, "");
    assert_eq!(in_session.now().await, "id: p2\ndata: \n\n");
    let lost_stream = scene.resume("p1").await;
    assert_eq!(lost_stream.messages(), [lost(1, "session_expired")]);
    // nor in a GET that is refused,
    scene.server.on({
        let mut first = true;
        move |seen| {
            (seen.what() == "GET" && std::mem::take(&mut first)).then(|| reply(405, None, ""))
        }
    });
    assert_eq!(scene.listen().await.head.status, 405);

    // but in the next that listens, and in no other.
    let mut first = scene.listen().await;
    let mut second = scene.listen().await;
    first.now().await;
    assert_eq!(
        first.messages(),
        notices(&["tools", "prompts", "resources"])
    );
    assert_eq!(second.now().await, "");
    gets.data(gets.count() - 1, EVENT);
    assert_eq!(second.now().await, EVENT);
    assert_eq!(first.messages().len(), 3);
}

/// H3, G1: a stream that could not be moved takes no notice with it.
#[tokio::test(start_paused = true)]
async fn a_notice_outlives_a_stream_that_is_not_moved() {
    let scene = promised(all_lists()).await;
    let gets = feed_all(&scene.server, "GET");
    let mut cut_off = scene.listen().await;
    let mut refused = scene.listen().await;
    gets.data(0, "data: hal");
    cut_off.now().await;
    scene.server.on({
        let mut first = true;
        let server = scene.server.clone();
        move |seen| {
            let refuses = seen.what() == "GET" && is_live(&server, seen);
            (refuses && std::mem::take(&mut first)).then(|| reply(409, None, ""))
        }
    });
    scene.recover().await;
    gets.end(0);
    assert_eq!(cut_off.read_to_end().await, "data: hal");
    assert_eq!(refused.read_to_end().await, "");

    let mut next = scene.listen().await;
    next.now().await;
    assert_eq!(next.messages(), notices(&["tools", "prompts", "resources"]));
}

/// H3: of several streams one is told.
#[tokio::test(start_paused = true)]
async fn one_of_several_streams_brings_each_notice() {
    let scene = promised(json!({"tools": {"listChanged": true}})).await;
    let _gets = feed_all(&scene.server, "GET");
    let mut streams = [
        scene.listen().await,
        scene.listen().await,
        scene.listen().await,
    ];
    for recoveries in 1..=3 {
        scene.recover().await;
        let mut told = Vec::new();
        for stream in &mut streams {
            stream.now().await;
            told.extend(stream.messages());
        }
        assert_eq!(told, notices(&vec!["tools"; recoveries]));
    }
}

/// H3: a recovery that fails has changed nothing.
#[tokio::test(start_paused = true)]
async fn a_failed_recovery_announces_nothing() {
    let scene = promised(all_lists()).await;
    let gets = feed_all(&scene.server, "GET");
    let mut stream = scene.listen().await;
    scene
        .server
        .on(|seen| (seen.what() == "initialize").then(|| reply(503, None, "")));
    scene.server.restart();
    assert_eq!(scene.post(&ping()).await.status, 404);
    assert_eq!(stream.now().await, "");
    assert!(stream.is_open() && gets.count() == 1);
}

/// H3, G9: a byte order mark is one at the beginning alone, and that is the server's.
#[tokio::test(start_paused = true)]
async fn h3_after_a_notice_in_the_middle_of_a_stream_every_byte_passes() {
    // Given a stream that has begun, and brings a notice then,
    let scene = promised(all_lists()).await;
    let fed = feed_all(&scene.server, "GET");
    scene.recover().await;
    let response = scene.unread(get(&scene.session, None)).await;
    fed.data(0, EVENT);
    let mut stream = Stream::of(response);
    let begun = stream.now().await.to_owned();
    assert!(begun.starts_with(EVENT) && begun.len() > EVENT.len());

    // when a line comes that begins as a byte order mark does,
    let line = "\u{feff}comment\n\n";
    fed.data(0, line);

    // then it passes as it is.
    assert_eq!(stream.now().await, begun + line);
}

/// H3: a server that is polled (SEP-1699) ends each stream at once, and is never waited for.
#[tokio::test(start_paused = true)]
async fn h3_a_stream_whose_end_is_there_already_brings_the_notice_before_it() {
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        http::HeaderValue::from_static("1"),
    )]);
    for trailers in [None, Some(trailers)] {
        for event in ["", EVENT, "id: 1\nretry: 10\ndata: \n\n", "retry: 10\n"] {
            // Given a caller that has something to be told,
            let scene = promised(all_lists()).await;
            let ends = trailers.clone();
            answer_all(&scene.server, "GET", move || {
                let script = Script::new().data(event);
                stream(match &ends {
                    None => script,
                    Some(trailers) => script.trailers(trailers.clone()),
                })
            });
            scene.recover().await;

            // when it listens to a stream that has come to its end,
            let mut first = scene.listen().await;
            let told = first.read_to_end().await;

            // then it is told there, behind all that the server says, and not again.
            assert!(told.starts_with(event), "{told:?}");
            let lists = notices(&["tools", "prompts", "resources"]);
            assert!(first.messages().ends_with(&lists), "{told:?}");
            assert_eq!(first.end, Some(Ok(trailers.clone())), "{told:?}");
            let mut second = scene.listen().await;
            assert_eq!(second.read_to_end().await, event);
            assert_eq!(second.end, Some(Ok(trailers.clone())));
        }
    }
}

/// H3: what a client may not come to read is not told.
#[tokio::test(start_paused = true)]
async fn h3_a_stream_that_ends_in_an_event_or_breaks_leaves_the_notice_to_the_next() {
    for (event, breaks) in [("data: hal", false), ("data: {}\n", false), (EVENT, true)] {
        let scene = promised(all_lists()).await;
        answer_all(&scene.server, "GET", || sse(EVENT));
        let mut first = true;
        scene.server.on(move |seen| {
            let is_first = seen.what() == "GET" && std::mem::take(&mut first);
            let script = Script::new().data(event);
            is_first.then(|| match breaks {
                true => stream(script.error("reset")),
                false => stream(script),
            })
        });
        scene.recover().await;
        let mut cut_off = scene.listen().await;
        assert_eq!(cut_off.read_to_end().await, event);
        assert_eq!(cut_off.ended_cleanly(), !breaks);

        let mut next = scene.listen().await;
        assert_eq!(next.read_to_end().await.matches("list_changed").count(), 3);
        assert!(next.ended_cleanly());
    }
}

/// H3: nor does a stream tell it last that always has something to say, nor inside an event.
#[tokio::test(start_paused = true)]
async fn h3_a_stream_that_always_has_something_brings_the_notice_between_two_events() {
    const EVENTS: usize = 1_000;
    for pieces in [1, 2, 3] {
        let scene = promised(all_lists()).await;
        let event = EVENT.as_bytes();
        answer_all(&scene.server, "GET", move || {
            let chunks = event.chunks(event.len().div_ceil(pieces));
            let chunks = std::iter::repeat_n(chunks, EVENTS).flatten();
            stream(chunks.fold(Script::new(), |script, chunk| script.data(chunk)))
        });
        scene.recover().await;

        let mut stream = scene.listen().await;
        stream.read_to_end().await;

        let lists = notices(&["tools", "prompts", "resources"]);
        let messages = stream.messages();
        assert_eq!(messages.len(), EVENTS + lists.len(), "{pieces}");
        let place = messages.iter().position(|message| *message == lists[0]);
        let place = place.expect("a notice");
        assert_eq!(messages[place..place + lists.len()], lists, "{pieces}");
        assert!(place < EVENTS / 2, "{pieces}: after {place}");
    }
}

/// H3, G5: a GET that is answered with a status which carries nothing is no stream to bring it in,
/// whatever its type.
#[tokio::test(start_paused = true)]
async fn h3_what_carries_nothing_leaves_the_notice_to_the_next_stream() {
    for status in [202, 204, 205] {
        let scene = promised(json!({"tools": {"listChanged": true}})).await;
        scene.recover().await;
        answer_all(&scene.server, "GET", move || {
            reply(status, Some("text/event-stream"), "")
        });
        let mut empty = scene.listen().await;
        assert_eq!(empty.read_to_end().await, "", "{status}");

        let _fed = feed_all(&scene.server, "GET");
        let mut stream = scene.listen().await;
        stream.now().await;
        assert_eq!(stream.messages(), notices(&["tools"]), "{status}");
    }
}
