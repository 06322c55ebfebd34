//! How long things take that a worker does.

use crate::counters::add;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Histogram of durations. One worker writes, any thread reads.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; Latency::BOUNDS.len() + 1],
    sum: AtomicU64,
    max: AtomicU64,
}

/// A reading of a [`Latency`]. Readings of several may be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencyCounts {
    /// Durations by bucket, not cumulated. Bucket `i` counts those longer than
    /// `Latency::BOUNDS[i - 1]` and at most `Latency::BOUNDS[i]` nanoseconds; the last bucket has
    /// no upper bound.
    pub buckets: [u64; Latency::BOUNDS.len() + 1],
    /// Sum of the durations in nanoseconds.
    pub sum: u64,
    /// The longest duration in nanoseconds.
    pub max: u64,
}

impl Latency {
    /// Upper bounds of the buckets in nanoseconds.
    pub const BOUNDS: [u64; 16] = [
        25, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000,
        1_000_000,
    ];

    /// What was recorded so far.
    pub fn read(&self) -> LatencyCounts {
        LatencyCounts {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            sum: self.sum.load(Relaxed),
            max: self.max.load(Relaxed),
        }
    }

    /// Counts one duration. Only the worker that it is of calls this.
    pub fn record(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = Latency::BOUNDS.partition_point(|&bound| bound < nanoseconds);
        add(&self.buckets[bucket], 1);
        add(&self.sum, nanoseconds);
        self.max.store(self.max.load(Relaxed).max(nanoseconds), Relaxed);
    }
}

impl LatencyCounts {
    /// Durations recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another reading.
    pub fn add(&mut self, other: &LatencyCounts) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// The bound in nanoseconds that the fraction `quantile` of the durations did not exceed.
    /// `None` without any; `u64::MAX` when it lies beyond the last bound.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let rank = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = self.buckets.iter().position(|&calls| {
            below += calls;
            below >= rank
        })?;
        Some(Latency::BOUNDS.get(bucket).copied().unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_bucket_that_it_does_not_exceed() {
        let latency = Latency::default();
        for nanoseconds in [0, 25, 26, 1_000_000, 1_000_001] {
            latency.record(Duration::from_nanos(nanoseconds));
        }
        let counts = latency.read();
        assert_eq!(counts.buckets[0], 2);
        assert_eq!(counts.buckets[1], 1);
        assert_eq!(counts.buckets[15], 1);
        assert_eq!(counts.buckets[16], 1);
        assert_eq!((counts.count(), counts.sum, counts.max), (5, 2_000_052, 1_000_001));
    }

    #[test]
    fn quantiles_are_bounds() {
        let latency = Latency::default();
        assert_eq!(latency.read().quantile(0.5), None);
        for _ in 0..98 {
            latency.record(Duration::from_nanos(30));
        }
        latency.record(Duration::from_nanos(90));
        latency.record(Duration::from_secs(1));
        let mut counts = latency.read();
        assert_eq!(counts.quantile(0.5), Some(50));
        assert_eq!(counts.quantile(0.99), Some(100));
        assert_eq!(counts.quantile(1.0), Some(u64::MAX));
        counts.add(&latency.read());
        assert_eq!(counts.count(), 200);
    }
}
