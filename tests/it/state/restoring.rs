//! What a session held is there in the next one: rules H1, H2, K8.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, RecoveryEvent, SessionRecoveryLayer};
use serde_json::{Value, json};
use testing::streams::*;
use testing::*;
use tokio::time::{Instant, sleep};

const SUBSCRIBE: &str = "resources/subscribe";
const SET_LEVEL: &str = "logging/setLevel";

/// The events of all recoveries through a layer.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<RecoveryEvent>>>);

impl Events {
    fn of(layer: SessionRecoveryLayer) -> (SessionRecoveryLayer, Self) {
        let events = Self::default();
        let told = events.clone();
        let layer = layer.on_recovery(move |event| told.0.lock().unwrap().push(event.clone()));
        (layer, events)
    }

    fn last(&self) -> RecoveryEvent {
        self.0.lock().unwrap().last().expect("a recovery").clone()
    }

    fn not_restored(&self) -> Vec<&'static str> {
        let mut methods = self.last().not_restored().to_vec();
        methods.sort_unstable();
        methods
    }
}

async fn told(layer: SessionRecoveryLayer) -> (Scene, Events) {
    let (layer, events) = Events::of(layer);
    (scene(layer).await, events)
}

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

fn set_level(level: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 10, "method": SET_LEVEL, "params": {"level": level}})
}

fn subscribe(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 11, "method": SUBSCRIBE, "params": {"uri": uri}})
}

fn unsubscribe(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 12, "method": "resources/unsubscribe", "params": {"uri": uri}})
}

/// The state that the layer itself set in the session that is current now, as method and argument.
fn restored(scene: &Scene) -> BTreeSet<(String, String)> {
    let session = scene.server.last("notifications/initialized");
    let mut restored = BTreeSet::new();
    for seen in scene.server.seen() {
        let message = seen.message();
        let own = message["id"].as_str().is_some_and(|id| id != "the ping");
        if own && seen.session() == session.session() && seen.what() != "ping" {
            let params = message["params"].as_object().expect("params");
            let (_, argument) = params.iter().next().expect("an argument");
            let argument = argument.as_str().expect("text").to_owned();
            assert!(restored.insert((seen.what(), argument)), "twice: {message}");
        }
    }
    restored
}

fn state(level: Option<&str>, uris: &[&str]) -> BTreeSet<(String, String)> {
    let level = level.map(|level| (SET_LEVEL.to_owned(), level.to_owned()));
    let uris = uris
        .iter()
        .map(|uri| (SUBSCRIBE.to_owned(), (*uri).to_owned()));
    uris.chain(level).collect()
}

/// H1: what counts is how large a message is, not the batch that it came in.
#[tokio::test(start_paused = true)]
async fn h1_a_subscription_in_a_large_batch_is_kept_and_one_to_a_huge_uri_is_not() {
    // Given a batch of many calls, a subscription among them, and one to a huge URI,
    let scene = scene_with(Profile::TypeScriptJson, layer(), json!({})).await;
    let huge = "u".repeat(9 * 1024);
    let mut batch: Vec<_> = (100..400).map(tool_call).collect();
    batch.push(subscribe("kept"));
    let mut other = subscribe(&huge);
    other["id"] = json!(12);
    batch.push(other);
    let result = |id: u64| json!({"jsonrpc": "2.0", "id": id, "result": {}});
    let results = json!([result(11), result(12)]).to_string();
    let mut answer = Some(reply(200, Some("application/json"), &results));
    scene.server.on(move |_| answer.take());

    // in frames of a byte each,
    let batch = format!("\n{}", json!(batch));
    let frames = batch.as_bytes().chunks(1);
    let body = frames.fold(Script::new(), Script::data);
    let request = post(Some(&scene.session), &json!({})).map(|_| body.boxed());

    // when it has been answered, and the session is lost,
    assert_eq!(scene.send(request).await.status, 200);
    scene.server.restart();
    assert_eq!(scene.call(1).await.outcome(), Some(Outcome::Replayed));

    // then the one is asked for again.
    assert_eq!(restored(&scene), state(None, &["kept"]));
}

/// H1, E9: the last level, and the subscriptions that are open, before the new session is used.
#[tokio::test(start_paused = true)]
async fn level_and_subscriptions_are_set_again_before_the_call_is_replayed() {
    for profile in Profile::ALL {
        // Given a session with a history,
        let (layer, events) = Events::of(layer());
        let scene = scene_with(profile, layer, json!({"logging": {}})).await;
        let odd = "file:///\u{e4} \"\\\n?a=1&b=2#x";
        for message in [
            set_level("info"),
            subscribe("a"),
            subscribe(odd),
            subscribe("b"),
            subscribe("b"),
            unsubscribe("a"),
            unsubscribe("never"),
            set_level("error"),
        ] {
            assert_eq!(scene.post(&message).await.status, 200, "{profile:?}");
        }
        for epoch in 1..=2 {
            // when it is lost, however often,
            scene.server.set_version("2025-06-18");
            scene.server.restart();
            let mut trigger = post(Some(&scene.session), &tool_call(1));
            trigger
                .headers_mut()
                .insert("authorization", "Bearer fresh".parse().unwrap());
            let answer = scene.send(trigger).await;

            // then the new session holds what this one held, and then the call comes.
            assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{profile:?}");
            assert_eq!(
                restored(&scene),
                state(Some("error"), &["b", odd]),
                "{profile:?}"
            );
            let log = scene.server.log();
            let (_, recovery) = log.split_at(log.len() - 6);
            assert_eq!(recovery[..2], ["initialize", "notifications/initialized"]);
            assert_eq!(recovery[5], "tools/call", "epoch {epoch}");
            for own in scene.server.seen().iter().rev().skip(1).take(3) {
                assert_eq!(own.session(), scene.server.last("tools/call").session());
                assert_eq!(own.header(PROTOCOL_VERSION), Some("2025-06-18"));
                assert_eq!(own.header("authorization"), Some("Bearer fresh"));
                assert_eq!(own.message()["jsonrpc"], "2.0");
            }
            assert_eq!(events.not_restored(), [""; 0], "{profile:?}");
        }
    }
}

/// H1, E3, E9: nobody uses the new session before.
#[tokio::test(start_paused = true)]
async fn nobody_uses_the_new_session_while_it_is_restored() {
    for slow in [SUBSCRIBE, SET_LEVEL] {
        let scene = scene(layer()).await;
        scene.post(&subscribe("a")).await;
        scene.post(&set_level("info")).await;
        scene.server.restart();
        let gate = hold(&scene.server, slow);
        let session = scene.session.as_str();
        let requests = [
            post(Some(session), &tool_call(1)),
            post(Some(session), &tool_call(2)),
            get(session, Some("7")),
            post(
                Some(session),
                &json!({"jsonrpc": "2.0", "method": "notifications/x"}),
            ),
        ]
        .map(|request| {
            let client = scene.client.clone();
            tokio::spawn(async move { Stream::open(&client, request).await })
        });
        settle().await;
        let established = scene.server.last("notifications/initialized");
        let in_new_session = || {
            let mut seen = scene.server.seen();
            seen.retain(|seen| seen.session() == established.session());
            seen.iter().map(Seen::what).collect::<BTreeSet<_>>()
        };
        let own = BTreeSet::from(["notifications/initialized", SUBSCRIBE, SET_LEVEL]);
        assert_eq!(
            in_new_session(),
            own.into_iter().map(str::to_owned).collect()
        );

        gate.open();
        for request in requests {
            soon(request).await.unwrap();
        }
        assert!(in_new_session().contains("tools/call"));
        assert_eq!(scene.server.count("initialize"), 2);
    }
}

/// H1: what was refused was never set.
#[tokio::test(start_paused = true)]
async fn only_what_was_answered_2xx_is_kept() {
    let scene = scene(layer()).await;
    scene.post(&set_level("info")).await;
    scene.post(&subscribe("a")).await;
    let refuse = Arc::new(Mutex::new(Some(400)));
    let status = refuse.clone();
    scene.server.on(move |seen| {
        let own = ["initialize", "notifications/initialized", "ping"];
        let status = status
            .lock()
            .unwrap()
            .filter(|_| !own.contains(&seen.what().as_str()))?;
        let id = seen.message()["id"].clone();
        let result = json!({"jsonrpc": "2.0", "id": id, "result": {}});
        Some(json_reply(status, &result))
    });
    for status in [301, 400, 403, 429, 500, 503] {
        *refuse.lock().unwrap() = Some(status);
        for message in [set_level("debug"), subscribe("b"), unsubscribe("a")] {
            assert_eq!(scene.post(&message).await.status, status);
        }
    }
    *refuse.lock().unwrap() = None;
    scene.server.on(|seen| {
        let uri = &seen.message()["params"]["uri"];
        (uri == "accepted" || uri == 7).then(|| reply(202, None, ""))
    });
    // Nor is what asks for nothing: a notification, a response, another method's arguments.
    for message in [
        json!({"jsonrpc": "2.0", "method": SUBSCRIBE, "params": {"uri": "c"}}),
        json!({"jsonrpc": "2.0", "id": 1, "result": {"method": SUBSCRIBE, "params": {"uri": "c"}}}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"method": SET_LEVEL, "level": "debug"}}),
        json!({"jsonrpc": "2.0", "id": 1, "method": SUBSCRIBE, "params": {"uri": 7}}),
        json!({"jsonrpc": "2.0", "id": 1, "method": SET_LEVEL}),
    ] {
        scene.send(post(Some(&scene.session), &message)).await;
    }
    // Nor is what was accepted without a result.
    scene.post(&subscribe("accepted")).await;

    scene.recover().await;
    assert_eq!(restored(&scene), state(Some("info"), &["a"]));
}

/// The results of a batch's requests.
fn results(batch: &Value) -> Value {
    let requests = batch.as_array().expect("a batch").iter();
    requests
        .map(|request| json!({"jsonrpc": "2.0", "id": request["id"], "result": {}}))
        .collect()
}

/// H1: a batch, and a request that was replayed or waited, count like any other.
#[tokio::test(start_paused = true)]
async fn state_that_is_set_in_a_batch_or_during_a_recovery_is_kept() {
    let scene = scene(layer()).await;
    let batch = json!([
        subscribe("a"),
        set_level("info"),
        subscribe("b"),
        unsubscribe("a")
    ]);
    scene.server.on(|seen| {
        seen.message()
            .is_array()
            .then(|| json_reply(200, &results(&seen.message())))
    });
    scene.post(&batch).await;
    scene.server.restart();
    let gate = hold(&scene.server, "initialize");
    let replayed = scene.spawn(post(Some(&scene.session), &subscribe("replayed")));
    settle().await;
    let waited = scene.spawn(post(Some(&scene.session), &set_level("error")));
    settle().await;
    gate.open();
    for request in [replayed, waited] {
        assert_eq!(soon(request).await.unwrap().status, 200);
    }
    assert_eq!(
        restored(&scene),
        state(Some("info"), &["b"]),
        "what was set before"
    );

    scene.recover().await;
    assert_eq!(restored(&scene), state(Some("error"), &["b", "replayed"]));
}

/// H1: an answer that comes another way than its request went is an answer: on a listening stream, where
/// the request was accepted with 202, or on the stream resumed.
#[tokio::test(start_paused = true)]
async fn h1_an_answer_on_another_stream_than_the_requests_counts() {
    for resumes in [true, false] {
        for moves in [true, false] {
            // Given a server that primes the streams of requests and breaks them, or answers 202,
            let scene = scene(layer()).await;
            let gets = feed_all(&scene.server, "GET");
            scene.post(&set_level("info")).await;
            scene.post(&subscribe("old")).await;
            let living = scene.server.clone();
            scene.server.on(move |seen| {
                let is_own = seen.message()["id"].is_string();
                let asks = [SUBSCRIBE, "resources/unsubscribe", SET_LEVEL];
                let is_asked = asks.contains(&&*seen.what()) && !is_own && is_live(&living, seen);
                let id = seen.message()["params"].to_string();
                is_asked.then(|| match resumes {
                    true => sse(&format!("id: {}\ndata: \n\n", id.len())),
                    false => reply(202, None, ""),
                })
            });
            let changes = [
                (subscribe("new"), "result"),
                (unsubscribe("old"), "result"),
                (subscribe("refused, which is longer"), "error"),
                (set_level("error"), "result"),
            ];
            let mut listening = scene.listen().await;
            for (at, (mut change, answer)) in changes.into_iter().enumerate() {
                change["id"] = json!(100 + at);
                let asked = scene.post(&change).await;
                assert_eq!(asked.status, if resumes { 200 } else { 202 });
                // when the answer comes on another stream,
                let data = format!("data: {{\"id\":{},\"{answer}\":{{}}}}\n\n", 100 + at);
                match resumes {
                    true => {
                        let id = change["params"].to_string().len().to_string();
                        let mut resumed = scene.open(get(&scene.session, Some(&id))).await;
                        gets.data(gets.count() - 1, &data);
                        gets.end(gets.count() - 1);
                        resumed.read_to_end().await;
                        assert_eq!(resumed.bytes(), data.as_bytes());
                    }
                    false => {
                        gets.data(0, &data);
                        listening.now().await;
                    }
                }
            }

            // then the next session holds what it says, and the one after that.
            for _ in 0..1 + usize::from(moves) {
                scene.recover().await;
                settle().await;
                assert_eq!(
                    restored(&scene),
                    state(Some("error"), &["new"]),
                    "{resumes}"
                );
            }
        }
    }
}

/// H1: what was refused inside a 200, as JSON or as an event, changes nothing.
#[tokio::test(start_paused = true)]
async fn h1_a_refusal_inside_a_200_changes_nothing() {
    for as_event in [false, true] {
        let scene = scene(layer()).await;
        scene.post(&subscribe("a")).await;
        let refusing = Arc::new(AtomicUsize::new(1));
        let refuses = refusing.clone();
        scene.server.on(move |seen| {
            let own = ["initialize", "notifications/initialized", "ping"];
            if own.contains(&seen.what().as_str()) || refuses.load(Ordering::Relaxed) == 0 {
                return None;
            }
            let error = json!({"code": -32602, "message": "no"});
            let refusal = json!({"jsonrpc": "2.0", "id": seen.message()["id"], "error": error});
            Some(match as_event {
                true => sse(&format!("data: {refusal}\n\n")),
                false => json_reply(200, &refusal),
            })
        });
        for message in [set_level("debug"), subscribe("b"), unsubscribe("a")] {
            assert_eq!(scene.post(&message).await.status, 200);
        }
        refusing.store(0, Ordering::Relaxed);
        scene.recover().await;
        assert_eq!(restored(&scene), state(None, &["a"]), "event: {as_event}");
    }
}

/// H1: each session has its own.
#[tokio::test(start_paused = true)]
async fn another_sessions_state_is_not_restored() {
    let scene = scene(layer()).await;
    let other = handshake(&scene.client).await;
    send(&scene.client, post(Some(&other), &subscribe("theirs"))).await;
    scene.post(&subscribe("mine")).await;
    scene.recover().await;
    assert_eq!(restored(&scene), state(None, &["mine"]));
}

/// H1, M2: a refusal is reported, and the session recovered all the same.
#[tokio::test(start_paused = true)]
async fn what_the_new_session_refuses_is_reported_and_not_fatal() {
    type Refusal = fn(&Seen) -> Result<Reply, TestError>;
    fn rpc(seen: &Seen, content: Value) -> Value {
        let mut message = json!({"jsonrpc": "2.0", "id": seen.message()["id"]});
        message
            .as_object_mut()
            .unwrap()
            .extend(content.as_object().unwrap().clone());
        message
    }
    let refusals: [(&str, Refusal); 11] = [
        ("error", |seen| {
            Ok(json_reply(
                200,
                &rpc(seen, json!({"error": {"code": -32002, "message": "x"}})),
            ))
        }),
        ("error event", |seen| {
            Ok(sse(&format!(
                "data: {}\n\n",
                rpc(seen, json!({"error": {"code": -1}}))
            )))
        }),
        ("400", |_| Ok(reply(400, None, ""))),
        ("404", |_| Ok(reply(404, None, "Session not found"))),
        ("401", |_| Ok(reply(401, None, ""))),
        ("no body", |_| Ok(reply(202, None, ""))),
        ("no JSON-RPC", |_| Ok(json_reply(200, &json!(7)))),
        ("another's answer", |_| {
            Ok(json_reply(
                200,
                &json!({"jsonrpc": "2.0", "id": 10, "result": {}}),
            ))
        }),
        ("a stream without an answer", |_| Ok(sse(": nothing\n\n"))),
        ("a broken stream", |_| {
            Ok(stream(Script::new().data("data: {").error("reset")))
        }),
        ("transport error", |_| Err(TestError("refused"))),
    ];
    for (case, refusal) in refusals {
        for refused in [&[SUBSCRIBE][..], &[SET_LEVEL], &[SET_LEVEL, SUBSCRIBE]] {
            let (scene, events) = told(layer()).await;
            scene.post(&set_level("info")).await;
            scene.post(&subscribe("a")).await;
            scene.server.on_async(move |seen| {
                let answer = refused
                    .contains(&seen.what().as_str())
                    .then(|| refusal(seen))?;
                Some(Box::pin(async move { answer }))
            });
            scene.recover().await;
            assert_eq!(events.last().result(), Ok(()), "{case}");
            assert_eq!(events.not_restored(), refused, "{case}");
            assert_eq!(
                restored(&scene),
                state(Some("info"), &["a"]),
                "{case}: each once"
            );
            assert_eq!(scene.server.count("initialize"), 2, "{case}");
            assert_eq!(scene.server.count("DELETE"), 0, "{case}");
        }
    }
}

/// H1: `restore_state(false)` leaves the new session as it is.
#[tokio::test(start_paused = true)]
async fn nothing_is_restored_when_that_is_turned_off() {
    let (scene, events) = told(layer().restore_state(false).max_subscriptions(1)).await;
    for message in [set_level("info"), subscribe("a"), subscribe("b")] {
        scene.post(&message).await;
    }
    scene.recover().await;
    assert_eq!(restored(&scene), state(None, &[]));
    assert_eq!(events.not_restored(), [""; 0]);
}

/// K8: subscriptions over the limit are not kept, and that is told.
#[tokio::test(start_paused = true)]
async fn subscriptions_over_the_limit_are_reported_as_not_restored() {
    for (layer, limit) in [
        (layer(), 1_024),
        (layer().max_subscriptions(2), 2),
        (layer().max_subscriptions(0), 0),
    ] {
        let (scene, events) = told(layer).await;
        let uris: Vec<_> = (0..limit + 3)
            .map(|number| format!("uri:{number:04}"))
            .collect();
        for uri in uris.iter().chain(&uris[..limit]) {
            scene.post(&subscribe(uri)).await;
        }
        scene.post(&set_level("info")).await;
        scene.recover().await;
        let kept: Vec<_> = uris[..limit].iter().map(String::as_str).collect();
        assert!(restored(&scene) == state(Some("info"), &kept), "{limit}");
        assert_eq!(events.not_restored(), [SUBSCRIBE; 3], "{limit}");

        // One that was given up makes room.
        if limit > 0 {
            scene.post(&unsubscribe(&uris[0])).await;
            scene.post(&subscribe("uri:new")).await;
            scene.recover().await;
            assert!(restored(&scene).contains(&(SUBSCRIBE.to_owned(), "uri:new".to_owned())));
            assert_eq!(restored(&scene).len(), limit + 1);
        }
    }
}

/// H1, K5: restoring takes no longer than a recovery may, and what is not done by then is told.
#[tokio::test(start_paused = true)]
async fn a_slow_server_holds_the_recovery_up_no_longer_than_it_may_take() {
    for (latency, in_time, asked) in [(3, 48, 64), (3_600, 0, 16)] {
        let (scene, events) = told(layer()).await;
        for number in 0..100 {
            scene.post(&subscribe(&format!("uri:{number}"))).await;
        }
        let (now, most) = (Arc::new(()), Arc::new(AtomicUsize::new(0)));
        let (peak, server) = (most.clone(), scene.server.clone());
        scene.server.on_async(move |seen| {
            let (under_way, peak, server) = (now.clone(), peak.clone(), server.clone());
            let seen = (seen.what() == SUBSCRIBE).then(|| seen.clone())?;
            Some(Box::pin(async move {
                peak.fetch_max(Arc::strong_count(&under_way) - 1, Ordering::Relaxed);
                sleep(Duration::from_secs(latency)).await;
                Ok(server.default_answer(&seen))
            }))
        });
        let start = Instant::now();
        scene.recover().await;

        let limit = Duration::from_secs(10);
        assert!(start.elapsed() <= limit && start.elapsed() > limit * 9 / 10);
        assert!(events.last().elapsed() <= limit);
        assert_eq!(events.last().result(), Ok(()));
        assert_eq!(events.not_restored().len(), 100 - in_time);
        assert_eq!(most.load(Ordering::Relaxed), 16, "at a time");
        assert_eq!(
            restored(&scene).len(),
            asked,
            "none is begun when the time is over"
        );
    }
}

/// Answers each `initialize` with the next of these results.
fn initialize_results(server: &Server, results: Vec<Value>) {
    let own = server.clone();
    let mut results = results.into_iter();
    server.on(move |seen| {
        let result = (seen.what() == "initialize").then(|| results.next())??;
        let id = own.default_answer(seen).headers()[SESSION_ID].clone();
        let answer = json!({"jsonrpc": "2.0", "id": seen.message()["id"], "result": result});
        let mut reply = json_reply(200, &answer);
        reply.headers_mut().insert(SESSION_ID, id);
        Some(reply)
    });
}

/// H2, M2: what the new server says otherwise than the one before.
#[tokio::test(start_paused = true)]
async fn the_event_tells_what_changed() {
    let first = json!({
        "protocolVersion": VERSION,
        "capabilities": {"tools": {"listChanged": true}, "logging": {}},
        "serverInfo": {"name": "s", "version": "1"},
        "instructions": "be kind",
    });
    let with = |member: &str, value: Value| {
        let mut result = first.clone();
        result[member] = value;
        result
    };
    let mut reordered =
        r#"{"serverInfo":{"version":"1","name":"s"},"instructions":"be kind","#.to_owned();
    reordered += r#""capabilities":{"logging":{},"tools":{"listChanged":true}},"protocolVersion":"2025-11-25"}"#;
    let mut without = first.clone();
    without.as_object_mut().unwrap().remove("instructions");
    let [version, info, capabilities, instructions] = [0, 1, 2, 3];
    for (case, second, changed) in [
        ("nothing", first.clone(), vec![]),
        ("order", serde_json::from_str(&reordered).unwrap(), vec![]),
        (
            "version",
            with("protocolVersion", json!("2025-06-18")),
            vec![version],
        ),
        (
            "release",
            with("serverInfo", json!({"name": "s", "version": "2"})),
            vec![info],
        ),
        (
            "title",
            with(
                "serverInfo",
                json!({"name": "s", "version": "1", "title": "S"}),
            ),
            vec![info],
        ),
        (
            "capabilities",
            with("capabilities", json!({"logging": {}})),
            vec![capabilities],
        ),
        (
            "instructions",
            with("instructions", json!("be quick")),
            vec![instructions],
        ),
        ("no instructions", without, vec![instructions]),
        (
            "all",
            json!({"protocolVersion": "2025-03-26"}),
            vec![version, info, capabilities, instructions],
        ),
    ] {
        let server = Server::new(Profile::TypeScript);
        initialize_results(&server, vec![first.clone(), second.clone(), second]);
        let (layer, events) = Events::of(layer());
        let client = client(&server, layer);
        let session = handshake(&client).await;
        let scene = Scene {
            server,
            client,
            session,
        };
        scene.recover().await;
        let changes = events.last().changes();
        let told = [
            changes.protocol_version(),
            changes.server_info(),
            changes.capabilities(),
            changes.instructions(),
        ];
        let expected = [0, 1, 2, 3].map(|member| changed.contains(&member));
        assert_eq!(told, expected, "{case}");
        assert_eq!(changes.any(), !changed.is_empty(), "{case}");
        // The session after that is compared with this one.
        scene.recover().await;
        assert!(!events.last().changes().any(), "{case}");
        assert_eq!(events.last().epoch(), 2);
    }
}

/// H2: where the caller's own handshake was not read to its result there is nothing to compare.
#[tokio::test(start_paused = true)]
async fn an_unread_result_is_no_change() {
    let server = Server::new(Profile::TypeScript);
    let (layer, events) = Events::of(layer());
    let client = client(&server, layer);
    let response = tower::ServiceExt::oneshot(client.clone(), post(None, &initialize())).await;
    let session = response.unwrap().headers()[SESSION_ID]
        .to_str()
        .unwrap()
        .to_owned();
    server.set_server_info(json!({"name": "other", "version": "9"}));
    let scene = Scene {
        server,
        client,
        session,
    };
    scene.recover().await;
    assert_eq!(events.last().result(), Ok(()));
    assert!(!events.last().changes().any());
}

/// A session with a subscription under way that waits for the gate.
async fn accepting_late(
    layer: SessionRecoveryLayer,
) -> (
    Scene,
    Arc<tokio::sync::Notify>,
    tokio::task::JoinHandle<Answer>,
) {
    let scene = scene(layer).await;
    let gate = Arc::new(tokio::sync::Notify::new());
    let opens = gate.clone();
    let mut asked = 0;
    scene.server.on_async(move |seen| {
        asked += usize::from(seen.what() == SUBSCRIBE);
        let (id, opens) = (seen.message()["id"].clone(), opens.clone());
        (seen.what() == SUBSCRIBE && asked == 1).then(|| {
            Box::pin(async move {
                opens.notified().await;
                let result = json!({"jsonrpc": "2.0", "id": id, "result": {}});
                Ok(json_reply(200, &result))
            }) as Answering
        })
    });
    let subscribing = scene.spawn(post(Some(&scene.session), &subscribe("late")));
    settle().await;
    (scene, gate, subscribing)
}

/// H1: what the old session accepts when it has been replaced is told to the new one at once.
#[tokio::test(start_paused = true)]
async fn h1_what_is_accepted_late_is_sent_to_the_new_session() {
    // Given a subscription that the old session takes its time for,
    let (scene, gate, subscribing) = accepting_late(layer()).await;
    // when it is replaced, and answers after that,
    scene.recover().await;
    assert_eq!(restored(&scene), state(None, &[]));
    gate.notify_one();
    assert_eq!(subscribing.await.unwrap().status, 200);
    settle().await;
    // then the new one is told.
    assert_eq!(restored(&scene), state(None, &["late"]));
}

/// H1, A5: of a session that nobody records any more it is not known whose its id is by now.
#[tokio::test(start_paused = true)]
async fn h1_a_session_that_was_forgotten_is_told_of_nothing() {
    let sessions = mcp_session_recovery::Sessions::new();
    let layer = layer().sessions(sessions.clone());
    let (scene, gate, subscribing) = accepting_late(layer).await;
    scene.recover().await;
    // when it is forgotten before the old one answers,
    sessions.forget_all();
    gate.notify_one();
    assert_eq!(subscribing.await.unwrap().status, 200);
    settle().await;
    // then nothing is sent to the new one.
    assert_eq!(restored(&scene), state(None, &[]));
}

/// H1: the new session is told of what the old one accepted late, and the caller has changed that by
/// the time it gets there.
#[tokio::test(start_paused = true)]
async fn h1_what_is_told_late_does_not_undo_what_the_caller_has_set_since() {
    for (first, then, holds) in [
        (
            set_level("info"),
            set_level("error"),
            (Some("error"), &[][..]),
        ),
        (subscribe("late"), unsubscribe("late"), (None, &[])),
        (unsubscribe("kept"), subscribe("kept"), (None, &["kept"])),
    ] {
        // Given a change that the old session accepts once it has been replaced,
        let scene = scene_with(Profile::TypeScript, layer(), json!({"logging": {}})).await;
        if holds.1 == ["kept"] {
            scene
                .send(post(Some(&scene.session), &subscribe("kept")))
                .await;
        }
        let [callers, layers] = [(); 2].map(|()| Arc::new(tokio::sync::Notify::new()));
        let (opens, asked) = (callers.clone(), first.clone());
        let mut is_first = true;
        scene.server.on_async(move |seen| {
            let (id, opens) = (seen.message()["id"].clone(), opens.clone());
            let is_it = seen.message() == asked && std::mem::take(&mut is_first);
            is_it.then(|| {
                Box::pin(async move {
                    opens.notified().await;
                    let result = json!({"jsonrpc": "2.0", "id": id, "result": {}});
                    Ok(json_reply(200, &result))
                }) as Answering
            })
        });
        let changing = scene.spawn(post(Some(&scene.session), &first));
        settle().await;
        scene.recover().await;
        // and of which the layer's own word takes its time,
        let (opens, method) = (layers.clone(), first["method"].clone());
        let behind = scene.server.clone();
        let mut is_first = true;
        scene.server.on_async(move |seen| {
            let (behind, seen, opens) = (behind.clone(), seen.clone(), opens.clone());
            let message = seen.message();
            let is_own = message["id"].is_string() && message["method"] == method;
            (is_own && std::mem::take(&mut is_first)).then(|| {
                Box::pin(async move {
                    opens.notified().await;
                    Ok(behind.default_answer(&seen))
                }) as Answering
            })
        });
        callers.notify_one();
        assert_eq!(changing.await.unwrap().status, 200);
        settle().await;

        // when the caller changes its mind before that is there,
        assert_eq!(
            scene.send(post(Some(&scene.session), &then)).await.status,
            200
        );
        layers.notify_one();
        settle().await;

        // then what holds is what it was answered last.
        let current = scene.server.last("notifications/initialized");
        let current = current.session().unwrap();
        let level = scene.server.level(current);
        assert_eq!(level.as_ref().and_then(Value::as_str), holds.0, "{then}");
        assert_eq!(scene.server.subscriptions(current), holds.1, "{then}");
    }
}
