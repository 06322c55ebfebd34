//! Plays the packet tables of `tests/frames/tables`.

use frames::table::parse;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn tables() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/frames/tables")
}

fn play(name: &str) {
    let text = fs::read_to_string(tables().join(name)).unwrap();
    let cases = parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(!cases.is_empty());
    for case in cases {
        assert!(!case.steps.is_empty(), "{name}: [{}] has no steps", case.name);
        case.play(name);
    }
}

/// The tables, each a test of its own.
macro_rules! play {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            play(concat!(stringify!($name), ".txt"));
        })*

        #[test]
        fn every_table_is_played() {
            let played = HashSet::from([$(concat!(stringify!($name), ".txt").to_owned()),*]);
            let entries = fs::read_dir(tables()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            assert_eq!(played, names.filter(|name| name.ends_with(".txt")).collect());
        }
    };
}

play! { ethernet ipv4 ipv6 tcp udp icmp icmpv6 }
