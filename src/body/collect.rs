//! Takes a request body whole, before it is sent, if the limit allows (rule K1).

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::Body;

use super::request::{BufferedBody, RequestBody};

/// Collects a body up to a limit.
///
/// Nothing is allocated for a body in one frame. Of a body that says beforehand that it is too
/// large, the first frame alone is taken.
pub(crate) struct Collect<B: Body> {
    body: Option<B>,
    first: Option<Bytes>,
    frames: Vec<Bytes>,
    len: usize,
    limit: usize,
    /// The body says itself that it is larger than the limit.
    too_large: bool,
}

impl<B: Body> Collect<B> {
    pub(crate) fn new(body: B, limit: usize) -> Self {
        let too_large = body.size_hint().lower() > limit as u64;
        Self {
            body: Some(body),
            first: None,
            frames: Vec::new(),
            len: 0,
            limit,
            too_large,
        }
    }

    fn take(&mut self, trailers: Option<HeaderMap>) -> BufferedBody {
        BufferedBody::new(
            std::mem::take(&mut self.frames),
            self.first.take(),
            trailers,
        )
    }
}

impl<B> Future for Collect<B>
where
    B: Body + Unpin,
{
    type Output = Result<BufferedBody, RequestBody<B>>;

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BufferedBody, RequestBody<B>>> {
        let this = self.get_mut();
        let mut body = this.body.take().expect("Collect polled after completion");
        loop {
            if body.is_end_stream() {
                return Poll::Ready(Ok(this.take(None)));
            }
            let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(cx) else {
                this.body = Some(body);
                return Poll::Pending;
            };
            match frame {
                None => return Poll::Ready(Ok(this.take(None))),
                Some(Err(error)) => {
                    let broken = RequestBody::broken(this.take(None), error);
                    return Poll::Ready(Err(broken));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(mut data) => {
                        let data = data.copy_to_bytes(data.remaining());
                        this.len += data.len();
                        match &this.first {
                            None => this.first = Some(data),
                            Some(_) => this.frames.push(data),
                        }
                        if this.too_large || this.len > this.limit {
                            let begun = RequestBody::begun(this.take(None), body);
                            return Poll::Ready(Err(begun));
                        }
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        return Poll::Ready(Ok(this.take(trailers)));
                    }
                },
            }
        }
    }
}
