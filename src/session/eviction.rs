//! Which session makes room for another (rules I2, K2, K10), and what becomes of one that a store is
//! still to hear of (rules N1, N5).

use std::{collections::HashMap, sync::Arc};

use super::{
    Evicted, Session, Sessions,
    table::{Group, Table, TableLimits},
};
use crate::sync::atomic::Ordering;

/// How many sessions may be there beyond the limits because a store is still to hear of them.
#[cfg(feature = "store")]
const MAX_UNWRITTEN: usize = 256;

impl Sessions {
    /// Makes room, if the sessions hold more than they may (rule K10).
    pub(crate) fn shrink(&self, limits: TableLimits) -> Evicted {
        match self.0.bytes.load(Ordering::Relaxed) > limits.bytes {
            true => self.make_room(&mut self.write(), limits),
            false => Evicted::new(),
        }
    }

    pub(super) fn make_room(&self, table: &mut Table, limits: TableLimits) -> Evicted {
        let mut evicted = Evicted::new();
        while table.len > limits.sessions.max(1) {
            evicted.extend(table.evict(Group::len));
        }
        while self.0.bytes.load(Ordering::Relaxed) > limits.bytes && table.len > 1 {
            evicted.extend(table.evict(Group::bytes));
        }
        evicted
    }

    /// A store has heard of something. What has made room and waited for that is forgotten now, unless it
    /// has been used since: then it takes up room again.
    #[cfg(feature = "store")]
    pub(super) fn written(&self, limits: TableLimits) -> Evicted {
        if self.read().unwritten.is_empty() {
            return Evicted::new();
        }
        let mut table = self.write();
        let waiting = std::mem::take(&mut table.unwritten).into_iter();
        let (unwritten, written): (Vec<_>, Vec<_>) = waiting.partition(|it| it.is_unwritten());
        table.unwritten = unwritten;
        let mut evicted = Evicted::new();
        for session in written {
            let last_use = session.last_use();
            if last_use > session.use_known() {
                table.count(&session, last_use, &self.0.bytes);
            } else {
                table.let_go(&session);
                evicted.push(session);
            }
        }
        evicted.append(&mut self.make_room(&mut table, limits));
        evicted
    }
}

impl Group {
    /// Its least recently used session, and when that was used.
    fn least_used(&mut self) -> Option<(u64, &Arc<Session>)> {
        // A session's key is never later than its last use. So the first one whose key is exact is the
        // least recently used; those before it are moved to where they belong, each once.
        for _ in 0..self.len() {
            let first = self.by_use.first_entry()?;
            let last_use = first.get().last_use();
            if *first.key() == last_use {
                break;
            }
            let session = first.remove();
            session.know_use(last_use);
            self.by_use.insert(last_use, session);
        }
        let (used, session) = self.by_use.first_key_value()?;
        Some((*used, session))
    }
}

impl Table {
    /// Forgets the least recently used session of the principal that holds most, and there of the
    /// endpoint that does, so that no server and no caller can push out another's (rule I2).
    pub(super) fn evict(&mut self, size: impl Fn(&Group) -> usize) -> Option<Arc<Session>> {
        // Each is asked for its size once, which may change meanwhile.
        let of_all = |endpoints: &HashMap<_, Group>| endpoints.values().map(&size).sum::<usize>();
        let principals = self.groups.values_mut();
        let principals: Vec<_> = principals.map(|it| (of_all(it), it)).collect();
        let most = principals.iter().map(|(size, _)| *size).max()?;
        let hold_most = principals.into_iter().filter(|(size, _)| *size == most);
        // Of those that hold as much, the one whose session was used least recently.
        let least_used = hold_most.filter_map(|(_, endpoints)| {
            let groups: Vec<_> = endpoints.values_mut().map(|it| (size(it), it)).collect();
            let most = groups.iter().map(|(size, _)| *size).max()?;
            let groups = groups.into_iter().filter(|(size, _)| *size == most);
            let least_used = groups.filter_map(|(_, group)| group.least_used());
            least_used.min_by_key(|(used, _)| *used)
        });
        let (_, session) = least_used.min_by_key(|(used, _)| *used)?;
        let session = session.clone();
        self.make_way(session)
    }

    /// Forgets the session, unless a store is still to hear of it.
    fn make_way(&mut self, session: Arc<Session>) -> Option<Arc<Session>> {
        #[cfg(feature = "store")]
        if self.unwritten.len() < MAX_UNWRITTEN && session.is_unwritten() {
            self.count_no_more(&session);
            self.unwritten.push(session);
            return None;
        }
        self.let_go(&session);
        Some(session)
    }

    fn let_go(&mut self, session: &Arc<Session>) {
        // Whoever finds it forgotten is to know why.
        #[cfg(feature = "store")]
        let may_be_kept = session.makes_room();
        self.remove(session);
        #[cfg(feature = "store")]
        if may_be_kept {
            self.in_use.insert(session);
        }
    }
}
