//! A response body whose messages are read as they pass (rule B3).

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::coop;

use super::request::into_bytes;
use crate::mcp::MessageReader;

pin_project! {
    /// Passes a body through unchanged and shows its JSON-RPC messages to `look`, until `look`
    /// says that it has seen enough.
    pub(crate) struct Tap<R, F> {
        #[pin]
        body: R,
        reader: Option<MessageReader>,
        look: F,
    }
}

impl<R, F> Tap<R, F>
where
    R: Body,
    F: FnMut(&[u8]) -> bool,
{
    pub(crate) fn new(body: R, reader: MessageReader, look: F) -> Self {
        Self {
            body,
            reader: Some(reader),
            look,
        }
    }
}

impl<R, F> Body for Tap<R, F>
where
    R: Body,
    F: FnMut(&[u8]) -> bool,
{
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let mut this = self.project();
        // A body that always has something does not keep its thread.
        let coop = ready!(coop::poll_proceed(cx));
        let frame = ready!(this.body.as_mut().poll_frame(cx)).map(|frame| frame.map(into_bytes));
        coop.made_progress();
        let mut seen = false;
        if let (Some(Ok(frame)), Some(reader)) = (&frame, this.reader.as_mut()) {
            if let Some(data) = frame.data_ref() {
                reader.read(data, |message| seen |= (this.look)(message));
            }
        }
        // A caller may stop at the last byte and never ask for the end.
        if seen || this.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
            if let Some(reader) = this.reader.take().filter(|_| !seen) {
                if !matches!(frame, Some(Err(_))) {
                    reader.finish(|message| {
                        (this.look)(message);
                    });
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
