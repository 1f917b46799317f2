//! Rule N1: what is told to a store before the process ends.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use mcp_session_recovery::Sessions;
use testing::logs::Logs;
use testing::mocked::*;
use testing::streams::Stream;
use testing::*;
use tokio::time::Instant;
use tokio_test::task;
use tower::ServiceExt;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    outliving::restarted,
};

const SLOW: Mode = Mode::Slow(Duration::from_millis(200));

/// A process that ends, with or without waiting for its store; what the next one says to a call.
async fn ends(flush: bool) -> u16 {
    let store = FaultyStore::new();
    store.set(SLOW);
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    if flush {
        sessions.flush().await.unwrap();
    }
    // From here on, nothing is written any more.
    store.set(Mode::Full);
    let scene = restarted(scene, &store);
    scene.server.restart();
    scene.call(1).await.status
}

#[tokio::test(start_paused = true)]
async fn n1_what_is_flushed_is_there_for_the_next_process() {
    assert_eq!(ends(true).await, 200);
}

/// So that the test before shows something.
#[tokio::test(start_paused = true)]
async fn n1_what_is_not_flushed_goes_with_the_process() {
    assert_eq!(ends(false).await, 404);
}

#[tokio::test(start_paused = true)]
async fn n1_all_that_is_queued_is_flushed() {
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    let ending = handshake(&scene.client).await;
    sessions.flush().await.unwrap();
    assert_eq!(store.len(), 2);

    store.set(SLOW);
    let mut opened = Vec::new();
    for _ in 0..5 {
        opened.push(handshake(&scene.client).await);
    }
    assert_eq!(scene.send(delete(&ending)).await.status, 200);
    sessions.flush().await.unwrap();

    store.set(Mode::Works);
    let values = store.values().await;
    let records = values.iter().filter(|it| it.contains("initialize"));
    assert_eq!((records.count(), values.len()), (6, 7));
}

#[tokio::test(start_paused = true)]
async fn n5_a_store_that_is_away_is_not_waited_for() {
    for mode in [
        Mode::Down,
        Mode::Refuses(Duration::from_millis(200)),
        Mode::Hangs,
        Mode::Slow(Duration::from_secs(5)),
    ] {
        let store = FaultyStore::new();
        store.set(mode);
        let sessions = Sessions::new();
        let scene = live(store.layer().sessions(sessions.clone())).await;
        for _ in 0..20 {
            handshake(&scene.client).await;
        }
        assert_eq!(scene.send(delete(&scene.session)).await.status, 200);

        let started = Instant::now();
        assert!(sessions.flush().await.is_err(), "{mode:?}");
        assert!(started.elapsed() <= Duration::from_secs(2), "{mode:?}");

        // What it could not write is still written when the store is back.
        store.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(store.len(), 20, "{mode:?}");
        assert!(sessions.flush().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn n1_where_nothing_is_kept_there_is_nothing_to_flush() {
    assert!(Sessions::new().flush().await.is_ok());
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    drop(scene);
    settle().await;
    store.set(Mode::Down);
    assert!(sessions.flush().await.is_ok());
}

/// Layers with a store each may share their sessions.
#[tokio::test(start_paused = true)]
async fn n1_every_store_is_flushed() {
    let stores = [FaultyStore::new(), FaultyStore::new(), FaultyStore::new()];
    let sessions = Sessions::new();
    let server = Server::new(Profile::TypeScript);
    let clients = stores
        .each_ref()
        .map(|store| mocked(&server, store.layer().sessions(sessions.clone())));
    for (store, millis) in stores.iter().zip([300, 400, 100]) {
        store.set(Mode::Slow(Duration::from_millis(millis)));
    }
    for client in &clients {
        handshake(client).await;
    }
    sessions.flush().await.unwrap();
    assert_eq!(stores.map(|store| store.len()), [1, 1, 1]);
}

/// N6: what cannot be written does not keep what has ended in the store.
#[tokio::test(start_paused = true)]
async fn n1_a_store_that_is_full_is_told_of_what_has_ended() {
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    settle().await;
    // Given a session that is to be written, and one that has ended, of which the store was not told,
    store.set(Mode::Down);
    handshake(&scene.client).await;
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
    settle().await;
    assert_eq!(store.len(), 1);
    // when they are flushed, and there is no room, then the one that has ended is not kept.
    store.set(Mode::Full);
    assert!(sessions.flush().await.is_err());
    assert_eq!(store.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn n1_nothing_goes_on_once_the_layer_is_gone() {
    let store = FaultyStore::new();
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, store.layer());
    handshake(&client).await;
    settle().await;
    let metrics = tokio::runtime::Handle::current().metrics();
    assert_eq!(metrics.num_alive_tasks(), 1, "the writer");
    drop(client);
    settle().await;
    assert_eq!(metrics.num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn n1_an_end_that_is_under_way_is_flushed_and_no_longer_waited_for() {
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    settle().await;
    store.set(SLOW);
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
    let started = Instant::now();
    sessions.flush().await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(500));
    store.set(Mode::Works);
    let values = store.values().await;
    assert!(values.iter().all(|it| !it.contains("initialize")));
    // Nor is there anything to wait for afterwards.
    let started = Instant::now();
    sessions.flush().await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO);
}

/// H1: what was accepted in an epoch that gives way is told to the store from the one that stays.
#[tokio::test(start_paused = true)]
async fn n1_what_an_epoch_that_gives_way_has_accepted_is_written_without_a_request() {
    for flush in [true, false] {
        // Given a process that could not reach the store, with an epoch and a change of its own,
        let store = FaultyStore::new();
        let others = store.another_way();
        let server = Server::new(Profile::TypeScript);
        let sessions = Sessions::new();
        let clients = [
            mocked(&server, store.layer()),
            mocked(&server, others.layer().sessions(sessions.clone())),
        ];
        let session = handshake(&clients[0]).await;
        settle().await;
        let [one, other] = clients.map(|client| Scene {
            client,
            server: server.clone(),
            session: session.clone(),
        });
        assert_eq!(echoed(&other.call(1).await), 1);
        others.set(Mode::Down);
        server.restart();
        assert_eq!(echoed(&other.call(2).await), 2);
        let subscribe = change("resources/subscribe", "file:///a");
        assert_eq!(
            other.send(post(Some(&session), &subscribe)).await.status,
            200
        );
        // and another one that has gone on with the store,
        assert_eq!(echoed(&one.call(3).await), 3);

        // when the store is there again, and is flushed to, or has had a while,
        others.set(Mode::Works);
        match flush {
            true => sessions.flush().await.unwrap(),
            false => tokio::time::sleep(Duration::from_secs(30)).await,
        }
        // then it has the change, whatever becomes of the process.
        let values = store.values().await;
        assert!(values[0].contains("file:///a"), "{flush} {values:?}");
        drop(other);
        server.restart();
        assert_eq!(echoed(&one.call(4).await), 4);
        settle().await;
        let at = server.last("tools/call").session().unwrap().to_owned();
        assert_eq!(server.subscriptions(&at), ["file:///a"]);
    }
}

/// What the writer is at when it is asked for counts as well.
#[tokio::test(start_paused = true)]
async fn n1_a_flush_tells_of_a_write_that_was_under_way_and_failed() {
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    sessions.flush().await.unwrap();
    store.set(Mode::Refuses(Duration::from_millis(200)));
    let subscribe = change("resources/subscribe", "file:///a");
    scene.send(post(Some(&scene.session), &subscribe)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(sessions.flush().await.is_err());
}

/// Of a session that is being recovered, nothing is written until that is over.
#[tokio::test(start_paused = true)]
async fn n1_a_flush_waits_for_recoveries() {
    // Given a session that could not be written yet, and is being recovered,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    store.set(Mode::Down);
    let scene = live(store.layer().sessions(sessions.clone())).await;
    scene.server.restart();
    let (gate, call) = scene.recovering().await;
    store.set(Mode::Works);
    // when that comes to its end while the store is to be told of all,
    let flush = tokio::spawn(async move { sessions.flush().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    gate.open();
    assert_eq!(soon(flush).await.unwrap(), Ok(()));
    // then the store has been.
    assert_eq!(store.len(), 1);
    assert_eq!(echoed(&soon(call).await.unwrap()), 1);
}

/// N6: a use counts from when it was, also in a process that ends soon after.
#[tokio::test(start_paused = true)]
async fn n1_n6_the_last_use_is_flushed() {
    // Given a session that was not used for longer than its record stays, and then once,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let layer = store.layer().session_ttl(Duration::from_secs(4_000));
    let scene = live(layer.sessions(sessions.clone())).await;
    sessions.flush().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10_500)).await;
    assert_eq!(store.len(), 0);
    assert_eq!(echoed(&scene.call(1).await), 1);
    // when its process ends, then the next one finds it.
    sessions.flush().await.unwrap();
    let scene = restarted(scene, &store);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(2).await), 2);
}

/// K9, N5: what no store takes is told, and nobody is told that it is stored.
#[tokio::test(start_paused = true)]
async fn n1_a_session_that_is_too_large_for_a_record_is_not_said_to_be_stored() {
    testing::logs::prepare();
    let (logs, _guard) = Logs::collect();
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let layer = store.layer().sessions(sessions.clone());
    let scene = live(
        layer
            .max_initialize_bytes(usize::MAX)
            .max_body_bytes(usize::MAX),
    )
    .await;
    sessions.flush().await.unwrap();
    // Given a session that is larger than a record may be,
    let mut large = initialize();
    large["params"]["clientInfo"]["title"] = "x".repeat(2 * 1024 * 1024).into();
    let made = scene.send(post(None, &large)).await;
    let made = made.session().unwrap();
    // then to flush does not do,
    assert!(sessions.flush().await.is_err());
    // which does not change what it is good for, nor its end,
    scene.server.restart();
    let call = post(Some(made), &tool_call(1));
    assert_eq!(echoed(&scene.send(call).await), 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(sessions.flush().await.is_err());
    scene.send(delete(made)).await;
    sessions.flush().await.unwrap();
    // and why is told once.
    let told = |text: &str| {
        logs.own()
            .iter()
            .filter(|it| it.fields.contains(text))
            .count()
    };
    assert_eq!(told("a session cannot be stored"), 1);
    assert_eq!(told("the record is too large"), 1);
    assert_eq!(told("sessions are not stored for now"), 0);
}

#[tokio::test(start_paused = true)]
async fn n1_a_flush_waits_for_another_one_as_long_as_that_gets_on() {
    // Given many sessions, and a slow store,
    let store = FaultyStore::new();
    store.set(Mode::Slow(Duration::from_millis(50)));
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    for _ in 0..100 {
        handshake(&scene.client).await;
    }
    // when two wait for it, then both do until all is written.
    let flushes = [sessions.clone(), sessions]
        .map(|sessions| tokio::spawn(async move { sessions.flush().await }));
    for flush in flushes {
        assert_eq!(flush.await.unwrap(), Ok(()));
    }
    assert_eq!(store.len(), 101);
}

/// What could not be written during a recovery is written after it, also if that ends while the rest is.
#[tokio::test(start_paused = true)]
async fn n1_a_recovery_that_ends_during_a_flush_is_part_of_it() {
    // Given sessions that the store has not heard of, one of which is being recovered,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    store.set(Mode::Down);
    let scene = live(store.layer().sessions(sessions.clone())).await;
    for _ in 0..3 {
        handshake(&scene.client).await;
    }
    scene.server.restart();
    let gate = hold(&scene.server, "initialize");
    let call = scene.spawn_call(1);
    settle().await;
    // when that ends without the store while the others are written, which takes longer,
    store.set(Mode::Slow(Duration::from_millis(300)));
    let flush = tokio::spawn(async move { sessions.flush().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    // then all are written.
    assert_eq!(flush.await.unwrap(), Ok(()));
    assert_eq!(store.len(), 4);
    assert_eq!(echoed(&soon(call).await.unwrap()), 1);
}

/// Calls something whenever a future is to be polled again, at that very moment.
struct OnWake<F>(F);

impl<F: Fn() + Send + Sync> Wake for OnWake<F> {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// Whoever is told that a recovery is over may flush at once.
#[tokio::test(start_paused = true)]
async fn n1_what_a_recovery_has_made_is_flushed_by_whoever_hears_of_it() {
    // Given a call that waits for a recovery, which cannot tell the store,
    let store = FaultyStore::new();
    let sessions = Sessions::new();
    let scene = live(store.layer().sessions(sessions.clone())).await;
    sessions.flush().await.unwrap();
    store.set(Mode::Down);
    scene.server.restart();
    let call = scene
        .client
        .clone()
        .oneshot(post(Some(&scene.session), &tool_call(1)));
    let mut call = pin!(call);

    // when it hears of its end, and flushes before anything else is done,
    let heard = Arc::<Mutex<Vec<bool>>>::default();
    let (told, server) = (heard.clone(), scene.server.clone());
    let waker = Waker::from(Arc::new(OnWake(move || {
        if server.count("notifications/initialized") == 2 {
            let flushed = task::spawn(sessions.flush()).poll();
            told.lock().unwrap().push(flushed == Poll::Ready(Ok(())));
        }
    })));
    while call
        .as_mut()
        .poll(&mut Context::from_waker(&waker))
        .is_pending()
    {
        settle().await;
    }

    // then it is not told that the store has it.
    let heard = heard.lock().unwrap();
    assert!(!heard.is_empty() && !heard.contains(&true), "{heard:?}");
}

/// N3, H1: what was written may show that there is more to do, at any time.
#[tokio::test(start_paused = true)]
async fn n1_what_a_flush_finds_out_is_written_however_much_else_there_is() {
    for others in 0..7 {
        // Given a session that two processes have recovered each for itself, a change in it,
        let store = FaultyStore::new();
        let own = store.another_way();
        let sessions = Sessions::new();
        let scene = live(own.layer().sessions(sessions.clone())).await;
        settle().await;
        let other = scene.in_another_process(store.layer());
        assert_eq!(echoed(&other.call(1).await), 1);
        settle().await;
        own.set(Mode::Down);
        scene.server.restart();
        assert_eq!(echoed(&other.call(2).await), 2);
        assert_eq!(echoed(&scene.call(3).await), 3);
        let subscribe = change("resources/subscribe", "file:///a");
        scene.send(post(Some(&scene.session), &subscribe)).await;
        // and others that are to be written,
        for _ in 0..others {
            handshake(&scene.client).await;
        }
        settle().await;
        // when it is flushed, to a store that takes its time,
        own.set(Mode::Slow(Duration::from_millis(100)));
        sessions.flush().await.unwrap();
        own.set(Mode::Down);
        // then the change is there for the other.
        scene.server.restart();
        assert_eq!(echoed(&other.call(4).await), 4);
        let live = scene.server.live();
        let of = |it: &&String| !scene.server.subscriptions(it).is_empty();
        assert_eq!(live.iter().filter(of).count(), 1, "with {others} others");
    }
}

/// N5, N6.
#[tokio::test(start_paused = true)]
async fn n1_what_a_flush_could_not_write_is_written_when_the_store_is_back() {
    for is_ended in [false, true] {
        for waits in [0, 9_500, 10_000, 19_500] {
            // Given a session that is new, or has ended, and a store that hangs,
            let store = FaultyStore::new();
            let sessions = Sessions::new();
            let layer = store.layer().sessions(sessions.clone());
            let scene = match is_ended {
                true => {
                    let scene = live(layer).await;
                    settle().await;
                    store.set(Mode::Hangs);
                    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
                    scene
                }
                false => {
                    store.set(Mode::Hangs);
                    live(layer).await
                }
            };
            tokio::time::sleep(Duration::from_millis(waits)).await;
            // when a flush has failed, and the store is back,
            assert!(sessions.flush().await.is_err());
            store.set(Mode::Works);
            tokio::time::sleep(Duration::from_secs(40)).await;
            // then that is written.
            let values = store.values().await;
            let records = values.iter().filter(|it| it.contains("initialize"));
            let expected = usize::from(!is_ended);
            assert_eq!((records.count(), values.len()), (expected, 1), "{waits}");
            drop(scene);
        }
    }
}

/// I2: whatever its caller still holds of it.
#[tokio::test(start_paused = true)]
async fn n1_what_is_forgotten_in_its_recovery_is_not_waited_for() {
    for is_held in [true, false] {
        // Given a session with an open stream, and a change that is accepted while it is being recovered,
        let store = FaultyStore::new();
        let sessions = Sessions::new();
        let scene = live(store.layer().sessions(sessions.clone())).await;
        let stream = Stream::open(&scene.client, get(&scene.session, None)).await;
        let changes = hold_answer(&scene.server, "resources/subscribe");
        let subscribe = change("resources/subscribe", "file:///a");
        let changing = scene.spawn(post(Some(&scene.session), &subscribe));
        settle().await;
        scene.server.restart();
        let (gate, trigger) = scene.recovering().await;
        changes.open();
        assert_eq!(join([changing]).await[0].status, 200);
        // (The writer meets it then, and leaves it to the recovery.)
        tokio::time::sleep(Duration::from_millis(500)).await;
        // when it is forgotten,
        sessions.forget_all();
        gate.open();
        join([trigger]).await;
        let stream = Some(stream).filter(|_| is_held);
        settle().await;
        // then there is nothing to wait for.
        let started = Instant::now();
        assert!(sessions.flush().await.is_ok(), "held: {is_held}");
        assert_eq!(started.elapsed(), Duration::ZERO, "held: {is_held}");
        drop(stream);
    }
}
