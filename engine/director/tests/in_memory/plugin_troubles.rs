//! What could go wrong around a plugin: clients that go away, refusals, a full disk, limits.

use crate::plugins::{answering, put, runs, servers, set};
use crate::world::{CONFIG, SERVICE, World, in_folder};
use director::config::Config;
use director::plugins::known;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

const TRAPS: &str = "unreachable";

fn weight(world: &World, weight: u32) -> Result<String, String> {
    let path = format!("/v1/services/{SERVICE}/servers/172.17.100.1");
    world.ask("PATCH", &path, &format!("{{\"weight\": {weight}}}"))
}

fn plugin_files(world: &World) -> usize {
    let files = std::fs::read_dir(world.folder.join("state/plugins")).unwrap();
    let names = files.map(|file| file.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".wasm")).count()
}

/// A client that goes away in the middle of its upload once left the workers with a version that
/// the supervisor knew nothing of: nobody would have looked after it.
#[test]
fn a_client_that_goes_away_does_not_stop_a_change_half_way() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    let file = answering("(i32.const 99)", "b");
    let head = format!(
        "PUT /v1/plugins/my HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{file}",
        file.len()
    );
    world.with_a_worker_held(1, || {
        let mut client = UnixStream::connect(&world.socket).unwrap();
        client.write_all(head.as_bytes()).unwrap();
        // Worker 0 has it, worker 1 cannot.
        let adopted =
            |worker: &director::seats::WorkerSeat| worker.handle.memory.counters().read().updates;
        let before = adopted(&world.supervisor().workers[0]);
        let memory = world.supervisor().workers[0].handle.memory.clone();
        while memory.counters().read().updates == before {
            thread::sleep(Duration::from_millis(1));
        }
        drop(client);
        // Time for the server to notice.
        thread::sleep(Duration::from_millis(50));
    });
    let began = Instant::now();
    while runs(&world).as_deref() != Some("my@2") {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", runs(&world));
        thread::sleep(Duration::from_millis(1));
    }
    servers(&world, 0, 11);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@1"), "it is looked after");
}

#[test]
fn a_limit_on_instances_below_what_there_is_stops_growth_only() {
    let limited = |config: &str, instances| format!("{config}[plugins]\ninstances = {instances}\n");
    let second = format!(
        "{CONFIG}[[virtual_service]]\naddress = \"172.17.100.101:80\"\nprotocol = \"tcp\"\n\
         scheduler = \"rr\"\n[[virtual_service.real_server]]\naddress = \"172.17.100.2\"\n"
    );
    let world = World::new();
    put(&world, "my", answering(TRAPS, "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    world.reload(&limited(CONFIG, 1));
    weight(&world, 3).unwrap();
    servers(&world, 0, 1);
    world.look_after_plugins();
    set(&world, "rr").unwrap();
    let refused = world.reload_text(&limited(&second, 3)).unwrap_err();
    assert!(refused.contains("instances allows, 3"), "{refused}");
    // One file both raises the limit and needs it.
    world.reload(&limited(&second, 4));
    assert_eq!(world.services().services.len(), 2);
}

#[test]
fn a_version_that_the_config_file_names_is_kept_for_the_next_start() {
    let first = World::new();
    put(&first, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    let config = CONFIG.replace("\"rr\"", "\"my@1\"") + "[plugins]\nkeep = 1\n";
    let world = World::after(first, &config);
    set(&world, "my").unwrap();
    for tag in ["b", "c", "d"] {
        put(&world, "my", answering("(i32.const 0)", tag).as_bytes()).unwrap();
    }
    let state_dir = world.supervisor().config.state_dir.clone();
    Config::parse(&in_folder(state_dir.parent().unwrap(), &config), &known).unwrap();
}

#[test]
fn refused_uploads_leave_no_file() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    let narrow = "(i32.store (i32.const 8) (i32.const 1))";
    for tag in ["b", "c"] {
        let file = answering("(i32.const 0)", tag)
            .replace("(i32.store (i32.const 8) (i32.const 1024))", narrow);
        let refused = put(&world, "my", file.as_bytes()).unwrap_err();
        assert!(refused.contains("can choose from 1 real servers"), "{refused}");
    }
    assert_eq!(plugin_files(&world), 1);
    // Nor does a refusal take a file that another version needs.
    put(&world, "other", answering("(i32.const 0)", "d").as_bytes()).unwrap();
    assert_eq!(plugin_files(&world), 2);
}

#[test]
fn a_disk_that_takes_nothing_does_not_keep_a_version_that_fails() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    put(&world, "my", answering("(i32.const 99)", "b").as_bytes()).unwrap();
    let in_the_way = world.folder.join("state/plugins/index.json.new");
    std::fs::create_dir(&in_the_way).unwrap();
    let refused = put(&world, "my", answering("(i32.const 0)", "c").as_bytes()).unwrap_err();
    assert!(refused.contains("index.json.new"), "{refused}");
    servers(&world, 0, 11);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@1"));
    std::fs::remove_dir(&in_the_way).unwrap();
    put(&world, "other", answering("(i32.const 0)", "d").as_bytes()).unwrap();
    let again = World::after(world, &CONFIG.replace("\"rr\"", "\"my\""));
    assert_eq!(runs(&again).as_deref(), Some("my@1"), "the next change stored it");
}

#[test]
fn a_refused_change_gives_no_benched_version_another_chance() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    put(&world, "my", answering("(loop (br 0)) (i32.const 0)", "b").as_bytes()).unwrap();
    servers(&world, 0, 1);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@1"));
    let path = format!("/v1/services/{SERVICE}/scheduler");
    world.ask("PUT", &path, "{\"params\": {\"x\": \"1\"}}").unwrap_err();
    weight(&world, 3).unwrap();
    assert_eq!(runs(&world).as_deref(), Some("my@1"));
    assert!(world.service().benched);
}

/// A change of something else replaces an instance that trapped. Its failure counts all the same.
#[test]
fn failures_between_two_looks_count_whatever_replaces_the_instance() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    put(&world, "my", answering(TRAPS, "b").as_bytes()).unwrap();
    for number in 0..11 {
        servers(&world, number, 1);
        weight(&world, number + 1).unwrap();
    }
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@1"));
}

#[test]
fn the_same_file_once_more_mends_a_damaged_one() {
    let world = World::new();
    let file = answering("(i32.const 1)", "a");
    put(&world, "my", file.as_bytes()).unwrap();
    for entry in std::fs::read_dir(world.folder.join("state/plugins")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            std::fs::write(path, b"nonsense").unwrap();
        }
    }
    assert!(put(&world, "my", file.as_bytes()).unwrap().unchanged);
    let again = World::after(world, &CONFIG.replace("\"rr\"", "\"my\""));
    assert_eq!(runs(&again).as_deref(), Some("my@1"));
}

/// What is in force is told of, also when a worker that hangs makes the answer an error.
#[test]
fn an_upload_that_a_worker_has_not_adopted_in_time_is_told_of() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    let file = answering("(i32.const 0)", "b");
    let late = world.with_a_worker_held(1, || put(&world, "my", file.as_bytes())).unwrap_err();
    assert!(late.contains("has not adopted the change"), "{late}");
    assert_eq!(runs(&world).as_deref(), Some("my@2"));
    let events = world.ask("GET", "/v1/events", "").unwrap();
    assert!(events.contains("plugin my@2 was uploaded"), "{events}");
    assert_eq!(plugin_files(&world), 2);
}
