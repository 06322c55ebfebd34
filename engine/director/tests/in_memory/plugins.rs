//! The life of plugins, with workers in memory: uploads, swaps, rollbacks, and what happens to
//! those that fail.

use crate::metrics::{read, value};
use crate::world::{CONFIG, SERVICE, World};
use director::plugin_views::{EventsView, PluginShowView, PluginsView, UploadView, VersionState};
use frames::tcp_of;

const RR: &[u8] = include_bytes!("../../../../plugins/rr/rr.wasm");
const WRR: &[u8] = include_bytes!("../../../../plugins/wrr/wrr.wasm");

/// A plugin that answers with `answer`, an expression of WAT. `{tag}` makes its digest another.
pub fn answering(answer: &str, tag: &str) -> String {
    format!(
        r#"(module
  (memory (export "memory") 1)
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 1024) "{tag}")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32)
    (i32.store (i32.const 0) (i32.const 1))
    (i32.store (i32.const 8) (i32.const 1024))
    (i32.store (i32.const 12) (i32.const 2048))
    (i32.const 0))
  (func (export "shunt_schedule") (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    {answer}))"#
    )
}

pub fn put(world: &World, name: &str, file: &[u8]) -> Result<UploadView, String> {
    let answer = world.ask_bytes("PUT", &format!("/v1/plugins/{name}"), file)?;
    Ok(serde_json::from_str(&answer).unwrap())
}

pub fn set(world: &World, scheduler: &str) -> Result<String, String> {
    let body = format!("{{\"scheduler\": \"{scheduler}\"}}");
    world.ask("PUT", &format!("/v1/services/{SERVICE}/scheduler"), &body)
}

fn show(world: &World, name: &str) -> PluginShowView {
    let answer = world.ask("GET", &format!("/v1/plugins/{name}"), "").unwrap();
    serde_json::from_str(&answer).unwrap()
}

fn events(world: &World) -> Vec<(String, String)> {
    let answer = world.ask("GET", "/v1/events", "").unwrap();
    let view: EventsView = serde_json::from_str(&answer).unwrap();
    view.events.into_iter().map(|event| (event.kind, event.message)).collect()
}

/// The version that schedules the service, as `my@3`.
pub fn runs(world: &World) -> Option<String> {
    let supervisor = world.supervisor();
    let index = supervisor.services().services().next().unwrap().0;
    supervisor.schedulers().runs(index).map(|(version, _)| version.to_string())
}

/// Servers of new flows from `first` on.
pub fn servers(world: &World, first: u32, flows: u32) -> Vec<u8> {
    (first..first + flows).map(|number| world.send(0, &tcp_of(number, "S")).unwrap()).collect()
}

#[test]
fn an_upload_replaces_what_serves_and_moves_no_flow() {
    let world = World::new();
    let view = put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    assert_eq!((view.version, view.services, view.unchanged), (1, 0, false));
    set(&world, "my").unwrap();
    assert_eq!(servers(&world, 0, 4), [2; 4]);
    let second = answering("(i32.const 0)", "b");
    let view = put(&world, "my", second.as_bytes()).unwrap();
    assert_eq!((view.version, view.services, view.unchanged), (2, 1, false));
    assert!(put(&world, "my", second.as_bytes()).unwrap().unchanged);
    assert_eq!(servers(&world, 10, 4), [1; 4]);
    let established: Vec<_> =
        (0..4).map(|number| world.send(0, &tcp_of(number, "A")).unwrap()).collect();
    assert_eq!(established, [2; 4], "flows of the former version");
    assert_eq!(runs(&world).as_deref(), Some("my@2"));
    let families = read(&world);
    for (version, calls) in [("1", 4.0), ("2", 4.0)] {
        let labels = [("plugin", "my"), ("version", version)];
        assert_eq!(value(&families, "shunt_plugin_calls_total", &labels), calls);
    }
    let kinds: Vec<_> = events(&world).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["upload", "upload"]);
}

#[test]
fn a_rollback_goes_back_and_forth_and_a_pinned_service_stays() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 0)", "a").as_bytes()).unwrap();
    put(&world, "my", answering("(i32.const 1)", "b").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    assert_eq!(servers(&world, 0, 2), [2; 2]);
    world.ask("POST", "/v1/plugins/my/rollback", "").unwrap();
    assert_eq!(servers(&world, 10, 2), [1; 2]);
    let none_before = world.ask("POST", "/v1/plugins/my/rollback", "").unwrap_err();
    assert!(none_before.contains("no older version"), "{none_before}");
    world.ask("POST", "/v1/plugins/my/rollback", "{\"to\": 2}").unwrap();
    assert_eq!(runs(&world).as_deref(), Some("my@2"));
    set(&world, "my@1").unwrap();
    put(&world, "my", answering("(i32.const 1)", "c").as_bytes()).unwrap();
    assert_eq!(runs(&world).as_deref(), Some("my@1"), "pinned");
    let states: Vec<_> =
        show(&world, "my").plugin.versions.iter().map(|view| (view.version, view.state)).collect();
    use VersionState::{Current, Kept, Pinned};
    assert_eq!(states, [(3, Current), (2, Kept), (1, Pinned)]);
    assert!(set(&world, "my@9").unwrap_err().contains("my has my@1, my@2, my@3"));
}

#[test]
fn what_versions_and_services_did_that_are_gone_is_still_in_the_sum() {
    let config = CONFIG.replace("[[interface]]", "[plugins]\nkeep = 1\n[[interface]]");
    let world = World::with(&config);
    set(&world, "rr").unwrap();
    for (number, tag) in (0u32..).zip(["a", "b", "c", "d"]) {
        put(&world, "rr", answering("(i32.const 1)", tag).as_bytes()).unwrap();
        servers(&world, number * 10, 5);
    }
    let plugin = show(&world, "rr").plugin;
    assert_eq!((plugin.versions.len(), plugin.calls), (3, 20), "the last two, and the stock one");
    world.reload(&config[..config.find("[[virtual_service]]").unwrap()]);
    assert_eq!(show(&world, "rr").plugin.calls, 20);
}

#[test]
fn a_stock_plugin_is_version_0_of_its_name() {
    let world = World::new();
    assert_eq!(put(&world, "rr", RR).map(|view| (view.version, view.unchanged)), Ok((0, true)));
    let view = put(&world, "rr", WRR).unwrap();
    assert_eq!((view.version, view.services), (1, 1));
    set(&world, "rr@0").unwrap();
    assert_eq!(runs(&world).as_deref(), Some("rr@0"));
    world.ask("POST", "/v1/plugins/rr/rollback", "").unwrap();
    world.ask("DELETE", "/v1/plugins/rr?version=1", "").unwrap();
    let refused = world.ask("DELETE", "/v1/plugins/lc", "").unwrap_err();
    assert!(refused.contains("part of the program"), "{refused}");
    let list: PluginsView =
        serde_json::from_str(&world.ask("GET", "/v1/plugins", "").unwrap()).unwrap();
    assert!(list.plugins.iter().any(|plugin| plugin.name.as_str() == "rr" && plugin.stock));
}

#[test]
fn what_is_used_cannot_be_removed() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 0)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    for path in ["/v1/plugins/my", "/v1/plugins/my?version=1"] {
        let refused = world.ask("DELETE", path, "").unwrap_err();
        assert!(refused.contains(SERVICE) || refused.contains("current"), "{refused}");
    }
    set(&world, "rr").unwrap();
    let refused = world.ask("DELETE", "/v1/plugins/rr", "").unwrap_err();
    assert!(refused.contains("part of the program"), "{refused}");
    world.ask("DELETE", "/v1/plugins/my", "").unwrap();
    assert!(world.ask("GET", "/v1/plugins/my", "").unwrap_err().contains("no plugin my"));
    assert!(set(&world, "my").unwrap_err().contains("no plugin my"));
}

#[test]
fn a_version_that_fails_too_often_is_rolled_back_by_itself() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    let bad = answering(
        "(select (i32.const 1) (i32.const 99) (i32.lt_s (global.get $calls) (i32.const 20)))",
        "b",
    );
    put(&world, "my", bad.as_bytes()).unwrap();
    assert_eq!(servers(&world, 0, 19), [2; 19]);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@2"), "it is good so far");
    servers(&world, 100, 10);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@2"), "ten failures are forgiven");
    servers(&world, 200, 1);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@1"));
    assert_eq!(servers(&world, 300, 4), [2; 4]);
    let shown = show(&world, "my");
    assert_eq!(shown.plugin.version, 1);
    assert_eq!(shown.plugin.rollbacks, 1);
    assert_eq!(shown.plugin.fallbacks["out_of_range"], 11);
    assert_eq!(shown.plugin.versions[0].state, VersionState::Failed);
    let event = shown.events.last().unwrap();
    assert_eq!(event.kind, "automatic_rollback");
    assert!(event.message.contains("my@1 takes its place"), "{}", event.message);
    let dump = std::fs::read(event.dump.as_ref().unwrap()).unwrap();
    let dump = plugin_host::Dump::read(&dump).unwrap();
    assert_eq!((dump.plugin.as_str(), dump.call.answer), ("my", Some(99)));
    let families = read(&world);
    let labels = [("plugin", "my"), ("version", "2"), ("kind", "automatic")];
    assert_eq!(value(&families, "shunt_plugin_rollbacks_total", &labels), 1.0);
    // Nobody takes it back by accident.
    assert!(set(&world, "my@2").unwrap_err().contains("rollback my --to 2"));
    world.ask("POST", "/v1/plugins/my/rollback", "{\"to\": 2}").unwrap();
    assert_eq!(runs(&world).as_deref(), Some("my@2"));
}

#[test]
fn a_version_without_an_older_one_leaves_flows_to_the_hash() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 99)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    servers(&world, 0, 11);
    world.look_after_plugins();
    assert_eq!(runs(&world), None);
    let served = servers(&world, 100, 64);
    assert!(served.contains(&1) && served.contains(&2), "by hash: {served:?}");
    // A mended one serves at once.
    put(&world, "my", answering("(i32.const 0)", "b").as_bytes()).unwrap();
    assert_eq!(runs(&world).as_deref(), Some("my@2"));
}

#[test]
fn a_loop_benches_the_version_for_the_service_at_the_first_time() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 1)", "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    put(&world, "my", answering("(loop (br 0)) (i32.const 0)", "b").as_bytes()).unwrap();
    servers(&world, 0, 3);
    world.look_after_plugins();
    assert_eq!(runs(&world).as_deref(), Some("my@1"), "the last that worked");
    assert!(world.service().benched);
    let shown = show(&world, "my");
    assert_eq!(shown.plugin.version, 2, "other services may have it");
    assert_eq!(shown.plugin.fallbacks["out_of_fuel"], 1);
    assert_eq!(shown.plugin.fallbacks["benched"], 2);
    assert_eq!(shown.events.last().unwrap().kind, "benched");
    set(&world, "my").unwrap();
    assert_eq!(runs(&world).as_deref(), Some("my@2"), "another chance");
}

#[test]
fn an_instance_that_traps_is_replaced_by_a_fresh_one() {
    let world = World::new();
    let trap = "(if (i32.eq (global.get $calls) (i32.const 3)) (then unreachable)) (i32.const 1)";
    put(&world, "my", answering(trap, "a").as_bytes()).unwrap();
    set(&world, "my").unwrap();
    assert_eq!(servers(&world, 0, 2), [2; 2]);
    servers(&world, 10, 5);
    world.look_after_plugins();
    assert_eq!(servers(&world, 20, 2), [2; 2], "a fresh one");
    let shown = show(&world, "my");
    assert_eq!((shown.plugin.traps, shown.plugin.fallbacks["benched"]), (1, 4));
    assert_eq!(shown.events.last().unwrap().kind, "restored");
    assert!(shown.events.last().unwrap().dump.is_some());
}

#[test]
fn parameters_go_to_the_plugin_and_a_refusal_changes_nothing() {
    let world = World::new();
    let path = format!("/v1/services/{SERVICE}/scheduler");
    let refused =
        world.ask("PUT", &path, "{\"scheduler\": \"rr\", \"params\": {\"x\": \"1\"}}").unwrap_err();
    assert!(refused.contains("param"), "{refused}");
    assert_eq!(runs(&world).as_deref(), Some("rr@0"));
    assert!(world.service().params.is_empty());
}

#[test]
fn uploads_that_make_no_sense_are_refused_and_change_nothing() {
    let world = World::new();
    for (path, file, expected) in [
        ("My", RR, "is no name of a plugin"),
        ("my", &b""[..], "the body is empty"),
        ("my", b"nonsense", "no WebAssembly module"),
        ("my", b"\0asm\x0d\0\x01\0", "is a component"),
        ("my", b"(module", "(module"),
        ("my", &RR[..RR.len() / 2], "damaged"),
    ] {
        let refused = put(&world, path, file).unwrap_err();
        assert!(refused.contains(expected) || expected == "(module", "{refused}");
    }
    let huge = vec![0; (1 << 20) + 1];
    assert!(put(&world, "my", &huge).unwrap_err().contains("the limit is 1048576"));
    assert!(events(&world).is_empty());
    assert!(!world.folder.join("state").exists());
}

#[test]
fn what_was_uploaded_is_there_after_a_restart() {
    let world = World::new();
    put(&world, "my", answering("(i32.const 0)", "a").as_bytes()).unwrap();
    put(&world, "my", answering("(i32.const 1)", "b").as_bytes()).unwrap();
    let config = CONFIG.replace("\"rr\"", "\"my\"");
    let state_dir = world.folder.join("state");
    let again = World::after(world, &config);
    assert_eq!(runs(&again).as_deref(), Some("my@2"));
    assert_eq!(servers(&again, 0, 2), [2; 2]);
    // The file of the second is damaged meanwhile.
    let stored = show(&again, "my").plugin.versions[0].digest.clone();
    let path = state_dir.join("plugins").join(format!("{stored}.wasm"));
    std::fs::write(&path, b"nonsense").unwrap();
    let again = World::after(again, &config);
    assert_eq!(runs(&again).as_deref(), Some("my@1"));
    let (kind, message) = events(&again).pop().unwrap();
    assert_eq!(kind, "unusable");
    assert!(message.contains("is damaged") && message.contains("my@1 schedules it"), "{message}");
    // A change of something else is no reason to refuse.
    let body = "{\"weight\": 3}";
    again.ask("PATCH", &format!("/v1/services/{SERVICE}/servers/172.17.100.1"), body).unwrap();
    // Uploaded again it serves again.
    put(&again, "my", answering("(i32.const 1)", "b").as_bytes()).unwrap();
    assert_eq!(runs(&again).as_deref(), Some("my@3"));
}
