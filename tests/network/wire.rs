//! The client's connections: turmoil's, and what it cannot do. They break where a link was parted
//! for too long, at once where they are reset, and at any byte where they are cut.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Interval, interval},
};
use turmoil::net::TcpStream;

use crate::account::World;

pub struct Wire {
    stream: TcpStream,
    world: World,
    /// How many resets and partitions there had been when it was opened.
    born: (u64, u64),
    /// For which time of cuts it has been decided, and what.
    decided: Option<u64>,
    cut: Option<Cut>,
    broken: Option<How>,
    watch: Interval,
}

#[derive(Clone, Copy)]
struct Cut {
    is_read: bool,
    after: usize,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Closed,
    Reset,
}

impl Wire {
    pub async fn connect(world: World) -> io::Result<Self> {
        let stream = TcpStream::connect(("server", 80)).await?;
        let state = world.state();
        let born = (state.resets, state.partitions);
        drop(state);
        Ok(Self {
            stream,
            world,
            born,
            decided: None,
            cut: None,
            broken: None,
            watch: interval(Duration::from_millis(200)),
        })
    }

    /// How it is broken, if it is; and how many bytes it may read or write until it is cut.
    fn look(&mut self, is_read: bool) -> (Option<How>, usize) {
        if self.broken.is_some() {
            return (self.broken, 0);
        }
        let state = &mut *self.world.state();
        let is_parted = self.born.1 < state.partitions && state.now() >= state.partition_noticed;
        if self.born.0 < state.resets || is_parted {
            self.broken = Some(How::Reset);
        }
        if self.decided != state.cuts {
            self.decided = state.cuts;
            let random = &mut state.random;
            self.cut = (state.cuts.is_some() && random.chance(60)).then(|| Cut {
                is_read: random.chance(70),
                after: random.index(900),
                how: random.pick(&[How::Closed, How::Reset]),
            });
        }
        match self.cut {
            Some(cut) if cut.is_read == is_read => {
                if cut.after == 0 {
                    state.counts.cuts += 1;
                    self.broken = Some(cut.how);
                }
                (self.broken, cut.after)
            }
            _ => (self.broken, usize::MAX),
        }
    }

    fn passed(&mut self, is_read: bool, bytes: usize) {
        if let Some(cut) = self.cut.as_mut().filter(|cut| cut.is_read == is_read) {
            cut.after -= bytes;
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever waits is woken to look again.
        while this.watch.poll_tick(cx).is_ready() {}
        let may_read = match this.look(true) {
            (Some(How::Closed), _) => return Poll::Ready(Ok(())),
            (Some(How::Reset), _) => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            (None, may_read) => may_read,
        };
        let mut bytes = vec![0; may_read.min(buf.remaining()).min(8 * 1024)];
        let mut part = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
        buf.put_slice(part.filled());
        let read = part.filled().len();
        this.passed(true, read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let may_write = match this.look(false) {
            (Some(_), _) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            (None, may_write) => may_write.min(buf.len()),
        };
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &buf[..may_write]))?;
        this.passed(false, written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
