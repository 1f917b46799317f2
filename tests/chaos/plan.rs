//! What will be done to the layer, and when: a list of steps that follows from a seed. A step goes
//! by its own seed alone, so that it stays what it is when others are left out.

use std::time::Duration;

use crate::{
    faults::{Ending, Fault},
    random::Random,
};

pub const CALLERS: usize = 16;
pub const PRINCIPALS: usize = 4;
pub const HOSTS: usize = 2;

#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub at: u64,
    pub seed: u64,
    pub what: What,
}

#[derive(Clone, Copy, Debug)]
pub enum What {
    Act {
        caller: usize,
        action: Action,
    },
    Fault {
        host: usize,
        fault: Fault,
        millis: u64,
    },
    /// A principal's tokens are replaced; those before the last are not good any more.
    Rotate {
        principal: usize,
    },
    /// While all is well, sessions expire as they do on an honest server.
    Gentle {
        host: usize,
        ending: Ending,
    },
    /// The user of the layer forgets all sessions.
    ForgetAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Call,
    Batch,
    Notification,
    Response,
    Listen,
    Subscribe,
    Unsubscribe,
    SetLevel,
    Delete,
    /// A second one; with the old id, or without.
    Initialize,
    /// Presents the id of another caller.
    Stranger,
}

/// How the layer and the servers are set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub has_principal: bool,
    pub checks_credentials: bool,
    pub recovery_timeout: Duration,
    pub first_pause: Duration,
    pub longest_pause: Duration,
    pub orphan_timeout: Duration,
    pub max_handshakes: usize,
    pub max_body: usize,
}

impl Settings {
    pub fn of(seed: u64) -> Self {
        let mut random = Random::of(seed, 1);
        let secs = Duration::from_secs;
        let has_principal = random.chance(70);
        Self {
            has_principal,
            checks_credentials: !has_principal || random.chance(70),
            recovery_timeout: random.pick(&[secs(10), secs(10), secs(3)]),
            first_pause: random.pick(&[Duration::from_millis(100), secs(1)]),
            longest_pause: random.pick(&[secs(10), secs(10), secs(4)]),
            orphan_timeout: random.pick(&[secs(30), secs(5)]),
            max_handshakes: random.pick(&[64, 64, 1]),
            max_body: 16 * 1024,
        }
    }

    /// For how long a server has to be well until every call succeeds: what hangs has to time out,
    /// and the pause after that to pass.
    pub fn convalescence(&self) -> Duration {
        self.recovery_timeout + self.longest_pause + Duration::from_millis(50)
    }
}

pub struct Plan {
    pub seed: u64,
    pub settings: Settings,
    pub steps: Vec<Step>,
}

impl Plan {
    pub fn new(seed: u64, requests: usize) -> Self {
        let settings = Settings::of(seed);
        let mut random = Random::of(seed, 2);
        let mut steps = Vec::with_capacity(requests + requests / 16);
        let (mut at, mut acts) = (0, 0);
        let convalescence = settings.convalescence().as_millis() as u64;
        let mut phase_ends = 5_000;
        let (mut storm, mut next_fault, mut gentle) = (false, 0, None);
        while acts < requests {
            if at >= phase_ends {
                storm = !storm;
                next_fault = at;
                phase_ends = match storm {
                    true => at + 5_000 + random.below(30_000),
                    false => {
                        let calm = at + 12_000 + convalescence;
                        gentle = random.chance(70).then_some(calm + random.below(1000));
                        calm + 12_000
                    }
                };
            }
            let step = |what, random: &mut Random| Step {
                at,
                seed: random.next(),
                what,
            };
            if storm && at >= next_fault {
                let host = random.index(HOSTS);
                let fault = Fault::any(&mut random);
                let millis = 100 + random.below(12_000);
                steps.push(step(
                    What::Fault {
                        host,
                        fault,
                        millis,
                    },
                    &mut random,
                ));
                next_fault = at + random.below(3_000);
            }
            if gentle.is_some_and(|gentle| at >= gentle) && !storm {
                // Once more, soon after: what has been of use is not paused.
                let is_first = at < phase_ends - 9_000;
                gentle = is_first.then_some(at + 2_000 + random.below(3000));
                for host in 0..HOSTS {
                    let ending = Ending::any(&mut random);
                    steps.push(step(What::Gentle { host, ending }, &mut random));
                }
            }
            if random.below(400) == 0 {
                let principal = random.index(PRINCIPALS);
                steps.push(step(What::Rotate { principal }, &mut random));
            }
            if storm && random.below(3000) == 0 {
                steps.push(step(What::ForgetAll, &mut random));
            }
            let at_once = if random.chance(3) {
                1 + random.below(12)
            } else {
                1
            };
            for _ in 0..at_once {
                let caller = random.index(CALLERS);
                let action = Action::any(&mut random);
                steps.push(step(What::Act { caller, action }, &mut random));
                acts += 1;
            }
            at += if random.chance(25) {
                0
            } else {
                random.below(200)
            };
        }
        Self {
            seed,
            settings,
            steps,
        }
    }
}

impl Action {
    pub fn any(random: &mut Random) -> Self {
        match random.below(100) {
            0..55 => Self::Call,
            55..61 => Self::Batch,
            61..67 => Self::Notification,
            67..71 => Self::Response,
            71..77 => Self::Listen,
            77..83 => Self::Subscribe,
            83..86 => Self::Unsubscribe,
            86..89 => Self::SetLevel,
            89..91 => Self::Delete,
            91..94 => Self::Initialize,
            _ => Self::Stranger,
        }
    }
}
