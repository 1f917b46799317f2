//! Reads the JSON-RPC messages of an answer, whichever of the two ways it comes.

use http::HeaderMap;

use super::{Event, EventReader, Interest, header};

/// Finds the messages in an answer's body: one in `application/json`, any number in
/// `text/event-stream`.
pub(crate) struct MessageReader(Format);

enum Format {
    Json {
        body: Vec<u8>,
        limit: usize,
    },
    Events {
        reader: EventReader,
        limit: usize,
    },
    /// Over the limit: nothing more will be found.
    GivenUp,
}

impl MessageReader {
    /// `None` where the content type is neither of the two. At most `limit` bytes are held.
    pub(crate) fn new(headers: &HeaderMap, limit: usize) -> Option<Self> {
        if header::is_event_stream(headers) {
            let reader = EventReader::new(limit, Interest::All);
            Some(Self(Format::Events { reader, limit }))
        } else if header::is_json(headers) {
            let body = Vec::new();
            Some(Self(Format::Json { body, limit }))
        } else {
            None
        }
    }

    /// Reads a chunk and gives each message that it completes.
    pub(crate) fn read(&mut self, chunk: &[u8], mut each: impl FnMut(&[u8])) {
        match &mut self.0 {
            Format::Json { body, limit } if chunk.len() > limit.saturating_sub(body.len()) => {
                self.0 = Format::GivenUp;
            }
            Format::Json { body, .. } => body.extend_from_slice(chunk),
            Format::Events { reader, limit } => reader.read(chunk, |event| match event {
                Event::Data(data) if data.len() <= *limit => each(data),
                Event::Data(_) | Event::Large(_) | Event::Id(_) => {}
            }),
            Format::GivenUp => {}
        }
    }

    /// The body has ended. An event that was still open does not count, as the format has it.
    pub(crate) fn finish(self, each: impl FnOnce(&[u8])) {
        if let Format::Json { body, .. } = self.0 {
            each(&body);
        }
    }
}
