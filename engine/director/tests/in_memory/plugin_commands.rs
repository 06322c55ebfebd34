//! `shunt plugin` and `shunt service set` against a director: what they print, what they refuse.

use crate::commands::{done, failed, run};
use crate::world::{CONFIG, SERVICE, World};
use director::plugin_views::{PluginShowView, PluginsView, VersionState};
use frames::tcp_of;
use std::path::PathBuf;

/// Chooses the second real server.
const PLUGIN: &str = r#"(module
  (memory (export "memory") 1)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (@custom "shunt.version" "0.1")
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32) (i32.const 1)))
"#;
// Made by minisign 0.11 of the file above; the secret key is gone.
const KEY: &str = "RWT++XRiHG3ypU85pDfY3r7cfsQV7WenaZaMlXNca1hKjmqMxTWu/qZV";
const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUT++XRiHG3ypV5F8Cfw8gkbatOuwN2FPMBDf6x7O7C+4euJDatT8Hj1BdudmPPAAjjyQiVj9F+N10dHPjSFHeWyOkiECKFX5Qk=
trusted comment: my 0.1
JeDghbGFGTnX8Ki4K4LuyKvGCEMiZ0tySrSmKN6VwO88sZ6JZdoBheTksXwJbFY6CY8FHAbsHI6lJ5BVpvmFDw==
";

fn file(world: &World, name: &str, content: &str) -> PathBuf {
    let path = world.folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn upload(world: &World, name: &str, content: &str) -> String {
    let path = file(world, name, content);
    done(&world.shunt(&format!("plugin upload {}", path.display())))
}

/// The same plugin under another label, so another digest.
fn labelled(label: &str) -> String {
    assert!(PLUGIN.contains("\"0.1\""));
    PLUGIN.replace("\"0.1\"", &format!("\"{label}\""))
}

/// The only line of a listing that begins with this word, by its columns.
fn columns(listed: &str, first: &str) -> Vec<String> {
    let mut lines = listed.lines().filter(|line| line.split_whitespace().next() == Some(first));
    let line = lines.next().unwrap_or_else(|| panic!("no {first} in\n{listed}"));
    assert_eq!(lines.next(), None, "{listed}");
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn plugins_are_uploaded_listed_shown_taken_back_and_removed() {
    let world = World::new();
    let before = done(&world.shunt("plugin list"));
    assert_eq!(columns(&before, "rr")[1], "0", "{before}");
    assert_eq!(columns(&before, "rr")[6], "1", "one service: {before}");
    assert_eq!(before.lines().count(), plugin_host::STOCK.len() + 1, "{before}");

    let said = upload(&world, "my.wat", PLUGIN);
    assert!(said.starts_with("my@1 (digest "), "{said}");
    assert!(said.ends_with("`shunt service set SERVICE --scheduler my`\n"), "{said}");
    assert!(upload(&world, "my.wat", PLUGIN).ends_with("nothing has changed\n"));
    assert!(upload(&world, "my.wat", &labelled("0.2")).starts_with("my@2 "));
    done(&world.shunt(&format!("service set {SERVICE} --scheduler my")));
    for number in 0..4 {
        assert_eq!(world.send(0, &tcp_of(number, "S")), Some(2));
    }
    let listed = done(&world.shunt("plugin list"));
    let row = columns(&listed, "my");
    assert_eq!(row[1..3], ["2", "0.2"], "{listed}");
    assert_eq!(row[5..9], ["1", "1", "4", "0"], "ABI, services, calls, traps: {listed}");
    let json: PluginsView =
        serde_json::from_str(&done(&world.shunt("plugin list --json"))).unwrap();
    let my = json.plugins.iter().find(|plugin| plugin.name.as_str() == "my").unwrap();
    assert_eq!(my.digest[..12], row[3]);
    assert_eq!(my.size.to_string(), row[4]);

    let shown = done(&world.shunt("plugin show my"));
    assert_eq!(columns(&shown, "calls")[1], "4,");
    assert_eq!(columns(&shown, "2")[1..3], ["current", "0.2"]);
    assert_eq!(columns(&shown, "1")[1..3], ["kept", "0.1"]);
    assert_eq!(columns(&shown, "memory"), ["memory", "16777216", "bytes"]);
    assert_eq!(columns(&shown, "compile_time"), ["compile_time", "5000", "ms"]);
    assert!(shown.contains(" upload my@2: "), "{shown}");

    failed(&world.shunt("plugin remove my"), SERVICE);
    let said = done(&world.shunt("plugin rollback my"));
    assert!(said.starts_with("my@1 (") && said.ends_with("; 1 service uses it\n"), "{said}");
    failed(&world.shunt("plugin rollback my --to 9"), "there is no my@9");
    done(&world.shunt("plugin remove my@2"));
    let shown: PluginShowView =
        serde_json::from_str(&done(&world.shunt("plugin show my --json"))).unwrap();
    let versions = shown.plugin.versions.iter().map(|version| (version.version, version.state));
    assert_eq!(versions.collect::<Vec<_>>(), [(1, VersionState::Current)]);
    done(&world.shunt(&format!("service set {SERVICE} --scheduler rr")));
    done(&world.shunt("plugin remove my"));
    failed(&world.shunt("plugin show my"), "there is no plugin my; there are ");
    assert_eq!(done(&world.shunt("plugin list")).lines().count(), before.lines().count());
}

#[test]
fn a_scheduler_that_cannot_be_had_changes_nothing() {
    let world = World::new();
    upload(&world, "my.wat", PLUGIN);
    let before = world.services();
    let set = |words: &str| world.shunt(&format!("service set {SERVICE} {words}"));
    failed(&set("--scheduler mine"), "there is no plugin mine; there are ");
    failed(&set("--scheduler my@2"), "there is no my@2; my has my@1");
    failed(&set("--scheduler rr@1"), "there is no rr@1");
    failed(&set("--scheduler my --param server=1"), "takes no parameters");
    failed(&set("--param a=1 --param b=2 --param a=3"), "the parameter a is given twice");
    assert_eq!(world.services(), before);
    done(&set("--no-params"));
    done(&set("--scheduler my@1 --no-params"));
    assert_eq!(world.service().scheduler.to_string(), "my@1");
}

#[test]
fn check_says_what_the_schedulers_would_say_at_the_start() {
    let world = World::new();
    upload(&world, "my.wat", PLUGIN);
    let version = done(&world.shunt("plugin show my --json"));
    let version: PluginShowView = serde_json::from_str(&version).unwrap();
    let path = world.folder.join("director.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let check = |scheduler: &str| {
        let path = file(&world, "other.toml", &config.replace("\"rr\"", scheduler));
        run(&["check", "--config", path.to_str().unwrap()])
    };
    assert!(done(&check("\"my@1\"")).ends_with("other.toml: ok\n"));
    failed(&check("\"my@2\""), "other.toml:9:13: there is no my@2; my has my@1");
    let with_params = "\nscheduler_params = { server = 1 }";
    for (scheduler, plugin) in [("\"my\"", "my"), ("\"lc\"", "lc")] {
        let said = format!("other.toml: virtual service {SERVICE}: plugin {plugin}: it takes no");
        failed(&check(&(scheduler.to_owned() + with_params)), &said);
    }
    let stored = format!("state/plugins/{}.wasm", version.plugin.digest);
    std::fs::write(world.folder.join(stored), "").unwrap();
    failed(&check("\"my\""), "is damaged");
}

#[test]
fn a_director_that_has_keys_takes_what_is_signed_with_them() {
    let section = format!("\n[plugins]\nsignature_keys = [\"{KEY}\"]\n[[interface]]");
    let world = World::with(&CONFIG.replacen("\n[[interface]]", &section, 1));
    let path = file(&world, "my.wat", PLUGIN);
    let plain = format!("plugin upload {}", path.display());
    failed(&world.shunt(&plain), "this director takes signed plugins only");
    let signature = file(&world, "signature", SIGNATURE);
    let signed = format!("{plain} --signature {}", signature.display());
    assert!(done(&world.shunt(&signed)).starts_with("my@1 "));
    // Beside the file it is found; of another file it is none.
    file(&world, "my.wat.minisig", SIGNATURE);
    assert!(done(&world.shunt(&plain)).ends_with("nothing has changed\n"));
    file(&world, "my.wat", &labelled("0.2"));
    failed(&world.shunt(&plain), "the signature is not this file's");
}
