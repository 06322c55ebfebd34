//! What health checks do to flows: the results come from a test instead of real servers.

use crate::world::{CONFIG, LINK, SERVICE, World, mac, rs};
use director::clock;
use director::config::Config;
use director::health::dr::Dr;
use director::health::judge::Verdict;
use director::health::kinds::CheckError;
use director::health::quorum::Quorum;
use director::health::run;
use director::neighbors::{KernelState, Reach};
use director::supervisor::Supervisor;
use frames::tcp_of;
use std::time::Duration;

/// [`CONFIG`] with a check whose rise and fall are 2, and `keys` for its service.
pub fn checked(keys: &str) -> String {
    let check = "[virtual_service.health_check]\nkind = \"tcp\"\nrise = 2\nfall = 2";
    CONFIG.replacen("scheduler = \"rr\"", &format!("scheduler = \"rr\"\n{keys}\n{check}"), 1)
}

fn times(world: &World, host: u8, good: bool, times: usize) {
    (0..times).for_each(|_| world.check(host, good));
}

/// The servers that eight new flows go to, in order; 0: to none.
fn new_flows(world: &World, first: u32) -> Vec<u8> {
    let mut to: Vec<u8> =
        (first..first + 8).map(|flow| world.send(0, &tcp_of(flow, "S")).unwrap_or(0)).collect();
    to.sort_unstable();
    to.dedup();
    to
}

#[test]
fn a_server_takes_new_flows_from_its_first_good_result_on() {
    let world = World::with(&checked(""));
    assert_eq!(new_flows(&world, 0), [0], "no result yet");
    world.check(1, true);
    assert_eq!(new_flows(&world, 10), [1]);
    world.check(2, true);
    assert_eq!(new_flows(&world, 20), [1, 2]);
    world.check(2, false);
    assert_eq!(new_flows(&world, 30), [1, 2]);
    assert!(world.server(2).unwrap().health.unwrap().error.is_some());
    world.check(2, false);
    assert_eq!(new_flows(&world, 40), [1]);
    let health = world.server(2).unwrap().health.unwrap();
    assert_eq!((health.state.as_str(), health.kind.as_str()), ("down", "tcp"));
    assert_eq!(health.error.as_deref(), Some("a test says so"));
    let text = String::from_utf8(world.shunt("list").stdout).unwrap();
    assert!(text.contains("[down for 0 s: a test says so]"), "{text}");
    times(&world, 2, true, 2);
    assert_eq!(new_flows(&world, 50), [1, 2]);
}

#[test]
fn flows_of_a_failed_server_stay_or_end_as_the_config_says() {
    for (keys, stays) in [("on_failure = \"drain\"", true), ("on_failure = \"expire\"", false)] {
        let world = World::with(&checked("").replace("fall = 2", &format!("fall = 2\n{keys}")));
        [1, 2].iter().for_each(|&host| world.check(host, true));
        let held = (0..9).find(|&flow| world.connect(0, flow) == Some(2)).unwrap();
        times(&world, 2, false, 2);
        assert_eq!(world.send(0, &tcp_of(held, "A")), stays.then_some(2), "{keys}");
        // The client connects anew from the same port.
        let anew = world.send(0, &tcp_of(held, "S"));
        assert_eq!(anew, if stays { Some(2) } else { Some(1) }, "{keys}");
        times(&world, 2, true, 2);
        let new = (10..19).any(|flow| world.connect(0, flow) == Some(2));
        assert!(new, "it is as any other after its return: {keys}");
    }
}

#[test]
fn checks_that_cannot_be_made_change_nothing() {
    let world = World::with(&checked(""));
    [1, 2].iter().for_each(|&host| world.check(host, true));
    times(&world, 2, false, 2);
    for host in [1, 1, 1, 2, 2, 2] {
        world.hear(host, Err(CheckError::Unable("eth0 is down".to_owned())));
    }
    assert_eq!(new_flows(&world, 0), [1]);
    for (host, state) in [(1, "up"), (2, "down")] {
        let health = world.server(host).unwrap().health.unwrap();
        let unmade = health.unmade.as_deref();
        assert_eq!((health.state.as_str(), unmade), (state, Some("eth0 is down")));
        let families = crate::metrics::read(&world);
        let address = format!("172.17.100.{host}");
        let labels = [("server", address.as_str()), ("result", "unable")];
        assert_eq!(crate::metrics::value(&families, "shunt_server_checks_total", &labels), 3.0);
    }
    // The next one that is made counts.
    world.check(1, true);
    assert_eq!(world.server(1).unwrap().health.unwrap().unmade, None);
}

#[test]
fn the_sorry_server_takes_over_though_nobody_could_ever_be_checked() {
    let world = World::with(&checked("sorry_server = \"172.17.100.9\""));
    world.resolve(9);
    assert_eq!(new_flows(&world, 0), [0]);
    for host in [1, 2] {
        world.hear(host, Err(CheckError::Unable("eth0 is down".to_owned())));
    }
    assert_eq!(new_flows(&world, 10), [9]);
}

#[test]
fn the_sorry_server_takes_over_while_the_quorum_is_lost() {
    let world = World::with(&checked("sorry_server = \"172.17.100.9\""));
    world.resolve(9);
    let sorry = world.server(9).unwrap();
    assert!(sorry.sorry && sorry.health.is_none() && sorry.run_time.is_none(), "{sorry:?}");
    assert_eq!(new_flows(&world, 0), [0], "nothing is known yet: not lost");
    [1, 2].iter().for_each(|&host| world.check(host, true));
    assert_eq!(new_flows(&world, 10), [1, 2]);
    let held = (20..29).find(|&flow| world.connect(0, flow) == Some(1)).unwrap();
    [1, 2].iter().for_each(|&host| times(&world, host, false, 2));
    assert_eq!(new_flows(&world, 30), [9]);
    assert_eq!(world.send(0, &tcp_of(held, "A")), Some(1), "flows drain");
    let quorum = world.service().quorum.unwrap();
    assert!(quorum.lost && quorum.sorry, "{quorum:?}");
    let families = crate::metrics::read(&world);
    let value = |name| crate::metrics::value(&families, name, &[("service", SERVICE)]);
    assert_eq!(value("shunt_service_quorum_lost"), 1.0);
    assert_eq!(value("shunt_service_sorry_server"), 1.0);
    assert_eq!(value("shunt_service_servers_up"), 0.0);
    assert_eq!(value("shunt_server_up"), 0.0);
    assert_eq!(value("shunt_server_effective_weight"), 1.0, "the sorry server's");
    let checks = |result| {
        let labels = [("server", "172.17.100.1"), ("result", result)];
        crate::metrics::value(&families, "shunt_server_checks_total", &labels)
    };
    assert_eq!((checks("ok"), checks("failed")), (1.0, 2.0));
    let sorry_held = (40..49).find(|&flow| world.connect(0, flow) == Some(9)).unwrap();
    times(&world, 1, true, 2);
    assert_eq!(new_flows(&world, 50), [1]);
    assert_eq!(world.send(0, &tcp_of(sorry_held, "A")), Some(9), "and these drain, too");
}

/// These schedulers keep a place for who takes no flows: the clients in the sorry server's went by
/// hash, each of their connections for itself.
#[test]
fn a_client_keeps_its_server_although_there_is_a_sorry_server() {
    for scheduler in ["sh", "mh", "dh"] {
        let config = checked("sorry_server = \"172.17.100.9\"");
        let world = World::with(&config.replace("\"rr\"", &format!("\"{scheduler}\"")));
        world.resolve(9);
        let servers = |first: u32| -> Vec<Vec<u8>> {
            let clients = 0..32;
            clients.map(|client| new_flows(&world, client * 60_000 + first)).collect()
        };
        [1, 2].iter().for_each(|&host| world.check(host, true));
        let before = servers(0);
        assert!(before.iter().all(|its| its.len() == 1), "{scheduler}: {before:?}");
        [1, 2].iter().for_each(|&host| times(&world, host, false, 2));
        assert!(servers(100).iter().all(|its| *its == [9]), "{scheduler}");
        [1, 2].iter().for_each(|&host| times(&world, host, true, 2));
        assert_eq!(servers(200), before, "{scheduler}");
    }
}

#[test]
fn the_sorry_server_is_the_configs_alone() {
    let config = checked("sorry_server = \"172.17.100.9\"");
    let world = World::with(&config);
    world.resolve(9);
    for words in ["server remove", "server set --weight 5", "server add"] {
        let said = world.shunt(&format!("{words} {SERVICE} 172.17.100.9"));
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains("is the sorry server of"), "{words}: {said}");
    }
    // What is saved is what was read.
    let saved = world.ask("GET", "/v1/config", "").unwrap();
    let known = |_: &std::path::Path, _: &director::scheduler_name::SchedulerName| Ok(());
    let [before, after] = [&config, &saved].map(|text| Config::parse(text, &known).unwrap());
    assert_eq!(before.services, after.services);
    // A real server becomes the sorry server, and the sorry server a real one.
    let swapped = config
        .replace("\"172.17.100.9\"", "\"172.17.100.x\"")
        .replace("\"172.17.100.2\"", "\"172.17.100.9\"")
        .replace("\"172.17.100.x\"", "\"172.17.100.2\"");
    world.reload(&swapped);
    assert!(world.server(2).unwrap().sorry && !world.server(9).unwrap().sorry);
    world.reload(&config);
    assert!(world.server(9).unwrap().sorry && !world.server(2).unwrap().sorry);
}

#[test]
fn a_reload_that_brings_or_changes_a_check_takes_nobody_out() {
    let world = World::new();
    assert_eq!(new_flows(&world, 0), [1, 2]);
    assert!(world.server(1).unwrap().health.is_none());
    let config = checked("quorum = 2");
    world.reload(&config);
    assert_eq!(world.server(1).unwrap().health.unwrap().state, "up");
    assert_eq!(new_flows(&world, 10), [1, 2]);
    times(&world, 1, false, 2);
    assert_eq!(new_flows(&world, 20), [2]);
    assert!(world.service().quorum.unwrap().lost);
    world.reload(&config.replace("fall = 2", "fall = 3"));
    assert_eq!(world.server(1).unwrap().health.unwrap().state, "down", "the verdict stands");
    times(&world, 2, false, 2);
    assert_eq!(new_flows(&world, 30), [2], "three would take it out");
    world.check(2, false);
    assert_eq!(new_flows(&world, 40), [0]);
    world.reload(CONFIG);
    assert_eq!(new_flows(&world, 50), [1, 2], "without a check all are up");
    let service = SERVICE.parse::<director::service_name::ServiceName>().unwrap().0;
    let standing = world.supervisor().health.weights.standing(&service);
    assert_eq!(standing.quorum, Quorum::Held);
}

#[test]
fn what_comes_back_by_hand_is_checked_first() {
    let world = World::with(&checked(""));
    [1, 2].iter().for_each(|&host| world.check(host, true));
    let path = format!("/v1/services/{SERVICE}/servers");
    world.ask("DELETE", &format!("{path}/{}", rs(2)), "").unwrap();
    assert!(world.server(2).unwrap().health.is_none(), "nobody asks who is removed");
    world.ask("POST", &path, "{\"address\": \"172.17.100.2\"}").unwrap();
    assert_eq!(world.server(2).unwrap().health.unwrap().state, "checking");
    assert_eq!(new_flows(&world, 0), [1]);
    world.check(2, true);
    assert_eq!(new_flows(&world, 10), [1, 2]);
}

/// [`checked`], by a program, each tenth of a second.
fn checked_by(program: &str, keys: &str) -> String {
    let command = format!("kind = \"command\"\ncommand = [\"{program}\"]\ninterval = 0.1");
    checked(keys).replace("kind = \"tcp\"", &command)
}

/// Makes the checks until something is so, and returns what.
fn watch_until<T>(world: &World, found: impl Fn(&Supervisor) -> Option<T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let look = async {
        loop {
            if let Some(found) = found(&*world.supervisor.lock().await) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = run::watch(world.supervisor.clone()) => unreachable!("it goes on"),
            found = tokio::time::timeout(Duration::from_secs(20), look) => found.unwrap(),
        }
    })
}

/// Clients that come once the list says so must not find it otherwise.
#[test]
fn a_verdict_that_can_be_seen_is_in_force() {
    let world = World::with(&checked_by("/bin/true", ""));
    // One alone: what is found within the rest after a change is told when it is over.
    world.ask("DELETE", &format!("/v1/services/{SERVICE}/servers/{}", rs(2)), "").unwrap();
    let weight = watch_until(&world, |supervisor| {
        let (index, server) = supervisor.services().servers().next()?;
        let service = supervisor.services().service(server.service)?;
        let up = supervisor.health.members.verdict(service, server) == Verdict::Up;
        up.then(|| supervisor.health.weights.given(index).weight)
    });
    assert_eq!(weight, 1);
}

#[test]
fn the_sorry_server_does_not_wait_for_results_that_cannot_be_had() {
    let world = World::with(&checked_by("/bin/false", "sorry_server = \"172.17.100.9\""));
    world.resolve(9);
    // What fails meanwhile says nothing of the real servers.
    world.supervisor().interfaces[0].carrier = false;
    let service = SERVICE.parse::<director::service_name::ServiceName>().unwrap().0;
    watch_until(&world, |supervisor| {
        let standing = supervisor.health.weights.standing(&service);
        standing.sorry.then_some(standing.quorum)
    });
    assert_eq!(world.server(1).unwrap().health.unwrap().state, "checking");
    assert_eq!(new_flows(&world, 0), [9]);
}

#[test]
fn a_dr_check_waits_until_a_new_server_is_found() {
    let third = "[[virtual_service.real_server]]\naddress = \"172.17.100.3\"\n";
    let world = World::with(&format!("{CONFIG}{third}"));
    let service = SERVICE.parse::<director::service_name::ServiceName>().unwrap().0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (dr, patience) = (Dr::default(), Duration::from_secs(20));
    let error = runtime.block_on(async {
        let find = async {
            let neighbors = &mut world.supervisor.lock().await.neighbors;
            let reach = Reach::OnLink { interface: 0, link: LINK, vlans: [0, 0], source: None };
            neighbors.place(rs(3), reach);
            neighbors.learned(LINK, rs(3), KernelState::Reachable, Some(mac(3)), clock::now());
        };
        tokio::join!(dr.check(&world.supervisor, service, rs(3), patience), find).0.unwrap_err()
    });
    // Nothing else is wrong with it: this machine is on no network of its own with it.
    assert!(error.to_string().contains("no address of its own"), "{error}");
}
