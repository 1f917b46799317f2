//! What all sessions of a table hold (rules K10, I2).

use mcp_session_recovery::{SessionRecoveryLayer, Sessions};
use serde_json::{Value, json};
use testing::mocked::with_headers;
use testing::*;

const MIB: usize = 1024 * 1024;
/// What each session of these tests is made to hold, about.
const EACH: usize = 48 * 1024;

fn rpc(id: impl Into<Value>, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

fn layer(bytes: usize) -> (SessionRecoveryLayer, Sessions) {
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new()
        .max_sessions_bytes(bytes)
        .sessions(sessions.clone());
    (layer, sessions)
}

/// A header value of so many bytes.
fn long(bytes: usize) -> &'static str {
    Box::leak("x".repeat(bytes).into_boxed_str())
}

/// What makes a session hold a lot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hoard {
    Body,
    Credentials,
    Subscriptions,
    EventIds,
    TriggersHeaders,
    AnswerToInitialized,
    Cookies,
    Id,
    Uri,
    Refusal,
}

impl Hoard {
    const ALL: [Self; 10] = [
        Self::Body,
        Self::Credentials,
        Self::Subscriptions,
        Self::EventIds,
        Self::TriggersHeaders,
        Self::AnswerToInitialized,
        Self::Cookies,
        Self::Id,
        Self::Uri,
        Self::Refusal,
    ];

    fn script(self, server: &Server) {
        let behind = server.clone();
        let mut made = 0;
        server.on(move |seen| {
            let own = behind.default_answer(seen);
            match (self, &*seen.what()) {
                (Self::AnswerToInitialized, "notifications/initialized") => {
                    Some(reply(202, Some("text/plain"), &"x".repeat(EACH)))
                }
                (Self::Cookies, "initialize" | "notifications/initialized") => {
                    let mut own = own;
                    for number in 0..8 {
                        let cookie = format!("c{number}={}", "x".repeat(4000));
                        own.headers_mut()
                            .append("set-cookie", cookie.parse().unwrap());
                    }
                    Some(own)
                }
                (Self::Id, "initialize") => {
                    made += 1;
                    let mut own = own;
                    let id = format!("{made}{}", "x".repeat(EACH));
                    own.headers_mut().insert(SESSION_ID, id.parse().unwrap());
                    Some(own)
                }
                (Self::Refusal, "initialize") if seen.session().is_none() => {
                    made += 1;
                    // The caller's own is answered as ever.
                    Some(match made % 2 {
                        1 => own,
                        _ => reply(401, Some("text/plain"), &"x".repeat(EACH)),
                    })
                }
                (Self::Id, "notifications/initialized") => Some(reply(202, None, "")),
                (Self::EventIds, "tools/call") => {
                    let event =
                        |number: usize| format!("id: {number}{}\ndata: \n\n", "x".repeat(43));
                    let events: String = (1000..2000).map(event).collect();
                    Some(stream(Script::new().data(events).pending()))
                }
                _ => Some(own),
            }
        });
    }

    /// Makes a session that holds so much.
    async fn session(self, server: &Server, client: &Client) {
        let mut opening = post(None, &initialize());
        match self {
            Self::Body => {
                let mut initialize = initialize();
                initialize["params"]["clientInfo"]["name"] = long(EACH).into();
                opening = post(None, &initialize);
            }
            Self::Credentials => opening = with_headers(opening, &[("x-key", long(EACH))]),
            Self::Uri => {
                *opening.uri_mut() = format!("{URI}?{}", long(EACH)).parse().unwrap();
            }
            _ => {}
        }
        let made = send(client, opening).await;
        let session = made.session().unwrap().to_owned();
        let mut call = post(Some(&session), &tool_call(1));
        match self {
            Self::Subscriptions => {
                for number in 0..EACH / 4000 {
                    let uri = format!("{number}{}", long(4000));
                    let subscribe = rpc(1, "resources/subscribe", json!({"uri": uri}));
                    send(client, post(Some(&session), &subscribe)).await;
                }
            }
            Self::EventIds => {
                use http_body_util::BodyExt;
                use tower::ServiceExt;
                let response = client.clone().oneshot(call).await.unwrap();
                response.into_body().frame().await.unwrap().unwrap();
            }
            Self::TriggersHeaders | Self::AnswerToInitialized | Self::Cookies | Self::Refusal => {
                server.restart();
                if self == Self::TriggersHeaders {
                    call = with_headers(call, &[("x-key", long(EACH))]);
                }
                let recovered = send(client, call).await;
                assert!(recovered.recovery.is_some(), "{self:?}");
            }
            _ => {}
        }
    }
}

/// K10: whatever it is that sessions are made to hold, as many are forgotten as have no room.
#[tokio::test(start_paused = true)]
async fn k10_what_all_sessions_hold_is_bounded() {
    const SESSIONS: usize = 48;
    let mut unbounded = Vec::new();
    for hoard in Hoard::ALL {
        // Given room for every session, but not for what each is made to hold,
        let (layer, sessions) = layer(MIB);
        let server = Server::new(Profile::TypeScriptJson);
        hoard.script(&server);
        let client = client(&server, layer);

        // when there are many of them,
        for _ in 0..SESSIONS {
            hoard.session(&server, &client).await;
        }

        // then only as many are remembered as there is room for.
        let held = sessions.len() * EACH * 2 / 3;
        if held > MIB {
            unbounded.push((hoard, sessions.len()));
        }
        assert!(!sessions.is_empty());
    }
    assert_eq!(unbounded, []);
}

/// K10: sessions that hold little are not forgotten.
#[tokio::test]
async fn k10_there_is_room_for_as_many_ordinary_sessions_as_k2_allows() {
    let (layer, sessions) = layer(256 * MIB);
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, layer);
    for _ in 0..10_000 {
        send(&client, post(None, &initialize())).await;
    }
    assert_eq!(sessions.len(), 10_000);
}

/// K10: no value of the knob leaves nothing, and none overflows.
#[tokio::test]
async fn k10_one_session_is_always_remembered() {
    for (bytes, kept) in [(0, 1), (1, 1), (usize::MAX, 3)] {
        let (layer, sessions) = layer(bytes);
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, layer);
        let mut last = String::new();
        for _ in 0..3 {
            last = handshake(&client).await;
        }
        assert_eq!(sessions.len(), kept, "{bytes}");
        server.restart();
        let recovered = send(&client, post(Some(&last), &tool_call(1))).await;
        assert_eq!(recovered.status, 200, "{bytes}");
        sessions.forget_all();
        assert!(sessions.is_empty());
    }
}

/// K10: what a session held is given back when it is forgotten, however that happens.
#[tokio::test(start_paused = true)]
async fn k10_a_session_that_is_forgotten_holds_nothing() {
    for hoard in Hoard::ALL {
        let (layer, sessions) = layer(MIB);
        let server = Server::new(Profile::TypeScriptJson);
        let client = client(&server, layer);
        // Given much that was recorded, recovered and forgotten again,
        hoard.script(&server);
        for round in 0..30 {
            hoard.session(&server, &client).await;
            if round % 2 == 0 {
                sessions.forget_all();
            }
        }
        sessions.forget_all();
        // then there is room as before.
        testing::scenario::heal(&server);
        for _ in 0..200 {
            send(&client, post(None, &initialize())).await;
        }
        assert_eq!(sessions.len(), 200, "{hoard:?}");
    }
}

/// I2, A3, E5: what ends a session that was forgotten is sent with its own caller's query, which may
/// be a key.
#[tokio::test(start_paused = true)]
async fn i2_a_session_that_is_forgotten_is_ended_with_its_own_query() {
    let sessions = Sessions::new();
    let layer = SessionRecoveryLayer::new()
        .max_sessions(2)
        .sessions(sessions.clone());
    let server = Server::new(Profile::TypeScriptJson);
    let client = client(&server, layer);
    // Given a server that hands out an id that a caller still goes by to another,
    let mut ids = ["x", "y", "x", "z"].into_iter();
    let behind = server.clone();
    server.on(move |seen| match &*seen.what() {
        "initialize" => {
            let mut own = behind.default_answer(seen);
            let id = ids.next().unwrap();
            own.headers_mut().insert(SESSION_ID, id.parse().unwrap());
            Some(own)
        }
        "notifications/initialized" => Some(reply(202, None, "")),
        _ if seen.session() == Some("x") => Some(reply(404, None, "")),
        _ => Some(reply(202, None, "")),
    });
    let with_key = |key: &str, mut request: http::Request<CallerBody>| {
        *request.uri_mut() = format!("{URI}?key={key}").parse().unwrap();
        request
    };
    send(&client, with_key("a", post(None, &initialize()))).await;
    send(&client, with_key("a", post(Some("x"), &tool_call(1)))).await;
    let other = send(&client, with_key("b", post(None, &initialize()))).await;
    assert_ne!(other.session(), Some("x"));
    send(&client, with_key("a", post(Some("x"), &tool_call(2)))).await;

    // when that one is forgotten,
    send(&client, with_key("c", post(None, &initialize()))).await;
    settle().await;

    // then its session is ended with its own key.
    assert_eq!(sessions.len(), 2);
    let ended = server.last("DELETE");
    assert_eq!(
        (ended.session(), &*ended.uri),
        (Some("x"), "http://mcp.test/mcp?key=b")
    );
}
