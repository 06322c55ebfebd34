//! The one clock: workers stamp flows with it, the control thread reads their age by it.

use dataplane::Millis;
use nix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_MONOTONIC_COARSE: since the machine started, the same for all threads.
///
/// The coarse clock moves with the kernel's tick, every 1 to 10 ms, which is fine for timeouts of
/// seconds. It is read from memory that the kernel shares (vDSO), without a system call even
/// where the precise clock needs one.
#[inline]
pub fn now() -> Millis {
    // The clock exists since Linux 2.6.32: there is nothing to report.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(0, |time| time.tv_sec() as Millis * 1_000 + time.tv_nsec() as Millis / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn it_runs_at_the_pace_of_time() {
        let (begun, coarse) = (Instant::now(), now());
        while begun.elapsed() < Duration::from_millis(100) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (precise, coarse) = (begun.elapsed().as_millis() as u64, now() - coarse);
        assert!(coarse.abs_diff(precise) <= 20, "{coarse} ms on a coarse clock in {precise} ms");
    }
}
