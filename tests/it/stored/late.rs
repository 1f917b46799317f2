//! Rule N3 over a store that does what it is told, and says so too late.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mcp_session_recovery::{
    SessionRecoveryLayer,
    store::{MemoryStore, Revision, Saved, SessionStore, StoreFuture, StoreKey, Stored},
};
use serde_json::Value;
use testing::mocked::*;
use testing::*;

use super::{
    agreeing::change,
    faulty::{FaultyStore, Mode},
    seeds::{Random, each_seed},
};

/// How long an operation takes before it is done, and after that, in milliseconds.
type Takes = (u64, u64);

/// How long the operations take.
enum Times {
    Listed(VecDeque<Takes>),
    Ever,
    Any { random: Random, longest: u64 },
}

impl Default for Times {
    fn default() -> Self {
        Self::Listed(VecDeque::new())
    }
}

impl Times {
    fn next(&mut self) -> Takes {
        match self {
            Self::Listed(times) => times.pop_front().unwrap_or_default(),
            Self::Ever => (u64::MAX, 0),
            Self::Any { random, longest } => {
                let mut time = || random.below(*longest as usize) as u64;
                (time(), time())
            }
        }
    }

    fn left(&self) -> usize {
        match self {
            Self::Listed(times) => times.len(),
            Self::Ever | Self::Any { .. } => usize::MAX,
        }
    }

    /// Whether a save is done although nobody waits for it any more.
    fn is_sent(&mut self) -> bool {
        match self {
            Self::Listed(_) | Self::Ever => false,
            Self::Any { random, .. } => random.below(2) == 0,
        }
    }
}

/// One process's way to the store.
#[derive(Clone, Default)]
struct Late {
    memory: MemoryStore,
    /// The epochs that were saved, whichever way.
    saved: Arc<Mutex<Vec<(u64, Value)>>>,
    saves: Arc<Mutex<Times>>,
    loads: Arc<Mutex<Times>>,
}

impl Late {
    fn another_way(&self) -> Self {
        Self {
            saves: Arc::default(),
            loads: Arc::default(),
            ..self.clone()
        }
    }

    fn list(&self, saves: &[Takes], loads: &[Takes]) {
        let listed = |times: &[Takes]| Times::Listed(times.iter().copied().collect());
        *self.saves.lock().unwrap() = listed(saves);
        *self.loads.lock().unwrap() = listed(loads);
    }

    fn hang(&self) {
        for times in [&self.saves, &self.loads] {
            *times.lock().unwrap() = Times::Ever;
        }
    }

    fn take_up_to(&self, longest: u64, random: &mut Random) {
        for times in [&self.saves, &self.loads] {
            let random = Random(random.below(usize::MAX) as u64);
            *times.lock().unwrap() = Times::Any { random, longest };
        }
    }

    fn epochs(&self) -> Vec<u64> {
        let saved = self.saved.lock().unwrap();
        saved.iter().map(|(epoch, _)| *epoch).collect()
    }

    /// What the store holds has been followed by itself or by what comes after it.
    fn assert_never_went_back(&self) {
        let saved = self.saved.lock().unwrap();
        for two in saved.windows(2) {
            let (before, after) = (&two[0], &two[1]);
            assert!(before == after || before.0 < after.0, "{two:?}");
        }
    }
}

async fn millis(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

impl SessionStore for Late {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        let (before, after) = self.loads.lock().unwrap().next();
        Box::pin(async move {
            millis(before).await;
            let loaded = self.memory.load(key).await;
            millis(after).await;
            loaded
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        let this = self.clone();
        let ((before, after), is_sent) = {
            let mut saves = self.saves.lock().unwrap();
            (saves.next(), saves.is_sent())
        };
        let saved = async move {
            millis(before).await;
            let record: Value = serde_json::from_slice(&value).unwrap();
            let saved = this.memory.save(key, value, expected, ttl).await;
            if matches!(saved, Ok(Saved::Yes(_))) {
                let epoch = record["epoch"].as_u64().unwrap();
                let upstream = record["upstream"].clone();
                this.saved.lock().unwrap().push((epoch, upstream));
            }
            millis(after).await;
            saved
        };
        match is_sent {
            true => {
                let sent = tokio::spawn(saved);
                Box::pin(async move { sent.await.unwrap() })
            }
            false => Box::pin(saved),
        }
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        self.memory.remove(key)
    }
}

/// A process that has found in the store the session that another one recorded.
async fn joined(one: &Scene, layer: SessionRecoveryLayer) -> Scene {
    let joined = one.in_another_process(layer);
    assert_eq!(echoed(&joined.call(1).await), 1);
    joined
}

#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_was_left_is_not_written_over_the_one_after_it() {
    // Given a recovery whose epoch is stored, although that is said too late, and so is written again,
    let store = Late::default();
    let scene = live(SessionRecoveryLayer::new().store(store.clone())).await;
    settle().await;
    let saves = [
        (0, 300),
        (0, 0),
        (600, 0),
        (0, 300),
        (0, 0),
        (700, 0),
        (700, 0),
    ];
    store.list(&saves, &[]);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    // when the session has moved on once more before that is done,
    scene.server.restart();
    assert_eq!(echoed(&scene.call(2).await), 2);
    millis(60_000).await;

    // then the store has gone from one epoch to the next, and never back.
    store.assert_never_went_back();
    assert_eq!(store.epochs().last(), Some(&2));
}

/// A process that has recovered a session alone, so and so often, and has just found what another has
/// stored meanwhile. It is about to ask the server about that.
struct Alone {
    store: Late,
    scene: Scene,
    other: Scene,
    stored: String,
    session: String,
}

impl Alone {
    /// `saves` and `load` are what the next operations take of the one that is alone.
    async fn new(epochs: u64, saves: &[Takes], load: Takes) -> Self {
        let store = Late::default();
        let late = store.another_way();
        let other = live(SessionRecoveryLayer::new().store(store.clone())).await;
        settle().await;
        let scene = joined(&other, SessionRecoveryLayer::new().store(late.clone())).await;
        late.hang();
        for epoch in 0..epochs {
            other.server.restart();
            assert_eq!(echoed(&scene.call(epoch).await), epoch);
        }
        let session = || {
            other
                .server
                .last("tools/call")
                .session()
                .unwrap()
                .to_owned()
        };
        let alone = session();
        assert_eq!(echoed(&other.call(2).await), 2);
        let stored = session();
        let saves = [&[(0, 0)], saves].concat();
        late.list(&saves, &[(0, 0), (0, 150), load]);
        while late.loads.lock().unwrap().left() > 1 {
            millis(5).await;
        }
        Self {
            store,
            scene,
            other,
            stored,
            session: alone,
        }
    }

    async fn both_are_in(&self, session: &str) {
        for scene in [&self.scene, &self.other, &self.scene] {
            assert_eq!(echoed(&scene.call(9).await), 9);
            let seen = scene.server.last("tools/call");
            assert_eq!(seen.session(), Some(session));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn n3_an_epoch_that_lives_is_not_written_over_by_who_has_looked_at_it() {
    // Given a process that finds what another has stored,
    let alone = Alone::new(1, &[(5_000, 0)], (0, 300)).await;

    // when it has to recover its own, and the store does not answer in time again,
    let server = &alone.scene.server;
    server.rename(&alone.session, "expired");
    assert_eq!(echoed(&alone.scene.call(3).await), 3);
    millis(5_000).await;

    // then both go on in the one that is stored.
    alone.both_are_in(&alone.stored).await;
    alone.store.assert_never_went_back();
}

#[tokio::test(start_paused = true)]
async fn n3_what_was_read_for_an_epoch_that_was_left_is_not_written_over() {
    // Given a process that finds what another has stored, and has something to write meanwhile,
    let alone = Alone::new(3, &[], (300, 0)).await;
    let scene = &alone.scene;
    let subscribe = change("resources/subscribe", "file:///a");
    let answer = scene.send(post(Some(&scene.session), &subscribe)).await;
    assert_eq!(answer.status, 200);
    settle().await;

    // when both epochs expire, and the other process is in the next one by then,
    scene.server.restart();
    assert_eq!(echoed(&alone.other.call(3).await), 3);
    let next = scene.server.live();
    millis(5_000).await;

    // then that is what the store holds, and both go on in.
    alone.both_are_in(&next[0]).await;
    alone.store.assert_never_went_back();
}

#[tokio::test(start_paused = true)]
async fn n3_no_request_is_sent_again_in_what_another_process_made_and_has_expired() {
    // Given a call in an epoch of a process that finds what another has stored,
    let alone = Alone::new(1, &[], (0, 0)).await;
    let scene = &alone.scene;
    let gate = hold(&scene.server, "tools/call");
    let call = scene.spawn_call(3);
    settle().await;
    // when the server has forgotten both before it is answered,
    scene.server.restart();
    millis(1_000).await;
    gate.open();

    // then it is answered in a new one.
    assert_eq!(echoed(&soon(call).await.unwrap()), 3);
    alone.both_are_in(&scene.server.live()[0]).await;
    assert_eq!(scene.server.live().len(), 1);
}

/// However many processes there are, and however late each of them is told.
async fn never_goes_back(seed: u64) {
    let mut random = Random(seed);
    let longest = [20, 120, 300][random.below(3)];
    let many = 1 + random.below(3);
    // Given processes that share a session, whose ways to the store are slow,
    let store = Late::default();
    let pause = Duration::from_millis(1);
    let layer = |way: &Late| {
        let layer = SessionRecoveryLayer::new().recovery_pause(pause, pause);
        layer.store(way.clone())
    };
    let mut scenes = vec![live(layer(&store)).await];
    settle().await;
    let mut ways = vec![store.clone()];
    for _ in 1..many {
        let way = store.another_way();
        scenes.push(joined(&scenes[0], layer(&way)).await);
        ways.push(way);
    }
    for way in &ways {
        way.take_up_to(longest, &mut random);
    }
    // when the server restarts again and again while they call and subscribe,
    for call in 0..40 {
        if random.below(3) == 0 {
            scenes[0].server.restart();
        }
        let scene = &scenes[random.below(many)];
        let message = match random.below(3) {
            0 => change("resources/subscribe", &random.below(5).to_string()),
            _ => tool_call(call),
        };
        let answer = scene.send(post(Some(&scene.session), &message)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        if random.below(5) < 3 {
            millis(random.below(2 * longest as usize + 10) as u64).await;
        }
    }

    // then the store goes from one epoch to a later one, whoever writes.
    store.assert_never_went_back();
}

#[test]
fn n3_the_store_never_goes_back_to_an_epoch_however_late_it_says_what_it_has_done() {
    each_seed(never_goes_back);
}

/// H1: a process that has not heard that its session was written knows it by what is in it.
#[tokio::test(start_paused = true)]
async fn n3_h1_what_others_have_made_of_a_record_is_not_written_over_by_who_has_not_heard_of_it() {
    for is_lost in [false, true] {
        // Given a session whose record is there, of which the process has not heard,
        let store = FaultyStore::new();
        let own = store.another_way();
        own.set(Mode::Late(Duration::from_secs(20)));
        let scene = live(own.layer()).await;
        settle().await;
        own.set(Mode::Down);
        // which another one finds, changes, and may recover,
        let other = scene.in_another_process(store.layer());
        let subscribe = change("resources/subscribe", "file:///b");
        let answer = other.send(post(Some(&scene.session), &subscribe)).await;
        assert_eq!(answer.status, 200);
        if is_lost {
            scene.server.restart();
            assert_eq!(echoed(&other.call(1).await), 1);
            assert_eq!(echoed(&scene.call(2).await), 2);
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        // when its store is back, and all is quiet,
        own.set(Mode::Works);
        tokio::time::sleep(Duration::from_secs(300)).await;
        // then both are in one session, which has that, also after the next loss.
        for round in 0..2 {
            for id in 0..2 {
                assert_eq!(echoed(&scene.call(id).await), id);
                assert_eq!(echoed(&other.call(id).await), id);
            }
            tokio::time::sleep(Duration::from_secs(100)).await;
            let live = scene.server.live();
            assert_eq!(live.len(), 1, "{is_lost} {round}");
            let subscribed = scene.server.subscriptions(&live[0]);
            assert_eq!(subscribed, ["file:///b"], "{is_lost} {round}");
            scene.server.restart();
        }
    }
}

/// I3: a client of a store may send a save again whose answer it has not seen.
#[tokio::test(start_paused = true)]
async fn n3_a_proposal_that_was_stored_without_the_store_having_said_so_is_no_other_processs() {
    // Given an epoch that was published while the store was away,
    let store = FaultyStore::new();
    let scene = live(store.layer()).await;
    settle().await;
    store.set(Mode::Down);
    scene.server.restart();
    assert_eq!(echoed(&scene.call(1).await), 1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    // when the store is back, and takes the next proposal twice,
    scene.server.restart();
    store.set(Mode::Twice);
    // then the session goes on in that.
    for id in 2..4 {
        assert_eq!(echoed(&scene.call(id).await), id);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(scene.server.count("initialize"), 3);
    assert_eq!(scene.server.count("DELETE"), 0);
}
