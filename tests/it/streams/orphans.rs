//! Requests left behind in a session that has been replaced: rules G6, G7.

use std::time::Duration;

use http::{Method, Request};
use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::{Value, json};
use testing::scenario::hang;
use testing::streams::*;
use testing::*;
use tokio::time::{Instant, advance};

const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);
const PROGRESS: &str = "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"result\":1}}\n\n";

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

/// Answers every POST but the handshake and `ping` with a stream fed from the test.
fn feed_posts(server: &Server) -> Fed {
    let fed = Fed::default();
    let (feeding, living) = (fed.clone(), server.clone());
    server.on(move |seen| {
        let own = ["initialize", "notifications/initialized", "ping"];
        let feeds = seen.method == Method::POST && !own.contains(&seen.what().as_str());
        (feeds && is_live(&living, seen)).then(|| feeding.add())
    });
    fed
}

/// G6, G7: requests left behind in a dead session have their time to be answered, and no more.
#[tokio::test(start_paused = true)]
async fn an_open_stream_of_a_dead_session_ends_with_the_error_after_the_orphan_timeout() {
    let custom = Duration::from_millis(1_500);
    for (layer, timeout) in [
        (layer(), ORPHAN_TIMEOUT),
        (layer().orphan_timeout(custom), custom),
    ] {
        // An event id does not help: there is no session to resume in.
        for text in [
            "",
            PROGRESS,
            "id: 7\ndata: \n\n",
            "id: 7\ndata: {\"id\":1,\"re",
            "id: 7\ndata: {\"id\":1,\n",
        ] {
            // Given a call under way,
            let scene = scene(layer.clone()).await;
            let calls = feed_all(&scene.server, "tools/call");
            let mut call = scene.call(1).await;
            calls.data(0, text);
            advance(Duration::from_secs(3_000)).await;
            assert_eq!(
                call.now().await,
                text,
                "no session is lost, and time does not matter"
            );

            // when its session is replaced,
            scene.recover().await;
            let start = Instant::now();
            settle().await;
            advance(timeout - Duration::from_millis(5)).await;
            assert_eq!(call.now().await, text);
            assert!(call.is_open());

            // then it has its time, and then the error.
            call.read_to_end().await;
            assert!(start.elapsed().abs_diff(timeout) <= Duration::from_millis(2));
            assert!(call.ended_cleanly());
            assert_eq!(
                call.messages().pop(),
                Some(lost(1, "session_expired")),
                "{text:?}"
            );
            assert_eq!(call.bytes()[..text.len()], *text.as_bytes());
            assert!(
                calls.is_dropped(0),
                "nobody waits for the server any longer"
            );
        }
    }
}

/// G6: an answer that comes in time is the answer.
#[tokio::test(start_paused = true)]
async fn an_answer_within_the_orphan_timeout_is_passed_on() {
    let scene = scene(layer()).await;
    let calls = feed_all(&scene.server, "tools/call");
    let mut call = scene.call(1).await;
    let mut held = scene.call(2).await;
    scene.recover().await;
    call.now().await;
    advance(ORPHAN_TIMEOUT - Duration::from_millis(1)).await;
    let answer = format!("data: {}\n\n", result(1));
    calls.data(0, &answer);
    assert_eq!(call.now().await, answer);

    // What else the stream brings takes what time it wants.
    held.read_to_end().await;
    advance(Duration::from_secs(600)).await;
    assert_eq!(call.now().await, answer);
    assert!(call.is_open());
    calls.data(0, PROGRESS);
    calls.end(0);
    assert_eq!(call.read_to_end().await, answer + PROGRESS);

    // A stream of the new session is nobody's orphan.
    let mut new = scene.call(3).await;
    advance(Duration::from_secs(600)).await;
    assert_eq!(new.now().await, "");
    assert!(new.is_open());
}

/// A body that is not there at once.
fn late(session: &str, message: &Value) -> Request<CallerBody> {
    let mut request = post(Some(session), message);
    let script = Script::new().yields().data(message.to_string());
    *request.body_mut() = http_body_util::BodyExt::boxed(script);
    request
}

/// G6, G7, M1: where no response head has come, the error is the answer.
#[tokio::test(start_paused = true)]
async fn g6_a_call_without_a_head_is_answered_200_with_the_error_after_the_orphan_timeout() {
    let scene = scene(layer()).await;
    never_answer(&scene.server, "tools/call");
    let array = json!([tool_call(2), {"jsonrpc": "2.0", "id": "c", "method": "tools/call"}]);
    scene.server.on_async(|seen| {
        let is_batch = seen.message().is_array();
        is_batch.then(|| Box::pin(std::future::pending()) as Answering)
    });
    let calls = [
        scene.spawn(post(Some(&scene.session), &tool_call(1))),
        scene.spawn(late(&scene.session, &tool_call(1))),
        scene.spawn(post(Some(&scene.session), &array)),
    ];
    settle().await;
    assert_eq!(scene.server.seen().len(), 5);
    scene.recover().await;
    let start = Instant::now();
    settle().await;
    advance(ORPHAN_TIMEOUT - Duration::from_millis(5)).await;
    settle().await;
    assert!(calls.iter().all(|call| !call.is_finished()));

    for (number, call) in calls.into_iter().enumerate() {
        let answer = soon(call).await.unwrap();
        assert!(start.elapsed().abs_diff(ORPHAN_TIMEOUT) <= Duration::from_millis(2));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.outcome(), Some(Outcome::AnswerLost));
        let expected = match number {
            2 => json!([lost(2, "session_expired"), lost("c", "session_expired")]),
            _ => lost(1, "session_expired"),
        };
        assert_eq!(answer.message(), expected);
    }
    assert_eq!(
        scene.server.count("initialize"),
        2,
        "the answer is the layer's own"
    );
}

/// G6: a replay, and a request that waited for the recovery, can be left behind as well.
#[tokio::test(start_paused = true)]
async fn a_call_left_behind_by_the_recovery_after_its_own_is_answered() {
    let scene = scene(layer()).await;
    scene.server.restart();
    never_answer(&scene.server, "tools/call");
    let gate = hold(&scene.server, "initialize");
    let replayed = scene.spawn(post(Some(&scene.session), &tool_call(1)));
    settle().await;
    let waited = scene.spawn(post(Some(&scene.session), &tool_call(2)));
    settle().await;
    gate.open();
    settle().await;
    assert_eq!(scene.server.count("tools/call"), 3);
    advance(Duration::from_secs(600)).await;
    assert!(!replayed.is_finished() && !waited.is_finished());

    scene.recover().await;
    for (call, id) in [(replayed, 1), (waited, 2)] {
        let start = Instant::now();
        let answer = soon(call).await.unwrap();
        assert!(start.elapsed() <= ORPHAN_TIMEOUT + Duration::from_millis(2));
        assert_eq!(
            (answer.status, answer.message()),
            (200, lost(id, "session_expired"))
        );
    }
}

/// G6: nobody waits by id for what is no request, so it has all the time it wants.
#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_not_orphaned() {
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/x"});
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    let scene = scene(layer()).await;
    let gate = tokio::sync::watch::channel(false);
    let opened = gate.1;
    scene.server.on_async(move |seen| {
        let own = ["initialize", "notifications/initialized", "ping"];
        let mut gate = opened.clone();
        (!own.contains(&seen.what().as_str())).then(|| {
            Box::pin(async move {
                gate.wait_for(|open| *open).await.unwrap();
                Ok(reply(202, None, "late"))
            }) as Answering
        })
    });
    let requests = [
        post(Some(&scene.session), &notification),
        late(&scene.session, &notification),
        post(Some(&scene.session), &response),
        get(&scene.session, None),
        delete(&scene.session),
    ]
    .map(|request| scene.spawn(request));
    settle().await;
    scene.recover().await;
    settle().await;
    advance(Duration::from_secs(600)).await;
    settle().await;
    assert!(requests.iter().all(|request| !request.is_finished()));

    gate.0.send_replace(true);
    for request in requests {
        let answer = soon(request).await.unwrap();
        assert_eq!((answer.status, answer.text()), (202, "late"));
    }
}

/// G6: nor is an event stream that answers no request, nor a listening stream.
#[tokio::test(start_paused = true)]
async fn streams_that_answer_no_request_are_not_orphaned() {
    let scene = scene(layer()).await;
    let fed = feed_posts(&scene.server);
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/x"});
    let mut stream = scene.open(post(Some(&scene.session), &notification)).await;
    scene.recover().await;
    stream.now().await;
    advance(Duration::from_secs(600)).await;
    fed.data(0, PROGRESS);
    assert_eq!(stream.now().await, PROGRESS);
    assert!(stream.is_open());
}

/// G6: a stream that was resumed in its session waits in it like the one before.
#[tokio::test(start_paused = true)]
async fn a_resumed_answer_is_orphaned_with_its_session() {
    let scene = scene(layer()).await;
    let (calls, gets) = (
        feed_all(&scene.server, "tools/call"),
        feed_all(&scene.server, "GET"),
    );
    let mut call = scene.call(1).await;
    calls.data(0, "id: p1\ndata: \n\n");
    calls.error(0);
    call.read_to_end().await;
    let mut resumed = scene.open(get(&scene.session, Some("p1"))).await;
    scene.recover().await;
    let start = Instant::now();
    resumed.read_to_end().await;
    assert_eq!(start.elapsed().as_secs(), ORPHAN_TIMEOUT.as_secs());
    assert_eq!(resumed.messages(), [lost(1, "session_expired")]);
    assert_eq!(gets.count(), 1, "it listens to nothing that could move");
}

/// G6: a server that goes on sending does not keep the caller from its error, and one that stops
/// does not get to end the stream twice.
#[tokio::test(start_paused = true)]
async fn a_busy_stream_is_orphaned_as_well_and_only_once() {
    let scene = scene(layer()).await;
    let calls = feed_all(&scene.server, "tools/call");
    let mut call = scene.call(1).await;
    scene.recover().await;
    for _ in 0..31 {
        calls.data(0, PROGRESS);
        call.now().await;
        advance(Duration::from_secs(1)).await;
    }
    calls.data(0, format!("data: {}\n\n", result(1)));
    calls.end(0);
    call.read_to_end().await;
    let answers: Vec<_> = call
        .messages()
        .into_iter()
        .filter(|m| m["id"] == 1)
        .collect();
    assert_eq!(answers, [lost(1, "session_expired")]);
}

/// G6, G7: also a batch of one gets an array.
#[tokio::test(start_paused = true)]
async fn g6_a_batch_of_one_is_answered_with_an_array() {
    let scene = scene(SessionRecoveryLayer::new()).await;
    hang(&scene.server, "POST");
    let batch = scene.spawn(post(Some(&scene.session), &json!([tool_call(5)])));
    settle().await;
    scene.recover().await;
    let answer = soon(batch).await.unwrap();
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::AnswerLost))
    );
    let body: serde_json::Value = serde_json::from_slice(answer.text().as_bytes()).unwrap();
    assert_eq!(body[0]["id"], 5);
    assert_eq!(body[0]["error"]["code"], -32000);
}

/// G6: where two streams may answer a request, one of them tells that it is lost.
#[tokio::test(start_paused = true)]
async fn g6_a_request_of_two_streams_is_lost_once() {
    // Given a call whose stream the caller has resumed while it was still open,
    let scene = scene(layer()).await;
    let calls = feed_all(&scene.server, "tools/call");
    let gets = feed_all(&scene.server, "GET");
    let mut call = scene.call(5).await;
    calls.data(0, "id: p\ndata: \n\n");
    call.now().await;
    let mut resumed = scene.open(get(&scene.session, Some("p"))).await;
    gets.data(0, "id: q\ndata: \n\n");
    resumed.now().await;
    // when the session is replaced, and their time is over,
    scene.recover().await;
    call.now().await;
    resumed.now().await;
    tokio::time::sleep(ORPHAN_TIMEOUT + Duration::from_secs(1)).await;
    call.now().await;
    resumed.now().await;
    // then the caller is told once.
    let told = [call.messages(), resumed.messages()].concat();
    assert_eq!(told, [lost(5, "session_expired")]);
}

/// G6: what was answered before the event that a caller resumes from is not waited for, and what came
/// after it is, whatever the first stream had brought.
#[tokio::test(start_paused = true)]
async fn g6_a_stream_that_is_resumed_from_before_its_answer_waits_for_it_again() {
    let scene = scene(layer()).await;
    let calls = feed_all(&scene.server, "tools/call");
    let gets = feed_all(&scene.server, "GET");
    let mut call = scene.call(5).await;
    calls.data(0, "id: p\ndata: \n\n");
    calls.data(0, format!("data: {}\n\n", result(5)));
    call.now().await;
    // Given a caller whose connection broke before it had read that,
    drop(call);
    let mut resumed = scene.open(get(&scene.session, Some("p"))).await;
    gets.data(0, "data: \n\n");
    resumed.now().await;
    // when the session is replaced, then it is told that the answer will not come.
    scene.recover().await;
    resumed.now().await;
    tokio::time::sleep(ORPHAN_TIMEOUT + Duration::from_secs(1)).await;
    resumed.now().await;
    assert_eq!(resumed.messages(), [lost(5, "session_expired")]);
}

/// G6: a response on a listening stream may be too large to be read.
#[tokio::test(start_paused = true)]
async fn g6_a_large_response_on_a_listening_stream_counts() {
    for (is_answered, told) in [(true, 0), (false, 1)] {
        let scene = scene(layer()).await;
        let gets = feed_all(&scene.server, "GET");
        answer_all(&scene.server, "tools/call", || reply(202, None, ""));
        let mut stream = scene.listen().await;
        scene.send(post(Some(&scene.session), &tool_call(5))).await;
        if is_answered {
            let text = "x".repeat(2 * 1024 * 1024);
            let response = json!({"jsonrpc": "2.0", "id": 5, "result": {"text": text}});
            gets.data(0, format!("data: {response}\n\n"));
            stream.now().await;
        }
        scene.recover().await;
        stream.now().await;
        let error = lost(5, "session_expired");
        let messages = stream.messages();
        assert_eq!(messages.iter().filter(|it| **it == error).count(), told);
    }
}
