//! The metrics as Prometheus' own checker reads them. Needs promtool, so it runs with the feature
//! `ci`.

mod common;

use common::metrics::Metrics;
use common::{Site, http, service};
use lab::{Config, Family, Plan, get_once, run_with_input};
use std::process::Command;

#[test]
fn promtool_finds_nothing_wrong() {
    let site = Site::build(Plan::new("promtool").queues(2), &[Family::V4]);
    let services = ["tcp", "udp"].map(|protocol| service(protocol, Family::V4, "lc", 2)).into();
    let _director = site.start(&Config::of(services));
    for _ in 0..200 {
        get_once(&site.topology.client, http(Family::V4), "/").unwrap();
    }
    let metrics = Metrics::fetch(&site.topology.director);
    assert!(metrics.text.contains("shunt_plugin_call_duration_seconds_bucket"));
    let said =
        run_with_input(Command::new("promtool").args(["check", "metrics"]), &metrics.text).unwrap();
    assert_eq!(said.trim(), "");
}
