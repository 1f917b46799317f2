//! What is noted of a request body that is too large to be kept (rules F4, G5, G6).

use std::sync::{Mutex, PoisonError};

use super::buffered::BufferedBody;
use crate::mcp::{Id, ends_as_initialize, id_of_large_request, is_large_initialize};

/// How much of the end is noted, in bytes, as of the beginning: a client puts the id of a request
/// before its `params` or after them.
const NOTED: usize = 512;

/// The beginning and the end of a body, as far as it has passed.
pub(crate) struct Ends {
    beginning: Box<[u8]>,
    end: Mutex<End>,
}

#[derive(Default)]
struct End {
    bytes: Vec<u8>,
    has_come: bool,
}

impl Ends {
    /// Of a body of which this has been read, and whether that is all.
    pub(super) fn new(read: &BufferedBody, is_all: bool) -> Self {
        let ends = Self {
            beginning: read.beginning().into(),
            end: Mutex::default(),
        };
        for frame in read.frames() {
            ends.pass(frame, false);
        }
        ends.pass(&[], is_all);
        ends
    }

    /// More of it has passed, and whether that was all.
    pub(super) fn pass(&self, data: &[u8], is_last: bool) {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let data = &data[data.len().saturating_sub(NOTED)..];
        let surplus = (end.bytes.len() + data.len()).saturating_sub(NOTED);
        end.bytes.drain(..surplus);
        end.bytes.extend_from_slice(data);
        end.has_come |= is_last;
    }

    /// Whether the body certainly is an `initialize`, as far as its ends tell by now.
    pub(crate) fn is_initialize(&self) -> bool {
        is_large_initialize(&self.beginning) || self.with_end(ends_as_initialize)
    }

    /// The id of the one request that the body is, if it is one and its ends tell.
    pub(crate) fn request_id(&self) -> Option<Id> {
        self.with_end(|end| id_of_large_request(&self.beginning, end))
    }

    /// The end, once that has come, and nothing before.
    fn with_end<T>(&self, read: impl FnOnce(&[u8]) -> T) -> T {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        match end.has_come {
            true => read(&end.bytes),
            false => read(&[]),
        }
    }
}
