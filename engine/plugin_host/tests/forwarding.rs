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
/// What the engine allocates for a trap, and frees at once.
const TRAP_ALLOCATIONS: u64 = 2;
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

/// A plugin that logs, draws, reads the time and counts its flows in what it hands over. From
/// 100 flows on it chooses the second server.
fn busy() -> Plugin {
    let imports = r#"(import "shunt" "log" (func $log (param i32 i32)))
        (import "shunt" "now_ms" (func $now (result i64)))
        (import "shunt" "random" (func $random (result i64)))"#;
    let table = words(64, &[1, 1, 1024, 4096, 40960, 128]);
    let more = words(112, &[256, 8, 1024, 0]);
    let functions = r#"
        (func (export "shunt_schedule") (result i32)
          (call $log (i32.const 64) (i32.const 3))
          (i64.store (i32.const 16) (i64.add (call $now) (call $random)))
          (i32.store (i32.const 260) (i32.add (i32.load (i32.const 260)) (i32.const 1)))
          (i32.ge_u (i32.load (i32.const 260)) (i32.const 100)))
        (func (export "shunt_save") (result i32)
          (i32.store (i32.const 256) (i32.const 1)) (i32.const 8))
        (func (export "shunt_restore") (param i32) (result i32) (i32.const 0))"#;
    load(&module(&[imports, MEMORY, &table, &more, ABI_VERSION, INIT, functions]))
}

#[test]
fn a_swap_with_state_log_and_random_numbers_allocates_nothing() {
    let plugin = busy();
    let mut director = Director::new(&plugin, &[1, 1]);
    assert_eq!(director.syns(1..=99), [Some(0); 99]);
    assert_eq!(director.syns(100..=102), [Some(1); 3]);
    let mut log = None;
    for round in 0..5 {
        let placement = Placement { worker: 0, workers: 1, seed: round };
        let mut prepared = plugin.instantiate(placement, &Params::new()).unwrap();
        let table = service_table(&candidates(&[1, 1]), director.version);
        prepared.instance.prime(table.service(SERVICE).unwrap()).unwrap();
        prepared.instance.inherit();
        let counters = prepared.instance.counters().clone();
        let schedulers = vec![(SERVICE, Some(prepared.instance))];
        let update = Box::new(Update { schedulers, ..Update::default() });
        assert!(director.handle.mailbox.send(update).is_ok());
        for flow in 0..32 {
            let port = 1000 * (round as u16 + 1) + flow;
            assert!(director.worker.port_mut().inject(&packet(port, SYN)));
        }
        let info = measure(|| {
            assert_eq!(director.worker.turn(2000), 32);
        });
        assert_eq!((info.count_total, info.count_current), (0, 0), "round {round}");
        let sent = director.worker.port_mut().sent();
        assert!(sent.iter().all(|packet| packet[5] == 1), "it counts on from where they were");
        assert!(counters.has_inherited());
        let returned = director.handle.mailbox.reap().expect("adopted in one turn");
        assert!(returned.schedulers[0].1.is_some());
        log = Some(prepared.log);
    }
    let mut log = log.unwrap();
    assert_eq!((log.read().len(), log.lost()), (10, 22));
}

/// The one thing that a worker ever allocates: the engine's error, for a call that does not return,
/// once in an instance's life.
#[test]
fn only_a_call_that_does_not_return_allocates() {
    let loops = "(loop (br 0)) (unreachable)";
    for (body, allocates) in [("(unreachable)", true), (loops, true), ("(i32.const -1)", false)] {
        let mut director = Director::new(&load(&schedule(body)), &[1, 1, 1]);
        for (port, first) in [(1, true), (2, false), (3, false)] {
            assert!(director.worker.port_mut().inject(&packet(port, SYN)));
            let info = measure(|| {
                assert_eq!(director.worker.turn(1000), 1);
            });
            assert_eq!(info.count_total != 0, allocates && first, "{body}, flow {port}");
            assert!(info.count_total <= TRAP_ALLOCATIONS && info.count_current == 0, "{info:?}");
            assert_eq!(director.worker.port_mut().sent().len(), 1);
        }
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
