//! Whatever is somebody else's code may ask the table of sessions, and change it: nothing of the
//! layer's is locked while it runs.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use mcp_session_recovery::{
    Outcome, RequestBody, SessionRecoveryLayer, Sessions, Verdict, classify_fn,
};
use testing::scenario::{self, Door, is};
use testing::*;
use tower::{Layer, Service, ServiceExt, service_fn};

/// Does something in a thread of its own, which may come to a standstill.
fn in_time(what: &'static str, work: impl AsyncFnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(work());
        done.send(()).unwrap();
    });
    let is_done = is_done.recv_timeout(Duration::from_secs(20));
    assert!(is_done.is_ok(), "{what}");
}

/// Asks and changes a table when it is dropped, as a guard does that makes a last request.
struct Guard(Sessions);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.len();
        Sessions::forget_all(&self.0);
    }
}

/// A4, B4, I2: the extensions of a session's `initialize` are kept with it.
#[test]
fn what_a_forgotten_session_kept_is_dropped_where_nothing_is_locked() {
    fn initialize_at(sessions: &Sessions, ids: &'static str) -> impl AsyncFnMut() + use<> {
        let mut nth = 0;
        let server = service_fn(move |_: Request<RequestBody<CallerBody>>| {
            nth += 1;
            let id = ids.split(' ').nth(nth - 1).unwrap();
            let reply = Response::builder()
                .header(SESSION_ID, id)
                .header(CONTENT_TYPE, "application/json");
            std::future::ready(Ok::<_, Infallible>(
                reply.body(Full::new(Bytes::from_static(b"{}"))).unwrap(),
            ))
        });
        let layer = SessionRecoveryLayer::new()
            .max_sessions(1)
            .sessions(sessions.clone());
        // One and the same, so that it counts.
        let mut client = layer.layer(server);
        let sessions = sessions.clone();
        async move || {
            let mut request = post(None, &initialize());
            let guard = Arc::new(Guard(sessions.clone()));
            request.extensions_mut().insert(guard);
            let answer = client.ready().await.unwrap().call(request).await;
            assert!(answer.is_ok());
        }
    }
    in_time("another is given its id", async || {
        let sessions = Sessions::new();
        let mut initialize = initialize_at(&sessions, "1 1");
        initialize().await;
        initialize().await;
        assert!(sessions.is_empty());
    });
    in_time("it makes room", async || {
        let sessions = Sessions::new();
        let mut initialize = initialize_at(&sessions, "1 2");
        initialize().await;
        initialize().await;
        assert!(sessions.is_empty());
    });
    in_time("all are forgotten", async || {
        let sessions = Sessions::new();
        initialize_at(&sessions, "1")().await;
        assert_eq!(sessions.len(), 1);
        sessions.forget_all();
        assert!(sessions.is_empty());
    });
}

/// E7, I3: what is to be ended is the last that holds its session.
#[test]
fn what_waits_to_be_ended_is_dropped_where_nothing_is_locked() {
    in_time("a DELETE is given up", async || {
        // Given a handshake that was given up, and whose DELETE is not answered,
        let (server, sessions) = (Server::new(Profile::TypeScript), Sessions::new());
        let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
        // Which keeps nothing of the requests.
        let keeps_nothing = |mut request: Request<RequestBody<CallerBody>>| {
            request.extensions_mut().clear();
            request
        };
        let layer = layer.recovery_timeout(Duration::from_millis(200));
        let mut client = layer.layer(server.service().map_request(keeps_nothing));
        let mut request = post(None, &initialize());
        let guard = Arc::new(Guard(sessions.clone()));
        request.extensions_mut().insert(guard.clone());
        let answer = client.ready().await.unwrap().call(request).await.unwrap();
        let session = read(answer).await.session().unwrap().to_owned();
        server.restart();
        scenario::answer(&server, "notifications/initialized", |_| {
            reply(500, None, "")
        });
        scenario::hang(&server, "DELETE");
        let call = post(Some(&session), &tool_call(1));
        let answer = client.ready().await.unwrap().call(call).await.unwrap();
        assert_eq!(answer.status(), 404);
        // when all is forgotten before that is given up, then its session is dropped.
        sessions.forget_all();
        while Arc::strong_count(&guard) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(guard);
        assert!(sessions.is_empty());
    });
}

/// A3: a `Host` may be a slice of a buffer of the caller's, and is kept with a session.
#[test]
fn what_a_session_keeps_of_a_buffer_is_no_slice_of_it() {
    struct Asking(Sessions, String);

    impl AsRef<[u8]> for Asking {
        fn as_ref(&self) -> &[u8] {
            self.1.as_bytes()
        }
    }

    impl Drop for Asking {
        fn drop(&mut self) {
            let _ = self.0.len();
        }
    }

    in_time("an endpoint is forgotten", async || {
        let sessions = Sessions::new();
        let layer = SessionRecoveryLayer::new().max_sessions(1);
        let server = service_fn(|_: Request<RequestBody<CallerBody>>| {
            let reply = Response::builder().header(SESSION_ID, "1");
            std::future::ready(Ok::<_, Infallible>(
                reply.body(Full::new(Bytes::from_static(b"{}"))).unwrap(),
            ))
        });
        let mut client = layer.sessions(sessions.clone()).layer(server);
        for n in 0..200 {
            let mut request = post(None, &initialize());
            let host = Asking(sessions.clone(), format!("{n}.test"));
            let host = HeaderValue::from_maybe_shared(Bytes::from_owner(host)).unwrap();
            request.headers_mut().insert("host", host);
            let answer = client.ready().await.unwrap().call(request).await;
            assert!(answer.is_ok());
        }
        assert_eq!(sessions.len(), 1);
    });
}

/// E3: an executor may do at once what it is woken for.
#[test]
fn whoever_waited_is_woken_where_nothing_is_locked() {
    struct AtOnce(Sessions);

    impl Wake for AtOnce {
        fn wake(self: Arc<Self>) {
            assert_eq!(self.0.len(), 1);
            Sessions::forget_all(&self.0);
        }
    }

    in_time("a recovery is published", async || {
        let (server, sessions) = (Server::new(Profile::TypeScript), Sessions::new());
        let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
        let mut client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        let door = Door::before(&server, is("initialize"));
        let mut waiting = Box::pin(client.call(post(Some(&session), &tool_call(1))));
        let waker = Waker::from(Arc::new(AtOnce(sessions.clone())));
        let polled = waiting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(matches!(polled, Poll::Pending));
        settle().await;
        door.open();
        settle().await;
        assert!(sessions.is_empty());
    });
}

/// D1, F5, M2: what the user of the layer has to say may ask the table.
#[test]
fn whoever_is_asked_may_ask_back() {
    in_time("the user is asked", async || {
        let (server, sessions) = (Server::new(Profile::TypeScript), Sessions::new());
        let [one, two, three, four] = [0; 4].map(|_| sessions.clone());
        let layer = SessionRecoveryLayer::new()
            .sessions(sessions.clone())
            .principal(move |_| {
                let _ = one.len();
                None
            })
            .classify(classify_fn(move |answer| {
                assert_eq!(two.len(), 1);
                match answer.status().as_u16() {
                    404 => Verdict::Expired,
                    _ => Verdict::Alive,
                }
            }))
            .replay_when(move |_| three.len() == 1)
            .on_recovery(move |_| assert_eq!(four.len(), 1));
        let client = client(&server, layer);
        let session = handshake(&client).await;
        server.restart();
        let answer = send(&client, post(Some(&session), &tool_call(1))).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    });
}
