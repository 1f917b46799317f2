//! What keeps the sessions of a table in a store (rules N1 to N6).
//!
//! The table is what the hot path goes by. The store is asked where the table does not know an id
//! ([`find`](Persistence::find)), before a handshake ([`newer`](Persistence::newer)) and before an
//! epoch is published ([`agree`](Persistence::agree)); whoever asks waits for the store's time-out
//! at most. All else is written behind, by the `writer`.

mod contained;
mod end;
mod find;
#[cfg(test)]
mod fixture;
mod flush;
mod health;
mod reconcile;
#[cfg(test)]
mod tests;
mod under_way;
mod writer;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak, atomic::AtomicU64},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

pub(super) use self::flush::KeptBy;
use self::{
    contained::Contained, end::Endings, find::Finding, health::Health, under_way::UnderWay,
};
pub(crate) use self::{end::EndedBy, find::Found, reconcile::Reconcile, under_way::Doing};
use super::{Epoch, Pauses, Session, Sessions, TableLimits};
use crate::{
    deadline::deadline,
    store::{
        Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreKey, Stored,
        ended::Ended,
        record::{Record, RecordError},
    },
};

/// Keeps the sessions of a table in a store.
pub(crate) struct Persistence {
    config: PersistenceConfig,
    sessions: Sessions,
    health: Health,
    findings: Mutex<HashMap<StoreKey, Finding>>,
    queue: Mutex<VecDeque<Task>>,
    /// Held by whoever writes something of the queue.
    writing: tokio::sync::Mutex<()>,
    /// How much of it has been written.
    done: AtomicU64,
    endings: Endings,
    under_way: UnderWay,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Sessions that were used after this have not been written for it.
    touched: AtomicU64,
    wake: Arc<Notify>,
    /// There from the first session on that is recorded or found.
    reconciler: OnceLock<Box<dyn Reconcile>>,
}

/// What it goes by.
#[derive(Clone)]
pub(crate) struct PersistenceConfig {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) timeout: Duration,
    pub(crate) ttl: Duration,
    /// How long a recovery may take, in whichever process.
    pub(crate) recovery_timeout: Duration,
    pub(crate) pauses: Pauses,
    pub(crate) table: TableLimits,
    pub(crate) max_subscriptions: usize,
}

/// What is to be written.
enum Task {
    /// If the session is still there.
    Save(Weak<Session>),
    /// The end of a session, by its key and incarnation.
    End(StoreKey, Option<u64>, Option<Box<EndedBy>>),
}

/// What the store has of a session that is about to be recovered (rule N4).
pub(crate) enum Newer {
    /// Nothing that this process does not know.
    No,
    /// An epoch that another process has made.
    Epoch(Box<Record>, Revision),
    /// Another process has ended the session.
    Ended,
}

/// What the processes that share a store agree on (rule N3).
pub(crate) enum Agreed {
    /// The epoch that was proposed. So it is, too, while the store is away.
    Proposed,
    /// Another process was first.
    Other(Box<Record>, Revision),
    /// The session has ended.
    Ended,
    /// That was not written, and is not to be: the session has left the epoch, or is about to, or
    /// may have ended, or no store takes it.
    Left,
}

/// What the store holds under a key.
enum Loaded {
    Nothing,
    /// What is no record of this key.
    Garbage(Revision),
    Record(Box<Record>, Revision),
    /// The mark of a session that has ended.
    Ended(Ended, Revision),
}

/// How often a save is tried against others that write the same record.
const ATTEMPTS: usize = 8;
const NO_ANSWER: StoreError = StoreError::new(StoreErrorKind::TimedOut, "no answer in time");
const CONTENDED: StoreError = StoreError::new(StoreErrorKind::Other, "others write the record");
/// How many ends are kept in mind while the store is away.
const MAX_ENDS: usize = 16 * 1024;

impl Persistence {
    pub(crate) fn new(mut config: PersistenceConfig, sessions: Sessions) -> Arc<Self> {
        config.store = Arc::new(Contained(config.store));
        let persistence = Arc::new(Self {
            config,
            sessions,
            health: Health::default(),
            findings: Mutex::default(),
            queue: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            done: AtomicU64::default(),
            endings: Endings::default(),
            under_way: UnderWay::default(),
            writer: Mutex::default(),
            touched: AtomicU64::default(),
            wake: Arc::default(),
            reconciler: OnceLock::new(),
        });
        persistence.sessions.0.kept_by.add(&persistence);
        persistence
    }

    /// Whoever waits for the store waits until then at most (rule N5).
    pub(crate) fn deadline(&self) -> Instant {
        deadline(Instant::now(), self.config.timeout)
    }

    /// How long something is given that takes several operations and that no request waits for.
    fn patience(&self) -> Duration {
        self.config.timeout.saturating_mul(4)
    }

    /// The session has changed, or is new: it is written soon.
    pub(crate) fn changed(self: &Arc<Self>, session: &Arc<Session>) {
        if !session.chain().is_forgotten() {
            self.queue(session);
        }
        // It may have made room before the answer that has changed it was there, or by now.
        if session.chain().is_forgotten() && session.is_late() {
            self.restore(session.clone());
        }
    }

    fn queue(self: &Arc<Self>, session: &Arc<Session>) {
        let is_queued = session.with_synced(|_, synced| {
            synced.is_back = false;
            std::mem::replace(&mut synced.is_queued, true)
        });
        if is_queued {
            // A runtime may have shut down in the meantime, be it another service's.
            self.sessions.kept_by().iter().for_each(Self::start_writer);
        } else {
            self.push(Task::Save(Arc::downgrade(session)));
        }
    }

    /// Whether the store holds the session in this epoch, so that somebody may go on with it.
    pub(crate) fn keeps(&self, session: &Session, epoch: &Epoch) -> bool {
        let epoch = session.as_stored(epoch);
        session.with_synced(|_, synced| {
            let holds = synced.revision.is_some() && synced.seen.as_ref() == Some(&epoch);
            holds && !synced.is_removed
        })
    }

    /// The store has heard of something, or something has been done: what has waited for that is
    /// forgotten.
    fn written(&self) {
        self.let_go(&self.sessions.written(self.config.table));
    }

    /// The record of another process that has gone on from the session's current epoch (rule N4).
    /// If there is none, the session knows what others changed in it.
    pub(crate) async fn newer(&self, session: &Session, deadline: Instant) -> Newer {
        if self.has_ended(session) {
            return Newer::Ended;
        }
        let loaded = timeout_at(deadline, self.load_of(session)).await;
        match self.health.noted(loaded.unwrap_or(Err(NO_ANSWER))) {
            // The server has given its id to another caller since: it is not in the store any more.
            Some(Loaded::Record(record, _)) if session.is_displaced_by(&record) => {
                set_revision(session, None);
            }
            Some(Loaded::Record(record, revision)) if session.is_in(&record) => {
                let epoch = session.chain().current();
                if session.is_behind(&epoch, &record) {
                    return Newer::Epoch(record, revision);
                }
                session.take_in(&record, revision, self.config.max_subscriptions);
            }
            Some(Loaded::Ended(mark, _)) if self.note_end(session, &mark) => {
                return Newer::Ended;
            }
            Some(
                Loaded::Record(_, revision)
                | Loaded::Garbage(revision)
                | Loaded::Ended(_, revision),
            ) => set_revision(session, Some(revision)),
            Some(Loaded::Nothing) => set_revision(session, None),
            None => {}
        }
        Newer::No
    }

    /// Proposes `epoch` as the session's next one. If the store does not answer until the
    /// `deadline`, it is: what others have made of it shows when the store is back.
    pub(crate) async fn agree(
        self: &Arc<Self>,
        session: &Arc<Session>,
        epoch: &Epoch,
        deadline: Instant,
    ) -> Agreed {
        let agreed = timeout_at(deadline, self.save(session, epoch, true)).await;
        match self.health.noted(agreed.unwrap_or(Err(NO_ANSWER))) {
            Some(agreed) => agreed,
            None if self.has_ended(session) => Agreed::Ended,
            None => {
                let epoch = session.as_stored(epoch);
                session.with_synced(|_, synced| synced.not_agreed(epoch));
                Agreed::Proposed
            }
        }
    }

    /// Saves the session as one in `epoch`, unless another process has gone on from there. If that is
    /// no proposal, it has to be the current one: no recovery's proposal is to be written over.
    async fn save(
        &self,
        session: &Session,
        epoch: &Epoch,
        is_proposal: bool,
    ) -> Result<Agreed, StoreError> {
        let key = session.key().stored();
        let has_left = || !is_proposal && !session.chain().is_at_rest(epoch);
        for _ in 0..ATTEMPTS {
            let (state, noted, revision, is_removed) = session.with_synced(|state, synced| {
                let noted = synced.unstored.noted();
                (state.clone(), noted, synced.revision, synced.is_removed)
            });
            if is_removed {
                return Ok(Agreed::Ended);
            }
            if !is_proposal && session.chain().is_forgotten() {
                // It has, or had, all of it that counts.
                return Ok(Agreed::Left);
            }
            if has_left() {
                session.with_synced(|_, synced| {
                    // What has been read for it is not for the one after it to write over.
                    synced.revision = None;
                    synced.left.get_or_insert_with(|| self.doing());
                });
                return Ok(Agreed::Left);
            }
            let stored = session.as_stored(epoch);
            let record = session.record(epoch, &state);
            let written = Instant::now();
            let encoded = record
                .ok_or(RecordError::Malformed)
                .and_then(|it| it.encode());
            let value = match encoded {
                Ok(value) => value,
                Err(error) => {
                    self.cannot_store(session, error);
                    return Ok(Agreed::Left);
                }
            };
            let asked = session.with_synced(|_, synced| {
                synced.sends(&stored);
                synced.ask()
            });
            let saved = self
                .config
                .store
                .save(key, value, revision, self.config.ttl);
            if let Saved::Yes(revision) = saved.await? {
                let is_latest = session.with_synced(|_, synced| {
                    let is_latest = synced.is_answered(asked);
                    if is_latest {
                        synced.revision = Some(revision);
                        synced.unstored.stored(noted);
                        synced.is_known = true;
                        synced.written = Some(written);
                        synced.is_unstorable = false;
                        synced.agreed(stored.clone());
                    }
                    is_latest
                });
                self.is_held(key);
                if is_latest {
                    return Ok(Agreed::Proposed);
                }
            }
            match self.load_of(session).await? {
                Loaded::Nothing => {
                    let is_known = !is_proposal && session.is_nothing_new(&stored, self.config.ttl);
                    set_revision(session, None);
                    if is_known {
                        // It may have ended. If it has not, and is used from here on, the store has
                        // lost it.
                        return Ok(Agreed::Left);
                    }
                }
                Loaded::Garbage(revision) => set_revision(session, Some(revision)),
                Loaded::Ended(mark, _) if self.note_end(session, &mark) => {
                    return Ok(Agreed::Ended);
                }
                Loaded::Ended(_, revision) => set_revision(session, Some(revision)),
                Loaded::Record(record, _) if session.is_displaced_by(&record) => {
                    set_revision(session, None);
                    return Ok(Agreed::Proposed);
                }
                Loaded::Record(record, revision) if !session.is_in(&record) => {
                    set_revision(session, Some(revision));
                }
                Loaded::Record(..) if has_left() => {}
                Loaded::Record(record, revision) => {
                    if session.is_behind(epoch, &record) {
                        return Ok(Agreed::Other(record, revision));
                    }
                    session.take_in(&record, revision, self.config.max_subscriptions);
                }
            }
        }
        Err(CONTENDED)
    }

    /// What the store holds of a session. What is older than something that it has said meanwhile is asked
    /// for again.
    async fn load_of(&self, session: &Session) -> Result<Loaded, StoreError> {
        for _ in 0..ATTEMPTS {
            let asked = session.with_synced(|_, synced| synced.ask());
            let loaded = self.load(session.key().stored()).await?;
            let is_latest = session.with_synced(|_, synced| synced.is_answered(asked));
            // Whatever is known, that is the end.
            if is_latest || matches!(loaded, Loaded::Ended(..)) {
                return Ok(loaded);
            }
        }
        Err(CONTENDED)
    }

    async fn load(&self, key: StoreKey) -> Result<Loaded, StoreError> {
        let Some(Stored { value, revision }) = self.config.store.load(key).await? else {
            return Ok(Loaded::Nothing);
        };
        Ok(match Record::decode(&value, key) {
            Ok(record) => Loaded::Record(Box::new(record), revision),
            Err(error) => match Ended::decode(&value, key) {
                Some(mark) => Loaded::Ended(mark, revision),
                None => {
                    self.health.garbage(error);
                    Loaded::Garbage(revision)
                }
            },
        })
    }
}

fn set_revision(session: &Session, revision: Option<Revision>) {
    session.with_synced(|_, synced| synced.revision = revision);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves what it guards whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
