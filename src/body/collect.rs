//! Takes a request body whole, before it is sent, if the limit allows (rule K1).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Buf;
use http::HeaderMap;
use http_body::Body;

use super::{
    frames::{AT_ONCE, Frames},
    request::{BufferedBody, RequestBody},
};

/// Collects a body up to a limit.
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

impl<B: Body> Collect<B> {
    pub(crate) fn new(body: B, limit: usize) -> Self {
        let too_large = body.size_hint().lower() > limit as u64;
        Self {
            body: Some(body),
            frames: Frames::default(),
            limit,
            too_large,
        }
    }

    fn take(&mut self, trailers: Option<HeaderMap>) -> BufferedBody {
        BufferedBody::new(std::mem::take(&mut self.frames), trailers)
    }
}

impl<B> Collect<B>
where
    B: Body + Unpin,
{
    /// Reads until the body has ended, or is not there yet.
    fn read(
        &mut self,
        mut body: B,
        cx: &mut Context<'_>,
    ) -> Result<Poll<BufferedBody>, RequestBody<B>> {
        for _ in 0..AT_ONCE {
            if body.is_end_stream() {
                return Ok(Poll::Ready(self.take(None)));
            }
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) else {
                self.body = Some(body);
                return Ok(Poll::Pending);
            };
            match frame {
                None => return Ok(Poll::Ready(self.take(None))),
                Some(Err(error)) => return Err(RequestBody::broken(self.take(None), error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        self.frames.push(data.copy_to_bytes(data.remaining()));
                        if self.too_large || self.frames.counted() > self.limit {
                            return Err(RequestBody::begun(self.take(None), body));
                        }
                    }
                    Err(frame) => {
                        return Ok(Poll::Ready(self.take(frame.into_trailers().ok())));
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        self.body = Some(body);
        Ok(Poll::Pending)
    }
}

impl<B> Future for Collect<B>
where
    B: Body + Unpin,
{
    type Output = Result<BufferedBody, RequestBody<B>>;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BufferedBody, RequestBody<B>>> {
        let this = self.get_mut();
        let body = this.body.take().expect("Collect polled after completion");
        match this.read(body, cx) {
            Ok(polled) => polled.map(Ok),
            Err(unbuffered) => Poll::Ready(Err(unbuffered)),
        }
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
        let Err(begun) = Collect::new(Always(""), 1024 * 1024).await else {
            panic!("the body has no end");
        };
        assert_eq!(begun.size_hint().lower(), 0);
    }

    #[tokio::test]
    async fn k1_a_body_of_tiny_frames_is_the_same_when_it_is_sent() {
        let body = || {
            let frame = |nth: usize| Frame::data(Bytes::from(vec![nth as u8; nth % 7]));
            let frames = (0..3_000).map(move |nth| Ok::<_, Infallible>(frame(nth)));
            StreamBody::new(futures::stream::iter(frames))
        };
        let whole = body().collect().await.unwrap().to_bytes();

        let Ok(kept) = Collect::new(body(), 1024 * 1024).await else {
            panic!("it is within the limit");
        };
        assert!(*kept.data() == *whole && kept.len() == whole.len());
        let sent = RequestBody::<Full<Bytes>>::buffered(kept).collect().await;
        assert_eq!(sent.unwrap().to_bytes(), whole);

        let Err(begun) = Collect::new(body(), 5_000).await else {
            panic!("it is over the limit");
        };
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

    #[tokio::test]
    async fn f7_a_buffered_body_can_be_had_again() {
        let Ok(kept) = Collect::new(Full::<Bytes>::from("call"), 9).await else {
            panic!("it is within the limit");
        };
        let body = RequestBody::<Always>::buffered(kept);
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
