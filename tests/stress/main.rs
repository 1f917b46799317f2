//! Stress: callers on four threads, in real time, against a server that forgets, refuses, hangs and
//! takes its time, while sessions are ended, all are forgotten, and futures are dropped. What chance
//! of the scheduler there is, is not to be had again; what must hold is the same.
//!
//! `STRESS_SECONDS=60` goes on for so long.

#![allow(unreachable_pub, reason = "there is no outside of a test")]

mod callers;
#[allow(dead_code, reason = "chaos uses more of it")]
#[path = "../chaos/random.rs"]
mod random;
mod server;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mcp_session_recovery::{Principal, SessionRecoveryLayer, Sessions};
use tokio::{runtime::Builder, task::JoinSet, time::sleep};
use tower::Layer;

use callers::Caller;
use random::Random;
use server::{CALLER, Server};

const CALLERS: u64 = 64;
/// For how long nothing is forgotten any more before all end, so that what is lost stays to be seen.
const LAST: Duration = Duration::from_millis(300);

fn seconds() -> u64 {
    let seconds = std::env::var("STRESS_SECONDS").ok();
    seconds.and_then(|it| it.parse().ok()).unwrap_or(2)
}

#[test]
fn on_four_threads_nothing_is_done_twice_nobody_waits_for_ever_nothing_is_left() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .expect("a runtime");
    // Once with ids that are unique, and once with a server that counts.
    for counts in [false, true] {
        let time = Duration::from_millis(seconds() * 1_000 / 2);
        runtime.block_on(stress(time, counts));
        let ends = Instant::now() + Duration::from_secs(10);
        let alive = || runtime.metrics().num_alive_tasks();
        while alive() > 0 && Instant::now() < ends {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(alive(), 0, "tasks are left");
    }
}

async fn stress(time: Duration, counts: bool) {
    let server = Server::new(counts, CALLERS as usize);
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new()
        .sessions(sessions.clone())
        .principal(|request| {
            let caller = request.headers.get(CALLER)?;
            Some(Principal::from(caller.to_str().ok()?))
        })
        .recovery_timeout(callers::RECOVERY)
        .recovery_pause(Duration::from_millis(1), callers::LONGEST_PAUSE)
        .orphan_timeout(Duration::from_millis(200));
    let client = layer.layer(server.service());
    let ends = Instant::now() + time;
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller::new(number, server.clone(), client.clone());
        callers.spawn(caller.live(ends));
    }
    let troubling = tokio::spawn(trouble(server.clone(), sessions.clone(), ends - LAST));
    while let Some(ended) = callers.join_next().await {
        ended.expect("no panic");
    }
    troubling.await.expect("no panic");

    comes_to_nothing(&server, &sessions).await;

    // All is well: each of those who live gets an answer, and in a session of its own.
    server.be_well();
    sleep(10 * callers::LONGEST_PAUSE).await;
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let caller = Caller::new(CALLERS + number, server.clone(), client.clone());
        callers.spawn(caller.live_well());
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("no panic");
    }
    comes_to_nothing(&server, &sessions).await;
    drop(client);
    let counts = server.counts();
    println!("{time:?}: {counts:?}");
    assert!(
        counts.recovered.load(Ordering::Relaxed) > 0,
        "nothing was recovered"
    );
    server.verdict();
}

/// All callers have ended their sessions. What the layer does on its own account takes no longer than
/// a recovery.
async fn comes_to_nothing(server: &Server, sessions: &Sessions) {
    let patience = Instant::now() + 2 * callers::RECOVERY;
    while !(sessions.is_empty() && server.left().is_empty()) && Instant::now() < patience {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(sessions.is_empty(), "{} sessions are left", sessions.len());
    assert_eq!(server.left(), [0; 0], "sessions are left on the server");
}

/// What goes wrong, one after the other.
async fn trouble(server: Arc<Server>, sessions: Sessions, ends: Instant) {
    let mut random = Random::new(0x7a0b);
    while Instant::now() < ends {
        match random.below(10) {
            0..3 => server.forget_all(),
            3..6 => server.forget_some(random.next()),
            6 => server.refuse(random.below(4)),
            7 => server.hang(random.chance(50)),
            8 => server.heal(),
            // An id that the layer does not know goes to the server as it is, whoever has it there.
            _ if !server.counts_ids() && random.chance(20) => {
                server.forgotten_by(&sessions);
            }
            _ => {}
        }
        sleep(Duration::from_millis(random.below(12))).await;
    }
    server.heal();
    // No handshake comes to its end.
    server.refuse(2);
    server.forget_all();
    sleep(LAST / 2).await;
    server.heal();
}
