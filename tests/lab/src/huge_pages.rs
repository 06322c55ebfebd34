use crate::cleanup::{self, Guard};
use crate::error::{Doing, Error, Result};
use std::fs;
use std::io;

/// How many huge pages of 2 MiB the machine sets aside
/// (Documentation/admin-guide/mm/hugetlbpage.rst).
const SET_ASIDE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

/// Huge pages for a program that wants them set aside. The machine has as many as before once
/// this is dropped, or a signal ends the process.
#[derive(Debug)]
pub struct HugePages {
    _guard: Guard,
}

impl HugePages {
    /// Sees to it that so many huge pages of 2 MiB are free.
    pub fn at_least(wanted: u64) -> Result<HugePages> {
        let (before, free) = (read(SET_ASIDE)?, read(FREE)?);
        let put_back = move || drop(write(before));
        let ((), guard) = cleanup::make(put_back, || {
            write(before + wanted.saturating_sub(free))?;
            if read(FREE)? >= wanted {
                return Ok(());
            }
            let source = io::Error::from(io::ErrorKind::OutOfMemory);
            Err(Error::Io { doing: format!("setting aside {wanted} huge pages"), source })
        })?;
        Ok(HugePages { _guard: guard })
    }
}

fn read(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).doing(|| format!("reading {path}"))?;
    text.trim().parse().map_err(io::Error::other).doing(|| format!("reading {path}"))
}

fn write(count: u64) -> Result<()> {
    fs::write(SET_ASIDE, count.to_string()).doing(|| format!("writing {count} to {SET_ASIDE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MachineLock;

    #[test]
    fn huge_pages_are_given_back() {
        let _lock = MachineLock::acquire().unwrap();
        let before = read(SET_ASIDE).unwrap();
        let pages = HugePages::at_least(3).unwrap();
        assert!(read(FREE).unwrap() >= 3);
        drop(pages);
        assert_eq!(read(SET_ASIDE).unwrap(), before);
    }
}
