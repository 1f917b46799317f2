//! For any event stream in any chunks: the caller reads what the server sent, plus at most the
//! events that the rules add, each of them whole. Rules G1, G5, G8, G9, H3.

use std::future::Future;

use mcp_session_recovery::SessionRecoveryLayer;
use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use testing::streams::*;
use testing::*;

/// What streams are made of: fields, line ends, answers, and what no server should send.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let answer = format!("data: {}", result(1));
    let words: Vec<Vec<u8>> = [
        "\n",
        "\n\n",
        "\r",
        "\r\r",
        "\r\n",
        "\r\n\r\n",
        "data: x",
        "data:",
        "data",
        "data: {\"id\":1,",
        "data: \"result\":{}}",
        "id: 7",
        "id",
        "id: a\0",
        "event: message",
        "event:",
        "event: other",
        "retry: 5",
        ": comment",
        ":",
        " ",
        "\u{feff}",
        "\u{e4}",
        "\0",
        "a: b",
        &answer,
        "data: {\"id\":1,\"error\":{}}\n\n",
        "data: {\"id\":2,\"result\":1}\n\n",
        "data: {\"id\":1,\"method\":\"ping\",\"params\":{\"result\":0}}\r\n\r\n",
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
        "id: 7\n\n",
        "data: x\n\n",
        "data: x\r\r",
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec();
    let word = prop_oneof![
        30 => select(words),
        1 => vec(any::<u8>(), 0..8),
    ];
    vec(word, 0..16).prop_map(|words| words.concat())
}

/// A stream in chunks.
fn chunks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let cuts = prop_oneof![
        Just(vec![]),
        vec(any::<prop::sample::Index>(), 0..8),
        vec(any::<prop::sample::Index>(), 200),
    ];
    (bytes(), cuts).prop_map(|(bytes, cuts)| {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts.windows(2)
            .map(|cut| bytes[cut[0]..cut[1]].to_vec())
            .collect()
    })
}

/// An event stream as the standard reads it (WHATWG HTML, 9.2.6), written down once more.
#[derive(Default, Debug)]
struct Read {
    /// The type and data of each event.
    events: Vec<(String, String)>,
    last_id: String,
    /// Whether the last line is whole and blank, or there is none.
    at_boundary: bool,
    /// Whether a line since then is one that a client keeps, or may become one.
    is_in_event: bool,
    /// What ends the last line, if that is open, and makes it say nothing.
    end_of_line: &'static str,
}

fn standard(stream: &[u8]) -> Read {
    let text = String::from_utf8_lossy(stream);
    let has_bom = text.starts_with('\u{feff}');
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut read = Read::default();
    let (mut kind, mut data, mut id) = (String::new(), String::new(), String::new());
    let mut lines: Vec<_> = text.split('\n').collect();
    let open = lines.pop().expect("a piece");
    for line in &lines {
        if line.is_empty() {
            read.last_id.clone_from(&id);
            if let Some(data) = data.strip_suffix('\n') {
                let kind = if kind.is_empty() { "message" } else { &kind };
                read.events.push((kind.to_owned(), data.to_owned()));
            }
            kind.clear();
            data.clear();
            read.is_in_event = false;
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        read.is_in_event |= matches!(field, "data" | "event" | "id");
        match field {
            "data" => data += &format!("{value}\n"),
            "event" => kind = value.to_owned(),
            "id" if !value.contains('\0') => id = value.to_owned(),
            _ => {}
        }
    }
    let blank = lines.last().is_none_or(|line| line.is_empty());
    // A byte order mark with nothing behind it may be taken for the beginning of an event.
    let only_bom = has_bom && lines.len() <= 1 && blank;
    read.is_in_event |= match open.split_once(':') {
        Some((field, _)) => matches!(field, "data" | "event" | "id"),
        None => ["data", "event", "id"]
            .iter()
            .any(|field| !open.is_empty() && field.starts_with(open)),
    };
    read.end_of_line = match open {
        "" => "",
        _ if open.starts_with("retry:") => "-\n",
        _ => "\n",
    };
    read.at_boundary = open.is_empty() && blank && !only_bom;
    read
}

impl Read {
    /// What a client takes for messages.
    fn messages(&self) -> Vec<&str> {
        let events = self.events.iter();
        events
            .filter(|(kind, data)| kind == "message" && !data.is_empty())
            .map(|(_, data)| data.as_str())
            .collect()
    }

    /// Whether one of the events answers request 1, if only events of this type count.
    fn answers(&self, kind: Option<&str>) -> bool {
        self.events.iter().any(|(of, data)| {
            let message = serde_json::from_str::<Value>(data).unwrap_or_default();
            let answers = message["id"] == 1
                && message.get("method").is_none()
                && (message.get("result").is_some() || message.get("error").is_some());
            answers && kind.is_none_or(|kind| of == kind)
        })
    }
}

fn run(test: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(test)
}

fn as_sent(chunks: &[Vec<u8>]) -> Vec<&[u8]> {
    chunks.iter().map(Vec::as_slice).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// G5, G9: one answer, the server's or the layer's.
    #[test]
    fn a_posts_stream_is_the_servers_and_at_most_one_error(
        chunks in chunks(),
        breaks in any::<bool>(),
        encoded in prop::bool::weighted(0.1),
    ) {
        run(async {
            let scene = scene(SessionRecoveryLayer::new()).await;
            let mut script = Script::new();
            for chunk in &chunks {
                script = script.data(chunk).yields();
            }
            if breaks {
                script = script.error("reset");
            }
            let mut reply = stream(script);
            if encoded {
                reply.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
            }
            let mut reply = Some(reply);
            scene.server.on(move |_| reply.take());
            let mut call = scene.call(1).await;
            call.read_to_end().await;

            // The server's chunks come first, as they were.
            let sent = chunks.concat();
            prop_assert!(call.chunks.len() >= chunks.len());
            let (own, added) = call.chunks.split_at(chunks.len());
            prop_assert_eq!(own, as_sent(&chunks));
            prop_assert!(added.len() <= 1);
            let server = standard(&sent);
            let error = lost(1, "stream_ended");
            if let [added] = added {
                // The error comes in the answer's place, as an event of its own. An event of another
                // type than `message` is no answer: clients ignore it.
                let is_answered = server.answers(Some("message"));
                prop_assert!(!is_answered && server.last_id.is_empty() && !encoded);
                let bytes = call.bytes();
                let caller = standard(&bytes);
                let messages = caller.messages();
                let (last, others) = messages.split_last().expect("the error");
                prop_assert_eq!(serde_json::from_str::<Value>(last).unwrap(), error, "{:?}", added);
                prop_assert_eq!(others, server.messages());
                prop_assert!(caller.at_boundary && call.ended_cleanly());
            } else {
                let waits = !server.answers(Some("message")) && server.last_id.is_empty();
                prop_assert!(!waits || encoded);
                prop_assert_eq!(call.ended_cleanly(), !breaks);
            }
            Ok(())
        })?;
    }

    /// G1, G9, H3: the old stream up to a boundary, a notice, the new stream.
    #[test]
    fn a_listening_stream_is_the_old_one_and_the_new_one_and_at_most_one_notice(
        old in chunks(),
        new in chunks(),
        moves_after in any::<prop::sample::Index>(),
        ends in any::<bool>(),
        promised in any::<bool>(),
    ) {
        run(async {
            let capabilities = json!({"tools": {"listChanged": promised}});
            let layer = SessionRecoveryLayer::new();
            let scene = scene_with(Profile::TypeScript, layer, capabilities).await;
            let fed = feed_all(&scene.server, "GET");
            let mut listening = scene.listen().await;
            let (before, after) = old.split_at(moves_after.index(old.len() + 1));
            before.iter().for_each(|chunk| fed.data(0, chunk));
            listening.now().await;
            scene.recover().await;
            listening.now().await;

            // An event that is open has its time to end.
            let mut sent = before.to_vec();
            for chunk in after {
                if fed.count() == 2 {
                    break;
                }
                fed.data(0, chunk);
                sent.push(chunk.clone());
                listening.now().await;
            }
            let old = standard(&sent.concat());
            let moves = !old.is_in_event;
            prop_assert_eq!(fed.count(), 1 + usize::from(moves));
            let mut expected = sent.concat();
            if moves {
                prop_assert!(fed.is_dropped(0));
                for chunk in &new {
                    fed.data(1, chunk);
                    listening.now().await;
                }
                expected.extend_from_slice(old.end_of_line.as_bytes());
                // A byte order mark has no place in the middle of a stream.
                let (mark, new) = ("\u{feff}".as_bytes(), new.concat());
                if !mark.starts_with(&new) {
                    expected.extend_from_slice(new.strip_prefix(mark).unwrap_or(&new));
                }
                if ends {
                    fed.end(1);
                }
            }
            // Inside an event the body ends when the time is over.
            if ends || !moves {
                listening.read_to_end().await;
                prop_assert!(listening.ended_cleanly());
            } else {
                listening.now().await;
                prop_assert!(listening.is_open());
            }

            let notice = br#"data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
            let is_notice = |chunk: &&bytes::Bytes| {
                chunk.windows(notice.len()).any(|window| window == notice)
            };
            let (notices, own): (Vec<_>, Vec<_>) = listening.chunks.iter().partition(is_notice);
            prop_assert_eq!(own.into_iter().flatten().copied().collect::<Vec<_>>(), expected);
            prop_assert_eq!(notices.len(), usize::from(promised && moves));
            if let Some(position) = listening.chunks.iter().position(|chunk| is_notice(&chunk)) {
                prop_assert!(position >= before.len());
                let ahead = standard(&listening.chunks[..position].concat());
                let with = standard(&listening.chunks[..=position].concat());
                prop_assert!(!ahead.is_in_event && ahead.end_of_line.is_empty());
                prop_assert!(with.at_boundary);
                prop_assert_eq!(with.messages().len(), ahead.messages().len() + 1);
            }
            Ok(())
        })?;
    }
}

/// The standard in few examples, since everything above relies on it.
#[test]
fn the_reference_reads_as_the_standard_says() {
    let read = standard(b"\xef\xbb\xbfid: 7\r\ndata: a\ndata:b\r\rdata: open\n");
    assert_eq!(read.events, [("message".to_owned(), "a\nb".to_owned())]);
    assert_eq!((read.last_id.as_str(), read.at_boundary), ("7", false));
    let read = standard(b"event: x\ndata\n\nid: 8\n: no\n\n");
    assert_eq!(read.events, [("x".to_owned(), String::new())]);
    assert_eq!((read.last_id.as_str(), read.at_boundary), ("8", true));
    assert!(standard(b"").at_boundary && standard(b"\n").at_boundary);
}
