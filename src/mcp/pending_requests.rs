//! Requests that wait for their answers (rules G3 to G6).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Id, LargeAnswer, LargeData, Message, skim::Skimmed};

/// The requests of one POST, shared by all streams that may answer them: its own, and those in
/// which a client resumes that.
pub(crate) struct PendingRequests {
    requests: Arc<[Id]>,
    waiting: AtomicUsize,
    /// Of more than one request, which have been answered.
    batch: Option<Box<Mutex<Batch>>>,
}

struct Batch {
    places: HashMap<Id, usize>,
    is_answered: Vec<bool>,
    /// In which order.
    order: Vec<usize>,
}

impl PendingRequests {
    pub(crate) fn new(mut requests: Arc<[Id]>) -> Self {
        let batch = (requests.len() > 1).then(|| {
            let mut places = HashMap::with_capacity(requests.len());
            for id in &*requests {
                let place = places.len();
                places.entry(id.clone()).or_insert(place);
            }
            if places.len() < requests.len() {
                // The same id twice is answered once.
                let mut once = Vec::with_capacity(places.len());
                for id in &*requests {
                    if places.get(id) == Some(&once.len()) {
                        once.push(id.clone());
                    }
                }
                requests = once.into();
            }
            Box::new(Mutex::new(Batch {
                places,
                is_answered: vec![false; requests.len()],
                order: Vec::new(),
            }))
        });
        Self {
            waiting: AtomicUsize::new(requests.len()),
            requests,
            batch,
        }
    }

    /// How many still wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    pub(crate) fn are_answered(&self) -> bool {
        self.waiting() == 0
    }

    /// How many have been answered.
    pub(crate) fn answered(&self) -> usize {
        self.requests.len() - self.waiting()
    }

    /// Strikes those that the data of an event answer.
    pub(crate) fn read(&self, data: &[u8]) {
        if let Some(message) = Skimmed::of(data) {
            if let Some(id) = message.id().filter(|_| message.is_response()) {
                self.answer(&id);
            }
            return;
        }
        let mut answered = Vec::new();
        let read = Message::each(data, |message| {
            let id = message.is_response().then(|| message.parsed_id()).flatten();
            answered.extend(id.filter(|id| self.has(id)));
        });
        if read.is_some() {
            answered.iter().for_each(|id| self.answer(id));
        }
    }

    /// The same of data that are not known as a whole: they count as the answer unless what is
    /// known says otherwise.
    pub(crate) fn read_large(&self, data: &LargeData) {
        match data.answer() {
            LargeAnswer::None => {}
            LargeAnswer::Of(id) => self.answer(&id),
            LargeAnswer::Some => self.requests.iter().for_each(|id| self.answer(id)),
        }
    }

    fn has(&self, id: &Id) -> bool {
        match &self.batch {
            None => self.requests.first() == Some(id),
            Some(batch) => lock(batch).places.contains_key(id),
        }
    }

    fn answer(&self, id: &Id) {
        match &self.batch {
            None if self.has(id) => self.waiting.store(0, Ordering::Release),
            None => {}
            Some(batch) => {
                let mut batch = lock(batch);
                let Some(&place) = batch.places.get(id) else {
                    return;
                };
                if !std::mem::replace(&mut batch.is_answered[place], true) {
                    batch.order.push(place);
                    self.waiting.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
    }

    /// Whoever resumes from where `answered` had been answered has not had what came after.
    pub(crate) fn reopen(&self, answered: usize) {
        match &self.batch {
            None if answered == 0 => self.waiting.store(self.requests.len(), Ordering::Release),
            None => {}
            Some(batch) => {
                let mut batch = lock(batch);
                let batch = &mut *batch;
                for place in batch.order.drain(answered.min(batch.order.len())..) {
                    batch.is_answered[place] = false;
                    self.waiting.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
    }

    /// Those that still wait.
    pub(crate) fn lost(&self) -> Vec<Id> {
        self.lost_since(self.answered())
    }

    /// The caller has been told that they are lost, which is an answer, too.
    pub(crate) fn give_up(&self) {
        self.requests.iter().for_each(|id| self.answer(id));
    }

    /// Those that waited when `answered` had been answered.
    pub(crate) fn lost_since(&self, answered: usize) -> Vec<Id> {
        match &self.batch {
            None => self.requests[answered.min(self.requests.len())..].to_vec(),
            Some(batch) => {
                let batch = lock(batch);
                let mut waits = vec![true; self.requests.len()];
                for place in batch.order.iter().take(answered) {
                    waits[*place] = false;
                }
                let requests = self.requests.iter().zip(waits);
                requests
                    .filter(|(_, waits)| *waits)
                    .map(|(id, _)| id.clone())
                    .collect()
            }
        }
    }

    /// What the ids hold in memory, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.requests.iter().map(Id::held_bytes).sum::<usize>()
            + self.requests.len() * size_of::<Id>()
    }
}

fn lock(batch: &Mutex<Batch>) -> MutexGuard<'_, Batch> {
    batch.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::Summary;

    fn pending(body: &str) -> PendingRequests {
        PendingRequests::new(Summary::of(body.as_bytes()).unwrap().requests)
    }

    fn lost(pending: &PendingRequests) -> Vec<String> {
        pending.lost().iter().map(Id::to_string).collect()
    }

    #[test]
    fn g5_a_request_waits_until_its_own_answer() {
        let one = pending(r#"{"id":1,"method":"a"}"#);
        one.read(r#"{"id":2,"result":{}}"#.as_bytes());
        one.read(r#"{"id":1,"method":"b","result":{}}"#.as_bytes());
        one.read(r#"{"id":1,"result":{}"#.as_bytes());
        assert_eq!(lost(&one), ["1"]);
        one.read(r#"[{"id":2,"result":{}},{"id":1.0,"error":{}}]"#.as_bytes());
        assert!(one.are_answered() && lost(&one).is_empty());
        one.reopen(0);
        assert_eq!(lost(&one), ["1"]);
    }

    #[test]
    fn k7_what_the_requests_of_a_batch_hold_counts() {
        let requests: Vec<_> = (0..10)
            .map(|n| format!(r#"{{"id":"id {n}","method":"a"}}"#))
            .collect();
        let batch = pending(&format!("[{}]", requests.join(",")));
        assert_eq!(batch.held_bytes(), 10 * (size_of::<Id>() + "id 0".len()));
    }

    #[test]
    fn g4_who_resumes_has_not_had_what_came_after() {
        let batch = pending(
            r#"[{"id":1,"method":"a"},{"id":"2","method":"a"},{"id":1e0,"method":"a"},{"id":3,"method":"a"}]"#,
        );
        assert_eq!(batch.waiting(), 3, "an id that comes twice is one");
        batch.read(r#"{"id":3,"result":{}}"#.as_bytes());
        batch.read(r#"{"id":3,"result":{}}"#.as_bytes());
        batch.read(r#"{"id":1,"result":{}}"#.as_bytes());
        assert_eq!((lost(&batch), batch.answered()), (vec!["\"2\"".into()], 2));
        assert_eq!(batch.lost_since(0).len(), 3);
        assert_eq!(batch.lost_since(1).len(), 2);
        batch.reopen(1);
        assert_eq!(lost(&batch), ["1", "\"2\""]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    fn k_a_batch_is_struck_off_in_a_time_that_grows_with_it_not_with_its_square() {
        let ids: Arc<[Id]> = (0..200_000).map(|n| Id::from(n.to_string())).collect();
        let batch = PendingRequests::new(ids.clone());
        for id in ids.iter() {
            batch.answer(id);
            std::hint::black_box(batch.answered());
        }
        assert!(batch.are_answered());
    }
}
