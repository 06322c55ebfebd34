//! A director without traffic leaves its cores alone.

mod common;

use common::taken::Taken;
use common::{PATIENCE, Site, dns, service};
use lab::{Config, Director, Family, Plan, UdpClient};
use std::thread::sleep;
use std::time::Duration;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// What the director may take of a core.
const SHARE_MAX: f64 = 0.02;
/// Times a second that the worker may go to sleep: for 10 ms each if it has flows, else for 100 ms,
/// unless it is woken.
const SLEEPS_WITH_FLOWS_MAX: f64 = 105.0;
const SLEEPS_WITHOUT_FLOWS_MAX: f64 = 11.0;
/// Times a second that all other threads together may: the control thread looks after plugins every
/// 200 ms, after neighbors (and what the kernel tells of each answer) and what was removed every
/// second, and tokio asks twice whether it is time.
const OTHER_SLEEPS_MAX: f64 = 20.0;

/// Tables of a tenth of what is the default: a build without optimisation looks through them for
/// expired flows that much slower.
fn config(poll: &str) -> Config {
    let services = FAMILIES
        .into_iter()
        .flat_map(|family| ["tcp", "udp"].map(|protocol| service(protocol, family, "lc", 2)));
    let top = format!("poll = \"{poll}\"\nflows = 100_000\nflows_v6 = 25_000");
    Config { top, ..Config::of(services.collect()) }
}

/// Asserts that a director leaves its cores alone.
fn assert_idle(director: &Director, what: &str, worker_sleeps_max: f64) {
    // What was done just now has its aftermath: neighbors are confirmed, workers spin for a while.
    sleep(Duration::from_secs(2));
    let Taken { share, sleeps } = Taken::during(Duration::from_secs(6), director.process());
    let taken = format!("{what}: {:.2}% of a core, {sleeps:.0} sleeps a second", 100.0 * share);
    println!("{taken}");
    assert!(share < SHARE_MAX, "an idle director takes too much, {taken}");
    let sleeps_max = worker_sleeps_max + OTHER_SLEEPS_MAX;
    assert!(sleeps < sleeps_max, "some ticker is too fast, {taken}, {sleeps_max} at most");
}

#[test]
fn an_idle_director_sleeps() {
    let site = Site::build(Plan::new("idle").ipv6(), &FAMILIES);
    let director = site.start(&config("adaptive"));
    assert_idle(&director, "no flows", SLEEPS_WITHOUT_FLOWS_MAX);
    UdpClient::connect(&site.topology.client, dns(Family::V4), PATIENCE)
        .and_then(|client| client.ask("a flow that stays for a while"))
        .unwrap();
    assert_idle(&director, "with a flow", SLEEPS_WITH_FLOWS_MAX);
    drop(director);

    // One that never sleeps would be seen.
    let director = site.start(&config("busy"));
    let Taken { share, .. } = Taken::during(Duration::from_secs(1), director.process());
    assert!(share > 10.0 * SHARE_MAX, "a busy director takes {:.0}% of a core", 100.0 * share);
}
