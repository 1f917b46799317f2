//! One history, from its beginning to its end.

use std::{sync::Arc, time::Duration};

use mcp_session_recovery::Sessions;
use tokio::{runtime::Handle, task::JoinSet, time::sleep};
use turmoil::Sim;

use crate::{
    account::{Counts, Violation, World},
    callers, client,
    plan::{Op, Plan},
    server,
};

pub struct Done {
    pub counts: Counts,
    /// A digest of all that happened.
    pub history: u64,
}

pub fn run(plan: &Plan) -> Result<Done, Violation> {
    let world = World::new(plan);
    let mut sim = turmoil::Builder::new()
        .rng_seed(plan.seed)
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .simulation_duration(Duration::from_secs(600))
        .tcp_capacity(1024)
        .epoch(std::time::UNIX_EPOCH)
        .build();
    let serving = world.clone();
    sim.host("server", move || server::serve(serving.clone()));
    let shared = Arc::new(Plan::new(plan.seed));
    sim.client("client", call(world.clone(), shared));

    let mut ops = plan.ops.iter().peekable();
    loop {
        let now = sim.elapsed();
        while let Some((_, op)) = ops.next_if(|(at, _)| u128::from(*at) <= now.as_millis()) {
            world.state().happens(*op, now);
            happens(&mut sim, *op);
        }
        let is_over = sim.step();
        let mut state = world.state();
        if let Err(error) = &is_over {
            state.check(false, "no panic, and an end", || error.to_string());
        }
        if let Some(violation) = state.violation.take() {
            return Err(violation);
        }
        if matches!(is_over, Ok(true)) {
            return Ok(Done {
                counts: state.counts,
                history: state.history(),
            });
        }
    }
}

fn happens(sim: &mut Sim<'_>, op: Op) {
    match op {
        Op::Crash => sim.crash("server"),
        Op::Bounce => sim.bounce("server"),
        Op::Partition => sim.partition("client", "server"),
        Op::PartitionOneWay(true) => sim.partition_oneway("client", "server"),
        Op::PartitionOneWay(false) => sim.partition_oneway("server", "client"),
        Op::Repair => sim.repair("client", "server"),
        Op::Hold => sim.hold("client", "server"),
        Op::Release => sim.release("client", "server"),
        Op::Latency(most) => sim.set_max_message_latency(Duration::from_millis(most)),
        _ => {}
    }
}

/// All callers, and what has to be true when they are gone.
async fn call(world: World, plan: Arc<Plan>) -> turmoil::Result {
    let sessions = Sessions::new();
    let client = client::stack(&world, &sessions);
    let mut callers = JoinSet::new();
    for number in 0..plan.settings.callers {
        let caller = callers::live(number, world.clone(), client.clone(), plan.clone());
        callers.spawn(caller);
    }
    while let Some(ended) = callers.join_next().await {
        ended?;
    }
    // What the layer does for its part.
    sleep(Duration::from_secs(6)).await;
    let left = sessions.len();
    {
        let mut state = world.state();
        state.count();
        state.check(left == 0, "nothing leaks", || {
            format!("{left} sessions in the layer")
        });
    }
    drop(client);
    sleep(Duration::from_secs(1)).await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut state = world.state();
    state.check(tasks == 0, "nothing leaks", || format!("{tasks} tasks"));
    Ok(())
}
