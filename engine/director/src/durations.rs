//! How long something on the control thread took, counted by size.

use std::time::Duration;

/// A histogram of durations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Durations {
    /// By bound: durations that were not longer, and longer than the bound before. The last has
    /// no bound.
    pub buckets: [u64; Durations::BOUNDS.len() + 1],
    /// The sum in seconds.
    pub sum: f64,
}

impl Durations {
    /// Bounds in seconds.
    pub const BOUNDS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.buckets[Durations::BOUNDS.partition_point(|&bound| bound < seconds)] += 1;
        self.sum += seconds;
    }
}
