//! How long the NIC's interrupts stay off while a worker polls it.

use crate::BusyPoll;
use crate::error::{Error, system};
use crate::nic::{self, Nic};
use std::fs;
use std::path::PathBuf;

/// The interface's settings as they were, put back when this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    before: Vec<(PathBuf, String)>,
}

impl Interrupts {
    /// Keeps the interrupts of all of the interface's queues off between polls.
    pub(crate) fn defer(nic: &Nic, options: &BusyPoll) -> Result<Interrupts, Error> {
        let folder = nic::sysfs(&nic.name, nic.index)
            .map_err(system(nic.name.clone(), "find its settings in /sys"))?;
        let mut interrupts = Interrupts::default();
        for (name, value) in [
            ("napi_defer_hard_irqs", u128::from(options.defer_hard_irqs)),
            ("gro_flush_timeout", options.gro_flush_timeout.as_nanos()),
        ] {
            let path = folder.join(name);
            let failed = |doing| system(path.display().to_string(), doing);
            let before = fs::read_to_string(&path).map_err(failed("read"))?;
            fs::write(&path, value.to_string()).map_err(failed("write"))?;
            interrupts.before.push((path, before));
        }
        Ok(interrupts)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        for (path, before) in self.before.drain(..).rev() {
            // The interface may be gone, and its settings with it: nothing is left to put back.
            let _ = fs::write(path, before.trim());
        }
    }
}
