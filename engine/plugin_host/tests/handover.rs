//! State that an instance hands to the one that takes its place, and the list of changes.

mod common;

use allocation_counter::measure;
use common::*;
use dataplane::{Failure, Load, Scheduler};
use nix::sys::resource::{UsageWho, getrusage};
use plugin_host::{Dump, Params, Placement, Plugin, STOCK};
use proptest::prelude::*;
use std::sync::OnceLock;

/// A plugin with 8 bytes of state at 256, of which the last four count its flows, and whose answer
/// is how many flows there were. It takes over state of format 1 only.
fn counting(save: &str) -> Vec<u8> {
    let room = words(112, &[256, 8]);
    let functions = format!(
        r#"(func (export "shunt_schedule") (result i32)
             (i32.store (i32.const 260) (i32.add (i32.load (i32.const 260)) (i32.const 1)))
             (i32.load (i32.const 260)))
           (func (export "shunt_save") (result i32) {save})
           (func (export "shunt_restore") (param $length i32) (result i32)
             (if (i32.eq (i32.load (i32.const 256)) (i32.const 1))
               (then (return (i32.ne (local.get $length) (i32.const 8)))))
             (i32.store (i32.const 260) (i32.const 0))
             (i32.const 1))"#
    );
    module(&[MEMORY, TABLE, &room, ABI_VERSION, INIT, &functions])
}

const SAVE: &str = "(i32.store (i32.const 256) (i32.const 1)) (i32.const 8)";

fn instance(plugin: &Plugin) -> Box<dyn Scheduler> {
    let mut scheduler = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    scheduler.servers_changed(&candidates(&[1; 64]), 0).unwrap();
    scheduler
}

#[test]
fn state_goes_from_instance_to_instance() {
    let plugin = load(&counting(SAVE));
    assert!(plugin.keeps_state());
    let (mut one, mut other) = (instance(&plugin), instance(&plugin));
    for flow in 1..=20 {
        assert_eq!(one.choose(&FLOW, 0), Ok(flow));
    }
    assert_eq!(one.save(0), Some(&[1, 0, 0, 0, 20, 0, 0, 0][..]));
    let info = measure(|| {
        let state = one.save(0).unwrap();
        assert_eq!(other.restore(state, 0), Ok(true));
    });
    assert_eq!((info.count_total, info.count_current), (0, 0), "a handover allocates nothing");
    assert_eq!(other.choose(&FLOW, 0), Ok(21));
    assert_eq!(one.choose(&FLOW, 0), Ok(21), "the former is as it was");
}

/// Also the memory that state is copied to, which no call of a plugin has written yet.
#[test]
fn a_handover_finds_its_memory_in_place() {
    // 4096 bytes of state at 32768, all of which it reads.
    let room = words(112, &[32_768, 4096]);
    let functions = format!(
        r#"{SCHEDULE}
           (func (export "shunt_save") (result i32)
             (memory.fill (i32.const 32768) (i32.const 1) (i32.const 4096)) (i32.const 4096))
           (func (export "shunt_restore") (param i32) (result i32)
             (memory.copy (i32.const 49152) (i32.const 32768) (local.get 0)) (i32.const 0))"#
    );
    let plugin = load(&module(&[MEMORY, TABLE, &room, ABI_VERSION, INIT, &functions]));
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults();
    plugin_host::prepare_worker_thread();
    let mut state = vec![1; 4096];
    let mut found: Vec<_> = (0..15)
        .map(|_| {
            let (mut one, mut other) = (instance(&plugin), instance(&plugin));
            let before = faults();
            state.copy_from_slice(one.save(0).unwrap());
            assert_eq!(other.restore(&state, 0), Ok(true));
            faults() - before
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found[7], 0, "{found:?}");
}

#[test]
fn state_of_another_format_is_left() {
    let plugin = load(&counting("(i32.store (i32.const 256) (i32.const 2)) (i32.const 8)"));
    let (mut one, mut other) = (instance(&plugin), instance(&plugin));
    one.choose(&FLOW, 0).unwrap();
    let state = one.save(0).unwrap();
    assert_eq!(other.restore(state, 0), Ok(false));
    assert_eq!(other.choose(&FLOW, 0), Ok(1));
}

#[test]
fn nothing_is_saved_that_is_not_there() {
    for answer in [0, -1, i32::MIN, 9, i32::MAX] {
        let plugin = load(&counting(&format!("(i32.const {answer})")));
        assert_eq!(instance(&plugin).save(0), None, "{answer}");
    }
    for bad in ["(unreachable)", "(loop (br 0)) (unreachable)"] {
        let mut scheduler = instance(&load(&counting(bad)));
        assert_eq!(scheduler.save(0), None);
        let dump = Dump::of(dataplane::Instance::new(scheduler)).unwrap();
        assert_eq!(dump.call.function, "shunt_save");
    }
}

#[test]
fn more_state_than_there_is_room_for_is_left() {
    let mut scheduler = instance(&load(&counting(SAVE)));
    assert_eq!(scheduler.restore(&[1; 9], 0), Ok(false));
    assert_eq!(scheduler.restore(&[], 0), Ok(false));
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(1));
}

#[test]
fn a_plugin_without_room_or_functions_hands_nothing_over() {
    let without_room = format!(
        r#"{SCHEDULE} (func (export "shunt_save") (result i32) (unreachable))
           (func (export "shunt_restore") (param i32) (result i32) (unreachable))"#
    );
    let room = words(112, &[256, 8]);
    let without_functions = module(&[MEMORY, TABLE, &room, ABI_VERSION, INIT, SCHEDULE]);
    for wasm in [plugin(&without_room), without_functions] {
        let plugin = load(&wasm);
        assert!(!plugin.keeps_state());
        let mut scheduler = instance(&plugin);
        assert_eq!(scheduler.save(0), None);
        assert_eq!(scheduler.restore(&[1, 2, 3, 4], 0), Ok(false));
    }
    assert!(!host().stock("rr").unwrap().scheduler(ALONE, &Params::new()).unwrap().0.wants_load());
}

#[test]
fn a_restore_that_fails_is_told() {
    let room = words(112, &[256, 8]);
    for (body, failure) in
        [("(unreachable)", Failure::Trap), ("(loop (br 0)) (unreachable)", Failure::OutOfFuel)]
    {
        let restore = format!(
            r#"{SCHEDULE} (func (export "shunt_restore") (param i32) (result i32) {body})"#
        );
        let wasm = module(&[MEMORY, TABLE, &room, ABI_VERSION, INIT, &restore]);
        assert_eq!(instance(&load(&wasm)).restore(&[1, 2, 3, 4], 0), Err(failure));
    }
}

/// The list of changes at 2048, of a table with four slots. The answer is a word of it.
fn listing(word: u32) -> Box<dyn Scheduler> {
    let table = words(64, &[1, 0, 4, 4096]);
    let changes = words(120, &[2048]);
    let schedule = format!(
        r#"(func (export "shunt_schedule") (result i32)
             (i32.store (i32.const 8) (i32.load (i32.const {word}))) (i32.const 0))"#
    );
    let wasm = module(&[MEMORY, &table, &changes, ABI_VERSION, INIT, &schedule]);
    let plugin = load(&wasm);
    assert!(plugin.wants_load(), "who lists changes wants them");
    let placement = Placement { worker: 0, workers: 1, seed: 0 };
    plugin.scheduler(placement, &Params::new()).unwrap().0
}

/// What a plugin reads in this word of the list when it is called.
fn read(scheduler: &mut dyn Scheduler) -> u32 {
    scheduler.choose(&FLOW, 0).unwrap();
    let memory = plugin_host::memory_of(scheduler).unwrap();
    u32::from_le_bytes(memory[8..12].try_into().unwrap())
}

fn load_changed(scheduler: &mut dyn Scheduler, slot: usize, active: u32) {
    scheduler.load_changed(slot, Load { active, inactive: 0 });
}

const ALL: u32 = u32::MAX;

#[test]
fn changes_are_listed_and_forgotten_after_each_call() {
    let mut scheduler = listing(2048);
    let scheduler = &mut *scheduler;
    scheduler.servers_changed(&candidates(&[1; 4]), 0).unwrap();
    assert_eq!(read(scheduler), ALL, "after an update any may have changed");
    assert_eq!(read(scheduler), 0);
    load_changed(scheduler, 2, 1);
    load_changed(scheduler, 0, 1);
    assert_eq!(read(scheduler), 2);
    assert_eq!(read(scheduler), 0);
    load_changed(scheduler, 2, 1);
    assert_eq!(read(scheduler), 0, "what is as it was has not changed");
    for active in 1..=4 {
        load_changed(scheduler, 3, active);
    }
    assert_eq!(read(scheduler), 4);
    for active in 5..=20 {
        load_changed(scheduler, 3, active);
    }
    assert_eq!(read(scheduler), ALL, "the list is full");
    load_changed(scheduler, 3, 0);
    scheduler.servers_changed(&candidates(&[1; 3]), 0).unwrap();
    load_changed(scheduler, 0, 7);
    assert_eq!(read(scheduler), ALL);
    assert_eq!(read(scheduler), 0);
}

#[test]
fn the_list_has_the_slots() {
    let mut scheduler = listing(2052);
    let scheduler = &mut *scheduler;
    scheduler.servers_changed(&candidates(&[1; 4]), 0).unwrap();
    read(scheduler);
    load_changed(scheduler, 3, 1);
    load_changed(scheduler, 1, 1);
    assert_eq!(read(scheduler), 1 << 16 | 3);
    load_changed(scheduler, 2, 1);
    assert_eq!(read(scheduler) & 0xffff, 2);
}

/// What a plugin writes over its records stays until the host has something new to say.
#[test]
fn only_real_changes_are_written() {
    let table = words(64, &[1, 1, 4, 4096, 8192]);
    let schedule = r#"(func (export "shunt_schedule") (result i32)
        (i32.store (i32.const 4100) (i32.const 77))
        (f64.store (i32.const 8192) (f64.const 77))
        (i32.const 0))"#;
    let mut scheduler = scheduler(&module(&[MEMORY, &table, ABI_VERSION, INIT, schedule]));
    let words = |scheduler: &dyn Scheduler| {
        let memory = plugin_host::memory_of(scheduler).unwrap();
        let active = u32::from_le_bytes(memory[4100..4104].try_into().unwrap());
        (active, f64::from_le_bytes(memory[8192..8200].try_into().unwrap()))
    };
    scheduler.servers_changed(&candidates(&[1; 2]), 0).unwrap();
    scheduler.load_changed(0, Load { active: 5, inactive: 0 });
    assert_eq!(words(&*scheduler), (5, 5.0 * 256.0 * 1024.0));
    scheduler.choose(&FLOW, 0).unwrap();
    scheduler.load_changed(0, Load { active: 5, inactive: 0 });
    assert_eq!(words(&*scheduler), (77, 77.0));
    scheduler.load_changed(0, Load { active: 5, inactive: 1 });
    assert_eq!(words(&*scheduler), (5, (5.0 * 256.0 + 1.0) * 1024.0));
}

/// State may come from another version of a plugin, or from another plugin of the same name.
fn any_state() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 0..64);
    words.prop_map(|words| words.into_iter().flat_map(u32::to_le_bytes).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_state_ends_a_stock_plugin(states in prop::collection::vec(any_state(), 1..8)) {
        static STOCK_PLUGINS: OnceLock<Vec<Plugin>> = OnceLock::new();
        let plugins = STOCK_PLUGINS.get_or_init(|| {
            let plugins = STOCK.iter().map(|name| host().stock(name).unwrap());
            plugins.filter(Plugin::keeps_state).collect()
        });
        prop_assert!(!plugins.is_empty(), "none hands state over");
        for plugin in plugins {
            let mut scheduler = instance(plugin);
            for state in &states {
                let taken = scheduler.restore(state, 0);
                prop_assert!(taken.is_ok(), "{}: {taken:?}", plugin.name());
                for _ in 0..3 {
                    let choice = scheduler.choose(&FLOW, 0);
                    prop_assert!(choice.is_ok(), "{}: {choice:?}", plugin.name());
                }
            }
        }
    }
}
