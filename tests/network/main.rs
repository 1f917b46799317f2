//! The network: the real hyper client and server with the layer between them, on hosts that crash
//! and links that hold, lose, delay and cut. Simulated by turmoil on one thread and from a seed, so
//! that a seed is the same history each time.
//!
//! `NETWORK_SEEDS=500` lives through so many, `NETWORK_SEED=17` through one, and `NETWORK_TELLS=17`
//! tells what happens in it.

#![allow(unreachable_pub, reason = "there is no outside of a test")]

mod account;
mod answer;
mod callers;
mod client;
mod plan;
#[allow(dead_code, reason = "chaos uses more of it")]
#[path = "../chaos/random.rs"]
mod random;
mod run;
mod server;
mod wire;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use account::{Counts, TELLS, Violation};
use plan::Plan;

/// How many histories there are if nobody says: what takes seconds.
const SEEDS: u64 = if cfg!(debug_assertions) { 8 } else { 40 };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn report(plan: &Plan, violation: &Violation) -> String {
    let seed = plan.seed;
    format!("NETWORK_SEED={seed}: {violation:?}\n{:?}", plan.settings)
}

#[test]
fn whatever_the_network_does_nothing_is_done_twice_nothing_leaks_and_all_recovers() {
    let (first, seeds) = match number("NETWORK_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("NETWORK_SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    let live = || {
        let (mut failures, mut sum) = (Vec::new(), Counts::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds || failures.len() >= 3 {
                return (failures, sum);
            }
            let plan = Plan::new(seed);
            TELLS.set(number("NETWORK_TELLS") == Some(seed));
            match run::run(&plan) {
                Ok(done) => sum.add(&done.counts),
                Err(violation) => failures.push(report(&plan, &violation)),
            }
        }
    };
    let (mut failures, mut sum) = (Vec::new(), Counts::default());
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(live)).collect();
        for thread in threads {
            let (more, counts) = thread.join().expect("no panic");
            failures.extend(more);
            sum.add(&counts);
        }
    });
    println!("{seeds} seeds from {first}: {sum:?}");
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
#[cfg_attr(
    not(tokio_unstable),
    ignore = "tokio has no seed: see .cargo/config.toml"
)]
fn a_seed_is_the_same_history_each_time() {
    let plan = Plan::new(number("NETWORK_SEED").unwrap_or(1));
    let histories = [run::run(&plan), run::run(&plan)].map(|it| it.map(|done| done.history));
    assert!(histories[0] == histories[1], "{histories:x?}");
}
