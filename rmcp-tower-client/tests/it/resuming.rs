//! rmcp resumes streams through this client, and stops where there is no use in it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::response::Response;
use rmcp::{
    RoleClient, ServiceError,
    model::{ClientConfig, ClientRequest, PingRequest},
    service::RunningService,
};
use serde_json::json;

use crate::support::{Scripted, Seen, answer, at, connect, handshake, http, json, soon, sse};

const CHANGED: &str = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;

/// What a ping or a GET is answered with, one after the other.
#[derive(Clone)]
enum Next {
    /// An event stream with that text.
    Events(String),
    Status(u16),
    /// The answer to the ping, as JSON.
    Json,
    /// The answer to the ping, as an event.
    Pong,
}

fn events(text: &str) -> Next {
    Next::Events(text.to_owned())
}

fn next(next: Option<Next>, ping: &serde_json::Value) -> Response {
    let pong = json!({"jsonrpc": "2.0", "id": ping, "result": {}});
    match next.expect("more than was expected") {
        Next::Events(text) => sse(text),
        Next::Status(status) if [401, 403].contains(&status) => {
            answer(status, &[("www-authenticate", "Bearer")], "")
        }
        Next::Status(status) => answer(status, &[], ""),
        Next::Json => json(200, pong.to_string()),
        Next::Pong => sse(format!("data: {pong}\n\n")),
    }
}

struct Scene {
    server: Scripted,
    client: RunningService<RoleClient, ClientConfig>,
}

impl Scene {
    async fn new<const P: usize, const G: usize>(
        session: Option<&'static str>,
        pings: [Next; P],
        gets: [Next; G],
    ) -> Self {
        let script = Mutex::new((Vec::from(pings), Vec::from(gets), json!(null)));
        let server = Scripted::start(move |seen: &Seen| {
            if let Some(answer) = handshake(seen, session) {
                return answer;
            }
            let (pings, gets, id) = &mut *script.lock().unwrap();
            let queue = if seen.method == "GET" { gets } else { pings };
            let chosen = (!queue.is_empty()).then(|| queue.remove(0));
            if seen.method == "POST" {
                *id = seen.message["id"].clone();
            }
            next(chosen, id)
        })
        .await;
        let config = at(&server.uri).max_sse_event_size(1000);
        let client = connect(http(), config).await.unwrap();
        Self { server, client }
    }

    async fn ping(&self) -> Result<(), ServiceError> {
        let ping = ClientRequest::PingRequest(PingRequest::default());
        soon(self.client.send_request(ping)).await.map(drop)
    }

    /// The last event ids of the GETs.
    fn gets(&self) -> Vec<Option<String>> {
        let seen = self.server.seen();
        let gets = seen.iter().filter(|seen| seen.method == "GET");
        gets.map(|seen| seen.header("last-event-id").map(str::to_owned))
            .collect()
    }

    /// Waits for that many GETs, and sees that no more come.
    async fn settled(&self, gets: usize) -> Vec<Option<String>> {
        soon(async {
            while self.gets().len() < gets {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        self.gets()
    }

    fn pings(&self) -> usize {
        let asked = self.server.asked();
        asked.iter().filter(|what| *what == "ping").count()
    }
}

#[tokio::test]
async fn a_server_without_a_listening_stream_is_not_asked_again() {
    let scene = Scene::new(Some("one"), [Next::Json], [Next::Status(405)]).await;
    assert_eq!(scene.settled(1).await, [None]);
    scene.ping().await.unwrap();
    assert_eq!(scene.settled(1).await, [None]);
}

#[tokio::test]
async fn a_listening_stream_is_reopened_until_that_is_refused_for_good() {
    for refusal in [405, 401, 403] {
        let gets = [events(""), Next::Status(refusal)];
        let scene = Scene::new(Some("one"), [Next::Json], gets).await;
        assert_eq!(scene.settled(2).await, [None, None]);
        scene.ping().await.unwrap();
        assert_eq!(scene.settled(2).await, [None, None]);
    }
}

#[tokio::test]
async fn an_interrupted_answer_is_not_asked_for_again_where_that_is_refused_for_good() {
    for refusal in [405, 401, 403] {
        let pings = [events("id: 1\n\n"), Next::Json];
        let scene = Scene::new(None, pings, [Next::Status(refusal)]).await;
        scene.ping().await.unwrap_err();
        assert_eq!(scene.settled(1).await, [Some("1".to_owned())]);
        assert_eq!(scene.pings(), 1, "it is not sent again");
        scene.ping().await.unwrap();
    }
}

#[tokio::test]
async fn an_interrupted_answer_without_an_event_id_is_lost() {
    let scene = Scene::new(None, [events(": nothing\n\n"), Next::Json], []).await;
    scene.ping().await.unwrap_err();
    scene.ping().await.unwrap();
    assert_eq!(scene.settled(0).await, []);
}

#[tokio::test]
async fn an_interrupted_answer_is_resumed_through_a_servers_bad_moments() {
    let bad = Next::Status(503);
    let gets = [bad.clone(), bad.clone(), bad, Next::Pong];
    let scene = Scene::new(None, [events("id: 1\n\n")], gets).await;
    scene.ping().await.unwrap();
    assert_eq!(scene.gets(), vec![Some("1".to_owned()); 4]);
    assert_eq!(scene.pings(), 1, "it is not sent again");
}

#[tokio::test]
async fn a_listening_stream_is_reopened_through_a_servers_bad_moments() {
    let (bad, changed) = (
        Next::Status(500),
        events(&format!("id: 9\ndata: {CHANGED}\n\n")),
    );
    let end = Next::Status(405);
    let gets = [events(""), bad.clone(), bad.clone(), bad, changed, end];
    let scene = Scene::new(Some("one"), [Next::Json], gets).await;
    let expected = [None, None, None, None, None, Some("9".to_owned())];
    assert_eq!(scene.settled(6).await, expected);
    scene.ping().await.unwrap();
}

fn huge() -> String {
    format!("data: {}\n\n", "x".repeat(2000))
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_asked_for_again() {
    // Without an event id, with one, and after it was resumed: the server would send it each time.
    for (first, gets, expected) in [
        (huge(), vec![], vec![]),
        (format!("id: 1\n\n{}", huge()), vec![], vec![]),
        (
            "id: 1\n\n".to_owned(),
            vec![Next::Events(format!("id: 2\n\n{}", huge()))],
            vec![Some("1".to_owned())],
        ),
        (
            "id: 1\n\n".to_owned(),
            vec![Next::Events(huge())],
            vec![Some("1".to_owned())],
        ),
    ] {
        // In chunks of their own, so that the id is seen.
        let scripts = Arc::new(Mutex::new(gets));
        let first = Mutex::new(Some(first));
        let server = Scripted::start(move |seen: &Seen| match handshake(seen, None) {
            Some(answer) => answer,
            None if seen.method == "GET" => {
                let Next::Events(text) = scripts.lock().unwrap().remove(0) else {
                    panic!()
                };
                sse(in_chunks(&text))
            }
            None => match first.lock().unwrap().take() {
                Some(text) => sse(in_chunks(&text)),
                None => next(Some(Next::Json), &seen.message["id"]),
            },
        })
        .await;
        let config = at(&server.uri).max_sse_event_size(1000);
        let client = connect(http(), config).await.unwrap();
        let scene = Scene { server, client };
        scene.ping().await.unwrap_err();
        assert_eq!(scene.settled(expected.len()).await, expected);
        // The client goes on.
        scene.ping().await.unwrap();
    }
}

fn in_chunks(text: &str) -> axum::body::Body {
    use futures_util::StreamExt;
    let chunks: Vec<_> = text.split_inclusive("\n\n").map(str::to_owned).collect();
    let chunks = futures_util::stream::iter(chunks).then(|chunk| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok::<_, std::io::Error>(chunk)
    });
    axum::body::Body::from_stream(chunks)
}

#[tokio::test]
async fn a_listening_stream_with_an_event_that_is_too_large_is_given_up() {
    let scene = Scene::new(Some("one"), [Next::Json], [Next::Events(huge())]).await;
    assert_eq!(scene.settled(1).await, [None]);
    scene.ping().await.unwrap();
    assert_eq!(scene.settled(1).await, [None]);
}

#[tokio::test]
async fn an_answer_that_is_too_large_leaves_the_listening_stream_alone() {
    let server = Scripted::start(|seen: &Seen| match handshake(seen, Some("one")) {
        Some(answer) => answer,
        // It ends, and is opened again and again.
        None if seen.method == "GET" => sse(""),
        None => sse(huge()),
    })
    .await;
    let config = at(&server.uri).max_sse_event_size(1000);
    let client = connect(http(), config).await.unwrap();
    let scene = Scene { server, client };
    scene.ping().await.unwrap_err();
    scene.settled(scene.gets().len() + 3).await;
}
