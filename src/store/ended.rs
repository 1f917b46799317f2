//! The mark that a session leaves behind in a store when it ends (rule N6).
//!
//! Another process may be recovering the session at that very moment, or about to write what it
//! knows. A key without a value would look to it as in a store that has lost everything, which is to
//! be filled again (rule N5); where it finds this mark, it lets go of the session.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::StoreKey;

/// Not that of a record: whoever does not know the mark finds an unknown session.
const VERSION: u32 = 2;

/// That the session of a key has ended. Holds no secret.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ended {
    v: u32,
    /// The key, in hexadecimal digits.
    ended: String,
    /// Which of the sessions that had this key it was, see
    /// [`Record`](super::record::Record::incarnation).
    pub(crate) incarnation: Option<u64>,
}

impl Ended {
    pub(crate) fn new(key: StoreKey, incarnation: Option<u64>) -> Self {
        Self {
            v: VERSION,
            ended: key.to_string(),
            incarnation,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        // Numbers and hexadecimal digits can be written as JSON.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads a mark that was found under `key`.
    pub(crate) fn decode(bytes: &[u8], key: StoreKey) -> Option<Self> {
        let mark: Self = serde_json::from_slice(bytes).ok()?;
        (mark.v == VERSION && mark.ended == key.to_string()).then_some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::Record, *};

    const KEY: StoreKey = StoreKey::from_bytes([7; 32]);

    #[test]
    fn n6_a_mark_is_that_of_its_key_alone_and_no_record() {
        let bytes = Ended::new(KEY, Some(u64::MAX)).encode();
        let mark = Ended::decode(&bytes, KEY).unwrap();
        assert_eq!(mark.incarnation, Some(u64::MAX));
        assert!(Ended::decode(&bytes, StoreKey::from_bytes([8; 32])).is_none());
        assert!(Record::decode(&bytes, KEY).is_err());
        for length in 0..bytes.len() {
            assert!(Ended::decode(&bytes[..length], KEY).is_none());
        }
    }

    #[test]
    fn n6_what_is_written_today_is_read_in_every_later_release() {
        let bytes = format!(
            r#"{{"v":2,"ended":"{}","incarnation":null,"a_later_field":[]}}"#,
            "07".repeat(32)
        );
        assert!(Ended::decode(bytes.as_bytes(), KEY).is_some_and(|it| it.incarnation.is_none()));
    }
}
