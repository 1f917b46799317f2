use http::{HeaderMap, Uri};

use super::*;
use crate::session::fixture::{ENDPOINT, id, lead, next, next_of, recorded};
#[cfg(feature = "store")]
use crate::session::{Key, TableLimits, fixture::PAUSES};

/// Recovers the session. What the handshake was given is given back.
fn recover(sessions: &Sessions, session: &Arc<Session>, id: &HeaderValue) -> Assigned {
    let leader = lead(session);
    let assigned = sessions.assign(session, id);
    let epoch = next(session, id);
    let published = sessions.publish(session, leader, epoch, Some(&assigned));
    assert!(published.is_ok());
    assigned
}

fn is_given_away(sessions: &Sessions, session: &Arc<Session>, name: &'static str) -> bool {
    sessions.is_given_away(session, &id(name), &AtomicBool::new(false))
}

#[test]
fn a5_an_id_that_anothers_handshake_was_given_is_anothers() {
    let sessions = Sessions::new();
    let [one, two] = ["1", "2"].map(|id| recorded(&sessions, ENDPOINT, id));
    let elsewhere = recorded(&sessions, "http://other.test/mcp", "1");
    let away = Endpoint::new(&Uri::from_static("http://away.test/mcp"), &HeaderMap::new());
    let first = one.chain().current();
    drop(recover(&sessions, &one, &id("3")));
    assert!(!sessions.is_anothers(&one, &first));
    assert!(!sessions.names(one.endpoint(), &id("1")));

    let assigned = sessions.assign(&two, &id("1"));

    assert!(sessions.is_anothers(&one, &first));
    assert!(is_given_away(&sessions, &one, "1"));
    assert!(!is_given_away(&sessions, &two, "1"));
    assert!(sessions.names(one.endpoint(), &id("1")) && sessions.uses(one.endpoint(), &id("1")));
    // At another endpoint it is another id.
    assert!(!elsewhere.chain().is_expired());
    assert!(!sessions.names(&away, &id("1")));
    // It stays another's, whatever becomes of that handshake.
    drop(assigned);
    assert!(!sessions.names(one.endpoint(), &id("1")));
    assert!(sessions.is_anothers(&one, &first));
}

/// F2: what waits to be sent in an epoch that its session has left.
#[test]
fn a5_an_id_that_was_given_away_stays_anothers_when_he_has_let_go_of_it() {
    type GiveAway = fn(&Sessions, &Arc<Session>);
    let ways: [(&str, GiveAway); 4] = [
        ("a handshake that failed", |sessions, other| {
            drop(sessions.assign(other, &id("1")));
        }),
        ("one that went on to another id", |sessions, other| {
            drop(recover(sessions, other, &id("1")));
            other.chain().lives(&other.chain().current());
            drop(recover(sessions, other, &id("4")));
        }),
        ("a caller who is forgotten by now", |sessions, _| {
            let caller = recorded(sessions, ENDPOINT, "1");
            sessions.forget(&caller);
        }),
        // N3
        ("an epoch of another process's", |sessions, other| {
            let epoch = next(other, &id("1"));
            let published = sessions.publish(other, lead(other), epoch, None);
            assert!(published.is_ok());
            sessions.forget(other);
        }),
    ];
    for (way, give_away) in ways {
        for is_forgotten in [false, true] {
            let sessions = Sessions::new();
            let [one, two] = ["1", "2"].map(|id| recorded(&sessions, ENDPOINT, id));
            let elsewhere = recorded(&sessions, "http://other.test/mcp", "1");
            let [first, others] = [&one, &elsewhere].map(|it| it.chain().current());
            // Given a session that has left the epoch, or is not recorded any more,
            match is_forgotten {
                false => drop(recover(&sessions, &one, &id("3"))),
                true => sessions.forget(&one),
            }
            drop(recover(&sessions, &elsewhere, &id("3")));
            assert!(!sessions.is_anothers(&one, &first));

            // when the server gives the id to
            give_away(&sessions, &two);

            // then it is another's, and not at another endpoint.
            assert!(sessions.is_anothers(&one, &first), "{way} {is_forgotten}");
            assert!(!sessions.is_anothers(&elsewhere, &others), "{way}");
        }
    }
}

#[test]
fn a5_an_id_that_was_given_away_stays_anothers_when_all_is_forgotten() {
    let sessions = Sessions::new();
    let [one, two] = ["1", "2"].map(|id| recorded(&sessions, ENDPOINT, id));
    let [first, second] = [&one, &two].map(|it| it.chain().current());
    drop(recover(&sessions, &one, &id("3")));
    sessions.forget_all();
    for id in ["1", "2"] {
        let caller = recorded(&sessions, ENDPOINT, id);
        sessions.forget(&caller);
    }
    assert!(sessions.is_anothers(&one, &first));
    assert!(sessions.is_anothers(&two, &second));
}

#[test]
fn a5_an_id_that_was_given_to_two_handshakes_is_the_later_ones() {
    let sessions = Sessions::new();
    let [one, two] = ["1", "2"].map(|id| recorded(&sessions, ENDPOINT, id));
    let leader = lead(&one);
    let earlier = sessions.assign(&one, &id("3"));
    let later = sessions.assign(&two, &id("3"));
    assert!(earlier.is_taken() && !later.is_taken());

    // What is published all the same is known to have expired.
    let epoch = next(&one, &id("3"));
    let published = sessions.publish(&one, leader, epoch, Some(&earlier));
    assert!(published.is_ok() && one.chain().is_expired());
    assert!(is_given_away(&sessions, &one, "3"));
    assert!(!is_given_away(&sessions, &two, "3"));
}

#[test]
fn i1_whoever_ends_a_session_that_was_just_published_ends_it_on_the_server() {
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let assigned = recover(&sessions, &one, &id("2"));
    assert!(sessions.uses(one.endpoint(), &id("2")));

    sessions.forget(&one);

    assert!(!sessions.uses(one.endpoint(), &id("2")));
    drop(assigned);
}

#[test]
fn i3_nothing_is_published_once_all_is_forgotten() {
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let leader = lead(&one);
    let assigned = sessions.assign(&one, &id("2"));

    sessions.forget_all();

    // Whose it is the server has said, all the same.
    assert!(sessions.names(one.endpoint(), &id("2")));
    let epoch = next(&one, &id("2"));
    let published = sessions.publish(&one, leader, epoch, Some(&assigned));
    assert!(published.is_err());
    drop((assigned, published));
    assert!(!sessions.names(one.endpoint(), &id("2")));
}

#[test]
fn a5_a_server_that_has_handed_out_one_id_may_have_one_for_all() {
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let again = sessions.assign(&one, &id("1"));
    assert!(!again.is_of_many(&one));
    let another = sessions.assign(&one, &id("2"));
    assert!(another.is_of_many(&one));
}

/// A5, E8: of a server with one id for all, what a handshake was given is what the session goes on
/// in, unless that has no id, or has been forgotten.
#[test]
fn i3_what_a_session_goes_on_in_is_not_ended() {
    // Given a handshake that was given the id that the session has, and is given up,
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let again = |session| sessions.assign(session, &id("1"));
    // then that is left alone,
    assert!(again(&one).must_end(&one).is_none());
    // unless the server has handed out another id as well,
    let elsewhere = recorded(&sessions, "http://other.test/mcp", "1");
    drop(sessions.assign(&elsewhere, &id("2")));
    assert!(again(&elsewhere).must_end(&elsewhere).is_some());
    // or the session goes on without one,
    let stateless = recorded(&sessions, "http://stateless.test/mcp", "1");
    let epoch = next_of(&stateless, None);
    let published = sessions.publish(&stateless, lead(&stateless), epoch, None);
    assert!(published.is_ok());
    assert!(again(&stateless).must_end(&stateless).is_some());
    // or has ended.
    let assigned = again(&one);
    sessions.forget(&one);
    assert!(assigned.must_end(&one).is_some());
}

/// I1: what a recovery has made of a session that ends meanwhile is ended, whoever had its id before.
#[test]
fn i3_a5_who_has_lost_an_id_keeps_no_session_from_being_ended() {
    let sessions = Sessions::new();
    let [_one, two, three] = ["1", "2", "3"].map(|id| recorded(&sessions, ENDPOINT, id));
    drop(recover(&sessions, &two, &id("1")));
    let made = two.chain().current();
    sessions.forget(&two);
    assert!(!sessions.ends_anothers(&two, &made));
    // What is sent in it might be for somebody, and who has been given it since has it.
    assert!(sessions.is_anothers(&two, &made));
    drop(recover(&sessions, &three, &id("1")));
    assert!(sessions.ends_anothers(&two, &made));
}

/// I2: it may have been forgotten while it was being recovered, and found again.
#[cfg(feature = "store")]
#[test]
fn a5_n4_a_session_that_was_found_again_is_no_other() {
    for is_same in [true, false] {
        let sessions = Sessions::new();
        let one = recorded(&sessions, ENDPOINT, "1");
        let incarnation = one.incarnation().unwrap();
        sessions.forget(&one);
        let found = find(&sessions, &one, ["1", "2"]);
        found.with_synced(|_, synced| {
            synced.incarnation = Some(incarnation + u64::from(!is_same));
            synced.is_known = true;
        });
        let _other = recorded(&sessions, ENDPOINT, "3");
        let epoch = next(&one, &id("2"));
        assert_eq!(sessions.meet(&one, &epoch), !is_same);
        assert_eq!(found.chain().is_expired(), !is_same);
    }
}

/// N3: nobody knows to which of them it was given later.
#[cfg(feature = "store")]
#[test]
fn a5_an_epoch_that_is_adopted_with_anothers_id_is_neithers() {
    let sessions = Sessions::new();
    let [one, two, three] = ["1", "2", "3"].map(|id| recorded(&sessions, ENDPOINT, id));
    let epoch = next(&one, &id("2"));
    let is_expired = |session: &Arc<Session>| session.chain().is_expired();
    // Also if the other one is given it after it was looked at,
    let published = sessions.publish(&one, lead(&one), epoch, None);
    assert!(published.is_ok() && is_expired(&one) && is_expired(&two));
    assert!(!is_expired(&three));
    // or if it is one that another has left, and still uses,
    let left = three.chain().current();
    let assigned = sessions.assign(&three, &id("5"));
    let moved = next(&three, &id("5"));
    assert!(
        sessions
            .publish(&three, lead(&three), moved, Some(&assigned))
            .is_ok()
    );
    let epoch = next(&one, &id("3"));
    assert!(sessions.meet(&one, &epoch) && left.is_reassigned());
    assert!(!sessions.meet(&one, &epoch));
    // or has been given by a handshake that is under way.
    let assigned = sessions.assign(&three, &id("4"));
    let epoch = next(&one, &id("4"));
    assert!(!sessions.meet(&three, &epoch) && !assigned.is_taken());
    assert!(sessions.meet(&one, &epoch) && assigned.is_taken());
    // Of one id for all nobody knows that.
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let _other = find(&sessions, &one, ["2", "1"]);
    let epoch = next(&one, &id("1"));
    assert!(!sessions.meet(&one, &epoch));
}

/// A session that another process has recorded where this one is, by the ids of its caller and its
/// server.
#[cfg(feature = "store")]
fn find(
    sessions: &Sessions,
    one: &Session,
    [callers, upstream]: [&'static str; 2],
) -> Arc<Session> {
    let key = Key {
        id: id(callers),
        ..one.key().clone()
    };
    let initialize = one.initialize().clone();
    let found = Session::new(key, id(upstream), None, initialize, PAUSES);
    let limits = TableLimits {
        sessions: 10,
        bytes: usize::MAX,
    };
    sessions
        .restore(Arc::new(found), limits, true)
        .expect("a place")
        .0
}

/// N1: another process may have been given it after this one has left it.
#[cfg(feature = "store")]
#[test]
fn a5_an_id_that_was_left_is_anothers_once_a_session_with_it_is_found() {
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let first = one.chain().current();
    drop(recover(&sessions, &one, &id("3")));
    assert!(!sessions.is_anothers(&one, &first));
    find(&sessions, &one, ["2", "4"]);
    assert!(!sessions.is_anothers(&one, &first));
    find(&sessions, &one, ["5", "1"]);
    assert!(sessions.is_anothers(&one, &first));
}

/// N1: nobody knows which of them came later.
#[cfg(feature = "store")]
#[test]
fn a5_an_id_that_a_handshake_was_given_is_neithers_once_a_session_with_it_is_found() {
    let sessions = Sessions::new();
    let one = recorded(&sessions, ENDPOINT, "1");
    let assigned = sessions.assign(&one, &id("2"));
    let found = find(&sessions, &one, ["2", "2"]);
    assert!(found.chain().is_expired() && assigned.is_taken());
    assert!(!one.chain().is_expired());
}

#[test]
fn a5_who_was_given_an_id_later_keeps_it() {
    // Given a handshake whose id the server has given to another since, who goes on in it,
    let sessions = Sessions::new();
    let [one, two] = ["1", "2"].map(|id| recorded(&sessions, ENDPOINT, id));
    let leader = lead(&one);
    let earlier = sessions.assign(&one, &id("3"));
    drop(recover(&sessions, &two, &id("3")));

    // when that is published all the same,
    let published = sessions.publish(&one, leader, next(&one, &id("3")), Some(&earlier));

    // then it is the first that has lost its session.
    assert!(published.is_ok() && one.chain().is_expired());
    assert!(!two.chain().is_expired());
}
