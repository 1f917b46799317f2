//! The request body as the inner service sees it.

use std::{
    borrow::Cow,
    fmt, mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{ends::Ends, frames::Frames};

/// A whole request body, kept in the frames it came in. Cloning it copies no data.
#[derive(Clone, Default)]
pub(crate) struct BufferedBody {
    data: Data,
    /// Rare, and large.
    trailers: Option<Box<HeaderMap>>,
}

/// Nearly every body is one frame, which needs no allocation to be kept.
#[derive(Clone)]
enum Data {
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Default for Data {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl BufferedBody {
    pub(super) fn new(frames: Frames, trailers: Option<HeaderMap>) -> Self {
        let data = match frames.into_one_or_many() {
            Ok(one) => Data::One(one),
            Err(many) => Data::Many(many.into()),
        };
        let trailers = trailers.map(Box::new);
        Self { data, trailers }
    }

    fn frames(&self) -> &[Bytes] {
        match &self.data {
            Data::One(bytes) => std::slice::from_ref(bytes),
            Data::Many(frames) => frames,
        }
    }

    /// All data in one piece; copied only if it came in several.
    #[inline]
    pub(crate) fn data(&self) -> Cow<'_, [u8]> {
        match &self.data {
            Data::One(bytes) => Cow::Borrowed(bytes),
            Data::Many(frames) => Cow::Owned(frames.concat()),
        }
    }

    /// The first data of it, and no more than is enough to see what it may be.
    pub(crate) fn beginning(&self) -> Cow<'_, [u8]> {
        const ENOUGH: usize = 512;
        match self.frames() {
            [] => Cow::Borrowed(&[]),
            [first, rest @ ..] if rest.is_empty() || first.len() >= ENOUGH => {
                Cow::Borrowed(&first[..first.len().min(ENOUGH)])
            }
            many => {
                let bytes = many.iter().flat_map(|frame| frame.iter());
                bytes.take(ENOUGH).copied().collect()
            }
        }
    }

    /// The number of bytes of data.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.data {
            Data::One(bytes) => bytes.len(),
            Data::Many(frames) => frames.iter().map(Bytes::len).sum(),
        }
    }
}

impl From<Bytes> for BufferedBody {
    fn from(bytes: Bytes) -> Self {
        Self {
            data: Data::One(bytes),
            trailers: None,
        }
    }
}

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
            ends: Arc::new(Ends::new(&begun.data(), is_all)),
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
            KindProj::Buffered { buffered, sent } => Poll::Ready(next(buffered, sent).map(Ok)),
            KindProj::Begun { begun } => {
                let begun = begun.as_mut().project();
                match (next(begun.read, begun.sent), begun.rest.project()) {
                    (Some(frame), _) => Poll::Ready(Some(Ok(frame))),
                    (None, RestProj::Body { mut body }) => {
                        let frame = body.as_mut().poll_frame(cx).map_ok(into_bytes);
                        if let Poll::Ready(frame) = &frame {
                            let data = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref());
                            let has_failed = matches!(frame, Some(Err(_)));
                            // Who knows how much there is does not ask for more.
                            let is_last =
                                body.is_end_stream() || body.size_hint().exact() == Some(0);
                            let is_last = !has_failed && (frame.is_none() || is_last);
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
                unsent(buffered, *sent) == 0 && buffered.trailers.is_none()
            }
            Kind::Begun { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Buffered { buffered, sent } => {
                let mut hint = SizeHint::with_exact(unsent(buffered, *sent));
                if buffered.trailers.is_some() {
                    // A `Content-Length` would leave no room for them in HTTP/1.1.
                    hint = SizeHint::new();
                    hint.set_lower(unsent(buffered, *sent));
                }
                hint
            }
            Kind::Begun { begun } => {
                let read = unsent(&begun.read, begun.sent);
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

fn next(buffered: &mut BufferedBody, sent: &mut usize) -> Option<Frame<Bytes>> {
    while *sent < buffered.frames().len() {
        let frame = match &mut buffered.data {
            Data::One(bytes) => mem::take(bytes),
            Data::Many(frames) => frames[*sent].clone(),
        };
        *sent += 1;
        if !frame.is_empty() {
            return Some(Frame::data(frame));
        }
    }
    buffered
        .trailers
        .take()
        .map(|trailers| Frame::trailers(*trailers))
}

fn unsent(buffered: &BufferedBody, sent: usize) -> u64 {
    let frames = buffered.frames().get(sent..).unwrap_or_default();
    frames.iter().map(|frame| frame.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::Full;

    use super::*;

    /// Untouched, kept, too large to be kept, and sent.
    #[test]
    fn a_whole_body_stays_one_for_a_service_that_takes_no_other() {
        let frames = |body: &'static [u8]| {
            let mut frames = Frames::default();
            frames.push(Bytes::from_static(body));
            frames
        };
        let whole = || Full::new(Bytes::from_static(b"all"));
        let kept = BufferedBody::new(frames(b"all"), None);
        let begun = BufferedBody::new(frames(b"all of it, and "), None);
        let mut sent: RequestBody<Full<Bytes>> = RequestBody::buffered(kept.clone());
        let _ = Pin::new(&mut sent).poll_frame(&mut Context::from_waker(Waker::noop()));
        for (body, expected) in [
            (RequestBody::untouched(whole()), "all"),
            (RequestBody::buffered(kept), "all"),
            (RequestBody::begun(begun, whole()), "all of it, and all"),
            (RequestBody::default(), ""),
            (sent, ""),
        ] {
            assert_eq!(body.whole().unwrap(), expected);
        }
    }

    #[test]
    fn a_whole_body_that_came_in_one_piece_is_not_copied() {
        let piece = Bytes::from_static(b"all");
        let body: RequestBody<Full<Bytes>> = RequestBody::buffered(piece.clone().into());
        assert_eq!(body.whole().unwrap().as_ptr(), piece.as_ptr());
    }

    /// By what a client may know that all of a body has come, without asking for more.
    #[derive(Clone, Copy, PartialEq)]
    enum Knows {
        Nothing,
        End,
        Length,
    }

    struct Rest {
        frames: VecDeque<Result<&'static str, &'static str>>,
        knows: Knows,
    }

    impl Body for Rest {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            let frame = self.frames.pop_front();
            Poll::Ready(frame.map(|frame| frame.map(|data| Frame::data(data.into()))))
        }

        fn is_end_stream(&self) -> bool {
            self.knows == Knows::End && self.frames.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let data = self.frames.iter().flatten();
            let left = data.map(|data| data.len() as u64).sum();
            match self.knows {
                Knows::Length => SizeHint::with_exact(left),
                Knows::Nothing | Knows::End => SizeHint::default(),
            }
        }
    }

    /// Each piece of it could be the end of a request with another id.
    const PIECES: [&str; 3] = [
        r#"{"method":"tools/call","params":{"n":0,"id":1}"#,
        r#","more":{"n":0,"id":2}"#,
        r#","id":7}"#,
    ];

    fn noted(ends: &Ends) -> Option<String> {
        ends.request_id().map(|id| id.to_string())
    }

    /// F4, G5: it is noted as soon as the client has it, who may not ask whether there is more.
    #[test]
    fn g5_the_end_of_a_large_request_is_noted_when_it_has_come_and_not_before() {
        let cx = &mut Context::from_waker(Waker::noop());
        for knows in [Knows::Nothing, Knows::End, Knows::Length] {
            let rest = Rest {
                frames: PIECES[1..].iter().map(|piece| Ok(*piece)).collect(),
                knows,
            };
            let mut body = RequestBody::begun(Bytes::from(PIECES[0]).into(), rest);
            let ends = body.ends().unwrap();
            for piece in PIECES {
                assert_eq!(noted(&ends), None, "before {piece}");
                let frame = Pin::new(&mut body).poll_frame(cx);
                assert!(matches!(frame, Poll::Ready(Some(Ok(_)))));
            }
            if knows == Knows::Nothing {
                assert_eq!(noted(&ends), None);
                assert!(matches!(
                    Pin::new(&mut body).poll_frame(cx),
                    Poll::Ready(None)
                ));
            }
            assert_eq!(noted(&ends).as_deref(), Some("7"));
        }
    }

    #[test]
    fn g5_the_end_of_a_large_request_may_have_been_read_with_its_beginning() {
        for (knows, has_come) in [
            (Knows::Nothing, false),
            (Knows::End, true),
            (Knows::Length, true),
        ] {
            let rest = Rest {
                frames: VecDeque::new(),
                knows,
            };
            let body = RequestBody::begun(Bytes::from(PIECES.concat()).into(), rest);
            let id = noted(&body.ends().unwrap());
            assert_eq!(id.as_deref(), has_come.then_some("7"));
        }
    }

    #[test]
    fn g5_a_large_request_that_broke_off_has_no_end() {
        let rest = Rest {
            frames: [Err("reset")].into(),
            knows: Knows::End,
        };
        let mut body = RequestBody::begun(Bytes::from(PIECES[0]).into(), rest);
        let cx = &mut Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut body).poll_frame(cx);
        let broken = Pin::new(&mut body).poll_frame(cx);
        assert!(matches!(broken, Poll::Ready(Some(Err("reset")))));
        assert_eq!(noted(&body.ends().unwrap()), None);
    }
}
