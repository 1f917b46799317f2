//! The main job: a session dies, the caller notices nothing.

use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use testing::*;

/// E5, E6, E7, F1, F7, C1: for every server profile, the call after the loss is answered as if
/// nothing had happened.
#[tokio::test]
async fn a_call_after_the_loss_is_answered_by_every_server_profile() {
    for profile in Profile::ALL {
        // Given a session that the server has forgotten,
        let server = Server::new(profile);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let before = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!((before.status, before.recovery), (200, None), "{profile:?}");
        server.restart();

        // when the caller calls again,
        let after = send(&client, post(Some(&session), &tool_call(2))).await;

        // then it gets its answer, under its own session id, after one handshake and one replay.
        assert_eq!(after.status, 200, "{profile:?}");
        assert_eq!(
            after.messages().last().unwrap()["result"]["echo"]["arguments"]["n"],
            2
        );
        assert_eq!(after.outcome(), Some(Outcome::Replayed), "{profile:?}");
        if let Some(echoed) = after.session() {
            assert_eq!(echoed, session, "{profile:?}");
        }
        assert_eq!(
            server.log(),
            [
                "initialize",
                "notifications/initialized",
                "tools/call",
                "tools/call",
                "initialize",
                "notifications/initialized",
                "tools/call",
            ],
            "{profile:?}"
        );
        let seen = server.seen();
        assert_eq!(seen[4].session(), None);
        assert_ne!(seen[6].session(), Some(session.as_str()));
        assert_eq!(seen[5].session(), seen[6].session());
        assert_eq!(seen[3].body, seen[6].body);

        // And again: the id stays valid for ever.
        server.restart();
        let again = send(&client, post(Some(&session), &tool_call(3))).await;
        assert_eq!(
            (again.status, server.count("initialize")),
            (200, 3),
            "{profile:?}"
        );
    }
}
