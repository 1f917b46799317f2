//! Rules N3, N5, N6, H1, I2 and I3 as properties: two processes, each with its own way to one store, which
//! is slow, away or full as a seed has it, and a server that restarts. In half of them there is room for
//! one session, which another one takes from time to time.
//!
//! A restart comes when no call is under way, so that every call has to succeed: what would have
//! succeeded without a store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use mcp_session_recovery::SessionRecoveryLayer;
use testing::mocked::*;
use testing::*;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    seeds::{Random, each_seed},
};

const STEPS: usize = 60;
const URIS: usize = 3;
/// What the longest wait for the store may add to a call (rule N5), and the clock's whole milliseconds.
const PATIENCE: Duration = Duration::from_millis(260);
const LONG: Duration = Duration::from_secs(180);

const MODES: [Mode; 10] = [
    Mode::Works,
    Mode::Slow(Duration::from_millis(100)),
    Mode::Slow(Duration::from_millis(400)),
    Mode::Sent(Duration::from_millis(400)),
    Mode::Late(Duration::from_millis(100)),
    Mode::Late(Duration::from_millis(400)),
    Mode::Hangs,
    Mode::Down,
    Mode::Refuses(Duration::from_millis(100)),
    Mode::Full,
];

/// What a server has been told in each of its sessions.
#[derive(Default)]
struct Held {
    executed: Vec<u64>,
    subscribed: BTreeMap<String, BTreeSet<String>>,
}

struct World {
    random: Random,
    ways: [FaultyStore; 2],
    processes: [Scene; 2],
    held: Arc<Mutex<Held>>,
    /// Whether a process has room for one session only.
    is_tight: bool,
    /// The other sessions that there are on the server.
    others: BTreeSet<String>,
    /// What the callers of either process have subscribed to.
    believed: BTreeSet<String>,
    calls: u64,
    running: Vec<(u64, JoinHandle<(Answer, Duration)>)>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let store = FaultyStore::new();
        let ways = [store.another_way(), store];
        let is_tight = seed % 2 == 1;
        let one = live(layer(&ways[0], is_tight)).await;
        settle().await;
        let other = joined(&one, layer(&ways[1], is_tight)).await;
        let held = Arc::<Mutex<Held>>::default();
        note(&one.server, &held);
        Self {
            random: Random(seed),
            ways,
            processes: [one, other],
            held,
            is_tight,
            others: BTreeSet::new(),
            believed: BTreeSet::new(),
            calls: 0,
            running: Vec::new(),
        }
    }

    fn server(&self) -> &Server {
        &self.processes[0].server
    }

    fn begin(&mut self, process: usize) {
        let scene = &self.processes[process];
        let call = scene.spawn_call(self.calls);
        let started = Instant::now();
        let timed = async move {
            let answer = call.await.unwrap();
            (answer, started.elapsed())
        };
        self.running.push((self.calls, tokio::spawn(timed)));
        self.calls += 1;
    }

    async fn finish(&mut self) {
        for (call, task) in std::mem::take(&mut self.running) {
            let (answer, took) = soon(task).await.unwrap();
            assert_eq!(echoed(&answer), call);
            // It may have to find its session as well.
            let patience = PATIENCE * if self.is_tight { 2 } else { 1 };
            assert!(took <= patience, "call {call} took {took:?}");
        }
    }

    /// Subscribes to something, or takes it back. What the caller of a process has subscribed to is
    /// that caller's to take back.
    async fn change(&mut self) {
        let process = self.random.below(2);
        let uri = format!("file:///{process}/{}", self.random.below(URIS));
        let method = match self.believed.remove(&uri) {
            true => "resources/unsubscribe",
            false => "resources/subscribe",
        };
        let message = change(method, &uri);
        let scene = &self.processes[process];
        let answer = scene.send(post(Some(&scene.session), &message)).await;
        assert_eq!(answer.status, 200);
        if method == "resources/subscribe" {
            self.believed.insert(uri);
        }
    }

    /// Another process in the place of one that has told the store all that it knows.
    async fn replace(&mut self) {
        let process = self.random.below(2);
        self.ways.iter().for_each(|way| way.set(Mode::Works));
        tokio::time::sleep(LONG).await;
        let layer = layer(&self.ways[process], self.is_tight);
        self.processes[process] = joined(&self.processes[1 - process], layer).await;
    }

    /// Another session takes the place of the one that there is room for, until that is found again.
    async fn crowd(&mut self) {
        let process = self.random.below(2);
        let time = Duration::from_millis(self.random.below(240) as u64);
        self.ways[process].set(Mode::Slow(time));
        let scene = &self.processes[process];
        self.others.insert(handshake(&scene.client).await);
        tokio::time::sleep(time * self.random.below(4) as u32).await;
        let ping = post(Some(&scene.session), &ping(8));
        assert_eq!(soon(scene.send(ping)).await.status, 200);
    }

    /// What there is on the server but for those.
    fn live(&self) -> Vec<String> {
        let live = self.server().live().into_iter();
        live.filter(|it| !self.others.contains(it)).collect()
    }

    async fn step(&mut self) {
        match self.random.below(if self.is_tight { 14 } else { 12 }) {
            0..4 if self.running.len() < 4 => {
                let process = self.random.below(2);
                self.begin(process);
            }
            4..6 => {
                let way = self.random.below(2);
                self.ways[way].set(MODES[self.random.below(MODES.len())]);
            }
            6..8 => self.change().await,
            8 => {
                self.finish().await;
                self.server().restart();
            }
            9 => {
                let time = [1, 50, 300, 5_000, 40_000][self.random.below(5)];
                tokio::time::sleep(Duration::from_millis(time)).await;
            }
            10 if self.random.below(6) == 0 => {
                self.finish().await;
                self.replace().await;
            }
            12.. => self.crowd().await,
            _ => settle().await,
        }
    }

    /// The store is well for as long as it takes until all have heard of it.
    async fn recover(&mut self) {
        self.finish().await;
        self.ways.iter().for_each(|way| way.set(Mode::Works));
        tokio::time::sleep(LONG).await;
        for process in [0, 1] {
            self.begin(process);
            self.finish().await;
        }
        tokio::time::sleep(LONG).await;
    }
}

fn layer(way: &FaultyStore, is_tight: bool) -> SessionRecoveryLayer {
    let room = if is_tight { 1 } else { usize::MAX };
    way.layer().max_sessions(room)
}

/// A process that has found in the store the session that another one recorded.
async fn joined(one: &Scene, layer: SessionRecoveryLayer) -> Scene {
    let joined = one.in_another_process(layer);
    let ping = post(Some(&one.session), &ping(8));
    assert_eq!(joined.send(ping).await.status, 200);
    joined
}

/// Notes what the server has been told by whom it knows.
fn note(server: &Server, held: &Arc<Mutex<Held>>) {
    let (known, held) = (server.clone(), held.clone());
    server.on(move |seen| {
        let session = seen.session().unwrap_or_default().to_owned();
        if !known.live().contains(&session) {
            return None;
        }
        let mut held = held.lock().unwrap();
        let message = seen.message();
        let uri = message["params"]["uri"].as_str().unwrap_or_default();
        match &*seen.what() {
            "tools/call" => held.executed.push(message["id"].as_u64().unwrap()),
            "resources/subscribe" => {
                let of_session = held.subscribed.entry(session).or_default();
                of_session.insert(uri.to_owned());
            }
            "resources/unsubscribe" => {
                let of_session = held.subscribed.entry(session).or_default();
                of_session.remove(uri);
            }
            _ => {}
        }
        None
    });
}

/// Whatever the store does, the session goes on.
async fn goes_on(seed: u64) {
    // Given two processes, each with a store that fails by itself, and a server that restarts,
    let mut world = World::new(seed).await;
    for _ in 0..STEPS {
        // when they are called, then all calls succeed, and none waits longer than for the store.
        world.step().await;
    }
    // When the store is well again,
    world.recover().await;

    // then both are in one session, and nothing else is left on the server;
    let live = world.live();
    assert_eq!(live.len(), 1, "{live:?}");
    // it holds what the callers believe,
    let believed = world.believed.clone();
    let holds = |world: &World, session: &String| {
        let held = world.held.lock().unwrap();
        held.subscribed.get(session).cloned().unwrap_or_default()
    };
    assert_eq!(holds(&world, &live[0]), believed);
    // also after the next loss, whichever process recovers it;
    world.server().restart();
    let first = world.random.below(2);
    for process in [first, 1 - first] {
        world.begin(process);
        world.finish().await;
    }
    tokio::time::sleep(LONG).await;
    let live = world.live();
    assert_eq!(live.len(), 1, "{live:?}");
    assert_eq!(holds(&world, &live[0]), believed);
    // a third process finds the session in the store;
    let handshakes = world.server().count("initialize");
    joined(&world.processes[0], world.ways[0].layer()).await;
    assert_eq!(world.server().count("initialize"), handshakes);
    // and nothing was done twice.
    let executed = world.held.lock().unwrap().executed.clone();
    let calls = BTreeSet::from_iter(&executed);
    assert_eq!(calls.len(), executed.len());
}

/// Whatever the store does when it is ended, a session ends.
async fn ends(seed: u64) {
    let mut world = World::new(seed).await;
    for _ in 0..world.random.below(STEPS) {
        world.step().await;
    }
    // A store that is full has no room for a mark, and lets go of the record.
    world.ways.iter().for_each(FaultyStore::make_room);
    // Given a session that is ended through either process, with calls under way in both,
    let process = world.random.below(2);
    let scene = &world.processes[process];
    let ending = scene.spawn(delete(&scene.session));
    if world.random.below(2) == 0 {
        settle().await;
    }
    for _ in 0..world.random.below(3) {
        let process = world.random.below(2);
        world.begin(process);
    }
    assert!([200, 404].contains(&soon(ending).await.unwrap().status));
    for (_, call) in std::mem::take(&mut world.running) {
        soon(call).await.unwrap();
    }

    // when the store is well again after a while,
    let time = [0, 300, 5_000][world.random.below(3)];
    tokio::time::sleep(Duration::from_millis(time)).await;
    world.ways.iter().for_each(|way| way.set(Mode::Works));
    tokio::time::sleep(Duration::from_secs(20)).await;

    // then it has ended everywhere.
    for process in [0, 1] {
        assert_eq!(world.processes[process].call(2_000).await.status, 404);
    }
    tokio::time::sleep(LONG).await;
    let live = world.live();
    assert!(live.is_empty(), "{live:?}");
}

#[test]
fn n5_n6_i3_a_session_ends_whatever_its_store_does() {
    each_seed(ends);
}

#[test]
fn n3_n5_h1_a_session_goes_on_whatever_its_store_does() {
    each_seed(goes_on);
}
