//! Plugins inside a worker that forwards: what becomes of flows when a plugin is good, bad or
//! replaced.

mod common;

use allocation_counter::measure;
use common::*;
use dataplane::{
    Candidate, Capacity, ConsistentTable, Failure, Handle, Neighbor, Protocol, SchedulerCounters,
    Seeds, Server, ServerIndex, ServerState, Service, ServiceIndex, ServiceKey, ServiceTable,
    Update, Worker, workers,
};
use plugin_host::{Params, Placement, Plugin};
use std::net::Ipv4Addr;
use std::sync::Arc;
use xsk::MemoryPort;

const DIRECTOR: [u8; 6] = [2, 0, 0, 0, 0, 3];
const VIP: [u8; 4] = [172, 17, 100, 100];
const SERVICE: ServiceIndex = ServiceIndex(0);
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A worker with one virtual service, and what the control thread keeps of it.
struct Director {
    worker: Worker<MemoryPort>,
    handle: Handle,
    version: u64,
}

impl Director {
    fn new(plugin: &Plugin, weights: &[u32]) -> Director {
        let port = MemoryPort::new(DIRECTOR, 256);
        let capacity = Capacity { flows_v4: 4096, flows_v6: 1 };
        let (worker, handle) = workers(vec![port], capacity, Seeds([1, 2])).unwrap().pop().unwrap();
        let mut director = Director { worker, handle, version: 0 };
        director.set_weights(weights);
        director.set_plugin(plugin);
        director
    }

    fn update(&mut self, update: Update) {
        assert!(self.handle.mailbox.send(Box::new(update)).is_ok());
        self.worker.turn(1000);
        assert!(self.handle.mailbox.reap().is_some());
    }

    fn set_weights(&mut self, weights: &[u32]) {
        self.version += 1;
        let table = service_table(&candidates(weights), self.version);
        self.update(Update { table: Some(Arc::new(table)), ..Update::default() });
    }

    fn set_plugin(&mut self, plugin: &Plugin) -> Arc<SchedulerCounters> {
        let prepared = plugin
            .instantiate(Placement { worker: 0, workers: 1, seed: 0 }, &Params::new())
            .unwrap();
        let counters = prepared.instance.counters().clone();
        let schedulers = vec![(SERVICE, Some(prepared.instance))];
        self.update(Update { schedulers, ..Update::default() });
        counters
    }

    /// Sends a packet of the flow from this port, and returns the slot of its server.
    fn send(&mut self, port: u16, flags: u8) -> Option<usize> {
        assert!(self.worker.port_mut().inject(&packet(port, flags)));
        self.worker.turn(1000);
        let sent = self.worker.port_mut().sent();
        assert!(sent.len() <= 1);
        sent.first().map(|packet| usize::from(packet[5]))
    }

    fn syns(&mut self, ports: impl Iterator<Item = u16>) -> Vec<Option<usize>> {
        ports.map(|port| self.send(port, SYN)).collect()
    }
}

fn service_table(candidates: &[Candidate], version: u64) -> ServiceTable {
    let slots = 0..candidates.len() as u16;
    let service = Service {
        key: ServiceKey { address: VIP.into(), port: 80, protocol: Protocol::Tcp },
        servers: slots.clone().map(|slot| Some(ServerIndex(slot))).collect(),
        candidates: candidates.to_vec(),
        version,
        consistent: Arc::new(ConsistentTable::new(candidates)),
        removed: false,
    };
    let servers = slots.map(|slot| {
        Some(Server {
            service: SERVICE,
            slot,
            address: candidates[usize::from(slot)].address,
            state: ServerState::Serving,
            neighbor: Some(Neighbor { mac: [2, 0, 0, 0, 1, slot as u8], vlans: [0, 0] }),
        })
    });
    ServiceTable::new(vec![Some(service)], servers.collect())
}

/// A TCP packet to port 80 of the VIP.
fn packet(port: u16, flags: u8) -> Vec<u8> {
    let mut packet = vec![0; 60];
    packet[..6].copy_from_slice(&DIRECTOR);
    packet[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 8, 0]);
    packet[14..26].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    packet[26..30].copy_from_slice(&Ipv4Addr::new(192, 168, 100, 11).octets());
    packet[30..34].copy_from_slice(&VIP);
    packet[34..36].copy_from_slice(&port.to_be_bytes());
    packet[36..38].copy_from_slice(&80u16.to_be_bytes());
    packet[46] = 0x50;
    packet[47] = flags;
    packet
}

fn stock(name: &str) -> Plugin {
    host().stock(name).unwrap()
}

#[test]
fn round_robin_alternates() {
    let mut director = Director::new(&stock("rr"), &[1, 1]);
    let choices = director.syns(1..=6);
    assert_eq!(choices, [0, 1, 0, 1, 0, 1].map(Some));
    director.set_weights(&[1, 0]);
    assert_eq!(director.syns(7..=9), [Some(0); 3]);
}

#[test]
fn least_connection_sees_the_flows_that_it_made() {
    let mut director = Director::new(&stock("lc"), &[1, 1, 1]);
    assert_eq!(director.syns(1..=6), [0, 1, 2, 0, 1, 2].map(Some));
    // An established flow outweighs many half-open ones.
    assert_eq!(director.send(1, ACK), Some(0));
    assert_eq!(director.syns(7..=10), [1, 2, 1, 2].map(Some));
}

#[test]
fn weighted_round_robin_follows_the_weights() {
    let mut director = Director::new(&stock("wrr"), &[3, 1]);
    assert_eq!(director.syns(1..=8), [0, 0, 0, 1, 0, 0, 0, 1].map(Some));
}

#[test]
fn flows_stay_where_they_are_when_the_plugin_is_replaced() {
    let mut director = Director::new(&stock("rr"), &[1, 1, 1]);
    let before = director.syns(1..=30);
    for name in ["lc", "wrr", "rr", "lc"] {
        director.set_plugin(&stock(name));
        let after: Vec<_> = (1..=30).map(|port| director.send(port, ACK)).collect();
        assert_eq!(after, before, "{name}");
    }
}

#[test]
fn a_plugin_that_loops_is_benched_and_its_flows_are_forwarded() {
    let mut director = Director::new(&stock("rr"), &[1, 1, 1]);
    let counters = director.set_plugin(&load(&schedule("(loop (br 0)) (unreachable)")));
    let choices = director.syns(1..=20);
    assert!(choices.iter().all(Option::is_some), "{choices:?}");
    assert!(counters.is_benched());
    assert_eq!(counters.failures(Failure::OutOfFuel), 1);
    assert_eq!(counters.failures(Failure::Benched), 19);
    assert_eq!(counters.calls(), 1);
}

#[test]
fn a_plugin_that_loops_in_update_is_benched_too() {
    let mut director = Director::new(&stock("rr"), &[1, 1, 1]);
    let update = r#"(func (export "shunt_update") (loop (br 0)))"#;
    let counters = director.set_plugin(&load(&plugin(&format!("{SCHEDULE} {update}"))));
    assert!(director.syns(1..=5).iter().all(Option::is_some));
    assert_eq!(counters.failures(Failure::OutOfFuel), 1);
    assert_eq!(counters.failures(Failure::Benched), 4);
}

#[test]
fn a_plugin_that_traps_is_torn_and_a_fresh_instance_takes_its_place() {
    let trapping = load(&plugin(
        r#"(global $calls (mut i32) (i32.const 0))
           (func (export "shunt_schedule") (result i32)
             (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
             (if (i32.gt_u (global.get $calls) (i32.const 3)) (then (unreachable)))
             (i32.const 1))"#,
    ));
    let mut director = Director::new(&trapping, &[1, 1, 1]);
    let counters = director.set_plugin(&trapping);
    let choices = director.syns(1..=20);
    assert!(choices.iter().all(Option::is_some), "{choices:?}");
    assert_eq!((counters.is_torn(), counters.is_benched()), (true, false));
    assert_eq!(counters.failures(Failure::Trap), 1);
    assert_eq!(counters.failures(Failure::Benched), 16);
    assert_eq!(counters.calls(), 4);
    let counters = director.set_plugin(&trapping);
    assert_eq!(director.syns(100..=102), [Some(1); 3]);
    assert_eq!((counters.is_torn(), counters.calls()), (false, 3));
}

#[test]
fn other_failures_are_counted_flow_by_flow() {
    let cases = [
        ("(i32.const -1)", Failure::Declined),
        ("(memory.grow (i32.const 1))", Failure::Declined),
        ("(i32.const -5)", Failure::OutOfRange),
        ("(i32.const 3)", Failure::OutOfRange),
        ("(i32.const 999999)", Failure::OutOfRange),
        ("(i32.const 1)", Failure::Unavailable), // drained
    ];
    let mut director = Director::new(&stock("rr"), &[1, 0, 1]);
    for ((body, reason), first) in cases.into_iter().zip((0..).step_by(100)) {
        let counters = director.set_plugin(&load(&schedule(body)));
        let choices = director.syns(first..first + 10);
        // The fallback chooses of those that take new flows.
        assert!(choices.iter().all(|choice| matches!(choice, Some(0 | 2))), "{body}: {choices:?}");
        for counted in Failure::ALL {
            let expected = if counted == reason { 10 } else { 0 };
            assert_eq!(counters.failures(counted), expected, "{body}: {}", counted.name());
        }
        assert_eq!(counters.calls(), 10);
    }
}

#[test]
fn a_worker_that_schedules_allocates_nothing() {
    for name in plugin_host::STOCK {
        let mut director = Director::new(&stock(name), &[1, 2, 3]);
        director.send(9999, SYN);
        for burst in 0..20 {
            for flow in 0..32 {
                let port = burst * 32 + flow;
                assert!(director.worker.port_mut().inject(&packet(port, SYN)));
            }
            let info = measure(|| {
                assert_eq!(director.worker.turn(1000), 32);
            });
            assert_eq!(info.count_total, 0, "{name}, burst {burst}");
            assert_eq!(director.worker.port_mut().sent().len(), 32);
        }
    }
}
