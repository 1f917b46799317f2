//! The answer that is all there is to a stream, as nearly every one is.

use super::{Id, skim::Skimmed};

/// Whether an event stream that begins with this chunk begins with the response to the request with
/// this id, whole and written as servers write it. False also where it takes a reader to tell.
///
/// What is said to be the answer here is the answer to an `EventReader` and to `PendingRequests`, too.
pub(crate) fn begins_with_answer(chunk: &[u8], id: &Id) -> bool {
    answer(chunk).is_some_and(|answered| answered == *id)
}

/// The id of the response that a chunk begins with.
fn answer(chunk: &[u8]) -> Option<Id> {
    let event = match chunk.strip_prefix(b"event: message") {
        None => chunk,
        Some(rest) => rest
            .strip_prefix(b"\r")
            .unwrap_or(rest)
            .strip_prefix(b"\n")?,
    };
    let data = event.strip_prefix(b"data: ")?;
    let (message, len) = Skimmed::first(data)?;
    let (message_text, after) = data.split_at(len);
    let is_event = after.starts_with(b"\n\n") || after.starts_with(b"\r\n\r\n");
    (is_event && message.is_response() && is_one_line(message_text)).then(|| message.id())?
}

/// Whether a text certainly has no line breaks in it: it has no control characters.
#[inline]
fn is_one_line(text: &[u8]) -> bool {
    // The least byte of so many at a time is found without a branch for each.
    const BLOCK: usize = 64;
    let Some(last) = text.last_chunk::<BLOCK>() else {
        return text.iter().all(|byte| *byte >= b' ');
    };
    let (mut least, mut rest) = (*last, text);
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
        for (least, byte) in least.iter_mut().zip(block) {
            *least = (*least).min(*byte);
        }
        rest = after;
    }
    let has_control = |any: bool, byte: &u8| any | (*byte < b' ');
    !least.iter().fold(false, has_control)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::mcp::{Event, EventReader, Interest, PendingRequests};

    fn number(id: i64) -> Id {
        Id::from_json(id.to_string().as_bytes()).unwrap()
    }

    /// What a reader makes of a chunk: whether the request was answered, and any id was told before.
    fn read(chunk: &[u8]) -> (bool, bool) {
        let pending = PendingRequests::new([number(1)].into());
        let mut is_id_told = false;
        let mut reader = EventReader::new(1024 * 1024, Interest::Responses);
        reader.read(chunk, |event| match event {
            Event::Data(data) => pending.read(data),
            Event::Large(data) => pending.read_large(&data),
            Event::Id(_) => is_id_told |= !pending.are_answered(),
        });
        (pending.are_answered(), is_id_told)
    }

    #[test]
    fn g5_an_answer_as_servers_write_it_is_seen_without_a_reader() {
        for chunk in [
            "event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n",
            "event: message\r\ndata: {\"result\":{},\"jsonrpc\":\"2.0\",\"id\":1}\r\n\r\n",
            "data: {\"id\":1.0,\"error\":{\"message\":\"\\n\\\"}\"}}\n\nid: 5\n\n",
        ] {
            assert!(begins_with_answer(chunk.as_bytes(), &number(1)), "{chunk}");
            assert!(!begins_with_answer(chunk.as_bytes(), &number(2)), "{chunk}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 50 } else { 20_000 }))]

        #[test]
        fn g5_what_is_seen_to_be_the_answer_is_it_to_a_reader_too(
            pieces in prop::collection::vec(select(PIECES), 0..14),
            is_whole in any::<bool>(),
        ) {
            let text = pieces.concat();
            let chunk = match is_whole {
                true => format!("event: message\ndata: {{\"id\":1{text}}}\n\n"),
                false => text,
            };
            if begins_with_answer(chunk.as_bytes(), &number(1)) {
                prop_assert_eq!(read(chunk.as_bytes()), (true, false));
            }
        }
    }

    const PIECES: &[&str] = &[
        "event: message",
        "event: other",
        "data: ",
        "data:",
        "id: 7",
        "\n",
        "\n\n",
        "\r\n",
        "\r\n\r\n",
        "\r",
        ": comment",
        "retry: 1",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"id\"",
        "\"id\":1",
        "\"id\":2",
        ",\"id\":1",
        ",\"result\":{}",
        ",\"result\":{\"a\":\"",
        "\"}",
        ",\"error\":null",
        "\"\\u0069d\":2",
        ",\"method\":\"a\"",
        "\"x\"",
        ",\"x\":1",
        "\\",
        "\\\"",
        "\"",
        "null",
        "1.0",
        " ",
        "\u{feff}",
        "{\"id\":1,\"result\":",
        "\u{e4}",
        "\u{1}",
    ];
}
