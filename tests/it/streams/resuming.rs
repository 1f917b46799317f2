//! Resuming a stream of a dead session: rules G2, G3, G4, K7.

use mcp_session_recovery::{Outcome, Refusal, SessionRecoveryLayer, Strict};
use serde_json::{Value, json};
use testing::scenario::{Door, is};
use testing::streams::*;
use testing::*;

const LISTENING: &str = "7";
const ANSWER: &str = "p1";
const UNKNOWN: &str = "x";
const NEW: &str = "data: {\"n\":2}\n\n";

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

/// When a GET that resumes a dead session's stream comes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Comes {
    /// It is the first to meet the dead session.
    First,
    /// While the session is being recovered.
    During,
    /// When the session has moved on already.
    After,
}

const COMES: [Comes; 3] = [Comes::First, Comes::During, Comes::After];

/// A scene in which the events of a listening stream and of call 5 have been let through, and the
/// streams a server opens from then on.
async fn primed(profile: Profile, layer: SessionRecoveryLayer) -> (Scene, Fed) {
    let scene = scene_with(profile, layer, json!({})).await;
    let (gets, calls) = (
        feed_all(&scene.server, "GET"),
        feed_all(&scene.server, "tools/call"),
    );
    let (mut listening, mut call) = (scene.listen().await, scene.call(5).await);
    gets.data(0, format!("id: {LISTENING}\ndata: {{}}\n\n"));
    calls.data(0, format!("id: {ANSWER}\ndata: \n\n"));
    listening.now().await;
    call.now().await;
    (scene, gets)
}

impl Comes {
    /// The session dies and the GET comes.
    async fn resume(self, scene: &Scene, last_event_id: &str) -> Stream {
        scene.server.restart();
        let resume = get(&scene.session, Some(last_event_id));
        match self {
            Self::First => scene.open(resume).await,
            Self::During => {
                let gate = hold(&scene.server, "initialize");
                let trigger = scene.spawn(post(Some(&scene.session), &ping()));
                settle().await;
                let client = scene.client.clone();
                let resumed = tokio::spawn(async move { Stream::open(&client, resume).await });
                settle().await;
                gate.open();
                trigger.await.unwrap();
                resumed.await.unwrap()
            }
            Self::After => {
                scene.post_ping().await;
                scene.open(resume).await
            }
        }
    }
}

/// The GETs that arrived in another session than the caller's first.
fn new_gets(scene: &Scene) -> Vec<Seen> {
    let mut gets = scene.server.all("GET");
    gets.retain(|get| get.session() != Some(scene.session.as_str()));
    gets
}

/// G2: event ids collide across sessions, so none is ever taken along.
#[tokio::test(start_paused = true)]
async fn a_listening_stream_is_resumed_as_a_new_one() {
    for profile in [
        Profile::TypeScript,
        Profile::Everything,
        Profile::Python1,
        Profile::Rmcp,
    ] {
        for comes in COMES {
            let case = format!("{profile:?} {comes:?}");
            let (scene, gets) = primed(profile, layer()).await;

            let mut stream = comes.resume(&scene, LISTENING).await;

            assert_eq!(stream.head.status, 200, "{case}");
            assert_eq!(new_gets(&scene).len(), 1, "{case}");
            assert_eq!(new_gets(&scene)[0].header(LAST_EVENT_ID), None, "{case}");
            assert_eq!(scene.server.count("initialize"), 2, "{case}");
            // It is a listening stream like any other: it moves again.
            gets.data(1, NEW);
            scene.recover().await;
            stream.now().await;
            assert_eq!(
                scene.server.last("GET").header(LAST_EVENT_ID),
                None,
                "{case}"
            );
            gets.data(2, NEW);
            assert_eq!(stream.now().await, [NEW, NEW].concat(), "{case}");
        }
    }
}

/// G4, G7, M1: the answer is gone with its session, and the caller is told.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_resumed_in_a_dead_session_is_reported_lost() {
    for profile in [
        Profile::TypeScript,
        Profile::Everything,
        Profile::Python1,
        Profile::Rmcp,
    ] {
        for comes in COMES {
            let case = format!("{profile:?} {comes:?}");
            let (scene, _gets) = primed(profile, layer()).await;

            let mut stream = comes.resume(&scene, ANSWER).await;

            assert_eq!(stream.head.status, 200, "{case}");
            assert_eq!(
                stream.head.headers["content-type"], "text/event-stream",
                "{case}"
            );
            stream.read_to_end().await;
            assert!(stream.ended_cleanly(), "{case}");
            assert_eq!(stream.messages(), [lost(5, "session_expired")], "{case}");
            assert_eq!(stream.outcome(), Some(Outcome::AnswerLost), "{case}");
            assert_eq!(scene.server.count("initialize"), 2, "{case}");
            assert_eq!(
                new_gets(&scene).len(),
                0,
                "{case}: no server is asked for it"
            );
        }
    }
}

/// G2, G4: an id that the layer has not let through goes into no other session.
#[tokio::test(start_paused = true)]
async fn an_unknown_event_id_gets_its_404_after_the_recovery() {
    for profile in [
        Profile::TypeScript,
        Profile::Everything,
        Profile::Python1,
        Profile::Rmcp,
    ] {
        // One that comes after the recovery may be of the new session.
        for comes in [Comes::First, Comes::During] {
            let case = format!("{profile:?} {comes:?}");
            let (scene, _gets) = primed(profile, layer()).await;

            let mut stream = comes.resume(&scene, UNKNOWN).await;

            let own = read_plain(profile.unknown_session(&Value::Null)).await;
            assert_eq!(stream.head.status, own.0, "{case}");
            assert_eq!(stream.read_to_end().await, own.1, "{case}");
            assert_eq!(scene.server.count("initialize"), 2, "{case}");
            assert_eq!(new_gets(&scene).len(), 0, "{case}");
            if comes == Comes::First {
                let refused = Outcome::NotReplayed(Refusal::LastEventId);
                assert_eq!(stream.outcome(), Some(refused), "{case}");
            }
        }
    }
}

/// G2, G4, M1: once the session has moved, an id that the layer has not let through may be the new
/// session's, which is asked, and whose word is the caller's.
#[tokio::test(start_paused = true)]
async fn an_unknown_event_id_after_the_recovery_is_the_new_sessions_to_judge() {
    for profile in [
        Profile::TypeScript,
        Profile::Everything,
        Profile::Python1,
        Profile::Rmcp,
    ] {
        // Given a session that has moved,
        let (scene, gets) = primed(profile, layer()).await;

        // when a GET asks for what nobody knows, then it goes into the new session, id and all,
        let mut stream = Comes::After.resume(&scene, UNKNOWN).await;
        let asked = scene.server.last("GET");
        assert_eq!(asked.session(), scene.server.last("ping").session());
        assert_eq!(asked.header(LAST_EVENT_ID), Some(UNKNOWN), "{profile:?}");
        assert_eq!((stream.head.status.as_u16(), stream.outcome()), (200, None));

        // and its stream is a listening stream like any other (G1): it moves on with the session.
        gets.data(1, NEW);
        scene.recover().await;
        stream.now().await;
        let anew = scene.server.last("GET");
        assert_eq!(anew.session(), scene.server.last("ping").session());
        assert_eq!(anew.header(LAST_EVENT_ID), None, "{profile:?}");
        gets.data(2, NEW);
        assert_eq!(stream.now().await, [NEW, NEW].concat(), "{profile:?}");

        // If the new session refuses it, the caller is told so, and the session lives on.
        for status in [400, 404] {
            let (log, refusal) = (scene.server.log().len(), "secret: no such event");
            scene.server.on(move |seen| {
                let refused = seen.header(LAST_EVENT_ID) == Some(UNKNOWN);
                refused.then(|| reply(status, Some("text/plain"), refusal))
            });
            let refused = scene.resume(UNKNOWN).await;
            assert_eq!((refused.status, refused.text()), (status, refusal));
            assert_eq!(refused.recovery, None, "{profile:?} {status}");
            assert_eq!(
                scene.server.log()[log..],
                ["GET", "ping"],
                "{profile:?}: a {status} to a GET is asked about"
            );
        }
    }
}

/// G1, G2, G3: whatever a GET's stream resumes, its ids are of its own session.
#[tokio::test(start_paused = true)]
async fn an_id_of_a_stream_that_was_resumed_from_an_unknown_one_crosses_into_no_session() {
    // Given a stream that resumes what another process let through, and one of its events,
    let scene = scene(layer()).await;
    let gets = feed_all(&scene.server, "GET");
    let mut stream = scene.open(get(&scene.session, Some(UNKNOWN))).await;
    gets.data(0, "id: seen\ndata: {}\n\n");
    stream.now().await;
    drop(stream);
    // when the caller resumes from that in the next session,
    scene.recover().await;
    let stream = scene.open(get(&scene.session, Some("seen"))).await;
    // then it listens there.
    assert_eq!(stream.head.status, 200);
    let asked = scene.server.last("GET");
    assert_eq!(asked.session(), scene.server.last("ping").session());
    assert_eq!(asked.header(LAST_EVENT_ID), None);
}

async fn read_plain(reply: Reply) -> (u16, String) {
    let status = reply.status().as_u16();
    let body = http_body_util::BodyExt::collect(reply.into_body())
        .await
        .unwrap();
    (status, String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

/// G7, D4, D6: with the reports turned off the server itself says no, and its no to a dead
/// session's id ends no living one.
#[tokio::test(start_paused = true)]
async fn without_lost_answers_the_server_says_that_the_stream_is_gone() {
    for (profile, strict) in [
        (Profile::TypeScript, false),
        (Profile::TypeScript, true),
        (Profile::Everything, false),
        (Profile::Rmcp, false),
    ] {
        for comes in COMES {
            let case = format!("{profile:?} strict: {strict} {comes:?}");
            let mut layer = layer().answer_lost_requests(false);
            if strict {
                layer = layer.classify(Strict);
            }
            let (scene, _gets) = primed(profile, layer).await;

            let mut stream = comes.resume(&scene, ANSWER).await;

            let own = read_plain(profile.unknown_session(&Value::Null)).await;
            assert_eq!(stream.head.status, own.0, "{case}");
            assert_eq!(stream.read_to_end().await, own.1, "{case}");
            assert_eq!(new_gets(&scene).len(), 0, "{case}");
            assert_eq!(
                scene.server.count("initialize"),
                2,
                "{case}: one loss, one recovery"
            );
            assert_eq!(scene.post(&ping()).await.outcome(), None, "{case}");
        }
    }
}

/// G2, C3: within a session event ids are the caller's and the server's business.
#[tokio::test(start_paused = true)]
async fn an_event_id_of_the_same_session_stays() {
    let (scene, gets) = primed(Profile::TypeScript, layer()).await;
    for epoch in 0..2 {
        for id in [LISTENING, ANSWER, UNKNOWN] {
            let mut stream = scene.open(get(&scene.session, Some(id))).await;
            let seen = scene.server.last("GET");
            assert_eq!(seen.header(LAST_EVENT_ID), Some(id), "epoch {epoch}");
            let number = gets.count() - 1;
            gets.data(number, NEW);
            assert_eq!(stream.now().await, NEW);
        }
        // The new session hands out the same ids.
        scene.recover().await;
        let calls = feed_all(&scene.server, "tools/call");
        let (mut listening, mut call) = (scene.listen().await, scene.call(5).await);
        gets.data(gets.count() - 1, format!("id: {LISTENING}\ndata: {{}}\n\n"));
        calls.data(0, format!("id: {ANSWER}\ndata: \n\n"));
        listening.now().await;
        call.now().await;
    }
}

/// G3: the request is the one whose stream brought the event, be it its own or a resumed one.
#[tokio::test(start_paused = true)]
async fn an_event_id_belongs_to_the_request_whose_stream_brought_it() {
    let scene = scene(layer()).await;
    let (calls, gets) = (
        feed_all(&scene.server, "tools/call"),
        feed_all(&scene.server, "GET"),
    );
    let mut streams = [
        scene.call(1).await,
        scene
            .open(post(Some(&scene.session), &named_call("one")))
            .await,
    ];
    // An event without data has an id as well; one with NUL has none; and the last one counts.
    calls.data(
        0,
        "id: a1\ndata: \n\nid: a2\n\nid: a\0\ndata: x\n\nid: a3\ndata: {}\n\n",
    );
    calls.data(1, "data: {}\rid: b1\r\rid: b2\r");
    for stream in &mut streams {
        stream.now().await;
    }
    let mut resumed = scene.open(get(&scene.session, Some("a1"))).await;
    gets.data(0, "id: a4\ndata: {}\n\n");
    resumed.now().await;
    // A listening stream uses an id of a call.
    let mut listening = scene.listen().await;
    gets.data(1, "id: a3\ndata: {}\n\n");
    listening.now().await;

    scene.recover().await;

    for (id, request) in [
        ("a1", Some(json!(1))),
        ("a4", Some(json!(1))),
        ("b1", Some(json!("one"))),
        // Of an event that is not over yet.
        ("b2", None),
        ("a", None),
    ] {
        let answer = scene.server.count("GET");
        let mut stream = scene.open(get(&scene.session, Some(id))).await;
        match request {
            Some(request) => {
                stream.read_to_end().await;
                assert_eq!(
                    stream.messages(),
                    [lost(request, "session_expired")],
                    "{id}"
                );
                assert_eq!(scene.server.count("GET"), answer, "{id}");
            }
            None => assert_eq!(scene.server.count("GET"), answer + 1, "{id}"),
        }
    }
    let _stream = scene.open(get(&scene.session, Some("a3"))).await;
    assert_eq!(
        scene.server.last("GET").header(LAST_EVENT_ID),
        None,
        "the latest one counts"
    );
}

fn named_call(id: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "echo"}})
}

/// G3, K7: the latest ids are remembered, however many come.
#[tokio::test(start_paused = true)]
async fn the_oldest_event_ids_are_forgotten() {
    for (layer, kept) in [
        (layer(), 1024),
        (layer().max_event_ids(2), 2),
        (layer().max_event_ids(0), 0),
    ] {
        let scene = scene(layer).await;
        let calls = feed_all(&scene.server, "tools/call");
        let mut stream = scene.call(1).await;
        for id in 0..3_000 {
            calls.data(0, format!("id: {id}\ndata: \n\n"));
        }
        stream.now().await;
        scene.server.restart();

        let forgotten = scene.resume(&(2_999 - kept).to_string()).await;
        assert_eq!(forgotten.status, 404, "{kept}");
        if kept > 0 {
            for id in [3_000 - kept, 2_999] {
                let remembered = scene.resume(&id.to_string()).await;
                assert_eq!(remembered.message(), lost(1, "session_expired"), "{kept}");
            }
        }
    }
}

/// G4, G5: of a batch, what has been answered before the break is not reported lost.
#[tokio::test(start_paused = true)]
async fn a_request_of_a_batch_that_has_been_answered_is_not_lost() {
    // Given a batch of which the first request has been answered,
    let scene = scene(layer()).await;
    let (calls, gets) = (Fed::default(), feed_all(&scene.server, "GET"));
    let feeding = calls.clone();
    scene
        .server
        .on(move |seen| seen.message().is_array().then(|| feeding.add()));
    let batch = json!([tool_call(1), tool_call(2)]);
    let mut stream = scene.open(post(Some(&scene.session), &batch)).await;
    calls.data(
        0,
        format!("id: p1\ndata: \n\nid: p2\ndata: {}\n\n", result(1)),
    );
    calls.error(0);
    stream.read_to_end().await;

    // when the caller resumes, and the stream ends once the second has been answered,
    let mut resumed = scene.open(get(&scene.session, Some("p2"))).await;
    let rest = format!("data: {}\n\n", result(2));
    gets.data(0, &rest);
    gets.end(0);
    // then nothing is added;
    assert_eq!(resumed.read_to_end().await, rest);

    // and when it resumes in the next session, the second alone is lost.
    scene.recover().await;
    let answer = scene.resume("p2").await;
    assert_eq!(answer.messages(), [lost(2, "session_expired")]);
    // From before the first answer both are, though that came in the same chunk.
    let answer = scene.resume("p1").await;
    let both = [lost(1, "session_expired"), lost(2, "session_expired")];
    assert_eq!(answer.messages(), both);
}

/// G3, G4: who resumes from an id has not had what follows it, be it in the same chunk.
#[tokio::test(start_paused = true)]
async fn an_answer_in_the_same_chunk_as_an_id_before_it_is_lost_to_who_resumes_from_that() {
    let large = json!({"jsonrpc": "2.0", "id": 1, "result": "x".repeat(1 << 20)}).to_string();
    for answer in [result(1).to_string(), large] {
        // Given a stream that brought an id and then the answer, of whatever size, at once,
        let scene = scene(layer()).await;
        let calls = feed_all(&scene.server, "tools/call");
        let call = post(Some(&scene.session), &tool_call(1));
        let mut stream = scene.open(call).await;
        let chunk = format!("id: p1\ndata: \n\nid: p2\ndata: {answer}\n\n");
        calls.data(0, &chunk);
        calls.end(0);
        assert_eq!(stream.read_to_end().await, chunk);

        // when the caller resumes in the next session from before the answer,
        scene.recover().await;
        let answer = scene.resume("p1").await;

        // then it is told that the answer is lost.
        assert_eq!(answer.messages(), [lost(1, "session_expired")]);
    }
}

/// G5: a caller that has resumed can do so again from where it was.
#[tokio::test(start_paused = true)]
async fn a_resumed_stream_that_ends_without_an_id_is_left_alone() {
    for (text, broken) in [
        ("", false),
        (": comment\n\n", false),
        ("data: x\n\nda", true),
    ] {
        let (scene, gets) = primed(Profile::TypeScript, layer()).await;
        let mut resumed = scene.open(get(&scene.session, Some(ANSWER))).await;
        gets.data(1, text);
        match broken {
            true => gets.error(1),
            false => gets.end(1),
        }
        assert_eq!(resumed.read_to_end().await, text);
        assert_eq!(resumed.ended_cleanly(), !broken);
    }
}

/// A server with one listening stream for each session: 409 to another.
fn one_slot(server: &Server) -> Fed {
    let fed = Fed::default();
    let (feeding, living) = (fed.clone(), server.clone());
    let mut slots: Vec<String> = Vec::new();
    server.on(move |seen| {
        if seen.what() != "GET" || !is_live(&living, seen) {
            return None;
        }
        let session = seen.session().unwrap().to_owned();
        let mut taken = slots.iter().enumerate();
        if taken.any(|(number, slot)| *slot == session && feeding.is_open(number)) {
            let conflict = "Conflict: Only one SSE stream is allowed per session";
            let error = json!({"code": -32000, "message": conflict});
            return Some(json_reply(
                409,
                &json!({"jsonrpc": "2.0", "error": error, "id": null}),
            ));
        }
        slots.push(session);
        Some(feeding.add())
    });
    fed
}

/// G1, G2, G4, E1: what clients do after a restart, all in the same millisecond.
#[tokio::test(start_paused = true)]
async fn gets_that_meet_the_dead_session_together_do_not_fight_for_its_stream() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Get {
        Plain,
        Resumes(&'static str),
    }
    use Get::*;
    for gets in [
        [Plain, Resumes(ANSWER)],
        [Resumes(ANSWER), Plain],
        [Plain, Resumes(UNKNOWN)],
        [Resumes(UNKNOWN), Plain],
        [Resumes(ANSWER), Resumes(LISTENING)],
        [Plain, Resumes(LISTENING)],
        [Resumes(LISTENING), Plain],
    ] {
        for old_stream_ends in [true, false] {
            let case = format!("{gets:?} {old_stream_ends}");
            // Given a server with one stream slot, which is taken, and a call under way,
            let scene = scene(layer()).await;
            let slot = one_slot(&scene.server);
            let calls = feed_all(&scene.server, "tools/call");
            let (mut old, mut call) = (scene.listen().await, scene.call(5).await);
            slot.data(0, format!("id: {LISTENING}\ndata: {{}}\n\n"));
            calls.data(0, format!("id: {ANSWER}\ndata: \n\n"));
            old.now().await;
            call.now().await;
            // when the server restarts and the client reconnects,
            scene.server.restart();
            calls.error(0);
            if old_stream_ends {
                slot.error(0);
                old.read_to_end().await;
            }
            let spawn = |client: Client, request| {
                tokio::spawn(async move { Stream::open(&client, request).await })
            };
            let reconnecting = gets
                .into_iter()
                .filter(|get| old_stream_ends || matches!(get, Resumes(ANSWER | UNKNOWN)))
                .map(|get_| {
                    let id = match get_ {
                        Plain => None,
                        Resumes(id) => Some(id),
                    };
                    (get_, spawn(scene.client.clone(), get(&scene.session, id)))
                })
                .collect::<Vec<_>>();
            if reconnecting.is_empty() {
                continue;
            }

            // then one of them, or the stream that is still open, has the new slot, and answers
            // that are lost do not ask for it.
            let mut listening = Vec::new();
            let mut streams = Vec::new();
            for (get, stream) in reconnecting {
                let mut stream = soon(stream).await.unwrap();
                match get {
                    Resumes(ANSWER) => {
                        stream.read_to_end().await;
                        assert_eq!(stream.messages(), [lost(5, "session_expired")], "{case}");
                    }
                    Resumes(UNKNOWN) => assert_eq!(stream.head.status, 404, "{case}"),
                    _ => listening.push(stream.head.status.as_u16()),
                }
                streams.push(stream);
            }
            settle().await;
            listening.sort_unstable();
            let asked = if old_stream_ends { listening.len() } else { 1 };
            if old_stream_ends {
                // A caller that asks for two gets what this server says to two.
                assert_eq!(listening, [200, 409][..asked], "{case}");
            } else {
                assert!(slot.is_dropped(0), "{case}");
            }
            assert_eq!(slot.count(), 2, "{case}");
            assert!(slot.is_open(1), "{case}");
            assert_eq!(new_gets(&scene).len(), asked, "{case}");
            assert_eq!(scene.server.count("initialize"), 2, "{case}");
        }
    }
}

/// G3: what a stream brings is of the epoch that it was opened in, whatever the caller asked for.
#[tokio::test(start_paused = true)]
async fn g3_the_ids_of_a_stream_that_was_opened_anew_are_of_its_own_epoch() {
    // Given a listening stream of a dead session that the caller resumes,
    let (scene, gets) = primed(Profile::TypeScript, layer()).await;
    let mut anew = Comes::After.resume(&scene, LISTENING).await;
    gets.data(1, "id: 8\ndata: {}\n\n");
    anew.now().await;
    drop(anew);
    // when it resumes what it was given instead, then the server hears from where.
    scene.open(get(&scene.session, Some("8"))).await;
    assert_eq!(scene.server.last("GET").header(LAST_EVENT_ID), Some("8"));
}

/// H1: a stream that is resumed is read until all that was asked for has been answered.
#[tokio::test(start_paused = true)]
async fn h1_a_stream_resumed_may_bring_several_changes_of_state() {
    let scene = scene(layer()).await;
    let subscribe = |id: u64, uri: &str| {
        json!({
            "jsonrpc": "2.0", "id": id, "method": "resources/subscribe", "params": {"uri": uri},
        })
    };
    // Given two requests in one POST, whose stream broke before it answered them,
    let asked = json!([subscribe(1, "file:///a"), subscribe(2, "file:///b")]);
    scene.server.on(|seen| {
        let broken = || stream(Script::new().data("id: p\ndata: \n\n").error("reset"));
        seen.message().is_array().then(broken)
    });
    let mut asking = scene.open(post(Some(&scene.session), &asked)).await;
    asking.read_to_end().await;
    // when the stream is resumed, and brings one answer after the other,
    let gets = feed_all(&scene.server, "GET");
    let mut resumed = scene.open(get(&scene.session, Some("p"))).await;
    for id in [1, 2] {
        gets.data(0, format!("id: p{id}\ndata: {}\n\n", result(id)));
        resumed.now().await;
    }
    // then the next session has both.
    scene.recover().await;
    let live = scene.server.live();
    let subscriptions = scene.server.subscriptions(&live[0]);
    assert_eq!(subscriptions, ["file:///a", "file:///b"]);
}

/// G2, G4: what comes late from the old session is none of the new one's, which may use the same ids.
#[tokio::test(start_paused = true)]
async fn g2_the_ids_of_a_stream_that_comes_late_from_the_old_session_do_not_cross() {
    // Given a GET for the answer to a call, whose own answer is late,
    let (scene, _gets) = primed(Profile::TypeScript, layer()).await;
    let late = Fed::default();
    let feeding = late.clone();
    let door = Door::then(&scene.server, is("GET"), move |_| {
        let stream = feeding.add();
        if feeding.count() == 1 {
            feeding.data(0, "id: late\ndata: \n\n");
        }
        stream
    });
    let client = scene.client.clone();
    let resume = get(&scene.session, Some(ANSWER));
    let resuming = tokio::spawn(async move { Stream::open(&client, resume).await });
    settle().await;
    // and a new session that uses the same event id for another call,
    scene.recover().await;
    let calls = feed_all(&scene.server, "tools/call");
    let mut call = scene.call(6).await;
    calls.data(0, format!("id: {ANSWER}\ndata: \n\n"));
    call.now().await;

    // when its stream is there after all, with an id of its own,
    door.open();
    let mut resumed = soon(resuming).await.unwrap();
    resumed.now().await;
    drop(resumed);

    // then the new session does not hear of that.
    scene.open(get(&scene.session, Some("late"))).await;
    let resumed = scene.server.last("GET");
    assert_ne!(resumed.session(), Some(&*scene.session));
    assert_eq!(resumed.header(LAST_EVENT_ID), None);
}

/// G4: a call that waits is told, whatever has used its id since: a listening stream can be opened
/// again, as it is after that.
#[tokio::test(start_paused = true)]
async fn g4_a_listening_stream_with_the_id_of_a_call_does_not_keep_it_from_being_told() {
    const FIRST: &str = "id: 0\ndata: \n\n";
    for recovers_before in [false, true] {
        // Given a server that counts from 0, a call that its caller polls for,
        let scene = scene(layer()).await;
        let (gets, calls) = (
            feed_all(&scene.server, "GET"),
            feed_all(&scene.server, "tools/call"),
        );
        let mut call = scene.call(5).await;
        calls.data(0, FIRST);
        calls.end(0);
        assert_eq!(call.read_to_end().await, FIRST);
        // and a listening stream with the same id, in the same session or in the next,
        if recovers_before {
            scene.recover().await;
        }
        let mut listening = scene.listen().await;
        gets.data(0, FIRST);
        assert_eq!(listening.now().await, FIRST);
        if !recovers_before {
            scene.recover().await;
        }

        // when the caller resumes from it, then the call is told,
        let told = scene.resume("0").await;
        assert_eq!(told.outcome(), Some(Outcome::AnswerLost));
        assert_eq!(told.messages(), [lost(5, "session_expired")]);
        // and once: the next one listens.
        let again = scene.open(get(&scene.session, Some("0"))).await;
        assert!(again.is_open() && again.outcome() != Some(Outcome::AnswerLost));
    }
}
