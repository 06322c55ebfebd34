//! Files that are refused, each with the sentence that tells its author what to change.

mod common;

use common::*;
use plugin_host::{Error, Limits, PluginHost, STOCK};
use std::time::Duration;

/// The sentence, without the plugin's name.
fn refusal(wasm: &[u8]) -> String {
    match host().load("test", wasm) {
        Err(Error::Refused { plugin, refusal }) => {
            assert_eq!(plugin, "test");
            refusal.to_string()
        }
        other => panic!("not refused: {other:?}"),
    }
}

fn assert_refused(wasm: &[u8], sentence: &str) {
    assert_eq!(refusal(wasm), sentence);
}

#[test]
fn the_plugin_is_named() {
    let error = host().load("mine", b"").unwrap_err();
    assert!(error.to_string().starts_with("plugin mine: the file is no WebAssembly"), "{error}");
}

#[test]
fn files_that_are_no_module() {
    let not_wasm = "the file is no WebAssembly module, which would begin with \\0asm and version \
                    1: build a cdylib for wasm32-unknown-unknown";
    for file in [&b""[..], b"\0as", b"\x7fELF\x02\x01\x01", b"Hello", b"\0asm\x02\0\0\0"] {
        assert_refused(file, not_wasm);
    }
    assert_refused(
        b" ;; a plugin\n(module\n  (memory (export \"memory\") one))",
        "the file is WebAssembly text with a mistake in it (at 3:29: unexpected token, expected \
         one of: left paren, u32, `i32`, `i64`): mend it",
    );
    assert!(refusal(b"(a plugin in Lisp)").starts_with("the file is WebAssembly text with a mis"));
    assert!(refusal(b"(module").starts_with("the file is WebAssembly text with a mistake in it"));
    assert!(refusal(b"(component)").starts_with("the file is a component"));
    assert_refused(
        &wat::parse_str("(component)").unwrap(),
        "the file is a component and a plugin is a core module: build it for \
         wasm32-unknown-unknown and leave the component tools out",
    );
}

#[test]
fn a_file_above_the_limit() {
    let mut wasm = plugin(SCHEDULE);
    // A custom section that fills it up: id 0, a length of four bytes, an empty name.
    wasm.extend([0, 0x80, 0x80, 0x80, 0x19, 0]);
    wasm.resize(50 << 20, 0);
    assert_refused(
        &wasm,
        "the file has 52428800 bytes and the limit is 1048576: strip names and debug information \
         from it, or raise the limit",
    );
}

#[test]
fn a_file_that_ends_early() {
    let wasm = plugin(SCHEDULE);
    let host = host();
    for end in 0..wasm.len() {
        // Without the last sections it may still be a module, but never a plugin.
        assert!(
            matches!(host.load("test", &wasm[..end]), Err(Error::Refused { .. })),
            "{end} bytes"
        );
    }
    let sentence = refusal(&wasm[..wasm.len() - 1]);
    assert!(
        sentence.starts_with("the module is damaged or uses a WebAssembly feature that shunt")
            && sentence.ends_with("build it again for WebAssembly 2.0 and copy the whole file"),
        "{sentence}"
    );
}

#[test]
fn code_that_is_invalid() {
    let mut wasm = schedule("(i32.const 42)");
    let constant = wasm.windows(2).rposition(|code| code == [0x41, 42]).unwrap();
    wasm[constant] = 0xff; // instead of i32.const
    let sentence = refusal(&wasm);
    assert!(sentence.contains("illegal opcode"), "{sentence}");
}

#[test]
fn proposals_that_are_left_out() {
    for fields in [
        "(memory 1)",
        "(func $f (return_call $f))",
        "(func (param v128 v128) (drop (f64x2.relaxed_min (local.get 0) (local.get 1))))",
        "(tag) (func (throw 0))",
        "(type (struct (field i32)))",
        "(memory 1 2 (pagesize 1))",
    ] {
        let sentence = refusal(&plugin(&format!("{SCHEDULE} {fields}")));
        assert!(
            sentence.starts_with("the module is damaged or uses a WebAssembly feature"),
            "{fields}: {sentence}"
        );
    }
}

#[test]
fn imports() {
    let import = r#"(import "env" "log" (func (param i32)))"#;
    assert_refused(
        &module(&[import, MEMORY, TABLE, ABI_VERSION, INIT, SCHEDULE]),
        "it imports log from env and there are only log, now_ms and random from shunt: remove it, \
         and build without WASI",
    );
    let memory = r#"(import "env" "memory" (memory 1))"#;
    assert!(refusal(&module(&[memory])).starts_with("it imports memory from env"));
}

#[test]
fn exports_that_are_missing() {
    for (fields, name, expected) in [
        (&[TABLE, ABI_VERSION, INIT, SCHEDULE, "(memory 1)"], "memory", "the 32-bit memory"),
        (&[MEMORY, TABLE, "", INIT, SCHEDULE], "shunt_abi_version", "() -> i32"),
        (&[MEMORY, TABLE, ABI_VERSION, "", SCHEDULE], "shunt_init", "(i32, i32, i64) -> i32"),
        (&[MEMORY, TABLE, ABI_VERSION, INIT, ""], "shunt_schedule", "() -> i32"),
    ] {
        assert_refused(
            &module(fields),
            &format!("it has no export {name}: export it as {expected}"),
        );
    }
    assert!(refusal(&module(&[])).starts_with("it has no export memory"));
}

#[test]
fn exports_that_are_something_else() {
    let wrong = |field: &str| refusal(&module(&[MEMORY, TABLE, ABI_VERSION, INIT, field]));
    assert_eq!(
        wrong(r#"(func (export "shunt_schedule") (param i64) (result i32) (i32.const 0))"#),
        "its export shunt_schedule is (func (param i64) (result i32)): make it () -> i32"
    );
    assert_eq!(
        wrong(r#"(global (export "shunt_schedule") i32 (i32.const 0))"#),
        "its export shunt_schedule is a global: make it () -> i32"
    );
    assert_eq!(
        wrong(&format!(r#"{SCHEDULE} (func (export "shunt_update") (result i32) (i32.const 0))"#)),
        "its export shunt_update is (func (result i32)): make it () -> ()"
    );
    assert_eq!(
        refusal(&module(&[r#"(func (export "memory"))"#])),
        "its export memory is a function: make it the 32-bit memory"
    );
}

#[test]
fn memories_that_are_too_large_or_of_another_kind() {
    let with = |memory: &str| refusal(&module(&[memory, TABLE, ABI_VERSION, INIT, SCHEDULE]));
    assert_eq!(
        with(r#"(memory (export "memory") 65536)"#),
        "its memory has 4294967296 bytes from the start and the limit is 16777216: declare less \
         (static data and the linker's -zstack-size count), or raise the limit"
    );
    assert!(with(r#"(memory (export "memory") 257)"#).starts_with("its memory has 16842752 bytes"));
    assert_eq!(
        with(r#"(memory (export "memory") i64 1)"#),
        "its memory has 64-bit addresses: build it for wasm32"
    );
    assert_eq!(
        with(r#"(memory (export "memory") 1 1 shared)"#),
        "its memory is shared: build it without threads and atomics"
    );
    let limit = module(&[r#"(memory (export "memory") 256)"#, TABLE, ABI_VERSION, INIT, SCHEDULE]);
    host().load("test", &limit).unwrap();
}

#[test]
fn tables_that_are_too_large() {
    let two = format!("{SCHEDULE} (table 16384 funcref) (table 1 funcref)");
    assert_refused(
        &plugin(&two),
        "its tables have 16385 elements from the start and the limit is 16384: declare fewer, or \
         raise the limit",
    );
    host().load("test", &plugin(&format!("{SCHEDULE} (table 16384 funcref)"))).unwrap();
}

#[test]
fn another_version_of_the_abi() {
    let sentence = |found: u32| {
        format!(
            "it follows version {found} of the ABI and this shunt has version 1: build it with an \
             SDK of version 1"
        )
    };
    let version = r#"(func (export "shunt_abi_version") (result i32) (i32.const 2))"#;
    assert_refused(&module(&[MEMORY, TABLE, version, INIT, SCHEDULE]), &sentence(2));
    let table = words(64, &[7, 0, 1024, 4096]);
    assert_refused(&module(&[MEMORY, &table, ABI_VERSION, INIT, SCHEDULE]), &sentence(7));
}

#[test]
fn functions_that_do_not_end_when_the_plugin_is_loaded() {
    let sentence = |function: &str| {
        format!(
            "{function} did not end within its 10000000 units of fuel: make it do less, or end at \
             all"
        )
    };
    let start = "(func $start (loop (br 0))) (start $start)";
    assert_refused(&plugin(&format!("{SCHEDULE} {start}")), &sentence("the start function"));
    let init = r#"(func (export "shunt_init") (param i32 i32 i64) (result i32)
                    (loop (br 0)) (unreachable))"#;
    assert_refused(&module(&[MEMORY, TABLE, ABI_VERSION, init, SCHEDULE]), &sentence("shunt_init"));
    let version = r#"(func (export "shunt_abi_version") (result i32) (loop (br 0)) (unreachable))"#;
    assert_refused(
        &module(&[MEMORY, TABLE, version, INIT, SCHEDULE]),
        &sentence("shunt_abi_version"),
    );
}

#[test]
fn functions_that_trap_when_the_plugin_is_loaded() {
    let start = "(func $start (unreachable)) (start $start)";
    assert_refused(
        &plugin(&format!("{SCHEDULE} {start}")),
        "the start function trapped (wasm trap: wasm `unreachable` instruction executed): mend it \
         so that it returns",
    );
    let init = r#"(func $init (export "shunt_init") (param i32 i32 i64) (result i32)
                    (i32.add (i32.const 1)
                      (call $init (local.get 0) (local.get 1) (local.get 2))))"#;
    let sentence = refusal(&module(&[MEMORY, TABLE, ABI_VERSION, init, SCHEDULE]));
    assert!(sentence.starts_with("shunt_init trapped (wasm trap: call stack exhausted"));
    let data = r#"(data (i32.const 65536) "x")"#;
    let sentence = refusal(&plugin(&format!("{SCHEDULE} {data}")));
    assert!(sentence.starts_with("the start function trapped"), "{sentence}");
}

#[test]
fn tables_that_are_not_where_they_should_be() {
    let at = |address: i32, table: &[u32]| {
        let init = format!(
            r#"(func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const {address}))"#
        );
        let table = words(64, table);
        match host().load("test", &module(&[MEMORY, &table, ABI_VERSION, &init, SCHEDULE])) {
            Err(Error::Refused { refusal, .. }) => refusal.to_string(),
            other => format!("{other:?}"),
        }
    };
    let beyond = |record: &str, address: u32| {
        format!(
            "its {record} at address {address} reaches beyond its 65536 bytes of memory: give the \
             address of static memory"
        )
    };
    let misaligned = |record: &str, address: u32, alignment: u32| {
        format!("its {record} at address {address} is not aligned: align it to {alignment} bytes")
    };
    assert_eq!(at(-4, &[]), beyond("table", 4_294_967_292));
    assert_eq!(at(65_476, &[]), beyond("table", 65_476));
    assert_eq!(at(66, &[1, 0, 1, 4096]), misaligned("table", 66, 4));
    assert_eq!(at(64, &[1, 0, 1, 65_508]), beyond("array of servers", 65_508));
    assert_eq!(at(64, &[1, 0, 1024, 32_772]), beyond("array of servers", 32_772));
    assert_eq!(at(64, &[1, 0, 1, u32::MAX - 3]), beyond("array of servers", u32::MAX - 3));
    assert_eq!(at(64, &[1, 0, 1, 4097]), misaligned("array of servers", 4097, 4));
    assert_eq!(at(64, &[1, 0, 2, 4096, 65_528]), beyond("array of load keys", 65_528));
    assert_eq!(at(64, &[1, 0, 2, 4096, 8196]), misaligned("array of load keys", 8196, 8));
    assert_eq!(at(64, &[1, 0, 2, 4096, 0, 65_500]), beyond("flow", 65_500));
    assert_eq!(at(64, &[1, 0, 2, 4096, 0, 1026]), misaligned("flow", 1026, 4));
    for capacity in [0, 1025, u32::MAX] {
        let sentence = format!("its table has a capacity of {capacity}: make it 1 to 1024");
        assert_eq!(at(64, &[1, 0, capacity, 4096]), sentence);
    }
    assert_eq!(
        at(64, &[1, 6, 2, 4096]),
        "its table wants 0x6 and version 1 knows no bit but 0: clear the others"
    );
}

#[test]
fn a_version_section_that_is_none() {
    let with =
        |version: &str| plugin(&format!(r#"{SCHEDULE} (@custom "shunt.version" "{version}")"#));
    assert_eq!(load(&with("1.2.3-rc1")).version(), "1.2.3-rc1");
    for version in ["", "\\00", "1\\0a", "\\ff", &"9".repeat(65)] {
        assert_refused(
            &with(version),
            "its custom section shunt.version is not 1 to 64 printable ASCII characters: mend it",
        );
    }
}

#[test]
fn limits_that_the_engine_does_not_take() {
    let limits = Limits { stack: 0, ..Limits::default() };
    assert!(matches!(PluginHost::new(limits), Err(Error::Engine { .. })));
}

#[test]
fn a_stock_plugin_that_does_not_exist() {
    assert_eq!(
        host().stock("wlrr").unwrap_err().to_string(),
        format!("no stock plugin is called \"wlrr\"; there are {}", STOCK.join(", "))
    );
}

/// A function of so many additions.
fn long_function(additions: usize) -> Vec<u8> {
    let additions = "(local.set $sum (i32.add (local.get $sum) (i32.load (local.get $sum))))\n"
        .repeat(additions);
    schedule(&format!("(local $sum i32) {additions} (local.get $sum)"))
}

#[test]
fn a_module_that_takes_long_to_compile() {
    let limits = Limits { compile_time: Duration::from_millis(1), ..Limits::default() };
    let host = PluginHost::new(limits).unwrap();
    let wasm = long_function(6_000);
    let error = host.load("long", &wasm).unwrap_err().to_string();
    assert!(error.starts_with("plugin long: compiling it takes longer than 1ms: "), "{error}");
    let largest = format!("({} of its {} bytes)", 6_000 * 10 + 6, wasm.len());
    assert!(error.contains(&largest), "{error}");
    // The compiler cannot be stopped. Who comes meanwhile is sent away at once, whatever it is.
    let error = host.clone().load("next", &plugin(SCHEDULE)).unwrap_err();
    assert!(matches!(&error, Error::CompilerBusy { plugin } if plugin == "next"), "{error:?}");
    assert_eq!(
        error.to_string(),
        "plugin next: the compiler is still busy with an earlier plugin that took too long: load \
         this one again in a while"
    );
    // Until it has done.
    while matches!(host.load("next", &plugin(SCHEDULE)), Err(Error::CompilerBusy { .. })) {
        std::thread::yield_now();
    }
}

/// What is nested deeply takes no stack of the process: neither in text nor in the compiler.
#[test]
fn modules_that_are_nested_deeply() {
    let parentheses = "(".repeat(500_000);
    let expressions =
        format!("(module (func (result i32) {}", "(i32.add (i32.const 1) ".repeat(40_000));
    for text in [parentheses, expressions] {
        let sentence = refusal(text.as_bytes());
        assert!(
            sentence.starts_with("the file is WebAssembly text with a mistake in"),
            "{sentence}"
        );
    }
    let blocks = format!("{} {} (i32.const 0)", "block ".repeat(1_000), "end ".repeat(1_000));
    load(&schedule(&blocks));
}
