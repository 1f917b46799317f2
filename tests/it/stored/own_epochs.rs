//! Rules A5 and N3: what a store says late, or not at all, of what this process has told it is not of
//! another one. Two users of a server that counts its sessions show it: who goes back is in the other's.

use std::time::Duration;

use testing::whose::{Ids, User};
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
};

/// Bob, who goes by "1", and the store and the server of both.
async fn bob() -> (Server, FaultyStore, User) {
    let (server, store) = (Server::new(Profile::TypeScriptJson), FaultyStore::new());
    server.set_ids(Ids::Counting);
    let bob = User::connect(&client(&server, store.layer()), "Bob").await;
    a_while().await;
    (server, store, bob)
}

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(2)).await;
}

/// Each calls, in this order, in his own session.
async fn call(server: &Server, users: [&User; 2], id: u64) {
    for (user, id) in users.into_iter().zip(id..) {
        assert_eq!(user.call(id).await.status, 200, "{}", user.name);
        let whose = server.whose_was(id);
        assert_eq!(whose.as_deref(), Some(user.name), "call {id}");
    }
}

/// N5: the store is away, and back.
async fn they_are_themselves_when_the_store_is_back(
    server: &Server,
    store: &FaultyStore,
    [ada, bob]: [&User; 2],
) {
    store.set(Mode::Down);
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.restart();
    call(server, [ada, bob], 20).await;
    store.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(30)).await;
    call(server, [ada, bob], 30).await;
}

#[tokio::test(start_paused = true)]
async fn a5_n3_what_was_written_is_known_although_the_store_does_not_say_so() {
    for mode in [Mode::Unsaid, Mode::Works] {
        // Given a session that is written when it is new, which the store does not say,
        let (server, store, bob) = bob().await;
        store.set(mode);
        let ada = User::connect(&bob.client, "Ada").await;
        settle().await;
        // when it has moved on while the store was away, then it does not go back.
        they_are_themselves_when_the_store_is_back(&server, &store, [&ada, &bob]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a5_n3_an_answer_that_comes_late_is_no_news() {
    for late in [600, 0] {
        // Given a change that is written, which the store says when the session has moved on, and that is
        // written,
        let (server, store, bob) = bob().await;
        let ada = User::connect(&bob.client, "Ada").await;
        a_while().await;
        store.set(Mode::Late(Duration::from_millis(late)));
        let subscribe = change("resources/subscribe", "file:///a");
        let changed = ada.send(post(Some(&ada.session), &subscribe)).await;
        assert_eq!(changed.status, 200);
        tokio::time::sleep(Duration::from_millis(1)).await;
        store.set(Mode::Works);
        server.restart();
        call(&server, [&bob, &ada], 10).await;
        // when it moves on once more while the store is away, then it does not go back.
        they_are_themselves_when_the_store_is_back(&server, &store, [&ada, &bob]).await;
    }
}
