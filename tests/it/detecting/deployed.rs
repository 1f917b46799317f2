//! D9: deployed servers that answer a session they do not know otherwise than with a 404, each with
//! a client that refreshes its token on a 401, and with a token that has really expired.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use http::Request;
use mcp_session_recovery::{Outcome, SessionRecoveryLayer};
use serde_json::{Value, json};
use testing::streams::{is_live, soon};
use testing::whose::with_token;
use testing::*;
use tower::ServiceExt;

/// What a deployed server answers to a session that it does not know.
struct Deployed {
    name: &'static str,
    post: fn() -> Reply,
    /// The same to a GET, where it says that otherwise.
    get: Option<fn() -> Reply>,
}

const fn deployed(name: &'static str, post: fn() -> Reply) -> Deployed {
    let get = None;
    Deployed { name, post, get }
}

fn text(status: u16, text: &str) -> Reply {
    reply(status, Some("text/plain"), text)
}

fn rpc(status: u16, code: i64, message: &str) -> Reply {
    let error = json!({"code": code, "message": message});
    json_reply(
        status,
        &json!({"jsonrpc": "2.0", "error": error, "id": Value::Null}),
    )
}

fn challenging(mut reply: Reply) -> Reply {
    let challenge = r#"Bearer error="invalid_token""#.parse().unwrap();
    reply.headers_mut().insert("www-authenticate", challenge);
    reply
}

const SERVERS: [Deployed; 15] = [
    deployed("rmcp before rust-sdk issue 689", || {
        reply(401, None, "Unauthorized: Session not found")
    }),
    // The package mcp-proxy, with an `authenticate` callback, and what is built on it.
    deployed("mcp-proxy", || {
        challenging(rpc(
            401,
            -32000,
            "Unauthorized: No valid session ID provided",
        ))
    }),
    deployed("a 401 that says nothing of the session", || {
        challenging(reply(401, None, ""))
    }),
    deployed("mcp-go before pull request 689", || {
        text(400, "Invalid session ID")
    }),
    deployed("affine-mcp-server", || {
        rpc(
            400,
            -32000,
            "Bad Request: No valid session ID or not an initialize request",
        )
    }),
    deployed("anubis-mcp", || rpc(400, -32600, "No active session")),
    Deployed {
        get: Some(|| text(400, "Invalid or missing session ID")),
        ..deployed("the TypeScript SDK's example", || {
            rpc(400, -32000, "Bad Request: No valid session ID provided")
        })
    },
    deployed("the Python SDK before its issue 1004", || {
        text(400, "Bad Request: No valid session ID provided")
    }),
    deployed("openapi-mcp-server", || {
        rpc(
            400,
            -32000,
            "Invalid session. A valid Mcp-Session-Id header is required.",
        )
    }),
    deployed("mcp-chrome", || {
        json_reply(
            400,
            &json!({"error": "Invalid or missing MCP session ID for SSE."}),
        )
    }),
    deployed("neotoma", || {
        rpc(
            503,
            -32000,
            "Service Unavailable: this MCP session is unknown on this API instance",
        )
    }),
    deployed("a 403", || {
        json_reply(403, &json!({"error": "session_expired"}))
    }),
    deployed("a 410", || text(410, "This session has been terminated.")),
    deployed("a 500", || {
        rpc(500, -32603, "Internal error: session not found")
    }),
    deployed("rmcp, a handler still running", || {
        text(
            500,
            "Encounter an error when get session: Session error: Session service terminated",
        )
    }),
];

/// A session on such a server, which wants a bearer token, and a client with one.
struct Scene {
    server: Server,
    client: Client,
    session: String,
    /// The tokens that are good.
    good: Arc<Mutex<HashSet<String>>>,
    /// How often the client has refreshed its own.
    refreshed: u32,
}

/// What the server says to a token that is not good.
const EXPIRED: &str = r#"{"error":"invalid_token","error_description":"The token has expired"}"#;

fn token(refreshed: u32) -> String {
    format!("token-{refreshed}")
}

impl Scene {
    async fn new(deployed: &'static Deployed) -> Self {
        let server = Server::new(Profile::TypeScriptJson);
        let good = Arc::new(Mutex::new(HashSet::from([format!("Bearer {}", token(0))])));
        let (living, tokens) = (server.clone(), good.clone());
        server.on(move |seen| {
            let authorization = seen.header("authorization").unwrap_or_default();
            if !tokens.lock().unwrap().contains(authorization) {
                let denied = reply(401, Some("application/json"), EXPIRED);
                return Some(challenging(denied));
            }
            let is_unknown = seen.session().is_some() && !is_live(&living, seen);
            let get = deployed.get.filter(|_| seen.method == http::Method::GET);
            is_unknown.then(get.unwrap_or(deployed.post))
        });
        let mut scene = Self {
            client: client(&server, SessionRecoveryLayer::new()),
            server,
            session: String::new(),
            good,
            refreshed: 0,
        };
        let (_, id) = scene.once(post(None, &initialize())).await;
        scene.session = id.expect("a session id");
        let (accepted, _) = scene.once(post(Some(&scene.session), &initialized())).await;
        assert_eq!(accepted.0, 202);
        scene
    }

    /// The status, outcome and session id of an answer.
    async fn once(&self, request: Request<CallerBody>) -> ((u16, Option<Outcome>), Option<String>) {
        let request = with_token(request, Some(&token(self.refreshed)));
        let answer = soon(self.client.clone().oneshot(request)).await.unwrap();
        let recovery = answer.extensions().get::<mcp_session_recovery::Recovery>();
        let outcome = recovery.map(|recovery| recovery.outcome());
        let id = answer.headers().get(SESSION_ID);
        let id = id.map(|id| id.to_str().unwrap().to_owned());
        ((answer.status().as_u16(), outcome), id)
    }

    /// As a client that refreshes its token on a 401, and tries again.
    async fn send(
        &mut self,
        request: impl Fn(&str) -> Request<CallerBody>,
    ) -> (u16, Option<Outcome>) {
        loop {
            let (answer, _) = self.once(request(&self.session)).await;
            if answer.0 != 401 {
                return answer;
            }
            self.refreshed += 1;
            assert!(self.refreshed < 4, "it loops: {:?}", self.server.log());
            let fresh = format!("Bearer {}", token(self.refreshed));
            *self.good.lock().unwrap() = HashSet::from([fresh]);
        }
    }

    /// No token of the client's is good any more.
    fn expire_tokens(&self) {
        self.good.lock().unwrap().clear();
    }

    fn arrived(&self) -> usize {
        self.server.seen().len()
    }
}

type MakeRequest = fn(&str) -> Request<CallerBody>;

/// What finds a session expired.
const REQUESTS: [(&str, MakeRequest); 3] = [
    ("call", |session| post(Some(session), &tool_call(1))),
    ("notification", |session| {
        let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled"});
        post(Some(session), &cancelled)
    }),
    ("listening stream", |session| get(session, None)),
];

/// The session is recovered before the client is told to refresh its token, which would not help.
#[tokio::test(start_paused = true)]
async fn d9_deployed_servers_are_recovered_and_no_token_is_refreshed_in_vain() {
    for deployed in &SERVERS {
        for (what, request) in REQUESTS {
            let case = format!("{}: {what}", deployed.name);
            let mut scene = Scene::new(deployed).await;
            for lost in 1..4 {
                // Given a server that knows the session no more,
                scene.server.restart();
                let before = scene.arrived();
                // when a client sends something in it, then it is answered,
                let (status, outcome) = scene.send(request).await;
                assert!(matches!(status, 200 | 202), "{case}: {status}");
                assert_eq!(outcome, Some(Outcome::Replayed), "{case}");
                // after the request, a ping, the handshake, and the request again.
                assert!(scene.arrived() - before <= 5, "{:?}", scene.server.log());
                assert_eq!(scene.server.count("initialize"), lost + 1, "{case}");
                assert_eq!(scene.refreshed, 0, "{case}");
            }
        }
    }
}

/// J1: a token that is no longer good is the client's to refresh, whether the session lives or not.
#[tokio::test(start_paused = true)]
async fn d9_an_expired_token_is_answered_its_own_401_after_two_more_requests_at_most() {
    for deployed in &SERVERS {
        for (what, request) in REQUESTS {
            for lives in [true, false] {
                let case = format!("{}: {what}, lives: {lives}", deployed.name);
                let mut scene = Scene::new(deployed).await;
                // Given a token that has expired, and a session that may have,
                if !lives {
                    scene.server.restart();
                }
                scene.expire_tokens();
                for _ in 0..5 {
                    let before = scene.arrived();
                    // when a client sends something, then it gets the server's 401, each time,
                    let answer = soon(send(
                        &scene.client,
                        with_token(request(&scene.session), Some(&token(0))),
                    ))
                    .await;
                    assert_eq!((answer.status, answer.text()), (401, EXPIRED), "{case}");
                    assert!(answer.header("www-authenticate").is_some(), "{case}");
                    // for two more requests at most,
                    assert!(scene.arrived() - before <= 3, "{:?}", scene.server.log());
                }
                // and with its token refreshed, once, it is answered.
                if !lives && deployed.name == "a 401 that says nothing of the session" {
                    // To a token that it does not know to be good, nothing tells that from a refusal.
                    continue;
                }
                let (status, _) = scene.send(request).await;
                assert!(matches!(status, 200 | 202), "{case}: {status}");
                assert_eq!(scene.refreshed, 1, "{case}");
                let made = scene.server.all("initialize");
                let is_accepted =
                    |seen: &&Seen| seen.header("authorization") == Some("Bearer token-1");
                let made = made.iter().filter(is_accepted).count();
                assert_eq!(made, usize::from(!lives), "{case}");
            }
        }
    }
}

/// D8, D9: a client that has refreshed its token before the session is lost.
#[tokio::test(start_paused = true)]
async fn d9_a_token_refreshed_before_the_loss_recovers_the_session() {
    let speaking = SERVERS
        .iter()
        .filter(|it| it.name != "a 401 that says nothing of the session");
    for deployed in speaking {
        for (what, request) in REQUESTS {
            let case = format!("{}: {what}", deployed.name);
            let mut scene = Scene::new(deployed).await;
            scene.refreshed = 1;
            *scene.good.lock().unwrap() = HashSet::from([format!("Bearer {}", token(1))]);
            scene.server.restart();
            let (status, outcome) = scene.send(request).await;
            assert!(matches!(status, 200 | 202), "{case}: {status}");
            assert_eq!(outcome, Some(Outcome::Replayed), "{case}");
            assert_eq!((scene.refreshed, scene.server.count("initialize")), (1, 2));
        }
    }
}
