//! How long calls of a plugin take.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Calls of which one is timed: two clock reads cost more than a call of `rr`.
pub(crate) const SAMPLED_ONE_IN: u64 = 64;

/// Histogram of the time that `choose` takes in one instance, over a sample of one call in 64.
/// The worker writes, any thread reads.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; Latency::BOUNDS.len() + 1],
    sum: AtomicU64,
}

/// A reading of a [`Latency`]. Readings of several instances may be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencyCounts {
    /// Sampled calls by bucket, not cumulated. Bucket `i` counts the calls that took longer than
    /// `Latency::BOUNDS[i - 1]` and at most `Latency::BOUNDS[i]` nanoseconds; the last bucket has
    /// no upper bound.
    pub buckets: [u64; Latency::BOUNDS.len() + 1],
    /// Sum of the sampled times in nanoseconds.
    pub sum: u64,
}

impl Latency {
    /// Upper bounds of the buckets in nanoseconds.
    pub const BOUNDS: [u64; 16] = [
        25, 50, 75, 100, 150, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000,
        1_000_000,
    ];

    /// What was sampled so far.
    pub fn read(&self) -> LatencyCounts {
        LatencyCounts {
            buckets: std::array::from_fn(|bucket| self.buckets[bucket].load(Relaxed)),
            sum: self.sum.load(Relaxed),
        }
    }

    /// Counts one sampled call. Only the worker that owns the instance calls this.
    pub(crate) fn record(&self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = Latency::BOUNDS.partition_point(|&bound| bound < nanoseconds);
        add(&self.buckets[bucket], 1);
        add(&self.sum, nanoseconds);
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
}

impl LatencyCounts {
    /// Sampled calls.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another instance's reading.
    pub fn add(&mut self, other: &LatencyCounts) {
        for (bucket, more) in self.buckets.iter_mut().zip(other.buckets) {
            *bucket += more;
        }
        self.sum += other.sum;
    }

    /// The bound in nanoseconds that the fraction `quantile` of the sampled calls did not exceed.
    /// `None` without samples; `u64::MAX` when it lies beyond the last bound.
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
    fn a_call_is_counted_in_the_bucket_that_its_time_does_not_exceed() {
        let latency = Latency::default();
        for nanoseconds in [0, 25, 26, 1_000_000, 1_000_001] {
            latency.record(Duration::from_nanos(nanoseconds));
        }
        let counts = latency.read();
        assert_eq!(counts.buckets[0], 2);
        assert_eq!(counts.buckets[1], 1);
        assert_eq!(counts.buckets[15], 1);
        assert_eq!(counts.buckets[16], 1);
        assert_eq!((counts.count(), counts.sum), (5, 2_000_052));
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
