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
use crate::mcp::{
    Event, EventIds, EventReader, Id, Interest, LostResponse, PendingRequests, begins_with_answer,
};

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
        awaited: Awaited,
        remember: M,
        #[pin]
        orphan_timer: Option<O>,
        // How many frames have passed.
        frames: u8,
        // Hardly ever any, and large.
        trailers: Option<Box<Frame<Bytes>>>,
    }
}

/// The requests that a stream is to answer, and how far it has been read for that.
pub(crate) enum Awaited {
    /// The response to one request, in a stream of which nothing has come. Nearly always the first
    /// that comes is that response, and then nothing more is needed.
    First(Id),
    Responses(Box<Reading>),
    /// Nothing is waited for in this stream any more.
    Nothing,
}

/// A stream that is read.
pub(crate) struct Reading {
    reader: EventReader,
    /// Those of the last chunk.
    ids: EventIds,
    pending: Arc<PendingRequests>,
}

impl<R, M, O> AnswerStream<R, M, O> {
    /// `orphan_timer` is `None` where lost answers are not to be reported.
    #[inline(always)]
    pub(crate) fn new(body: R, awaited: Awaited, remember: M, orphan_timer: Option<O>) -> Self {
        Self {
            body: Some(body),
            awaited,
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
    M: FnMut(&EventIds, &Arc<PendingRequests>),
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
            return Poll::Ready(this.trailers.take().map(|trailers| Ok(*trailers)));
        };
        // A stream that always has something does not keep its thread, nor the timer from its turn.
        let coop = ready!(coop::poll_proceed(cx));
        *this.frames = this.frames.wrapping_add(1);
        let is_turn = *this.frames % TURN == 0 && !this.awaited.is_over();
        let orphan_timer = this.orphan_timer.as_mut().as_pin_mut();
        let is_over = is_turn && orphan_timer.is_some_and(|it| it.poll(cx).is_ready());
        let (end, reason) = match is_over {
            true => (None, LostResponse::SessionExpired),
            false => match body.poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    coop.made_progress();
                    let frame = into_bytes(frame);
                    if let Some(data) = frame.data_ref() {
                        this.awaited.look(data, this.remember);
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    (Some(Ok(frame)), LostResponse::StreamEnded)
                }
                Poll::Ready(end) => (
                    end.map(|end| end.map(into_bytes)),
                    LostResponse::StreamEnded,
                ),
                Poll::Pending if this.awaited.is_over() => return Poll::Pending,
                Poll::Pending => match this.orphan_timer.as_mut().as_pin_mut() {
                    Some(orphan_timer) => {
                        ready!(orphan_timer.poll(cx));
                        // Another stream may have brought the answer since.
                        if this.awaited.is_over() {
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
        let resumable = this.awaited.is_resumable() && reason == LostResponse::StreamEnded;
        if this.awaited.is_over() || resumable || this.orphan_timer.is_none() {
            return Poll::Ready(end);
        }
        *this.trailers = end.and_then(Result::ok).map(Box::new);
        let last = this.awaited.give_up(reason);
        Poll::Ready(Some(Ok(Frame::data(last))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && self.trailers.is_none()
    }
}

impl Awaited {
    /// The responses to these requests.
    pub(crate) fn responses(pending: Arc<PendingRequests>) -> Self {
        Self::Responses(Box::new(Reading::new(pending)))
    }

    /// The same in a stream that goes on after the event with this id, which the caller has.
    pub(crate) fn resumed(pending: Arc<PendingRequests>, from: Option<&[u8]>) -> Self {
        let mut reading = Reading::new(pending);
        if let Some(id) = from {
            reading.reader.resume_from(id);
        }
        Self::Responses(Box::new(reading))
    }

    fn is_over(&self) -> bool {
        match self {
            Self::First(_) => false,
            Self::Responses(reading) => reading.pending.are_answered(),
            Self::Nothing => true,
        }
    }

    /// Whether the caller could resume the stream from where it is.
    fn is_resumable(&self) -> bool {
        match self {
            Self::First(_) | Self::Nothing => false,
            Self::Responses(reading) => reading.reader.is_resumable(),
        }
    }

    /// Reads a chunk as it passes.
    fn look(&mut self, chunk: &[u8], remember: &mut impl FnMut(&EventIds, &Arc<PendingRequests>)) {
        match self {
            Self::Nothing => {}
            Self::First(id) if chunk.len() <= MAX_EVENT && begins_with_answer(chunk, id) => {
                *self = Self::Nothing;
            }
            _ => self.read(chunk, remember),
        }
    }

    #[inline(never)]
    fn read(&mut self, chunk: &[u8], remember: &mut impl FnMut(&EventIds, &Arc<PendingRequests>)) {
        if let Self::First(id) = self {
            let pending = PendingRequests::new([id.clone()].into());
            *self = Self::responses(Arc::new(pending));
        }
        if let Self::Responses(reading) = self {
            if !reading.pending.are_answered() {
                reading.read(chunk, remember);
            }
            if reading.pending.are_answered() {
                *self = Self::Nothing;
            }
        }
    }

    /// The events that say that the responses will not come, for this reason.
    #[cold]
    fn give_up(&mut self, reason: LostResponse) -> Bytes {
        match std::mem::replace(self, Self::Nothing) {
            Self::First(id) => reason.events(&[id]),
            Self::Responses(mut reading) => {
                // They are events of their own even if the stream stopped inside one.
                let mut last = reading.reader.end_of_open_event();
                last.extend_from_slice(&reason.events(&reading.pending.lost()));
                reading.pending.give_up();
                last.into()
            }
            Self::Nothing => Bytes::new(),
        }
    }
}

impl Reading {
    fn new(pending: Arc<PendingRequests>) -> Self {
        Self {
            reader: EventReader::new(MAX_EVENT, Interest::Responses),
            ids: EventIds::default(),
            pending,
        }
    }

    fn read(&mut self, chunk: &[u8], remember: &mut impl FnMut(&EventIds, &Arc<PendingRequests>)) {
        let (pending, ids) = (&self.pending, &mut self.ids);
        self.reader.read(chunk, |event| match event {
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
            remember(ids, pending);
            ids.clear();
        }
    }
}
