//! The config file: what it can say, its defaults, and how it is read.
//!
//! Reading has two steps. `serde` takes the file apart and refuses what is no TOML, what has an
//! unknown key or a value of the wrong type; `config_check` then judges what the values
//! mean and finds every problem at once. Both name line and column.

use crate::config_api::{ApiConfig, WrittenApi};
use crate::config_check;
use crate::config_health::WrittenHealthCheck;
use crate::config_plugins::{PluginsConfig, WrittenPlugins};
use crate::health::Policy;
use crate::mac::Mac;
use crate::scheduler_name::{Params, SchedulerName};
use dataplane::{Capacity, ServiceKey, Settings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use toml::Spanned;

/// IPv4 flows that each worker can remember, unless the file says otherwise.
pub const FLOWS_DEFAULT: i64 = 1_000_000;
/// IPv6 flows that each worker can remember, unless the file says otherwise.
pub const FLOWS_V6_DEFAULT: i64 = 250_000;
/// Where commands reach a running director, unless told otherwise.
pub const API_SOCKET_DEFAULT: &str = "/run/shunt/api.sock";
/// Where Prometheus finds the metrics, unless the file says otherwise.
pub const METRICS_LISTEN_DEFAULT: &str = "127.0.0.1:9464";
/// The value of `[metrics] listen` that switches the endpoint off.
pub const METRICS_OFF: &str = "off";

/// What a worker does when no packet comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Poll {
    /// It sleeps in poll(2) after a number of empty turns.
    #[default]
    Adaptive,
    /// It never sleeps.
    Busy,
}

/// How a queue's socket is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Zero-copy, or copy where the driver cannot.
    #[default]
    Auto,
    /// Zero-copy or not at all.
    ZeroCopy,
    /// Copy, even where the driver could do better.
    Copy,
}

/// What a start does when another machine answers for a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DuplicateVip {
    /// It says who it is, and ends.
    #[default]
    Refuse,
    /// It says who it is, and adds and announces the VIP all the same.
    Take,
}

/// Which of an interface's queues are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queues {
    /// Every one that the interface has.
    All,
    /// These.
    List(Vec<u32>),
}

/// Busy polling of one interface: driver and worker share a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPollConfig {
    /// Packets that one poll takes from the NIC (SO_BUSY_POLL_BUDGET).
    pub budget: u16,
    /// Microseconds that one poll waits for packets (SO_BUSY_POLL).
    pub wait: u32,
    /// Empty polls before interrupts come on again (napi_defer_hard_irqs).
    pub defer_hard_irqs: u32,
    /// Nanoseconds that interrupts stay off without a poll (gro_flush_timeout).
    pub gro_flush_timeout: u32,
}

impl Default for BusyPollConfig {
    fn default() -> BusyPollConfig {
        BusyPollConfig { budget: 64, wait: 20, defer_hard_irqs: 2, gro_flush_timeout: 200_000 }
    }
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Its name.
    pub name: String,
    /// How its sockets are bound.
    pub mode: Mode,
    /// The queues served.
    pub queues: Queues,
    /// One core for each queue, or none: chosen at start.
    pub cores: Option<Vec<usize>>,
    /// Busy polling, if wanted.
    pub busy_poll: Option<BusyPollConfig>,
}

/// One real server of one virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerConfig {
    /// Its address.
    pub address: IpAddr,
    /// Its weight; 0 drains.
    pub weight: u16,
    /// Its MAC address, if it is not to be asked for.
    pub mac: Option<Mac>,
}

/// One virtual service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// What clients address.
    pub key: ServiceKey,
    /// The name of its scheduler.
    pub scheduler: SchedulerName,
    /// What its scheduler is told.
    pub params: Params,
    /// How it looks after its real servers.
    pub policy: Policy,
    /// Its real servers.
    pub servers: Vec<ServerConfig>,
}

/// The MAC addresses that virtual services give to their real servers.
pub fn macs(services: &[ServiceConfig]) -> BTreeMap<IpAddr, Mac> {
    let servers = services.iter().flat_map(|service| &service.servers);
    servers.filter_map(|server| Some((server.address, server.mac?))).collect()
}

/// A config file that was found to make sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What an idle worker does.
    pub poll: Poll,
    /// Flows that each worker can remember.
    pub capacity: Capacity,
    /// Timeouts and the like.
    pub settings: Settings,
    /// Whether the director adds, announces and removes the VIPs.
    pub manage_vip: bool,
    /// What happens if another machine answers for one.
    pub duplicate_vip: DuplicateVip,
    /// The interfaces, at least one.
    pub interfaces: Vec<InterfaceConfig>,
    /// Where the director listens for commands, and to whom.
    pub api: ApiConfig,
    /// The metrics endpoint; `None`: switched off.
    pub metrics_listen: Option<SocketAddr>,
    /// Where uploaded plugins and dumps of failed calls are kept.
    pub state_dir: PathBuf,
    /// What plugins may use, and when one that fails is taken back.
    pub plugins: PluginsConfig,
    /// The virtual services.
    pub services: Vec<ServiceConfig>,
}

/// Says whether a service may use a scheduler, given the folder that the config names for what is
/// kept (`state_dir`); else one sentence that says what there is.
pub type Known<'a> = &'a dyn Fn(&Path, &SchedulerName) -> Result<(), String>;

/// Something wrong with a config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A config file that is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {cause}. Name an existing file with --config; config/director.toml is one to start from", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Its content is wrong. One line for each problem.
    #[error("{}", Listed { path, problems })]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in the order of the file.
        problems: Vec<Problem>,
    },
}

struct Listed<'a> {
    path: &'a Path,
    problems: &'a [Problem],
}

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Problem { line, column, message }) in self.problems.iter().enumerate() {
            let newline = if position > 0 { "\n" } else { "" };
            write!(f, "{newline}{}:{line}:{column}: {message}", self.path.display())?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads a config file. `known` judges the names of schedulers.
    pub fn read(path: &Path, known: Known<'_>) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|cause| ConfigError::Unreadable { path: path.to_owned(), cause })?;
        Config::parse(&text, known)
            .map_err(|problems| ConfigError::Wrong { path: path.to_owned(), problems })
    }

    /// The MAC address that it gives to a real server.
    pub fn mac(&self, address: IpAddr) -> Option<Mac> {
        let mut servers = self.services.iter().flat_map(|service| &service.servers);
        servers.find_map(|server| server.mac.filter(|_| server.address == address))
    }

    /// Reads the text of a config file, or says everything that is wrong with it.
    pub fn parse(text: &str, known: Known<'_>) -> Result<Config, Vec<Problem>> {
        let written: Written = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let (line, column) = place(text, offset);
            // serde's message may run over several lines; a problem is one.
            let message = error.message().replace('\n', "; ");
            vec![Problem { line, column, message }]
        })?;
        config_check::check(text, &written, known)
    }
}

/// Line and column, from 1, of a byte offset.
pub(crate) fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The file as it is written, before its values are judged.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    #[serde(default)]
    pub poll: Poll,
    pub flows: Option<Spanned<i64>>,
    pub flows_v6: Option<Spanned<i64>>,
    pub state_dir: Option<Spanned<String>>,
    pub manage_vip: Option<bool>,
    #[serde(default)]
    pub duplicate_vip: DuplicateVip,
    #[serde(default)]
    pub unknown_flow: WrittenUnknownFlow,
    #[serde(default)]
    pub timeouts: WrittenTimeouts,
    #[serde(default)]
    pub interface: Vec<WrittenInterface>,
    #[serde(default)]
    pub api: WrittenApi,
    #[serde(default)]
    pub metrics: WrittenMetrics,
    #[serde(default)]
    pub plugins: WrittenPlugins,
    #[serde(default)]
    pub virtual_service: Vec<WrittenService>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WrittenUnknownFlow {
    #[default]
    Reset,
    Drop,
    Schedule,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenTimeouts {
    pub tcp: Option<Spanned<i64>>,
    pub tcpfin: Option<Spanned<i64>>,
    pub udp: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenInterface {
    pub name: Spanned<String>,
    #[serde(default)]
    pub mode: Mode,
    pub queues: Option<Spanned<toml::Value>>,
    pub cores: Option<Spanned<Vec<Spanned<i64>>>>,
    pub busy_poll: Option<WrittenBusyPoll>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenBusyPoll {
    pub budget: Option<Spanned<i64>>,
    pub wait: Option<Spanned<i64>>,
    pub defer_hard_irqs: Option<Spanned<i64>>,
    pub gro_flush_timeout: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenMetrics {
    pub listen: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenService {
    pub address: Spanned<String>,
    pub protocol: Spanned<WrittenProtocol>,
    pub scheduler: Option<Spanned<String>>,
    #[serde(default)]
    pub scheduler_params: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
    pub quorum: Option<Spanned<i64>>,
    pub hysteresis: Option<Spanned<i64>>,
    pub sorry_server: Option<Spanned<String>>,
    pub slow_start: Option<Spanned<i64>>,
    pub health_check: Option<WrittenHealthCheck>,
    #[serde(default)]
    pub real_server: Vec<WrittenServer>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WrittenProtocol {
    Tcp,
    Udp,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenServer {
    pub address: Spanned<String>,
    pub weight: Option<Spanned<i64>>,
    pub mac: Option<Spanned<String>>,
}
