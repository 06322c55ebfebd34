//! Dumps of failed plugin calls, for the plugin's author: `state_dir/dumps`.

use crate::plugin_store::{StoreError, write};
use crate::plugins::PluginVersion;
use plugin_host::Dump;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Dumps that are kept; older ones are deleted.
const KEPT: usize = 20;

/// Writes a dump below `state_dir`. Returns where it is.
pub fn keep(state_dir: &Path, version: &PluginVersion, dump: &Dump) -> Result<PathBuf, StoreError> {
    let folder = state_dir.join("dumps");
    let error = |cause| StoreError::Io { doing: "make the folder", path: folder.clone(), cause };
    // A dump holds clients' addresses.
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(error)?;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let time = since_epoch.map_or(0, |since| since.as_millis());
    let path = folder.join(format!("{time}-{}-{}.json", version.name, version.number));
    write(&path, dump.to_json().as_bytes())?;
    let Ok(entries) = fs::read_dir(&folder) else { return Ok(path) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // What else someone keeps there stays.
    paths.retain(|path| is_dump(path));
    // The time comes first in the names, and has as many digits until the year 2286.
    paths.sort();
    for old in paths.iter().take(paths.len().saturating_sub(KEPT)) {
        let _ = fs::remove_file(old);
    }
    Ok(path)
}

/// Whether the file has a name that [`keep`] gives.
fn is_dump(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let time = name.split_once('-').map_or("", |(time, _)| time);
    time.len() >= 13 && time.bytes().all(|byte| byte.is_ascii_digit()) && name.ends_with(".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dumps_are_dumps() {
        for (name, expected) in [
            ("1795367135409-my-2.json", true),
            ("1795367135409-my-2.json.new", false),
            ("notes.json", false),
            ("2026-my.json", false),
            ("-.json", false),
        ] {
            assert_eq!(is_dump(&Path::new("/x").join(name)), expected, "{name}");
        }
    }
}
