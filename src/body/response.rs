//! The response body as the caller sees it.

use std::{
    fmt,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

use super::request::into_bytes;

pin_project! {
    /// The body of a response of [`SessionRecovery`](crate::SessionRecovery).
    ///
    /// The inner service's body in all but a few cases, in the chunks it came in. Its data are
    /// [`Bytes`], its error is the inner body's. A body that the layer may extend (an event stream)
    /// has no exact size hint. It is `Send` and `Sync` as far as the inner body is, and empty by
    /// default.
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
        Wrapped { body: Wrapped<R::Error> },
    }
}

/// `Sync` although its inside need not be: a body is polled through `&mut`, where the lock is not
/// taken, and asked for its size and end through `&` now and then.
type Wrapped<E> = Mutex<Pin<Box<dyn Body<Data = Bytes, Error = E> + Send>>>;

/// What a lock around a body tells of it.
fn ask<T, E>(body: &Wrapped<E>, ask: impl FnOnce(&dyn Body<Data = Bytes, Error = E>) -> T) -> T {
    ask(&**body.lock().unwrap_or_else(PoisonError::into_inner))
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

    #[inline(always)]
    pub(crate) fn wrapped(
        body: impl Body<Data = Bytes, Error = R::Error> + Send + 'static,
    ) -> Self {
        Self {
            kind: Kind::Wrapped {
                body: Mutex::new(Box::pin(body)),
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
            KindProj::Wrapped { body } => {
                let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
                body.as_mut().poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Whole { body } => body.is_end_stream(),
            Kind::Wrapped { body } => ask(body, |body| body.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Whole { body } => body.size_hint(),
            Kind::Wrapped { body } => ask(body, |body| body.size_hint()),
        }
    }
}

impl<R: Body> Default for ResponseBody<R> {
    fn default() -> Self {
        Self::whole(Bytes::new())
    }
}

impl<R: Body> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn};

    use http_body_util::{BodyExt, Empty};
    use hyper::body::Incoming;

    use super::*;

    fn is_send_and_sync<T: Send + Sync>() {}

    #[test]
    fn a_response_body_is_send_and_sync_as_far_as_the_inner_one_is() {
        is_send_and_sync::<ResponseBody<Incoming>>();
        let _ = |body: ResponseBody<Incoming>| body.boxed();
        let _ = |body: ResponseBody<Incoming>| axum::body::Body::new(body);
    }

    /// `Send` alone.
    struct Once(Cell<Option<Bytes>>);

    impl Body for Once {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.take().map(|chunk| Ok(Frame::data(chunk))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(3)
        }
    }

    #[tokio::test]
    async fn a_wrapped_body_passes_all_that_is_asked_of_it() {
        let once = Once(Cell::new(Some(Bytes::from("all"))));
        let mut body = ResponseBody::<Empty<Bytes>>::wrapped(once);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!body.is_end_stream());
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "all");
        assert!(body.frame().await.is_none());

        let empty = ResponseBody::<Empty<Bytes>>::default();
        assert!(empty.is_end_stream() && empty.size_hint().exact() == Some(0));
    }
}
