//! Kernel modules, with those that they depend on.

use lab::{Doing, Error, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules in the order in which they are to be loaded.
pub(crate) struct Modules {
    files: HashMap<String, PathBuf>,
    builtin: Vec<String>,
    pub(crate) loaded: Vec<(String, Vec<u8>)>,
}

impl Modules {
    /// The modules of the kernel whose folder this is; none is to be loaded yet.
    pub(crate) fn of(folder: &Path) -> Result<Modules> {
        let list = folder.join("modules.builtin");
        let list = fs::read_to_string(&list).doing(|| format!("reading {}", list.display()))?;
        let builtin = list.lines().map(|path| name(Path::new(path))).collect();
        let mut files = HashMap::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(folder) = folders.pop() {
            let doing = || format!("looking into {}", folder.display());
            for entry in fs::read_dir(&folder).doing(doing)? {
                let path = entry.doing(doing)?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(name(&path), path);
                }
            }
        }
        Ok(Modules { files, builtin, loaded: Vec::new() })
    }

    /// Loads a module, after those that it depends on.
    pub(crate) fn load(&mut self, wanted: &str) -> Result<()> {
        if self.builtin.iter().chain(self.loaded.iter().map(|(name, _)| name)).any(|n| n == wanted)
        {
            return Ok(());
        }
        let path = self.files.get(wanted).ok_or_else(|| Error::Io {
            doing: format!("looking for the kernel's module {wanted}"),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let bytes = read(path)?;
        for dependency in dependencies(&bytes) {
            self.load(&dependency)?;
        }
        self.loaded.push((wanted.to_owned(), bytes));
        Ok(())
    }
}

/// The name by which modules know each other: `-` is `_`.
fn name(path: &Path) -> String {
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut command = Command::new("xz");
    command.arg("-dc").arg(path);
    let line = lab::line(&command);
    let output = command
        .output()
        .map_err(|source| Error::Start { command: format!("{line} (package xz-utils)"), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Command { command: line, status: output.status.to_string(), stderr });
    }
    Ok(output.stdout)
}

/// What the module's section .modinfo names: strings that end in a zero byte.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = &module[at + key.len()..];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(0);
    let names = String::from_utf8_lossy(&value[..end]);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}
