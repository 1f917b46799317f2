//! What must not be seen (rule L1): whatever happens, no secret is logged or shown.
//!
//! Everything that is a secret here says so: ids, credentials, queries, bodies, the texts of errors
//! all contain the word.

use std::{
    fmt::{self, Debug},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Method, Request, header::AUTHORIZATION};
use http_body_util::BodyExt;
use mcp_session_recovery::{
    Classify, Compatible, HttpAnswer as Judged, Message, RequestBody, SessionRecovery,
    SessionRecoveryLayer, Sessions, Strict,
};
use serde_json::{Value, json};
use testing::logs::Logs;
use testing::scenario::{Door, answer, broken_handshakes, fail, hang, is, start};
use testing::*;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt};

const ENDPOINT: &str =
    "http://secret-user:secret-password@mcp.test:8080/secret-path/mcp?key=secret-query";

/// A request that is full of secrets.
fn secretly(mut request: Request<CallerBody>) -> Request<CallerBody> {
    *request.uri_mut() = ENDPOINT.parse().unwrap();
    let headers = request.headers_mut();
    headers.insert("cookie", "sid=secret-cookie".parse().unwrap());
    headers.insert("x-api-key", "secret-key".parse().unwrap());
    request.extensions_mut().insert("secret-extension");
    request
}

fn rpc(id: &str, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn call() -> Value {
    rpc("secret-id", "tools/call", json!({"name": "secret-tool"}))
}

/// A server and a caller whose every hook notes what it is shown.
struct Lab {
    server: Server,
    sessions: Sessions,
    client: Client,
    session: String,
    shown: Shown,
}

#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<String>>>);

impl Shown {
    fn push(&self, what: &(impl Debug + ?Sized)) {
        self.0.lock().unwrap().push(format!("{what:?} {what:#?}"));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Lab {
    async fn new(configure: impl FnOnce(SessionRecoveryLayer) -> SessionRecoveryLayer) -> Self {
        let (shown, sessions) = (Shown::default(), Sessions::new());
        let (events, judged, replayed) = (shown.clone(), shown.clone(), shown.clone());
        let layer = configure(SessionRecoveryLayer::new())
            .sessions(sessions.clone())
            .on_recovery(move |event| {
                events.push(event);
                if let Err(failure) = event.result() {
                    events.push(&failure.to_string());
                }
            })
            .classify(move |answer: &Judged<'_>| {
                judged.push(answer);
                let verdict = Compatible.classify(answer);
                judged.push(&verdict);
                verdict
            })
            .replay_when(move |message: &Message<'_>| {
                replayed.push(message);
                true
            });
        let server = Server::new(Profile::Python2);
        server.set_server_info(json!({"name": "secret-server", "version": "1"}));
        let client = client(&server, layer);
        let lab = Self {
            server,
            sessions,
            client,
            session: "secret-session-1".to_owned(),
            shown,
        };
        lab.send(post(None, &initialize())).await;
        lab.send(lab.post(&initialized())).await;
        lab
    }

    fn post(&self, message: &Value) -> Request<CallerBody> {
        post(Some(&self.session), message)
    }

    fn get(&self, last_event_id: Option<&str>) -> Request<CallerBody> {
        get(&self.session, last_event_id)
    }

    async fn send(&self, request: Request<CallerBody>) -> Answer {
        let answer = send(&self.client, secretly(request)).await;
        self.shown.push(&answer.recovery);
        answer
    }

    fn start(&self, request: Request<CallerBody>) -> tokio::task::JoinHandle<Answer> {
        start(&self.client, secretly(request))
    }

    async fn lose(&self) -> Answer {
        self.server.restart();
        self.send(self.post(&call())).await
    }
}

type Scenario = fn() -> Pin<Box<dyn Future<Output = Lab>>>;

/// Everything that can happen, in turn.
fn scenarios() -> Vec<(&'static str, Scenario)> {
    vec![
        ("a recovery", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                for message in [
                    rpc("secret-1", "logging/setLevel", json!({"level": "secret"})),
                    rpc(
                        "secret-2",
                        "resources/subscribe",
                        json!({"uri": "secret-uri"}),
                    ),
                ] {
                    lab.send(lab.post(&message)).await;
                }
                lab.server.set_server_info(json!({"name": "secret-other"}));
                answer(&lab.server, "resources/subscribe", |_| {
                    reply(500, None, "secret")
                });
                assert_eq!(lab.lose().await.status, 200);
                lab
            })
        }),
        ("waiting", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                lab.server.restart();
                let door = Door::before(&lab.server, is("initialize"));
                let calls = [(); 3].map(|()| lab.start(lab.post(&call())));
                settle().await;
                let ending = lab.start(delete(&lab.session));
                settle().await;
                door.open();
                for call in calls {
                    call.await.unwrap();
                }
                ending.await.unwrap();
                lab
            })
        }),
        ("forgotten", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                lab.server.restart();
                let door = Door::before(&lab.server, is("initialize"));
                let call = lab.start(lab.post(&call()));
                settle().await;
                lab.sessions.forget_all();
                door.open();
                call.await.unwrap();
                settle().await;
                assert_eq!(lab.server.count("DELETE"), 1);
                lab
            })
        }),
        ("out of budget", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                answer(&lab.server, "initialize", |_| reply(503, None, "secret"));
                for _ in 0..5 {
                    lab.lose().await;
                }
                lab
            })
        }),
        ("only detected", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer.reinitialize(false)).await;
                lab.lose().await;
                lab
            })
        }),
        ("a lost replay", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                let behind = lab.server.clone();
                lab.server.on_async(move |seen| {
                    let again = behind.count("tools/call") > 1 && seen.what() == "tools/call";
                    again.then(|| -> Pin<Box<dyn Future<Output = _> + Send>> {
                        Box::pin(async { Err(TestError("to http://mcp.test/?key=secret")) })
                    })
                });
                lab.server.restart();
                let call = secretly(lab.post(&call()));
                let failed = lab.client.clone().oneshot(call).await;
                assert!(failed.is_err());
                lab
            })
        }),
        ("the end", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                lab.lose().await;
                lab.send(delete(&lab.session)).await;
                lab.send(delete(&lab.session)).await;
                lab
            })
        }),
        ("an end after the end", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                lab.server.restart();
                lab.send(delete(&lab.session)).await;
                lab
            })
        }),
        ("unsure", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                lab.server.restart();
                fail(&lab.server, "ping", "to http://mcp.test/?key=secret");
                assert_eq!(lab.send(lab.get(None)).await.status, 404);
                // What is asked in vain is followed by a pause (rule K6).
                sleep(Duration::from_secs(1)).await;
                hang(&lab.server, "ping");
                assert_eq!(lab.send(lab.get(None)).await.status, 404);
                sleep(Duration::from_secs(1)).await;
                answer(&lab.server, "ping", |_| reply(404, None, "secret"));
                let unknown = lab.send(lab.get(Some("secret-event-0"))).await;
                assert_eq!(unknown.status, 404);
                lab
            })
        }),
        ("streams", || {
            Box::pin(async {
                let lab = Lab::new(|layer| layer).await;
                // A stream that ends before the answer, one that can be resumed, one left behind
                // and a listening stream that goes on in the new session.
                answer(&lab.server, "tools/list", |_| sse("data: secret\n\n"));
                lab.send(lab.post(&rpc("secret-3", "tools/list", json!({}))))
                    .await;
                answer(&lab.server, "tools/list", |_| {
                    sse("id: secret-event-1\ndata: secret\n\n")
                });
                lab.send(lab.post(&rpc("secret-4", "tools/list", json!({}))))
                    .await;
                answer(&lab.server, "prompts/list", |_| pending_sse());
                let left = lab.start(lab.post(&rpc("secret-5", "prompts/list", json!({}))));
                let behind = lab.server.clone();
                answer(&lab.server, "GET", move |seen| {
                    if !behind.live().iter().any(|id| Some(&**id) == seen.session()) {
                        return behind.default_answer(seen);
                    }
                    stream(
                        Script::new()
                            .data("id: secret-event-2\ndata: {}\n\n")
                            .pending(),
                    )
                });
                let listening = secretly(lab.get(None));
                let listening = lab.client.clone().oneshot(listening).await.unwrap();
                lab.shown.push(listening.body());
                let reading = tokio::spawn(read(listening));
                settle().await;
                assert_eq!(lab.lose().await.status, 200);
                let resumed = lab.send(lab.get(Some("secret-event-1"))).await;
                assert!(resumed.text().contains("session_expired"));
                let left = left.await.unwrap();
                assert!(left.text().contains("session_expired"));
                assert_eq!(lab.server.count("GET"), 2);
                reading.abort();
                lab
            })
        }),
    ]
}

/// L1: whatever happens, at every level, nothing that is logged or handed to a hook holds a secret.
#[tokio::test(start_paused = true)]
async fn l1_nothing_secret_is_logged_or_shown() {
    let mut written = String::new();
    let mut check = |context: &str, logs: &Logs, shown: Vec<String>| {
        // The layer's own lines and everybody else's: in this process nobody has a reason to.
        for line in logs.all() {
            let line = format!("{line:?}");
            assert!(!line.to_lowercase().contains("secret"), "{context}: {line}");
        }
        for shown in shown {
            assert!(
                !shown.to_lowercase().contains("secret"),
                "{context}: {shown}"
            );
        }
        let own = logs.own();
        assert!(!own.is_empty() || context.contains("end"), "{context}");
        for line in own {
            written += &format!("{line:?}\n");
        }
    };
    for (name, scenario) in scenarios() {
        let (logs, _guard) = Logs::collect();
        let lab = scenario().await;
        check(name, &logs, lab.shown.all());
    }
    for broken in broken_handshakes() {
        let (logs, _guard) = Logs::collect();
        let lab = Lab::new(|layer| layer).await;
        (broken.script)(&lab.server);
        lab.lose().await;
        settle().await;
        check(&broken.failure.to_string(), &logs, lab.shown.all());
    }
    // What may be said is said: all of this was worth something.
    for said in [
        r#"host=\"mcp.test\""#,
        "session expired",
        "session recovered",
        "session not recovered",
        "the inner service failed",
    ] {
        assert!(written.contains(said), "{said} in {written}");
    }
}

/// The server, noting what it is given.
#[derive(Clone)]
struct Peek(ServerService, Shown);

impl Service<Request<RequestBody<CallerBody>>> for Peek {
    type Response = Reply;
    type Error = TestError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TestError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<CallerBody>>) -> Self::Future {
        self.1.push(request.body());
        self.0.call(request)
    }
}

impl Debug for Peek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peek")
    }
}

/// L1: no `Debug` of a public type shows a secret, however much it holds. (`Message`, `Answer`,
/// `Verdict`, `Recovery` and `RecoveryEvent` are shown in the scenarios above.)
#[tokio::test]
async fn l1_no_debug_shows_a_secret() {
    let shown = Shown::default();
    let (server, sessions) = (Server::new(Profile::TypeScript), Sessions::new());
    let layer = SessionRecoveryLayer::new()
        .sessions(sessions.clone())
        .replay_when(|_| true)
        .on_recovery(|_| {});
    let client: SessionRecovery<Peek> = layer.layer(Peek(server.service(), shown.clone()));
    let response = |request| client.clone().oneshot(secretly(request));

    // A future in each of its states:
    let future = |request: Request<CallerBody>| {
        // The server is always ready.
        let future = client.clone().call(secretly(request));
        shown.push(&future);
        future
    };
    let first = future(post(None, &initialize())).await.unwrap();
    shown.push(first.body());
    let session = read(first).await.session().unwrap().to_owned();
    // untouched, on its way, collecting a body, with an answer at hand, waiting.
    drop(future(post(Some("secret-other"), &call())));
    drop(future(post(Some(&session), &call())));
    let (feeder, slow) = feed();
    let stalled = post(Some(&session), &call()).map(|_| BodyExt::boxed(slow));
    drop(future(stalled));
    answer(&server, "tools/list", |_| {
        sse("id: secret-event\ndata: secret\n\n")
    });
    let list = rpc("secret-1", "tools/list", json!({}));
    let list = response(post(Some(&session), &list)).await.unwrap();
    shown.push(list.body());
    read(list).await;
    server.restart();
    let replayed = response(post(Some(&session), &call())).await.unwrap();
    shown.push(replayed.body());
    drop(future(get(&session, Some("secret-event"))));
    let listening = response(get(&session, None)).await.unwrap();
    shown.push(listening.body());
    server.restart();
    let door = Door::before(&server, is("initialize"));
    let trigger = tokio::spawn(response(post(Some(&session), &call())));
    settle().await;
    let waiting = future(post(Some(&session), &call()));
    door.open();
    shown.push(trigger.await.unwrap().unwrap().body());
    shown.push(waiting.await.unwrap().body());
    drop(feeder);

    // the rest as it is.
    shown.push(&client);
    shown.push(&layer);
    shown.push(&sessions);
    shown.push(&(Compatible, Strict));
    let shown = shown.all();
    for shown in &shown {
        assert!(
            !shown.contains("secret") && !shown.contains("http://"),
            "{shown}"
        );
    }
    for name in [
        "ResponseFuture",
        "RequestBody",
        "ResponseBody",
        "SessionRecovery {",
        "SessionRecoveryLayer",
        "Sessions",
    ] {
        assert!(shown.iter().any(|shown| shown.contains(name)), "{name}");
    }
    assert_eq!(sessions.len(), 1);
}

/// L1: the event's host is the host alone.
#[tokio::test]
async fn l1_the_event_names_the_host_alone() {
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let pushed = hosts.clone();
    let layer = SessionRecoveryLayer::new()
        .recovery_timeout(Duration::from_secs(1))
        .on_recovery(move |event| pushed.lock().unwrap().push(event.host().to_owned()));
    let server = Server::new(Profile::TypeScript);
    let client = client(&server, layer);
    let headers = HeaderMap::from_iter([(AUTHORIZATION, "secret".parse().unwrap())]);
    let with = |mut request: Request<CallerBody>| {
        request.headers_mut().extend(headers.clone());
        send(&client, secretly(request))
    };
    with(post(None, &initialize())).await;
    server.restart();
    with(request(
        Method::POST,
        Some("secret-session-1"),
        call().to_string(),
    ))
    .await;
    assert_eq!(*hosts.lock().unwrap(), ["mcp.test"]);
}
