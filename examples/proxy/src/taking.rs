//! Whether a client takes its answers.
//!
//! hyper asks a body for more as soon as there is room for it: in its own buffer, in the socket's, in
//! the window of an HTTP/2 stream. So a body that has given something and is not asked again waits for
//! its client. One that takes nothing, or a byte now and then, would hold a connection of the
//! upstream's as long as it likes.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep};

/// The answers of one connection.
#[derive(Debug, Clone)]
pub struct Taking(Arc<Mutex<Answers>>);

#[derive(Debug)]
struct Answers {
    /// How many wait for the client.
    waiting: usize,
    /// When one was last given or asked for something.
    moved: Instant,
}

impl Taking {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Answers {
            waiting: 0,
            moved: Instant::now(),
        })))
    }

    /// Waits until an answer waits for the client, and the client has taken nothing, of no answer, for
    /// this long. It may take twice as long to be noticed.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let since = {
                let answers = self.answers();
                (answers.waiting > 0).then(|| answers.moved.elapsed())
            };
            let left = patience.saturating_sub(since.unwrap_or_default());
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }

    pub fn body<B>(&self, body: B) -> Taken<B> {
        let waits = Waits {
            taking: self.clone(),
            waits: false,
        };
        Taken { body, waits }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pin_project! {
    /// A body that notes whether it is asked for more.
    pub struct Taken<B> {
        #[pin]
        body: B,
        waits: Waits,
    }
}

struct Waits {
    taking: Taking,
    waits: bool,
}

impl Waits {
    fn set(&mut self, waits: bool) {
        if self.waits == waits {
            return;
        }
        self.waits = waits;
        let mut answers = self.taking.answers();
        answers.moved = Instant::now();
        match waits {
            true => answers.waiting += 1,
            false => answers.waiting -= 1,
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl<B: Body> Body for Taken<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.waits.set(false);
        let frame = this.body.poll_frame(cx);
        this.waits.set(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
