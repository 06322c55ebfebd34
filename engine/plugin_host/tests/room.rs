//! What an instance takes of the address space. Alone in its file: it counts what the whole process
//! has.

mod common;

use common::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use plugin_host::{Error, Params, Plugin};
use std::fs;

/// Maps, and bytes of addresses, of this process.
fn taken() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: usize = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    (maps.lines().count(), kib << 10)
}

/// What each instance of this plugin takes, of many: maps, and bytes.
fn each(plugin: &Plugin) -> (f64, f64) {
    const MANY: usize = 400;
    let before = taken();
    let instances: Vec<_> =
        (0..MANY).map(|_| plugin.instantiate(ALONE, &Params::new()).unwrap()).collect();
    let after = taken();
    drop(instances);
    let each = |before: usize, after: usize| (after - before) as f64 / MANY as f64;
    (each(before.0, after.0), each(before.1, after.1))
}

#[test]
fn the_room_that_an_instance_takes() {
    let host = host();
    let log = r#"(import "shunt" "log" (func (param i32 i32)))"#;
    let large = module(&[
        log,
        r#"(memory (export "memory") 256)"#,
        TABLE,
        ABI_VERSION,
        INIT,
        SCHEDULE,
        "(table 16384 funcref)",
    ]);
    let plugins = [host.stock("rr").unwrap(), host.load("large", &large).unwrap()];
    for plugin in plugins {
        let (maps, bytes) = each(&plugin);
        println!("{}: {maps} maps, {:.4} GiB", plugin.name(), bytes / f64::from(1 << 30));
        // As src/room.rs has it, and not much less.
        assert!((2.0..=3.02).contains(&maps), "{}: {maps} maps", plugin.name());
        let gib = bytes / f64::from(1 << 30);
        assert!((4.0..=4.0 + 72.0 / 1024.0).contains(&gib), "{}: {gib} GiB", plugin.name());
    }

    host.room_for(100).unwrap();
    let error = host.room_for(1_000_000).unwrap_err().to_string();
    assert!(error.starts_with("there is no room for all instances: 1000000 instances"), "{error}");
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, 64 << 30, hard).unwrap();
    host.room_for(10).unwrap();
    let error = host.room_for(17).unwrap_err();
    assert!(matches!(error, Error::NoRoom { .. }));
    assert!(error.to_string().contains("RLIMIT_AS is 64 GiB"), "{error}");
}
