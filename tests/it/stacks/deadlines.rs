//! The crate documentation's table "Where to put it in a stack", the rows of time: a time-out for
//! each request below, a deadline for all that a caller waits for above.

use std::time::Duration;

use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use testing::mocked::*;
use testing::scenario::slow;
use testing::*;
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, timeout::error::Elapsed};

use super::support::{forgotten, recovers};

/// What each of the four requests of a recovered call takes.
const EACH: Duration = Duration::from_millis(1500);

fn slow_server() -> Server {
    let server = Server::new(Profile::TypeScript);
    for what in ["initialize", "notifications/initialized", "tools/call"] {
        slow(&server, what, EACH);
    }
    server
}

/// E4.
#[tokio::test(start_paused = true)]
async fn e4_a_timeout_below_is_for_each_sending() {
    // Given a time-out that each request meets, and all of them together would not,
    let server = slow_server();
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .timeout(Duration::from_secs(2))
        .service(server.service());
    let scene = forgotten(&server, client).await;

    // when a call is recovered, then it is answered.
    let started = Instant::now();
    let answer = scene.call(1).await;
    assert_eq!(
        (echoed(&answer), answer.outcome()),
        (1, Some(Outcome::Replayed))
    );
    assert_eq!(started.elapsed(), 4 * EACH);
}

/// E2.
#[tokio::test(start_paused = true)]
async fn e2_a_deadline_above_is_for_all_that_a_caller_waits_for() {
    for (deadline, is_met) in [(Duration::from_secs(7), true), (4 * EACH / 2, false)] {
        let server = slow_server();
        let scene = forgotten(&server, client(&server, SessionRecoveryLayer::new())).await;
        let patient = ServiceBuilder::new()
            .timeout(deadline)
            .service(scene.client.clone());
        let started = Instant::now();
        let call = post(Some(&scene.session), &tool_call(1));
        match patient.oneshot(call).await {
            Ok(answer) => assert!(is_met && answer.status() == 200),
            Err(error) => {
                assert!(!is_met && error.is::<Elapsed>());
                assert_eq!(started.elapsed(), deadline);
                // The recovery has gone on, for whoever comes next.
                tokio::time::sleep(2 * EACH).await;
                let answer = scene.call(2).await;
                assert_eq!((echoed(&answer), answer.recovery), (2, None));
            }
        }
        assert_eq!(server.count("initialize"), 2);
    }
}

/// The same stack with both, as a client would have it.
#[tokio::test(start_paused = true)]
async fn e4_a_session_is_recovered_between_a_deadline_and_a_timeout() {
    let server = slow_server();
    let inner = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        .timeout(Duration::from_secs(2))
        .service(server.service());
    let scene = recovers(&server, inner).await;
    server.restart();
    let client = ServiceBuilder::new()
        .timeout(Duration::from_secs(30))
        .service(scene.client);
    let call = post(Some(&scene.session), &tool_call(2));
    let answer = read(client.oneshot(call).await.expect("an answer")).await;
    assert_eq!(echoed(&answer), 2);
}
