//! Whole conversations: sixteen callers of four principals, two servers, and whatever can go wrong
//! between them, when it suits a fuzzer. The servers, the callers and the account that knows what
//! they did are those of the test; here the steps are not drawn from a seed.
//!
//! It is the target `conversation` of `fuzz/`, and stands where its modules are.

#![no_main]
// What makes the histories of the test is not needed here.
#![allow(dead_code, unreachable_pub)]

mod account;
mod arrival;
mod callers;
mod faults;
mod plan;
mod random;
mod reading;
mod run;
mod server;
mod service;
mod wire;
mod world;

use arbitrary::Arbitrary;
use faults::{Ending, Fault};
use libfuzzer_sys::fuzz_target;
use mcp_session_recovery_fuzz::Heap;
use plan::{Action, CALLERS, HOSTS, PRINCIPALS, Plan, Settings, Step, What};
use random::Random;

/// What the layer, and all else that is dropped at the end of a history, may leave behind: what a
/// thread allocates once.
const MAX_LEFT: usize = 64 << 10;

#[derive(Arbitrary, Debug)]
struct Input {
    /// How the layer and the servers are set up, and what servers do where nobody says.
    seed: u16,
    steps: Vec<Next>,
}

#[derive(Arbitrary, Debug)]
struct Next {
    /// The square root of the milliseconds until then.
    after: u8,
    seed: u16,
    does: Does,
}

#[derive(Arbitrary, Debug)]
enum Does {
    /// One of the callers, or the first, some at a time.
    Acts {
        caller: u8,
        action: u8,
        times: u8,
    },
    Fails {
        host: bool,
        fault: u16,
        millis: u16,
    },
    Rotates {
        principal: u8,
    },
    /// All sessions of a server expire while all is well.
    Expires {
        host: bool,
        ending: u8,
    },
    ForgetsAll,
}

impl Input {
    fn plan(&self) -> Plan {
        let settings = Settings::of(self.seed.into());
        let recovers = settings.convalescence().as_millis() as u64;
        let (mut at, mut well, mut steps) = (0, 0, Vec::new());
        for next in &self.steps {
            at += u64::from(next.after).pow(2);
            let mut random = Random::new(next.seed.into());
            let mut add = |what| {
                let seed = random.next();
                steps.push(Step { at, seed, what });
            };
            match next.does {
                Does::Acts {
                    caller,
                    action,
                    times,
                } => {
                    let action = Action::any(&mut Random::new(action.into()));
                    for other in 0..1 + times.leading_ones() as usize {
                        let caller = (usize::from(caller) + other) % CALLERS;
                        add(What::Act { caller, action });
                    }
                }
                Does::Fails {
                    host,
                    fault,
                    millis,
                } => {
                    let host = usize::from(host) % HOSTS;
                    let fault = Fault::any(&mut Random::new(fault.into()));
                    let millis = u64::from(millis) / 4;
                    well = well.max(at + millis + recovers);
                    add(What::Fault {
                        host,
                        fault,
                        millis,
                    });
                }
                Does::Rotates { principal } => {
                    let principal = usize::from(principal) % PRINCIPALS;
                    add(What::Rotate { principal });
                }
                Does::Expires { host, ending } => {
                    let host = usize::from(host) % HOSTS;
                    let ending = Ending::any(&mut Random::new(ending.into()));
                    // Once, and all is to be well. Again before that was of use is a fault.
                    if at > well {
                        add(What::Gentle { host, ending });
                    } else {
                        let fault = Fault::Restart(ending);
                        add(What::Fault {
                            host,
                            fault,
                            millis: 0,
                        });
                    }
                    well = at + recovers;
                }
                Does::ForgetsAll => add(What::ForgetAll),
            }
        }
        Plan {
            seed: self.seed.into(),
            settings,
            steps,
        }
    }
}

fuzz_target!(|input: Input| {
    let heap = Heap::now();
    let plan = input.plan();
    let lived = run::run(&plan);
    if let Err(violation) = lived {
        account::TELLS.set(true);
        let _ = run::run(&plan);
        panic!("{violation:?}");
    }
    drop((input, plan));
    assert!(heap.left() <= MAX_LEFT, "{} are left", heap.left());
});
