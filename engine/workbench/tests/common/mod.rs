//! Plugins in WebAssembly text, and folders to put files in.

#![allow(dead_code)] // each test file uses some of it

use std::fs;
use std::path::{Path, PathBuf};

/// A plugin that always answers slot 0. Its table is at 64, with 1024 servers at 4096 and the flow
/// at 144.
pub const PLUGIN: &str = r#"(module
  (memory (export "memory") 2)
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00\00\00\00\00\90\00\00\00")
  (global $calls (mut i32) (i32.const 0))
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_schedule") (result i32) (i32.const 0))
)"#;

/// A plugin with this body of `shunt_schedule`.
pub fn schedule(body: &str) -> String {
    let end = PLUGIN.find("(i32.const 0))\n)").expect("its end");
    format!("{}{body})\n)", &PLUGIN[..end])
}

/// A folder of a test's own, emptied.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("a folder of an earlier run");
        }
        fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and answers its name.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("a name in UTF-8").to_owned()
    }
}
