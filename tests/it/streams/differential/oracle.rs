//! The oracle: a plain reader of whole event streams, and a plain account of what was answered where.

use serde_json::Value;
use testing::streams::*;

pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// An event stream as the standard reads it (WHATWG HTML, 9.2.6), in the plainest way.
#[derive(Default, Debug)]
pub(super) struct Plain {
    pub(super) events: Vec<Event>,
    pub(super) last_id: String,
    pub(super) is_in_event: bool,
    pub(super) end_of_line: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Event {
    /// The data, if clients take them for a message.
    pub(super) message: Option<String>,
    /// The id that it made the last one.
    pub(super) id: Option<String>,
}

impl Plain {
    pub(super) fn read(stream: &[u8], last_id: &str) -> Self {
        let text = String::from_utf8_lossy(stream);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut lines: Vec<_> = text.split('\n').collect();
        let open = lines.pop().unwrap_or_default();
        let mut plain = Self {
            last_id: last_id.to_owned(),
            ..Self::default()
        };
        let (mut kind, mut data, mut id) = (String::new(), String::new(), None);
        for line in lines {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            plain.is_in_event |= matches!(field, "data" | "event" | "id");
            match field {
                "" if line.is_empty() => {
                    let is_message = matches!(kind.as_str(), "" | "message");
                    let message = data.strip_suffix('\n').filter(|_| is_message);
                    if let Some(id) = &id {
                        plain.last_id.clone_from(id);
                    }
                    plain.events.push(Event {
                        message: message.map(str::to_owned),
                        id: id.take(),
                    });
                    (kind, data) = Default::default();
                    plain.is_in_event = false;
                }
                "data" => data += &format!("{value}\n"),
                "event" => kind = value.to_owned(),
                "id" if !value.contains('\0') => id = Some(value.to_owned()),
                _ => {}
            }
        }
        plain.is_in_event |= match open.split_once(':') {
            Some((name, _)) => matches!(name, "data" | "event" | "id"),
            None => ["data", "event", "id"]
                .iter()
                .any(|field| !open.is_empty() && field.starts_with(open)),
        };
        plain.end_of_line = match open {
            "" => "",
            _ if open.starts_with("retry:") => "-\n",
            _ => "\n",
        };
        plain
    }

    pub(super) fn messages(&self) -> Vec<Value> {
        let messages = self
            .events
            .iter()
            .filter_map(|event| event.message.as_ref());
        messages
            .filter_map(|data| serde_json::from_str(data).ok())
            .collect()
    }
}

/// The requests that the data of an event answer.
pub(super) fn responses(data: &str) -> Vec<u64> {
    let messages = match serde_json::from_str(data) {
        Ok(Value::Array(messages)) => messages,
        Ok(message) => vec![message],
        Err(_) => return Vec::new(),
    };
    let is_response = |message: &&Value| {
        message.get("method").is_none()
            && (message.get("result").is_some() || message.get("error").is_some())
    };
    let responses = messages.iter().filter(is_response);
    let ids = responses.filter_map(|message| message["id"].as_f64());
    ids.map(|id| id as u64).collect()
}

/// The requests of one call, and the streams that may answer them.
#[derive(Default)]
pub(super) struct Call {
    pub(super) epoch: usize,
    pub(super) requests: Vec<u64>,
    /// In the order in which they were answered.
    pub(super) answered: Vec<u64>,
}

impl Call {
    pub(super) fn waiting(&self) -> Vec<u64> {
        self.since(self.answered.len())
    }

    /// Those that waited when so many had been answered.
    pub(super) fn since(&self, answered: usize) -> Vec<u64> {
        let before = &self.answered[..answered.min(self.answered.len())];
        let requests = self.requests.iter().copied();
        requests.filter(|id| !before.contains(id)).collect()
    }

    pub(super) fn read(&mut self, message: &str) {
        for id in responses(message) {
            if self.requests.contains(&id) && !self.answered.contains(&id) {
                self.answered.push(id);
            }
        }
    }

    pub(super) fn give_up(&mut self) {
        self.answered.extend(self.waiting());
    }
}

/// What a stream of events is, as the log has it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Origin {
    Call(usize),
    /// A number of its own, and the epoch.
    Listening(usize, usize),
}

/// A stream of the caller's.
pub(super) struct Open {
    pub(super) stream: Stream,
    /// `None` if nobody knows.
    pub(super) origin: Option<Origin>,
    pub(super) epoch: usize,
    /// The id that it was resumed from.
    pub(super) resumed: String,
    /// Where the server feeds it.
    pub(super) feed: (Feeds, usize),
    /// What is still to be fed.
    pub(super) script: Vec<u8>,
    /// What the server of now has sent, and how many of its events have been read.
    pub(super) sent: Vec<u8>,
    pub(super) read: usize,
    pub(super) is_done: bool,
    /// It goes on in a body that has begun: of an older stream, or with what the layer had to say.
    pub(super) goes_on: bool,
    /// What the caller should have read before.
    pub(super) before: Vec<u8>,
    pub(super) ends: Option<Ends>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Feeds {
    Calls,
    Gets,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Ends {
    /// As the server ended it.
    Clean,
    Broken,
    /// With these errors, for this reason.
    Lost(Vec<u64>, &'static str),
}

impl Open {
    pub(super) fn plain(&self) -> Plain {
        Plain::read(&self.sent, &self.resumed)
    }

    /// What has come of the server of now, and is let through.
    pub(super) fn passed(&self) -> &[u8] {
        match self.sent.strip_prefix(BYTE_ORDER_MARK) {
            _ if !self.goes_on => &self.sent,
            Some(rest) => rest,
            // It may become one.
            None if BYTE_ORDER_MARK.starts_with(&self.sent) => b"",
            None => &self.sent,
        }
    }

    /// What the caller should have read.
    pub(super) fn expected(&self) -> Vec<u8> {
        [&*self.before, self.passed()].concat()
    }
}

/// A request that was accepted with 202.
pub(super) struct Accepted {
    pub(super) epoch: usize,
    pub(super) request: u64,
    /// Answered on a listening stream, or told to be lost.
    pub(super) is_over: bool,
}
