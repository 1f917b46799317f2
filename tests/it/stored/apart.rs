//! Rules A5, H1, N3 and N5 as a property: three users of a server that counts its sessions, and from 1
//! again whenever it restarts, in one process whose store is slow, away or full as a seed has it.
//!
//! One process hears of all ids that are given, so that it can tell the users apart whatever the store
//! says. (Of what another one is given it may not have heard.)

use std::time::Duration;

use http::Method;
use testing::streams::Stream;
use testing::whose::{Ids, User, with_token};
use testing::*;
use tokio::task::JoinHandle;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    seeds::{Random, each_seed},
};

const STEPS: usize = 80;
const NAMES: [&str; 3] = ["Ada", "Bob", "Eve"];
const LONG: Duration = Duration::from_secs(180);

const MODES: [Mode; 11] = [
    Mode::Works,
    Mode::Slow(Duration::from_millis(100)),
    Mode::Slow(Duration::from_millis(400)),
    Mode::Sent(Duration::from_millis(400)),
    Mode::Late(Duration::from_millis(100)),
    Mode::Late(Duration::from_millis(700)),
    Mode::Unsaid,
    Mode::Hangs,
    Mode::Down,
    Mode::Refuses(Duration::from_millis(100)),
    Mode::Full,
];

struct World {
    random: Random,
    server: Server,
    store: FaultyStore,
    users: Vec<User>,
    /// Which user made the call with this id.
    calls: Vec<usize>,
    running: Vec<JoinHandle<()>>,
    streams: Vec<Stream>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let (server, store) = (Server::new(Profile::TypeScriptJson), FaultyStore::new());
        server.set_ids(Ids::Counting);
        let process = client(&server, store.layer());
        let mut random = Random(seed);
        let mut users = Vec::new();
        for name in NAMES {
            store.set(MODES[random.below(MODES.len())]);
            users.push(User::connect(&process, name).await);
        }
        Self {
            random,
            server,
            store,
            users,
            calls: Vec::new(),
            running: Vec::new(),
            streams: Vec::new(),
        }
    }

    fn user(&mut self) -> (usize, User) {
        let number = self.random.below(NAMES.len());
        (number, self.users[number].clone())
    }

    fn call(&mut self) {
        let (number, user) = self.user();
        let id = self.calls.len() as u64;
        self.calls.push(number);
        self.running.push(tokio::spawn(async move {
            user.call(id).await;
        }));
    }

    fn change(&mut self) {
        let (number, user) = self.user();
        let uri = format!("file:///{}/{}", NAMES[number], self.random.below(2));
        let methods = ["resources/subscribe", "resources/unsubscribe"];
        let message = change(methods[self.random.below(2)], &uri);
        self.running.push(tokio::spawn(async move {
            user.send(post(Some(&user.session), &message)).await;
        }));
    }

    async fn listen(&mut self) {
        let (_, user) = self.user();
        let listen = with_token(get(&user.session, None), Some(user.name));
        self.streams.push(Stream::open(&user.client, listen).await);
    }

    async fn step(&mut self) {
        match self.random.below(16) {
            0..5 if self.running.len() < 6 => self.call(),
            5 => self.change(),
            6..9 => self.store.set(MODES[self.random.below(MODES.len())]),
            9 | 10 => self.server.restart(),
            11 if self.streams.len() < 4 => self.listen().await,
            11 => drop(self.streams.remove(0)),
            12 | 13 => {
                let time = [1, 50, 300, 1_000, 15_000][self.random.below(5)];
                tokio::time::sleep(Duration::from_millis(time)).await;
            }
            _ => settle().await,
        }
        self.running.retain(|it| !it.is_finished());
    }

    /// What was carried out in whose session, so far.
    fn check(&self) {
        for (owner, message) in self.server.carried_out() {
            let whose = match message["method"].as_str() {
                Some("tools/call") => NAMES[self.calls[message["id"].as_u64().unwrap() as usize]],
                Some("resources/subscribe" | "resources/unsubscribe") => {
                    let uri = message["params"]["uri"].as_str().unwrap();
                    uri.split('/').nth(3).unwrap()
                }
                _ => continue,
            };
            assert_eq!(owner, whose, "{message}");
        }
    }
}

/// Whatever the store does, nobody is in another's session, and in the end each in his own.
async fn stay_apart(seed: u64) {
    let mut world = World::new(seed).await;
    world
        .server
        .on(|seen| (seen.method == Method::GET).then(|| fed_stream(feed().1)));
    for _ in 0..STEPS {
        world.step().await;
        world.check();
    }
    world.store.set(Mode::Works);
    tokio::time::sleep(LONG).await;
    world.streams.clear();
    world.server.restart();
    for round in 0..2 {
        for (number, name) in NAMES.iter().enumerate() {
            // Who has another's id waits for the pause after that (rule K6).
            tokio::time::sleep(Duration::from_secs(15)).await;
            let id = world.calls.len() as u64;
            world.calls.push(number);
            let answer = world.users[number].call(id).await;
            assert_eq!(answer.status, 200, "{round}, {name}");
            world.check();
        }
    }
}

#[test]
fn a5_n3_h1_users_of_a_server_that_counts_stay_apart_whatever_the_store_says() {
    each_seed(stay_apart);
}
