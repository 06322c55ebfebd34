//! What a plugin may import: a log, the time, random numbers.

mod common;

use allocation_counter::measure;
use common::*;
use dataplane::{Failure, Scheduler};
use plugin_host::{Limits, Log, Params, Placement, PluginHost};
use std::collections::HashSet;

const LOG: &str = r#"(import "shunt" "log" (func $log (param i32 i32)))"#;
const NOW: &str = r#"(import "shunt" "now_ms" (func $now (result i64)))"#;
const RANDOM: &str = r#"(import "shunt" "random" (func $random (result i64)))"#;

/// A plugin with all imports whose `shunt_schedule` has this body.
fn importing(body: &str) -> Vec<u8> {
    let schedule = format!(r#"(func (export "shunt_schedule") (result i32) {body})"#);
    let text = r#"(data (i32.const 1024) "Hello, world\n")"#;
    module(&[LOG, NOW, RANDOM, MEMORY, TABLE, text, ABI_VERSION, INIT, &schedule])
}

/// An instance over 1024 servers, and what it says.
fn talking(wasm: &[u8]) -> (Box<dyn Scheduler>, Log) {
    let prepared = load(wasm).instantiate(ALONE, &Params::new()).unwrap();
    let mut scheduler = prepared.instance.into_scheduler();
    scheduler.servers_changed(&candidates(&[1; 1024]), 0).unwrap();
    (scheduler, prepared.log)
}

#[test]
fn a_plugin_says_what_it_imports() {
    assert_eq!(load(&importing("(i32.const 0)")).imports(), ["log", "now_ms", "random"]);
    assert!(host().stock("rr").unwrap().imports().is_empty());
}

#[test]
fn the_time_is_that_of_the_turn() {
    let body = "(i32.wrap_i64 (i64.rem_u (call $now) (i64.const 1000)))";
    let (mut scheduler, _) = talking(&importing(body));
    for now in [0, 7, 7, 999, 123_456] {
        assert_eq!(scheduler.choose(&FLOW, now), Ok(now as usize % 1000));
    }
}

#[test]
fn random_numbers_follow_from_seed_and_worker() {
    let body = "(i32.and (i32.wrap_i64 (call $random)) (i32.const 1023))";
    let plugin = load(&importing(body));
    let draws = |worker, seed| -> Vec<usize> {
        let placement = Placement { worker, workers: 2, seed };
        let (mut scheduler, _) = plugin.scheduler(placement, &Params::new()).unwrap();
        scheduler.servers_changed(&candidates(&[1; 1024]), 0).unwrap();
        (0..200).map(|_| scheduler.choose(&FLOW, 0).unwrap()).collect()
    };
    let first = draws(0, 1);
    assert_eq!(first, draws(0, 1));
    assert_ne!(first, draws(1, 1));
    assert_ne!(first, draws(0, 2));
    let distinct: HashSet<_> = first.iter().collect();
    assert!(distinct.len() > 150, "{distinct:?}");
}

#[test]
fn lines_arrive_with_their_time() {
    let body = "(call $log (i32.const 1024) (i32.const 13)) (i32.const 0)";
    let (mut scheduler, mut log) = talking(&importing(body));
    for now in [5000, 5001, 6500] {
        scheduler.choose(&FLOW, now).unwrap();
    }
    let lines: Vec<_> = log.read().into_iter().map(|line| (line.now, line.text)).collect();
    assert_eq!(lines, [5000, 5001, 6500].map(|now| (now, "Hello, world ".to_owned())));
    assert!(log.read().is_empty());
    for _ in 0..100 {
        scheduler.choose(&FLOW, 9000).unwrap();
    }
    assert_eq!((log.read().len(), log.lost()), (10, 90));
}

#[test]
fn a_plugin_that_cannot_say_anything_has_a_silent_log() {
    let prepared = host().stock("rr").unwrap().instantiate(ALONE, &Params::new()).unwrap();
    let mut log = prepared.log;
    assert!(log.read().is_empty());
    assert_eq!(log.lost(), 0);
}

#[test]
fn a_line_beyond_the_memory_traps() {
    for (address, length) in [(65_536, 1), (65_530, 7), (0, -1), (-1, 1), (-1, -1)] {
        let body = format!("(call $log (i32.const {address}) (i32.const {length})) (i32.const 0)");
        let (mut scheduler, mut log) = talking(&importing(&body));
        assert_eq!(scheduler.choose(&FLOW, 0), Err(Failure::Trap), "{address}, {length}");
        assert!(log.read().is_empty());
    }
    // Nothing at the very end is a line, too.
    let body = "(call $log (i32.const 65536) (i32.const 0)) (i32.const 0)";
    let (mut scheduler, mut log) = talking(&importing(body));
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
    assert_eq!(log.read().len(), 1);
}

#[test]
fn imports_work_before_there_is_a_worker() {
    let start = r#"
        (func $start (call $log (i32.const 1024) (i32.const 5)))
        (start $start)
        (func (export "shunt_init") (param i32 i32 i64) (result i32)
          (call $log (i32.const 1031) (i32.const 5))
          (i64.store (i32.const 2048) (call $now))
          (drop (call $random))
          (i32.const 64))
        (func (export "shunt_schedule") (result i32) (i32.load (i32.const 2048)))"#;
    let text = r#"(data (i32.const 1024) "Hello, world\n")"#;
    let wasm = module(&[LOG, NOW, RANDOM, MEMORY, TABLE, text, ABI_VERSION, start]);
    let (mut scheduler, mut log) = talking(&wasm);
    let lines: Vec<_> = log.read().into_iter().map(|line| (line.now, line.text)).collect();
    assert_eq!(lines, [(0, "Hello".to_owned()), (0, "world".to_owned())]);
    assert_eq!(scheduler.choose(&FLOW, 5), Ok(0));
}

/// The host's part of a call costs fuel, too, or it would be without a limit.
#[test]
fn a_plugin_that_only_calls_imports_runs_out_of_fuel() {
    for call in ["(call $log (i32.const 0) (i32.const 65536))", "(drop (call $random))"] {
        let body = format!("(loop {call} (br 0)) (unreachable)");
        let (mut scheduler, _) = talking(&importing(&body));
        assert_eq!(scheduler.choose(&FLOW, 0), Err(Failure::OutOfFuel), "{call}");
    }
    let calls = |count| {
        format!(
            "(local $left i32) (local.set $left (i32.const {count}))
             (loop
               (call $log (i32.const 0) (i32.const 100))
               (local.set $left (i32.sub (local.get $left) (i32.const 1)))
               (br_if 0 (local.get $left)))
             (i32.const 0)"
        )
    };
    assert_eq!(talking(&importing(&calls(400))).0.choose(&FLOW, 0), Ok(0));
    assert_eq!(talking(&importing(&calls(500))).0.choose(&FLOW, 0), Err(Failure::OutOfFuel));
}

#[test]
fn imports_allocate_nothing() {
    let body = "(call $log (i32.const 1024) (i32.const 13))
                (i32.and (i32.wrap_i64 (i64.add (call $random) (call $now))) (i32.const 1023))";
    let (mut scheduler, mut log) = talking(&importing(body));
    let info = measure(|| {
        for now in 0..2000 {
            scheduler.choose(&FLOW, now).unwrap();
        }
    });
    assert_eq!((info.count_total, info.count_current), (0, 0));
    assert_eq!(log.read().len(), 20);
    assert_eq!(log.lost(), 1980);
}

#[test]
fn other_imports_are_refused() {
    let refusal = |import: &str| {
        let wasm = module(&[import, MEMORY, TABLE, ABI_VERSION, INIT, SCHEDULE]);
        host().load("test", &wasm).unwrap_err().to_string()
    };
    assert_eq!(
        refusal(r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32)))"#),
        "plugin test: it imports fd_write from wasi_snapshot_preview1 and there are only log, \
         now_ms and random from shunt: remove it, and build without WASI"
    );
    assert!(refusal(r#"(import "shunt" "sleep" (func))"#).contains("it imports sleep from shunt"));
    assert!(refusal(r#"(import "env" "log" (func (param i32 i32)))"#).contains("log from env"));
    assert_eq!(
        refusal(r#"(import "shunt" "log" (func (param i32)))"#),
        "plugin test: its import log is (func (param i32)): make it (i32, i32) -> () (there are \
         log: (i32, i32) -> (), now_ms: () -> i64 and random: () -> i64)"
    );
    assert!(refusal(r#"(import "shunt" "random" (global i64))"#).contains("random is a global"));
    assert!(refusal(r#"(import "shunt" "now_ms" (memory 1))"#).contains("now_ms is a memory"));
    // All of the imports are looked at, not the first alone.
    let second = r#"(import "shunt" "random" (func (result i64))) (import "a" "b" (func))"#;
    assert!(refusal(second).contains("it imports b from a"));
}

/// A plugin imports a function and exports it again: the export is what it is.
#[test]
fn an_import_that_is_exported_again() {
    let export = r#"(export "shunt_schedule" (func $now))"#;
    let wasm = module(&[NOW, MEMORY, TABLE, ABI_VERSION, INIT, export]);
    let error = host().load("test", &wasm).unwrap_err().to_string();
    assert!(error.contains("its export shunt_schedule is (func (result i64))"), "{error}");
}

#[test]
fn limits_bound_what_a_line_in_init_may_cost() {
    let init = r#"(func (export "shunt_init") (param i32 i32 i64) (result i32)
                    (loop (call $log (i32.const 0) (i32.const 9)) (br 0)) (unreachable))"#;
    let wasm = module(&[LOG, MEMORY, TABLE, ABI_VERSION, init, SCHEDULE]);
    let limits = Limits { init_fuel: 100_000, ..Limits::default() };
    let error = PluginHost::new(limits).unwrap().load("test", &wasm).unwrap_err();
    assert!(error.to_string().contains("shunt_init did not end within its 100000 units of fuel"));
}
