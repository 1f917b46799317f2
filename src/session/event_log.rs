//! The event ids that a caller may resume from (rules G2, G3, G4).

use std::{collections::VecDeque, sync::Arc};

use http::HeaderValue;

use crate::mcp::{EventIds, Id};

/// The latest event ids let through in a session, and in which stream.
#[derive(Default)]
pub(crate) struct EventLog {
    runs: VecDeque<Run>,
    len: usize,
}

/// Ids that came one after the other in the same stream.
struct Run {
    ids: EventIds,
    origin: StreamOrigin,
}

/// The stream an event came in.
#[derive(Clone)]
pub(crate) struct StreamOrigin {
    pub(crate) epoch: u64,
    /// The requests that the stream was to answer; none for a listening stream.
    pub(crate) requests: Arc<[Id]>,
}

/// What a GET with `Last-Event-ID` asks to resume.
pub(crate) enum Logged {
    /// A listening stream of this epoch.
    Listening { epoch: u64 },
    /// The stream that was to answer these requests.
    Answer { epoch: u64, requests: Arc<[Id]> },
    /// A stream that the layer knows nothing of.
    Unknown,
}

impl EventLog {
    /// Remembers ids, at the cost of the oldest ones if there are more than `limit` (rule K7).
    pub(crate) fn remember(&mut self, ids: &EventIds, origin: &StreamOrigin, limit: usize) {
        match self.runs.back_mut().filter(|run| run.origin.is(origin)) {
            Some(run) => run.ids.append(ids),
            None => {
                let mut run = Run {
                    ids: EventIds::default(),
                    origin: origin.clone(),
                };
                run.ids.append(ids);
                self.runs.push_back(run);
            }
        }
        self.len += ids.len();
        while self.len > limit {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(run) = self.runs.front_mut() {
            run.ids.pop_first();
            self.len -= 1;
            if run.ids.is_empty() {
                self.runs.pop_front();
            }
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.runs.iter().map(|run| run.ids.bytes()).sum()
    }

    pub(crate) fn find_event(&self, last_event_id: &HeaderValue) -> Logged {
        let asked = last_event_id.as_bytes();
        let run = self.runs.iter().rev().find(|run| run.ids.contains(asked));
        match run.map(|run| &run.origin) {
            None => Logged::Unknown,
            Some(StreamOrigin { epoch, requests }) if requests.is_empty() => {
                Logged::Listening { epoch: *epoch }
            }
            Some(StreamOrigin { epoch, requests }) => Logged::Answer {
                epoch: *epoch,
                requests: requests.clone(),
            },
        }
    }
}

impl StreamOrigin {
    /// Whether this is the same stream, or one that comes to the same.
    fn is(&self, other: &Self) -> bool {
        let same_requests = Arc::ptr_eq(&self.requests, &other.requests)
            || (self.requests.is_empty() && other.requests.is_empty());
        self.epoch == other.epoch && same_requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(epoch: u64) -> StreamOrigin {
        StreamOrigin {
            epoch,
            requests: Arc::default(),
        }
    }

    fn remember(ids: &mut EventLog, id: &str, epoch: u64, limit: usize) {
        let mut more = EventIds::default();
        more.push(id.as_bytes());
        ids.remember(&more, &listening(epoch), limit);
    }

    fn epoch(ids: &EventLog, id: &str) -> Option<u64> {
        match ids.find_event(&HeaderValue::from_str(id).unwrap()) {
            Logged::Listening { epoch } | Logged::Answer { epoch, .. } => Some(epoch),
            Logged::Unknown => None,
        }
    }

    #[test]
    fn k7_the_oldest_id_is_forgotten_first() {
        let mut ids = EventLog::default();
        for id in ["a", "b", "c"] {
            remember(&mut ids, id, 0, 2);
        }
        assert_eq!(
            ["a", "b", "c"].map(|id| epoch(&ids, id)),
            [None, Some(0), Some(0)]
        );
    }

    #[test]
    fn g3_an_id_that_comes_again_counts_from_its_latest() {
        let mut ids = EventLog::default();
        remember(&mut ids, "0", 0, 2);
        remember(&mut ids, "0", 1, 2);
        remember(&mut ids, "1", 1, 2);
        assert_eq!(epoch(&ids, "0"), Some(1));
        remember(&mut ids, "2", 1, 2);
        assert_eq!(epoch(&ids, "0"), None);
    }

    #[test]
    fn k7_a_hundred_thousand_ids_hold_no_more_than_the_limit() {
        let mut ids = EventLog::default();
        for id in 0..100_000 {
            remember(&mut ids, &(id % 7_000).to_string(), 0, 1_024);
        }
        assert!(ids.len <= 1_024);
    }
}
