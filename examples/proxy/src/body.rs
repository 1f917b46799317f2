//! A client's request body: read before anything is sent, so that a client that is slow, or goes
//! away, is no concern of the upstream's.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

/// How much of a body is read before the request is sent: as much as the layer keeps, too. A larger
/// one passes while it comes.
const READ_FIRST: usize = 1024 * 1024;

/// Why a body has no end. It is the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    TooLarge,
    TooSlow,
    BrokeOff,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request body is too large; --max-body-bytes sets the limit",
            Self::TooSlow => "the request body took too long; --body-timeout sets the limit",
            Self::BrokeOff => "the request body broke off",
        })
    }
}

impl Error for Broken {}

/// A client's body, whole or still coming. Clones are for sending a request again that nobody has
/// got: what was read of one is missing in the others.
#[derive(Clone)]
pub struct ClientBody {
    begun: Bytes,
    rest: Option<Arc<Mutex<Rest>>>,
}

struct Rest {
    body: Limited<Incoming>,
    late: Pin<Box<Sleep>>,
}

impl ClientBody {
    /// Reads all of a body, unless it is large. It has to be there within `patience`, and not be
    /// larger than `limit`.
    pub async fn read(body: Incoming, limit: usize, patience: Duration) -> Result<Self, Broken> {
        let until = Instant::now() + patience;
        let mut body = Limited::new(body, limit);
        let (mut first, mut more) = (Bytes::new(), BytesMut::new());
        loop {
            let frame = timeout_at(until, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Broken::TooSlow)? else {
                let begun = if more.is_empty() {
                    first
                } else {
                    more.freeze()
                };
                return Ok(Self { begun, rest: None });
            };
            // Trailers say nothing in MCP.
            let Ok(data) = frame.map_err(|why| why_broken(&*why))?.into_data() else {
                continue;
            };
            // Most bodies are a single chunk, which is not copied.
            if first.is_empty() && more.is_empty() {
                first = data;
            } else {
                more.extend_from_slice(&std::mem::take(&mut first));
                more.extend_from_slice(&data);
            }
            if first.len() + more.len() > READ_FIRST {
                let begun = if more.is_empty() {
                    first
                } else {
                    more.freeze()
                };
                let late = Box::pin(sleep_until(until));
                let rest = Some(Arc::new(Mutex::new(Rest { body, late })));
                return Ok(Self { begun, rest });
            }
        }
    }

    /// All of it, if it was not large.
    pub fn whole(&self) -> Option<Bytes> {
        self.rest.is_none().then(|| self.begun.clone())
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.begun)))));
        }
        let Some(rest) = &self.rest else {
            return Poll::Ready(None);
        };
        let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Poll::Ready(frame) = Pin::new(&mut rest.body).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(|why| why_broken(&*why))));
        }
        rest.late
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(Broken::TooSlow)))
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let begun = self.begun.len() as u64;
        let Some(rest) = &self.rest else {
            return SizeHint::with_exact(begun);
        };
        let rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = rest.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(begun + rest.lower());
        // A limit is no length.
        if rest.exact().is_some() {
            hint.set_upper(begun + rest.lower());
        }
        hint
    }
}

fn why_broken(error: &(dyn Error + Send + Sync + 'static)) -> Broken {
    match error.is::<LengthLimitError>() {
        true => Broken::TooLarge,
        false => Broken::BrokeOff,
    }
}
