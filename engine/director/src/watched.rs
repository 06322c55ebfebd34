//! What the control thread keeps of an instance that a worker has.

use crate::say;
use dataplane::{Failure, SchedulerCounters};
use plugin_host::{Latency, Log};
use std::fmt::Display;
use std::sync::Arc;

/// Lines of all instances together that one look says: each instance may have ten a second, and
/// there may be thousands.
pub(crate) const LINES_A_LOOK: usize = 50;

/// What the control thread keeps of an instance that a worker has.
pub(crate) struct Watched {
    pub counters: Arc<SchedulerCounters>,
    pub latency: Arc<Latency>,
    log: Log,
    /// Lines that were read and not said.
    unsaid: u64,
    /// Lines that were not kept or not said, as far as that was told.
    lost: u64,
    /// Failures that were looked at.
    pub seen: u64,
}

impl Watched {
    /// Of an instance that nobody has looked at.
    pub fn new(counters: Arc<SchedulerCounters>, latency: Arc<Latency>, log: Log) -> Watched {
        Watched { counters, latency, log, unsaid: 0, lost: 0, seen: 0 }
    }

    /// Says what the plugin has logged, in at most so many lines, and takes them from `room`.
    pub fn say(&mut self, who: impl Display, room: &mut usize) {
        for line in self.lines(room) {
            say!("{who}: {line}");
        }
    }

    fn lines(&mut self, room: &mut usize) -> Vec<String> {
        // Read in any case: what waits any longer would be of yesterday.
        let mut lines: Vec<String> = self.log.read().into_iter().map(|line| line.text).collect();
        self.unsaid += lines.len().saturating_sub(*room) as u64;
        lines.truncate(*room);
        *room -= lines.len();
        let lost = self.log.lost() + self.unsaid;
        if lost > self.lost && *room > 0 {
            lines.push(format!("{} more lines than its log may have", lost - self.lost));
            *room -= 1;
            self.lost = lost;
        }
        lines
    }

    /// Failures since they were looked at.
    pub fn unseen(&self) -> u64 {
        self.failures().saturating_sub(self.seen)
    }

    /// Failures for which a version is taken back.
    pub fn failures(&self) -> u64 {
        let bad = [Failure::Trap, Failure::OutOfRange, Failure::Unavailable];
        bad.iter().map(|&reason| self.counters.failures(reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plugin_host::{Limits, Params, Placement, PluginHost, Prepared};

    /// Says twelve lines at its start.
    const TALKATIVE: &str = r#"(module
  (import "shunt" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "well")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32)
    (local $line i32)
    (loop $again
      (call $log (i32.const 512) (i32.const 4))
      (local.set $line (i32.add (local.get $line) (i32.const 1)))
      (br_if $again (i32.lt_s (local.get $line) (i32.const 12))))
    (i32.store (i32.const 0) (i32.const 1))
    (i32.store (i32.const 8) (i32.const 16))
    (i32.store (i32.const 12) (i32.const 1024))
    (i32.const 0))
  (func (export "shunt_schedule") (result i32) (i32.const 0)))"#;

    #[test]
    fn all_instances_together_say_no_more_than_the_log_takes() {
        let host = PluginHost::new(Limits::default()).unwrap();
        let plugin = host.load("my", TALKATIVE.as_bytes()).unwrap();
        let mut instances = [0, 1, 2].map(|worker| {
            let placement = Placement { worker, workers: 3, seed: 0 };
            let Prepared { instance, latency, log } =
                plugin.instantiate(placement, &Params::new()).unwrap();
            Watched::new(instance.counters().clone(), latency, log)
        });
        let mut room = 25;
        let [first, second, third] = instances.each_mut().map(|its| its.lines(&mut room));
        assert_eq!((first.len(), second.len(), third.len(), room), (11, 11, 3, 0));
        assert_eq!((&*first[0], &*first[10]), ("well", "2 more lines than its log may have"));
        let later = instances[2].lines(&mut LINES_A_LOOK.clone());
        assert_eq!(later, ["9 more lines than its log may have"]);
        assert!(instances[0].lines(&mut LINES_A_LOOK.clone()).is_empty());
    }
}
