//! A newcomer's scheduler, from nothing to serving, by the commands that README shows. Builds for
//! wasm32, so it runs with the feature `ci`.

mod common;

use common::{PATIENCE, shunt};
use director::demo::OWN_SCHEDULER;
use director::plugin_views::PluginShowView;
use lab::{MachineLock, Process, TempDir, run};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Time for the demo to be up, in a debug build on a busy machine.
const UP: Duration = Duration::from_secs(60);

/// Runs a command line as a shell does where `shunt` is this build, in `folder`.
fn shell(folder: &Path, line: &str) -> String {
    let program = Path::new(shunt()).parent().unwrap().display().to_string();
    let path = format!("{program}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-ec", line]).current_dir(folder).env("PATH", path);
    // As in a terminal, not as in the middle of another build.
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO") && name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    run(&mut command).unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn five_commands_lead_to_a_scheduler_of_ones_own() {
    let readme = include_str!("../README.md");
    for command in OWN_SCHEDULER {
        assert!(readme.lines().any(|line| line == command), "README does not show {command}");
    }
    let _lock = MachineLock::acquire().unwrap();
    let mut demo = Command::new(shunt());
    demo.args(["demo", "--hold"]);
    let demo = Process::start(demo).unwrap();
    demo.wait_until(UP, "the demo is held", || demo.output().contains("Up until Ctrl-C")).unwrap();
    let folder = TempDir::create("own-scheduler").unwrap();
    for command in OWN_SCHEDULER {
        println!("$ {command}\n{}", shell(folder.path(), command));
    }

    let output = demo.output();
    let ask = output.lines().find(|line| line.contains(" curl -s http://172.")).unwrap();
    let ask = ask.trim().trim_start_matches("$ ").to_owned();
    for _ in 0..20 {
        assert!(shell(folder.path(), &ask).starts_with("rs"), "{ask}");
    }
    let show = shell(folder.path(), "shunt plugin show mine --json --api /run/shunt-demo.sock");
    let show: PluginShowView = serde_json::from_str(&show).unwrap();
    let plugin = show.plugin;
    assert_eq!((plugin.version, plugin.services.len(), plugin.calls), (1, 1, 20));
    assert!(plugin.fallbacks.is_empty(), "{:?}", plugin.fallbacks);
    demo.signal(nix::sys::signal::Signal::SIGINT).unwrap();
    demo.wait(PATIENCE).unwrap();
    assert!(!Path::new("/run/shunt-demo.sock").is_symlink());
}
