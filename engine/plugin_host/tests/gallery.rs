//! Bad plugins, and what becomes of their calls: the shared gallery, and what needs more than one
//! file. The host, the thread and the other plugins stay usable after each of them.

mod common;
#[path = "../../../tests/gallery/mod.rs"]
mod gallery;

use common::*;
use dataplane::{Candidate, Failure, Scheduler};
use gallery::{Answer, Call, Exhibit, gallery};
use plugin_host::{Error, Limits, Params, Plugin, PluginHost};

/// More calls than any of the gallery works for.
const CALLS: usize = 10_100;

/// Asks about a flow and judges the answer as the dataplane does, which knows the weights.
fn ask(scheduler: &mut dyn Scheduler, servers: &[Candidate]) -> Result<usize, Failure> {
    match scheduler.choose(&FLOW, 0) {
        Ok(slot) if servers[slot].weight == 0 => Err(Failure::Unavailable),
        answer => answer,
    }
}

/// What a plugin that loads gets for an answer, over three servers of which one is drained.
fn behaviour(plugin: &Plugin) -> Answer {
    let key = Params::from([("key".to_owned(), "value".to_owned())]);
    let servers = candidates(&[1, 0, 1]);
    let fresh = || plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    let fails = |reason: Failure, call| Answer::Fails { reason: reason.name().to_owned(), call };
    if plugin.takes_params() {
        let Err(Error::Params { reason, .. }) = plugin.check_params(&key) else {
            panic!("it takes parameters")
        };
        return Answer::RefusesParameters(reason.into());
    }
    let mut scheduler = fresh();
    for first_weight in [1, 7, 1] {
        if let Err(reason) = scheduler.servers_changed(&candidates(&[first_weight, 0, 1]), 0)
            && reason != Failure::OutOfRange
        {
            return fails(reason, Call::Update);
        }
    }
    for call in 0..CALLS {
        if let Err(reason) = ask(&mut *scheduler, &servers) {
            let again = ask(&mut *scheduler, &servers);
            assert_eq!(again, Err(reason), "call {call} and the next one differ");
            return fails(reason, Call::Schedule);
        }
    }
    if plugin.keeps_state() {
        let Some(state) = scheduler.save(0) else { return Answer::StartsFresh };
        return match fresh().restore(state, 0) {
            Ok(true) => Answer::Works,
            Ok(false) => Answer::StartsFresh,
            Err(reason) => fails(reason, Call::Restore),
        };
    }
    Answer::Works
}

/// How the answer to a plugin differs from the documented one, if it does.
fn difference(host: &PluginHost, exhibit: &Exhibit) -> Option<String> {
    let Exhibit { name, file, answer } = exhibit;
    let given = match host.load(name, file) {
        Ok(plugin) => behaviour(&plugin),
        Err(Error::Refused { refusal, .. }) => Answer::Refused(refusal.to_string().into()),
        Err(other) => panic!("{name}: {other}"),
    };
    (!answer.allows(&given))
        .then(|| format!("{name}: plugins/ABI.md says {answer:?}\n    and it is {given:?}"))
}

fn assert_others_work(host: &PluginHost) {
    let mut rr = host.stock("rr").unwrap().scheduler(ALONE, &Params::new()).unwrap().0;
    rr.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    let choices: Vec<_> = (0..4).map(|_| rr.choose(&FLOW, 0)).collect();
    assert_eq!(choices, [Ok(0), Ok(1), Ok(0), Ok(1)]);
}

#[test]
fn each_bad_plugin_gets_its_documented_answer() {
    let host = host();
    let differences: Vec<String> = gallery()
        .iter()
        .filter_map(|exhibit| {
            let difference = difference(&host, exhibit);
            assert_others_work(&host);
            difference
        })
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Asks a fresh instance over three servers.
fn answer(wasm: &[u8]) -> Result<usize, Failure> {
    let mut scheduler = scheduler(wasm);
    scheduler.servers_changed(&candidates(&[1, 1, 1]), 0).unwrap();
    let answer = scheduler.choose(&FLOW, 0);
    assert_eq!(answer, scheduler.choose(&FLOW, 0), "the second call differs from the first");
    answer
}

#[test]
fn a_plugin_that_keeps_the_contract() {
    assert_eq!(answer(&schedule("(i32.const 2)")), Ok(2));
}

#[test]
fn answers_that_are_no_slot_are_out_of_range() {
    for slot in [-5, -2, i32::MIN, 3, 999_999, i32::MAX] {
        let wasm = schedule(&format!("(i32.const {slot})"));
        assert_eq!(answer(&wasm), Err(Failure::OutOfRange), "{slot}");
    }
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
        assert_others_work(&host);
    });
    thread.unwrap().join().unwrap();
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
