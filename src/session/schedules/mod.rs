//! The recovery of a session, the replacement of its epoch and the table, in every order of steps
//! that shuttle thinks of; the source is the library's (see `crate::sync`). A step is what one
//! thread does between two uses of a lock or an atomic of the layer's. What tokio's channels do is part
//! of one, and memory is taken to be coherent.
//!
//! ```sh
//! RUSTFLAGS="--cfg shuttle" cargo test --release --lib schedules
//! ```
//!
//! `SCHEDULES` says how many of each kind a test tries. A schedule that fails is printed, and
//! `SCHEDULE` tries it again.

pub(crate) mod clock;
mod cut;
mod flight;
mod model;
mod table;

use std::{env, future::Future};

use shuttle::{check_pct, check_random, future::block_on, replay};

/// How many changes of thread at the wrong moment PCT looks for.
const DEPTH: usize = 3;

/// Tries a test in many schedules: at random, and with few changes of thread, wherever they are.
fn explore<F: Future<Output = ()>>(test: impl Fn() -> F + Copy + Send + Sync + 'static) {
    let run = move || {
        clock::reset();
        block_on(test());
    };
    if let Ok(schedule) = env::var("SCHEDULE") {
        return replay(run, &schedule);
    }
    let schedules = env::var("SCHEDULES").map_or(5_000, |number| number.parse().unwrap());
    check_random(run, schedules);
    check_pct(run, schedules, DEPTH);
}
