//! What a scheduler is told and asked, and what happens when its answer is no use.

use dataplane::{Capacity, DropReason, Failure, Load, Protocol, ServerIndex, ServiceIndex, Update};
use frames::{
    Director, Heard, Plan, Random, RoundRobin, Scripted, Verdict, client_of, frame, mac_of, tcp_of,
    tcp6_of, udp_of,
};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

const WEB: ServiceIndex = ServiceIndex(0);

/// A director with so many servers whose scheduler does as it is told.
fn scripted(servers: u16, scheduler: &Scripted) -> (Director, Arc<dataplane::SchedulerCounters>) {
    let mut director = Director::new(Plan::with_servers(servers));
    let counters = director.set_scheduler(0, WEB, Box::new(scheduler.clone()));
    (director, counters)
}

fn machine_of(verdict: Verdict) -> u16 {
    match verdict {
        Verdict::Forwarded(mac) => (1..200).find(|&machine| mac_of(machine) == mac).unwrap(),
        Verdict::Dropped(reason) => panic!("dropped: {}", reason.name()),
    }
}

/// Where the flow goes that no scheduler chose for.
fn consistent_choice(director: &mut Director, number: u32) -> u16 {
    let failing = Scripted::new(&[Err(Failure::Trap)]);
    director.set_scheduler(0, WEB, Box::new(failing));
    machine_of(director.send(0, &tcp_of(number, "S")))
}

#[test]
fn the_answer_is_the_slot() {
    let scheduler = Scripted::new(&[Ok(2), Ok(0), Ok(1)]);
    let (mut director, counters) = scripted(3, &scheduler);
    let machines = [1, 2, 3].map(|number| machine_of(director.send(0, &tcp_of(number, "S"))));
    assert_eq!(machines, [3, 1, 2]);
    assert_eq!(counters.calls(), 3);
    assert!(Failure::ALL.iter().all(|&reason| counters.failures(reason) == 0));
}

#[test]
fn only_new_flows_are_asked_about() {
    let scheduler = Scripted::new(&[Ok(0)]);
    let (mut director, counters) = scripted(3, &scheduler);
    for flags in ["A", "S", "S", "A", "AP", "FA", "R", "S"] {
        director.send(0, &tcp_of(1, flags));
    }
    assert_eq!(counters.calls(), 2, "the first SYN and the one after the RST");
}

#[test]
fn the_flow_is_described() {
    let scheduler = Scripted::new(&[Ok(0)]);
    let mut director = Director::new(Plan::standard());
    for service in 0..4 {
        director.set_scheduler(0, ServiceIndex(service), Box::new(scheduler.clone()));
    }
    director.send(0, &frame("ip 192.168.100.11 > vip / tcp 4000 > 80 S"));
    director.send(0, &frame("ip6 fd00:1::11 > vip6 / udp 4001 > 53"));
    let script = scheduler.script();
    let asked = &script.lock().unwrap().asked;
    let mapped = |address: [u8; 4]| std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets();
    let (v4, v6) = (asked[0], asked[1]);
    assert_eq!(v4.source, mapped([192, 168, 100, 11]));
    assert_eq!(v4.destination, mapped([172, 17, 100, 100]));
    assert_eq!((v4.source_port, v4.destination_port, v4.protocol), (4000, 80, 6));
    let parsed = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!((v6.source, v6.destination), (parsed("fd00:1::11"), parsed(frames::VIP6)));
    assert_eq!((v6.source_port, v6.destination_port, v6.protocol), (4001, 53, 17));
}

#[test]
fn each_failure_gets_the_consistent_choice_and_is_counted() {
    for (answer, reason) in [
        (Err(Failure::Trap), Failure::Trap),
        (Err(Failure::OutOfFuel), Failure::OutOfFuel),
        (Err(Failure::Declined), Failure::Declined),
        (Ok(5), Failure::OutOfRange),
        (Ok(usize::MAX), Failure::OutOfRange),
        (Ok(4), Failure::Unavailable),
    ] {
        let scheduler = Scripted::new(&[answer]);
        let (mut director, counters) = scripted(5, &scheduler);
        // The fifth server is drained.
        director.plan.member(ServerIndex(4)).weight = 0;
        director.publish();
        for number in 0..20 {
            let chosen = machine_of(director.send(0, &tcp_of(number, "S")));
            let mut other = Director::new(director.plan.clone());
            assert_eq!(chosen, consistent_choice(&mut other, number), "{reason:?}");
            assert_ne!(chosen, 5, "drained");
        }
        // The flows after these are not asked about.
        let ends = matches!(reason, Failure::Trap | Failure::OutOfFuel);
        let expected = if ends { 1 } else { 20 };
        assert_eq!(counters.failures(reason), expected, "{reason:?}");
        let all: u64 = Failure::ALL.iter().map(|&reason| counters.failures(reason)).sum();
        assert_eq!(all, 20, "every flow without an answer of use is counted");
        assert_eq!(counters.calls(), expected);
    }
}

#[test]
fn a_scheduler_out_of_fuel_is_not_asked_again() {
    let scheduler = Scripted::new(&[Ok(0), Err(Failure::OutOfFuel), Ok(0)]);
    let (mut director, counters) = scripted(3, &scheduler);
    director.feed(0, (0..10).map(|number| tcp_of(number, "S")));
    assert_eq!(counters.calls(), 2);
    assert!(counters.is_benched());
    assert_eq!(counters.failures(Failure::OutOfFuel), 1);
    assert_eq!(counters.failures(Failure::Benched), 8);
    assert_eq!(scheduler.script().lock().unwrap().asked.len(), 2);

    // Not after new servers either; but another instance is.
    director.publish();
    director.feed(0, [tcp_of(10, "S")]);
    assert_eq!(counters.calls(), 2);
    let counters = director.set_scheduler(0, WEB, Box::new(RoundRobin::default()));
    director.feed(0, [tcp_of(11, "S")]);
    assert_eq!((counters.calls(), counters.is_benched()), (1, false));
}

#[test]
fn a_scheduler_that_trapped_is_not_asked_again() {
    let scheduler = Scripted::new(&[Ok(0), Err(Failure::Trap), Ok(0)]);
    let (mut director, counters) = scripted(3, &scheduler);
    director.feed(0, (0..10).map(|number| tcp_of(number, "S")));
    assert_eq!(counters.calls(), 2);
    assert_eq!((counters.is_torn(), counters.is_benched()), (true, false));
    assert_eq!(counters.failures(Failure::Trap), 1);
    assert_eq!(counters.failures(Failure::Benched), 8);
}

#[test]
fn other_failures_do_not_bench() {
    let scheduler = Scripted::new(&[Err(Failure::Declined), Ok(9), Ok(1)]);
    let (mut director, counters) = scripted(3, &scheduler);
    director.feed(0, (0..5).map(|number| tcp_of(number, "S")));
    assert_eq!(counters.calls(), 5);
    assert!(!counters.is_benched());
}

#[test]
fn a_scheduler_that_fails_on_its_servers_is_told_once() {
    for failure in [Failure::Trap, Failure::OutOfFuel] {
        let scheduler = Scripted::new(&[Ok(1)]);
        scheduler.script().lock().unwrap().on_servers = Some(failure);
        let (mut director, counters) = scripted(3, &scheduler);
        director.feed(0, (0..4).map(|number| tcp_of(number, "S")));
        assert_eq!(scheduler.script().lock().unwrap().servers_changed, 1);
        assert_eq!(counters.failures(failure), 1);
        assert_eq!(counters.is_benched(), failure == Failure::OutOfFuel);
    }
}

#[test]
fn without_a_scheduler_flows_get_the_consistent_choice() {
    let mut director = Director::new(Plan::with_servers(4));
    director.update(0, Update { schedulers: vec![(WEB, None)], ..Update::default() });
    for number in 0..20 {
        let chosen = machine_of(director.send(0, &tcp_of(number, "S")));
        assert_eq!(machine_of(director.send(0, &tcp_of(number, "A"))), chosen);
        let mut other = Director::new(Plan::with_servers(4));
        assert_eq!(chosen, consistent_choice(&mut other, number));
    }
}

#[test]
fn servers_are_told_at_first_and_when_they_change_only() {
    let scheduler = Scripted::new(&[Ok(0)]);
    let (mut director, _) = scripted(3, &scheduler);
    let script = scheduler.script();
    director.feed(0, (0..5).map(|number| tcp_of(number, "S")));
    assert_eq!(script.lock().unwrap().servers_changed, 1);
    assert_eq!(script.lock().unwrap().weights, [1, 1, 1]);

    director.plan.member(ServerIndex(1)).weight = 7;
    director.plan.member(ServerIndex(2)).neighbor = None;
    director.publish();
    assert_eq!(script.lock().unwrap().servers_changed, 1, "not before it is asked");
    director.feed(0, (5..10).map(|number| tcp_of(number, "S")));
    assert_eq!(script.lock().unwrap().servers_changed, 2);
    assert_eq!(script.lock().unwrap().weights, [1, 7, 0]);
}

#[test]
fn a_new_scheduler_keeps_every_flow_where_it_is() {
    let mut director = Director::new(Plan::with_servers(4));
    let before: Vec<_> =
        (0..100).map(|number| machine_of(director.send(0, &tcp_of(number, "S")))).collect();
    for answer in 0..4 {
        let scheduler = Scripted::new(&[Ok(answer)]);
        director.set_scheduler(0, WEB, Box::new(scheduler.clone()));
        for (number, &machine) in (0..).zip(&before) {
            assert_eq!(machine_of(director.send(0, &tcp_of(number, "A"))), machine);
        }
        assert!(scheduler.script().lock().unwrap().asked.is_empty());
        let new = 1_000 + answer as u32;
        assert_eq!(machine_of(director.send(0, &tcp_of(new, "S"))), answer as u16 + 1);
    }
}

/// Connections of each server on one worker, counted from its flows.
fn recount(director: &Director, worker: usize) -> Vec<Load> {
    let mut loads = vec![Load::default(); usize::from(director.plan.next_server)];
    for flow in director.flows(worker) {
        let load = &mut loads[usize::from(flow.server.0)];
        *(if flow.state.is_active() { &mut load.active } else { &mut load.inactive }) += 1;
    }
    loads
}

/// A packet of a random flow at a random point of its life.
fn random_packet(random: &mut Random, flows: usize) -> Vec<u8> {
    let flags = *random.pick(&["S", "S", "A", "A", "FA", "R", "S", "AP"]);
    tcp_of(random.below(flows) as u32, flags)
}

/// Sends a packet and, if the scheduler was asked, checks what it knew: the flows of all workers
/// but the one that it was asked about.
fn send_and_compare(
    director: &mut Director,
    worker: usize,
    packet: &[u8],
    script: &Mutex<Heard>,
) -> bool {
    let asked = script.lock().unwrap().asked.len();
    let verdict = director.send(worker, packet);
    let heard = script.lock().unwrap();
    if heard.asked.len() == asked {
        return false;
    }
    let mut truth = vec![Load::default(); usize::from(director.plan.next_server)];
    for worker in 0..director.workers.len() {
        for (sum, load) in truth.iter_mut().zip(recount(director, worker)) {
            *sum = *sum + load;
        }
    }
    truth[usize::from(machine_of(verdict) - 1)].inactive -= 1;
    assert_eq!(heard.loads, truth);
    let least = truth.iter().map(|load| load.active).min();
    assert_eq!(Some(truth[usize::from(machine_of(verdict) - 1)].active), least);
    true
}

#[test]
fn the_loads_told_are_the_true_ones() {
    let mut random = Random::new(3);
    let scheduler = Scripted::least_connections();
    let (mut director, counters) = scripted(5, &scheduler);
    let script = scheduler.script();
    let mut asked = 0;
    for _ in 0..5_000 {
        let packet = random_packet(&mut random, 60);
        asked += u64::from(send_and_compare(&mut director, 0, &packet, &script));
        if random.once_in(20) {
            director.pass_long(random.below(30_000) as u64);
        }
    }
    assert!(asked > 500, "{asked}");
    assert_eq!(counters.calls(), asked);
}

#[test]
fn the_loads_of_other_workers_are_told_within_a_millisecond() {
    let mut random = Random::new(4);
    let capacity = Capacity { flows_v4: 200, flows_v6: 1 };
    let mut director = Director::with(Plan::with_servers(5), 3, capacity);
    let schedulers = [(); 3].map(|()| Scripted::least_connections());
    for (worker, scheduler) in schedulers.iter().enumerate() {
        director.set_scheduler(worker, WEB, Box::new(scheduler.clone()));
    }
    let mut asked = 0;
    for _ in 0..5_000 {
        // Every flow has its queue: copies of flows that move are another test's.
        let number = random.below(90) as u32;
        let worker = number as usize % 3;
        let flags = *random.pick(&["S", "A", "A", "FA", "R", "S"]);
        director.now += 1;
        let script = schedulers[worker].script();
        let packet = tcp_of(number, flags);
        asked += u64::from(send_and_compare(&mut director, worker, &packet, &script));
        if random.once_in(20) {
            director.pass_long(random.below(30_000) as u64);
        }
    }
    assert!(asked > 500, "{asked}");
}

#[test]
fn within_one_millisecond_others_are_as_last_read_and_own_flows_are_true() {
    let capacity = Capacity { flows_v4: 200, flows_v6: 1 };
    let mut director = Director::with(Plan::with_servers(2), 2, capacity);
    let scheduler = Scripted::least_connections();
    director.set_scheduler(0, WEB, Box::new(scheduler.clone()));
    let inactive = || -> Vec<u32> {
        scheduler.script().lock().unwrap().loads.iter().map(|load| load.inactive).collect()
    };
    director.send(0, &tcp_of(1, "S"));
    assert_eq!(inactive(), [0, 0]);
    director.feed(1, [tcp_of(11, "S"), tcp_of(12, "S")]);
    director.send(0, &tcp_of(2, "S"));
    assert_eq!(inactive(), [1, 0], "its own flow at once, the others' not yet");
    director.now += 1;
    director.send(0, &tcp_of(3, "S"));
    assert_eq!(inactive(), [3, 1], "flows 1 and 2 on the first server, and one each from worker 1");
    director.send(0, &tcp_of(4, "S"));
    assert_eq!(inactive(), [4, 1], "what changed here is told with what was read of the others");
}

#[test]
fn a_new_scheduler_is_told_all_loads() {
    let mut director = Director::new(Plan::with_servers(3));
    director.feed(0, (0..7).flat_map(|number| [tcp_of(number, "S"), tcp_of(number, "A")]));
    director.feed(0, (7..9).map(|number| tcp_of(number, "S")));
    let scheduler = Scripted::least_connections();
    director.set_scheduler(0, WEB, Box::new(scheduler.clone()));
    director.send(0, &tcp_of(20, "S"));
    let script = scheduler.script();
    let loads = |active, inactive| Load { active, inactive };
    assert_eq!(script.lock().unwrap().loads, [loads(3, 0), loads(2, 1), loads(2, 1)]);
}

#[test]
fn udp_flows_are_active_while_they_live() {
    let mut plan = Plan::default();
    let dns = plan.add_service(frames::VIP, 53, Protocol::Udp);
    let server = plan.add_member(dns, 1, 1);
    let mut director = Director::new(plan);
    director.feed(0, (0..5).map(udp_of));
    assert_eq!(director.load(0, server), Load { active: 5, inactive: 0 });
    director.pass_long(330_000);
    assert_eq!(director.load(0, server), Load::default());
}

#[test]
fn connections_packets_and_bytes_are_counted_by_server() {
    let mut director = Director::new(Plan::with_servers(2));
    let mut bytes = [0; 2];
    for number in 0..10 {
        for flags in ["S", "A", "AP", "R", "S"] {
            let mut packet = tcp_of(number, flags);
            packet.resize(packet.len() + number as usize, 0);
            let machine = machine_of(director.send(0, &packet));
            bytes[usize::from(machine - 1)] += packet.len() as u64;
        }
    }
    let counts = [0, 1].map(|s| director.handles[0].memory.counters().server(ServerIndex(s)));
    assert_eq!(counts.map(|counts| counts.connections).iter().sum::<u64>(), 20);
    assert_eq!(counts.map(|counts| counts.packets).iter().sum::<u64>(), 50);
    assert_eq!(counts.map(|counts| counts.bytes), bytes);
}

#[test]
fn a_drained_service_has_no_server_but_keeps_its_flows() {
    let mut director = Director::new(Plan::with_servers(2));
    let machine = machine_of(director.send(0, &tcp_of(1, "S")));
    for server in [0, 1] {
        director.plan.member(ServerIndex(server)).weight = 0;
    }
    director.publish();
    assert_eq!(machine_of(director.send(0, &tcp_of(1, "A"))), machine);
    assert_eq!(director.send(0, &tcp_of(2, "S")), Verdict::Dropped(DropReason::NoServer));
}

#[test]
fn ipv6_services_are_scheduled_likewise() {
    let mut plan = Plan::default();
    let web = plan.add_service(frames::VIP6, 80, Protocol::Tcp);
    for machine in 1..=3 {
        plan.add_member(web, machine, 1);
    }
    let mut director = Director::new(plan);
    let mut machines = HashSet::new();
    for number in 0..3 {
        machines.insert(machine_of(director.send(0, &tcp6_of(number, "S"))));
        let (client, port) = client_of(number, true);
        assert!(director.flow(0, client, port, Protocol::Tcp).is_some());
    }
    assert_eq!(machines.len(), 3);
}
