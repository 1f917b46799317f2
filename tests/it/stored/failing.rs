//! Rule N5: a store that is slow, away, full or wrong.

use std::time::Duration;

use mcp_session_recovery::Sessions;
use testing::logs::Logs;
use testing::mocked::*;
use testing::*;
use tokio::time::Instant;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    outliving::restarted,
};

/// What a request may wait for the store.
const TIMEOUT: Duration = Duration::from_millis(250);
/// The clock of tokio goes by whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

const MODES: [Mode; 6] = [
    Mode::Down,
    Mode::Panics,
    Mode::Hangs,
    Mode::Full,
    Mode::Slow(Duration::from_millis(200)),
    Mode::Slow(Duration::from_secs(3)),
];

#[tokio::test(start_paused = true)]
async fn n5_what_would_succeed_without_the_store_succeeds_and_waits_no_longer() {
    for mode in MODES {
        let store = FaultyStore::new();
        store.set(mode);
        let started = Instant::now();
        let scene = live(store.layer()).await;
        assert_eq!(echoed(&scene.call(0).await), 0);
        // Neither a handshake nor a call of a known session waits.
        assert!(started.elapsed() < TICK, "{mode:?}");
        for call in 1..4 {
            scene.server.restart();
            let asked = Instant::now();
            assert_eq!(echoed(&scene.call(call).await), call, "{mode:?}");
            assert!(asked.elapsed() <= TIMEOUT + TICK, "{mode:?}");
        }
        let asked = Instant::now();
        let answer = scene.send(post(Some("unknown"), &ping(1))).await;
        assert_eq!(answer.status, 404);
        assert!(asked.elapsed() <= TIMEOUT + TICK, "{mode:?}");
        let deleted = scene.send(delete(&scene.session)).await;
        assert_eq!(deleted.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn n5_what_could_not_be_written_is_written_when_the_store_is_back() {
    for mode in MODES {
        let store = FaultyStore::new();
        store.set(mode);
        let scene = lost(store.layer()).await;
        let ended = handshake(&scene.client).await;
        assert_eq!(echoed(&scene.call(1).await), 1);
        scene.send(delete(&ended)).await;
        tokio::time::sleep(Duration::from_secs(60)).await;

        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(30)).await;

        // The mark of the one that has ended has expired, or there was no room for one.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(store.len(), 1, "{mode:?}");
        assert!(store.values().await[0].contains("\"epoch\":1"));
        let scene = restarted(scene, &store);
        assert_eq!(echoed(&scene.call(2).await), 2, "{mode:?}");
        scene.server.restart();
        assert_eq!(echoed(&scene.call(3).await), 3, "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn n5_what_is_no_record_is_an_unknown_session_and_stands_in_nobodys_way() {
    let garbage: [fn(String) -> String; 5] = [
        |_| "\u{0}garbage".to_owned(),
        |_| String::new(),
        |record| record.replace("\"v\":1", "\"v\":2"),
        |record| record.replace("mcp.test", "other.test"),
        |record| record[..record.len() / 2].to_owned(),
    ];
    for (number, garbage) in garbage.into_iter().enumerate() {
        let store = FaultyStore::new();
        let scene = live(store.layer()).await;
        settle().await;
        store.change(garbage).await;

        // It is unknown to a process that does not know it,
        let other = mocked(&scene.server, store.layer());
        scene.server.restart();
        let answer = send(&other, post(Some(&scene.session), &tool_call(1))).await;
        assert_eq!(answer.status, 404, "{number}");
        // and the one that does goes on with it, and writes it anew.
        assert_eq!(echoed(&scene.call(2).await), 2, "{number}");
        settle().await;
        let scene = restarted(scene, &store);
        assert_eq!(echoed(&scene.call(3).await), 3, "{number}");
    }
}

#[tokio::test(start_paused = true)]
async fn n5_a_record_of_an_older_epoch_is_recovered_from() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    let before = store.values().await.remove(0);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    // Given a store that has lost its last write,
    store.change(|_| before.clone()).await;

    // then a new process recovers from there, and the one that knew more goes on, too.
    let other = mocked(&scene.server, store.layer());
    let answer = send(&other, post(Some(&scene.session), &tool_call(2))).await;
    assert_eq!(echoed(&answer), 2);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(3).await), 3);
    let answer = send(&other, post(Some(&scene.session), &tool_call(4))).await;
    assert_eq!(echoed(&answer), 4);
    settle().await;
    assert_eq!(scene.server.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn n5_a_store_that_lost_everything_is_filled_again() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.lose_all().await;
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    settle().await;
    let scene = restarted(scene, &store);
    assert_eq!(echoed(&scene.call(2).await), 2);
}

/// N3: also one that has lost all of it before it has heard of the epoch that there is.
#[tokio::test(start_paused = true)]
async fn n3_n5_an_epoch_that_was_published_without_the_store_is_written_where_that_lost_the_rest() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.set(Mode::Down);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    store.lose_all().await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(store.len(), 1);
    assert!(store.values().await[0].contains("\"epoch\":1"));
}

#[tokio::test(start_paused = true)]
async fn n5_failing_and_being_back_are_reported_once_and_tell_no_secret() {
    testing::logs::prepare();
    let (logs, _guard) = Logs::collect();
    let store = FaultyStore::new();
    store.set(Mode::Down);
    let scene = lost(store.layer()).await;
    assert_eq!(echoed(&scene.call(1).await), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;

    let told = |text: &str| {
        let lines = logs.own();
        lines
            .iter()
            .filter(|line| format!("{line:?}").contains(text))
            .count()
    };
    assert_eq!(told("sessions are not stored for now"), 1);
    assert_eq!(told("the session store is back"), 1);
    handshake(&scene.client).await;
    settle().await;
    assert_eq!(told("the session store is back"), 1);
    assert_eq!(told("the session store is unavailable: it is down"), 1);
    assert_eq!(told(&scene.session), 0);
}

/// N5: what needs no store says nothing of it.
#[tokio::test(start_paused = true)]
async fn n5_a_store_that_was_never_there_is_not_said_to_be_back() {
    testing::logs::prepare();
    let (logs, _guard) = Logs::collect();
    let store = FaultyStore::new();
    store.set(Mode::Down);
    let scene = live(store.layer()).await;
    settle().await;
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let told = |text: &str| {
        logs.own()
            .iter()
            .any(|line| format!("{line:?}").contains(text))
    };
    assert!(told("sessions are not stored for now"));
    assert!(!told("the session store is back"));
}

#[tokio::test(start_paused = true)]
async fn n5_what_is_no_record_is_reported() {
    testing::logs::prepare();
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.change(|_| "garbage".to_owned()).await;
    let (logs, _guard) = Logs::collect();
    let scene = restarted(scene, &store);
    assert_eq!(scene.call(1).await.status, 200);
    let told = |text: &str| logs.own().iter().any(|line| line.fields.contains(text));
    assert!(told("a stored session is not readable"));
    assert!(told("the record is malformed"));
}

/// K: nor does a time-out for ever come to none.
#[tokio::test(start_paused = true)]
async fn k_n5_a_store_may_be_given_for_ever() {
    let store = FaultyStore::new();
    let Scene {
        server,
        client,
        session,
    } = live(store.layer()).await;
    settle().await;
    drop(client);
    let long = Duration::from_secs(300 * 86_400);
    store.set(Mode::Slow(long));
    let layer = store.layer().store_timeout(Duration::MAX);
    let client = mocked(&server, layer);
    let call = post(Some(&session), &tool_call(1));
    let started = Instant::now();
    assert_eq!(echoed(&send(&client, call).await), 1);
    assert_eq!(started.elapsed(), long);
}

/// What nobody can read gives way to what the process has.
#[tokio::test(start_paused = true)]
async fn n5_a_record_that_cannot_be_read_is_written_anew() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.spoil().await;
    scene.send(post(Some(&scene.session), &set_level())).await;
    settle().await;
    let scene = restarted(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
}

/// And what cannot be written leaves what is there.
#[tokio::test(start_paused = true)]
async fn n5_a_store_that_is_full_keeps_what_it_has() {
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.set(Mode::Full);
    scene.send(post(Some(&scene.session), &set_level())).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let scene = restarted(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
}

/// What waits in the one's queue is not in the other's.
#[tokio::test(start_paused = true)]
async fn n5_a_layer_that_goes_does_not_keep_another_with_its_sessions_from_writing() {
    // Given two layers with one table and one store, of which one has something to write,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let server = Server::new(Profile::TypeScript);
    let [one, other] = [(); 2].map(|()| client(&server, store.layer().sessions(sessions.clone())));
    let session = handshake(&one).await;
    settle().await;
    let subscribe = |uri| post(Some(&session), &change("resources/subscribe", uri));
    store.set(Mode::Down);
    send(&one, subscribe("file:///one")).await;
    settle().await;
    // when that is dropped, and the store is back,
    drop(one);
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    // then the other writes both that and what it is told itself.
    send(&other, subscribe("file:///other")).await;
    settle().await;
    let values = store.values().await;
    assert!(values[0].contains("file:///one") && values[0].contains("file:///other"));
}

/// E10: nor does a runtime take along what waited in it.
#[test]
fn n5_what_waited_in_a_runtime_that_has_shut_down_is_written_in_the_next() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap()
    };
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, store.layer());
    let subscribe = |session: &str, uri| post(Some(session), &change("resources/subscribe", uri));
    // Given a change that could not be written before its runtime shut down,
    let session = runtime().block_on(async {
        let session = handshake(&client).await;
        settle().await;
        store.set(Mode::Down);
        send(&client, subscribe(&session, "file:///first")).await;
        settle().await;
        session
    });
    // when the service goes on in another, and the store is back, then it is written there.
    store.set(Mode::Works);
    runtime().block_on(async {
        send(&client, subscribe(&session, "file:///next")).await;
        settle().await;
        let values = store.values().await;
        assert!(values[0].contains("file:///first") && values[0].contains("file:///next"));
    });
}

/// H1: a store that was restored from a backup takes nothing away that came since.
#[tokio::test(start_paused = true)]
async fn n5_a_record_of_an_older_epoch_takes_no_state_away() {
    // Given a store that has lost what came after a record of epoch 0,
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    let before = store.values().await.remove(0);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    let session = &scene.session;
    let subscribe = change("resources/subscribe", "file:///a");
    scene.send(post(Some(session), &subscribe)).await;
    scene.send(post(Some(session), &set_level())).await;
    settle().await;
    store.change(|_| before.clone()).await;
    // when the session is recovered by the process that knows more, then it holds all of that,
    scene.server.restart();
    assert_eq!(echoed(&scene.call(2).await), 2);
    settle().await;
    let live = scene.server.live();
    assert_eq!(scene.server.subscriptions(&live[0]), ["file:///a"]);
    assert_eq!(scene.server.level(&live[0]), Some("info".into()));
    // and so does the store.
    assert!(store.values().await[0].contains("file:///a"));
}

/// E12: whoever has the next turn to make a handshake does not wait for a store.
#[tokio::test(start_paused = true)]
async fn n5_e12_many_that_recover_do_not_wait_for_each_others_stores() {
    // Given many sessions, one handshake at a time, and a slow store,
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, store.layer().max_handshakes(1));
    let mut sessions = Vec::new();
    for _ in 0..50 {
        sessions.push(handshake(&client).await);
    }
    settle().await;
    store.set(Mode::Slow(Duration::from_millis(100)));
    server.restart();
    // when all are called at once, then each waits for the store for its own recovery.
    let started = Instant::now();
    let calls: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (client, request) = (client.clone(), post(Some(session), &tool_call(1)));
            tokio::spawn(async move { send(&client, request).await })
        })
        .collect();
    for answer in join(calls).await {
        assert_eq!(echoed(&answer), 1);
    }
    assert!(
        started.elapsed() <= Duration::from_millis(260),
        "{:?}",
        started.elapsed()
    );
}

/// E12: no turn is had with less than an eighth of K5 left, also if nobody else waits for one.
#[tokio::test(start_paused = true)]
async fn n5_e12_who_has_waited_for_a_store_too_long_makes_no_handshake_in_vain() {
    for (takes, is_made) in [(8_700, true), (8_800, false)] {
        // Given a store that is waited for for most of a recovery's ten seconds,
        let store = FaultyStore::new();
        let server = Server::new(Profile::TypeScript);
        let layer = store.layer().store_timeout(Duration::from_secs(20));
        let client = mocked(&server, layer);
        let session = handshake(&client).await;
        settle().await;
        store.set(Mode::Slow(Duration::from_millis(takes)));
        // when the session is lost, then a handshake is made if there is time for it.
        server.restart();
        send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(server.count("initialize"), 1 + usize::from(is_made));
    }
}

/// N1: part of a store may be away.
#[tokio::test(start_paused = true)]
async fn n1_n5_what_can_be_written_does_not_wait_for_what_cannot() {
    for (mode, time) in [(Mode::Down, 1), (Mode::Hangs, 60)] {
        // Given a store of which a third does not work,
        let store = FaultyStore::new();
        store.set_third(mode);
        let scene = live(store.layer()).await;
        // when many sessions come,
        for _ in 0..60 {
            handshake(&scene.client).await;
        }
        tokio::time::sleep(Duration::from_secs(time)).await;
        // then the others are written before long.
        let (others, all) = store.outside_of_third();
        assert_eq!((others, all), (store.len(), 61), "{mode:?}");
    }
}

/// N1: nor is what cannot be tried more than once in each turn, nor all of it where nothing can.
#[tokio::test(start_paused = true)]
async fn n1_n5_a_store_that_is_away_is_asked_a_few_times_and_then_after_a_pause() {
    for (sessions, asked) in [(1, 1), (2, 2), (3, 3), (4, 3), (20, 3)] {
        // Given so many sessions that are stored, and a store that goes away,
        let store = FaultyStore::new();
        let scene = live(store.layer()).await;
        let mut others = vec![scene.session.clone()];
        for _ in 1..sessions {
            others.push(handshake(&scene.client).await);
        }
        settle().await;
        store.set(Mode::Down);
        // when there is something to be written of each of them,
        let (gate, mut changing) = (hold(&scene.server, "logging/setLevel"), Vec::new());
        for session in &others {
            changing.push(scene.spawn(post(Some(session), &set_level())));
        }
        settle().await;
        let before = store.saves();
        gate.open();
        join(changing).await;
        settle().await;
        // then it is asked so often, and as often after a pause.
        assert_eq!(store.saves() - before, asked, "{sessions}");
        tokio::time::sleep(Duration::from_millis(101)).await;
        assert_eq!(store.saves() - before, 2 * asked, "{sessions}");
    }
}

/// N5: where it is a part of the store that fails, what works is no sign that the rest is back.
#[tokio::test(start_paused = true)]
async fn n5_a_store_is_back_when_nothing_has_failed_for_a_while() {
    testing::logs::prepare();
    let (logs, _guard) = Logs::collect();
    let told = |text: &str| {
        logs.own()
            .iter()
            .filter(|it| it.fields.contains(text))
            .count()
    };
    // Given a store that works one time, and not the other,
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    for number in 0..20 {
        store.set(Mode::Down);
        scene.server.restart();
        assert_eq!(echoed(&scene.call(number).await), number);
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(9)).await;
        scene.send(post(Some("made-up"), &ping(number))).await;
    }
    // then that is told once,
    assert_eq!(told("sessions are not stored for now"), 1);
    assert_eq!(told("the session store is back"), 0);
    // until it has worked for a while.
    tokio::time::sleep(Duration::from_secs(11)).await;
    scene.send(post(Some("made-up"), &ping(20))).await;
    assert_eq!(told("the session store is back"), 1);
    store.set(Mode::Down);
    scene.send(post(Some("another"), &ping(21))).await;
    assert_eq!(told("sessions are not stored for now"), 2);
}

/// N1, E10: a recovery that does not come to its end leaves what has changed meanwhile to be written.
#[tokio::test(start_paused = true)]
async fn n5_n1_what_changes_during_a_recovery_that_is_cancelled_is_written() {
    // Given a change whose answer is under way, and a session that is lost after that,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let server = Server::new(Profile::TypeScript);
    let one = client(&server, store.layer().sessions(sessions.clone()));
    let session = handshake(&one).await;
    settle().await;
    let gate = hold_answer(&server, "resources/subscribe");
    let sent = |message| {
        let (client, request) = (one.clone(), post(Some(&session), &message));
        tokio::spawn(async move { send(&client, request).await })
    };
    let subscribing = sent(change("resources/subscribe", "file:///a"));
    settle().await;
    server.restart();
    // when it is accepted while a recovery is under way, which ends in a panic of the inner service,
    let mut is_first = true;
    server.on_async(move |seen| {
        let panics = seen.what() == "initialize" && std::mem::replace(&mut is_first, false);
        panics.then(|| {
            let panics = || -> Result<Reply, TestError> { panic!("as it was told") };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(3)).await;
                panics()
            }) as Answering
        })
    });
    let call = sent(tool_call(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    gate.open();
    assert_eq!(soon(subscribing).await.unwrap().status, 200);
    assert_eq!(soon(call).await.unwrap().status, 404);
    // then it is written, for whoever recovers the session.
    sessions.flush().await.unwrap();
    let next = client(&server, store.layer());
    let answer = send(&next, post(Some(&session), &tool_call(2))).await;
    assert_eq!(echoed(&answer), 2);
    let live = server.live();
    assert_eq!(server.subscriptions(&live[0]), ["file:///a"]);
}
