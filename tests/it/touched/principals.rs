//! A4: two principals never share a session.

use http::Request;
use mcp_session_recovery::{Outcome, Principal, SessionRecoveryLayer, Sessions};
use testing::scenario::{Door, is, start};
use testing::whose::*;
use testing::*;

/// Who asks, as an authentication layer above has found out.
#[derive(Clone)]
struct Subject(&'static str);

fn gateway(sessions: &Sessions) -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
        .sessions(sessions.clone())
        .principal(|request| Some(Principal::from(request.extensions.get::<Subject>()?.0)))
}

fn of(subject: Option<&'static str>, mut request: Request<CallerBody>) -> Request<CallerBody> {
    if let Some(subject) = subject {
        request.extensions_mut().insert(Subject(subject));
    }
    request
}

/// What becomes of a request by itself.
async fn bare(server: &Server, request: Request<CallerBody>) -> (u16, String) {
    let reply = tower::ServiceExt::oneshot(server.service(), request).await;
    let (head, body) = reply.unwrap().into_parts();
    if head.status == 200 && head.headers["content-type"] == "text/event-stream" {
        return (200, String::new());
    }
    let body = http_body_util::BodyExt::collect(body).await.unwrap();
    let body = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    (head.status.as_u16(), body)
}

/// What the layer makes of it.
async fn through(client: &Client, request: Request<CallerBody>) -> (u16, String) {
    let response = tower::ServiceExt::oneshot(client.clone(), request).await;
    let response = response.unwrap();
    assert!(
        response
            .extensions()
            .get::<mcp_session_recovery::Recovery>()
            .is_none()
    );
    if response.status() == 200 && response.headers()["content-type"] == "text/event-stream" {
        return (200, String::new());
    }
    let answer = read(response).await;
    (answer.status, answer.text().to_owned())
}

fn presented(id: &str) -> Vec<Request<CallerBody>> {
    vec![
        post(Some(id), &tool_call(7)),
        post(Some(id), &initialized()),
        post(
            Some(id),
            &serde_json::json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
        ),
        get(id, None),
        get(id, Some("1")),
        request(http::Method::PUT, Some(id), ""),
    ]
}

/// A4: an id that another principal presents is unknown at every moment of its life: the server says
/// what it says without the layer, and gets the request as it came.
#[tokio::test(start_paused = true)]
async fn a4_another_principals_id_is_unknown_at_every_moment() {
    let moments = [
        "epoch 0",
        "expired",
        "recovering",
        "epoch 1",
        "failed",
        "deleted",
        "evicted",
    ];
    for moment in moments {
        for (owner, other) in [
            (Some("ada"), Some("eve")),
            (Some("ada"), None),
            (None, Some("eve")),
        ] {
            let sessions = Sessions::new();
            let server = Server::new(Profile::TypeScriptJson);
            let client = client(&server, gateway(&sessions));
            let made = send(&client, of(owner, post(None, &initialize()))).await;
            let id = made.session().unwrap().to_owned();
            let call = |id: &str, number| of(owner, post(Some(id), &tool_call(number)));
            let mut under_way = None;
            match moment {
                "epoch 0" => {}
                "expired" => server.restart(),
                "recovering" => {
                    server.restart();
                    let door = Door::before(&server, is("initialize"));
                    under_way = Some((start(&client, call(&id, 1)), door));
                    settle().await;
                }
                "epoch 1" | "deleted" | "evicted" => {
                    server.restart();
                    let answer = send(&client, call(&id, 1)).await;
                    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
                    match moment {
                        "deleted" => {
                            let answer = send(&client, of(owner, delete(&id))).await;
                            assert_eq!(answer.status, 200);
                        }
                        "evicted" => sessions.forget_all(),
                        _ => {}
                    }
                }
                _ => {
                    server.restart();
                    testing::scenario::fail(&server, "initialize", "refused");
                    send(&client, call(&id, 1)).await;
                    testing::scenario::heal(&server);
                }
            }
            let (live, known) = (server.live(), sessions.len());
            let handshakes = server.count("initialize");
            for (number, request) in presented(&id).into_iter().enumerate() {
                let again = presented(&id).swap_remove(number);
                let headers = request.headers().clone();
                let context = format!("{moment}, {owner:?}, {other:?}, {number}");
                let answer = through(&client, of(other, request)).await;
                let arrived = server.seen().pop().unwrap();
                assert_eq!(arrived.headers, headers, "{context}");
                assert_eq!(answer, bare(&server, again).await, "{context}");
            }
            assert_eq!(server.count("initialize"), handshakes, "{moment}");
            assert_eq!((server.live(), sessions.len()), (live, known), "{moment}");

            // The owner notices nothing of it.
            if let Some((call, door)) = under_way {
                door.open();
                assert_eq!(call.await.unwrap().status, 200);
            }
            if !["deleted", "evicted", "failed"].contains(&moment) {
                let answer = send(&client, call(&id, 9)).await;
                assert_eq!(answer.status, 200, "{moment}");
            }
        }
    }
}

/// A4: a DELETE goes to the server as it came, and forgets nothing of another's.
#[tokio::test(start_paused = true)]
async fn a4_another_principals_delete_forgets_nothing() {
    let sessions = Sessions::new();
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, gateway(&sessions));
    let made = send(&client, of(Some("ada"), post(None, &initialize()))).await;
    let id = made.session().unwrap().to_owned();
    for dead in [false, true] {
        if dead {
            server.restart();
            send(&client, of(Some("ada"), post(Some(&id), &tool_call(1)))).await;
        }
        // Epoch 0: the server lets whoever names it end it. Later: the server knows no such id.
        let answer = send(&client, of(Some("eve"), delete(&id))).await;
        assert_eq!(answer.status, if dead { 404 } else { 200 });
        assert_eq!(server.last("DELETE").session(), Some(&*id));
        assert_eq!(sessions.len(), 1);
        let answer = send(&client, of(Some("ada"), post(Some(&id), &tool_call(2)))).await;
        assert_eq!(answer.status, 200);
    }
}

/// A4, B5: an `initialize` that carries another's id is not recorded under it.
#[tokio::test(start_paused = true)]
async fn a4_an_initialize_with_another_principals_id_changes_nothing_of_it() {
    let sessions = Sessions::new();
    let server = Server::new(Profile::Python1);
    let client = client(&server, gateway(&sessions));
    let message = initialize_as("ada");
    let made = send(&client, of(Some("ada"), post(None, &message))).await;
    let id = made.session().unwrap().to_owned();
    // The profile answers it in the session that there is.
    let message = initialize_as("eve");
    let answer = send(&client, of(Some("eve"), post(Some(&id), &message))).await;
    assert_eq!((answer.status, sessions.len()), (200, 1));
    server.restart();
    let answer = send(&client, of(Some("ada"), post(Some(&id), &tool_call(1)))).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
    let sent = server.last("initialize").message();
    assert_eq!(sent["params"]["clientInfo"]["name"], "ada");
}

/// A4, A5: a server that counts gives one principal the number that another one had, before or after
/// that one is recovered. Each goes by it, and each has its own session.
#[tokio::test(start_paused = true)]
async fn a4_a5_principals_go_by_the_same_id_each_in_its_own_session() {
    for ada_first in [false, true] {
        let sessions = Sessions::new();
        let server = Server::new(Profile::TypeScriptJson);
        server.set_ids(Ids::Counting);
        let client = client(&server, gateway(&sessions));
        let connect = async |name: &'static str| {
            let message = initialize_as(name);
            let made = send(&client, of(Some(name), post(None, &message))).await;
            made.session().unwrap().to_owned()
        };
        let call = async |name: &'static str, id: &str, number| {
            let request = of(Some(name), post(Some(id), &tool_call(number)));
            assert_eq!(send(&client, request).await.status, 200, "{name} {number}");
            assert_eq!(
                server.whose_was(number).as_deref(),
                Some(name),
                "{ada_first}"
            );
        };
        let ada = connect("ada").await;
        server.restart();
        if ada_first {
            call("ada", &ada, 1).await;
            server.restart();
        }
        let eve = connect("eve").await;
        assert_eq!((&*ada, &*eve), ("1", "1"));
        for number in [10, 20, 30] {
            call("ada", &ada, number).await;
            call("eve", &eve, number + 1).await;
            call("eve", &eve, number + 2).await;
            call("ada", &ada, number + 3).await;
            server.restart();
            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        }
    }
}

/// A1, A4: who the caller is, is asked once for each request that may be of a session, with the head
/// as it came, and never for others.
#[tokio::test(start_paused = true)]
async fn a4_who_the_caller_is_is_asked_with_the_head_as_it_came() {
    use std::sync::{Arc, Mutex};
    let asked = Arc::new(Mutex::new(Vec::new()));
    let server = Server::new(Profile::TypeScriptJson);
    let layer = SessionRecoveryLayer::new().principal({
        let asked = asked.clone();
        move |head| {
            let subject = head.extensions.get::<Subject>()?.0;
            let key = head.headers.get("x-key").cloned();
            let (method, uri, version) = (head.method.clone(), head.uri.clone(), head.version);
            asked.lock().unwrap().push((method, uri, version, key));
            Some(Principal::from(subject))
        }
    });
    let client = client(&server, layer);
    let mut known = post(Some("unknown"), &tool_call(1));
    let mut other = request(http::Method::GET, None, "");
    for request in [&mut known, &mut other] {
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = "https://a.test/x?y".parse().unwrap();
        request.headers_mut().insert("x-key", "1".parse().unwrap());
    }
    for request in [known, other] {
        let headers = request.headers().clone();
        send(&client, of(Some("ada"), request)).await;
        let arrived = server.seen().pop().unwrap();
        assert_eq!(arrived.headers, headers);
        assert_eq!(arrived.uri, "https://a.test/x?y");
        assert_eq!(arrived.extensions.get::<Subject>().unwrap().0, "ada");
    }
    let asked = asked.lock().unwrap();
    let [(method, uri, version, key)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (method, version),
        (&http::Method::POST, &http::Version::HTTP_2)
    );
    assert_eq!(uri, "https://a.test/x?y");
    assert_eq!(key.as_ref().unwrap(), "1");
}

/// A4: a token that is refreshed is another one of the same principal.
#[tokio::test(start_paused = true)]
async fn a4_a_refreshed_token_is_the_same_principals() {
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, gateway(&Sessions::new()));
    let made = send(&client, of(Some("ada"), post(None, &initialize()))).await;
    let id = made.session().unwrap().to_owned();
    server.restart();
    let request = with_token(post(Some(&id), &tool_call(1)), Some("refreshed"));
    let answer = send(&client, of(Some("ada"), request)).await;
    assert_eq!(answer.outcome(), Some(Outcome::Replayed));
}
