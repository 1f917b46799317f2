//! A response body read before the caller gets it (rule D5).

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{
    frames::{AT_ONCE, Frames},
    request::into_bytes,
};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// What was read of a body, and what is still to come. As a [`Body`] it is whole again: the same
/// data, then the rest.
pub(crate) struct ReadAhead<R: Body> {
    frames: Frames,
    /// The last that was read, if there are any: nothing follows them.
    trailers: Option<HeaderMap>,
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
            frames: Frames::default(),
            trailers: None,
            rest: Rest::More(Box::pin(body)),
        }
    }

    /// Reads to the end, but not beyond `limit` bytes. What has been read stays read if this is
    /// dropped.
    pub(crate) async fn fill(&mut self, limit: usize) {
        poll_fn(|cx| self.poll_fill(cx, limit)).await;
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<()> {
        for _ in 0..AT_ONCE {
            if !self.has_more(limit) {
                return Poll::Ready(());
            }
            let Rest::More(body) = &mut self.rest else {
                return Poll::Ready(());
            };
            match ready!(body.as_mut().poll_frame(cx)) {
                None => self.rest = Rest::Ended,
                Some(Err(error)) => self.rest = Rest::Broken(Some(error)),
                Some(Ok(frame)) => match into_bytes(frame).into_data() {
                    Ok(data) => self.frames.push(data),
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        self.rest = Rest::Ended;
                    }
                },
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Gives up what has not been read, and whatever that holds of the connection: the body ends
    /// after what has. Whether there was any, and so a `Content-Length` does not hold any more.
    pub(crate) fn drop_rest(&mut self) -> bool {
        match &self.rest {
            Rest::More(body) => {
                let more = !body.is_end_stream();
                self.rest = Rest::Ended;
                more
            }
            Rest::Ended | Rest::Broken(_) => false,
        }
    }

    /// Whether there is more to read within `limit` bytes.
    pub(crate) fn has_more(&self, limit: usize) -> bool {
        matches!(self.rest, Rest::More(_)) && self.frames.counted() <= limit
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
        self.frames.bytes(limit)
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
        if let Some(data) = this.frames.pop() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &mut this.rest {
            Rest::Ended => Poll::Ready(None),
            Rest::Broken(error) => Poll::Ready(error.take().map(Err)),
            Rest::More(body) => body.as_mut().poll_frame(cx).map_ok(into_bytes),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
            && self.trailers.is_none()
            && match &self.rest {
                Rest::Ended => true,
                Rest::Broken(error) => error.is_none(),
                Rest::More(body) => body.is_end_stream(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.frames.iter().map(|data| data.len() as u64).sum();
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

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible, time::Duration};

    use http::HeaderValue;
    use http_body_util::BodyExt;

    use super::*;

    /// These frames, then more of the last one, whenever asked, for ever; or the end.
    struct Script {
        frames: VecDeque<Frame<Bytes>>,
        again: Option<Bytes>,
    }

    impl Script {
        fn of<const N: usize>(frames: [&'static str; N]) -> Self {
            Self {
                frames: frames.map(|data| Frame::data(data.into())).into(),
                again: None,
            }
        }

        fn for_ever(data: &'static str) -> Self {
            Self {
                frames: VecDeque::new(),
                again: Some(data.into()),
            }
        }
    }

    impl Body for Script {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let frame = self.frames.pop_front();
            Poll::Ready(frame.or(self.again.clone().map(Frame::data)).map(Ok))
        }
    }

    async fn read(body: Script, limit: usize) -> ReadAhead<Script> {
        let mut read = ReadAhead::new(body);
        read.fill(limit).await;
        read
    }

    #[tokio::test]
    async fn d5_what_was_read_and_the_rest_are_the_body_again() {
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("x-end"),
            HeaderValue::from_static("1"),
        )]);
        for limit in [0, 3, 100] {
            let body = Script {
                frames: Script::of(["ab", "", "cd", "ef"])
                    .frames
                    .into_iter()
                    .chain([Frame::trailers(trailers.clone())])
                    .collect(),
                again: None,
            };
            let read = read(body, limit).await.collect().await.unwrap();
            assert_eq!(read.trailers(), Some(&trailers));
            assert_eq!(read.to_bytes(), "abcdef");
        }
    }

    #[tokio::test]
    async fn d5_a_body_whose_rest_is_dropped_ends_after_what_was_read() {
        let mut over = read(Script::of(["abc", "def", "ghi"]), 4).await;
        assert!(over.drop_rest());
        assert_eq!(over.size_hint().exact(), Some(6));
        assert_eq!(over.collect().await.unwrap().to_bytes(), "abcdef");

        let mut whole = read(Script::of(["abc"]), 4).await;
        assert!(!whole.drop_rest());
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn k4_frames_without_data_come_to_the_limit_as_well() {
        let read = read(Script::for_ever(""), 64 * 1024).await;
        assert!(read.frames.is_empty() && matches!(read.rest, Rest::More(_)));
    }

    #[tokio::test]
    #[cfg_attr(miri, ignore = "it takes too long")]
    async fn k4_tiny_frames_are_held_in_little_memory() {
        let read = read(Script::for_ever("x"), 64 * 1024).await;
        assert_eq!(read.bytes(usize::MAX).len(), 64 * 1024 + 1);
        assert!(read.frames.iter().count() < 128);
    }

    #[tokio::test(start_paused = true)]
    async fn k_a_body_that_is_always_ready_lets_the_time_out_fire() {
        // Without end and, where nothing counts, without a limit.
        let mut read = ReadAhead::new(Script::for_ever("x"));
        let timer = tokio::time::sleep(Duration::from_millis(100));
        let advancing = tokio::spawn(async {
            tokio::time::advance(Duration::from_secs(1)).await;
        });
        tokio::select! {
            biased;
            () = read.fill(usize::MAX) => panic!("the body has no end"),
            () = timer => {}
        }
        advancing.await.unwrap();
    }
}
