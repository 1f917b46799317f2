//! What names a session in a store (rules A3, A4, N2).

use std::fmt::{self, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sha2::{Digest as _, Sha256};

use super::record::Address;

/// Names a value in a [`SessionStore`](super::SessionStore): a SHA-256 of a session's endpoint,
/// principal and caller's id.
///
/// It tells nothing of them, so it may be logged. Displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreKey([u8; 32]);

impl StoreKey {
    /// A key of these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key of a session.
    pub(crate) fn of(address: &Address, principal: Option<Digest>, callers_id: Digest) -> Self {
        let principal = principal.as_ref().map(|digest| &digest.0[..]);
        let fields = [
            address.scheme.as_deref().map(str::as_bytes),
            address.authority.as_deref().map(str::as_bytes),
            Some(address.path.as_bytes()),
            address.host.as_deref().map(str::as_bytes),
            principal,
            Some(&callers_id.0[..]),
        ];
        Self(hash("session", &fields))
    }
}

/// Stands for a secret that has to be recognized and never told: somebody who reads a record shall
/// not be able to go by what is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(hash("secret", &[Some(secret)]))
    }
}

/// No two lists of fields are hashed as the same bytes: each field comes with its length, and an
/// absent one is not an empty one.
fn hash(purpose: &str, fields: &[Option<&[u8]>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"mcp-session-recovery/1/");
    hash.update(purpose.as_bytes());
    for field in fields {
        let length = field.map_or(u64::MAX, |field| field.len() as u64);
        hash.update(length.to_be_bytes());
        hash.update(field.unwrap_or_default());
    }
    hash.finalize().into()
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(64);
        // Writing to a string does not fail.
        let _ = write!(text, "{}", StoreKey(self.0));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        from_hex(text.as_bytes())
            .map(Self)
            .ok_or_else(|| D::Error::custom("no digest"))
    }
}

/// The bytes that 64 hexadecimal digits stand for.
pub(super) fn from_hex(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        // Two digits are at most 255.
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(authority: &str, path: &str) -> Address {
        Address {
            scheme: Some("http".to_owned()),
            authority: Some(authority.to_owned()),
            path: path.to_owned(),
            host: None,
        }
    }

    #[test]
    fn n2_endpoint_principal_and_id_each_make_another_key() {
        let id = Digest::of(b"1");
        let keys = [
            StoreKey::of(&address("a", "/mcp"), None, id),
            StoreKey::of(&address("a/", "mcp"), None, id),
            StoreKey::of(&address("b", "/mcp"), None, id),
            StoreKey::of(
                &Address {
                    host: Some(String::new()),
                    ..address("a", "/mcp")
                },
                None,
                id,
            ),
            StoreKey::of(&address("a", "/mcp"), Some(Digest::of(b"")), id),
            StoreKey::of(&address("a", "/mcp"), Some(Digest::of(b"p")), id),
            StoreKey::of(&address("a", "/mcp"), None, Digest::of(b"2")),
        ];
        for (number, key) in keys.iter().enumerate() {
            assert!(!keys[number + 1..].contains(key), "{number}");
        }
    }

    #[test]
    fn n2_a_key_is_the_same_in_every_process_and_release() {
        let key = StoreKey::of(
            &address("a.test", "/mcp"),
            Some(Digest::of(b"alice")),
            Digest::of(b"the-id"),
        );
        assert_eq!(
            key.to_string(),
            "6432a5822708fca32ff4a4ab5acbc561a6d197bf54bbea336691ce8fd01f9a42",
        );
    }

    #[test]
    fn n2_hexadecimal_digits_come_back_as_the_bytes_they_were() {
        let bytes: [u8; 32] = std::array::from_fn(|index| (index * 8 + 7) as u8);
        let text = StoreKey::from_bytes(bytes).to_string();
        assert_eq!(from_hex(text.as_bytes()), Some(bytes));
        for wrong in [&text[1..], &format!("{text}0"), &text.replace('7', "g")] {
            assert_eq!(from_hex(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
