//! Established flows survive everything the control plane does (invariant 8).

use crate::world::{CONFIG, SERVICE, World, mac, rs};
use dataplane::ServerIndex;
use director::clock;
use director::neighbors::KernelState;
use director::services::Freed;
use frames::tcp_of;
use futures_util::FutureExt;
use std::time::Duration;

fn servers_of(world: &World, numbers: std::ops::Range<u32>) -> Vec<Option<u8>> {
    numbers.map(|number| world.connect((number % 2) as usize, number)).collect()
}

fn path(rest: &str) -> String {
    format!("/v1/services/{SERVICE}{rest}")
}

#[test]
fn rr_takes_turns_and_begins_elsewhere_on_each_worker() {
    let world = World::new();
    let first: Vec<_> = (0..4).map(|number| world.connect(0, number).unwrap()).collect();
    let second: Vec<_> = (4..8).map(|number| world.connect(1, number).unwrap()).collect();
    assert!(first == [1, 2, 1, 2] || first == [2, 1, 2, 1], "{first:?}");
    assert!(second == [1, 2, 1, 2] || second == [2, 1, 2, 1], "{second:?}");
    assert_ne!(first[0], second[0]);
}

#[test]
fn another_scheduler_moves_no_flow() {
    let world = World::new();
    let before = servers_of(&world, 0..20);
    for scheduler in ["wrr", "lc", "rr"] {
        let body = format!("{{\"scheduler\": \"{scheduler}\"}}");
        world.ask("PUT", &path("/scheduler"), &body).unwrap();
        assert_eq!(world.service().scheduler.to_string(), scheduler);
        for (number, server) in (0..20).zip(&before) {
            assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
        }
    }
}

#[test]
fn a_removed_server_keeps_its_flows_and_gets_no_new_ones() {
    let world = World::new();
    let before = servers_of(&world, 0..10);
    world.ask("DELETE", &path("/servers/172.17.100.1"), "").unwrap();
    assert_eq!(world.server(1).unwrap().state, "removed");
    assert_eq!(servers_of(&world, 10..20), [Some(2); 10]);
    for (number, server) in (0..10).zip(&before) {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
    }
    assert_eq!(world.server(1).unwrap().counts.active, 5);
    for _ in 0..3 {
        assert_eq!(world.keep_house(), Freed::default(), "it still has flows");
    }

    // Adding it again re-attaches them.
    world.ask("POST", &path("/servers"), "{\"address\": \"172.17.100.1\"}").unwrap();
    let server = world.server(1).unwrap();
    assert_eq!((server.state.as_str(), server.counts.active), ("serving", 5));
    assert!(servers_of(&world, 20..30).contains(&Some(1)));
}

#[test]
fn an_expired_server_loses_its_flows_and_then_its_index() {
    let world = World::new();
    let before = servers_of(&world, 0..10);
    world.ask("DELETE", &path("/servers/172.17.100.1?expire=true"), "").unwrap();
    for (number, server) in (0..10).zip(&before) {
        let now = world.send((number % 2) as usize, &tcp_of(number, "A"));
        assert_eq!(now, server.filter(|&server| server == 2));
    }
    assert_eq!(world.keep_house(), Freed::default());
    assert_eq!(world.keep_house().servers.len(), 1);
    assert_eq!(world.server(1), None);
}

#[test]
fn who_gets_a_used_index_starts_counting_at_zero() {
    let world = World::new();
    let count = servers_of(&world, 0..10).len() as u64;
    let total = world.service().counts;
    assert_eq!((total.connections, total.packets), (count, 2 * count));
    assert_eq!(world.server(1).unwrap().counts.connections, 5);

    world.ask("DELETE", &path("/servers/172.17.100.1?expire=true"), "").unwrap();
    for number in 0..10 {
        world.send((number % 2) as usize, &tcp_of(number, "A"));
    }
    world.keep_house();
    assert_eq!(world.keep_house().servers, [ServerIndex(0)]);
    world.ask("POST", &path("/servers"), "{\"address\": \"172.17.100.9\"}").unwrap();
    world.resolve(9);
    let newcomer = world.server(9).unwrap().counts;
    assert_eq!((newcomer.connections, newcomer.packets, newcomer.bytes), (0, 0, 0));
    let after = world.service().counts;
    assert_eq!(after.connections, total.connections, "the service's total stays");

    assert!(servers_of(&world, 10..20).contains(&Some(9)));
    assert_eq!(world.server(9).unwrap().counts.connections, 5);
    assert_eq!(world.service().counts.connections, 20);
}

#[test]
fn a_failed_neighbor_keeps_its_flows_and_gets_no_new_ones() {
    let world = World::new();
    let before = servers_of(&world, 0..10);
    world.neighbor(1, KernelState::Failed, None);
    assert_eq!(world.server(1).unwrap().neighbor, "failed");
    assert_eq!(servers_of(&world, 10..20), [Some(2); 10]);
    for (number, server) in (0..10).zip(&before) {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
    }
    // It comes back as another machine.
    world.neighbor(1, KernelState::Reachable, Some(mac(77)));
    let moved = before.iter().position(|server| *server == Some(1)).unwrap() as u32;
    assert_eq!(world.send((moved % 2) as usize, &tcp_of(moved, "A")), Some(77));
    assert!(servers_of(&world, 20..30).contains(&Some(77)));
}

#[test]
fn who_has_no_fixed_mac_address_any_more_is_asked_for_at_once() {
    let with_mac = CONFIG.replacen(".1\"", ".1\"\nmac = \"02:00:00:00:01:01\"", 1);
    let world = World::with(&with_mac);
    let asks = || world.supervisor().neighbors.due(clock::now()).0;
    assert!(asks().iter().all(|ask| ask.address != rs(1)), "it is never asked for");
    let due = world.supervisor().neighbors_due.clone();
    // Whatever was to be asked until now.
    while due.notified().now_or_never().is_some() {}
    world.reload(CONFIG);
    assert!(due.notified().now_or_never().is_some(), "nobody waits for the next look");
    assert!(asks().iter().any(|ask| ask.address == rs(1)));
}

#[test]
fn a_server_that_was_never_found_gets_no_flows() {
    let world = World::new();
    world.ask("POST", &path("/servers"), "{\"address\": \"172.17.100.3\"}").unwrap();
    assert_eq!(world.server(3).unwrap().neighbor, "unresolved");
    assert!(!servers_of(&world, 0..10).contains(&Some(3)));
    world.resolve(3);
    assert!(servers_of(&world, 10..20).contains(&Some(3)));
}

const WITHOUT_1_WITH_3: &str = r#"
flows = 2000
flows_v6 = 1100
[timeouts]
tcp = 60
[[interface]]
name = "eth0"
[[virtual_service]]
address = "172.17.100.100:80"
protocol = "tcp"
scheduler = "wrr"
[[virtual_service.real_server]]
address = "172.17.100.2"
weight = 3
[[virtual_service.real_server]]
address = "172.17.100.3"
"#;

#[test]
fn a_reload_applies_the_difference_and_breaks_no_flow() {
    let world = World::new();
    let before = servers_of(&world, 0..10);
    assert_eq!(world.reload(WITHOUT_1_WITH_3), [] as [String; 0]);
    world.resolve(3);
    let service = world.service();
    assert_eq!((service.scheduler.to_string().as_str(), service.run_time), ("wrr", None));
    assert_eq!(world.server(1).unwrap().state, "removed");
    assert_eq!(world.server(2).unwrap().weight, 3);
    for (number, server) in (0..10).zip(&before) {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
    }
    let new = servers_of(&world, 10..26);
    assert_eq!(new.iter().filter(|server| **server == Some(2)).count(), 12, "{new:?}");
    assert_eq!(new.iter().filter(|server| **server == Some(3)).count(), 4, "{new:?}");
    assert!(world.flows().iter().all(|flow| flow.expires <= 60), "the new timeout");
}

#[test]
fn a_reload_changes_when_flows_end() {
    let world = World::new();
    servers_of(&world, 0..10);
    assert_eq!(world.flows().len(), 10);
    world.reload(&WITHOUT_1_WITH_3.replace("tcp = 60", "tcp = 1"));
    // One second, and what it may take longer in ticks of the flow table.
    std::thread::sleep(Duration::from_secs(3));
    for number in 0..10 {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), None);
    }
}

#[test]
fn a_reload_leaves_alone_what_was_changed_at_run_time() {
    let world = World::new();
    world.ask("POST", &path("/servers"), "{\"address\": \"172.17.100.8\", \"weight\": 8}").unwrap();
    world.ask("PATCH", &path("/servers/172.17.100.2"), "{\"weight\": 5}").unwrap();
    world.ask("PUT", &path("/scheduler"), "{\"scheduler\": \"lc\"}").unwrap();
    let marks = |world: &World| {
        let service = world.service();
        let of_servers = service.servers.iter().map(|server| server.run_time.clone());
        (service.run_time.clone(), of_servers.collect::<Vec<_>>())
    };
    let before = marks(&world);
    assert_eq!(before.0.as_deref(), Some("scheduler set at run time; the config has rr"));
    assert_eq!(before.1[0], None);
    assert_eq!(before.1[1].as_deref(), Some("weight set at run time; the config has 1"));
    assert_eq!(before.1[2].as_deref(), Some("added at run time"));

    world.reload(&CONFIG.replace("flows_v6 = 1100", "flows_v6 = 1100\ntimeouts = { udp = 9 }"));
    assert_eq!(marks(&world), before);
    assert_eq!(world.service().scheduler.to_string(), "lc");

    // What the file now says too is no longer marked.
    let added = "[[virtual_service.real_server]]\naddress = \"172.17.100.8\"\nweight = 8\n";
    world.reload(&format!("{CONFIG}{added}"));
    assert_eq!(marks(&world).1[2], None);
    assert_eq!(world.server(2).unwrap().weight, 5);
}

#[test]
fn a_mac_address_in_the_file_needs_no_answer() {
    let world = World::new();
    let server = "[[virtual_service.real_server]]\naddress = \"172.17.100.3\"\n";
    let with_mac = |last: u8| format!("{CONFIG}{server}mac = \"02:00:00:00:09:{last:02x}\"\n");
    world.reload(&format!("{CONFIG}{server}"));
    world.neighbor(3, KernelState::Failed, None);
    assert_eq!(world.server(3).unwrap().neighbor, "failed");
    for last in [1, 2] {
        assert_eq!(world.reload(&with_mac(last)), [] as [String; 0]);
        let server = world.server(3).unwrap();
        assert_eq!(server.neighbor, "reachable");
        assert_eq!(server.mac, Some(format!("02:00:00:00:09:{last:02x}")));
        assert!(world.supervisor().neighbors.takes_new_flows(0, rs(3)));
    }
    world.neighbor(3, KernelState::Failed, None);
    assert_eq!(world.server(3).unwrap().neighbor, "reachable", "whatever the kernel says");
    let saved = world.ask("GET", "/v1/config", "").unwrap();
    assert!(saved.contains("mac = \"02:00:00:00:09:02\""), "{saved}");
}

#[test]
fn a_service_that_leaves_the_file_drains_and_can_come_back() {
    let world = World::new();
    let before = servers_of(&world, 0..10);
    let without = &CONFIG[..CONFIG.find("[[virtual_service]]").unwrap()];
    world.reload(without);
    assert!(world.service().removed);
    assert_eq!(world.send(0, &tcp_of(100, "S")), None, "no new flows");
    for (number, server) in (0..10).zip(&before) {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
    }
    world.keep_house();
    assert_eq!(world.keep_house(), Freed::default());

    world.reload(CONFIG);
    assert!(!world.service().removed);
    for (number, server) in (0..10).zip(&before) {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
    }
    assert_eq!(world.service().counts.active, 10);
    assert!(world.connect(0, 200).is_some());
}

#[test]
fn a_service_without_flows_goes_for_good() {
    let world = World::new();
    let without = &CONFIG[..CONFIG.find("[[virtual_service]]").unwrap()];
    world.reload(without);
    world.keep_house();
    let freed = world.keep_house();
    assert_eq!((freed.services.len(), freed.servers.len()), (1, 2));
    assert_eq!(world.services().services, []);
    assert_eq!(world.supervisor().schedulers().reports().len(), 0);
    assert_eq!(world.supervisor().neighbors.addresses().count(), 0);
    // Its index and its servers' serve another.
    world.reload(&CONFIG.replace(":80", ":81"));
    assert_eq!(world.services().services[0].service.to_string(), "tcp:172.17.100.100:81");
    assert_eq!(world.supervisor().neighbors.addresses().collect::<Vec<_>>(), [rs(1), rs(2)]);
}

#[test]
fn what_needs_a_restart_is_said() {
    let world = World::new();
    let changed = CONFIG.replace("flows = 2000", "poll = \"busy\"\nflows = 3000");
    for _ in 0..2 {
        let remarks = world.reload(&changed);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(remarks[0].starts_with("poll ") && remarks[1].starts_with("flows "), "{remarks:?}");
    }
    assert_eq!(world.reload(CONFIG), [] as [String; 0]);
}

#[test]
fn a_file_that_makes_no_sense_changes_nothing() {
    let world = World::new();
    let before = servers_of(&world, 0..10);
    let listed = world.services();
    for (bad, expected) in [
        (CONFIG.replace("[[interface]]", "[[interface"), ":4:"),
        (CONFIG.replace("\"rr\"", "\"x\""), ":9:13: there is no plugin x"),
        (CONFIG.replace("172.17.100.2", "172.17.100.1"), "already in line 11"),
    ] {
        let error = world.reload_text(&bad).unwrap_err();
        assert!(error.contains("director.toml:") && error.contains(expected), "{error}");
    }
    std::fs::remove_file(world.folder.join("director.toml")).unwrap();
    assert_eq!(world.services(), listed);
    assert_eq!(world.supervisor().reloads, (0, 3));
    // What is compared with next time is the last file that made sense.
    assert_eq!(world.reload(CONFIG), [] as [String; 0]);
    assert_eq!(world.services(), listed);
    for (number, server) in (0..10).zip(&before) {
        assert_eq!(world.send((number % 2) as usize, &tcp_of(number, "A")), *server);
    }
}
