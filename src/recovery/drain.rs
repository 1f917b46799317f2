//! What goes on while nobody waits for it.

use std::{pin::Pin, time::Duration};

use bytes::Buf;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{runtime::Handle, task::consume_budget, time::timeout};

/// How long the rest of a body is read, and how much of it, once what was wanted of it has been
/// found, so that its connection can be used again.
const TIMEOUT: Duration = Duration::from_secs(1);
const LIMIT: usize = 1024 * 1024;
/// What a frame without data counts for.
const EMPTY_FRAME: usize = 64;

/// Reads a body to its end while others go on, so that its connection can be used again.
pub(super) fn drain_in_background<R>(body: Pin<Box<R>>)
where
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    in_background(TIMEOUT, drain(body));
}

/// Reads a body to its end, or to the limit.
pub(super) async fn drain<R: Body>(mut body: Pin<Box<R>>) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        // A body that is always ready does not keep the thread.
        consume_budget().await;
        read += frame.data_ref().map_or(0, Buf::remaining).max(EMPTY_FRAME);
        if read > LIMIT {
            return;
        }
    }
}

pub(super) fn in_background(patience: Duration, work: impl Future<Output = ()> + Send + 'static) {
    // While a runtime shuts down there is none, and nothing to be done.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(timeout(patience, work));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Context, Poll},
    };

    use bytes::Bytes;
    use http_body::Frame;

    use super::*;

    /// So many frames of a size, and then an end or nothing any more, and how many were taken.
    struct Body {
        size: usize,
        frames: usize,
        ends: bool,
        taken: Arc<AtomicUsize>,
    }

    fn body(size: usize, frames: usize, ends: bool) -> (Pin<Box<Body>>, Arc<AtomicUsize>) {
        let taken = Arc::<AtomicUsize>::default();
        let body = Body {
            size,
            frames,
            ends,
            taken: taken.clone(),
        };
        (Box::pin(body), taken)
    }

    impl http_body::Body for Body {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.taken.load(Ordering::Relaxed) < self.frames {
                self.taken.fetch_add(1, Ordering::Relaxed);
                return Poll::Ready(Some(Ok(Frame::data(vec![0; self.size].into()))));
            }
            match self.ends {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        }
    }

    /// How many frames are read of a body that has many.
    async fn drained(size: usize, frames: usize) -> usize {
        let (body, taken) = body(size, frames, true);
        drain(body).await;
        taken.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn k_a_rest_is_read_to_its_end_but_not_for_ever() {
        assert_eq!(drained(1000, 1_000).await, 1_000);
        assert_eq!(drained(64 * 1024, 100).await, 17);
        assert_eq!(drained(0, 100_000).await, LIMIT / EMPTY_FRAME + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_read_while_nobody_waits_for_it_and_for_a_second_at_most() {
        let (body, taken) = body(1, 100, false);
        drain_in_background(body);
        tokio::time::sleep(TIMEOUT / 2).await;
        assert_eq!(taken.load(Ordering::Relaxed), 100);
        assert_eq!(Arc::strong_count(&taken), 2);
        tokio::time::sleep(TIMEOUT).await;
        assert_eq!(Arc::strong_count(&taken), 1);
    }
}
