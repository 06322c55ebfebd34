//! The tasks that a director lives by, kept up: one that panics is started again.
//!
//! A panic is a mistake in shunt. Without this, packets would go on being forwarded while nobody
//! looks after neighbors, health or VIPs any more, and the one line that a panic prints would be all
//! that is heard of it.

use crate::supervisor::Supervisor;
use crate::warn;
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Rest before a task is started again, at first; it doubles each time.
const REST_FIRST: Duration = Duration::from_secs(1);
/// The longest such rest.
const REST_LAST: Duration = Duration::from_secs(60);
/// After so long without a panic the next one counts as the first.
const WELL: Duration = Duration::from_secs(600);

/// What a task is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Where the real servers are on the wire, and the served interfaces.
    Neighbors,
    /// The real servers' health.
    Health,
    /// The VIPs, and who else claims them.
    Vips,
    /// Reloads, plugins that fail, what is removed and has no flow any more.
    Housekeeping,
}

impl Duty {
    /// All of them.
    pub const ALL: [Duty; 4] = [Duty::Neighbors, Duty::Health, Duty::Vips, Duty::Housekeeping];

    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Duty::Neighbors => "neighbors",
            Duty::Health => "health",
            Duty::Vips => "vips",
            Duty::Housekeeping => "housekeeping",
        }
    }
}

/// How often tasks had to be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restarts([u64; Duty::ALL.len()]);

impl Restarts {
    /// How often the task for this was.
    pub fn of(&self, duty: Duty) -> u64 {
        self.0[duty as usize]
    }
}

type Shared = Arc<Mutex<Supervisor>>;

/// Has a task run, and run anew when it panics, until it ends by itself.
pub fn keep<F>(
    supervisor: &Shared,
    duty: Duty,
    mut start: impl FnMut(Shared) -> F + Send + 'static,
) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let supervisor = supervisor.clone();
    tokio::spawn(async move {
        let mut rest = Duration::ZERO;
        loop {
            let began = Instant::now();
            // What it shares with others is the supervisor, which works changes out on copies.
            let run = AssertUnwindSafe(start(supervisor.clone())).catch_unwind();
            if let Ok(end) = run.await {
                return end;
            }
            rest = next_rest(rest, began.elapsed());
            supervisor.lock().await.restarts.0[duty as usize] += 1;
            warn!(
                "the task for {} has failed, by a mistake in shunt (see above): it starts anew in {} s",
                duty.name(),
                rest.as_secs()
            );
            sleep(rest).await;
        }
    })
}

/// The rest after a panic of a task that has run for so long. `last`: the one before.
fn next_rest(last: Duration, ran: Duration) -> Duration {
    if ran >= WELL { REST_FIRST } else { (last * 2).clamp(REST_FIRST, REST_LAST) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rests_grow_to_a_limit_and_begin_anew_after_a_good_while() {
        let mut rest = Duration::ZERO;
        let mut rests = Vec::new();
        for ran in [0, 0, 0, 0, 0, 0, 0, 599, 600, 0] {
            rest = next_rest(rest, Duration::from_secs(ran));
            rests.push(rest.as_secs());
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]);
    }
}
