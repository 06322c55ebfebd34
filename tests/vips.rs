//! The VIPs on the director: added, announced, watched, removed; and left alone where they are
//! other hands' business.

mod common;

use common::diagnosis::Diagnosis;
use common::load::Load;
use common::metrics::Metrics;
use common::{PATIENCE, Site, http, http_rr, list, service, shunt, wait_for_list};
use director::client::{Api, ask};
use director::doctor::Area;
use director::layer2::frames::{Claim, read_claim};
use director::views::{ClaimView, StatusView, VipView};
use lab::{
    Capture, Config, Director, Family, HttpClient, NIC, Plan, ROUTER_INSIDE, SeenFrame, Topology,
    VirtualService, Wire, director_mac, get_once, mac_text, real_server_address, real_server_mac,
    router_mac, vip, wait_until,
};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

/// A further VIP.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 100, 101));
const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// The network without a VIP on the director.
fn without_vip(plan: Plan, families: &'static [Family]) -> Site {
    let site = Site::build(plan, families);
    families.iter().for_each(|&family| delete_vip(&site, family));
    site
}

fn with_width(family: Family) -> String {
    format!("{}/{}", vip(family), if family == Family::V4 { 32 } else { 128 })
}

fn delete_vip(site: &Site, family: Family) {
    site.topology.director.ip(&format!("address del {} dev {NIC}", with_width(family))).unwrap();
}

fn add_vip(site: &Site, family: Family) {
    let words = format!("address add {} dev {NIC} nodad", with_width(family));
    site.topology.director.ip(&words).unwrap();
}

fn has_address(site: &Site, address: IpAddr) -> bool {
    !site.topology.director.ip(&format!("address show dev {NIC} to {address}")).unwrap().is_empty()
}

fn has_vip(site: &Site, family: Family) -> bool {
    has_address(site, vip(family))
}

fn status(director: &Director) -> Option<StatusView> {
    let api = Api::at_socket(director.socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let said = ask(&api, hyper::Method::GET, "/v1/status", String::new());
    serde_json::from_slice(&runtime.block_on(said).ok()?).ok()
}

fn vip_view(director: &Director, address: IpAddr) -> Option<VipView> {
    status(director)?.vips.into_iter().find(|view| view.address == address)
}

fn wait_for_vip(director: &Director, until: &str, wanted: impl Fn(&VipView) -> bool) {
    wait_for_vip_of(director, Family::V4, until, wanted);
}

fn wait_for_vip_of(
    director: &Director,
    family: Family,
    until: &str,
    wanted: impl Fn(&VipView) -> bool,
) {
    let vip = vip(family);
    let is_so = || vip_view(director, vip).is_some_and(|view| wanted(&view));
    if let Err(error) = director.process().wait_until(PATIENCE, until, is_so) {
        panic!("{error}\n{:#?}\n{}", vip_view(director, vip), director.process().output());
    }
}

fn wait_for_word(director: &Director, word: &str) {
    let said = || director.process().output().contains(word);
    if let Err(error) = director.process().wait_until(PATIENCE, word, said) {
        panic!("{error}\n{}", director.process().output());
    }
}

/// How often the director has said on the wire that it has this address.
fn announcements(frames: &[SeenFrame], address: IpAddr) -> usize {
    let claim = Claim { address, mac: director_mac() };
    // The switch's port receives what the director sends. An announcement goes to everybody, and
    // is no answer.
    let told = |frame: &&SeenFrame| !frame.outgoing && frame.destination()[0] & 1 == 1;
    frames.iter().filter(told).filter(|frame| read_claim(&frame.bytes) == Some(claim)).count()
}

/// This config with further services of [`OTHER`] at these ports.
fn with_other(config: &Config, ports: &[(&'static str, u16)]) -> Config {
    let mut config = config.clone();
    config.services.extend(ports.iter().map(|&(protocol, port)| {
        VirtualService::new(protocol, SocketAddr::new(OTHER, port), "rr", vec![])
    }));
    config
}

fn answers(site: &Site, family: Family, count: usize) {
    for _ in 0..count {
        assert_eq!(get_once(&site.topology.client, http(family), "/").unwrap().status, 200);
    }
}

/// Frames from this address that reset a connection, as the client received them.
fn resets(frames: &[SeenFrame], from: IpAddr) -> usize {
    let IpAddr::V4(from) = from else { panic!("{from}") };
    let reset = |frame: &&SeenFrame| {
        let bytes = &frame.bytes;
        !frame.outgoing
            && bytes.get(12..14) == Some(&[0x08, 0x00])
            && bytes.get(23) == Some(&6)
            && bytes.get(26..30) == Some(&from.octets()[..])
            && bytes.get(47).is_some_and(|flags| flags & 0x04 != 0)
    };
    frames.iter().filter(reset).count()
}

#[test]
fn a_vip_is_added_and_announced_and_removed_at_the_end() {
    let site = without_vip(Plan::new("vip").ipv6(), &BOTH);
    let capture = Capture::start(&site.topology.switch, "director").unwrap();
    let config = Config::of(BOTH.map(|family| service("tcp", family, "rr", 2)).into());
    let director = site.start(&config);
    for family in BOTH {
        assert!(has_vip(&site, family), "{}", director.process().output());
        answers(&site, family, 4);
        let again = || announcements(&capture.frames(), vip(family)) >= 3;
        wait_until(PATIENCE, "it is announced again and again", again).unwrap();
        let address = vip(family).to_string();
        let metrics = Metrics::fetch(&site.topology.director);
        assert_eq!(metrics.sum("shunt_vip_held", &[("vip", &address)]), 1.0);
        let counted = metrics.sum("shunt_vip_announcements_total", &[("vip", &address)]);
        let seen = announcements(&capture.frames(), vip(family));
        assert!(counted >= 3.0 && counted <= seen as f64, "{counted}, {seen}");
        // The real servers are asked from an address that they answer.
        let route = format!("route get {}", real_server_address(1, family));
        let route = site.topology.director.ip(&route).unwrap();
        let source = format!("src {}", lab::director_address(family));
        assert!(route.contains(&source), "{route}");
    }
    wait_for_vip(&director, "it is shunt's", |view| view.held == "shunt");
    let view = vip_view(&director, vip(Family::V4)).unwrap();
    assert_eq!((view.interface.as_deref(), view.claims.len()), (Some(NIC), 0));
    let output = director.process().output();
    assert!(!output.contains("warning"), "{output}");

    let status = director.stop(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", director.process().output());
    for family in BOTH {
        assert!(!has_vip(&site, family));
    }
    assert!(has_address(&site, lab::director_address(Family::V4)));
}

/// The kernel would reset every connection whose packets it sees while the VIP is its own.
#[test]
fn a_clean_stop_under_load_resets_nobody() {
    let site = without_vip(Plan::new("no-reset"), &[Family::V4]);
    // Else the director itself resets whom it does not know, until it ends.
    let top = "unknown_flow = \"drop\"".into();
    let director = site.start(&Config { top, ..Config::of(vec![http_rr(2)]) });
    let capture = Capture::start(&site.topology.client, NIC).unwrap();
    let load = Load::start(&site.topology, http(Family::V4), 20, true);
    load.wait_for_rounds(50);
    // Packets without a pause, so that none of the end's steps is too short to be seen.
    let stray = frames::frame("ip client > vip / tcp 4007 > 80 A");
    let wire = Wire::open(&site.topology.router, ROUTER_INSIDE).unwrap();
    let stopped = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0;
            while !stopped.load(Relaxed) {
                // A full queue on the way loses it, as on any network.
                let told = wire.send_to(director_mac(), router_mac(), &stray);
                sent += u32::from(told.is_ok());
            }
            sent
        });
        let status = director.stop(PATIENCE);
        stopped.store(true, Relaxed);
        assert_eq!(status.unwrap().code(), Some(0), "{}", director.process().output());
        flood.join().unwrap()
    });
    assert!(sent > 1_000, "{sent}");
    assert!(!has_vip(&site, Family::V4), "{}", director.process().output());
    // The clients go on sending to nobody: a connection that is tried now finds no one.
    let refused = get_once(&site.topology.client, http(Family::V4), "/").unwrap_err().to_string();
    assert!(!refused.contains("refused") && !refused.contains("reset"), "{refused}");
    let report = load.finish();
    assert!(report.new.values().sum::<usize>() >= 50, "{report:?}");
    assert!(!report.failures.iter().any(|failure| failure.contains("reset")), "{report:?}");
    assert_eq!(resets(&capture.finish(), vip(Family::V4)), 0);
}

#[test]
fn a_vip_by_other_hands_is_left_to_them() {
    let site = Site::build(Plan::new("others"), &[Family::V4]);
    let capture = Capture::start(&site.topology.switch, "director").unwrap();
    let config = Config::of(vec![http_rr(2)]);
    let director = site.start(&config);
    wait_for_vip(&director, "it is others'", |view| view.held == "other");
    answers(&site, Family::V4, 4);
    // As keepalived does when another director becomes the master.
    delete_vip(&site, Family::V4);
    wait_for_vip(&director, "it is gone", |view| view.held == "absent");
    wait_for_word(&director, "was taken away by other hands");
    assert!(director.shunt("list").unwrap().contains("[VIP absent]"));
    // Something that shunt does add, after it could have added that: it looks at all of them.
    director.reload(&with_other(&config, &[("tcp", 80)])).unwrap();
    wait_until(PATIENCE, "the other VIP is there", || has_address(&site, OTHER)).unwrap();
    assert!(!has_vip(&site, Family::V4), "{}", director.process().output());
    // And back.
    add_vip(&site, Family::V4);
    wait_for_vip(&director, "it is there again", |view| view.held == "other");
    answers(&site, Family::V4, 4);
    director.stop(PATIENCE).unwrap();
    assert!(has_vip(&site, Family::V4) && !has_address(&site, OTHER));
    assert_eq!(announcements(&capture.finish(), vip(Family::V4)), 0, "that is their business");
}

#[test]
fn a_backup_waits_and_forwards_once_the_vip_is_given_to_it() {
    let site = without_vip(Plan::new("backup"), &[Family::V4]);
    let config = Config { top: "manage_vip = false".into(), ..Config::of(vec![http_rr(2)]) };
    let director = site.start(&config);
    wait_for_word(&director, "shunt waits for it");
    wait_for_vip(&director, "it is absent", |view| view.held == "absent");
    assert!(!has_vip(&site, Family::V4));
    add_vip(&site, Family::V4);
    wait_for_vip(&director, "it is there", |view| view.held == "other");
    // keepalived announces it.
    answers(&site, Family::V4, 4);
    let metrics = Metrics::fetch(&site.topology.director);
    let address = vip(Family::V4).to_string();
    let announced = metrics.sum("shunt_vip_announcements_total", &[("vip", &address)]);
    assert_eq!(announced, 0.0);
    director.stop(PATIENCE).unwrap();
    assert!(has_vip(&site, Family::V4));
}

/// The real server answers ARP requests for the VIP, as every machine does by itself.
fn let_it_answer(site: &Site, number: u8, answer: bool) {
    for scope in ["all", "lo"] {
        let setting = format!("net.ipv4.conf.{scope}.arp_ignore");
        let value = if answer { "0" } else { "1" };
        site.topology.real_server(number).sysctl(&setting, value).unwrap();
    }
}

#[test]
fn a_start_is_refused_while_another_machine_has_the_vip() {
    let mut site = without_vip(Plan::new("refused"), &[Family::V4]);
    let_it_answer(&site, 2, true);
    let config = Config::of(vec![http_rr(2)]);
    let refused = |site: &Site, parts: &[&str]| {
        let director = Director::begin(&site.topology, shunt(), &config).unwrap();
        let status = director.process().wait(PATIENCE).unwrap();
        let output = director.process().output();
        assert_eq!(status.code(), Some(1), "{output}");
        for part in parts {
            assert!(output.contains(part), "{part} is not in {output}");
        }
        assert!(!has_vip(site, Family::V4) && !director.socket().exists());
        let link = site.topology.director.ip(&format!("-details link show {NIC}")).unwrap();
        assert!(!link.contains("prog/xdp"), "{link}");
    };
    let mac = mac_text(real_server_mac(2));
    let whose = format!("real server {} ({mac})", real_server_address(2, Family::V4));
    refused(
        &site,
        &[&whose, "`shunt rs setup --vip", "duplicate_vip = \"take\"", "Nothing was taken"],
    );
    let_it_answer(&site, 2, false);

    // A machine that the config does not know.
    let number = site.topology.add_real_server().unwrap();
    let stranger = site.topology.real_server(number);
    stranger.ip(&format!("address add {} dev {NIC}", with_width(Family::V4))).unwrap();
    let mac = mac_text(real_server_mac(number));
    refused(&site, &[&mac, "which is no real server's", "manage_vip = false"]);

    let take = Config { top: "duplicate_vip = \"take\"".into(), ..config.clone() };
    let director = site.start(&take);
    assert!(has_vip(&site, Family::V4));
    wait_for_word(&director, "it is taken all the same");
    let claim = ClaimView { mac: mac_text(real_server_mac(number)), server: None };
    wait_for_vip(&director, "it is still claimed", |view| view.claims == [claim.clone()]);
    director.stop(PATIENCE).unwrap();
}

#[test]
fn what_a_killed_director_left_is_known_as_shunts() {
    let site = without_vip(Plan::new("left"), &[Family::V4]);
    let config = Config::of(vec![http_rr(2)]);
    let director = site.start(&config);
    director.reload(&with_other(&config, &[("tcp", 80)])).unwrap();
    wait_until(PATIENCE, "the other VIP is there", || has_address(&site, OTHER)).unwrap();
    director.process().signal(Signal::SIGKILL).unwrap();
    director.process().wait(PATIENCE).unwrap();
    assert!(has_vip(&site, Family::V4) && has_address(&site, OTHER));
    drop(director);

    let director = site.start(&config);
    wait_for_vip(&director, "it is shunt's", |view| view.held == "shunt");
    answers(&site, Family::V4, 4);
    // The service that was added at run time is not in the file.
    wait_until(PATIENCE, "what nobody needs is gone", || !has_address(&site, OTHER)).unwrap();
    director.stop(PATIENCE).unwrap();
    assert!(!has_vip(&site, Family::V4));
}

#[test]
fn vips_come_and_go_with_their_services() {
    let site = without_vip(Plan::new("come-and-go"), &[Family::V4]);
    let config = Config::of(vec![http_rr(2)]);
    let director = site.start(&config);
    let capture = Capture::start(&site.topology.switch, "director").unwrap();
    director.reload(&with_other(&config, &[("tcp", 80), ("udp", 53)])).unwrap();
    wait_until(PATIENCE, "the VIP is there", || has_address(&site, OTHER)).unwrap();
    let announced = || announcements(&capture.frames(), OTHER) > 0;
    wait_until(PATIENCE, "the VIP is announced", announced).unwrap();
    let shows = |services: usize| {
        wait_for_list(&director, "the services are listed", |listed| listed.len() == services);
    };
    director.reload(&with_other(&config, &[("udp", 53)])).unwrap();
    shows(2);
    assert!(has_address(&site, OTHER), "a service still has it");
    director.reload(&config).unwrap();
    wait_until(PATIENCE, "the VIP is gone", || !has_address(&site, OTHER)).unwrap();
    answers(&site, Family::V4, 4);
}

#[test]
fn a_vip_that_is_deleted_comes_back_without_a_lost_flow() {
    let site = without_vip(Plan::new("deleted").ipv6(), &BOTH);
    let config = Config::of(BOTH.map(|family| service("tcp", family, "rr", 2)).into());
    let director = site.start(&config);
    let load = Load::start(&site.topology, http(Family::V4), 10, false);
    load.wait_for_rounds(20);
    for family in BOTH {
        delete_vip(&site, family);
        wait_for_word(&director, &format!("VIP {} is gone from {NIC}", vip(family)));
        wait_until(PATIENCE, "it is back", || has_vip(&site, family)).unwrap();
        answers(&site, family, 4);
    }
    load.wait_for_rounds(20);
    let report = load.finish();
    assert!(report.failures.is_empty(), "{report:?}\n{}", director.process().output());
}

/// Another director, for one, that found nobody who had it.
#[test]
fn a_vip_that_another_machine_took_while_the_link_was_down_is_left_to_it() {
    let mut site = without_vip(Plan::new("meanwhile"), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(2)]));
    site.topology.switch.ip("link set director down").unwrap();
    wait_for_word(&director, "is down");
    let number = site.topology.add_real_server().unwrap();
    let (stranger, mac) = (site.topology.real_server(number), mac_text(real_server_mac(number)));
    stranger.ip(&format!("address add {} dev {NIC}", with_width(Family::V4))).unwrap();
    // The bridge itself, whose link stays up.
    let capture = Capture::start(&site.topology.switch, "br0").unwrap();
    site.topology.switch.ip("link set director up").unwrap();
    wait_for_vip(&director, "it is left to the other one", |view| view.held == "absent");
    wait_for_word(&director, "it is removed here while that is so");
    assert!(!has_vip(&site, Family::V4));
    assert_eq!(announcements(&capture.frames(), vip(Family::V4)), 0);
    let listed = director.shunt("list").unwrap();
    assert!(listed.contains(&format!("[VIP absent: {mac} answers for it]")), "{listed}");
    assert!(!director.process().output().contains("not by shunt"));
    let gives_up = || {
        stranger.ip(&format!("address del {} dev {NIC}", with_width(Family::V4))).unwrap();
        wait_for_vip(&director, "it is back", |view| view.held == "shunt");
    };
    gives_up();
    let announced = || announcements(&capture.frames(), vip(Family::V4)) > 0;
    wait_until(PATIENCE, "it is announced", announced).unwrap();
    answers(&site, Family::V4, 4);

    // The switch may not forward yet when the director asks: then it is found by the next question.
    site.topology.director.ip(&format!("link set {NIC} down")).unwrap();
    let said = |what: &str| director.process().output().matches(what).count();
    wait_until(PATIENCE, "it is down again", || said("is down: no packet") == 2).unwrap();
    stranger.ip(&format!("address add {} dev {NIC}", with_width(Family::V4))).unwrap();
    site.topology.director.ip(&format!("link set {NIC} up")).unwrap();
    wait_until(PATIENCE, "it is up again", || said("is up again") == 2).unwrap();
    wait_for_vip(&director, "it is left to the other one", |view| view.held == "absent");
    gives_up();
}

/// The kernel forgets a link's IPv6 addresses when it goes down.
#[test]
fn vips_come_back_with_their_link() {
    let site = without_vip(Plan::new("link").ipv6(), &BOTH);
    let config = Config::of(BOTH.map(|family| service("tcp", family, "rr", 2)).into());
    let director = site.start(&config);
    let topology = &site.topology;
    topology.director.ip(&format!("link set {NIC} down")).unwrap();
    wait_until(PATIENCE, "the kernel forgets", || !has_vip(&site, Family::V6)).unwrap();
    wait_for_word(&director, "is down");
    let capture = Capture::start(&topology.switch, "director").unwrap();
    topology.director.ip(&format!("link set {NIC} up")).unwrap();
    for family in BOTH {
        wait_until(PATIENCE, "it is there", || has_vip(&site, family)).unwrap();
        let announced = || announcements(&capture.frames(), vip(family)) > 0;
        wait_until(PATIENCE, "it is announced", announced).unwrap();
    }
    answers(&site, Family::V4, 4);
}

#[test]
fn a_real_server_that_answers_arp_for_the_vip_is_named() {
    let site = without_vip(Plan::new("flux").ipv6(), &BOTH);
    let config = Config::of(BOTH.map(|family| service("tcp", family, "rr", 2)).into());
    let director = site.start(&config);
    answers(&site, Family::V4, 2);
    let rs2 = real_server_address(2, Family::V4);
    let mac = mac_text(real_server_mac(2));
    let begun = Instant::now();
    let_it_answer(&site, 2, true);
    let claim = ClaimView { mac: mac.clone(), server: Some(rs2) };
    wait_for_vip(&director, "it is claimed", |view| view.claims == [claim.clone()]);
    println!("noticed after {} ms", begun.elapsed().as_millis());
    // With IPv6 a machine is silent for what it has on lo, and answers for what is on its NIC.
    let words = format!("dev {NIC} nodad");
    let rs2_v6 = site.topology.real_server(2);
    rs2_v6.ip(&format!("address add {} {words}", with_width(Family::V6))).unwrap();
    let claim_v6 = ClaimView { mac: mac.clone(), server: Some(real_server_address(2, Family::V6)) };
    wait_for_vip_of(&director, Family::V6, "it is claimed", |view| {
        view.claims == [claim_v6.clone()]
    });
    rs2_v6.ip(&format!("address del {} dev {NIC}", with_width(Family::V6))).unwrap();
    let sentence =
        format!("warning: real server {rs2} ({mac}) answers ARP for VIP {}", vip(Family::V4));
    wait_for_word(&director, &sentence);
    assert!(director.shunt("list").unwrap().contains(&format!("VIP claimed by {mac}")));
    let metrics = Metrics::fetch(&site.topology.director);
    let (address, rs2) = (vip(Family::V4).to_string(), rs2.to_string());
    let labels = [("vip", address.as_str()), ("mac", mac.as_str()), ("server", rs2.as_str())];
    assert_eq!(metrics.sum("shunt_vip_claimed", &labels), 1.0);

    let_it_answer(&site, 2, false);
    wait_for_vip(&director, "the claim has ended", |view| view.claims.is_empty());
    wait_for_vip_of(&director, Family::V6, "the claim has ended", |view| view.claims.is_empty());
    wait_for_word(&director, &format!("{mac} no longer claims VIP {address}"));
    let metrics = Metrics::fetch(&site.topology.director);
    assert_eq!(metrics.with("shunt_vip_claimed", &[]).count(), 0, "{}", metrics.text);
    let warnings = director.process().output().matches(&sentence).count();
    assert_eq!(warnings, 1, "{}", director.process().output());
    assert!(!director.shunt("list").unwrap().contains("claimed"));
}

/// Two directors that share a network, of which one has the VIP, tell a machine that comes between.
#[test]
fn who_announces_a_vip_is_heard_at_once_and_answered() {
    let mut site = without_vip(Plan::new("announced"), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(2)]));
    let number = site.topology.add_real_server().unwrap();
    let stranger = site.topology.real_server(number);
    let wire = Wire::open(stranger, NIC).unwrap();
    let IpAddr::V4(address) = vip(Family::V4) else { panic!() };
    let mac = [2, 0, 0, 0, 0, 0x77];
    let count = || {
        let metrics = Metrics::fetch(&site.topology.director);
        let address = address.to_string();
        metrics.sum("shunt_vip_announcements_total", &[("vip", &address)])
    };
    // The announcements of the start are over.
    wait_until(PATIENCE, "the start is announced", || count() >= 5.0).unwrap();
    wire.send(&director::layer2::frames::gratuitous_arp(mac, address)).unwrap();
    let claim = ClaimView { mac: mac_text(mac), server: None };
    wait_for_vip(&director, "it is claimed", |view| view.claims == [claim.clone()]);
    wait_until(PATIENCE, "it is answered", || count() >= 6.0).unwrap();
    wait_for_vip(&director, "it is still claimed", |view| view.claims == [claim.clone()]);
}

#[test]
fn made_up_claims_flood_neither_the_log_nor_the_metrics() {
    let mut site = without_vip(Plan::new("made-up"), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(2)]));
    let number = site.topology.add_real_server().unwrap();
    let wire = Wire::open(site.topology.real_server(number), NIC).unwrap();
    let IpAddr::V4(address) = vip(Family::V4) else { panic!() };
    let text = address.to_string();
    for last in 0..100 {
        let mac = [2, 0, 0, 0, 1, last];
        wire.send(&director::layer2::frames::gratuitous_arp(mac, address)).unwrap();
    }
    let unnamed = || {
        let metrics = Metrics::fetch(&site.topology.director);
        metrics.sum("shunt_vip_claims_unnamed_total", &[("vip", &text)])
    };
    wait_until(PATIENCE, "the rest is counted", || unnamed() == 92.0).unwrap();
    let listed = director.shunt("list").unwrap();
    assert!(listed.contains("and many more]"), "{listed}");
    // Among them a real server is found as ever.
    let_it_answer(&site, 2, true);
    let rs2 = real_server_address(2, Family::V4);
    wait_for_vip(&director, "it is found", |view| {
        view.claims.iter().any(|claim| claim.server == Some(rs2))
    });
    wait_for_word(&director, &format!("real server {rs2} ("));
    let metrics = Metrics::fetch(&site.topology.director);
    let series = metrics.with("shunt_vip_claimed", &[("vip", text.as_str())]).count();
    assert_eq!(series, 9, "{}", metrics.text);
    wait_for_word(&director, "these are only counted");
    let output = director.process().output();
    let lines = output.lines().filter(|line| line.contains(&format!("for VIP {text}"))).count();
    assert_eq!(lines, 9, "{output}");
    assert_eq!(output.matches("only counted").count(), 1, "{output}");
}

/// A NIC of the director's, whose other end, `second`, is in the switch's namespace.
const SECOND: &str = "eth1";

fn add_second_nic(topology: &Topology) {
    let to = topology.director.name();
    let peer = format!("link add second type veth peer {SECOND} netns {to}");
    topology.switch.ip(&peer).unwrap();
    for (netns, link) in [(&topology.switch, "second"), (&topology.director, SECOND)] {
        netns.offloads_off(link).unwrap();
        netns.ip(&format!("link set {link} up")).unwrap();
    }
}

/// Linux answers ARP for each of its addresses on each of its links, unless told otherwise.
#[test]
fn another_nic_of_the_directors_own_that_answers_for_the_vip_is_named() {
    let site = without_vip(Plan::new("own-flux"), &[Family::V4]);
    add_second_nic(&site.topology);
    site.topology.switch.ip("link set second master br0").unwrap();
    // It is no other machine's: the start is not refused.
    let director = site.start(&Config::of(vec![http_rr(2)]));
    wait_for_word(&director, &format!("answers ARP for VIP {} on {SECOND}, too", vip(Family::V4)));
    let diagnosis = Diagnosis::of(&site.topology, director.config());
    diagnosis.problem(Area::Vip, &vip(Family::V4).to_string(), &format!("for it on {SECOND}, too"));
    site.topology.director.sysctl(&format!("net.ipv4.conf.{SECOND}.arp_ignore"), "1").unwrap();
    wait_for_vip(&director, "its claim has ended", |view| view.claims.is_empty());
}

/// What a real server says of itself is heard where it moves to, though no link or address changes.
#[test]
fn a_link_that_a_real_server_moves_to_is_listened_to() {
    let site = Site::build(Plan::new("moves"), &[Family::V4]);
    let topology = &site.topology;
    add_second_nic(topology);
    let interface = format!("[[interface]]\nname = \"{SECOND}\"");
    let director = site.start(&Config { interface, ..Config::of(vec![http_rr(2)]) });
    let index = topology.director.run(|| if_nametoindex(SECOND).unwrap()).unwrap().to_string();
    let listens = || {
        let sockets = topology.director.exec("cat /proc/net/packet").unwrap();
        // sk, RefCnt, Type, Proto, Iface …
        let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        fields.filter(|fields| fields[3] == "0806").any(|fields| fields[4] == index)
    };
    assert!(!listens(), "nobody is there yet");
    let rs2 = real_server_address(2, Family::V4);
    topology.director.ip(&format!("route add {rs2}/32 dev {SECOND}")).unwrap();
    if let Err(error) = director.process().wait_until(PATIENCE, "it is listened to", listens) {
        panic!("{error}\n{}", director.process().output());
    }
}

/// An RS that was replaced is followed by what it says, not by what the kernel would ask.
#[test]
fn a_real_server_that_says_where_it_is_is_followed_without_a_lost_flow() {
    let site = without_vip(Plan::new("moved"), &[Family::V4]);
    let director = site.start(&Config::of(vec![http_rr(1)]));
    let mut held = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
    held.get("/").unwrap();
    let rs1 = site.topology.real_server(1);
    let new = [2, 0, 0, 0, 0, 0x22];
    // One that takes its addresses along, as bonds do: no link goes down.
    rs1.ip(&format!("link set {NIC} address {}", mac_text(new))).unwrap();
    let IpAddr::V4(address) = real_server_address(1, Family::V4) else { panic!() };
    let begun = Instant::now();
    let wire = Wire::open(rs1, NIC).unwrap();
    wire.send(&director::layer2::frames::gratuitous_arp(new, address)).unwrap();
    wait_for_list(&director, "the new MAC address is known", |services| {
        services[0].servers[0].mac == Some(mac_text(new))
    });
    println!("followed after {} ms", begun.elapsed().as_millis());
    held.get("/").unwrap();
    assert!(list(&director).is_some());
}
