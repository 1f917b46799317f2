//! The event stream that answers a POST (rules G3, G5, G6, G8, G9).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use super::request::into_bytes;
use crate::mcp::{Event, EventIds, EventReader, Id, Interest, LostResponse, Message};

/// The largest event that is read for an answer. A larger one passes like any other, and counts
/// as the answer: an error after it could be a second one.
const MAX_EVENT: usize = 1024 * 1024;

pin_project! {
    /// Passes an event stream through, and adds the error of rule G7 where the answer to a request
    /// can no longer come.
    ///
    /// Reads no further than the last answer. `remember` is told the ids of the events that were
    /// let through, and the requests that were still to be answered then; `orphan_timer` is ready once
    /// the time for requests left behind is over.
    pub(crate) struct AnswerStream<R, M, O> {
        #[pin]
        body: Option<R>,
        reader: EventReader,
        // Those of the last chunk.
        ids: EventIds,
        waiting: Vec<Id>,
        resumed: bool,
        remember: M,
        #[pin]
        orphan_timer: Option<O>,
        trailers: Option<Frame<Bytes>>,
    }
}

impl<R, M, O> AnswerStream<R, M, O> {
    /// `waiting` are the ids of the requests that the stream is to answer; `resumed` says that the
    /// caller has an event id already; `orphan_timer` is `None` where lost answers are not to be
    /// reported.
    pub(crate) fn new(
        body: R,
        waiting: Vec<Id>,
        resumed: bool,
        remember: M,
        orphan_timer: Option<O>,
    ) -> Self {
        Self {
            body: Some(body),
            reader: EventReader::new(MAX_EVENT, Interest::Responses),
            ids: EventIds::default(),
            waiting,
            resumed,
            remember,
            orphan_timer,
            trailers: None,
        }
    }
}

impl<R, M, O> Body for AnswerStream<R, M, O>
where
    R: Body,
    M: FnMut(&EventIds, &[Id]),
    O: Future<Output = ()>,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(this.trailers.take().map(Ok));
        };
        let (end, reason) = match body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let frame = into_bytes(frame);
                if let Some(data) = frame.data_ref() {
                    look(this.reader, data, this.waiting, this.ids, this.remember);
                    return Poll::Ready(Some(Ok(frame)));
                }
                (Some(Ok(frame)), LostResponse::StreamEnded)
            }
            Poll::Ready(end) => (
                end.map(|end| end.map(into_bytes)),
                LostResponse::StreamEnded,
            ),
            Poll::Pending if this.waiting.is_empty() => return Poll::Pending,
            Poll::Pending => match this.orphan_timer.as_mut().as_pin_mut() {
                Some(orphan_timer) => {
                    ready!(orphan_timer.poll(cx));
                    (None, LostResponse::SessionExpired)
                }
                None => return Poll::Pending,
            },
        };

        // Nothing more comes from the server.
        this.body.set(None);
        let resumable =
            (*this.resumed || this.reader.is_resumable()) && reason == LostResponse::StreamEnded;
        if this.waiting.is_empty() || resumable || this.orphan_timer.is_none() {
            return Poll::Ready(end);
        }
        *this.trailers = end.and_then(Result::ok);
        Poll::Ready(Some(Ok(Frame::data(last_events(
            this.reader,
            reason,
            this.waiting,
        )))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.trailers.is_none()
    }
}

/// Reads a chunk as it passes, until every request has been answered.
fn look(
    reader: &mut EventReader,
    chunk: &[u8],
    waiting: &mut Vec<Id>,
    ids: &mut EventIds,
    remember: &mut impl FnMut(&EventIds, &[Id]),
) {
    if waiting.is_empty() {
        return;
    }
    let mut flush = |ids: &mut EventIds, waiting: &[Id]| {
        if !ids.is_empty() {
            remember(ids, waiting);
            ids.clear();
        }
    };
    reader.read(chunk, |event| match event {
        Event::Data(data) => {
            // The ids so far are of a stream that was still to answer all of them.
            flush(ids, waiting);
            strike_answered(waiting, data);
        }
        // From after the last answer there is nothing to resume.
        Event::Id(_) if waiting.is_empty() => {}
        Event::Id(id) => ids.push(id),
        Event::TooLarge => {
            flush(ids, waiting);
            waiting.clear();
        }
    });
    flush(ids, waiting);
}

fn strike_answered(waiting: &mut Vec<Id>, data: &str) {
    let mut answered = Vec::new();
    let read = Message::each(data.as_bytes(), |message| {
        let id = message.is_response().then(|| message.parsed_id()).flatten();
        answered.extend(id.filter(|id| waiting.contains(id)));
    });
    if read.is_some() {
        waiting.retain(|id| !answered.contains(id));
    }
}

/// The errors, as events of their own even if the stream stopped inside one.
fn last_events(reader: &EventReader, reason: LostResponse, waiting: &[Id]) -> Bytes {
    [reader.end_of_open_event(), &reason.events(waiting)]
        .concat()
        .into()
}
