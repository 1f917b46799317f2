//! A client's plain reading of answers: JSON, or an event stream.

use std::collections::HashMap;

use serde_json::Value;

/// Reads an event stream, chunk by chunk.
#[derive(Default)]
pub struct Events {
    line: Vec<u8>,
    was_cr: bool,
    data: Option<String>,
    kind: String,
    id: Option<String>,
    pub last_id: Option<String>,
}

impl Events {
    pub fn read(&mut self, chunk: &[u8], mut event: impl FnMut(&str)) {
        for byte in chunk {
            // CR, LF and CRLF all end a line.
            let follows_cr = std::mem::replace(&mut self.was_cr, *byte == b'\r');
            match byte {
                b'\n' if follows_cr => continue,
                b'\n' | b'\r' => {}
                _ => {
                    self.line.push(*byte);
                    continue;
                }
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            if line.is_empty() {
                if let Some(id) = self.id.take() {
                    self.last_id = Some(id);
                }
                // Clients read no other type.
                let kind = std::mem::take(&mut self.kind);
                let data = self.data.take();
                if let Some(data) = data.filter(|_| kind.is_empty() || kind == "message") {
                    event(&data);
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                let data = data.strip_prefix(' ').unwrap_or(data);
                self.data.get_or_insert_default().push_str(data);
            } else if let Some(kind) = line.strip_prefix("event:") {
                self.kind = kind.trim().to_owned();
            } else if let Some(id) = line.strip_prefix("id:") {
                self.id = Some(id.trim().to_owned());
            }
        }
    }
}

/// What a message says to a client that waits for answers.
pub enum Said {
    /// Notification or request, with the session it names.
    Other(Option<u64>),
    /// The answer to one of its calls, which it gives the key of.
    Answer { key: u64, says: Option<u64> },
    /// That the answer to a call is lost.
    Lost { key: u64, reason: String },
    /// An answer to nothing it asked.
    Foreign,
}

/// The messages in a text; `None` if it is none.
pub fn messages(text: &str, calls: &HashMap<u64, u64>) -> Option<Vec<Said>> {
    let all = match serde_json::from_str(text).ok()? {
        Value::Array(all) => all,
        one => vec![one],
    };
    let said = all.iter().map(|message| {
        if message["method"].is_string() {
            return Said::Other(message["params"]["lineage"].as_u64());
        }
        let key = message["id"]
            .as_u64()
            .and_then(|id| calls.get(&id).copied());
        let Some(key) = key else { return Said::Foreign };
        match message["error"]["data"]["reason"].as_str() {
            Some(reason) if message["error"]["code"] == -32000 => Said::Lost {
                key,
                reason: reason.to_owned(),
            },
            _ => Said::Answer {
                key,
                says: message["result"]["key"].as_u64(),
            },
        }
    });
    Some(said.collect())
}
