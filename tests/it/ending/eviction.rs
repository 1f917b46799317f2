//! I2, K2, K9, K10: whose sessions go when there are too many, or when they hold too much, and that
//! nothing of them stays on the server.

use std::time::Duration;

use http::{HeaderValue, Request};
use mcp_session_recovery::{Outcome, SessionRecoveryLayer, Sessions};
use serde_json::json;
use testing::scenario::{answer, slow, start};
use testing::streams::lost;
use testing::whose::*;
use testing::*;
use tokio::time::Instant;

fn recorded(layer: SessionRecoveryLayer) -> (Server, Client, Sessions) {
    let server = Server::new(Profile::TypeScriptJson);
    let sessions = Sessions::new();
    let client = client(&server, layer.sessions(sessions.clone()));
    (server, client, sessions)
}

/// An `initialize` whose client has a name of so many bytes.
fn large(bytes: usize) -> serde_json::Value {
    initialize_as(&"x".repeat(bytes))
}

fn at(uri: &str, mut request: Request<CallerBody>) -> Request<CallerBody> {
    *request.uri_mut() = uri.parse().unwrap();
    request
}

/// Whether the layer still knows a session: it says so to an expired one.
async fn is_known(server: &Server, client: &Client, request: Request<CallerBody>) -> bool {
    server.restart();
    let answer = send(client, request).await;
    answer.outcome() == Some(Outcome::Replayed)
}

/// I2, K2: a caller who makes sessions without end pushes out its own, however few the others have.
#[tokio::test(start_paused = true)]
async fn i2_a_caller_with_many_sessions_pushes_out_its_own() {
    for limit in [2, 3, 50] {
        let (server, client, sessions) =
            recorded(by_user(SessionRecoveryLayer::new().max_sessions(limit)));
        let ada = User::connect(&client, "Ada").await;
        let mallory = User::connect(&client, "Mallory").await;
        for _ in 0..200 {
            User::connect(&client, "Mallory").await;
            assert!(sessions.len() <= limit);
        }
        let request = with_token(post(Some(&ada.session), &tool_call(1)), Some("Ada"));
        assert!(is_known(&server, &client, request).await, "{limit}");
        let request = with_token(post(Some(&mallory.session), &tool_call(2)), Some("Mallory"));
        assert!(!is_known(&server, &client, request).await, "{limit}");
    }
}

/// I2, K2: nor does one server push out another's, where all callers are one.
#[tokio::test(start_paused = true)]
async fn i2_an_endpoint_with_many_sessions_pushes_out_its_own() {
    for limit in [2, 100] {
        let (server, client, _) = recorded(SessionRecoveryLayer::new().max_sessions(limit));
        let other = "http://other.test/mcp";
        let only = send(&client, at(other, post(None, &initialize()))).await;
        let only = only.session().unwrap().to_owned();
        for _ in 0..10_000 / 50 {
            handshake(&client).await;
        }
        let request = at(other, post(Some(&only), &tool_call(1)));
        assert!(is_known(&server, &client, request).await, "{limit}");
    }
}

/// I2, A4: a caller cannot push out another's by spreading its own over many endpoints.
#[tokio::test(start_paused = true)]
async fn i2_a_caller_with_many_endpoints_pushes_out_its_own() {
    let (server, client, _) = recorded(by_user(SessionRecoveryLayer::new().max_sessions(20)));
    let mut adas = Vec::new();
    for _ in 0..5 {
        adas.push(User::connect(&client, "Ada").await.session);
    }
    for number in 0..100 {
        let uri = format!("http://mcp.test/{number}");
        let request = at(&uri, post(None, &initialize_as("Mallory")));
        send(&client, with_token(request, Some("Mallory"))).await;
    }
    for session in &adas {
        let request = with_token(post(Some(session), &tool_call(1)), Some("Ada"));
        assert!(is_known(&server, &client, request).await);
    }
}

/// I2: of those who hold as much, who was used least recently makes room, whenever each was recorded.
#[tokio::test(start_paused = true)]
async fn i2_of_principals_with_as_many_sessions_the_least_recently_used_makes_room() {
    // Given three users with a session each, of whom the first is used all the time,
    let (server, client, _) = recorded(by_user(SessionRecoveryLayer::new().max_sessions(3)));
    let ada = User::connect(&client, "Ada").await;
    let bob = User::connect(&client, "Bob").await;
    User::connect(&client, "Cleo").await;
    for id in 0..10 {
        ada.call(id).await;
    }
    // when there is a fourth, then the second makes room.
    User::connect(&client, "Dan").await;
    for (user, is_there) in [(&ada, true), (&bob, false)] {
        let call = with_token(post(Some(&user.session), &tool_call(20)), Some(user.name));
        assert_eq!(is_known(&server, &client, call).await, is_there);
    }
}

/// The same where a user has sessions at several endpoints: of those at which he has most.
#[tokio::test(start_paused = true)]
async fn i2_what_is_not_to_make_room_does_not_count_for_who_is_to() {
    // Given Ada, with two sessions in use and an idle one elsewhere, and Bob, with three less used,
    let (server, client, _) = recorded(by_user(SessionRecoveryLayer::new().max_sessions(6)));
    let elsewhere = at("http://mcp.test/other", post(None, &initialize_as("Ada")));
    send(&client, with_token(elsewhere, Some("Ada"))).await;
    let adas = [(); 2].map(|()| User::connect(&client, "Ada"));
    let [one, two] = adas;
    let adas = [one.await, two.await];
    let mut bobs = Vec::new();
    for _ in 0..3 {
        bobs.push(User::connect(&client, "Bob").await);
    }
    for user in &adas {
        user.call(1).await;
    }
    // when somebody else comes, then one of Bob's makes room.
    User::connect(&client, "Cleo").await;
    for user in &adas {
        let call = with_token(post(Some(&user.session), &tool_call(20)), Some("Ada"));
        assert!(is_known(&server, &client, call).await);
    }
    let call = with_token(post(Some(&bobs[0].session), &tool_call(21)), Some("Bob"));
    assert!(!is_known(&server, &client, call).await);
}

/// I2: what has moved on is ended when it is forgotten, since nobody else can name it. What the
/// caller made itself is the caller's to end.
#[tokio::test(start_paused = true)]
async fn i2_an_evicted_session_that_has_moved_on_is_ended() {
    for (moved, ended) in [(false, &[][..]), (true, &["secret-session-2"][..])] {
        let (server, client, sessions) = recorded(SessionRecoveryLayer::new().max_sessions(1));
        let ada = User::connect(&client, "Ada").await;
        if moved {
            server.restart();
            assert_eq!(ada.call(1).await.outcome(), Some(Outcome::Replayed));
        }
        let bob = User::connect(&client, "Bob").await;
        settle().await;
        let deletes = server.all("DELETE");
        let deleted: Vec<_> = deletes.iter().map(|it| it.session().unwrap()).collect();
        assert_eq!(deleted, ended);
        for delete in &deletes {
            assert_eq!(delete.header("authorization"), Some("Bearer Ada"));
        }
        assert_eq!(sessions.len(), 1);
        assert_eq!(bob.call(2).await.status, 200);
        // Its id is unknown from then on.
        let late = ada.call(3).await;
        assert_eq!(late.recovery, None);
    }
}

/// I2, G6: what is under way in a session that makes room has as much time as in one that was replaced, and
/// is told lost before the layer ends it.
#[tokio::test(start_paused = true)]
async fn i2_g6_a_session_is_not_ended_under_what_is_under_way_in_it() {
    let orphan_timeout = Duration::from_secs(30);
    for (takes, is_stream) in [
        (Duration::from_millis(20_500), false),
        (Duration::MAX, false),
        (Duration::MAX, true),
    ] {
        // Given a session that has moved on, and a call in it,
        let (server, client, _) = recorded(SessionRecoveryLayer::new().max_sessions(1));
        let ada = User::connect(&client, "Ada").await;
        server.restart();
        assert_eq!(ada.call(1).await.outcome(), Some(Outcome::Replayed));
        match is_stream {
            true => answer(&server, "tools/call", |_| stream(Script::new().pending())),
            false => slow(&server, "tools/call", takes),
        }
        let call = with_token(post(Some(&ada.session), &tool_call(2)), Some("Ada"));
        let call = start(&client, call);
        settle().await;
        // when it makes room, then it is ended when that is answered, or is told that it is lost.
        let started = Instant::now();
        User::connect(&client, "Bob").await;
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200);
        let is_lost = answer.message() == lost(2, "session_expired");
        assert_eq!(is_lost, takes == Duration::MAX);
        assert_eq!(started.elapsed(), takes.min(orphan_timeout));
        assert!(is_lost || server.count("DELETE") == 0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(server.count("DELETE"), 1);
    }
}

/// G1: a GET without an answer is sent again where its session goes on, and that one goes on nowhere.
#[tokio::test(start_paused = true)]
async fn i2_g1_a_get_in_a_session_that_makes_room_is_not_sent_again() {
    for has_moved_on in [false, true] {
        // Given Bob, whom the layer calls otherwise than the server does, and a GET of his,
        let (server, client, _) = recorded(SessionRecoveryLayer::new().max_sessions(3));
        server.set_ids(Ids::Counting);
        let ada = User::connect(&client, "Ada").await;
        server.restart();
        server.count_on_from(5);
        assert_eq!(ada.call(1).await.status, 200);
        server.count_on_from(0);
        let bob = User::connect(&client, "Bob").await;
        assert_eq!(server.live().len(), 2);
        if has_moved_on {
            server.forget("1");
            server.count_on_from(20);
            assert_eq!(bob.call(1).await.status, 200);
        }
        slow(&server, "GET", Duration::MAX);
        let listen = with_token(get(&bob.session, None), Some("Bob"));
        let listening = start(&client, listen);
        settle().await;
        // when he makes room, then it waits where it is.
        ada.call(2).await;
        for name in ["Cleo", "Dan"] {
            User::connect(&client, name).await;
        }
        tokio::time::sleep(Duration::from_secs(29)).await;
        assert!(!listening.is_finished());
        assert_eq!((server.count("GET"), server.count("DELETE")), (1, 0));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((server.count("GET"), server.count("DELETE")), (1, 1));
        listening.abort();
    }
}

/// I2, A5: nor is what the server has given to another since, although he is forgotten by now, too.
#[tokio::test(start_paused = true)]
async fn i2_an_evicted_session_whose_id_went_to_another_is_not_ended() {
    // Given a session that has moved on, and a server that has given its id to another since,
    let (server, client, _) = recorded(by_user(SessionRecoveryLayer::new().max_sessions(3)));
    server.set_ids(Ids::Counting);
    let ada = User::connect(&client, "Ada").await;
    server.restart();
    assert_eq!(ada.call(1).await.outcome(), Some(Outcome::Replayed));
    server.restart();
    let bob = User::connect(&client, "Bob").await;
    assert_eq!(
        server.last("initialize").header("authorization"),
        Some("Bearer Bob")
    );

    // when he is forgotten, and then the first,
    for name in ["Bob", "Bob", "Ada", "Ada", "Ada"] {
        User::connect(&client, name).await;
    }
    settle().await;

    // then his session is there still.
    assert_eq!(server.count("DELETE"), 0);
    let answer = bob.call(2).await;
    assert_eq!((answer.status, answer.recovery), (200, None));
}

/// N1: without a store nothing is kept of changes that no store has been told of.
#[tokio::test(start_paused = true)]
async fn k10_n1_without_a_store_what_was_taken_back_counts_no_more() {
    let layer = SessionRecoveryLayer::new().max_sessions_bytes(128 * 1024);
    let (server, client, _) = recorded(layer);
    let ada = User::connect(&client, "Ada").await;
    server.restart();
    assert_eq!(ada.call(1).await.outcome(), Some(Outcome::Replayed));
    let bob = User::connect(&client, "Bob").await;
    for number in 0..100 {
        let uri = format!("test://{number}/{}", "x".repeat(2_000));
        for method in ["resources/subscribe", "resources/unsubscribe"] {
            let change =
                json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": {"uri": uri}});
            assert_eq!(
                ada.send(post(Some(&ada.session), &change)).await.status,
                200
            );
        }
    }
    let request = post(Some(&bob.session), &tool_call(2));
    assert!(is_known(&server, &client, request).await);
}

/// K9: an `initialize` over the limit is not recorded, and its answer says so. Nothing else is
/// different for its caller.
#[tokio::test(start_paused = true)]
async fn k9_an_initialize_that_is_too_large_is_not_recorded() {
    const LIMIT: usize = 64 * 1024;
    let head = initialize_as("").to_string().len();
    for (bytes, recorded_too) in [(LIMIT - head, true), (LIMIT - head + 1, false)] {
        let (server, client, sessions) = recorded(SessionRecoveryLayer::new());
        let made = send(&client, post(None, &large(bytes))).await;
        assert_eq!(made.status, 200);
        let id = made.session().unwrap();
        assert_eq!(id, "secret-session-1");
        let not_recorded = (!recorded_too).then_some(Outcome::NotRecorded);
        assert_eq!(made.outcome(), not_recorded);
        assert_eq!(sessions.len(), usize::from(recorded_too));
        assert_eq!(
            send(&client, post(Some(id), &tool_call(1))).await.status,
            200
        );
        server.restart();
        let after = send(&client, post(Some(id), &tool_call(2))).await;
        assert_eq!(after.status, if recorded_too { 200 } else { 404 });
    }
}

/// K9: headers count, too, the recorded `accept` and `content-type` among them.
#[tokio::test(start_paused = true)]
async fn k9_headers_count() {
    for name in ["authorization", "x-anything", "accept"] {
        let (_, client, sessions) = recorded(SessionRecoveryLayer::new());
        let mut request = post(None, &initialize());
        let value = HeaderValue::from_str(&"x".repeat(64 * 1024)).unwrap();
        request.headers_mut().insert(name, value);
        let made = send(&client, request).await;
        assert_eq!(made.outcome(), Some(Outcome::NotRecorded), "{name}");
        assert!(sessions.is_empty());
    }
}

/// K9, B5, C2: one in a session that there is: its answer does not tell how the server calls that.
#[tokio::test(start_paused = true)]
async fn k9_one_in_a_session_that_has_moved_on_is_answered_under_the_callers_id() {
    let server = Server::new(Profile::Python1);
    let client = client(&server, SessionRecoveryLayer::new());
    let session = handshake(&client).await;
    server.restart();
    send(&client, post(Some(&session), &tool_call(1))).await;
    for message in [
        large(64 * 1024),
        // No request, so that it makes no session.
        json!({"jsonrpc": "2.0", "method": "initialize"}),
    ] {
        let answer = send(&client, post(Some(&session), &message)).await;
        assert_eq!(answer.session(), Some(&*session));
    }
}

/// K10: whoever's sessions hold most goes first, be it for large `initialize` requests,
#[tokio::test(start_paused = true)]
async fn k10_a_caller_with_large_sessions_pushes_out_its_own() {
    let layer = SessionRecoveryLayer::new().max_sessions_bytes(1024 * 1024);
    let (server, client, sessions) = recorded(by_user(layer));
    let ada = User::connect(&client, "Ada").await;
    for _ in 0..100 {
        let request = with_token(post(None, &large(60 * 1024)), Some("Mallory"));
        assert_eq!(send(&client, request).await.status, 200);
        assert!(sessions.len() <= 18, "{}", sessions.len());
    }
    assert!(sessions.len() > 10, "{}", sessions.len());
    let request = with_token(post(Some(&ada.session), &tool_call(1)), Some("Ada"));
    assert!(is_known(&server, &client, request).await);
}

/// K10: for long URIs,
#[tokio::test(start_paused = true)]
async fn k10_uris_count() {
    let layer = SessionRecoveryLayer::new().max_sessions_bytes(1024 * 1024);
    let (_, client, sessions) = recorded(layer);
    for number in 0..100 {
        let uri = format!("http://mcp.test/{number}{}", "x".repeat(50 * 1024));
        send(&client, at(&uri, post(None, &initialize()))).await;
    }
    assert!(sessions.len() <= 21, "{}", sessions.len());
}

/// K10: for what callers subscribe to,
#[tokio::test(start_paused = true)]
async fn k10_state_counts_as_it_grows() {
    let layer = SessionRecoveryLayer::new().max_sessions_bytes(1024 * 1024);
    let (server, client, sessions) = recorded(by_user(layer));
    let ada = User::connect(&client, "Ada").await;
    let mut mallory = User::connect(&client, "Mallory").await;
    for _ in 0..5 {
        mallory.initialize().await;
        for number in 0..50 {
            let uri = format!("test://{number}/{}", "x".repeat(7_000));
            let subscribe = json!({"jsonrpc": "2.0", "id": 5, "method": "resources/subscribe", "params": {"uri": uri}});
            mallory.send(post(Some(&mallory.session), &subscribe)).await;
        }
    }
    assert!(sessions.len() <= 5, "{}", sessions.len());
    let request = with_token(post(Some(&ada.session), &tool_call(1)), Some("Ada"));
    assert!(is_known(&server, &client, request).await);
}

/// K10: and for what a server makes of recoveries: the answers that are kept, and the ids.
#[tokio::test(start_paused = true)]
async fn k10_what_a_recovery_leaves_behind_counts() {
    let layer = SessionRecoveryLayer::new().max_sessions_bytes(1024 * 1024);
    let (server, client, sessions) = recorded(layer);
    let mut ids = Vec::new();
    for _ in 0..100 {
        ids.push(handshake(&client).await);
    }
    assert_eq!(sessions.len(), 100);
    testing::scenario::answer(&server, "notifications/initialized", |_| {
        reply(202, None, &"x".repeat(60_000))
    });
    server.restart();
    for id in &ids {
        send(&client, post(Some(id), &tool_call(1))).await;
    }
    assert!(sessions.len() <= 18, "{}", sessions.len());
}

/// K10: one session larger than all may hold is kept: there is nobody to make room for.
#[tokio::test(start_paused = true)]
async fn k10_the_last_session_is_kept() {
    let (server, client, sessions) = recorded(SessionRecoveryLayer::new().max_sessions_bytes(0));
    for _ in 0..3 {
        let id = handshake(&client).await;
        assert_eq!(sessions.len(), 1);
        let request = post(Some(&id), &tool_call(1));
        assert!(is_known(&server, &client, request).await);
    }
}

/// K10: what is forgotten is counted no more, in whatever way it went.
#[tokio::test(start_paused = true)]
async fn k10_what_is_forgotten_counts_no_more() {
    let layer = SessionRecoveryLayer::new().max_sessions_bytes(300 * 1024);
    let (_, client, sessions) = recorded(layer);
    for round in 0..30 {
        let made = send(&client, post(None, &large(50 * 1024))).await;
        let id = made.session().unwrap().to_owned();
        match round % 3 {
            0 => sessions.forget_all(),
            _ => {
                send(&client, delete(&id)).await;
            }
        }
        assert!(sessions.is_empty());
    }
    for number in 1..=5 {
        send(&client, post(None, &large(50 * 1024))).await;
        assert_eq!(sessions.len(), number);
    }
}

/// B4, K1: an `initialize` that is too large even to be sent again is reported as well.
#[tokio::test(start_paused = true)]
async fn b4_an_initialize_over_the_limit_of_a_request_is_reported() {
    for (name, expected) in [("initialize", Some(Outcome::NotRecorded)), ("ping", None)] {
        let (_server, client, sessions) =
            recorded(SessionRecoveryLayer::new().max_body_bytes(1024));
        let mut message = initialize();
        message["method"] = json!(name);
        message["params"]["clientInfo"]["name"] = json!("x".repeat(4096));
        let made = send(&client, post(None, &message)).await;
        assert_eq!(made.outcome(), expected, "{name}");
        assert!(sessions.is_empty());
    }
}

/// I2: what the layer lets go of is none of its business any more, also what is on its way.
#[tokio::test(start_paused = true)]
async fn i2_a_request_whose_session_is_pushed_out_before_it_is_sent_reaches_the_server() {
    let (_, client, _) = recorded(SessionRecoveryLayer::new().max_sessions(1));
    let session = handshake(&client).await;
    let (feeder, body) = feed();
    let late = post(Some(&session), &tool_call(1)).map(|_| http_body_util::BodyExt::boxed(body));
    let caller = client.clone();
    let answer = tokio::spawn(async move { send(&caller, late).await });
    settle().await;
    handshake(&client).await;
    feeder.data(tool_call(1).to_string());
    drop(feeder);
    assert_eq!(answer.await.unwrap().status, 200);
}
