//! The checks of a running director: one task for each real server that is checked, and one that
//! hears their results and tells the workers.
//!
//! A check waits for its server and for nobody else: it holds no lock while it asks, and there is
//! room for [`CHECKS_AT_ONCE`] of them. One that the director cannot make (it lacks a descriptor, its
//! link is down) says nothing of the server: it stays what it is, and that is said.
//!
//! What they find is told to the workers at once, but not so often that the control thread does
//! nothing else: after each change it rests nine times as long as the change took (at most
//! `REST_MOST`), and what is found meanwhile is told together.

use super::dr::Dr;
use super::judge::Verdict;
use super::kinds::{CheckError, CheckKind, HealthCheck, Target};
use super::members::{Member, MemberKey, Members, Outcome};
use super::rhythm::Rhythm;
use super::source;
use crate::neighbors::Reach;
use crate::netlink_read::Task;
use crate::service_name::ServiceName;
use crate::supervisor::{ChangeError, Supervisor};
use crate::{clock, say, warn};
use futures_util::FutureExt;
use std::collections::HashMap;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Checks by socket that may be under way. Each takes a file descriptor, of which a process has
/// 1024 unless told otherwise.
pub const CHECKS_AT_ONCE: usize = 512;
/// Checks by command that may be under way: a process each.
pub const COMMANDS_AT_ONCE: usize = 64;
/// Results that may wait to be heard; whoever has another waits.
const OUTCOMES: usize = 1_024;
/// Between two changes for the workers, at least.
const REST: Duration = Duration::from_millis(20);
/// Between two changes, at most, because one took long: a worker that hangs can hold one up for
/// seconds.
const REST_MOST: Duration = Duration::from_secs(1);
/// How often it is said that checks come late.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// How long the start waits for the first result of each server.
const FIRST_RESULTS: Duration = Duration::from_secs(1);
/// How often it looks meanwhile.
const FIRST_RESULTS_CHECK: Duration = Duration::from_millis(10);

type Shared = Arc<Mutex<Supervisor>>;

/// What every check needs.
struct Asker {
    supervisor: Shared,
    dr: Dr,
    checks: Semaphore,
    commands: Semaphore,
}

/// A result, and how long the check had to wait for room.
struct Heard {
    outcome: Outcome,
    waited: Duration,
}

impl Asker {
    /// Asks when there is room.
    async fn ask(&self, member: MemberKey, check: &Arc<HealthCheck>) -> Heard {
        let room = match check.kind {
            CheckKind::Command(_) => &self.commands,
            _ => &self.checks,
        };
        let wanted = Instant::now();
        let _place = room.acquire().await;
        let began = Instant::now();
        // What goes wrong in here must not leave a server unchecked.
        let asked = AssertUnwindSafe(self.ask_now(member, check)).catch_unwind().await;
        let broke = || Err(CheckError::Unable("the check broke within shunt".to_owned()));
        let result = asked.unwrap_or_else(|_| broke());
        let outcome = Outcome { member, check: check.clone(), result, took: began.elapsed() };
        Heard { outcome, waited: began - wanted }
    }

    async fn ask_now(
        &self,
        (service, server): MemberKey,
        check: &HealthCheck,
    ) -> Result<(), CheckError> {
        // Waiting for the supervisor is not the server's fault, and no part of the timeout.
        if check.kind == CheckKind::Dr {
            let asked = self.dr.check(&self.supervisor, service, server, check.timeout).await;
            return asked.map_err(|error| match error.is_own() {
                true => CheckError::Unable(error.to_string()),
                false => CheckError::Failed(error.to_string()),
            });
        }
        let port = check.port.unwrap_or(service.port);
        let source = match check.kind {
            // A program asks by itself.
            CheckKind::Command(_) => None,
            _ => source::for_sockets(&self.supervisor, server).await.map_err(CheckError::Unable)?,
        };
        check.ask(&Target { service, server, port, source }).await
    }
}

/// Checks one server until it is told to end.
async fn look_after(
    asker: Arc<Asker>,
    member: MemberKey,
    check: Arc<HealthCheck>,
    seed: u64,
    results: Sender<Heard>,
) {
    let mut rhythm = Rhythm::new(check.interval, check.jitter, seed);
    let mut begin = Instant::now();
    loop {
        begin += rhythm.until_next();
        sleep_until(begin).await;
        let heard = asker.ask(member, &check).await;
        // What was late is not made up for.
        begin = begin.max(Instant::now() - heard.outcome.took);
        if results.send(heard).await.is_err() {
            return;
        }
    }
}

/// Checks the real servers, and tells the workers what follows, as long as it is polled.
pub async fn watch(supervisor: Shared) {
    let changed: Arc<Notify> = supervisor.lock().await.health.changed.clone();
    let (results, heard) = mpsc::channel(OUTCOMES);
    let asker = Asker {
        supervisor: supervisor.clone(),
        dr: Dr::default(),
        checks: Semaphore::new(CHECKS_AT_ONCE),
        commands: Semaphore::new(COMMANDS_AT_ONCE),
    };
    let mut watch = Watch {
        supervisor,
        asker: Arc::new(asker),
        tasks: HashMap::new(),
        seeds: fastrand::Rng::new(),
        results,
        heard,
        rested: Instant::now(),
        due: None,
        said_late: None,
    };
    watch.follow().await;
    loop {
        let due = watch.due.map(|due| due.max(watch.rested));
        tokio::select! {
            () = changed.notified() => watch.follow().await,
            Some(first) = watch.heard.recv() => watch.hear(first).await,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let shared = watch.supervisor.clone();
                watch.tell_workers(&mut *shared.lock().await).await;
            }
        }
    }
}

struct Watch {
    supervisor: Shared,
    asker: Arc<Asker>,
    tasks: HashMap<MemberKey, (Arc<HealthCheck>, Task)>,
    seeds: fastrand::Rng,
    results: Sender<Heard>,
    heard: Receiver<Heard>,
    /// When the workers may be told again.
    rested: Instant,
    /// When there is something to tell them.
    due: Option<Instant>,
    /// When it was last said that checks come late.
    said_late: Option<Instant>,
}

impl Watch {
    /// Begins and ends checks as the services say now.
    async fn follow(&mut self) {
        let supervisor = self.supervisor.lock().await;
        let mut former = std::mem::take(&mut self.tasks);
        for (&member, check) in supervisor.health.members.checked() {
            let same = |(of, _): &(Arc<HealthCheck>, Task)| Arc::ptr_eq(of, check);
            let kept = former.remove(&member).filter(same);
            let running = kept.unwrap_or_else(|| {
                let (asker, results) = (self.asker.clone(), self.results.clone());
                let seed = self.seeds.u64(..);
                let task = look_after(asker, member, check.clone(), seed, results);
                (check.clone(), Task(tokio::spawn(task)))
            });
            self.tasks.insert(member, running);
        }
        drop(former);
        self.due = self.due.into_iter().chain(next(&supervisor)).min();
    }

    /// Hears all results that there are. If the workers may be told what follows, they are before
    /// anybody can see a verdict that is not in force yet.
    async fn hear(&mut self, first: Heard) {
        let shared = self.supervisor.clone();
        let mut supervisor = shared.lock().await;
        let now = clock::now();
        let (mut turned, mut heard) = (false, Some(first));
        while let Some(Heard { outcome, waited }) = heard {
            if waited > outcome.check.interval {
                say_late(&mut self.said_late, waited);
            }
            turned |= hear(&mut supervisor, outcome, now);
            heard = self.heard.try_recv().ok();
        }
        let now = Instant::now();
        if turned && self.rested <= now {
            self.tell_workers(&mut supervisor).await;
        } else if turned {
            self.due = Some(now);
        }
    }

    /// The workers get what has changed since they were last told.
    async fn tell_workers(&mut self, supervisor: &mut Supervisor) {
        let began = Instant::now();
        if let Err(error) = supervisor.weigh_anew().await {
            warn!("{error}");
        }
        let took = began.elapsed();
        self.rested = Instant::now() + (took * 9).clamp(REST, REST_MOST);
        self.due = next(supervisor);
    }
}

/// When a weight grows next.
fn next(supervisor: &Supervisor) -> Option<Instant> {
    let step = supervisor.health.weights.next_step()?;
    Some(Instant::now() + Duration::from_millis(step.saturating_sub(clock::now())))
}

fn say_late(said: &mut Option<Instant>, waited: Duration) {
    if said.is_some_and(|said| said.elapsed() < SAID_AGAIN) {
        return;
    }
    *said = Some(Instant::now());
    warn!(
        "health checks come late, the last by {} s: too many take long at once ({CHECKS_AT_ONCE} may, {COMMANDS_AT_ONCE} of them commands); give them shorter timeouts or longer intervals",
        waited.as_secs()
    );
}

/// The name of a link of the director's own that is down, if that is why a server does not answer.
/// Then its routes may be gone, too.
fn link_down(supervisor: &Supervisor, server: IpAddr) -> Option<&str> {
    let on = match supervisor.neighbors.reach(server) {
        Some(&Reach::OnLink { interface, .. }) => Some(interface),
        _ => None,
    };
    let interfaces = supervisor.interfaces.iter().enumerate();
    let mut possible = interfaces.filter(|&(number, _)| on.is_none_or(|on| on == number));
    let (_, down) = possible.find(|(_, interface)| !interface.carrier)?;
    Some(&down.name)
}

/// Says when a server of a service is the first that cannot be checked, or was the last.
fn tell_out_of_sight(members: &Members, (service, server): MemberKey, before: bool) {
    let Some(member) = members.get(&(service, server)) else { return };
    let now = member.is_out_of_sight();
    if now == before {
        return;
    }
    match (members.out_of_sight(service), &member.unmade.why) {
        (1, Some(why)) => {
            let stays = match member.judge.verdict() {
                Verdict::Up => "stays up",
                Verdict::Down => "stays down",
                Verdict::Checking => "takes no new flows",
            };
            let service = ServiceName(service);
            warn!(
                "{server} of {service} cannot be checked: {why}; it {stays} until it can be, and so does any other"
            );
        }
        (0, None) => say!("the real servers of {} can be checked again", ServiceName(service)),
        _ => {}
    }
}

/// One result. Returns whether there is something to weigh anew. A verdict that changed is said.
fn hear(supervisor: &mut Supervisor, mut outcome: Outcome, now: dataplane::Millis) -> bool {
    let (service, server) = outcome.member;
    if let Err(CheckError::Failed(_)) = outcome.result
        && let Some(link) = link_down(supervisor, server)
    {
        outcome.result = Err(CheckError::Unable(format!("{link} is down")));
    }
    let members = &mut supervisor.health.members;
    let member = members.get(&outcome.member);
    let first = member.is_some_and(|member| member.judge.verdict() == Verdict::Checking);
    let before = member.is_some_and(Member::is_out_of_sight);
    let waited = member.is_some_and(Member::waits);
    let turned = members.hear(outcome, now);
    tell_out_of_sight(members, (service, server), before);
    let member = members.get(&(service, server));
    // A quorum waits for first results, but not for one that cannot be had.
    let Some(verdict) = turned else { return waited && !member.is_some_and(Member::waits) };
    let judge = member.map(|member| &member.judge);
    let service = ServiceName(service);
    match verdict {
        Verdict::Down => {
            let why = judge.and_then(|judge| judge.error()).unwrap_or("its check failed");
            let again = match judge.map_or(1, |judge| judge.caution()) {
                1 => String::new(),
                caution => format!(
                    "; it has fallen again soon after its return, and needs {caution} times its rise for the next"
                ),
            };
            warn!("{server} of {service} is down: {why}{again}");
        }
        // A start would have a line for each server that is as it should be.
        Verdict::Up if first => {}
        Verdict::Up => say!("{server} of {service} is up again"),
        Verdict::Checking => {}
    }
    true
}

impl Supervisor {
    /// Time has passed, or checks have ended: the workers are told if it makes a difference to them.
    pub async fn weigh_anew(&mut self) -> Result<(), ChangeError> {
        let weights = self.weigh(&self.services);
        if !weights.same_for_workers(&self.health.weights) {
            return self.publish().await;
        }
        self.health.accept(weights, &self.services);
        Ok(())
    }
}

/// Waits for the first result of each server that is checked, but not for long: one that hangs
/// must not keep the others from serving.
pub async fn await_first_results(supervisor: &Shared) -> Result<(), ChangeError> {
    let settled = async {
        while !supervisor.lock().await.health.members.settled() {
            tokio::time::sleep(FIRST_RESULTS_CHECK).await;
        }
    };
    // Those that are not heard of by now take flows as soon as they are.
    let _ = tokio::time::timeout(FIRST_RESULTS, settled).await;
    supervisor.lock().await.weigh_anew().await
}
