//! Requests that a server accepted with 202, to answer them on a listening stream (rule G6).
//!
//! The specification does not have it (2025-11-25, Transports), but some servers do it, and some
//! clients take it.

use std::{collections::VecDeque, sync::Arc};

use super::Session;
use crate::mcp::{Id, Message};

/// How many of them a session keeps in mind, and how much their ids may take up, in bytes.
const MAX_LEN: usize = 1024;
const MAX_BYTES: usize = 64 * 1024;
/// How many responses to nothing that is known.
const MAX_EARLY: usize = 64;

/// The requests of a session that were accepted and not yet answered, and their epochs.
#[derive(Default)]
pub(super) struct AcceptedRequests {
    waiting: VecDeque<(u64, Id)>,
    /// What was answered before it was known to be accepted: the two come on their own ways.
    early: VecDeque<Id>,
    bytes: usize,
    /// The epochs of the listening streams that are open, each as often as it has streams.
    listening: Vec<u64>,
}

/// While it is there, a listening stream of the epoch may still bring an answer.
pub(crate) struct Listening {
    session: Arc<Session>,
    epoch: u64,
}

impl Listening {
    pub(super) fn new(session: Arc<Session>, epoch: u64) -> Self {
        session.accepted(|accepted| accepted.listening.push(epoch));
        Self { session, epoch }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.session.accepted(|accepted| {
            let place = accepted.listening.iter().position(|it| *it == self.epoch);
            place.map(|place| accepted.listening.swap_remove(place));
        });
    }
}

/// Requests whose answers are not heard any more.
#[derive(Default)]
pub(crate) struct LostRequests {
    pub(crate) ids: Vec<Id>,
    /// Another stream may still bring the answers to more of them.
    pub(crate) are_not_all: bool,
}

impl AcceptedRequests {
    pub(super) fn accept(&mut self, epoch: u64, requests: &[Id]) {
        for id in requests {
            if let Some(place) = self.early.iter().position(|early| early == id) {
                self.early.remove(place);
                continue;
            }
            self.bytes += id.held_bytes();
            self.waiting.push_back((epoch, id.clone()));
        }
        while self.waiting.len() > MAX_LEN || self.bytes > MAX_BYTES {
            match self.waiting.pop_front() {
                Some((_, id)) => self.bytes -= id.held_bytes(),
                None => break,
            }
        }
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
        match self.waiting.iter().position(|(_, waiting)| *waiting == id) {
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
            + (self.waiting.capacity() + self.early.capacity()) * size_of::<(u64, Id)>()
            + self.listening.capacity() * size_of::<u64>()
    }

    /// Those of epochs before this one; while a stream listens there only if that `is_over`.
    pub(super) fn take_lost(&mut self, epoch: u64, is_over: bool) -> LostRequests {
        let mut lost = LostRequests::default();
        self.waiting.retain(|(of, id)| {
            if *of >= epoch {
                return true;
            }
            let is_heard = !is_over && self.listening.contains(of);
            lost.are_not_all |= is_heard;
            if !is_heard {
                self.bytes -= id.held_bytes();
                lost.ids.push(id.clone());
            }
            is_heard
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
        let lost = accepted.take_lost(epoch, false);
        assert!(!lost.are_not_all);
        lost.ids.iter().map(Id::to_string).collect()
    }

    #[test]
    fn g6_what_was_accepted_and_never_answered_is_lost_with_its_epoch() {
        let mut accepted = AcceptedRequests::default();
        accepted.accept(0, &ids(&["a", "b", "c"]));
        accepted.accept(1, &ids(&["d"]));
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
        accepted.accept(0, &ids(&["199", "1"]));
        assert_eq!(lost(&mut accepted, 1), ["\"1\""]);
        // An id that takes up much is not worth it.
        accepted.read(&format!(r#"{{"id":"{}","result":{{}}}}"#, "x".repeat(64)));
        assert_eq!(accepted.early.len(), MAX_EARLY - 1);
    }

    #[test]
    fn k_of_a_large_batch_the_last_are_kept_in_mind() {
        let mut accepted = AcceptedRequests::default();
        let batch: Vec<_> = (0..MAX_LEN + 5).map(|n| Id::from(n.to_string())).collect();
        accepted.accept(0, &batch);
        let lost = accepted.take_lost(1, false);
        assert!(lost.ids == batch[5..]);
    }

    #[test]
    fn k10_what_is_kept_in_mind_counts() {
        let each = size_of::<(u64, Id)>();
        let mut accepted = AcceptedRequests::default();
        accepted.accept(0, &ids(&["12345"; 100]));
        assert!((500 + 100 * each..1_000 + 200 * each).contains(&accepted.bytes()));
        let before = accepted.bytes();
        (0..40).for_each(|n| accepted.answer(Id::from(format!("early {n}"))));
        assert!((before + 40 * each..before + 100 * each).contains(&accepted.bytes()));
    }

    #[test]
    fn k_what_is_kept_in_mind_is_bounded() {
        let mut accepted = AcceptedRequests::default();
        for number in 0..5_000 {
            accepted.accept(0, &ids(&[&"x".repeat(number)]));
            assert!(accepted.waiting.len() <= MAX_LEN && accepted.bytes <= MAX_BYTES);
            assert!(accepted.bytes() < 2 * MAX_BYTES);
        }
    }
}
