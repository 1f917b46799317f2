//! What the layer costs on the way that nearly every request goes, in allocations beyond those of
//! the service that it wraps (rules A1, B1; the hot path of the design's "Shape").
//!
//! Exact numbers, so that nobody makes it dearer, or cheaper, without noticing.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{SessionRecovery, SessionRecoveryLayer};
use testing::{SESSION_ID, initialize, tool_call};
use tower::{Layer, Service};

/// Counts the allocations of each thread by itself, so that tests do not count one another's.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is left to the system's allocator. The counter has neither to be made nor to
// be dropped, so counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Answers each request as its headers ask for, at once.
#[derive(Clone)]
struct Bare;

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asked = request.headers();
        let text = |name: &str| asked.get(name).map_or("", |value| value.to_str().unwrap());
        let session = text(SESSION_ID);
        let body = if session.is_empty() { RESULT } else { "{}" };
        let mut response = Response::new(Full::from(body));
        let (status, content_type) = match text("x-reply") {
            "accepted" => (202, "text/plain"),
            "no stream" => (405, "text/plain"),
            "stream" => (200, "text/event-stream"),
            "lost" if !session.is_empty() && session != text("x-live") => (404, "text/plain"),
            _ => (200, "application/json"),
        };
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static(content_type));
        if let Some(live) = asked.get("x-live") {
            headers.insert(SESSION_ID, live.clone());
        }
        ready(Ok(response))
    }
}

const RESULT: &str = r#"{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}"#;

type Recovering = SessionRecovery<Bare>;

/// A request as it comes from a client, its header values in one piece of memory each.
fn request(
    method: Method,
    session: Option<&str>,
    body: impl Into<Bytes>,
    more: &[(&'static str, &str)],
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.into()));
    let json = method == Method::POST;
    *request.method_mut() = method;
    *request.uri_mut() = "http://mcp.test/mcp".parse().unwrap();
    let headers = request.headers_mut();
    if json {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
    }
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
    headers.insert("accept", value("application/json, text/event-stream"));
    headers.insert("authorization", value("Bearer some-token-of-usual-length"));
    headers.insert("user-agent", value("caller/1.0"));
    if let Some(session) = session {
        headers.insert(SESSION_ID, value(session));
        headers.insert("mcp-protocol-version", value("2025-11-25"));
    }
    for (name, text) in more {
        headers.insert(*name, value(text));
    }
    request
}

/// How often memory is allocated while a request is answered and the answer is read.
fn allocations<S, R>(service: &mut S, request: Request<Full<Bytes>>) -> usize
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>, Error = Infallible>,
    R: Body<Data = Bytes> + Unpin,
{
    let mut nobody = Context::from_waker(Waker::noop());
    let before = COUNT.get();
    assert!(service.poll_ready(&mut nobody).is_ready());
    let mut future = pin!(service.call(request));
    let Poll::Ready(Ok(mut response)) = future.as_mut().poll(&mut nobody) else {
        panic!("the answer is there at once");
    };
    while let Poll::Ready(Some(_)) = pin!(response.body_mut().frame()).poll(&mut nobody) {}
    let after = COUNT.get();
    assert!(!response.status().is_client_error() || response.status() == 405);
    after - before
}

/// What it costs beyond the bare service.
fn beyond(client: &mut Recovering, request: impl Fn() -> Request<Full<Bytes>>) -> usize {
    // What is made once for each thread or each layer is none of a request's costs.
    allocations(client, request());
    let layered = allocations(client, request());
    let again = allocations(client, request());
    assert_eq!(layered, again, "a cost that is not stable");
    layered - allocations(&mut Bare, request())
}

/// A client with a session that it knows as `first`, in the given epoch.
async fn session(epoch: usize) -> Recovering {
    let mut client = SessionRecoveryLayer::new().layer(Bare);
    let post = |session, text: String, live: &str| {
        request(Method::POST, session, text, &[("x-live", live)])
    };
    let initialize = post(None, initialize().to_string(), "first");
    let made = client.call(initialize).await.unwrap();
    made.into_body().collect().await.unwrap();
    for epoch in 1..=epoch {
        let live = format!("epoch-{epoch}");
        let mut lost = post(Some("first"), tool_call(1).to_string(), &live);
        // Answered 404 where the session is not the one that lives now.
        lost.headers_mut()
            .insert("x-reply", HeaderValue::from_static("lost"));
        let answered = client.call(lost).await.unwrap();
        assert_eq!(answered.status(), 200);
        assert_eq!(answered.headers()[SESSION_ID], "first");
    }
    client
}

fn live(epoch: usize) -> String {
    match epoch {
        0 => "first".to_owned(),
        epoch => format!("epoch-{epoch}"),
    }
}

/// A1, A2, B1: what is none of the layer's business costs nothing.
#[tokio::test]
async fn a1_a_request_that_is_not_touched_costs_nothing() {
    let mut client = session(0).await;
    let body = tool_call(1).to_string();
    let json = ("x-reply", "json");
    for (what, method, session, more) in [
        ("no session", Method::GET, None, &[json][..]),
        ("an unknown session", Method::POST, Some("unknown"), &[json]),
        ("an unknown session", Method::GET, Some("unknown"), &[json]),
        (
            "no MCP",
            Method::POST,
            None,
            &[("content-type", "text/xml")],
        ),
        (
            "another method",
            Method::POST,
            None,
            &[("mcp-method", "tools/call")],
        ),
        (
            "a revision without sessions",
            Method::POST,
            Some("first"),
            &[("mcp-protocol-version", "2026-07-28")],
        ),
    ] {
        let request = || request(method.clone(), session, body.clone(), more);
        assert_eq!(beyond(&mut client, request), 0, "{what}");
    }
}

/// B1: nor does a POST that might have been an `initialize`, once its body has shown that it is
/// none.
#[tokio::test]
async fn b1_a_candidate_that_is_none_costs_nothing() {
    let mut client = session(0).await;
    let body = tool_call(1).to_string();
    let more = [("x-reply", "json")];
    let candidate = || request(Method::POST, None, body.clone(), &more);
    assert_eq!(beyond(&mut client, candidate), 0);
}

/// What a request on a live session costs: its head is packed, its body shared, and that is it, in
/// whatever epoch the session is and however large the body.
#[tokio::test]
async fn a_request_on_a_live_session_costs_little() {
    // Bytes that were not shared before are, at the price of one allocation.
    const HEAD: usize = 1;
    const HEAD_AND_BODY: usize = 2;
    for epoch in [0, 1, 3] {
        let mut client = session(epoch).await;
        let live = live(epoch);
        for (method, reply, bytes, cost) in [
            (Method::POST, "json", 10, HEAD_AND_BODY),
            (Method::POST, "json", 1024, HEAD_AND_BODY),
            // As large as is kept.
            (Method::POST, "json", 1024 * 1024 - 200, HEAD_AND_BODY),
            (Method::POST, "accepted", 10, HEAD_AND_BODY),
            (Method::GET, "no stream", 0, HEAD),
            (Method::DELETE, "no stream", 0, HEAD),
        ] {
            let more = [("x-reply", reply), ("x-live", &live)];
            let mut call = tool_call(1);
            call["params"]["arguments"] = "x".repeat(bytes).into();
            if reply == "accepted" {
                // What a server accepts without a response is a notification.
                call.as_object_mut().unwrap().remove("id");
            }
            let body = match method {
                Method::POST => call.to_string(),
                _ => String::new(),
            };
            let shared = Bytes::from(body.clone());
            let made = |body: Bytes| request(method.clone(), Some("first"), body, &more);
            let context = format!("{method} of {bytes} bytes, {reply}, epoch {epoch}");
            let own = beyond(&mut client, || made(body.clone().into()));
            assert_eq!(own, cost, "{context}");
            let shared = beyond(&mut client, || made(shared.clone()));
            assert_eq!(shared, HEAD, "{context}");
        }
    }
}

/// An event stream has to be read along: that costs more, once for each stream. Not to the last
/// allocation, since most are those of the decoder.
#[tokio::test]
async fn an_event_stream_costs_more_once() {
    let mut client = session(1).await;
    for (method, most) in [(Method::GET, 20), (Method::POST, 45)] {
        let more = [("x-reply", "stream"), ("x-live", "epoch-1")];
        let body = tool_call(1).to_string();
        let stream = || request(method.clone(), Some("first"), body.clone(), &more);
        let cost = beyond(&mut client, stream);
        assert!((2..=most).contains(&cost), "{method}: {cost}");
    }
}
