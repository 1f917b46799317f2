//! Whose session the server means by an id (rules A5, I3).

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use http::HeaderValue;

use super::{Endpoint, Epoch, Leader, Session, Sessions};

/// An id that a handshake was given, until what it made is published or given up.
pub(crate) struct Assigned {
    sessions: Sessions,
    id: HeaderValue,
    taken: Arc<AtomicBool>,
    was_anothers: bool,
}

impl Assigned {
    /// Whether the server has given the id to somebody else since, and so has lost the session.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// Whether a record of another session had the id when it was given.
    pub(crate) fn was_anothers(&self) -> bool {
        self.was_anothers
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(crate) fn is_of_many(&self, endpoint: &Endpoint) -> bool {
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
        let mut table = self.write();
        table.handed_out.note(session.endpoint(), id);
        table.assigned.take(session.endpoint(), id);
        let taken = table.assigned.insert(session, id);
        let holders = table.holders(session.endpoint(), id);
        holders.iter().for_each(|holder| holder.chain().expire());
        Assigned {
            sessions: self.clone(),
            id: id.clone(),
            taken,
            was_anothers: holders.iter().any(|holder| !Arc::ptr_eq(holder, session)),
        }
    }

    pub(super) fn unassign(&self, id: &HeaderValue, taken: &Arc<AtomicBool>) {
        self.write().assigned.remove(id, taken);
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
        let mut table = self.write();
        let mut others = match epoch.id() {
            Some(id) => table.holders(session.endpoint(), id),
            None => Vec::new(),
        };
        others.retain(|other| !Arc::ptr_eq(other, session));
        let before = session.chain().current();
        // If this one had the id before, too, and nobody ever another, the server has one for all.
        let shares = !others.is_empty()
            && before.id() == epoch.id()
            && !table.handed_out.differ(session.endpoint());
        leader.publish(epoch.clone(), shares)?;
        match assigned.is_some_and(Assigned::is_taken) && !shares {
            true => session.chain().expire(),
            false => others.iter().for_each(|other| other.chain().expire()),
        }
        table.unlist_moved(session, &before);
        table.list_moved(session, &epoch);
        session.recount();
        Ok(())
    }

    /// Whether what is sent in this epoch of `session` would enter the session of somebody else
    /// (rule A5). A server that does not tell its sessions apart is not fought.
    pub(crate) fn is_anothers(&self, session: &Arc<Session>, epoch: &Epoch) -> bool {
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
        holders.any(|holder| !Arc::ptr_eq(&holder, session))
            || table.assigned.is_anothers(session, id)
    }

    /// Whether the server has given an id that `session` was given to somebody else since.
    pub(crate) fn is_given_away(&self, session: &Arc<Session>, id: &HeaderValue) -> bool {
        let table = self.read();
        let mut holders = table.holders(session.endpoint(), id).into_iter();
        let is_anothers = |it: Arc<Session>| !Arc::ptr_eq(&it, session) && !it.chain().is_expired();
        table.handed_out.differ(session.endpoint())
            && (holders.any(is_anothers) || table.assigned.is_anothers(session, id))
    }

    /// Whether the endpoint is known to hand out more than one id.
    pub(super) fn tells_apart(&self, endpoint: &Endpoint) -> bool {
        self.read().handed_out.differ(endpoint)
    }

    /// Whether a recorded session has this id upstream, or a recovery of one.
    pub(crate) fn names(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        self.read().names(endpoint, id)
    }

    /// Whether a recorded session uses this id upstream, so that it is not to be ended (rule I3). One
    /// that is known to have expired uses it no longer.
    pub(crate) fn uses(&self, endpoint: &Endpoint, id: &HeaderValue) -> bool {
        let table = self.read();
        // Where there is one id for all, none is known to have expired.
        let tells_apart = table.handed_out.differ(endpoint);
        let mut holders = table.holders(endpoint, id).into_iter();
        holders.any(|holder| !tells_apart || !holder.chain().is_expired())
            || table.assigned.has(endpoint, id)
    }
}
