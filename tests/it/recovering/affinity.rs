//! E11: behind a balancer that ties a session to a replica with a cookie.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use mcp_session_recovery::{Outcome, RequestBody, SessionRecovery, SessionRecoveryLayer};
use serde_json::json;
use testing::busy::busy;
use testing::scenario::{Door, is, start};
use testing::whose::with_token;
use testing::*;
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

/// Three replicas behind a balancer. It chooses in turn where there is no cookie of a replica that
/// lives, and sets one then.
#[derive(Clone)]
struct Balancer(Arc<Mutex<State>>);

struct State {
    replicas: Vec<(String, Server)>,
    made: usize,
    turn: usize,
    /// The attributes of its cookies.
    attributes: &'static str,
    /// Whether each answer sets the cookie again, as AWS's does.
    always: bool,
    seen: Vec<(String, String, Option<String>)>,
}

type Wire = BoxCloneSyncService<Request<RequestBody<CallerBody>>, Reply, TestError>;

impl Balancer {
    fn new(attributes: &'static str, always: bool) -> Self {
        let mut state = State {
            replicas: Vec::new(),
            made: 0,
            turn: 0,
            attributes,
            always,
            seen: Vec::new(),
        };
        (0..3).for_each(|_| state.start());
        Self(Arc::new(Mutex::new(state)))
    }

    /// The replica that the cookie leads to dies, and another takes its place.
    fn kill(&self, cookie: &str) {
        let mut state = self.0.lock().unwrap();
        let route = cookie.split("route=").nth(1).unwrap();
        let route = route.split(';').next().unwrap().to_owned();
        let before = state.replicas.len();
        state.replicas.retain(|(name, _)| *name != route);
        assert_eq!(state.replicas.len(), before - 1, "{cookie}");
        state.start();
    }

    fn choose(&self, cookies: Option<&str>) -> (String, Server, Option<String>) {
        let mut state = self.0.lock().unwrap();
        let state = &mut *state;
        let sent = cookies.into_iter().flat_map(|it| it.split("; "));
        let route = sent.clone().find_map(|it| it.strip_prefix("route="));
        let known = state
            .replicas
            .iter()
            .find(|(name, _)| Some(&**name) == route);
        let (name, server) = match known {
            Some(known) => known.clone(),
            None => {
                state.turn += 1;
                state.replicas[state.turn % state.replicas.len()].clone()
            }
        };
        let set = known.is_none() || state.always;
        let set = set.then(|| format!("route={name}{}", state.attributes));
        (name, server, set)
    }

    fn client(&self, layer: SessionRecoveryLayer) -> SessionRecovery<Wire> {
        let balancer = self.clone();
        let wire = service_fn(move |request: Request<RequestBody<CallerBody>>| {
            let cookies = request.headers().get("cookie");
            let cookies = cookies.map(|it| it.to_str().unwrap().to_owned());
            let (name, server, set) = balancer.choose(cookies.as_deref());
            let balancer = balancer.clone();
            async move {
                let sensitive = request.headers().get("cookie").map(|it| it.is_sensitive());
                let reply = server.service().oneshot(request).await;
                let what = server.seen().pop().unwrap().what();
                let _ = sensitive;
                balancer.0.lock().unwrap().seen.push((what, name, cookies));
                reply.map(|mut reply| {
                    if let Some(set) = set {
                        let set = set.parse().unwrap();
                        reply.headers_mut().append("set-cookie", set);
                    }
                    reply
                })
            }
        });
        layer.layer(BoxCloneSyncService::new(wire))
    }

    fn seen(&self) -> Vec<(String, String, Option<String>)> {
        self.0.lock().unwrap().seen.clone()
    }
}

impl State {
    fn start(&mut self) {
        self.made += 1;
        let name = char::from(b'a' + self.made as u8 - 1).to_string();
        let server = Server::new(Profile::TypeScriptJson);
        // No two replicas make the same ids.
        let prefix = name.clone();
        let behind = server.clone();
        server.on(move |seen| {
            if seen.what() != "initialize" || seen.session().is_some() {
                return None;
            }
            let mut reply = behind.default_answer(seen);
            let id = reply.headers()["mcp-session-id"]
                .to_str()
                .unwrap()
                .to_owned();
            let own = format!("{prefix}-{id}");
            behind.rename(&id, &own);
            reply.headers_mut().insert(SESSION_ID, own.parse().unwrap());
            Some(reply)
        });
        self.replicas.push((name, server));
    }
}

/// A caller that keeps cookies, or none.
struct Caller {
    client: SessionRecovery<Wire>,
    jar: Option<Mutex<Vec<(String, String)>>>,
    session: String,
}

impl Caller {
    async fn connect(client: &SessionRecovery<Wire>, keeps: bool) -> Self {
        let mut caller = Self {
            client: client.clone(),
            jar: keeps.then(|| Mutex::new(vec![("user".to_owned(), "1".to_owned())])),
            session: String::new(),
        };
        let made = caller.send(post(None, &initialize())).await;
        assert_eq!(made.status, 200);
        caller.session = made.session().unwrap().to_owned();
        if keeps {
            let accepted = caller
                .send(post(Some(&caller.session), &initialized()))
                .await;
            assert_eq!(accepted.status, 202);
        }
        caller
    }

    fn cookies(&self) -> Option<String> {
        let jar = self.jar.as_ref()?.lock().unwrap();
        let pairs: Vec<_> = jar
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Some(pairs.join("; "))
    }

    fn with_cookies(&self, mut request: Request<CallerBody>) -> Request<CallerBody> {
        if let Some(cookies) = self.cookies() {
            request
                .headers_mut()
                .insert("cookie", cookies.parse().unwrap());
        }
        request
    }

    async fn send(&self, request: Request<CallerBody>) -> Answer {
        let answer = send(&self.client, self.with_cookies(request)).await;
        if let Some(jar) = &self.jar {
            let mut jar = jar.lock().unwrap();
            for set in answer.headers.get_all("set-cookie") {
                let set = set.to_str().unwrap();
                let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
                jar.retain(|(it, _)| it != name);
                jar.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    async fn call(&self, id: u64) -> Answer {
        self.send(post(Some(&self.session), &tool_call(id))).await
    }
}

/// E11: ten losses in a row, and each first call is answered.
#[tokio::test(start_paused = true)]
async fn e11_the_first_call_after_a_replica_is_lost_is_answered() {
    for always in [false, true] {
        let balancer = Balancer::new("; Path=/; HttpOnly", always);
        let client = balancer.client(SessionRecoveryLayer::new());
        let caller = Caller::connect(&client, true).await;
        let subscribe = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": "test://1"}});
        caller.send(post(Some(&caller.session), &subscribe)).await;
        for loss in 1..=10 {
            balancer.kill(&caller.cookies().unwrap());
            let before = balancer.seen().len();

            let answer = caller.call(loss).await;

            assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{loss}");
            assert_eq!(
                (answer.status, answer.session()),
                (200, Some(&*caller.session))
            );
            // All but the first two, which had the stale cookie, went to one replica.
            let seen = &balancer.seen()[before..];
            let what: Vec<_> = seen.iter().map(|(what, ..)| what.as_str()).collect();
            assert_eq!(
                what,
                [
                    "tools/call",
                    "initialize",
                    "notifications/initialized",
                    "resources/subscribe",
                    "tools/call"
                ]
            );
            let replica = &seen[1].1;
            assert!(
                seen[1..].iter().all(|(_, name, _)| name == replica),
                "{seen:?}"
            );
            // The caller's jar has learned, and what comes next goes there by itself.
            let learned = format!("route={replica}");
            assert!(caller.cookies().unwrap().contains(&learned));
            let answer = caller.call(100 + loss).await;
            assert_eq!((answer.status, answer.recovery), (200, None));
        }
    }
}

/// E11: others of the session that have not learned of it, and the listening stream.
#[tokio::test(start_paused = true)]
async fn e11_requests_with_the_stale_cookie_go_to_the_new_replica() {
    let balancer = Balancer::new("", false);
    let client = balancer.client(SessionRecoveryLayer::new());
    let caller = Caller::connect(&client, true).await;
    let stale = caller.cookies().unwrap();
    for _ in 0..3 {
        balancer.kill(&caller.cookies().unwrap());
        assert_eq!(caller.call(1).await.status, 200);
    }
    let replica = balancer.seen().pop().unwrap().1;
    for request in [
        post(Some(&caller.session), &tool_call(2)),
        get(&caller.session, None),
        delete(&caller.session),
    ] {
        let mut request = request;
        let cookies = format!("first=1; {stale}; last=2");
        request
            .headers_mut()
            .insert("cookie", cookies.parse().unwrap());
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        // It is told of no cookie: that was for the trigger.
        assert!(!response.headers().contains_key("set-cookie"));
        let (_, name, sent) = balancer.seen().pop().unwrap();
        assert_eq!(name, replica);
        let expected = format!("first=1; user=1; route={replica}; last=2");
        assert_eq!(sent.as_deref(), Some(&*expected));
    }
}

/// E11, E3: the request that waits leads, and its jar is told, if nothing else starts the recovery.
/// Whoever waits besides is told nothing, and goes to the new replica all the same.
#[tokio::test(start_paused = true)]
async fn e11_those_who_wait_go_to_the_new_replica() {
    let balancer = Balancer::new("", false);
    let client = balancer.client(SessionRecoveryLayer::new());
    let caller = Caller::connect(&client, true).await;
    balancer.kill(&caller.cookies().unwrap());
    let doors: Vec<_> = {
        let state = balancer.0.lock().unwrap();
        let servers = state.replicas.iter();
        servers
            .map(|(_, server)| Door::before(server, is("notifications/initialized")))
            .collect()
    };
    let spawn = |id| {
        let request = caller.with_cookies(post(Some(&caller.session), &tool_call(id)));
        let client = client.clone();
        tokio::spawn(async move { send(&client, request).await })
    };
    let leader = spawn(1);
    settle().await;
    let waiting = spawn(2);
    settle().await;
    doors.iter().for_each(Door::open);
    let leader = leader.await.unwrap();
    assert_eq!(leader.outcome(), Some(Outcome::Replayed));
    assert!(leader.header("set-cookie").is_some());
    let waited = waiting.await.unwrap();
    assert_eq!(
        (waited.status, waited.outcome()),
        (200, Some(Outcome::Waited))
    );
    assert!(waited.header("set-cookie").is_none());
}

/// E11: a caller that sends no cookies is given none.
#[tokio::test(start_paused = true)]
async fn e11_a_caller_without_cookies_is_given_none() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let behind = server.clone();
    server.on(move |seen| {
        let mut reply = behind.default_answer(seen);
        if seen.what().contains("initialize") {
            let set = "route=b".parse().unwrap();
            reply.headers_mut().insert("set-cookie", set);
        }
        Some(reply)
    });
    let answer = send(&client, post(Some(&session), &tool_call(1))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(server.last("tools/call").header("cookie"), None);
    // The layer's own requests go where the handshake went.
    assert_eq!(
        server.last("notifications/initialized").header("cookie"),
        Some("route=b")
    );
    send(&client, post(Some(&session), &tool_call(2))).await;
    assert_eq!(server.last("tools/call").header("cookie"), None);
}

/// E11, D8: a cookie that was set in somebody's handshake reaches nobody who did not send its old
/// value, and no header but `set-cookie` of it reaches the caller.
#[tokio::test(start_paused = true)]
async fn e11_a_cookie_is_for_those_who_sent_its_old_value() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let behind = server.clone();
    server.on(move |seen| {
        let mut reply = behind.default_answer(seen);
        if seen.what() == "initialize" {
            let headers = reply.headers_mut();
            headers.append("set-cookie", "login=new".parse().unwrap());
            headers.append("set-cookie", "route=b".parse().unwrap());
            headers.insert("x-handshake", "1".parse().unwrap());
        }
        Some(reply)
    });
    let with = |cookie: &str, id| {
        let mut request = post(Some(&session), &tool_call(id));
        request
            .headers_mut()
            .insert("cookie", cookie.parse().unwrap());
        request
    };
    let answer = send(&client, with("login=old; route=a", 1)).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    assert_eq!(answer.header("x-handshake"), None);
    for (sent, out) in [
        ("login=others; route=c", "login=others; route=c"),
        ("other=1", "other=1"),
        ("login=old", "login=new"),
    ] {
        send(&client, with(sent, 2)).await;
        assert_eq!(
            server.last("tools/call").header("cookie"),
            Some(out),
            "{sent}"
        );
    }
    assert!(
        server.last("tools/call").headers["cookie"].is_sensitive(),
        "L2"
    );
}

/// E11: what a server sets again and again takes up one place.
#[tokio::test(start_paused = true)]
async fn e11_a_cookie_that_each_answer_sets_is_told_once() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    for number in 0..20 {
        let subscribe = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": format!("test://{number}")}});
        send(&client, post(Some(&session), &subscribe)).await;
    }
    server.restart();
    let behind = server.clone();
    let mut count = 0;
    server.on(move |seen| {
        count += 1;
        let mut reply = behind.default_answer(seen);
        let set = format!("alb={count}").parse().unwrap();
        reply.headers_mut().append("set-cookie", set);
        Some(reply)
    });
    let mut request = post(Some(&session), &tool_call(1));
    request
        .headers_mut()
        .insert("cookie", "alb=0".parse().unwrap());
    let answer = send(&client, request).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    let set: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    // One of the handshake, and the answer's own after it.
    assert_eq!(set.len(), 2, "{set:?}");
    let own = format!("alb={count}", count = 1 + 2 + 20 + 1);
    assert_eq!(set[1], own.as_str());
}

/// E11: a caller learns all that was set, whatever it may make of it.
#[tokio::test(start_paused = true)]
async fn e11_all_that_a_handshake_sets_is_told_as_it_came() {
    let odd = [&b""[..], b"novalue", b"=x", b";", b"lb=\xff", b"ok=1;;"];
    let many = (0..20).map(|n| format!("c{n}={n}; Path=/").into_bytes());
    let set: Vec<_> = odd.iter().map(|odd| odd.to_vec()).chain(many).collect();
    // Given a server that sets many cookies, and some that are none,
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let (behind, sets) = (server.clone(), set.clone());
    server.on(move |seen| {
        let mut reply = behind.default_answer(seen);
        if seen.what() == "initialize" {
            for set in &sets {
                let value = http::HeaderValue::from_bytes(set).unwrap();
                reply.headers_mut().append("set-cookie", value);
            }
        }
        Some(reply)
    });

    // when a caller's call leads to a handshake,
    let mut request = post(Some(&session), &tool_call(1));
    request
        .headers_mut()
        .insert("cookie", "user=1".parse().unwrap());
    let answer = send(&client, request).await;

    // then it is told of each, and those that can be are sent back.
    let told = answer.headers.get_all("set-cookie").iter();
    assert!(told.map(http::HeaderValue::as_bytes).eq(&set));
    let sent = &server.last("tools/call").headers["cookie"];
    let sent: Vec<_> = sent.as_bytes().split(|byte| *byte == b';').collect();
    // The caller's own, `lb`, `ok` and the twenty.
    assert_eq!(sent.len(), 1 + 2 + 20);
}

/// E11: a cookie that is taken back is not sent any more.
#[tokio::test(start_paused = true)]
async fn e11_a_cookie_that_the_handshake_takes_back_is_not_sent() {
    for removal in [
        "route=; Max-Age=0",
        "route=x; max-age=-1",
        "route=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/",
    ] {
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        let behind = server.clone();
        server.on(move |seen| {
            let mut reply = behind.default_answer(seen);
            if seen.what() == "initialize" {
                let set = removal.parse().unwrap();
                reply.headers_mut().append("set-cookie", set);
            }
            Some(reply)
        });
        let mut request = post(Some(&session), &tool_call(1));
        request
            .headers_mut()
            .insert("cookie", "user=1".parse().unwrap());
        let answer = send(&client, request).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        assert_eq!(
            server.last("tools/call").header("cookie"),
            Some("user=1"),
            "{removal}"
        );
        assert_eq!(answer.header("set-cookie"), Some(removal));
    }
}

/// E11, A5: where the session is known to have expired before its request is sent, the request that
/// waits for the recovery it has started is told of the cookies.
#[tokio::test(start_paused = true)]
async fn e11_who_starts_a_recovery_before_it_is_sent_is_told_as_well() {
    use testing::whose::*;
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let client = client(&server, SessionRecoveryLayer::new());
    let ada = User::connect(&client, "Ada").await;
    let bob = User::connect(&client, "Bob").await;
    server.restart();
    bob.call(1).await;
    let behind = server.clone();
    server.on(move |seen| {
        (seen.what() == "initialize").then(|| {
            let mut reply = behind.default_answer(seen);
            let set = "route=b".parse().unwrap();
            reply.headers_mut().insert("set-cookie", set);
            reply
        })
    });
    let mut request = post(Some(&ada.session), &tool_call(2));
    let cookie = "route=a".parse().unwrap();
    request.headers_mut().insert("cookie", cookie);
    let answer = ada.send(request).await;
    assert_eq!(answer.outcome(), Some(Outcome::Waited));
    assert_eq!(answer.header("set-cookie"), Some("route=b"));
    let sent = server.last("tools/call");
    assert_eq!(sent.header("cookie"), Some("route=b"));
}

/// E11, G2: a stream that is opened anew goes to the replica of its session, too.
#[tokio::test]
async fn e11_a_get_that_resumes_is_sent_again_with_the_cookies() {
    // Given a session behind a balancer, and a caller that keeps its cookie,
    let balancer = Balancer::new("; Path=/", false);
    let client = balancer.client(SessionRecoveryLayer::new());
    let opened = send(&client, post(None, &initialize())).await;
    let cookie = opened.header("set-cookie").unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();
    let session = opened.session().unwrap().to_owned();
    let with_cookie = |mut request: Request<CallerBody>, cookie: &str| {
        let cookie = cookie.parse().unwrap();
        request.headers_mut().insert("cookie", cookie);
        request
    };
    let accepts = with_cookie(post(Some(&session), &initialized()), cookie);
    send(&client, accepts).await;
    // when its replica is gone, and a stream is to be resumed,
    balancer.kill(cookie);
    let resumes = with_cookie(get(&session, Some("")), "user=1");
    let answer = client.clone().oneshot(resumes).await.unwrap();
    drop(answer);
    // then the stream is opened where the new session is.
    let seen = balancer.seen();
    let (what, replica, cookies) = seen.last().unwrap();
    let (_, new, _) = seen.iter().rfind(|it| it.0 == "initialize").unwrap();
    assert_eq!((&**what, replica), ("GET", new));
    assert_eq!(*cookies, Some(format!("user=1; route={new}")));
}

/// A session whose server sets these in each handshake, and this with each 404.
async fn set_by_handshakes(
    sets: &'static [&'static str],
    expired: Option<&'static str>,
) -> (Server, SessionRecovery<ServerService>, String) {
    let server = Server::new(Profile::TypeScriptJson);
    let layer = SessionRecoveryLayer::new().replay_when(|it| it.method() != Some("tools/list"));
    let client = client(&server, layer);
    let session = handshake(&client).await;
    let behind = server.clone();
    let mut sets = sets.iter();
    server.on(move |seen| {
        let mut reply = behind.default_answer(seen);
        let set = match &*seen.what() {
            "initialize" => sets.next().copied().filter(|set| !set.is_empty()),
            _ => expired.filter(|_| reply.status() == 404),
        };
        if let Some(set) = set {
            let headers = reply.headers_mut();
            headers.append("set-cookie", set.parse().unwrap());
        }
        Some(reply)
    });
    (server, client, session)
}

fn with_cookies(mut request: Request<CallerBody>, cookies: &str) -> Request<CallerBody> {
    let cookies = cookies.parse().unwrap();
    request.headers_mut().insert("cookie", cookies);
    request
}

/// E11, F2, F5: an answer that is given back came before the handshake, whose word is the last.
#[tokio::test(start_paused = true)]
async fn e11_f2_f5_a_jar_is_left_with_the_handshakes_cookie_where_nothing_is_replayed() {
    let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    let not_replayed = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    for message in [response, not_replayed] {
        let (server, client, session) = set_by_handshakes(&["route=b"], Some("route=c")).await;
        server.restart();
        let request = with_cookies(post(Some(&session), &message), "route=a");
        let answer = send(&client, request).await;
        assert!(matches!(answer.outcome(), Some(Outcome::NotReplayed(_))));
        let set: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
        assert_eq!(set, ["route=c", "route=b"], "{message}");
    }
}

/// E11: a balancer sets no cookie where it is sent one that it knows.
#[tokio::test(start_paused = true)]
async fn e11_a_handshake_that_sets_no_cookie_forgets_none() {
    // Given a session that was led from one replica to another, and back to that once it has restarted,
    let (server, client, session) = set_by_handshakes(&["route=b", "", "route=c"], None).await;
    let call = async |id, cookie: &str| {
        let call = with_cookies(post(Some(&session), &tool_call(id)), cookie);
        assert_eq!(send(&client, call).await.status, 200);
        server
            .last("tools/call")
            .header("cookie")
            .unwrap()
            .to_owned()
    };
    server.restart();
    assert_eq!(call(1, "route=a").await, "route=b");
    server.restart();
    assert_eq!(call(2, "route=b").await, "route=b");
    // then a jar that has not learned of the first is led there,
    assert_eq!(call(3, "route=a").await, "route=b");
    // and both to the next.
    server.restart();
    assert_eq!(call(4, "route=b").await, "route=c");
    assert_eq!(call(5, "route=a").await, "route=c");
    assert_eq!(call(6, "route=b").await, "route=c");
}

/// E11: of the earlier values the latest are known, whatever the trigger had.
#[tokio::test(start_paused = true)]
async fn e11_the_value_of_the_epoch_before_is_known_whatever_the_trigger_had() {
    let sets = &["v=1", "v=2", "v=3", "v=4", "v=5", "v=6", "v=7"];
    let (server, client, session) = set_by_handshakes(sets, None).await;
    for set in sets {
        server.restart();
        let call = with_cookies(post(Some(&session), &tool_call(1)), "v=0");
        assert_eq!(send(&client, call).await.status, 200);
        assert_eq!(server.last("tools/call").header("cookie"), Some(*set));
    }
    for known in ["v=0", "v=6", "v=5", "v=4", "v=3"] {
        let call = with_cookies(post(Some(&session), &tool_call(2)), known);
        assert_eq!(send(&client, call).await.status, 200);
        let sent = server.last("tools/call");
        assert_eq!(sent.header("cookie"), Some("v=7"), "{known}");
    }
}

/// E11: what takes a cookie back is a `Max-Age` that is over, and an `Expires` of a year that is
/// where there is none (RFC 6265, 5.3).
#[tokio::test(start_paused = true)]
async fn e11_a_cookie_is_taken_back_by_its_age_and_else_by_its_date() {
    for (attributes, is_taken_back) in [
        ("Max-Age=0", true),
        ("max-age=-1", true),
        ("Max-Age=00; Expires=Wed, 01 Jan 2098 00:00:00 GMT", true),
        ("Max-Age=3600; Expires=Thu, 01 Jan 1970 00:00:00 GMT", false),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=3600", false),
        ("Max-Age=0; Max-Age=3600", false),
        ("Max-Age=soon; Expires=Thu, 01 Jan 1970 00:00:00 GMT", true),
        ("Expires=Thu, 01 Jan 1970 00:00:00 GMT", true),
        ("Expires=Tue, 01-Jan-1980 00:00:01 GMT", true),
        ("Expires=Fri, 31-Dec-1999 23:59:59 GMT", true),
        ("Expires=Mon, 01 Jan 2001 00:00:00 GMT", true),
        ("Expires=Wed, 01 Jan 2098 00:00:00 GMT", false),
        ("Expires=tomorrow", false),
        ("Path=/; HttpOnly", false),
    ] {
        // Given a handshake that sets a cookie so,
        let scene = mocked::lost(SessionRecoveryLayer::new()).await;
        mocked::replace(&scene.server, "initialize", move |_, mut own| {
            let cookie = format!("route=b; {attributes}").parse().unwrap();
            own.headers_mut().insert("set-cookie", cookie);
            own
        });
        // when a call is sent again, then it carries the new value, or none.
        let call = post(Some(&scene.session), &tool_call(1));
        let call = mocked::with_headers(call, &[("cookie", "route=a; user=1")]);
        assert_eq!(scene.send(call).await.status, 200);
        let sent = scene.server.last("tools/call");
        let expected = match is_taken_back {
            true => "user=1",
            false => "route=b; user=1",
        };
        assert_eq!(sent.header("cookie"), Some(expected), "{attributes}");
    }
}

/// E11: a cookie may be more than a route, and is told to whoever's handshake it was set in.
#[tokio::test(start_paused = true)]
async fn e11_who_led_an_earlier_recovery_is_not_told_what_a_later_one_has_set() {
    for is_lost_again in [true, false] {
        // Given a handshake that sets a cookie for whose credentials it has,
        let server = Server::new(Profile::TypeScriptJson);
        let (client, load) = busy(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        let behind = server.clone();
        scenario::answer(&server, "initialize", move |seen| {
            let mut reply = behind.default_answer(seen);
            let whose = seen.header("authorization").unwrap_or_default();
            let cookie = format!("route={}", whose.replace(' ', "-"));
            let cookie = cookie.parse().unwrap();
            reply.headers_mut().insert("set-cookie", cookie);
            reply
        });
        let call = |name: &'static str, id| {
            let mut call = with_token(post(Some(&session), &tool_call(id)), Some(name));
            let jar = format!("route={name}");
            call.headers_mut().insert("cookie", jar.parse().unwrap());
            let client = client.clone();
            tokio::spawn(async move { send(&client, call).await })
        };
        // and Ada's recovery, whose replay waits for the inner service, and shows no use of it before the pause
        // that follows is over,
        server.restart();
        load.keep_waiting_after(&server, "notifications/initialized", 1);
        let adas = call("Ada", 1);
        settle().await;
        assert!(load.is_waited_for());
        tokio::time::sleep(Duration::from_secs(1)).await;
        // when the session is lost once more, and recovered by Bob's call,
        if is_lost_again {
            server.restart();
            let bobs = call("Bob", 2).await.unwrap();
            assert_eq!(bobs.header("set-cookie"), Some("route=Bearer-Bob"));
        }
        // then she is not told his cookie.
        let answer = adas.await.unwrap();
        let expected = (!is_lost_again).then_some("route=Bearer-Ada");
        assert_eq!(
            (answer.status, answer.header("set-cookie")),
            (200, expected)
        );
    }
}

/// A server that sets a cookie in the handshakes that it makes from now on.
fn sets_cookie(server: &Server, what: &'static str, cookie: &'static str) {
    let behind = server.clone();
    server.on(move |seen| {
        (seen.what() == what).then(|| {
            let mut reply = behind.default_answer(seen);
            let set = cookie.parse().unwrap();
            reply.headers_mut().append("set-cookie", set);
            reply
        })
    });
}

fn from(mut request: Request<CallerBody>, user: &str, cookie: &str) -> Request<CallerBody> {
    let headers = request.headers_mut();
    for (name, value) in [("authorization", user), ("cookie", cookie)] {
        if !value.is_empty() {
            headers.insert(name, value.parse().unwrap());
        }
    }
    request
}

/// E5, E11: of what a handshake set, a request that is sent again gets what is new of the cookies that it has,
/// and what it has not if it is sent as the trigger was. Nobody is lent another's.
#[tokio::test(start_paused = true)]
async fn e5_e11_a_replay_is_lent_no_cookie_of_anothers_handshake() {
    for (user, cookie, sent) in [
        ("Ada", "sid=ada", "sid=new; route=b"),
        ("Ada", "sid=ada; more=1", "sid=new; more=1"),
        ("Ada", "", ""),
        ("Bob", "sid=ada", "sid=new"),
        ("Bob", "sid=bob", "sid=bob"),
        ("Bob", "more=1", "more=1"),
        ("", "more=1", "more=1"),
    ] {
        // Given requests of several callers in a session that has expired,
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        let late = Door::before(&server, |seen| {
            seen.what() == "tools/call" && seen.message()["id"] == 2
        });
        let request = from(post(Some(&session), &tool_call(2)), user, cookie);
        let other = start(&client, request);
        settle().await;
        // when one of them is recovered,
        sets_cookie(&server, "initialize", "sid=new");
        sets_cookie(&server, "notifications/initialized", "route=b");
        let trigger = from(post(Some(&session), &tool_call(1)), "Ada", "sid=ada");
        let answer = send(&client, trigger).await;
        assert_eq!(answer.outcome(), Some(Outcome::Replayed));
        let own = server.last("tools/call");
        assert_eq!(own.header("cookie"), Some("sid=new; route=b"));
        // then the other is sent again with what is its own.
        late.open();
        let answer = other.await.unwrap();
        assert_eq!(answer.outcome(), Some(Outcome::Replayed), "{user} {cookie}");
        let again = server.last("tools/call");
        assert_eq!(again.message()["id"], 2);
        let sent = (!sent.is_empty()).then_some(sent);
        assert_eq!(again.header("cookie"), sent, "{user} {cookie}");
    }
}

/// E11, F3: the answer to the handshake's `notifications/initialized` brings its cookies to the trigger alone,
/// if it sends cookies at all.
#[tokio::test(start_paused = true)]
async fn e11_f3_an_answer_that_others_get_too_brings_them_no_cookie() {
    for (cookie, brings) in [("sid=ada", Some("sid=new")), ("", None)] {
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, SessionRecoveryLayer::new());
        let session = handshake(&client).await;
        server.restart();
        sets_cookie(&server, "notifications/initialized", "sid=new");
        let door = Door::before(&server, |seen| {
            seen.what() == "initialize" && seen.session().is_none()
        });
        let initialized = |cookie| from(post(Some(&session), &initialized()), "", cookie);
        // Given one who triggers the recovery with it, and another who waits with it,
        let trigger = start(&client, initialized(cookie));
        settle().await;
        let waiting = start(&client, initialized("sid=bob"));
        settle().await;
        door.open();
        // then the cookie is the trigger's.
        let (trigger, waiting) = (trigger.await.unwrap(), waiting.await.unwrap());
        assert_eq!(trigger.outcome(), Some(Outcome::Initialized));
        assert_eq!(trigger.header("set-cookie"), brings);
        assert_eq!(waiting.outcome(), Some(Outcome::Initialized));
        assert_eq!(waiting.header("set-cookie"), None);
    }
}

/// E11, J1: so does a challenge.
#[tokio::test(start_paused = true)]
async fn e11_j1_a_challenge_that_others_get_too_brings_them_no_cookie() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    let door = Door::then(&server, is("initialize"), |_| {
        let mut denied = reply(401, None, "sign in");
        let set = "state=ada".parse().unwrap();
        denied.headers_mut().insert("set-cookie", set);
        denied
    });
    let call = |id, cookie| from(post(Some(&session), &tool_call(id)), "", cookie);
    let trigger = start(&client, call(1, "sid=ada"));
    settle().await;
    let waiting = start(&client, call(2, "sid=bob"));
    settle().await;
    door.open();
    let (trigger, waiting) = (trigger.await.unwrap(), waiting.await.unwrap());
    assert_eq!((trigger.status, waiting.status), (401, 401));
    assert_eq!(trigger.header("set-cookie"), Some("state=ada"));
    assert_eq!(waiting.header("set-cookie"), None);
}

/// D8, E11: the layer asks with the credentials of the session where the session is, in epoch 0, too.
#[tokio::test(start_paused = true)]
async fn d8_e11_a_ping_goes_with_the_cookies_that_the_callers_own_handshake_set() {
    // Given a session on a replica that the server's cookie leads to, and another replica,
    let server = Server::new(Profile::TypeScriptJson);
    sets_cookie(&server, "initialize", "route=a; Path=/");
    let client = client(&server, SessionRecoveryLayer::new());
    let answer = send(&client, from(post(None, &initialize()), "Ada", "user=1")).await;
    let session = answer.session().unwrap().to_owned();
    server.on(|seen| {
        let cookies = seen.header("cookie").unwrap_or_default();
        let leads_there = cookies.contains("route=a") || seen.session().is_none();
        (!leads_there).then(|| reply(404, None, "no such session"))
    });
    // when a stranger presents its id to that,
    let call = from(post(Some(&session), &tool_call(1)), "Bob", "");
    let answer = send(&client, call).await;
    // then the session is found alive where it is.
    assert_eq!((answer.status, answer.recovery), (404, None));
    let asked = server.last("ping");
    assert_eq!(asked.header("cookie"), Some("user=1; route=a"));
    assert_eq!(asked.header("authorization"), Some("Ada"));
    assert_eq!(server.count("initialize"), 1);
}

/// K9, E11: a server does not make the layer's own requests grow beyond what an `initialize` may take, nor its
/// session go unrecorded, by what it sets.
#[tokio::test(start_paused = true)]
async fn k9_e11_cookies_that_a_server_sets_do_not_outgrow_an_initialize() {
    let server = Server::new(Profile::TypeScriptJson);
    let behind = server.clone();
    server.on(move |seen| {
        (seen.what() == "initialize").then(|| {
            let mut reply = behind.default_answer(seen);
            for n in 0..20 {
                let set = format!("c{n}={}", "x".repeat(4000)).parse().unwrap();
                reply.headers_mut().append("set-cookie", set);
            }
            reply
        })
    });
    let client = client(&server, SessionRecoveryLayer::new());
    let answer = send(&client, from(post(None, &initialize()), "Ada", "user=1")).await;
    let session = answer.session().unwrap().to_owned();
    server.on(|seen| (seen.what() == "tools/call").then(|| reply(404, None, "who are you?")));
    let call = from(post(Some(&session), &tool_call(1)), "Bob", "");
    assert_eq!(send(&client, call).await.recovery, None);
    assert_eq!(server.last("ping").header("cookie"), Some("user=1"));
}
