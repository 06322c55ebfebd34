//! Whether one real server is up, as its checks show one after the other.
//!
//! Pure: results and the time come as parameters. What keeps a server that flaps from being taken
//! in and out with each result:
//!
//! - `rise` and `fall`: so many results in a row must contradict the verdict before it changes;
//! - caution: a server that falls again soon after its return needs twice as many good results
//!   for the next return, then four times, at most [`CAUTION_MOST`] times. One that has stayed up
//!   for [`PROBATION`] rounds of `rise` and `fall` is trusted as at first.
//!
//! The very first result decides at once: nobody gains from waiting.

use dataplane::Millis;

/// A return counts as proven when the server has stayed up for so many times the time that a fall
/// and a return take.
pub const PROBATION: u64 = 10;
/// The most that `rise` is multiplied by.
pub const CAUTION_MOST: u32 = 8;

/// How results are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Good results in a row that bring a server back.
    pub rise: u32,
    /// Bad results in a row that take it out.
    pub fall: u32,
    /// Milliseconds between two checks.
    pub interval: Millis,
}

impl Rules {
    /// Milliseconds that a server must stay up after a return to be trusted as at first.
    fn probation(&self) -> Millis {
        self.interval.saturating_mul(u64::from(self.rise) + u64::from(self.fall)) * PROBATION
    }
}

/// What the results so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No result yet: no new flows.
    Checking,
    /// It takes new flows.
    Up,
    /// It takes none.
    Down,
}

/// The judge of one real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    verdict: Verdict,
    since: Millis,
    /// When it came back; nothing: it has not been down, or is.
    returned: Option<Millis>,
    /// Results in a row that contradict the verdict.
    against: u32,
    /// What `rise` is multiplied by at the next return.
    caution: u32,
    /// Why it is down; while it is up, why the last check failed, if it did.
    error: Option<String>,
}

impl Judge {
    /// Of a server that was not checked yet.
    pub fn new(now: Millis) -> Judge {
        Judge {
            verdict: Verdict::Checking,
            since: now,
            returned: None,
            against: 0,
            caution: 1,
            error: None,
        }
    }

    /// Of a server that took flows before anybody thought of checking it: it goes on until its
    /// checks fail.
    pub fn of_a_server_in_use(now: Millis) -> Judge {
        Judge { verdict: Verdict::Up, ..Judge::new(now) }
    }

    /// The checks are others from now on: the verdict stands until they contradict it.
    pub fn begin_anew(&mut self) {
        self.against = 0;
    }

    /// A check ended. Returns the verdict if it changed.
    pub fn hear(
        &mut self,
        outcome: Result<(), String>,
        rules: &Rules,
        now: Millis,
    ) -> Option<Verdict> {
        let found = if outcome.is_ok() { Verdict::Up } else { Verdict::Down };
        // Why a server went down is worth more than nothing until it is up again.
        if outcome.is_err() || self.verdict == Verdict::Up {
            self.error = outcome.err();
        }
        if self.verdict == found {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < self.needed(rules) {
            return None;
        }
        self.turn(found, rules, now);
        Some(found)
    }

    /// Results in a row that must contradict the verdict before it changes.
    pub fn needed(&self, rules: &Rules) -> u32 {
        match self.verdict {
            Verdict::Checking => 1,
            Verdict::Up => rules.fall,
            Verdict::Down => rules.rise.saturating_mul(self.caution),
        }
    }

    fn turn(&mut self, verdict: Verdict, rules: &Rules, now: Millis) {
        match (self.verdict, verdict) {
            (Verdict::Down, _) => self.returned = Some(now),
            (Verdict::Up, Verdict::Down) => {
                let soon = |returned: Millis| now - returned < rules.probation();
                self.caution = match self.returned {
                    Some(returned) if soon(returned) => (self.caution * 2).min(CAUTION_MOST),
                    _ => 1,
                };
                self.returned = None;
            }
            _ => {}
        }
        if verdict == Verdict::Up {
            self.error = None;
        }
        self.verdict = verdict;
        self.since = now;
        self.against = 0;
    }

    /// The verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When it became so.
    pub fn since(&self) -> Millis {
        self.since
    }

    /// When the server came back, if it is up and has been down.
    pub fn returned(&self) -> Option<Millis> {
        self.returned
    }

    /// Why it is down or, while it is up, why the last check failed, if it did.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Results in a row that contradict the verdict.
    pub fn against(&self) -> u32 {
        self.against
    }

    /// By what `rise` is multiplied at the next return, because the server fell again soon after
    /// the last.
    pub fn caution(&self) -> u32 {
        self.caution
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
