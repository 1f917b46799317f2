//! What goes on while nobody waits for it.

use std::{pin::Pin, time::Duration};

use bytes::Buf;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{runtime::Handle, task::consume_budget, time::timeout};

/// How long the rest of a body is read, and how much of it, once what was wanted of it has been
/// found, so that its connection can be used again.
const TIMEOUT: Duration = Duration::from_secs(1);
const LIMIT: usize = 1024 * 1024;
/// What a frame without data counts for.
const EMPTY_FRAME: usize = 64;

/// Reads a body to its end while others go on, so that its connection can be used again.
pub(super) fn drain_in_background<R>(body: Pin<Box<R>>)
where
    R: Body<Data: Send, Error: Send> + Send + 'static,
{
    in_background(TIMEOUT, drain(body));
}

/// Reads a body to its end, or to the limit.
pub(super) async fn drain<R: Body>(mut body: Pin<Box<R>>) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        // A body that is always ready does not keep the thread.
        consume_budget().await;
        read += frame.data_ref().map_or(0, Buf::remaining).max(EMPTY_FRAME);
        if read > LIMIT {
            return;
        }
    }
}

pub(super) fn in_background(patience: Duration, work: impl Future<Output = ()> + Send + 'static) {
    // While a runtime shuts down there is none, and nothing to be done.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(timeout(patience, work));
    }
}
