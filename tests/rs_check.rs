//! `shunt rs check` on a real server that is well, and on one in which something is broken: each
//! time one line says so, with what mends it, and it is mended by typing that.

mod common;

use common::bare::{Bare, add_dummy, run};
use common::{PATIENCE, shunt};
use lab::{
    Family, HttpServer, NIC, Netns, Plan, UdpEcho, director_mac, mac_text, real_server_mac, vip,
    wait_until,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, setsockopt, socket,
    sockopt,
};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

const VIP: &str = "172.17.100.100";
const CHECK: &str = "check --vip 172.17.100.100:80";
const SETUP: &str = "shunt rs setup --vip 172.17.100.100";
const ROUTER: &str = "172.17.100.253";

fn serve(netns: &Netns, address: &str) -> HttpServer {
    HttpServer::start(netns, "rs1", address.parse().unwrap()).unwrap()
}

/// A socket that listens with IPv6 only.
fn listen_v6only(netns: &Netns, port: u16) -> OwnedFd {
    let open = || {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet6, SockType::Stream, flags, None).unwrap();
        setsockopt(&socket, sockopt::Ipv6V6Only, &true).unwrap();
        let anywhere: SocketAddr = format!("[::]:{port}").parse().unwrap();
        let SocketAddr::V6(anywhere) = anywhere else { unreachable!() };
        bind(socket.as_raw_fd(), &SockaddrIn6::from(anywhere)).unwrap();
        listen(&socket, Backlog::new(8).unwrap()).unwrap();
        socket
    };
    netns.run(open).unwrap()
}

struct Checked<'a> {
    bare: &'a Bare,
    check: String,
}

impl Checked<'_> {
    /// All is well: nothing but ok, and the exit code says so.
    #[track_caller]
    fn well(&self) -> String {
        let said = self.bare.rs(1, &self.check).well();
        assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
        said
    }

    /// One line tells of a problem in this area, with this remedy, and the exit code is 1.
    #[track_caller]
    fn problem(&self, area: &str, sentence: &str, remedy: &str) {
        let said = self.bare.rs(1, &self.check);
        assert_eq!((said.code, said.error.as_str()), (Some(1), ""), "{}", said.out);
        let start = format!("problem  {area:<9}  ");
        let found = said.out.lines().any(|line| {
            let (says, mends) = line.split_once(" -> ").unwrap_or((line, ""));
            says.starts_with(&start) && says.contains(sentence) && mends.contains(remedy)
        });
        assert!(found, "no {area}: {sentence}: {remedy} in\n{}", said.out);
    }

    /// One line warns, which fails nothing.
    #[track_caller]
    fn warning(&self, area: &str, sentence: &str) {
        let said = self.bare.rs(1, &self.check).well();
        let start = format!("warning  {area:<9}  ");
        let found = said.lines().any(|line| line.starts_with(&start) && line.contains(sentence));
        assert!(found, "no {area}: {sentence} in\n{said}");
    }

    /// Types on the real server what mends it.
    #[track_caller]
    fn mend(&self, line: &str) {
        self.bare.shell(1, line).well();
        self.well();
    }
}

/// Two real servers, the first of which is well, and whoever has the VIP in place of a director.
fn build(purpose: &str) -> Bare {
    let bare = Bare::build(Plan::new(purpose), purpose);
    bare.topology.director.ip(&format!("address add {VIP}/32 dev {NIC}")).unwrap();
    bare.shell(1, SETUP).well();
    bare
}

fn another_interface_can_be_named(checked: &Checked) {
    let bare = checked.bare;
    add_dummy(bare.netns(1), "dummy0");
    let dummy = Checked { bare, check: format!("{CHECK} --interface dummy0") };
    let remove = format!("ip address del {VIP}/32 dev lo");
    let set_up = format!("{SETUP} --interface dummy0");
    let remedy = format!("`{remove}`, then `{set_up}`");
    dummy.problem("address", "is on lo, and not on dummy0", &remedy);
    dummy.mend(&format!("{remove} && {set_up}"));
    checked.mend(&format!("ip address del {VIP}/32 dev dummy0 && {SETUP}"));
    Checked { bare, check: format!("{CHECK} --interface lo") }.well();
}

/// Who may not send to the wire is told what could not be looked at.
fn a_look_that_failed_is_no_ok(bare: &Bare) {
    let mut weak = bare.command(1, "setpriv");
    weak.arg("--bounding-set=-net_raw").arg(shunt()).arg("rs");
    let said = run(weak.args(CHECK.split(' ')));
    assert_eq!(said.code, Some(1), "{said:?}");
    let failed = "cannot be told: Operation not permitted -> repeat as root (CAP_NET_RAW)\n";
    for area in ["director", "way back"] {
        let start = format!("problem  {area:<9}  ");
        let mut lines = said.out.split_inclusive('\n');
        assert!(lines.any(|line| line.starts_with(&start) && line.ends_with(failed)), "{said:?}");
    }
}

#[test]
fn what_is_set_up_wrong_is_found_and_mended_as_it_says() {
    let bare = build("rs-check");
    let rs = bare.netns(1);
    let checked = Checked { bare: &bare, check: CHECK.to_owned() };
    let _server = serve(rs, "0.0.0.0:80");
    let said = checked.well();
    let director = mac_text(director_mac());
    for line in [
        "ok       address    172.17.100.100/32 is on lo\n".to_owned(),
        "ok       arp        eth0: arp_ignore 1 and arp_announce 2 in effect\n".to_owned(),
        format!("ok       director   {director} on eth0 answers for {VIP}: the director\n"),
        "ok       listener   0.0.0.0:80 listens for tcp:172.17.100.100:80\n".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}{said}");
    }

    rs.ip(&format!("address del {VIP}/32 dev lo")).unwrap();
    for (forwards, fate) in [("0", "clients wait in vain"), ("1", "round and round")] {
        rs.sysctl("net.ipv4.ip_forward", forwards).unwrap();
        checked.problem("address", fate, "`shunt rs setup --vip 172.17.100.100`");
    }
    rs.sysctl("net.ipv4.ip_forward", "0").unwrap();
    checked.mend(SETUP);

    another_interface_can_be_named(&checked);
    rs.ip(&format!("address add {VIP}/32 dev {NIC}")).unwrap();
    let remove = "ip address del 172.17.100.100/32 dev eth0";
    checked.problem("address", "is on eth0, which answers for it", remove);
    checked.mend(remove);

    for (setting, value, sentence) in [
        ("all.arp_ignore", "0", "eth0 answers ARP for 172.17.100.100"),
        ("all.arp_announce", "0", "eth0 may ask by ARP from 172.17.100.100"),
        ("all.arp_announce", "1", "arp_announce 1 is in effect"),
    ] {
        rs.sysctl(&format!("net.ipv4.conf.{setting}"), value).unwrap();
        checked.problem("arp", sentence, "`shunt rs setup --vip 172.17.100.100`");
        checked.mend(SETUP);
    }
    let switch = bare.topology.switch.name();
    rs.ip(&format!("link add eth1.5 type veth peer port1 netns {switch}")).unwrap();
    rs.ip("link set eth1.5 up").unwrap();
    for (setting, value, good) in [
        ("eth1/5.arp_ignore", "3", "1"),
        ("eth0.arp_ignore", "3", "1"),
        ("eth0.arp_ignore", "8", "1"),
        ("eth0.arp_announce", "3", "2"),
        ("all.arp_ignore", "4", "1"),
    ] {
        let setting = format!("net.ipv4.conf.{setting}");
        rs.sysctl(&setting, value).unwrap();
        let remedy = format!("sysctl -w {setting}={good}");
        checked.problem("arp", &format!("{value} is in effect"), &format!("`{remedy}`"));
        checked.mend(&format!("{remedy} >/dev/null"));
    }

    // What is seen on the wire of others is theirs to mend.
    bare.netns(2).ip(&format!("address add {VIP}/32 dev lo")).unwrap();
    let other = mac_text(real_server_mac(2));
    checked.warning("director", &format!("{other} on eth0 and {director} on eth0 answer for"));
    bare.shell(2, SETUP).well();
    checked.well();
    bare.topology.director.ip(&format!("address del {VIP}/32 dev {NIC}")).unwrap();
    checked.warning("director", "nobody answers for 172.17.100.100");
    checked.warning("way back", "whether that is the director cannot be told");
}

#[test]
fn ways_that_lead_astray_are_found() {
    let bare = build("rs-ways");
    let rs = bare.netns(1);
    let checked = Checked { bare: &bare, check: CHECK.to_owned() };
    let _server = serve(rs, "0.0.0.0:80");
    checked.well();
    let route = |via: &str| format!("route replace default via {via}");
    let mend = format!("ip route replace default via {ROUTER} dev {NIC}");

    rs.ip(&route("172.17.100.3")).unwrap();
    let director = mac_text(director_mac());
    let sentence = format!("which is the director ({director} answers for it and for {VIP})");
    let remedy = "`ip route replace default via GATEWAY dev eth0`";
    checked.problem("way back", &sentence, remedy);
    checked.mend(&mend);
    // Who had the address may be gone.
    rs.ip(&format!("neigh replace 172.17.100.77 lladdr 02:00:00:00:00:77 dev {NIC} nud stale"))
        .unwrap();
    rs.ip(&route("172.17.100.77")).unwrap();
    checked.problem("way back", "by 172.17.100.77 on eth0, which does not answer", remedy);
    checked.mend(&mend);
    rs.ip("route del default").unwrap();
    let remedy = "`ip route add default via GATEWAY`";
    checked.problem("way back", "there is no way back to clients (Network is unreachable)", remedy);
    checked.mend(&mend);

    rs.ip("link set eth0 mtu 9000").unwrap();
    checked.warning("mtu", "packets of 9000 bytes, and a director takes 3818 at most");
    checked.mend(&format!("ip route change default via {ROUTER} dev {NIC} advmss 1460"));
    rs.ip("link set eth0 mtu 1500").unwrap();

    // The way back to one network of clients leads by another NIC.
    rs.ip(&format!("link add eth1 type veth peer port1 netns {}", bare.topology.switch.name()))
        .unwrap();
    rs.ip("address add 10.9.9.1/24 dev eth1").unwrap();
    rs.ip("link set eth1 up").unwrap();
    bare.topology.switch.ip("link set port1 up").unwrap();
    rs.ip("route add 198.51.100.0/24 dev eth1").unwrap();
    checked.well();
    let far = Checked { bare: &bare, check: format!("{CHECK} --client 198.51.100.9") };
    far.well();
    rs.sysctl("net.ipv4.conf.eth0.rp_filter", "1").unwrap();
    checked.well();
    let sentence = "(rp_filter 1 in effect), and the one to 198.51.100.9 leads by eth1: what";
    far.problem("rp_filter", sentence, "`sysctl -w net.ipv4.conf.eth0.rp_filter=2`");
    far.mend("sysctl -qw net.ipv4.conf.eth0.rp_filter=2");
    rs.ip("link set eth0 mtu 1400").unwrap();
    checked.well();
    let sentence = "packets of 1500 bytes, the MTU of the way back by eth1, but eth0";
    far.problem("mtu", sentence, "`ip link set dev eth0 mtu 1500`");
    far.mend("ip link set dev eth0 mtu 1500");
    // A rule of the operator's own sends the VIP's packets elsewhere.
    rs.ip(&format!("rule add from {VIP} unreachable")).unwrap();
    checked.problem("way back", "there is no way back to clients", "`ip route add default");
    rs.ip(&format!("rule del from {VIP} unreachable")).unwrap();
    checked.well();
    let said = bare.rs(1, &format!("{CHECK} --client fd00::9")).refused();
    assert!(said.contains("name one of the same family"), "{said}");
}

/// Whatever arp_announce says, an interface without an address asks from one of another's.
#[test]
fn an_interface_without_an_address_asks_from_the_vip() {
    let bare = build("rs-bare");
    let rs = bare.netns(1);
    let checked = Checked { bare: &bare, check: CHECK.to_owned() };
    let _server = serve(rs, "0.0.0.0:80");
    checked.well();
    rs.ip(&format!("address flush dev {NIC}")).unwrap();
    rs.ip(&format!("route add default via {ROUTER} dev {NIC} onlink")).unwrap();
    let sentence = "eth0 has no IPv4 address of its own, so it asks by ARP from 172.17.100.100";
    checked.problem("arp", sentence, "`ip address add ADDRESS/PREFIX dev eth0`");
    // Indeed: whom it asks takes it for the director.
    let router: SocketAddr = format!("{ROUTER}:9").parse().unwrap();
    let _ = rs.run(|| TcpStream::connect_timeout(&router, Duration::from_secs(1))).unwrap();
    let learnt = || bare.topology.router.ip(&format!("neigh show {VIP}")).unwrap();
    let own = mac_text(real_server_mac(1));
    wait_until(PATIENCE, "the router learns it", || learnt().contains(&own)).unwrap();
    checked.mend(&format!("ip address add 172.17.100.1/24 dev {NIC}"));
}

#[test]
fn who_listens_where_is_found() {
    let bare = Bare::build(Plan::new("rs-listen").ipv6(), "rs-listen");
    let rs = bare.netns(1);
    let vip6 = vip(Family::V6);
    bare.topology.director.ip(&format!("address add {VIP}/32 dev {NIC}")).unwrap();
    bare.topology.director.ip(&format!("address add {vip6}/128 dev {NIC} nodad")).unwrap();
    bare.shell(1, &format!("{SETUP} --vip {vip6}")).well();
    let v4 = Checked { bare: &bare, check: CHECK.to_owned() };
    let v6 = Checked { bare: &bare, check: format!("check --vip [{vip6}]:80") };
    let remedy = "have it listen on 0.0.0.0:80 or 172.17.100.100:80";
    let nobody = "nobody listens on tcp:172.17.100.100:80";
    v4.problem("listener", nobody, remedy);
    v6.problem("listener", "nobody listens on tcp:[fd00:172:17:100::100]:80", "[::]:80 or [fd00:");

    let server = serve(rs, "172.17.100.1:80");
    v4.problem("listener", "172.17.100.1:80 takes packets for that address only", remedy);
    drop(server);
    let v6only = listen_v6only(rs, 80);
    v4.problem("listener", "[::]:80 takes IPv6 only (IPV6_V6ONLY)", remedy);
    v6.well();
    drop(v6only);
    for (address, serves) in [
        ("[::]:80", &[&v4, &v6][..]),
        ("0.0.0.0:80", &[&v4]),
        ("172.17.100.100:80", &[&v4]),
        ("[fd00:172:17:100::100]:80", &[&v6]),
    ] {
        let server = serve(rs, address);
        for checked in serves {
            checked.well();
        }
        drop(server);
    }
    v4.problem("listener", nobody, remedy);

    // UDP has no state LISTEN.
    let udp = Checked { bare: &bare, check: format!("check --protocol udp --vip {VIP}:53") };
    let server = serve(rs, "0.0.0.0:53");
    udp.problem("listener", "nobody listens on udp:172.17.100.100:53", "0.0.0.0:53");
    let echo = UdpEcho::start(rs, "rs1", "0.0.0.0:53".parse().unwrap()).unwrap();
    udp.well();
    drop((server, echo));

    // Both VIPs at once, as JSON, with one broken: what holds of both is said once.
    let _server = serve(rs, "0.0.0.0:80");
    let said = bare.rs(1, &format!("{CHECK} --vip [{vip6}]:80 --json"));
    assert_eq!(said.code, Some(1));
    let said: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(said["ok"], false);
    let findings = said["findings"].as_array().unwrap();
    let wrong: Vec<_> = findings.iter().filter(|finding| finding["state"] != "ok").collect();
    assert_eq!(wrong.len(), 1, "{said}");
    assert_eq!((&wrong[0]["area"], &wrong[0]["state"]), (&"listener".into(), &"problem".into()));
    assert_eq!(wrong[0]["subject"], format!("tcp:[{vip6}]:80"));
    assert!(wrong[0]["remedy"].as_str().unwrap().contains("[::]:80"), "{said}");
    for area in ["address", "arp", "director", "rp_filter", "listener", "way_back", "mtu"] {
        assert!(findings.iter().any(|finding| finding["area"] == area), "{area}: {said}");
    }
    v4.well();
    a_look_that_failed_is_no_ok(&bare);
    // Without a port there is nothing to say of who listens, which fails nothing.
    let no_port = Checked { bare: &bare, check: format!("check --vip {VIP}") };
    no_port.warning("listener", "no port was named");
}
