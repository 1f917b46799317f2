//! Requests that more than one stream may answer, ids that more than one stream used, and events
//! that are too large to be kept: rules G2 to G6, K7.

use std::time::Duration;

use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::{Door, is};
use testing::streams::*;
use testing::*;
use tokio::time::{advance, timeout};

const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);

async fn a_scene() -> (Scene, Fed, Fed) {
    let scene = scene(SessionRecoveryLayer::new()).await;
    let calls = feed_all(&scene.server, "tools/call");
    let gets = feed_all(&scene.server, "GET");
    (scene, calls, gets)
}

async fn after_the_orphan_timeout() {
    settle().await;
    advance(ORPHAN_TIMEOUT + Duration::from_millis(5)).await;
    settle().await;
}

fn event(data: impl std::fmt::Display) -> String {
    format!("data: {data}\n\n")
}

fn answer(id: u64) -> serde_json::Value {
    serde_json::from_str(&result(id)).unwrap()
}

fn large(data: &str) -> String {
    data.replace('?', &"x".repeat(2 << 20))
}

#[tokio::test(start_paused = true)]
async fn g6_a_stream_left_open_gets_no_error_if_a_resumed_one_brought_the_answer() {
    for resumed_answers in [true, false] {
        // Given a call whose stream is open, and resumed in another,
        let (scene, calls, gets) = a_scene().await;
        let mut call = scene.call(5).await;
        calls.data(0, "id: p\ndata: \n\n");
        call.now().await;
        let mut resumed = scene.open(get(&scene.session, Some("p"))).await;

        // when one of the two brings the answer, and the session is lost,
        match resumed_answers {
            true => gets.data(0, event(result(5))),
            false => calls.data(0, event(result(5))),
        }
        call.now().await;
        resumed.now().await;
        scene.recover().await;
        after_the_orphan_timeout().await;

        // then neither is told that it is lost.
        let messages = [call.messages(), resumed.messages()].concat();
        assert_eq!(messages, [answer(5)], "{resumed_answers}");
        assert!(call.is_open() && resumed.is_open());
    }
}

#[tokio::test(start_paused = true)]
async fn g4_an_id_of_two_sessions_means_the_call_that_is_not_answered() {
    // Given servers that count from 0 in each session: call 5 waits, call 6 is answered,
    let (scene, calls, gets) = a_scene().await;
    let mut five = scene.call(5).await;
    calls.data(0, "id: 0/0\ndata: \n\n");
    calls.error(0);
    five.read_to_end().await;
    scene.server.restart();
    let mut six = scene.call(6).await;
    calls.data(1, format!("id: 0/0\ndata: \n\n{}", event(result(6))));
    six.now().await;

    // when the caller resumes, then it is told that call 5 is lost,
    let answer = scene.resume("0/0").await;
    assert_eq!(answer.messages(), [lost(5, "session_expired")]);
    assert_eq!(answer.outcome(), Some(Outcome::AnswerLost));
    assert_eq!(gets.count(), 0);

    // and not once more when its old stream would be.
    after_the_orphan_timeout().await;
    assert!(six.is_open() && five.messages().is_empty());
}

#[tokio::test(start_paused = true)]
async fn g4_what_was_asked_in_the_old_session_means_no_call_of_the_new_one() {
    // Given a server that counts from 0 in each session, a call that its caller polls for,
    let (scene, calls, gets) = a_scene().await;
    let mut five = scene.call(5).await;
    calls.data(0, "id: 0\ndata: \n\n");
    calls.end(0);
    five.read_to_end().await;
    let old = scene.session.clone();
    let is_old = move |seen: &Seen| seen.what() == "GET" && seen.session() == Some(&*old);
    let door = Door::before(&scene.server, is_old);
    let lose = async {
        settle().await;
        // and a call of the next session with the same id, before the server has said of the first
        // that it is gone,
        scene.server.restart();
        let mut six = scene.call(6).await;
        calls.data(1, "id: 0\ndata: \n\n");
        six.now().await;
        door.open();
        six
    };

    // then the caller is told of the one that it has asked for.
    let (told, mut six) = tokio::join!(scene.resume("0"), lose);
    assert_eq!(told.outcome(), Some(Outcome::AnswerLost));
    assert_eq!(told.messages(), [lost(5, "session_expired")]);
    calls.data(1, event(result(6)));
    six.now().await;
    assert_eq!(six.messages(), [answer(6)]);
    assert_eq!(gets.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn g4_a_listening_stream_is_not_taken_for_an_answered_call() {
    // Given a listening stream and an answered call that used the same id,
    let (scene, calls, gets) = a_scene().await;
    let mut listening = scene.listen().await;
    gets.data(0, "id: 0\ndata: \n\n");
    listening.now().await;
    let mut call = scene.call(5).await;
    calls.data(0, format!("id: 0\ndata: \n\n{}", event(result(5))));
    call.now().await;
    gets.end(0);
    listening.read_to_end().await;

    // when the caller resumes it, and the session moves, then so does the stream.
    let mut resumed = scene.open(get(&scene.session, Some("0"))).await;
    scene.recover().await;
    after_the_orphan_timeout().await;
    assert_eq!(gets.count(), 3);
    gets.data(2, event("new"));
    assert_eq!(resumed.now().await, event("new"));
    assert!(resumed.is_open());
}

#[tokio::test(start_paused = true)]
async fn k7_an_idle_listening_stream_is_remembered_whatever_the_calls_bring() {
    // Given a listening stream with one event, long ago,
    let (scene, calls, gets) = a_scene().await;
    let mut listening = scene.listen().await;
    gets.data(0, "id: idle\ndata: {}\n\n");
    gets.end(0);
    listening.read_to_end().await;
    for call in 0..1_100 {
        let mut stream = scene.call(call).await;
        calls.data(call as usize, format!("id: {call}\ndata: \n\n"));
        stream.now().await;
        drop(stream);
    }

    // when its caller reconnects in the next session,
    scene.server.restart();
    let mut resumed = scene.open(get(&scene.session, Some("idle"))).await;

    // then it has a listening stream, which moves like any other.
    assert_eq!(resumed.head.status, 200);
    scene.recover().await;
    resumed.now().await;
    assert_eq!(gets.count(), 3);
    assert!(resumed.is_open());
}

#[tokio::test(start_paused = true)]
async fn g3_ids_of_any_length_are_remembered_and_an_empty_one_is_none() {
    let (scene, calls, gets) = a_scene().await;
    let long = "i".repeat(3_000);
    let mut call = scene.call(5).await;
    calls.data(0, format!("id: {long}\ndata: \n\n"));
    call.now().await;
    scene.server.restart();
    let answer = scene.resume(&long).await;
    assert_eq!(answer.messages(), [lost(5, "session_expired")]);

    // An empty one comes with a listening stream, which is opened anew without it.
    let mut listening = scene.open(get(&scene.session, Some(""))).await;
    scene.recover().await;
    listening.now().await;
    assert_eq!(gets.count(), 2);
    scene.server.restart();
    let mut other = scene.open(get(&scene.session, Some(""))).await;
    assert_eq!(other.head.status, 200);
    assert_eq!(scene.server.last("GET").header(LAST_EVENT_ID), None);
    other.now().await;
    assert!(listening.is_open() && other.is_open());
}

#[tokio::test(start_paused = true)]
async fn g5_a_large_answer_that_did_not_end_is_none() {
    for (sent, answers) in [
        (
            large(r#"data: {"jsonrpc":"2.0","id":5,"result":"?"}"#),
            false,
        ),
        (
            large("data: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":\"?\"}\n"),
            false,
        ),
        (
            large("data: {\"jsonrpc\":\"2.0\",\"id\":5,\"result\":\"?\"}\n\n"),
            true,
        ),
        (
            large("data: {\"result\":\"?\",\"jsonrpc\":\"2.0\",\"id\":5}\n\n"),
            true,
        ),
        (
            large("event: message\r\ndata: {\"id\":5,\"result\":\"?\"}\r\n\r\n"),
            true,
        ),
        (
            large("event: other\ndata: {\"id\":5,\"result\":\"?\"}\n\n"),
            false,
        ),
        (
            large("data: {\"jsonrpc\":\"2.0\",\"method\":\"a\",\"params\":\"?\"}\n\n"),
            false,
        ),
        (
            large("data: {\"id\":5,\"method\":\"a\",\"params\":{\"result\":\"?\"}}\n\n"),
            false,
        ),
        (large(": ?\n\n"), false),
        (large("data: ?"), false),
    ] {
        for size in [64 * 1024, usize::MAX] {
            let (scene, calls, _) = a_scene().await;
            let mut call = scene.call(5).await;
            for chunk in sent.as_bytes().chunks(size) {
                calls.data(0, chunk);
            }
            calls.error(0);
            let read = call.read_to_end().await;
            let case = format!("{:?} {size}", sent.replace("xxxx", ""));
            assert!(read.starts_with(&sent), "{case}");
            let lost_ = lost(5, "stream_ended");
            let messages = call.messages();
            assert_eq!(messages.last() == Some(&lost_), !answers, "{case}");
            assert_eq!(call.ended_cleanly(), !answers, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g6_a_stream_that_hangs_after_a_large_notification_is_left_behind_like_any_other() {
    let (scene, calls, gets) = a_scene().await;
    let mut call = scene.call(5).await;
    let sent =
        large("id: 1\ndata: {\"method\":\"a\",\"params\":\"?\"}\nid: 2\n\nid: 3\ndata: open");
    for chunk in sent.as_bytes().chunks(100_000) {
        calls.data(0, chunk);
    }
    call.now().await;
    scene.recover().await;
    after_the_orphan_timeout().await;

    let read = call.read_to_end().await;
    assert_eq!(call.messages().last(), Some(&lost(5, "session_expired")));
    // The id of the event that was cut is not the client's last one.
    let added = &read[sent.len()..];
    assert!(
        added.starts_with("\nid: 2\nevent: truncated\n\n"),
        "{added:?}"
    );
    // That of the large one is remembered.
    let answer = scene.resume("2").await;
    assert_eq!(answer.messages(), [lost(5, "session_expired")]);
    let stream = scene.open(get(&scene.session, Some("3"))).await;
    assert_eq!((stream.outcome(), gets.count()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn g6_what_was_accepted_to_be_answered_on_a_listening_stream_is_reported_there() {
    let accepted = |id| {
        let mut call = tool_call(id);
        call["params"]["name"] = json!("accepted");
        call
    };
    for loses in [true, false] {
        // Given a server that accepts calls with 202, and answers one of two on the other stream,
        let layer = SessionRecoveryLayer::new().answer_lost_requests(loses);
        let scene = scene(layer).await;
        let gets = feed_all(&scene.server, "GET");
        let living = scene.server.clone();
        scene.server.on(move |seen| {
            let is_call = seen.what() == "tools/call" && is_live(&living, seen);
            is_call.then(|| reply(202, None, ""))
        });
        let mut listening = scene.listen().await;
        for id in [5, 6] {
            assert_eq!(scene.post(&accepted(id)).await.status, 202);
        }
        gets.data(0, event(result(5)));
        listening.now().await;

        // when the session is lost, then the other one is, too, and the caller is told once.
        scene.recover().await;
        listening.now().await;
        gets.data(1, event(r#"{"method":"new"}"#));
        listening.now().await;
        scene.recover().await;
        listening.now().await;
        let mut expected = vec![answer(5)];
        expected.extend(loses.then(|| lost(6, "session_expired")));
        let messages = listening.messages();
        let answers: Vec<_> = messages
            .iter()
            .filter(|it| it["id"] != json!(null))
            .collect();
        assert_eq!(answers, expected.iter().collect::<Vec<_>>());
        assert!(listening.is_open());
    }
}

/// What the other stream does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    BringsIt,
    BringsItLate,
    BringsNothing,
    IsLetGo,
}

#[tokio::test(start_paused = true)]
async fn g6_what_another_listening_stream_may_still_bring_is_not_lost_yet() {
    use Other::*;

    for other in [BringsIt, BringsItLate, BringsNothing, IsLetGo] {
        // Given two listening streams, of which only one is read, and a call accepted with 202,
        let scene = scene(SessionRecoveryLayer::new()).await;
        let gets = feed_all(&scene.server, "GET");
        answer_all(&scene.server, "tools/call", || reply(202, None, ""));
        let mut first = scene.listen().await;
        let second = scene.unread(get(&scene.session, None)).await;
        assert_eq!(scene.post(&tool_call(5)).await.status, 202);
        if other != BringsNothing {
            gets.data(1, event(result(5)));
        }

        // when the session is lost,
        scene.recover().await;
        first.now().await;
        assert_eq!(first.messages(), Vec::<serde_json::Value>::new());
        advance(ORPHAN_TIMEOUT - Duration::from_millis(5)).await;
        first.now().await;
        assert_eq!(first.messages(), Vec::<serde_json::Value>::new());

        // then the other one has until the orphan timeout to bring the answer.
        let read = |second| async {
            let mut second = Stream::of(second);
            second.now().await;
            second.messages()
        };
        let is_lost = lost(5, "session_expired");
        let (on_first, on_second) = match other {
            BringsIt => (vec![], Some((read(second).await, vec![answer(5)]))),
            BringsNothing => {
                // Both have moved on: whichever is read first is told.
                let told = read(second).await;
                (vec![is_lost], Some((told, vec![])))
            }
            IsLetGo => {
                drop(second);
                // Which is known at once.
                first.now().await;
                assert_eq!(first.messages().len(), 1);
                (vec![is_lost], None)
            }
            BringsItLate => {
                after_the_orphan_timeout().await;
                (vec![is_lost], Some((read(second).await, vec![answer(5)])))
            }
        };
        after_the_orphan_timeout().await;
        first.now().await;
        assert_eq!(first.messages(), on_first, "{other:?}");
        if let Some((messages, expected)) = on_second {
            assert_eq!(messages, expected, "{other:?}");
        }

        // And once it is told it is not told again.
        scene.recover().await;
        after_the_orphan_timeout().await;
        first.now().await;
        assert_eq!(first.messages(), on_first, "{other:?}");
    }
}

/// A caller may keep the body of a stream that has ended.
#[tokio::test(start_paused = true)]
async fn g6_a_stream_that_has_ended_brings_nothing() {
    use http_body_util::BodyExt;

    // Given a call that was accepted with 202, and a listening stream that has ended since,
    let scene = scene(SessionRecoveryLayer::new()).await;
    let gets = feed_all(&scene.server, "GET");
    answer_all(&scene.server, "tools/call", || reply(202, None, ""));
    let mut ended = scene.unread(get(&scene.session, None)).await.into_body();
    let mut first = scene.listen().await;
    assert_eq!(scene.post(&tool_call(5)).await.status, 202);
    gets.end(0);
    assert!(ended.frame().await.is_none());
    // when the session is lost, then so is the call, at once.
    scene.recover().await;
    first.now().await;
    assert_eq!(first.messages(), [lost(5, "session_expired")]);
    drop(ended);
}

/// F4: also where the call was too large to be kept.
#[tokio::test(start_paused = true)]
async fn g6_a_request_over_the_limit_that_was_accepted_is_lost_as_well() {
    // Given such a call, that was accepted with 202, and a listening stream,
    let scene = scene(SessionRecoveryLayer::new().max_body_bytes(1_000)).await;
    let _gets = feed_all(&scene.server, "GET");
    answer_all(&scene.server, "tools/call", || reply(202, None, ""));
    let mut listening = scene.listen().await;
    let mut call = tool_call(5);
    call["params"]["arguments"]["text"] = json!("x".repeat(5_000));
    assert_eq!(scene.post(&call).await.status, 202);
    // when the session is lost, then so is the call.
    scene.recover().await;
    listening.now().await;
    assert_eq!(listening.messages(), [lost(5, "session_expired")]);
}

/// K: a stream that is not read keeps nobody waiting for longer.
#[tokio::test(start_paused = true)]
async fn g6_the_time_of_another_stream_does_not_begin_anew() {
    for is_recovered in [false, true] {
        // Given a stream that nobody reads, and a call that it may answer,
        let scene = scene(SessionRecoveryLayer::new()).await;
        let _gets = feed_all(&scene.server, "GET");
        answer_all(&scene.server, "tools/call", || reply(202, None, ""));
        let mut first = scene.listen().await;
        let _second = scene.unread(get(&scene.session, None)).await;
        assert_eq!(scene.post(&tool_call(5)).await.status, 202);
        // when the session is lost, and before the orphan timeout lost again, or listened to anew,
        scene.recover().await;
        first.now().await;
        advance(ORPHAN_TIMEOUT - Duration::from_secs(1)).await;
        match is_recovered {
            true => scene.recover().await,
            false => first = scene.listen().await,
        }
        first.now().await;
        assert_eq!(first.messages(), Vec::<serde_json::Value>::new());
        // then the call is lost after that.
        advance(Duration::from_secs(1)).await;
        first.now().await;
        assert_eq!(
            first.messages(),
            [lost(5, "session_expired")],
            "{is_recovered}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g6_of_each_stream_that_is_let_go_it_is_told_at_once_what_it_will_not_bring() {
    // Given a call in each of two epochs that were lost since, and a stream of each that nobody reads,
    let scene = scene(SessionRecoveryLayer::new()).await;
    let _gets = feed_all(&scene.server, "GET");
    answer_all(&scene.server, "tools/call", || reply(202, None, ""));
    let mut listening = scene.listen().await;
    let mut unread = Vec::new();
    for id in [5, 6] {
        unread.push(scene.unread(get(&scene.session, None)).await);
        assert_eq!(scene.post(&tool_call(id)).await.status, 202);
        scene.recover().await;
        listening.now().await;
    }
    assert_eq!(listening.messages(), Vec::<serde_json::Value>::new());

    // when one after the other is let go, then its call is lost, and no sooner.
    let mut expected = Vec::new();
    for id in [6, 5] {
        unread.pop();
        listening.now().await;
        expected.push(lost(id, "session_expired"));
        assert_eq!(listening.messages(), expected);
    }
}

/// The streams have moved on by then, and have nothing to say.
#[tokio::test(start_paused = true)]
async fn g6_what_is_accepted_after_the_session_is_lost_is_lost_at_once() {
    for has_second in [false, true] {
        // Given a call that an old process has yet to answer with 202,
        let scene = scene(SessionRecoveryLayer::new()).await;
        let _gets = feed_all(&scene.server, "GET");
        let door = Door::then(&scene.server, is("tools/call"), |_| reply(202, None, ""));
        let mut first = scene.listen().await;
        let second = match has_second {
            true => Some(scene.unread(get(&scene.session, None)).await),
            false => None,
        };
        let call = scene.spawn(post(Some(&scene.session), &tool_call(5)));
        settle().await;
        scene.recover().await;
        first.now().await;
        // when it does, then that is told,
        door.open();
        assert_eq!(call.await.unwrap().status, 202);
        first.now().await;
        let is_lost = [lost(5, "session_expired")];
        if has_second {
            // unless another stream may still bring the answer.
            assert_eq!(first.messages(), Vec::<serde_json::Value>::new());
            after_the_orphan_timeout().await;
            first.now().await;
        }
        assert_eq!(first.messages(), is_lost, "{has_second}");
        drop(second);
    }
}

/// A body that always has another frame.
struct Always(&'static str);

impl http_body::Body for Always {
    type Data = bytes::Bytes;
    type Error = TestError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, TestError>>> {
        let chunk = bytes::Bytes::from_static(self.0.as_bytes());
        std::task::Poll::Ready(Some(Ok(http_body::Frame::data(chunk))))
    }
}

#[tokio::test(start_paused = true)]
async fn k_a_stream_that_always_has_something_does_not_keep_its_thread() {
    use http_body_util::BodyExt;

    for chunk in ["", "data: x\n\n", "\u{feff}", "id: 7\ndata: x\n\n"] {
        let scene = scene(SessionRecoveryLayer::new()).await;
        scene.server.on(move |seen| {
            let streams = matches!(seen.what().as_str(), "GET" | "tools/call");
            streams.then(|| {
                let mut reply = http::Response::new(Always(chunk).boxed());
                let event_stream = "text/event-stream".parse().unwrap();
                reply.headers_mut().insert("content-type", event_stream);
                reply
            })
        });
        for request in [
            get(&scene.session, None),
            post(Some(&scene.session), &tool_call(1)),
        ] {
            let mut body = scene.unread(request).await.into_body();
            let reading = async { while body.frame().await.is_some() {} };
            let read = timeout(Duration::from_millis(5), async {
                tokio::join!(reading, advance(Duration::from_millis(10)));
            });
            assert!(read.await.is_err(), "the time is up, for all that it has");
        }
    }
}
