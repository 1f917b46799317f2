//! The epochs that sessions have left and that may still be in use (rules A5, F2): what waits for its
//! session to be recovered, and is not to go on in the new one, is sent in the one before.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use http::HeaderValue;

use super::{Endpoint, Epoch, Reassigned};

/// How many are listed before it is looked which of them nobody uses any more.
const FEW: usize = 64;

/// The epochs that sessions have left, by their ids, as long as somebody uses them: whoever is given
/// such an id later, what is sent in the epoch is not for him.
#[derive(Default)]
pub(super) struct Earlier {
    by_id: HashMap<HeaderValue, Vec<Left>>,
    listed: usize,
    /// As many of them may be listed until it is looked again.
    limit: usize,
}

struct Left {
    endpoint: Arc<Endpoint>,
    epoch: Weak<Epoch>,
}

impl Earlier {
    /// A session at this endpoint goes on in another epoch, or is not recorded any more.
    pub(super) fn left(&mut self, endpoint: &Arc<Endpoint>, epoch: &Arc<Epoch>) {
        let Some(id) = epoch.id() else { return };
        if self.listed >= self.limit {
            self.drop_unused();
            self.limit = FEW.max(2 * self.listed);
        }
        self.listed += 1;
        self.by_id.entry(id.clone()).or_default().push(Left {
            endpoint: endpoint.clone(),
            epoch: Arc::downgrade(epoch),
        });
    }

    /// The server has just given this id to somebody: it is not that of any of these any more. Whoever
    /// uses one may have let go of it by now, so that it must not be dropped while the table is locked.
    pub(super) fn reassign(&mut self, endpoint: &Endpoint, id: &HeaderValue) -> Vec<Arc<Epoch>> {
        let Some(left) = self.by_id.get_mut(id) else {
            return Vec::new();
        };
        let all = std::mem::take(left).into_iter();
        let (here, elsewhere): (Vec<_>, Vec<_>) = all.partition(|it| *it.endpoint == *endpoint);
        self.listed -= here.len();
        *left = elsewhere;
        if left.is_empty() {
            self.by_id.remove(id);
        }
        let epochs: Vec<_> = here.iter().filter_map(|it| it.epoch.upgrade()).collect();
        epochs.iter().for_each(|epoch| {
            epoch.reassign(Reassigned::Another);
        });
        epochs
    }

    /// The epoch is a recorded session's current one.
    pub(super) fn is_back(&mut self, epoch: &Arc<Epoch>) {
        let Some(id) = epoch.id() else { return };
        let Some(left) = self.by_id.get_mut(id) else {
            return;
        };
        let before = left.len();
        left.retain(|it| !std::ptr::eq(it.epoch.as_ptr(), Arc::as_ptr(epoch)));
        self.listed -= before - left.len();
        if left.is_empty() {
            self.by_id.remove(id);
        }
    }

    /// Lets go of those that nobody uses any more.
    pub(super) fn drop_unused(&mut self) {
        self.by_id.retain(|_, left| {
            left.retain(|it| it.epoch.strong_count() > 0);
            !left.is_empty()
        });
        self.listed = self.by_id.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        Sessions,
        fixture::{ENDPOINT, id, recorded},
    };

    #[test]
    fn k10_what_nobody_uses_is_not_listed_for_ever() {
        // Given a session whose server forgets it all the time, and one request that waits,
        let sessions = Sessions::new();
        let session = recorded(&sessions, ENDPOINT, "1");
        let epoch = |id: HeaderValue| Arc::new(Epoch::first(id.clone(), &id));
        let mut earlier = Earlier::default();
        let used = epoch(id("used"));
        earlier.left(session.endpoint(), &used);

        // when it leaves one epoch after the other,
        let mut most = 0;
        for n in 0..10_000_u64 {
            earlier.left(session.endpoint(), &epoch(HeaderValue::from(n)));
            most = most.max(earlier.listed);
        }

        // then a few are listed, and among them that of the request.
        assert_eq!(most, FEW);
        let listed: usize = earlier.by_id.values().map(Vec::len).sum();
        assert_eq!(earlier.listed, listed);
        earlier.drop_unused();
        assert_eq!(earlier.listed, 1);
        assert!(earlier.by_id.len() == 1 && !used.is_reassigned());
        earlier.reassign(session.endpoint(), &id("used"));
        assert!(earlier.by_id.is_empty() && earlier.listed == 0 && used.is_reassigned());
    }

    /// A5: what it uses, it has not left.
    #[cfg(feature = "store")]
    #[test]
    fn k10_n1_of_a_session_that_makes_room_again_and_again_nothing_is_listed_while_it_is_there() {
        let sessions = Sessions::new();
        let session = recorded(&sessions, ENDPOINT, "1");
        let limits = crate::session::TableLimits {
            sessions: 10,
            bytes: usize::MAX,
        };
        let listed = || sessions.read().earlier.listed;
        let _another = recorded(&sessions, ENDPOINT, "2");
        for _ in 0..3 {
            sessions.forget(&session);
            assert_eq!(listed(), 1);
            sessions.restore(session.clone(), limits, true);
            assert_eq!(listed(), 0);
        }
        assert!(!session.chain().current().is_reassigned());
    }

    #[test]
    fn k10_nothing_is_listed_once_no_session_is_recorded() {
        let sessions = Sessions::new();
        for id in ["1", "2"] {
            let session = recorded(&sessions, ENDPOINT, id);
            sessions.forget(&session);
        }
        sessions.forget_all();
        assert_eq!(sessions.read().earlier.listed, 0);
    }
}
