//! When the checks of one real server begin: spread, so that many of them do not begin at once,
//! and never in step with those of another director or with anything that happens each minute.

use std::time::Duration;

/// The first checks of all servers begin within this time. Short, since a server takes no new
/// flows before.
pub const SPREAD: Duration = Duration::from_millis(250);

/// The times of one server's checks, one after the other.
#[derive(Debug, Clone)]
pub struct Rhythm {
    random: fastrand::Rng,
    interval: Duration,
    jitter: f64,
    begun: u32,
}

impl Rhythm {
    /// A check each `interval`, give or take the share `jitter` of it (0 to 1). The same seed gives
    /// the same times.
    pub fn new(interval: Duration, jitter: f64, seed: u64) -> Rhythm {
        let random = fastrand::Rng::with_seed(seed);
        Rhythm { random, interval, jitter: jitter.clamp(0.0, 1.0), begun: 0 }
    }

    /// The time until the next check begins, from the beginning of the one before (or, for the
    /// first, from now).
    pub fn until_next(&mut self) -> Duration {
        let share = self.random.f64();
        self.begun = self.begun.saturating_add(1);
        match self.begun {
            1 => self.interval.min(SPREAD).mul_f64(share),
            // Spreads over the whole interval what the first checks had to do close together.
            2 => self.interval.mul_f64(0.5 + share / 2.0),
            _ => self.interval.mul_f64(1.0 + self.jitter * (2.0 * share - 1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn checks_begin_within_their_bounds(
            interval in 100..60_000u64,
            jitter in 0.0..1.0f64,
            seed in any::<u64>(),
        ) {
            let interval = Duration::from_millis(interval);
            let mut rhythm = Rhythm::new(interval, jitter, seed);
            let mut again = Rhythm::new(interval, jitter, seed);
            let first = rhythm.until_next();
            prop_assert!(first <= SPREAD && first <= interval);
            let second = rhythm.until_next();
            prop_assert!(second >= interval / 2 && second <= interval);
            let longest = interval.mul_f64(1.0 + jitter) + Duration::from_micros(1);
            let shortest = interval.mul_f64(1.0 - jitter).saturating_sub(Duration::from_micros(1));
            for _ in 0..50 {
                let next = rhythm.until_next();
                prop_assert!(next <= longest && next >= shortest, "{next:?}");
            }
            prop_assert_eq!(first, again.until_next());
            prop_assert_eq!(second, again.until_next());
        }
    }

    #[test]
    fn many_servers_do_not_begin_together() {
        let interval = Duration::from_secs(5);
        let mut begun: Vec<Duration> = (0..1_000)
            .map(|seed| {
                let mut rhythm = Rhythm::new(interval, 0.1, seed);
                (0..4).map(|_| rhythm.until_next()).sum()
            })
            .collect();
        begun.sort();
        let closest = begun.windows(50).map(|some| some[49] - some[0]).min().unwrap();
        assert!(closest > Duration::from_millis(20), "50 of 1000 within {closest:?}");
        assert!(begun[999] - begun[0] > interval / 2);
    }
}
