//! What an operator, another program or the network can get wrong: the message names the place
//! and the next step, and nothing else is disturbed.

mod common;

use common::metrics::Metrics;
use common::{HTTP, PATIENCE, Site, http, http_rr, shunt, wait_for_list};
use lab::{Config, Director, Family, Plan, Process, TempDir, Topology, Wire, get_once, wait_until};
use nix::sys::signal::Signal;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

/// The user that may do nothing.
const NOBODY: u32 = 65_534;
/// Frames of noise.
const NOISE: usize = 20_000;

fn build(purpose: &str) -> Site {
    Site::build(Plan::new(purpose).queues(2), &[Family::V4])
}

/// A config that would do.
fn good() -> Config {
    Config::of(vec![http_rr(2)])
}

fn text(topology: &Topology) -> String {
    good().text(&topology.files.path().join("other.sock"))
}

/// Starts `shunt run` with this config and returns what it said when it gave up.
fn give_up(topology: &Topology, config: &str) -> String {
    let file = topology.files.write("bad.toml", config).unwrap();
    let mut command = topology.director.command(shunt());
    command.arg("run").arg("--config").arg(file);
    let process = Process::start(command).unwrap();
    let status = process.wait(PATIENCE).unwrap_or_else(|e| panic!("{e}: {}", process.output()));
    assert_eq!(status.code(), Some(1), "{}", process.output());
    wait_until(PATIENCE, "it says why", || process.output().ends_with('\n')).unwrap();
    process.output()
}

fn answers(site: &Site) {
    assert_eq!(get_once(&site.topology.client, http(Family::V4), "/").unwrap().status, 200);
}

#[test]
fn a_start_that_cannot_succeed_says_why_and_what_to_do() {
    let site = build("start");
    let good = text(&site.topology);
    for (instead_of, this, expected) in [
        ("name = \"eth0\"", "name = \"eth9\"", &["\"eth9\" does not exist", "`ip link`"][..]),
        ("name = \"eth0\"", "name = \"eth0\"\nqueues = [0]", &["queue", "`ethtool -L eth0 "]),
        ("name = \"eth0\"", "name = \"eth0\"\ncores = [0, 999]", &["no core 999", "cores"]),
        (
            "name = \"eth0\"",
            "name = \"eth0\"\nmode = \"zero-copy\"",
            &["refuses zero-copy", "copy"],
        ),
        ("127.0.0.1:9464", "10.9.9.9:9464", &["10.9.9.9:9464", "[metrics]"]),
        ("scheduler = \"rr\"", "scheduler = \"best\"", &["bad.toml:", "best", "rr"]),
        ("scheduler = \"rr\"", "scheduler = \"my@3\"", &["bad.toml:", "my", "rr"]),
        ("scheduler = \"rr\"", "scheduler = \"My\"", &["bad.toml:", "My", "a to z"]),
        (
            "scheduler = \"rr\"",
            "scheduler = \"rr\"\nscheduler_params = { \"a b\" = 1 }",
            &["bad.toml:", "\"a b\" is no key of a parameter"],
        ),
        (
            "scheduler = \"rr\"",
            "scheduler = \"rr\"\nscheduler_params = { speed = 9 }",
            &["plugin rr", "param"],
        ),
        ("[metrics]", "[plugins]\nstack = 600_000\n[metrics]", &["bad.toml:", "to 393216"]),
        ("[metrics]", "[plugins]\nfuel = 0\n[metrics]", &["bad.toml:", "fuel is 0"]),
        ("state_dir = \"/", "state_dir = \"", &["bad.toml:1:13: ", "absolute path"]),
        ("weight = 1", "weight = 65536", &["bad.toml:", "65536", "65535"]),
        ("scheduler =", "sheduler =", &["bad.toml:", "sheduler"]),
        ("[metrics]", "[metrics", &["bad.toml:"]),
        ("[metrics]", "group = \"nosuchgroup\"\n[metrics]", &["bad.toml:", "`groupadd`"]),
        ("[metrics]", "listen = \"0.0.0.0:9465\"\n[metrics]", &["token_file", "certificate"]),
        (
            "[metrics]",
            "listen = \"127.0.0.1:9465\"\ntoken_file = \"/no/token\"\n[metrics]",
            &["cannot read /no/token"],
        ),
    ] {
        assert!(good.contains(instead_of), "{instead_of}");
        let said = give_up(&site.topology, &good.replace(instead_of, this));
        for words in expected {
            assert!(said.contains(words), "{this}: {words:?} is not in\n{said}");
        }
        assert!(
            !site.topology.director.ip("link show eth0").unwrap().contains("prog/xdp"),
            "{this}"
        );
    }
}

#[test]
fn a_second_shunt_on_the_same_queue_is_refused_and_disturbs_nobody() {
    let site = build("second");
    let director = site.start(&good());
    let other = text(&site.topology).replace("127.0.0.1:9464", "off");
    let said = give_up(&site.topology, &other);
    assert!(said.contains("already has queue 0 of eth0"), "{said}");
    answers(&site);
    let same_socket = good().text(director.socket());
    let said = give_up(&site.topology, &same_socket);
    assert!(said.contains("another shunt listens at"), "{said}");
    answers(&site);
    assert!(director.shunt("list").is_ok());
}

#[test]
fn without_privileges_it_names_the_capability() {
    let site = build("nobody");
    let directory = TempDir::create("nobody").unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let copy = directory.path().join("shunt");
    fs::copy(shunt(), &copy).unwrap();
    let socket = directory.path().join("api.sock");
    let config = directory.write("director.toml", good().text(&socket)).unwrap();
    let run = || {
        Command::new(&copy)
            .args(["run", "--config"])
            .arg(&config)
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap()
    };
    let output = site.topology.director.run(run).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no permission") && said.contains("CAP_"), "{said}");
    assert!(said.contains("root"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A kernel without AF_XDP, played by a filter that refuses such sockets as it would.
#[test]
fn without_af_xdp_it_names_what_the_kernel_lacks() {
    let site = build("no-xdp");
    let is_af_xdp = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        libc::AF_XDP.cast_unsigned().into(),
    );
    let rule = SeccompRule::new(vec![is_af_xdp.unwrap()]).unwrap();
    let filter: BpfProgram = SeccompFilter::new(
        [(libc::SYS_socket, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EAFNOSUPPORT.cast_unsigned()),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .and_then(TryInto::try_into)
    .unwrap();
    let said = thread::scope(|scope| {
        let filtered = scope.spawn(|| {
            seccompiler::apply_filter(&filter).unwrap();
            give_up(&site.topology, &text(&site.topology))
        });
        filtered.join().unwrap()
    });
    assert!(said.contains("no AF_XDP") && said.contains("CONFIG_XDP_SOCKETS"), "{said}");
}

#[test]
fn what_cannot_work_is_warned_about_and_the_rest_serves() {
    let site = build("warned");
    let mut config = good();
    config.services[0].real_servers.push(("10.1.1.1".parse().unwrap(), 1));
    let director = Director::start(&site.topology, shunt(), &config).unwrap();
    wait_for_list(&director, "two serve and one cannot", |services| {
        let states = services[0].servers.iter().map(|server| server.neighbor.as_str());
        states.clone().filter(|state| *state == "impossible").count() == 1
            && states.filter(|state| *state == "reachable").count() == 2
    });
    let said = || director.process().output();
    wait_until(PATIENCE, "the warning", || said().contains("10.1.1.1")).unwrap();
    for _ in 0..10 {
        answers(&site);
    }
    let vip = lab::vip(Family::V4);
    site.topology.director.ip(&format!("address del {vip}/32 dev eth0")).unwrap();
    let warned = || said().contains(&format!("VIP {vip} of tcp:{vip}:{HTTP} is not on eth0"));
    wait_until(PATIENCE, "the missing VIP is named", warned).unwrap();
}

#[test]
fn a_broken_config_changes_nothing() {
    let site = build("broken");
    let director = site.start(&good());
    let before = director.shunt("list").unwrap();
    let broken = text(&site.topology).replace("weight = 1", "weight = \"heavy\"");
    director.write_config(&broken).unwrap();
    director.process().signal(Signal::SIGHUP).unwrap();
    let said = || director.process().output();
    wait_until(PATIENCE, "it is refused", || said().contains("nothing has changed")).unwrap();
    wait_until(PATIENCE, "the place is named", || said().contains("director.toml:")).unwrap();
    let list = director.shunt("list").unwrap();
    assert_eq!(list.lines().count(), before.lines().count(), "{list}");
    answers(&site);
    let metrics = Metrics::fetch(&site.topology.director);
    assert_eq!(metrics.sum("shunt_config_reloads_total", &[("result", "failed")]), 1.0);
    assert_eq!(metrics.sum("shunt_config_reloads_total", &[("result", "ok")]), 0.0);
}

#[test]
fn noise_is_counted_and_harms_nobody() {
    let site = build("noise");
    let director = site.start(&good());
    answers(&site);
    let wire = Wire::open(&site.topology.switch, "director").unwrap();
    let mut random = frames::Random::new(2);
    let originals = [
        frames::frame("ip client > vip / tcp 4000 > 80 S / data 60"),
        frames::frame("ip client > vip / tcp 4000 > 80 A options=8 / data 600"),
        frames::frame("ip router > vip / icmp 3 4 / ip vip > client / tcp 80 > 4000 A"),
        frames::frame("ip client > vip / udp 4000 > 80 / data 30"),
        frames::frame("vlan 5 / ip client > vip / tcp 4000 > 80 S"),
    ];
    let (to, from) = (lab::director_mac(), lab::router_mac());
    for _ in 0..NOISE {
        let mut frame = random.pick(&originals).clone();
        for _ in 0..random.below(4) {
            // The MAC addresses stay, so that it arrives.
            let place = 12 + random.below(frame.len() - 12);
            frame[place] = random.number() as u8;
        }
        frame.truncate(15 + random.below(frame.len()));
        wire.send_to(to, from, &frame).unwrap();
    }
    answers(&site);
    // A packet that came is a packet that went, or was dropped for a reason.
    wait_until(PATIENCE, "the counters add up", || {
        let metrics = Metrics::fetch(&site.topology.director);
        let sum = |what| metrics.sum(&format!("shunt_worker_packets_{what}_total"), &[]);
        sum("received") == sum("forwarded") + sum("dropped")
    })
    .unwrap();
    let metrics = Metrics::fetch(&site.topology.director);
    let sum = |name| metrics.sum(name, &[]);
    let (taken, left) = (
        sum("shunt_interface_packets_redirected_total"),
        sum("shunt_interface_packets_passed_total"),
    );
    assert!(taken > NOISE as f64 / 10.0 && left > NOISE as f64 / 10.0, "{taken} and {left}");
    assert!(director.process().ended().is_none());
}
