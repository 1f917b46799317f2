//! The plain record of a session (rule N2).

use std::{collections::BTreeSet, fmt};

use bytes::Bytes;
use http::HeaderValue;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::value::RawValue;

use super::{StoreKey, key::Digest};
use crate::mcp::Message;

/// The format that is written, and the only one that is read. A field may be added without a new
/// version if a process that does not know it may lose it.
const VERSION: u32 = 1;
/// More than any session within the layer's default limits comes to. JSON takes six bytes for a
/// control character, so that subscriptions of 256 KiB (rule K8) come to 1.5 MiB, and two for a quote:
/// the body of `initialize` comes to 64 KiB, its headers and its URI to 128 (rule K9). What is left, 320
/// KiB, is for the id that the server made up.
pub(crate) const MAX_RECORD: usize = 2 * 1024 * 1024;
/// More than any session comes to, and far from where counting on overflows.
const LAST_EPOCH: u64 = 1 << 48;

/// What a recovery needs to know of a session, as JSON. Holds no credentials, and no secret but the
/// upstream id.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) address: Address,
    /// Digests, since the principal may be made from a credential and the caller's id may open
    /// a gateway. Whoever presents them is recognized.
    pub(crate) principal: Option<Digest>,
    pub(crate) callers_id: Digest,
    /// A server may hand out an id again, to a session that has nothing to do with the first one:
    /// this number tells them apart. Random, and no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) incarnation: Option<u64>,
    pub(crate) epoch: u64,
    pub(crate) upstream: UpstreamId,
    /// The server has given the upstream id to somebody else since (rule A5).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reassigned: bool,
    /// What the current epoch's handshake was answered with, if that is known.
    pub(crate) result: Option<ResultDigest>,
    /// The versions of earlier epochs (rule C1).
    pub(crate) outdated_versions: Vec<Header>,
    pub(crate) promised: Lists,
    pub(crate) accept: Vec<Header>,
    pub(crate) content_type: Vec<Header>,
    pub(crate) initialize: Box<RawValue>,
    pub(crate) state: State,
}

/// An endpoint, in its normal form: scheme and authority in lower case, without user information.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) scheme: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) path: String,
    pub(crate) host: Option<String>,
}

/// What the server calls the session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UpstreamId {
    /// What the caller does. Then the record holds no secret at all.
    Callers,
    Own(Header),
    /// Nothing: it became stateless (rule E8).
    Stateless,
}

/// What is kept of an `InitializeResult`, to be compared with the next (rule H2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResultDigest {
    pub(crate) version: Option<Header>,
    pub(crate) server_info: u64,
    pub(crate) capabilities: u64,
    pub(crate) instructions: u64,
}

/// The lists whose changes epoch 0 promised to announce (rule H3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lists {
    pub(crate) tools: bool,
    pub(crate) prompts: bool,
    pub(crate) resources: bool,
}

/// What has to be restored in the next session (rule H1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) log_level: Option<String>,
    pub(crate) subscriptions: BTreeSet<String>,
    pub(crate) not_kept: u64,
}

/// The value of a header. Not all of them are text, and each of their bytes is one character here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) HeaderValue);

/// Why a record is not that of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordError {
    /// It is larger than any record.
    TooLarge,
    /// It is of a version that this release does not know.
    UnknownVersion,
    /// It is no record.
    Malformed,
    /// It is that of another session.
    NotThisKey,
}

/// What every version has in common.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

/// A record with its version.
#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    #[serde(flatten)]
    record: &'a Record,
}

impl Record {
    /// The key that the record belongs to.
    pub(crate) fn key(&self) -> StoreKey {
        StoreKey::of(&self.address, self.principal, self.callers_id)
    }

    pub(crate) fn encode(&self) -> Result<Bytes, RecordError> {
        let written = Written {
            v: VERSION,
            record: self,
        };
        let bytes = serde_json::to_vec(&written).map_err(|_| RecordError::Malformed)?;
        match bytes.len() <= MAX_RECORD {
            true => Ok(bytes.into()),
            false => Err(RecordError::TooLarge),
        }
    }

    /// Reads a record that was found under `key`. Nothing of it is believed before all of it
    /// holds.
    pub(crate) fn decode(bytes: &[u8], key: StoreKey) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLarge);
        }
        let versioned: Versioned =
            serde_json::from_slice(bytes).map_err(|_| RecordError::Malformed)?;
        if versioned.v != VERSION {
            return Err(RecordError::UnknownVersion);
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|_| RecordError::Malformed)?;
        if record.key() != key {
            return Err(RecordError::NotThisKey);
        }
        if record.epoch > LAST_EPOCH {
            return Err(RecordError::Malformed);
        }
        Message::single(record.initialize.get().as_bytes())
            .and_then(|message| message.initialize_id())
            .ok_or(RecordError::Malformed)?;
        Ok(record)
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.as_bytes().iter().copied().map(char::from).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        bytes
            .and_then(|bytes| HeaderValue::from_bytes(&bytes).ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom("no header value"))
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the record is too large",
            Self::UnknownVersion => "the record is of an unknown version",
            Self::Malformed => "the record is malformed",
            Self::NotThisKey => "the record is another session's",
        })
    }
}

impl std::error::Error for RecordError {}

#[cfg(test)]
mod tests {
    use super::*;

    const INITIALIZE: &str =
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"note":"\u00e9 \n"}}"#;

    fn header(bytes: &[u8]) -> Header {
        Header(HeaderValue::from_bytes(bytes).unwrap())
    }

    fn record() -> Record {
        Record {
            address: Address {
                scheme: Some("https".to_owned()),
                authority: Some("a.test:8443".to_owned()),
                path: "/mcp".to_owned(),
                host: None,
            },
            principal: Some(Digest::of(b"alice")),
            callers_id: Digest::of(b"callers-canary"),
            incarnation: Some(u64::MAX),
            epoch: 3,
            upstream: UpstreamId::Own(header(b"upstream")),
            reassigned: true,
            result: Some(ResultDigest {
                version: Some(header(b"2025-11-25")),
                server_info: u64::MAX,
                capabilities: 0,
                instructions: 1,
            }),
            outdated_versions: vec![header(b"2025-06-18")],
            promised: Lists {
                tools: true,
                ..Lists::default()
            },
            accept: vec![header(b"application/json, text/event-stream")],
            content_type: vec![header(b"\xff opaque")],
            initialize: RawValue::from_string(INITIALIZE.to_owned()).unwrap(),
            state: State {
                log_level: Some("debug".to_owned()),
                subscriptions: ["file:///\u{1f600}".to_owned()].into(),
                not_kept: 2,
            },
        }
    }

    fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        Record::decode(bytes, record().key())
    }

    /// A record with one piece of its text replaced.
    fn changed(from: &str, to: &str) -> Result<Record, RecordError> {
        let text = String::from_utf8(record().encode().unwrap().to_vec()).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        decode(text.replacen(from, to, 1).as_bytes())
    }

    #[test]
    fn n2_a_record_comes_back_as_it_went_in() {
        let bytes = record().encode().unwrap();
        let back = decode(&bytes).unwrap();
        assert_eq!(back.encode().unwrap(), bytes);
        assert_eq!(back.initialize.get(), INITIALIZE);
        assert_eq!(back.content_type, record().content_type);
        assert_eq!(back.result, record().result);
        assert_eq!(back.state, record().state);
        assert!(back.upstream == record().upstream && back.epoch == 3);
        assert_eq!(back.incarnation, record().incarnation);
        assert!(back.reassigned);
    }

    #[test]
    fn n2_what_is_written_today_is_read_in_every_later_release() {
        let bytes = br#"{"v":1,"address":{"scheme":"http","authority":"a.test","path":"/mcp","host":null},"principal":null,"callers_id":"f87b4f85b1d8de79b88550c76e4673d733797a31fba0879cc95d71326d49c08e","epoch":0,"upstream":"callers","result":null,"outdated_versions":[],"promised":{"tools":false,"prompts":false,"resources":false},"accept":["*/*"],"content_type":["application/json"],"initialize":{"id":1,"method":"initialize"},"state":{"log_level":null,"subscriptions":[],"not_kept":0},"a_later_field":[]}"#;
        let key = StoreKey::of(
            &Address {
                scheme: Some("http".to_owned()),
                authority: Some("a.test".to_owned()),
                path: "/mcp".to_owned(),
                host: None,
            },
            None,
            Digest::of(b"the-id"),
        );
        let record = Record::decode(bytes, key).unwrap();
        assert!(record.epoch == 0 && !record.reassigned);
        let again = String::from_utf8(record.encode().unwrap().to_vec()).unwrap();
        assert!(!again.contains("reassigned"), "{again}");
    }

    #[test]
    fn n2_callers_id_and_principal_are_not_in_a_record() {
        let mut record = record();
        record.upstream = UpstreamId::Callers;
        let text = String::from_utf8(record.encode().unwrap().to_vec()).unwrap();
        assert!(
            !text.contains("canary") && !text.contains("alice"),
            "{text}"
        );
    }

    #[test]
    fn n2_a_record_of_another_session_is_refused() {
        let refused = |changed: Result<Record, RecordError>| {
            assert_eq!(changed.err(), Some(RecordError::NotThisKey));
        };
        refused(changed("a.test:8443", "b.test:8443"));
        refused(changed("/mcp", "/other"));
        refused(changed("https", "http"));
        refused(changed(r#""host":null"#, r#""host":"b.test""#));
        let alice = serde_json::to_string(&Digest::of(b"alice")).unwrap();
        refused(changed(&alice, "null"));
        let id = serde_json::to_string(&record().callers_id).unwrap();
        refused(changed(&id, &alice));
        let bytes = record().encode().unwrap();
        refused(Record::decode(&bytes, StoreKey::from_bytes([0; 32])));
    }

    #[test]
    fn n2_an_unknown_version_is_refused_whatever_else_is_in_it() {
        for bytes in [&br#"{"v":2}"#[..], br#"{"v":0,"epoch":"x"}"#] {
            assert_eq!(decode(bytes).err(), Some(RecordError::UnknownVersion));
        }
    }

    #[test]
    fn n5_garbage_is_refused() {
        let bytes = record().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for garbage in [
            &b"\xff"[..],
            b"null",
            b"[]",
            b"{}",
            br#"{"v":"1"}"#,
            br#"{"v":1}"#,
        ] {
            assert_eq!(decode(garbage).err(), Some(RecordError::Malformed));
        }
        for (from, to) in [
            (r#""epoch":3"#, r#""epoch":-1"#),
            (r#""epoch":3"#, r#""epoch":18446744073709551615"#),
            (r#""epoch":3"#, r#""epoch":3,"epoch":4"#),
            (
                r#""upstream":{"own":"upstream"}"#,
                r#""upstream":{"own":"a\nb"}"#,
            ),
            (
                r#""upstream":{"own":"upstream"}"#,
                r#""upstream":{"own":"\u0100"}"#,
            ),
            (r#""method":"initialize""#, r#""method":"tools/call""#),
            (r#""id":1,"#, ""),
        ] {
            assert_eq!(
                changed(from, to).err(),
                Some(RecordError::Malformed),
                "{to}"
            );
        }
        let huge = vec![b' '; MAX_RECORD + 1];
        assert_eq!(decode(&huge).err(), Some(RecordError::TooLarge));
        let deep = format!(r#"{{"v":1,"initialize":{}"#, "[".repeat(MAX_RECORD / 2));
        assert_eq!(decode(deep.as_bytes()).err(), Some(RecordError::Malformed));
    }

    #[test]
    fn n5_a_record_that_nobody_would_read_is_not_written() {
        let mut record = record();
        record.state.log_level = Some("x".repeat(MAX_RECORD));
        assert_eq!(record.encode().err(), Some(RecordError::TooLarge));
    }

    #[test]
    fn n5_an_error_says_what_is_wrong() {
        let text = RecordError::NotThisKey.to_string();
        assert_eq!(text, "the record is another session's");
    }

    #[test]
    fn n2_the_largest_record_is_read_again() {
        let sized = |bytes: usize| {
            let mut record = record();
            record.state.subscriptions = ["x".repeat(bytes)].into();
            record.encode()
        };
        let rest = sized(0).unwrap().len();
        let largest = sized(MAX_RECORD - rest).unwrap();
        assert!(decode(&largest).is_ok());
        assert_eq!(sized(MAX_RECORD - rest + 1), Err(RecordError::TooLarge));
    }
}
