//! Every counter that a director in memory has is raised by a packet or a fault.

use crate::metrics::{read, value};
use crate::world::{SERVICE, World, mac, rs};
use dataplane::{DropReason, FlowState};
use director::metrics::{Kind, METRICS};
use director::neighbors::KernelState;
use frames::{frame, tcp_of};

/// Counters that need what a director in memory does not have, and where they are raised.
const ELSEWHERE: [(&str, &str); 10] = [
    ("shunt_task_restarts_total", "a mistake in shunt: tests/neighbors.rs"),
    ("shunt_vip_claims_unnamed_total", "MAC addresses that are made up: tests/vips.rs"),
    ("shunt_vip_announcements_total", "a link: tests/vips.rs"),
    ("shunt_interface_packets_", "the XDP program: engine/xsk/tests/netns/steering.rs"),
    ("shunt_queue_", "AF_XDP sockets: engine/xsk/tests/netns/forwarding.rs"),
    ("shunt_worker_wakeups_total", "the same"),
    ("shunt_plugin_fallbacks_total", "bad plugins: plugins.rs beside this"),
    ("shunt_plugin_rollbacks_total", "the same"),
    ("shunt_server_checks_total", "health checks: health.rs beside this"),
    ("shunt_worker_sleeps_total", "a worker's thread: worker_threads.rs beside this"),
];

/// Small tables; a service without a server and one whose server is not found.
const CONFIG: &str = r#"
flows = 1024
flows_v6 = 1024
[[interface]]
name = "eth0"
[[virtual_service]]
address = "172.17.100.100:80"
protocol = "tcp"
[[virtual_service.real_server]]
address = "172.17.100.1"
[[virtual_service]]
address = "172.17.100.100:81"
protocol = "tcp"
[[virtual_service]]
address = "172.17.100.100:82"
protocol = "tcp"
[[virtual_service.real_server]]
address = "172.17.100.2"
"#;

/// Packets that one worker drops, each for its reason, in this order.
const DROPPED: [(&str, DropReason); 8] = [
    ("ip client > vip total=19 / tcp 4000 > 80 S", DropReason::Malformed),
    ("ip client > vip / icmp 8 0 / data 56", DropReason::UnknownProtocol),
    ("ip client > vip more / tcp 4000 > 80 S", DropReason::Fragment),
    ("ip client > vip / tcp 4000 > 99 S", DropReason::NoService),
    ("ip client > vip / tcp 4000 > 80 A", DropReason::UnknownFlow),
    ("ip router > vip / icmp 3 4 / ip vip > client / tcp 80 > 4000 A", DropReason::UnknownIcmp),
    ("ip client > vip / tcp 4000 > 81 S", DropReason::NoServer),
    ("vlan 6 / ip client > vip / tcp 4000 > 82 S", DropReason::OtherVlan),
];

fn path(rest: &str) -> String {
    format!("/v1/services/{SERVICE}{rest}")
}

/// Everything that can happen to a worker.
fn live(world: &World) {
    for (packet, reason) in DROPPED {
        let before = world.dropped(0, reason);
        assert_eq!(world.send(0, &frame(packet)), None, "{packet}");
        assert_eq!(world.dropped(0, reason), before + 1, "{packet}");
    }
    // A flow changes queues.
    world.connect(0, 1).unwrap();
    assert_eq!(world.send(1, &tcp_of(1, "A")), Some(1));
    // The rings: no room to send, then nothing to receive into.
    world.without_room_to_send(0, &tcp_of(2, "S"));
    world.flood(0, &tcp_of(2, "S"));
    // More half-open flows than fit, then more established ones.
    for number in 10..4_000 {
        world.send(0, &tcp_of(number, "S"));
    }
    for number in 4_000..8_000 {
        world.connect(0, number);
    }
    world.send(0, &tcp_of(9_000, "A"));
    // A server is moved away, another removed with its flows, the service goes.
    world.neighbor_is_elsewhere(1);
    assert_eq!(world.send(1, &tcp_of(1, "A")), None);
    world.resolve(1);
    // Its machine is replaced, and put back.
    for host in [9, 1] {
        world.neighbor(1, KernelState::Failed, None);
        world.neighbor(1, KernelState::Reachable, Some(mac(host)));
    }
    expire_under_a_packet(world);
    world.connect(1, 3);
    let position = CONFIG.find("[[virtual_service]]").unwrap();
    world.reload(&CONFIG[..position]);
    assert_eq!(world.send(1, &tcp_of(4, "S")), None);
    world.reload_text("\nnonsense").unwrap_err();
}

/// A worker ends the flows of an expired server within a few turns. A packet that comes before
/// that is dropped for this reason; it may take a few attempts to have one come in time.
fn expire_under_a_packet(world: &World) {
    for number in 0..100 {
        world.connect(1, number);
        world.arrive_during(1, &tcp_of(number, "A"), || {
            world.ask("DELETE", &path("/servers/172.17.100.1?expire=true"), "").unwrap();
        });
        world.ask("POST", &path("/servers"), "{\"address\": \"172.17.100.1\"}").unwrap();
        if world.dropped(1, DropReason::ServerExpired) > 0 {
            return;
        }
    }
}

#[test]
fn every_counter_is_raised() {
    let world = World::with(CONFIG);
    live(&world);
    let families = read(&world);
    for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Counter) {
        if ELSEWHERE.iter().any(|(prefix, _)| metric.name.starts_with(prefix)) {
            continue;
        }
        assert!(value(&families, metric.name, &[]) > 0.0, "nothing raised {}", metric.name);
    }
    let dropped = "shunt_worker_packets_dropped_total";
    for reason in DropReason::ALL {
        let count = value(&families, dropped, &[("reason", reason.name())]);
        assert!(count > 0.0, "nothing was dropped as {}", reason.name());
    }
    // What was counted elsewhere is still a counter of the table.
    for (prefix, _) in ELSEWHERE {
        assert!(METRICS.iter().any(|metric| metric.name.starts_with(prefix)), "{prefix}");
    }
    let established = FlowState::Established.name();
    let flows = world.flows();
    let mine =
        flows.iter().filter(|flow| flow.state == established && flow.destination.ip() == rs(1));
    assert!(mine.count() >= 1, "the flow of the server that came back");
}
