//! The protocol's own words, without I/O: headers, messages, event streams, and what an answer
//! says about the session it was given in.
//!
//! Nothing here knows of services, sessions or recoveries.

mod classify;
mod event_bytes;
mod event_ids;
mod event_stream;
mod header;
mod initialize;
mod lost;
mod message;
mod reader;

pub use self::{
    classify::{Classify, Compatible, HttpAnswer, Strict, Verdict},
    initialize::Changes,
    message::Message,
};
pub(crate) use self::{
    event_ids::EventIds,
    event_stream::{Event, EventReader, Interest},
    header::{
        LAST_EVENT_ID, MCP_METHOD, PROTOCOL_VERSION, SESSION_ID, is_event_stream, is_json,
        is_sessionless_version, session_headers, session_headers_mut, session_id,
    },
    initialize::{InitializeResult, ListChanged, propose_version},
    lost::{LostAnswer, list_changed_event},
    message::{Id, Messages, Summary, leading_method},
    reader::MessageReader,
};
