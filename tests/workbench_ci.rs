//! From `shunt plugin new` to a plugin that passes, by the commands that it prints. Needs the
//! target wasm32-unknown-unknown.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a command in a folder and returns what it said.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    // What this test was built with is not the author's.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        let is_ours = ["CARGO_", "RUSTFLAGS", "RUSTC_", "RUSTDOCFLAGS"];
        if is_ours.iter().any(|prefix| name.starts_with(prefix)) && name != "CARGO_HOME" {
            command.env_remove(&variable);
        }
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}{complaints}");
    said
}

#[test]
fn a_new_plugin_builds_passes_and_is_measured() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("a new plugin");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    let shunt = env!("CARGO_BIN_EXE_shunt");
    let said = run(&folder, shunt, &["plugin", "new", "my-scheduler"]);
    let own = folder.join("my-scheduler");
    let build = "build --release --target wasm32-unknown-unknown";
    assert!(said.contains(&format!("cargo {build}\n")), "{said}");
    run(&own, "cargo", &format!("{build} --offline").split(' ').collect::<Vec<_>>());
    let file = "target/wasm32-unknown-unknown/release/my_scheduler.wasm";
    assert!(said.contains(&format!("shunt plugin check {file}\n")), "{said}");
    assert!(run(&own, shunt, &["plugin", "check", file]).contains("\npassed\n"));
    assert!(own.join(file).metadata().unwrap().len() < 8192, "it is small");
    // Drawn from the flow and the loads it is even, though not as even as turns are.
    let json = run(&own, shunt, &["plugin", "check", file, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    let evenness = report["figures"]["evenness"][0]["max_over_mean"].as_f64().unwrap();
    assert!(evenness < 1.1, "{json}");
    let table = run(&own, shunt, &["plugin", "bench", "lc", file, "--servers", "16,1024"]);
    assert!(table.contains("\n| my_scheduler | "), "{table}");
}
