//! What becomes of a stream with an event over the limit.
//!
//! rmcp resumes a stream that fails from the last event that it saw, and so is sent the event again
//! that it failed at. Its own clients tell it that there is no use in that, with an error of a type
//! that nobody else can make. Here the client itself refuses that one resumption, with one of the
//! errors that rmcp takes as final.

use std::sync::{Arc, Mutex, PoisonError};

use rmcp::transport::streamable_http_client::SseError;
use sse_stream::Sse;

use crate::Error;

/// Where a stream would be resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    uri: Arc<str>,
    session: Option<Arc<str>>,
    last_event_id: Option<String>,
}

/// The positions after which an event is too large, until rmcp has tried to resume there. It does so
/// at once, or never.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hopeless(Arc<Mutex<Vec<Position>>>);

impl Hopeless {
    /// Those that nobody has asked for are of transports that are gone.
    const AT_MOST: usize = 64;

    fn add(&self, position: Position) {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if positions.len() == Self::AT_MOST {
            positions.remove(0);
        }
        positions.push(position);
    }

    fn take(&self, position: &Position) -> bool {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = positions.iter().position(|it| it == position);
        found.map(|index| positions.remove(index)).is_some()
    }
}

/// Follows a stream to know where it would be resumed.
#[derive(Debug)]
pub(crate) struct Resumption {
    hopeless: Hopeless,
    position: Position,
    /// The stream of a POST can only be resumed from an event; a listening stream is opened anew.
    needs_id: bool,
}

impl Resumption {
    pub(crate) fn of_post(hopeless: &Hopeless, uri: &Arc<str>, session: Option<&Arc<str>>) -> Self {
        Self::new(hopeless, uri, session, None, true)
    }

    pub(crate) fn of_get(
        hopeless: &Hopeless,
        uri: &Arc<str>,
        session: Option<&Arc<str>>,
        last_event_id: Option<&str>,
    ) -> Self {
        Self::new(hopeless, uri, session, last_event_id, false)
    }

    fn new(
        hopeless: &Hopeless,
        uri: &Arc<str>,
        session: Option<&Arc<str>>,
        last_event_id: Option<&str>,
        needs_id: bool,
    ) -> Self {
        let position = Position {
            uri: uri.clone(),
            session: session.cloned(),
            last_event_id: last_event_id.map(str::to_owned),
        };
        Self {
            hopeless: hopeless.clone(),
            position,
            needs_id,
        }
    }

    /// Whether the stream was left at this very position because of what comes next in it.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.hopeless.take(&self.position)
    }

    /// Whether rmcp resumes the stream if it fails now.
    fn is_resumed(&self) -> bool {
        !self.needs_id || self.position.last_event_id.is_some()
    }

    pub(crate) fn saw(&mut self, event: &Result<Sse, SseError>) {
        match event {
            Ok(Sse { id: Some(id), .. }) => self.position.last_event_id = Some(id.clone()),
            Err(SseError::Body(error)) if self.is_resumed() && is_event_too_large(&**error) => {
                self.hopeless.add(self.position.clone());
            }
            _ => {}
        }
    }
}

fn is_event_too_large(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<Error>()
        .is_some_and(Error::is_event_too_large)
}
