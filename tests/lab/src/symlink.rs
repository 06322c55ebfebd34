//! A name for something of the lab's that others can know beforehand.

use crate::cleanup::{self, Guard};
use crate::{Doing, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A symbolic link. Dropping it removes it, and so does a signal that ends the process.
#[derive(Debug)]
pub struct Symlink {
    path: PathBuf,
    _guard: Guard,
}

impl Symlink {
    /// Makes the link at `path`, where there may be one that leads nowhere any more.
    pub fn create(path: &Path, to: &Path) -> Result<Symlink> {
        let (ours, target) = (path.to_owned(), to.to_owned());
        let remove = move || {
            // Nothing is removed that leads elsewhere.
            if fs::read_link(&ours).is_ok_and(|found| found == target) {
                let _ = fs::remove_file(&ours);
            }
        };
        let ((), guard) = cleanup::make(remove, || {
            if path.is_symlink() && !path.exists() {
                let _ = fs::remove_file(path);
            }
            symlink(to, path).doing(|| format!("making the link {}", path.display()))
        })?;
        Ok(Symlink { path: path.to_owned(), _guard: guard })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TempDir;

    #[test]
    fn it_takes_the_place_of_one_that_leads_nowhere_and_of_nothing_else() {
        let folder = TempDir::create("symlink").unwrap();
        let (name, file) = (folder.path().join("name"), folder.write("file", "x").unwrap());
        symlink("/nowhere/at/all", &name).unwrap();
        let link = Symlink::create(&name, &file).unwrap();
        assert_eq!(fs::read_to_string(link.path()).unwrap(), "x");
        assert!(Symlink::create(&name, &file).is_err(), "it is taken");
        drop(link);
        assert!(!name.is_symlink());
        fs::write(&name, "mine").unwrap();
        assert!(Symlink::create(&name, &file).is_err());
        assert_eq!(fs::read_to_string(&name).unwrap(), "mine");
    }
}
