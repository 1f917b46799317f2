//! How often a session may be recovered without use (rules J1, J4, K6).

use std::{
    hash::{BuildHasher, RandomState},
    sync::LazyLock,
    time::Duration,
};

use http::HeaderValue;

use crate::sync::Instant;

/// The pause after an attempt without use: the first one, and the longest of those that follow,
/// each twice the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// How many callers with credentials of their own may try after one another within a pause.
const MAX_DENIED: usize = 16;

/// Spaces out attempts. An attempt is without use if it failed, or if the session that it made was
/// found expired before anything proved that it lived.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// The pause after the last attempt, if that was without use.
    pause: Option<Duration>,
    until: Until,
    /// Whose credentials were denied in this pause; a digest of each.
    denied: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Until {
    #[default]
    Over,
    At(Instant),
    /// Longer than the clock can tell.
    ForEver,
}

impl Pace {
    /// Whether attempts are paused.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        match self.until {
            Until::Over => false,
            Until::At(until) => now < until,
            Until::ForEver => true,
        }
    }

    /// Whether a caller with this `authorization` may try now. A denial says nothing of somebody
    /// else's credentials (rule J1).
    pub(super) fn allows(&self, now: Instant, authorization: Option<&HeaderValue>) -> bool {
        let others_were_denied = !self.denied.is_empty()
            && self.denied.len() < MAX_DENIED
            && !self.denied.contains(&digest(authorization));
        others_were_denied || !self.is_paused(now)
    }

    /// An attempt that ended at `ended` was without use.
    pub(super) fn useless(&mut self, pauses: Pauses, ended: Instant) {
        let twice = self.pause.map(|pause| pause.saturating_mul(2));
        let pause = twice.unwrap_or(pauses.first).min(pauses.longest);
        self.pause = Some(pause);
        self.until = match ended.checked_add(pause) {
            Some(until) => Until::At(until),
            None => Until::ForEver,
        };
        self.denied.clear();
    }

    /// An attempt that ended at `ended` was denied for these credentials.
    pub(super) fn denied(
        &mut self,
        pauses: Pauses,
        ended: Instant,
        authorization: Option<&HeaderValue>,
    ) {
        let mut denied = match self.is_paused(ended) {
            true => std::mem::take(&mut self.denied),
            false => Vec::new(),
        };
        self.useless(pauses, ended);
        denied.push(digest(authorization));
        self.denied = denied;
    }

    /// Something proved that the session lives.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Tells credentials apart without keeping them.
fn digest(authorization: Option<&HeaderValue>) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(authorization.map(HeaderValue::as_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(10),
    };

    #[test]
    fn k6_the_pause_doubles_up_to_the_longest() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert!(pace.allows(start, None));
        for millis in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            pace.useless(PAUSES, start);
            let pause = Duration::from_millis(millis);
            assert!(!pace.allows(start + pause - Duration::from_nanos(1), None));
            assert!(pace.allows(start + pause, None), "{millis}");
        }
    }

    #[test]
    fn j4_a_proof_of_life_resets_the_pause() {
        let start = Instant::now();
        let mut pace = Pace::default();
        (0..5).for_each(|_| pace.useless(PAUSES, start));
        pace.reset();
        assert!(pace.allows(start, None));
        pace.useless(PAUSES, start);
        assert!(pace.allows(start + PAUSES.first, None));
    }

    #[test]
    fn j1_others_may_try_within_a_pause_but_not_without_end() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let token = |number: usize| HeaderValue::from_str(&format!("Bearer {number}")).unwrap();
        for number in 0..MAX_DENIED {
            assert!(pace.allows(start, Some(&token(number))));
            pace.denied(PAUSES, start, Some(&token(number)));
            assert!(!pace.allows(start, Some(&token(number))));
        }
        assert!(!pace.allows(start, Some(&token(MAX_DENIED))));
    }

    #[test]
    fn k6_the_smallest_first_pause_grows_to_the_longest() {
        let start = Instant::now();
        let first = Duration::from_nanos(1);
        let pauses = Pauses { first, ..PAUSES };
        let mut pace = Pace::default();
        (0..40).for_each(|_| pace.useless(pauses, start));
        assert!(!pace.allows(start + PAUSES.longest - first, None));
        assert!(pace.allows(start + PAUSES.longest, None));
    }

    #[test]
    fn k_no_pause_overflows() {
        let start = Instant::now();
        let pauses = Pauses {
            first: Duration::MAX,
            longest: Duration::MAX,
        };
        let mut pace = Pace::default();
        (0..70).for_each(|_| pace.useless(pauses, start));
        assert!(!pace.allows(start + Duration::from_secs(1 << 40), None));
    }
}
