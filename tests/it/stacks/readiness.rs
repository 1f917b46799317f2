//! Rules E2 to E4 in stacks of other layers: what lies below the layer applies to all that it sends,
//! and nothing of it is held while the layer waits.

use std::{fmt, sync::Arc, time::Duration};

use futures::FutureExt;
use http::{Method, Request};
use http_body::Body;
use http_body_util::BodyExt;
use mcp_session_recovery::{Failure, Outcome, SessionRecovery, SessionRecoveryLayer};
use serde_json::json;
use testing::mocked::*;
use testing::*;
use tokio::{sync::Semaphore, time::Instant};
use tokio_test::assert_pending;
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    limit::{GlobalConcurrencyLimitLayer, concurrency::ConcurrencyLimit},
    util::BoxCloneSyncService,
};

/// 64 calls at once, of a session that is dead and then dead again.
async fn survives<S>(name: &str, server: Server, client: SessionRecovery<S>)
where
    S: Service<Sent, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    let session = handshake(&client).await;
    let scene = Scene {
        server,
        client,
        session,
    };
    for round in 1..=3 {
        // Given a server that has forgotten the session,
        scene.server.restart();
        let before = scene.server.count("tools/call");

        // when 64 calls are made at once,
        let answers = join((0..64).map(|n| scene.spawn_call(n))).await;

        // then each is answered, and was sent once to the session that there is now.
        assert!(answers.iter().map(echoed).eq(0..64), "{name}");
        assert_eq!(scene.server.count("initialize"), 1 + round, "{name}");
        let new = scene.server.last("notifications/initialized");
        let calls = scene.server.all("tools/call");
        let replayed = answers
            .iter()
            .filter(|answer| answer.outcome() == Some(Outcome::Replayed));
        let replayed = replayed.count();
        assert_eq!(calls.len() - before, 64 + replayed, "{name}");
        assert!((1..=64).contains(&replayed), "{name}");
        let alive = calls.iter().filter(|call| call.session() == new.session());
        assert_eq!(alive.count(), 64, "{name}");
    }
}

/// E1, E3, E4.
#[tokio::test(start_paused = true)]
async fn e3_64_calls_are_answered_through_any_stack() {
    let layer = SessionRecoveryLayer::new;
    let second = Duration::from_secs(1);
    let server = || Server::new(Profile::TypeScript);

    let one = server();
    let stack = ServiceBuilder::new().layer(layer()).concurrency_limit(1);
    survives(
        "ConcurrencyLimit(1)",
        one.clone(),
        stack.service(one.service()),
    )
    .await;

    let one = server();
    let stack = ServiceBuilder::new().layer(layer()).buffer(64);
    survives("Buffer(64)", one.clone(), stack.service(one.service())).await;

    let one = server();
    let stack = ServiceBuilder::new()
        .layer(layer())
        .buffer(1)
        .concurrency_limit(1);
    survives(
        "Buffer(1), ConcurrencyLimit(1)",
        one.clone(),
        stack.service(one.service()),
    )
    .await;

    let one = server();
    let stack = ServiceBuilder::new()
        .layer(layer())
        .load_shed()
        .concurrency_limit(64);
    survives(
        "LoadShed, ConcurrencyLimit(64)",
        one.clone(),
        stack.service(one.service()),
    )
    .await;

    let one = server();
    let stack = ServiceBuilder::new().layer(layer()).timeout(second);
    survives("Timeout", one.clone(), stack.service(one.service())).await;

    let one = server();
    let stack = ServiceBuilder::new()
        .layer(layer())
        .load_shed()
        .timeout(second)
        .buffer(128)
        .concurrency_limit(1);
    survives("all of them", one.clone(), stack.service(one.service())).await;

    let one = server();
    let boxed = BoxCloneSyncService::new(
        ServiceBuilder::new()
            .concurrency_limit(2)
            .map_err(BoxError::from)
            .service(one.service()),
    );
    survives("a box", one.clone(), layer().layer(boxed)).await;
}

type Limited = SessionRecovery<ConcurrencyLimit<ServerService>>;

/// A session that the server has forgotten, and the permits of the way to it.
async fn limited(permits: usize) -> (Scene<Limited>, Arc<Semaphore>) {
    let semaphore = Arc::new(Semaphore::new(permits));
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(
            semaphore.clone(),
        ))
        .service(server.service());
    let session = handshake(&client).await;
    server.restart();
    assert_eq!(semaphore.available_permits(), permits);
    (
        Scene {
            server,
            client,
            session,
        },
        semaphore,
    )
}

async fn made_ready(service: &mut Limited) -> &mut Limited {
    soon(ServiceExt::<Request<CallerBody>>::ready(service))
        .await
        .unwrap()
}

/// E3.
#[tokio::test(start_paused = true)]
async fn e3_who_waits_for_a_recovery_holds_no_permit() {
    // Given a recovery that waits for the server,
    let (scene, permits) = limited(5).await;
    let gate = hold(&scene.server, "initialize");
    let call = post(Some(&scene.session), &tool_call(0));
    let trigger = made_ready(&mut scene.client.clone()).await.call(call);
    let trigger = tokio::spawn(async { read(trigger.await.unwrap()).await });
    settle().await;
    assert_eq!(scene.server.count("initialize"), 2);

    // when more requests arrive than there are permits, through services that live on,
    let mut services = Vec::new();
    let mut waiting = Vec::new();
    for n in 1..=20 {
        let mut service = scene.client.clone();
        let request = match n % 3 {
            0 => get(&scene.session, None),
            _ => post(Some(&scene.session), &tool_call(n)),
        };
        let answering = made_ready(&mut service).await.call(request);
        let mut answering = tokio_test::task::spawn(Box::pin(answering));
        assert_pending!(answering.poll());
        waiting.push(answering);
        services.push(service);
    }
    settle().await;

    // then the handshake has one permit and nobody else has any,
    assert_eq!(permits.available_permits(), 4);
    assert_eq!(scene.server.count("tools/call"), 1);
    gate.open();
    assert_eq!(echoed(&join([trigger]).await[0]), 0);
    for answering in waiting {
        assert_eq!(soon(answering).await.unwrap().status(), 200);
    }
    // nor afterwards.
    assert_eq!(permits.available_permits(), 5);
    drop(services);
}

/// E3: the same for those who found the session dead by themselves, and for the layer's own ping.
#[tokio::test(start_paused = true)]
async fn e3_who_found_the_session_dead_holds_no_permit_either() {
    for streams in [false, true] {
        let (scene, permits) = limited(64).await;
        let dead = [
            hold(&scene.server, "tools/call"),
            hold(&scene.server, "GET"),
        ];
        let finding = |n| match streams {
            true => get(&scene.session, None),
            false => post(Some(&scene.session), &tool_call(n)),
        };
        let finding = |n| tokio::spawn(scene.client.clone().oneshot(finding(n)));
        let finding: Vec<_> = (0..64).map(finding).collect();
        settle().await;
        assert_eq!(permits.available_permits(), 0);
        let gate = hold(&scene.server, "initialize");
        dead.iter().for_each(Gate::open);
        settle().await;
        assert_eq!(scene.server.count("initialize"), 2);
        assert_eq!(permits.available_permits(), 63);
        gate.open();
        for finding in finding {
            assert_eq!(soon(finding).await.unwrap().unwrap().status(), 200);
        }
    }
}

/// E3: a body that is not there yet is waited for without keeping others from the server.
#[tokio::test(start_paused = true)]
async fn e3_who_waits_for_its_own_body_holds_no_permit() {
    for session in [true, false] {
        // Given a request, of a session or to open one, whose body has not come,
        let (scene, permits) = limited(1).await;
        let (feeder, fed) = feed();
        let session = session.then_some(&*scene.session);
        let late = request(Method::POST, session, "").map(|_| BodyExt::boxed(fed));
        let mut service = scene.client.clone();
        let late = made_ready(&mut service).await.call(late);
        let late = tokio::spawn(async { read(late.await.unwrap()).await });
        settle().await;

        // when others come, then they have the way for themselves,
        assert_eq!(permits.available_permits(), 1);
        assert_eq!(echoed(&scene.call(1).await), 1);
        // and the late one has it when its body is there.
        let message = if session.is_some() {
            tool_call(2)
        } else {
            initialize()
        };
        feeder.data(message.to_string());
        drop(feeder);
        assert_eq!(join([late]).await[0].status, 200);
        assert_eq!(
            scene.server.log().last().unwrap(),
            message["method"].as_str().unwrap()
        );
    }
}

/// Reads what there is by now.
fn look(body: &mut (impl Body + Unpin)) {
    while let Some(frame) = body.frame().now_or_never() {
        assert!(frame.is_some(), "it ended");
    }
}

/// E3, G1: nor does a stream that moves, whether its caller reads it meanwhile or not.
#[tokio::test(start_paused = true)]
async fn e3_g1_a_stream_that_moves_and_is_not_read_holds_no_permit() {
    for is_read in [false, true] {
        for is_sent in [false, true] {
            let case = format!("read {is_read}, sent {is_sent}");
            // Given a listening stream of a session that was lost and recovered,
            let (scene, permits) = limited(1).await;
            let listen = scene.client.clone().oneshot(get(&scene.session, None));
            let mut body = soon(listen).await.unwrap().into_body();
            look(&mut body);
            scene.server.restart();
            assert_eq!(echoed(&scene.call(1).await), 1);
            // whose caller looks at it once while its GET has to wait for a call, or for the server,
            let gate = hold(&scene.server, if is_sent { "GET" } else { "tools/call" });
            let calling = (!is_sent).then(|| scene.spawn_call(2));
            settle().await;
            look(&mut body);
            settle().await;
            assert_eq!(permits.available_permits(), 0, "{case}");
            let reading = match is_read {
                true => Some(tokio::spawn(async move { drop(body.frame().await) })),
                false => None,
            };
            // when that is over, then others have the permit.
            gate.open();
            join(calling).await;
            assert_eq!(echoed(&scene.call(3).await), 3, "{case}");
            assert_eq!(permits.available_permits(), 1, "{case}");
            drop(reading);
        }
    }
}

/// E4: what authenticates, traces and counts sees everything.
#[tokio::test(start_paused = true)]
async fn e4_layers_below_apply_to_all_that_the_layer_sends() {
    // Given a layer below that signs every request,
    let server = Server::new(Profile::TypeScript);
    let mut nth = 0;
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .buffer(8)
        .map_request(move |mut request: Sent| {
            nth += 1;
            request.headers_mut().insert("x-signed", nth.into());
            request
        })
        .service(server.service());
    let session = handshake(&client).await;
    let scene = Scene {
        server,
        client,
        session,
    };
    let set_level = json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "info"}});
    scene.send(post(Some(&scene.session), &set_level)).await;

    // when all that the layer ever sends is sent: ping, handshake, state, replay, and the end of a
    // session that was not accepted,
    scene.server.restart();
    assert_eq!(scene.head(get(&scene.session, None)).await.status(), 200);
    scene.server.restart();
    replace(&scene.server, "notifications/initialized", |_, _| {
        reply(500, None, "")
    });
    assert_eq!(scene.call(1).await.status, 404);
    settle().await;

    // then each went through it, once.
    let expected = [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "GET",
        "ping",
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "GET",
        "tools/call",
        "initialize",
        "notifications/initialized",
        "DELETE",
    ];
    assert_eq!(scene.server.log(), expected);
    let signed: Vec<_> = scene
        .server
        .seen()
        .iter()
        .map(|seen| seen.header("x-signed").unwrap().parse::<usize>().unwrap())
        .collect();
    assert_eq!(signed, (1..=expected.len()).collect::<Vec<_>>());
}

/// E4: a time-out below applies to each step by itself.
#[tokio::test(start_paused = true)]
async fn e4_a_timeout_below_ends_a_handshake_that_hangs() {
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .timeout(Duration::from_secs(2))
        .service(server.service());
    let session = handshake(&client).await;
    server.restart();
    let scene = Scene {
        server,
        client,
        session,
    };
    let gate = hold(&scene.server, "initialize");
    let started = Instant::now();
    let answer = scene.call(1).await;
    assert_eq!(
        (answer.status, failure(&answer)),
        (404, Some(Failure::Transport))
    );
    assert_eq!(started.elapsed(), Duration::from_secs(2));
    gate.open();
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(echoed(&scene.call(2).await), 2);
}

/// E4: what is shed below is a failed recovery, not an error of the caller's.
#[tokio::test(start_paused = true)]
async fn e4_a_handshake_that_is_shed_below_fails_the_recovery_alone() {
    let semaphore = Arc::new(Semaphore::new(1));
    let server = Server::new(Profile::TypeScript);
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(
            semaphore.clone(),
        ))
        .service(server.service());
    let session = handshake(&client).await;
    server.restart();
    let scene = Scene {
        server,
        client,
        session,
    };
    // Given somebody else who takes the permit as soon as the call has given it back,
    let taken = Arc::new(std::sync::Mutex::new(None));
    let (take, slot) = (semaphore.clone(), taken.clone());
    scene.server.on(move |seen| {
        (seen.what() == "tools/call").then(|| {
            let (take, slot) = (take.clone(), slot.clone());
            tokio::spawn(async move {
                *slot.lock().unwrap() = Some(take.acquire_owned().await.unwrap())
            });
            let mut gone = reply(404, None, "");
            *gone.body_mut() = Script::new().yields().data("gone").boxed();
            gone
        })
    });
    let answer = scene.call(1).await;
    assert!(taken.lock().unwrap().is_some());
    assert_eq!(
        (answer.status, answer.text(), failure(&answer)),
        (404, "gone", Some(Failure::Transport))
    );
}

/// E2: a time-out above is the caller's; the recovery goes on.
#[tokio::test(start_paused = true)]
async fn e2_a_timeout_above_gives_up_on_the_request_and_not_on_the_recovery() {
    // Given callers who are not as patient as the server is slow,
    let server = Server::new(Profile::TypeScript);
    let client = mocked(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let gate = hold(&server, "initialize");
    let impatient = ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .service(client.clone());
    let calls = (1..=3).map(|n| {
        impatient
            .clone()
            .oneshot(post(Some(&session), &tool_call(n)))
    });

    // when they give up,
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| {
        answer
            .as_ref()
            .is_err_and(|error| error.is::<tower::timeout::error::Elapsed>())
    }));
    gate.open();
    settle().await;

    // then the session is there for whoever comes next.
    let scene = Scene {
        server,
        client,
        session,
    };
    let answer = scene.call(4).await;
    assert_eq!((echoed(&answer), answer.recovery), (4, None));
    assert_eq!(scene.server.count("initialize"), 2);
    assert_eq!(calls_outside(&scene.server, &scene.session), [4]);
}
