//! Makes a history that goes wrong as short as it gets, by leaving out steps.

use std::time::{Duration, Instant};

use crate::{
    account::Violation,
    plan::{Plan, Step},
    run::run,
};

/// For how long it is tried.
const PATIENCE: Duration = Duration::from_secs(120);

/// The steps that are left when none can be left out without the same invariant holding.
pub fn shrink(plan: &Plan, violation: &Violation) -> (Plan, Violation) {
    let began = Instant::now();
    let mut last = violation.clone();
    // Nothing after it matters, but how the end comes.
    let mut steps: Vec<Step> = plan.steps.clone();
    let until = violation.at.as_millis() as u64;
    let of = |steps: &[Step]| Plan {
        seed: plan.seed,
        settings: plan.settings,
        steps: steps.to_vec(),
    };
    let fails = |steps: &[Step]| {
        let again = run(&of(steps)).err()?;
        (again.invariant == violation.invariant).then_some(again)
    };
    let begun: Vec<Step> = steps
        .iter()
        .filter(|step| step.at <= until)
        .copied()
        .collect();
    if let Some(again) = fails(&begun) {
        (steps, last) = (begun, again);
    }
    let mut size = (steps.len() / 2).max(1);
    loop {
        let mut from = 0;
        let mut has_shrunk = false;
        while from < steps.len() && began.elapsed() < PATIENCE {
            let to = (from + size).min(steps.len());
            let without = [&steps[..from], &steps[to..]].concat();
            match fails(&without) {
                Some(again) => {
                    (steps, last) = (without, again);
                    has_shrunk = true;
                }
                None => from = to,
            }
        }
        if began.elapsed() >= PATIENCE || (size == 1 && !has_shrunk) {
            return (of(&steps), last);
        }
        if !has_shrunk || size > 1 {
            size = (size / 2).max(1);
        }
    }
}
