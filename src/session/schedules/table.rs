//! Several sessions: whose an id is, whose turn, and how much they hold.

use std::sync::Arc;

use http::HeaderMap;
use shuttle::future::spawn;

use super::{
    super::TableLimits,
    cut::Cut,
    explore,
    model::{Called, Fate, World},
};
use crate::Failure;

#[test]
fn a5_no_request_enters_anothers_session_when_ids_are_handed_out_anew() {
    explore(async || {
        let world = World::new(Fate::Ends);
        let sessions = [world.initialize(), world.initialize()];
        world.restart();
        let callers = sessions.each_ref().map(|session| world.request(session));
        let others = [
            spawn({
                let world = world.clone();
                async move { drop(world.initialize()) }
            }),
            spawn({
                let world = world.clone();
                async move { world.restart() }
            }),
        ];
        for caller in callers {
            caller.await.unwrap();
        }
        for other in others {
            other.await.unwrap();
        }
        world.quiet().await;
        world.assert_whole();
        // Each gets a session of its own in the end.
        for session in sessions {
            let mut called = Called::Useless;
            for _ in 0..3 {
                called = world.clone().call(session.clone()).await;
            }
            // Or its id has gone over to the new caller (rule B4).
            let is_fine = matches!(
                called,
                Called::Answered(_) | Called::Failed(Failure::Forgotten)
            );
            assert!(is_fine, "{called:?}");
        }
    });
}

/// F2: nor where the table has forgotten whose the session is.
#[test]
fn a5_no_response_enters_anothers_session_when_its_epoch_has_been_left() {
    explore(async || {
        let world = World::new(Fate::Ends);
        let sessions = [world.initialize(), world.initialize()];
        world.restart();
        let callers = sessions.each_ref().map(|session| world.request(session));
        let responses = sessions
            .each_ref()
            .map(|session| spawn(world.clone().respond(session.clone())));
        let passing = spawn({
            let world = world.clone();
            async move {
                for _ in 0..2 {
                    let session = world.initialize();
                    world.sessions.forget(&session);
                }
            }
        });
        for caller in callers {
            caller.await.unwrap();
        }
        for task in responses.into_iter().chain([passing]) {
            task.await.unwrap();
        }
        world.quiet().await;
        world.assert_whole();
    });
}

#[test]
fn e12_handshakes_come_one_after_the_other_wherever_one_is_dropped() {
    explore(async || {
        let world = World::new(Fate::Dropped);
        let sessions = [world.initialize(), world.initialize(), world.initialize()];
        world.restart();
        let calls = sessions
            .each_ref()
            .map(|session| spawn(Cut::somewhere(world.clone().call(session.clone()))));
        for call in calls {
            call.await.unwrap();
        }
        world.quiet().await;
        world.calm();
        for session in sessions {
            let called = world.clone().call(session).await;
            assert!(
                matches!(called, Called::Answered(_) | Called::Useless),
                "{called:?}"
            );
        }
        world.quiet().await;
        world.assert_whole();
    });
}

#[test]
fn k2_what_makes_room_and_what_is_used_meanwhile_leave_a_whole_table() {
    explore(async || {
        let mut world = World::new(Fate::Ends);
        let limits = &mut Arc::get_mut(&mut world).unwrap().limits;
        *limits = TableLimits {
            sessions: 2,
            ..*limits
        };
        let sessions = [world.initialize(), world.initialize()];
        world.expire(&sessions[0]);
        let recovering = world.request(&sessions[0]);
        let uses = spawn({
            let (world, session) = (world.clone(), sessions[1].clone());
            async move {
                let id = session.id();
                let uri = session.endpoint().uri();
                world.sessions.find(id, None, uri, Some(&HeaderMap::new()));
            }
        });
        let more = [0, 1].map(|_| {
            let world = world.clone();
            spawn(async move { drop(world.initialize()) })
        });
        recovering.await.unwrap();
        uses.await.unwrap();
        for one in more {
            one.await.unwrap();
        }
        world.quiet().await;
        assert_eq!(world.sessions.len(), 2);
        world.assert_whole();
        world.sessions.forget_all();
        world.assert_whole();
    });
}
