//! Plugins by name and version: the stock ones, which are version 0 of their names, and those
//! uploaded.
//!
//! What names and versions there are is a value, [`Names`]. Every act makes a new one out of the
//! present one; it becomes the present one when the workers have what it asks for.

use crate::plugin_store::{Names, PluginStore, StoreError, StoredPlugin, StoredVersion};
use crate::scheduler_name::{PluginName, SchedulerName};
use plugin_host::{Plugin, PluginHost, STOCK};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

/// Names that plugins may be uploaded under, so that neither disk nor memory fills up with them.
const NAMES_MAX: usize = 256;

/// One version of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PluginVersion {
    /// The plugin's name.
    pub name: PluginName,
    /// The version's number. 0: the stock plugin.
    pub number: u32,
}

impl PluginVersion {
    /// As config, commands and the API name it.
    pub fn scheduler_name(&self) -> SchedulerName {
        SchedulerName { name: self.name.clone(), version: Some(self.number) }
    }
}

impl fmt::Display for PluginVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.number)
    }
}

/// Why something cannot be done with a plugin. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// No such plugin.
    #[error("there is no plugin {name}; there are {}", known.join(", "))]
    Unknown {
        /// As it was asked for.
        name: PluginName,
        /// Those that exist.
        known: Vec<String>,
    },
    /// No such version of it.
    #[error("there is no {version}; {name} has {}", known.join(", "), name = version.name)]
    UnknownVersion {
        /// As it was asked for.
        version: PluginVersion,
        /// Those that exist.
        known: Vec<String>,
    },
    /// The version was rolled back because it failed.
    #[error(
        "{version} was rolled back ({reason}): upload a mended one, or take it back into use with `shunt plugin rollback {name} --to {number}`",
        name = version.name, number = version.number
    )]
    Failed {
        /// The version.
        version: PluginVersion,
        /// What it did.
        reason: String,
    },
    /// There is no older version that works.
    #[error("{name} has no older version that works: name one with --to, or upload one")]
    NothingBefore {
        /// The plugin.
        name: PluginName,
    },
    /// The version is the current one already.
    #[error("{version} is the current version already")]
    IsCurrent {
        /// The version.
        version: PluginVersion,
    },
    /// A virtual service schedules by it.
    #[error("{what} is used by {}: give it another scheduler first", users.join(", "))]
    InUse {
        /// The plugin or version.
        what: String,
        /// Virtual services, in force and in the config file.
        users: Vec<String>,
    },
    /// The current version goes only with the others.
    #[error(
        "{version} is the current version: roll back to another first, or remove the whole plugin"
    )]
    RemovesCurrent {
        /// The version.
        version: PluginVersion,
    },
    /// The stock plugin is part of the program.
    #[error("{name} is a stock plugin, which is part of the program and stays")]
    Stock {
        /// The plugin.
        name: PluginName,
    },
    /// The service has more servers than the plugin can tell apart.
    #[error(
        "{version} can choose from {capacity} real servers and the virtual service has {slots}, places of removed ones included: give the service a plugin with a larger capacity"
    )]
    Capacity {
        /// The version.
        version: PluginVersion,
        /// Servers of the service.
        slots: usize,
        /// Servers that the plugin can choose from.
        capacity: usize,
    },
    /// It fails on the very servers of the service.
    #[error(
        "{version}: shunt_update failed on the servers of the virtual service ({failure}): mend it, `shunt plugin check` shows how"
    )]
    Update {
        /// The version.
        version: PluginVersion,
        /// How.
        failure: &'static str,
    },
    /// There would be too many instances.
    #[error(
        "{wanted} plugin instances (virtual services times workers) are more than [plugins] instances allows, {limit}: raise it in the config"
    )]
    TooManyInstances {
        /// Those that there would be.
        wanted: usize,
        /// As configured.
        limit: usize,
    },
    /// There are too many names.
    #[error("there are {NAMES_MAX} uploaded plugins already: remove one first")]
    TooManyNames,
    /// A stored plugin cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plugin breaks the contract, or does not fit.
    #[error(transparent)]
    Host(#[from] plugin_host::Error),
}

/// All plugins of a director.
pub struct Plugins {
    host: PluginHost,
    store: PluginStore,
    /// Those compiled so far and still stored.
    loaded: HashMap<PluginVersion, Plugin>,
}

impl Plugins {
    /// The stock plugins, and those in `store`.
    pub fn new(host: PluginHost, store: PluginStore) -> Plugins {
        Plugins { host, store, loaded: HashMap::new() }
    }

    /// Loads plugins; a clone may do so on another thread.
    pub fn host(&self) -> &PluginHost {
        &self.host
    }

    /// Loads plugins by other limits from now on. Those loaded stay as they are.
    pub fn set_host(&mut self, host: PluginHost) {
        self.host = host;
    }

    /// What names and versions there are.
    pub fn names(&self) -> &Names {
        self.store.names()
    }

    /// The plugin of this version, compiled when it is asked for first.
    pub fn plugin(&mut self, version: &PluginVersion) -> Result<Plugin, PluginsError> {
        if let Some(plugin) = self.loaded.get(version) {
            return Ok(plugin.clone());
        }
        let plugin = match version.number {
            0 => self.host.stock(version.name.as_str())?,
            number => {
                let stored = self.names().get(&version.name);
                let stored = stored.and_then(|plugin| plugin.version(number));
                let stored = stored.ok_or_else(|| unknown(self.names(), version))?;
                self.host.load_again(version.name.as_str(), &self.store.module(stored)?)?
            }
        };
        self.loaded.insert(version.clone(), plugin.clone());
        Ok(plugin)
    }

    /// A version that is compiled already.
    pub fn loaded(&self, version: &PluginVersion) -> Option<&Plugin> {
        self.loaded.get(version)
    }

    /// Has a plugin at hand as this version, which need not be stored yet.
    pub fn insert(&mut self, version: PluginVersion, plugin: Plugin) {
        self.loaded.insert(version, plugin);
    }

    /// Stores a module; no name refers to it yet.
    pub fn put(&mut self, module: &[u8]) -> Result<(), StoreError> {
        self.store.put(module)
    }

    /// Makes `names` what there is, on disk too.
    pub fn set_names(&mut self, names: Names) -> Result<(), StoreError> {
        self.store.set_names(names)?;
        self.forget_unknown();
        Ok(())
    }

    /// Makes `names` what there is, but not on disk, where the next change of names puts them.
    pub fn set_names_until_restart(&mut self, names: Names) {
        self.store.set_names_until_restart(names);
        self.forget_unknown();
    }

    /// Deletes the module with this digest, if no name refers to it.
    pub fn discard(&self, digest: &str) {
        self.store.discard(digest);
    }

    /// Lets go of what was compiled and has no name.
    pub fn forget_unknown(&mut self) {
        let names = self.store.names();
        self.loaded.retain(|version, _| exists(names, version));
    }
}

/// Whether a plugin of this name is part of the program.
pub fn is_stock(name: &PluginName) -> bool {
    STOCK.contains(&name.as_str())
}

/// Whether a config file may name this scheduler. `state_dir` is the file's.
pub fn known(state_dir: &Path, scheduler: &SchedulerName) -> Result<(), String> {
    match PluginStore::read(state_dir) {
        Ok(store) => find(store.names(), scheduler).map(drop).map_err(|error| error.to_string()),
        // Which there were nobody knows: the start says so, and goes on without them.
        Err(_) => Ok(()),
    }
}

/// Whether there is such a version.
pub fn exists(names: &Names, version: &PluginVersion) -> bool {
    match version.number {
        0 => is_stock(&version.name),
        number => names.get(&version.name).is_some_and(|plugin| plugin.version(number).is_some()),
    }
}

/// The version that the bare name means, if there is such a plugin.
pub fn current(names: &Names, name: &PluginName) -> Option<PluginVersion> {
    let number = match names.get(name) {
        Some(plugin) => Some(plugin.current),
        None => is_stock(name).then_some(0),
    };
    number.map(|number| PluginVersion { name: name.clone(), number })
}

/// Whether there is what a scheduler's name means. Returns the version, which may have failed.
pub fn find(names: &Names, scheduler: &SchedulerName) -> Result<PluginVersion, PluginsError> {
    let SchedulerName { name, version } = scheduler;
    let Some(current) = current(names, name) else {
        let stock = STOCK.iter().map(|&name| name.to_owned());
        let uploaded = names.keys().filter(|name| !is_stock(name)).map(PluginName::to_string);
        let known = stock.chain(uploaded).collect();
        return Err(PluginsError::Unknown { name: name.clone(), known });
    };
    let version = version.map_or(current, |number| PluginVersion { name: name.clone(), number });
    if exists(names, &version) { Ok(version) } else { Err(unknown(names, &version)) }
}

/// Whether an operator may have a service scheduled by this now.
pub fn check(names: &Names, scheduler: &SchedulerName) -> Result<(), PluginsError> {
    let version = find(names, scheduler)?;
    match failure(names, &version) {
        Some(reason) => Err(PluginsError::Failed { reason: reason.to_owned(), version }),
        None => Ok(()),
    }
}

/// Why a version is no longer used by itself, if so.
pub fn failure<'a>(names: &'a Names, version: &PluginVersion) -> Option<&'a str> {
    names.get(&version.name)?.version(version.number)?.failed.as_deref()
}

/// The versions that a scheduler's name stands for: the one that it means first, then those that
/// take its place when it fails, the newest first. None of them has failed.
pub fn choices(names: &Names, scheduler: &SchedulerName) -> Vec<PluginVersion> {
    let name = &scheduler.name;
    let Some(current) = current(names, name) else { return Vec::new() };
    let meant = scheduler.version.unwrap_or(current.number);
    let stored = names.get(name).map_or(&[][..], |plugin| &plugin.versions);
    let good = stored.iter().rev().filter(|version| version.failed.is_none());
    let mut numbers: Vec<u32> =
        good.map(|version| version.number).filter(|&number| number <= meant).collect();
    if is_stock(name) {
        numbers.push(0);
    }
    numbers.into_iter().map(|number| PluginVersion { name: name.clone(), number }).collect()
}

fn unknown(names: &Names, version: &PluginVersion) -> PluginsError {
    let stock = is_stock(&version.name).then_some(0);
    let stored = names.get(&version.name).into_iter().flat_map(|plugin| &plugin.versions);
    let numbers = stock.into_iter().chain(stored.map(|version| version.number));
    let known = numbers.map(|number| format!("{}@{number}", version.name)).collect();
    PluginsError::UnknownVersion { version: version.clone(), known }
}

/// Whether a file may be uploaded under this name.
pub fn check_room(names: &Names, name: &PluginName) -> Result<(), PluginsError> {
    let fits = names.contains_key(name) || names.len() < NAMES_MAX;
    if fits { Ok(()) } else { Err(PluginsError::TooManyNames) }
}

/// With this plugin as the current version of its name. Returns the version's number, too.
pub fn uploaded(names: &Names, name: &PluginName, plugin: &Plugin) -> (Names, PluginVersion) {
    let mut names = names.clone();
    let stored = names.entry(name.clone()).or_default();
    stored.last += 1;
    stored.current = stored.last;
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    stored.versions.push(StoredVersion {
        number: stored.last,
        digest: plugin.digest().to_owned(),
        label: plugin.label().map(str::to_owned),
        size: plugin.size(),
        uploaded: since_epoch.map_or(0, |since| since.as_secs()),
        failed: None,
    });
    let version = PluginVersion { name: name.clone(), number: stored.last };
    (names, version)
}

/// Without the oldest versions, so that `keep` are left beside those that someone needs: the
/// current one, the last that can take its place, and those that `in_use` names.
pub fn pruned(
    mut names: Names,
    name: &PluginName,
    keep: usize,
    in_use: impl Fn(u32) -> bool,
) -> Names {
    if let Some(stored) = names.get_mut(name) {
        let good = |version: &&StoredVersion| version.failed.is_none();
        let before = |version: &&StoredVersion| version.number < stored.current;
        let next = stored.versions.iter().rev().filter(good).find(before).map(|next| next.number);
        let mut surplus = stored.versions.len().saturating_sub(keep);
        let current = stored.current;
        stored.versions.retain(|&StoredVersion { number, .. }| {
            let needed = number == current || Some(number) == next || in_use(number);
            let stays = needed || surplus == 0;
            surplus -= usize::from(!stays);
            stays
        });
    }
    names
}

/// With another version as the current one: `to`, or the newest before it that has not failed.
pub fn rolled_back(
    names: &Names,
    name: &PluginName,
    to: Option<u32>,
) -> Result<(Names, PluginVersion), PluginsError> {
    let current = find(names, &name.clone().into())?;
    let version = match to {
        Some(number) => PluginVersion { name: name.clone(), number },
        None => choices(names, &name.clone().into())
            .into_iter()
            .find(|version| version.number < current.number)
            .ok_or_else(|| PluginsError::NothingBefore { name: name.clone() })?,
    };
    if !exists(names, &version) {
        return Err(unknown(names, &version));
    }
    if version == current && failure(names, &version).is_none() {
        return Err(PluginsError::IsCurrent { version });
    }
    let mut names = names.clone();
    if let Some(stored) = names.get_mut(name) {
        stored.current = version.number;
        let chosen = stored.versions.iter_mut().find(|stored| stored.number == version.number);
        if let Some(chosen) = chosen {
            chosen.failed = None;
        }
    }
    Ok((names, version))
}

/// With a version that is not used by itself any more. If it was the current one, the newest
/// before it that has not failed takes its place.
pub fn failed(names: &Names, version: &PluginVersion, reason: &str) -> Names {
    let mut names = names.clone();
    let Some(stored) = names.get_mut(&version.name) else { return names };
    for stored in stored.versions.iter_mut().filter(|stored| stored.number == version.number) {
        stored.failed = Some(reason.to_owned());
    }
    if stored.current != version.number {
        return names;
    }
    let next = choices(&names, &version.name.clone().into()).first().map(|next| next.number);
    if let (Some(stored), Some(next)) = (names.get_mut(&version.name), next) {
        stored.current = next;
    }
    names
}

/// Without a version, or without the plugin.
pub fn removed(
    names: &Names,
    name: &PluginName,
    number: Option<u32>,
) -> Result<Names, PluginsError> {
    let mut names = names.clone();
    let Some(number) = number else {
        find(&names, &name.clone().into())?;
        let stock = || PluginsError::Stock { name: name.clone() };
        names.remove(name).ok_or_else(stock)?;
        return Ok(names);
    };
    let version = find(&names, &SchedulerName { name: name.clone(), version: Some(number) })?;
    let stored = names.get_mut(name).filter(|_| number != 0);
    let stored = stored.ok_or_else(|| PluginsError::Stock { name: name.clone() })?;
    if stored.current == number {
        return Err(PluginsError::RemovesCurrent { version });
    }
    stored.versions.retain(|version| version.number != number);
    Ok(names)
}

/// The versions of one name, the stock one included, for whoever lists them.
pub fn versions(names: &Names, name: &PluginName) -> Vec<PluginVersion> {
    let stock = is_stock(name).then_some(0);
    let stored: &[StoredVersion] =
        names.get(name).map_or(&[], |plugin: &StoredPlugin| &plugin.versions);
    let numbers = stock.into_iter().chain(stored.iter().map(|version| version.number));
    numbers.map(|number| PluginVersion { name: name.clone(), number }).collect()
}

#[cfg(test)]
#[path = "plugins_tests.rs"]
mod tests;
