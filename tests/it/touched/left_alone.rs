//! What the layer leaves alone: rules A1 to A3.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use mcp_session_recovery::{Outcome, RequestBody, SessionRecovery, SessionRecoveryLayer, Sessions};
use serde_json::json;
use testing::transcript::transcript;
use testing::*;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::mock;

type Mock = mock::Mock<Request<RequestBody<CallerBody>>, Reply>;
type Handle = mock::Handle<Request<RequestBody<CallerBody>>, Reply>;

#[derive(Clone, Debug, PartialEq)]
struct Marker(&'static str);

/// A client whose one session has been recorded, as `recorded` at [`URI`].
async fn recorded() -> (SessionRecovery<Mock>, Handle, Sessions) {
    let (service, mut handle) = mock::pair();
    let sessions = Sessions::new();
    let client = SessionRecoveryLayer::new()
        .sessions(sessions.clone())
        .layer(service);
    let serve = async {
        let (_, respond) = handle.next_request().await.unwrap();
        let mut reply = json_reply(200, &json!({"jsonrpc": "2.0", "id": 0, "result": {}}));
        reply
            .headers_mut()
            .insert(SESSION_ID, "recorded".parse().unwrap());
        respond.send_response(reply);
    };
    let (answer, ()) = tokio::join!(send(&client, post(None, &initialize())), serve);
    assert_eq!((answer.session(), sessions.len()), (Some("recorded"), 1));
    (client, handle, sessions)
}

/// Requests that are none of the layer's business, as long as the only session is `recorded`.
fn others_business() -> Vec<(&'static str, Request<CallerBody>)> {
    let build = |method: Method, uri: &str, headers: &[(&'static str, &'static str)]| {
        let mut request = request(method, None, initialize().to_string());
        *request.uri_mut() = uri.parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request
    };
    let mut untyped = build(Method::POST, URI, &[]);
    untyped.headers_mut().remove("content-type");
    let recorded = (SESSION_ID, "recorded");
    let version = |version| [recorded, (PROTOCOL_VERSION, version)];
    vec![
        ("a GET without an id", build(Method::GET, URI, &[])),
        ("a DELETE without an id", build(Method::DELETE, URI, &[])),
        (
            "a PUT of JSON",
            build(Method::PUT, URI, &[("content-type", "application/json")]),
        ),
        (
            "a POST of text",
            build(Method::POST, URI, &[("content-type", "text/plain")]),
        ),
        ("a POST of who knows what", untyped),
        (
            "a POST that names its method",
            build(Method::POST, URI, &[("mcp-method", "tools/call")]),
        ),
        (
            "a POST with an unknown id",
            build(Method::POST, URI, &[(SESSION_ID, "unknown")]),
        ),
        (
            "a GET with an unknown id",
            build(Method::GET, URI, &[(SESSION_ID, "unknown")]),
        ),
        (
            "the id at another path",
            build(Method::POST, "http://mcp.test/other", &[recorded]),
        ),
        (
            "the id at another host",
            build(Method::POST, "http://other.test/mcp", &[recorded]),
        ),
        (
            "the id at another port",
            build(Method::POST, "http://mcp.test:81/mcp", &[recorded]),
        ),
        (
            "the id with another scheme",
            build(Method::POST, "https://mcp.test/mcp", &[recorded]),
        ),
        (
            "A2: a POST of 2026-07-28 with a stale id",
            build(Method::POST, URI, &version("2026-07-28")),
        ),
        (
            "A2: a GET of 2026-07-28 with a stale id",
            build(Method::GET, URI, &version("2026-07-28")),
        ),
        (
            "A2: a DELETE of 2026-07-28 with a stale id",
            build(Method::DELETE, URI, &version("2026-07-28")),
        ),
        (
            "A2: a POST of a later revision with a stale id",
            build(Method::POST, URI, &version("2027-03-01")),
        ),
        (
            "A2: an initialize of 2026-07-28",
            build(Method::POST, URI, &[(PROTOCOL_VERSION, "2026-07-28")]),
        ),
    ]
}

/// Bodies of every kind: ready, slow, never ending, with trailers, broken.
fn bodies() -> Vec<Vec<CallerBody>> {
    let trailers = || HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let scripts: [fn(&HeaderMap) -> CallerBody; 5] = [
        |_| full(""),
        |_| full("whole"),
        |trailers| {
            let script = Script::new().data("a").yields().data("b").data("");
            script.trailers(trailers.clone()).boxed()
        },
        |_| Script::new().data("begun").pending().boxed(),
        |_| Script::new().data("begun").error("broken").boxed(),
    ];
    let pair = |script: fn(&HeaderMap) -> CallerBody| {
        (0..3).map(|_| script(&trailers())).collect::<Vec<_>>()
    };
    scripts.into_iter().map(pair).collect()
}

/// A1, A2, A3: a 404 is the answer that tempts most, so each of these requests is given one.
#[tokio::test]
async fn what_is_not_the_layers_business_goes_out_and_comes_back_as_it_came() {
    let (client, mut handle, sessions) = recorded().await;
    for number in 0..others_business().len() {
        for mut bodies in bodies() {
            // Given a request with a body that may not be there yet, or never end,
            let (what, mut request) = others_business().remove(number);
            let wanted = transcript(bodies.pop().unwrap());
            *request.version_mut() = Version::HTTP_2;
            request.extensions_mut().insert(Marker("request"));
            *request.body_mut() = bodies.pop().unwrap();
            let (head, body) = request.into_parts();
            let sent = head.clone();

            // when it is called, and before anything is polled,
            let mut service = client.clone();
            futures::future::poll_fn(|cx| service.poll_ready(cx))
                .await
                .unwrap();
            let sending = service.call(Request::from_parts(head, body));

            // then the inner service has it, frame for frame;
            let (seen, respond) = handle.next_request().now_or_never().unwrap().unwrap();
            let (seen, body) = seen.into_parts();
            assert_eq!(
                (seen.method, seen.uri, seen.version, seen.headers),
                (sent.method, sent.uri, sent.version, sent.headers),
                "{what}"
            );
            assert_eq!(seen.extensions.get(), Some(&Marker("request")), "{what}");
            assert_eq!(transcript(body), wanted, "{what}");

            // and what that answers is there at once, frame for frame, and all that happens.
            let mut reply = Response::new(bodies.pop().unwrap());
            *reply.status_mut() = http::StatusCode::NOT_FOUND;
            *reply.version_mut() = Version::HTTP_2;
            reply.extensions_mut().insert(Marker("response"));
            for (name, value) in [
                (SESSION_ID, "recorded"),
                ("content-type", "text/event-stream"),
                ("content-length", "7"),
            ] {
                reply.headers_mut().insert(name, value.parse().unwrap());
            }
            let headers = reply.headers().clone();
            respond.send_response(reply);
            let (seen, body) = sending.now_or_never().unwrap().unwrap().into_parts();
            assert_eq!(
                (seen.status.as_u16(), seen.version, seen.headers),
                (404, Version::HTTP_2, headers),
                "{what}"
            );
            assert_eq!(seen.extensions.get(), Some(&Marker("response")), "{what}");
            assert_eq!(seen.extensions.len(), 1, "{what}");
            assert_eq!(transcript(body), wanted, "{what}");
            settle().await;
            assert!(handle.next_request().now_or_never().is_none(), "{what}");
            assert_eq!(sessions.len(), 1, "{what}");
        }
    }
}

/// Counts the allocations of the thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATIONS.get();
    let done = work();
    (ALLOCATIONS.get() - before, done)
}

/// Answers 404 without allocating anything, but for what is to be recorded.
#[derive(Clone)]
struct NotFound;

const RECORD: &str = "x-record";

impl<B> Service<Request<B>> for NotFound {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut response = Response::new(Full::new(Bytes::from_static(b"none")));
        if request.headers().contains_key(RECORD) {
            let id = "recorded".parse().unwrap();
            response.headers_mut().insert(SESSION_ID, id);
        } else {
            *response.status_mut() = http::StatusCode::NOT_FOUND;
        }
        ready(Ok(response))
    }
}

/// A1, with a session recorded, so that there is something to compare with.
#[test]
fn a1_what_is_not_the_layers_business_costs_no_allocation() {
    assert_eq!(allocations(|| Box::new([0; 64])).0, 1, "counts none");
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    let mut client = layer.layer(NotFound);
    let whole = |_| Full::new(Bytes::from(initialize().to_string()));
    let mut request = post(None, &initialize()).map(whole);
    let record = "".parse().unwrap();
    request.headers_mut().insert(RECORD, record);
    drop(client.call(request).now_or_never().unwrap());
    assert_eq!(sessions.len(), 1);
    for (what, request) in others_business() {
        let request = request.map(|_| Full::new(Bytes::from_static(b"whole")));
        let (count, status) = allocations(|| {
            let mut cx = Context::from_waker(Waker::noop());
            let ready = Service::<Request<Full<Bytes>>>::poll_ready(&mut client, &mut cx);
            assert!(ready.is_ready());
            let mut sending = std::pin::pin!(client.call(request));
            let Poll::Ready(Ok(response)) = sending.as_mut().poll(&mut cx) else {
                panic!("{what}");
            };
            response.status().as_u16()
        });
        assert_eq!((count, status), (0, 404), "{what}");
    }
}

/// A2: in the epochs after the first, too.
#[tokio::test]
async fn a2_a_request_of_2026_07_28_is_not_translated() {
    // Given a session in its second epoch,
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let recovered = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(recovered.outcome(), Some(Outcome::Replayed));
    let before = server.seen().len();

    // when the caller's id comes with a request of a revision that has no sessions,
    let mut request = post(Some(&session), &tool_call(2));
    let version = "2026-07-28".parse().unwrap();
    request.headers_mut().insert(PROTOCOL_VERSION, version);
    let answer = send(&client, request).await;

    // then it goes out as it came, and the server's 404 comes back.
    assert_eq!((answer.status, answer.recovery), (404, None));
    let seen = &server.seen()[before..];
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].session(), Some(session.as_str()));
    assert_eq!(seen[0].header(PROTOCOL_VERSION), Some("2026-07-28"));
}

/// A2: but a session that was recorded with that very revision is one. Some servers negotiate it
/// and hand out an id all the same.
#[tokio::test]
async fn a2_a_session_of_2026_07_28_is_recovered_in_its_own_revision() {
    // Given a session that was negotiated so, and that the server has forgotten,
    let server = Server::new(Profile::TypeScript);
    server.set_version("2026-07-28");
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();

    // when it is asked in another revision without sessions, then its id is left alone;
    // in its own, it is recovered.
    for (version, outcome) in [
        ("2027-01-01", None),
        ("2026-07-28", Some(Outcome::Replayed)),
    ] {
        let mut request = post(Some(&session), &tool_call(1));
        let version = version.parse().unwrap();
        request.headers_mut().insert(PROTOCOL_VERSION, version);
        assert_eq!(send(&client, request).await.outcome(), outcome);
    }
}

/// A3: two servers that count their sessions hand out the same ids.
#[tokio::test]
async fn a3_endpoints_that_hand_out_the_same_id_share_nothing() {
    for other in [
        "https://mcp.test/mcp",
        "http://other.test/mcp",
        "http://mcp.test:8080/mcp",
        "http://mcp.test/other",
    ] {
        // Given two endpoints with the same session id, one of which has forgotten it,
        let servers = [
            Server::new(Profile::TypeScript),
            Server::new(Profile::TypeScript),
        ];
        let [one, two] = servers.each_ref().map(Server::service);
        let route = move |request: Request<RequestBody<CallerBody>>| match request.uri() == URI {
            true => one.clone().oneshot(request),
            false => two.clone().oneshot(request),
        };
        let client = SessionRecoveryLayer::new().layer(service_fn(route));
        let uris = [URI, other];
        let send_to = |number: usize, session: Option<&str>, message| {
            let mut request = post(session, &message);
            let credentials = format!("Bearer for-{number}").parse().unwrap();
            request.headers_mut().insert("authorization", credentials);
            *request.uri_mut() = uris[number].parse().unwrap();
            let client = client.clone();
            async move { send(&client, request).await }
        };
        let mut session = String::new();
        for number in [0, 1] {
            let mut message = initialize();
            message["params"]["clientInfo"]["name"] = json!(number);
            let answer = send_to(number, None, message).await;
            assert!(number == 0 || answer.session() == Some(session.as_str()));
            session = answer.session().unwrap().to_owned();
        }

        // when a call to that one is made,
        for dead in [0, 1] {
            servers[dead].restart();
            let before = servers[1 - dead].seen().len();
            let answer = send_to(dead, Some(&session), tool_call(1)).await;
            assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{other}");

            // then the other one hears nothing, and its session goes on as it was,
            assert_eq!(servers[1 - dead].seen().len(), before, "{other}");
            let answer = send_to(1 - dead, Some(&session), tool_call(2)).await;
            assert_eq!((answer.status, answer.recovery), (200, None), "{other}");
            assert_eq!(answer.session(), Some(session.as_str()), "{other}");
        }

        // and neither ever got what was the other's.
        for (number, server) in servers.iter().enumerate() {
            let credentials = format!("Bearer for-{number}");
            for seen in server.seen() {
                assert_eq!(seen.header("authorization"), Some(credentials.as_str()));
                assert_eq!(seen.uri, uris[number]);
            }
            let initializes = server.all("initialize");
            assert_eq!(initializes.len(), 2, "{other}");
            for seen in initializes {
                assert_eq!(seen.message()["params"]["clientInfo"]["name"], number);
            }
        }
    }
}

/// A3: the query is no part of the endpoint. Some servers take credentials there.
#[tokio::test]
async fn a3_the_same_endpoint_with_another_query_is_the_same_session() {
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();

    let mut request = post(Some(&session), &tool_call(1));
    *request.uri_mut() = format!("{URI}?key=fresh").parse().unwrap();
    let answer = send(&client, request).await;

    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
}

/// A1: a layer that is switched off touches nothing, not even what it would record.
#[tokio::test]
async fn a1_a_layer_that_is_switched_off_touches_nothing() {
    let (server, sessions) = (Server::new(Profile::TypeScript), Sessions::new());
    let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
    let client = client(&server, layer.enabled(false));
    let session = handshake(&client).await;
    server.restart();

    let answer = send(&client, post(Some(&session), &tool_call(1))).await;

    assert_eq!((answer.status, answer.recovery), (404, None));
    assert_eq!((server.count("initialize"), sessions.len()), (1, 0));
}
