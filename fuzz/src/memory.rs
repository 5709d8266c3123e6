//! How much memory a piece of work takes at once.
//!
//! The allocator counts what all threads hold, so that only one piece of work may be measured at a
//! time. It counts a block that grows twice while it is copied, which a real allocator often
//! avoids.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Does the work. Returns its result, and the most bytes that were allocated at once meanwhile,
/// without those that were allocated before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let result = work();
    (result, ALLOCATOR.peak_usage().saturating_sub(before))
}
