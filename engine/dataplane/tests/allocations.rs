//! A turn allocates nothing and frees nothing, whatever happens in it.

use allocation_counter::measure;
use dataplane::{
    Candidate, Capacity, Failure, Instance, Load, Millis, NewFlow, Scheduler, ServerIndex,
    ServerState, ServiceIndex, Settings, Timeouts, Update,
};
use frames::{Director, Plan, RoundRobin, frame, icmp_of, tcp_of, tcp6_of, udp_of};
use xsk::BURST_MAX;

/// Turns one worker once, with what waits at its port.
#[track_caller]
fn turn(director: &mut Director, worker: usize) {
    let (worker, now) = (&mut director.workers[worker], director.now);
    let allocations = measure(|| {
        worker.turn(now);
    });
    assert_eq!(allocations.count_total, 0, "allocations");
    assert_eq!(allocations.count_current, 0, "something was freed");
}

/// These packets, in as many turns as they need.
#[track_caller]
fn feed(director: &mut Director, worker: usize, packets: impl IntoIterator<Item = Vec<u8>>) {
    let packets: Vec<_> = packets.into_iter().collect();
    for packets in packets.chunks(BURST_MAX) {
        for packet in packets {
            assert!(director.workers[worker].port_mut().inject(packet));
        }
        turn(director, worker);
        director.workers[worker].port_mut().sent();
    }
    director.check(worker);
}

/// Counts loads without allocating, and chooses the least.
#[derive(Default)]
struct Least {
    loads: [u32; 16],
    servers: usize,
}

impl Scheduler for Least {
    fn servers_changed(&mut self, servers: &[Candidate], _: Millis) -> Result<(), Failure> {
        self.servers = servers.len();
        Ok(())
    }
    fn wants_load(&self) -> bool {
        true
    }
    fn load_changed(&mut self, slot: usize, load: Load) {
        self.loads[slot] = load.active * 256 + load.inactive;
    }
    fn choose(&mut self, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
        let loads = &self.loads[..self.servers];
        (0..loads.len()).min_by_key(|&slot| loads[slot]).ok_or(Failure::Trap)
    }
}

#[test]
fn the_count_is_a_true_one() {
    let allocations = measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(allocations.count_total, 1);
    let kept = std::hint::black_box(Box::new(7));
    assert_eq!(measure(|| drop(kept)).count_current, -1);
}

#[test]
fn flows_come_live_and_end() {
    let mut plan = Plan::standard();
    plan.service(ServiceIndex(0)).removed = false;
    let mut director = Director::with(plan, 1, Capacity { flows_v4: 5_000, flows_v6: 5_000 });
    for flags in ["S", "S", "A", "AP", "FA", "R"] {
        feed(&mut director, 0, (0..3_000).map(|number| tcp_of(number, flags)));
        feed(&mut director, 0, (0..3_000).map(|number| tcp6_of(number, flags)));
    }
    feed(&mut director, 0, (0..1_000).map(udp_of));
    feed(&mut director, 0, (0..200).map(icmp_of));
    assert_eq!(director.counts(0).flows_v4, 4_000);
    // The sweep ends them all.
    for _ in 0..200 {
        director.now += 5_000;
        turn(&mut director, 0);
    }
    assert_eq!(director.counts(0).flows_v4 + director.counts(0).flows_v6, 0);
    // Who goes on is answered, by IPv4 and IPv6.
    feed(&mut director, 0, (0..300).map(|number| tcp_of(number, "A")));
    feed(&mut director, 0, (0..300).map(|number| tcp6_of(number, "A")));
    assert_eq!(director.counts(0).resets, 600);
}

#[test]
fn a_full_table_evicts_and_overflows() {
    let plan = Plan::with_servers(4);
    let mut director = Director::with(plan, 2, Capacity { flows_v4: 0, flows_v6: 0 });
    feed(&mut director, 0, (0..500).map(|number| tcp_of(number, "S")));
    let full = director.handles[0].memory.capacity().flows_v4 as u32;
    assert_eq!(director.counts(0).flows_evicted, u64::from(500 - full));
    feed(&mut director, 0, (0..500).flat_map(|number| [tcp_of(number, "S"), tcp_of(number, "A")]));
    assert_ne!(director.counts(0).overflowed, 0);
    feed(&mut director, 0, (0..500).map(|number| tcp_of(number, "A")));
    assert_ne!(director.counts(0).overflow_followers, 0);
    feed(&mut director, 1, (0..500).map(|number| tcp_of(number, "A")));
}

#[test]
fn every_way_to_be_dropped() {
    let mut director = Director::new(Plan::standard());
    director.workers[0].port_mut().limit_tx_ring(1);
    let packets = [
        frame("ip client > vip / tcp 4000 > 80 S")[..53].to_vec(),
        Vec::new(),
        frame("eth type=0x0806 / data 28"),
        frame("ip client > vip more / udp 4000 > 53"),
        frame("ip client > vip / tcp 4000 > 8080 S"),
        frame("ip client > vip / tcp 4000 > 84 S"),
        frame("ip client > vip / tcp 4000 > 83 S"),
        frame("ip client > vip / tcp 4000 > 80 A"),
        icmp_of(9),
        frame("vlan 6 / ip client > vip / tcp 4000 > 80 S"),
        tcp_of(1, "S"),
        tcp_of(2, "S"),
    ];
    feed(&mut director, 0, packets);
    assert_eq!(director.counts(0).forwarded, 1);
    let reasons = director.counts(0).dropped.iter().filter(|&&count| count != 0).count();
    assert_eq!(reasons, 10, "all but those that take another state of things");
}

#[test]
fn flows_move_between_workers() {
    let plan = Plan::with_servers(4);
    let mut director = Director::with(plan, 3, Capacity { flows_v4: 5_000, flows_v6: 10 });
    for worker in 0..3 {
        director.set_scheduler(worker, ServiceIndex(0), Box::new(Least::default()));
    }
    // More than the rings between workers hold.
    feed(&mut director, 0, (0..3_000).map(|number| tcp_of(number, "S")));
    for worker in [1, 2, 0, 1] {
        feed(&mut director, worker, (0..3_000).map(|number| tcp_of(number, "A")));
        director.now += 300;
    }
    for _ in 0..30 {
        for worker in 0..3 {
            turn(&mut director, worker);
        }
    }
    let adopted: u64 = (0..3).map(|worker| director.counts(worker).flows_adopted).sum();
    assert!(adopted > 3_000, "{adopted}");
}

#[test]
fn updates_are_adopted() {
    let mut director = Director::new(Plan::with_servers(8));
    feed(&mut director, 0, (0..500).map(|number| tcp_of(number, "S")));
    for round in 0..20u16 {
        let member = director.plan.member(ServerIndex(round % 8));
        match round % 4 {
            0 => member.weight = 0,
            1 => member.state = ServerState::Expired,
            2 => member.state = ServerState::Removed,
            _ => member.neighbor = None,
        }
        let scheduler: Box<dyn Scheduler> = if round % 2 == 0 {
            Box::new(Least::default())
        } else {
            Box::new(RoundRobin::default())
        };
        let timeouts = Timeouts { syn_recv: 60 + u32::from(round), ..Timeouts::default() };
        let update = Update {
            table: Some(director.plan.table().into()),
            settings: Some(Settings { timeouts, ..Settings::default() }),
            schedulers: vec![(ServiceIndex(0), Some(Instance::new(scheduler)))],
        };
        assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
        // The update, and packets that meet it, in one turn.
        let numbers = u32::from(round) * 10..u32::from(round) * 10 + 40;
        feed(&mut director, 0, numbers.map(|number| tcp_of(number, "S")));
        turn(&mut director, 0);
        assert!(director.handles[0].mailbox.reap().is_some());
        *director.plan.member(ServerIndex(round % 8)) =
            Plan::with_servers(8).member(ServerIndex(round % 8)).clone();
    }
}

#[test]
fn nobody_takes_updates_back() {
    let mut director = Director::new(Plan::with_servers(2));
    for _ in 0..3 {
        loop {
            let schedulers =
                vec![(ServiceIndex(0), Some(Instance::new(Box::new(RoundRobin::default()))))];
            let update = Update { schedulers, ..Update::default() };
            if director.handles[0].mailbox.send(Box::new(update)).is_err() {
                break;
            }
        }
        turn(&mut director, 0);
    }
}
