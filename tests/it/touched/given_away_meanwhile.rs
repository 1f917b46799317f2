//! Rules A5, I3: what the layer sends by itself waits for the inner service like any request, and the
//! server may give the id that it is for to somebody else meanwhile.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Request;
use mcp_session_recovery::{Outcome, SessionRecovery, SessionRecoveryLayer, Sessions};
use serde_json::json;
use testing::busy::{Busy, busy};
use testing::mocked::{Answering, soon, with_id_of};
use testing::scenario::start;
use testing::streams::{Stream, is_live};
use testing::whose::{Ids, User, initialize_as, with_token};
use testing::*;

/// What the layer sends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Own {
    Initialized,
    Restored,
    PingAnswer,
    Ping,
    Delete,
    Get,
}

impl Own {
    /// After which request of Ada's that comes, and after how many of these.
    fn comes_after(self) -> (&'static str, usize) {
        match self {
            Self::Initialized | Self::PingAnswer => ("initialize", 1),
            Self::Restored | Self::Delete => ("notifications/initialized", 1),
            Self::Ping => ("GET", 1),
            Self::Get => ("tools/call", 2),
        }
    }
}

fn is_adas(seen: &Seen) -> bool {
    seen.header("authorization") == Some("Ada")
}

fn by(name: &'static str, mut request: Request<CallerBody>) -> Request<CallerBody> {
    let value = http::HeaderValue::from_static(name);
    request.headers_mut().insert("authorization", value);
    request
}

async fn connect(client: &SessionRecovery<Busy>, name: &'static str) -> String {
    let answer = send(client, by(name, post(None, &initialize_as(name)))).await;
    let session = answer.session().expect("a session").to_owned();
    let initialized = by(name, post(Some(&session), &initialized()));
    assert_eq!(send(client, initialized).await.status, 202);
    session
}

const ALL: [Own; 6] = [
    Own::Initialized,
    Own::Restored,
    Own::PingAnswer,
    Own::Ping,
    Own::Delete,
    Own::Get,
];

/// Whom the layer knows by then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Both,
    NewOwner,
    Nobody,
}

#[tokio::test(start_paused = true)]
async fn a5_i3_what_the_layer_sends_itself_is_not_sent_under_an_id_that_was_given_away_meanwhile() {
    let known = [Known::Both, Known::NewOwner, Known::Nobody];
    for (own, known) in (ALL.iter()).flat_map(|own| known.map(|known| (*own, known))) {
        let context = format!("{own:?} {known:?}");
        // Given Ada and Bob at a server that counts its sessions,
        let server = Server::new(Profile::TypeScript);
        server.set_ids(Ids::Counting);
        let sessions = Sessions::new();
        let layer = SessionRecoveryLayer::new().sessions(sessions.clone());
        let (client, load) = busy(&server, layer);
        let [ada, mut bob] = [connect(&client, "Ada").await, connect(&client, "Bob").await];
        assert_eq!((&*ada, &*bob), ("1", "2"));
        let subscribe = json!({
            "jsonrpc": "2.0", "id": 7, "method": "resources/subscribe", "params": {"uri": "ada:///"},
        });
        let subscribed = send(&client, by("Ada", post(Some(&ada), &subscribe))).await;
        assert_eq!(subscribed.status, 200);
        let (gets, body) = feed();
        let mut body = Some(body);
        server.on(move |seen| match seen.method == http::Method::GET {
            true => body.take().map(fed_stream),
            false => None,
        });
        let stream = match own {
            Own::Get => Some(Stream::open(&client, by("Ada", get(&ada, None))).await),
            _ => None,
        };

        // when her session is lost, and what the layer is to send for that has to wait,
        server.restart();
        let (what, times) = own.comes_after();
        let (living, mut seen_so_far, has_come) = (server.clone(), 0, load.clone());
        let (pings, asking) = feed();
        pings.data("data: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\n");
        let mut asking = Some(asking);
        server.on(move |seen| {
            if !is_adas(seen) || seen.what() != what {
                return None;
            }
            seen_so_far += 1;
            if seen_so_far != times {
                return None;
            }
            has_come.keep_waiting(1);
            match own {
                Own::Delete => Some(reply(500, None, "")),
                Own::Ping => Some(reply(404, None, "")),
                Own::PingAnswer => {
                    let asks = asking.take().map(fed_stream);
                    asks.map(|asks| with_id_of(&living.default_answer(seen), asks))
                }
                _ => None,
            }
        });
        let request = match own {
            Own::Ping => get(&ada, None),
            _ => post(Some(&ada), &tool_call(8)),
        };
        let calling = tokio::spawn({
            let (client, request) = (client.clone(), by("Ada", request));
            async move { send(&client, request).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(load.is_waited_for(), "{context}");

        // and Bob is given her id meanwhile,
        server.restart();
        if known != Known::Both {
            sessions.forget_all();
            bob = connect(&client, "Bob").await;
        }
        if known == Known::Nobody {
            sessions.forget_all();
        }
        let bobs = || by("Bob", post(Some(&bob), &tool_call(50)));
        assert_eq!(send(&client, bobs()).await.status, 200, "{context}");
        assert_eq!(server.last("tools/call").session(), Some("1"), "{context}");
        let before = server.carried_out().len();
        tokio::time::sleep(Duration::from_secs(30)).await;

        // then nothing of hers enters his session.
        let after = server.carried_out().split_off(before);
        let in_bobs: Vec<_> = after.iter().filter(|(name, _)| name == "Bob").collect();
        assert!(in_bobs.is_empty(), "{context}: {in_bobs:?}");
        assert_eq!(send(&client, bobs()).await.outcome(), None, "{context}");
        if known != Known::Both {
            continue;
        }
        // And she goes on in one of her own.
        if !matches!(own, Own::Ping | Own::PingAnswer) {
            soon(calling).await.unwrap();
        }
        server.on(|_| None);
        let call = by("Ada", post(Some(&ada), &tool_call(60)));
        assert_eq!(send(&client, call).await.status, 200, "{context}");
        assert_eq!(server.whose_was(60).as_deref(), Some("Ada"), "{context}");
        drop((stream, gets, pings));
    }
}

/// After so long a server answers what is sent in time.
const LATE: Duration = Duration::from_secs(5);

/// Ada and Bob, at a server that counts.
async fn ada_and_bob() -> (Server, User, User) {
    let server = Server::new(Profile::TypeScriptJson);
    server.set_ids(Ids::Counting);
    let client = client(&server, SessionRecoveryLayer::new());
    let [ada, bob] = [
        User::connect(&client, "Ada").await,
        User::connect(&client, "Bob").await,
    ];
    (server, ada, bob)
}

/// G1: what is sent in time is answered by whoever has the id then.
#[tokio::test(start_paused = true)]
async fn a5_g1_a_stream_does_not_go_on_in_a_session_whose_id_was_given_away_meanwhile() {
    for is_given_away in [true, false] {
        // Given Ada's listening stream, whose GET in her new session is answered late,
        let (server, ada, bob) = ada_and_bob().await;
        let feeders = Arc::new(Mutex::new(Vec::new()));
        let (fed, mut gets) = (feeders.clone(), 0);
        server.on_async(move |seen| {
            gets += usize::from(seen.method == http::Method::GET);
            let (fed, time) = (fed.clone(), LATE * u32::from(gets > 1));
            (seen.method == http::Method::GET).then(|| {
                Box::pin(async move {
                    tokio::time::sleep(time).await;
                    let (feeder, body) = feed();
                    fed.lock().unwrap().push(feeder);
                    Ok(fed_stream(body))
                }) as Answering
            })
        });
        let listen = with_token(get(&ada.session, None), Some("Ada"));
        let mut stream = Stream::open(&ada.client, listen).await;
        server.restart();
        assert_eq!(ada.call(1).await.status, 200);
        stream.now().await;
        // when Bob is given its id meanwhile, then the stream ends.
        if is_given_away {
            server.restart();
            assert_eq!(bob.call(2).await.status, 200);
        }
        tokio::time::sleep(2 * LATE).await;
        assert_eq!(feeders.lock().unwrap().len(), 2);
        for feeder in feeders.lock().unwrap().iter() {
            feeder.data("data: for whoever has it\n\n");
        }
        let is_read = stream.now().await.contains("for whoever has it");
        assert_eq!(
            (is_read, stream.ended_cleanly()),
            (!is_given_away, is_given_away)
        );
    }
}

/// D4: the same of the layer's ping.
#[tokio::test(start_paused = true)]
async fn a5_d4_a_ping_says_nothing_of_a_session_whose_id_was_given_away_meanwhile() {
    for is_given_away in [true, false] {
        // Given Ada, whose call is answered so that the layer has to ask, and is answered late,
        let (server, ada, bob) = ada_and_bob().await;
        let mut has_called = false;
        server.on_async(move |seen| {
            let is_first = seen.what() == "tools/call" && !std::mem::replace(&mut has_called, true);
            let pong = json!({"jsonrpc": "2.0", "id": seen.message()["id"], "result": {}});
            match &*seen.what() {
                "tools/call" if is_first => {
                    Some(Box::pin(async { Ok(reply(400, None, "session expired")) }) as Answering)
                }
                "ping" => Some(Box::pin(async move {
                    tokio::time::sleep(LATE).await;
                    Ok(json_reply(200, &pong))
                })),
                _ => None,
            }
        });
        server.restart();
        let call = with_token(post(Some(&ada.session), &tool_call(1)), Some("Ada"));
        let calling = start(&ada.client, call);
        settle().await;
        // when Bob is given her id meanwhile, then her session has expired.
        if is_given_away {
            assert_eq!(bob.call(2).await.status, 200);
            assert_eq!(server.last("tools/call").session(), Some(&*ada.session));
        }
        let answer = soon(calling).await.unwrap();
        let expected = match is_given_away {
            true => (200, Some(Outcome::Replayed)),
            false => (400, None),
        };
        assert_eq!((answer.status, answer.outcome()), expected);
    }
}

/// E1: the same of a GET of the caller's own.
#[tokio::test(start_paused = true)]
async fn a5_e1_a_get_that_is_answered_after_its_id_was_given_away_brings_no_stream() {
    for (is_given_away, all_end) in [(true, true), (true, false), (false, false)] {
        // Given Ada's GET, which reaches the server late,
        let (server, ada, bob) = ada_and_bob().await;
        let (gets, body) = feed();
        let (mut body, living) = (Some(body), server.clone());
        server.on_async(move |seen| {
            let body = body.take_if(|_| seen.method == http::Method::GET)?;
            let (living, seen) = (living.clone(), seen.clone());
            Some(Box::pin(async move {
                tokio::time::sleep(LATE).await;
                assert!(is_live(&living, &seen));
                Ok(fed_stream(body))
            }) as Answering)
        });
        let (client, listen) = (ada.client.clone(), get(&ada.session, None));
        let listen = with_token(listen, Some("Ada"));
        let opening = tokio::spawn(async move { Stream::open(&client, listen).await });
        settle().await;
        // when Bob is given her id meanwhile, also if nothing else is known by then,
        if all_end {
            for user in [&ada, &bob] {
                assert_eq!(user.delete().await.status, 200);
            }
            server.restart();
            let bob = User::connect(&bob.client, "Bob").await;
            assert_eq!(bob.session, ada.session);
        } else if is_given_away {
            server.restart();
            assert_eq!(bob.call(1).await.status, 200);
            assert_eq!(server.last("tools/call").session(), Some(&*ada.session));
        }
        let mut stream = soon(opening).await.unwrap();
        gets.data("data: for whoever has it\n\n");
        // then she does not read what is for him.
        let is_read = stream.now().await.contains("for whoever has it");
        assert_eq!(
            (is_read, stream.ended_cleanly()),
            (!is_given_away, is_given_away)
        );
        if all_end {
            continue;
        }
        // And she is answered when she asks again.
        let listen = with_token(get(&ada.session, None), Some("Ada"));
        assert_eq!(Stream::open(&ada.client, listen).await.head.status, 200);
    }
}
