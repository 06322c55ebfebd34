//! What a plugin may use.

use std::time::Duration;

/// Limits of every plugin that a [`PluginHost`](crate::PluginHost) loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of the file in bytes, text or module.
    pub file_size: usize,
    /// Linear memory in bytes, of each instance.
    pub memory: usize,
    /// Elements of all tables (of functions or references), of each instance.
    pub table_elements: usize,
    /// Stack of a call in bytes. Must leave room on the worker's own stack, or deep recursion
    /// ends the process instead of the call.
    pub stack: usize,
    /// Fuel of one `shunt_schedule`, `shunt_save` or `shunt_restore`: about one unit an
    /// instruction.
    pub schedule_fuel: u64,
    /// Fuel of one `shunt_update`, which also runs on the worker.
    pub update_fuel: u64,
    /// Fuel of the start function, `shunt_abi_version`, `shunt_init` and `shunt_configure`, each.
    pub init_fuel: u64,
    /// State in bytes that an instance may hand to its successor. The worker copies it.
    pub state: usize,
    /// How long compiling may take.
    pub compile_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            file_size: 1 << 20,
            memory: 16 << 20,
            table_elements: 16_384,
            stack: 256 << 10,
            schedule_fuel: 100_000,
            update_fuel: 2_000_000,
            init_fuel: 10_000_000,
            state: 4096,
            compile_time: Duration::from_secs(5),
        }
    }
}
