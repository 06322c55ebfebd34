use crate::cleanup::catch_signals;
use crate::error::{Doing, Result};
use crate::netns::require_root;
use std::fs::{File, OpenOptions};

/// Every test that makes namespaces holds this file locked meanwhile.
pub const LOCK_FILE: &str = "/tmp/shunt-netns-tests.lock";

/// The right to make namespaces in a test: one holder on the whole machine, whatever crate or
/// process it is in, because two topologies under load on two cores disturb each other.
#[derive(Debug)]
pub struct MachineLock {
    _file: File,
}

impl MachineLock {
    /// Waits for the lock. Dropping it, or the end of the process, gives it back.
    ///
    /// From here on a signal that ends the test removes what the test has made, and a caller who
    /// is not root gets one clear sentence.
    pub fn acquire() -> Result<MachineLock> {
        require_root("this test", "-E cargo test --workspace")?;
        catch_signals(|| ()).doing(|| "catching signals".into())?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(LOCK_FILE)
            .doing(|| format!("opening {LOCK_FILE}"))?;
        file.lock().doing(|| format!("locking {LOCK_FILE}"))?;
        Ok(MachineLock { _file: file })
    }
}
