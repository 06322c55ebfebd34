use crate::cleanup::{self, Guard};
use crate::error::{Doing, Result};
use crate::netns::own_name;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A directory for files that nobody else reads, removed with its value or by a signal.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    _guard: Guard,
}

impl TempDir {
    /// Makes the directory `shunt-PID-PURPOSE` where temporary files go.
    pub fn create(purpose: &str) -> Result<TempDir> {
        let path = std::env::temp_dir().join(own_name(purpose));
        let made = Arc::new(AtomicBool::new(false));
        let (to_remove, was_made) = (path.clone(), Arc::clone(&made));
        let remove = move || {
            // Nothing is removed that someone else had made under this name.
            if was_made.load(Relaxed) {
                let _ = fs::remove_dir_all(&to_remove);
            }
        };
        let ((), guard) = cleanup::make(remove, || {
            let result = DirBuilder::new().mode(0o700).create(&path);
            made.store(result.is_ok(), Relaxed);
            result.doing(|| format!("making the directory {}", path.display()))
        })?;
        Ok(TempDir { path, _guard: guard })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into it and returns the file's path.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_with_its_value() {
        let directory = TempDir::create("lab-directory").unwrap();
        let file = directory.write("a", "text").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "text");
        assert!(TempDir::create("lab-directory").is_err(), "it exists");
        assert!(file.exists(), "the second attempt must not remove the first's");
        drop(directory);
        assert!(!file.exists());
    }
}
