//! The scheduler plugins in use: one instance for each virtual service and worker.

use crate::plugin_store::Names;
use crate::plugins::{self, PluginVersion, Plugins, PluginsError};
use crate::scheduler_name::{PluginName, SchedulerName};
use crate::service_name::ServiceName;
use crate::services::{ServiceEntry, Services};
use crate::watched::{LINES_A_LOOK, Watched};
use dataplane::{Failure, Instance, ServiceIndex, ServiceTable};
use plugin_host::{LatencyCounts, Params, Placement, Plugin, Prepared};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// What one plugin did for one virtual service, over all workers and since the service exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginCounts {
    /// Flows for which it was asked.
    pub calls: u64,
    /// Flows that got the consistent choice instead, by reason.
    pub fallbacks: [u64; Failure::ALL.len()],
    /// How long a sample of its calls took.
    pub latency: LatencyCounts,
}

impl PluginCounts {
    fn count(&mut self, watched: &Watched) {
        self.calls += watched.counters.calls();
        for reason in Failure::ALL {
            self.fallbacks[reason as usize] += watched.counters.failures(reason);
        }
        self.latency.add(&watched.latency.read());
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &PluginCounts) {
        self.calls += other.calls;
        for (reason, more) in self.fallbacks.iter_mut().zip(other.fallbacks) {
            *reason += more;
        }
        self.latency.add(&other.latency);
    }
}

/// A plugin at work for a service.
struct Runs {
    version: PluginVersion,
    plugin: Plugin,
    /// By worker.
    watched: Vec<Watched>,
}

/// What a service asked for, and so what has to change before it is looked at anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    scheduler: SchedulerName,
    params: Params,
    /// Servers, empty places among them included.
    slots: usize,
    /// The versions that may serve, the best first.
    choices: Vec<PluginVersion>,
}

/// A version that could have served, and why it does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The version.
    pub version: PluginVersion,
    /// Why.
    pub reason: String,
}

/// A service's scheduler.
struct InUse {
    wanted: Wanted,
    /// Nothing: new flows go by hash.
    runs: Option<Runs>,
    skipped: Vec<Skipped>,
    /// What former schedulers of the service did.
    former: BTreeMap<PluginVersion, PluginCounts>,
}

impl InUse {
    fn skips(&self, version: &PluginVersion) -> bool {
        self.skipped.iter().any(|skipped| skipped.version == *version)
    }
}

/// A plugin's counts for one service.
pub struct PluginReport<'a> {
    /// The service.
    pub service: ServiceIndex,
    /// Which plugin.
    pub version: &'a PluginVersion,
    /// What it did.
    pub counts: PluginCounts,
}

/// All schedulers in use.
pub struct Schedulers {
    workers: u32,
    /// What plugins that choose at random begin with.
    seed: u64,
    /// The most instances that there may be.
    limit: usize,
    in_use: HashMap<ServiceIndex, InUse>,
    /// What was done by versions, and for services, that are no more.
    gone: BTreeMap<PluginName, PluginCounts>,
    /// Versions that used up their fuel, by the service for which they did.
    benched: HashSet<(ServiceIndex, PluginVersion)>,
    /// Failures of instances that were replaced before anyone looked at them.
    unseen: BTreeMap<PluginVersion, u64>,
}

/// For one worker: which instances go in (or out) where.
pub type Changes = Vec<(ServiceIndex, Option<Box<Instance>>)>;

/// Instances that are ready and in nobody's hands yet.
pub struct PreparedSchedulers {
    /// By worker.
    pub changes: Vec<Changes>,
    started: Vec<(ServiceIndex, InUse)>,
    /// A fresh instance for one worker.
    replaced: Vec<(ServiceIndex, usize, Watched)>,
    /// What is served as it was, though it may be wanted in other words.
    kept: Vec<(ServiceIndex, Wanted)>,
    ended: Vec<ServiceIndex>,
}

impl PreparedSchedulers {
    fn replace(&mut self, replacements: Vec<Replacement>) {
        for Replacement { index, worker, instance, its } in replacements {
            self.changes[worker].push((index, Some(instance)));
            self.replaced.push((index, worker, its));
        }
    }
}

/// A fresh instance in place of one that trapped.
struct Replacement {
    index: ServiceIndex,
    worker: usize,
    instance: Box<Instance>,
    its: Watched,
}

/// What happens when the version that a service means cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// The change is refused, unless the version could not be used before.
    Refuse,
    /// The next best version serves, or none: a service is never without.
    NextBest,
}

/// What the plugins did since the last look.
#[derive(Debug, Default)]
pub struct Look {
    /// Versions that used up their fuel, with the service for which they did.
    pub benched: Vec<(ServiceIndex, PluginVersion)>,
    /// Versions that trapped, likewise. Their instances want replacing.
    pub torn: Vec<(ServiceIndex, PluginVersion)>,
    /// Failures by version.
    pub failures: BTreeMap<PluginVersion, u64>,
}

impl Schedulers {
    /// None in use yet, and never more than `limit` instances.
    pub fn new(workers: usize, seed: u64, limit: usize) -> Schedulers {
        let workers = workers as u32;
        Schedulers {
            workers,
            seed,
            limit,
            in_use: HashMap::new(),
            gone: BTreeMap::new(),
            benched: HashSet::new(),
            unseen: BTreeMap::new(),
        }
    }

    /// There may never be more than `limit` instances from now on, or, if there are already, more
    /// than these. Returns the former limit.
    pub fn set_limit(&mut self, limit: usize) -> usize {
        std::mem::replace(&mut self.limit, limit)
    }

    /// Makes the instances that `services` need beyond, or instead of, those in use. `tables` are
    /// what the workers will have, one each.
    pub fn prepare(
        &self,
        plugins: &mut Plugins,
        services: &Services,
        names: &Names,
        tables: &[Arc<ServiceTable>],
        otherwise: Otherwise,
    ) -> Result<PreparedSchedulers, PluginsError> {
        let mut prepared = PreparedSchedulers {
            changes: tables.iter().map(|_| Changes::new()).collect(),
            started: Vec::new(),
            replaced: Vec::new(),
            kept: Vec::new(),
            ended: Vec::new(),
        };
        for &index in self.in_use.keys().filter(|&&index| services.service(index).is_none()) {
            prepared.changes.iter_mut().for_each(|changes| changes.push((index, None)));
            prepared.ended.push(index);
        }
        self.make_room(plugins, services, names)?;
        for (index, service) in services.services() {
            let wanted = wanted(names, service);
            match self.in_use.get(&index) {
                Some(used) if !self.must_change(index, used, &wanted) => {
                    match self.replace_torn(index, used, tables) {
                        Ok(replaced) => {
                            prepared.replace(replaced);
                            prepared.kept.push((index, wanted));
                        }
                        // A fresh instance fails on the servers, too. That is no reason to refuse
                        // what was asked for, which may be about another service.
                        Err(_) => {
                            let otherwise = Otherwise::NextBest;
                            let start = Start { index, wanted, tables, otherwise };
                            self.start(plugins, start, &mut prepared)?;
                        }
                    }
                }
                _ => {
                    let start = Start { index, wanted, tables, otherwise };
                    self.start(plugins, start, &mut prepared)?;
                }
            }
        }
        Ok(prepared)
    }

    /// Whether what serves is not what should.
    fn must_change(&self, index: ServiceIndex, used: &InUse, wanted: &Wanted) -> bool {
        let Wanted { scheduler, params, slots, .. } = &used.wanted;
        let as_before =
            (scheduler, params, slots) == (&wanted.scheduler, &wanted.params, &wanted.slots);
        let best = wanted.choices.iter().find(|&version| {
            let skipped = as_before && used.skips(version);
            !skipped && !self.benched.contains(&(index, version.clone()))
        });
        let runs = used.runs.as_ref();
        let overfull = runs.is_some_and(|runs| wanted.slots > runs.plugin.capacity());
        *params != wanted.params || best != runs.map(|runs| &runs.version) || overfull
    }

    fn make_room(
        &self,
        plugins: &Plugins,
        services: &Services,
        names: &Names,
    ) -> Result<(), PluginsError> {
        let changed = services.services().filter(|&(index, service)| {
            let wanted = wanted(names, service);
            self.in_use.get(&index).is_none_or(|used| self.must_change(index, used, &wanted))
        });
        let (changed, workers) = (changed.count(), self.workers as usize);
        let wanted = services.services().count() * workers;
        // What is there already stays under a lower limit, and what replaces it is no more of it.
        if wanted > self.limit.max(self.in_use.len() * workers) {
            return Err(PluginsError::TooManyInstances { wanted, limit: self.limit });
        }
        match changed {
            0 => Ok(()),
            changed => Ok(plugins.host().room_for(changed * workers)?),
        }
    }

    /// Has the best version that can serve begin.
    fn start(
        &self,
        plugins: &mut Plugins,
        start: Start<'_>,
        prepared: &mut PreparedSchedulers,
    ) -> Result<(), PluginsError> {
        let Start { index, wanted, otherwise, .. } = &start;
        let before = self.in_use.get(index);
        let mut skipped = Vec::new();
        let mut runs = None;
        for version in &wanted.choices {
            if self.benched.contains(&(*index, version.clone())) {
                continue;
            }
            let instances =
                plugins.plugin(version).and_then(|plugin| self.instances(&start, version, plugin));
            match instances {
                Ok(started) => {
                    runs = Some(started);
                    break;
                }
                Err(error)
                    if *otherwise == Otherwise::Refuse
                        && before.is_none_or(|used| !used.skips(version)) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    let (version, reason) = (version.clone(), error.to_string());
                    skipped.push(Skipped { version, reason });
                }
            }
        }
        let (runs, instances) = runs.unzip();
        let mut instances = instances.into_iter().flatten();
        for changes in &mut prepared.changes {
            changes.push(instances.next().unwrap_or((*index, None)));
        }
        let former = BTreeMap::new();
        let used = InUse { wanted: start.wanted, runs, skipped, former };
        prepared.started.push((start.index, used));
        Ok(())
    }

    /// An instance for each worker, in their order.
    fn instances(
        &self,
        start: &Start<'_>,
        version: &PluginVersion,
        plugin: Plugin,
    ) -> Result<(Runs, Changes), PluginsError> {
        let slots = start.wanted.slots;
        if slots > plugin.capacity() {
            let (version, capacity) = (version.clone(), plugin.capacity());
            return Err(PluginsError::Capacity { version, slots, capacity });
        }
        let former = self.in_use.get(&start.index).and_then(|used| used.runs.as_ref());
        let inherits = plugin.keeps_state()
            && former
                .is_some_and(|runs| runs.version.name == version.name && runs.plugin.keeps_state());
        let (mut watched, mut instances) = (Vec::new(), Changes::new());
        for worker in 0..start.tables.len() {
            let (mut instance, its) = self.instance(start, version, &plugin, worker)?;
            if inherits {
                instance.inherit();
            }
            watched.push(its);
            instances.push((start.index, Some(instance)));
        }
        Ok((Runs { version: version.clone(), plugin, watched }, instances))
    }

    /// An instance that knows the servers already, so that the worker has nothing to tell it.
    fn instance(
        &self,
        start: &Start<'_>,
        version: &PluginVersion,
        plugin: &Plugin,
        worker: usize,
    ) -> Result<(Box<Instance>, Watched), PluginsError> {
        // Instances differ, so that not all of them choose alike at random.
        let number = u64::from(start.index.0) << 32 | worker as u64;
        let seed = self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let placement = Placement { worker: worker as u32, workers: self.workers, seed };
        let Prepared { mut instance, latency, log } =
            plugin.instantiate(placement, &start.wanted.params)?;
        if let Some(service) = start.tables[worker].service(start.index) {
            instance.prime(service).map_err(|failure| PluginsError::Update {
                version: version.clone(),
                failure: failure.name(),
            })?;
        }
        let counters = instance.counters().clone();
        Ok((instance, Watched::new(counters, latency, log)))
    }

    /// Fresh instances in place of those that trapped.
    fn replace_torn(
        &self,
        index: ServiceIndex,
        used: &InUse,
        tables: &[Arc<ServiceTable>],
    ) -> Result<Vec<Replacement>, PluginsError> {
        let Some(runs) = &used.runs else { return Ok(Vec::new()) };
        let torn = runs.watched.iter().enumerate().filter(|(_, its)| its.counters.is_torn());
        torn.map(|(worker, _)| {
            let (wanted, otherwise) = (used.wanted.clone(), Otherwise::NextBest);
            let start = Start { index, wanted, tables, otherwise };
            let (instance, its) = self.instance(&start, &runs.version, &runs.plugin, worker)?;
            Ok(Replacement { index, worker, instance, its })
        })
        .collect()
    }

    /// The workers have adopted what was prepared: what was replaced counts no further. Returns
    /// what was skipped, and was not before.
    pub fn installed(&mut self, prepared: PreparedSchedulers) -> Vec<(ServiceIndex, Skipped)> {
        let mut news = Vec::new();
        let ended: Vec<_> = self
            .reports()
            .iter()
            .filter(|report| prepared.ended.contains(&report.service))
            .map(|report| (report.version.name.clone(), report.counts))
            .collect();
        for (name, counts) in ended {
            self.gone.entry(name).or_default().add(&counts);
        }
        for index in prepared.ended {
            self.in_use.remove(&index);
            self.benched.retain(|(service, _)| *service != index);
        }
        for (index, mut started) in prepared.started {
            let mut before = Vec::new();
            if let Some(replaced) = self.in_use.remove(&index) {
                started.former = replaced.former;
                before = replaced.skipped;
                if let Some(Runs { version, watched, .. }) = replaced.runs {
                    let counts = started.former.entry(version.clone()).or_default();
                    watched.iter().for_each(|watched| counts.count(watched));
                    let unseen = watched.iter().map(Watched::unseen).sum();
                    add_failures(&mut self.unseen, &version, unseen);
                }
            }
            let new = started.skipped.iter().filter(|skipped| !before.contains(skipped));
            news.extend(new.map(|skipped| (index, skipped.clone())));
            self.in_use.insert(index, started);
        }
        for (index, wanted) in prepared.kept {
            if let Some(used) = self.in_use.get_mut(&index) {
                used.wanted = wanted;
            }
        }
        for (index, worker, its) in prepared.replaced {
            let Some(used) = self.in_use.get_mut(&index) else { continue };
            let Some(runs) = &mut used.runs else { continue };
            let replaced = std::mem::replace(&mut runs.watched[worker], its);
            used.former.entry(runs.version.clone()).or_default().count(&replaced);
            add_failures(&mut self.unseen, &runs.version, replaced.unseen());
        }
        news
    }

    /// Says what the plugins have logged since the last time.
    pub fn say(&mut self, services: &Services) {
        let mut lines = LINES_A_LOOK;
        for (&index, used) in &mut self.in_use {
            let Some(Runs { version, watched, .. }) = &mut used.runs else { continue };
            let Some(service) = services.service(index) else { continue };
            let service = ServiceName(service.key);
            for (worker, its) in watched.iter_mut().enumerate() {
                let who = format_args!("plugin {version} for {service} on worker {worker}");
                its.say(who, &mut lines);
            }
        }
    }

    /// Looks at what the plugins did since the last time.
    pub fn look(&mut self) -> Look {
        let failures = std::mem::take(&mut self.unseen);
        let mut look = Look { failures, ..Look::default() };
        for (&index, used) in &mut self.in_use {
            let Some(Runs { version, watched, .. }) = &mut used.runs else { continue };
            for its in watched.iter_mut() {
                add_failures(&mut look.failures, version, its.unseen());
                its.seen = its.failures();
            }
            if watched.iter().any(|its| its.counters.is_benched()) {
                look.benched.push((index, version.clone()));
            }
            if watched.iter().any(|its| its.counters.is_torn()) {
                look.torn.push((index, version.clone()));
            }
        }
        look
    }

    /// A version is not to be asked any more for a service.
    pub fn bench(&mut self, service: ServiceIndex, version: PluginVersion) {
        self.benched.insert((service, version));
    }

    /// A service gives its versions another chance. Returns those that were benched.
    pub fn forgive(&mut self, service: ServiceIndex) -> Vec<PluginVersion> {
        let forgiven = self.benched.extract_if(|(benched, _)| *benched == service);
        forgiven.map(|(_, version)| version).collect()
    }

    /// Forgets versions that are no more. What they did is still in the sum of their plugin.
    pub fn forget(&mut self, names: &Names) {
        let exists = |version: &PluginVersion| plugins::exists(names, version);
        for used in self.in_use.values_mut() {
            let runs = used.runs.as_ref().map(|runs| runs.version.clone());
            let stays = |version: &PluginVersion| exists(version) || runs.as_ref() == Some(version);
            for (version, counts) in used.former.extract_if(.., |version, _| !stays(version)) {
                self.gone.entry(version.name).or_default().add(&counts);
            }
        }
        self.gone.retain(|name, _| plugins::current(names, name).is_some());
        self.benched.retain(|(_, version)| exists(version));
        self.unseen.retain(|version, _| exists(version));
    }

    /// What a plugin did by versions, and for services, that are no more.
    pub fn gone(&self, name: &PluginName) -> PluginCounts {
        self.gone.get(name).copied().unwrap_or_default()
    }

    /// The version that schedules a service. None: its new flows go by hash.
    pub fn runs(&self, service: ServiceIndex) -> Option<(&PluginVersion, &Plugin)> {
        let runs = self.in_use.get(&service)?.runs.as_ref()?;
        Some((&runs.version, &runs.plugin))
    }

    /// The versions in use, each with the services that it schedules.
    pub fn versions(&self) -> BTreeMap<&PluginVersion, (&Plugin, Vec<ServiceIndex>)> {
        let mut versions: BTreeMap<_, (&Plugin, Vec<ServiceIndex>)> = BTreeMap::new();
        for (&index, used) in &self.in_use {
            if let Some(Runs { version, plugin, .. }) = &used.runs {
                versions.entry(version).or_insert((plugin, Vec::new())).1.push(index);
            }
        }
        versions.values_mut().for_each(|(_, services)| services.sort_unstable());
        versions
    }

    /// Whether a version that a service would have is no longer asked for it, because it used up
    /// its fuel.
    pub fn is_benched(&self, service: ServiceIndex) -> bool {
        self.benched.iter().any(|(benched, _)| *benched == service)
            || self
                .in_use
                .get(&service)
                .and_then(|used| used.runs.as_ref())
                .is_some_and(|runs| runs.watched.iter().any(|its| its.counters.is_benched()))
    }

    /// What each plugin did for each service, former schedulers of a service included.
    pub fn reports(&self) -> Vec<PluginReport<'_>> {
        let mut reports = Vec::new();
        for (&service, used) in &self.in_use {
            let mut now = PluginCounts::default();
            let runs = used.runs.as_ref();
            runs.iter().flat_map(|runs| &runs.watched).for_each(|watched| now.count(watched));
            for (version, &counts) in &used.former {
                if runs.is_some_and(|runs| runs.version == *version) {
                    now.add(&counts);
                } else {
                    reports.push(PluginReport { service, version, counts });
                }
            }
            if let Some(Runs { version, .. }) = runs {
                reports.push(PluginReport { service, version, counts: now });
            }
        }
        reports.sort_by_key(|report| (report.service, report.version));
        reports
    }
}

/// A service whose scheduler is to begin.
struct Start<'a> {
    index: ServiceIndex,
    wanted: Wanted,
    /// By worker.
    tables: &'a [Arc<ServiceTable>],
    otherwise: Otherwise,
}

fn add_failures(to: &mut BTreeMap<PluginVersion, u64>, version: &PluginVersion, failures: u64) {
    if failures > 0 {
        *to.entry(version.clone()).or_default() += failures;
    }
}

fn wanted(names: &Names, service: &ServiceEntry) -> Wanted {
    Wanted {
        scheduler: service.scheduler.clone(),
        params: service.params.clone(),
        slots: service.slots.len(),
        choices: plugins::choices(names, &service.scheduler),
    }
}
