//! A server that has just restarted is not overrun (rules E12, K11).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::join_all;
use mcp_session_recovery::{Failure, Outcome, SessionRecoveryLayer, Sessions};
use serde_json::Value;
use testing::scenario::{Door, Events, hang, is, start};
use testing::*;
use tokio::time::{Instant, sleep};

/// How many handshakes are under way at a server, and were at most.
#[derive(Clone, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    /// Lets both messages of a handshake take so long.
    fn slow(server: &Server, each: Duration) -> Self {
        let gauge = Self::default();
        let (seen_by, behind) = (gauge.clone(), server.clone());
        server.on_async(move |seen| {
            let begins = seen.what() == "initialize";
            if !begins && seen.what() != "notifications/initialized" {
                return None;
            }
            if begins {
                let now = seen_by.now.fetch_add(1, Relaxed) + 1;
                seen_by.most.fetch_max(now, Relaxed);
            }
            let (gauge, behind, seen) = (seen_by.clone(), behind.clone(), seen.clone());
            Some(Box::pin(async move {
                sleep(each).await;
                if !begins {
                    gauge.now.fetch_sub(1, Relaxed);
                }
                Ok(behind.default_answer(&seen))
            }))
        });
        gauge
    }

    fn most(&self) -> usize {
        self.most.load(Relaxed)
    }
}

/// The `initialize` of a caller with this name.
fn named(name: usize) -> Value {
    let mut initialize = initialize();
    initialize["params"]["clientInfo"]["name"] = name.into();
    initialize
}

/// So many sessions of one endpoint, in the order of their callers' names.
async fn sessions(client: &Client, many: usize) -> Vec<String> {
    let mut sessions = Vec::new();
    for name in 0..many {
        let made = send(client, post(None, &named(name))).await;
        sessions.push(made.session().unwrap().to_owned());
    }
    sessions
}

/// The names of the callers whose handshakes a server has seen, from the `skip`th on.
fn names(server: &Server, skip: usize) -> Vec<usize> {
    let name = |seen: &Seen| seen.message()["params"]["clientInfo"]["name"].as_u64();
    let all = server.all("initialize");
    let names = all
        .iter()
        .skip(skip)
        .map(|seen| name(seen).unwrap() as usize);
    names.collect()
}

fn call(session: &str) -> http::Request<CallerBody> {
    post(Some(session), &tool_call(1))
}

/// K11: 10,000 sessions of one endpoint find it restarted. At most 64 handshakes are under way at a
/// time, oldest first, none is starved, and all are recovered.
#[tokio::test(start_paused = true)]
async fn e12_ten_thousand_sessions_find_their_server_restarted() {
    const MANY: usize = 10_000;
    let server = Server::new(Profile::TypeScriptJson);
    let (layer, events) = Events::of(SessionRecoveryLayer::new());
    let client = client(&server, layer);
    let sessions = sessions(&client, MANY).await;
    server.restart();
    let gauge = Gauge::slow(&server, Duration::from_millis(25));

    let started = Instant::now();
    let answers = join_all(sessions.iter().map(|session| send(&client, call(session)))).await;

    for answer in &answers {
        let got = (answer.status, answer.outcome());
        assert_eq!(got, (200, Some(Outcome::Replayed)));
    }
    assert_eq!(gauge.most(), 64);
    assert!(names(&server, MANY).into_iter().eq(0..MANY), "oldest first");
    // As fast as the limit allows.
    let least = Duration::from_millis(50) * (MANY / 64) as u32;
    let took = started.elapsed();
    assert!(
        took >= least && took < least + Duration::from_secs(1),
        "{took:?}"
    );
    assert_eq!(events.all().len(), MANY);
}

/// K11, K5: a server so slow that not all get their turn in time. Nobody is starved, no handshake is
/// made in vain, though each has a little more time left than the one before, and no time is lost.
#[tokio::test(start_paused = true)]
async fn e12_a_session_that_did_not_get_its_turn_in_time_gets_it_later() {
    const MANY: usize = 2_000;
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new().max_handshakes(8));
    let sessions = sessions(&client, MANY).await;
    server.restart();
    let gauge = Gauge::slow(&server, Duration::from_millis(100));

    let started = Instant::now();
    let calling = sessions.iter().enumerate().map(async |(n, session)| {
        sleep(Duration::from_millis(n as u64)).await;
        while send(&client, call(session)).await.status != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    });
    join_all(calling).await;

    assert_eq!(gauge.most(), 8);
    let mut names = names(&server, MANY);
    names.sort_unstable();
    assert!(names.into_iter().eq(0..MANY), "one handshake each");
    let (least, took) = (
        Duration::from_millis(200) * (MANY / 8) as u32,
        started.elapsed(),
    );
    assert!(took < least * 11 / 10, "{took:?} of {least:?}");
}

/// E12, J4: a recovery that never had its turn has attempted nothing, so the next one makes no pause.
/// One that had it does.
#[tokio::test(start_paused = true)]
async fn e12_a_recovery_that_had_no_turn_makes_no_pause() {
    for has_turn in [false, true] {
        // Given two sessions of an endpoint that makes one handshake at a time, and no hurry,
        let server = Server::new(Profile::TypeScriptJson);
        let table = Sessions::new();
        let layer = |patience| {
            let pause = Duration::from_secs(600);
            let layer = SessionRecoveryLayer::new().sessions(table.clone());
            let layer = layer.max_handshakes(1).recovery_pause(pause, pause);
            layer.recovery_timeout(Duration::from_secs(patience))
        };
        let (patient, hasty) = (client(&server, layer(60)), client(&server, layer(1)));
        let first = sessions(&patient, 1).await.remove(0);
        let second = sessions(&hasty, 1).await.remove(0);
        server.restart();
        let door = Door::before(&server, is("initialize"));
        let waiting = (!has_turn).then(|| start(&patient, call(&first)));
        settle().await;

        // when one has no time left,
        let answer = send(&hasty, call(&second)).await;
        let timed_out = Some(Outcome::Failed(Failure::TimedOut));
        assert_eq!((answer.status, answer.outcome()), (404, timed_out));
        door.open();
        if let Some(waiting) = waiting {
            assert_eq!(waiting.await.unwrap().status, 200);
        }
        settle().await;

        // then it is recovered at once when there is a turn for it.
        let answer = send(&hasty, call(&second)).await;
        let paused = Outcome::Failed(Failure::Paused);
        let expected = match has_turn {
            false => (200, Some(Outcome::Replayed)),
            true => (404, Some(paused)),
        };
        assert_eq!((answer.status, answer.outcome()), expected);
    }
}

/// K11: the knob; at least one, and no value of it overflows.
#[tokio::test(start_paused = true)]
async fn k11_how_many_handshakes_are_under_way() {
    for (knob, limit) in [
        (None, 64),
        (Some(3), 3),
        (Some(1), 1),
        (Some(0), 1),
        (Some(usize::MAX), 100),
    ] {
        let server = Server::new(Profile::TypeScriptJson);
        let mut layer = SessionRecoveryLayer::new();
        if let Some(knob) = knob {
            layer = layer.max_handshakes(knob);
        }
        let client = client(&server, layer);
        let sessions = sessions(&client, 100).await;
        server.restart();
        let gauge = Gauge::slow(&server, Duration::from_millis(5));
        let answers = join_all(sessions.iter().map(|session| send(&client, call(session)))).await;
        assert!(
            answers.iter().all(|answer| answer.status == 200),
            "{knob:?}"
        );
        assert_eq!(gauge.most(), limit, "{knob:?}");
    }
}

/// E12: the limit is an endpoint's, whichever service of a table asks, and no other's.
#[tokio::test(start_paused = true)]
async fn e12_the_limit_is_an_endpoints_own_and_shared_with_the_table() {
    let table = Sessions::new();
    let layer = || {
        SessionRecoveryLayer::new()
            .sessions(table.clone())
            .max_handshakes(1)
    };
    let server = Server::new(Profile::TypeScriptJson);
    let clients = [client(&server, layer()), client(&server, layer())];
    let here = [handshake(&clients[0]).await, handshake(&clients[1]).await];
    let there = |request: http::Request<CallerBody>| {
        let mut request = request;
        *request.uri_mut() = "http://mcp.test/another".parse().unwrap();
        request
    };
    let made = send(&clients[0], there(post(None, &initialize()))).await;
    let other = made.session().unwrap().to_owned();
    server.restart();
    // Given an endpoint whose handshakes take a second,
    let (gauge, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, highest, behind) = (gauge.clone(), most.clone(), server.clone());
    server.on_async(move |seen| {
        let is_here = seen.what() == "initialize" && seen.uri == URI;
        let (now, behind, seen) = (now.clone(), behind.clone(), seen.clone());
        is_here.then(|| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
            highest.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
            Box::pin(async move {
                sleep(Duration::from_secs(1)).await;
                now.fetch_sub(1, Relaxed);
                Ok(behind.default_answer(&seen))
            })
        })
    });

    // when sessions of it are lost in two services,
    let started = Instant::now();
    let both = join_all([
        send(&clients[0], call(&here[0])),
        send(&clients[1], call(&here[1])),
    ]);
    let elsewhere = async {
        sleep(Duration::from_millis(10)).await;
        let answer = send(&clients[0], there(call(&other))).await;
        (answer.status, started.elapsed())
    };
    let (both, elsewhere) = tokio::join!(both, elsewhere);

    // then they come one after the other,
    assert!(both.iter().all(|answer| answer.status == 200));
    assert_eq!(most.load(Relaxed), 1);
    assert!(started.elapsed() >= Duration::from_secs(2));
    // and another endpoint's do not wait for them.
    assert_eq!(elsewhere, (200, Duration::from_millis(10)));
}

/// E12: a handshake that panics, or is never answered, gives up its turn.
#[tokio::test(start_paused = true)]
async fn e12_a_turn_ends_however_the_handshake_does() {
    for panics in [true, false] {
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new().max_handshakes(1));
        let sessions = sessions(&client, 3).await;
        server.restart();
        server.on_async(move |seen| {
            let is_first =
                seen.what() == "initialize" && seen.message()["params"]["clientInfo"]["name"] == 0;
            is_first.then(|| -> std::pin::Pin<Box<dyn Future<Output = _> + Send>> {
                Box::pin(async move {
                    assert!(!panics, "on purpose");
                    std::future::pending().await
                })
            })
        });
        let first = testing::scenario::start(&client, call(&sessions[0]));
        settle().await;
        sleep(Duration::from_secs(2)).await;
        for session in &sessions[1..] {
            // The first one's time ends at 10 s, and that for this one to have its turn at 10.75.
            assert_eq!(send(&client, call(session)).await.status, 200, "{panics}");
        }
        assert_eq!(first.await.unwrap().status, 404);
    }
}

/// E12: what a caller had the server hold does not keep others from their turn.
#[tokio::test(start_paused = true)]
async fn e12_h1_nobody_waits_for_what_is_restored_of_others() {
    // Given a server that does not answer to a subscription any more, and makes one session at a time,
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new().max_handshakes(1));
    let sessions = sessions(&client, 2).await;
    let mut subscribe = tool_call(2);
    subscribe["method"] = "resources/subscribe".into();
    subscribe["params"] = serde_json::json!({"uri": "file:///a"});
    let answer = send(&client, post(Some(&sessions[0]), &subscribe)).await;
    assert_eq!(answer.status, 200);
    server.restart();
    hang(&server, "resources/subscribe");
    // when a session is recovered to which that is restored,
    let first = start(&client, call(&sessions[0]));
    settle().await;
    assert_eq!(server.count("resources/subscribe"), 2);
    // then another one is recovered meanwhile.
    let started = Instant::now();
    assert_eq!(send(&client, call(&sessions[1])).await.status, 200);
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(first.await.unwrap().status, 200);
}
