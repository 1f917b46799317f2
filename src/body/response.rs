//! The response body as the caller sees it.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Full, combinators::UnsyncBoxBody};
use pin_project_lite::pin_project;

use super::request::into_bytes;

pin_project! {
    /// The body of a response of [`SessionRecovery`](crate::SessionRecovery).
    ///
    /// The inner service's body in all but a few cases, in the chunks it came in. Its data are
    /// [`Bytes`], its error is the inner body's. A body that the layer may extend (an event stream)
    /// has no exact size hint.
    pub struct ResponseBody<R>
    where
        R: Body,
    {
        #[pin]
        kind: Kind<R>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<R>
    where
        R: Body,
    {
        // The inner service's body, untouched.
        Untouched { #[pin] body: R },
        // The layer's own.
        Whole { #[pin] body: Full<Bytes> },
        // The inner service's body, and something that the layer does as it passes.
        Wrapped { #[pin] body: UnsyncBoxBody<Bytes, R::Error> },
    }
}

impl<R: Body> ResponseBody<R> {
    pub(crate) fn untouched(body: R) -> Self {
        Self {
            kind: Kind::Untouched { body },
        }
    }

    pub(crate) fn whole(body: Bytes) -> Self {
        Self {
            kind: Kind::Whole {
                body: Full::new(body),
            },
        }
    }

    pub(crate) fn wrapped(
        body: impl Body<Data = Bytes, Error = R::Error> + Send + 'static,
    ) -> Self {
        Self {
            kind: Kind::Wrapped {
                body: UnsyncBoxBody::new(body),
            },
        }
    }
}

impl<R: Body> Body for ResponseBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        match self.project().kind.project() {
            KindProj::Untouched { body } => body.poll_frame(cx).map_ok(into_bytes),
            KindProj::Whole { body } => body.poll_frame(cx).map_err(|never| match never {}),
            KindProj::Wrapped { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Wrapped { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Whole { body } => body.size_hint(),
            Kind::Wrapped { body } => body.size_hint(),
        }
    }
}

impl<R: Body> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}
