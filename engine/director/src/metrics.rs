//! Every metric: its name, kind, unit, labels and meaning, in one table. What is exported and is
//! not in the table, or the other way round, fails a test.

use metrics::Unit;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while what it counts exists.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// In what it is measured.
    pub unit: Unit,
    /// The labels of each of its series.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn counter(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Counter, unit, labels, help }
}

const fn gauge(
    name: &'static str,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Gauge, unit, labels, help }
}

const SERVICE: &[&str] = &["service"];
const SERVER: &[&str] = &["service", "server"];
const WORKER: &[&str] = &["worker", "interface", "queue"];
const QUEUE: &[&str] = &["interface", "queue"];
const PLUGIN: &[&str] = &["service", "plugin", "version"];

const VERSION: &[&str] = &["plugin", "version"];

/// The histogram of the time that changes of schedulers take.
pub const SWAP_DURATION: &str = "shunt_plugin_swap_duration_seconds";
/// The histogram of the workers' pauses to adopt changes.
pub const SWAP_PAUSE: &str = "shunt_worker_update_pause_seconds";
/// The histogram of scheduler calls.
pub const CALL_DURATION: &str = "shunt_plugin_call_duration_seconds";

/// All metrics.
#[rustfmt::skip] // one line each: it is a table
pub const METRICS: &[Metric] = &[
    gauge("shunt_build_info", Unit::Count, &["version"], "Always 1. The version of shunt."),
    gauge("shunt_start_time_seconds", Unit::Seconds, &[], "When the director started, in seconds since 1970-01-01 UTC."),
    counter("shunt_config_reloads_total", Unit::Count, &["result"], "Reloads of the config file: ok, or failed and then without effect."),
    counter("shunt_task_restarts_total", Unit::Count, &["task"], "Times that one of the director's own tasks failed, by a mistake in shunt, and was started again: neighbors, health, vips, housekeeping."),

    counter("shunt_service_connections_total", Unit::Count, SERVICE, "Flows created for a virtual service."),
    counter("shunt_service_packets_total", Unit::Count, SERVICE, "Packets forwarded for a virtual service."),
    counter("shunt_service_bytes_total", Unit::Bytes, SERVICE, "Bytes forwarded for a virtual service, Ethernet headers included."),
    gauge("shunt_service_active_connections", Unit::Count, SERVICE, "Established TCP flows and living UDP flows of a virtual service, as in ActiveConn of ipvsadm."),
    gauge("shunt_service_inactive_connections", Unit::Count, SERVICE, "All other flows of a virtual service, as in InActConn of ipvsadm."),
    gauge("shunt_service_servers_up", Unit::Count, SERVICE, "Real servers of a virtual service that take new flows."),
    gauge("shunt_service_quorum", Unit::Count, SERVICE, "Real servers that must take new flows for a virtual service to count as served, as configured."),
    gauge("shunt_service_quorum_lost", Unit::Count, SERVICE, "1: fewer real servers than the quorum take new flows, hysteresis considered."),
    gauge("shunt_service_sorry_server", Unit::Count, SERVICE, "1: new flows go to the sorry server."),
    gauge("shunt_service_removed", Unit::Count, SERVICE, "1: the virtual service was removed and waits for its last flows to end."),
    gauge("shunt_service_scheduler_info", Unit::Count, &["service", "plugin", "version", "digest"], "Always 1. The plugin that schedules a virtual service, with the SHA-256 digest of its file."),

    counter("shunt_server_connections_total", Unit::Count, SERVER, "Flows created for a real server of a virtual service."),
    counter("shunt_server_packets_total", Unit::Count, SERVER, "Packets forwarded to a real server."),
    counter("shunt_server_bytes_total", Unit::Bytes, SERVER, "Bytes forwarded to a real server, Ethernet headers included."),
    gauge("shunt_server_active_connections", Unit::Count, SERVER, "Established TCP flows and living UDP flows of a real server."),
    gauge("shunt_server_inactive_connections", Unit::Count, SERVER, "All other flows of a real server."),
    gauge("shunt_server_weight", Unit::Count, SERVER, "Weight of a real server as it was set; 0 drains."),
    gauge("shunt_server_effective_weight", Unit::Count, SERVER, "Weight of a real server that the scheduler sees: 0 while it takes no new flows, less than its own in a slow start."),
    gauge("shunt_server_up", Unit::Count, SERVER, "1: its health checks say that a real server is up. Those that are not checked, or not yet, have no series."),
    counter("shunt_server_checks_total", Unit::Count, &["service", "server", "result"], "Health checks of a real server: ok, failed, or unable: the director could not make it, which says nothing of the server."),
    gauge("shunt_server_check_duration_seconds", Unit::Seconds, SERVER, "How long the last health check of a real server took."),
    gauge("shunt_server_state", Unit::Count, &["service", "server", "state"], "1 for the state that a real server is in: serving, removed (its flows may end), expired (its flows are ended)."),
    counter("shunt_server_mac_changes_total", Unit::Count, &["server"], "Times that a real server's MAC address changed to another one, where its flows then went."),
    gauge("shunt_server_address_claims", Unit::Count, &["server"], "Other machines that said within ten minutes that they have a real server's address, and did not get its flows."),
    gauge("shunt_server_neighbor_state", Unit::Count, &["service", "server", "state"], "1 for the state of a real server's neighbor entry: reachable, stale (both forward), unresolved, failed (no new flows), impossible (not on the link)."),

    counter("shunt_worker_packets_received_total", Unit::Count, WORKER, "Packets that a worker received."),
    counter("shunt_worker_bytes_received_total", Unit::Bytes, WORKER, "Bytes that a worker received."),
    counter("shunt_worker_packets_forwarded_total", Unit::Count, WORKER, "Packets that a worker sent on to a real server."),
    counter("shunt_worker_packets_dropped_total", Unit::Count, &["worker", "interface", "queue", "reason"], "Packets that a worker dropped, by reason."),
    counter("shunt_worker_resets_total", Unit::Count, WORKER, "RSTs that a worker answered TCP packets of unknown flows with; these packets are among the dropped."),
    counter("shunt_worker_bursts_total", Unit::Count, WORKER, "Turns of a worker that received at least one packet."),
    counter("shunt_worker_empty_polls_total", Unit::Count, WORKER, "Turns of a worker that received nothing."),
    counter("shunt_worker_sleeps_total", Unit::Count, WORKER, "Times that an idle worker went to sleep in poll(2)."),
    counter("shunt_worker_wakeups_total", Unit::Count, WORKER, "System calls of a worker to make the kernel look at a ring."),
    counter("shunt_worker_tx_ring_full_total", Unit::Count, WORKER, "Packets that found the TX ring full; also among the dropped."),
    counter("shunt_worker_fill_ring_empty_total", Unit::Count, WORKER, "Turns of a worker that found the fill ring empty."),
    counter("shunt_worker_updates_total", Unit::Count, WORKER, "Changes that a worker adopted from the control thread."),
    gauge("shunt_worker_flows", Unit::Count, &["worker", "interface", "queue", "family"], "Flows in a worker's flow table."),
    gauge("shunt_worker_flow_capacity", Unit::Count, &["worker", "interface", "queue", "family"], "Entries of a worker's flow table."),
    counter("shunt_worker_flows_created_total", Unit::Count, WORKER, "Flows that a worker created."),
    counter("shunt_worker_flows_expired_total", Unit::Count, WORKER, "Flows that ended by their timeout, or because their real server was expired."),
    counter("shunt_worker_flows_evicted_total", Unit::Count, WORKER, "Half-open flows that had to make room in a full table."),
    counter("shunt_worker_flows_adopted_total", Unit::Count, WORKER, "Flows taken over from another worker because their packets changed queues."),
    counter("shunt_worker_flows_moved_total", Unit::Count, WORKER, "Flows given up to another worker because their packets changed queues."),
    counter("shunt_worker_overflow_packets_total", Unit::Count, WORKER, "Packets of new flows that the table had no room for: they got a real server by their hash."),
    counter("shunt_worker_overflow_follower_packets_total", Unit::Count, WORKER, "Packets of unknown flows that got a real server by their hash because of an earlier overflow."),

    gauge("shunt_interface_up", Unit::Count, &["interface"], "1: the interface is up and has a carrier; 0: no packet comes or goes."),
    gauge("shunt_interface_native_xdp", Unit::Count, &["interface"], "1: the XDP program runs in the driver; 0: in the network stack, or it is not attached."),
    counter("shunt_interface_packets_redirected_total", Unit::Count, &["interface"], "Packets that the XDP program gave to a worker."),
    counter("shunt_interface_packets_shed_total", Unit::Count, &["interface"], "Packets for a virtual service that the XDP program dropped because too many were waiting for the worker of their queue."),
    counter("shunt_interface_packets_passed_total", Unit::Count, &["interface", "kind"], "Packets that the XDP program left to the kernel, by kind."),

    gauge("shunt_vip_held", Unit::Count, &["vip"], "1: the director has the VIP, by shunt's or by other hands; 0: it is absent, as on a backup."),
    gauge("shunt_vip_claimed", Unit::Count, &["vip", "mac", "server"], "1 while another machine says that it has the VIP, with its MAC address and the real server that has that, if one has."),
    counter("shunt_vip_claims_unnamed_total", Unit::Count, &["vip"], "Times that further machines said that they have the VIP, beside those that shunt_vip_claimed names: eight an hour that are no real server's."),
    counter("shunt_vip_announcements_total", Unit::Count, &["vip"], "Times that the director told the link where a VIP is: gratuitous ARP, unsolicited neighbor advertisements."),

    gauge("shunt_queue_zero_copy", Unit::Count, QUEUE, "1: the NIC reads and writes frames itself (zero-copy), as the kernel reports it; 0: the kernel copies."),
    gauge("shunt_queue_huge_pages", Unit::Count, QUEUE, "1: a queue's frames are on huge pages."),
    counter("shunt_queue_rx_dropped_total", Unit::Count, QUEUE, "XDP_STATISTICS rx_dropped: packets that the kernel dropped on their way to the socket."),
    counter("shunt_queue_rx_ring_full_total", Unit::Count, QUEUE, "XDP_STATISTICS rx_ring_full: packets that the kernel dropped because the RX ring was full."),
    counter("shunt_queue_rx_invalid_descriptors_total", Unit::Count, QUEUE, "XDP_STATISTICS rx_invalid_descs: fill-ring entries that the kernel refused."),
    counter("shunt_queue_tx_invalid_descriptors_total", Unit::Count, QUEUE, "XDP_STATISTICS tx_invalid_descs: TX-ring entries that the kernel refused."),
    counter("shunt_queue_fill_ring_empty_total", Unit::Count, QUEUE, "XDP_STATISTICS rx_fill_ring_empty_descs: times that the kernel found the fill ring empty."),
    counter("shunt_queue_tx_ring_empty_total", Unit::Count, QUEUE, "XDP_STATISTICS tx_ring_empty_descs: times that the kernel found the TX ring empty."),

    gauge("shunt_plugin_info", Unit::Count, &["plugin", "version", "label", "digest", "abi"], "Always 1. A version of a plugin in use, with what its author calls it and the SHA-256 digest of its module."),
    gauge("shunt_plugin_instances", Unit::Count, VERSION, "Instances of a plugin: one for each virtual service that it schedules and each worker."),
    gauge("shunt_plugin_memory_bytes", Unit::Bytes, VERSION, "Linear memory of all instances of a plugin."),
    counter("shunt_plugin_calls_total", Unit::Count, PLUGIN, "New flows for which a plugin was asked."),
    counter("shunt_plugin_fallbacks_total", Unit::Count, &["service", "plugin", "version", "reason"], "New flows that got a real server by their hash because the plugin gave none, by reason."),
    counter("shunt_plugin_rollbacks_total", Unit::Count, &["plugin", "version", "kind"], "Times that a version of a plugin was left for another one: automatic, because it failed too often, or manual."),
    gauge("shunt_plugin_benched", Unit::Count, SERVICE, "1: a plugin used up its fuel for a virtual service and is no longer asked for it."),
    Metric { name: CALL_DURATION, kind: Kind::Histogram, unit: Unit::Seconds, labels: PLUGIN, help: "How long a plugin took to choose, over a sample of one call in 64." },
    Metric { name: SWAP_DURATION, kind: Kind::Histogram, unit: Unit::Seconds, labels: &[], help: "How long it took from a checked plugin, or another choice of scheduler, to its adoption by all workers." },
    Metric { name: SWAP_PAUSE, kind: Kind::Histogram, unit: Unit::Seconds, labels: WORKER, help: "How long a worker paused between two bursts to adopt changes of the control thread." },
];

/// The metric of this name.
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// https://prometheus.io/docs/practices/naming/
    #[test]
    fn names_follow_the_conventions() {
        let mut names = HashSet::new();
        for Metric { name, kind, unit, help, labels } in METRICS {
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("shunt_"), "{name}");
            let base = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(base != *name, *kind == Kind::Counter, "{name}: _total is for counters");
            assert_eq!(base.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
            assert_eq!(base.contains("bytes"), *unit == Unit::Bytes, "{name}");
            assert!(help.ends_with('.') && help.len() > 20, "{name}: {help}");
            assert!(labels.iter().all(|label| *label != "le" && !label.is_empty()), "{name}");
        }
    }
}
