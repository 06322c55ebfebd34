//! `state_dir` and the `[plugins]` section of the config: what plugins may use, where uploads are
//! kept, and when a plugin that fails is taken back.

use crate::config_check::Check;
use crate::signatures::SignatureKeys;
use crate::worker_thread::PLUGIN_STACK_MAX;
use plugin_host::Limits;
use serde::Deserialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// Where uploaded plugins and dumps of failed calls are kept, unless the file says otherwise.
pub const STATE_DIR_DEFAULT: &str = "/var/lib/shunt";

// With the least of each the stock plugins start.
/// Beyond 64 MiB, which must pass through memory, nobody has a scheduler to upload.
const FILE_SIZE: RangeInclusive<i64> = 64 << 10..=64 << 20;
/// Each worker and service takes it anew.
const MEMORY: RangeInclusive<i64> = 1 << 20..=1 << 30;
const TABLES: RangeInclusive<i64> = 64..=1 << 20;
/// More is not left on a worker's own stack.
const STACK: RangeInclusive<i64> = 16 << 10..=PLUGIN_STACK_MAX as i64;
/// More would hold up a worker for 7 ms and longer at a call.
const FUEL: RangeInclusive<i64> = 40_000..=10_000_000;
const UPDATE_FUEL: RangeInclusive<i64> = 100_000..=100_000_000;
const INIT_FUEL: RangeInclusive<i64> = 100_000..=1_000_000_000;
/// From what the stock plugins hand over to what a worker copies in some ten microseconds.
const STATE: RangeInclusive<i64> = 64..=64 << 10;
/// In seconds. The control thread does nothing else meanwhile.
const COMPILE_TIME: RangeInclusive<i64> = 1..=60;
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
    /// Failures within `window` that a version is forgiven; at one more its name is taken back to
    /// the last version that worked.
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
    state: Option<Spanned<i64>>,
    compile_time: Option<Spanned<i64>>,
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
        Limits {
            file_size: number(&written.file_size, FILE_SIZE, default.file_size as u64, "file_size")
                as usize,
            memory: number(&written.memory, MEMORY, default.memory as u64, "memory") as usize,
            table_elements: number(&written.tables, TABLES, default.table_elements as u64, "tables")
                as usize,
            stack: number(&written.stack, STACK, default.stack as u64, "stack") as usize,
            schedule_fuel: number(&written.fuel, FUEL, default.schedule_fuel, "fuel"),
            update_fuel: number(
                &written.update_fuel,
                UPDATE_FUEL,
                default.update_fuel,
                "update_fuel",
            ),
            init_fuel: number(&written.init_fuel, INIT_FUEL, default.init_fuel, "init_fuel"),
            state: number(&written.state, STATE, default.state as u64, "state") as usize,
            compile_time: Duration::from_secs(number(
                &written.compile_time,
                COMPILE_TIME,
                default.compile_time.as_secs(),
                "compile_time",
            )),
        }
    }

    fn signature_keys(&mut self, written: &[Spanned<String>]) -> Vec<String> {
        for (position, key) in written.iter().enumerate() {
            let (offset, text) = (key.span().start, key.get_ref());
            if let Err(message) = SignatureKeys::parse(std::slice::from_ref(text)) {
                self.problem(offset, message);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Problem};
    use crate::scheduler_name::{Params, SchedulerName, stock_only};
    use plugin_host::{Placement, PluginHost, STOCK};
    use std::path::Path;

    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn parse(first_line: &str, section: &str, params: &str) -> Result<Config, Vec<Problem>> {
        let text = format!(
            "{first_line}\n[plugins]\n{section}\n[[interface]]\nname = \"eth0\"\n\
             [[virtual_service]]\naddress = \"172.17.100.100:80\"\nprotocol = \"tcp\"\n\
             scheduler = \"wrr@0\"\n[virtual_service.scheduler_params]\n{params}\n"
        );
        Config::parse(&text, &stock_only)
    }

    #[test]
    fn defaults_are_those_that_are_documented() {
        let config = parse("", "", "").unwrap();
        assert_eq!(config.state_dir, Path::new("/var/lib/shunt"));
        assert_eq!(config.plugins, PluginsConfig::default());
        let PluginsConfig { limits, instances, failures, window, keep, signature_keys } =
            config.plugins;
        assert_eq!(limits, Limits::default());
        assert_eq!((instances, failures, window.as_secs(), keep), (4_096, 10, 60, 10));
        assert_eq!(signature_keys, [] as [String; 0]);
    }

    #[test]
    fn every_key_is_heard() {
        let section = format!(
            "file_size = 70_000\nmemory = 2_000_000\ntables = 100\nstack = 20_000\nfuel = 50_000\n\
             update_fuel = 200_000\ninit_fuel = 300_000\nstate = 500\ncompile_time = 6\n\
             instances = 7\nfailures = 0\nwindow = 8\nkeep = 9\nsignature_keys = [\"{KEY}\"]"
        );
        let config = parse("state_dir = \"/srv/shunt\"", &section, "").unwrap();
        assert_eq!(config.state_dir, Path::new("/srv/shunt"));
        let limits = Limits {
            file_size: 70_000,
            memory: 2_000_000,
            table_elements: 100,
            stack: 20_000,
            schedule_fuel: 50_000,
            update_fuel: 200_000,
            init_fuel: 300_000,
            state: 500,
            compile_time: Duration::from_secs(6),
        };
        let expected = PluginsConfig {
            limits,
            instances: 7,
            failures: 0,
            window: Duration::from_secs(8),
            keep: 9,
            signature_keys: vec![KEY.to_owned()],
        };
        assert_eq!(config.plugins, expected);
    }

    #[test]
    fn parameters_of_any_plain_type_are_told_as_text() {
        let written = "mh-port = true\noff = false\nsize = 1_000\nhex = 0x10\nless = -5\n\
                       share = 1.0\nsmall = 1e-9\nnone = nan\nname = \"a b=c\"\nempty = ''";
        let config = parse("", "", written).unwrap();
        let told: Vec<(&str, &str)> =
            config.services[0].params.iter().map(|(key, value)| (&**key, &**value)).collect();
        let expected = [
            ("empty", ""),
            ("hex", "16"),
            ("less", "-5"),
            ("mh-port", "true"),
            ("name", "a b=c"),
            ("none", "NaN"),
            ("off", "false"),
            ("share", "1.0"),
            ("size", "1000"),
            ("small", "1e-9"),
        ];
        assert_eq!(told, expected);
        assert_eq!(config.services[0].scheduler.to_string(), "wrr@0");
    }

    #[test]
    fn bad_values_are_named_with_their_place_and_the_next_step() {
        let long = format!("k = \"{}\"", "v".repeat(257));
        let many: String = (0..17).map(|n| format!("k{n:02} = '{}'\n", "v".repeat(252))).collect();
        let twice = format!("signature_keys = [\"{KEY}\", \"{KEY}\"]");
        for (first, section, params, place, expected) in [
            ("state_dir = \"plugins\"", "", "", (1, 13), "absolute path, as in \"/var/lib/shunt\""),
            ("state_dir = 5", "", "", (1, 13), "expected a string"),
            ("", "file_size = 0", "", (3, 13), "file_size is 0: write a number from 65536 to"),
            ("", "memory = 4_294_967_296", "", (3, 10), "memory is 4294967296"),
            ("", "tables = -1", "", (3, 10), "from 64 to 1048576"),
            (
                "",
                "stack = 524_288",
                "",
                (3, 9),
                "stack is 524288: write a number from 16384 to 393216",
            ),
            ("", "fuel = 0", "", (3, 8), "fuel is 0: write a number from 40000 to 10000000"),
            ("", "update_fuel = 0", "", (3, 15), "update_fuel is 0"),
            ("", "init_fuel = 0", "", (3, 13), "init_fuel is 0"),
            ("", "state = 65_537", "", (3, 9), "from 64 to 65536"),
            ("", "compile_time = 0", "", (3, 16), "from 1 to 60"),
            ("", "compile_time = \"5s\"", "", (3, 16), "expected i64"),
            ("", "instances = 31_000", "", (3, 13), "from 1 to 30000"),
            ("", "failures = -1", "", (3, 12), "failures is -1"),
            ("", "window = 0", "", (3, 10), "window is 0"),
            ("", "keep = 0", "", (3, 8), "keep is 0"),
            ("", "kept = 1", "", (3, 1), "unknown field `kept`"),
            ("", "signature_keys = [\"k\"]", "", (3, 19), "\"k\" is no public key of minisign"),
            ("", &twice, "", (3, 79), "already in line 3"),
            (
                "",
                "",
                "k = [1]",
                (11, 5),
                "the parameter k has a value of the type array: write text",
            ),
            ("", "", "k = 1979-05-27", (11, 5), "has a value of the type datetime"),
            ("", "", "'a b' = 1", (11, 1), "\"a b\" is no key of a parameter"),
            ("", "", "k = \"a\\nb\"", (11, 5), "parameter k has control characters"),
            ("", "", &long, (11, 5), "has 257 bytes: write at most 256"),
            ("", "", &many, (11, 1), "there is room for 4096"),
        ] {
            let problems = parse(first, section, params).unwrap_err();
            let [problem] = &problems[..] else { panic!("{section}{params}: {problems:?}") };
            let message = &problem.message;
            assert_eq!((problem.line, problem.column), place, "{section}{params}: {message}");
            assert!(message.contains(expected) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_scheduler_is_judged_with_the_folder_that_the_file_names() {
        let text = "state_dir = \"/srv/shunt\"\n[[interface]]\nname = \"eth0\"\n\
                    [[virtual_service]]\naddress = \"172.17.100.100:80\"\nprotocol = \"tcp\"\n";
        let known = |folder: &Path, scheduler: &SchedulerName| {
            assert_eq!(folder, Path::new("/srv/shunt"));
            if scheduler.to_string() == "my@3" { Ok(()) } else { Err(format!("no {scheduler}")) }
        };
        let config = Config::parse(&format!("{text}scheduler = \"my@3\"\n"), &known).unwrap();
        assert_eq!(config.services[0].scheduler.version, Some(3));
        for (name, expected) in
            [("my@4", "no my@4"), ("My", "is no name of a plugin"), ("my@x", "no version of my")]
        {
            let text = format!("{text}scheduler = \"{name}\"\n");
            let problems = Config::parse(&text, &known).unwrap_err();
            assert_eq!((problems[0].line, problems[0].column), (7, 13), "{problems:?}");
            assert!(problems[0].message.contains(expected), "{problems:?}");
        }
        let problems = Config::parse(&format!("{text}scheduler = \"rr@2\"\n"), &stock_only);
        assert!(problems.unwrap_err()[0].message.contains("there is no rr@2"));
    }

    #[test]
    fn every_stock_plugin_starts_within_the_least_that_can_be_configured() {
        let limits = Limits {
            file_size: *FILE_SIZE.start() as usize,
            memory: *MEMORY.start() as usize,
            table_elements: *TABLES.start() as usize,
            stack: *STACK.start() as usize,
            schedule_fuel: *FUEL.start() as u64,
            update_fuel: *UPDATE_FUEL.start() as u64,
            init_fuel: *INIT_FUEL.start() as u64,
            state: *STATE.start() as usize,
            compile_time: Duration::from_secs(*COMPILE_TIME.start() as u64),
        };
        let host = PluginHost::new(limits).unwrap();
        for name in STOCK {
            let placement = Placement { worker: 0, workers: 1, seed: 0 };
            host.stock(name).unwrap().instantiate(placement, &Params::new()).unwrap();
        }
    }
}
