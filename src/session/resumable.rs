//! The event ids that a caller may resume from (rules G2, G3, G4).

use std::{collections::VecDeque, sync::Arc};

use http::HeaderValue;

use crate::mcp::Id;

/// The longest id that is remembered, in bytes. No client sends a longer one back in a header.
const MAX_ID: usize = 1024;

/// The latest event ids let through in a session, and in which stream.
///
/// They come by the thousand and are hardly ever asked for: hence no index.
#[derive(Default)]
pub(crate) struct EventIds(VecDeque<(Arc<str>, Origin)>);

/// The stream an event came in.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) epoch: u64,
    /// The requests that the stream was to answer; none for a listening stream.
    pub(crate) requests: Arc<[Id]>,
}

/// What a GET with `Last-Event-ID` asks to resume.
pub(crate) enum Resume {
    /// A listening stream of this epoch.
    Listening { epoch: u64 },
    /// The stream that was to answer these requests.
    Answer { epoch: u64, requests: Arc<[Id]> },
    /// A stream that the layer knows nothing of.
    Unknown,
}

impl EventIds {
    /// Remembers an id, at the cost of the oldest one if there are `limit` (rule K7).
    pub(crate) fn remember(&mut self, id: &Arc<str>, origin: Origin, limit: usize) {
        if limit == 0 || id.len() > MAX_ID {
            return;
        }
        while self.0.len() >= limit {
            self.0.pop_front();
        }
        self.0.push_back((id.clone(), origin));
    }

    pub(crate) fn resume(&self, last_event_id: &HeaderValue) -> Resume {
        let origin = std::str::from_utf8(last_event_id.as_bytes())
            .ok()
            .and_then(|asked| self.0.iter().rev().find(|(id, _)| **id == *asked));
        match origin {
            None => Resume::Unknown,
            Some((_, Origin { epoch, requests })) if requests.is_empty() => {
                Resume::Listening { epoch: *epoch }
            }
            Some((_, Origin { epoch, requests })) => Resume::Answer {
                epoch: *epoch,
                requests: requests.clone(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(epoch: u64) -> Origin {
        Origin {
            epoch,
            requests: Arc::default(),
        }
    }

    fn epoch(ids: &EventIds, id: &str) -> Option<u64> {
        match ids.resume(&HeaderValue::from_str(id).unwrap()) {
            Resume::Listening { epoch } | Resume::Answer { epoch, .. } => Some(epoch),
            Resume::Unknown => None,
        }
    }

    #[test]
    fn k7_the_oldest_id_is_forgotten_first() {
        let mut ids = EventIds::default();
        for id in ["a", "b", "c"] {
            ids.remember(&id.into(), listening(0), 2);
        }
        assert_eq!(
            ["a", "b", "c"].map(|id| epoch(&ids, id)),
            [None, Some(0), Some(0)]
        );
    }

    #[test]
    fn g3_an_id_that_comes_again_counts_from_its_latest() {
        let mut ids = EventIds::default();
        ids.remember(&"0".into(), listening(0), 2);
        ids.remember(&"0".into(), listening(1), 2);
        ids.remember(&"1".into(), listening(1), 2);
        assert_eq!(epoch(&ids, "0"), Some(1));
        ids.remember(&"2".into(), listening(1), 2);
        assert_eq!(epoch(&ids, "0"), None);
    }

    #[test]
    fn k7_a_hundred_thousand_ids_hold_no_more_than_the_limit() {
        let mut ids = EventIds::default();
        for id in 0..100_000 {
            ids.remember(&(id % 7_000).to_string().into(), listening(0), 1_024);
        }
        assert!(ids.0.len() <= 1_024);
    }
}
