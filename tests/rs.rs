//! `shunt rs setup` and `shunt rs teardown` on bare machines: what they change, what they leave,
//! and that everything is as before afterwards.

mod common;

use common::bare::{Bare, add_dummy, assert_same, differences, run};
use common::{HTTP, http, shunt, wait_until_ready};
use lab::{
    Config, Director, Family, HttpServer, NIC, Netns, OwnFiles, Plan, TempDir, get_once, vip,
};
use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};

const VIP: &str = "172.17.100.100";
const OTHER: &str = "172.17.100.101";

fn build(purpose: &str) -> Bare {
    Bare::build(Plan::new(purpose).real_servers(1), purpose)
}

/// The settings that the network's documents name for a real server.
const SETTINGS: [(&str, &str); 4] = [
    ("net.ipv4.conf.all.arp_ignore", "1"),
    ("net.ipv4.conf.all.arp_announce", "2"),
    ("net.ipv4.conf.lo.arp_ignore", "1"),
    ("net.ipv4.conf.lo.arp_announce", "2"),
];

fn addresses(netns: &Netns, interface: &str) -> Vec<serde_json::Value> {
    let said = netns.ip(&format!("-j address show dev {interface}")).unwrap();
    let links: serde_json::Value = serde_json::from_str(&said).unwrap();
    links[0]["addr_info"].as_array().unwrap().clone()
}

fn address(netns: &Netns, interface: &str, address: &str) -> Option<serde_json::Value> {
    addresses(netns, interface).into_iter().find(|held| held["local"] == address)
}

#[test]
fn a_machine_is_made_a_real_server_once_and_put_back() {
    let bare = build("rs");
    let netns = bare.netns(1);
    // Values that somebody chose before.
    netns.sysctl("net.ipv4.conf.all.arp_announce", "1").unwrap();
    netns.sysctl("net.ipv4.conf.lo.arp_ignore", "3").unwrap();
    let before = bare.snapshot(1);

    let said = bare.rs(1, &format!("setup --vip {VIP}")).well();
    assert_eq!(
        said,
        "net.ipv4.conf.all.arp_ignore: 0 -> 1\n\
         net.ipv4.conf.all.arp_announce: 1 -> 2\n\
         net.ipv4.conf.lo.arp_ignore: 3 -> 1\n\
         net.ipv4.conf.lo.arp_announce: 0 -> 2\n\
         172.17.100.100/32 on lo: added\n"
    );
    for (name, value) in SETTINGS {
        assert_eq!(netns.read_sysctl(name).unwrap(), value, "{name}");
    }
    let held = address(netns, "lo", VIP).unwrap();
    assert_eq!((&held["prefixlen"], &held["scope"]), (&32.into(), &"global".into()), "{held}");
    let after = bare.snapshot(1);
    let changed: BTreeSet<String> = differences(&before, &after).into_iter().collect();
    let mut expected =
        BTreeSet::from(["ip -j address", "ip route show table all"].map(str::to_owned));
    expected.extend(SETTINGS.map(|(name, _)| format!("/proc/sys/{}", name.replace('.', "/"))));
    assert_eq!(changed, expected);

    let said = bare.rs(1, &format!("setup --vip {VIP} --vip {VIP}")).well();
    assert!(said.contains("net.ipv4.conf.all.arp_announce: already 2\n"), "{said}");
    assert!(said.ends_with("lo: already there\nnothing had to be changed\n"), "{said}");
    assert_same(&after, &bare.snapshot(1));

    let said = bare.rs(1, "teardown").well();
    assert!(said.contains("net.ipv4.conf.lo.arp_ignore: 1 -> 3\n"), "{said}");
    assert!(said.contains("172.17.100.100/32 on lo: removed\n"), "{said}");
    assert_same(&before, &bare.snapshot(1));
    assert_eq!(bare.rs(1, "teardown").well(), "nothing had to be changed\n");
    assert_same(&before, &bare.snapshot(1));
    // Nothing is left of the record either.
    assert_eq!(fs::read_dir(bare.files(1).path("/run/shunt")).unwrap().count(), 0);
}

/// The lines that the usual instructions for a real server have.
const BY_HAND: &str = "
    ip address add 172.17.100.100/32 broadcast 172.17.100.100 dev lo label lo:0
    echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce
    echo 2 > /proc/sys/net/ipv4/conf/lo/arp_announce
    echo 1 > /proc/sys/net/ipv4/conf/lo/arp_ignore
    echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore";

#[test]
fn a_setup_and_what_is_typed_by_hand_come_to_the_same() {
    let bare = Bare::build(Plan::new("rs-hand"), "rs-hand");
    bare.rs(1, &format!("setup --vip {VIP}")).well();
    bare.shell(2, BY_HAND).well();
    let [own, by_hand] = [1, 2].map(|number| {
        let mut all = bare.snapshot(number);
        all.retain(|name, _| name.starts_with("/proc/sys/"));
        all
    });
    assert!(own.len() > 100, "{} settings are not all", own.len());
    assert_eq!(differences(&own, &by_hand), [""; 0]);
    let [own, by_hand] = [1, 2].map(|number| {
        let held = address(bare.netns(number), "lo", VIP).unwrap();
        ["family", "prefixlen", "scope", "valid_life_time"].map(|key| held[key].clone())
    });
    assert_eq!(own, by_hand);
    let before = bare.snapshot(2);
    let said = bare.rs(2, &format!("setup --vip {VIP}")).well();
    assert!(said.ends_with("nothing had to be changed\n"), "{said}");
    bare.rs(2, "teardown").well();
    assert_same(&before, &bare.snapshot(2));
}

#[test]
fn what_others_set_between_two_setups_is_there_after_a_teardown() {
    let bare = build("rs-between");
    let netns = bare.netns(1);
    let before = bare.snapshot(1);
    bare.rs(1, &format!("setup --vip {VIP}")).well();
    // One that serves as well, and one that does not.
    let theirs = [("net.ipv4.conf.all.arp_ignore", "2"), ("net.ipv4.conf.lo.arp_announce", "1")];
    for (name, value) in theirs {
        netns.sysctl(name, value).unwrap();
    }
    let said = bare.rs(1, &format!("setup --vip {VIP}")).well();
    assert!(said.contains("net.ipv4.conf.all.arp_ignore: already 2\n"), "{said}");
    assert!(said.contains("net.ipv4.conf.lo.arp_announce: 1 -> 2\n"), "{said}");
    bare.rs(1, "teardown").well();
    for (name, value) in theirs {
        assert_eq!(netns.read_sysctl(name).unwrap(), value, "{name}");
        netns.sysctl(name, "0").unwrap();
    }
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn setups_at_the_same_time_take_turns() {
    let bare = build("rs-turns");
    let before = bare.snapshot(1);
    let vips: Vec<String> = (1..=8).map(|host| format!("172.17.100.{}", 100 + host)).collect();
    let begun: Vec<Child> = vips
        .iter()
        .map(|vip| {
            let mut command = bare.command(1, shunt());
            command.args(["rs", "setup", "--persist", "--vip", vip]).stdout(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    for mut child in begun {
        assert!(child.wait().unwrap().success());
    }
    let unit = bare.files(1).path("/etc/systemd/system/shunt-rs.service");
    let unit = fs::read_to_string(unit).unwrap();
    for vip in &vips {
        assert!(address(bare.netns(1), "lo", vip).is_some() && unit.contains(vip), "{vip}: {unit}");
    }
    bare.rs(1, "teardown").well();
    assert_same(&before, &bare.snapshot(1));
    assert_eq!(files_below(&bare.files(1).path("/")), [""; 0]);
}

#[test]
fn a_dry_run_changes_nothing_and_json_is_complete() {
    let bare = build("rs-dry");
    let before = bare.snapshot(1);
    let setup = format!("setup --vip {VIP} --persist");
    let said = bare.rs(1, &format!("{setup} --dry-run")).well();
    assert!(said.starts_with("dry run, nothing is changed"), "{said}");
    assert!(said.contains("net.ipv4.conf.all.arp_ignore: 0 -> 1\n"), "{said}");
    assert!(said.contains("/etc/systemd/system/shunt-rs.service: written\n"), "{said}");
    let dry = bare.rs(1, &format!("{setup} --dry-run --json")).well();
    assert_same(&before, &bare.snapshot(1));
    assert!(!bare.files(1).path("/run/shunt").exists());
    assert!(!bare.files(1).path("/etc/sysctl.d/60-shunt-rs.conf").exists());

    let done = bare.rs(1, &format!("{setup} --json")).well();
    let [dry, done] = [dry, done].map(|said| serde_json::from_str(&said).unwrap());
    let (mut dry, done): (serde_json::Value, serde_json::Value) = (dry, done);
    assert_eq!((&dry["dry_run"], &done["dry_run"]), (&true.into(), &false.into()));
    // Beside that, the dry run has told exactly what was done then.
    dry["dry_run"] = false.into();
    assert_eq!(dry, done);
    assert_eq!(done["changed"], true);
    let vip = &done["vips"][0];
    assert_eq!(
        vip,
        &serde_json::json!({"address": VIP, "prefix": 32, "interface": "lo", "state": "added"})
    );
    let sysctls = done["sysctls"].as_array().unwrap();
    assert_eq!(sysctls.len(), 4);
    for ((name, value), line) in SETTINGS.iter().zip(sysctls) {
        let value: i32 = value.parse().unwrap();
        let expected =
            serde_json::json!({"name": name, "former": 0, "value": value, "state": "changed"});
        assert_eq!(line, &expected);
    }
    assert_eq!(done["files"].as_array().unwrap().len(), 4);

    let said = bare.rs(1, "teardown --json").well();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["changed"], &said["vips"][0]["state"]), (&true.into(), &"removed".into()));
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn a_vip_that_was_there_by_other_hands_stays() {
    let bare = build("rs-theirs");
    bare.netns(1).ip(&format!("address add {VIP}/32 dev lo")).unwrap();
    let before = bare.snapshot(1);
    let said = bare.rs(1, &format!("setup --vip {VIP} --vip {OTHER}")).well();
    assert!(said.contains(&format!("{VIP}/32 on lo: already there, not by shunt")), "{said}");
    let said = bare.rs(1, "teardown").well();
    assert!(said.contains(&format!("{VIP}/32 on lo: left, because it was there")), "{said}");
    assert!(said.contains(&format!("{OTHER}/32 on lo: removed")), "{said}");
    assert_same(&before, &bare.snapshot(1));
    let said = bare.rs(1, &format!("teardown --vip {VIP}")).refused();
    assert!(said.contains(&format!("`ip address del {VIP}/32 dev lo`")), "{said}");
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn one_of_two_vips_can_go() {
    let bare = build("rs-two");
    let before = bare.snapshot(1);
    bare.rs(1, &format!("setup --vip {VIP}")).well();
    let one = bare.snapshot(1);
    bare.rs(1, &format!("setup --vip {OTHER}")).well();
    assert!(address(bare.netns(1), "lo", OTHER).is_some());
    let said = bare.rs(1, &format!("teardown --vip {OTHER}")).well();
    assert_eq!(said, format!("{OTHER}/32 on lo: removed\n"));
    assert_same(&one, &bare.snapshot(1));
    bare.rs(1, &format!("teardown --vip {VIP}")).well();
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn a_dummy_interface_and_ipv6_serve_as_well() {
    let bare = Bare::build(Plan::new("rs-dummy").real_servers(1).ipv6(), "rs-dummy");
    let netns = bare.netns(1);
    // With a dot, as VLAN devices have it.
    add_dummy(netns, "dummy0.1");
    netns.sysctl("net.ipv6.conf.all.accept_dad", "1").unwrap();
    netns.sysctl("net.ipv6.conf.dummy0/1.accept_dad", "1").unwrap();
    bare.settle();
    let before = bare.snapshot(1);
    let vip6 = vip(Family::V6).to_string();
    let said = bare.rs(1, &format!("setup --interface dummy0.1 --vip {VIP} --vip {vip6}")).well();
    assert!(said.contains("net.ipv4.conf.dummy0/1.arp_announce: 0 -> 2\n"), "{said}");
    assert_eq!(netns.read_sysctl("net.ipv4.conf.dummy0/1.arp_ignore").unwrap(), "1");
    assert_eq!(netns.read_sysctl("net.ipv4.conf.lo.arp_ignore").unwrap(), "0");
    assert!(address(netns, "dummy0.1", VIP).is_some());
    let held = address(netns, "dummy0.1", &vip6).unwrap();
    assert_eq!((&held["prefixlen"], &held["nodad"]), (&128.into(), &true.into()), "{held}");
    assert!(held["tentative"].is_null() && held["dadfailed"].is_null(), "{held}");
    bare.rs(1, "teardown").well();
    assert_same(&before, &bare.snapshot(1));

    let said = bare.rs(1, &format!("setup --vip {vip6}")).well();
    assert_eq!(said, format!("{vip6}/128 on lo: added\n"));
    bare.rs(1, "teardown").well();
    assert_same(&before, &bare.snapshot(1));
}

/// The files that are there of those that a setup may write.
fn files_below(root: &Path) -> Vec<&'static str> {
    let all = [
        "etc/sysctl.d/60-shunt-rs.conf",
        "etc/systemd/system/multi-user.target.wants/shunt-rs.service",
        "etc/systemd/system/shunt-rs.service",
        "var/lib/shunt/rs.json",
    ];
    all.into_iter().filter(|file| root.join(file).symlink_metadata().is_ok()).collect()
}

/// What a boot does with the files: systemd-sysctl first, then the unit.
fn boot(bare: &Bare, root: &Path) -> String {
    let netns = bare.netns(1);
    let sysctls = fs::read_to_string(root.join("etc/sysctl.d/60-shunt-rs.conf")).unwrap();
    for line in sysctls.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.split_once(" = ").unwrap();
        netns.sysctl(name, value).unwrap();
    }
    let enabled = root.join("etc/systemd/system/multi-user.target.wants/shunt-rs.service");
    let unit = fs::read_to_string(enabled).unwrap();
    let mut said = String::new();
    for command in unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
        let mut words = command.split(' ');
        assert_eq!(words.next().map(Path::new), Some(shunt()));
        assert_eq!(words.next(), Some("rs"));
        said += &bare.rs(1, &words.collect::<Vec<_>>().join(" ")).well();
    }
    said
}

/// Takes from a machine what a reboot takes.
fn shut_down(bare: &Bare) {
    let netns = bare.netns(1);
    fs::remove_dir_all(bare.files(1).path("/run/shunt")).unwrap();
    for (name, _) in SETTINGS {
        netns.sysctl(name, "0").unwrap();
    }
    netns.sysctl("net.ipv4.conf.all.arp_announce", "1").unwrap();
    for vip in [VIP, OTHER] {
        let _ = netns.ip(&format!("address del {vip}/32 dev lo"));
    }
}

#[test]
fn what_is_persisted_comes_back_at_boot_and_goes_with_a_teardown() {
    let bare = build("rs-boot");
    bare.netns(1).sysctl("net.ipv4.conf.all.arp_announce", "1").unwrap();
    let before = bare.snapshot(1);
    let root = bare.files(1).path("/");
    let said = bare.rs(1, &format!("setup --persist --vip {VIP} --vip {OTHER}")).well();
    assert_eq!(files_below(&root).len(), 4);
    for file in files_below(&root) {
        assert!(said.contains(&format!("/{file}: written\n")), "{said}");
    }
    let after = bare.snapshot(1);
    let said = bare.rs(1, &format!("setup --persist --vip {VIP} --vip {OTHER}")).well();
    assert!(said.ends_with("nothing had to be changed\n"), "{said}");

    for _ in 0..2 {
        shut_down(&bare);
        assert_same(&before, &bare.snapshot(1));
        let said = boot(&bare, &root);
        assert!(said.contains(&format!("{VIP}/32 on lo: added\n")), "{said}");
        assert_same(&after, &bare.snapshot(1));
    }
    bare.rs(1, &format!("teardown --vip {VIP}")).well();
    let unit = fs::read_to_string(root.join("etc/systemd/system/shunt-rs.service")).unwrap();
    assert!(unit.contains(OTHER) && !unit.contains(&format!("{VIP} ")), "{unit}");
    let said = bare.rs(1, "teardown").well();
    assert!(said.contains("/etc/sysctl.d/60-shunt-rs.conf: removed\n"), "{said}");
    assert_eq!(files_below(&root), [""; 0]);
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn the_files_can_go_into_an_image() {
    let bare = build("rs-image");
    let before = bare.snapshot(1);
    let image = TempDir::create("rs-image-root").unwrap();
    let root = image.path();
    bare.rs(1, &format!("setup --persist --vip {VIP} --root {}", root.display())).well();
    assert_eq!(files_below(root).len(), 4);
    assert_eq!(files_below(&bare.files(1).path("/")), [""; 0]);
    let unit = fs::read_to_string(root.join("etc/systemd/system/shunt-rs.service")).unwrap();
    let line = format!("ExecStart={} rs setup --vip {VIP}\n", shunt().display());
    assert!(unit.contains(&line), "{unit}");
    let said = bare.rs(1, "teardown").well();
    assert!(said.contains(&format!("{}/etc/sysctl.d", root.display())), "{said}");
    assert_eq!(files_below(root), [""; 0]);
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn what_cannot_work_is_refused_and_changes_nothing() {
    let bare = build("rs-wrong");
    let netns = bare.netns(1);
    add_dummy(netns, "dummy0");
    netns.ip("link set dummy0 down").unwrap();
    bare.settle();
    let check = |words: &str, expected: &str| {
        let before = bare.snapshot(1);
        let said = bare.rs(1, words).refused();
        assert!(said.contains(expected), "{words}: {said}");
        assert!(said.lines().all(|line| line.starts_with("shunt: ")), "{said}");
        assert_same(&before, &bare.snapshot(1));
    };
    check("setup --vip 172.17.100.1", "this machine's own address on eth0");
    check(&format!("setup --vip {VIP} --interface nope0"), "there is no interface nope0");
    check(&format!("setup --vip {VIP} --interface {NIC}"), "eth0 answers ARP for its addresses");
    check(&format!("setup --vip {VIP} --interface dummy0"), "`ip link set dummy0 up`");
    check("setup --vip fd00::100", "`sysctl -w net.ipv6.conf.lo.disable_ipv6=0`");
    netns.sysctl(&format!("net.ipv4.conf.{NIC}.arp_ignore"), "3").unwrap();
    check(&format!("setup --vip {VIP}"), "`sysctl -w net.ipv4.conf.eth0.arp_ignore=1`");
    check(&format!("setup --vip {VIP} --dry-run"), "the greater of");
    // What it says mends it.
    bare.shell(1, "sysctl -qw net.ipv4.conf.eth0.arp_ignore=1").well();
    bare.rs(1, &format!("setup --vip {VIP}")).well();
}

#[test]
fn without_the_right_to_it_nothing_is_tried() {
    let bare = build("rs-weak");
    let before = bare.snapshot(1);
    let weak = |words: &str| {
        let mut command = bare.command(1, "setpriv");
        command.arg("--bounding-set=-net_admin").arg(shunt()).arg("rs");
        run(command.args(words.split_whitespace()))
    };
    let said = weak(&format!("setup --vip {VIP}")).refused();
    assert!(said.contains("needs root (CAP_NET_ADMIN)") && said.contains("--dry-run"), "{said}");
    assert!(weak("teardown").refused().contains("needs root"));
    assert!(weak(&format!("setup --vip {VIP} --dry-run")).well().contains("0 -> 1"));
    assert_same(&before, &bare.snapshot(1));
}

#[test]
fn a_step_that_fails_takes_back_those_before_it() {
    let bare = build("rs-fails");
    let before = bare.snapshot(1);
    // The last steps write below a root where a file is in the way.
    let image = TempDir::create("rs-fails-root").unwrap();
    fs::create_dir_all(image.path().join("etc")).unwrap();
    image.write("etc/systemd", "no folder").unwrap();
    let root = image.path().display();
    let said = bare.rs(1, &format!("setup --persist --vip {VIP} --root {root}"));
    let said = said.refused();
    assert!(said.contains("/etc/systemd"), "{said}");
    assert_same(&before, &bare.snapshot(1));
    assert_eq!(files_below(image.path()), [""; 0]);

    // One setting out of four can only be read.
    let last = "/proc/sys/net/ipv4/conf/lo/arp_announce";
    let script = format!(
        "mount --bind {last} {last} && mount -o remount,bind,ro {last} && exec {} rs setup --vip {VIP}",
        shunt().display()
    );
    let said = run(bare.command(1, "sh").args(["-c", &script])).refused();
    assert!(said.contains("cannot set net.ipv4.conf.lo.arp_announce to 2: Read-only"), "{said}");
    assert!(said.contains("what had been changed before was put back"), "{said}");
    assert_same(&before, &bare.snapshot(1));
    assert_eq!(fs::read_dir(bare.files(1).path("/run/shunt")).unwrap().count(), 0);
}

#[test]
fn namespaces_that_share_run_do_not_share_a_record() {
    let bare = Bare::build(Plan::new("rs-share"), "rs-share");
    let files = OwnFiles::create("rs-share-both").unwrap();
    let on = |number: u8, words: &str| {
        let mut command = files.command(bare.netns(number), shunt());
        run(command.arg("rs").args(words.split_whitespace())).well()
    };
    let before = [1, 2].map(|number| bare.snapshot(number));
    on(1, &format!("setup --vip {VIP}"));
    assert_eq!(on(2, "teardown"), "nothing had to be changed\n");
    on(2, &format!("setup --vip {OTHER}"));
    on(1, "teardown");
    assert!(address(bare.netns(2), "lo", OTHER).is_some());
    on(2, "teardown");
    assert_eq!([1, 2].map(|number| bare.snapshot(number)), before);
}

#[test]
fn real_servers_prepared_so_work_behind_a_director() {
    let bare = Bare::build(Plan::new("rs-serve"), "rs-serve");
    let topology = &bare.topology;
    let mut servers = Vec::new();
    for number in [1, 2] {
        bare.rs(number, &format!("setup --vip {VIP}")).well();
        let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, HTTP));
        let name = format!("rs{number}");
        servers.push(HttpServer::start(bare.netns(number), &name, anywhere).unwrap());
    }
    topology.director.ip(&format!("address add {VIP}/32 dev {NIC}")).unwrap();
    let config = Config::of(vec![common::http_rr(2)]);
    let director = Director::start(topology, shunt(), &config).unwrap();
    wait_until_ready(&director, &config);
    let answers: Vec<String> = (0..10)
        .map(|_| get_once(&topology.client, http(Family::V4), "/").unwrap().real_server)
        .collect();
    for name in ["rs1", "rs2"] {
        assert_eq!(answers.iter().filter(|answer| *answer == name).count(), 5, "{answers:?}");
    }
    for number in [1, 2] {
        let said = bare.rs(number, &format!("check --vip {VIP}:{HTTP}")).well();
        assert!(said.lines().all(|line| line.starts_with("ok ")), "{said}");
    }
}
