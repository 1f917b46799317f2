//! The crate documentation's table "Where to put it in a stack", the rows of tracing.

use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::BodyExt;
use mcp_session_recovery::{Outcome, Recovery, SessionRecoveryLayer};
use testing::*;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::trace::TraceLayer;

use super::support::{RECOVERED, forgotten, recovers};

/// What a trace layer saw: the sessions that requests were of.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<Option<String>>>>);

impl Trace {
    fn note<B>(&self, request: &Request<B>) {
        let session = request.headers().get("mcp-session-id");
        let session = session.map(|it| it.to_str().unwrap().to_owned());
        self.0.lock().unwrap().push(session);
    }

    fn seen(&self) -> Vec<Option<String>> {
        self.0.lock().unwrap().clone()
    }
}

/// E4.
#[tokio::test(start_paused = true)]
async fn e4_a_trace_below_shows_what_is_on_the_wire() {
    let server = Server::new(Profile::TypeScript);
    let trace = Trace::default();
    let noting = trace.clone();
    let client = ServiceBuilder::new()
        .layer(SessionRecoveryLayer::new())
        // As it was before tracing, which the other tests' callers read.
        .map_response(|response: Response<_>| response.map(BodyExt::boxed))
        .layer(TraceLayer::new_for_http().on_request(
            move |request: &Request<_>, _: &tracing::Span| {
                noting.note(request);
            },
        ))
        .service(server.service());
    let scene = recovers(&server, client).await;
    assert_eq!(server.log(), RECOVERED);
    let sessions = server.seen().into_iter();
    let sessions: Vec<_> = sessions
        .map(|seen| seen.session().map(str::to_owned))
        .collect();
    assert_eq!(trace.seen(), sessions);
    assert_ne!(sessions[5].as_ref(), Some(&scene.session));
}

/// M1: one request, one answer, with what happened to it.
#[tokio::test(start_paused = true)]
async fn m1_a_trace_above_shows_what_the_caller_sees() {
    let server = Server::new(Profile::TypeScript);
    let scene = forgotten(&server, client(&server, SessionRecoveryLayer::new())).await;
    let trace = Trace::default();
    let noting = trace.clone();
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let noted = outcomes.clone();
    let client = ServiceBuilder::new()
        .layer(
            TraceLayer::new_for_http()
                .on_request(move |request: &Request<_>, _: &tracing::Span| noting.note(request))
                .on_response(move |response: &Response<_>, _, _: &tracing::Span| {
                    let recovery = response.extensions().get::<Recovery>();
                    noted.lock().unwrap().push(recovery.map(Recovery::outcome));
                }),
        )
        .service(scene.client);
    let call = post(Some(&scene.session), &tool_call(1));
    let answer = client.oneshot(call).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(trace.seen(), [Some(scene.session)]);
    assert_eq!(*outcomes.lock().unwrap(), [Some(Outcome::Replayed)]);
}
