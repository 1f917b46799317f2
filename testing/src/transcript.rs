//! What a body does, step by step, so that two bodies can be compared.

use std::{
    fmt,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::Body;

/// Polls a body to its end, or until it stays pending, and notes every step: each frame as it is
/// cut, trailers, errors, and what the body says beforehand of its size and its end.
pub fn transcript<B>(body: B) -> Vec<String>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let mut body = pin!(body);
    let mut cx = Context::from_waker(Waker::noop());
    let mut steps: Vec<String> = Vec::new();
    loop {
        let hint = body.size_hint();
        let size = (hint.lower(), hint.upper());
        let ended = body.is_end_stream();
        let step = match body.as_mut().poll_frame(&mut cx) {
            Poll::Pending => "pending".to_owned(),
            Poll::Ready(None) => "end".to_owned(),
            Poll::Ready(Some(Err(error))) => format!("error {error}"),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => format!("{data:?}"),
                Err(frame) => format!("{:?}", frame.into_trailers().ok()),
            },
        };
        let step = format!("{step} of {size:?}, ended {ended}");
        let stays = step.starts_with("pending") && steps.last() == Some(&step);
        let last = stays || step.starts_with("end ");
        steps.push(step);
        if last {
            return steps;
        }
    }
}

/// The frames, trailers and errors of a body, without what it says of its size and with no word
/// of waiting in between.
pub fn frames<B>(body: B) -> Vec<String>
where
    B: Body<Data = Bytes>,
    B::Error: fmt::Display,
{
    let what = |step: String| step.split(" of (").next().unwrap_or_default().to_owned();
    let steps = transcript(body).into_iter().map(what);
    steps.filter(|step| step != "pending").collect()
}
