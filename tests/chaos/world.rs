//! All that there is beside the layer: servers, callers, and the account of what they did.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::time::Instant;

use crate::{
    account::Account,
    plan::{HOSTS, PRINCIPALS, Plan, Settings},
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
}

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
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
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
