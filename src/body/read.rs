//! A response body read before the caller gets it (rule D5).

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use super::request::into_bytes;

/// What was read of a body, and what is still to come. As a [`Body`] it is whole again: the same
/// frames, then the rest.
pub(crate) struct ReadAhead<R: Body> {
    frames: VecDeque<Frame<Bytes>>,
    /// How many bytes were read.
    len: usize,
    rest: Rest<R>,
}

enum Rest<R: Body> {
    Ended,
    Broken(Option<R::Error>),
    More(Pin<Box<R>>),
}

impl<R: Body> ReadAhead<R> {
    /// Nothing has been read yet.
    pub(crate) fn new(body: R) -> Self {
        Self {
            frames: VecDeque::new(),
            len: 0,
            rest: Rest::More(Box::pin(body)),
        }
    }

    /// Reads to the end, but not beyond `limit` bytes. What has been read stays read if this is
    /// dropped.
    pub(crate) async fn fill(&mut self, limit: usize) {
        poll_fn(|cx| self.poll_fill(cx, limit)).await;
    }

    /// Lets go of what is still to come, if anything is: the body ends with what was read.
    pub(crate) fn drop_rest(&mut self) -> bool {
        let Rest::More(body) = &self.rest else {
            return false;
        };
        let had_more = !body.is_end_stream();
        self.rest = Rest::Ended;
        had_more
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<()> {
        while let Rest::More(body) = &mut self.rest {
            if self.len > limit {
                break;
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                None => self.rest = Rest::Ended,
                Some(Err(error)) => self.rest = Rest::Broken(Some(error)),
                Some(Ok(frame)) => {
                    let frame = into_bytes(frame);
                    self.len += frame.data_ref().map_or(0, Bytes::len);
                    self.frames.push_back(frame);
                }
            }
        }
        Poll::Ready(())
    }

    /// Whether the body broke while it was read.
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.rest, Rest::Broken(_))
    }

    /// What is still to come.
    pub(crate) fn into_rest(self) -> Option<Pin<Box<R>>> {
        match self.rest {
            Rest::More(body) => Some(body),
            Rest::Ended | Rest::Broken(_) => None,
        }
    }

    /// The data read so far, in one piece and not more than `limit`.
    pub(crate) fn bytes(&self, limit: usize) -> Bytes {
        let mut frames = self.frames.iter().filter_map(Frame::data_ref);
        let mut bytes = match (frames.next(), frames.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only.clone(),
            (Some(first), Some(second)) => {
                let mut whole = BytesMut::new();
                [first, second]
                    .into_iter()
                    .chain(frames)
                    .for_each(|frame| whole.extend_from_slice(frame));
                whole.freeze()
            }
        };
        bytes.truncate(limit);
        bytes
    }
}

impl<R: Body> Body for ReadAhead<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let this = self.get_mut();
        if let Some(frame) = this.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut this.rest {
            Rest::Ended => Poll::Ready(None),
            Rest::Broken(error) => Poll::Ready(error.take().map(Err)),
            Rest::More(body) => body.as_mut().poll_frame(cx).map_ok(into_bytes),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
            && match &self.rest {
                Rest::Ended => true,
                Rest::Broken(error) => error.is_none(),
                Rest::More(body) => body.is_end_stream(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let read = self
            .frames
            .iter()
            .filter_map(Frame::data_ref)
            .map(|data| data.len() as u64)
            .sum();
        let mut hint = match &self.rest {
            Rest::Ended => return SizeHint::with_exact(read),
            Rest::Broken(_) => SizeHint::new(),
            Rest::More(body) => body.size_hint(),
        };
        let upper = hint.upper().and_then(|upper| upper.checked_add(read));
        let lower = hint.lower().saturating_add(read);
        hint = SizeHint::new();
        hint.set_lower(lower);
        upper.into_iter().for_each(|upper| hint.set_upper(upper));
        hint
    }
}

// The error is only moved, never pinned.
impl<R: Body> Unpin for ReadAhead<R> {}
