//! Takes a request body whole, before it is sent, if the limit allows (rule K1).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::{
    buffered::BufferedBody,
    frames::{AT_ONCE, Frames},
    request::RequestBody,
};

/// Collects a body up to a limit: what it becomes is buffered, or was too large for that, or broke.
///
/// Nothing is allocated for a body in one frame. Of a body that says beforehand that it is too
/// large, the first frame alone is taken.
pub(crate) struct Collect<B: Body> {
    body: Option<B>,
    frames: Frames,
    limit: usize,
    /// The body says itself that it is larger than the limit.
    too_large: bool,
}

impl<B> Collect<B>
where
    B: Body + Unpin,
{
    pub(crate) fn new(body: B, limit: usize) -> Self {
        let too_large = body.size_hint().lower() > limit as u64;
        Self {
            body: Some(body),
            frames: Frames::default(),
            limit,
            too_large,
        }
    }

    /// The body, which is there at once in most cases, or what waits for the rest of it.
    pub(crate) fn at_once(mut body: B, limit: usize) -> Result<RequestBody<B>, Self> {
        if body.is_end_stream() {
            return Ok(RequestBody::default());
        }
        let mut nobody = Context::from_waker(Waker::noop());
        match Pin::new(&mut body).poll_frame(&mut nobody) {
            // Nearly every body is one frame.
            Poll::Ready(Some(Ok(frame))) if body.is_end_stream() && frame.is_data() => {
                let data = into_data(frame).unwrap_or_default();
                let is_small = data.len() <= limit;
                Ok(match is_small {
                    true => RequestBody::buffered(data.into()),
                    false => RequestBody::begun(data.into(), body),
                })
            }
            first => Self::after(first, body, limit),
        }
    }

    /// Goes on from what the body gave first.
    #[cold]
    fn after(first: Polled<B>, body: B, limit: usize) -> Result<RequestBody<B>, Self> {
        let mut collect = Self::new(body, limit);
        // If the rest is not there, it is asked for again, with a waker.
        let mut nobody = Context::from_waker(Waker::noop());
        let collected = match first.map(|frame| collect.take(frame)) {
            Poll::Ready(None) => collect.read(&mut nobody),
            Poll::Ready(Some(collected)) => Poll::Ready(collected),
            Poll::Pending => Poll::Pending,
        };
        match collected {
            Poll::Ready(collected) => Ok(collected),
            Poll::Pending => Err(collect),
        }
    }

    /// Reads until the body has ended, or is not there yet.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<RequestBody<B>> {
        for _ in 0..AT_ONCE {
            let body = self.body.as_mut().expect(COMPLETED);
            if body.is_end_stream() {
                return Poll::Ready(self.end(None));
            }
            let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
            if let Some(collected) = self.take(frame) {
                return Poll::Ready(collected);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes what the body gave. Gives all of it, if there is no more to be read.
    fn take(&mut self, frame: Option<Result<Frame<B::Data>, B::Error>>) -> Option<RequestBody<B>> {
        let data = match frame {
            None => return Some(self.end(None)),
            Some(Err(error)) => return Some(RequestBody::broken(self.taken(None), error)),
            Some(Ok(frame)) => match into_data(frame) {
                Ok(data) => data,
                Err(trailers) => return Some(self.end(trailers)),
            },
        };
        self.frames.push(data);
        if !self.too_large && self.frames.counted() <= self.limit {
            return None;
        }
        let rest = self.body.take().expect(COMPLETED);
        Some(RequestBody::begun(self.taken(None), rest))
    }

    fn end(&mut self, trailers: Option<HeaderMap>) -> RequestBody<B> {
        RequestBody::buffered(self.taken(trailers))
    }

    fn taken(&mut self, trailers: Option<HeaderMap>) -> BufferedBody {
        BufferedBody::new(std::mem::take(&mut self.frames), trailers)
    }
}

const COMPLETED: &str = "Collect polled after completion";

/// What asking a body for a frame gives.
type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

/// The data of a frame, or the trailers.
fn into_data<D: Buf>(frame: Frame<D>) -> Result<Bytes, Option<HeaderMap>> {
    match frame.into_data() {
        Ok(mut data) => Ok(data.copy_to_bytes(data.remaining())),
        Err(frame) => Err(frame.into_trailers().ok()),
    }
}

impl<B> Future for Collect<B>
where
    B: Body + Unpin,
{
    type Output = RequestBody<B>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RequestBody<B>> {
        self.get_mut().read(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    type Polled = Poll<Option<Result<Frame<Bytes>, Infallible>>>;

    /// The same frame whenever asked, for ever.
    struct Always(&'static str);

    impl Body for Always {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
            Poll::Ready(Some(Ok(Frame::data(self.0.into()))))
        }
    }

    #[tokio::test]
    async fn k1_frames_without_data_come_to_the_limit_as_well() {
        let begun = Collect::new(Always(""), 1024 * 1024).await;
        assert!(begun.kept().is_none());
        assert_eq!(begun.size_hint().lower(), 0);
    }

    #[tokio::test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    async fn k1_a_body_of_tiny_frames_is_the_same_when_it_is_sent() {
        let body = || {
            let frame = |nth: usize| Frame::data(Bytes::from(vec![nth as u8; nth % 7]));
            let frames = (0..3_000).map(move |nth| Ok::<_, Infallible>(frame(nth)));
            StreamBody::new(futures::stream::iter(frames))
        };
        let whole = body().collect().await.unwrap().to_bytes();

        let sent = Collect::new(body(), 1024 * 1024).await;
        let kept = sent.kept().expect("it is within the limit");
        assert!(*kept.data() == *whole && kept.len() == whole.len());
        assert_eq!(sent.collect().await.unwrap().to_bytes(), whole);

        let begun = Collect::new(body(), 5_000).await;
        assert!(begun.kept().is_none(), "it is over the limit");
        assert_eq!(begun.collect().await.unwrap().to_bytes(), whole);
    }

    #[tokio::test(start_paused = true)]
    async fn k_a_body_that_is_always_ready_lets_others_run() {
        let advancing = tokio::spawn(tokio::time::advance(Duration::from_secs(1)));
        tokio::select! {
            biased;
            _ = Collect::new(Always("x"), usize::MAX) => panic!("the body has no end"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        advancing.await.unwrap();
    }

    #[test]
    fn k1_what_is_there_at_once_comes_to_the_same_however_it_comes() {
        const LARGE: &str =
            "This is more than the eighty bytes that the limit allows, one way or the other.....";
        let frames = |data: &[&'static str], trailers: bool| {
            let data: Vec<_> = data
                .iter()
                .map(|data| Frame::data(Bytes::from(*data)))
                .collect();
            let trailers = trailers.then(|| Frame::trailers(HeaderMap::new()));
            let frames = data.into_iter().chain(trailers).map(Ok::<_, Infallible>);
            StreamBody::new(futures::stream::iter(frames))
        };
        let collected = |body| {
            let body = Collect::at_once(body, 80).ok();
            body.map(|body| body.kept().map(BufferedBody::len))
        };
        for (data, trailers, len) in [
            (&[][..], false, Some(0)),
            (&[], true, Some(0)),
            (&["call"], false, Some(4)),
            (&["call", "", "s"], true, Some(5)),
            (&[LARGE], false, None),
            (&["too ", LARGE], false, None),
        ] {
            assert_eq!(collected(frames(data, trailers)), Some(len), "{data:?}");
        }
        for (text, len) in [("", Some(0)), ("call", Some(4)), (LARGE, None)] {
            let collected = Collect::at_once(Full::<Bytes>::from(text), 80);
            let kept = collected
                .ok()
                .map(|body| body.kept().map(BufferedBody::len));
            assert_eq!(kept, Some(len), "{text}");
        }
    }

    #[tokio::test]
    async fn f7_a_buffered_body_can_be_had_again() {
        let body = Collect::new(Full::<Bytes>::from("call"), 9).await;
        let again = body.try_clone().expect("it is in memory");
        for body in [body, again, RequestBody::default()] {
            let text = body.collect().await.unwrap().to_bytes();
            assert!(text == "call" || text.is_empty());
        }
        assert!(RequestBody::untouched(Always("x")).try_clone().is_none());
    }

    #[tokio::test]
    async fn f7_a_body_is_cloned_as_far_as_it_has_not_been_sent() {
        let whole = Full::<Bytes>::from("call");
        let begun = || RequestBody::begun(Bytes::from("the ").into(), whole.clone());
        let mut sent = begun();
        sent.frame().await;
        for (body, text) in [
            (begun(), "the call"),
            (sent, "call"),
            (RequestBody::untouched(whole.clone()), "call"),
            (RequestBody::buffered(Bytes::from("call").into()), "call"),
        ] {
            let again = body.clone();
            assert_eq!(again.collect().await.unwrap().to_bytes(), text);
            assert_eq!(body.collect().await.unwrap().to_bytes(), text);
        }
    }
}
