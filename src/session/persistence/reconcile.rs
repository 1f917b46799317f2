//! What is done about a session that the store turns out to have otherwise (rules N3, H1), by whoever
//! can reach the server, which the store's side cannot.

use std::sync::Arc;

use super::{Agreed, EndedBy, Persistence};
use crate::{
    session::{Epoch, Session, StateChange},
    store::record::Record,
};

/// The layer's way to the server.
pub(crate) trait Reconcile: Send + Sync {
    /// Whether it asks a server anything, which a service that only watches does not (rule D4).
    fn asks(&self) -> bool;

    /// Tells the session's current epoch what other processes have changed in it.
    fn tell(&self, session: &Arc<Session>, changes: Vec<StateChange>);

    /// Goes on where another process does, or lets go of a session that another has ended.
    fn follow(&self, session: &Arc<Session>);

    /// The session was forgotten to make room.
    fn let_go(&self, session: &Arc<Session>);

    /// Ends an epoch that another process has made of a session that has ended.
    fn end(&self, ended: &EndedBy, record: &Record);
}

impl Persistence {
    /// Has what the writer finds out seen to by this, unless something sees to it already.
    pub(crate) fn reconcile_with<R: Reconcile + 'static>(&self, reconcile: impl FnOnce() -> R) {
        self.reconciler.get_or_init(|| Box::new(reconcile()));
    }

    /// These have made room for one that was found.
    pub(super) fn let_go(&self, evicted: &[Arc<Session>]) {
        if let Some(reconciler) = self.reconciler.get() {
            evicted.iter().for_each(|it| reconciler.let_go(it));
        }
    }

    /// The store has the session as it was written, or has it otherwise.
    pub(super) fn reconcile(&self, session: &Arc<Session>, epoch: &Epoch, agreed: &Agreed) {
        match agreed {
            Agreed::Proposed => {
                let untold = session.take_untold();
                if !untold.is_empty() {
                    self.with_one_that_asks(|it| it.tell(session, untold));
                }
            }
            // When that is over, it is written.
            Agreed::Left => {}
            // What it has of another epoch, or of an end, is what counts. A recovery would find it.
            Agreed::Other(..) | Agreed::Ended => {
                let chain = session.chain();
                if !chain.is_forgotten() && chain.is_at_rest(epoch) {
                    let is_seen_to = self.with_one_that_asks(|it| it.follow(session));
                    if !is_seen_to && matches!(agreed, Agreed::Ended) {
                        self.sessions.forget(session);
                    }
                }
            }
        }
    }

    /// Whether it goes on where another process does.
    pub(super) fn follows(&self) -> bool {
        let all = self.sessions.kept_by();
        all.iter()
            .any(|it| it.reconciler().is_some_and(Reconcile::asks))
    }

    /// Its own, or that of another service that shares the sessions: those are all of theirs.
    /// Gives whether there is one.
    fn with_one_that_asks(&self, see_to: impl FnOnce(&dyn Reconcile)) -> bool {
        let asks = |it: &&dyn Reconcile| it.asks();
        let others = self.sessions.kept_by();
        let mut all =
            (self.reconciler().into_iter()).chain(others.iter().filter_map(|it| it.reconciler()));
        all.find(asks).map(see_to).is_some()
    }

    fn reconciler(&self) -> Option<&dyn Reconcile> {
        self.reconciler.get().map(|it| &**it)
    }
}
