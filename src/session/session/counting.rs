//! What a session holds, in bytes (rule K10): an estimate, for the most part of its own memory.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Uri};

use super::{Content, Initialize, Key, Memory, Session};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// What else a session takes up: its epoch, its places in the table.
const OTHER: usize = 640;

/// Where the bytes that a session holds are counted: with those of all, and of its group.
#[derive(Clone)]
pub(in crate::session) struct Counts(pub(in crate::session) [Arc<AtomicUsize>; 2]);

impl Counts {
    pub(super) fn change(&self, before: usize, after: usize) {
        for count in &self.0 {
            count.fetch_add(after, Ordering::Relaxed);
            count.fetch_sub(before, Ordering::Relaxed);
        }
    }
}

impl Session {
    #[cfg(test)]
    pub(in crate::session) fn bytes(&self) -> usize {
        self.lock_memory().counted
    }

    /// What the session holds, about, counts from now on (rule K10).
    pub(in crate::session) fn count_in(&self, counts: Counts) {
        let mut memory = self.lock_memory();
        memory.counts = Some(counts);
        self.count_other(&mut memory);
    }

    /// It does not count any more.
    pub(in crate::session) fn count_nowhere(&self) {
        let mut memory = self.lock_memory();
        let counted = std::mem::take(&mut memory.counted);
        if let Some(counts) = memory.counts.take() {
            counts.change(counted, 0);
        }
    }

    /// A recovery has ended: what that left behind counts.
    pub(crate) fn recount(&self) {
        self.count_other(&mut self.lock_memory());
    }

    fn count_other(&self, memory: &mut Memory) {
        memory.other = size_of::<Self>()
            + self.key.bytes()
            + uri_bytes(self.uri.as_deref())
            + self.initialize.bytes()
            + self.chain.bytes()
            + OTHER;
        self.count(memory);
    }

    pub(super) fn count(&self, memory: &mut Memory) {
        let content = memory.content.as_ref().map_or(0, |content| {
            size_of::<Content>()
                + content.event_log.bytes()
                + content.accepted.bytes()
                + content.state.bytes()
                + content.asked.bytes()
        });
        let counted = memory.other + content;
        #[cfg(feature = "store")]
        let counted = counted + memory.synced.as_ref().map_or(0, |synced| synced.bytes());
        if let Some(counts) = &memory.counts {
            counts.change(memory.counted, counted);
            memory.counted = counted;
        }
    }
}

impl Key {
    fn bytes(&self) -> usize {
        let principal = self.principal.as_ref();
        self.id.len() + self.endpoint.bytes() + principal.map_or(0, |it| it.as_bytes().len())
    }
}

impl Initialize {
    pub(crate) fn bytes(&self) -> usize {
        let negotiated = [&self.accept, &self.content_type].into_iter().flatten();
        self.body.len()
            + headers_bytes(&self.credentials)
            + negotiated.map(HeaderValue::len).sum::<usize>()
    }
}

/// What the query of a URI takes up, and the path with it.
pub(crate) fn uri_bytes(uri: Option<&Uri>) -> usize {
    let path = uri.and_then(Uri::path_and_query);
    path.map_or(0, |it| it.as_str().len())
}

/// What headers take up, about: a map has room for more than it holds.
pub(in crate::session) fn headers_bytes(headers: &HeaderMap) -> usize {
    const MAP: usize = 256;
    const HEADER: usize = 160;

    let held = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + HEADER);
    match headers.is_empty() {
        true => 0,
        false => MAP + held.sum::<usize>(),
    }
}
