//! The request body as the inner service sees it.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{buffered::BufferedBody, ends::Ends};

pin_project! {
    /// The body of a request as [`SessionRecovery`](crate::SessionRecovery) hands it to the
    /// service that it wraps: the caller's own, or what the layer kept of it.
    ///
    /// Its data are [`Bytes`], its error is the caller's body's. It frames the data as the
    /// caller's body did (only that where there are a great many small frames, they are joined),
    /// forwards trailers and errors, and knows its exact size if that did.
    ///
    /// A body that the layer has buffered, which nearly every one is that it has looked at, is
    /// cheap to clone: see [`try_clone`](Self::try_clone). The default is an empty body.
    pub struct RequestBody<B>
    where
        B: Body,
    {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B>
    where
        B: Body,
    {
        // The caller's body, untouched.
        Untouched { #[pin] body: B },
        // All of it, held in memory.
        Buffered { buffered: BufferedBody, sent: usize },
        // What was read of a body that turned out too large to be kept, or broke.
        Begun { begun: Pin<Box<Begun<B>>> },
    }
}

pin_project! {
    #[project = BegunProj]
    struct Begun<B>
    where
        B: Body,
    {
        read: BufferedBody,
        sent: usize,
        ends: Arc<Ends>,
        #[pin]
        rest: Rest<B>,
    }
}

pin_project! {
    #[project = RestProj]
    enum Rest<B>
    where
        B: Body,
    {
        Body { #[pin] body: B },
        Error { error: Option<B::Error> },
    }
}

impl<B: Body> RequestBody<B> {
    /// The same body again, as far as it has not been sent, if it is held in memory: for a layer
    /// below that sends a request again, whatever the caller's body is. Copies no data.
    ///
    /// `None` for a body that the layer did not look at, or that was too large to be buffered.
    pub fn try_clone(&self) -> Option<Self> {
        match &self.kind {
            Kind::Buffered { buffered, sent } => Some(Self {
                kind: Kind::Buffered {
                    buffered: buffered.clone(),
                    sent: *sent,
                },
            }),
            Kind::Untouched { .. } | Kind::Begun { .. } => None,
        }
    }

    /// All of it, for a service below that takes nothing but whole bodies. Copies no data that came
    /// in one piece.
    ///
    /// `None` where there is more to wait for than data, which with a caller's `Full` there never is.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use hyper::body::Incoming;
    /// use mcp_session_recovery::{RequestBody, SessionRecoveryLayer};
    /// use tower::{BoxError, ServiceBuilder, ServiceExt, util::BoxCloneService};
    ///
    /// type Http = BoxCloneService<Request<Full<Bytes>>, Response<Incoming>, BoxError>;
    ///
    /// async fn send(http: Http, request: Request<Full<Bytes>>) -> Result<u16, BoxError> {
    ///     let whole = |body: RequestBody<_>| Full::new(body.whole().expect("a whole body"));
    ///     let client = ServiceBuilder::new()
    ///         .layer(SessionRecoveryLayer::new())
    ///         .map_request(move |request: Request<_>| request.map(whole))
    ///         .service(http);
    ///     Ok(client.oneshot(request).await?.status().as_u16())
    /// }
    /// ```
    pub fn whole(self) -> Option<Bytes> {
        let mut body = pin!(self);
        let mut frames = Vec::with_capacity(1);
        let cx = &mut Context::from_waker(Waker::noop());
        loop {
            match body.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frames.push(frame.into_data().ok()?),
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(_))) | Poll::Pending => return None,
            }
        }
        Some(match frames.len() {
            1 => frames.remove(0),
            _ => frames.concat().into(),
        })
    }

    pub(crate) fn untouched(body: B) -> Self {
        Self {
            kind: Kind::Untouched { body },
        }
    }

    pub(crate) fn buffered(buffered: BufferedBody) -> Self {
        Self {
            kind: Kind::Buffered { buffered, sent: 0 },
        }
    }

    /// `begun`, then what `body` still has.
    pub(crate) fn begun(begun: BufferedBody, body: B) -> Self {
        Self::with_rest(begun, Rest::Body { body })
    }

    /// `begun`, then the error that the caller's body ended with.
    pub(crate) fn broken(begun: BufferedBody, error: B::Error) -> Self {
        Self::with_rest(begun, Rest::Error { error: Some(error) })
    }

    /// What was kept of it, which is all or nothing.
    pub(crate) fn kept(&self) -> Option<&BufferedBody> {
        match &self.kind {
            Kind::Buffered { buffered, .. } => Some(buffered),
            Kind::Untouched { .. } | Kind::Begun { .. } => None,
        }
    }

    /// Whether what was read of a body that could not be kept has something in it.
    pub(crate) fn has_read(&self, something: impl FnOnce(&[u8]) -> bool) -> bool {
        match &self.kind {
            Kind::Begun { begun } => something(&begun.read.data()),
            Kind::Untouched { .. } | Kind::Buffered { .. } => false,
        }
    }

    /// What is noted of a body that could not be kept, as it passes.
    pub(crate) fn ends(&self) -> Option<Arc<Ends>> {
        match &self.kind {
            Kind::Begun { begun } => Some(begun.ends.clone()),
            Kind::Untouched { .. } | Kind::Buffered { .. } => None,
        }
    }

    fn with_rest(begun: BufferedBody, rest: Rest<B>) -> Self {
        let is_all = match &rest {
            Rest::Body { body } => has_ended(body),
            Rest::Error { .. } => false,
        };
        let begun = Box::pin(Begun {
            ends: Arc::new(Ends::new(&begun, is_all)),
            read: begun,
            sent: 0,
            rest,
        });
        Self {
            kind: Kind::Begun { begun },
        }
    }
}

impl<B: Body> Body for RequestBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Untouched { body } => body.poll_frame(cx).map_ok(into_bytes),
            KindProj::Buffered { buffered, sent } => Poll::Ready(buffered.next(sent).map(Ok)),
            KindProj::Begun { begun } => {
                let begun = begun.as_mut().project();
                match (begun.read.next(begun.sent), begun.rest.project()) {
                    (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                    (None, RestProj::Body { mut body }) => {
                        let frame = body.as_mut().poll_frame(cx).map_ok(into_bytes);
                        if let Poll::Ready(frame) = &frame {
                            let data = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref());
                            let has_failed = matches!(frame, Some(Err(_)));
                            let is_last = !has_failed && (frame.is_none() || has_ended(&*body));
                            begun.ends.pass(data.map_or(&[], |data| data), is_last);
                        }
                        frame
                    }
                    (None, RestProj::Error { error }) => Poll::Ready(error.take().map(Err)),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Buffered { buffered, sent } => {
                buffered.unsent(*sent) == 0 && !buffered.has_trailers()
            }
            Kind::Begun { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Buffered { buffered, sent } => {
                let mut hint = SizeHint::with_exact(buffered.unsent(*sent));
                if buffered.has_trailers() {
                    // A `Content-Length` would leave no room for them in HTTP/1.1.
                    hint = SizeHint::new();
                    hint.set_lower(buffered.unsent(*sent));
                }
                hint
            }
            Kind::Begun { begun } => {
                let read = begun.read.unsent(begun.sent);
                let rest = match &begun.rest {
                    Rest::Body { body } => body.size_hint(),
                    Rest::Error { .. } => SizeHint::new(),
                };
                let mut hint = SizeHint::new();
                hint.set_lower(read.saturating_add(rest.lower()));
                if let Some(upper) = rest.upper().and_then(|rest| rest.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}

impl<B: Body> Default for RequestBody<B> {
    fn default() -> Self {
        Self::buffered(BufferedBody::default())
    }
}

impl<B> Clone for RequestBody<B>
where
    B: Body<Error: Clone> + Clone,
{
    fn clone(&self) -> Self {
        let kind = match &self.kind {
            Kind::Untouched { body } => Kind::Untouched { body: body.clone() },
            Kind::Buffered { buffered, sent } => Kind::Buffered {
                buffered: buffered.clone(),
                sent: *sent,
            },
            Kind::Begun { begun } => Kind::Begun {
                begun: Box::pin(Begun {
                    read: begun.read.clone(),
                    sent: begun.sent,
                    ends: begun.ends.clone(),
                    rest: match &begun.rest {
                        Rest::Body { body } => Rest::Body { body: body.clone() },
                        Rest::Error { error } => Rest::Error {
                            error: error.clone(),
                        },
                    },
                }),
            },
        };
        Self { kind }
    }
}

impl<B: Body> fmt::Debug for RequestBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

/// The same frame with its data as [`Bytes`], which for data that are `Bytes` copies nothing.
pub(super) fn into_bytes<D: Buf>(frame: Frame<D>) -> Frame<Bytes> {
    frame.map_data(|mut data| data.copy_to_bytes(data.remaining()))
}

/// Whether nothing more is to come. Who knows how much there is may not ask for more.
fn has_ended<B: Body>(body: &B) -> bool {
    body.is_end_stream() || body.size_hint().exact() == Some(0)
}
