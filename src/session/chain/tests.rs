//! What requests learn of a session's epochs, one after the other. All at once: `schedules`.

use super::*;
use crate::session::{
    Session, Sessions,
    fixture::{ENDPOINT, id, lead, next, recorded},
};

/// A session in epoch 1, and its epoch 0.
fn recovered() -> (Arc<Session>, Arc<Epoch>) {
    let sessions = Sessions::new();
    let session = recorded(&sessions, ENDPOINT, "1");
    assert!(!session.chain().is_recovering());
    let first = session.chain().current();
    let leader = lead(&session);
    assert!(session.chain().is_recovering());
    let published = sessions.publish(&session, leader, next(&session, &id("2")), None);
    assert!(published.is_ok() && !session.chain().is_recovering());
    (session, first)
}

#[test]
fn j4_a_replay_that_finds_its_session_expired_again_begins_a_pause() {
    let (session, _) = recovered();
    let chain = session.chain();
    let epoch = chain.current();
    assert!(matches!(chain.standing(&epoch, None), Standing::Open));

    chain.useless(&epoch);

    assert!(matches!(chain.standing(&epoch, None), Standing::Paused));
    assert!(chain.is_paused(&epoch, None));
}

#[test]
fn k6_an_epoch_that_is_gone_has_no_pauses() {
    let (session, first) = recovered();
    let chain = session.chain();
    let epoch = chain.current();

    chain.asked(&first, false);
    assert!(matches!(chain.standing(&epoch, None), Standing::Open));
    chain.asked(&epoch, false);
    assert!(matches!(chain.standing(&epoch, None), Standing::Paused));

    chain.useless(&epoch);
    assert!(!chain.is_paused(&first, None));
    assert!(matches!(chain.standing(&first, None), Standing::Expired));
}

/// E10: what takes its place is not to be mistaken for it.
#[tokio::test(start_paused = true)]
async fn e10_what_an_abandoned_recovery_publishes_is_refused() {
    let sessions = Sessions::new();
    let session = recorded(&sessions, ENDPOINT, "1");
    let claim = || {
        let (seen, _) = session.chain().snapshot();
        match Chain::claim(&session, &seen, None, Duration::from_secs(1), true) {
            Claim::Lead(_, _, leader) => Some(leader),
            _ => None,
        }
    };
    let old = claim().expect("nobody else does");
    assert!(claim().is_none(), "it is under way");
    tokio::time::advance(Duration::from_secs(600)).await;
    let new = claim().expect("the old one is abandoned");
    let [second, third] = ["2", "3"].map(id);
    let epoch = next(&session, &second);
    assert!(sessions.publish(&session, old, epoch, None).is_err());
    let epoch = next(&session, &third);
    assert!(sessions.publish(&session, new, epoch, None).is_ok());
    assert_eq!(session.chain().current().id(), Some(&third));
}

/// N3: what another process has made takes the place of the epoch that was looked at, and of no
/// other; if that is being recovered, it is for the recovery to find.
#[cfg(feature = "store")]
#[test]
fn n3_what_another_process_made_is_followed_from_the_epoch_that_there_is() {
    let (session, first) = recovered();
    let epoch = session.chain().current();
    let patience = Duration::from_secs(1);
    session.chain().lives(&epoch);
    assert!(Chain::follow(&session, &first, patience).is_none());
    let leader = lead(&session);
    assert!(Chain::follow(&session, &epoch, patience).is_none());
    // A pause is none for it.
    leader.fail(Failure::TimedOut.into());
    assert!(session.chain().is_paused(&epoch, None));
    let leader = Chain::follow(&session, &epoch, patience).expect("it is there");
    assert!(session.chain().is_recovering());
    drop(leader);
    session.forget();
    assert!(Chain::follow(&session, &epoch, patience).is_none());
}
