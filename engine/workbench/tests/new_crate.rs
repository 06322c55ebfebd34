//! The crate that `shunt plugin new` writes, as its author finds it.

mod common;

use common::Folder;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use workbench::{NewArgs, NewError, new_crate};

fn write(name: &str, dir: &Path) -> Result<String, NewError> {
    let arguments = NewArgs { name: name.to_owned(), dir: dir.to_owned() };
    let mut out = Vec::new();
    new_crate(&arguments, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// Everything below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// With no registry at hand, and nothing but its own folder.
#[test]
fn its_tests_pass_offline() {
    let folder = Folder::new("its tests pass");
    let said = write("my-scheduler", folder.path()).unwrap();
    for words in ["cargo test", "shunt plugin check target/", "/my_scheduler.wasm", "upload"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    let own = folder.path().join("my-scheduler");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(&own).args(["test", "--offline"]);
    // What this test was built with is not the author's.
    for (variable, _) in std::env::vars_os() {
        let name = variable.to_string_lossy();
        let is_ours = ["CARGO_", "RUSTFLAGS", "RUSTC_", "RUSTDOCFLAGS"];
        if is_ours.iter().any(|prefix| name.starts_with(prefix)) && name != "CARGO_HOME" {
            cargo.env_remove(&variable);
        }
    }
    let output = cargo.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("test result: ok. 4 passed"), "{said}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("warning"), "{output:?}");
}

#[test]
fn the_sdk_and_the_records_lie_beside_it() {
    let folder = Folder::new("lie beside");
    write("my", folder.path()).unwrap();
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    for name in ["sdk", "abi"] {
        let own = folder.path().join("my").join(name).join("src");
        let source = plugins.join(name).join("src");
        assert_eq!(files(&own).len(), files(&source).len(), "{name}");
        for file in files(&source) {
            let copy = own.join(file.strip_prefix(&source).unwrap());
            assert_eq!(fs::read(&copy).unwrap(), fs::read(&file).unwrap(), "{copy:?}");
        }
    }
}

#[test]
fn what_is_there_stays_as_it_is() {
    let folder = Folder::new("stays");
    let file = folder.write("taken", "mine");
    let inside = folder.path().join("full");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("Cargo.toml"), "mine").unwrap();
    for name in ["taken", "full"] {
        let error = write(name, folder.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("exists already"), "{error}");
    }
    let error = write("my", Path::new(&file)).unwrap_err().to_string();
    assert!(error.contains("taken") && error.contains("--dir"), "{error}");
    let error = write("My", folder.path()).unwrap_err().to_string();
    assert!(error.contains("\"My\""), "{error}");
    let mut left = files(folder.path());
    left.sort();
    assert_eq!(left, [inside.join("Cargo.toml"), PathBuf::from(&file)]);
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}
