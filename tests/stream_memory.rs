//! Whatever a stream holds, little of it is held by the layer: rules G3, G9, K7.
//!
//! One test, since it counts what the whole process allocates.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use mcp_session_recovery::SessionRecoveryLayer;
use testing::*;
use tower::ServiceExt;

/// Counts the bytes that are allocated, now and at most.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A body of `left` chunks, each made when it is read.
struct Generated<F> {
    chunk: F,
    left: usize,
}

impl<F: FnMut(usize) -> Bytes + Unpin> Body for Generated<F> {
    type Data = Bytes;
    type Error = TestError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TestError>>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left = left;
        Poll::Ready(Some(Ok(Frame::data((self.chunk)(left)))))
    }
}

/// Makes chunk after chunk.
type Chunk = Box<dyn FnMut(usize) -> Bytes + Send + Sync>;

/// The same chunk of a mebibyte at most, over and over.
fn same(text: &str) -> Chunk {
    let chunk = Bytes::from(text.repeat((1 << 20) / text.len()));
    Box::new(move |_| chunk.clone())
}

/// Name, chunks, how many of them, and how much may be held while they pass.
type Case = (&'static str, Box<dyn Fn() -> Chunk>, usize, usize);

fn ids(filler: &'static str) -> Chunk {
    Box::new(move |number| format!("id: {filler}{number}\ndata: {{}}\n\n").into())
}

#[test]
fn no_stream_makes_the_layer_hold_much() {
    const MIB: usize = 1 << 20;
    /// More mebibytes than may be held.
    const MANY: usize = 5;
    let large: &'static str = "i".repeat(64 * 1024).leak();
    let streams: [Case; 11] = [
        ("event ids", Box::new(|| ids("")), 25_000, MIB),
        (
            "large event ids",
            Box::new(move || ids(large)),
            100,
            4 * MIB,
        ),
        (
            "small events",
            Box::new(|| same("data: {\"id\":7}\n\n")),
            MANY,
            4 * MIB,
        ),
        (
            "one endless line",
            Box::new(|| same("data: x")),
            MANY,
            4 * MIB,
        ),
        (
            "one endless event",
            Box::new(|| same("data: x\n")),
            MANY,
            4 * MIB,
        ),
        (
            "one endless event without data",
            Box::new(|| same("data\n")),
            MANY,
            4 * MIB,
        ),
        (
            "one endless name",
            Box::new(|| same("event: x")),
            MANY,
            4 * MIB,
        ),
        (
            "one batch of many messages",
            Box::new(|| {
                let messages = "{},".repeat(349_000);
                let batch = format!("data: [{messages}{{\"id\":2,\"result\":0}}]\n\n");
                let chunk = Bytes::from(batch);
                Box::new(move |_| chunk.clone())
            }),
            MANY,
            4 * MIB,
        ),
        ("comments", Box::new(|| same(": x\n")), MANY, 4 * MIB),
        (
            "what is no event stream",
            Box::new(|| same("\0\u{ff}")),
            MANY,
            4 * MIB,
        ),
        ("blank lines", Box::new(|| same("\r\n\r\n")), MANY, 4 * MIB),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        k7_a_batch_that_is_answered_bit_by_bit_holds_little().await;
        let server = Server::new(Profile::TypeScript);
        let client = client(&server, SessionRecoveryLayer::new());
        for (name, chunk, count, limit) in &streams {
            let session = handshake(&client).await;
            for request in [get(&session, None), post(Some(&session), &tool_call(1))] {
                let what = format!("{name}, {}", request.method());
                // Given a session with a large stream,
                let generated = Generated {
                    chunk: chunk(),
                    left: *count,
                };
                let mut reply = Response::new(generated.boxed());
                let event_stream = "text/event-stream".parse().unwrap();
                reply.headers_mut().insert("content-type", event_stream);
                let mut reply = Some(reply);
                server.on(move |seen| match seen.what().as_str() {
                    "GET" | "tools/call" => reply.take(),
                    _ => None,
                });
                let response = client.clone().oneshot(request).await.unwrap();
                let mut body = response.into_body();

                // when all of it passes,
                let before = LIVE.load(Relaxed);
                PEAK.store(before, Relaxed);
                let mut passed = 0;
                while let Some(frame) = body.frame().await {
                    passed += usize::from(frame.unwrap().is_data());
                }

                // then hardly anything of it is held, in between or afterwards.
                assert!(passed >= *count, "{what}");
                let held = PEAK.load(Relaxed) - before;
                assert!(held < *limit, "{what}: {held} bytes at most");
                drop(body);
                let left = LIVE.load(Relaxed).saturating_sub(before);
                assert!(left < MIB, "{what}: {left} bytes left");
            }
        }
    });
}

/// K7: a batch of 496 KiB, each of whose requests is answered with an event id.
async fn k7_a_batch_that_is_answered_bit_by_bit_holds_little() {
    const BATCH: usize = 1_000;
    const CALLS: usize = 3;
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    let id = |number: usize| format!("{number:0450}");
    let requests: Vec<_> = (0..BATCH)
        .map(|number| serde_json::json!({"id": id(number), "method": "tools/call"}))
        .collect();
    let batch = serde_json::Value::Array(requests);
    server.on(move |seen| {
        let answers = move |left: usize| {
            let number = BATCH - 1 - left;
            let data = format!(r#"{{"id":"{}","result":0}}"#, id(number));
            Bytes::from(format!("id: {number}\ndata: {data}\n\n"))
        };
        seen.message().is_array().then(|| {
            let generated = Generated {
                chunk: answers,
                left: BATCH - 1,
            };
            let mut reply = Response::new(generated.boxed());
            let event_stream = "text/event-stream".parse().unwrap();
            reply.headers_mut().insert("content-type", event_stream);
            reply
        })
    });
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    for _ in 0..CALLS {
        let request = post(Some(&session), &batch);
        let response = client.clone().oneshot(request).await.unwrap();
        let _ = response.into_body().collect().await;
    }
    let held = PEAK.load(Relaxed) - before;
    let left = LIVE.load(Relaxed).saturating_sub(before);
    // The server keeps what it has seen.
    assert!(held < 32 << 20, "{held} bytes at most");
    assert!(left < 4 << 20, "{left} bytes left");
}
