//! Listening streams (GET) that outlive their session: rule G1.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mcp_session_recovery::{Failure, Outcome, Refusal, SessionRecoveryLayer};
use serde_json::json;
use testing::scenario::{Door, is};
use testing::streams::*;
use testing::*;
use tokio::time::Instant;
use tower::{Layer, limit::ConcurrencyLimit};

const EVENTS: &str =
    "event: message\ndata: {\"n\":1}\nid: 7\n\n: comment\n\ndata: two\ndata: lines\n\n";
const NEW: &str = "data: {\"n\":2}\n\n";

fn layer() -> SessionRecoveryLayer {
    SessionRecoveryLayer::new()
}

/// G1, J4: that a stream could be opened in the new session proves that this lives.
#[tokio::test(start_paused = true)]
async fn g1_j4_a_stream_that_is_opened_anew_ends_the_pauses() {
    // Given a recovery by a request that is not sent again, and no other since,
    for listens in [true, false] {
        let scene = scene(layer().recovery_pause(Duration::from_secs(10), Duration::MAX)).await;
        let _fed = feed_all(&scene.server, "GET");
        let mut stream = None;
        if listens {
            stream = Some(scene.listen().await);
        }
        scene.server.restart();
        let response = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
        let recovered = scene.post(&response).await;
        assert!(matches!(recovered.outcome(), Some(Outcome::NotReplayed(_))));
        if let Some(stream) = &mut stream {
            stream.now().await;
            assert_eq!(scene.server.count("GET"), 2);
        }
        // when the server restarts once more,
        scene.server.restart();
        let outcome = scene.post(&ping()).await.outcome();
        // then the session is recovered at once, if there was a stream to open.
        let expected = match listens {
            true => Outcome::Replayed,
            false => Outcome::Failed(Failure::Paused),
        };
        assert_eq!(outcome, Some(expected));
    }
}

/// G1, G9: one body, two sessions, nothing but what the servers sent.
#[tokio::test(start_paused = true)]
async fn a_listening_stream_goes_on_in_the_new_session_inside_the_same_body() {
    // Given an open listening stream,
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let mut stream = scene.listen().await;
    fed.data(0, "id: 1\ndata: old\n\n");
    stream.now().await;

    // when the session moves to a new one, and there again,
    for epoch in 1..=3 {
        scene.recover().await;
        stream.now().await;

        // then the stream is open there, resumed from nothing,
        assert_eq!(fed.count(), epoch + 1);
        let opened = scene.server.last("GET");
        assert_eq!(opened.session(), scene.server.last("ping").session());
        assert_eq!(opened.header(LAST_EVENT_ID), None);
        assert_eq!(
            opened.header("accept"),
            Some("application/json, text/event-stream")
        );
        assert!(fed.is_dropped(epoch - 1), "the old stream is let go");
        fed.data(epoch, "data: ne");
        fed.data(epoch, "w\n\n");
    }

    // and the caller reads it as one, in the servers' chunks.
    stream.now().await;
    let new = ["data: ne", "w\n\n"];
    assert_eq!(
        stream.chunks,
        [&["id: 1\ndata: old\n\n"][..], &new, &new, &new].concat()
    );
    assert!(stream.is_open());
}

/// G1, E8, C1: into a session without an id, and back into one that has one.
#[tokio::test(start_paused = true)]
async fn a_listening_stream_goes_on_without_an_id_where_the_server_keeps_no_sessions() {
    // Given an open listening stream, and a server that was replaced by one without sessions,
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let mut stream = scene.listen().await;
    fed.data(0, EVENTS);
    stream.now().await;
    let stateless = Arc::new(AtomicBool::new(true));
    let (is_stateless, server, feeding) = (stateless.clone(), scene.server.clone(), fed.clone());
    scene.server.on(move |seen| {
        let message = seen.message();
        if !is_stateless.load(Ordering::Relaxed) {
            let refused = seen.session().is_none() && seen.what() != "initialize";
            return refused.then(|| Profile::Everything.unknown_session(&json!(null)));
        }
        Some(match &*seen.what() {
            _ if seen.session().is_some() => reply(404, None, ""),
            "initialize" => {
                let mut own = server.default_answer(seen);
                own.headers_mut().remove(SESSION_ID);
                own
            }
            "notifications/initialized" => reply(202, None, ""),
            "GET" => feeding.add(),
            _ => json_reply(200, &json!({"id": message["id"], "result": {}})),
        })
    });

    // when a request finds that out,
    scene.post_ping().await;
    stream.now().await;

    // then the stream is open there, resumed from nothing, and no id is sent,
    assert_eq!(fed.count(), 2);
    let opened = scene.server.last("GET");
    assert_eq!(
        (opened.session(), opened.header(LAST_EVENT_ID)),
        (None, None)
    );
    assert_eq!(opened.header(PROTOCOL_VERSION), Some(VERSION));
    assert!(fed.is_dropped(0), "the old stream is let go");
    fed.data(1, NEW);
    assert_eq!(stream.now().await, [EVENTS, NEW].concat());

    // and when the server keeps sessions again, it goes on with the new one's.
    stateless.store(false, Ordering::Relaxed);
    scene.post_ping().await;
    stream.now().await;
    assert_eq!(fed.count(), 3);
    let opened = scene.server.last("GET");
    assert!(opened.session().is_some_and(|id| id != scene.session));
    assert_eq!(opened.session(), scene.server.last("ping").session());
    fed.data(2, NEW);
    assert_eq!(stream.now().await, [EVENTS, NEW, NEW].concat());
    assert!(stream.is_open());
}

/// Whether a client that has read this is in no event: it has kept no line since the last blank.
fn is_between_events(text: &str) -> bool {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let open = match text.rfind("\n\n") {
        Some(end) => &text[end + 2..],
        None => &text,
    };
    open.split_inclusive('\n').all(|line| {
        let fields = ["data:", "event:", "id:"];
        let begun = |field: &&str| field.starts_with(line) || line.starts_with(*field);
        !fields.iter().any(begun)
    })
}

/// G1: wherever the old stream stops, and however, the caller reads whole events, and all of them.
#[tokio::test(start_paused = true)]
async fn an_old_stream_cut_at_any_byte_goes_on_at_a_boundary_or_ends_cleanly() {
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Stop {
        Ends,
        Breaks,
        IsSilent,
        GoesOnLater,
    }
    use Stop::*;
    for newline in ["\n", "\r\n", "\r"] {
        let text = EVENTS.replace('\n', newline);
        for (cut, stop) in (0..=text.len())
            .flat_map(|cut| [Ends, Breaks, IsSilent, GoesOnLater].map(|stop| (cut, stop)))
        {
            let case = format!("{:?} {stop:?}", &text[..cut]);
            // Given a stream of which this much has come,
            let scene = scene(layer()).await;
            let fed = feed_all(&scene.server, "GET");
            let response = scene.unread(get(&scene.session, None)).await;
            let bytes = text.as_bytes()[..cut].chunks(1);
            bytes.for_each(|byte| fed.data(0, byte));

            // when the session moves, and the old stream has stopped by the time it is read,
            scene.recover().await;
            match stop {
                Ends => fed.end(0),
                Breaks => fed.error(0),
                IsSilent | GoesOnLater => {}
            }
            let mut stream = Stream::of(response);
            let at_boundary = is_between_events(&text[..cut]);
            let mut expected = text[..cut].to_owned();
            if !at_boundary && stop == GoesOnLater {
                for byte in text.as_bytes()[cut..].chunks(1) {
                    stream.now().await;
                    if fed.count() == 2 {
                        break;
                    }
                    fed.data(0, byte);
                    expected.push(char::from(byte[0]));
                }
                assert!(is_between_events(&expected), "{case}: left inside an event");
            }
            stream.now().await;

            // then it goes on where no event is open,
            if at_boundary || stop == GoesOnLater {
                assert_eq!(fed.count(), 2, "{case}");
                fed.data(1, NEW);
                if !expected.is_empty() && !expected.ends_with(['\n', '\r']) {
                    expected += "\n";
                }
                assert_eq!(stream.now().await, expected + NEW, "{case}");
                assert!(stream.is_open(), "{case}");
                continue;
            }
            // and inside an event the body ends cleanly, at the latest when its time is over.
            let start = Instant::now();
            assert_eq!(stream.read_to_end().await, expected, "{case}");
            assert!(stream.ended_cleanly(), "{case}");
            let patience = Duration::from_secs(if stop == IsSilent { 30 } else { 0 });
            assert!(
                start.elapsed().abs_diff(patience) <= Duration::from_millis(2),
                "{case}"
            );
            assert_eq!(fed.count(), 1, "{case}");
        }
    }
}

/// G1, G9: as long as the session has not moved on, a stream ends as the server ended it.
#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_before_the_session_moves_ends_as_it_did() {
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let (mut clean, mut broken) = (scene.listen().await, scene.listen().await);
    fed.data(0, EVENTS);
    fed.data(1, "data: hal");
    scene.server.restart();
    fed.end(0);
    fed.error(1);
    assert_eq!(
        (clean.read_to_end().await.as_str(), &clean.end),
        (EVENTS, &Some(Ok(None)))
    );
    assert_eq!(broken.read_to_end().await, "data: hal");
    assert_eq!(broken.end, Some(Err(TestError("broken"))));

    scene.post_ping().await;
    assert_eq!(scene.server.count("GET"), 2);
}

/// G1: the caller reconnects as it would anyway.
#[tokio::test(start_paused = true)]
async fn the_body_ends_cleanly_if_the_new_get_brings_no_event_stream() {
    type Answer = Box<dyn Fn(&Server) + Send>;
    let replies = |reply: fn() -> Reply| -> Answer {
        Box::new(move |server| server.on(move |seen| (seen.what() == "GET").then(reply)))
    };
    let cases: Vec<(&str, Answer)> = vec![
        ("404", replies(|| reply(404, None, "Not Found"))),
        ("405", replies(|| reply(405, None, ""))),
        (
            "409",
            replies(|| json_reply(409, &json!({"error": {"message": "Conflict"}}))),
        ),
        (
            "500",
            replies(|| reply(500, Some("text/event-stream"), "data: x\n\n")),
        ),
        (
            "JSON",
            replies(|| json_reply(200, &json!({"jsonrpc": "2.0"}))),
        ),
        (
            "compressed",
            replies(|| {
                let mut reply = sse("\x1f\u{8b}");
                let encoding = "gzip".parse().unwrap();
                reply.headers_mut().insert("content-encoding", encoding);
                reply
            }),
        ),
        ("202", replies(|| reply(202, None, ""))),
        ("no answer", Box::new(|server| never_answer(server, "GET"))),
        (
            "transport error",
            Box::new(|server| {
                server.on_async(|seen| {
                    (seen.what() == "GET")
                        .then(|| Box::pin(async { Err(TestError("refused")) }) as Answering)
                });
            }),
        ),
    ];
    for (case, answer) in cases {
        // Given an open listening stream, and a server that will not open another,
        let scene = scene(layer()).await;
        let fed = feed_all(&scene.server, "GET");
        let mut stream = scene.listen().await;
        fed.data(0, EVENTS);
        stream.now().await;
        answer(&scene.server);

        // when the session moves,
        scene.recover().await;
        let start = Instant::now();

        // then the body ends cleanly, in bounded time, and nothing is tried again.
        assert_eq!(stream.read_to_end().await, EVENTS, "{case}");
        assert!(stream.ended_cleanly(), "{case}");
        let patience = if case == "no answer" { 10 } else { 0 };
        assert_eq!(start.elapsed().as_secs(), patience, "{case}");
        settle().await;
        assert_eq!(scene.server.count("GET"), 2, "{case}");
        assert_eq!(scene.server.count("initialize"), 2, "{case}");
        assert_eq!(scene.server.count("ping"), 2, "{case}: dead, then replayed");
    }
}

/// G1, C1: the new GET is the caller's, with the credentials of the request that met the loss.
#[tokio::test(start_paused = true)]
async fn the_new_get_carries_the_triggers_credentials_and_the_new_version() {
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let mut listen = get(&scene.session, None);
    listen
        .headers_mut()
        .insert("x-mine", "get".parse().unwrap());
    listen
        .headers_mut()
        .insert("accept", "text/event-stream".parse().unwrap());
    let gzip = "gzip".parse().unwrap();
    listen.headers_mut().insert("accept-encoding", gzip);
    let _stream = scene.open(listen).await;

    for (epoch, version) in [(1, "2025-06-18"), (2, VERSION)] {
        scene.server.set_version(version);
        scene.server.restart();
        let token = format!("Bearer fresh-{epoch}");
        let mut trigger = post(Some(&scene.session), &ping());
        trigger
            .headers_mut()
            .insert("authorization", token.parse().unwrap());
        assert_eq!(scene.send(trigger).await.status, 200);
        settle().await;

        assert_eq!(fed.count(), epoch + 1);
        let opened = scene.server.last("GET");
        assert_eq!(opened.header("authorization"), Some(token.as_str()));
        // Nobody is lent another's headers (rule E5).
        assert_eq!(opened.header("x-mine"), None);
        assert_eq!(opened.header("accept"), Some("text/event-stream"));
        assert_eq!(opened.header("content-type"), None);
        // The stream goes on as it began, which was in plain text.
        assert_eq!(opened.header("accept-encoding"), None);
        assert_eq!(opened.header(PROTOCOL_VERSION), Some(version));
        assert_eq!(opened.session(), scene.server.last("ping").session());
    }
}

/// G1, E4: through a service made ready, and with one permit for everything.
#[tokio::test(start_paused = true)]
async fn the_new_get_is_sent_through_a_ready_service() {
    let server = Server::new(Profile::TypeScript);
    server.set_capabilities(json!({}));
    // Panics when it is called without having been made ready.
    let client = layer().layer(ConcurrencyLimit::new(server.service(), 1));
    let session = handshake(&client).await;
    let fed = feed_all(&server, "GET");
    let scene = Scene {
        server,
        client,
        session,
    };
    let mut streams = [scene.listen().await, scene.listen().await];

    scene.recover().await;
    settle().await;

    assert_eq!(fed.count(), 4);
    (2..4).for_each(|number| fed.data(number, NEW));
    for stream in &mut streams {
        assert_eq!(stream.now().await, NEW);
    }
}

/// G1: while the head of the new GET does not come, the session moves on, and the stream with it.
#[tokio::test(start_paused = true)]
async fn the_session_may_die_again_while_streams_are_moved() {
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let mut stream = scene.listen().await;
    // Given a stream being moved, whose new GET is not answered,
    let mut answered = false;
    scene.server.on_async(move |seen| {
        let is_first = seen.what() == "GET" && !std::mem::replace(&mut answered, true);
        is_first.then(|| Box::pin(std::future::pending()) as Answering)
    });
    scene.recover().await;
    settle().await;
    assert_eq!((scene.server.count("GET"), fed.count()), (2, 1));

    // when that session dies, too, and is recovered,
    scene.recover().await;
    stream.now().await;

    // then the stream goes on in the newest session.
    assert_eq!((scene.server.count("GET"), fed.count()), (3, 2));
    assert_eq!(
        scene.server.last("GET").session(),
        scene.server.last("ping").session()
    );
    fed.data(1, NEW);
    assert_eq!(stream.now().await, NEW);
    assert!(stream.is_open());
    assert_eq!(scene.server.count("initialize"), 3);
}

/// G1, E3: no GET is sent into a session that is being recovered.
#[tokio::test(start_paused = true)]
async fn the_new_get_waits_for_the_recovery_of_its_session() {
    for recovered in [true, false] {
        let scene = scene(layer()).await;
        let fed = feed_all(&scene.server, "GET");
        let response = scene.unread(get(&scene.session, None)).await;
        // Given a stream that has not heard yet that the session has moved, and that the new one
        // is being recovered,
        scene.recover().await;
        let server = scene.server.clone();
        let door = Door::then(
            &scene.server,
            is("initialize"),
            move |seen| match recovered {
                true => server.default_answer(seen),
                false => reply(503, None, "not yet"),
            },
        );
        scene.server.restart();
        let trigger = scene.spawn(post(Some(&scene.session), &ping()));
        settle().await;

        // when it is read, then nothing is asked of the session that is dead,
        let mut stream = Stream::of(response);
        stream.now().await;
        assert_eq!(scene.server.count("GET"), 1);

        // and the stream is opened in the one that follows, or in the old one if there is none.
        door.open();
        trigger.await.unwrap();
        stream.now().await;
        assert_eq!(scene.server.count("GET"), 2, "{recovered}");
        if recovered {
            fed.data(1, NEW);
            assert_eq!(stream.now().await, NEW);
            assert!(stream.is_open());
        } else {
            assert_eq!(stream.read_to_end().await, "");
            assert!(stream.ended_cleanly());
        }
    }
}

/// G1: a dropped body takes its half-made move with it and leaves the session alone.
#[tokio::test(start_paused = true)]
async fn a_caller_may_drop_a_stream_in_the_middle_of_a_move() {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let stream = scene.listen().await;
    let dropped = Arc::<AtomicBool>::default();
    let flag = dropped.clone();
    scene.server.on_async(move |seen| {
        let flag = (seen.what() == "GET").then(|| Flag(flag.clone()))?;
        Some(Box::pin(async move {
            let _flag = flag;
            std::future::pending().await
        }))
    });
    scene.recover().await;
    settle().await;
    assert_eq!(scene.server.count("GET"), 2);
    assert!(!dropped.load(Ordering::Relaxed));

    drop(stream);
    settle().await;

    assert!(dropped.load(Ordering::Relaxed), "the new GET is given up");
    assert!(fed.is_dropped(0));
    assert_eq!(scene.post(&ping()).await.outcome(), None);
    scene.recover().await;
    assert_eq!(scene.server.count("GET"), 2, "nobody listens any longer");
}

/// G1, E1: all streams of a session move, and nobody else's.
#[tokio::test(start_paused = true)]
async fn every_listening_stream_of_the_session_moves_and_no_other() {
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let mut moving = [
        scene.listen().await,
        scene.listen().await,
        scene.listen().await,
    ];
    let other = Scene {
        session: handshake(&scene.client).await,
        server: scene.server.clone(),
        client: scene.client.clone(),
    };
    let mut staying = other.listen().await;

    scene.recover().await;
    settle().await;

    assert_eq!(fed.count(), 7);
    (4..7).for_each(|number| fed.data(number, NEW));
    fed.data(3, EVENTS);
    for stream in &mut moving {
        assert_eq!(stream.now().await, NEW);
    }
    assert_eq!(staying.now().await, EVENTS);
    assert!(!fed.is_dropped(3));
}

/// G1: a GET whose head has not come when its session is replaced is sent in the new one.
#[tokio::test(start_paused = true)]
async fn g1_a_get_without_a_head_goes_on_in_the_new_session() {
    let scene = scene(layer()).await;
    let fed = Fed::default();
    let feeding = fed.clone();
    let gets = AtomicUsize::new(0);
    scene.server.on_async(move |seen| {
        (seen.what() == "GET").then_some(())?;
        let is_first = gets.fetch_add(1, Ordering::Relaxed) == 0;
        let feeding = feeding.clone();
        Some(Box::pin(async move {
            if is_first {
                std::future::pending::<()>().await;
            }
            Ok(feeding.add())
        }))
    });
    let client = scene.client.clone();
    let listen = get(&scene.session, None);
    let opening = tokio::spawn(async move { Stream::open(&client, listen).await });
    settle().await;
    assert_eq!(fed.count(), 0);
    scene.recover().await;

    let mut stream = opening.await.unwrap();
    assert_eq!(fed.count(), 1);
    fed.data(0, NEW);
    assert_eq!(stream.now().await, NEW);
}

/// G1: nor does it cost more the more sessions it outlives.
#[tokio::test(start_paused = true)]
async fn g1_a_get_without_a_head_outlives_any_number_of_sessions() {
    let scene = scene(layer()).await;
    never_answer(&scene.server, "GET");
    let opening = scene.spawn(get(&scene.session, None));
    settle().await;
    for _ in 0..3_000 {
        scene.recover().await;
    }
    settle().await;
    assert_eq!(scene.server.count("GET"), 3_001);
    let last = scene.server.last("GET");
    assert_eq!(last.session(), scene.server.last("ping").session());
    assert!(!opening.is_finished());
    opening.abort();
}

/// G4: a GET that asks for an answer is told that it is lost, once its session is replaced and the
/// time for the answer is up.
#[tokio::test(start_paused = true)]
async fn g4_a_resumed_get_without_a_head_learns_that_its_answer_is_lost() {
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "tools/call");
    never_answer(&scene.server, "GET");
    let mut call = scene.call(7).await;
    fed.data(0, "id: e1\ndata:\n\n");
    assert_eq!(call.now().await, "id: e1\ndata:\n\n");
    drop(call);
    let resuming = scene.spawn(get(&scene.session, Some("e1")));
    settle().await;
    scene.recover().await;
    assert!(!resuming.is_finished());
    tokio::time::sleep(Duration::from_secs(31)).await;
    let answer = resuming.await.unwrap();
    assert_eq!(answer.outcome(), Some(Outcome::AnswerLost));
    assert!(
        answer.text().contains("session_expired"),
        "{}",
        answer.text()
    );
}

/// G2, G4: an event that the layer does not know is asked for where the request was first sent, and in no
/// session before or after that.
#[tokio::test(start_paused = true)]
async fn g4_a_get_without_a_head_for_an_unknown_event_is_sent_in_no_other_session() {
    for recoveries in 0..3 {
        let scene = scene(layer()).await;
        for _ in 0..recoveries {
            scene.recover().await;
        }
        let resume = || get(&scene.session, Some("unknown"));
        never_answer(&scene.server, "GET");
        let resuming = scene.spawn(resume());
        settle().await;

        // When the session moves on,
        scene.recover().await;
        tokio::time::sleep(Duration::from_secs(31)).await;

        // then the server is not asked for the event in another.
        let gets = scene.server.all("GET");
        assert!(gets.iter().all(|get| get.session() == gets[0].session()));
        if recoveries > 0 {
            let answer = resuming.await.unwrap();
            let not_sent = Outcome::NotReplayed(Refusal::LastEventId);
            assert_eq!((answer.status, answer.outcome()), (404, Some(not_sent)));
        } else {
            resuming.abort();
        }
    }
}

/// G1: no move is missed, whenever it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_find_the_newest_session_while_threads_race() {
    let scene = scene(layer()).await;
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(scene.listen().await);
    }
    for _ in 0..50 {
        scene.server.restart();
        let calls = (0..4).map(|_| scene.spawn(post(Some(&scene.session), &ping())));
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    }
    assert_eq!(scene.post(&ping()).await.outcome(), None);
    let newest = scene.server.last("ping").session().map(str::to_owned);

    // Each stream ends up there, or its GET met a session that had died in turn.
    let all_moved = async {
        loop {
            let gets = scene.server.all("GET");
            let moved = gets.iter().filter(|get| get.session() == newest.as_deref());
            let mut ended = 0;
            for stream in &mut streams {
                assert_eq!(stream.now().await, "");
                ended += usize::from(stream.ended_cleanly());
            }
            if moved.count() + ended == streams.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), all_moved).await;
    assert!(in_time.is_ok(), "a stream was left behind");
}

/// G1, I1: there is nothing to open in a session that has ended.
#[tokio::test(start_paused = true)]
async fn g1_no_stream_is_opened_in_a_session_that_has_ended() {
    // Given a stream that nobody has read since its session moved,
    let scene = scene(layer()).await;
    let fed = feed_all(&scene.server, "GET");
    let response = scene.unread(get(&scene.session, None)).await;
    fed.data(0, EVENTS);
    scene.recover().await;

    // when the session is ended, and the stream is read,
    assert_eq!(scene.send(delete(&scene.session)).await.status, 200);
    let mut stream = Stream::of(response);

    // then it ends, and the server is not asked for another.
    assert_eq!(stream.now().await, EVENTS);
    assert!(!stream.is_open());
    assert_eq!(scene.server.count("GET"), 1);
}
