//! Writes behind: one task, off every request's way (rules N1, N5, N6).
//!
//! A session that changes often waits in the queue once. A task that fails goes to the end of the
//! queue. When all have had their turn, or several in a row have failed, the writer pauses, longer each
//! time that nothing could be written. While it is idle or pauses it does not keep what it writes for
//! alive.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{MutexGuard, Notify},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Agreed, MAX_ENDS, NO_ANSWER, Persistence, Task, lock, set_revision};
use crate::{
    session::Session,
    store::{StoreError, StoreErrorKind},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// But for the rest of the queue, where the store does not answer to all of it.
const NEXT_PATIENCE: Duration = Duration::from_secs(1);
/// How many tasks fail in a row until the store is taken to be away.
const FAILURES: usize = 3;
/// How many times within their time to live records of sessions in use are written again.
const TOUCHES: u32 = 4;
const SHORTEST_TOUCH: Duration = Duration::from_secs(1);
const LONGEST_TOUCH: Duration = Duration::from_secs(30 * 86_400);

impl Persistence {
    pub(super) fn push(self: &Arc<Self>, task: Task) {
        {
            let mut queue = lock(&self.queue);
            // Not at each that comes: there may be many more sessions than that.
            if queue.len() >= MAX_ENDS && queue.len().is_power_of_two() {
                queue.retain(Task::is_of_use);
            }
            match task {
                Task::End(key, ..) if queue.len() >= MAX_ENDS => self.endings.marked(key),
                task => queue.push_back(task),
            }
        }
        self.start_writer();
        self.wake.notify_one();
    }

    /// Sees to it that the writer runs. It is there as soon as something is written or read.
    pub(super) fn start_writer(self: &Arc<Self>) {
        let mut writer = lock(&self.writer);
        // A runtime that has shut down has taken it along.
        if writer.as_ref().is_some_and(|writer| !writer.is_finished()) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let (this, wake) = (Arc::downgrade(self), self.wake.clone());
            *writer = Some(runtime.spawn(write(this, wake, self.touches_every())));
        }
    }

    fn touches_every(&self) -> Duration {
        (self.config.ttl / TOUCHES).clamp(SHORTEST_TOUCH, LONGEST_TOUCH)
    }

    /// The sessions that were used since they were last touched are written again.
    fn touch(self: &Arc<Self>) {
        let (now, sessions) = self.used();
        sessions.iter().for_each(|session| self.changed(session));
        self.touched.store(now, Ordering::Relaxed);
    }

    /// The same for those that were written longer ago than what is used all along: the process is
    /// about to end.
    pub(super) fn touch_last(self: &Arc<Self>) {
        let every = self.touches_every();
        let is_due = |written: Option<Instant>| written.is_some_and(|it| it.elapsed() >= every);
        for session in self.used().1 {
            if session.with_synced(|_, synced| is_due(synced.written)) {
                self.changed(&session);
            }
        }
    }

    fn used(&self) -> (u64, Vec<Arc<Session>>) {
        let since = self.touched.load(Ordering::Relaxed);
        self.sessions.used_since(since)
    }

    /// Writes what is in the queue. If something fails, says whether anything was written.
    async fn write_all(&self) -> Result<(), bool> {
        loop {
            let (mut failures, mut in_a_row, mut is_written) = (0, 0, false);
            // What fails is at the end again.
            let mut left = lock(&self.queue).len();
            if left == 0 {
                return Ok(());
            }
            while left > 0 && in_a_row < FAILURES {
                let patience = if failures == 0 {
                    PATIENCE
                } else {
                    NEXT_PATIENCE
                };
                let writing = self.writing.lock().await;
                match self.write_next(&writing, patience).await {
                    None => break,
                    Some(Ok(())) => (in_a_row, is_written) = (0, true),
                    Some(Err(_)) => (failures, in_a_row) = (failures + 1, in_a_row + 1),
                }
                left -= 1;
            }
            if failures > 0 {
                return Err(is_written);
            }
        }
    }

    /// Writes what is next in the queue, if there is anything. What fails goes to the end of it.
    pub(super) async fn write_next(
        &self,
        _writing: &MutexGuard<'_, ()>,
        patience: Duration,
    ) -> Option<Result<(), StoreError>> {
        let task = lock(&self.queue).pop_front()?;
        let mut taken = Taken::new(self, task);
        let (task, session) = (taken.task.as_ref()?, taken.session.as_ref());
        let written = timeout(patience, self.write(task, session)).await;
        let written = written.unwrap_or(Err(NO_ANSWER));
        if written != Ok(false) {
            self.health.noted(written);
        }
        if written.is_ok() {
            taken.task = None;
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        Some(written.map(drop))
    }

    fn again(&self, task: Task, session: Option<Arc<Session>>) {
        let is_wanted = match (&task, session) {
            (Task::End(..), _) => true,
            (Task::Save(_), None) => false,
            // If it has changed meanwhile, it is in the queue already.
            (Task::Save(_), Some(session)) => {
                session.with_synced(|_, synced| !std::mem::replace(&mut synced.is_queued, true))
            }
        };
        if is_wanted {
            lock(&self.queue).push_back(task);
            // It may have been a flush that failed, while the writer saw an empty queue.
            self.wake.notify_one();
        }
    }

    /// Whether the store was asked for that.
    async fn write(&self, task: &Task, session: Option<&Arc<Session>>) -> Result<bool, StoreError> {
        if let Task::End(key, of, by) = task {
            self.end_late(*key, *of, by.as_deref()).await?;
            return Ok(true);
        }
        let Some(session) = session else {
            return Ok(false);
        };
        let _left = session.with_synced(|_, synced| synced.left.take());
        let epoch = session.chain().current();
        if self.has_ended(session) {
            // It may have been recovered when that was found.
            if !session.chain().is_forgotten() {
                self.reconcile(session, &epoch, &Agreed::Ended);
            }
            return Ok(false);
        }
        let saved = match self.save(session, &epoch, false).await {
            Err(error) if error.kind() == StoreErrorKind::Corrupt => {
                // Nobody can read it, nor replace it without having read it.
                self.health.noted::<()>(Err(error));
                self.config.store.remove(session.key().stored()).await?;
                set_revision(session, None);
                self.save(session, &epoch, false).await
            }
            saved => saved,
        };
        let agreed = saved?;
        let key = session.key().stored();
        let is_proposed = matches!(agreed, Agreed::Proposed);
        if is_proposed && self.has_ended(session) && !self.endings.has(key) {
            // It has ended meanwhile, and a full store had no room for that.
            lock(&self.queue).push_back(Task::End(key, session.incarnation(), None));
        }
        self.reconcile(session, &epoch, &agreed);
        Ok(true)
    }
}

/// A task that goes back to the queue unless it is done, also if nobody waits for it any more.
struct Taken<'a> {
    persistence: &'a Persistence,
    session: Option<Arc<Session>>,
    task: Option<Task>,
}

impl<'a> Taken<'a> {
    fn new(persistence: &'a Persistence, task: Task) -> Self {
        let session = task.session();
        if let Some(session) = &session {
            session.with_synced(|_, synced| {
                synced.is_queued = false;
                synced.is_in_hand = true;
            });
        }
        Self {
            persistence,
            session,
            task: Some(task),
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.with_synced(|_, synced| synced.is_in_hand = false);
        }
        match (self.task.take(), self.session.take()) {
            (Some(task), session) => self.persistence.again(task, session),
            (None, _) => self.persistence.written(),
        }
    }
}

impl Task {
    /// The session that is to be written, if it is there.
    fn session(&self) -> Option<Arc<Session>> {
        match self {
            Self::Save(session) => session.upgrade(),
            Self::End(..) => None,
        }
    }

    fn is_of_use(&self) -> bool {
        match self {
            Self::Save(session) => session.strong_count() > 0,
            Self::End(..) => true,
        }
    }
}

impl Drop for Persistence {
    fn drop(&mut self) {
        // The sessions may live on in a table that another shares.
        for task in lock(&self.queue).drain(..) {
            if let Some(session) = task.session() {
                session.with_synced(|_, synced| synced.is_queued = false);
            }
        }
        // The writer finds that there is nothing more to do.
        self.wake.notify_one();
    }
}

async fn write(persistence: Weak<Persistence>, wake: Arc<Notify>, touch: Duration) {
    let mut pause = FIRST_PAUSE;
    let mut next_touch = Instant::now() + touch;
    loop {
        let written = {
            let Some(persistence) = persistence.upgrade() else {
                return;
            };
            if Instant::now() >= next_touch {
                persistence.touch();
                next_touch = Instant::now() + touch;
            }
            persistence.write_all().await
        };
        match written {
            Ok(()) => {
                pause = FIRST_PAUSE;
                // Whether there is something to write or time is up, it looks for both.
                let _ = timeout_at(next_touch, wake.notified()).await;
            }
            Err(is_written) => {
                if is_written {
                    pause = FIRST_PAUSE;
                }
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        session::{
            fixture::{ENDPOINT, recorded},
            persistence::fixture::persistence,
        },
        store::StoreKey,
    };

    fn end(number: usize) -> Task {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_le_bytes());
        Task::End(StoreKey::from_bytes(key), None, None)
    }

    // Nothing is written: there is no runtime.
    #[test]
    fn k_n6_so_many_ends_are_kept_in_mind_while_the_store_is_away() {
        let (persistence, sessions) = persistence();
        let session = recorded(&sessions, ENDPOINT, "1");
        persistence.push(Task::Save(Arc::downgrade(&session)));
        for number in 0..MAX_ENDS + 9 {
            persistence.push(end(number));
        }
        assert_eq!(lock(&persistence.queue).len(), MAX_ENDS);
        let is_save = |task: &Task| matches!(task, Task::Save(_));
        assert!(lock(&persistence.queue).iter().any(is_save));
        // There is always room for a session that is there.
        persistence.push(Task::Save(Arc::downgrade(&session)));
        assert_eq!(lock(&persistence.queue).len(), MAX_ENDS + 1);
    }

    #[test]
    fn n6_as_many_sessions_as_a_table_holds_may_end_while_the_store_is_away() {
        let (persistence, _) = persistence();
        for number in 0..10_000 {
            persistence.push(end(number));
        }
        assert_eq!(lock(&persistence.queue).len(), 10_000);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    fn k_n5_many_sessions_are_queued_in_a_time_that_grows_with_them_not_with_their_square() {
        let (persistence, sessions) = persistence();
        let session = recorded(&sessions, ENDPOINT, "1");
        for _ in 0..20 * MAX_ENDS {
            persistence.push(Task::Save(Arc::downgrade(&session)));
        }
        assert_eq!(lock(&persistence.queue).len(), 20 * MAX_ENDS);
    }

    #[test]
    fn k_n6_sessions_that_are_gone_make_room() {
        let (persistence, _) = persistence();
        for _ in 0..MAX_ENDS {
            persistence.push(Task::Save(Weak::new()));
        }
        assert_eq!(lock(&persistence.queue).len(), MAX_ENDS);
        persistence.push(end(0));
        assert_eq!(lock(&persistence.queue).len(), 1);
    }
}
