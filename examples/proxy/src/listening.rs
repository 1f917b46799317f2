//! Listening streams: GETs of a session.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderMap,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// Whether an answer to a GET is a listening stream, and not, say, a 405.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|it| it.as_bytes());
    content_type.is_some_and(|it| it.starts_with(b"text/event-stream"))
        && !headers.contains_key(CONTENT_LENGTH)
}

pin_project! {
    /// A listening stream that ends where the upstream's breaks, as that of a server does which
    /// closes it: an event that was cut off is none. Python's clients count broken streams as long
    /// as they live, and listen no longer after the second.
    pub struct Ending<B> {
        // `None` when it has broken.
        #[pin]
        body: Option<B>,
    }
}

impl<B> Ending<B> {
    pub fn new(body: B) -> Self {
        Self { body: Some(body) }
    }
}

impl<B: Body> Body for Ending<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = body.poll_frame(cx);
        if !matches!(frame, Poll::Ready(Some(Err(_)))) {
            return frame;
        }
        this.body.set(None);
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
