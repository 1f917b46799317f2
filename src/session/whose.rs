//! Whose session the server means by an id (rules A5, I3).

use std::sync::Arc;

use http::HeaderValue;

use super::{Endpoint, Epoch, Leader, Reassigned, Session, Sessions, table::Table};
use crate::sync::atomic::{AtomicBool, Ordering};

/// An id that a handshake was given, until what it made is published or given up.
pub(crate) struct Assigned {
    sessions: Sessions,
    id: HeaderValue,
    taken: Arc<AtomicBool>,
}

impl Assigned {
    /// Whether the server has given the id to somebody else since, and so has lost the session.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Says the same, also when what has the id is published or given up.
    pub(crate) fn taken(&self) -> Arc<AtomicBool> {
        self.taken.clone()
    }

    /// Whether the half-open session that has the id is to be ended on the server, now that it is given
    /// up (rules E7, I3).
    pub(crate) fn must_end(self, session: &Session) -> bool {
        if self.is_taken() {
            // It is somebody else's, whether a record says so or not.
            return false;
        }
        let (id, is_of_many) = (self.id.clone(), self.is_of_many(session.endpoint()));
        // The id is nobody's from here on.
        drop(self);
        // Of a server with one id for all, the next recovery may have been given the same id again by
        // the time a DELETE is there.
        let chain = session.chain();
        let is_own = chain.current().id() == Some(&id);
        is_of_many || !is_own || chain.is_forgotten()
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(super) fn is_of_many(&self, endpoint: &Endpoint) -> bool {
        self.sessions.tells_apart(endpoint)
    }
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.sessions.unassign(&self.id, &self.taken);
    }
}

impl Sessions {
    /// The server has just given this id to a recovery of `session`. Whoever had it, or was about to,
    /// is known to have lost its session (rule A5): also this one, which is in the new one once that
    /// is published, and not before.
    pub(crate) fn assign(&self, session: &Arc<Session>, id: &HeaderValue) -> Assigned {
        // Dropped last: what it holds of a caller may ask the table.
        let (mut displaced, _given_away);
        let mut table = self.write();
        table.handed_out.note(session.endpoint(), id);
        table.assigned.take(session.endpoint(), id);
        let taken = table.assigned.insert(session, id);
        displaced = table.holders(session.endpoint(), id);
        displaced.retain(|holder| match Arc::ptr_eq(holder, session) {
            true => {
                // While it is recovered, nothing is written of it.
                holder.chain().expire(Reassigned::OwnHandshake);
                false
            }
            false => holder.chain().expire(Reassigned::Another),
        });
        _given_away = table.earlier.reassign(session.endpoint(), id);
        drop(table);
        self.displaced(&displaced);
        Assigned {
            sessions: self.clone(),
            id: id.clone(),
            taken,
        }
    }

    pub(super) fn unassign(&self, id: &HeaderValue, taken: &Arc<AtomicBool>) {
        self.write().assigned.remove(id, taken);
    }

    /// The store holds `session` in this epoch of another process's. If another session has its id, nobody
    /// knows to whom the server has given that last: from here on it is neither's (rule A5). Gives
    /// whether that is so.
    #[cfg(feature = "store")]
    pub(crate) fn meet(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        let mut table = self.write();
        let Some(mut met) = table.meet(session, epoch) else {
            return false;
        };
        met.others
            .retain(|other| other.chain().expire(Reassigned::OneOfTwo));
        drop(table);
        self.displaced(&met.others);
        true
    }

    /// Publishes the epoch that a recovery made. Gives the leader back if that is too late.
    ///
    /// Another session whose current epoch has the same id upstream is known to have lost it
    /// (rule A5); or this one has, if the id was given to another since it was `assigned`.
    pub(crate) fn publish(
        &self,
        session: &Arc<Session>,
        leader: Leader,
        epoch: Arc<Epoch>,
        assigned: Option<&Assigned>,
    ) -> Result<(), Leader> {
        // Dropped last: what they hold of their callers may ask the table.
        let (mut others, met);
        let mut table = self.write();
        let before = session.chain().current();
        others = table.others(session, &epoch);
        let shares = !others.is_empty() && table.has_one_for_all(session, &epoch);
        let is_taken = assigned.is_some_and(Assigned::is_taken) && !shares;
        // An adopted one may have met another since that was looked at.
        met = match assigned {
            None => table.meet(session, &epoch),
            Some(_) => None,
        };
        let (lost, others_lost) = match (is_taken, &met) {
            (true, _) => (Some(Reassigned::Another), None),
            (false, Some(_)) => {
                let to = Some(Reassigned::OneOfTwo);
                (to, to)
            }
            (false, None) => (None, Some(Reassigned::Another)),
        };
        let published = leader.publish(epoch.clone(), shares, lost)?;
        others.retain(|other| others_lost.is_some_and(|to| other.chain().expire(to)));
        table.unlist_moved(session, &before);
        table.earlier.left(session.endpoint(), &before);
        table.list_moved(session, &epoch);
        if let Some(it) = assigned {
            // From here on the record names the id: whoever ends that may end the session.
            table.assigned.remove(&it.id, &it.taken);
        }
        session.recount();
        // Whoever is woken may ask the table at once.
        drop(table);
        self.displaced(&others);
        published.tell();
        Ok(())
    }

    /// Whether what is sent in this epoch of `session` would enter the session of somebody else
    /// (rule A5). A server that does not tell its sessions apart is not fought.
    pub(crate) fn is_anothers(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        self.is_anothers_but(session, epoch, |_| false)
    }

    /// The same where some of those who have the id do not count.
    fn is_anothers_but(
        &self,
        session: &Arc<Session>,
        epoch: &Epoch,
        is_left_out: impl Fn(&Session) -> bool,
    ) -> bool {
        if epoch.is_reassigned() {
            return true;
        }
        let Some(id) = epoch.id() else { return false };
        let chain = session.chain();
        let current = chain.current();
        if current.id() == Some(id) && !chain.is_forgotten() {
            return current.is_reassigned();
        }
        let table = self.read();
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        holders.any(|holder| !Arc::ptr_eq(&holder, session) && !is_left_out(&holder))
            || table.assigned.is_anothers(session, id)
    }

    /// Whether to end this epoch of `session` would end the session of somebody else (rules A5, I1).
    /// What a handshake of its own has left half-open under its id is its own to end.
    pub(crate) fn ends_anothers(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
        match epoch.id() {
            Some(id) if epoch.is_reassigned_to_own() => self.has_another(session, id),
            // Who has lost it has nothing to be ended.
            _ => self.is_anothers_but(session, epoch, has_lost),
        }
    }

    /// Whether another session than this uses the id.
    fn has_another(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        let table = self.read();
        // Where there is one id for all, none is known to have expired.
        let tells_apart = table.handed_out.differ(session.endpoint());
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        holders.any(|it| !Arc::ptr_eq(&it, session) && (!tells_apart || !has_lost(&it)))
            || table.assigned.is_anothers(session, id)
    }

    /// Whether the server has given an id that a handshake of `session` was given to somebody else since.
    /// That may have been noted in `taken`, and the other one have let go of it.
    pub(crate) fn is_given_away(
        &self,
        session: &Arc<Session>,
        id: &HeaderValue,
        taken: &AtomicBool,
    ) -> bool {
        self.tells_apart(session.endpoint())
            && (taken.load(Ordering::Acquire) || self.has_another(session, id))
    }

    /// Whether `session` goes on under this id, or a handshake of it that is under way is to.
    pub(crate) fn has_been_given(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        session.chain().current().id() == Some(id) || self.read().assigned.is_of(session, id)
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(crate) fn tells_apart(&self, endpoint: &Endpoint) -> bool {
        self.read().handed_out.differ(endpoint)
    }

    /// Whether the server calls another session as the caller calls this one, which has moved on.
    pub(crate) fn calls_another(&self, session: &Session) -> bool {
        let was_given_away = session.chain().first().is_reassigned();
        was_given_away || self.names(session.endpoint(), session.id())
    }

    /// Whether a recorded session has this id upstream, or a recovery of one.
    pub(super) fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.read().names(endpoint, id)
    }

    /// Whether a recorded session uses this id upstream, so that it is not to be ended (rule I3). One
    /// that is known to have expired uses it no longer.
    pub(crate) fn uses(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.read().uses(endpoint, id)
    }
}

impl Table {
    pub(super) fn uses(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        // Where there is one id for all, none is known to have expired.
        let tells_apart = self.handed_out.differ(endpoint);
        let mut holders = self.holders(endpoint, id).into_iter();
        holders.any(|holder| !tells_apart || !has_lost(&holder)) || self.assigned.has(endpoint, id)
    }

    /// The other sessions whose current epoch has the id of this one of `session`.
    fn others(&self, session: &Arc<Session>, epoch: &Epoch) -> Vec<Arc<Session>> {
        let holders = epoch.id().map(|id| self.holders(session.endpoint(), id));
        let mut others = holders.unwrap_or_default();
        others.retain(|other| !is_same(other, session));
        others
    }

    /// Whether the session had the id of this epoch before, too, and nobody ever another: the server has
    /// one for all.
    fn has_one_for_all(&self, session: &Session, epoch: &Epoch) -> bool {
        session.chain().current().id() == epoch.id() && !self.handed_out.differ(session.endpoint())
    }

    /// Looks who else has the id of an epoch that another process has made, unless they are to share it.
    /// What has been left, and handshakes under way, have lost it.
    fn meet(&mut self, session: &Arc<Session>, epoch: &Epoch) -> Option<Met> {
        let id = epoch.id()?;
        if self.has_one_for_all(session, epoch) {
            return None;
        }
        let endpoint = session.endpoint();
        let mut met = Met {
            others: self.others(session, epoch),
            left: self.earlier.reassign(endpoint, id),
        };
        // Of these it is known that they have lost it.
        met.others.retain(|other| !has_lost(other));
        let is_assigned = self.assigned.is_anothers(session, id);
        if !is_assigned && met.others.is_empty() && met.left.is_empty() {
            return None;
        }
        self.assigned.take(endpoint, id);
        Some(met)
    }
}

/// Whether it is certain that the session has lost the id that it has upstream.
fn has_lost(session: &Session) -> bool {
    session.chain().current().is_lost()
}

/// Whether these are one session, which may have been forgotten and found again.
fn is_same(one: &Arc<Session>, other: &Arc<Session>) -> bool {
    #[cfg(feature = "store")]
    if one.key() == other.key() {
        return one.is_recorded_as(other);
    }
    Arc::ptr_eq(one, other)
}

/// What has the id of an epoch that another process has made.
struct Met {
    others: Vec<Arc<Session>>,
    left: Vec<Arc<Epoch>>,
}

#[cfg(test)]
mod tests {
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
        assert!(
            sessions.names(one.endpoint(), &id("1")) && sessions.uses(one.endpoint(), &id("1"))
        );
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
        assert!(!again.is_of_many(one.endpoint()));
        let another = sessions.assign(&one, &id("2"));
        assert!(another.is_of_many(one.endpoint()));
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
        assert!(!again(&one).must_end(&one));
        // unless the server has handed out another id as well,
        let elsewhere = recorded(&sessions, "http://other.test/mcp", "1");
        drop(sessions.assign(&elsewhere, &id("2")));
        assert!(again(&elsewhere).must_end(&elsewhere));
        // or the session goes on without one,
        let stateless = recorded(&sessions, "http://stateless.test/mcp", "1");
        let epoch = next_of(&stateless, None);
        let published = sessions.publish(&stateless, lead(&stateless), epoch, None);
        assert!(published.is_ok());
        assert!(again(&stateless).must_end(&stateless));
        // or has ended.
        let assigned = again(&one);
        sessions.forget(&one);
        assert!(assigned.must_end(&one));
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
}
