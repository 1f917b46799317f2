//! Why a store did not do what it was asked.

use std::fmt;

/// Why a store did not do what it was asked.
///
/// A kind, and a text that is fixed in the program: what a database or a transport says may hold an
/// address with a password, a key or a value, and has no place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreError {
    kind: StoreErrorKind,
    reason: &'static str,
}

/// The kind of a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store cannot be reached, or refuses to work.
    Unavailable,
    /// The store did not answer in time. What was asked may have been done.
    TimedOut,
    /// The store has no room, or the value is larger than it takes.
    Full,
    /// What the store holds is not what was saved there.
    Corrupt,
    /// Anything else.
    Other,
}

impl StoreError {
    /// An error of this kind, and why in a few words.
    pub const fn new(kind: StoreErrorKind, reason: &'static str) -> Self {
        Self { kind, reason }
    }

    /// Its kind.
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.reason)
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the session store is unavailable",
            Self::TimedOut => "the session store timed out",
            Self::Full => "the session store is full",
            Self::Corrupt => "the session store holds something else",
            Self::Other => "the session store failed",
        })
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n5_an_error_says_what_kind_it_is_and_why() {
        let error = StoreError::new(StoreErrorKind::Full, "there is a limit");
        assert_eq!(
            error.to_string(),
            "the session store is full: there is a limit"
        );
        assert_eq!(
            StoreErrorKind::TimedOut.to_string(),
            "the session store timed out"
        );
    }
}
