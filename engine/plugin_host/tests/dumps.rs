//! Failed calls: dumped, written, read and called again.

mod common;

use common::*;
use dataplane::{Candidate, Failure, Instance, Load, Millis, NewFlow, Scheduler};
use plugin_host::{Dump, Error, Found, Method, Params, Plugin, Replay};
use proptest::prelude::*;

const RANDOM: &str = r#"(import "shunt" "random" (func $random (result i64)))"#;
const NOW: &str = r#"(import "shunt" "now_ms" (func $now (result i64)))"#;

/// A module with imports that wants the flow (at 128), loads, parameters (512 bytes at 512) and
/// state (256 bytes at 256).
fn wasm(fields: &str) -> Vec<u8> {
    let table = words(64, &[1, 1, 16, 4096, 0, 128]);
    let more = words(104, &[512, 512, 256, 256, 0, 0]);
    let configure = r#"(func (export "shunt_configure") (param i32) (result i32) (i32.const 0))"#;
    module(&[RANDOM, NOW, MEMORY, &table, &more, ABI_VERSION, INIT, configure, fields])
}

fn schedule_of(body: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(global $calls (mut i32) (i32.const 0))
           (func (export "shunt_schedule") (result i32) {body})"#
    ))
}

fn fresh(plugin: &Plugin) -> Box<dyn Scheduler> {
    let mut scheduler = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    scheduler.servers_changed(&candidates(&[1, 0, 3]), 0).unwrap();
    scheduler
}

/// Calls a plugin until a call fails as expected. The calls that did not, and the dump, as it
/// comes back from a file.
fn dump(plugin: &Plugin, expected: Failure) -> (u64, Dump) {
    let mut scheduler = fresh(plugin);
    let mut calls = 0;
    for call in 0u16.. {
        scheduler.load_changed(0, Load { active: u32::from(call), inactive: 7 });
        let flow = NewFlow { source_port: call, ..FLOW };
        match scheduler.choose(&flow, 1000 + Millis::from(call)) {
            Ok(_) | Err(Failure::Declined) => calls += 1,
            Err(failure) => {
                assert_eq!(failure, expected);
                break;
            }
        }
    }
    (calls, dump_of(scheduler))
}

fn dump_of(scheduler: Box<dyn Scheduler>) -> Dump {
    let dump = Dump::of(Instance::new(scheduler)).expect("a call has failed");
    let read = Dump::read(dump.to_json().as_bytes()).unwrap();
    assert_eq!(read, dump);
    read
}

fn assert_reproduced(replay: &Replay, method: Method, failure: Failure) {
    assert_eq!(replay.reproduced, Some(method), "{replay}");
    assert!(matches!(&replay.found, Found::Failure(found, _) if *found == failure), "{replay}");
    assert!(replay.same_module);
}

/// Fails at call 31, by a count in its memory.
fn fails_by_memory(fail: &str) -> Vec<u8> {
    schedule_of(&format!(
        "(i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 1)))
         (if (i32.gt_u (i32.load (i32.const 1024)) (i32.const 30)) (then {fail}))
         (i32.const 0)"
    ))
}

#[test]
fn a_failure_that_is_in_the_memory() {
    for (fail, failure) in [
        ("(unreachable)", Failure::Trap),
        ("(drop (i32.load (i32.const -4)))", Failure::Trap),
        ("(loop (br 0))", Failure::OutOfFuel),
        ("(return (i32.const 3))", Failure::OutOfRange),
        ("(return (i32.const -2))", Failure::OutOfRange),
        ("(return (i32.const 1))", Failure::Unavailable),
    ] {
        let plugin = load(&fails_by_memory(fail));
        let (calls, dump) = dump(&plugin, failure);
        assert_eq!((calls, dump.call.calls_before), (30, 30), "{fail}");
        assert_reproduced(&dump.replay(&plugin), Method::RecordedMemory, failure);
    }
}

/// Globals are in no dump: the calls are made again.
#[test]
fn a_failure_that_is_not_in_the_memory() {
    let plugin = load(&schedule_of(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (if (i32.gt_u (global.get $calls) (i32.const 10000)) (then (unreachable)))
         (i32.const 0)",
    ));
    let (_, dump) = dump(&plugin, Failure::Trap);
    let method = Method::FreshInstance { calls: 10_001 };
    assert_reproduced(&dump.replay(&plugin), method, Failure::Trap);
}

#[test]
fn a_failure_that_is_in_the_flow_the_time_or_the_loads() {
    for condition in [
        // The flow's source port, the time, the first server's active connections.
        "(i32.eq (i32.load16_u (i32.const 160)) (i32.const 77))",
        "(i64.eq (call $now) (i64.const 1077))",
        "(i32.eq (i32.load (i32.const 4100)) (i32.const 77))",
    ] {
        let plugin =
            load(&schedule_of(&format!("(if {condition} (then (unreachable))) (i32.const 0)")));
        let (calls, dump) = dump(&plugin, Failure::Trap);
        assert_eq!(calls, 77, "{condition}");
        assert_reproduced(&dump.replay(&plugin), Method::RecordedMemory, Failure::Trap);
    }
}

#[test]
fn a_failure_by_chance() {
    let plugin = load(&schedule_of(
        "(drop (call $random))
         (if (i64.eqz (i64.rem_u (call $random) (i64.const 50))) (then (unreachable)))
         (i32.const 0)",
    ));
    let (calls, dump) = dump(&plugin, Failure::Trap);
    assert!(calls > 0);
    assert_eq!(dump.call.draws, 2 * calls);
    assert_reproduced(&dump.replay(&plugin), Method::RecordedMemory, Failure::Trap);
}

#[test]
fn a_dump_says_all_there_is() {
    let plugin = load(&fails_by_memory("(unreachable)"));
    let params = Params::from([("key".to_owned(), "value".to_owned())]);
    let mut scheduler = plugin.scheduler(ALONE, &params).unwrap().0;
    scheduler.servers_changed(&candidates(&[1]), 0).unwrap();
    scheduler.servers_changed(&candidates(&[1, 0, 3]), 0).unwrap();
    scheduler.load_changed(2, Load { active: 5, inactive: 6 });
    while scheduler.choose(&FLOW, 4711).is_ok() {}
    let dump = dump_of(scheduler);
    assert_eq!((&*dump.plugin, &*dump.digest), ("test", plugin.digest()));
    assert_eq!((dump.label.as_deref(), &dump.params, dump.placement), (None, &params, ALONE));
    let call = &dump.call;
    assert_eq!((&*call.function, call.failure), ("shunt_schedule", Failure::Trap));
    let trap = call.trap.as_deref().unwrap();
    assert_eq!(trap, "wasm trap: wasm `unreachable` instruction executed");
    assert_eq!((call.answer, call.now, call.length), (None, 4711, 0));
    assert_eq!(call.flow.unwrap().new_flow(), FLOW);
    assert_eq!(call.flow.unwrap().source, std::net::IpAddr::from([192, 168, 100, 11]));
    let last = dump.servers[2];
    assert_eq!((last.weight, last.active, last.inactive), (3, 5, 6));
    assert_eq!((dump.servers.len(), dump.generation), (3, 2));
    assert_eq!(dump.memory.size, 65_536);
    let pages: Vec<_> = dump.memory.pages.iter().map(|page| page.at).collect();
    assert_eq!(pages, [0, 4096]);
    assert!(dump.to_json().contains(r#""version":1,"plugin":"test""#));
}

#[test]
fn an_update_that_fails() {
    let plugin = load(&wasm(&format!(
        r#"{SCHEDULE} (func (export "shunt_update")
             (if (i32.gt_u (i32.load (i32.const 88)) (i32.const 2)) (then (unreachable))))"#
    )));
    let mut scheduler = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    scheduler.servers_changed(&candidates(&[1, 1]), 5).unwrap();
    scheduler.servers_changed(&candidates(&[1, 1, 1]), 6).unwrap_err();
    let dump = dump_of(scheduler);
    assert_eq!((&*dump.call.function, dump.call.now), ("shunt_update", 6));
    assert_eq!(dump.call.flow, None);
    assert_reproduced(&dump.replay(&plugin), Method::RecordedMemory, Failure::Trap);
}

/// It counts updates where no dump looks.
#[test]
fn an_update_that_fails_at_last() {
    let plugin = load(&wasm(&format!(
        r#"{SCHEDULE} (global $updates (mut i32) (i32.const 0)) (func (export "shunt_update")
             (global.set $updates (i32.add (global.get $updates) (i32.const 1)))
             (if (i32.eq (global.get $updates) (i32.const 3)) (then (loop (br 0)))))"#
    )));
    let mut scheduler = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    scheduler.servers_changed(&candidates(&[1, 1]), 5).unwrap();
    scheduler.servers_changed(&candidates(&[1, 1]), 5).unwrap();
    scheduler.servers_changed(&candidates(&[1, 1, 1]), 6).unwrap_err();
    let method = Method::FreshInstance { calls: 3 };
    assert_reproduced(&dump_of(scheduler).replay(&plugin), method, Failure::OutOfFuel);
}

#[test]
fn a_handover_that_fails() {
    let save = load(&wasm(&format!(
        r#"{SCHEDULE} (func (export "shunt_save") (result i32) (unreachable))"#
    )));
    let mut scheduler = fresh(&save);
    assert_eq!(scheduler.save(0), None);
    let dump = dump_of(scheduler);
    assert_eq!(dump.call.function, "shunt_save");
    assert_reproduced(&dump.replay(&save), Method::RecordedMemory, Failure::Trap);

    // It traps on what it is given, and has wiped that before.
    let restore = load(&wasm(&format!(
        r#"{SCHEDULE} (func (export "shunt_restore") (param i32) (result i32)
             (if (i32.eq (i32.load8_u (i32.const 258)) (i32.const 9)) (then (unreachable)))
             (i32.const 0))"#
    )));
    let mut scheduler = fresh(&restore);
    assert_eq!(scheduler.restore(&[1, 2, 3, 4], 0), Ok(true));
    assert_eq!(scheduler.restore(&[7, 8, 9, 10], 0), Err(Failure::Trap));
    let dump = dump_of(scheduler);
    assert_eq!((&*dump.call.function, dump.call.length), ("shunt_restore", 4));
    assert_reproduced(&dump.replay(&restore), Method::RecordedMemory, Failure::Trap);
}

#[test]
fn a_mended_plugin_does_not_fail() {
    let (_, dump) = dump(&load(&fails_by_memory("(unreachable)")), Failure::Trap);
    let replay = dump.replay(&load(&fails_by_memory("(nop)")));
    assert_eq!((replay.reproduced, &replay.found), (None, &Found::NoFailure));
    assert_eq!(
        replay.to_string(),
        "not reproduced: the call does not fail (this is another module than the one that failed)"
    );
    // Nor one that fails otherwise.
    let replay = dump.replay(&load(&fails_by_memory("(return (i32.const 3))")));
    assert_eq!(replay.reproduced, None);
    assert_eq!(replay.found, Found::Failure(Failure::OutOfRange, None));
}

#[test]
fn a_plugin_that_does_not_start_is_no_panic() {
    let (_, mut dump) = dump(&load(&fails_by_memory("(unreachable)")), Failure::Trap);
    dump.params.insert("key".to_owned(), "value".to_owned());
    let replay = dump.replay(&host().stock("rr").unwrap());
    assert_eq!(replay.reproduced, None);
    assert!(replay.to_string().contains("takes no parameters"), "{replay}");
}

#[test]
fn nothing_failed_or_no_plugin() {
    let scheduler = fresh(&load(&schedule_of("(i32.const -1)")));
    let mut scheduler = scheduler;
    assert_eq!(scheduler.choose(&FLOW, 0), Err(Failure::Declined));
    assert_eq!(Dump::of(Instance::new(scheduler)), None);

    struct Native;
    impl Scheduler for Native {
        fn servers_changed(&mut self, _: &[Candidate], _: Millis) -> Result<(), Failure> {
            Ok(())
        }
        fn wants_load(&self) -> bool {
            false
        }
        fn load_changed(&mut self, _: usize, _: Load) {}
        fn choose(&mut self, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
            Err(Failure::Trap)
        }
    }
    assert_eq!(Dump::of(Instance::new(Box::new(Native))), None);
}

/// The sentence that a dump is refused with.
fn refusal(json: &str) -> String {
    match Dump::read(json.as_bytes()) {
        Err(error @ Error::Dump { .. }) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn dumps_that_are_none() {
    let (_, dump) = dump(&load(&fails_by_memory("(unreachable)")), Failure::Trap);
    let json = dump.to_json();
    for (from, to, part) in [
        (r#""version":1"#, r#""version":2"#, "it has version 2 of the format and this is 1"),
        (r#""version":1,"#, "", "missing field `version`"),
        ("shunt_schedule", "shunt_init", "there is no function \"shunt_init\""),
        ("shunt_schedule", "shunt_update", "shunt_update and a flow do not go together"),
        (r#""failure":"trap""#, r#""failure":"tired""#, "there is no failure \"tired\""),
        (r#""failure":"trap""#, r#""failure":"benched""#, "no call fails by being benched"),
        (r#""size":65536"#, r#""size":4096"#, "there is no page at 4096"),
        (r#""size":65536"#, r#""size":4294967297"#, "4294967297 bytes are not in the memory"),
        (r#""at":4096"#, r#""at":0"#, "there is no page at 0"),
        (r#""at":4096"#, r#""at":4097"#, "there is no page at 4097"),
        (r#""length":0"#, r#""length":65537"#, "65537 bytes are not in the memory"),
        ("AAAA", "A", "nvalid"),
    ] {
        assert!(json.contains(from), "{from}");
        let sentence = refusal(&json.replacen(from, to, 1));
        assert!(sentence.starts_with("this is no dump of a failed call ("), "{sentence}");
        assert!(sentence.contains(part), "{sentence}");
    }
    for none in ["", "{}", "[]", "null", "\u{0}", "{\"version\":"] {
        refusal(none);
    }
    for end in (0..json.len()).step_by(97) {
        refusal(&json[..end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// What is read is replayed, too, and ends in a sentence.
    #[test]
    fn changed_dumps_are_refused_or_replayed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        digits in any::<bool>(),
    ) {
        let plugin = load(&fails_by_memory("(unreachable)"));
        let (_, dump) = dump(&plugin, Failure::Trap);
        // Without the long pages, so that what matters is hit.
        let mut short = dump.clone();
        short.memory.pages.clear();
        let mut json = short.to_json().into_bytes();
        for (at, byte) in changes {
            let places: Vec<usize> = (0..json.len())
                .filter(|&at| !digits || json[at].is_ascii_digit())
                .collect();
            json[*at.get(&places)] = if digits { b'0' + byte % 10 } else { byte };
        }
        if let Ok(mut read) = Dump::read(&json) {
            read.call.calls_before = read.call.calls_before.min(100);
            read.call.fuel = read.call.fuel.min(100_000);
            prop_assert!(!read.replay(&plugin).to_string().is_empty());
        }
    }

    #[test]
    fn dumps_with_other_contents_are_replayed(
        size in prop::sample::select(vec![0usize, 4096, 65_536, 131_072]),
        servers in 0usize..40,
        function in 0usize..4,
        length in 0usize..300,
        draws in any::<u64>(),
        generation in 0u32..4,
    ) {
        let plugin = load(&fails_by_memory("(unreachable)"));
        let (_, mut dump) = dump(&plugin, Failure::Trap);
        let names = ["shunt_schedule", "shunt_update", "shunt_save", "shunt_restore"];
        dump.call.function = names[function].to_owned();
        if function != 0 {
            dump.call.flow = None;
        }
        (dump.memory.size, dump.call.length) = (size, length);
        (dump.call.draws, dump.generation) = (draws, generation);
        dump.memory.pages.retain(|page| page.at + 4096 <= size);
        dump.servers = vec![dump.servers[0]; servers];
        prop_assert!(!dump.replay(&plugin).to_string().is_empty());
    }
}
