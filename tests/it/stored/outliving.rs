//! Rules N1, N2 and N6: sessions that another process recorded, as long as there are such.

use std::time::Duration;

use mcp_session_recovery::{Outcome, Principal, Sessions};
use testing::mocked::*;
use testing::streams::Stream;
use testing::whose::Ids;
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
};

/// A scene whose client is a new process with the same store.
pub(super) fn restarted(scene: Scene, store: &FaultyStore) -> Scene {
    let Scene {
        server, session, ..
    } = scene;
    Scene {
        client: mocked(&server, store.layer()),
        server,
        session,
    }
}

#[tokio::test(start_paused = true)]
async fn n1_a_session_is_recovered_by_a_process_that_never_saw_it() {
    // Given a session that was recovered once, and again after the server's second restart,
    let store = FaultyStore::new();
    let scene = lost(store.layer()).await;
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;

    // when the layer, the server, and both are restarted, over and over,
    let mut scene = scene;
    for (number, (layer, server)) in [(true, false), (false, true), (true, true)]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
    {
        if layer {
            scene = restarted(scene, &store);
        }
        if server {
            scene.server.restart();
        }
        // then every call is answered, under the id that the caller was given,
        let answer = scene.call(number as u64).await;
        assert_eq!(echoed(&answer), number as u64);
        assert!(answer.session().is_none_or(|id| id == scene.session));
        assert_eq!(answer.outcome(), server.then_some(Outcome::Replayed));
        settle().await;
        // and the server holds no session but that one.
        assert_eq!(scene.server.live().len(), 1, "{number}");
    }
    assert_eq!(scene.server.count("initialize"), 2 + 6);
    assert_eq!(store.len(), 1);
}

/// A2: also where it is the store that knows the session.
#[tokio::test(start_paused = true)]
async fn a2_n1_a_stored_session_is_attended_in_its_own_revision() {
    for (negotiated, sent, outcome) in [
        (VERSION, VERSION, Some(Outcome::Replayed)),
        (VERSION, "2026-07-28", None),
        ("2026-07-28", "2026-07-28", Some(Outcome::Replayed)),
        ("2026-07-28", "2027-01-01", None),
    ] {
        // Given a session that another process recorded with one revision,
        let store = FaultyStore::new();
        let server = Server::new(Profile::TypeScript);
        server.set_version(negotiated);
        let session = handshake(&mocked(&server, store.layer())).await;
        settle().await;
        // when both have been restarted, and a request comes with one,
        server.restart();
        let client = mocked(&server, store.layer());
        let request = post(Some(&session), &tool_call(1));
        let request = with_headers(request, &[(PROTOCOL_VERSION, sent)]);
        // then what has no sessions is left alone, unless that is the session's own.
        let answer = send(&client, request).await;
        assert_eq!(answer.outcome(), outcome, "{negotiated} {sent}");
    }
}

/// A new process over the same store and server, and what it tells of its recoveries.
fn next_process(scene: Scene, store: &FaultyStore) -> (Scene, Events) {
    let (layer, events) = Events::of(store.layer().max_subscriptions(1));
    let client = mocked(&scene.server, layer);
    (Scene { client, ..scene }, events)
}

/// H2: also what an earlier process was told is compared.
#[tokio::test(start_paused = true)]
async fn h2_n2_what_changed_is_told_whoever_made_the_session() {
    for (version, changed) in [("1", false), ("2", true)] {
        let store = FaultyStore::new();
        let scene = live(store.layer()).await;
        settle().await;
        let (scene, events) = next_process(scene, &store);
        scene.server.restart();
        let info = serde_json::json!({"name": "test", "version": version});
        scene.server.set_server_info(info);
        assert_eq!(echoed(&scene.call(1).await), 1);
        settle().await;
        let changes = events.all()[0].changes();
        assert_eq!((changes.server_info(), changes.any()), (changed, changed));
    }
}

/// H3: and so is what the caller was promised.
#[tokio::test(start_paused = true)]
async fn h3_n2_a_caller_hears_of_lists_that_an_earlier_process_promised() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    let (scene, _) = next_process(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    let mut stream = Stream::open(&scene.client, get(&scene.session, None)).await;
    stream.now().await;
    let methods = stream.messages().into_iter().map(|it| it["method"].clone());
    let methods: Vec<_> = methods.collect();
    assert_eq!(methods, ["notifications/tools/list_changed"]);
}

/// K8: what did not fit is told by the next process, too.
#[tokio::test(start_paused = true)]
async fn k8_n2_subscriptions_that_were_not_kept_are_reported_by_whoever_restores_the_others() {
    let store = FaultyStore::new();
    let scene = live(store.layer().max_subscriptions(1)).await;
    for uri in ["file:///a", "file:///b"] {
        let subscribe = change("resources/subscribe", uri);
        scene.send(post(Some(&scene.session), &subscribe)).await;
    }
    settle().await;
    let (scene, events) = next_process(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    assert_eq!(events.all()[0].not_restored(), ["resources/subscribe"]);
}

/// K8: all that is kept fits into a record, also where JSON takes six bytes for each of its characters.
#[tokio::test(start_paused = true)]
async fn k8_n2_as_many_subscriptions_as_are_kept_survive() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    for number in 0..190 {
        let uri = format!("{number:04}{}", "\u{1}".repeat(1290));
        let mut subscribe = change("resources/subscribe", "");
        subscribe["params"]["uri"] = uri.into();
        scene.send(post(Some(&scene.session), &subscribe)).await;
    }
    settle().await;
    let (layer, events) = Events::of(store.layer());
    let scene = scene.in_another_process(layer);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    assert_eq!(events.all()[0].not_restored(), [""; 0]);
    let live = scene.server.live();
    assert_eq!(scene.server.subscriptions(&live[0]).len(), 190);
}

/// C1: the versions that callers may still send are known to the next process.
#[tokio::test(start_paused = true)]
async fn c1_n2_the_callers_version_is_translated_by_a_process_that_did_not_negotiate_it() {
    let store = FaultyStore::new();
    let scene = lost(store.layer()).await;
    scene.server.set_version("2025-06-18");
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    let scene = restarted(scene, &store);
    assert_eq!(echoed(&scene.call(2).await), 2);
    let version = scene.server.last("tools/call");
    assert_eq!(version.header(PROTOCOL_VERSION), Some("2025-06-18"));
}

/// A5, C1: nor does a caller's id of the layer's own making reach the server through it.
#[tokio::test(start_paused = true)]
async fn a5_n2_an_id_of_the_layers_making_is_translated_by_the_next_process() {
    // Given a server that counts, and that has handed out an id which another caller still goes by,
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let client = mocked(&server, store.layer());
    let (_, second) = (handshake(&client).await, handshake(&client).await);
    server.restart();
    let call = post(Some(&second), &tool_call(1));
    assert_eq!(echoed(&send(&client, call).await), 1);
    let session = handshake(&client).await;
    assert_ne!(session, second);
    settle().await;
    // when the latest one goes on in another process, then the server hears its own id.
    let scene = Scene {
        client: mocked(&server, store.layer()),
        server,
        session,
    };
    let answer = scene.call(1).await;
    assert_eq!(echoed(&answer), 1);
    assert!(answer.session().is_none_or(|id| id == scene.session));
    assert_eq!(scene.server.last("tools/call").session(), Some(&*second));
}

#[tokio::test(start_paused = true)]
async fn n1_state_goes_with_the_session() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    let session = scene.session.clone();
    scene.send(post(Some(&session), &set_level())).await;
    let subscribe = change("resources/subscribe", "file:///a");
    scene.send(post(Some(&session), &subscribe)).await;
    settle().await;

    let scene = restarted(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);

    let live = scene.server.live();
    assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
    assert_eq!(scene.server.level(&live[0]), Some("info".into()));
}

#[tokio::test(start_paused = true)]
async fn n1_the_store_is_asked_once_for_an_id_that_nobody_knows() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    for _ in 0..10 {
        let answers = join((0..10).map(|n| scene.spawn(post(Some("made-up"), &ping(n))))).await;
        assert!(answers.iter().all(|answer| answer.status == 404));
        assert!(answers.iter().all(|answer| answer.recovery.is_none()));
    }
    assert_eq!(store.loads(), 1);
    assert_eq!(scene.server.count("initialize"), 1);
    // A known session's calls ask nothing.
    for number in 0..10 {
        assert_eq!(echoed(&scene.call(number).await), number);
    }
    assert_eq!(store.loads(), 1);
    // A second later it may be there.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    scene.send(post(Some("made-up"), &ping(1))).await;
    assert_eq!(store.loads(), 2);
}

/// A5: a server that counts hands out an id anew. What the store has under it is another session's.
#[tokio::test(start_paused = true)]
async fn a5_n3_what_an_earlier_session_of_the_same_id_held_is_not_restored() {
    for mode in [Mode::Works, Mode::Full] {
        // Given a session with a subscription,
        let store = FaultyStore::new();
        let server = Server::new(Profile::TypeScriptJson);
        server.set_ids(Ids::Counting);
        let one = mocked(&server, store.layer());
        let session = handshake(&one).await;
        let subscribe = change("resources/subscribe", "file:///a");
        send(&one, post(Some(&session), &subscribe)).await;
        settle().await;
        // when another process is given its id, and is recovered,
        server.restart();
        store.set(mode);
        let other = mocked(&server, store.layer());
        assert_eq!(handshake(&other).await, session);
        settle().await;
        server.restart();
        let call = post(Some(&session), &tool_call(1));
        assert_eq!(echoed(&send(&other, call).await), 1);
        settle().await;
        // then nothing of the first one is in there.
        assert_eq!(server.count("resources/subscribe"), 1, "{mode:?}");
    }
}

/// Nor does the first one go on in what another caller was given since, in whichever process.
#[tokio::test(start_paused = true)]
async fn a5_n3_the_record_of_a_later_session_of_the_same_id_is_not_gone_on_in() {
    // Given two callers, each with a process, whom the server has called the same, one after the
    // other,
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let [one, other] = [(); 2].map(|()| mocked(&server, store.layer()));
    let session = handshake(&one).await;
    settle().await;
    server.restart();
    assert_eq!(handshake(&other).await, session);
    let subscribe = |uri: &str| post(Some(&session), &change("resources/subscribe", uri));
    send(&other, subscribe("file:///others")).await;
    settle().await;

    // when both have to be recovered, and are not called the same any more,
    server.set_ids(Ids::Unique);
    server.restart();
    let call = |id| post(Some(&session), &tool_call(id));
    assert_eq!(echoed(&send(&one, call(1)).await), 1);
    assert_eq!(echoed(&send(&other, call(2)).await), 2);
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;

    // then each is in a session of its own, with what is its own,
    let at = |id: u64| {
        let calls = server.all("tools/call");
        let last = calls.iter().rfind(|seen| seen.message()["id"] == id);
        last.unwrap().session().unwrap().to_owned()
    };
    assert_eq!(echoed(&send(&one, call(3)).await), 3);
    assert_eq!(echoed(&send(&other, call(4)).await), 4);
    let [ones, others] = [at(3), at(4)];
    assert_ne!(ones, others);
    assert!(server.subscriptions(&ones).is_empty());
    assert_eq!(server.subscriptions(&others), ["file:///others"]);
    // and it is the later one that the store knows.
    let third = mocked(&server, store.layer());
    assert_eq!(echoed(&send(&third, call(5)).await), 5);
    assert_eq!(at(5), others);
}

#[tokio::test(start_paused = true)]
async fn n1_callers_that_come_at_once_wait_for_the_same_answer() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    let scene = restarted(scene, &store);
    let before = store.loads();
    let answers = join((0..64).map(|number| scene.spawn_call(number))).await;
    assert!(answers.iter().map(echoed).eq(0..64));
    assert_eq!(store.loads(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn n2_another_principal_or_endpoint_does_not_find_the_session() {
    let store = FaultyStore::new();
    let by_user = |store: &FaultyStore| {
        store.layer().principal(|parts| {
            let user = parts.headers.get("x-user")?;
            Some(Principal::from(user))
        })
    };
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, by_user(&store));
    let as_user = |request, user| with_headers(request, &[("x-user", user)]);
    let opened = send(&client, as_user(post(None, &initialize()), "alice")).await;
    let session = opened.session().unwrap().to_owned();
    settle().await;

    server.restart();
    let client = mocked(&server, by_user(&store));
    let call = |user| as_user(post(Some(&session), &tool_call(1)), user);
    assert_eq!(send(&client, call("mallory")).await.status, 404);
    assert_eq!(server.count("initialize"), 1);
    let mut elsewhere = call("alice");
    *elsewhere.uri_mut() = "http://other.test/mcp".parse().unwrap();
    assert_eq!(send(&client, elsewhere).await.status, 404);
    assert_eq!(echoed(&send(&client, call("alice")).await), 1);
}

#[tokio::test(start_paused = true)]
async fn n2_no_credential_reaches_a_record() {
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    let secret = [
        ("authorization", "Bearer canary-a"),
        ("cookie", "session=canary-b"),
        ("x-api-key", "canary-c"),
        ("proxy-authorization", "canary-d"),
    ];
    let uri = "http://user:canary-e@mcp.test/mcp?token=canary-f";
    let request = |session: Option<&str>, message: &serde_json::Value| {
        let mut request = with_headers(post(session, message), &secret);
        *request.uri_mut() = uri.parse().unwrap();
        request
    };
    let client = mocked(
        &server,
        store
            .layer()
            .principal(|_| Some(Principal::from("canary-g"))),
    );
    let opened = send(&client, request(None, &initialize())).await;
    let session = opened.session().unwrap().to_owned();
    settle().await;
    let unsealed = store.values().await;
    assert!(
        !unsealed[0].contains(&session),
        "the caller's id: {unsealed:?}"
    );
    server.restart();
    assert_eq!(
        echoed(&send(&client, request(Some(&session), &tool_call(1))).await),
        1
    );
    settle().await;

    let values = store.values().await;
    assert_eq!(values.len(), 1);
    assert!(values[0].contains("\"epoch\":1"), "{values:?}");
    assert!(!values[0].contains("canary"), "{values:?}");
    assert!(!values[0].contains(&session), "{values:?}");
}

/// D8, where the epoch's credentials are not known before they have been of use.
#[tokio::test(start_paused = true)]
async fn n2_d8_credentials_that_were_of_use_are_those_of_a_restored_epoch() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    let scene = restarted(scene, &store);
    let own = [("authorization", "Bearer own")];
    let session = scene.session.clone();
    scene.server.on({
        move |seen| {
            let is_strangers = seen.session() == Some(&*session)
                && seen.header("authorization") != Some("Bearer own");
            is_strangers.then(|| reply(404, None, "Session not found"))
        }
    });
    let call = || post(Some(&scene.session), &tool_call(1));
    assert_eq!(echoed(&scene.send(with_headers(call(), &own)).await), 1);
    // A stranger with the id does not end the session.
    let stranger = with_headers(call(), &[("authorization", "Bearer other")]);
    assert_eq!(scene.send(stranger).await.status, 404);
    assert_eq!(scene.server.count("initialize"), 1);
}

#[tokio::test(start_paused = true)]
async fn n6_records_expire_unless_they_are_used() {
    let store = FaultyStore::new();
    let ttl = Duration::from_secs(24 * 60 * 60);
    let used = live(store.layer().session_ttl(ttl)).await;
    let idle = handshake(&used.client).await;
    settle().await;
    assert_eq!(store.len(), 2);
    for hour in 0..48 {
        tokio::time::sleep(Duration::from_secs(60 * 60)).await;
        assert_eq!(echoed(&used.call(hour).await), hour);
    }
    settle().await;
    assert_eq!(store.len(), 1);
    used.server.restart();
    let client = mocked(&used.server, store.layer());
    let call = |session: &str| post(Some(session), &tool_call(1));
    assert_eq!(echoed(&send(&client, call(&used.session)).await), 1);
    assert_eq!(send(&client, call(&idle)).await.status, 404);
}

/// D8, K10: who has shown that it lives is remembered, and that counts.
#[tokio::test(start_paused = true)]
async fn k10_what_is_learned_of_a_stored_session_counts() {
    // Given two sessions that another process recorded,
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    let other = mocked(&server, store.layer());
    let stored = [handshake(&other).await, handshake(&other).await];
    settle().await;
    // when each is used with as many bytes of credentials as all may take up together,
    let sessions = Sessions::new();
    let layer = store.layer().max_sessions_bytes(64 * 1024);
    let client = mocked(&server, layer.sessions(sessions.clone()));
    for session in &stored {
        let request = post(Some(session), &tool_call(1));
        let long = "x".repeat(64 * 1024).leak();
        let request = with_headers(request, &[("authorization", long)]);
        assert_eq!(send(&client, request).await.status, 200);
    }
    // then one of them makes room.
    assert_eq!(sessions.len(), 1);
}

/// Whoever uses it: also a process that has nothing to write of it.
#[tokio::test(start_paused = true)]
async fn n6_a_record_is_used_by_whoever_found_the_session() {
    // Given a session that another process has found, and changes nothing of,
    let store = FaultyStore::new();
    let ttl = Duration::from_secs(100);
    let scene = live(store.layer().session_ttl(ttl)).await;
    settle().await;
    let layer = store.layer().session_ttl(ttl);
    let client = mocked(&scene.server, layer);
    let scene = Scene { client, ..scene };
    // when it alone uses that, for longer than the record would stay,
    for call in 0..20 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(echoed(&scene.call(call).await), call);
    }
    // then the next process finds it, too.
    scene.server.restart();
    let scene = restarted(scene, &store);
    assert_eq!(echoed(&scene.call(1).await), 1);
}
