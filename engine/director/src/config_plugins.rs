//! `state_dir` and the `[plugins]` section of the config: what plugins may use, where uploads are
//! kept, and when a plugin that fails is taken back.

use crate::config_check::Check;
use crate::worker_thread::PLUGIN_STACK_MAX;
use plugin_host::Limits;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// Where uploaded plugins and dumps of failed calls are kept, unless the file says otherwise.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/shunt";

/// A small module has some kilobytes. Beyond 64 MiB, which must pass through memory, nobody has a
/// scheduler to upload.
const FILE_SIZE: RangeInclusive<i64> = 1_024..=64 << 20;
/// From one page of WebAssembly to 1 GiB, which each worker and service takes anew.
const MEMORY: RangeInclusive<i64> = 64 << 10..=1 << 30;
const TABLES: RangeInclusive<i64> = 0..=1 << 20;
/// With less no stock plugin runs; more is not left on a worker's own stack.
const STACK: RangeInclusive<i64> = 16 << 10..=PLUGIN_STACK_MAX as i64;
/// With less no stock plugin runs over as many servers as a service may have; more would hold up
/// a worker for 7 ms and longer at a call.
const FUEL: RangeInclusive<i64> = 40_000..=10_000_000;
const UPDATE_FUEL: RangeInclusive<i64> = 100_000..=100_000_000;
const INIT_FUEL: RangeInclusive<i64> = 100_000..=1_000_000_000;
/// Each takes 4 GiB of address space, and there are 128 TiB of it.
const INSTANCES: RangeInclusive<i64> = 1..=30_000;
const FAILURES: RangeInclusive<i64> = 0..=1_000_000_000;
/// In seconds, up to a day.
const WINDOW: RangeInclusive<i64> = 1..=86_400;
const KEEP: RangeInclusive<i64> = 1..=1_000;

/// What plugins may use, and when one that fails is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginsConfig {
    /// What each plugin, and each of its instances, may use.
    pub limits: Limits,
    /// Instances that all services on all workers may have together.
    pub instances: usize,
    /// Failures within `window` that a plugin is forgiven at a service; at one more it is taken
    /// back to its last version that worked.
    pub failures: u32,
    /// How long failures are remembered.
    pub window: Duration,
    /// Versions of each plugin that are kept.
    pub keep: usize,
    /// Public keys of minisign; if there are any, an upload must be signed with one of them.
    pub signature_keys: Vec<String>,
}

impl Default for PluginsConfig {
    fn default() -> PluginsConfig {
        PluginsConfig {
            limits: Limits::default(),
            instances: 4_096,
            failures: 10,
            window: Duration::from_secs(60),
            keep: 10,
            signature_keys: Vec::new(),
        }
    }
}

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenPlugins {
    file_size: Option<Spanned<i64>>,
    memory: Option<Spanned<i64>>,
    tables: Option<Spanned<i64>>,
    stack: Option<Spanned<i64>>,
    fuel: Option<Spanned<i64>>,
    update_fuel: Option<Spanned<i64>>,
    init_fuel: Option<Spanned<i64>>,
    instances: Option<Spanned<i64>>,
    failures: Option<Spanned<i64>>,
    window: Option<Spanned<i64>>,
    keep: Option<Spanned<i64>>,
    #[serde(default)]
    signature_keys: Vec<Spanned<String>>,
}

impl Check<'_> {
    /// The `[plugins]` section.
    pub(crate) fn plugins(&mut self, written: &WrittenPlugins) -> PluginsConfig {
        let default = PluginsConfig::default();
        let limits = self.plugin_limits(written, default.limits);
        let mut number = |written, range, default: i64, what| {
            // Each range begins at 0 or above it.
            self.number(written, range, default, what).max(0)
        };
        let (instances, keep) = (default.instances as i64, default.keep as i64);
        let (failures, window) = (default.failures.into(), default.window.as_secs() as i64);
        PluginsConfig {
            limits,
            instances: number(&written.instances, INSTANCES, instances, "instances") as usize,
            failures: number(&written.failures, FAILURES, failures, "failures") as u32,
            window: Duration::from_secs(number(&written.window, WINDOW, window, "window") as u64),
            keep: number(&written.keep, KEEP, keep, "keep") as usize,
            signature_keys: self.signature_keys(&written.signature_keys),
        }
    }

    fn plugin_limits(&mut self, written: &WrittenPlugins, default: Limits) -> Limits {
        let mut number = |written, range, default: u64, what| {
            self.number(written, range, default as i64, what).max(0) as u64
        };
        let mut size = |written, range, default: usize, what| {
            number(written, range, default as u64, what) as usize
        };
        Limits {
            file_size: size(&written.file_size, FILE_SIZE, default.file_size, "file_size"),
            memory: size(&written.memory, MEMORY, default.memory, "memory"),
            table_elements: size(&written.tables, TABLES, default.table_elements, "tables"),
            stack: size(&written.stack, STACK, default.stack, "stack"),
            schedule_fuel: number(&written.fuel, FUEL, default.schedule_fuel, "fuel"),
            update_fuel: number(
                &written.update_fuel,
                UPDATE_FUEL,
                default.update_fuel,
                "update_fuel",
            ),
            init_fuel: number(&written.init_fuel, INIT_FUEL, default.init_fuel, "init_fuel"),
            ..default
        }
    }

    fn signature_keys(&mut self, written: &[Spanned<String>]) -> Vec<String> {
        for (position, key) in written.iter().enumerate() {
            let (offset, text) = (key.span().start, key.get_ref());
            // 42 bytes in base64: the algorithm "Ed", the key's number, the key.
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/');
            if text.len() != 56 || !text.starts_with("RW") || !text.chars().all(plain) {
                self.problem(offset, format!("{text:?} is no public key of minisign: write the second line of minisign.pub, which begins with RW and has 56 characters"));
            } else if let Some(first) = written[..position].iter().find(|k| k.get_ref() == text) {
                let line = self.line(first);
                self.problem(offset, format!("this key is already in line {line}: name it once"));
            }
        }
        written.iter().map(|key| key.get_ref().clone()).collect()
    }

    /// The folder for what a director keeps.
    pub(crate) fn state_dir(&mut self, written: &Option<Spanned<String>>) -> PathBuf {
        let Some(written) = written else { return PathBuf::from(STATE_DIR_DEFAULT) };
        let path = PathBuf::from(written.get_ref());
        if !path.is_absolute() {
            self.problem(
                written.span().start,
                format!("state_dir needs an absolute path, as in \"{STATE_DIR_DEFAULT}\""),
            );
        }
        path
    }
}
