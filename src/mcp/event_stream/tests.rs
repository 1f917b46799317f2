use super::*;
use crate::mcp::LargeAnswer;

/// What a reader told, and the reader.
fn read(reader: EventReader, chunks: &[&[u8]]) -> (EventReader, Vec<String>) {
    let mut reader = reader;
    let mut told = Vec::new();
    for (nth, chunk) in chunks.iter().enumerate() {
        reader.read(chunk, |event| {
            told.push(match event {
                Event::Id(id) => format!("id {}", String::from_utf8_lossy(id)),
                Event::Data(data) => String::from_utf8_lossy(data).into_owned(),
                Event::Large(data) => match data.answer() {
                    LargeAnswer::None => "large, no answer".to_owned(),
                    LargeAnswer::Of(id) => format!("large, answers {id}"),
                    LargeAnswer::Some => "large".to_owned(),
                },
            });
        });
        if nth % 2 == 1 {
            // What it knows of an open event, it goes on from.
            reader.has_room();
        }
    }
    (reader, told)
}

fn read_all(text: &str) -> (EventReader, Vec<String>) {
    read(EventReader::new(1024, Interest::All), &[text.as_bytes()])
}

/// Byte by byte.
fn read_bytes(text: &str) -> (EventReader, Vec<String>) {
    let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
    read(EventReader::new(1024, Interest::All), &bytes)
}

#[test]
fn e6_lines_end_with_lf_cr_or_crlf_and_fields_come_in_any_order() {
    for text in [
        "data: {}\nid: 1\nretry: 5\n\n",
        "id: 1\rdata: {}\r\r",
        "retry: 5\r\nid: 1\r\ndata:{}\r\n\r\n",
    ] {
        let (mut reader, told) = read_all(text);
        assert_eq!(told, ["{}", "id 1"], "{text:?}");
        assert!(reader.is_between_events(), "{text:?}");
    }
}

#[test]
fn g1_a_comment_a_retry_or_a_byte_order_mark_is_in_no_event_however_the_bytes_are_cut() {
    for (text, is_between, has_room, end_of_line) in [
        ("", true, true, ""),
        ("data: x", false, false, "\n"),
        ("data: x\n", false, false, ""),
        ("data: x\r\n", false, false, ""),
        ("data: x\n\n", true, true, ""),
        ("data: x\r\r", true, true, ""),
        ("data: x\r\n\r\n", true, true, ""),
        ("data: x\r\n\r", true, true, ""),
        ("data: x\n\ni", false, false, "\n"),
        ("id", false, false, "\n"),
        ("id: 7\n", false, false, ""),
        ("event\n", false, false, ""),
        ("eventually: x\n", true, true, ""),
        ("eventually", true, false, "\n"),
        (": comment\n\n", true, true, ""),
        (": comment\n", true, true, ""),
        (": comment\r", true, true, ""),
        (": comm", true, false, "\n"),
        (": comment\ndata", false, false, "\n"),
        ("data: x\n\n: comment\n", true, true, ""),
        ("retry: 5\n", true, true, ""),
        ("retry: 5", true, false, "-\n"),
        ("retr", true, false, "\n"),
        ("\u{feff}", true, true, ""),
        ("\u{feff}: x\r\n", true, true, ""),
        ("\u{feff}data: x\n", false, false, ""),
    ] {
        for (mut reader, _) in [read_all(text), read_bytes(text)] {
            assert_eq!(reader.is_between_events(), is_between, "{text:?}");
            assert_eq!(reader.has_room(), has_room, "{text:?}");
            assert_eq!(reader.end_of_line(), end_of_line, "{text:?}");
        }
    }
}

#[test]
fn g7_an_event_that_is_cut_off_sets_no_id() {
    for (text, end) in [
        ("data: x\n\n", ""),
        (": comment", "\n"),
        ("data: x", "\nevent: truncated\n\n"),
        ("data: x\n", "event: truncated\n\n"),
        ("id: 7\n", "id: \nevent: truncated\n\n"),
        ("id: 6\n\nid: 7\r\ndata: x", "\nid: 6\nevent: truncated\n\n"),
        ("id: 6\n\nid: 7", "\nid: 6\nevent: truncated\n\n"),
        ("id: 6\n\nid", "\nid: 6\nevent: truncated\n\n"),
        ("id: 6\n\ni", "\nevent: truncated\n\n"),
        ("id: 6\n\nid\n\nid: 7\n", "id: \nevent: truncated\n\n"),
    ] {
        for (mut reader, _) in [read_all(text), read_bytes(text)] {
            let added = reader.end_of_open_event();
            assert_eq!(String::from_utf8_lossy(&added), end, "{text:?}");
            let whole = [text.as_bytes(), &added].concat();
            assert_eq!(
                Plain::read(&whole).last_id,
                Plain::read(text.as_bytes()).last_id
            );
        }
    }
    let mut reader = EventReader::new(1024, Interest::Responses);
    reader.resume_from(b"5");
    let (mut reader, _) = read(reader, &[b"id: 7\n"]);
    assert_eq!(reader.end_of_open_event(), b"id: 5\nevent: truncated\n\n");
    assert!(reader.is_resumable());
}

#[test]
fn g3_an_id_without_data_counts_and_one_with_nul_does_not() {
    assert_eq!(read_all("id: 7\n\n").1, ["id 7"]);
    let (reader, told) = read_all("id: 7\n\nid: 8\0\ndata: x\n\n");
    assert_eq!(told, ["x", "id 7"]);
    assert!(reader.is_resumable());
    assert!(!read_all("id\ndata: x\n\n").0.is_resumable());
    // Of two in one event the last one counts.
    for (text, id) in [
        ("id: 7\nid: 8\n\n", "id 8"),
        ("id: 7\ndata: x\nid: 8\0\n\n", "id 7"),
    ] {
        assert!(read_all(text).1.ends_with(&[id.to_owned()]), "{text:?}");
        assert!(read_all(text).1.len() < 3, "{text:?}");
    }
}

#[test]
fn g5_only_an_event_of_the_type_message_is_a_message() {
    for (event, is_message) in [
        ("", true),
        ("event: message\n", true),
        ("event:message\n", true),
        ("event\n", true),
        ("event: other\n", false),
        ("event: messages\n", false),
        ("event: message\nevent: other\n", false),
        ("event: other\nevent: message\n", true),
        ("event: other\nevent\n", true),
        ("eventual: other\n", true),
    ] {
        let answer = "data: {\"id\":1,\"result\":{}}\n";
        for text in [format!("{event}{answer}\n"), format!("{answer}{event}\n")] {
            for interest in [Interest::Responses, Interest::All] {
                let (_, told) = read(EventReader::new(1024, interest), &[text.as_bytes()]);
                assert_eq!(told.len(), usize::from(is_message), "{text:?}");
            }
        }
    }
}

#[test]
fn c4_a_response_is_seen_however_its_names_are_escaped() {
    for data in [
        r#"{"\u0069d":1,"result":{}}"#,
        r#"{"i\u0064":1,"\u0072esult":{}}"#,
        r#"{"\u0069\u0064":1,"err\u006fr":{}}"#,
        r#"{"id":1,"r\u0065sult":{}}"#,
    ] {
        let text = format!("data: {{\"a\":\"\\n\"}}\n\ndata: {data}\n\ndata: {{}}\n\n");
        let reader = EventReader::new(1024, Interest::Responses);
        assert_eq!(read(reader, &[text.as_bytes()]).1, [data]);
    }
}

#[test]
fn g5_of_an_event_over_the_limit_its_beginning_and_its_end_are_known() {
    let filler = "x".repeat(10_000);
    for (data, told) in [
        (
            format!(r#"{{"jsonrpc":"2.0","method":"a","params":"{filler}"}}"#),
            "large, no answer",
        ),
        (
            format!(r#"{{"id":7,"m\u0065thod":"a","params":"{filler}"}}"#),
            "large, no answer",
        ),
        (
            format!(r#" {{ "jsonrpc" : "2.0" , "id" : "\u0061" , "result":"{filler}"}}"#),
            "large, answers \"a\"",
        ),
        (
            format!(r#"{{"result":"{filler}","jsonrpc":"2.0","id":3}}"#),
            "large, answers 3",
        ),
        (
            format!(r#"{{"result":{{"x":"{filler}","id":3}}}}"#),
            "large",
        ),
        // Behind an outcome `method` does not come first.
        (
            format!(r#"{{"id":3,"result":{{}},"method":"a","x":"{filler}"}}"#),
            "large, answers 3",
        ),
        (format!(r#"{{"result":"{filler}\"id\":3"}}"#), "large"),
        (
            format!(r#"{{"result":"{filler}","a":"\",\"id\":3"}}"#),
            "large",
        ),
        (format!(r#"{{"params":"{filler}","method":"a"}}"#), "large"),
        (format!(r#"[{{"id":1,"result":"{filler}"}}]"#), "large"),
        (filler.clone(), "large"),
    ] {
        for size in [usize::MAX, 4000, 7] {
            let text = format!(
                "id: a\r\ndata: {data}\r\nid: b\r\n\r\ndata: {{\"id\":1,\"result\":2}}\n\n"
            );
            let chunks: Vec<_> = text.as_bytes().chunks(size.min(text.len())).collect();
            let reader = EventReader::new(0, Interest::Responses);
            let (mut reader, all) = read(reader, &chunks);
            assert_eq!(all, [told, "id b", "{\"id\":1,\"result\":2}"], "{size}");
            assert!(reader.is_between_events() && reader.is_resumable());
        }
    }
    for (text, told) in [
        (format!("data: {filler}\n"), &[][..]),
        (format!("data: {filler}\nid: 7\n"), &[]),
        (
            format!("data: {filler}\nevent: other\nid: 7\n\n"),
            &["id 7"],
        ),
        (format!(": {filler}\n"), &[]),
        (format!(": {filler}\nid: 7\n\n"), &["id 7"]),
    ] {
        let (mut reader, all) = read(EventReader::new(0, Interest::Responses), &[text.as_bytes()]);
        assert_eq!(all, told);
        let is_comment = text.starts_with(':') || !told.is_empty();
        assert_eq!(reader.is_between_events(), is_comment);
        assert!(reader.open.capacity() <= USUAL);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it takes too long")]
fn g3_of_what_is_too_large_little_is_kept() {
    let mut reader = EventReader::new(0, Interest::Responses);
    for line in ["id: ", "data: ", "event: ", ": ", "x"] {
        reader.read(line.as_bytes(), |_| {});
        for _ in 0..1_000 {
            reader.read("x".repeat(10_000).as_bytes(), |_| {});
        }
        reader.read(b"\n", |_| {});
    }
    let mut told = 0;
    reader.read(b"\n", |_| told += 1);
    assert_eq!(
        told, 0,
        "neither a message nor an id that a client could send"
    );
    assert!(reader.is_resumable(), "as far as a client knows");
    assert!(reader.last_id.capacity() + reader.open.capacity() < 200_000);
}

/// An event stream as the standard reads it (WHATWG HTML, 9.2.6), in the plainest way.
#[derive(Default, Debug, PartialEq)]
struct Plain {
    /// The data of the messages.
    messages: Vec<String>,
    /// Each id that became the last one, as events ended, in their order.
    ids: Vec<String>,
    last_id: String,
    is_in_event: bool,
}

impl Plain {
    fn read(stream: &[u8]) -> Self {
        let text = String::from_utf8_lossy(stream);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<_> = text.split('\n').collect();
        let open = lines.pop().unwrap_or_default();
        let mut plain = Self::default();
        let (mut kind, mut data, mut id) = (String::new(), String::new(), None);
        for line in lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            plain.is_in_event |= matches!(field, "data" | "event" | "id");
            match field {
                "" if line.is_empty() => {
                    if let Some(data) = data.strip_suffix('\n') {
                        if matches!(kind.as_str(), "" | "message") {
                            plain.messages.push(data.to_owned());
                        }
                    }
                    if let Some(id) = id.take() {
                        plain.last_id = id;
                        if !plain.last_id.is_empty() {
                            plain.ids.push(plain.last_id.clone());
                        }
                    }
                    (kind, data) = Default::default();
                    plain.is_in_event = false;
                }
                "data" => data += &format!("{value}\n"),
                "event" => kind = value.to_owned(),
                "id" if !value.contains('\0') => id = Some(value.to_owned()),
                _ => {}
            }
        }
        let name = open.split(':').next().unwrap_or_default();
        let is_whole = open.len() > name.len();
        plain.is_in_event |= !name.is_empty()
            && ["data", "event", "id"]
                .iter()
                .any(|field| *field == name || !is_whole && field.starts_with(name));
        plain
    }
}

/// A little generator of numbers.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    }
}

fn may_answer(data: &str) -> bool {
    let text = serde_json::from_str::<serde_json::Value>(data).unwrap_or_default();
    text.get("id").is_some() && text.get("result").is_some()
}

#[test]
fn g9_skimming_finds_what_decoding_finds_however_the_bytes_are_cut() {
    const LINES: [&str; 24] = [
        "data: {}",
        "data: {\"id\":1,\"result\":{}}",
        "data: {\"id\":2,",
        "data:\"result\":2}",
        "data: {\"\\u0069d\":1,\"result\":{}}",
        "data: {\"id\":1,\"r\\u0065sult\":\"\\n\"}",
        "data",
        "event: message",
        "event: other",
        "event",
        ": comment",
        "retry: 5",
        "id: 1",
        "id:22",
        "id",
        "id:",
        "id: nul\0",
        "id: \u{e4}",
        "idea: 3",
        " id: 4",
        "\u{feff}id: 5",
        "",
        "",
        "",
    ];
    for seed in 0..if cfg!(miri) { 20 } else { 10_000 } {
        let mut below = numbers(seed);
        let only = below(4);
        let mut stream = Vec::new();
        if below(4) == 0 {
            stream.extend_from_slice(BOM);
        }
        for _ in 0..below(24) {
            stream.extend_from_slice(LINES[below(LINES.len())].as_bytes());
            let end = if only < 3 { only } else { below(3) };
            stream.extend_from_slice([&b"\n"[..], b"\r", b"\r\n"][end]);
            if below(100) == 0 {
                stream.extend_from_slice(&[b'x'; USUAL]);
            }
        }
        stream.truncate(stream.len() - below(stream.len().min(3) + 1));
        let mut cuts: Vec<_> = (0..below(12)).map(|_| below(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
        let plain = Plain::read(&stream);
        let shown = format!("{seed}: {:?} {chunks:?}", String::from_utf8_lossy(&stream));

        let skimming = EventReader::new(1 << 20, Interest::Responses);
        let (mut reader, told) = read(skimming, &chunks);
        let (ids, data): (Vec<_>, Vec<_>) = told.iter().partition(|it| it.starts_with("id "));
        let data: Vec<_> = data.into_iter().filter(|it| may_answer(it)).collect();
        let answers: Vec<_> = plain.messages.iter().filter(|it| may_answer(it)).collect();
        assert_eq!(data, answers, "{shown}");
        let expected: Vec<_> = plain.ids.iter().map(|id| format!("id {id}")).collect();
        assert_eq!(ids, expected.iter().collect::<Vec<_>>(), "{shown}");
        assert_eq!(
            String::from_utf8_lossy(&reader.last_id),
            plain.last_id,
            "{shown}"
        );
        assert_eq!(reader.is_resumable(), !plain.last_id.is_empty(), "{shown}");
        let only_part_of_bom = BOM.starts_with(&stream) && stream.len() < BOM.len();
        let is_in_event = plain.is_in_event && !only_part_of_bom;
        assert_eq!(reader.is_between_events(), !is_in_event, "{shown}");

        // As one that keeps next to nothing has it.
        let mut small = EventReader::new(0, Interest::Responses);
        small.limit = BOM.len() + below(40);
        let (mut small, told) = read(small, &chunks);
        let ids: Vec<_> = told.iter().filter(|it| it.starts_with("id ")).collect();
        assert_eq!(ids, expected.iter().collect::<Vec<_>>(), "{shown}");
        assert_eq!(small.last_id, reader.last_id, "{shown}");
        assert_eq!(small.is_between_events(), !is_in_event, "{shown}");
        assert_eq!(small.has_room(), reader.has_room(), "{shown}");
        assert_eq!(
            small.end_of_open_event(),
            reader.end_of_open_event(),
            "{shown}"
        );

        // And what closes an open event changes nothing for a client.
        let closed = [&stream, &*reader.end_of_open_event(), b": and\n\n"].concat();
        let closed = Plain::read(&closed);
        assert_eq!(closed.last_id, plain.last_id, "{shown}");
        assert_eq!(closed.messages, plain.messages, "{shown}");
        assert!(!closed.is_in_event, "{shown}");
    }
}

/// A server may write an event of a megabyte in lines that count for nothing.
#[test]
#[cfg_attr(miri, ignore = "it takes too long")]
fn k_id_lines_that_do_not_count_are_read_in_a_time_that_grows_with_them_not_with_their_square() {
    let ignored = "id:\0\n".repeat(200_000);
    let stream = format!("data: x\nid: 1\n{ignored}\ndata: y\nid: 2\nid:\0\n\n");
    let reader = EventReader::new(2 * stream.len(), Interest::Responses);
    let (reader, told) = read(reader, &[stream.as_bytes()]);
    assert_eq!(told, ["id 1", "id 2"]);
    assert_eq!(reader.last_id, b"2");
}

/// It is asked each time that the server has nothing to say, and the server may say it byte by byte.
#[test]
#[cfg_attr(miri, ignore = "it takes too long")]
fn k_whether_there_is_room_costs_no_more_the_longer_an_event_is_open() {
    let begun = format!(": comment\n{}data: ", "data: x\n".repeat(100_000));
    let mut reader = EventReader::new(2 * begun.len(), Interest::Responses);
    reader.read(begun.as_bytes(), |_| {});
    for _ in 0..100_000 {
        reader.read(b"x", |_| {});
        assert!(!reader.has_room() && !reader.is_between_events());
    }
    assert_eq!(reader.end_of_line(), "\n");
    reader.read(b"\n\n: comment\n", |_| {});
    assert!(reader.has_room() && reader.is_between_events());
}
