//! Updates: what the control plane changes while flows go on, and who frees what.

use dataplane::{
    Candidate, DropReason, Failure, Instance, Load, Millis, Neighbor, NewFlow, Protocol, Scheduler,
    ServerIndex, ServerState, ServiceIndex, ServiceTable, Settings, Timeouts, Update,
};
use frames::{Director, Plan, VIP6, Verdict, frame, mac_of, tcp_of, tcp6_of, udp_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const WEB: ServiceIndex = ServiceIndex(0);
const UNKNOWN: Verdict = Verdict::Dropped(DropReason::UnknownFlow);

fn established(director: &mut Director, number: u32) -> Verdict {
    director.send(0, &tcp_of(number, "S"));
    let verdict = director.send(0, &tcp_of(number, "A"));
    assert!(matches!(verdict, Verdict::Forwarded(_)));
    verdict
}

/// The server of the plan behind this verdict, by machine.
fn server_behind(director: &Director, verdict: Verdict) -> ServerIndex {
    let members = director.plan.services.iter().flatten().flat_map(|s| &s.members).flatten();
    let mut matching =
        members.filter(|member| verdict == Verdict::Forwarded(mac_of(member.machine)));
    matching.next().expect("a server").index
}

#[test]
fn weight_0_drains() {
    let mut director = Director::new(Plan::with_servers(2));
    let kept = established(&mut director, 1);
    let server = server_behind(&director, kept);
    director.plan.member(server).weight = 0;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), kept);
    assert_eq!(director.send(0, &tcp_of(1, "S")), kept, "a SYN of an established flow");
    for number in 10..30 {
        assert_ne!(director.send(0, &tcp_of(number, "S")), kept);
    }
    // Its connection is over: the next one goes elsewhere.
    director.send(0, &tcp_of(1, "R"));
    assert_ne!(director.send(0, &tcp_of(1, "S")), kept);
}

/// A client sends its SYN again when nobody answers, and uses its port again when it was refused:
/// neither may wait for a server that has gone down meanwhile.
#[test]
fn a_syn_that_nobody_answered_goes_elsewhere_when_its_server_takes_no_more() {
    let mut ipv6 = Plan::default();
    let service = ipv6.add_service(VIP6, 80, Protocol::Tcp);
    for machine in [1, 2] {
        ipv6.add_member(service, machine, 1);
    }
    for (plan, syn, ack) in [
        (Plan::with_servers(2), tcp_of(1, "S"), tcp_of(1, "A")),
        (ipv6, tcp6_of(1, "S"), tcp6_of(1, "A")),
    ] {
        let mut director = Director::new(plan);
        let first = director.send(0, &syn);
        let server = server_behind(&director, first);
        assert_eq!(director.send(0, &syn), first, "it is as good as ever");
        director.plan.member(server).weight = 0;
        director.publish();
        let second = director.send(0, &syn);
        assert_ne!(second, first);
        assert_eq!(director.load(0, server), Load::default());
        assert_eq!(director.send(0, &ack), second);
        // From here on the connection may be established there.
        let server = server_behind(&director, second);
        director.plan.member(server).weight = 0;
        director.publish();
        assert_eq!(director.send(0, &syn), second);
    }
}

/// Clients behind one address use a port again within seconds, and a flow that was closed is kept
/// for two minutes: a server that drains, or is dead, would get new connections all the while.
#[test]
fn a_port_that_is_used_again_goes_elsewhere_when_its_server_takes_no_more() {
    let mut director = Director::new(Plan::with_servers(2));
    let kept = established(&mut director, 1);
    director.send(0, &tcp_of(1, "FA"));
    let server = server_behind(&director, kept);
    assert_eq!(director.send(0, &tcp_of(1, "S")), kept, "as in IPVS: it is as good as ever");
    director.send(0, &tcp_of(1, "A"));
    director.send(0, &tcp_of(1, "FA"));
    director.plan.member(server).weight = 0;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), kept, "its end is not over");
    assert_ne!(director.send(0, &tcp_of(1, "S")), kept);
    assert_eq!(director.load(0, server), Load::default());
}

#[test]
fn a_syn_that_nobody_answered_stays_where_nobody_else_takes_it() {
    let mut director = Director::new(Plan::with_servers(2));
    let first = director.send(0, &tcp_of(1, "S"));
    for server in [0, 1] {
        director.plan.member(ServerIndex(server)).weight = 0;
    }
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "S")), first);
}

#[test]
fn a_removed_server_keeps_its_flows_until_they_end() {
    let mut director = Director::new(Plan::with_servers(2));
    let kept = established(&mut director, 1);
    let server = server_behind(&director, kept);
    director.plan.member(server).state = ServerState::Removed;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), kept);
    for number in 10..30 {
        assert_ne!(director.send(0, &tcp_of(number, "S")), kept);
    }
    director.pass_long(100_000);
    assert_eq!(director.load(0, server), Load { active: 1, inactive: 0 });
    director.plan.member(server).state = ServerState::Serving;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), kept, "put back, it has its flows again");
    assert!((30..50).any(|number| director.send(0, &tcp_of(number, "S")) == kept));
}

#[test]
fn the_flows_of_an_expired_server_end_with_their_next_packet() {
    let mut plan = Plan::standard();
    for service in [WEB, ServiceIndex(1)] {
        plan.service(service).members[1].as_mut().unwrap().weight = 0;
    }
    let mut director = Director::new(plan);
    let lost = established(&mut director, 1);
    established(&mut director, 2);
    assert_eq!(director.send(0, &udp_of(1)), lost);
    for service in [WEB, ServiceIndex(1)] {
        let members = &mut director.plan.service(service).members;
        members[0].as_mut().unwrap().state = ServerState::Expired;
        members[1].as_mut().unwrap().weight = 1;
    }
    // The packets come in the very turn that adopts the update.
    let table: Arc<ServiceTable> = director.plan.table().into();
    let update = Update { table: Some(table), ..Update::default() };
    assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
    let sent = director.burst(0, &[&tcp_of(1, "A"), &tcp_of(1, "A"), &udp_of(1), &tcp_of(2, "S")]);
    assert_eq!(sent.len(), 2, "UDP and a SYN are scheduled anew at once");
    assert!(sent.iter().all(|packet| packet[..6] == mac_of(2)));
    assert_eq!(director.dropped(0, DropReason::ServerExpired), 1);
    assert_eq!(director.dropped(0, DropReason::UnknownFlow), 1, "the flow has ended");
    assert_eq!(director.counts(0).flows_expired, 3);
}

#[test]
fn the_flows_of_an_expired_server_end_without_a_packet_too() {
    let mut director = Director::new(Plan::with_servers(2));
    director.feed(0, (0..200).flat_map(|number| [tcp_of(number, "S"), tcp_of(number, "A")]));
    director.plan.member(ServerIndex(0)).state = ServerState::Expired;
    director.publish();
    assert_eq!(director.load(0, ServerIndex(0)), Load::default(), "in the turn of the update");
    assert_eq!(director.load(0, ServerIndex(1)), Load { active: 100, inactive: 0 });
    director.check(0);
}

#[test]
fn an_expired_server_on_a_busy_worker_is_cleared_within_a_bounded_number_of_turns() {
    let capacity = dataplane::Capacity { flows_v4: 20_000, flows_v6: 10 };
    let mut director = Director::with(Plan::with_servers(2), 1, capacity);
    director.feed(0, (0..5_000).map(|number| tcp_of(number, "S")));
    director.plan.member(ServerIndex(0)).state = ServerState::Expired;
    let update = Update { table: Some(director.plan.table().into()), ..Update::default() };
    assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
    let buckets = director.handles[0].memory.capacity().flows_v4 / 4;
    // Every turn has a packet, of a flow to the other server; 64 buckets a turn are looked at.
    for _ in 0..=buckets / 64 {
        director.burst(0, &[&tcp_of(1, "S")]);
    }
    assert_eq!(director.load(0, ServerIndex(0)), Load::default());
    assert_eq!(director.load(0, ServerIndex(1)).inactive, 2_500);
}

#[test]
fn a_removed_service_keeps_its_flows_and_takes_no_new_ones() {
    let mut director = Director::new(Plan::standard());
    let kept = established(&mut director, 1);
    let server = server_behind(&director, kept);
    let service = director.plan.service(WEB);
    service.removed = true;
    for member in service.members.iter_mut().flatten() {
        member.state = ServerState::Removed;
    }
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), kept);
    let refused = Verdict::Dropped(DropReason::ServiceRemoved);
    assert_eq!(director.send(0, &tcp_of(2, "S")), refused);
    assert_eq!(director.send(0, &tcp_of(1, "R")), kept);
    assert_eq!(director.send(0, &tcp_of(1, "S")), refused, "its connection is over");

    director.plan.services[0] = None;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), Verdict::Dropped(DropReason::NoService));
    director.pass_long(16_000);
    assert_eq!(director.load(0, server), Load::default());
}

#[test]
fn a_service_that_is_gone_leaves_no_flows() {
    let mut director = Director::new(Plan::standard());
    director.feed(0, (0..50).map(|number| tcp_of(number, "S")));
    director.feed(0, (0..50).map(|number| tcp6_of(number, "S")));
    director.plan.services.clear();
    director.plan.next_server = 0;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), Verdict::Dropped(DropReason::NoService));
    assert_eq!(director.send(0, &tcp6_of(1, "A")), Verdict::Dropped(DropReason::NoService));
    director.pass_long(32_000);
    assert!(director.flows(0).is_empty());
    for server in (0..8).map(ServerIndex) {
        assert_eq!(director.load(0, server), Load::default());
    }
}

#[test]
fn flows_are_never_sent_to_a_stranger_that_got_their_servers_index() {
    // Server 0 of the first service goes, and its index is given away at once, against the rule:
    // to a server of the second service.
    let mut director = Director::new(Plan::standard());
    let syn = frame("ip client > vip / tcp 4000 > 80 S");
    let ack = frame("ip client > vip / tcp 4000 > 80 A");
    assert_eq!(director.send(0, &syn), Verdict::Forwarded(mac_of(1)));
    assert_eq!(director.send(0, &ack), Verdict::Forwarded(mac_of(1)));
    let mut stranger = director.plan.service(WEB).members[0].take().unwrap();
    stranger.machine = 9;
    stranger.neighbor = Some(Neighbor { mac: mac_of(9), vlans: [0, 0] });
    director.plan.service(ServiceIndex(1)).members.push(Some(stranger));
    director.publish();
    let error = frame("ip router > vip / icmp 3 4 / ip vip > client / tcp 80 > 4000 A");
    assert_eq!(director.send(0, &error), Verdict::Dropped(DropReason::UnknownIcmp));
    assert_eq!(director.send(0, &ack), UNKNOWN);
    assert_eq!(director.send(0, &syn), Verdict::Forwarded(mac_of(2)));
}

#[test]
fn a_service_that_moved_to_another_index_is_found_there() {
    let mut director = Director::new(Plan::standard());
    established(&mut director, 1);
    director.plan.services.swap(0, 4);
    director.publish();
    // The packet is for the service of the packet before, whose index is another service's now.
    assert_eq!(director.send(0, &tcp_of(1, "A")), UNKNOWN);
    let Verdict::Forwarded(mac) = director.send(0, &tcp_of(2, "S")) else { panic!("dropped") };
    assert!([mac_of(1), mac_of(2)].contains(&mac));
    director.plan.services[4] = None;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(2, "A")), Verdict::Dropped(DropReason::NoService));
}

#[test]
fn a_server_whose_neighbor_is_lost_gets_nothing_until_it_is_found() {
    let mut director = Director::new(Plan::with_servers(2));
    let kept = established(&mut director, 1);
    let server = server_behind(&director, kept);
    let neighbor = director.plan.member(server).neighbor.take();
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), Verdict::Dropped(DropReason::NoNeighbor));
    for number in 10..20 {
        assert!(matches!(director.send(0, &tcp_of(number, "S")), Verdict::Forwarded(_)));
    }
    director.plan.member(server).neighbor = neighbor;
    director.publish();
    assert_eq!(director.send(0, &tcp_of(1, "A")), kept, "the flow is still there");
}

#[test]
fn a_changed_mac_address_or_vlan_is_followed() {
    let mut director = Director::new(Plan::with_servers(1));
    established(&mut director, 1);
    for (mac, vlans, packet) in [
        (mac_of(77), [0, 0], tcp_of(1, "A")),
        (mac_of(78), [5, 0], frame("vlan 5 / ip 10.0.0.1 > vip / tcp 1025 > 80 A")),
        (mac_of(79), [5, 6], frame("vlan 5 / vlan 6 / ip 10.0.0.1 > vip / tcp 1025 > 80 A")),
    ] {
        director.plan.member(ServerIndex(0)).neighbor = Some(Neighbor { mac, vlans });
        director.publish();
        assert_eq!(director.send(0, &packet), Verdict::Forwarded(mac));
    }
    assert_eq!(director.send(0, &tcp_of(1, "A")), Verdict::Dropped(DropReason::OtherVlan));
}

#[test]
fn timeouts_and_the_table_change_together() {
    let mut director = Director::new(Plan::with_servers(1));
    established(&mut director, 1);
    director.now += 5_000;
    let timeouts = Timeouts { established: 1, ..Timeouts::default() };
    let settings = Some(Settings { timeouts, ..Settings::default() });
    let table = Some(Arc::new(director.plan.table()));
    director.update(0, Update { table, settings, ..Update::default() });
    assert_eq!(director.send(0, &tcp_of(1, "A")), UNKNOWN);
}

#[test]
fn what_is_replaced_comes_back() {
    let mut director = Director::new(Plan::with_servers(1));
    let first = Arc::new(director.plan.table());
    let second = Arc::new(director.plan.table());
    let put =
        |table: &Arc<ServiceTable>| Update { table: Some(table.clone()), ..Update::default() };
    director.update(0, put(&first));
    let returned = director.update(0, put(&second));
    assert!(Arc::ptr_eq(returned.table.as_ref().unwrap(), &first));
    assert_eq!(Arc::strong_count(&second), 2, "the worker's and this one");
    drop(returned);
    assert_eq!(Arc::strong_count(&first), 1);

    let schedulers = vec![(WEB, None), (ServiceIndex(u16::MAX), None)];
    let returned = director.update(0, Update { schedulers, ..Update::default() });
    assert!(returned.schedulers[0].1.is_some(), "the instance that was in use");
    assert!(returned.schedulers[1].1.is_none());
}

/// Counts how many of it are alive.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn instance(alive: &Arc<AtomicUsize>) -> Box<Instance> {
        alive.fetch_add(1, Relaxed);
        Instance::new(Box::new(Counted(alive.clone())))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Scheduler for Counted {
    fn servers_changed(&mut self, _: &[Candidate], _: Millis) -> Result<(), Failure> {
        Ok(())
    }
    fn wants_load(&self) -> bool {
        true
    }
    fn load_changed(&mut self, _: usize, _: Load) {}
    fn choose(&mut self, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
        Ok(0)
    }
}

#[test]
fn a_worker_never_drops_an_update_or_what_it_replaced() {
    let alive = Arc::new(AtomicUsize::new(0));
    let mut director = Director::new(Plan::with_servers(1));
    let (mut sent, mut returned) = (0, 0);
    for round in 0..10 {
        // As many as the mailbox takes, for a service that exists and one that cannot.
        loop {
            let mut schedulers = Vec::with_capacity(2);
            for service in [WEB, ServiceIndex(u16::MAX)] {
                schedulers.push((service, Some(Counted::instance(&alive))));
            }
            let update = Update { schedulers, ..Update::default() };
            match director.handles[0].mailbox.send(Box::new(update)) {
                Ok(()) => sent += 1,
                Err(update) => {
                    assert_eq!(update.schedulers.len(), 2, "a full mailbox gives it back");
                    break;
                }
            }
        }
        // Turns without anyone who takes back what was replaced: what cannot go back waits.
        let before = alive.load(Relaxed);
        for _ in 0..5 {
            director.burst(0, &[&tcp_of(round, "S")]);
        }
        assert_eq!(alive.load(Relaxed), before, "nothing is dropped by a turn");
        while let Some(update) = director.handles[0].mailbox.reap() {
            returned += 1;
            drop(update);
        }
    }
    assert!(sent > 100);
    // A turn swaps only so many schedulers.
    for _ in 0..20 {
        director.turn_all();
        while director.handles[0].mailbox.reap().is_some() {
            returned += 1;
        }
    }
    assert_eq!(returned, sent, "every update comes back once");
    assert_eq!(alive.load(Relaxed), 1, "the instance in use");
    drop(director);
    assert_eq!(alive.load(Relaxed), 0);
}

#[test]
fn updates_take_effect_in_order() {
    let mut director = Director::new(Plan::with_servers(3));
    for weights in [[1, 0, 0], [0, 1, 0], [0, 0, 1]] {
        for (server, weight) in (0..).zip(weights) {
            director.plan.member(ServerIndex(server)).weight = weight;
        }
        let update = Update { table: Some(director.plan.table().into()), ..Update::default() };
        assert!(director.handles[0].mailbox.send(Box::new(update)).is_ok());
    }
    assert_eq!(director.send(0, &tcp_of(1, "S")), Verdict::Forwarded(mac_of(3)));
    assert_eq!(director.counts(0).updates, 3 + 2, "two were the director's own");
}

#[test]
#[should_panic(expected = "two services are")]
fn two_services_of_one_key_are_refused() {
    let mut plan = Plan::with_servers(1);
    plan.add_service(frames::VIP, 80, Protocol::Tcp);
    plan.table();
}

#[test]
#[should_panic(expected = "slots")]
fn more_servers_than_a_scheduler_can_see_are_refused() {
    Plan::with_servers(1025).table();
}
