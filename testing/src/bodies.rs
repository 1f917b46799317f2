//! Bodies that go as scripted, of requests and of answers.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::TestError;

/// What a body does next.
#[derive(Debug)]
pub enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The last thing that it does.
    Error(&'static str),
    /// Not ready this once; wakes at once.
    Yield,
    /// Never ready again.
    Pending,
}

impl Step {
    fn poll(self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        Poll::Ready(Some(match self {
            Self::Data(data) => Ok(Frame::data(data)),
            Self::Trailers(trailers) => Ok(Frame::trailers(trailers)),
            Self::Error(error) => Err(TestError(error)),
            Self::Yield => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Self::Pending => return Poll::Pending,
        }))
    }
}

/// A body that is fed from a test.
pub struct Feed {
    steps: UnboundedReceiver<Step>,
    is_pending: bool,
    told: Option<u64>,
}

/// Feeds a [`Feed`]; dropping it ends the body cleanly.
#[derive(Clone)]
pub struct Feeder(UnboundedSender<Step>);

/// A body and what feeds it.
pub fn feed() -> (Feeder, Feed) {
    let (feeder, steps) = unbounded_channel();
    let feed = Feed {
        steps,
        is_pending: false,
        told: None,
    };
    (Feeder(feeder), feed)
}

impl Feeder {
    pub fn data(&self, data: impl AsRef<[u8]>) {
        self.send(Step::Data(Bytes::copy_from_slice(data.as_ref())));
    }

    pub fn error(&self, error: &'static str) {
        self.send(Step::Error(error));
    }

    /// False if nobody reads it any longer.
    pub fn send(&self, step: Step) -> bool {
        self.0.send(step).is_ok()
    }

    /// Whether the body has been dropped by whoever read it.
    pub fn is_dropped(&self) -> bool {
        self.0.is_closed()
    }
}

impl Feed {
    /// All that there will be, fed at once.
    pub fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        let (feeder, feed) = feed();
        for step in steps {
            feeder.send(step);
        }
        feed
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

impl Body for Feed {
    type Data = Bytes;
    type Error = TestError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        if self.is_pending {
            return Poll::Pending;
        }
        let Some(step) = ready!(self.steps.poll_recv(cx)) else {
            return Poll::Ready(None);
        };
        match &step {
            Step::Data(data) => {
                let told = self.told.as_mut();
                told.into_iter().for_each(|left| *left -= data.len() as u64);
            }
            Step::Error(_) => {
                self.steps.close();
                while self.steps.try_recv().is_ok() {}
            }
            Step::Pending => self.is_pending = true,
            Step::Trailers(_) | Step::Yield => {}
        }
        step.poll(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.told.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// A body whose script is written step by step. It is ready whenever the script says so, whatever
/// tokio's budget.
#[derive(Default)]
pub struct Script {
    steps: VecDeque<Step>,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    pub fn data(self, data: impl AsRef<[u8]>) -> Self {
        self.step(Step::Data(Bytes::copy_from_slice(data.as_ref())))
    }

    pub fn trailers(self, trailers: HeaderMap) -> Self {
        self.step(Step::Trailers(trailers))
    }

    pub fn error(self, error: &'static str) -> Self {
        self.step(Step::Error(error))
    }

    pub fn yields(self) -> Self {
        self.step(Step::Yield)
    }

    pub fn pending(self) -> Self {
        self.step(Step::Pending)
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = TestError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        let Some(step) = self.steps.pop_front() else {
            return Poll::Ready(None);
        };
        match &step {
            Step::Error(_) => self.steps.clear(),
            Step::Pending => self.steps.push_front(Step::Pending),
            _ => {}
        }
        step.poll(cx)
    }
}
