//! The server: hyper's, with sessions in memory. It executes what comes in a session that it knows,
//! and says 404 to the rest.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::time::sleep;
use turmoil::net::TcpListener;

use crate::{
    account::{State, World},
    answer::Answer,
    client::{CALLER, SENT, SERIAL, SESSION_ID, header},
    plan::Refused,
};

pub async fn serve(world: World) -> turmoil::Result {
    let listener = TcpListener::bind(("0.0.0.0", 80)).await?;
    // Not tasks: in which order a runtime drops those goes by how many there have been in the whole
    // process.
    let mut connections = FuturesUnordered::new();
    loop {
        let stream = tokio::select! {
            biased;
            Some(()) = connections.next() => continue,
            accepted = listener.accept() => accepted?.0,
        };
        let world = world.clone();
        let service = service_fn(move |request| answer(world.clone(), request));
        connections.push(async move {
            // How it ends is seen by the client.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

type Answered = Response<Answer>;

async fn answer(world: World, request: Request<Incoming>) -> Result<Answered, hyper::Error> {
    let (head, body) = request.into_parts();
    let message = body.collect().await?.to_bytes();
    let seen = Seen {
        caller: header(&head.headers, CALLER).unwrap_or(usize::MAX),
        sent: header(&head.headers, SENT).unwrap_or_default(),
        session: header(&head.headers, SESSION_ID),
        message: serde_json::from_slice(&message).unwrap_or(Value::Null),
        method: head.method,
    };
    let (arrives, works) = {
        let state = &mut *world.state();
        let most = if state.lags { 4_000 } else { 150 };
        let mut some = || Duration::from_millis(state.random.below(most));
        (some(), some())
    };
    sleep(arrives).await;
    let answered = seen.act(&world, works);
    if !answered.1 {
        sleep(works).await;
    }
    Ok(answered.0)
}

struct Seen {
    caller: usize,
    sent: u64,
    session: Option<String>,
    message: Value,
    method: Method,
}

impl Seen {
    /// The answer, and whether its body takes the time that the work does.
    fn act(&self, world: &World, works: Duration) -> (Answered, bool) {
        let state = &mut *world.state();
        let method = match self.message["method"].as_str() {
            Some(method) => method,
            None => self.method.as_str(),
        };
        if self.is_refused(state, method) {
            state.counts.refused += 1;
            return (status(StatusCode::SERVICE_UNAVAILABLE), false);
        }
        if method == "initialize" {
            return (self.initialize(state), false);
        }
        let Some(id) = &self.session else {
            return (status(StatusCode::BAD_REQUEST), false);
        };
        let Some(serial) = state.find(id) else {
            state.tell(|| format!("{}: {method} in no session", self.caller));
            return (status(StatusCode::NOT_FOUND), false);
        };
        state.came(self.caller, serial, self.sent, method);
        match method {
            "notifications/initialized" => {
                state.upstreams[serial].is_initialized = true;
                (status(StatusCode::ACCEPTED), false)
            }
            "tools/call" => {
                let key = self.message["params"]["key"].as_u64().unwrap_or_default();
                state.executed(key, serial, self.sent);
                let result = json!({ "key": key });
                let is_stream = state.random.chance(state.settings.streams);
                let primes = state.random.chance(40);
                let answer = self.result(result, is_stream, primes, works);
                let answer = answer.map(|body| body.of_session(world, serial, false));
                (answer, is_stream)
            }
            "ping" => (self.result(json!({}), false, false, works), false),
            "GET" => {
                let begins = (Duration::ZERO, Bytes::from_static(b": listening\n\n"));
                let body = Answer::of([begins]).of_session(world, serial, true);
                (stream(body), true)
            }
            "DELETE" => {
                state.end(serial, true);
                (status(StatusCode::OK), false)
            }
            _ => (status(StatusCode::ACCEPTED), false),
        }
    }

    fn is_refused(&self, state: &State, method: &str) -> bool {
        match state.refused {
            None => false,
            Some(Refused::Initialize) => method == "initialize",
            Some(Refused::Initialized) => method == "notifications/initialized",
            Some(Refused::Everything) => true,
        }
    }

    fn initialize(&self, state: &mut State) -> Answered {
        let of = self.message["params"]["clientInfo"]["name"].as_str();
        let of: Option<usize> = of.and_then(|of| of.parse().ok());
        state.check(
            of == Some(self.caller),
            "nobody's handshake but one's own",
            || format!("{} initializes as {of:?}", self.caller),
        );
        let serial = state.begin(self.caller);
        let result = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "server", "version": "1" },
        });
        let is_stream = state.random.chance(state.settings.streams);
        let mut response = self.result(result, is_stream, false, Duration::from_millis(20));
        let id = state.upstreams[serial].id.parse().expect("a header");
        response.headers_mut().insert(SESSION_ID, id);
        response.headers_mut().insert(SERIAL, serial.into());
        response
    }

    fn result(&self, result: Value, is_stream: bool, primes: bool, works: Duration) -> Answered {
        let id = &self.message["id"];
        let message = json!({ "jsonrpc": "2.0", "id": id, "result": result });
        if !is_stream {
            let body = Answer::of([(Duration::ZERO, Bytes::from(message.to_string()))]);
            let mut response = Response::new(body);
            let json = "application/json".parse().expect("a header");
            response.headers_mut().insert(CONTENT_TYPE, json);
            return response;
        }
        let progress = json!({
            "jsonrpc": "2.0",
            "method": "notifications/progress",
            "params": { "progressToken": 1, "progress": 1 },
        });
        let event = |message: Value| Bytes::from(format!("event: message\ndata: {message}\n\n"));
        let mut script = vec![(works, event(message))];
        if primes {
            script.insert(0, (Duration::ZERO, event(progress)));
        }
        stream(Answer::of(script))
    }
}

fn status(status: StatusCode) -> Answered {
    let mut response = Response::new(Answer::default());
    *response.status_mut() = status;
    response
}

fn stream(body: Answer) -> Answered {
    let mut response = Response::new(body);
    let events = "text/event-stream".parse().expect("a header");
    response.headers_mut().insert(CONTENT_TYPE, events);
    response
}
