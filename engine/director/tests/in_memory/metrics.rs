//! What /metrics says, against the table of metrics and against what really happened.

use crate::health;
use crate::world::{SERVICE, World};
use director::metrics::{Kind, METRICS, find};
use std::collections::{BTreeMap, BTreeSet};

/// Metrics of what a director in memory does not have: XDP programs and AF_XDP sockets.
const OF_THE_KERNEL: [&str; 2] = ["shunt_queue_", "shunt_interface_packets_"];

pub struct Family {
    help: String,
    kind: String,
    /// Labels and value of each series, `le` and suffix aside.
    series: Vec<(BTreeMap<String, String>, f64)>,
}

pub fn read(world: &World) -> BTreeMap<String, Family> {
    let text = world.ask("GET", "/metrics", "").unwrap();
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut helps = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            helps.insert(name.to_owned(), help.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            let help = helps.get(name).cloned().unwrap_or_default();
            let family = Family { help, kind: kind.to_owned(), series: vec![] };
            assert!(families.insert(name.to_owned(), family).is_none(), "{name} comes twice");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let base = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix).filter(|b| families.contains_key(*b)))
                .unwrap_or(name);
            let family = families.get_mut(base).unwrap_or_else(|| panic!("no TYPE before {line}"));
            family.series.push((read_labels(labels), value.parse().unwrap()));
        }
    }
    families
}

fn read_labels(text: &str) -> BTreeMap<String, String> {
    let text = text.strip_suffix('}').unwrap();
    text.split("\",")
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (name, value) = label.split_once("=\"").unwrap();
            (name.to_owned(), value.trim_end_matches('"').to_owned())
        })
        .filter(|(name, _)| name != "le")
        .collect()
}

pub fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
    let matching = family.series.iter().filter(|(of, _)| {
        labels.iter().all(|(label, value)| of.get(*label).is_some_and(|found| found == value))
    });
    matching.map(|(_, value)| value).sum()
}

#[test]
fn every_metric_is_in_the_table_and_every_line_of_the_table_is_exported() {
    let world = World::with(&health::checked(""));
    world.check(1, true);
    world.connect(0, 1);
    world.claim_vip([2, 0, 0, 0, 0, 9]);
    let families = read(&world);
    let claimed = [("vip", "172.17.100.100"), ("mac", "02:00:00:00:00:09"), ("server", "")];
    assert_eq!(value(&families, "shunt_vip_claimed", &claimed), 1.0);
    assert_eq!(value(&families, "shunt_vip_held", &[("vip", "172.17.100.100")]), 1.0);
    for (name, family) in &families {
        let metric = find(name).unwrap_or_else(|| panic!("{name} is not documented"));
        assert_eq!(family.help, metric.help, "{name}");
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(family.kind, kind, "{name}");
        let expected: BTreeSet<&str> = metric.labels.iter().copied().collect();
        for (labels, _) in &family.series {
            assert_eq!(
                labels.keys().map(String::as_str).collect::<BTreeSet<_>>(),
                expected,
                "{name}"
            );
        }
    }
    for metric in METRICS {
        let absent = OF_THE_KERNEL.iter().any(|prefix| metric.name.starts_with(prefix));
        assert_eq!(families.contains_key(metric.name), !absent, "{}", metric.name);
    }
}

#[test]
fn packets_raise_the_counters_of_service_server_worker_and_plugin() {
    let world = World::new();
    for number in 0..10 {
        world.connect(0, number);
    }
    world.send(1, &frames::tcp_of(90, "A"));
    let families = read(&world);
    let service = [("service", SERVICE)];
    for (name, labels, expected) in [
        ("shunt_service_connections_total", &service[..], 10.0),
        ("shunt_service_packets_total", &service, 20.0),
        ("shunt_service_active_connections", &service, 10.0),
        ("shunt_server_connections_total", &[("server", "172.17.100.1")], 5.0),
        ("shunt_server_packets_total", &[("server", "172.17.100.2")], 10.0),
        ("shunt_server_active_connections", &[("server", "172.17.100.2")], 5.0),
        ("shunt_server_weight", &[("server", "172.17.100.2")], 1.0),
        ("shunt_worker_packets_received_total", &[("worker", "0")], 20.0),
        ("shunt_worker_packets_forwarded_total", &[("worker", "0")], 20.0),
        ("shunt_worker_packets_received_total", &[("worker", "1")], 1.0),
        ("shunt_worker_packets_dropped_total", &[("worker", "1"), ("reason", "unknown_flow")], 1.0),
        ("shunt_worker_packets_dropped_total", &[("worker", "0")], 0.0),
        ("shunt_worker_flows_created_total", &[("worker", "0")], 10.0),
        ("shunt_worker_flows", &[("worker", "0"), ("family", "ipv4")], 10.0),
        ("shunt_plugin_calls_total", &[("plugin", "rr")], 10.0),
        ("shunt_plugin_fallbacks_total", &[("plugin", "rr")], 0.0),
        ("shunt_plugin_info", &[("plugin", "rr")], 1.0),
        ("shunt_service_scheduler_info", &[("plugin", "rr")], 1.0),
        ("shunt_server_state", &[("server", "172.17.100.1"), ("state", "serving")], 1.0),
        ("shunt_server_neighbor_state", &[("state", "reachable")], 2.0),
        ("shunt_server_neighbor_state", &[("state", "failed")], 0.0),
    ] {
        assert_eq!(value(&families, name, labels), expected, "{name} {labels:?}");
    }
    let bytes = frames::tcp_of(0, "S").len() as f64;
    assert_eq!(value(&families, "shunt_service_bytes_total", &service), 20.0 * bytes);
}

#[test]
fn a_former_scheduler_keeps_its_counts() {
    let world = World::new();
    for scheduler in ["wrr", "rr"] {
        world.connect(0, 1);
        world.connect(1, 2);
        let body = format!("{{\"scheduler\": \"{scheduler}\"}}");
        world.ask("PUT", &format!("/v1/services/{SERVICE}/scheduler"), &body).unwrap();
    }
    world.send(0, &frames::tcp_of(3, "S"));
    let families = read(&world);
    let calls = |plugin| value(&families, "shunt_plugin_calls_total", &[("plugin", plugin)]);
    assert_eq!((calls("rr"), calls("wrr")), (3.0, 0.0));
    assert_eq!(value(&families, "shunt_plugin_info", &[]), 1.0, "only what is in use");
}

#[test]
fn a_server_that_is_gone_leaves_no_series() {
    let world = World::new();
    world.ask("DELETE", &format!("/v1/services/{SERVICE}/servers/172.17.100.1"), "").unwrap();
    let removed = [("server", "172.17.100.1"), ("state", "removed")];
    assert_eq!(value(&read(&world), "shunt_server_state", &removed), 1.0);
    world.keep_house();
    world.keep_house();
    let families = read(&world);
    let servers = families["shunt_server_weight"].series.iter();
    let servers: Vec<_> = servers.map(|(labels, _)| labels["server"].as_str()).collect();
    assert_eq!(servers, ["172.17.100.2"]);
}

#[test]
fn the_histogram_of_call_durations_adds_up() {
    let world = World::new();
    for number in 0..640 {
        world.send(0, &frames::tcp_of(number, "S"));
    }
    let text = world.ask("GET", "/metrics", "").unwrap();
    let values = |suffix: &str| -> Vec<f64> {
        text.lines()
            .filter(|line| line.starts_with(&format!("shunt_plugin_call_duration_seconds{suffix}")))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect()
    };
    let (buckets, count, sum) = (values("_bucket"), values("_count")[0], values("_sum")[0]);
    assert_eq!(count, 10.0, "one call in 64 is timed");
    assert!(buckets.is_sorted(), "{buckets:?}");
    assert_eq!(buckets.last(), Some(&count));
    assert!(sum > 0.0 && sum < 1.0, "{sum}");
}
