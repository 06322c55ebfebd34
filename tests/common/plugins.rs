//! Plugins whose choices tell them apart, and directors that use them.

use super::http;
use director::plugin_views::{PluginShowView, UploadView};
use lab::{Director, Family, Topology, get_once};
use std::path::{Path, PathBuf};

/// A plugin that always chooses the real server with this number, from 1. With a parameter
/// `server` it chooses that one instead; any other parameters are refused.
pub fn always(number: u8, label: &str) -> String {
    let refusal = "write server=1 and nothing else";
    let length = refusal.len();
    let slot = number - 1;
    format!(
        r#"(module
  (memory (export "memory") 1)
  ;; The table: 1024 records at 4096, room for parameters at 49152.
  (data (i32.const 64) "\01\00\00\00\00\00\00\00\00\04\00\00\00\10\00\00")
  (data (i32.const 104) "\00\c0\00\00\00\01\00\00")
  (data (i32.const 50000) "{refusal}")
  (@custom "shunt.version" "{label}")
  (global $slot (mut i32) (i32.const {slot}))
  (func (export "shunt_abi_version") (result i32) (i32.const 1))
  (func (export "shunt_init") (param i32 i32 i64) (result i32) (i32.const 64))
  (func (export "shunt_configure") (param $length i32) (result i32)
    ;; "server=1" and a newline, the digit at its offset 7.
    (if (i32.ne (local.get $length) (i32.const 9))
      (then
        (memory.copy (i32.const 49152) (i32.const 50000) (i32.const {length}))
        (return (i32.const {length}))))
    (global.set $slot (i32.sub (i32.load8_u (i32.const 49159)) (i32.const 49)))
    (i32.const 0))
  (func (export "shunt_schedule") (result i32) (global.get $slot)))
"#
    )
}

/// Writes a plugin's file, to be uploaded under the file's name.
pub fn file(topology: &Topology, name: &str, text: &str) -> PathBuf {
    topology.files.write(&format!("{name}.wat"), text).unwrap()
}

/// Uploads a file and returns what `shunt` says.
pub fn upload(director: &Director, file: &Path) -> String {
    director.shunt(&format!("plugin upload {}", file.display())).unwrap()
}

/// What `shunt plugin show --json` says.
pub fn show(director: &Director, name: &str) -> PluginShowView {
    let said = director.shunt(&format!("plugin show {name} --json")).unwrap();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// An upload's answer.
pub fn answer(json: &str) -> UploadView {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// The real servers of that many new connections, one after the other.
pub fn chosen(topology: &Topology, family: Family, count: usize) -> Vec<String> {
    let get = |_| get_once(&topology.client, http(family), "/").unwrap().real_server;
    (0..count).map(get).collect()
}

/// Asserts that new connections go to this real server alone.
pub fn all_go_to(topology: &Topology, family: Family, real_server: &str) {
    let chosen = chosen(topology, family, 6);
    assert!(chosen.iter().all(|name| name == real_server), "{family:?}: {chosen:?}");
}
