//! The protocol's own words, without I/O: headers, messages, event streams, and what an answer
//! says about the session it was given in.
//!
//! Nothing here knows of services, sessions or recoveries.

mod classify;
mod compatible;
mod error_response;
mod event_block;
mod event_bytes;
mod event_candidates;
mod event_ids;
mod event_stream;
mod header;
mod http_answer;
mod id;
mod initialize;
mod large_message;
mod lenient_text;
mod list_changed;
mod members;
mod message;
mod pending_requests;
mod prompt_answer;
mod reader;
mod session_words;
mod skim;
mod summary;

pub use self::{
    classify::{Classify, Verdict, classify_fn},
    compatible::{Compatible, Strict},
    http_answer::HttpAnswer,
    initialize::Changes,
    message::Message,
};
pub(crate) use self::{
    error_response::LostResponse,
    event_block::{LargeAnswer, LargeData},
    event_ids::{AskedId, EventIds, MAX_ID_BYTES},
    event_stream::{Event, EventReader, Interest},
    header::{
        AnswerHeaders, LAST_EVENT_ID, MCP_METHOD, PROTOCOL_VERSION, RequestHeaders, SESSION_ID,
        carries_nothing, each_session_header, is_event_stream, is_json,
    },
    id::Id,
    initialize::{InitializeResult, ListChanged, propose_version},
    large_message::{
        ends_as_initialize, id_of_large_request, is_large_initialize, is_large_request,
    },
    lenient_text::lenient_text,
    list_changed::list_changed_event,
    members::{members, string},
    message::is_batch,
    pending_requests::PendingRequests,
    prompt_answer::begins_with_answer,
    reader::MessageReader,
    skim::Skimmed,
    summary::{MAX_BATCH, Summary},
};

/// A JSON-RPC message as an event, as servers write it.
fn message_event(data: &str) -> String {
    format!("event: message\ndata: {data}\n\n")
}
