//! Gathers every metric at the moment of a scrape and writes it as Prometheus reads it.
//!
//! A recorder lives for one scrape: the counters behind it are the workers' own, which it takes
//! over as absolute values, so nothing can go stale and a server that is gone leaves no series.

use crate::clock;
use crate::durations::Durations;
use crate::health::judge::Verdict;
use crate::health::members::Member;
use crate::health::quorum::Quorum;
use crate::health::weights::Standing;
use crate::metrics::{CALL_DURATION, Kind, METRICS, SWAP_DURATION, SWAP_PAUSE, find};
use crate::neighbors::NeighborState;
use crate::plugins::PluginVersion;
use crate::schedulers::PluginReport;
use crate::service_name::ServiceName;
use crate::services::ServiceEntry;
use crate::supervisor::Supervisor;
use crate::tasks::Duty;
use crate::views::{self, ClaimView, VipView};
use crate::vips::Held;
use dataplane::{DropReason, Failure, ServerCounts, ServerState, WorkerCounts};
use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::formatting::{
    sanitize_label_value, write_help_line, write_type_line,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use plugin_host::{Latency, LatencyCounts};
use std::fmt::Write;
use std::time::SystemTime;
use xsk::{AttachMode, Mode, PassKind};

/// All metrics in the text format of Prometheus.
pub fn render(supervisor: &Supervisor) -> String {
    let sheet = Sheet::new();
    director(&sheet, supervisor);
    services(&sheet, supervisor);
    neighbors(&sheet, supervisor);
    workers(&sheet, supervisor);
    interfaces(&sheet, supervisor);
    vips(&sheet, supervisor);
    queues(&sheet, supervisor);
    plugins(&sheet, supervisor);
    let mut text = sheet.recorder.handle().render();
    histograms(&mut text, supervisor);
    text
}

/// What one scrape writes on.
struct Sheet {
    recorder: PrometheusRecorder,
}

const METADATA: Metadata<'_> = Metadata::new("shunt", Level::INFO, None);

impl Sheet {
    fn new() -> Sheet {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in METRICS {
            let (name, unit, help) = (metric.name.into(), Some(metric.unit), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, unit, help),
                Kind::Gauge => recorder.describe_gauge(name, unit, help),
                Kind::Histogram => {}
            }
        }
        Sheet { recorder }
    }

    fn key(name: &'static str, values: &[&str], kind: Kind) -> Key {
        let metric = find(name).unwrap_or_else(|| panic!("{name} is not in the table of metrics"));
        assert_eq!(metric.kind, kind, "{name} is of another kind");
        assert_eq!(metric.labels.len(), values.len(), "{name} has other labels");
        let labels = metric.labels.iter().zip(values);
        let labels: Vec<Label> =
            labels.map(|(&label, &value)| Label::new(label, value.to_owned())).collect();
        Key::from_parts(name, labels)
    }

    fn count(&self, name: &'static str, values: &[&str], count: u64) {
        let key = Sheet::key(name, values, Kind::Counter);
        self.recorder.register_counter(&key, &METADATA).absolute(count);
    }

    fn gauge(&self, name: &'static str, values: &[&str], value: f64) {
        let key = Sheet::key(name, values, Kind::Gauge);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    fn flag(&self, name: &'static str, values: &[&str], set: bool) {
        self.gauge(name, values, f64::from(u8::from(set)));
    }
}

fn director(sheet: &Sheet, supervisor: &Supervisor) {
    sheet.gauge("shunt_build_info", &[env!("CARGO_PKG_VERSION")], 1.0);
    let started = SystemTime::now() - supervisor.started.elapsed();
    let since_epoch = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    sheet.gauge("shunt_start_time_seconds", &[], since_epoch.as_secs_f64().round());
    let (ok, failed) = supervisor.reloads;
    sheet.count("shunt_config_reloads_total", &["ok"], ok);
    sheet.count("shunt_config_reloads_total", &["failed"], failed);
    for duty in Duty::ALL {
        sheet.count("shunt_task_restarts_total", &[duty.name()], supervisor.restarts.of(duty));
    }
}

fn services(sheet: &Sheet, supervisor: &Supervisor) {
    for (index, service) in supervisor.services().services() {
        let name = ServiceName(service.key).to_string();
        let counts = supervisor.service_counts(index);
        let ServerCounts { connections, packets, bytes, load } = counts;
        sheet.count("shunt_service_connections_total", &[&name], connections);
        sheet.count("shunt_service_packets_total", &[&name], packets);
        sheet.count("shunt_service_bytes_total", &[&name], bytes);
        sheet.gauge("shunt_service_active_connections", &[&name], load.active.into());
        sheet.gauge("shunt_service_inactive_connections", &[&name], load.inactive.into());
        sheet.flag("shunt_service_removed", &[&name], service.removed);
        service_health(sheet, &name, supervisor.health.weights.standing(&service.key), service);
        let benched = supervisor.schedulers().is_benched(index);
        sheet.flag("shunt_plugin_benched", &[&name], benched);
        if let Some((version, plugin)) = supervisor.schedulers().runs(index) {
            let number = version.number.to_string();
            let labels = [&name, version.name.as_str(), &number, plugin.digest()];
            sheet.gauge("shunt_service_scheduler_info", &labels, 1.0);
        }
        for (server, entry) in supervisor.services().members(service) {
            let address = entry.address.to_string();
            server_counts(sheet, &[&name, &address], &supervisor.server_counts(server));
            sheet.gauge("shunt_server_weight", &[&name, &address], entry.weight.into());
            let given = supervisor.health.weights.given(server);
            sheet.gauge("shunt_server_effective_weight", &[&name, &address], given.weight.into());
            if let Some(member) = supervisor.health.members.get(&(service.key, entry.address)) {
                server_health(sheet, &[&name, &address], member);
            }
            for (state, of) in [
                ("serving", ServerState::Serving),
                ("removed", ServerState::Removed),
                ("expired", ServerState::Expired),
            ] {
                sheet.flag("shunt_server_state", &[&name, &address, state], entry.state == of);
            }
            let state = supervisor.neighbors.state(entry.address);
            for of in NeighborState::ALL {
                let labels = [&name, &address, of.name()];
                sheet.flag("shunt_server_neighbor_state", &labels, state == of);
            }
        }
    }
}

/// What is known of a real server, whatever the services that it is in.
fn neighbors(sheet: &Sheet, supervisor: &Supervisor) {
    for address in supervisor.neighbors.addresses() {
        let changes = supervisor.neighbors.mac_changes(address);
        let claims = supervisor.neighbors.claims(address, clock::now()).count();
        let address = address.to_string();
        sheet.count("shunt_server_mac_changes_total", &[&address], changes);
        sheet.gauge("shunt_server_address_claims", &[&address], claims as f64);
    }
}

fn service_health(sheet: &Sheet, name: &str, standing: Standing, service: &ServiceEntry) {
    sheet.gauge("shunt_service_servers_up", &[name], standing.count.up as f64);
    sheet.gauge("shunt_service_quorum", &[name], service.policy.quorum.into());
    sheet.flag("shunt_service_quorum_lost", &[name], standing.quorum == Quorum::Lost);
    sheet.flag("shunt_service_sorry_server", &[name], standing.sorry);
}

fn server_health(sheet: &Sheet, labels: &[&str; 2], member: &Member) {
    if member.check.is_none() {
        return;
    }
    let [service, server] = *labels;
    let (ok, failed) = member.checks;
    for (result, count) in [("ok", ok), ("failed", failed), ("unable", member.unmade.count)] {
        sheet.count("shunt_server_checks_total", &[service, server, result], count);
    }
    if member.judge.verdict() != Verdict::Checking {
        sheet.flag("shunt_server_up", labels, member.judge.verdict() == Verdict::Up);
    }
    if let Some(took) = member.took {
        sheet.gauge("shunt_server_check_duration_seconds", labels, took.as_secs_f64());
    }
}

fn server_counts(sheet: &Sheet, labels: &[&str], counts: &ServerCounts) {
    sheet.count("shunt_server_connections_total", labels, counts.connections);
    sheet.count("shunt_server_packets_total", labels, counts.packets);
    sheet.count("shunt_server_bytes_total", labels, counts.bytes);
    sheet.gauge("shunt_server_active_connections", labels, counts.load.active.into());
    sheet.gauge("shunt_server_inactive_connections", labels, counts.load.inactive.into());
}

fn workers(sheet: &Sheet, supervisor: &Supervisor) {
    for (number, seat) in supervisor.workers.iter().enumerate() {
        let interface = &supervisor.interfaces[seat.interface].name;
        let (number, queue) = (number.to_string(), seat.queue.to_string());
        let labels: [&str; 3] = [&number, interface, &queue];
        let counts = seat.handle.memory.counters().read();
        worker_counts(sheet, &labels, &counts);
        let capacity = seat.handle.memory.capacity();
        for (family, flows, places) in [
            ("ipv4", counts.flows_v4, capacity.flows_v4),
            ("ipv6", counts.flows_v6, capacity.flows_v6),
        ] {
            let labels: [&str; 4] = [&number, interface, &queue, family];
            sheet.gauge("shunt_worker_flows", &labels, flows as f64);
            sheet.gauge("shunt_worker_flow_capacity", &labels, places as f64);
        }
    }
}

fn worker_counts(sheet: &Sheet, labels: &[&str; 3], counts: &WorkerCounts) {
    for (name, count) in [
        ("shunt_worker_packets_received_total", counts.received),
        ("shunt_worker_bytes_received_total", counts.received_bytes),
        ("shunt_worker_packets_forwarded_total", counts.forwarded),
        ("shunt_worker_resets_total", counts.resets),
        ("shunt_worker_bursts_total", counts.bursts),
        ("shunt_worker_empty_polls_total", counts.empty_polls),
        ("shunt_worker_sleeps_total", counts.sleeps),
        ("shunt_worker_wakeups_total", counts.wakeups),
        ("shunt_worker_tx_ring_full_total", counts.dropped[DropReason::TxRingFull as usize]),
        ("shunt_worker_fill_ring_empty_total", counts.fill_ring_empty),
        ("shunt_worker_updates_total", counts.updates),
        ("shunt_worker_flows_created_total", counts.flows_created),
        ("shunt_worker_flows_expired_total", counts.flows_expired),
        ("shunt_worker_flows_evicted_total", counts.flows_evicted),
        ("shunt_worker_flows_adopted_total", counts.flows_adopted),
        ("shunt_worker_flows_moved_total", counts.flows_moved),
        ("shunt_worker_overflow_packets_total", counts.overflowed),
        ("shunt_worker_overflow_follower_packets_total", counts.overflow_followers),
    ] {
        sheet.count(name, labels, count);
    }
    for reason in DropReason::ALL {
        let [worker, interface, queue] = *labels;
        let labels = [worker, interface, queue, reason.name()];
        let count = counts.dropped[reason as usize];
        sheet.count("shunt_worker_packets_dropped_total", &labels, count);
    }
}

fn vips(sheet: &Sheet, supervisor: &Supervisor) {
    for VipView { address, held, claims, unnamed_claims, .. } in views::vips(supervisor) {
        let vip = address.to_string();
        sheet.flag("shunt_vip_held", &[&vip], held != Held::Absent.name());
        let announcements = supervisor.vips.announcements(address);
        sheet.count("shunt_vip_announcements_total", &[&vip], announcements);
        sheet.count("shunt_vip_claims_unnamed_total", &[&vip], unnamed_claims);
        for ClaimView { mac, server } in claims {
            let server = server.map(|server| server.to_string()).unwrap_or_default();
            sheet.flag("shunt_vip_claimed", &[&vip, &mac, &server], true);
        }
    }
}

fn interfaces(sheet: &Sheet, supervisor: &Supervisor) {
    for interface in &supervisor.interfaces {
        let native = interface.attached == Some(AttachMode::Native);
        sheet.flag("shunt_interface_up", &[&interface.name], interface.carrier);
        sheet.flag("shunt_interface_native_xdp", &[&interface.name], native);
        // What cannot be read has no series, rather than a wrong one.
        let Some(Ok(counts)) = interface.steer.as_ref().map(xsk::Steer::counts) else { continue };
        let name = &interface.name;
        sheet.count("shunt_interface_packets_redirected_total", &[name], counts.redirected);
        sheet.count("shunt_interface_packets_shed_total", &[name], counts.shed);
        for kind in PassKind::ALL {
            let labels: [&str; 2] = [name, kind.name()];
            sheet.count("shunt_interface_packets_passed_total", &labels, counts.passed(kind));
        }
    }
}

fn queues(sheet: &Sheet, supervisor: &Supervisor) {
    for seat in &supervisor.workers {
        let Some(monitor) = &seat.monitor else { continue };
        let queue = seat.queue.to_string();
        let labels: [&str; 2] = [&supervisor.interfaces[seat.interface].name, &queue];
        sheet.flag("shunt_queue_zero_copy", &labels, monitor.mode() == Mode::ZeroCopy);
        sheet.flag("shunt_queue_huge_pages", &labels, monitor.huge_pages());
        let Ok(statistics) = monitor.statistics() else { continue };
        for (name, count) in [
            ("shunt_queue_rx_dropped_total", statistics.rx_dropped),
            ("shunt_queue_rx_ring_full_total", statistics.rx_ring_full),
            ("shunt_queue_rx_invalid_descriptors_total", statistics.rx_invalid_descs),
            ("shunt_queue_tx_invalid_descriptors_total", statistics.tx_invalid_descs),
            ("shunt_queue_fill_ring_empty_total", statistics.rx_fill_ring_empty_descs),
            ("shunt_queue_tx_ring_empty_total", statistics.tx_ring_empty_descs),
        ] {
            sheet.count(name, &labels, count);
        }
    }
}

fn plugins(sheet: &Sheet, supervisor: &Supervisor) {
    for (version, (plugin, services)) in supervisor.schedulers().versions() {
        let (name, number) = (version.name.as_str(), version.number.to_string());
        let label = plugin.label().unwrap_or_default();
        let abi = plugin.abi().to_string();
        sheet.gauge("shunt_plugin_info", &[name, &number, label, plugin.digest(), &abi], 1.0);
        let instances = services.len() * supervisor.workers.len();
        sheet.gauge("shunt_plugin_instances", &[name, &number], instances as f64);
        let memory = instances * plugin.memory();
        sheet.gauge("shunt_plugin_memory_bytes", &[name, &number], memory as f64);
    }
    for report in supervisor.schedulers().reports() {
        let Some(labels) = report_labels(supervisor, &report) else { continue };
        let [service, name, number] = labels.each_ref().map(String::as_str);
        sheet.count("shunt_plugin_calls_total", &[service, name, number], report.counts.calls);
        for reason in Failure::ALL {
            let labels = [service, name, number, reason.name()];
            let count = report.counts.fallbacks[reason as usize];
            sheet.count("shunt_plugin_fallbacks_total", &labels, count);
        }
    }
    // Those in use have their series before the first rollback, or its rate would not be seen.
    let in_use = supervisor.schedulers().versions().into_keys();
    let none = in_use.flat_map(|version| [(version, true, 0), (version, false, 0)]);
    for (version, automatic, count) in none.chain(supervisor.watch.rollbacks()) {
        let kind = if automatic { "automatic" } else { "manual" };
        let labels = [version.name.as_str(), &version.number.to_string(), kind];
        sheet.count("shunt_plugin_rollbacks_total", &labels, count);
    }
}

/// Service, plugin and version.
fn report_labels(supervisor: &Supervisor, report: &PluginReport<'_>) -> Option<[String; 3]> {
    let service = ServiceName(supervisor.services().service(report.service)?.key);
    let PluginVersion { name, number } = report.version;
    Some([service.to_string(), name.to_string(), number.to_string()])
}

/// The histograms. The exporter's own take one sample at a time; these are counted already.
fn histograms(text: &mut String, supervisor: &Supervisor) {
    let bounds = Latency::BOUNDS.map(seconds);
    let reports = supervisor.schedulers().reports();
    let calls = reports.iter().filter_map(|report| {
        let labels = report_labels(supervisor, report)?.to_vec();
        Some(Histogram::of(labels, &report.counts.latency))
    });
    write_histograms(text, CALL_DURATION, &bounds, calls);

    let Durations { buckets, sum } = supervisor.swaps;
    let swaps = Histogram { labels: Vec::new(), buckets: buckets.to_vec(), sum };
    write_histograms(text, SWAP_DURATION, &Durations::BOUNDS, [swaps]);

    let pauses = supervisor.workers.iter().enumerate().map(|(number, seat)| {
        let interface = supervisor.interfaces[seat.interface].name.clone();
        let labels = vec![number.to_string(), interface, seat.queue.to_string()];
        Histogram::of(labels, &seat.handle.memory.counters().pauses().read())
    });
    write_histograms(text, SWAP_PAUSE, &bounds, pauses);
}

/// One series of a histogram.
struct Histogram {
    labels: Vec<String>,
    /// Not cumulated; the last has no bound.
    buckets: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn of(labels: Vec<String>, counts: &LatencyCounts) -> Histogram {
        Histogram { labels, buckets: counts.buckets.to_vec(), sum: seconds(counts.sum) }
    }
}

fn write_histograms(
    text: &mut String,
    name: &str,
    bounds: &[f64],
    series: impl IntoIterator<Item = Histogram>,
) {
    let Some(metric) = find(name) else { return };
    let mut series = series.into_iter().peekable();
    if series.peek().is_none() {
        return;
    }
    write_help_line(text, name, None, None, metric.help);
    write_type_line(text, name, None, None, "histogram");
    for Histogram { labels, buckets, sum } in series {
        let labels = metric.labels.iter().zip(&labels);
        let labels: Vec<String> = labels
            .map(|(label, value)| format!("{label}=\"{}\"", sanitize_label_value(value)))
            .collect();
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let mut cumulated = 0;
        for (bound, count) in bounds.zip(buckets) {
            cumulated += count;
            let bound = format!("le=\"{bound}\"");
            let all: Vec<&str> = labels.iter().chain([&bound]).map(String::as_str).collect();
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}_bucket{{{}}} {cumulated}", all.join(","));
        }
        let labels = labels.join(",");
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_sum{labels} {sum}");
        let _ = writeln!(text, "{name}_count{labels} {cumulated}");
    }
    text.push('\n');
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
