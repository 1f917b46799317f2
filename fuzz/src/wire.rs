//! Bodies that go as scripted, of requests and of answers.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a body does next.
#[derive(Debug)]
pub enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    Breaks,
    /// Not ready this once; wakes at once.
    Pauses,
    /// Never ready again.
    Hangs,
}

/// The error that a body, or the transport, ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

/// Feeds a [`Wire`]. Dropping it ends the body; [`is_closed`](UnboundedSender::is_closed) once
/// nobody reads it any more.
pub type Feeder = UnboundedSender<Step>;

/// A body that is fed from elsewhere.
pub struct Wire {
    steps: UnboundedReceiver<Step>,
    hangs: bool,
    told: Option<u64>,
}

/// A body and what feeds it.
pub fn wire() -> (Feeder, Wire) {
    let (feeder, steps) = unbounded_channel();
    let wire = Wire {
        steps,
        hangs: false,
        told: None,
    };
    (feeder, wire)
}

impl Wire {
    /// All that there will be, fed at once.
    pub fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        let (feeder, wire) = wire();
        for step in steps {
            feeder.send(step).expect("the wire is there");
        }
        wire
    }

    pub fn text(text: impl Into<Bytes>) -> Self {
        Self::of([Step::Data(text.into())])
    }

    /// Lets the body say its size beforehand.
    pub fn told(mut self, bytes: usize) -> Self {
        self.told = Some(bytes as u64);
        self
    }
}

impl Body for Wire {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.hangs {
            return Poll::Pending;
        }
        let Some(step) = ready!(self.steps.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        Poll::Ready(Some(match step {
            Step::Data(data) => {
                let told = self.told.as_mut();
                told.into_iter().for_each(|left| *left -= data.len() as u64);
                Ok(Frame::data(data))
            }
            Step::Trailers(trailers) => Ok(Frame::trailers(trailers)),
            Step::Breaks => {
                self.steps.close();
                while self.steps.try_recv().is_ok() {}
                Err(Broken)
            }
            Step::Pauses => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Step::Hangs => {
                self.hangs = true;
                return Poll::Pending;
            }
        }))
    }

    fn size_hint(&self) -> SizeHint {
        self.told.map(SizeHint::with_exact).unwrap_or_default()
    }
}
