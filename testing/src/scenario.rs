//! Recoveries that are kept waiting or fail, and what is reported of them.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use mcp_session_recovery::{Failure, RecoveryEvent, SessionRecoveryLayer};
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinHandle};

use crate::*;

type Answering = Pin<Box<dyn Future<Output = Result<Reply, TestError>> + Send>>;

/// Holds requests back, as a slow server does, until it is opened. They are answered by what the
/// server knows then.
#[derive(Clone)]
pub struct Door(Arc<Semaphore>);

impl Door {
    pub fn before(server: &Server, held: impl Fn(&Seen) -> bool + Send + 'static) -> Self {
        let behind = server.clone();
        Self::then(server, held, move |seen| behind.default_answer(seen))
    }

    /// The same with what they are answered then.
    pub fn then(
        server: &Server,
        held: impl Fn(&Seen) -> bool + Send + 'static,
        answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let door = Self(Arc::new(Semaphore::new(0)));
        let (opened, answer) = (door.0.clone(), Arc::new(answer));
        server.on_async(move |seen| {
            let (opened, answer, seen) = (opened.clone(), answer.clone(), seen.clone());
            held(&seen).then(|| -> Answering {
                Box::pin(async move {
                    opened.acquire().await.unwrap().forget();
                    Ok(answer(&seen))
                })
            })
        });
        door
    }

    pub fn open(&self) {
        self.0.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

/// Requests of one kind, for [`Door::before`].
pub fn is(what: &'static str) -> impl Fn(&Seen) -> bool + Send + 'static {
    move |seen| seen.what() == what
}

/// Answers requests of one kind, whatever was scripted for them before.
pub fn answer(
    server: &Server,
    what: &'static str,
    mut reply: impl FnMut(&Seen) -> Reply + Send + 'static,
) {
    server.on(move |seen| (seen.what() == what).then(|| reply(seen)));
}

/// Lets requests of one kind fail in the transport.
pub fn fail(server: &Server, what: &'static str, error: &'static str) {
    server.on_async(move |seen| {
        (seen.what() == what)
            .then(|| -> Answering { Box::pin(async move { Err(TestError(error)) }) })
    });
}

/// Never answers requests of one kind.
pub fn hang(server: &Server, what: &'static str) {
    server
        .on_async(move |seen| (seen.what() == what).then(|| -> Answering { Box::pin(pending()) }));
}

/// Answers requests of one kind after a while, as the server does otherwise.
pub fn slow(server: &Server, what: &'static str, takes: Duration) {
    let behind = server.clone();
    server.on_async(move |seen| {
        let (behind, seen) = (behind.clone(), seen.clone());
        (seen.what() == what).then(|| -> Answering {
            Box::pin(async move {
                tokio::time::sleep(takes).await;
                Ok(behind.default_answer(&seen))
            })
        })
    });
}

/// Takes back everything that was scripted.
pub fn heal(server: &Server) {
    let healed = server.clone();
    server.on(move |seen| Some(healed.default_answer(seen)));
}

/// Sends a request in a task of its own.
pub fn start(client: &Client, request: Request<CallerBody>) -> JoinHandle<Answer> {
    let client = client.clone();
    tokio::spawn(async move { send(&client, request).await })
}

/// The events that `on_recovery` was given.
#[derive(Clone, Default)]
pub struct Events(Arc<Mutex<Vec<RecoveryEvent>>>);

impl Events {
    pub fn of(layer: SessionRecoveryLayer) -> (SessionRecoveryLayer, Self) {
        let events = Self::default();
        let pushed = events.clone();
        let layer = layer.on_recovery(move |event| pushed.0.lock().unwrap().push(event.clone()));
        (layer, events)
    }

    pub fn all(&self) -> Vec<RecoveryEvent> {
        self.0.lock().unwrap().clone()
    }

    pub fn outcomes(&self) -> Vec<Result<(), Failure>> {
        self.all().iter().map(RecoveryEvent::result).collect()
    }
}

/// A way in which a recovery fails.
pub struct Broken {
    pub failure: Failure,
    /// Makes a server fail in this way.
    pub script: fn(&Server),
    /// The session that the server had handed out by then.
    pub half_open: Option<&'static str>,
}

pub const CHALLENGE: &str = "Bearer realm=\"secret-realm\"";
/// An id that a scripted `initialize` is answered with.
const HANDED_OUT: &str = "secret-session-half-open";

/// Every way in which a handshake fails.
pub fn broken_handshakes() -> Vec<Broken> {
    fn broken(failure: Failure, half_open: Option<&'static str>, script: fn(&Server)) -> Broken {
        Broken {
            failure,
            script,
            half_open,
        }
    }
    fn status(status: u16) -> http::StatusCode {
        http::StatusCode::from_u16(status).unwrap()
    }
    fn refuse(server: &Server, what: &'static str, status: u16) {
        answer(server, what, move |_| {
            let mut refused = json_reply(status, &json!({"error": "secret-refusal"}));
            let headers = refused.headers_mut();
            headers.insert("www-authenticate", CHALLENGE.parse().unwrap());
            headers.insert("x-request-id", "7".parse().unwrap());
            refused
        });
    }
    /// A 200 that hands out an id, and then goes wrong.
    fn begin(server: &Server, mut reply: impl FnMut(&Seen) -> Reply + Send + 'static) {
        answer(server, "initialize", move |seen| {
            let mut reply = reply(seen);
            reply
                .headers_mut()
                .insert(SESSION_ID, HANDED_OUT.parse().unwrap());
            reply
        });
    }
    let half_open = Some(HANDED_OUT);
    // The first session is the caller's; an untouched `initialize` hands out the second.
    let second = Some("secret-session-2");
    vec![
        broken(Failure::Denied(status(401)), None, |server| {
            refuse(server, "initialize", 401);
        }),
        broken(Failure::Denied(status(403)), None, |server| {
            refuse(server, "initialize", 403);
        }),
        broken(Failure::Refused(status(404)), None, |server| {
            refuse(server, "initialize", 404);
        }),
        broken(Failure::Refused(status(503)), None, |server| {
            refuse(server, "initialize", 503);
        }),
        broken(Failure::Rpc(-32602), half_open, |server| {
            begin(server, |seen| {
                json_reply(
                    200,
                    &json!({"jsonrpc": "2.0", "id": seen.message()["id"], "error": {"code": -32602, "message": "secret"}}),
                )
            });
        }),
        // The answer to another request.
        broken(Failure::Malformed, half_open, |server| {
            begin(server, |_| {
                json_reply(
                    200,
                    &json!({"jsonrpc": "2.0", "id": "secret-other", "result": {}}),
                )
            });
        }),
        broken(Failure::Malformed, half_open, |server| {
            begin(server, |_| reply(200, Some("text/html"), "secret"));
        }),
        broken(Failure::Malformed, half_open, |server| {
            begin(server, |_| sse("data: secret\n\n"));
        }),
        broken(Failure::Malformed, half_open, |server| {
            begin(server, |_| reply(202, None, ""));
        }),
        broken(Failure::Truncated, half_open, |server| {
            begin(server, |_| {
                stream(Script::new().data("data: {\"secret").error("secret end"))
            });
        }),
        broken(Failure::TimedOut, half_open, |server| {
            begin(server, |_| pending_sse());
        }),
        broken(Failure::TimedOut, None, |server| hang(server, "initialize")),
        broken(Failure::TimedOut, second, |server| {
            hang(server, "notifications/initialized");
        }),
        broken(Failure::Transport, None, |server| {
            fail(
                server,
                "initialize",
                "no way to http://mcp.test/?key=secret",
            );
        }),
        broken(Failure::Transport, second, |server| {
            fail(
                server,
                "notifications/initialized",
                "no way to http://mcp.test/?key=secret",
            );
        }),
        broken(Failure::NotAccepted(status(500)), second, |server| {
            refuse(server, "notifications/initialized", 500);
        }),
    ]
}
