use super::*;

#[test]
fn names_that_a_crate_can_have() {
    for name in ["a", "my", "my-scheduler", "my_2nd", "rr", &"x".repeat(32)] {
        assert!(check_name(name).is_ok(), "{name}");
    }
    for (name, reason) in [
        ("", "empty"),
        (&*"x".repeat(33), "too long"),
        ("2nd", "begin with"),
        ("-my", "begin with"),
        ("My", "begin with"),
        ("mY", "other letters"),
        ("my.wasm", "other letters"),
        ("a/b", "other letters"),
        ("größe", "other letters"),
        ("loop", "Rust has"),
        ("test", "Rust has"),
        ("core", "a crate"),
        ("shunt-sdk", "a crate"),
    ] {
        let error = check_name(name).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("my-scheduler"), "{name}: {error}");
    }
}

#[test]
fn every_placeholder_is_filled_in() {
    for (path, text) in FILES {
        let text = fill_in(text, "my-scheduler");
        assert!(!text.contains("@NAME@") && !text.contains("@VERSION@"), "{path}");
        assert!(!text.contains("@RUST@") && !text.contains("@FILE@"), "{path}");
    }
}

#[test]
fn the_sdk_goes_with_it() {
    for path in ["sdk/src/lib.rs", "sdk/src/testing.rs", "sdk/src/export.rs", "abi/src/lib.rs"] {
        assert!(SOURCES.iter().any(|(source, _)| *source == path), "{path}");
    }
}

#[test]
fn the_folder_is_quoted_for_the_shell() {
    for (folder, expected) in
        [("./my", "./my"), ("/tmp/my plugins/x", "'/tmp/my plugins/x'"), ("it's", r"'it'\''s'")]
    {
        assert_eq!(quoted(Path::new(folder)), expected);
    }
}
