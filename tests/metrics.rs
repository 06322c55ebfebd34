//! Every documented counter counts: each is raised by a packet or a fault at least once.
//!
//! A running director gets all that the network and an operator can do to it. What no packet can
//! bring about while the XDP program stands before it, and faults of a plugin, happen to the same
//! control plane over queues in memory.

mod common;

use common::in_process::{block_on, resolve, supervise};
use common::metrics::Metrics;
use common::{DNS, HTTP, PATIENCE, Site, http, service, wait_for_list};
use dataplane::{Capacity, DropReason, Failure, Seeds};
use director::metrics::{Kind, METRICS};
use director::seats::{ServedInterface, WorkerSeat};
use director::{clock, exposition};
use lab::{
    Config, Director, Family, NIC, Plan, VirtualService, Wire, get_once, real_server_address, vip,
    wait_until,
};
use nix::sys::signal::Signal;
use plugin_host::Limits;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use xsk::{InterfaceOptions, MemoryPort, PassKind};

/// What no test of the whole can raise, and where it is raised.
const ELSEWHERE: [(&str, &str); 15] = [
    ("shunt_server_checks_total ok", "health.rs beside this: here nobody is checked"),
    ("shunt_server_checks_total failed", "the same"),
    ("shunt_server_checks_total unable", "health_checks.rs: the director lacks descriptors"),
    ("shunt_vip_announcements_total", "vips.rs beside this: here the VIP is there already"),
    ("shunt_vip_claims_unnamed_total", "the same: somebody makes MAC addresses up"),
    ("shunt_server_mac_changes_total", "neighbors.rs beside this: a machine is replaced"),
    ("shunt_task_restarts_total", "neighbors.rs beside this: only a mistake in shunt could"),
    ("shunt_queue_rx_invalid_descriptors_total", "only a fault in engine/xsk could"),
    ("shunt_queue_tx_invalid_descriptors_total", "only a fault in engine/xsk could"),
    ("shunt_plugin_fallbacks_total trap", "gallery.rs beside this: stock plugins do not trap"),
    ("shunt_plugin_fallbacks_total out_of_range", "the same: nor do they miss the table"),
    ("shunt_plugin_fallbacks_total unavailable", "the same: nor choose who takes none"),
    ("shunt_plugin_fallbacks_total declined", "engine/dataplane: rr declines for nobody"),
    ("shunt_plugin_rollbacks_total automatic", "gallery.rs: stock plugins stay"),
    ("shunt_plugin_rollbacks_total manual", "plugins.rs: they are the first of their names"),
];

/// What is raised when the director is stopped while most of its frames are on their way out,
/// which nobody can time. engine/xsk/tests/netns/forwarding.rs raises it with fewer frames.
const BY_CHANCE: [&str; 3] = [
    "shunt_queue_rx_dropped_total",
    "shunt_queue_fill_ring_empty_total",
    "shunt_worker_fill_ring_empty_total",
];

/// Entries of each flow table.
const FLOWS: u32 = 10_000;

#[test]
fn every_counter_is_raised_by_a_packet_or_a_fault() {
    let mut raised = by_a_running_director();
    raised.extend(by_queues_in_memory());
    let mut missing = documented();
    missing.retain(|counter| !raised.contains(counter) && !BY_CHANCE.contains(&counter.as_str()));
    let expected: BTreeSet<String> = ELSEWHERE.iter().map(|(name, _)| (*name).into()).collect();
    assert_eq!(missing, expected, "counters that nothing has raised, and those that nothing can");
}

/// The counters, with their reasons or kinds where they have such.
fn documented() -> BTreeSet<String> {
    let counters = METRICS.iter().filter(|metric| metric.kind == Kind::Counter);
    counters
        .flat_map(|metric| {
            let kinds: Vec<&str> = match metric.name {
                "shunt_worker_packets_dropped_total" => {
                    DropReason::ALL.iter().map(|reason| reason.name()).collect()
                }
                "shunt_interface_packets_passed_total" => {
                    PassKind::ALL.iter().map(|kind| kind.name()).collect()
                }
                "shunt_plugin_fallbacks_total" => {
                    Failure::ALL.iter().map(|reason| reason.name()).collect()
                }
                "shunt_config_reloads_total" => vec!["ok", "failed"],
                "shunt_server_checks_total" => vec!["ok", "failed", "unable"],
                "shunt_plugin_rollbacks_total" => vec!["automatic", "manual"],
                _ => return vec![metric.name.to_owned()],
            };
            kinds.into_iter().map(|kind| format!("{} {kind}", metric.name)).collect()
        })
        .collect()
}

/// Those that are not zero, named likewise.
fn not_zero(metrics: &Metrics) -> BTreeSet<String> {
    let raised = metrics.samples.iter().filter(|sample| sample.value > 0.0);
    raised
        .map(|sample| {
            let kind = ["reason", "kind", "result"].iter().find_map(|l| sample.labels.get(*l));
            kind.map_or(sample.name.clone(), |kind| format!("{} {kind}", sample.name))
        })
        .collect()
}

/// A running director and the wire to it.
struct Rig {
    director: Director,
    site: Site,
    config: Config,
    wire: Wire,
}

fn tcp(port: u16) -> VirtualService {
    let mut service = service("tcp", Family::V4, "rr", 2);
    service.address.set_port(port);
    service
}

fn by_a_running_director() -> BTreeSet<String> {
    let site = Site::build(Plan::new("metrics").queues(3), &[Family::V4]);
    // One queue of three is not there at first.
    site.topology.switch.channels("director", 2, 2).unwrap();
    site.topology.director.channels(NIC, 2, 2).unwrap();
    let mut config = Config::of(vec![tcp(HTTP), tcp(81), service("udp", Family::V4, "lc", 2)]);
    config.top = format!("flows = {FLOWS}\n[timeouts]\nudp = 1\n");
    let director = site.start(&config);
    let wire = Wire::open(&site.topology.switch, "director").unwrap();
    let rig = Rig { director, site, config, wire };

    rig.steer(0);
    get_once(&rig.site.topology.client, http(Family::V4), "/").unwrap();
    rig.passed_by_the_program();
    rig.dropped_by_a_worker();
    rig.a_flow_changes_queues();
    rig.neighbors_and_servers_go();
    rig.reloads();
    rig.the_table_is_full();
    rig.the_director_is_stopped_for_a_while();
    let mut raised = not_zero(&rig.metrics());
    raised.extend(rig.queues_without_workers());
    raised
}

impl Rig {
    /// A packet as the router would send it.
    fn send(&self, text: &str) {
        self.send_frame(&frames::frame(text));
    }

    fn send_frame(&self, frame: &[u8]) {
        // A full queue on the way loses it, as on any network.
        let _ = self.wire.send_to(lab::director_mac(), lab::router_mac(), frame);
    }

    fn metrics(&self) -> Metrics {
        Metrics::fetch(&self.site.topology.director)
    }

    /// Waits until a counter, with this reason or kind, is not zero.
    fn wait_for(&self, counter: &str) {
        self.go_on_until(counter, || {});
    }

    /// Repeats something until a counter is not zero.
    fn go_on_until(&self, counter: &str, mut again: impl FnMut()) {
        wait_until(PATIENCE, counter, || {
            again();
            not_zero(&self.metrics()).contains(counter)
        })
        .unwrap_or_else(|e| panic!("{e}\n{}", self.metrics().text));
    }

    /// Sends a packet that a worker drops for this reason, until one is: any may be lost.
    fn send_until_dropped(&self, text: &str, reason: DropReason) {
        let counter = format!("shunt_worker_packets_dropped_total {}", reason.name());
        self.go_on_until(&counter, || self.send(text));
    }

    /// Lets packets arrive on this queue of the director.
    fn steer(&self, queue: usize) {
        common::steer(&self.site.topology, 2, queue);
    }

    fn passed_by_the_program(&self) {
        let (vip, own) = (vip(Family::V4), lab::director_address(Family::V4));
        self.send("eth type=0x88cc / data 60");
        self.send(&format!("ip client > {own} / udp 9 > 9 / data 20"));
        self.send("ip client > vip / udp 4000 > 99 / data 20");
        self.send("ip client > vip more / udp 4000 > 53 / data 24");
        self.send("keep 12 / ip client > vip / udp 4000 > 53");
        let frame = frames::frame("ip client > vip / udp 4000 > 53 / data 20");
        for to in [[1, 0, 0x5e, 0, 0, 1], [2, 9, 9, 9, 9, 9]] {
            self.wire.send_to(to, lab::router_mac(), &frame).unwrap();
        }
        self.site.topology.router.ip(&format!("neigh flush {vip}")).unwrap();
        let flushed = get_once(&self.site.topology.client, http(Family::V4), "/");
        assert!(flushed.is_ok(), "the router has asked who has the VIP: {flushed:?}");
        self.wait_for("shunt_interface_packets_passed_total arp");
    }

    fn dropped_by_a_worker(&self) {
        self.send_until_dropped(
            "ip client > vip / keep 8 / tcp 4000 > 80 S",
            DropReason::Malformed,
        );
        self.send_until_dropped("ip client > vip / tcp 4001 > 80 A", DropReason::UnknownFlow);
        self.send_until_dropped(
            "ip router > vip / icmp 3 4 / ip vip > client / tcp 80 > 4002 A",
            DropReason::UnknownIcmp,
        );
        self.send_until_dropped(
            "ip router > vip / icmp 3 4 / ip vip > client / tcp 79 > 4002 A",
            DropReason::NoService,
        );
        self.send_until_dropped(
            "vlan 5 / ip client > vip / tcp 4003 > 80 S",
            DropReason::OtherVlan,
        );
        for weight in [0, 1] {
            for number in [1, 2] {
                let (service, address) =
                    (tcp(HTTP).name(), real_server_address(number, Family::V4));
                let words = format!("server set {service} {address} --weight {weight}");
                self.director.shunt(&words).unwrap();
            }
            if weight == 0 {
                self.send_until_dropped("ip client > vip / tcp 4004 > 80 S", DropReason::NoServer);
            }
        }
    }

    fn a_flow_changes_queues(&self) {
        self.go_on_until("shunt_worker_flows_moved_total", || {
            for queue in [0, 1, 0] {
                self.steer(queue);
                for flow in 0..50 {
                    self.send_frame(&frames::tcp_of(flow, if queue == 0 { "S" } else { "A" }));
                }
            }
        });
        self.wait_for("shunt_worker_flows_adopted_total");
        let mut ports = 4000..;
        self.go_on_until("shunt_worker_flows_expired_total", || {
            let port = ports.next().unwrap();
            self.send(&format!("ip client > vip / udp {port} > {DNS} / data 20"));
        });
    }

    fn neighbors_and_servers_go(&self) {
        (0..1_000).for_each(|flow| self.send_frame(&frames::tcp_of(flow, "S")));
        let route = "172.17.100.0/24 dev eth0 src 172.17.100.3";
        self.site.topology.director.ip(&format!("route del {route}")).unwrap();
        self.go_on_until("shunt_worker_packets_dropped_total no_neighbor", || {
            (0..100).for_each(|flow| self.send_frame(&frames::tcp_of(flow, "A")));
        });
        self.site.topology.director.ip(&format!("route add {route}")).unwrap();
        wait_for_list(&self.director, "the real servers are reachable again", |services| {
            let mut servers = services.iter().flat_map(|service| &service.servers);
            servers.all(|server| server.neighbor == "reachable")
        });
        let (service, address) = (tcp(HTTP).name(), real_server_address(2, Family::V4));
        let mut first = 0;
        self.go_on_until("shunt_worker_packets_dropped_total server_expired", || {
            if first > 0 {
                self.director.shunt(&format!("server add {service} {address}")).unwrap();
            }
            // Others each time: those that lost this server have the other one now.
            let flows = first..first + 1_000;
            first = flows.end;
            flows.clone().for_each(|flow| self.send_frame(&frames::tcp_of(flow, "S")));
            let command = format!("server remove {service} {address} --expire");
            self.expire_under_load(flows, &command);
        });
    }

    /// Packets come while the flows of the expired server are being swept. A worker that finds
    /// time to sweep before the next packet leaves none to be refused for this reason.
    fn expire_under_load(&self, flows: Range<u32>, command: &str) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    flows.clone().for_each(|flow| self.send_frame(&frames::tcp_of(flow, "A")));
                }
            });
            let removed = self.director.shunt(command);
            done.store(true, Relaxed);
            removed.unwrap();
        });
    }

    fn reloads(&self) {
        self.send("ip client > vip / tcp 4005 > 81 S");
        self.send("ip client > vip / tcp 4005 > 81 A");
        let mut config = self.config.clone();
        config.services.remove(1);
        self.director.reload(&config).unwrap();
        self.wait_for("shunt_config_reloads_total ok");
        self.send_until_dropped("ip client > vip / tcp 4006 > 81 S", DropReason::ServiceRemoved);
        self.director.write_config("no config").unwrap();
        self.director.process().signal(Signal::SIGHUP).unwrap();
        self.wait_for("shunt_config_reloads_total failed");
    }

    fn the_table_is_full(&self) {
        let next = Cell::new(0);
        let fresh = || {
            let first = next.replace(next.get() + FLOWS);
            first..first + FLOWS
        };
        self.go_on_until("shunt_worker_flows_evicted_total", || {
            fresh().for_each(|flow| self.send_frame(&frames::tcp_of(flow, "S")));
        });
        self.go_on_until("shunt_worker_overflow_packets_total", || {
            for flow in fresh() {
                self.send_frame(&frames::tcp_of(flow, "S"));
                self.send_frame(&frames::tcp_of(flow, "A"));
            }
        });
        self.go_on_until("shunt_worker_overflow_follower_packets_total", || {
            fresh().for_each(|flow| self.send_frame(&frames::tcp_of(flow, "A")));
        });
    }

    /// Packets come faster than they are taken.
    fn the_director_is_stopped_for_a_while(&self) {
        let blast = |count| (0..count).for_each(|flow| self.send_frame(&frames::tcp_of(flow, "A")));
        let stopped = || {
            self.director.process().signal(Signal::SIGSTOP).unwrap();
            blast(10_000);
            self.director.process().signal(Signal::SIGCONT).unwrap();
        };
        self.go_on_until("shunt_queue_rx_ring_full_total", stopped);
        // It finds full rings, and more comes.
        self.go_on_until("shunt_interface_packets_shed_total", || {
            stopped();
            blast(10_000);
        });
    }

    /// Queues whose workers have gone, and their sockets with them.
    fn queues_without_workers(self) -> BTreeSet<String> {
        self.director.stop(PATIENCE).unwrap();
        let Rig { site, wire, config, .. } = self;
        let topology = &site.topology;
        let watch = || {
            let opened = xsk::open(&InterfaceOptions::new(NIC)).unwrap();
            let xsk::Interface { name, index, mac, steer, ports, .. } = opened;
            let served = ServedInterface::new(name, index, mac, Some(steer));
            let mut supervisor = supervise(&config, served, vec![], Limits::default());
            block_on(supervisor.begin()).unwrap();
            supervisor.attach().unwrap();
            drop(ports);
            let counter = "shunt_interface_packets_passed_total no_socket";
            let mut raised = BTreeSet::new();
            wait_until(PATIENCE, counter, || {
                let frame = frames::frame("ip client > vip / tcp 4007 > 80 A");
                wire.send_to(lab::director_mac(), lab::router_mac(), &frame).unwrap();
                raised = not_zero(&Metrics::parse(exposition::render(&supervisor)));
                raised.contains(counter)
            })
            .unwrap();
            raised
        };
        topology.director.run(watch).unwrap()
    }
}

/// What the XDP program keeps from a worker, a kernel that takes no packets, a plugin that is at
/// the end of its fuel.
fn by_queues_in_memory() -> BTreeSet<String> {
    let port = MemoryPort::new(frames::DIRECTOR_MAC, 256);
    let capacity = Capacity { flows_v4: 1_024, flows_v6: 1_024 };
    let made = dataplane::workers(vec![port], capacity, Seeds([1, 2])).unwrap();
    let (mut worker, handle) = made.into_iter().next().unwrap();
    let interface = ServedInterface::new(NIC.into(), 7, frames::DIRECTOR_MAC, None);
    let out_of_fuel = Limits { schedule_fuel: 1, ..Limits::default() };
    let seats = vec![WorkerSeat::new(0, 0, 0, handle, None)];
    let mut supervisor = supervise(&Config::of(vec![tcp(HTTP)]), interface, seats, out_of_fuel);
    let stop = AtomicBool::new(false);
    let mut worker = thread::scope(|scope| {
        let turning = scope.spawn(|| {
            while !stop.load(Relaxed) {
                worker.turn(clock::now());
                thread::yield_now();
            }
            worker
        });
        block_on(supervisor.begin()).unwrap();
        resolve(&mut supervisor, &[Family::V4], 2, [0, 0]);
        block_on(supervisor.publish()).unwrap();
        stop.store(true, Relaxed);
        turning.join().unwrap()
    });
    worker.port_mut().limit_tx_ring(2);
    for text in [
        "ip client > vip / tcp 4000 > 80 S",
        "ip client > vip / tcp 4001 > 80 S",
        "ip client > vip / tcp 4002 > 80 S",
        "ip client > vip more / udp 4000 > 53 / data 24",
        "ip client > vip proto=47 / data 24",
    ] {
        assert!(worker.port_mut().inject(&frames::frame(text)));
    }
    while worker.turn(clock::now()) > 0 {}
    not_zero(&Metrics::parse(exposition::render(&supervisor)))
}
