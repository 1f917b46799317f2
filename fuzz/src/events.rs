//! Event streams as the standard reads them (WHATWG HTML, 9.2.6), written down once more.

use serde_json::Value;

/// What a client reads in a stream.
#[derive(Debug, Default)]
pub struct Events {
    /// The type and data of each event.
    events: Vec<(String, String)>,
    /// What the client would resume from.
    pub last_id: String,
    /// The bytes of the largest event, be it whole or not.
    pub largest: usize,
}

/// Whether a stream answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    Yes,
    No,
    /// Clients may differ about that.
    Maybe,
}

impl Events {
    pub fn read(stream: &[u8]) -> Self {
        let text = lines(stream);
        let mut read = Self::default();
        let (mut kind, mut data, mut id) = (String::new(), String::new(), String::new());
        let mut bytes = 0;
        // What follows the last line end is no line.
        for line in text.split_inclusive('\n') {
            bytes += line.len();
            read.largest = read.largest.max(bytes);
            let Some(line) = line.strip_suffix('\n') else {
                break;
            };
            if line.is_empty() {
                bytes = 0;
                read.last_id.clone_from(&id);
                let kind = std::mem::take(&mut kind);
                if let Some(data) = std::mem::take(&mut data).strip_suffix('\n') {
                    read.events.push((kind, data.to_owned()));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    data.push_str(value);
                    data.push('\n');
                }
                "event" => kind = value.to_owned(),
                "id" if !value.contains('\0') => id = value.to_owned(),
                _ => {}
            }
        }
        read
    }

    /// What a client takes for messages.
    pub fn messages(&self) -> Vec<&str> {
        let events = self.events.iter();
        events
            .filter(|(kind, data)| matches!(&**kind, "" | "message") && !data.is_empty())
            .map(|(_, data)| &**data)
            .collect()
    }

    /// Whether one of the events answers the request, for each of these ids.
    pub fn answered(&self, ids: &[Value]) -> Vec<Answered> {
        let mut answered = vec![Answered::No; ids.len()];
        for (kind, data) in &self.events {
            let escapes = data.contains("\\u");
            if !data.contains("\"result\"") && !data.contains("\"error\"") && !escapes {
                continue;
            }
            // Not every JSON parser takes the same for JSON: numbers too large, escapes of no
            // character.
            let message = serde_json::from_str::<Value>(data).ok();
            // Most clients pass over events of other types.
            let is_message = matches!(&**kind, "" | "message");
            for (id, answered) in ids.iter().zip(&mut answered) {
                let this = match &message {
                    Some(message) => answers(message, escapes, id),
                    None => Answered::Maybe,
                };
                *answered = match this {
                    _ if *answered == Answered::Yes => Answered::Yes,
                    Answered::No => *answered,
                    Answered::Yes if is_message => Answered::Yes,
                    Answered::Yes | Answered::Maybe => Answered::Maybe,
                };
            }
        }
        answered
    }
}

/// Whether a message, or one of a batch, answers the request with this id.
fn answers(message: &Value, escapes: bool, id: &Value) -> Answered {
    let messages = match message {
        Value::Array(messages) => &messages[..],
        message => std::slice::from_ref(message),
    };
    let mut answered = Answered::No;
    for message in messages {
        let has = |member| message.get(member).is_some();
        let is_answer = has("result") || has("error");
        match message.get("method") {
            None if is_answer && message["id"] == *id => answered = Answered::Yes,
            Some(Value::String(_)) => {}
            // 1.0 is 1 to some, and a method that is no string is none to some.
            _ if is_answer && has("id") && !has_other_id(message, id) => {
                return Answered::Maybe;
            }
            _ => {}
        }
    }
    // A batch of anything but messages is no batch to some, nor are escaped names names.
    let doubtful = escapes || messages.iter().any(|message| !message.is_object());
    match answered {
        Answered::Yes if doubtful => Answered::Maybe,
        answered => answered,
    }
}

/// Whether the id of a message is another one however it is compared.
fn has_other_id(message: &Value, id: &Value) -> bool {
    let other = &message["id"];
    other != id && (other.as_f64().is_none() || other.as_f64() != id.as_f64())
}

/// Whether no event is open at the end of a stream: no `data`, `event` or `id` that no empty line
/// follows, nor the beginning of a line that may become one.
pub fn at_boundary(stream: &[u8]) -> bool {
    const FIELDS: [&str; 3] = ["data", "event", "id"];
    let is_field = |line: &str| FIELDS.contains(&line.split(':').next().unwrap_or_default());
    let may_be = |name: &str| !name.is_empty() && FIELDS.iter().any(|it| it.starts_with(name));
    let text = lines(stream);
    let mut open = text.rsplit("\n\n").next().unwrap_or_default().split('\n');
    let last = open.next_back().unwrap_or_default();
    !open.any(is_field) && !is_field(last) && !may_be(last)
}

/// What ends the line that a stream stops in, so that it does nothing.
pub fn end_of_line(stream: &[u8]) -> &'static str {
    match lines(stream).rsplit('\n').next() {
        None | Some("") => "",
        Some(open) if open.starts_with("retry:") => "-\n",
        Some(_) => "\n",
    }
}

/// A stream without a byte order mark, with LF for the end of each line.
fn lines(stream: &[u8]) -> String {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    text.replace("\r\n", "\n").replace('\r', "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_reads_as_the_standard_says() {
        let read =
            Events::read(b"\xef\xbb\xbfid: 7\r\ndata: a\ndata:b\r\revent: x\ndata\n\ndata: open\n");
        assert_eq!(read.messages(), ["a\nb"]);
        assert_eq!(read.events[1], ("x".to_owned(), String::new()));
        assert_eq!((read.last_id.as_str(), read.largest), ("7", 22));
    }

    #[test]
    fn a_boundary_is_where_no_event_is_open() {
        for (stream, boundary, end_of_line) in [
            ("", true, ""),
            ("\n", true, ""),
            ("data: x\n", false, ""),
            ("data: x\n: comment\n", false, ""),
            ("data: x\n\n", true, ""),
            ("data: x\r\r\n", true, ""),
            ("data: x\r\n\r", true, ""),
            ("data: x\n\n\nd", false, "\n"),
            ("data: x\n\ndatum", true, "\n"),
            ("data: x\n\n: comment", true, "\n"),
            ("data: x\n\nretry: 5", true, "-\n"),
            ("\u{feff}", true, ""),
        ] {
            let ends = (
                at_boundary(stream.as_bytes()),
                super::end_of_line(stream.as_bytes()),
            );
            assert_eq!(ends, (boundary, end_of_line), "{stream:?}");
        }
    }

    #[test]
    fn an_answer_is_told_from_what_may_be_one() {
        use Answered::*;
        for (data, answered) in [
            (r#"{"id":1,"result":null}"#, Yes),
            (r#"[{"id":2,"result":1},{"id":1,"error":{}}]"#, Yes),
            (r#"{"id":1,"method":"ping","params":{"result":0}}"#, No),
            (r#"{"id":2,"result":1}"#, No),
            (r#"{"id":1.0,"result":1}"#, Maybe),
            (r#"{"id":1,"method":7,"result":1}"#, Maybe),
            (r#"{"id":1,"result":1e999}"#, Maybe),
            (r#"{"id":1,"r\u0065sult":1}"#, Maybe),
            (r#"[{"id":1,"result":1},7]"#, Maybe),
            ("pong", No),
        ] {
            let stream = format!("data: {data}\n\n");
            assert_eq!(
                Events::read(stream.as_bytes()).answered(&[json!(1)]),
                [answered],
                "{data}"
            );
        }
    }
}
