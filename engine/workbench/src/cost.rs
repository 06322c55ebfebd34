//! What a call costs, beside others in the same process.

use crate::history::new_flow;
use crate::numbers::Numbers;
use crate::server_set::ServerSet;
use dataplane::{Failure, Load, NewFlow, Scheduler};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Calls in a round.
pub(crate) const CALLS: usize = 2_000;
/// Flows that are asked about in turn.
const FLOWS: usize = 1_024;
/// Flows that live at a time.
const LIVING: usize = 4_096;

/// A scheduler over servers that stay, and flows that come and go.
pub(crate) struct Timed {
    scheduler: Box<dyn Scheduler>,
    flows: Vec<NewFlow>,
    next: usize,
    active: Vec<u32>,
    /// Slots of the flows that live, the oldest at `next`.
    living: Vec<Option<usize>>,
    /// The first failure that was not declining.
    failed: Option<Failure>,
}

impl Timed {
    /// Tells the scheduler of so many servers, of weights from 1 to 4. The error says what failed.
    pub fn new(mut scheduler: Box<dyn Scheduler>, servers: usize) -> Result<Timed, String> {
        let weights: Vec<u32> = (0..servers as u32).map(|slot| 1 + slot % 4).collect();
        scheduler
            .servers_changed(ServerSet::of(&weights).slots(), 0)
            .map_err(|reason| format!("it fails over {servers} servers ({})", reason.name()))?;
        let mut numbers = Numbers::new(1);
        let mut timed = Timed {
            scheduler,
            flows: (0..FLOWS).map(|_| new_flow(&mut numbers, false)).collect(),
            next: 0,
            active: vec![0; servers],
            living: vec![None; LIVING],
            failed: None,
        };
        (0..servers).for_each(|slot| timed.tell(slot));
        timed.round();
        match timed.failed {
            Some(reason) => Err(format!("it fails over {servers} servers ({})", reason.name())),
            None => Ok(timed),
        }
    }

    /// Nanoseconds a call, mean of one round. What the scheduler has to be told between calls
    /// counts, too: one flow began where it chose, and an earlier one ended.
    pub fn round(&mut self) -> f64 {
        let wants_load = self.scheduler.wants_load();
        let began = Instant::now();
        for _ in 0..CALLS {
            let flow = &self.flows[self.next % FLOWS];
            let answer = match black_box(self.scheduler.choose(black_box(flow), 0)) {
                Ok(slot) => Some(slot),
                Err(Failure::Declined) => None,
                Err(reason) => {
                    self.failed.get_or_insert(reason);
                    None
                }
            };
            if wants_load {
                self.begin_and_end(answer);
            }
            self.next += 1;
        }
        nanoseconds(began.elapsed()) / CALLS as f64
    }

    fn begin_and_end(&mut self, answer: Option<usize>) {
        let ended = std::mem::replace(&mut self.living[self.next % LIVING], answer);
        if let Some(slot) = answer {
            self.active[slot] += 1;
            self.tell(slot);
        }
        if let Some(slot) = ended {
            self.active[slot] -= 1;
            self.tell(slot);
        }
    }

    fn tell(&mut self, slot: usize) {
        self.scheduler.load_changed(slot, Load { active: self.active[slot], inactive: 0 });
    }
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// The value in the middle. 0 without values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Times each of `timed` by turns, so that a slow moment of the machine meets all of them, for as
/// long as `time` and `rounds` times at least. Returns the rounds of each.
pub(crate) fn by_turns(timed: &mut [Timed], rounds: usize, time: Duration) -> Vec<Vec<f64>> {
    let began = Instant::now();
    let mut times = vec![Vec::new(); timed.len()];
    while times.first().is_some_and(|first| first.len() < rounds) || began.elapsed() < time {
        for (timed, times) in timed.iter_mut().zip(&mut times) {
            times.push(timed.round());
        }
    }
    times
}

/// Median of the ratios of rounds that were next to each other.
pub(crate) fn ratio(times: &[f64], reference: &[f64]) -> f64 {
    median(times.iter().zip(reference).map(|(one, other)| one / other).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(ratio(&[2.0, 9.0, 4.0], &[1.0, 3.0, 2.0]), 2.0);
    }
}
