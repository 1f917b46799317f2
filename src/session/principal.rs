//! Who a caller is, as far as the user of the layer can tell (rule A4).

use std::{fmt, sync::Arc};

use http::HeaderValue;

/// Who the caller of a request is; see
/// [`SessionRecoveryLayer::principal`](crate::SessionRecoveryLayer::principal).
///
/// Any bytes that tell callers apart: a user's id, a tenant and a user, the value of a header.
/// Two are the same if their bytes are. Its `Debug` shows nothing, since it may be made of
/// credentials. Cloning is cheap.
///
/// ```
/// use mcp_session_recovery::Principal;
///
/// assert_eq!(Principal::from("alice"), Principal::new(b"alice"));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Principal(Arc<[u8]>);

impl Principal {
    /// The caller that these bytes name.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().into())
    }

    /// The bytes that name the caller.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Principal {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Principal {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<&[u8]> for Principal {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl From<Vec<u8>> for Principal {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<&HeaderValue> for Principal {
    fn from(value: &HeaderValue) -> Self {
        Self::new(value)
    }
}

impl From<HeaderValue> for Principal {
    fn from(value: HeaderValue) -> Self {
        Self::new(value)
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Principal").finish_non_exhaustive()
    }
}
