//! Bad plugins that load, and what becomes of their calls. The instance, the worker and the
//! other plugins stay usable after each of them.

mod common;

use common::*;
use dataplane::Failure;
use plugin_host::{Limits, Params, PluginHost};

/// Asks a fresh instance over three servers, then checks that the same thread can call others.
fn answer(wasm: &[u8]) -> Result<usize, Failure> {
    let mut scheduler = scheduler(wasm);
    scheduler.servers_changed(&candidates(&[1, 1, 1]), 0).unwrap();
    let answer = scheduler.choose(&FLOW, 0);
    assert_eq!(answer, scheduler.choose(&FLOW, 0), "the second call differs from the first");
    assert_others_work();
    answer
}

fn assert_others_work() {
    let mut rr = host().stock("rr").unwrap().scheduler(ALONE, &Params::new()).unwrap().0;
    rr.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    let choices: Vec<_> = (0..4).map(|_| rr.choose(&FLOW, 0)).collect();
    assert_eq!(choices, [Ok(0), Ok(1), Ok(0), Ok(1)]);
}

#[test]
fn a_plugin_that_keeps_the_contract() {
    assert_eq!(answer(&schedule("(i32.const 2)")), Ok(2));
}

#[test]
fn an_infinite_loop_in_schedule_runs_out_of_fuel() {
    assert_eq!(answer(&schedule("(loop (br 0)) (unreachable)")), Err(Failure::OutOfFuel));
}

#[test]
fn an_infinite_loop_in_update_runs_out_of_fuel_and_schedule_still_answers() {
    let mut scheduler =
        scheduler(&plugin(&format!(r#"{SCHEDULE} (func (export "shunt_update") (loop (br 0)))"#)));
    let servers = candidates(&[1]);
    assert_eq!(scheduler.servers_changed(&servers, 0), Err(Failure::OutOfFuel));
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
    assert_eq!(scheduler.servers_changed(&servers, 0), Err(Failure::OutOfFuel));
    assert_others_work();
}

#[test]
fn unreachable_traps() {
    assert_eq!(answer(&schedule("(unreachable)")), Err(Failure::Trap));
}

#[test]
fn unreachable_in_update_traps() {
    let mut scheduler =
        scheduler(&plugin(&format!(r#"{SCHEDULE} (func (export "shunt_update") (unreachable))"#)));
    assert_eq!(scheduler.servers_changed(&candidates(&[1]), 0), Err(Failure::Trap));
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
}

#[test]
fn reading_and_writing_out_of_bounds_traps() {
    let read = "(i32.load (i32.const -4))";
    let write = "(i32.store (i32.const 65536) (i32.const 1)) (i32.const 0)";
    let copy = "(memory.fill (i32.const 0) (i32.const 0) (i32.const 65537)) (i32.const 0)";
    for body in [read, write, copy] {
        assert_eq!(answer(&schedule(body)), Err(Failure::Trap), "{body}");
    }
}

#[test]
fn dividing_by_zero_traps() {
    let body = "(i32.rem_u (i32.const 7) (i32.const 0))";
    assert_eq!(answer(&schedule(body)), Err(Failure::Trap));
}

/// A function that calls itself with no end, with fuel for more frames than the stack has.
fn deep_recursion() -> (PluginHost, Vec<u8>) {
    let wasm = plugin(
        r#"(func $deeper (param i64 i64 i64 i64) (result i64)
             (i64.add (local.get 0)
               (call $deeper (local.get 1) (local.get 2) (local.get 3) (local.get 0))))
           (func (export "shunt_schedule") (result i32)
             (i32.wrap_i64 (call $deeper (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))))"#,
    );
    let limits = Limits { schedule_fuel: u64::MAX / 2, ..Limits::default() };
    (PluginHost::new(limits).unwrap(), wasm)
}

#[test]
fn deep_recursion_traps_even_on_a_small_stack() {
    let (host, wasm) = deep_recursion();
    let plugin = host.load("test", &wasm).unwrap();
    let (mut scheduler, _) = plugin.scheduler(ALONE, &Params::new()).unwrap();
    // Half of what a thread has by default; the limit on the plugin's stack is a quarter of it.
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
        plugin_host::prepare_worker_thread();
        scheduler.servers_changed(&candidates(&[1]), 0).unwrap();
        for _ in 0..3 {
            assert_eq!(scheduler.choose(&FLOW, 0), Err(Failure::Trap));
        }
        assert_others_work();
    });
    thread.unwrap().join().unwrap();
}

#[test]
fn memory_does_not_grow_after_the_start() {
    // `memory.grow` answers -1 instead of the former size.
    assert_eq!(answer(&schedule("(memory.grow (i32.const 1))")), Err(Failure::Declined));
    let size = schedule("(drop (memory.grow (i32.const 1))) (i32.sub (memory.size) (i32.const 1))");
    assert_eq!(answer(&size), Ok(0));
}

#[test]
fn memory_grows_in_init_up_to_the_limit() {
    let growing = |pages: u32| {
        module(&[
            MEMORY,
            TABLE,
            ABI_VERSION,
            r#"(global $grown (mut i32) (i32.const 0))"#,
            &format!(
                r#"(func (export "shunt_init") (param i32 i32 i64) (result i32)
                     (global.set $grown (memory.grow (i32.const {pages}))) (i32.const 64))"#
            ),
            r#"(func (export "shunt_schedule") (result i32) (global.get $grown))"#,
        ])
    };
    // 16 MiB are 256 pages, and one is there from the start.
    assert_eq!(answer(&growing(1)), Ok(1));
    assert_eq!(answer(&growing(255)), Ok(1));
    assert_eq!(answer(&growing(256)), Err(Failure::Declined));
}

#[test]
fn tables_do_not_grow_after_the_start() {
    let wasm = plugin(
        r#"(table 1 funcref)
           (func (export "shunt_schedule") (result i32)
             (table.grow 0 (ref.null func) (i32.const 1)))"#,
    );
    assert_eq!(answer(&wasm), Err(Failure::Declined));
}

#[test]
fn minus_one_declines() {
    assert_eq!(answer(&schedule("(i32.const -1)")), Err(Failure::Declined));
}

#[test]
fn answers_that_are_no_slot_are_out_of_range() {
    for slot in [-5, -2, i32::MIN, 3, 999_999, i32::MAX] {
        let wasm = schedule(&format!("(i32.const {slot})"));
        assert_eq!(answer(&wasm), Err(Failure::OutOfRange), "{slot}");
    }
}

/// The dataplane knows the weights and refuses it, as `unavailable`.
#[test]
fn the_slot_of_a_drained_server_is_passed_on() {
    let mut scheduler = scheduler(&schedule("(i32.const 1)"));
    scheduler.servers_changed(&candidates(&[1, 0]), 0).unwrap();
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(1));
}

#[test]
fn a_plugin_that_goes_bad_after_10000_calls() {
    let mut scheduler = scheduler(&plugin(
        r#"(global $calls (mut i32) (i32.const 0))
           (func (export "shunt_schedule") (result i32)
             (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
             (if (i32.gt_u (global.get $calls) (i32.const 10000)) (then (unreachable)))
             (i32.const 0))"#,
    ));
    scheduler.servers_changed(&candidates(&[1]), 0).unwrap();
    for call in 1..=10_002 {
        let expected = if call <= 10_000 { Ok(0) } else { Err(Failure::Trap) };
        assert_eq!(scheduler.choose(&FLOW, 0), expected, "call {call}");
    }
}

#[test]
fn fuel_is_set_anew_for_each_call() {
    // One call takes most of the fuel: 6 units a turn.
    let mut scheduler = scheduler(&schedule(
        "(local $left i32) (local.set $left (i32.const 12000))
         (loop
           (local.set $left (i32.sub (local.get $left) (i32.const 1)))
           (br_if 0 (local.get $left)))
         (i32.const 0)",
    ));
    scheduler.servers_changed(&candidates(&[1]), 0).unwrap();
    for _ in 0..10 {
        assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
    }
}

#[test]
fn more_servers_than_the_plugin_has_slots_for() {
    let table = words(64, &[1, 0, 2, 4096]);
    let mut scheduler = scheduler(&module(&[MEMORY, &table, ABI_VERSION, INIT, SCHEDULE]));
    scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
    assert_eq!(scheduler.servers_changed(&candidates(&[1, 1, 1]), 0), Err(Failure::OutOfRange));
    assert_eq!(scheduler.choose(&FLOW, 0), Err(Failure::OutOfRange));
    scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
}

/// A plugin may write over the table as much as it likes: it hurts nobody else.
#[test]
fn a_plugin_that_overwrites_its_table() {
    let mut scheduler = scheduler(&schedule(
        "(memory.fill (i32.const 0) (i32.const 255) (i32.const 65536)) (i32.const 2)",
    ));
    for weights in [&[1, 1, 1][..], &[1; 1024], &[1, 1, 1]] {
        scheduler.servers_changed(&candidates(weights), 0).unwrap();
        assert_eq!(scheduler.choose(&FLOW, 0), Ok(2));
    }
}
