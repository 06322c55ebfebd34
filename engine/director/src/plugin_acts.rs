//! What the supervisor does with plugins: uploads, rollbacks, and what happens by itself when one
//! of them fails.

use crate::dumps;
use crate::events::EventKind;
use crate::plugin_report;
use crate::plugin_store::Names;
use crate::plugins::{self, PluginVersion, PluginsError};
use crate::scheduler_name::{PluginName, SchedulerName};
use crate::schedulers::{Otherwise, Skipped};
use crate::service_name::ServiceName;
use crate::supervisor::{Change, ChangeError, Supervisor};
use crate::warn;
use dataplane::{ServiceIndex, ServiceKey};
use plugin_host::{Dump, Params, Plugin};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What an upload or a rollback has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The current version.
    pub version: PluginVersion,
    /// How many services it schedules.
    pub services: usize,
    /// It was the current one before.
    pub unchanged: bool,
}

impl Supervisor {
    /// Makes a plugin the current version of its name. When this returns, every worker that
    /// serves a service of this name has it. `module` is what it was loaded from.
    pub async fn upload(
        &mut self,
        name: &PluginName,
        plugin: Plugin,
        module: &[u8],
    ) -> Result<Current, ChangeError> {
        let names = self.plugins.names();
        if let Some(version) = plugins::current(names, name)
            && plugins::failure(names, &version).is_none()
            // Compiled only if it may be the same.
            && plugin_report::about(self, &version).digest == plugin.digest()
            && self.plugins.plugin(&version).is_ok()
        {
            if version.number != 0 {
                // Its file may be damaged, or gone, since it was loaded.
                self.plugins.put(module).map_err(PluginsError::from)?;
            }
            return Ok(self.current(version, true));
        }
        plugins::check_room(self.plugins.names(), name)?;
        let (names, version) = plugins::uploaded(self.plugins.names(), name, &plugin);
        let names = self.prune(names, name);
        self.plugins.put(module).map_err(PluginsError::from)?;
        let digest = plugin.digest().to_owned();
        let label = plugin.label().map(|label| format!(" ({label})")).unwrap_or_default();
        self.plugins.insert(version.clone(), plugin);
        let began = Instant::now();
        let result = match self.move_to_names(names, Otherwise::Refuse).await {
            Err(error) if !error.is_in_force() => {
                self.plugins.forget_unknown();
                self.plugins.discard(&digest);
                return Err(error);
            }
            in_force => in_force,
        };
        self.swaps.record(began.elapsed());
        let current = self.current(version, false);
        let message = format!(
            "plugin {}{label} was uploaded and schedules {}",
            current.version,
            services_text(current.services)
        );
        self.events.add(EventKind::Upload, &current.version.scheduler_name(), None, message, None);
        result.map(|()| current)
    }

    /// Goes back to a former version: `to`, or the newest before the current one that works.
    pub async fn roll_back(
        &mut self,
        name: &PluginName,
        to: Option<u32>,
    ) -> Result<Current, ChangeError> {
        let former = plugins::current(self.plugins.names(), name);
        let (names, version) = plugins::rolled_back(self.plugins.names(), name, to)?;
        self.watch.forgive(&version);
        let began = Instant::now();
        let result = match self.move_to_names(names, Otherwise::Refuse).await {
            Err(error) if !error.is_in_force() => return Err(error),
            in_force => in_force,
        };
        self.swaps.record(began.elapsed());
        if let Some(former) = former {
            self.watch.count_rollback(former, false);
        }
        let current = self.current(version, false);
        let message = format!(
            "plugin {} is the current version again and schedules {}",
            current.version,
            services_text(current.services)
        );
        self.events.add(
            EventKind::Rollback,
            &current.version.scheduler_name(),
            None,
            message,
            None,
        );
        result.map(|()| current)
    }

    /// Removes a version, or the whole plugin, that no service uses.
    pub async fn remove_plugin(
        &mut self,
        name: &PluginName,
        number: Option<u32>,
    ) -> Result<(), ChangeError> {
        let names = plugins::removed(self.plugins.names(), name, number)?;
        let users = self.users(name, number);
        if !users.is_empty() {
            let what = SchedulerName { name: name.clone(), version: number }.to_string();
            return Err(PluginsError::InUse { what, users }.into());
        }
        self.move_to_names(names, Otherwise::NextBest).await?;
        let what = SchedulerName { name: name.clone(), version: number };
        let message = format!("plugin {what} was removed");
        self.events.add(EventKind::Removed, &what, None, message, None);
        Ok(())
    }

    /// Who schedules by a version of a plugin, or by any.
    fn users(&self, name: &PluginName, number: Option<u32>) -> Vec<String> {
        let names = |scheduler: &SchedulerName| {
            scheduler.name == *name && (number.is_none() || scheduler.version == number)
        };
        let in_force = self.services.services().filter(|&(index, service)| {
            let runs = self.schedulers.runs(index).is_some_and(|(runs, _)| {
                runs.name == *name && number.is_none_or(|number| runs.number == number)
            });
            runs || names(&service.scheduler)
        });
        let mut users: Vec<String> =
            in_force.map(|(_, service)| ServiceName(service.key).to_string()).collect();
        let in_file = self.config.services.iter().filter(|service| names(&service.scheduler));
        let in_file = in_file.map(|service| ServiceName(service.key).to_string());
        let more = in_file.filter(|user| !users.contains(user));
        let more: Vec<String> = more.map(|user| format!("{user} (in the config file)")).collect();
        users.extend(more);
        users
    }

    /// Gives a service another scheduler, or other parameters, or both.
    pub async fn set_scheduler(
        &mut self,
        key: &ServiceKey,
        scheduler: Option<SchedulerName>,
        params: Option<Params>,
    ) -> Result<(), ChangeError> {
        let index = self.services.serving(key)?;
        let mut services = self.services.clone();
        if let Some(scheduler) = scheduler {
            plugins::check(self.plugins.names(), &scheduler)?;
            services.set_scheduler(key, scheduler, params)?;
        } else if let Some(params) = params {
            services.set_params(key, params)?;
        }
        let forgiven = self.schedulers.forgive(index);
        let began = Instant::now();
        let result = self.commit(Change::of(services)).await;
        if result.as_ref().is_err_and(|error| !error.is_in_force()) {
            forgiven.into_iter().for_each(|version| self.schedulers.bench(index, version));
        }
        result?;
        self.swaps.record(began.elapsed());
        Ok(())
    }

    async fn move_to_names(
        &mut self,
        names: Names,
        otherwise: Otherwise,
    ) -> Result<(), ChangeError> {
        let services = self.services.clone();
        let change = Change { names: Some(names), otherwise, ..Change::of(services) };
        let result = self.commit(change).await;
        let names = self.plugins.names();
        self.schedulers.forget(names);
        self.watch.forget(|version| plugins::exists(names, version));
        result
    }

    fn prune(&self, names: Names, name: &PluginName) -> Names {
        let in_force = self.services.services().map(|(_, service)| &service.scheduler);
        // The next start needs those in the file, whatever serves now.
        let in_file = self.config.services.iter().map(|service| &service.scheduler);
        let of_this = in_force.chain(in_file).filter(|scheduler| scheduler.name == *name);
        let pins: BTreeSet<u32> = of_this.filter_map(|scheduler| scheduler.version).collect();
        let in_use = |number| {
            let version = PluginVersion { name: name.clone(), number };
            pins.contains(&number) || self.schedulers.versions().contains_key(&version)
        };
        plugins::pruned(names, name, self.config.plugins.keep, in_use)
    }

    fn current(&self, version: PluginVersion, unchanged: bool) -> Current {
        let services = self.schedulers.versions().get(&version).map_or(0, |(_, used)| used.len());
        Current { version, services, unchanged }
    }

    /// Looks at what plugins did, and does what follows from it: a version that used up its fuel
    /// is benched for the service, an instance that trapped is replaced, a version that fails too
    /// often is rolled back. To be called a few times a second.
    pub async fn look_after_plugins(&mut self) -> Result<(), ChangeError> {
        self.schedulers.say(&self.services);
        let look = self.schedulers.look();
        let now = Instant::now();
        let plugins = &self.config.plugins;
        let (limit, window) = (u64::from(plugins.failures), plugins.window);
        let failed = self.watch.judge(&look.failures, now, limit, window);
        if look.benched.is_empty() && look.torn.is_empty() && failed.is_empty() {
            // What the last change replaced takes memory, and is of no use to anyone.
            drop(self.take_returned());
            return Ok(());
        }
        let mut names = self.plugins.names().clone();
        for (version, count) in &failed {
            let reason = format!("{count} failures within {} s", window.as_secs());
            names = plugins::failed(&names, version, &reason);
        }
        if let Err(error) = self.plugins.set_names(names.clone()) {
            // A disk that is full is no reason to go on with a plugin that fails.
            warn!("a restart will know nothing of the rollback: {error}");
            self.plugins.set_names_until_restart(names.clone());
        }
        for (service, version) in &look.benched {
            self.schedulers.bench(*service, version.clone());
        }
        let result = self.move_to_names(names, Otherwise::NextBest).await;
        if result.as_ref().is_err_and(|error| !error.is_in_force()) {
            return result;
        }
        let mut dumps = self.dumps_of_returned();
        for (version, count) in &failed {
            self.tell_failed(version, *count, window, dumps.remove(version));
        }
        for (service, version) in &look.benched {
            let dump = dumps.remove(version);
            self.tell_benched(*service, version, dump);
        }
        for (service, version) in &look.torn {
            // It has failed too often, or on the very servers, which is told as such.
            let gone = self.schedulers.runs(*service).is_none_or(|(runs, _)| runs != version);
            if !gone && self.watch.is_news(version, now) {
                let dump = dumps.remove(version);
                self.tell_restored(*service, version, dump);
            }
        }
        result
    }

    /// Writes one dump for each version whose replaced instances hold a failure.
    fn dumps_of_returned(&mut self) -> BTreeMap<PluginVersion, PathBuf> {
        let mut dumps = BTreeMap::new();
        for (service, instance) in self.take_returned() {
            let Some(dump) = Dump::of(instance) else { continue };
            let Some(version) = self.version_of(service, &dump) else { continue };
            // A version that traps all the time must not fill the disk.
            if let Some(path) = self.watch.recent_dump(&version) {
                dumps.insert(version, path.to_owned());
                continue;
            }
            match dumps::keep(&self.config.state_dir, &version, &dump) {
                Ok(path) => {
                    self.watch.dumped(version.clone(), path.clone(), Instant::now());
                    dumps.insert(version, path);
                }
                Err(error) => warn!("no dump of {version}: {error}"),
            }
        }
        dumps
    }

    fn version_of(&self, service: ServiceIndex, dump: &Dump) -> Option<PluginVersion> {
        let scheduler = &self.services.service(service)?.scheduler;
        let known = plugins::versions(self.plugins.names(), &scheduler.name);
        known.into_iter().rev().find(|version| {
            self.plugins.loaded(version).is_some_and(|plugin| plugin.digest() == dump.digest)
        })
    }

    fn tell_failed(
        &mut self,
        version: &PluginVersion,
        count: u64,
        window: Duration,
        dump: Option<PathBuf>,
    ) {
        // For those who mean it by its number, too, which need not be the current version.
        let choices = plugins::choices(self.plugins.names(), &version.scheduler_name());
        let now = match choices.first() {
            // Nothing comes before the stock plugin.
            Some(next) if next == version => "its flows went by hash, and it goes on".to_owned(),
            Some(next) => format!("{next} takes its place"),
            None => "there is no version to take its place, so new flows go by hash".to_owned(),
        };
        if choices.first() != Some(version) {
            self.watch.count_rollback(version.clone(), true);
        }
        let window = window.as_secs();
        let message = format!("plugin {version} failed {count} times within {window} s: {now}");
        self.events.add(
            EventKind::AutomaticRollback,
            &version.scheduler_name(),
            None,
            message,
            dump,
        );
    }

    fn tell_benched(
        &mut self,
        service: ServiceIndex,
        version: &PluginVersion,
        dump: Option<PathBuf>,
    ) {
        let Some(name) = self.service_name(service) else { return };
        let now = self.now_text(service);
        let message = format!(
            "plugin {version} used up its fuel and is no longer asked for {name}: {now}; `shunt service set` gives it another chance"
        );
        self.events.add(EventKind::Benched, &version.scheduler_name(), Some(name), message, dump);
    }

    fn tell_restored(
        &mut self,
        service: ServiceIndex,
        version: &PluginVersion,
        dump: Option<PathBuf>,
    ) {
        let Some(name) = self.service_name(service) else { return };
        let message = format!(
            "plugin {version} trapped for {name}: a fresh instance has taken its place (not told again for {} s)",
            self.config.plugins.window.as_secs()
        );
        self.events.add(EventKind::Restored, &version.scheduler_name(), Some(name), message, dump);
    }

    /// A version that should serve does not.
    pub(crate) fn tell_skipped(&mut self, service: ServiceIndex, skipped: &Skipped) {
        let Some(name) = self.service_name(service) else { return };
        let Skipped { version, reason } = skipped;
        let now = self.now_text(service);
        let message = format!("plugin {version} cannot schedule {name} ({reason}): {now}");
        self.events.add(EventKind::Unusable, &version.scheduler_name(), Some(name), message, None);
    }

    fn service_name(&self, service: ServiceIndex) -> Option<ServiceName> {
        self.services.service(service).map(|service| ServiceName(service.key))
    }

    fn now_text(&self, service: ServiceIndex) -> String {
        match self.schedulers.runs(service) {
            Some((runs, _)) => format!("{runs} schedules it"),
            None => "its new flows go by hash".to_owned(),
        }
    }
}

fn services_text(count: usize) -> String {
    match count {
        0 => "no virtual service yet".to_owned(),
        1 => "1 virtual service".to_owned(),
        count => format!("{count} virtual services"),
    }
}
