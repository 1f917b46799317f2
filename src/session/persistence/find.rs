//! Finds sessions that the table does not know (rules N1, N5).

use std::{collections::hash_map::Entry, sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{Loaded, NO_ANSWER, Persistence, lock};
use crate::{
    session::{Key, Session},
    store::StoreKey,
};

/// What is known of a key that was asked for.
pub(super) enum Finding {
    /// The store is being asked.
    UnderWay(watch::Receiver<Option<Found>>),
    /// It holds nothing.
    Nothing(Instant),
}

/// What there is under a key.
#[derive(Clone)]
pub(crate) enum Found {
    Session(Arc<Session>),
    /// The session of whoever asked, whose key is another's by now (rule A5).
    Displaced,
    Nothing,
}

/// How long a store that held nothing is not asked again: anybody can make up ids.
const NOT_ASKED_AGAIN: Duration = Duration::from_secs(1);
/// How many keys are asked for, or kept in mind, at a time. Those that the store holds nothing of make
/// room for others. Those beyond are unknown.
const MAX_FINDINGS: usize = 4096;

impl Persistence {
    /// The session that another process recorded under this key. Whoever asks for the same waits for
    /// the same answer.
    pub(crate) async fn find(self: &Arc<Self>, key: Key) -> Found {
        // What is found is used, which the writer tells the store of.
        self.start_writer();
        let deadline = self.deadline();
        let Some(mut found) = self.ask(key, deadline) else {
            return Found::Nothing;
        };
        let found = timeout_at(deadline, found.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(found)) => found.clone().unwrap_or(Found::Nothing),
            _ => Found::Nothing,
        }
    }

    /// Whether the store is being asked for the session with this key.
    pub(crate) fn is_asking(&self, key: &Key) -> bool {
        let findings = lock(&self.findings);
        let may_be = findings
            .values()
            .any(|it| matches!(it, Finding::UnderWay(_)));
        let finding = may_be.then(|| findings.get(&key.stored())).flatten();
        let now = Instant::now();
        finding.is_some_and(|it| matches!(it, Finding::UnderWay(_)) && !it.is_over(now))
    }

    /// The store holds something under this key by now.
    pub(super) fn is_held(&self, key: StoreKey) {
        if let Entry::Occupied(entry) = lock(&self.findings).entry(key) {
            if matches!(entry.get(), Finding::Nothing(_)) {
                entry.remove();
            }
        }
    }

    fn ask(
        self: &Arc<Self>,
        key: Key,
        deadline: Instant,
    ) -> Option<watch::Receiver<Option<Found>>> {
        let stored_key = key.stored();
        let now = Instant::now();
        let mut findings = lock(&self.findings);
        if self.endings.has(stored_key) {
            // It has ended, whatever the store says before it is marked.
            return None;
        }
        if findings.len() >= MAX_FINDINGS {
            findings.retain(|_, it| matches!(it, Finding::UnderWay(_)) && !it.is_over(now));
        }
        let is_full = findings.len() >= MAX_FINDINGS;
        match findings.entry(stored_key) {
            Entry::Occupied(entry) if !entry.get().is_over(now) => match entry.get() {
                Finding::UnderWay(found) => return Some(found.clone()),
                Finding::Nothing(_) => return None,
            },
            Entry::Vacant(_) if is_full => return None,
            _ => {}
        }
        // Nobody who gives up takes the answer from the others.
        let runtime = Handle::try_current().ok()?;
        let (sender, found) = watch::channel(None);
        findings.insert(stored_key, Finding::UnderWay(found.clone()));
        let (persistence, asked) = (self.clone(), found.clone());
        runtime.spawn(async move {
            let loaded = timeout_at(deadline, persistence.load(stored_key)).await;
            let loaded = persistence.health.noted(loaded.unwrap_or(Err(NO_ANSWER)));
            let mut findings = lock(&persistence.findings);
            let is_asked = match findings.get(&stored_key) {
                Some(Finding::UnderWay(it)) => it.same_channel(&asked),
                _ => false,
            };
            let is_recorded = persistence.sessions.is_recorded(&key);
            let found = match &loaded {
                // It has ended while the store was asked.
                _ if !is_asked => Found::Nothing,
                Some(Loaded::Record(record, revision)) => {
                    let config = &persistence.config;
                    let session = Session::of_record(
                        key,
                        record,
                        *revision,
                        config.pauses,
                        config.max_subscriptions,
                    );
                    match persistence.restore(Arc::new(session)) {
                        Some(session) => Found::Session(session),
                        None => Found::Displaced,
                    }
                }
                _ => Found::Nothing,
            };
            match loaded {
                _ if !is_asked => {}
                // It may have been recorded, and written, since.
                Some(Loaded::Nothing | Loaded::Ended(..)) if !is_recorded => {
                    let until = Instant::now() + NOT_ASKED_AGAIN;
                    findings.insert(stored_key, Finding::Nothing(until));
                }
                _ => {
                    findings.remove(&stored_key);
                }
            }
            drop(findings);
            sender.send_replace(Some(found));
        });
        Some(found)
    }
}

impl Persistence {
    /// The session has ended: what the store is saying of it is no news any more.
    pub(super) fn not_found(&self, key: StoreKey) {
        if let Entry::Occupied(mut entry) = lock(&self.findings).entry(key) {
            entry.insert(Finding::Nothing(Instant::now() + NOT_ASKED_AGAIN));
        }
    }

    /// A session that this process has forgotten for want of room, and that somebody still uses, is
    /// recorded once more.
    pub(crate) fn recall(self: &Arc<Self>, session: &Arc<Session>) {
        if session.chain().is_forgotten() && session.is_to_go_on() {
            self.restore(session.clone());
        }
    }

    /// Gives the session as it is recorded, unless its key is another's by now.
    pub(super) fn restore(self: &Arc<Self>, session: Arc<Session>) -> Option<Arc<Session>> {
        let (session, evicted) =
            self.sessions
                .restore(session, self.config.table, self.follows())?;
        self.let_go(&evicted);
        // It is in use, from here on as long as its record stays. It may be the one to make room.
        if !session.chain().is_forgotten() {
            self.changed(&session);
        }
        Some(session)
    }
}

impl Finding {
    fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::Nothing(until) => *until <= now,
            // Its task has ended without an answer.
            Self::UnderWay(found) => found.has_changed().is_err(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Uri};

    use super::*;
    use crate::session::{
        Endpoint,
        fixture::{ENDPOINT, recorded},
        persistence::fixture::persistence,
    };

    fn key(number: usize) -> Key {
        let uri = Uri::from_static(ENDPOINT);
        Key {
            id: HeaderValue::from(number),
            endpoint: Arc::new(Endpoint::new(&uri, &HeaderMap::new())),
            principal: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn k_n5_made_up_ids_are_asked_for_and_kept_in_mind_in_bounds() {
        let (persistence, _) = persistence();
        let known = || lock(&persistence.findings).len();
        for number in 0..2 * MAX_FINDINGS + 9 {
            assert!(matches!(
                persistence.find(key(number)).await,
                Found::Nothing
            ));
            assert_eq!(known(), number % MAX_FINDINGS + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a4_n1_made_up_ids_do_not_hide_a_session_that_is_stored() {
        let (persistence, sessions) = persistence();
        let session = recorded(&sessions, ENDPOINT, "1");
        let epoch = session.chain().current();
        assert!(persistence.save(&session, &epoch, false).await.is_ok());
        sessions.forget(&session);
        for number in 0..MAX_FINDINGS {
            let found = persistence.find(key(2 + number)).await;
            assert!(matches!(found, Found::Nothing));
        }
        assert!(matches!(persistence.find(key(1)).await, Found::Session(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn k_n5_what_is_being_asked_for_makes_no_room() {
        let (persistence, _) = persistence();
        let deadline = persistence.deadline();
        // Nothing is answered before these yield.
        for number in 0..MAX_FINDINGS {
            assert!(persistence.ask(key(number), deadline).is_some());
        }
        assert!(persistence.ask(key(MAX_FINDINGS), deadline).is_none());
        assert_eq!(lock(&persistence.findings).len(), MAX_FINDINGS);
    }
}
