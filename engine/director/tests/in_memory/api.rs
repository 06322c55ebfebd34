//! Every route: what it answers, and how it refuses.

use crate::world::{SERVICE, World};
use director::views::{ErrorView, ServiceView, StatusView};
use std::time::Duration;

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: shunt\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn every_refusal_has_its_status_names_the_next_step_and_changes_nothing() {
    let world = World::new();
    let before = world.services();
    let service = format!("/v1/services/{SERVICE}");
    let server = format!("{service}/servers/172.17.100.1");
    let (scheduler, servers) = (format!("{service}/scheduler"), format!("{service}/servers"));
    for (method, path, body, status, expected) in [
        ("PUT", scheduler.as_str(), "{", 400, "bad JSON in the body: EOF while parsing"),
        ("PUT", &scheduler, "", 400, "send {\\\"scheduler\\\": \\\"rr\\\"}"),
        ("PUT", &scheduler, "{\"name\": \"rr\"}", 400, "unknown field `name`"),
        ("PUT", &scheduler, "{\"scheduler\": \"wr\"}", 400, "there are rr, wrr, lc"),
        ("PUT", "/v1/services/tcp:10.0.0.1:80/scheduler", "{\"scheduler\": \"rr\"}", 404, SERVICE),
        (
            "PUT",
            "/v1/services/nonsense/scheduler",
            "{\"scheduler\": \"rr\"}",
            400,
            "PROTOCOL:VIP:PORT",
        ),
        ("GET", "/v1/services/tcp:10.0.0.1:80", "", 404, SERVICE),
        ("POST", &servers, "{\"address\": \"172.17.100.1\"}", 409, "`shunt server set` changes"),
        ("POST", &servers, "{\"address\": \"rs1\"}", 400, "no address of a real server"),
        ("POST", &servers, "{\"address\": \"172.17.100.5:81\"}", 400, "keeps the destination port"),
        ("POST", &servers, "{\"address\": \"172.17.100.5\", \"weight\": 65536}", 400, "0 to 65535"),
        ("POST", &servers, "{\"address\": \"172.17.100.5\", \"weight\": -1}", 400, "0 to 65535"),
        (
            "POST",
            &servers,
            "{\"address\": \"172.17.100.5\", \"mac\": \"02:00\"}",
            400,
            "no MAC address",
        ),
        ("POST", &servers, "{\"address\": \"2001:db8::1\"}", 400, "same family"),
        ("POST", &servers, "{\"address\": \"172.17.100.100\"}", 400, "VIP itself"),
        ("PATCH", &server, "{\"weight\": 70000}", 400, "0 to 65535"),
        ("PATCH", &server, "{\"weight\": 1.5}", 400, "bad JSON"),
        ("PATCH", &format!("{servers}/172.17.100.9"), "{\"weight\": 1}", 404, "172.17.100.2"),
        ("DELETE", &format!("{servers}/172.17.100.9"), "", 404, "there are 172.17.100.1"),
        ("DELETE", &format!("{server}?expire=maybe"), "", 400, "there is ?expire=true"),
        ("GET", "/v1/nothing", "", 404, "/v1/services"),
        ("GET", "/", "", 404, "/v1/services"),
        ("POST", "/v1/services", "", 405, "does not apply"),
        ("DELETE", "/v1/flows", "", 405, "does not apply"),
        ("GET", &scheduler, "", 405, "Allow"),
        ("POST", "/metrics", "", 405, "does not apply"),
    ] {
        let answer = world.ask_raw(&request(method, path, body));
        let (head, json) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
        assert_eq!(status == 405, head.to_lowercase().contains("\r\nallow: "), "{answer}");
        assert!(json.contains(expected), "{method} {path}: {json}");
        serde_json::from_str::<ErrorView>(json).unwrap();
    }
    assert_eq!(world.services(), before);
}

#[test]
fn a_body_without_end_is_refused() {
    let world = World::new();
    let huge = "x".repeat(3 << 20);
    let request = request("PUT", &format!("/v1/services/{SERVICE}/scheduler"), &huge);
    // The director may close the connection while the body is still being sent.
    let mut connection = std::os::unix::net::UnixStream::connect(&world.socket).unwrap();
    let _ = std::io::Write::write_all(&mut connection, request.as_bytes());
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut connection, &mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(world.service().scheduler.to_string(), "rr");
}

#[test]
fn a_service_can_be_asked_for_alone() {
    let world = World::new();
    let text = world.ask("GET", &format!("/v1/services/{SERVICE}"), "").unwrap();
    let view: ServiceView = serde_json::from_str(&text).unwrap();
    assert_eq!(view, world.service());
    assert_eq!(view.servers.len(), 2);
    assert_eq!(view.servers[0].mac.as_deref(), Some("02:00:00:00:01:01"));
}

#[test]
fn the_status_names_interface_queues_and_cores() {
    let world = World::new();
    let text = world.ask("GET", "/v1/status", "").unwrap();
    let status: StatusView = serde_json::from_str(&text).unwrap();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.interfaces[0].name, "eth0");
    let queues: Vec<_> = status.interfaces[0].queues.iter().map(|q| (q.queue, q.worker)).collect();
    assert_eq!(queues, [(0, 0), (1, 1)]);
}

#[test]
fn flows_are_listed_with_state_and_time_left() {
    let world = World::new();
    assert_eq!(world.flows(), []);
    let first = world.connect(0, 1).unwrap();
    world.send(1, &frames::tcp_of(2, "S")).unwrap();
    let mut flows = world.flows();
    flows.sort_by_key(|flow| flow.source);
    assert_eq!(flows.len(), 2);
    let [established, half_open] = &flows[..] else { panic!("{flows:?}") };
    let (address, port) = frames::client_of(1, false);
    assert_eq!(established.source.to_string(), format!("{address}:{port}"));
    assert_eq!(established.r#virtual.to_string(), "172.17.100.100:80");
    assert_eq!(established.destination.to_string(), format!("172.17.100.{first}:80"));
    assert_eq!((established.protocol.as_str(), established.state.as_str()), ("tcp", "ESTABLISHED"));
    assert!((890..=900).contains(&established.expires), "{established:?}");
    assert_eq!(half_open.state, "SYN_RECV");
    assert!((50..=60).contains(&half_open.expires), "{half_open:?}");
}

#[test]
fn a_long_list_of_flows_comes_whole() {
    let world = World::new();
    for number in 0..1_500 {
        assert!(world.send(0, &frames::tcp_of(number, "S")).is_some());
    }
    let flows = world.flows();
    assert_eq!(flows.len(), 1_500);
    let clients: std::collections::HashSet<_> = flows.iter().map(|flow| flow.source).collect();
    assert_eq!(clients.len(), 1_500);
}

#[test]
fn a_change_is_not_answered_before_every_worker_has_it() {
    let world = World::new();
    let scheduler = format!("/v1/services/{SERVICE}/scheduler");
    std::thread::scope(|scope| {
        let answer = world.with_a_worker_held(1, || {
            let ask = || world.ask("PUT", &scheduler, "{\"scheduler\": \"wrr\"}");
            let answer = scope.spawn(ask);
            // From now on the change is being made; give it ample time to be answered too early.
            while world.supervisor.try_lock().is_ok() {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(300));
            assert!(!answer.is_finished());
            answer
        });
        answer.join().unwrap().unwrap();
    });
}

#[test]
fn a_worker_that_hangs_is_named_and_catches_up_when_it_comes_back() {
    let world = World::new();
    let first = format!("/v1/services/{SERVICE}/servers/172.17.100.1");
    let request = request("PATCH", &first, "{\"weight\": 0}");
    let answer = world.with_a_worker_held(1, || world.ask_raw(&request));
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("worker 1 (eth0 queue 1)"), "{answer}");
    // It has missed nothing.
    world.ask("PATCH", &first, "{\"weight\": 0}").unwrap();
    for number in 0..4 {
        assert_eq!(world.connect(1, number), Some(2));
    }
}

#[test]
fn a_change_is_in_force_when_it_is_answered() {
    let world = World::new();
    let (servers, first) = (
        format!("/v1/services/{SERVICE}/servers"),
        format!("/v1/services/{SERVICE}/servers/172.17.100.1"),
    );
    for number in 0..20 {
        let (from, weight) = (2 * number, number % 2);
        world.ask("PATCH", &first, &format!("{{\"weight\": {weight}}}")).unwrap();
        let got: Vec<_> =
            (from..from + 2).map(|n| world.send(0, &frames::tcp_of(n, "S"))).collect();
        assert_eq!(got.contains(&Some(1)), weight == 1, "{got:?}");
    }
    world.ask("DELETE", &first, "").unwrap();
    assert_eq!(world.send(0, &frames::tcp_of(100, "S")), Some(2));
    world.ask("POST", &servers, "{\"address\": \"172.17.100.1\", \"weight\": 7}").unwrap();
    assert_eq!(world.server(1).unwrap().weight, 7);
}
