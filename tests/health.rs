//! Real servers whose service fails and comes back while clients go on.

mod common;

use common::newcomers::{Newcomers, failed, share};
use common::{HTTP, PATIENCE, Site, dns, http, http_rr, metrics::Metrics, service, wait_for_list};
use director::views::{ServerView, ServiceView};
use lab::{
    Config, Director, Family, HttpClient, HttpServer, Plan, UdpClient, VirtualService,
    real_server_address, vip, wait_until,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The port that checks ask where the service itself is not to be touched.
const ASKED: u16 = 8080;
/// After a failure no new connection fails from here on: two checks a second apart, and a little.
const NOTICED: Duration = Duration::from_secs(3);

/// A check by TCP each second, rise and fall 2, with these further keys.
fn checked(service: VirtualService, keys: &str, check: &str) -> VirtualService {
    service.with(&format!(
        "{keys}\n[virtual_service.health_check]\nkind = \"tcp\"\ninterval = 1\nrise = 2\nfall = 2\n{check}"
    ))
}

/// The network with servers of which each also listens at the port that checks ask.
fn site(purpose: &str, real_servers: u8) -> Site {
    Site::build(Plan::new(purpose).real_servers(real_servers), &[Family::V4])
}

fn listen(site: &Site, number: u8, port: u16) -> HttpServer {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    HttpServer::start(site.topology.real_server(number), &format!("rs{number}"), address).unwrap()
}

fn server(services: &[ServiceView], number: u8) -> &ServerView {
    let address = real_server_address(number, Family::V4);
    services[0].servers.iter().find(|server| server.address == address).unwrap()
}

/// up, down or checking.
fn state(services: &[ServiceView], number: u8) -> &str {
    &server(services, number).health.as_ref().unwrap().state
}

fn wait_for_state(director: &Director, number: u8, wanted: &str) {
    wait_for_list(director, &format!("rs{number} is {wanted}"), |services| {
        state(services, number) == wanted
    });
}

/// Waits until so much time has passed since a moment, and returns when that was.
fn wait_until_after(moment: Instant, time: Duration) -> Instant {
    wait_until(PATIENCE, "time passes", || moment.elapsed() > time).unwrap();
    moment + time
}

fn times_said(director: &Director, words: &str) -> usize {
    director.process().output().matches(words).count()
}

/// Kills rs2's service under load and brings it back. `refused` is what the check says of it.
fn kill_and_bring_back(purpose: &str, service: VirtualService, refused: &str) {
    let mut site = site(purpose, 2);
    let director = site.start(&Config::of(vec![service]));
    let newcomers = Newcomers::start(&site.topology, http(Family::V4));
    let before = newcomers.next(50);
    assert!(failed(&before).is_empty(), "{:?}", failed(&before));
    assert!((0.4..0.6).contains(&share(&before, "rs2")), "the start has waited for the checks");

    let killed = Instant::now();
    drop(site.servers.remove(1));
    wait_for_state(&director, 2, "down");
    let noticed = wait_until_after(killed, NOTICED);
    let after = newcomers.next(100);
    assert_eq!(share(&after, "rs1"), 1.0, "{:?}", failed(&after));
    let lost = newcomers.between(killed, Instant::now());
    println!(
        "{purpose}: {} new connections failed, the last after {:?}",
        failed(&lost).len(),
        failed(&lost).iter().map(|new| new.begun - killed).max()
    );
    assert!(!failed(&lost).is_empty(), "the test has killed nothing");
    let listed = director.shunt("list").unwrap();
    assert!(listed.contains(refused), "{listed}");

    site.servers.push(listen(&site, 2, HTTP));
    let back = Instant::now();
    wait_for_state(&director, 2, "up");
    assert!(back.elapsed() > Duration::from_millis(500), "two good results are needed");
    let shared = newcomers.next(100);
    assert!((0.4..0.6).contains(&share(&shared, "rs2")), "{}", share(&shared, "rs2"));
    let all = newcomers.between(noticed, Instant::now());
    assert!(failed(&all).is_empty(), "{:?}", failed(&all));
    for line in [" is down: ", " is up again"] {
        assert_eq!(times_said(&director, line), 1, "{}", director.process().output());
    }
    let metrics = Metrics::fetch(&site.topology.director);
    let labels = [("server", "172.17.100.2"), ("result", "failed")];
    let failures = metrics.sum("shunt_server_checks_total", &labels);
    assert!(failures >= 2.0, "{failures}");
}

#[test]
fn a_killed_service_costs_no_new_connection_after_three_seconds() {
    let refused = "connect to 172.17.100.2:80: refused]";
    kill_and_bring_back("killed", checked(http_rr(2), "", ""), refused);
}

/// As above; and a server whose flows were dropped is asked for the VIP all the same.
#[test]
fn neither_does_it_with_checks_for_the_vip_itself() {
    let service = checked(http_rr(2), "", "on_failure = \"expire\"");
    let more = service.more.replace("kind = \"tcp\"", "kind = \"dr\"");
    let refused = "172.17.100.100:80 is refused: the service does not listen on the VIP]";
    kill_and_bring_back("killed-dr", VirtualService { more, ..service }, refused);
}

#[test]
fn a_flapping_real_server_does_not_flap_the_service() {
    let site = site("flapping", 2);
    let _steady = listen(&site, 1, ASKED);
    let mut asked = Some(listen(&site, 2, ASKED));
    let check = format!("port = {ASKED}\njitter = 0");
    let service = checked(http_rr(2), "quorum = 2\nhysteresis = 1", &check);
    let director = site.start(&Config::of(vec![service]));
    wait_for_state(&director, 2, "up");
    let newcomers = Newcomers::start(&site.topology, http(Family::V4));
    let begun = Instant::now();
    // Each check finds another answer than the one before.
    for _ in 0..8 {
        wait_for_a_check(&site);
        asked = if asked.is_some() { None } else { Some(listen(&site, 2, ASKED)) };
    }
    assert_eq!(times_said(&director, " is down: "), 0, "{}", director.process().output());
    // Slower, so that it does fall, and comes back, twice. It needs more the second time.
    let mut returns = Vec::new();
    for _ in 0..2 {
        drop(asked.take());
        wait_for_state(&director, 2, "down");
        asked = Some(listen(&site, 2, ASKED));
        let listening = Instant::now();
        wait_for_state(&director, 2, "up");
        returns.push(listening.elapsed());
    }
    drop(asked);
    assert!(returns[1] > returns[0] + Duration::from_secs(1), "{returns:?}");
    assert_eq!(times_said(&director, "quorum"), 0, "{}", director.process().output());
    let all = newcomers.between(begun, Instant::now());
    assert!(failed(&all).is_empty() && all.len() > 500, "{:?}", failed(&all));
}

/// Waits until the next check of rs2 has ended.
fn wait_for_a_check(site: &Site) {
    let count = || -> f64 {
        let metrics = Metrics::fetch(&site.topology.director);
        metrics.sum("shunt_server_checks_total", &[("server", "172.17.100.2")])
    };
    let before = count();
    wait_until(PATIENCE, "another check has ended", || count() > before).unwrap();
}

#[test]
fn the_sorry_server_stands_in_while_the_quorum_is_lost() {
    let mut site = site("sorry", 3);
    let sorry = real_server_address(3, Family::V4);
    let service = checked(http_rr(2), &format!("sorry_server = \"{sorry}\""), "");
    let director = site.start(&Config::of(vec![service]));
    let newcomers = Newcomers::start(&site.topology, http(Family::V4));
    assert_eq!(share(&newcomers.next(50), "rs3"), 0.0);

    site.servers.drain(0..2).for_each(drop);
    wait_for_list(&director, "the quorum is lost", |services| {
        services[0].quorum.as_ref().is_some_and(|quorum| quorum.lost && quorum.sorry)
    });
    let meanwhile = newcomers.next(50);
    assert_eq!(share(&meanwhile, "rs3"), 1.0, "{:?}", failed(&meanwhile));
    let mut held = HttpClient::connect(&site.topology.client, http(Family::V4)).unwrap();
    assert_eq!(held.get("/").unwrap().real_server, "rs3");
    let listed = director.shunt("list").unwrap();
    assert!(listed.contains("[quorum of 1 lost: 0 of 2 up; new flows go to the sorry server]"));

    site.servers.push(listen(&site, 1, HTTP));
    wait_for_list(&director, "the quorum is back", |services| {
        services[0].quorum.as_ref().is_some_and(|quorum| !quorum.lost && !quorum.sorry)
    });
    let after = newcomers.next(50);
    assert_eq!(share(&after, "rs1"), 1.0, "{after:?}");
    assert_eq!(held.get("/").unwrap().real_server, "rs3", "its flows drain");
    assert_eq!(times_said(&director, "has lost its quorum of 1: 0 of 2"), 1);
    assert_eq!(times_said(&director, "has its quorum again: 1 of 2"), 1);
}

#[test]
fn flows_of_a_failed_real_server_stay_or_move_as_the_config_says() {
    let site = site("moved", 2);
    let _steady = listen(&site, 1, ASKED);
    for (on_failure, goes_on_to) in [("drain", "rs2"), ("expire", "rs1")] {
        let asked = listen(&site, 2, ASKED);
        let check = format!("port = {ASKED}\non_failure = \"{on_failure}\"");
        let service = checked(service("udp", Family::V4, "rr", 2), "", &check);
        let director = site.start(&Config::of(vec![service]));
        let client = (0..4)
            .map(|_| UdpClient::connect(&site.topology.client, dns(Family::V4), PATIENCE).unwrap())
            .find(|client| client.ask("who?").unwrap() == "rs2")
            .expect("one of four goes to rs2");
        drop(asked);
        wait_for_state(&director, 2, "down");
        // The answer to the very next datagram may be lost with its flow.
        assert_eq!(client.ask("and now?").unwrap(), goes_on_to, "{on_failure}");
    }
}

#[test]
fn a_real_server_that_is_back_starts_slowly() {
    let mut site = site("slowly", 2);
    let (first, second) = (real_server_address(1, Family::V4), real_server_address(2, Family::V4));
    let weights = vec![(first, 16), (second, 16)];
    let address = SocketAddr::new(vip(Family::V4), HTTP);
    let service = VirtualService::new("tcp", address, "wrr", weights);
    let director = site.start(&Config::of(vec![checked(service, "slow_start = 6", "")]));
    let newcomers = Newcomers::start(&site.topology, http(Family::V4));
    let before = newcomers.next(64);
    assert!((0.4..0.6).contains(&share(&before, "rs2")), "{}", share(&before, "rs2"));

    drop(site.servers.remove(1));
    wait_for_state(&director, 2, "down");
    site.servers.push(listen(&site, 2, HTTP));
    wait_for_state(&director, 2, "up");
    let back = Instant::now();
    assert!(director.shunt("list").unwrap().contains("[slow start: weight "));
    let slow = |services: &[ServiceView]| server(services, 2).health.as_ref().unwrap().slow_start;
    wait_for_list(&director, "the weight is its own again", |services| slow(services).is_none());
    let whole = Instant::now();
    assert!((4.0..8.0).contains(&(whole - back).as_secs_f64()), "{:?}", whole - back);
    let shares: Vec<f64> = (0..3)
        .map(|third| {
            let from = back + (whole - back) * third / 3;
            share(&newcomers.between(from, from + (whole - back) / 3), "rs2")
        })
        .collect();
    println!("slow start: shares {shares:.2?} in its thirds");
    assert!(shares[0] < 0.3 && shares[0] < shares[1] && shares[1] < shares[2], "{shares:?}");
    let after = newcomers.next(64);
    assert!((0.4..0.6).contains(&share(&after, "rs2")), "{}", share(&after, "rs2"));
    let updates = Metrics::fetch(&site.topology.director);
    let updates = updates.sum("shunt_worker_updates_total", &[]);
    println!("slow start: {updates} changes for the worker since the start");
}

#[test]
fn a_changed_check_takes_its_place_without_taking_anybody_out() {
    let site = site("changed", 2);
    let _first = [1, 2].map(|number| listen(&site, number, ASKED));
    let _second = listen(&site, 1, ASKED + 1);
    let config = |port: u16| Config::of(vec![checked(http_rr(2), "", &format!("port = {port}"))]);
    let director = site.start(&config(ASKED));
    [1, 2].iter().for_each(|&number| wait_for_state(&director, number, "up"));
    let begun = Instant::now();
    // The operator's 0 stands, whatever the checks say.
    let (name, rs1) = (http_rr(2).name(), real_server_address(1, Family::V4));
    director.shunt(&format!("server set {name} {rs1} --weight 0")).unwrap();
    let newcomers = Newcomers::start(&site.topology, http(Family::V4));
    assert_eq!(share(&newcomers.next(30), "rs2"), 1.0);
    wait_for_a_check(&site);
    assert_eq!(share(&newcomers.next(30), "rs2"), 1.0);
    director.shunt(&format!("server set {name} {rs1} --weight 1")).unwrap();

    // Nobody listens there on rs2: it goes by fall, not at once, and rs1 stays.
    director.reload(&config(ASKED + 1)).unwrap();
    wait_for_state(&director, 2, "down");
    assert_eq!(share(&newcomers.next(30), "rs1"), 1.0);
    director.reload(&config(ASKED)).unwrap();
    wait_for_state(&director, 2, "up");
    let after = newcomers.next(64);
    assert!((0.4..0.6).contains(&share(&after, "rs2")), "{}", share(&after, "rs2"));
    let all = newcomers.between(begun, Instant::now());
    assert!(failed(&all).is_empty(), "{:?}", failed(&all));
    assert_eq!(times_said(&director, "172.17.100.1 of tcp:172.17.100.100:80 is"), 0);
}

#[test]
fn a_check_that_hangs_holds_up_nobody() {
    let mut site = site("hangs", 2);
    let other = SocketAddr::new(vip(Family::V4), 81);
    let servers = [1, 2].map(|number| (real_server_address(number, Family::V4), 1)).to_vec();
    let hanging = VirtualService::new("tcp", other, "rr", servers).with(
        "[virtual_service.health_check]\nkind = \"command\"\ncommand = [\"/bin/sleep\", \"60\"]\n\
         interval = 30\ntimeout = 30\n",
    );
    let director = site.start(&Config::of(vec![checked(http_rr(2), "", ""), hanging]));
    wait_for_state(&director, 2, "up");
    let killed = Instant::now();
    drop(site.servers.remove(1));
    wait_for_state(&director, 2, "down");
    assert!(killed.elapsed() < NOTICED + Duration::from_secs(1), "{:?}", killed.elapsed());
    wait_for_list(&director, "the other service is still being checked", |services| {
        let health = services[1].servers.iter().map(|server| server.health.as_ref().unwrap());
        health.map(|health| health.state.as_str()).all(|state| state == "checking")
    });
    // Its checks end with it, and the programs with them.
    assert_eq!(sleepers(&director), 2);
    director.reload(&Config::of(vec![checked(http_rr(2), "", "")])).unwrap();
    wait_until(PATIENCE, "the programs have ended", || sleepers(&director) == 0).unwrap();
}

/// How many programs called sleep the director has started and not yet seen the end of. (The shell
/// that ends them with a director that is killed stays.)
fn sleepers(director: &Director) -> usize {
    let pid = director.process().pid().to_string();
    let stat = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(entry.ok()?.path().join("stat")).ok()
    };
    let stats = std::fs::read_dir("/proc").unwrap().filter_map(stat);
    // After the name, which may contain anything but ends with the last bracket: state and parent.
    let parents = stats.filter_map(|stat| {
        let (name, rest) = stat.rsplit_once(") ")?;
        let parent = rest.split(' ').nth(1).map(str::to_owned);
        parent.filter(|_| name.ends_with("(sleep"))
    });
    parents.filter(|parent| *parent == pid).count()
}
