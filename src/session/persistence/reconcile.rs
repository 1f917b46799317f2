//! What is done about a session that the store turns out to have otherwise (rules N3, H1), by whoever
//! can reach the server, which the store's side cannot.

use std::sync::Arc;

use super::{Agreed, Doing, EndedBy, Persistence};
use crate::{
    session::{Epoch, Session, StateChange},
    store::record::Record,
};

/// The layer's way to the server.
pub(crate) trait Reconcile: Send + Sync {
    /// Tells the session's current epoch what other processes have changed in it.
    fn tell(&self, session: &Arc<Session>, changes: Vec<StateChange>);

    /// Goes on where another process does, or lets go of a session that another has ended.
    /// What there is to write afterwards is queued when `doing` is dropped.
    fn follow(&self, session: &Arc<Session>, doing: Doing);

    /// The session was forgotten to make room. Asked again if the store turns out not to hold it.
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

    /// The store turns out not to hold a session that this process has forgotten. If that was to make
    /// room, what it has made of it is of no use to anybody; what was forgotten on purpose stays as it is.
    /// Gives whether it has made room.
    pub(super) fn let_go_again(&self, session: &Arc<Session>) -> bool {
        let has_made_room = session.with_synced(|_, synced| synced.has_made_room);
        if has_made_room {
            self.let_go(std::slice::from_ref(session));
        }
        has_made_room
    }

    /// The store has the session as it was written, or has it otherwise.
    pub(super) fn reconcile(&self, session: &Arc<Session>, epoch: &Epoch, agreed: &Agreed) {
        let reconciler = self.reconciler.get();
        match agreed {
            Agreed::Proposed => {
                let untold = session.take_untold();
                if let Some(reconciler) = reconciler.filter(|_| !untold.is_empty()) {
                    reconciler.tell(session, untold);
                }
            }
            // When that is over, it is written.
            Agreed::Left => {}
            // What it has of another epoch, or of an end, is what counts. A recovery would find it.
            Agreed::Other(..) | Agreed::Ended => {
                let chain = session.chain();
                if chain.is_forgotten() {
                    self.let_go_again(session);
                } else if chain.is_at_rest(epoch) {
                    if let Some(reconciler) = reconciler {
                        reconciler.follow(session, self.doing());
                    }
                }
            }
        }
    }
}
