//! How often a session may try to recover without success (rules J4, K6).

use std::time::Duration;

use tokio::time::Instant;

/// A bucket of attempts, refilled one by one.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u32,
    /// When the last attempt came back, or the bucket stopped being full.
    since: Instant,
}

/// The size of the bucket and the time after which an attempt comes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BudgetLimits {
    pub(crate) attempts: u32,
    pub(crate) refill: Duration,
}

impl Budget {
    pub(super) fn full(limits: BudgetLimits, now: Instant) -> Self {
        Self {
            left: limits.attempts,
            since: now,
        }
    }

    /// Takes an attempt, if one is left.
    pub(super) fn take(&mut self, limits: BudgetLimits, now: Instant) -> bool {
        self.refill(limits, now);
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }

    /// Gives an attempt back: it was of use.
    pub(super) fn refund(&mut self, limits: BudgetLimits) {
        self.left = self.left.saturating_add(1).min(limits.attempts);
    }

    fn refill(&mut self, limits: BudgetLimits, now: Instant) {
        let missing = limits.attempts.saturating_sub(self.left);
        let elapsed = now.saturating_duration_since(self.since);
        let back = match limits.refill.as_nanos() {
            0 => u128::from(missing),
            refill => elapsed.as_nanos() / refill,
        };
        if back >= u128::from(missing) {
            *self = Self::full(limits, now);
        } else {
            // Fewer than `missing`, which is a `u32`.
            let back = back as u32;
            self.left += back;
            self.since += limits.refill * back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BudgetLimits = BudgetLimits {
        attempts: 3,
        refill: Duration::from_secs(10),
    };

    #[test]
    fn k6_three_attempts_then_one_more_every_ten_seconds() {
        let start = Instant::now();
        let mut budget = Budget::full(LIMITS, start);
        let taken =
            |budget: &mut Budget, after| budget.take(LIMITS, start + Duration::from_secs(after));
        assert_eq!([0, 1, 2].map(|after| taken(&mut budget, after)), [true; 3]);
        assert!(!taken(&mut budget, 9));
        assert!(taken(&mut budget, 10));
        assert!(!taken(&mut budget, 19));
        assert!(taken(&mut budget, 20));
        assert_eq!(
            [1000, 1000, 1000].map(|after| taken(&mut budget, after)),
            [true; 3]
        );
        assert!(!taken(&mut budget, 1000));
    }

    #[test]
    fn j4_a_success_refunds_its_attempt_and_no_more() {
        let start = Instant::now();
        let mut budget = Budget::full(LIMITS, start);
        for _ in 0..100 {
            assert!(budget.take(LIMITS, start));
            budget.refund(LIMITS);
        }
        budget.refund(LIMITS);
        assert_eq!(
            [(); 4].map(|()| budget.take(LIMITS, start)),
            [true, true, true, false]
        );
    }
}
