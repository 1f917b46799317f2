//! The event stream that answers a POST (rules G3, G5, G6, G8, G9).

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::task::coop;

use super::{listening_stream::TURN, request::into_bytes};
use crate::mcp::{Event, EventIds, EventReader, Interest, LostResponse, PendingRequests};

/// The largest event that is read for an answer, in bytes. Of a larger one only its beginning is.
const MAX_EVENT: usize = 1024 * 1024;

pin_project! {
    /// Passes an event stream through, and adds the error of rule G7 where the answer to a request
    /// can no longer come.
    ///
    /// Reads no further than the last answer. `remember` is told the ids of the events that were
    /// let through; `orphan_timer` is ready once the time for requests left behind is over.
    pub(crate) struct AnswerStream<R, M, O> {
        #[pin]
        body: Option<R>,
        reader: EventReader,
        // Those of the last chunk.
        ids: EventIds,
        pending: Arc<PendingRequests>,
        // Nothing is waited for in this stream any more.
        is_done: bool,
        remember: M,
        #[pin]
        orphan_timer: Option<O>,
        // How many frames have passed.
        frames: u8,
        trailers: Option<Frame<Bytes>>,
    }
}

impl<R, M, O> AnswerStream<R, M, O> {
    /// `pending` are the requests that the stream is to answer; `resumed_from` is the event id
    /// that the caller has already; `orphan_timer` is `None` where lost answers are not to be
    /// reported.
    pub(crate) fn new(
        body: R,
        pending: Arc<PendingRequests>,
        resumed_from: Option<&[u8]>,
        remember: M,
        orphan_timer: Option<O>,
    ) -> Self {
        let mut reader = EventReader::new(MAX_EVENT, Interest::Responses);
        if let Some(id) = resumed_from {
            reader.resume_from(id);
        }
        Self {
            body: Some(body),
            reader,
            ids: EventIds::default(),
            pending,
            is_done: false,
            remember,
            orphan_timer,
            frames: 0,
            trailers: None,
        }
    }
}

impl<R, M, O> Body for AnswerStream<R, M, O>
where
    R: Body,
    M: FnMut(&EventIds),
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
        // A stream that always has something does not keep its thread, nor the timer from its turn.
        let coop = ready!(coop::poll_proceed(cx));
        *this.frames = this.frames.wrapping_add(1);
        let is_turn = *this.frames % TURN == 0 && !*this.is_done && !this.pending.are_answered();
        let orphan_timer = this.orphan_timer.as_mut().as_pin_mut();
        let is_over = is_turn && orphan_timer.is_some_and(|it| it.poll(cx).is_ready());
        let (end, reason) = match is_over {
            true => (None, LostResponse::SessionExpired),
            false => match body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    coop.made_progress();
                    let frame = into_bytes(frame);
                    if let Some(data) = frame.data_ref() {
                        *this.is_done |= this.pending.are_answered();
                        if !*this.is_done {
                            look(this.reader, data, this.pending, this.ids, this.remember);
                            *this.is_done = this.pending.are_answered();
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    (Some(Ok(frame)), LostResponse::StreamEnded)
                }
                Poll::Ready(end) => (
                    end.map(|end| end.map(into_bytes)),
                    LostResponse::StreamEnded,
                ),
                Poll::Pending if *this.is_done || this.pending.are_answered() => {
                    return Poll::Pending;
                }
                Poll::Pending => match this.orphan_timer.as_mut().as_pin_mut() {
                    Some(orphan_timer) => {
                        ready!(orphan_timer.poll(cx));
                        // Another stream may have brought the answer since.
                        if this.pending.are_answered() {
                            this.orphan_timer.set(None);
                            return Poll::Pending;
                        }
                        (None, LostResponse::SessionExpired)
                    }
                    None => return Poll::Pending,
                },
            },
        };

        // Nothing more comes from the server.
        this.body.set(None);
        let resumable = this.reader.is_resumable() && reason == LostResponse::StreamEnded;
        let is_done = *this.is_done || this.pending.are_answered();
        if is_done || resumable || this.orphan_timer.is_none() {
            return Poll::Ready(end);
        }
        *this.trailers = end.and_then(Result::ok);
        // The errors are events of their own even if the stream stopped inside one.
        let mut last = this.reader.end_of_open_event();
        last.extend_from_slice(&reason.events(&this.pending.lost()));
        this.pending.give_up();
        Poll::Ready(Some(Ok(Frame::data(last.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.trailers.is_none()
    }
}

/// Reads a chunk as it passes.
fn look(
    reader: &mut EventReader,
    chunk: &[u8],
    pending: &PendingRequests,
    ids: &mut EventIds,
    remember: &mut impl FnMut(&EventIds),
) {
    reader.read(chunk, |event| match event {
        Event::Data(data) => pending.read(data),
        Event::Large(data) => pending.read_large(&data),
        Event::Id(id) => {
            // From after the last answer there is nothing to resume.
            if !pending.are_answered() {
                ids.push(id, pending.answered());
            }
        }
    });
    if !ids.is_empty() {
        remember(ids);
        ids.clear();
    }
}
