//! One session: the recovery that all who find its epoch expired share, and the epoch's end.

use std::sync::Arc;

use shuttle::{
    future::{JoinHandle, spawn, yield_now},
    rand::{Rng, thread_rng},
};

use super::{
    super::{Replaced, Session},
    cut::Cut,
    explore,
    model::{Called, Fate, World},
};

/// A session whose epoch has just expired; a request that was sent before, whose 404 is yet to come;
/// and a stream of the expired epoch.
fn expired(fate: Fate) -> (Arc<World>, Arc<Session>, JoinHandle<Called>, JoinHandle<()>) {
    let world = World::new(fate);
    let session = world.initialize();
    let (seen, _) = session.chain().snapshot();
    world.expire(&session);
    world.also(watch(session.clone()));
    let late = spawn(world.clone().unknown(session.clone(), seen));
    let stream = spawn(stream(session.clone()));
    (world, session, late, stream)
}

/// A stream of epoch 0, until it is told.
async fn stream(session: Arc<Session>) {
    let chain = session.chain();
    Replaced::new(chain.first().clone()).await;
    assert!(
        !chain.is_current(chain.first()),
        "whoever wakes finds the new state"
    );
    assert_ne!(chain.current().number(), 0);
}

async fn watch(session: Arc<Session>) {
    let mut last = 0;
    for _ in 0..4 {
        let current = session.chain().current().number();
        assert!(last <= current, "epochs go forward");
        last = current;
        yield_now().await;
    }
}

#[test]
fn e1_an_epoch_is_recovered_once_for_all_who_find_it_expired() {
    explore(async || {
        let (world, session, late, stream) = expired(Fate::Ends);
        let callers = [
            world.request(&session),
            world.request(&session),
            world.request(&session),
            late,
        ];
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Called::Answered(1));
        }
        stream.await.unwrap();
        world.quiet().await;
        assert_eq!((world.handshakes(), world.live()), (2, 1));
    });
}

#[test]
fn g1_a_stream_that_begins_as_its_epoch_is_replaced_is_told() {
    explore(async || {
        let (world, session, late, first) = expired(Fate::Ends);
        let streams = [0; 3].map(|_| {
            let session = session.clone();
            spawn(async move {
                for _ in 0..thread_rng().gen_range(0..40) {
                    yield_now().await;
                }
                stream(session).await;
            })
        });
        assert_eq!(late.await.unwrap(), Called::Answered(1));
        first.await.unwrap();
        for stream in streams {
            stream.await.unwrap();
        }
        world.quiet().await;
    });
}

#[test]
fn j4_a_session_that_expires_again_is_recovered_again() {
    explore(async || {
        let (world, session, late, stream) = expired(Fate::Ends);
        let again = {
            let (world, session) = (world.clone(), session.clone());
            spawn(async move { world.expire(&session) })
        };
        for caller in [world.request(&session), world.request(&session), late] {
            let called = caller.await.unwrap();
            assert!(
                matches!(called, Called::Answered(1 | 2) | Called::Useless),
                "{called:?}"
            );
        }
        again.await.unwrap();
        let last = world.request(&session).await.unwrap();
        assert!(matches!(last, Called::Answered(1 | 2)), "{last:?}");
        stream.await.unwrap();
        world.quiet().await;
        assert!(world.handshakes() <= 3);
        assert_eq!(world.live(), 1);
    });
}

#[test]
fn e10_nobody_waits_for_a_recovery_that_is_dropped_at_any_step() {
    explore(async || {
        let (world, session, late, stream) = expired(Fate::Dropped);
        let cut = spawn(Cut::somewhere(world.clone().call(session.clone())));
        for caller in [world.request(&session), world.request(&session), late] {
            caller.await.unwrap();
        }
        cut.await.unwrap();
        world.quiet().await;
        world.calm();
        let last = world.request(&session).await.unwrap();
        assert!(matches!(last, Called::Answered(_)), "{last:?}");
        stream.await.unwrap();
        world.quiet().await;
        assert!(!session.chain().is_recovering());
        // What was given up has been ended (rule I3).
        assert_eq!(world.live(), 1);
    });
}

#[test]
fn e10_a_recovery_that_takes_too_long_gives_way_to_another() {
    explore(|| abandoned(Fate::Late));
}

#[test]
fn e10_a_recovery_that_does_not_run_any_more_gives_way_to_another() {
    explore(|| abandoned(Fate::Stuck));
}

async fn abandoned(fate: Fate) {
    let (world, session, late, stream) = expired(fate);
    for caller in [world.request(&session), world.request(&session), late] {
        assert_eq!(caller.await.unwrap(), Called::Answered(1));
    }
    stream.await.unwrap();
    world.quiet().await;
    assert!(!session.chain().is_recovering());
    assert_eq!(world.request(&session).await.unwrap(), Called::Answered(1));
    assert_eq!(world.live(), 1);
}

#[test]
fn i1_a_delete_at_any_step_leaves_no_session_behind() {
    explore(async || {
        let (world, session, late, stream) = expired(Fate::Ends);
        let callers = [world.request(&session), world.request(&session), late];
        let delete = spawn(world.clone().delete(session.clone()));
        for caller in callers {
            caller.await.unwrap();
        }
        delete.await.unwrap();
        world.quiet().await;
        assert!(world.sessions.is_empty());
        assert_eq!(world.live(), 0);
        world.assert_whole();
        stream.abort();
    });
}

#[test]
fn i3_a_recovery_whose_session_is_forgotten_at_any_step_ends_what_it_made() {
    explore(async || {
        let (world, session, late, stream) = expired(Fate::Ends);
        let callers = [world.request(&session), world.request(&session), late];
        let sessions = world.sessions.clone();
        let forget = spawn(async move { sessions.forget_all() });
        for caller in callers {
            caller.await.unwrap();
        }
        forget.await.unwrap();
        world.quiet().await;
        // An epoch that was there before is the caller's to end.
        let current = session.chain().current().number();
        assert_eq!(world.live() as u64, current);
        world.assert_whole();
        stream.abort();
    });
}
