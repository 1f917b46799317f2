//! When something has to be over.

use std::time::Duration;

use tokio::time::Instant;

/// When what begins at `start` has had its `patience`. A time-out that the clock cannot tell is as good as
/// none.
pub(crate) fn deadline(start: Instant, patience: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365);
    start.checked_add(patience).unwrap_or(start + FAR)
}
