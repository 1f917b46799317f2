//! Rule N5: a store that is slow, away, full or wrong.

use std::time::Duration;

use testing::logs::Logs;
use testing::mocked::*;
use testing::*;
use tokio::time::Instant;

use super::{
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
    let scene = live(store.layer()).await;
    settle().await;
    store.set(Mode::Slow(Duration::from_secs(3_000)));
    let layer = store.layer().store_timeout(Duration::MAX);
    let client = mocked(&scene.server, layer);
    let call = post(Some(&scene.session), &tool_call(1));
    let started = Instant::now();
    assert_eq!(echoed(&send(&client, call).await), 1);
    assert_eq!(started.elapsed(), Duration::from_secs(3_000));
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
