//! All that there is beside the layer: servers, callers, and the account of what they did.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    account::Account,
    faults::Fault,
    plan::{HOSTS, PRINCIPALS, Plan, Settings},
    random::Random,
    server::Host,
};

#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

pub struct State {
    pub seed: u64,
    pub settings: Settings,
    pub account: Account,
    pub hosts: Vec<Host>,
    /// The current version of each principal's token.
    pub tokens: [u64; PRINCIPALS],
    /// Until when something is wrong with a server.
    pub unwell_until: Instant,
    /// When sessions expired while all was well.
    pub gentle: Vec<Instant>,
    /// How often it was asked whether the service below the layer is ready.
    asked: u64,
}

/// How long that is not ready at most.
pub const BUSY: Duration = Duration::from_secs(1);

impl World {
    pub fn new(plan: &Plan) -> Self {
        Self(Arc::new(Mutex::new(State {
            seed: plan.seed,
            settings: plan.settings,
            account: Account::new(plan.settings),
            hosts: (0..HOSTS).map(|host| Host::new(plan.seed, host)).collect(),
            tokens: [1; PRINCIPALS],
            unwell_until: Instant::now(),
            gentle: Vec::new(),
            asked: 0,
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// After how long the service below the layer is ready.
    pub fn is_ready_after(&mut self) -> Option<Duration> {
        if !self.hosts.iter().any(|host| host.faults.has(Fault::Busy)) {
            return None;
        }
        self.asked += 1;
        let mut random = Random::of(self.seed ^ self.asked << 32, 3);
        let after = BUSY * random.below(100) as u32 / 100;
        self.account.busy_until = self.account.busy_until.max(Instant::now() + after);
        let waits = random.chance(50);
        // What state is to be restored in has no more time for that.
        let made = self.account.upstreams.iter_mut();
        for upstream in made.filter(|it| waits && it.by_layer && !it.is_published) {
            upstream.is_disturbed = true;
        }
        waits.then_some(after)
    }

    /// Whether a token is good: the current one and the one before are.
    pub fn is_good(&self, principal: usize, version: u64) -> bool {
        version + 1 >= self.tokens[principal] || !self.settings.has_principal
    }

    /// Whether a call that began at `start` and is over now had servers that were well, for long
    /// enough to be well again after whatever was wrong with them.
    pub fn was_well(&self, start: Instant) -> bool {
        start >= self.unwell_until + self.settings.convalescence()
            && !self
                .gentle
                .iter()
                .any(|gentle| start <= *gentle && *gentle <= Instant::now())
    }
}
