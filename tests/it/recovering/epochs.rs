//! Which epoch a request belongs to when epochs follow one another (rules D6, E3, E10, C1).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer};
use serde_json::json;
use testing::mocked::*;
use testing::*;
use tokio_test::assert_pending;
use tower::{Layer, Service};

/// D6: a late 404 of an epoch long gone comes while the next one is being recovered. It waits for
/// that, and is sent again in what comes of it.
#[tokio::test(start_paused = true)]
async fn d6_a_late_404_that_comes_during_the_next_recovery_waits_for_that() {
    // Given a request of epoch 0 whose 404 is long on its way, and epoch 1, which has expired,
    let scene = lost(SessionRecoveryLayer::new()).await;
    let late = hold(&scene.server, "tools/call");
    let first = scene.spawn_call(1);
    settle().await;
    scene.send(post(Some(&scene.session), &ping(2))).await;
    scene.server.restart();
    let gate = hold(&scene.server, "initialize");
    let trigger = scene.spawn(post(Some(&scene.session), &ping(3)));
    settle().await;
    assert_eq!(scene.server.count("initialize"), 3);

    // when the late 404 comes,
    late.open();
    settle().await;
    // then the request is not sent into epoch 1,
    assert!(calls_outside(&scene.server, &scene.session).is_empty());
    // but, once, into epoch 2.
    gate.open();
    let answers = join([first, trigger]).await;
    let recovery = answers[0].recovery.unwrap();
    assert_eq!(
        (echoed(&answers[0]), recovery.outcome(), recovery.epoch()),
        (1, Outcome::Replayed, 2)
    );
    let sent = scene.server.last("tools/call");
    assert_eq!(sent.session(), Some("secret-session-3"));
    assert_eq!(scene.server.count("tools/call"), 2);
    assert_eq!(scene.server.count("initialize"), 3);
}

/// D6, E3: a caller that polls its future late finds that more than one epoch has come and gone, or
/// that one is being recovered.
#[tokio::test(start_paused = true)]
async fn d6_a_replay_goes_into_the_epoch_that_is_current_when_it_is_sent() {
    for recovering in [false, true] {
        // Given a caller that has met a 404, and a recovery that has ended since it was polled,
        let scene = lost(SessionRecoveryLayer::new()).await;
        let gate = hold(&scene.server, "initialize");
        let mut call = scene.poll_by_hand(post(Some(&scene.session), &tool_call(1)));
        for _ in 0..8 {
            assert_pending!(call.poll());
            settle().await;
        }
        assert_eq!(scene.server.count("initialize"), 2);
        gate.open();
        settle().await;
        // and that the new session has been lost and recovered, or is being,
        assert_eq!(
            scene
                .send(post(Some(&scene.session), &ping(2)))
                .await
                .status,
            200
        );
        scene.server.restart();
        let gate = hold(&scene.server, "initialize");
        let other = scene.spawn(post(Some(&scene.session), &ping(3)));
        settle().await;
        if !recovering {
            gate.open();
            settle().await;
        }

        // when it is polled again,
        let polled = tokio::spawn(call.into_inner());
        settle().await;
        gate.open();

        // then its request goes into the session that there is.
        let answer = read(soon(polled).await.unwrap().unwrap()).await;
        assert_eq!(echoed(&answer), 1, "{recovering}");
        assert_eq!(answer.recovery.unwrap().epoch(), 2, "{recovering}");
        let sent: Vec<_> = scene.server.all("tools/call");
        let sessions: Vec<_> = sent.iter().map(|seen| seen.session().unwrap()).collect();
        assert_eq!(
            sessions,
            ["secret-session-1", "secret-session-3"],
            "{recovering}"
        );
        assert_eq!(join([other]).await[0].status, 200);
    }
}

/// A service of which one clone, when it is told so, is not ready before a gate opens.
#[derive(Clone)]
struct Held {
    inner: ServerService,
    next: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
    is_held: bool,
}

impl Service<Sent> for Held {
    type Response = Reply;
    type Error = TestError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TestError>> {
        self.is_held |= self.next.swap(false, Relaxed);
        if self.is_held && !self.open.load(Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Service::<Sent>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, request: Sent) -> Answering {
        self.inner.call(request)
    }
}

/// D6: the inner service may take so long to be ready that the epoch has expired in its turn.
#[tokio::test(start_paused = true)]
async fn d6_a_replay_that_has_to_wait_for_the_service_goes_into_the_epoch_that_there_is_then() {
    let server = Server::new(Profile::TypeScript);
    let (next, open) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let layer = SessionRecoveryLayer::new().recovery_pause(Duration::ZERO, Duration::ZERO);
    let client = layer.layer(Held {
        inner: server.service(),
        next: next.clone(),
        open: open.clone(),
        is_held: false,
    });
    let session = handshake(&client).await;
    server.restart();
    // Given a call that is to be sent again in epoch 1, but through a service that is not ready,
    let (hold, mut once) = (next.clone(), true);
    server.on(move |seen| {
        if seen.what() == "notifications/initialized" && std::mem::take(&mut once) {
            hold.store(true, Relaxed);
        }
        None
    });
    let scene = Scene {
        server,
        client,
        session,
    };
    let call = scene.spawn_call(1);
    settle().await;
    assert_eq!(
        (scene.server.count("tools/call"), next.load(Relaxed)),
        (1, false)
    );

    // when epoch 1 is lost and recovered meanwhile,
    scene.server.restart();
    let other = scene.send(post(Some(&scene.session), &ping(2))).await;
    assert_eq!(other.recovery.unwrap().epoch(), 2);
    open.store(true, Relaxed);

    // then the call goes into epoch 2.
    let answer = join([call]).await.remove(0);
    assert_eq!((echoed(&answer), answer.recovery.unwrap().epoch()), (1, 2));
    assert_eq!(scene.server.count("tools/call"), 2);
}

/// D4: while the epoch is being recovered nobody asks whether it lives.
#[tokio::test(start_paused = true)]
async fn d4_gets_whose_404_comes_during_the_recovery_join_it_and_do_not_ping() {
    let scene = lost(SessionRecoveryLayer::new()).await;
    // Given two GETs whose 404s are on their way,
    let late = hold(&scene.server, "GET");
    let mut gets = [0, 1].map(|_| scene.poll_by_hand(get(&scene.session, None)));
    for get in &mut gets {
        assert_pending!(get.poll());
    }
    settle().await;
    // when they come during the recovery that a call has started,
    let (gate, trigger) = scene.recovering().await;
    late.open();
    for get in &mut gets {
        settle().await;
        assert_pending!(get.poll());
        settle().await;
        assert_pending!(get.poll());
    }
    settle().await;
    // then nothing is asked, and both are opened in the new session.
    gate.open();
    join([trigger]).await;
    for get in gets {
        assert_eq!(soon(get).await.unwrap().status(), 200);
    }
    assert_eq!(scene.server.count("ping"), 0);
    assert_eq!(scene.server.count("initialize"), 2);
}

/// C1: however many versions a server goes through, the one that the caller was told is known.
#[tokio::test(start_paused = true)]
async fn c1_the_callers_own_version_is_translated_in_every_epoch() {
    let scene = live(SessionRecoveryLayer::new()).await;
    for epoch in 1..40 {
        scene.server.restart();
        // The caller's own version comes back once, too.
        let version = match epoch {
            3 => VERSION.to_owned(),
            _ => format!("2024-01-{epoch:02}"),
        };
        scene.server.set_version(&version);
        let answer = scene.call(epoch).await;
        assert_eq!(answer.recovery.unwrap().epoch(), epoch);
        let sent = scene.server.last("tools/call");
        assert_eq!(sent.header(PROTOCOL_VERSION), Some(&*version), "{epoch}");
        // A version that nobody has ever named is not touched.
        let other = with_headers(
            post(Some(&scene.session), &ping(1)),
            &[(PROTOCOL_VERSION, "1999-01-01")],
        );
        scene.send(other).await;
        let sent = scene.server.last("ping");
        assert_eq!(sent.header(PROTOCOL_VERSION), Some("1999-01-01"));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// E10: a recovery whose runtime is there, but not driven any more, keeps nobody for longer than a
/// recovery may take, and the session for no longer than twice that.
#[test]
fn e10_a_recovery_whose_runtime_is_not_driven_any_more_leaves_nobody_behind() {
    let seconds = Duration::from_secs;
    // Given a recovery in a runtime that nobody drives any more,
    let stuck = runtime();
    let (server, client, session) = stuck.block_on(async {
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        let gate = hold(&server, "initialize");
        drop(testing::scenario::start(
            &client,
            post(Some(&session), &tool_call(1)),
        ));
        settle().await;
        assert_eq!(server.count("initialize"), 2);
        gate.open();
        (server, client, session)
    });
    let call = |id| send(&client, post(Some(&session), &tool_call(id)));
    runtime().block_on(async {
        let started = tokio::time::Instant::now();
        // when a request waits for it,
        let waited = call(2).await;
        // then it has its own 404 in time,
        assert_eq!(started.elapsed(), seconds(10));
        assert_eq!(
            (waited.status, failure(&waited)),
            (404, Some(Failure::TimedOut))
        );
        // and the next one recovers the session as soon as that recovery cannot live any more.
        let recovered = call(3).await;
        assert_eq!(echoed(&recovered), 3);
        assert!(started.elapsed() <= seconds(20) + Duration::from_millis(100));
        assert_eq!(server.count("initialize"), 3);
        assert_eq!(call(4).await.recovery, None);
    });
    // When that runtime is driven again, its recovery changes nothing, and leaves nothing behind.
    stuck.block_on(async {
        tokio::time::sleep(seconds(30)).await;
        settle().await;
        let answer = call(5).await;
        assert_eq!((echoed(&answer), answer.recovery), (5, None));
    });
    assert_eq!(server.live().len(), 1);
}

/// G1, E10: nor does it keep a listening stream that waits for it to be opened anew.
#[test]
fn e10_a_stream_does_not_wait_for_a_recovery_whose_runtime_is_not_driven_any_more() {
    // Given a stream that has not heard yet that its session has moved, to one whose recovery nobody
    // drives any more,
    let stuck = runtime();
    let (scene, response) = stuck.block_on(async {
        let scene = testing::streams::scene(SessionRecoveryLayer::new()).await;
        let _fed = testing::streams::feed_all(&scene.server, "GET");
        let response = scene.unread(get(&scene.session, None)).await;
        scene.recover().await;
        scene.server.restart();
        let _gate = hold(&scene.server, "initialize");
        drop(scene.spawn(post(Some(&scene.session), &tool_call(1))));
        settle().await;
        assert_eq!(scene.server.count("initialize"), 3);
        (scene, response)
    });
    runtime().block_on(async {
        // when it is read,
        let mut stream = testing::streams::Stream::of(response);
        stream.now().await;
        assert!(stream.is_open());
        assert_eq!(scene.server.count("GET"), 1);
        // then it goes on as if that had failed, as soon as it cannot live any more.
        tokio::time::sleep(Duration::from_secs(21)).await;
        stream.now().await;
        assert_eq!(scene.server.count("GET"), 2);
        assert!(stream.ended_cleanly());
    });
}

/// E1, K5: a recovery without any time is one recovery all the same.
#[tokio::test(start_paused = true)]
async fn e1_a_recovery_time_out_of_zero_makes_no_storm() {
    for timeout in [Duration::ZERO, Duration::from_nanos(1)] {
        let scene = lost(SessionRecoveryLayer::new().recovery_timeout(timeout)).await;
        let calls: Vec<_> = (0..64).map(|id| scene.spawn_call(id)).collect();
        join(calls).await;
        let handshakes = scene.server.count("initialize") - 1;
        assert!(handshakes <= 1, "{handshakes}");
    }
}

/// E10: `Duration::MAX` is for ever, and breaks nothing.
#[tokio::test(start_paused = true)]
async fn e10_a_recovery_may_take_for_ever() {
    let scene = lost(SessionRecoveryLayer::new().recovery_timeout(Duration::MAX)).await;
    scene.send(post(Some(&scene.session), &set_level())).await;
    scene.server.restart();
    let (gate, trigger) = scene.recovering().await;
    let waiting = scene.spawn_call(2);
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    gate.open();
    let answers = join([trigger, waiting]).await;
    assert_eq!(answers.iter().map(echoed).collect::<Vec<_>>(), [1, 2]);
    // And a failure is a failure.
    scene.server.restart();
    replace(&scene.server, "initialize", |_, _| reply(503, None, ""));
    let failed = scene.call(3).await;
    let refused = Failure::Refused(http::StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(failure(&failed), Some(refused));
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let paused = scene.send(post(Some(&scene.session), &list)).await;
    assert_eq!(failure(&paused), Some(Failure::Paused));
}
