//! What is kept of an `InitializeResult`, and how an `initialize` is made to propose a version.

use std::{
    hash::BuildHasher,
    io::{self, Write},
    sync::LazyLock,
};

use bytes::Bytes;
use foldhash::quality::RandomState;
use http::HeaderValue;
use serde_json::{Value, value::RawValue};

use super::{Id, Message, lenient_text, members, string};

/// What of a session's `InitializeResult` the layer goes by. Everything that is only compared is
/// kept as a digest, so that a recorded session stays small.
#[derive(Clone)]
pub(crate) struct InitializeResult {
    version: Option<HeaderValue>,
    server_info: u64,
    capabilities: u64,
    instructions: u64,
    list_changed: ListChanged,
    /// A digest of the text that it was read from, unless that is not known.
    text: Option<u64>,
}

/// The lists whose changes a server promised to announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListChanged {
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
}

/// What a new session's server says otherwise than the old one's (rule H2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub(crate) protocol_version: bool,
    pub(crate) server_info: bool,
    pub(crate) capabilities: bool,
    pub(crate) instructions: bool,
}

impl Changes {
    /// Whether anything changed at all.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether another protocol version was negotiated.
    pub fn protocol_version(&self) -> bool {
        self.protocol_version
    }

    /// Whether the server's name or version, or anything else in `serverInfo`, changed.
    pub fn server_info(&self) -> bool {
        self.server_info
    }

    /// Whether the server's capabilities changed.
    pub fn capabilities(&self) -> bool {
        self.capabilities
    }

    /// Whether the server's instructions changed.
    pub fn instructions(&self) -> bool {
        self.instructions
    }
}

/// The longest version that is kept, in bytes. Revisions are dates; a longer one would be held for
/// every epoch, and sent with every request.
const MAX_VERSION: usize = 64;

impl InitializeResult {
    /// The same as [`Self::parse`], where it may be what an earlier session was told to the letter:
    /// nearly all servers say it again.
    pub(crate) fn parse_again(result: &RawValue, earlier: Option<&Self>) -> Option<Self> {
        let text = Some(digest_of_text(result));
        match earlier.filter(|earlier| earlier.text == text) {
            Some(earlier) => Some(earlier.clone()),
            None => Self::parse(result),
        }
    }

    /// `None` where the result is no object.
    pub(crate) fn parse(result: &RawValue) -> Option<Self> {
        let text = Some(digest_of_text(result));
        let [version, server_info, capabilities, instructions] = members(
            result.get(),
            [
                "protocolVersion",
                "serverInfo",
                "capabilities",
                "instructions",
            ],
        )?;
        let lists =
            capabilities.and_then(|it| members(it.get(), ["tools", "prompts", "resources"]));
        let [tools, prompts, resources] = lists.unwrap_or_default();
        let promised = |list: Option<&RawValue>| {
            let list_changed = list.and_then(|list| members(list.get(), ["listChanged"])?[0]);
            list_changed.is_some_and(|it| it.get() == "true")
        };
        Some(Self {
            version: version
                .and_then(string)
                .filter(|version| version.len() <= MAX_VERSION)
                .and_then(|version| HeaderValue::from_str(&version).ok()),
            server_info: digest(server_info),
            capabilities: digest(capabilities),
            instructions: digest(instructions),
            list_changed: ListChanged {
                tools: promised(tools),
                prompts: promised(prompts),
                resources: promised(resources),
            },
            text,
        })
    }

    /// The negotiated version, as the value of `MCP-Protocol-Version`.
    pub(crate) fn version(&self) -> Option<&HeaderValue> {
        self.version.as_ref()
    }

    pub(crate) fn list_changed(&self) -> ListChanged {
        self.list_changed
    }

    /// The digests of server info, capabilities and instructions.
    #[cfg(feature = "store")]
    pub(crate) fn digests(&self) -> [u64; 3] {
        [self.server_info, self.capabilities, self.instructions]
    }

    /// A result of which this is known (rule N2).
    #[cfg(feature = "store")]
    pub(crate) fn known(
        version: Option<HeaderValue>,
        [server_info, capabilities, instructions]: [u64; 3],
        list_changed: ListChanged,
    ) -> Self {
        Self {
            version: version.filter(|version| version.len() <= MAX_VERSION),
            server_info,
            capabilities,
            instructions,
            list_changed,
            text: None,
        }
    }

    pub(crate) fn changes_from(&self, old: &Self) -> Changes {
        Changes {
            protocol_version: self.version != old.version,
            server_info: self.server_info != old.server_info,
            capabilities: self.capabilities != old.capabilities,
            instructions: self.instructions != old.instructions,
        }
    }
}

/// Compared with those of this process alone.
fn digest_of_text(result: &RawValue) -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

    SEED.hash_one(result.get())
}

/// Objects are sorted by key, so that a server that orders them otherwise has not changed; but for
/// what is no `Value`. FNV-1a, since a digest is compared with those of other processes, made from
/// other releases (rule N2).
fn digest(value: Option<&RawValue>) -> u64 {
    let mut digest = Digest(0xcbf2_9ce4_8422_2325);
    let text = value.map(RawValue::get).unwrap_or_default();
    // Neither a value nor a digest can be at fault in writing.
    let _ = match serde_json::from_str::<Value>(text) {
        Ok(value) => serde_json::to_writer(&mut digest, &value).map_err(io::Error::from),
        Err(_) => digest.write_all(text.as_bytes()),
    };
    digest.0
}

struct Digest(u64);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const PRIME: u64 = 0x0100_0000_01b3;
        self.0 = bytes.iter().fold(self.0, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The recorded `initialize` with `params.protocolVersion` replaced and every other byte as it
/// was (rule E5), and its id. A body that proposes no version is given back unchanged.
pub(crate) fn propose_version(body: &Bytes, version: Option<&HeaderValue>) -> Option<(Bytes, Id)> {
    let message = Message::single(body)?;
    let id = message.initialize_id()?;
    let span = || version_span(body, &message);
    let Some((version, (start, end))) = version.and_then(|version| Some((version, span()?))) else {
        return Some((body.clone(), id));
    };
    let proposed = Value::from(lenient_text(version.as_bytes())).to_string();
    let proposed = [&body[..start], proposed.as_bytes(), &body[end..]].concat();
    Some((proposed.into(), id))
}

/// Where in the body the JSON string of `params.protocolVersion` stands.
fn version_span(body: &[u8], message: &Message<'_>) -> Option<(usize, usize)> {
    let [version] = members(message.params()?, ["protocolVersion"])?;
    let version = version?.get();
    let start = version.as_ptr() as usize - body.as_ptr() as usize;
    Some((start, start + version.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str) -> InitializeResult {
        InitializeResult::parse(&RawValue::from_string(text.to_owned()).unwrap()).unwrap()
    }

    fn propose(body: &Bytes, version: &'static str) -> Bytes {
        let version = HeaderValue::from_static(version);
        propose_version(body, Some(&version)).unwrap().0
    }

    #[test]
    fn e5_only_the_proposed_version_changes_in_the_recorded_body() {
        let body = Bytes::from_static(
            br#" {"id":1.50,"params":{"x":"protocolVersion","protocolVersion" : "2026-07-28","n":1e3},"method":"initialize"}"#,
        );
        let proposed = propose(&body, "2025-11-25");
        assert_eq!(
            proposed,
            &br#" {"id":1.50,"params":{"x":"protocolVersion","protocolVersion" : "2025-11-25","n":1e3},"method":"initialize"}"#[..],
        );
    }

    #[test]
    fn b3_e5_what_nobody_asks_for_may_be_anything() {
        for odd in [
            r#""\ud83d""#,
            "1e999",
            &format!("{}{}", "[".repeat(200), "]".repeat(200)),
        ] {
            let told = result(&format!(
                r#"{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{"listChanged":true,"x":{odd}}}}},"serverInfo":{odd}}}"#
            ));
            assert_eq!(told.version().unwrap(), "2025-11-25", "{odd}");
            assert!(told.list_changed().tools, "{odd}");
            let body = |version: &str| {
                format!(
                    r#"{{"id":1,"method":"initialize","params":{{"\ud83d":{odd},"protocolVersion":"{version}"}}}}"#
                )
            };
            let proposed = propose(&body("a").into(), "b");
            assert_eq!(proposed, body("b"), "{odd}");
        }
    }

    #[test]
    fn e5_whatever_version_was_negotiated_is_proposed() {
        let body = |version: &str| {
            format!(
                r#"{{"id":1,"method":"initialize","params":{{"protocolVersion":"{version}"}}}}"#
            )
        };
        for version in ["2025-\u{e4}", "2025 11"] {
            let told = result(&format!(r#"{{"protocolVersion":"{version}"}}"#));
            let (proposed, _) = propose_version(&body("x").into(), told.version()).unwrap();
            assert_eq!(proposed, body(version));
        }
    }

    #[test]
    fn e5_a_body_without_a_version_stays_as_it_is() {
        let body = Bytes::from_static(br#"{"id":1,"method":"initialize","params":{}}"#);
        assert_eq!(propose(&body, "x"), body);
    }

    #[test]
    fn h2_what_is_said_again_is_read_as_it_was() {
        let text = |version: &str| {
            let text = format!(
                r#"{{"protocolVersion":"2025-11-25","serverInfo":{{"version":"{version}"}},"capabilities":{{"tools":{{"listChanged":true}}}}}}"#
            );
            RawValue::from_string(text).unwrap()
        };
        let earlier = InitializeResult::parse(&text("1")).unwrap();
        let same = InitializeResult::parse_again(&text("1"), Some(&earlier)).unwrap();
        assert_eq!(same.version(), earlier.version());
        assert_eq!(same.list_changed(), earlier.list_changed());
        assert!(!same.changes_from(&earlier).any());
        for earlier in [Some(&earlier), None] {
            let other = InitializeResult::parse_again(&text("2"), earlier).unwrap();
            assert!(earlier.is_none_or(|earlier| other.changes_from(earlier).server_info()));
        }
    }

    #[test]
    fn h2_the_order_of_keys_is_no_change() {
        let old =
            result(r#"{"protocolVersion":"2025-11-25","serverInfo":{"name":"a","version":"1"}}"#);
        let same =
            result(r#"{"serverInfo":{"version":"1","name":"a"},"protocolVersion":"2025-11-25"}"#);
        let new = result(
            r#"{"serverInfo":{"version":"2","name":"a"},"protocolVersion":"2025-06-18","instructions":"x"}"#,
        );
        assert!(!same.changes_from(&old).any());
        let changes = new.changes_from(&old);
        assert!(changes.server_info() && changes.protocol_version() && changes.instructions());
        assert!(!changes.capabilities());
    }

    #[test]
    fn k_a_version_of_more_than_64_bytes_is_none() {
        for (length, kept) in [(64, true), (65, false), (65_000, false)] {
            let version = "x".repeat(length);
            let result = result(&format!(r#"{{"protocolVersion":"{version}"}}"#));
            assert_eq!(result.version().is_some(), kept, "{length}");
        }
    }

    #[test]
    fn c4_of_two_versions_the_last_counts_and_is_replaced() {
        let body = Bytes::from_static(
            br#"{"id":1,"method":"initialize","params":{"protocolVersion":"a"},"params":{"protocolVersion":"b","protocolVer\u0073ion":"c"}}"#,
        );
        let proposed = propose(&body, "2025-11-25");
        assert_eq!(
            proposed,
            &br#"{"id":1,"method":"initialize","params":{"protocolVersion":"a"},"params":{"protocolVersion":"b","protocolVer\u0073ion":"2025-11-25"}}"#[..],
        );
    }

    #[test]
    fn h3_only_lists_with_list_changed_were_promised() {
        let promised = result(
            r#"{"capabilities":{"tools":{"listChanged":true},"prompts":{},"resources":{"listChanged":false}}}"#,
        )
        .list_changed();
        assert_eq!(
            promised,
            ListChanged {
                tools: true,
                ..ListChanged::default()
            }
        );
    }
}
