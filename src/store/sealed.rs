//! Values that only those who have a key can read (rule N2).

use std::{fmt, time::Duration};

use bytes::Bytes;
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Generate, Payload},
};

use super::{
    Revision, Saved, SessionStore, StoreError, StoreErrorKind, StoreFuture, StoreKey, Stored,
    key::from_hex,
};

/// A store whose values are encrypted before they reach it.
///
/// XChaCha20-Poly1305 with a random nonce for each value. The key that a value is stored under is
/// authenticated with it, so a value that was moved to another key does not open, nor does one with
/// a changed bit. To load such a value is an error of the kind
/// [`Corrupt`](StoreErrorKind::Corrupt). What sealing does not hide: how many values there are,
/// their sizes, and when they are written; and whoever can write to the store can put an older
/// value of the same key in the place of a newer one.
///
/// # Rotating the key
///
/// Give every process the new key with [`also_open`](Self::also_open); then make the new one the
/// key that seals and open the old one's values; after the longest time that a value is kept, drop
/// the old key.
///
/// ```
/// use mcp_session_recovery::store::{MemoryStore, SealKey, Sealed};
///
/// let old = SealKey::from_hex(&"0a".repeat(32)).ok_or("64 hexadecimal digits")?;
/// let new = SealKey::from_hex(&"f5".repeat(32)).ok_or("64 hexadecimal digits")?;
/// let store = Sealed::new(MemoryStore::new(), new).also_open(old);
/// # Ok::<(), &str>(())
/// ```
pub struct Sealed<S> {
    store: S,
    seals: XChaCha20Poly1305,
    also_opens: Option<XChaCha20Poly1305>,
}

/// A key of 256 bits, to seal values with.
pub struct SealKey([u8; 32]);

/// The format of a sealed value: this byte, the nonce, what was encrypted.
const FORMAT: u8 = 1;
const NONCE: usize = size_of::<XNonce>();

const NOT_OPENED: StoreError = StoreError::new(
    StoreErrorKind::Corrupt,
    "a value was sealed with another key, or changed, or moved",
);
const NOT_SEALED: StoreError = StoreError::new(StoreErrorKind::Other, "a value cannot be sealed");

impl SealKey {
    /// A key of these bytes, which must be random.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key from 64 hexadecimal digits, as `openssl rand -hex 32` prints them. White space around
    /// them does not count.
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text.trim().as_bytes()).map(Self)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.0.into())
    }
}

impl<S> Sealed<S> {
    /// Seals and opens with `key` all that goes through to `store`.
    pub fn new(store: S, key: SealKey) -> Self {
        Self {
            store,
            seals: key.cipher(),
            also_opens: None,
        }
    }

    /// Opens values that were sealed with `key`, too.
    #[must_use]
    pub fn also_open(mut self, key: SealKey) -> Self {
        self.also_opens = Some(key.cipher());
        self
    }

    fn seal(&self, key: StoreKey, value: &[u8]) -> Result<Bytes, StoreError> {
        let nonce = XNonce::try_generate().map_err(|_| NOT_SEALED)?;
        let payload = Payload {
            msg: value,
            aad: key.as_bytes(),
        };
        let sealed = self.seals.encrypt(&nonce, payload);
        let sealed = sealed.map_err(|_| NOT_SEALED)?;
        Ok([&[FORMAT][..], &nonce, &sealed].concat().into())
    }

    fn open(&self, key: StoreKey, sealed: &[u8]) -> Result<Bytes, StoreError> {
        let [FORMAT, rest @ ..] = sealed else {
            return Err(NOT_OPENED);
        };
        let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or(NOT_OPENED)?;
        let nonce = XNonce::try_from(nonce).map_err(|_| NOT_OPENED)?;
        let opened_with = |cipher: &XChaCha20Poly1305| {
            let payload = Payload {
                msg: sealed,
                aad: key.as_bytes(),
            };
            cipher.decrypt(&nonce, payload).ok()
        };
        opened_with(&self.seals)
            .or_else(|| opened_with(self.also_opens.as_ref()?))
            .map(Bytes::from)
            .ok_or(NOT_OPENED)
    }
}

impl<S: SessionStore> SessionStore for Sealed<S> {
    fn load(&self, key: StoreKey) -> StoreFuture<'_, Option<Stored>> {
        Box::pin(async move {
            let Some(stored) = self.store.load(key).await? else {
                return Ok(None);
            };
            let value = self.open(key, &stored.value)?;
            Ok(Some(Stored { value, ..stored }))
        })
    }

    fn save(
        &self,
        key: StoreKey,
        value: Bytes,
        expected: Option<Revision>,
        ttl: Duration,
    ) -> StoreFuture<'_, Saved> {
        Box::pin(async move {
            let sealed = self.seal(key, &value)?;
            self.store.save(key, sealed, expected, ttl).await
        })
    }

    fn remove(&self, key: StoreKey) -> StoreFuture<'_, ()> {
        self.store.remove(key)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealKey").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for Sealed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::MemoryStore, *};

    const KEY: StoreKey = StoreKey::from_bytes([1; 32]);
    const OTHER: StoreKey = StoreKey::from_bytes([2; 32]);
    const DAY: Duration = Duration::from_secs(86_400);
    const CANARY: &[u8] = b"canary";

    fn sealed(store: &MemoryStore, key: u8) -> Sealed<MemoryStore> {
        Sealed::new(store.clone(), SealKey::from_bytes([key; 32]))
    }

    async fn value(store: &impl SessionStore, key: StoreKey) -> Result<Option<Bytes>, StoreError> {
        Ok(store.load(key).await?.map(|stored| stored.value))
    }

    #[tokio::test]
    async fn n2_a_sealed_value_is_read_with_its_key_alone() {
        let plain = MemoryStore::new();
        let store = sealed(&plain, 1);

        store.save(KEY, CANARY.into(), None, DAY).await.unwrap();

        assert_eq!(value(&store, KEY).await, Ok(Some(CANARY.into())));
        assert_eq!(value(&sealed(&plain, 2), KEY).await, Err(NOT_OPENED));
        let bytes = value(&plain, KEY).await.unwrap().unwrap();
        assert!(memchr::memmem::find(&bytes, CANARY).is_none());
    }

    #[tokio::test]
    async fn n2_a_value_that_was_moved_or_changed_does_not_open() {
        let plain = MemoryStore::new();
        let store = sealed(&plain, 1);
        store.save(KEY, CANARY.into(), None, DAY).await.unwrap();
        let bytes = value(&plain, KEY).await.unwrap().unwrap();

        plain.save(OTHER, bytes.clone(), None, DAY).await.unwrap();
        assert_eq!(value(&store, OTHER).await, Err(NOT_OPENED));

        for bit in 0..8 * bytes.len() {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(store.open(KEY, &changed), Err(NOT_OPENED), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert_eq!(store.open(KEY, &bytes[..length]), Err(NOT_OPENED));
        }
    }

    #[tokio::test]
    async fn n2_with_two_keys_one_can_be_rotated() {
        let plain = MemoryStore::new();
        let old = sealed(&plain, 1);
        old.save(KEY, CANARY.into(), None, DAY).await.unwrap();

        let both = sealed(&plain, 2).also_open(SealKey::from_bytes([1; 32]));
        let stored = both.load(KEY).await.unwrap().unwrap();
        assert_eq!(stored.value, CANARY);
        both.save(KEY, stored.value, Some(stored.revision), DAY)
            .await
            .unwrap();

        assert_eq!(
            value(&sealed(&plain, 2), KEY).await,
            Ok(Some(CANARY.into()))
        );
        assert_eq!(value(&old, KEY).await, Err(NOT_OPENED));
    }

    #[test]
    fn n2_no_two_values_are_sealed_alike() {
        let store = sealed(&MemoryStore::new(), 1);
        assert_ne!(store.seal(KEY, CANARY), store.seal(KEY, CANARY));
    }

    #[test]
    fn l1_a_key_is_not_told() {
        let debug = format!(
            "{:?}",
            (SealKey([0xab; 32]), sealed(&MemoryStore::new(), 0xab))
        );
        assert!(!debug.contains("171") && !debug.contains("ab, "), "{debug}");
    }

    #[test]
    fn n2_a_key_can_be_written_in_hexadecimal_digits() {
        let text = format!("  {}\n", "0aF1".repeat(16));
        let key = SealKey::from_hex(&text).unwrap();
        assert_eq!(key.0[..4], [0x0a, 0xf1, 0x0a, 0xf1]);
        for text in ["", "0a", &"0g".repeat(32), &"00".repeat(33)] {
            assert!(SealKey::from_hex(text).is_none(), "{text}");
        }
    }
}
