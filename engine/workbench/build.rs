//! Embeds the sources of the SDK and of the ABI, for the crates that `shunt plugin new` writes.
//!
//! Found here rather than named one by one, so that a file that is added there is not forgotten.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let plugins = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("set by cargo"))
        .join("../../plugins")
        .canonicalize()?;
    let mut table = String::from("&[\n");
    for name in ["abi", "sdk"] {
        let sources = plugins.join(name).join("src");
        println!("cargo::rerun-if-changed={}", sources.display());
        for file in rust_files(&sources)? {
            let relative = file.strip_prefix(&plugins).expect("below it").display();
            writeln!(table, "    ({:?}, include_str!({:?})),", relative.to_string(), file)
                .expect("memory takes it");
        }
    }
    table.push_str("]\n");
    let out = env::var("OUT_DIR").expect("set by cargo");
    fs::write(Path::new(&out).join("sources.rs"), table)
}

/// All files of a folder that end in .rs, in an order that does not change.
fn rust_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
