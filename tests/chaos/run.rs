//! One history, from the first step to the end of all things.

use std::{cell::Cell, sync::Arc, time::Duration};

use mcp_session_recovery::{Principal, SessionRecoveryLayer, Sessions};
use tokio::{
    runtime::{Builder, Handle},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tower::Layer;

use crate::{
    account::{Counts, Tag, Violation},
    callers::Caller,
    faults::Fault,
    plan::{CALLERS, Plan, What},
    random::Random,
    server::Ids,
    service::Servers,
    world::World,
};

thread_local! {
    /// Panics on this thread, be it in a task of the layer's.
    pub static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Lives through a history. What went wrong first, if anything did.
pub fn run(plan: &Plan) -> Result<Counts, Violation> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(live(plan))
}

async fn live(plan: &Plan) -> Result<Counts, Violation> {
    let world = World::new(plan);
    let settings = plan.settings;
    let sessions = Sessions::new();
    let mut layer = SessionRecoveryLayer::new()
        .recovery_timeout(settings.recovery_timeout)
        .recovery_pause(settings.first_pause, settings.longest_pause)
        .orphan_timeout(settings.orphan_timeout)
        .max_handshakes(settings.max_handshakes)
        .max_body_bytes(settings.max_body)
        .sessions(sessions.clone());
    if settings.has_principal {
        layer = layer.principal(|request| {
            let tag = request.extensions.get::<Tag>()?;
            Some(Principal::from(tag.principal.to_string()))
        });
    }
    let service = layer.layer(Servers::new(&world));
    let callers = (0..CALLERS).map(|number| Caller::new(&world, &service, number));
    let callers: Arc<Vec<_>> = Arc::new(callers.collect());
    drop(service);
    PANICS.set(0);

    let start = Instant::now();
    let mut under_way = JoinSet::new();
    for step in &plan.steps {
        sleep_until(start + Duration::from_millis(step.at)).await;
        while under_way.try_join_next().is_some() {}
        if PANICS.get() > 0 {
            world
                .state()
                .account
                .violate("nothing panics", "something did");
        }
        if let Some(violation) = world.state().account.violation.clone() {
            return Err(violation);
        }
        match step.what {
            What::Act { caller, action } => {
                let caller = callers[caller].clone();
                under_way.spawn(caller.act(action, *step, callers.clone()));
            }
            What::ForgetAll => {
                sessions.forget_all();
                let lineages = &mut world.state().account.lineages;
                for lineage in lineages.iter_mut() {
                    lineage.is_forgotten |= std::mem::take(&mut lineage.is_known);
                }
            }
            _ => befalls(&world, step.what, step.seed),
        }
    }
    while under_way.join_next().await.is_some() {}
    let well = world.state().unwell_until + settings.convalescence();
    sleep_until(well + Duration::from_secs(1)).await;
    let mut last = JoinSet::new();
    for caller in callers.iter() {
        let caller = caller.clone();
        last.spawn(async move { caller.finish().await });
    }
    while last.join_next().await.is_some() {}
    drop(callers);
    // Whatever is left of the layer has a time-out.
    sleep(Duration::from_secs(120)).await;
    close(&world, &sessions);
    let state = world.state();
    match &state.account.violation {
        Some(violation) => Err(violation.clone()),
        None => Ok(state.account.counts),
    }
}

/// Something goes wrong with a server.
fn befalls(world: &World, what: What, seed: u64) {
    let mut state = world.state();
    let state = &mut *state;
    state.account.tell(|| format!("{what:?}"));
    let mut random = Random::new(seed);
    let now = Instant::now();
    match what {
        What::Rotate { principal } => state.tokens[principal] += 1,
        What::Gentle { host, ending } => {
            state.gentle.push(now);
            state.hosts[host].expire_all(ending);
        }
        What::Fault {
            host,
            fault,
            millis,
        } => {
            let host = &mut state.hosts[host];
            match fault {
                Fault::Expire(ending) => {
                    let ids: Vec<_> = host.sessions.keys().cloned().collect();
                    if !ids.is_empty() {
                        host.expire(&random.pick_of(&ids), ending);
                    }
                }
                Fault::Restart(ending) => host.restart(ending, &mut random),
                Fault::KillReplica(ending) => host.kill_replica(ending, &mut random),
                Fault::Stateless if host.ids == Ids::Constant => {}
                _ => {
                    if fault == Fault::Stateless {
                        host.expire_all(crate::faults::Ending::Close);
                    }
                    host.faults
                        .begin(fault, now + Duration::from_millis(millis));
                }
            }
            let lasts = if fault.is_instant() { 0 } else { millis };
            state.unwell_until = state.unwell_until.max(now + Duration::from_millis(lasts));
        }
        What::Act { .. } | What::ForgetAll => {}
    }
}

/// At the end nothing is left.
fn close(world: &World, sessions: &Sessions) {
    let alive = Handle::current().metrics().num_alive_tasks();
    let mut state = world.state();
    let state = &mut *state;
    let account = &mut state.account;
    account.check(alive == 0, "no task is left", || format!("{alive} are"));
    if PANICS.get() > 0 {
        account.violate("nothing panics", "something did");
    }
    let known = account.lineages.iter().filter(|it| it.is_known).count();
    let len = sessions.len();
    let is_constant = state.hosts.iter().any(|host| host.ids == Ids::Constant);
    let most = known + account.uncertain;
    for (number, it) in account.lineages.iter().enumerate() {
        account.tell(|| {
            let id = it
                .callers_id
                .as_ref()
                .map(|id| id.to_str().unwrap_or_default());
            format!(
                "session {number} of {}, host {}: {id:?}, known {}, deleted {}",
                it.principal, it.host, it.is_known, it.is_deleted
            )
        });
    }
    account.check(
        (known..=most).contains(&len) || is_constant,
        "no byte is left",
        || format!("{len} sessions are on record, and should be {known}"),
    );
    let hosts = &state.hosts;
    account.close(|upstream, serial| {
        hosts[upstream.host]
            .sessions
            .values()
            .any(|it| it.serial == serial)
    });
}
