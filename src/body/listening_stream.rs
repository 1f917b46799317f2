//! The event stream that answers a GET (rules G1, G3, G8, G9, H3).

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::{
    task::coop::{self, unconstrained},
    time::{Sleep, sleep},
};

use super::{byte_order_mark::SkipByteOrderMark, request::into_bytes};
use crate::mcp::{Event, EventIds, EventReader, Interest, LargeData, lenient_text};

/// The largest event that is read, in bytes. Of a larger one only its id is.
const MAX_EVENT: usize = 1024 * 1024;

/// What a listening stream asks of, and tells, the session it belongs to.
pub(crate) trait Reconnect<R>: Send {
    /// Events with these ids were let through.
    fn remember(&mut self, ids: &EventIds);

    /// A message was let through that may be a response: some servers answer a POST with 202, and
    /// its requests here.
    fn responded(&mut self, message: Responded<'_>);

    /// Ready once the epoch in which the stream was opened, or is being opened, has been replaced.
    fn poll_replaced(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Opens the stream anew, in the session's current epoch. `None` if that is not answered with
    /// an event stream.
    fn reconnect(&mut self) -> Reconnecting<R>;

    /// Events that the layer has for the caller. If there are none, the task is woken when there may be.
    fn poll_notices(&mut self, cx: &mut Context<'_>) -> Option<Bytes>;

    /// The stream has ended, and brings nothing any more.
    fn has_ended(&mut self);
}

/// A message that may be a response.
pub(crate) enum Responded<'a> {
    Whole(&'a str),
    Large(LargeData),
}

pub(crate) type Reconnecting<R> = Pin<Box<dyn Future<Output = Option<R>> + Send>>;

/// Passes an event stream through, and goes on with a new one in the same body when the session
/// moves to a new epoch.
pub(crate) struct ListeningStream<R, L> {
    source: Source<R>,
    reader: EventReader,
    /// For a stream whose byte order mark would be in the middle of the caller's.
    byte_order_mark: SkipByteOrderMark,
    /// Nothing has come of the first stream.
    has_not_begun: bool,
    /// Those of the last chunk.
    ids: EventIds,
    reconnect: L,
    patience: Duration,
    /// How many frames have passed, and how long a stream of an epoch that is gone may go on as
    /// long as it has something.
    frames: u8,
    flood: Option<Pin<Box<Sleep>>>,
    /// So many have passed that what the layer has for the caller is next, between two events.
    has_turn: bool,
}

/// After how many frames a stream that always has something is asked whether it still should.
pub(super) const TURN: u8 = 64;

enum Source<R> {
    /// The stream of the current epoch, as far as is known.
    Open(Pin<Box<R>>),
    /// The epoch has been replaced inside an event, which has a while to end.
    Leaving(Pin<Box<R>>, Pin<Box<Sleep>>),
    /// The new epoch's stream is being opened.
    Opening(Reconnecting<R>),
    /// Nothing comes any more but the trailers, if there are any.
    Ending(Option<Box<Frame<Bytes>>>),
    Ended,
}

impl<R, L> ListeningStream<R, L> {
    /// `patience` bounds the wait for the end of an event in an epoch that is gone.
    pub(crate) fn new(body: R, reconnect: L, patience: Duration) -> Self {
        Self {
            source: Source::Open(Box::pin(body)),
            reader: EventReader::new(MAX_EVENT, Interest::Responses),
            byte_order_mark: SkipByteOrderMark::not(),
            has_not_begun: true,
            ids: EventIds::default(),
            reconnect,
            patience,
            frames: 0,
            flood: None,
            has_turn: false,
        }
    }
}

impl<R, L> ListeningStream<R, L>
where
    R: Body,
    L: Reconnect<R>,
{
    /// What the stream does where the server has nothing (more) to say: `None` to stay.
    fn move_on(&mut self, cx: &mut Context<'_>) -> Option<Source<R>> {
        if self.reconnect.poll_replaced(cx).is_pending() {
            return None;
        }
        if self.reader.is_between_events() {
            return Some(Source::Opening(self.reconnect.reconnect()));
        }
        match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Open(body) => Some(Source::Leaving(body, Box::pin(sleep(self.patience)))),
            source => Some(source),
        }
    }

    /// What the server has sent is read before the stream moves on, but not without end.
    fn look_up(&mut self, cx: &mut Context<'_>) {
        match &mut self.source {
            Source::Open(_) if self.reconnect.poll_replaced(cx).is_ready() => {
                let patience = self.patience;
                let flood = self.flood.get_or_insert_with(|| Box::pin(sleep(patience)));
                let is_over = pin!(unconstrained(flood.as_mut())).poll(cx).is_ready();
                if let Some(source) = is_over.then(|| self.move_on(cx)).flatten() {
                    self.source = source;
                }
            }
            Source::Leaving(_, patience) => {
                if pin!(unconstrained(patience.as_mut())).poll(cx).is_ready() {
                    self.source = Source::Ended;
                }
            }
            Source::Open(_) | Source::Opening(_) | Source::Ending(_) | Source::Ended => {}
        }
    }

    /// What the layer has for the caller, if it may be put in here.
    fn notices(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let goes_on = matches!(self.source, Source::Open(_) | Source::Ending(_));
        if !goes_on || !self.reader.has_room() {
            return None;
        }
        let notices = self.reconnect.poll_notices(cx)?;
        if std::mem::take(&mut self.has_not_begun) {
            self.byte_order_mark = SkipByteOrderMark::new();
        }
        Some(notices)
    }

    /// Looks on as a frame passes. `None` if nothing of it does.
    fn pass(&mut self, frame: Frame<R::Data>) -> Option<Frame<Bytes>> {
        let mut is_left_out = false;
        let frame = into_bytes(frame).map_data(|chunk| {
            let was_empty = chunk.is_empty();
            self.has_not_begun &= was_empty;
            let left = self.byte_order_mark.skip(chunk);
            is_left_out = left.is_empty() && !was_empty;
            left
        });
        if let Some(chunk) = frame.data_ref() {
            self.reader.read(chunk, |event| match event {
                Event::Id(id) => self.ids.push(id, 0),
                Event::Data(data) => {
                    self.reconnect
                        .responded(Responded::Whole(&lenient_text(data)));
                }
                Event::Large(data) => self.reconnect.responded(Responded::Large(data)),
            });
            if !self.ids.is_empty() {
                self.reconnect.remember(&self.ids);
                self.ids.clear();
            }
        }
        (!is_left_out).then_some(frame)
    }

    /// The new stream is there. What ends the line that the old one stopped in, if it did.
    fn opened(&mut self, body: R) -> Option<Frame<Bytes>> {
        let end_of_line = self.reader.end_of_line();
        self.reader.restart();
        self.flood = None;
        self.has_not_begun = false;
        self.byte_order_mark = SkipByteOrderMark::new();
        self.source = Source::Open(Box::pin(body));
        (!end_of_line.is_empty()).then(|| Frame::data(end_of_line.into()))
    }
}

impl<R, L> Body for ListeningStream<R, L>
where
    R: Body,
    L: Reconnect<R> + Unpin,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = self.get_mut();
        loop {
            // A stream that always has something does not keep its thread.
            let coop = ready!(coop::poll_proceed(cx));
            this.frames = this.frames.wrapping_add(1);
            if this.frames % TURN == 0 {
                this.look_up(cx);
                this.has_turn = true;
            }
            if this.has_turn && this.reader.has_room() {
                this.has_turn = false;
                // One that is to move brings them from where it goes.
                let stays = this.reconnect.poll_replaced(cx).is_pending();
                if let Some(notices) = stays.then(|| this.notices(cx)).flatten() {
                    return Poll::Ready(Some(Ok(Frame::data(notices))));
                }
            }
            match &mut this.source {
                Source::Open(body) => match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                        coop.made_progress();
                        if let Some(frame) = this.pass(frame) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                    }
                    // Its end, or trailers, after which nothing may come.
                    Poll::Ready(end) => {
                        // The old stream may end before this body hears of the new epoch.
                        match this.move_on(cx) {
                            Some(source @ Source::Opening(_)) => this.source = source,
                            Some(_) => this.source = Source::Ended,
                            None => match end.transpose() {
                                Ok(trailers) => {
                                    let trailers = trailers.map(into_bytes).map(Box::new);
                                    this.source = Source::Ending(trailers);
                                }
                                // What is put in before an error may get lost with it.
                                Err(error) => {
                                    this.source = Source::Ended;
                                    return Poll::Ready(Some(Err(error)));
                                }
                            },
                        }
                    }
                    Poll::Pending => {
                        if let Some(source) = this.move_on(cx) {
                            this.source = source;
                        } else if let Some(notices) = this.notices(cx) {
                            return Poll::Ready(Some(Ok(Frame::data(notices))));
                        } else {
                            return Poll::Pending;
                        }
                    }
                },
                Source::Leaving(body, patience) => match body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                        coop.made_progress();
                        let frame = this.pass(frame);
                        if this.reader.is_between_events() {
                            this.source = Source::Opening(this.reconnect.reconnect());
                        }
                        if let Some(frame) = frame {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                    }
                    Poll::Ready(_) => this.source = Source::Ended,
                    Poll::Pending => {
                        ready!(patience.as_mut().poll(cx));
                        this.source = Source::Ended;
                    }
                },
                Source::Opening(opening) => {
                    // The head may take its time, and the session move on meanwhile.
                    if this.reconnect.poll_replaced(cx).is_ready() {
                        coop.made_progress();
                        this.source = Source::Opening(this.reconnect.reconnect());
                        continue;
                    }
                    match ready!(opening.as_mut().poll(cx)) {
                        Some(body) => {
                            if let Some(end_of_line) = this.opened(body) {
                                return Poll::Ready(Some(Ok(end_of_line)));
                            }
                        }
                        None => this.source = Source::Ended,
                    }
                }
                Source::Ending(_) => {
                    if let Some(notices) = this.notices(cx) {
                        return Poll::Ready(Some(Ok(Frame::data(notices))));
                    }
                    let ending = std::mem::replace(&mut this.source, Source::Ended);
                    if let Source::Ending(Some(trailers)) = ending {
                        return Poll::Ready(Some(Ok(*trailers)));
                    }
                }
                Source::Ended => {
                    this.reconnect.has_ended();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.source, Source::Ended)
    }
}
