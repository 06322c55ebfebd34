//! Each kind of check by a running director, against real servers that fail and come back.

mod common;

use common::{DNS, HTTP, PATIENCE, Site, http, http_rr, service, shunt, wait_for_list};
use director::health::run::COMMANDS_AT_ONCE;
use director::views::{HealthView, ServiceView};
use lab::{
    Config, Director, Family, HttpServer, NIC, Netns, Plan, TempDir, UdpEcho, VirtualService,
    director_address, get_once, real_server_address, wait_until,
};
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Ten times a second, so that nobody waits long, and with patience, so that nobody fails for want
/// of a core.
const OFTEN: &str = "interval = 0.1\ntimeout = 0.1\nrise = 2\nfall = 5\n";

/// A service whose servers are checked so.
fn checked(service: VirtualService, check: &str) -> Config {
    let table = format!("[virtual_service.health_check]\n{OFTEN}{check}");
    Config::of(vec![service.with(&table)])
}

fn start(site: &Site, config: &Config) -> Director {
    Director::start(&site.topology, shunt(), config).unwrap()
}

fn health(services: &[ServiceView], number: u8) -> Option<&HealthView> {
    let address = real_server_address(number, Family::V4);
    let mut servers = services.iter().flat_map(|service| &service.servers);
    servers.find(|server| server.address == address)?.health.as_ref()
}

/// Waits until a server is up, or down for this reason.
fn wait_for(director: &Director, number: u8, wanted: Result<(), &str>) {
    let until = match wanted {
        Ok(()) => format!("rs{number} is up"),
        Err(error) => format!("rs{number} is down: {error}"),
    };
    wait_for_list(director, &until, |services| match (health(services, number), wanted) {
        (Some(health), Ok(())) => health.state == "up",
        (Some(health), Err(wanted)) => {
            let error = health.error.as_deref();
            health.state == "down" && error.is_some_and(|error| error.contains(wanted))
        }
        (None, _) => false,
    });
}

fn answered_by(site: &Site, count: usize) -> Vec<String> {
    let client = &site.topology.client;
    (0..count).map(|_| get_once(client, http(Family::V4), "/").unwrap().real_server).collect()
}

/// Where a server's own address and this port are.
fn own(number: u8, port: u16) -> SocketAddr {
    (real_server_address(number, Family::V4), port).into()
}

#[test]
fn tcp_finds_a_listener_that_stops_and_one_that_starts() {
    let mut site = Site::build(Plan::new("check-tcp"), &[Family::V4]);
    let director = start(&site, &checked(http_rr(2), "kind = \"tcp\""));
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    drop(site.servers.remove(1));
    wait_for(&director, 2, Err("connect to 172.17.100.2:80: refused"));
    assert_eq!(answered_by(&site, 10), ["rs1"; 10]);
    let listing = director.shunt("list").unwrap();
    assert!(listing.contains(": connect to 172.17.100.2:80: refused]"), "{listing}");
    let netns = site.topology.real_server(2);
    let _server = HttpServer::start(netns, "rs2", SocketAddr::from(([0; 4], HTTP))).unwrap();
    wait_for(&director, 2, Ok(()));
    let answers = answered_by(&site, 10);
    assert_eq!(answers.iter().filter(|name| *name == "rs2").count(), 5, "{answers:?}");
    // The director closes first: no server keeps what was asked of it.
    for number in [1, 2] {
        let left = site.topology.real_server(number).exec("ss -Htn state time-wait").unwrap();
        let asked = format!("{}:", director_address(Family::V4));
        assert!(!left.contains(&asked), "rs{number}:\n{left}");
    }
}

/// Waits until the director's log has these words.
fn wait_for_log(director: &Director, words: &str) {
    let said = || director.process().output().contains(words);
    if let Err(error) = director.process().wait_until(PATIENCE, words, said) {
        panic!("{error}\n{}", director.process().output());
    }
}

/// Whether the log has a server down.
fn said_down(director: &Director) -> bool {
    director.process().output().contains("of tcp:172.17.100.100:80 is down")
}

/// Sets how many files a running director may open.
fn limit_files(director: &Director, most: u32) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", director.process().pid())).arg(format!("--nofile={most}:"));
    assert!(command.status().unwrap().success());
}

#[test]
fn a_director_without_descriptors_keeps_its_servers() {
    let mut site = Site::build(Plan::new("check-files"), &[Family::V4]);
    let director = start(&site, &checked(http_rr(2), "kind = \"tcp\""));
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    limit_files(&director, 3);
    wait_for_log(&director, "Too many open files; it stays up until it can be");
    // Both are without a check for a while.
    let answers = answered_by(&site, 10);
    assert_eq!(answers.iter().filter(|name| *name == "rs2").count(), 5, "{answers:?}");
    limit_files(&director, 1024);
    wait_for_log(&director, "the real servers of tcp:172.17.100.100:80 can be checked again");
    let output = director.process().output();
    assert_eq!(output.matches("cannot be checked").count(), 1, "{output}");
    assert!(!said_down(&director), "{output}");
    drop(site.servers.remove(1));
    wait_for(&director, 2, Err("connect to 172.17.100.2:80: refused"));
}

#[test]
fn a_director_whose_own_cable_is_cut_keeps_its_servers() {
    let site = Site::build(Plan::new("check-uplink"), &[Family::V4]);
    let mut config = checked(http_rr(2), "kind = \"tcp\"");
    // The servers are to be found again, too, before as many checks have failed.
    config.services[0].more = config.services[0].more.replace("fall = 5", "fall = 20");
    let director = start(&site, &config);
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    site.topology.switch.ip("link set director down").unwrap();
    wait_for_log(&director, "cannot be checked: eth0 is down; it stays up until it can be");
    let listing = director.shunt("list").unwrap();
    assert!(listing.contains("cannot be checked: eth0 is down]"), "{listing}");
    site.topology.switch.ip("link set director up").unwrap();
    wait_for_log(&director, "can be checked again");
    assert!(!said_down(&director), "{}", director.process().output());
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
}

#[test]
fn a_server_whose_cable_is_cut_is_down_by_the_timeout() {
    let site = Site::build(Plan::new("check-cable"), &[Family::V4]);
    let director = start(&site, &checked(http_rr(2), "kind = \"tcp\""));
    wait_for(&director, 2, Ok(()));
    site.topology.switch.ip("link set rs2 down").unwrap();
    // Until the kernel has given the neighbor up; then it knows no way there.
    wait_for(&director, 2, Err("connect to 172.17.100.2:80: "));
    assert_eq!(answered_by(&site, 10), ["rs1"; 10]);
    site.topology.switch.ip("link set rs2 up").unwrap();
    wait_for(&director, 2, Ok(()));
}

#[test]
fn http_judges_status_and_body_and_follows_the_config() {
    let site = Site::build(Plan::new("check-http"), &[Family::V4]);
    let path = |path: &str| checked(http_rr(2), &format!("kind = \"http\"\npath = \"{path}\""));
    let director = start(&site, &path("/"));
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    // What nobody has ever asked for is served; what is not there, is not.
    let reload = |config: &Config, rs1, rs2| {
        director.reload(config).unwrap();
        wait_for(&director, 1, rs1);
        wait_for(&director, 2, rs2);
    };
    let missing = Err("/missing: status 404");
    reload(&path("/missing"), missing, missing);
    let listed = "kind = \"http\"\npath = \"/missing\"\nstatus = [200, \"400-404\"]";
    reload(&checked(http_rr(2), listed), Ok(()), Ok(()));
    let body = "kind = \"http\"\nbody = \"^rs1\\\\b\"";
    let other = Err("GET http://172.17.100.2:80/: the body does not match /^rs1\\b/");
    reload(&checked(http_rr(2), body), Ok(()), other);
    assert_eq!(answered_by(&site, 10), ["rs1"; 10]);
    let saved = director.shunt("save").unwrap();
    assert!(saved.contains("body = \"^rs1\\\\b\""), "{saved}");
}

#[test]
fn another_port_is_asked_when_the_config_says_so() {
    let site = Site::build(Plan::new("check-port"), &[Family::V4]);
    let director = start(&site, &checked(http_rr(2), "kind = \"tcp\"\nport = 8080"));
    wait_for(&director, 1, Err("connect to 172.17.100.1:8080: refused"));
    let netns = site.topology.real_server(1);
    let _server = HttpServer::start(netns, "health", own(1, 8080)).unwrap();
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Err("connect to 172.17.100.2:8080: refused"));
}

#[test]
fn servers_with_ipv6_addresses_are_asked_there() {
    const BOTH: &[Family] = &[Family::V4, Family::V6];
    let mut site = Site::build(Plan::new("check-ipv6").ipv6(), BOTH);
    // By other hands, and not deprecated as it should be: the kernel would ask from the VIP, which is
    // nearer to the servers' addresses (RFC 6724, 5, rule 8) and which they drop as their own.
    let route = format!("route get {}", real_server_address(1, Family::V6));
    let route = site.topology.director.ip(&route).unwrap();
    assert!(route.contains(&format!("src {} ", lab::vip(Family::V6))), "{route}");
    let director = start(&site, &checked(service("tcp", Family::V6, "rr", 2), "kind = \"http\""));
    let state = |services: &[ServiceView], number| {
        let address = real_server_address(number, Family::V6);
        let server = services[0].servers.iter().find(|server| server.address == address);
        server.and_then(|server| server.health.clone())
    };
    wait_for_list(&director, "both are up", |services| {
        let up = |number| state(services, number).is_some_and(|health| health.state == "up");
        up(1) && up(2)
    });
    drop(site.servers.remove(0));
    let address = SocketAddr::new(real_server_address(1, Family::V6), HTTP);
    wait_for_list(&director, "rs1 is down", |services| {
        let refused = Some(format!("connect to {address}: refused"));
        state(services, 1).is_some_and(|health| health.state == "down" && health.error == refused)
    });
}

#[test]
fn udp_needs_the_expected_answer_or_no_icmp_error() {
    let site = Site::build(Plan::new("check-udp"), &[Family::V4]);
    let dns_rr = || service("udp", Family::V4, "rr", 2);
    let silent = "kind = \"udp\"\nsend = \"ping\"";
    let director = start(&site, &checked(dns_rr(), silent));
    // The echoes listen at the VIP alone.
    wait_for(&director, 1, Err("datagram to 172.17.100.1:53: refused"));
    let _echo = UdpEcho::start(site.topology.real_server(1), "rs1", own(1, DNS)).unwrap();
    let _other = UdpEcho::start(site.topology.real_server(2), "other", own(2, DNS)).unwrap();
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    let expected = format!("{silent}\nexpect = \"^rs. ping$\"");
    director.reload(&checked(dns_rr(), &expected)).unwrap();
    wait_for(&director, 2, Err("the answer does not match /^rs. ping$/"));
    wait_for(&director, 1, Ok(()));
}

/// Answers DNS queries with a code (RFC 1035, 4.1.1), until it is dropped.
struct DnsServer {
    code: Arc<AtomicU8>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    fn start(netns: &Netns, address: SocketAddr) -> DnsServer {
        let socket = netns.run(|| UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (code, stop) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
        let (said, stopped) = (Arc::clone(&code), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut message = [0; 512];
            while !stopped.load(Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut message) {
                    message[2] |= 0x80;
                    message[3] = said.load(Relaxed);
                    let _ = socket.send_to(&message[..length], from);
                }
            }
        });
        DnsServer { code, stop, thread: Some(thread) }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn dns_judges_the_code_of_the_answer() {
    let site = Site::build(Plan::new("check-dns"), &[Family::V4]);
    let servers =
        [1, 2].map(|number| DnsServer::start(site.topology.real_server(number), own(number, DNS)));
    let check = "kind = \"dns\"\nname = \"www.example.org\"\nrecord = \"AAAA\"";
    let director = start(&site, &checked(service("udp", Family::V4, "rr", 2), check));
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Ok(()));
    servers[1].code.store(2, Relaxed);
    wait_for(&director, 2, Err("ask 172.17.100.2:53 for www.example.org AAAA: SERVFAIL"));
    servers[1].code.store(0, Relaxed);
    wait_for(&director, 2, Ok(()));
    wait_for(&director, 1, Ok(()));
}

fn script(files: &TempDir, text: &str) -> String {
    let path = files.write("is_well", format!("#!/bin/sh\ncd {}\n{text}", files.path().display()));
    let path = path.unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    format!("kind = \"command\"\ncommand = [\"{}\", \"-v\"]", path.display())
}

#[test]
fn a_command_decides_for_each_server() {
    let site = Site::build(Plan::new("check-command"), &[Family::V4]);
    let files = TempDir::create("check-command").unwrap();
    let check = script(
        &files,
        "echo $1 $SHUNT_SERVICE $SHUNT_VIP $SHUNT_PORT > told-$SHUNT_SERVER\n\
         ls -l /proc/$$/fd > open\n\
         test -e well-$SHUNT_SERVER && exit 0\n\
         ip -br -4 address show >&2\n\
         echo \"no well-$SHUNT_SERVER\"\nexit 4\n",
    );
    let director = start(&site, &checked(http_rr(2), &check));
    wait_for(&director, 1, Err("/is_well: exit code 4: no well-172.17.100.1"));
    files.write("well-172.17.100.1", "").unwrap();
    wait_for(&director, 1, Ok(()));
    wait_for(&director, 2, Err("no well-172.17.100.2"));
    assert_eq!(answered_by(&site, 10), ["rs1"; 10]);
    let told = fs::read_to_string(files.path().join("told-172.17.100.2")).unwrap();
    assert_eq!(told.trim(), "-v tcp:172.17.100.100:80 172.17.100.100 80");
    // Nothing that the director has open is open there: no queue, no API, no flow table.
    let open = fs::read_to_string(files.path().join("open")).unwrap();
    for file in open.lines().filter_map(|line| line.split(" -> ").nth(1)) {
        let plain = file.starts_with("pipe:") || file.starts_with('/');
        assert!(plain && !file.contains("memfd"), "{open}");
    }
}

/// Whether a process of this machine has `mark` in its command line.
fn runs(mark: &Path) -> bool {
    let mark = mark.display().to_string();
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&mark)
    })
}

/// The states of the children of a process that have ended and that it has not waited for.
fn zombies(pid: u32) -> usize {
    let parent = format!(" Z {pid} ");
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    stats.filter(|stat| stat.contains(&parent)).count()
}

#[test]
fn commands_that_hang_are_ended_and_the_director_ends_without_waiting() {
    let site = Site::build(Plan::new("check-hang"), &[Family::V4]);
    let files = TempDir::create("check-hang").unwrap();
    let mark = files.path().join("is_well");
    let child = files.path().join("child");
    fs::write(&child, "#!/bin/sh\nsleep 1000; :").unwrap();
    fs::set_permissions(&child, Permissions::from_mode(0o755)).unwrap();
    let (at, hangs) = (child.display(), "trap '' TERM");
    let check = script(&files, &format!("{at} & {at} & {hangs}\n{at}; :\n"));
    let director = start(&site, &checked(http_rr(2), &check));
    wait_for(&director, 1, Err("/is_well: not done within 0.1 s"));
    wait_for(&director, 2, Err("/is_well: not done within 0.1 s"));
    // The director is at its other work meanwhile.
    assert!(director.shunt("list").is_ok());
    let pid = director.process().pid();
    let fixed = script(&files, "exit 0\n");
    director.reload(&checked(http_rr(2), &fixed)).unwrap();
    wait_for(&director, 1, Ok(()));
    wait_until(PATIENCE, "no child is left", || !runs(&child) && zombies(pid) == 0).unwrap();
    // Longer than the test: what runs then is ended with the director.
    let mut slow = checked(http_rr(2), &script(&files, &format!("touch slow\n{at} & {at}; :\n")));
    slow.services[0].more = slow.services[0].more.replace("= 0.1", "= 600");
    director.reload(&slow).unwrap();
    let started = || files.path().join("slow").exists() && runs(&child);
    director.process().wait_until(PATIENCE, "the slow one runs", started).unwrap();
    let status = director.stop(PATIENCE).unwrap();
    assert_eq!(status.code(), Some(0), "{}", director.process().output());
    wait_until(PATIENCE, "nothing is left", || !runs(&mark) && !runs(&child)).unwrap();
    // Nor when it has no time to end them.
    fs::remove_file(files.path().join("slow")).unwrap();
    let director = start(&site, &slow);
    director.process().wait_until(PATIENCE, "the slow one runs again", started).unwrap();
    director.process().signal(Signal::SIGKILL).unwrap();
    wait_until(PATIENCE, "nothing is left of it", || !runs(&mark) && !runs(&child)).unwrap();
}

#[test]
fn no_more_commands_run_at_once_than_may() {
    let site = Site::build(Plan::new("check-many"), &[Family::V4]);
    let files = TempDir::create("check-many").unwrap();
    let lines = "echo + >> turns\nuntil test -e go; do sleep 0.5; done\necho - >> turns\n";
    let turns = || fs::read_to_string(files.path().join("turns")).unwrap_or_default();
    let mut service = http_rr(0);
    service.real_servers = (101..=200).map(|host| ([172, 17, 100, host].into(), 1)).collect();
    let mut config = checked(service, &script(&files, lines));
    config.services[0].more = config.services[0].more.replace("= 0.1", "= 60");
    let director = start(&site, &config);
    let all = || turns().lines().count() >= COMMANDS_AT_ONCE;
    director.process().wait_until(PATIENCE, "as many run as may", all).unwrap();
    files.write("go", "").unwrap();
    wait_for_list(&director, "all have had their turn", |services| {
        let up = services[0].servers.iter().filter_map(|server| server.health.as_ref());
        up.filter(|health| health.state == "up").count() == 100
    });
    let mut running = 0i32;
    let turns = turns();
    let most = turns.lines().map(|turn| {
        running += if turn == "+" { 1 } else { -1 };
        running
    });
    assert_eq!(most.max(), Some(COMMANDS_AT_ONCE as i32));
}

/// One of each on one machine, some of which are silent: each service is checked on its own, and
/// the director's answers do not wait for them.
#[test]
fn silent_servers_hold_nobody_up() {
    let site = Site::build(Plan::new("check-silent"), &[Family::V4]);
    // Addresses where nobody is: the kernel looks for them all the time.
    let servers = (50..=90).map(|host| ([172, 17, 100, host].into(), 1));
    let mut service = http_rr(1);
    service.real_servers.extend(servers);
    let director = start(&site, &checked(service, "kind = \"http\""));
    wait_for(&director, 1, Ok(()));
    let begin = std::time::Instant::now();
    for _ in 0..10 {
        director.shunt("list").unwrap();
    }
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    assert_eq!(answered_by(&site, 10), ["rs1"; 10]);
    wait_for_list(&director, "all others are down", |services| {
        let down = services[0].servers.iter().filter_map(|server| server.health.as_ref());
        down.filter(|health| health.state == "down").count() == 41
    });
    let neighbors = site.topology.director.ip(&format!("neigh show dev {NIC}")).unwrap();
    assert!(neighbors.contains("172.17.100.50"), "{neighbors}");
    wait_for(&director, 1, Ok(()));
}
