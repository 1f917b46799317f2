//! What really happened, and whether it should have: the invariants.

use std::{
    cell::Cell,
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use crate::{
    plan::{Op, Plan, Refused, Settings},
    random::Random,
};

/// What the layer must never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub what: String,
    pub at: Duration,
}

/// A session on the server.
#[derive(Debug)]
pub struct Upstream {
    pub id: String,
    /// Whose handshake made it.
    pub owner: usize,
    pub is_initialized: bool,
    /// When the head of the answer to `initialize` had come through the network, by the count of
    /// all that the client sends and gets.
    pub delivered: Option<u64>,
    /// The client has asked for its end, whatever came of that.
    pub is_given_up: bool,
    pub is_alive: bool,
    /// Its streams ended with it.
    pub is_closed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub calls: u64,
    pub succeeded: u64,
    pub in_calm: u64,
    pub executed: u64,
    pub lost: u64,
    pub handshakes: u64,
    pub refused: u64,
    pub broken: u64,
    pub cuts: u64,
    pub excused: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.succeeded += other.succeeded;
        self.in_calm += other.in_calm;
        self.executed += other.executed;
        self.lost += other.lost;
        self.handshakes += other.handshakes;
        self.refused += other.refused;
        self.broken += other.broken;
        self.cuts += other.cuts;
        self.excused += other.excused;
    }
}

thread_local! {
    /// Whether what happens is told as it does.
    pub static TELLS: Cell<bool> = const { Cell::new(false) };
}

pub struct State {
    pub settings: Settings,
    pub random: Random,
    pub violation: Option<Violation>,
    history: DefaultHasher,
    now: Duration,
    pub counts: Counts,

    pub upstreams: Vec<Upstream>,
    /// Who has been given an id since the server was started.
    given: u64,
    executed: HashMap<u64, u32>,
    pub last_key: u64,
    pub last_owner: usize,
    /// Whose sessions live.
    pub living: Vec<usize>,
    order: u64,

    pub refused: Option<Refused>,
    pub lags: bool,
    pub cuts: Option<u64>,
    /// Connections that are older than these are broken, once it is so late.
    pub resets: u64,
    pub partitions: u64,
    pub partition_noticed: Duration,
}

/// All that there is beside the layer: one for both hosts and those who watch.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl World {
    pub fn new(plan: &Plan) -> Self {
        Self(Arc::new(Mutex::new(State {
            settings: plan.settings,
            random: Random::of(plan.seed, 2),
            violation: None,
            history: DefaultHasher::new(),
            now: Duration::ZERO,
            counts: Counts::default(),
            upstreams: Vec::new(),
            given: 0,
            executed: HashMap::new(),
            last_key: 0,
            last_owner: 0,
            living: Vec::new(),
            order: 0,
            refused: None,
            lags: false,
            cuts: None,
            resets: 0,
            partitions: 0,
            partition_noticed: Duration::ZERO,
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.lock().unwrap();
        if let Some(now) = turmoil::in_simulation()
            .then(turmoil::sim_elapsed)
            .flatten()
        {
            state.now = now;
        }
        state
    }
}

impl State {
    pub fn now(&self) -> Duration {
        self.now
    }

    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        let what = what();
        (self.now, &what).hash(&mut self.history);
        if TELLS.get() && self.violation.is_none() {
            println!("  {:>9.3}  {what}", self.now.as_secs_f64());
        }
    }

    pub fn history(&self) -> u64 {
        self.history.finish()
    }

    /// The first thing that goes wrong counts: the rest may follow from it.
    pub fn check(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if holds || self.violation.is_some() {
            return;
        }
        let (what, at) = (what(), self.now);
        self.tell(|| format!("!!! {invariant}: {what}"));
        self.violation = Some(Violation {
            invariant,
            what,
            at,
        });
    }

    pub fn next_key(&mut self) -> u64 {
        self.last_key += 1;
        self.counts.calls += 1;
        self.last_key
    }

    /// A place in the order of all that the client sends and gets.
    pub fn next_in_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    // What the server does.

    pub fn begin(&mut self, owner: usize) -> usize {
        self.counts.handshakes += 1;
        self.given += 1;
        let id = match self.settings.counts {
            true => self.given.to_string(),
            false => format!("{:016x}", self.random.next()),
        };
        let serial = self.upstreams.len();
        self.tell(|| format!("{owner} has session {serial}"));
        self.upstreams.push(Upstream {
            id,
            owner,
            is_initialized: false,
            delivered: None,
            is_given_up: false,
            is_alive: true,
            is_closed: false,
        });
        serial
    }

    pub fn find(&self, id: &str) -> Option<usize> {
        self.upstreams
            .iter()
            .rposition(|it| it.is_alive && it.id == id)
    }

    /// A request of `owner`, the `sent`th, has come into a session.
    pub fn came(&mut self, owner: usize, serial: usize, sent: u64, method: &str) {
        let session = &self.upstreams[serial];
        let (of, delivered) = (session.owner, session.delivered);
        self.tell(|| format!("{owner}: {method} in session {serial} of {of}"));
        if of == owner {
            return;
        }
        // Nobody can know that an id has been given away if the answer which says so is lost.
        let is_known = delivered.is_some_and(|delivered| delivered < sent);
        self.counts.excused += u64::from(!is_known);
        self.check(!is_known, "never another's session", || {
            format!("{method} of {owner} in session {serial} of {of}")
        });
    }

    pub fn executed(&mut self, key: u64, serial: usize, sent: u64) {
        self.counts.executed += 1;
        let times = self.executed.entry(key).or_default();
        *times += 1;
        let times = *times;
        self.check(times == 1, "at most once", || {
            format!("call {key} was executed {times} times")
        });
        let session = &self.upstreams[serial];
        // An old id may be handed out again while a request with it is on its way.
        let is_known = session.delivered.is_some_and(|delivered| delivered < sent);
        let is_whole = session.is_initialized || !is_known;
        self.check(is_whole, "a handshake is whole", || {
            format!("call {key} in session {serial}, which is not initialized")
        });
    }

    pub fn times(&self, key: u64) -> u32 {
        self.executed.get(&key).copied().unwrap_or_default()
    }

    pub fn end(&mut self, serial: usize, closes: bool) {
        self.tell(|| format!("session {serial} ends"));
        let session = &mut self.upstreams[serial];
        session.is_alive = false;
        session.is_closed = closes;
    }

    fn end_all(&mut self, closes: bool) {
        for serial in 0..self.upstreams.len() {
            if self.upstreams[serial].is_alive {
                self.end(serial, closes);
            }
        }
    }

    // What happens to both.

    pub fn happens(&mut self, op: Op, now: Duration) {
        self.now = now;
        self.tell(|| format!("*** {op:?}"));
        let soon = Duration::from_millis(500);
        match op {
            Op::Crash => {
                self.end_all(false);
                self.given = 0;
            }
            Op::Partition | Op::PartitionOneWay(_) => {
                self.partitions += 1;
                self.partition_noticed = now + Duration::from_secs(4);
            }
            Op::Repair => self.partition_noticed = self.partition_noticed.min(now + soon),
            Op::Reset => self.resets += 1,
            Op::Cuts(true) => self.cuts = Some(self.order),
            Op::Cuts(false) => self.cuts = None,
            Op::Refuse(refused) => self.refused = refused,
            Op::Lags(lags) => self.lags = lags,
            Op::Forget(closes) => self.end_all(closes),
            Op::ForgetOne(which) => {
                let alive: Vec<_> = (0..self.upstreams.len())
                    .filter(|it| self.upstreams[*it].is_alive)
                    .collect();
                if !alive.is_empty() {
                    self.end(alive[which as usize % alive.len()], which % 2 == 0);
                }
            }
            Op::Count => self.count(),
            Op::Bounce | Op::Hold | Op::Release | Op::Latency(_) => {}
        }
    }

    /// No session is on the server that nobody will use.
    pub fn count(&mut self) {
        let mut seen = vec![false; self.last_owner + 1];
        for serial in (0..self.upstreams.len()).rev() {
            let session = &self.upstreams[serial];
            if !session.is_alive || session.delivered.is_none() || session.is_given_up {
                continue;
            }
            let owner = session.owner;
            let lives = self.living.contains(&owner) && !seen[owner];
            seen[owner] = true;
            self.check(lives, "nothing leaks", || {
                format!("session {serial} of {owner} is left on the server")
            });
        }
    }
}
