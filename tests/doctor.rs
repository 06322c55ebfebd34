//! `shunt doctor`: a healthy site, before and while the director runs, and each fault that can be
//! made in a namespace. Each is provoked, found with its sentence, mended, and found no more.

mod common;

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use common::diagnosis::{Diagnosis, Found, remedy};
use common::{HTTP, PATIENCE, Site, http_rr, service, shunt};
use director::doctor::{Area, State};
use lab::{
    Config, Family, NIC, Plan, TempDir, Topology, VirtualService, client_address, mac_text,
    real_server_address, real_server_mac, router_mac, vip, wait_until,
};
use nix::net::if_::if_nametoindex;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use xsk::InterfaceOptions;

const V4: &[Family] = &[Family::V4];

/// Copy mode is what a veth has, so that it is no reason to warn.
fn config(services: Vec<VirtualService>) -> Config {
    Config { interface: "mode = \"copy\"".into(), services, ..Config::default() }
}

/// A config file for a director that is not started.
fn written(topology: &Topology, config: &Config) -> PathBuf {
    let files: &TempDir = &topology.files;
    files.write("director.toml", config.text(&files.path().join("api.sock"))).unwrap()
}

fn site(purpose: &str) -> Site {
    Site::build(Plan::new(purpose), V4)
}

/// Waits until the doctor no longer says this: what was mended may take a moment.
fn wait_until_well(site: &Site, config: &Path, area: Area, part: &str) {
    let gone = || Diagnosis::of(&site.topology, config).find(area, part).is_none();
    wait_until(PATIENCE, &format!("{part:?} is gone"), gone).unwrap();
}

#[test]
fn a_healthy_site_is_well_before_and_while_the_director_runs() {
    let families = [Family::V4, Family::V6];
    let site = Site::build(Plan::new("doctor-well").ipv6(), &[Family::V4, Family::V6]);
    let services = families
        .into_iter()
        .flat_map(|family| ["tcp", "udp"].map(|protocol| service(protocol, family, "rr", 2)));
    let config = config(services.collect());
    let file = written(&site.topology, &config);
    let before = Diagnosis::of(&site.topology, &file);
    before.assert_no_problems();
    // Whoever added it has left it to be chosen as a source.
    let chosen = before.find(Area::Servers, "comes from the VIP").unwrap();
    let command = remedy(chosen).split(',').next().unwrap();
    site.topology.director.ip(command.strip_prefix("ip ").unwrap()).unwrap();
    let before = Diagnosis::of(&site.topology, &file);
    before.assert_well();
    assert!(before.find(Area::Director, "none runs").is_some(), "{before:#?}");

    let director = site.start(&config);
    let running = Diagnosis::of(&site.topology, director.config());
    running.assert_well();
    let has = |area, part: &str| {
        assert!(running.find(area, part).is_some(), "no {part:?} in {running:#?}");
    };
    has(Area::Director, " has run for ");
    has(Area::Interface, "(steer) is the running director's");
    has(Area::Interface, "the XDP program runs in its driver, veth");
    has(Area::Interface, "copy mode, as configured");
    has(Area::Vip, "nobody else answers ARP");
    has(Area::Vip, "nobody else answers neighbor solicitations");
    for family in families {
        for number in [1, 2] {
            let server = real_server_address(number, family).to_string();
            let of_server = |part: &str| {
                running.findings.iter().any(|found| {
                    found.subject == server
                        && found.state == State::Ok
                        && found.sentence.contains(part)
                })
            };
            assert!(of_server(&mac_text(real_server_mac(number))), "{server}: {running:#?}");
            let vip = SocketAddr::new(vip(family), HTTP);
            assert!(
                of_server(&format!("takes connections to tcp:{vip}")),
                "{server}: {running:#?}"
            );
        }
    }
    // The text has a line for each, and one that counts.
    let mut command = site.topology.director.command(shunt());
    let text = command.args(["doctor", "--config"]).arg(director.config()).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.lines().count(), running.findings.len() + 1, "{text}");
    assert!(text.lines().last().unwrap().starts_with("0 problems, "), "{text}");
}

/// Each fault is made, found and mended in turn.
#[test]
fn faults_are_found_while_the_director_runs() {
    let site = site("doctor-faults");
    let director = site.start(&config(vec![http_rr(2)]));
    let file = director.config();
    Diagnosis::of(&site.topology, file).assert_well();
    // A claim is remembered for a while: the rest is looked at meanwhile.
    let flux = a_real_server_answers_arp(&site, file);
    let duplicate = a_third_machine_has_the_vip(&site, file);
    a_real_server_lacks_the_vip(&site, file);
    a_real_server_is_gone(&site, file);
    for claim in [flux, duplicate] {
        wait_until_well(&site, file, Area::Vip, &claim);
    }
    Diagnosis::of(&site.topology, file).assert_well();
    a_link_is_down(&site, file);
}

/// Returns what is said of it.
fn a_real_server_answers_arp(site: &Site, file: &Path) -> String {
    let rs2 = site.topology.real_server(2);
    let set = |value: &str| {
        for scope in ["all", "lo"] {
            rs2.sysctl(&format!("net.ipv4.conf.{scope}.arp_ignore"), value).unwrap();
        }
    };
    set("0");
    let vip = vip(Family::V4).to_string();
    let flux = format!(
        "real server {} ({}) answers ARP for it",
        real_server_address(2, Family::V4),
        mac_text(real_server_mac(2))
    );
    let diagnosis = Diagnosis::of(&site.topology, file);
    let found = diagnosis.problem(Area::Vip, &vip, &flux);
    let remedy = remedy(found).to_owned();
    assert_eq!(
        remedy,
        format!("on {}: shunt rs setup --vip {vip}", real_server_address(2, Family::V4))
    );
    set("1");
    flux
}

fn a_real_server_lacks_the_vip(site: &Site, file: &Path) {
    let rs1 = site.topology.real_server(1);
    let (server, vip) = (real_server_address(1, Family::V4), vip(Family::V4));
    rs1.ip(&format!("address del {vip}/32 dev lo")).unwrap();
    let silent = format!("no answer for {vip}:{HTTP}");
    let diagnosis = Diagnosis::of(&site.topology, file);
    let found = diagnosis.problem(Area::Servers, &server.to_string(), &silent);
    let expected = format!("on {server}: shunt rs check --vip {vip}:{HTTP} --protocol tcp");
    assert_eq!(remedy(found), expected);
    rs1.ip(&format!("address add {vip}/32 dev lo")).unwrap();
    wait_until_well(site, file, Area::Servers, &silent);
}

fn a_real_server_is_gone(site: &Site, file: &Path) {
    let server = real_server_address(1, Family::V4).to_string();
    site.topology.switch.ip("link set rs1 down").unwrap();
    let diagnosis = Diagnosis::of(&site.topology, file);
    diagnosis.problem(Area::Servers, &server, "it does not answer ARP");
    site.topology.switch.ip("link set rs1 up").unwrap();
    wait_until_well(site, file, Area::Servers, "it does not answer ARP");
}

/// Returns what is said of it.
fn a_third_machine_has_the_vip(site: &Site, file: &Path) -> String {
    let vip = vip(Family::V4).to_string();
    let router = &site.topology.router;
    router.ip(&format!("address add {vip}/32 dev {NIC}")).unwrap();
    let other = format!("another machine ({}) answers ARP for it", mac_text(router_mac()));
    Diagnosis::of(&site.topology, file).problem(Area::Vip, &vip, &other);
    router.ip(&format!("address del {vip}/32 dev {NIC}")).unwrap();
    other
}

fn a_link_is_down(site: &Site, file: &Path) {
    // The cable: the other end is down.
    site.topology.switch.ip("link set director down").unwrap();
    Diagnosis::of(&site.topology, file).problem(Area::Interface, NIC, "it has no carrier");
    site.topology.switch.ip("link set director up").unwrap();
    wait_until_well(site, file, Area::Interface, "it has no carrier");
    site.topology.director.ip(&format!("link set {NIC} down")).unwrap();
    let diagnosis = Diagnosis::of(&site.topology, file);
    let down = diagnosis.problem(Area::Interface, NIC, "it is down");
    assert_eq!(remedy(down), format!("ip link set dev {NIC} up"));
    // What could not be asked is no problem found, and no ok either.
    let unasked = diagnosis.find(Area::Vip, "cannot be read").unwrap();
    assert_eq!(unasked.state, State::Warning, "{unasked:#?}");
}

#[test]
fn a_real_server_behind_a_router_is_a_problem() {
    let site = site("doctor-router");
    let mut service = http_rr(1);
    let far = client_address(Family::V4);
    service.real_servers.push((far, 1));
    let file = written(&site.topology, &config(vec![service]));
    let diagnosis = Diagnosis::of(&site.topology, &file);
    let behind = diagnosis.problem(Area::Servers, &far.to_string(), "behind the gateway");
    assert!(remedy(behind).contains("one network"), "{behind:#?}");
    let near = real_server_address(1, Family::V4).to_string();
    let asked = diagnosis.findings.iter().filter(|found| found.subject == near);
    assert!(asked.clone().count() > 0 && asked.clone().all(|found| found.state == State::Ok));

    // The router answers ARP for all that are behind it, as if they were on the link.
    for (key, value) in [("conf.eth0.proxy_arp", "1"), ("neigh.eth0.proxy_delay", "0")] {
        site.topology.router.sysctl(&format!("net.ipv4.{key}"), value).unwrap();
    }
    site.topology.director.ip(&format!("route add 192.168.100.0/24 dev {NIC}")).unwrap();
    let mut service = http_rr(1);
    let farther: IpAddr = [192, 168, 100, 12].into();
    service.real_servers.extend([(far, 1), (farther, 1)]);
    let director = site.start(&config(vec![service]));
    let diagnosis = Diagnosis::of(&site.topology, director.config());
    let same = format!("it has the MAC address of {farther}, too");
    let alike = diagnosis.find(Area::Servers, &same).unwrap_or_else(|| panic!("{diagnosis:#?}"));
    assert_eq!((alike.subject.as_str(), alike.state), (far.to_string().as_str(), State::Warning));
    let silent = |found: &&Found| found.sentence.contains("no answer for");
    assert_eq!(diagnosis.findings.iter().filter(silent).count(), 2, "{diagnosis:#?}");
}

#[test]
fn a_vip_that_is_nowhere_or_elsewhere_is_found() {
    let site = site("doctor-vip");
    let director = &site.topology.director;
    let vip = vip(Family::V4).to_string();
    let by_others = Config { top: "manage_vip = false".into(), ..config(vec![http_rr(2)]) };
    let file = written(&site.topology, &by_others);
    Diagnosis::of(&site.topology, &file).assert_well();

    director.ip(&format!("address del {vip}/32 dev {NIC}")).unwrap();
    let absent = Diagnosis::of(&site.topology, &file);
    let found = absent.find(Area::Vip, "it is not here").unwrap();
    assert_eq!((found.state, absent.code), (State::Warning, 1), "{absent:#?}");

    let file = written(&site.topology, &config(vec![http_rr(2)]));
    let managed = Diagnosis::of(&site.topology, &file);
    managed.assert_well();
    assert!(managed.find(Area::Vip, "a start adds it to eth0").is_some(), "{managed:#?}");

    director.ip(&format!("address add {vip}/32 dev lo")).unwrap();
    let elsewhere = Diagnosis::of(&site.topology, &file);
    elsewhere.problem(Area::Vip, &vip, "it is on lo, which is not served");

    // The VIP as the only address: the kernel asks for the real servers from it, in vain.
    director.ip(&format!("address del {vip}/32 dev lo")).unwrap();
    director.ip(&format!("address flush dev {NIC}")).unwrap();
    director.ip(&format!("address add {vip}/24 dev {NIC}")).unwrap();
    let alone = Diagnosis::of(&site.topology, &file);
    let server = real_server_address(1, Family::V4).to_string();
    alone.problem(Area::Servers, &server, &format!("asks for its MAC address from the VIP {vip}"));
}

#[test]
fn what_hurts_or_is_refused_is_found_before_a_start() {
    let site = site("doctor-start");
    settings_that_hurt(&site);
    let director = &site.topology.director;
    let file = written(&site.topology, &config(vec![http_rr(2)]));
    director.ip(&format!("link set {NIC} mtu 9000")).unwrap();
    let large = Diagnosis::of(&site.topology, &file);
    let mtu = large.problem(Area::Interface, NIC, "its MTU of 9000 is above 3818");
    director.ip(remedy(mtu).strip_prefix("ip ").unwrap()).unwrap();
    director.ip(&format!("link set {NIC} mtu 1500")).unwrap();
    Diagnosis::of(&site.topology, &file).assert_well();

    let zero_copy = Config { interface: "mode = \"zero-copy\"".into(), ..config(vec![http_rr(2)]) };
    let file = written(&site.topology, &zero_copy);
    let refused = Diagnosis::of(&site.topology, &file);
    let mode = refused.problem(Area::Interface, NIC, "cannot do zero-copy");
    assert!(remedy(mode).contains("mode = \"auto\""), "{mode:#?}");

    let text = config(vec![http_rr(2)]).text(&site.topology.files.path().join("api.sock"));
    let file = site.topology.files.write("director.toml", text.replace(NIC, "eth9")).unwrap();
    let wrong = Diagnosis::of(&site.topology, &file);
    let name = wrong.problem(Area::Interface, "eth9", "\"eth9\" does not exist");
    assert!(remedy(name).contains(NIC), "{name:#?}");

    let nowhere = site.topology.files.path().join("no.toml");
    let none = Diagnosis::of(&site.topology, &nowhere);
    none.problem(Area::Director, &nowhere.display().to_string(), "cannot read");
    let broken = site.topology.files.write("broken.toml", "pol = 1").unwrap();
    let broken_found = Diagnosis::of(&site.topology, &broken);
    broken_found.problem(Area::Director, &broken.display().to_string(), "unknown field `pol`");
}

fn settings_that_hurt(site: &Site) {
    let director = &site.topology.director;
    let check = "[virtual_service.health_check]\nkind = \"dr\"";
    let file = written(&site.topology, &config(vec![http_rr(2).with(check)]));
    Diagnosis::of(&site.topology, &file).assert_well();
    let log = format!("net.ipv4.conf.{NIC}.log_martians");
    let set = |martians, ignore, forward| {
        director.sysctl(&log, martians).unwrap();
        director.sysctl("net.ipv4.conf.all.arp_ignore", ignore).unwrap();
        director.sysctl("net.ipv4.ip_forward", forward).unwrap();
    };
    set("1", "8", "1");
    let found = Diagnosis::of(&site.topology, &file);
    found.problem(Area::Network, NIC, "arp_ignore is 8");
    let martians = found.find(Area::Network, "log_martians is on").unwrap();
    assert_eq!(martians.state, State::Warning, "{martians:#?}");
    let forward = found.find(Area::Network, "it does no harm").unwrap();
    assert_eq!(forward.state, State::Ok, "{forward:#?}");
    set("0", "0", "0");
}

#[test]
fn an_xdp_program_or_a_socket_in_the_way_is_found() {
    let site = site("doctor-xdp");
    let file = written(&site.topology, &config(vec![http_rr(2)]));
    let mut programs =
        Ebpf::load(aya::include_bytes_aligned!("../benches/wire/wire.bpf.o")).unwrap();
    let program: &mut Xdp = programs.program_mut("sink").unwrap().try_into().unwrap();
    program.load().unwrap();
    let attached = site.topology.director.run(|| {
        let index = if_nametoindex(NIC).unwrap();
        program.attach_to_if_index(index, XdpMode::Driver)
    });
    attached.unwrap().unwrap();
    let found = Diagnosis::of(&site.topology, &file);
    let other = found.problem(Area::Interface, NIC, "(sink) of ");
    let own = std::process::id();
    assert!(other.sentence.contains(&format!("(process {own})")), "{other:#?}");
    assert_eq!(remedy(other), format!("end process {own}, which keeps it there"));
    drop(programs);
    wait_until_well(&site, &file, Area::Interface, "(sink) of ");
    Diagnosis::of(&site.topology, &file).assert_well();

    // A socket without a program takes its queue as well.
    let open = || xsk::open(&InterfaceOptions::new(NIC));
    let sockets = site.topology.director.run(open).unwrap().unwrap();
    let taken = "queue 0 has an AF_XDP socket of another program";
    Diagnosis::of(&site.topology, &file).problem(Area::Queues, NIC, taken);
    drop(sockets);
    wait_until_well(&site, &file, Area::Queues, taken);
}

#[test]
fn more_queues_than_cores_are_found() {
    let cores = std::thread::available_parallelism().unwrap().get() as u8;
    let site = Site::build(Plan::new("doctor-cores").queues(cores + 1), V4);
    let file = written(&site.topology, &config(vec![http_rr(2)]));
    let crowded = Diagnosis::of(&site.topology, &file);
    let found = crowded.find(Area::Cores, "there are more queues than cores").unwrap();
    assert_eq!(found.state, State::Warning, "{found:#?}");
    let spread = crowded.find(Area::Queues, "it has no RSS indirection table").unwrap();
    assert_eq!(spread.state, State::Ok, "{spread:#?}");

    // A start would refuse the rest of these.
    let one = Config { interface: "queues = [0]".into(), ..config(vec![http_rr(2)]) };
    let file = written(&site.topology, &one);
    Diagnosis::of(&site.topology, &file).problem(Area::Queues, NIC, "would reach no worker");
    let core = Config { interface: "cores = [8000]".into(), ..config(vec![http_rr(2)]) };
    let file = written(&site.topology, &core);
    Diagnosis::of(&site.topology, &file).problem(Area::Cores, "workers", "there is no core 8000");
}

/// Rules of a firewall, which packets of virtual services do not pass.
#[test]
#[cfg(feature = "ci")]
fn rules_of_a_firewall_are_found() {
    let site = site("doctor-rules");
    let director = &site.topology.director;
    let file = written(&site.topology, &config(vec![http_rr(2)]));
    Diagnosis::of(&site.topology, &file).assert_well();
    director.exec("nft add table inet filter").unwrap();
    director.exec("nft add chain inet filter in").unwrap();
    for port in [22, 80] {
        director.exec(&format!("nft add rule inet filter in tcp dport {port} accept")).unwrap();
    }
    let found = Diagnosis::of(&site.topology, &file);
    let rules = found.find(Area::Network, "nftables has 2 rules (table filter)").unwrap();
    assert_eq!(rules.state, State::Warning, "{rules:#?}");
}

/// The director's own word on its real servers, and what is left of it for those who may not look:
/// any user but root has no capabilities.
#[test]
fn what_the_director_says_is_told_even_to_those_who_may_not_look() {
    let site = site("doctor-health");
    let check =
        "quorum = 2\n[virtual_service.health_check]\nkind = \"tcp\"\ninterval = 0.5\nfall = 1";
    let director = site.start(&config(vec![http_rr(2).with(check)]));
    let file = director.config();
    let said = |area, part: &'static str| {
        let says = || Diagnosis::of(&site.topology, file).find(area, part).is_some();
        wait_until(PATIENCE, part, says).unwrap();
    };
    said(Area::Servers, "2 of 2 real servers are up");
    Diagnosis::of(&site.topology, file).assert_well();

    let mut command = site.topology.director.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(shunt());
    command.args(["doctor", "--json", "--config"]).arg(file);
    a_user_is_told(&Diagnosis::by(&mut command));

    site.topology.switch.ip("link set rs2 down").unwrap();
    said(Area::Servers, "1 of 2 real servers are up and it needs 2");
    let diagnosis = Diagnosis::of(&site.topology, file);
    let server = real_server_address(2, Family::V4).to_string();
    diagnosis.problem(Area::Servers, &server, "has it down: ");

    director.stop(PATIENCE).unwrap();
    let diagnosis = Diagnosis::by(&mut command);
    let unread = "who answers ARP for it on eth0 cannot be read: Operation not permitted";
    let unread = diagnosis.find(Area::Vip, unread).unwrap_or_else(|| panic!("{diagnosis:#?}"));
    assert_eq!((unread.state, remedy(unread)), (State::Warning, "run this as root"));
}

fn a_user_is_told(diagnosis: &Diagnosis) {
    let lacks =
        diagnosis.problem(Area::Machine, "capabilities", "this process lacks CAP_NET_ADMIN");
    assert_eq!(remedy(lacks), "sudo shunt doctor");
    let unread = "whether it answers ARP cannot be read: Operation not permitted";
    let unread = diagnosis.find(Area::Servers, unread);
    assert_eq!(unread.map(|found| found.state), Some(State::Warning), "{diagnosis:#?}");
    // What the director says is not hidden.
    let mac = mac_text(real_server_mac(1));
    assert!(diagnosis.find(Area::Servers, &mac).is_some(), "{diagnosis:#?}");
    assert!(diagnosis.find(Area::Vip, "nobody else answers ARP").is_some(), "{diagnosis:#?}");
}
