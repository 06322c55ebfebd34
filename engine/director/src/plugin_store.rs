//! Uploaded plugins on disk: what a restart finds again.
//!
//! Below `state_dir/plugins`: each module under the SHA-256 of its content, `DIGEST.wasm`, and
//! `index.json`, which says what names and versions there are. A file is written beside its place
//! and renamed, so that a crash leaves the former content or the new one, never half of either.

use crate::scheduler_name::PluginName;
use plugin_host::digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The only format of `index.json` so far.
const FORMAT: u32 = 1;

/// Why the store cannot do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refuses.
    #[error("cannot {doing} {} ({cause}): is state_dir on a disk that this process may write to, with room left?", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The index is not what was written.
    #[error("{} is damaged ({cause}): move it away and upload the plugins again", path.display())]
    Damaged {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Another director has the store.
    #[error("{} belongs to another director that runs: give each its own state_dir in the config", path.display())]
    Taken {
        /// The store.
        path: PathBuf,
    },
    /// A module is not what was written.
    #[error("{} is damaged: its content has another SHA-256 than its name; upload the plugin again", path.display())]
    WrongDigest {
        /// The module.
        path: PathBuf,
    },
}

/// One version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredVersion {
    /// Its number: 1 for the first upload of this name. Not given again while the name exists.
    pub number: u32,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// The version that its author gave it.
    pub label: Option<String>,
    /// Size of the module in bytes.
    pub size: usize,
    /// When it was uploaded, in seconds since 1970-01-01 UTC.
    pub uploaded: u64,
    /// Why it is no longer used by itself, if so.
    pub failed: Option<String>,
}

/// The versions of one name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredPlugin {
    /// The version that the bare name means. 0: the stock plugin.
    pub current: u32,
    /// The highest number that was ever given.
    pub last: u32,
    /// The versions that are kept, the oldest first.
    pub versions: Vec<StoredVersion>,
}

impl StoredPlugin {
    /// The version with this number.
    pub fn version(&self, number: u32) -> Option<&StoredVersion> {
        self.versions.iter().find(|version| version.number == number)
    }
}

/// What names and versions there are.
pub type Names = BTreeMap<PluginName, StoredPlugin>;

#[derive(Serialize, Deserialize)]
struct Index {
    format: u32,
    plugins: Names,
}

/// The store of one director.
#[derive(Debug)]
pub struct PluginStore {
    folder: PathBuf,
    names: Names,
    /// Held as long as nobody else may write.
    lock: Option<File>,
}

impl PluginStore {
    /// Reads what is stored below `state_dir`. Nothing, if there is no such folder yet.
    pub fn read(state_dir: &Path) -> Result<PluginStore, StoreError> {
        let folder = state_dir.join("plugins");
        let path = folder.join("index.json");
        let names = match fs::read(&path) {
            Ok(text) => parse(&text).map_err(|cause| StoreError::Damaged { path, cause })?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Names::new(),
            Err(cause) => return Err(StoreError::Io { doing: "read", path, cause }),
        };
        Ok(PluginStore { folder, names, lock: None })
    }

    /// The same for a director that will write: it alone has the store from now on. A folder that
    /// is not there yet is nobody's.
    pub fn open(state_dir: &Path) -> Result<PluginStore, StoreError> {
        let mut store = PluginStore::read(state_dir)?;
        if !store.folder.exists() {
            return Ok(store);
        }
        match store.hold() {
            Ok(()) => {
                store.sweep();
                Ok(store)
            }
            // A disk that takes nothing keeps nobody from starting. An upload will say so.
            Err(StoreError::Io { .. }) => Ok(store),
            Err(error) => Err(error),
        }
    }

    /// Deletes what a crash between a module and its name has left.
    fn sweep(&self) {
        // Without any name the index may be gone, and is better not followed.
        let (false, Ok(files)) = (self.names.is_empty(), fs::read_dir(&self.folder)) else {
            return;
        };
        for file in files.flatten() {
            let name = file.file_name();
            let name = name.to_str().unwrap_or_default();
            if name.ends_with(".wasm.new") {
                let _ = fs::remove_file(file.path());
            } else if let Some(digest) = name.strip_suffix(".wasm") {
                self.discard(digest);
            }
        }
    }

    /// A store that starts anew where the index is damaged; the damaged one is moved aside.
    pub fn without_index(state_dir: &Path) -> Result<PluginStore, StoreError> {
        let folder = state_dir.join("plugins");
        let (path, aside) = (folder.join("index.json"), folder.join("index.json.damaged"));
        fs::rename(&path, aside).map_err(|cause| StoreError::Io {
            doing: "move aside",
            path,
            cause,
        })?;
        let mut store = PluginStore { folder, names: Names::new(), lock: None };
        store.hold()?;
        Ok(store)
    }

    /// Keeps other directors out until this process ends, however it does.
    fn hold(&mut self) -> Result<(), StoreError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let path = self.folder.join("lock");
        let error = |cause| StoreError::Io { doing: "lock", path: path.clone(), cause };
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(&path).map_err(error)?;
        match file.try_lock() {
            Ok(()) => self.lock = Some(file),
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Taken { path: self.folder.clone() });
            }
            Err(TryLockError::Error(cause)) => return Err(error(cause)),
        }
        Ok(())
    }

    /// What names and versions there are.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The module of a version, if its content is still what was stored.
    pub fn module(&self, version: &StoredVersion) -> Result<Vec<u8>, StoreError> {
        let path = self.path(&version.digest);
        let module = match fs::read(&path) {
            Ok(module) => module,
            Err(cause) => return Err(StoreError::Io { doing: "read", path, cause }),
        };
        if digest(&module) == version.digest {
            Ok(module)
        } else {
            Err(StoreError::WrongDigest { path })
        }
    }

    /// Stores a module, if it is not there already. No name refers to it yet.
    pub fn put(&mut self, module: &[u8]) -> Result<(), StoreError> {
        self.make_folder()?;
        let path = self.path(&digest(module));
        // One that is there and damaged is replaced.
        if fs::read(&path).is_ok_and(|there| there == module) {
            return Ok(());
        }
        write(&path, module)
    }

    /// Makes `names` what there is. Modules that no name refers to any more are deleted.
    pub fn set_names(&mut self, names: Names) -> Result<(), StoreError> {
        if names == self.names {
            return Ok(());
        }
        self.make_folder()?;
        let index = Index { format: FORMAT, plugins: names };
        let path = self.folder.join("index.json");
        let text = serde_json::to_vec_pretty(&index).map_err(|cause| StoreError::Io {
            doing: "write",
            path: path.clone(),
            cause: cause.into(),
        })?;
        write(&path, &text)?;
        let former = std::mem::replace(&mut self.names, index.plugins);
        for version in former.values().flat_map(|plugin| &plugin.versions) {
            self.discard(&version.digest);
        }
        Ok(())
    }

    /// Makes `names` what there is until a restart, which finds what was there before.
    pub fn set_names_until_restart(&mut self, names: Names) {
        self.names = names;
    }

    /// Deletes a module, if no name refers to it.
    pub fn discard(&self, digest: &str) {
        let mut kept = self.names.values().flat_map(|plugin| &plugin.versions);
        if !kept.any(|kept| kept.digest == digest) {
            // One that stays is only a file too many, and goes when its content comes again.
            let _ = fs::remove_file(self.path(digest));
        }
    }

    fn make_folder(&mut self) -> Result<(), StoreError> {
        // Whoever can write here decides what code the director runs.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(|cause| {
            StoreError::Io { doing: "make the folder", path: self.folder.clone(), cause }
        })?;
        self.hold()
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }
}

fn parse(text: &[u8]) -> Result<Names, String> {
    let index: Index = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if index.format != FORMAT {
        return Err(format!("its format is {}, and this shunt knows {FORMAT}", index.format));
    }
    let is_digest = |digest: &str| {
        digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    for (name, plugin) in &index.plugins {
        // One more is given to the next upload.
        let has_next = plugin.last < u32::MAX;
        let known = plugin.current == 0 || plugin.version(plugin.current).is_some();
        let numbered = plugin.versions.is_sorted_by(|one, next| one.number < next.number)
            && plugin.versions.iter().all(|version| (1..=plugin.last).contains(&version.number));
        // The digest becomes part of a path.
        let digests = plugin.versions.iter().all(|version| is_digest(&version.digest));
        if !(known && numbered && digests && has_next) {
            return Err(format!("what it says of plugin {name} contradicts itself"));
        }
    }
    Ok(index.plugins)
}

/// Writes a file as a whole or not at all, and only comes back when it will survive a crash.
pub fn write(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let error = |doing, path: &Path| {
        let path = path.to_owned();
        move |cause| StoreError::Io { doing, path, cause }
    };
    let beside = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&beside).map_err(error("create", &beside))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(error("write", &beside))?;
    fs::rename(&beside, path).map_err(error("rename", &beside))?;
    // The rename itself is on disk when its folder is.
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(error("write", folder))
}

#[cfg(test)]
#[path = "plugin_store_tests.rs"]
mod tests;
