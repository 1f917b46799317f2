//! The bodies of the server's answers: what comes when.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use crate::account::World;

#[derive(Default)]
pub struct Answer {
    script: VecDeque<(Duration, Bytes)>,
    sleeping: Option<Pin<Box<Sleep>>>,
    /// The session whose end may be its end, too; and whether it lasts as long.
    of: Option<(World, usize, bool)>,
}

impl Answer {
    pub fn of(script: impl IntoIterator<Item = (Duration, Bytes)>) -> Self {
        Self {
            script: script.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Ends with its session if that closes its streams.
    pub fn of_session(mut self, world: &World, serial: usize, listens: bool) -> Self {
        self.of = Some((world.clone(), serial, listens));
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some((world, serial, listens)) = &self.of {
            let listens = *listens;
            let (is_alive, is_closed) = {
                let session = &world.state().upstreams[*serial];
                (session.is_alive, session.is_closed)
            };
            if is_closed || listens && !is_alive {
                return Poll::Ready(None);
            }
            if listens && self.script.is_empty() {
                let beat = Bytes::from_static(b": still there\n\n");
                self.script.push_back((Duration::from_millis(400), beat));
            }
        }
        let Some((after, _)) = self.script.front() else {
            return Poll::Ready(None);
        };
        let after = *after;
        let sleeping = self.sleeping.get_or_insert_with(|| Box::pin(sleep(after)));
        ready!(sleeping.as_mut().poll(cx));
        self.sleeping = None;
        let (_, bytes) = self.script.pop_front().expect("there was one");
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}
