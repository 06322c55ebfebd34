//! Schedulers that take each other's place: many at once, told beforehand, with what they know.

use allocation_counter::measure;
use dataplane::{
    Candidate, Failure, Instance, Load, Millis, NewFlow, Scheduler, SchedulerCounters, ServerIndex,
    ServiceIndex, Update,
};
use frames::{Director, Plan, Scripted, Verdict, mac_of, tcp_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const WEB: ServiceIndex = ServiceIndex(0);

/// What the schedulers of a test do when state is handed over.
#[derive(Debug, Clone, Copy)]
enum Handover {
    Good,
    NothingToSave,
    NothingToTake,
    Fails(Failure),
}

/// Counts its flows in what it hands over, and chooses as it is told.
struct Counting {
    state: [u8; 8],
    answer: Result<usize, Failure>,
    handover: Handover,
    saved_at: Arc<AtomicU64>,
}

impl Counting {
    fn new(flows: u64, answer: Result<usize, Failure>, handover: Handover) -> Counting {
        let saved_at = Arc::new(AtomicU64::new(u64::MAX));
        Counting { state: flows.to_le_bytes(), answer, handover, saved_at }
    }
}

impl Scheduler for Counting {
    fn servers_changed(&mut self, _: &[Candidate], _: Millis) -> Result<(), Failure> {
        Ok(())
    }
    fn wants_load(&self) -> bool {
        false
    }
    fn load_changed(&mut self, _: usize, _: Load) {}
    fn choose(&mut self, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
        let flows = u64::from_le_bytes(self.state) + 1;
        self.state = flows.to_le_bytes();
        // One that took state over shows it.
        self.answer.map(|slot| slot + flows as usize / 1000)
    }
    fn save(&mut self, now: Millis) -> Option<&[u8]> {
        self.saved_at.store(now, Relaxed);
        (!matches!(self.handover, Handover::NothingToSave)).then_some(&self.state)
    }
    fn restore(&mut self, state: &[u8], _: Millis) -> Result<bool, Failure> {
        match self.handover {
            Handover::Fails(failure) => Err(failure),
            Handover::NothingToTake => Ok(false),
            _ => {
                self.state.copy_from_slice(state);
                Ok(true)
            }
        }
    }
}

fn send(director: &mut Director, update: Update) {
    assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
}

/// Turns until the next update comes back.
fn turns_until_back(director: &mut Director) -> usize {
    for turns in 1..1000 {
        director.turn_all();
        if director.handles[0].mailbox.reap().is_some() {
            return turns;
        }
    }
    panic!("it does not come back");
}

/// The schedulers of so many services, each choosing slot `answer`.
fn schedulers(
    services: u16,
    answer: usize,
    inherit: bool,
) -> Vec<(ServiceIndex, Option<Box<Instance>>)> {
    let instance = |service| {
        let scheduler = Counting::new(0, Ok(answer), Handover::Good);
        let mut instance = Instance::new(Box::new(scheduler));
        if inherit {
            instance.inherit();
        }
        (ServiceIndex(service), Some(instance))
    };
    (0..services).map(instance).collect()
}

#[test]
fn many_schedulers_are_swapped_over_several_turns() {
    let mut director = Director::new(Plan::with_servers(3));
    let before = director.handles[0].memory.counters().pauses().read();
    let update = Update { schedulers: schedulers(256, 1, false), ..Update::default() };
    send(&mut director, update);
    assert_eq!(turns_until_back(&mut director), 16);
    let after = director.handles[0].memory.counters().pauses().read();
    assert_eq!(after.count() - before.count(), 16, "turns that adopted something");
    assert!(after.max > 0 && after.sum >= after.max);
    assert_eq!(director.send(0, &tcp_of(1, "S")), Verdict::Forwarded(mac_of(2)));
    director.pass(10);
    let later = director.handles[0].memory.counters().pauses().read();
    assert_eq!(later, after, "nothing to adopt is no pause");
}

#[test]
fn a_swap_that_hands_state_over_counts_for_several() {
    let mut director = Director::new(Plan::with_servers(3));
    let update = Update { schedulers: schedulers(40, 0, false), ..Update::default() };
    send(&mut director, update);
    assert_eq!(turns_until_back(&mut director), 3);
    let update = Update { schedulers: schedulers(40, 0, true), ..Update::default() };
    send(&mut director, update);
    assert_eq!(turns_until_back(&mut director), 20);
}

/// The table is not cut in pieces, and waits for no scheduler.
#[test]
fn the_table_of_an_update_is_in_place_with_its_first_turn() {
    let mut director = Director::new(Plan::with_servers(2));
    director.plan.member(ServerIndex(0)).weight = 0;
    let mut update = Update { schedulers: schedulers(100, 1, false), ..Update::default() };
    update.schedulers.reverse();
    update.table = Some(director.plan.table().into());
    send(&mut director, update);
    director.turn_all();
    assert!(director.handles[0].mailbox.reap().is_none(), "it is not done");
    // The first service's scheduler comes last, and the one before is told of the new servers.
    for number in 0..4 {
        assert_eq!(director.send(0, &tcp_of(number, "S")), Verdict::Forwarded(mac_of(2)));
    }
    assert_eq!(turns_until_back(&mut director), 2);
}

#[test]
fn updates_wait_for_the_one_before_them() {
    let mut director = Director::new(Plan::with_servers(2));
    send(&mut director, Update { schedulers: schedulers(33, 0, false), ..Update::default() });
    send(&mut director, Update { schedulers: schedulers(1, 1, false), ..Update::default() });
    let mut returned = Vec::new();
    for _ in 0..3 {
        director.turn_all();
        while let Some(update) = director.handles[0].mailbox.reap() {
            returned.push(update.schedulers.len());
        }
    }
    assert_eq!(returned, [33, 1]);
    assert_eq!(director.send(0, &tcp_of(1, "S")), Verdict::Forwarded(mac_of(2)), "the last one");
}

#[test]
fn a_worker_does_not_sleep_over_half_an_update() {
    let mut director = Director::new(Plan::with_servers(2));
    let update = Update { schedulers: schedulers(33, 0, false), ..Update::default() };
    send(&mut director, update);
    let sleeps = |director: &mut Director| {
        director.workers[0].sleep(std::time::Duration::ZERO);
        director.turn_all();
        director.counts(0).sleeps
    };
    director.turn_all();
    assert_eq!(sleeps(&mut director), 0);
    assert_eq!(sleeps(&mut director), 0);
    assert_eq!(sleeps(&mut director), 1);
}

/// Lets `going` choose for a flow, swaps `coming` in and lets it choose for another. The instance
/// that was replaced, the newcomer's counters, and where its flow went.
fn swap(going: Counting, coming: Counting) -> (Box<Instance>, Arc<SchedulerCounters>, Verdict) {
    let mut director = Director::new(Plan::with_servers(3));
    director.set_scheduler(0, WEB, Box::new(going));
    director.send(0, &tcp_of(1, "S"));
    let mut coming = Instance::new(Box::new(coming));
    coming.inherit();
    let counters = coming.counters().clone();
    let schedulers = vec![(WEB, Some(coming))];
    send(&mut director, Update { schedulers, ..Update::default() });
    let now = director.now;
    let info = measure(|| {
        director.workers[0].turn(now);
    });
    assert_eq!((info.count_total, info.count_current), (0, 0), "a handover allocates nothing");
    let mut update = director.handles[0].mailbox.reap().expect("adopted in one turn");
    let going = update.schedulers.pop().and_then(|(_, going)| going).expect("what was replaced");
    let verdict = director.send(0, &tcp_of(2, "S"));
    (going, counters, verdict)
}

#[test]
fn a_scheduler_takes_over_what_the_one_before_it_knows() {
    let going = Counting::new(1998, Ok(0), Handover::Good);
    let saved_at = going.saved_at.clone();
    let (_, counters, verdict) = swap(going, Counting::new(0, Ok(0), Handover::Good));
    // 1998 and a flow before the swap, one after it: slot 2.
    assert_eq!(verdict, Verdict::Forwarded(mac_of(3)));
    assert!(counters.has_inherited());
    assert_eq!(saved_at.load(Relaxed), 1_000_000, "the time of the turn");
}

#[test]
fn without_state_a_scheduler_begins_anew() {
    for (going, coming) in
        [(Handover::NothingToSave, Handover::Good), (Handover::Good, Handover::NothingToTake)]
    {
        let (_, counters, verdict) =
            swap(Counting::new(1998, Ok(0), going), Counting::new(0, Ok(0), coming));
        assert_eq!(verdict, Verdict::Forwarded(mac_of(1)), "{going:?}, {coming:?}");
        assert_eq!((counters.has_inherited(), counters.is_torn()), (false, false));
    }
}

#[test]
fn a_scheduler_that_fails_to_take_over_is_not_asked() {
    for failure in [Failure::Trap, Failure::OutOfFuel] {
        let coming = Counting::new(0, Ok(0), Handover::Fails(failure));
        let (_, counters, verdict) = swap(Counting::new(0, Ok(0), Handover::Good), coming);
        assert!(matches!(verdict, Verdict::Forwarded(_)), "the flow gets the consistent choice");
        assert_eq!(counters.is_torn(), failure == Failure::Trap);
        assert_eq!(counters.is_benched(), failure == Failure::OutOfFuel);
        assert_eq!((counters.failures(failure), counters.failures(Failure::Benched)), (1, 1));
        assert_eq!((counters.calls(), counters.has_inherited()), (0, false));
    }
}

/// Its memory may be in any state.
#[test]
fn a_scheduler_that_failed_is_not_asked_for_its_state() {
    for failure in [Failure::Trap, Failure::OutOfFuel] {
        let going = Counting::new(1998, Err(failure), Handover::Good);
        let saved_at = going.saved_at.clone();
        let (_, counters, verdict) = swap(going, Counting::new(0, Ok(0), Handover::Good));
        assert_eq!(verdict, Verdict::Forwarded(mac_of(1)));
        assert_eq!((saved_at.load(Relaxed), counters.has_inherited()), (u64::MAX, false));
    }
}

#[test]
fn a_primed_scheduler_is_not_told_of_its_servers_again() {
    let mut director = Director::new(Plan::with_servers(3));
    director.feed(0, (0..6).flat_map(|number| [tcp_of(number, "S"), tcp_of(number, "A")]));
    let scheduler = Scripted::least_connections();
    let script = scheduler.script();
    let table = Arc::new(director.plan.table());
    let mut instance = Instance::new(Box::new(scheduler));
    instance.prime(table.service(WEB).unwrap()).unwrap();
    assert_eq!(script.lock().unwrap().servers_changed, 1);
    let schedulers = vec![(WEB, Some(instance))];
    director.update(0, Update { table: Some(table), schedulers, ..Update::default() });
    director.send(0, &tcp_of(10, "S"));
    let loads = vec![Load { active: 2, inactive: 0 }; 3];
    {
        let heard = script.lock().unwrap();
        assert_eq!(heard.servers_changed, 1, "the worker had nothing to tell");
        assert_eq!(heard.loads, loads, "but the connections as they are");
    }
    director.publish();
    director.send(0, &tcp_of(11, "S"));
    assert_eq!(script.lock().unwrap().servers_changed, 2, "of other servers it is told");
}

#[test]
fn a_scheduler_that_fails_on_its_servers_says_so_before_a_worker_has_it() {
    let table = Plan::with_servers(3).table();
    for failure in [Failure::Trap, Failure::OutOfFuel, Failure::OutOfRange] {
        let scheduler = Scripted::new(&[Ok(0)]);
        scheduler.script().lock().unwrap().on_servers = Some(failure);
        let mut instance = Instance::new(Box::new(scheduler));
        assert_eq!(instance.prime(table.service(WEB).unwrap()), Err(failure));
        let counters = instance.counters();
        assert_eq!(counters.is_torn(), failure == Failure::Trap);
        assert_eq!(counters.is_benched(), failure == Failure::OutOfFuel);
        let counted = u64::from(failure != Failure::OutOfRange);
        assert_eq!(counters.failures(failure), counted);
    }
}
