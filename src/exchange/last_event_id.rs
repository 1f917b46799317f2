//! What becomes of a `Last-Event-ID` (rules F7, G2, G4).

use http::{HeaderMap, Method};

use crate::{
    mcp::LAST_EVENT_ID,
    session::{Logged, LoggedAnswer, Session},
};

/// What is to be done about a `Last-Event-ID` in an epoch.
pub(super) enum LastEventId {
    /// There is none, or it belongs here, or nobody knows.
    Keep,
    /// It belongs to a listening stream that is gone: a new one will do.
    Drop,
    /// The responses that it asks for are gone.
    Lost(LoggedAnswer),
    /// They are gone, and the server shall say so itself.
    Refused,
}

impl LastEventId {
    /// What a request with these headers, which is sent in this epoch, comes to.
    pub(super) fn of(
        session: &Session,
        method: &Method,
        headers: &HeaderMap,
        epoch: u64,
        crosses: bool,
        answer_lost_requests: bool,
    ) -> Self {
        let get = method == Method::GET;
        if !get && !crosses {
            return Self::Keep;
        }
        let Some(last_event_id) = headers.get(LAST_EVENT_ID) else {
            return Self::Keep;
        };
        if !get {
            // It means nothing there, but it does not cross epochs all the same.
            return Self::Drop;
        }
        if last_event_id.is_empty() {
            // The standard has it that there is none (WHATWG HTML, 9.2.3).
            return if crosses { Self::Drop } else { Self::Keep };
        }
        // An id that the new epoch has used, too, was of the old one when the caller sent it.
        match session.find_event(last_event_id, crosses.then_some(epoch)) {
            Logged::Listening(of) if crosses || of.epoch() != epoch => Self::Drop,
            Logged::Answer(answer) if answer.origin.epoch() != epoch => {
                match answer_lost_requests {
                    true => Self::Lost(answer),
                    false => Self::Refused,
                }
            }
            _ if crosses => Self::Refused,
            _ => Self::Keep,
        }
    }
}
