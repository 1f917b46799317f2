//! Whether a connection is in use.
//!
//! A connection on which nothing is asked costs a socket, be it silent, half-way through the
//! preface of HTTP/2, or at a byte every other second. So what counts is a whole head: it has to
//! come within a time after the connection began, and within another after the last answer.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::{sync::watch, time::timeout};

/// What is going on on one connection.
#[derive(Debug, Clone, Default)]
pub struct Activity(watch::Sender<Requests>);

#[derive(Debug, Clone, Copy, Default)]
struct Requests {
    begun: u64,
    open: u64,
}

/// A request of a connection, until its answer is sent.
#[derive(Debug)]
pub struct Busy(watch::Sender<Requests>);

impl Activity {
    pub fn begin(&self) -> Busy {
        self.0.send_modify(|requests| {
            requests.begun += 1;
            requests.open += 1;
        });
        Busy(self.0.clone())
    }

    /// Waits until no request has come for too long: `first` for the first one, `next` for each
    /// after it.
    pub async fn idle(&self, first: Duration, next: Duration) {
        let mut requests = self.0.subscribe();
        let (mut patience, mut seen) = (first, 0);
        loop {
            let another = requests.wait_for(|requests| requests.begun != seen);
            if timeout(patience, another).await.is_err() {
                return;
            }
            if let Ok(requests) = requests.wait_for(|requests| requests.open == 0).await {
                seen = requests.begun;
            }
            patience = next;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|requests| requests.open -= 1);
    }
}

pin_project! {
    /// A body that holds something as long as it is being sent.
    pub struct Holding<B, H> {
        #[pin]
        body: B,
        held: H,
    }
}

impl<B, H> Holding<B, H> {
    pub fn new(body: B, held: H) -> Self {
        Self { body, held }
    }
}

impl<B: Body, H> Body for Holding<B, H> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
