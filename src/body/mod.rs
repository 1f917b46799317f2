//! Bodies: the request's, kept so that it can be sent twice, and the response's, passed through
//! and, where a rule asks for it, looked at or extended.
//!
//! Nothing here knows of sessions: what a stream asks of and tells its session goes through the
//! traits that its file declares.

mod answer_stream;
mod buffered;
mod byte_order_mark;
mod collect;
mod ends;
mod frames;
mod listening_stream;
mod read;
mod request;
mod response;
mod tap;

pub(crate) use self::{
    answer_stream::{AnswerStream, Awaited},
    buffered::BufferedBody,
    collect::Collect,
    ends::Ends,
    frames::EMPTY_FRAME,
    listening_stream::{ListeningStream, Reconnect, Reconnecting, Responded},
    read::ReadAhead,
    tap::Tap,
};
pub use self::{request::RequestBody, response::ResponseBody};
