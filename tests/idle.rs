//! A director without traffic leaves its cores alone.

mod common;

use common::taken::Taken;
use common::{Site, service};
use lab::{Config, Family, Plan};
use std::thread::sleep;
use std::time::Duration;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const WORKERS: u8 = 2;
/// What the director may take of a core.
const SHARE_MAX: f64 = 0.02;
/// Times a second that a worker may go to sleep: for 10 ms each, unless it is woken.
const WORKER_SLEEPS_MAX: f64 = 105.0;
/// Times a second that all other threads together may: the control thread looks after neighbors
/// every 200 ms and after what was removed every second.
const OTHER_SLEEPS_MAX: f64 = 15.0;

fn config(poll: &str) -> Config {
    let services = FAMILIES
        .into_iter()
        .flat_map(|family| ["tcp", "udp"].map(|protocol| service(protocol, family, "lc", 2)));
    Config { top: format!("poll = \"{poll}\""), ..Config::of(services.collect()) }
}

#[test]
fn an_idle_director_sleeps() {
    let site = Site::build(Plan::new("idle").queues(WORKERS).ipv6(), &FAMILIES);
    let director = site.start(&config("adaptive"));
    // The real servers' addresses were asked for just now, and are confirmed for a while.
    sleep(Duration::from_secs(2));
    let Taken { share, sleeps } = Taken::during(Duration::from_secs(8), director.process());
    println!("adaptive: {:.2}% of a core, {sleeps:.0} sleeps a second", 100.0 * share);
    assert!(share < SHARE_MAX, "an idle director takes {:.2}% of a core", 100.0 * share);
    let sleeps_max = f64::from(WORKERS) * WORKER_SLEEPS_MAX + OTHER_SLEEPS_MAX;
    assert!(sleeps < sleeps_max, "{sleeps:.0} sleeps a second: some ticker is too fast");
    drop(director);

    // One that never sleeps would be seen.
    let director = site.start(&config("busy"));
    let Taken { share, .. } = Taken::during(Duration::from_secs(1), director.process());
    assert!(share > 10.0 * SHARE_MAX, "a busy director takes {:.0}% of a core", 100.0 * share);
}
