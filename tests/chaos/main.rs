//! Chaos: sixteen callers, two servers, and whatever can go wrong between them, from a seed, on
//! tokio's paused clock and one thread, so that a seed is the same history each time.
//!
//! `CHAOS_SEEDS=5000` lives through so many, `CHAOS_SEED=17` through one, both through so many from that
//! one on, `CHAOS_REQUESTS` says how long each is. One that fails prints the shortest history that fails the same way.

#![allow(unreachable_pub, reason = "there is no outside of a test")]

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
mod shrink;
mod wire;
mod world;

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use plan::Plan;

/// How long a history is: what takes seconds.
const REQUESTS: u64 = if cfg!(debug_assertions) {
    1_000
} else {
    10_000
};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn report(plan: &Plan, requests: usize, violation: &account::Violation) -> String {
    if std::env::var_os("CHAOS_NO_SHRINKING").is_some() {
        return format!("CHAOS_SEED={}: {violation:?}", plan.seed);
    }
    let (short, last) = shrink::shrink(plan, violation);
    let mut report = format!(
        "CHAOS_SEED={} CHAOS_REQUESTS={requests}: {violation:?}\n{:?}\nshortest history, {} steps: {last:?}\n",
        plan.seed,
        plan.settings,
        short.steps.len(),
    );
    for step in short.steps.iter().take(60) {
        let _ = writeln!(
            report,
            "  {:>8} ms  {:?}  {:x}",
            step.at, step.what, step.seed
        );
    }
    tell(&short);
    report
}

/// Whether all that happens is to be printed.
fn tells() -> bool {
    std::env::var_os("CHAOS_TELLS").is_some()
}

/// Runs a history once more, and prints all that happens, if that is asked for.
fn tell(plan: &Plan) {
    if tells() {
        account::TELLS.set(true);
        let _ = run::run(plan);
        account::TELLS.set(false);
    }
}

#[test]
fn whatever_happens_nothing_is_lost_nothing_done_twice_nothing_leaked() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        run::PANICS.set(run::PANICS.get() + 1);
        hook(info);
    }));
    let requests = number("CHAOS_REQUESTS").unwrap_or(REQUESTS) as usize;
    let (first, seeds) = match number("CHAOS_SEED") {
        Some(seed) => (seed, number("CHAOS_SEEDS").unwrap_or(1)),
        None => (0, number("CHAOS_SEEDS").unwrap_or(50)),
    };
    let next = AtomicU64::new(first);
    let failures: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..thread::available_parallelism().map_or(1, usize::from))
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= first + seeds || failures.len() >= 3 {
                            return failures;
                        }
                        let plan = Plan::new(seed, requests);
                        account::TELLS.set(tells() && seeds == 1);
                        let ran = run::run(&plan);
                        account::TELLS.set(false);
                        match ran {
                            Ok(counts) if seeds == 1 => println!("{seed}: {counts:?}"),
                            Ok(_) => {}
                            Err(violation) => failures.push(report(&plan, requests, &violation)),
                        }
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|it| it.join().expect("no panic"))
            .collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
