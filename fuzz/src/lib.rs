//! What the fuzz targets share: a scripted server, a caller, and the bytes that they exchange.
//!
//! The targets know the library by its public surface alone. Each of them lets a caller talk to
//! a server through [`SessionRecovery`](mcp_session_recovery::SessionRecovery) and holds what
//! arrives on either side against what was sent on the other.

mod caller;
mod events;
mod heap;
mod input;
mod reply;
mod server;

use std::time::Duration;

pub use self::{
    caller::{Answer, get, initialize, post, request, send, session_of},
    events::{Answered, Events, at_boundary, end_of_line},
    heap::Heap,
    input::{End, Flood, MAX_TEXT, Pieces, Size, pick},
    reply::{CALLERS, NEW, Reply, Sent},
    server::{Acts, end, json_reply, reply, serve},
};

pub use testing::{
    Feed, Feeder, LAST_EVENT_ID, PROTOCOL_VERSION, SESSION_ID, Seen, ServerService, Step,
    TestError, VERSION, feed,
};

/// The error that a body, or the transport, ends with.
pub const BROKEN: TestError = TestError("broken");

/// Runs a test on a paused clock: time goes on only when nothing else can, and costs none.
pub fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(test);
}

/// Lets everything happen that can happen now.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Fails a test that would wait for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    // Reading an answer, a ping, a recovery, another answer: 10 s each.
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("this takes too long")
}

/// Whether the text is somewhere in the bytes.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}
