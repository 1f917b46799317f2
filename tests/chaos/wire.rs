//! The bodies of answers: scripts of what comes when, which end early if their session does.

use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use crate::{faults::Ending, world::World};

/// The error of the transport.
#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Broken {}

pub enum Piece {
    /// Bytes; once they are out, the answers to these calls are.
    Data(Bytes, Vec<u64>),
    Wait(Duration),
    /// So many frames that are ready at once.
    Burst(usize),
    Break,
    /// Nothing, for ever.
    Hang,
}

/// The life of a session, as far as its streams go by it.
#[derive(Default)]
pub struct Life(Mutex<(Option<Ending>, Vec<Waker>)>);

impl Life {
    pub fn end(&self, ending: Ending) {
        let mut life = self.0.lock().unwrap();
        life.0 = Some(ending);
        std::mem::take(&mut life.1)
            .into_iter()
            .for_each(Waker::wake);
    }

    /// Ready once what the session has under way ends.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut life = self.0.lock().unwrap();
        match life.0 {
            Some(Ending::Linger) => Poll::Pending,
            Some(ending) => Poll::Ready(ending),
            None => {
                if !life.1.iter().any(|waker| waker.will_wake(cx.waker())) {
                    life.1.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

pub struct Wire {
    pub script: VecDeque<Piece>,
    pub life: Option<Arc<Life>>,
    /// Whom to tell which answers came out, and which did not.
    pub world: World,
    pub calls: Vec<u64>,
    /// The request that it answers, if that is not to be sent again once this has broken.
    pub refuses: Option<u64>,
    sleeping: Option<Pin<Box<Sleep>>>,
    burst: usize,
}

impl Wire {
    pub fn new(world: &World, script: impl IntoIterator<Item = Piece>) -> Self {
        Self {
            script: script.into_iter().collect(),
            life: None,
            world: world.clone(),
            calls: Vec::new(),
            refuses: None,
            sleeping: None,
            burst: 0,
        }
    }

    /// Cuts the script after so many bytes.
    pub fn cut(&mut self, mut after: usize, breaks: bool) {
        let mut kept = VecDeque::new();
        for piece in std::mem::take(&mut self.script) {
            match piece {
                Piece::Data(data, _) if data.len() > after => {
                    kept.push_back(Piece::Data(data.slice(..after), Vec::new()));
                    break;
                }
                Piece::Data(data, calls) => {
                    after -= data.len();
                    kept.push_back(Piece::Data(data, calls));
                }
                piece => kept.push_back(piece),
            }
        }
        if breaks {
            kept.push_back(Piece::Break);
        }
        self.script = kept;
    }

    pub fn bytes(&self) -> usize {
        let len = |piece: &Piece| match piece {
            Piece::Data(data, _) => data.len(),
            _ => 0,
        };
        self.script.iter().map(len).sum()
    }

    fn ended(&mut self, with: Option<Broken>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.script.clear();
        let account = &mut self.world.state().account;
        account.stream_ended(&std::mem::take(&mut self.calls));
        if let (Some(number), Some(_)) = (self.refuses, &with) {
            account.held.entry(number).or_default().is_broken = true;
        }
        Poll::Ready(with.map(Err))
    }
}

impl Body for Wire {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if let Some(life) = &this.life {
            match life.poll_ended(cx) {
                Poll::Ready(Ending::Break) => return this.ended(Some(Broken)),
                Poll::Ready(Ending::Close) => return this.ended(None),
                Poll::Ready(Ending::Linger) | Poll::Pending => {}
            }
        }
        loop {
            if this.burst > 0 {
                this.burst -= 1;
                let filler = Bytes::from_static(if this.burst % 2 == 0 { b"" } else { b":\n\n" });
                return Poll::Ready(Some(Ok(Frame::data(filler))));
            }
            if let Some(sleeping) = &mut this.sleeping {
                ready!(sleeping.as_mut().poll(cx));
                this.sleeping = None;
            }
            match this.script.pop_front() {
                None => return this.ended(None),
                Some(Piece::Break) => return this.ended(Some(Broken)),
                Some(Piece::Hang) => {
                    this.script.push_front(Piece::Hang);
                    return Poll::Pending;
                }
                Some(Piece::Wait(time)) => this.sleeping = Some(Box::pin(sleep(time))),
                Some(Piece::Burst(frames)) => this.burst = frames,
                Some(Piece::Data(data, calls)) => {
                    if !calls.is_empty() {
                        this.world.state().account.yielded(&calls);
                        this.calls.retain(|call| !calls.contains(call));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
            }
        }
    }
}

/// A caller's request body, which may come late.
pub struct Sent {
    data: Option<Bytes>,
    late: Option<Pin<Box<Sleep>>>,
}

impl Sent {
    pub fn new(data: Bytes, late: Option<Duration>) -> Self {
        Self {
            data: Some(data),
            late: late.map(|late| Box::pin(sleep(late))),
        }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(late) = &mut self.late {
            ready!(late.as_mut().poll(cx));
            self.late = None;
        }
        let data = self.data.take().filter(|data| !data.is_empty());
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.late.is_none() && self.data.as_ref().is_none_or(Bytes::is_empty)
    }
}
