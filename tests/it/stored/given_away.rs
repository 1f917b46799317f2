//! Rules A5 and N1: an id that the server has given to somebody else is another's for whichever
//! process.

use std::time::Duration;

use mcp_session_recovery::{Principal, SessionRecoveryLayer};
use testing::mocked::echoed;
use testing::whose::{Ids, User};
use testing::*;

use super::faulty::FaultyStore;

/// A server that counts its sessions, and from 1 again once it has restarted.
fn counting() -> Server {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    server
}

/// Each user is a principal.
fn by_user(layer: SessionRecoveryLayer) -> SessionRecoveryLayer {
    layer.principal(|parts| {
        let authorization = parts.headers.get("authorization")?;
        Some(Principal::new(authorization.as_bytes()))
    })
}

/// A user in another process.
fn moved(user: &User, process: &Client) -> User {
    User {
        client: process.clone(),
        ..user.clone()
    }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Calls, in the user's own session.
async fn calls(server: &Server, user: &User, id: u64) {
    let answer = user.call(id).await;
    assert_eq!(echoed(&answer), id);
    let whose = server.whose_was(id);
    assert_eq!(whose.as_deref(), Some(user.name), "call {id}");
    a_while().await;
}

#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_that_a_recovery_was_given_stays_anothers_in_the_next_process() {
    // Given two users, and a recovery of one that was given the id of the other,
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer());
    let bob = User::connect(&process, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    server.restart();
    calls(&server, &ada, 1).await;
    assert_eq!(server.last("tools/call").session(), Some(&*bob.session));
    // when the next process is called, then it is in the session of whoever calls.
    let next = client(&server, store.layer());
    calls(&server, &moved(&bob, &next), 2).await;
    calls(&server, &moved(&ada, &next), 3).await;
    // And nothing is known of an id that was left.
    let third = client(&server, store.layer());
    let handshakes = server.count("initialize");
    calls(&server, &moved(&bob, &third), 4).await;
    assert_eq!(server.count("initialize"), handshakes);
}

#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_that_a_caller_was_given_stays_anothers_in_the_next_process() {
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, by_user(store.layer()));
    let _first = User::connect(&process, "Eve").await;
    let bob = User::connect(&process, "Bob").await;
    a_while().await;
    server.restart();
    let _first = User::connect(&process, "Eve").await;
    let ada = User::connect(&process, "Ada").await;
    assert_eq!(ada.session, bob.session);
    a_while().await;

    let next = client(&server, by_user(store.layer()));
    calls(&server, &moved(&bob, &next), 1).await;
    calls(&server, &moved(&ada, &next), 2).await;
}

/// N3: nor does who knows the session write over that, or go on as if it were not so.
#[tokio::test(start_paused = true)]
async fn a5_n3_that_an_id_is_anothers_is_learned_by_who_writes_the_record() {
    // Given a user who is known to two processes,
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer());
    let bob = User::connect(&process, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    a_while().await;
    let layer = store.layer().session_ttl(Duration::from_secs(240));
    let others = moved(&bob, &client(&server, layer));
    calls(&server, &others, 1).await;
    // when one of them finds his id given away, and the other writes his record once more,
    server.restart();
    calls(&server, &ada, 2).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    // then that one knows, and so does a third.
    let third = moved(&bob, &client(&server, store.layer()));
    calls(&server, &others, 3).await;
    calls(&server, &third, 4).await;
}

#[tokio::test(start_paused = true)]
async fn a5_n4_an_epoch_whose_id_was_given_away_is_not_adopted() {
    // Given a process that has not heard of a user's recovery, whose epoch has expired since,
    let (server, store) = (counting(), FaultyStore::new());
    let process = client(&server, store.layer());
    let _first = User::connect(&process, "Eve").await;
    let ada = User::connect(&process, "Ada").await;
    let bob = User::connect(&process, "Bob").await;
    a_while().await;
    let others = moved(&ada, &client(&server, store.layer()));
    calls(&server, &others, 1).await;
    server.restart();
    calls(&server, &ada, 2).await;
    server.restart();
    calls(&server, &bob, 3).await;
    // when it is called there, then what another has by now is not gone on in.
    calls(&server, &others, 4).await;
}

/// A process that knows a user, and another one that knows only another, who is recovered and given the
/// id of the first.
async fn apart(server: &Server, store: &FaultyStore, is_found_before: bool) -> [User; 2] {
    let [process, next] = [(); 2].map(|()| client(server, store.layer()));
    let bob = User::connect(&next, "Bob").await;
    let ada = User::connect(&process, "Ada").await;
    a_while().await;
    let others = moved(&ada, &next);
    if is_found_before {
        calls(server, &others, 1).await;
    }
    server.restart();
    calls(server, &ada, 2).await;
    assert_eq!(server.last("tools/call").session(), Some(&*bob.session));
    [bob, others]
}

/// Nobody knows which of the two came later. That of one process comes to be another's where it is
/// found, or adopted (N4), and is from there on for all.
#[tokio::test(start_paused = true)]
async fn a5_n1_an_id_of_two_sessions_is_neithers_where_they_meet() {
    for is_found_before in [false, true] {
        for in_a_third in [false, true] {
            let (server, store) = (counting(), FaultyStore::new());
            let [mut bob, ada] = apart(&server, &store, is_found_before).await;
            calls(&server, &ada, 3).await;
            if in_a_third {
                bob = moved(&bob, &client(&server, store.layer()));
            }
            calls(&server, &bob, 4).await;
            calls(&server, &ada, 5).await;
        }
    }
}
