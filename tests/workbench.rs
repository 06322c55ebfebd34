//! `shunt plugin new`, `check` and `bench` as an author of plugins types them: exit codes, and
//! what is said of bad input. Needs neither root nor a director.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of a test's own, emptied.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("a folder of an earlier run");
    }
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Runs `shunt plugin` in a folder. The exit code, and all that it said.
fn plugin(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shunt"));
    let output = command.arg("plugin").args(arguments).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("an end of its own"), said.into_owned())
}

#[test]
fn a_plugin_that_keeps_the_rules_passes() {
    let folder = folder("passes");
    let (code, said) = plugin(&folder, &["check", "rr", "--seed", "7"]);
    assert_eq!(code, 0, "{said}");
    for words in ["ok      flows", "ok      determinism", "evenness", "fuel", "cost", "\npassed"] {
        assert!(said.contains(words), "{words:?} is not in\n{said}");
    }
    let (code, said) = plugin(&folder, &["check", "rr", "--json"]);
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&report["passed"], &report["file"]), (&true.into(), &"rr".into()));
}

#[test]
fn a_plugin_that_breaks_one_ends_with_1_and_says_which() {
    let folder = folder("breaks");
    let traps = r#"(module (memory (export "memory") 2)
        (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
        (func (export "shunt_abi_version") (result i32) (i32.const 1))
        (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
        (func (export "shunt_schedule") (result i32) (unreachable)))"#;
    fs::write(folder.join("traps.wat"), traps).unwrap();
    fs::write(folder.join("cut.wasm"), b"\0asm\x01\0\0").unwrap();
    fs::write(folder.join("large.wasm"), vec![0; 2 << 20]).unwrap();
    fs::write(folder.join("empty.wasm"), b"").unwrap();
    for (file, expected) in [
        ("traps.wat", &["FAILED  flows", "trapped in shunt_schedule", "`--seed 1`"][..]),
        ("cut.wasm", &["FAILED  module"]),
        ("empty.wasm", &["FAILED  module"]),
        ("large.wasm", &["FAILED  file", "raise the limit"]),
    ] {
        let (code, said) = plugin(&folder, &["check", file]);
        assert_eq!(code, 1, "{file}: {said}");
        for words in expected.iter().chain(&["1 rule is broken"]) {
            assert!(said.contains(words), "{file}: {words:?} is not in\n{said}");
        }
    }
}

#[test]
fn bad_input_is_named() {
    let folder = folder("bad input");
    fs::create_dir(folder.join("taken")).unwrap();
    for (line, code, expected) in [
        ("check nothing.wasm", 1, &["cannot read nothing.wasm", ".wasm or .wat", "rr"][..]),
        ("check taken", 1, &["cannot read taken", "directory"]),
        ("check", 2, &["Usage"]),
        ("check rr --param mh-port", 2, &["mh-port", "KEY=VALUE"]),
        ("check rr --param =1", 2, &["KEY=VALUE"]),
        ("check rr --param mh-port=true", 1, &["FAILED  parameters", "mh-port"]),
        ("check rr --seed x", 2, &["--seed"]),
        ("check rr --replay nothing.json", 2, &["cannot read the dump nothing.json"]),
        ("check nothing.wasm --replay nothing.json", 2, &["nothing"]),
        ("check rr --replay dump.json --param a=b", 2, &["cannot be used with"]),
        ("bench", 2, &["Usage"]),
        ("bench nothing.wasm", 1, &["cannot read nothing.wasm", "rr"]),
        ("bench rr --servers 0", 2, &["1..=1024"]),
        ("bench rr --servers 16,many", 2, &["many"]),
        ("new", 2, &["Usage"]),
        ("new taken", 1, &["taken exists already", "--dir"]),
        ("new Mine", 1, &["\"Mine\"", "a-z"]),
        ("new ../mine", 1, &["\"../mine\""]),
    ] {
        let (ended, said) = plugin(&folder, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(ended, code, "{line}: {said}");
        for words in expected {
            assert!(said.contains(words), "{line}: {words:?} is not in\n{said}");
        }
    }
    let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [folder.join("taken")], "nothing was written");
}
