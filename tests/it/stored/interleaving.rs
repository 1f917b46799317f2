//! Rules N3, N4 and N6 as properties: two processes over one store, in whatever order a seed makes
//! things happen.
//!
//! One thread, a clock that stands still, and every request and every operation of the store waits
//! twice for its turn: before it has its effect, and before its answer arrives. The seed decides
//! whose turn it is, when calls begin, and when the server restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use mcp_session_recovery::{
    Outcome, SessionRecoveryLayer,
    store::{MemoryStore, Revision, Saved, SessionStore, StoreFuture, StoreKey, Stored},
};
use serde_json::Value;
use testing::mocked::*;
use testing::*;
use tokio::{sync::oneshot, task::JoinHandle};
use tower::{Layer, ServiceExt};
use tower_test::mock;

use super::seeds::{Random, each_seed};

const CALLS: u64 = 12;
const RESTARTS: usize = 4;
const AT_A_TIME: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);

/// Who waits for a turn.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<Vec<oneshot::Sender<()>>>>);

impl Turns {
    async fn turn(&self) {
        let (sender, turn) = oneshot::channel();
        self.0.lock().unwrap().push(sender);
        turn.await.expect("everybody has a turn");
    }

    /// Gives somebody a turn, if anybody waits.
    fn give(&self, random: &mut Random) -> bool {
        let mut waiting = self.0.lock().unwrap();
        waiting.retain(|sender| !sender.is_closed());
        if waiting.is_empty() {
            return false;
        }
        let next = random.below(waiting.len());
        let _ = waiting.remove(next).send(());
        true
    }
}

/// A store whose operations wait for their turn, and which notes the epochs that it was given.
#[derive(Clone, Default)]
struct InTurns {
    turns: Turns,
    memory: MemoryStore,
    epochs: Arc<Mutex<Vec<(u64, String)>>>,
}

impl InTurns {
    async fn wait<T>(&self, operation: impl Future<Output = T>) -> T {
        self.turns.turn().await;
        let done = operation.await;
        self.turns.turn().await;
        done
    }

    fn note(&self, value: &[u8]) {
        let record: Value = serde_json::from_slice(value).unwrap();
        if record.get("ended").is_some() {
            return;
        }
        let upstream = match &record["upstream"] {
            Value::String(callers) => callers.clone(),
            own => own["own"].as_str().unwrap().to_owned(),
        };
        let epoch = record["epoch"].as_u64().unwrap();
        self.epochs.lock().unwrap().push((epoch, upstream));
    }

    /// The upstream id of every epoch, if they are those of one chain.
    fn chain(&self, session: &str) -> BTreeMap<u64, String> {
        let mut chain = BTreeMap::from([(0, session.to_owned())]);
        let mut last = 0;
        for (epoch, upstream) in self.epochs.lock().unwrap().iter() {
            assert!(*epoch >= last, "the store went back to an epoch");
            last = *epoch;
            let upstream = match upstream == "callers" {
                true => session.to_owned(),
                false => upstream.clone(),
            };
            let known = chain.entry(*epoch).or_insert(upstream.clone());
            assert_eq!(*known, upstream, "two sessions are one epoch");
        }
        assert!(chain.keys().copied().eq(0..=last), "an epoch is missing");
        chain
    }
}

impl SessionStore for InTurns {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        Box::pin(self.wait(self.memory.load(key)))
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        Box::pin(self.wait(async move {
            let saved = self.memory.save(key, value.clone(), expected, ttl).await?;
            if saved != Saved::Conflict {
                self.note(&value);
            }
            Ok(saved)
        }))
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        Box::pin(self.wait(self.memory.remove(key)))
    }
}

/// The calls that a server that knew their session has executed, and in which.
type Executed = Arc<Mutex<Vec<(u64, String)>>>;

/// Two processes with one store and one server, and the seed that decides.
struct World {
    random: Random,
    store: InTurns,
    server: Server,
    executed: Executed,
    processes: Vec<Mocked>,
    session: String,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut world = Self {
            random: Random(seed),
            store: InTurns::default(),
            server: Server::new(Profile::TypeScript),
            executed: Executed::default(),
            processes: Vec::new(),
            session: String::new(),
        };
        let (server, executed) = (world.server.clone(), world.executed.clone());
        world.server.on(move |seen| {
            let session = seen.session().unwrap_or_default().to_owned();
            if seen.what() == "tools/call" && server.live().contains(&session) {
                let call = seen.message()["id"].as_u64().unwrap();
                executed.lock().unwrap().push((call, session));
            }
            None
        });
        world.processes = vec![world.process(), world.process()];
        let first = world.processes[0].clone();
        world.session = world
            .finish(tokio::spawn(async move { handshake(&first).await }))
            .await;
        world.quiet().await;
        world
    }

    /// A process whose every request waits for its turn.
    fn process(&self) -> Mocked {
        let layer = SessionRecoveryLayer::new()
            .store(self.store.clone())
            // Whoever waits for a turn waits long enough.
            .store_timeout(HOUR)
            .recovery_timeout(HOUR);
        let (service, mut handle) = mock::pair::<Sent, Reply>();
        let (turns, server) = (self.store.turns.clone(), self.server.clone());
        tokio::spawn(async move {
            while let Some((request, answer)) = handle.next_request().await {
                let (turns, server) = (turns.clone(), server.clone());
                tokio::spawn(async move {
                    turns.turn().await;
                    let reply = server.service().oneshot(request).await.unwrap();
                    turns.turn().await;
                    answer.send_response(reply);
                });
            }
        });
        layer.layer(service)
    }

    fn begin(&self, process: usize, call: u64) -> JoinHandle<Answer> {
        let client = self.processes[process].clone();
        let request = post(Some(&self.session), &tool_call(call));
        tokio::spawn(async move { read(client.oneshot(request).await.unwrap()).await })
    }

    /// Lets the next thing happen, or time pass where nothing can.
    async fn step(&mut self) {
        // Not all that can happen has to: the order is the seed's all the same.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        if !self.store.turns.give(&mut self.random) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn finish<T>(&mut self, task: JoinHandle<T>) -> T {
        for _ in 0..10_000 {
            if task.is_finished() {
                return task.await.unwrap();
            }
            self.step().await;
        }
        panic!("it never ends");
    }

    /// Lets everything happen that is under way.
    async fn quiet(&mut self) {
        loop {
            settle().await;
            if !self.store.turns.give(&mut self.random) {
                return;
            }
        }
    }
}

/// The calls of a run, and what came of them.
#[derive(Default)]
struct Calls {
    begun: u64,
    running: Vec<(u64, JoinHandle<Answer>)>,
    answers: Vec<(u64, Answer)>,
}

impl World {
    /// Calls through both processes while the server restarts, in any order. `also` is done once,
    /// at some point.
    async fn calls<T>(&mut self, also: Option<impl FnOnce(&mut Self) -> T>) -> (Calls, Option<T>) {
        let (mut calls, mut restarts) = (Calls::default(), 0);
        let (mut also, mut done) = (also, None);
        let mut steps = 0;
        while calls.begun < CALLS || !calls.running.is_empty() {
            match self.random.below(8) {
                0 if calls.begun < CALLS && calls.running.len() < AT_A_TIME => {
                    let process = self.random.below(2);
                    let call = calls.begun;
                    calls.running.push((call, self.begin(process, call)));
                    calls.begun += 1;
                }
                1 if restarts < RESTARTS && self.random.below(4) == 0 => {
                    self.server.restart();
                    restarts += 1;
                }
                2 if also.is_some() && self.random.below(30) == 0 => {
                    done = also.take().map(|also| also(self));
                }
                _ => self.step().await,
            }
            let mut still = Vec::new();
            for (call, task) in calls.running.drain(..) {
                match task.is_finished() {
                    true => calls.answers.push((call, task.await.unwrap())),
                    false => still.push((call, task)),
                }
            }
            calls.running = still;
            steps += 1;
            assert!(steps < 100_000, "it never ends");
        }
        let done = done.or_else(|| also.map(|also| also(self)));
        self.quiet().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        self.quiet().await;
        (calls, done)
    }

    fn end(&mut self) -> JoinHandle<Answer> {
        let process = self.random.below(2);
        let (client, request) = (self.processes[process].clone(), delete(&self.session));
        tokio::spawn(async move { read(client.oneshot(request).await.unwrap()).await })
    }

    /// No record is left, and in time nothing at all.
    async fn nothing_is_stored(&mut self) {
        self.quiet().await;
        tokio::time::sleep(3 * HOUR).await;
        assert!(self.store.memory.is_empty());
    }
}

/// One session, from a handshake to its end, with nothing left behind.
async fn property(seed: u64) {
    // Given a session that one process has recorded,
    let mut world = World::new(seed).await;
    // when it is called through both while the server restarts, in any order,
    let never = None::<fn(&mut World)>;
    let (run, _) = world.calls(never).await;
    let (mut calls, mut answers) = (run.begun, run.answers);

    // then both go on in one session,
    for process in [0, 1] {
        let task = world.begin(process, calls);
        let answer = world.finish(task).await;
        assert_eq!(echoed(&answer), calls);
        answers.push((calls, answer));
        calls += 1;
        world.quiet().await;
    }
    // what callers have seen is one chain of epochs,
    let chain = world.store.chain(&world.session);
    let executed = world.executed.lock().unwrap().clone();
    let ids = BTreeSet::from_iter(executed.iter().map(|(call, _)| call));
    assert_eq!(ids.len(), executed.len(), "a call was executed twice");
    for (call, answer) in &answers {
        let Some((_, session)) = executed.iter().find(|(id, _)| id == call) else {
            // A restart met the replay, too, or the pause after one that did (rules F1, J4).
            assert_eq!(answer.status, 404, "{answer:?}");
            continue;
        };
        assert_eq!(echoed(answer), *call);
        assert!(
            chain.values().any(|it| it == session),
            "a call in a session that is no epoch"
        );
        if answer.outcome() == Some(Outcome::Replayed) {
            let epoch = answer.recovery.as_ref().unwrap().epoch();
            assert_eq!(chain.get(&epoch), Some(session), "epoch {epoch}");
        }
    }
    // and nothing is left on the server but its last one,
    assert_eq!(
        world.server.live(),
        [chain.into_values().next_back().unwrap()]
    );

    // nor that, once either process has ended it.
    let ending = world.end();
    assert_eq!(world.finish(ending).await.status, 200);
    world.quiet().await;
    assert!(world.server.live().is_empty());
    world.nothing_is_stored().await;
}

/// A session that is ended in the midst of all that.
async fn ended(seed: u64) {
    let mut world = World::new(seed).await;
    let (run, ending) = world.calls(Some(|world: &mut World| world.end())).await;
    let answer = world.finish(ending.unwrap()).await;
    world.quiet().await;

    // Whatever it met, nothing of the session is left on the server, and no process brings it back.
    assert!(matches!(answer.status, 200 | 404), "{answer:?}");
    assert!(world.server.live().is_empty(), "{:?}", world.server.live());
    let handshakes = world.server.count("initialize");
    for process in [0, 1] {
        let task = world.begin(process, run.begun + process as u64);
        assert_eq!(world.finish(task).await.status, 404);
        world.quiet().await;
    }
    assert_eq!(world.server.count("initialize"), handshakes);
    world.nothing_is_stored().await;
    let executed = world.executed.lock().unwrap().clone();
    let ids = BTreeSet::from_iter(executed.iter().map(|(call, _)| call));
    assert_eq!(ids.len(), executed.len(), "a call was executed twice");
}

#[test]
fn n3_n4_in_any_order_of_events_there_is_one_chain_of_epochs_and_no_session_left_behind() {
    each_seed(property);
}

#[test]
fn n6_in_any_order_of_events_a_session_that_has_ended_leaves_nothing_behind() {
    each_seed(ended);
}
