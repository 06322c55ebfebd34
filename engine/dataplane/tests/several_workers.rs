//! Flows that move between queues: they keep their server and are counted once.

use dataplane::{Capacity, DropReason, FlowState, Protocol, ServerIndex};
use frames::{Director, Plan, Random, Verdict, client_of, icmp_of, tcp_of, tcp6_of};
use std::thread;
use xsk::Port;

const SERVERS: u16 = 4;

fn director(queues: usize) -> Director {
    roomy_director(queues, 1_000)
}

fn roomy_director(queues: usize, flows_v4: usize) -> Director {
    let capacity = Capacity { flows_v4, flows_v6: 10 };
    Director::with(Plan::with_servers(SERVERS), queues, capacity)
}

fn server_of(verdict: Verdict) -> [u8; 6] {
    match verdict {
        Verdict::Forwarded(mac) => mac,
        Verdict::Dropped(reason) => panic!("dropped: {}", reason.name()),
    }
}

fn state(director: &Director, worker: usize, number: u32) -> Option<FlowState> {
    let (client, port) = client_of(number, false);
    Some(director.flow(worker, client, port, Protocol::Tcp)?.state)
}

/// Connections over all workers and servers.
fn connections(director: &Director) -> (u32, u32) {
    let mut sum = (0, 0);
    for worker in 0..director.workers.len() {
        for server in (0..SERVERS).map(ServerIndex) {
            let load = director.load(worker, server);
            sum = (sum.0 + load.active, sum.1 + load.inactive);
        }
    }
    sum
}

/// Some flows, so that what round robin would choose next is not what was chosen.
fn begin(director: &mut Director, worker: usize, number: u32) -> [u8; 6] {
    let server = server_of(director.send(worker, &tcp_of(number, "S")));
    assert_eq!(server_of(director.send(worker, &tcp_of(number, "A"))), server);
    server
}

#[test]
fn a_flow_that_moves_keeps_its_server_and_is_counted_once() {
    let mut director = director(2);
    for number in 0..20 {
        let server = begin(&mut director, 0, number);
        assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
        assert_eq!(state(&director, 1, number), Some(FlowState::Established));
        director.turn_all();
        assert_eq!(state(&director, 0, number), None, "the former owner has let go");
        assert_eq!(server_of(director.send(1, &tcp_of(number, "FA"))), server);
        assert_eq!(connections(&director), (0, number + 1));
    }
    director.check(0);
    director.check(1);
    let (first, second) = (director.counts(0), director.counts(1));
    assert_eq!((first.flows_created, first.flows_moved, first.flows_adopted), (20, 20, 0));
    assert_eq!((second.flows_created, second.flows_moved, second.flows_adopted), (0, 0, 20));
}

#[test]
fn an_ipv6_flow_likewise() {
    let mut plan = Plan::default();
    let web = plan.add_service(frames::VIP6, 80, Protocol::Tcp);
    for machine in 1..=SERVERS {
        plan.add_member(web, machine, 1);
    }
    let mut director = Director::with(plan, 2, Capacity { flows_v4: 10, flows_v6: 1_000 });
    for number in 0..20 {
        let server = server_of(director.send(0, &tcp6_of(number, "S")));
        assert_eq!(server_of(director.send(1, &tcp6_of(number, "A"))), server);
        director.turn_all();
    }
    assert_eq!((director.counts(0).flows_v6, director.counts(1).flows_v6), (0, 20));
    assert_eq!(connections(&director), (20, 0));
}

#[test]
fn a_syn_repeated_on_other_queues_goes_to_one_server() {
    let mut director = director(4);
    for number in 0..50 {
        let server = server_of(director.send(number as usize % 4, &tcp_of(number, "S")));
        for worker in [1, 3, 2, 0, 3] {
            assert_eq!(server_of(director.send(worker, &tcp_of(number, "S"))), server);
        }
        assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
    }
    director.turn_all();
    assert_eq!(connections(&director), (50, 0));
    let created: u64 = (0..4).map(|worker| director.counts(worker).flows_created).sum();
    assert_eq!(created, 50);
}

#[test]
fn flows_bounce_without_losing_their_way() {
    let mut random = Random::new(7);
    let mut director = director(3);
    let mut servers = Vec::new();
    for number in 0..40 {
        servers.push(begin(&mut director, number as usize % 3, number));
    }
    for _ in 0..6_000 {
        let number = random.below(40);
        let packet = tcp_of(number as u32, "A");
        assert_eq!(server_of(director.send(random.below(3), &packet)), servers[number]);
        if random.once_in(10) {
            director.now += 50;
        }
    }
    director.turn_all();
    assert_eq!(connections(&director), (40, 0));
    let flows: usize = (0..3).map(|worker| director.flows(worker).len()).sum();
    assert_eq!(flows, 40);
}

#[test]
fn a_worker_whose_clock_is_a_tick_behind_knows_the_flow() {
    let mut director = director(2);
    director.now = 128_000;
    let server = begin(&mut director, 0, 1);
    director.now -= 1;
    assert_eq!(server_of(director.send(1, &tcp_of(1, "A"))), server);
    assert_eq!(director.counts(1).flows_adopted, 1);
}

#[test]
fn more_flows_than_the_ring_holds_move_without_being_counted_twice() {
    const FLOWS: u32 = 3_000;
    let mut director = roomy_director(2, 5_000);
    director.feed(0, (0..FLOWS).map(|number| tcp_of(number, "S")));
    director.feed(0, (0..FLOWS).map(|number| tcp_of(number, "A")));
    assert_eq!(connections(&director), (FLOWS, 0));
    let servers: Vec<_> = director.flows(0).iter().map(|f| (f.source_port, f.server)).collect();

    // All packets arrive at worker 1, while worker 0 has nothing to do and sleeps.
    director.feed(1, (0..FLOWS).map(|number| tcp_of(number, "A")));
    assert_eq!(director.counts(1).forwarded, FLOWS.into());
    assert_eq!(director.counts(1).flows_created, 0);
    let adopted = director.counts(1).flows_adopted;
    assert!(adopted < FLOWS.into(), "the ring is shorter, or this test shows nothing");

    for _ in 0..20 {
        director.turn_all();
        assert!(connections(&director).0 >= FLOWS, "none is forgotten meanwhile");
    }
    assert_eq!(connections(&director), (FLOWS, 0));
    for _ in 0..5 {
        director.feed(1, (0..FLOWS).map(|number| tcp_of(number, "A")));
        for _ in 0..20 {
            director.turn_all();
        }
    }
    assert_eq!(connections(&director), (FLOWS, 0));
    assert_eq!((director.counts(0).flows_v4, director.counts(1).flows_v4), (0, FLOWS.into()));
    let mut moved: Vec<_> = director.flows(1).iter().map(|f| (f.source_port, f.server)).collect();
    moved.sort_unstable();
    let mut servers = servers;
    servers.sort_unstable();
    assert_eq!(moved, servers);
}

/// Worker 0 has more news to read than it does in one turn, and then those of flow 1, which was
/// in the state that these packets brought it to.
fn with_late_news(packets: &[&str]) -> Director {
    let mut director = director(2);
    director.feed(0, (1_000..1_300).flat_map(|n| [tcp_of(n, "S"), tcp_of(n, "A")]));
    begin(&mut director, 0, 1);
    director.feed(0, packets.iter().map(|flags| tcp_of(1, flags)));
    director.feed(1, (1_000..1_300).map(|n| tcp_of(n, "A")));
    director.feed(1, [tcp_of(1, "A")]);
    assert_eq!(director.counts(1).flows_adopted, 301);
    director
}

#[test]
fn late_news_do_not_end_a_newer_flow() {
    let mut director = with_late_news(&["R"]);
    director.now += 200;
    let server = server_of(director.send(0, &tcp_of(1, "S")));
    assert_eq!(state(&director, 0, 1), Some(FlowState::SynRecv), "it began anew");
    assert_eq!(state(&director, 1, 1), Some(FlowState::Close), "of which worker 1 has not heard");
    for _ in 0..5 {
        director.turn_all();
    }
    assert_eq!(state(&director, 1, 1), None, "the older copy gives way");
    assert_eq!(server_of(director.send(0, &tcp_of(1, "A"))), server);
    assert_eq!(connections(&director), (301, 0));
}

#[test]
fn an_expired_copy_does_not_hide_a_living_flow() {
    let mut director = with_late_news(&[]);
    let server = server_of(director.send(1, &tcp_of(1, "A")));
    for _ in 0..3 {
        director.now += 400_000;
        director.feed(1, (1_000..1_300).chain([1]).map(|n| tcp_of(n, "A")));
    }
    // Worker 0 slept all the time: its copy is 1200 s old, and the news of it are the last.
    assert_eq!(server_of(director.send(0, &tcp_of(1, "A"))), server);
}

#[test]
fn all_who_know_a_flow_let_it_go() {
    let mut director = director(3);
    let server = begin(&mut director, 0, 1);
    // Neither worker 0 nor worker 1 turns in between.
    director.now += 200;
    assert_eq!(server_of(director.send(1, &tcp_of(1, "FA"))), server);
    director.now += 200;
    assert_eq!(server_of(director.send(2, &tcp_of(1, "A"))), server);
    assert_eq!(state(&director, 2, 1), Some(FlowState::FinWait), "the newest copy is taken over");
    director.turn_all();
    assert_eq!(connections(&director), (0, 1));
    for worker in 0..3 {
        director.check(worker);
    }
}

#[test]
fn an_icmp_error_on_another_queue_moves_nothing() {
    let mut director = director(2);
    let server = begin(&mut director, 0, 1);
    assert_eq!(server_of(director.send(1, &icmp_of(1))), server);
    assert_eq!(director.counts(1).flows_adopted, 0);
    assert_eq!(director.send(1, &icmp_of(2)), Verdict::Dropped(DropReason::UnknownIcmp));
}

#[test]
fn an_expired_flow_of_another_worker_is_none() {
    let mut director = director(2);
    begin(&mut director, 0, 1);
    director.now += 901_000;
    let unknown = Verdict::Dropped(DropReason::UnknownFlow);
    assert_eq!(director.send(1, &tcp_of(1, "A")), unknown);
    assert_eq!(director.send(1, &icmp_of(1)), Verdict::Dropped(DropReason::UnknownIcmp));
}

#[test]
fn a_closed_connection_reopened_on_another_queue_is_scheduled_anew() {
    let mut director = director(2);
    let first = begin(&mut director, 1, 1);
    director.send(1, &tcp_of(1, "R"));
    // Worker 0 turns from its own first server on, past which one flow of its own takes it.
    begin(&mut director, 0, 2);
    let second = server_of(director.send(0, &tcp_of(1, "S")));
    assert_ne!(second, first);
    director.turn_all();
    assert_eq!(server_of(director.send(1, &tcp_of(1, "A"))), second);
    director.turn_all();
    assert_eq!(connections(&director), (2, 0));
}

#[test]
fn a_full_table_follows_the_flow_where_it_is() {
    let plan = Plan::with_servers(SERVERS);
    let mut director = Director::with(plan, 2, Capacity { flows_v4: 0, flows_v6: 0 });
    let entries = director.handles[0].memory.capacity().flows_v4 as u32;
    director.feed(1, (0..entries).flat_map(|n| [tcp_of(n, "S"), tcp_of(n, "A")]));
    for number in entries..entries + 20 {
        let server = begin(&mut director, 0, number);
        assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
        director.turn_all();
        assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
        assert_eq!(state(&director, 0, number), Some(FlowState::Established));
    }
    assert_eq!(director.counts(1).flows_adopted, 0);
    // Closed there and reopened here, where there is no room: one server all the same.
    for number in entries..entries + 20 {
        director.send(0, &tcp_of(number, "R"));
        let server = server_of(director.send(1, &tcp_of(number, "S")));
        director.turn_all();
        assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
        assert_eq!(server_of(director.send(0, &tcp_of(number, "A"))), server);
    }
}

#[test]
fn a_flow_that_cannot_be_taken_over_lives_as_long_as_it_has_packets() {
    let plan = Plan::with_servers(SERVERS);
    let mut director = Director::with(plan, 2, Capacity { flows_v4: 0, flows_v6: 0 });
    let entries = director.handles[0].memory.capacity().flows_v4 as u32;
    director.feed(1, (0..entries).flat_map(|n| [tcp_of(n, "S"), tcp_of(n, "A")]));
    let flows: Vec<_> = (entries..entries + 20).map(|n| (n, begin(&mut director, 0, n))).collect();
    for _ in 0..40 {
        director.pass_long(100_000);
        director.feed(1, (0..entries).map(|n| tcp_of(n, "A")));
        for &(number, server) in &flows {
            assert_eq!(server_of(director.send(1, &tcp_of(number, "A"))), server);
        }
    }
    director.turn_all();
    assert_eq!((director.counts(0).flows_v4, director.counts(1).flows_adopted), (20, 0));
    for &(number, server) in &flows {
        assert_eq!(server_of(director.send(1, &tcp_of(number, "FA"))), server);
        director.turn_all();
        assert_eq!(state(&director, 0, number), Some(FlowState::FinWait));
    }
    director.check(0);
}

/// Any packet to any queue, but for a pause between a connection's end and the next one's SYN.
#[test]
fn connections_over_three_queues_have_one_server_each() {
    for (seed, flows_v4, flows) in [(1, 1_000, 60), (2, 0, 60), (3, 0, 150), (4, 0, 300)] {
        let mut random = Random::new(seed);
        let mut director = roomy_director(3, flows_v4);
        let mut servers = vec![None; flows];
        for _ in 0..12_000 {
            let number = random.below(flows);
            let worker = random.below(3);
            let mut send =
                |flags: &str| server_of(director.send(worker, &tcp_of(number as u32, flags)));
            match servers[number] {
                None => {
                    let server = send("S");
                    // Established at once: what is half-open may have to go.
                    assert_eq!(send("A"), server, "flow {number} of seed {seed}");
                    servers[number] = Some(server);
                }
                Some(server) if random.once_in(30) => {
                    assert_eq!(send("R"), server, "flow {number} of seed {seed}");
                    servers[number] = None;
                }
                Some(server) => {
                    let flags = *random.pick(&["A", "AP", "A", "S"]);
                    assert_eq!(send(flags), server, "{flags} of flow {number} of seed {seed}");
                }
            }
            director.now += 200;
            if random.once_in(10) {
                director.turn_all();
            }
        }
    }
}

/// Workers on threads of their own, for which no order is certain.
#[test]
fn flows_bounce_between_threads() {
    const FLOWS: u32 = 300;
    const PACKETS: usize = 60_000;
    let mut director = director(3);
    director.feed(0, (0..FLOWS).flat_map(|n| [tcp_of(n, "S"), tcp_of(n, "A")]));
    let mut servers = vec![None; FLOWS as usize];
    for flow in director.flows(0) {
        servers[usize::from(flow.source_port - 1024)] = Some(flow.server);
    }
    let mac_of = |server: ServerIndex| frames::mac_of(server.0 + 1);
    let servers: Vec<_> = servers.into_iter().map(|server| mac_of(server.unwrap())).collect();
    let now = director.now;
    thread::scope(|scope| {
        for (seed, worker) in (1..).zip(&mut director.workers) {
            let servers = &servers;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                for turn in 0..PACKETS / 20 {
                    let flows: Vec<_> = (0..20).map(|_| random.below(servers.len())).collect();
                    for &flow in &flows {
                        assert!(worker.port_mut().inject(&tcp_of(flow as u32, "A")));
                    }
                    worker.turn(now + turn as u64);
                    let sent = worker.port_mut().sent();
                    assert_eq!(sent.len(), flows.len(), "no flow is unknown for a moment");
                    for (flow, sent) in flows.into_iter().zip(sent) {
                        assert_eq!(sent[..6], servers[flow], "flow {flow}");
                    }
                    assert!(worker.port().census().is_conserved());
                }
            });
        }
    });
    director.now += PACKETS as u64;
    for _ in 0..10 {
        director.turn_all();
    }
    assert_eq!(connections(&director), (FLOWS, 0));
    let adopted: u64 = (0..3).map(|worker| director.counts(worker).flows_adopted).sum();
    assert!(adopted > 1_000, "they did bounce: {adopted}");
}
