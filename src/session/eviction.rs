//! Which session makes room for another (rules I2, K2, K10), and what becomes of one that a store is
//! still to hear of (rules N1, N5).

use std::{cmp::Reverse, sync::Arc};

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

impl Table {
    /// Forgets the least recently used session of the principal that holds most, and there of the
    /// endpoint that does, so that no server and no caller can push out another's (rule I2).
    pub(super) fn evict(&mut self, size: impl Fn(&Group) -> usize) -> Option<Arc<Session>> {
        // Of those that hold as much, the one that was used least recently.
        let rank = |group: &Group| {
            let used = group.by_use.keys().next().copied();
            (size(group), Reverse(used.unwrap_or_default()))
        };
        let endpoints = self.groups.values().max_by_key(|endpoints| {
            let ranks = endpoints.values().map(rank);
            ranks
                .reduce(|(one, used), (other, also)| (one + other, used.max(also)))
                .unwrap_or_default()
        })?;
        let group = endpoints.values().max_by_key(|group| rank(group))?;
        let mut least: Option<Arc<Session>> = group.by_use.values().next().cloned();
        // A session's key in its group is never later than its last use. So the first one whose
        // key is exact is the least recently used; those before it are moved to where they belong.
        while let Some(session) = least {
            let last_use = session.last_use();
            let use_known = session.use_known();
            if use_known == last_use {
                return self.make_way(session);
            }
            session.know_use(last_use);
            let group = &mut self.group(&session).by_use;
            group.remove(&use_known);
            group.insert(last_use, session);
            least = group.values().next().cloned();
        }
        None
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
