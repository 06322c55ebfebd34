//! What happens to packets when the director dies, ends, or is told something new.

mod common;

use common::load::Load;
use common::{PATIENCE, Site, http, http_rr, wait_for_list, wait_until_ready};
use lab::{Config, Director, Family, HttpClient, NIC, Plan, get_once, wait_until};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// Reloads under load.
const RELOADS: usize = 20;
/// Connections that are held open under load.
const HELD: usize = 20;

fn start(plan: Plan) -> (Director, Site, Config) {
    let site = Site::build(plan, &[Family::V4]);
    let config = Config::of(vec![http_rr(2)]);
    let director = site.start(&config);
    (director, site, config)
}

fn has_xdp_program(site: &Site) -> bool {
    site.topology.director.ip(&format!("-details link show {NIC}")).unwrap().contains("prog/xdp")
}

/// Both the program's going and the kernel's answer, which resets connections: the VIP is local.
#[test]
fn a_killed_director_gives_the_kernel_its_packets_back() {
    let (director, site, config) = start(Plan::new("killed"));
    let mut open = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
    assert_eq!(open.get("/").unwrap().status, 200);
    assert!(has_xdp_program(&site));

    director.process().signal(Signal::SIGKILL).unwrap();
    wait_until(SECOND, "the XDP program is gone", || !has_xdp_program(&site)).unwrap();
    let refused = get_once(&site.topology.client, http(Family::V4), "/").unwrap_err().to_string();
    assert!(refused.contains("refused"), "{refused}");
    let reset = open.get("/").unwrap_err().to_string();
    assert!(reset.contains("reset"), "{reset}");

    // What the dead one has left is in nobody's way.
    drop(director);
    let director = site.start(&config);
    wait_until_ready(&director, &config);
    assert_eq!(get_once(&site.topology.client, http(Family::V4), "/").unwrap().status, 200);
}

#[test]
fn sigterm_under_load_ends_it_within_a_second() {
    let (director, site, _) = start(Plan::new("sigterm"));
    let load = Load::start(&site.topology, http(Family::V4), HELD, true);
    load.wait_for_rounds(50);
    let begun = Instant::now();
    let status = director.stop(PATIENCE).unwrap();
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0), "{}", director.process().output());
    assert!(took < SECOND, "{took:?}\n{}", director.process().output());
    assert!(!has_xdp_program(&site));
    assert!(!director.socket().exists());
    let report = load.finish();
    // All that failed, failed after the end: the load had no failure up to then.
    assert!(report.new.values().sum::<usize>() >= 50, "{report:?}");
}

#[test]
fn twenty_reloads_under_load_break_no_established_flow() {
    let (director, mut site, two) = start(Plan::new("reload"));
    for _ in 0..2 {
        let number = site.topology.add_real_server().unwrap();
        site.serve(number);
    }
    let load = Load::start(&site.topology, http(Family::V4), HELD, true);
    let all = Config::of(vec![http_rr(4)]);
    let mut one = Config::of(vec![http_rr(1)]);
    one.services[0].scheduler = "wrr";
    for (number, config) in
        [&all, &one, &two, &all, &two].into_iter().cycle().take(RELOADS).enumerate()
    {
        let wanted = &config.services[0];
        director.reload(config).unwrap();
        wait_for_list(&director, &format!("reload {number} is in force"), |services| {
            let serving = services[0].servers.iter().filter(|server| server.state == "serving");
            services[0].scheduler == wanted.scheduler
                && serving
                    .map(|server| (server.address, server.weight))
                    .eq(wanted.real_servers.iter().copied())
        });
        load.wait_for_rounds(20);
    }
    let report = load.finish();
    assert!(report.failures.is_empty(), "{:?}\n{}", report.failures, director.process().output());
    assert!(report.held >= RELOADS * 20, "{report:?}");
    assert_eq!(report.new.len(), 4, "every real server was used: {:?}", report.new);
}

/// The client's link behind the router carries less than the real servers think, and the router's
/// "fragmentation needed" goes to the VIP: the director must take it to the flow's real server.
#[test]
fn path_mtu_discovery_reaches_the_real_server() {
    let (director, site, _) = start(Plan::new("mtu"));
    site.topology.router.ip("link set eth1 mtu 1400").unwrap();
    for _ in 0..2 {
        let mut client = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
        client.download(20_000_000).unwrap();
    }
    // That the real servers have learnt of it shows that it was needed.
    for number in [1, 2] {
        let route = site
            .topology
            .real_server(number)
            .ip(&format!("route get {}", lab::client_address(Family::V4)))
            .unwrap();
        assert!(route.contains("mtu 1400"), "{route}\n{}", director.process().output());
    }
}
