//! What the API answers about plugins, as both its ends know it.

use crate::scheduler_name::PluginName;
use crate::service_name::ServiceName;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/plugins`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginsView {
    /// The plugins, by name: stock ones and those that were uploaded.
    pub plugins: Vec<PluginView>,
}

/// A plugin with its current version, and what all its instances did since the director started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginView {
    /// Its name.
    pub name: PluginName,
    /// Number of its current version; 0 is the stock plugin.
    pub version: u32,
    /// What its author calls that version, if anything.
    pub label: Option<String>,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// Size of the module in bytes.
    pub size: usize,
    /// Version of the contract between plugin and host.
    pub abi: u32,
    /// The current version is part of the program.
    pub stock: bool,
    /// The virtual services whose new flows go by it, whichever version of it they use.
    pub services: Vec<ServiceName>,
    /// Instances: one for each worker and service.
    pub instances: usize,
    /// Bytes of linear memory that all instances together have.
    pub memory: usize,
    /// Flows for which it was asked.
    pub calls: u64,
    /// Calls that trapped.
    pub traps: u64,
    /// Flows that went by the native fallback, by reason.
    pub fallbacks: BTreeMap<String, u64>,
    /// Times that it was taken back to a former version, by itself or by an operator.
    pub rollbacks: u64,
    /// Half of its calls took no longer, in nanoseconds; nothing before the first.
    pub p50: Option<u64>,
    /// 99 in 100 of its calls took no longer, in nanoseconds; nothing before the first.
    pub p99: Option<u64>,
    /// How long workers paused to adopt changes, this plugin's and others'; nothing before the
    /// first.
    pub swap: Option<SwapView>,
    /// Its versions that are kept, the latest first.
    pub versions: Vec<VersionView>,
}

/// How long workers paused to adopt changes, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapView {
    /// Changes that were timed, each worker's counted.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: u64,
    /// 999 in 1000 of them took no longer.
    pub p999: u64,
}

/// A version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// Its number.
    pub version: u32,
    /// What its author calls it, if anything.
    pub label: Option<String>,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// Size of the module in bytes.
    pub size: usize,
    /// When it was uploaded, in seconds since 1970; 0 for a stock plugin.
    pub uploaded: u64,
    /// What it is good for.
    pub state: VersionState,
    /// Why it failed, if it did.
    pub reason: Option<String>,
}

/// What a version of a plugin is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionState {
    /// Services that name no version use it.
    Current,
    /// It can be rolled back to.
    Kept,
    /// Not current, but a service names it.
    Pinned,
    /// It failed too often, or its check at the start; nothing goes back to it by itself.
    Failed,
}

impl VersionState {
    /// Its name in listings and JSON.
    pub fn name(self) -> &'static str {
        match self {
            VersionState::Current => "current",
            VersionState::Kept => "kept",
            VersionState::Pinned => "pinned",
            VersionState::Failed => "failed",
        }
    }
}

/// `GET /v1/plugins/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginShowView {
    /// The plugin.
    pub plugin: PluginView,
    /// The limits that it runs under, by their keys in the config: bytes, fuel, milliseconds.
    pub limits: BTreeMap<String, u64>,
    /// What happened to it, the latest last.
    pub events: Vec<EventView>,
}

/// The answer to an upload or a rollback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UploadView {
    /// The plugin's name.
    pub name: PluginName,
    /// Number of the version that is current now.
    pub version: u32,
    /// What its author calls that version, if anything.
    pub label: Option<String>,
    /// SHA-256 of the module, in hexadecimal.
    pub digest: String,
    /// Services whose new flows go by it from now on.
    pub services: usize,
    /// From the last byte of the request until all workers had adopted it.
    pub milliseconds: f64,
    /// That version was current already: nothing was changed.
    pub unchanged: bool,
}

/// `GET /v1/events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsView {
    /// The latest events, the latest last.
    pub events: Vec<EventView>,
}

/// Something that happened to a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// Its number, from 1 at each start of the director.
    pub number: u64,
    /// When, in seconds since 1970.
    pub time: u64,
    /// What: `upload`, `rollback`, `automatic_rollback`, `benched`, `restored`, `unusable` or
    /// `removed`.
    pub kind: String,
    /// The plugin.
    pub plugin: PluginName,
    /// Its version, where only one is concerned.
    pub version: Option<u32>,
    /// The virtual service, where only one is concerned.
    pub service: Option<ServiceName>,
    /// One sentence for the operator.
    pub message: String,
    /// The file that holds the failing call for the author, if one was written.
    pub dump: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_read_as_it_is_written() {
        let json = r#"{"plugin":{"name":"my","version":2,"label":"0.3.1","digest":"ab","size":3000,
            "abi":1,"stock":false,"services":["tcp:172.17.100.100:80"],"instances":2,
            "memory":131072,"calls":9,"traps":1,"fallbacks":{"trap":1},"rollbacks":0,"p50":31,
            "p99":64,"swap":{"count":2,"p50":500,"p999":900},"versions":[{"version":2,"label":null,
            "digest":"ab","size":3000,"uploaded":1700000000,"state":"current","reason":null}]},
            "limits":{"memory":16777216},"events":[{"number":1,"time":1700000000,"kind":"upload",
            "plugin":"my","version":2,"service":null,"message":"m","dump":null}]}"#;
        let view: PluginShowView = serde_json::from_str(json).unwrap();
        assert_eq!(view.plugin.versions[0].state, VersionState::Current);
        let written: serde_json::Value = serde_json::to_value(&view).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(json).unwrap());
    }

    #[test]
    fn states_are_named_alike_in_listings_and_json() {
        use VersionState::*;
        for state in [Current, Kept, Pinned, Failed] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }
}
