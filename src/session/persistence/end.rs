//! The end of a session, for all processes (rules I1, N6).
//!
//! A mark takes the place of the session's record, by compare-and-swap: whoever has published an
//! epoch before that is found by it, and whoever is about to finds the mark.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::request::Parts;
use tokio::time::timeout;

use super::{ATTEMPTS, CONTENDED, Doing, Loaded, NO_ANSWER, Persistence, Task, lock};
use crate::{
    session::Session,
    store::{Saved, StoreError, StoreErrorKind, StoreKey, ended::Ended, record::Record},
};

/// A process that comes to it later than this has not been recovering the session when it ended.
const SHORTEST_MARK: Duration = Duration::from_secs(60);

/// How much may be queued until what ended a session is not kept in mind with that.
const MAX_ENDED_BY: usize = 256;

/// A session that has ended, and the head of the request that ended it.
pub(crate) struct EndedBy {
    pub(crate) session: Arc<Session>,
    pub(crate) head: Parts,
    /// What a mark was to take the place of. A store that has not said that it did may have done it.
    replaced: Mutex<Option<Box<Record>>>,
}

impl EndedBy {
    pub(crate) fn new(session: Arc<Session>, head: Parts) -> Self {
        Self {
            session,
            head,
            replaced: Mutex::default(),
        }
    }

    /// Whether what is of another session under its key is of the one whose place it took (rule B4): the
    /// store is not known to have held this one.
    fn is_after(&self, record: &Record) -> bool {
        let replaces = self.session.synced(|synced| synced.replaces).flatten();
        replaces.is_some() && replaces == record.incarnation && !self.session.is_in(record)
    }
}

impl Persistence {
    /// The session has ended: it is not written any more. [`end`](Self::end) has to follow while
    /// what this returns is kept.
    pub(crate) fn ending(&self, session: &Session) -> Doing {
        session.with_synced(|_, synced| synced.is_removed = true);
        let key = session.key().stored();
        self.endings.begin(key);
        self.not_found(key);
        self.doing()
    }

    /// Whether it has.
    pub(crate) fn has_ended(&self, session: &Session) -> bool {
        session.with_synced(|_, synced| synced.is_removed)
    }

    /// Takes note of the mark, if that says that it has. Gives whether it does.
    pub(super) fn note_end(&self, session: &Session, mark: &Ended) -> bool {
        session.with_synced(|_, synced| {
            let is_ended = synced.is_ended_by(mark.incarnation);
            synced.is_removed |= is_ended;
            is_ended
        })
    }

    /// The session has ended, everywhere: if not now, when the store is back.
    pub(crate) async fn end(self: &Arc<Self>, by: EndedBy) {
        let (key, of) = (by.session.key().stored(), by.session.incarnation());
        let marked = timeout(self.patience(), self.mark(key, of, Some(&by))).await;
        match self.health.noted(marked.unwrap_or(Err(NO_ANSWER))) {
            Some(()) => self.has_replaced(&by),
            None => {
                let has_room = lock(&self.queue).len() < MAX_ENDED_BY;
                self.push(Task::End(key, of, has_room.then(|| Box::new(by))));
            }
        }
    }

    /// A mark has taken its place. If that was an epoch of another process's, it has to be ended, too.
    fn has_replaced(&self, by: &EndedBy) {
        let current = by.session.chain().current();
        let replaced = lock(&by.replaced).take();
        let other = replaced.filter(|record| by.session.is_behind(&current, record));
        if let (Some(reconciler), Some(record)) = (self.reconciler.get(), other) {
            reconciler.end(by, &record);
        }
    }

    /// What a failure of the store has put off.
    pub(super) async fn end_late(
        &self,
        key: StoreKey,
        of: Option<u64>,
        by: Option<&EndedBy>,
    ) -> Result<(), StoreError> {
        self.mark(key, of, by).await?;
        if let Some(by) = by {
            self.has_replaced(by);
        }
        Ok(())
    }

    /// Puts a mark in the place of the record of a session, and notes that in what ended it.
    pub(super) async fn mark(
        &self,
        key: StoreKey,
        of: Option<u64>,
        by: Option<&EndedBy>,
    ) -> Result<(), StoreError> {
        self.try_to_mark(key, of, by).await?;
        self.endings.marked(key);
        Ok(())
    }

    async fn try_to_mark(
        &self,
        key: StoreKey,
        of: Option<u64>,
        by: Option<&EndedBy>,
    ) -> Result<(), StoreError> {
        let store = &self.config.store;
        let mark = Ended::new(key, of).encode();
        // No longer than the record would have stayed.
        let ttl = self.config.recovery_timeout.saturating_mul(2);
        let ttl = ttl.max(SHORTEST_MARK).min(self.config.ttl);
        for _ in 0..ATTEMPTS {
            let revision = match self.load(key).await {
                Ok(Loaded::Nothing) => None,
                Ok(Loaded::Garbage(revision)) => Some(revision),
                Ok(Loaded::Ended(earlier, _)) if earlier.incarnation == of => return Ok(()),
                Ok(Loaded::Ended(_, revision)) => Some(revision),
                Ok(Loaded::Record(record, revision)) => match record.incarnation {
                    Some(other) if of.is_some_and(|of| of != other) => {
                        // The server has given the id to another session, since or before.
                        if !by.is_some_and(|by| by.is_after(&record)) {
                            return Ok(());
                        }
                        Some(revision)
                    }
                    _ => {
                        if let Some(by) = by {
                            *lock(&by.replaced) = Some(record);
                        }
                        Some(revision)
                    }
                },
                Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                    store.remove(key).await?;
                    None
                }
                Err(error) => return Err(error),
            };
            match store.save(key, mark.clone(), revision, ttl).await {
                Ok(Saved::Yes(_)) => {}
                Ok(Saved::Conflict) => continue,
                Err(error) if error.kind() == StoreErrorKind::Full => {
                    // There is no room for a mark, and less need for the record.
                    store.remove(key).await?;
                }
                Err(error) => return Err(error),
            }
            return Ok(());
        }
        Err(CONTENDED)
    }
}

/// The sessions that have ended in this process and have not been marked yet: nobody is to find
/// them in the store.
#[derive(Default)]
pub(super) struct Endings(Mutex<HashSet<StoreKey>>);

impl Endings {
    fn begin(&self, key: StoreKey) {
        lock(&self.0).insert(key);
    }

    /// It is marked, or given up.
    pub(super) fn marked(&self, key: StoreKey) {
        lock(&self.0).remove(&key);
    }

    pub(super) fn has(&self, key: StoreKey) -> bool {
        lock(&self.0).contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        fixture::{ENDPOINT, recorded},
        persistence::{Newer, fixture::persistence},
    };

    #[tokio::test(start_paused = true)]
    async fn n6_a_session_ends_by_its_own_mark_and_for_good() {
        // Given a session that has not come to the store yet, and the mark of an earlier one that
        // had its id,
        let (persistence, sessions) = persistence();
        let session = recorded(&sessions, ENDPOINT, "1");
        let (key, own) = (session.key().stored(), session.incarnation());
        let earlier = own.map(|own| !own);
        let newer = async || persistence.newer(&session, persistence.deadline()).await;
        assert!(persistence.mark(key, earlier, None).await.is_ok());
        // then it goes on,
        assert!(matches!(newer().await, Newer::No));
        assert!(!persistence.has_ended(&session));

        // until its own takes the place of that,
        assert!(persistence.mark(key, own, None).await.is_ok());
        assert!(matches!(newer().await, Newer::Ended));
        assert!(persistence.has_ended(&session));

        // which no other takes back, nor that there is none any more.
        assert!(!persistence.note_end(&session, &Ended::new(key, earlier)));
        assert!(persistence.has_ended(&session));
        assert!(persistence.config.store.remove(key).await.is_ok());
        assert!(matches!(newer().await, Newer::Ended));
    }

    /// A5: the server has given the id to another session since.
    #[tokio::test(start_paused = true)]
    async fn n6_the_record_of_another_session_with_the_id_stays() {
        let (persistence, sessions) = persistence();
        let session = recorded(&sessions, ENDPOINT, "1");
        let (key, own) = (session.key().stored(), session.incarnation());
        let epoch = session.chain().current();
        assert!(persistence.save(&session, &epoch, false).await.is_ok());

        let (head, ()) = http::Request::new(()).into_parts();
        let by = EndedBy::new(session.clone(), head);
        let another = own.map(|own| !own);
        assert!(persistence.mark(key, another, Some(&by)).await.is_ok());
        assert!(lock(&by.replaced).is_none());

        let stays = persistence.load(key).await;
        assert!(matches!(stays, Ok(Loaded::Record(_, _))));
        // Its own mark takes its place.
        assert!(persistence.mark(key, own, Some(&by)).await.is_ok());
        assert!(lock(&by.replaced).is_some());
        let marked = persistence.load(key).await;
        assert!(matches!(marked, Ok(Loaded::Ended(_, _))));
    }
}
