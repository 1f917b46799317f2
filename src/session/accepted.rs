//! Requests that a server accepted with 202, to answer them on a listening stream (rule G6).
//!
//! The specification does not have it (2025-11-25, Transports), but some servers do it, and some
//! clients take it.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use super::Session;
use crate::{
    deadline::deadline,
    mcp::{Id, Message},
};

/// How many of them a session keeps in mind, and how much their ids may take up, in bytes.
const MAX_LEN: usize = 1024;
const MAX_BYTES: usize = 64 * 1024;
/// How many responses to nothing that is known.
const MAX_EARLY: usize = 64;

/// The requests of a session that were accepted and not yet answered, and the streams that may answer
/// them.
#[derive(Default)]
pub(super) struct AcceptedRequests {
    waiting: VecDeque<Waiting>,
    /// What was answered before it was known to be accepted: the two come on their own ways.
    early: VecDeque<Id>,
    bytes: usize,
    /// The epochs of the listening streams that are open, and how many each has.
    listening: BTreeMap<u64, usize>,
    /// Tells those that there is something to look at. There is none before there is a stream.
    news: Option<Arc<Notify>>,
}

struct Waiting {
    epoch: u64,
    id: Id,
    /// Until when a stream of the epoch may answer it, once one of a later epoch has looked.
    until: Option<Instant>,
}

/// While it is there, a listening stream of the epoch may still bring an answer.
pub(crate) struct Listening {
    session: Arc<Session>,
    epoch: u64,
    news: Arc<Notify>,
    notified: Pin<Box<OwnedNotified>>,
}

impl Listening {
    pub(super) fn new(session: Arc<Session>, epoch: u64) -> Self {
        let news = session.accepted(|accepted| {
            *accepted.listening.entry(epoch).or_default() += 1;
            accepted.news.get_or_insert_default().clone()
        });
        Self {
            session,
            epoch,
            notified: Box::pin(news.clone().notified_owned()),
            news,
        }
    }

    /// Ready if there may be something to look at that was not there at the last time.
    pub(crate) fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.notified.as_mut().poll(cx);
        if polled.is_ready() {
            self.notified.set(self.news.clone().notified_owned());
        }
        polled
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let is_news = self.session.accepted(|accepted| {
            let streams = accepted.listening.get_mut(&self.epoch);
            let left = streams.map_or(0, |streams| {
                *streams -= 1;
                *streams
            });
            if left > 0 {
                return false;
            }
            accepted.listening.remove(&self.epoch);
            accepted.waiting.iter().any(|it| it.epoch == self.epoch)
        });
        // Whoever is woken may look at once.
        if is_news {
            self.news.notify_waiters();
        }
    }
}

/// Requests whose answers are not heard any more.
#[derive(Default)]
pub(crate) struct LostRequests {
    pub(crate) ids: Vec<Id>,
    /// Until when another stream may bring the answers to more of them.
    pub(crate) until: Option<Instant>,
}

impl AcceptedRequests {
    /// Gives what tells the streams of a later epoch, if there are any.
    #[must_use]
    pub(super) fn accept(&mut self, epoch: u64, requests: &[Id]) -> Option<Arc<Notify>> {
        for id in requests {
            if let Some(place) = self.early.iter().position(|early| early == id) {
                self.early.remove(place);
                continue;
            }
            self.bytes += id.held_bytes();
            self.waiting.push_back(Waiting {
                epoch,
                id: id.clone(),
                until: None,
            });
        }
        while self.waiting.len() > MAX_LEN || self.bytes > MAX_BYTES {
            match self.waiting.pop_front() {
                Some(it) => self.bytes -= it.id.held_bytes(),
                None => break,
            }
        }
        let is_news = self.listening.keys().any(|later| *later > epoch);
        self.news.clone().filter(|_| is_news)
    }

    /// Strikes those that the data of an event answer.
    pub(super) fn read(&mut self, data: &str) {
        let mut answered = Vec::new();
        let read = Message::each(data.as_bytes(), |message| {
            if message.is_response() && answered.len() < MAX_LEN {
                answered.extend(message.parsed_id());
            }
        });
        if read.is_some() {
            answered.into_iter().for_each(|id| self.answer(id));
        }
    }

    pub(super) fn answer(&mut self, id: Id) {
        match self.waiting.iter().position(|it| it.id == id) {
            Some(place) => {
                self.waiting.remove(place);
                self.bytes -= id.held_bytes();
            }
            None if id.held_bytes() < MAX_BYTES / MAX_LEN => {
                self.early.truncate(MAX_EARLY - 1);
                self.early.push_front(id);
            }
            None => {}
        }
    }

    /// What they take up, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
            + self.waiting.capacity() * size_of::<Waiting>()
            + self.early.capacity() * size_of::<Id>()
            + self.listening.len() * size_of::<(u64, usize)>()
    }

    /// Those of epochs before this one. While a stream listens there, that has so long.
    pub(super) fn take_lost(&mut self, epoch: u64, patience: Duration) -> LostRequests {
        let mut lost = LostRequests::default();
        self.waiting.retain_mut(|it| {
            if it.epoch >= epoch {
                return true;
            }
            if self.listening.contains_key(&it.epoch) {
                let now = Instant::now();
                let until = *it.until.get_or_insert_with(|| deadline(now, patience));
                if until > now {
                    lost.until = Some(lost.until.map_or(until, |other| other.min(until)));
                    return true;
                }
            }
            self.bytes -= it.id.held_bytes();
            lost.ids.push(it.id.clone());
            false
        });
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<Id> {
        ids.iter().map(|id| Id::from((*id).to_owned())).collect()
    }

    fn lost(accepted: &mut AcceptedRequests, epoch: u64) -> Vec<String> {
        let lost = accepted.take_lost(epoch, Duration::ZERO);
        lost.ids.iter().map(Id::to_string).collect()
    }

    #[test]
    fn g6_what_was_accepted_and_never_answered_is_lost_with_its_epoch() {
        let mut accepted = AcceptedRequests::default();
        assert!(accepted.accept(0, &ids(&["a", "b", "c"])).is_none());
        assert!(accepted.accept(1, &ids(&["d"])).is_none());
        accepted.read(r#"{"id":"b","result":{}}"#);
        accepted.read(r#"{"id":"c","method":"ping"}"#);
        assert!(lost(&mut accepted, 0).is_empty());
        assert_eq!(lost(&mut accepted, 1), ["\"a\"", "\"c\""]);
        assert!(lost(&mut accepted, 1).is_empty());
        assert_eq!(lost(&mut accepted, 2), ["\"d\""]);
        assert_eq!(accepted.bytes, 0);
    }

    #[test]
    fn g6_an_answer_may_overtake_the_word_that_the_request_was_accepted() {
        let mut accepted = AcceptedRequests::default();
        for id in 0..200 {
            accepted.read(&format!(r#"{{"id":"{id}","result":{{}}}}"#));
        }
        assert_eq!(accepted.early.len(), MAX_EARLY);
        assert!(accepted.accept(0, &ids(&["199", "1"])).is_none());
        assert_eq!(lost(&mut accepted, 1), ["\"1\""]);
        // An id that takes up much is not worth it.
        accepted.read(&format!(r#"{{"id":"{}","result":{{}}}}"#, "x".repeat(64)));
        assert_eq!(accepted.early.len(), MAX_EARLY - 1);
    }

    #[test]
    fn k_of_a_large_batch_the_last_are_kept_in_mind() {
        let mut accepted = AcceptedRequests::default();
        let batch: Vec<_> = (0..MAX_LEN + 5).map(|n| Id::from(n.to_string())).collect();
        assert!(accepted.accept(0, &batch).is_none());
        let lost = accepted.take_lost(1, Duration::ZERO);
        assert!(lost.ids == batch[5..]);
    }

    #[test]
    fn k10_what_is_kept_in_mind_counts() {
        let (each, early) = (size_of::<Waiting>(), size_of::<Id>());
        let mut accepted = AcceptedRequests::default();
        assert!(accepted.accept(0, &ids(&["12345"; 100])).is_none());
        assert!((500 + 100 * each..1_000 + 200 * each).contains(&accepted.bytes()));
        let before = accepted.bytes();
        (0..40).for_each(|n| accepted.answer(Id::from(format!("early {n}"))));
        assert!((before + 40 * early..before + 100 * early).contains(&accepted.bytes()));
    }

    #[test]
    fn k_what_is_kept_in_mind_is_bounded() {
        let mut accepted = AcceptedRequests::default();
        for number in 0..5_000 {
            assert!(accepted.accept(0, &ids(&[&"x".repeat(number)])).is_none());
            assert!(accepted.waiting.len() <= MAX_LEN && accepted.bytes <= MAX_BYTES);
            assert!(accepted.bytes() < 2 * MAX_BYTES);
        }
    }
}
