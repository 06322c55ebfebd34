//! config/shunt.service: systemd has nothing against it, it gives few rights away, and with those
//! rights shunt does its work. Nor has it anything against the unit that `shunt rs setup` writes.
//! Needs systemd-analyze and setpriv, so it runs with the feature `ci`.

mod common;

use common::bare::{self, Bare};
use common::{Site, http, http_rr, shunt, wait_until_ready};
use lab::{Config, Director, Family, Plan, TempDir, get_once, run};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// What `systemd-analyze security` may say at most, in tenths: 0 has no rights, 100 has all. What
/// is left is what the work needs: the host's network, packet sockets, and root as owner of files.
const EXPOSURE_MAX: u32 = 35;

fn unit_file() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/shunt.service");
    std::fs::read_to_string(path).unwrap()
}

/// The file as it would be where shunt is installed beside the tests.
fn installed(directory: &TempDir) -> PathBuf {
    let text = unit_file();
    assert!(text.contains("ExecStart=/usr/local/bin/shunt run"));
    let here = text.replace("/usr/local/bin/shunt", shunt().to_str().unwrap());
    directory.write("shunt.service", here).unwrap()
}

fn systemd_analyze(words: &str, directory: &TempDir) -> String {
    let mut command = Command::new("systemd-analyze");
    run(command.args(words.split_whitespace()).arg(installed(directory))).unwrap()
}

#[test]
fn systemd_takes_the_unit_and_finds_few_rights_in_it() {
    let directory = TempDir::create("unit-file").unwrap();
    assert_eq!(systemd_analyze("verify --man=no --recursive-errors=no", &directory), "");
    // Fails above the threshold.
    let words = format!("security --offline=true --no-pager --threshold={EXPOSURE_MAX}");
    systemd_analyze(&words, &directory);
}

#[test]
fn systemd_takes_the_unit_of_a_real_server() {
    let bare = Bare::build(Plan::new("rs-unit").real_servers(1), "rs-unit");
    bare::add_dummy(bare.netns(1), "du-0.1");
    let unit = bare.files(1).path("/etc/systemd/system/shunt-rs.service");
    for place in ["--vip 172.17.100.100", "--vip 172.17.100.101 --interface du-0.1"] {
        bare.rs(1, &format!("setup --persist {place}")).well();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&unit);
        assert_eq!(bare::run(&mut command).well(), "");
    }
}

/// The capabilities of the unit, as setpriv(1) takes them.
fn capabilities() -> String {
    let text = unit_file();
    let line = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.unwrap().split(' ').map(|name| name.strip_prefix("CAP_").unwrap());
    names.map(|name| format!(",+{}", name.to_ascii_lowercase())).collect()
}

#[test]
fn the_rights_of_the_unit_are_enough() {
    let site = Site::build(Plan::new("unit"), &[Family::V4]);
    let address = format!("{}/32", lab::vip(Family::V4));
    site.topology.director.ip(&format!("address del {address} dev eth0")).unwrap();
    let mut config = Config::of(vec![http_rr(2)]);
    config.interface = "[interface.busy_poll]\nbudget = 64".to_owned();
    let script = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all{} {} \"$@\"\n",
        capabilities(),
        shunt().display()
    );
    let program = site.topology.files.write("confined", script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let director = Director::start(&site.topology, &program, &config).unwrap();
    wait_until_ready(&director, &config);
    // It is confined indeed.
    let status = std::fs::read_to_string(format!("/proc/{}/status", director.process().pid()));
    let effective = status
        .unwrap()
        .lines()
        .find_map(|line| Some(line.strip_prefix("CapEff:")?.trim().to_owned()));
    let effective = u64::from_str_radix(&effective.unwrap(), 16).unwrap();
    assert_eq!(effective.count_ones(), 6, "{effective:x}");

    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..4 {
        answered
            .insert(get_once(&site.topology.client, http(Family::V4), "/").unwrap().real_server);
    }
    assert_eq!(answered.len(), 2, "{answered:?}");
    assert!(site.topology.director.ip("address show dev eth0").unwrap().contains(&address));
    assert!(director.stop(common::PATIENCE).unwrap().success());
}
