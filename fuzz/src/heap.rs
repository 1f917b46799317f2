//! How much memory is held.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts the bytes that are allocated, now and at most.
struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the process held at a time.
pub struct Heap(usize);

impl Heap {
    /// Measures from now on.
    pub fn now() -> Self {
        let live = LIVE.load(Relaxed);
        PEAK.store(live, Relaxed);
        Self(live)
    }

    /// The most that was held on top of that.
    pub fn peak(&self) -> usize {
        PEAK.load(Relaxed).saturating_sub(self.0)
    }

    /// Does something that does not count.
    pub fn aside<T>(&self, something: impl FnOnce() -> T) -> T {
        let peak = PEAK.load(Relaxed);
        let done = something();
        PEAK.store(peak, Relaxed);
        done
    }

    /// What is held now on top of that.
    pub fn left(&self) -> usize {
        LIVE.load(Relaxed).saturating_sub(self.0)
    }
}
