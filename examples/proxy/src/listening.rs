//! Listening streams: GETs of a session.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error, connect::Connect};
use pin_project_lite::pin_project;
use tokio::time::{Instant, sleep};

/// How long a stream is waited for. Clients try again one to three times within seconds when they
/// are told that there is no upstream, and then give up, so that nothing reaches them any more when
/// it is back. It is one that restarts, most likely.
const PATIENCE: Duration = Duration::from_secs(60);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Sends a GET. One that belongs to a session waits for an upstream that cannot be reached.
pub async fn listen<C, B>(
    client: Client<C, Empty<Bytes>>,
    request: Request<B>,
) -> Result<Response<Incoming>, Error>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let request = request.map(|_| Empty::new());
    let until = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    loop {
        let answer = client.request(request.clone()).await;
        let waits = matches!(&answer, Err(error) if error.is_connect())
            && request.headers().contains_key("mcp-session-id")
            && Instant::now() + pause < until;
        if !waits {
            return answer;
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Whether an answer to a GET is a listening stream, and not, say, a 405.
pub fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(|it| it.as_bytes());
    content_type.is_some_and(|it| it.starts_with(b"text/event-stream"))
        && !headers.contains_key(CONTENT_LENGTH)
}

pin_project! {
    /// A listening stream that ends where the upstream's breaks, as that of a server does which
    /// closes it: an event that was cut off is none. Python's clients count broken streams as long
    /// as they live, and listen no longer after the second.
    pub struct Ending<B> {
        // `None` when it has broken.
        #[pin]
        body: Option<B>,
    }
}

impl<B> Ending<B> {
    pub fn new(body: B) -> Self {
        Self { body: Some(body) }
    }
}

impl<B: Body> Body for Ending<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = body.poll_frame(cx);
        if !matches!(frame, Poll::Ready(Some(Err(_)))) {
            return frame;
        }
        this.body.set(None);
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
