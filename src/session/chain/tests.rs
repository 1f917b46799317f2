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

/// N3: it is about the epoch that was seen to be superseded, and no other.
#[cfg(feature = "store")]
#[test]
fn n3_an_epoch_is_superseded_while_it_is_there_to_be_used() {
    let (session, first) = recovered();
    let chain = session.chain();
    let epoch = chain.current();
    chain.lives(&epoch);
    assert!(!chain.is_superseded());
    // Given an epoch that is gone, one that is being recovered, one that is known to have expired,
    chain.supersede(&first);
    assert!(chain.snapshot().1 && !chain.is_superseded());
    let leader = lead(&session);
    chain.supersede(&epoch);
    assert!(!chain.is_superseded());
    leader.give_up(Failure::Forgotten.into());
    assert!(chain.snapshot().1);
    chain.expire();
    chain.supersede(&epoch);
    // then there is nothing to be done about it.
    assert!(!chain.snapshot().1 && !chain.is_superseded());
    chain.stays();
    assert!(!chain.snapshot().1);
}

#[cfg(feature = "store")]
#[test]
fn n3_a_superseded_epoch_stays_if_nobody_goes_on_elsewhere() {
    let (session, _) = recovered();
    let chain = session.chain();
    chain.supersede(&chain.current());
    assert!(!chain.snapshot().1 && chain.is_superseded());
    chain.stays();
    assert!(chain.snapshot().1 && !chain.is_superseded());
}
