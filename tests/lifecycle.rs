//! What happens to packets when the director dies, ends, or is told something new.

mod common;

use common::load::Load;
use common::{PATIENCE, Site, http, http_rr, service, wait_for_list, wait_until_ready};
use director::views::ServiceView;
use lab::{Config, Director, Family, HttpClient, NIC, Plan, get_once, wait_until};
use nix::sys::signal::Signal;
use std::io;
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
fn a_director_whose_interface_is_removed_ends_with_the_reason() {
    let (director, site, _) = start(Plan::new("removed"));
    let load = Load::start(&site.topology, http(Family::V4), HELD, true);
    load.wait_for_rounds(50);
    site.topology.director.ip(&format!("link del {NIC}")).unwrap();
    let status = director.process().wait(PATIENCE).unwrap();
    let output = director.process().output();
    assert_eq!(status.code(), Some(1), "{output}");
    let last = output.lines().last().unwrap_or_default();
    assert!(last.starts_with("shunt: interface \"eth0\" is gone: "), "{output}");
    assert!(!director.socket().exists());
    load.finish();
}

/// Its queues are for the former address: the kernel would reset whatever comes for the new one.
#[test]
fn a_director_whose_interface_gets_another_mac_address_ends_and_can_be_started_again() {
    let (director, site, config) = start(Plan::new("own-mac"));
    let host = &site.topology.director;
    host.ip(&format!("link set {NIC} address 02:00:00:00:00:77")).unwrap();
    let status = director.process().wait(PATIENCE).unwrap();
    let output = director.process().output();
    assert_eq!(status.code(), Some(1), "{output}");
    let last = output.lines().last().unwrap_or_default();
    let expected = "shunt: interface \"eth0\" has the MAC address 02:00:00:00:00:77 now, it had ";
    assert!(last.starts_with(expected), "{output}");
    assert!(!has_xdp_program(&site) && !director.socket().exists());
    drop(director);
    let director = site.start(&config);
    wait_until_ready(&director, &config);
    let answer = get_once(&site.topology.client, http(Family::V4), "/").unwrap();
    assert_eq!(answer.status, 200, "{}", director.process().output());
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
            services[0].scheduler.to_string() == wanted.scheduler
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

#[test]
fn a_removed_real_server_keeps_its_flows_and_may_come_back() {
    let (director, site, config) = start(Plan::new("removed"));
    let mut held: Vec<(HttpClient, String)> = (0..4)
        .map(|_| {
            let mut client = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
            let real_server = client.get("/").unwrap().real_server;
            (client, real_server)
        })
        .collect();
    let rs2 = lab::real_server_address(2, Family::V4);
    let server = format!("{} {rs2}", config.services[0].name());
    let state = |services: &[ServiceView]| {
        let mut servers = services[0].servers.iter();
        servers.find(|server| server.address == rs2).map(|s| (s.state.clone(), s.counts.active))
    };
    let expect = |state_wanted: &str, active: u32| {
        wait_for_list(&director, state_wanted, |services| {
            state(services) == Some((state_wanted.to_owned(), active))
        });
    };
    let new = || get_once(&site.topology.client, http(Family::V4), "/").unwrap().real_server;

    director.shunt(&format!("server remove {server}")).unwrap();
    expect("removed", 2);
    assert!((0..10).all(|_| new() == "rs1"));
    director.shunt(&format!("server add {server} --weight 1")).unwrap();
    expect("serving", 2);
    assert!((0..10).any(|_| new() == "rs2"));
    for (client, real_server) in &mut held {
        assert_eq!(client.get("/").unwrap().real_server, *real_server);
    }
    director.shunt(&format!("server remove {server} --expire")).unwrap();
    wait_until(PATIENCE, "its flows have ended", || {
        !director.shunt("list --flows").unwrap().contains(&format!("{rs2}:"))
    })
    .unwrap();
    wait_for_list(&director, "it is gone", |services| state(services).is_none());
    for (client, real_server) in &mut held {
        match (real_server.as_str(), client.get("/")) {
            ("rs1", answer) => assert_eq!(answer.unwrap().real_server, "rs1"),
            (_, answer) => {
                let Err(lab::Error::Io { source, .. }) = answer else { panic!("it has no server") };
                assert_eq!(source.kind(), io::ErrorKind::ConnectionReset, "it hears so: {source}");
            }
        }
    }
}

/// The client's link behind the router carries less than the real servers think, and the router's
/// "fragmentation needed" or "packet too big" goes to the VIP: the director must take it to the
/// flow's real server.
#[test]
fn path_mtu_discovery_reaches_the_real_server() {
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
    let site = Site::build(Plan::new("mtu").ipv6(), &FAMILIES);
    let config = Config::of(FAMILIES.map(|family| service("tcp", family, "rr", 2)).into());
    let director = site.start(&config);
    site.topology.router.ip("link set eth1 mtu 1400").unwrap();
    for family in FAMILIES {
        for _ in 0..2 {
            let mut client = HttpClient::connect(&site.topology.client, http(family)).unwrap();
            client.download(20_000_000).unwrap();
        }
        // That the real servers have learnt of it shows that it was needed.
        for number in [1, 2] {
            let words = format!("route get {}", lab::client_address(family));
            let route = site.topology.real_server(number).ip(&words).unwrap();
            assert!(route.contains("mtu 1400"), "{route}\n{}", director.process().output());
        }
    }
}
