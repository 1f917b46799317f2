//! What the tests of stacks have in common.

use std::fmt;

use mcp_session_recovery::{Outcome, SessionRecovery};
use testing::mocked::*;
use testing::*;
use tower::Service;

/// A session of the caller's that the server has forgotten.
pub(super) async fn forgotten<S>(
    server: &Server,
    client: SessionRecovery<S>,
) -> Scene<SessionRecovery<S>>
where
    S: Service<Sent, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    let session = handshake(&client).await;
    server.restart();
    Scene {
        server: server.clone(),
        client,
        session,
    }
}

/// Loses a session, and has it recovered through the stack: one handshake, one replay.
pub(super) async fn recovers<S>(
    server: &Server,
    client: SessionRecovery<S>,
) -> Scene<SessionRecovery<S>>
where
    S: Service<Sent, Response = Reply> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: fmt::Debug + Send + 'static,
{
    let scene = forgotten(server, client).await;
    let answer = scene.call(1).await;
    assert_eq!(
        (answer.status, answer.outcome()),
        (200, Some(Outcome::Replayed))
    );
    assert_eq!(echoed(&answer), 1);
    assert_eq!(server.count("initialize"), 2);
    scene
}

/// What a caller's handshake and a recovered call put on the wire.
pub(super) const RECOVERED: [&str; 6] = [
    "initialize",
    "notifications/initialized",
    "tools/call",
    "initialize",
    "notifications/initialized",
    "tools/call",
];
