//! Rules A5, N3 and N4: ids of epochs that a session has left, and that come up again. The server counts
//! its sessions, and each user is a principal.

use std::time::Duration;

use testing::mocked::Answering;
use testing::whose::{Ids, User, by_user};
use testing::*;

use super::faulty::{FaultyStore, Mode};

/// Two processes, their ways to the store, and a server of which is known that it counts.
struct Scene {
    server: Server,
    own: FaultyStore,
    here: Client,
    there: Client,
}

fn scene() -> Scene {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let store = FaultyStore::new();
    let own = store.another_way();
    // So that what is used is written again soon.
    let process = |store: &FaultyStore| {
        let layer = store.layer().session_ttl(Duration::from_secs(40));
        client(&server, by_user(layer))
    };
    let (here, there) = (process(&own), process(&store));
    Scene {
        server,
        own,
        here,
        there,
    }
}

impl Scene {
    /// A user whose session is called by this number.
    async fn connect(&self, client: &Client, name: &'static str, number: usize) -> User {
        self.server.count_on_from(number - 1);
        User::connect(client, name).await
    }

    /// The server is restarted, and goes on with this number.
    fn restart(&self, number: usize) {
        self.server.restart();
        self.server.count_on_from(number - 1);
    }

    /// Each process recovers the user's session, this one first, under "1", and without the store.
    async fn recovers_apart(&self, user: &User) {
        self.restart(1);
        self.own.set(Mode::Down);
        self.calls(&self.here, user, 2).await;
        assert_eq!(self.server.last("tools/call").session(), Some("1"));
        self.calls(&self.there, user, 3).await;
    }

    /// Calls, in the user's own session, by whichever process.
    async fn calls(&self, client: &Client, user: &User, id: u64) {
        let user = User {
            client: client.clone(),
            ..user.clone()
        };
        assert_eq!(user.call(id).await.status, 200, "{} {id}", user.name);
        let whose = self.server.whose_was(id);
        assert_eq!(whose.as_deref(), Some(user.name), "call {id}");
    }
}

async fn a_while() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// G6, I1: an epoch that gave way is still in use, and whoever is found with its id is not to end it either.
#[tokio::test(start_paused = true)]
async fn a5_n3_who_is_found_with_the_id_of_an_epoch_that_gave_way_does_not_get_into_it() {
    for ends in [false, true] {
        // Given Ada, of the other process, and Bob, of both,
        let scene = scene();
        let (here, there) = (&scene.here, &scene.there);
        let ada = scene.connect(there, "Ada", 1).await;
        let bob = scene.connect(here, "Bob", 8).await;
        a_while().await;
        scene.calls(there, &bob, 1).await;
        // whom each process has recovered, this one without the store, so that he has her id,
        scene.recovers_apart(&bob).await;
        // and something that takes its time there when he goes on as the other process does,
        let behind = scene.server.clone();
        scene.server.on_async(move |seen| {
            let (behind, seen) = (behind.clone(), seen.clone());
            (seen.what() == "tools/call" && seen.message()["id"] == 4).then(|| -> Answering {
                Box::pin(async move {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    Ok(behind.default_answer(&seen))
                })
            })
        });
        let slow = bob.spawn_call(4);
        settle().await;
        scene.own.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(5)).await;
        scene.calls(here, &bob, 5).await;
        assert_eq!(scene.server.last("tools/call").session(), Some("2"));
        // when she comes to this process, then she does not get into that, nor ends it.
        let found = User {
            client: here.clone(),
            ..ada
        };
        match ends {
            true => drop(found.delete().await),
            false => scene.calls(here, &found, 6).await,
        }
        assert!(!slow.is_finished());
        assert_eq!(slow.await.unwrap().status, 200);
        assert_eq!(scene.server.whose_was(4).as_deref(), Some("Bob"));
    }
}

#[tokio::test(start_paused = true)]
async fn n4_an_epoch_is_adopted_with_an_id_that_the_session_had_before() {
    for first in [11, 1] {
        // Given a session that this process has recovered, and then another one under its first id,
        let scene = scene();
        let (here, there) = (&scene.here, &scene.there);
        let bob = scene.connect(here, "Bob", first).await;
        let _another = User::connect(here, "Carol").await;
        scene.restart(5);
        scene.calls(here, &bob, 1).await;
        a_while().await;
        scene.restart(1);
        scene.calls(there, &bob, 2).await;
        a_while().await;
        // when it is called here, then it goes on in that.
        let handshakes = scene.server.count("initialize");
        scene.calls(here, &bob, 3).await;
        assert_eq!(scene.server.count("initialize"), handshakes, "{first}");
        assert_eq!(scene.server.live(), ["1"]);
    }
}

/// Somebody who does not know goes on in it, as in one that comes after what has expired since.
#[tokio::test(start_paused = true)]
async fn a5_n4_an_id_that_is_lost_is_lost_under_a_later_number_as_well() {
    for is_adopted in [false, true] {
        // Given Ada, whom this process knows by another number, or by this, as the other one does,
        let scene = scene();
        let (here, there) = (&scene.here, &scene.there);
        let bob = scene.connect(here, "Bob", 8).await;
        let _another = User::connect(here, "Carol").await;
        let ada = match is_adopted {
            true => scene.connect(here, "Ada", 20).await,
            false => scene.connect(there, "Ada", 2).await,
        };
        a_while().await;
        if is_adopted {
            scene.restart(2);
        }
        scene.calls(there, &ada, 1).await;
        assert_eq!(scene.server.last("tools/call").session(), Some("2"));
        a_while().await;
        scene.calls(there, &ada, 2).await;
        // and which has given that to Bob since, so that both are recovered,
        scene.restart(2);
        scene.calls(here, &bob, 3).await;
        assert_eq!(scene.server.last("tools/call").session(), Some("2"));
        scene.server.count_on_from(10);
        scene.calls(here, &ada, 4).await;
        scene.calls(here, &bob, 5).await;
        // when hers is lost, and the other process finds only that,
        a_while().await;
        scene.server.forget("11");
        tokio::time::sleep(Duration::from_secs(20)).await;
        // then she does not get into what was Bob's.
        scene.calls(here, &ada, 6).await;
    }
}

/// I3: what is left of it is not ended then, whoever has it.
#[tokio::test(start_paused = true)]
async fn a5_i3_an_epoch_that_gave_way_is_not_ended_when_its_id_is_anothers() {
    // Given Bob, whom each process has recovered, this one without the store,
    let scene = scene();
    let (here, there) = (&scene.here, &scene.there);
    let bob = scene.connect(here, "Bob", 8).await;
    a_while().await;
    scene.calls(there, &bob, 1).await;
    scene.recovers_apart(&bob).await;
    scene.own.set(Mode::Works);
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.calls(here, &bob, 4).await;
    // and Ada, whom the server has given what he has left since, and who comes to this process as well,
    scene.restart(1);
    let ada = User::connect(there, "Ada").await;
    assert_eq!(ada.session, "1");
    a_while().await;
    scene.calls(here, &ada, 5).await;
    // when its time is over, then nobody ends hers.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(scene.server.count("DELETE"), 0);
    scene.calls(there, &ada, 6).await;
}
