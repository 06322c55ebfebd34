//! Uploaded plugins: what they change, what outlives the director, and what happens when what was
//! stored is damaged.

mod common;

use common::plugins::{all_go_to, always, chosen, file, show, upload};
use common::{PATIENCE, Site, http, service, shunt, wait_for_list};
use director::plugin_views::{PluginShowView, VersionState};
use lab::{Config, Director, Family, HttpClient, Plan};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// The smallest module: the magic number and a version.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";
const BOTH: &[Family] = &[Family::V4, Family::V6];

/// Two services of two real servers each, with these schedulers: one over IPv4, one over IPv6.
fn config(v4: &'static str, v6: &'static str) -> Config {
    Config::of(vec![service("tcp", Family::V4, v4, 2), service("tcp", Family::V6, v6, 2)])
}

fn build(purpose: &str) -> Site {
    Site::build(Plan::new(purpose).ipv6(), BOTH)
}

/// Runs `shunt` and returns why it failed.
fn refused(director: &Director, words: &str) -> String {
    match director.shunt(words) {
        Ok(said) => panic!("{words} is not refused: {said}"),
        Err(error) => error.to_string(),
    }
}

/// Versions with their states, the latest first.
fn versions(view: &PluginShowView) -> Vec<(u32, VersionState)> {
    view.plugin.versions.iter().map(|version| (version.version, version.state)).collect()
}

#[test]
fn an_upload_serves_at_once_and_can_be_taken_back_and_removed() {
    let site = build("upload");
    let net = &site.topology;
    let config = config("rr", "rr");
    let (director, http_name) = (site.start(&config), config.services[0].name());
    let mut held = HttpClient::connect(&net.client, http(Family::V4)).unwrap();
    let held_by = held.get("/").unwrap().real_server;

    let said = upload(&director, &file(net, "my", &always(1, "0.1")));
    assert!(
        said.starts_with("my@1 (digest ") && said.contains(", label 0.1) is current"),
        "{said}"
    );
    assert!(said.contains("`shunt service set SERVICE --scheduler my`"), "{said}");
    assert_eq!(chosen(net, Family::V4, 4).iter().collect::<BTreeSet<_>>().len(), 2, "still rr");
    director.shunt(&format!("service set {http_name} --scheduler my")).unwrap();
    all_go_to(net, Family::V4, "rs1");

    let second = file(net, "my", &always(2, "0.2"));
    let said = upload(&director, &second);
    assert!(said.contains("my@2") && said.ends_with("; 1 service uses it\n"), "{said}");
    all_go_to(net, Family::V4, "rs2");
    let said = upload(&director, &second);
    assert!(said.contains("my@2") && said.contains("current already"), "{said}");

    // A service that names a version stays with it.
    director.shunt(&format!("service set {http_name} --scheduler my@1")).unwrap();
    upload(&director, &file(net, "my", &always(2, "0.3")));
    all_go_to(net, Family::V4, "rs1");
    let listed = director.shunt("list").unwrap();
    assert!(listed.contains("my  [version 1, whichever is current"), "{listed}");
    for words in ["plugin remove my@1", "plugin remove my"] {
        let why = refused(&director, words);
        assert!(why.contains(&http_name), "{why}");
    }
    let why = refused(&director, "plugin remove my@3");
    assert!(why.contains("my"), "{why}");
    use VersionState::{Current, Kept, Pinned};
    let view = show(&director, "my");
    assert_eq!(versions(&view), [(3, Current), (2, Kept), (1, Pinned)]);
    assert_eq!(view.plugin.services.len(), 1, "{view:?}");
    assert!(view.plugin.calls >= 18, "{view:?}");

    director.shunt("plugin rollback my --to 1").unwrap();
    director.shunt(&format!("service set {http_name} --scheduler my")).unwrap();
    all_go_to(net, Family::V4, "rs1");
    let said = director.shunt("plugin rollback my --to 2").unwrap();
    assert!(said.starts_with("my@2 (") && said.ends_with("; 1 service uses it\n"), "{said}");
    all_go_to(net, Family::V4, "rs2");
    let said = director.shunt("plugin rollback my").unwrap();
    assert!(said.starts_with("my@1 ("), "{said}");
    all_go_to(net, Family::V4, "rs1");
    director.shunt("plugin remove my@3").unwrap();
    let why = refused(&director, "plugin rollback my --to 3");
    assert!(why.contains("my@3"), "{why}");

    director.shunt(&format!("service set {http_name} --scheduler rr")).unwrap();
    director.shunt("plugin remove my").unwrap();
    assert!(refused(&director, "plugin show my").contains("there is no plugin my"));
    let listed = director.shunt("plugin list").unwrap();
    assert!(!listed.lines().any(|line| line.starts_with("my ")), "{listed}");
    assert_eq!(held.get("/").unwrap().real_server, held_by, "through all of this");
}

#[test]
fn parameters_change_at_run_time_and_are_the_plugins_to_refuse() {
    let site = build("params");
    let net = &site.topology;
    let config = config("rr", "rr");
    let (director, http_name) = (site.start(&config), config.services[0].name());
    let set = format!("service set {http_name}");
    upload(&director, &file(net, "my", &always(1, "0.1")));
    director.shunt(&format!("{set} --scheduler my --param server=2")).unwrap();
    all_go_to(net, Family::V4, "rs2");
    let line = |director: &Director| {
        let listed = director.shunt("list").unwrap();
        listed.lines().find(|line| line.contains("172.17.100.100:80 ")).unwrap().to_owned()
    };
    let listed = line(&director);
    assert!(listed.contains(" my (server=2)"), "{listed}");

    let why = refused(&director, &format!("{set} --param host=1 --param server=1"));
    assert!(why.contains("write server=1 and nothing else"), "{why}");
    let why = refused(&director, &format!("{set} --scheduler rr --param server=1"));
    assert!(why.contains("takes no parameters"), "{why}");
    all_go_to(net, Family::V4, "rs2");
    assert_eq!(line(&director), listed);

    // Another version of the plugin keeps them.
    upload(&director, &file(net, "my", &always(1, "0.2")));
    all_go_to(net, Family::V4, "rs2");
    let saved = director.shunt("save").unwrap();
    for part in ["scheduler = \"my\"\n", "\n[virtual_service.scheduler_params]\nserver = \"2\"\n"] {
        assert!(saved.contains(part), "{part} is missing in\n{saved}");
    }
    director.shunt(&format!("{set} --no-params")).unwrap();
    all_go_to(net, Family::V4, "rs1");

    // What was saved is a config file, and the director takes it.
    director.write_config(&saved).unwrap();
    director.process().signal(Signal::SIGHUP).unwrap();
    wait_for_list(&director, "the saved parameters are in force", |services| {
        services[0].params.get("server").is_some_and(|server| server == "2")
    });
    all_go_to(net, Family::V4, "rs2");
}

/// A director whose services use the second version of a plugin, and the first by its number.
fn with_two_versions(site: &Site) -> (Director, Config) {
    let net = &site.topology;
    let director = site.start(&config("rr", "rr"));
    upload(&director, &file(net, "my", &always(1, "0.1")));
    upload(&director, &file(net, "my", &always(2, "0.2")));
    let config = config("my", "my@1");
    director.reload(&config).unwrap();
    wait_for_list(&director, "both versions are in use", |services| {
        let names: Vec<String> = services.iter().map(|s| s.scheduler.to_string()).collect();
        names == ["my", "my@1"]
    });
    all_go_to(net, Family::V4, "rs2");
    all_go_to(net, Family::V6, "rs1");
    (director, config)
}

#[test]
fn the_same_versions_serve_after_an_end_and_after_a_kill() {
    let site = build("restart");
    let (director, config) = with_two_versions(&site);
    let before = show(&director, "my").plugin.versions;
    let serve_as_before = |director: &Director| {
        all_go_to(&site.topology, Family::V4, "rs2");
        all_go_to(&site.topology, Family::V6, "rs1");
        let plugin = show(director, "my").plugin;
        assert_eq!((plugin.version, plugin.services.len()), (2, 2), "{plugin:?}");
        assert_eq!(plugin.versions, before);
    };
    let mut check = Command::new(shunt());
    check.arg("check").arg("--config").arg(director.config());
    assert!(check.status().unwrap().success(), "`shunt check` knows what is stored");
    director.stop(PATIENCE).unwrap();
    assert!(check.status().unwrap().success(), "without a director, too");
    drop(director);

    let director = site.start(&config);
    serve_as_before(&director);
    upload(&director, &file(&site.topology, "other", &always(1, "7")));
    director.process().signal(Signal::SIGKILL).unwrap();
    director.process().wait(PATIENCE).unwrap();
    drop(director);

    let director = site.start(&config);
    serve_as_before(&director);
    // An upload that was answered is stored.
    assert_eq!(show(&director, "other").plugin.label.as_deref(), Some("7"));
}

/// The stored file of a version.
fn stored(site: &Site, plugin: &PluginShowView, number: u32) -> PathBuf {
    let mut versions = plugin.plugin.versions.iter();
    let digest = &versions.find(|version| version.version == number).unwrap().digest;
    let path = site.topology.files.path().join(format!("state/plugins/{digest}.wasm"));
    assert!(path.exists(), "{}", path.display());
    path
}

#[test]
fn a_stored_file_that_was_damaged_is_reported_and_the_last_good_version_serves() {
    let site = build("damaged");
    let net = &site.topology;
    let (director, config) = with_two_versions(&site);
    let view = show(&director, "my");
    let [first, second] = [1, 2].map(|number| stored(&site, &view, number));
    director.stop(PATIENCE).unwrap();
    drop(director);

    // A module still, and not the one that was uploaded.
    std::fs::write(&second, EMPTY_MODULE).unwrap();
    let director = site.start(&config);
    all_go_to(net, Family::V4, "rs1");
    all_go_to(net, Family::V6, "rs1");
    let said = director.process().output();
    assert!(said.contains("my@2") && said.contains("damaged"), "{said}");
    let event = |director: &Director, version: u32| {
        let events = show(director, "my").events;
        let mut refused = events.iter().filter(|event| event.kind == "unusable");
        refused.any(|event| event.version == Some(version))
    };
    assert!(event(&director, 2) && !event(&director, 1));
    let listed = director.shunt("list").unwrap();
    assert_eq!(
        listed.matches("version 2 cannot be used; version 1 chooses").count(),
        1,
        "{listed}"
    );
    director.stop(PATIENCE).unwrap();
    drop(director);

    // Nothing good is left: the native fallback chooses, by a hash of the flow.
    std::fs::write(&first, "").unwrap();
    let director = site.start(&config);
    for family in BOTH {
        let servers: BTreeSet<String> = chosen(net, *family, 24).into_iter().collect();
        assert_eq!(servers.len(), 2, "{family:?}: {servers:?}");
    }
    assert!(event(&director, 2) && event(&director, 1));
    let listed = director.shunt("list").unwrap();
    assert_eq!(listed.matches("scheduler cannot be used; flows go by hash").count(), 2, "{listed}");

    // The same file mends it.
    upload(&director, &file(net, "my", &always(2, "0.2")));
    all_go_to(net, Family::V4, "rs2");
}
