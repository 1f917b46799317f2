//! What a seed decides.
//!
//! `STORE_SEEDS` says how many seeds are tried, `STORE_SEED` runs one.

const SEEDS: u64 = 60;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs the property with every seed, each in a runtime of its own.
pub(super) fn each_seed<F: Future<Output = ()>>(property: fn(u64) -> F) {
    let seeds = match setting("STORE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..setting("STORE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build();
            runtime.unwrap().block_on(property(seed));
        });
        assert!(run.is_ok(), "STORE_SEED={seed} fails");
    }
}
