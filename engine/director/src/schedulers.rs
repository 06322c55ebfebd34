//! The scheduler plugins in use: one instance for each virtual service and worker.

use crate::services::Services;
use dataplane::{Failure, Instance, SchedulerCounters, ServiceIndex};
use plugin_host::{Latency, LatencyCounts, Params, Placement, Plugin, PluginHost};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What one plugin did for one virtual service, over all workers and since the service exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PluginCounts {
    /// Flows for which it was asked.
    pub calls: u64,
    /// Flows that got the consistent choice instead, by reason.
    pub failures: [u64; Failure::ALL.len()],
    /// How long a sample of its calls took.
    pub latency: LatencyCounts,
}

impl PluginCounts {
    fn add(&mut self, watched: &Watched) {
        self.calls += watched.counters.calls();
        for reason in Failure::ALL {
            self.failures[reason as usize] += watched.counters.failures(reason);
        }
        self.latency.add(&watched.latency.read());
    }
}

/// What the control thread keeps of an instance that a worker has.
struct Watched {
    counters: Arc<SchedulerCounters>,
    latency: Arc<Latency>,
}

/// A service's scheduler.
struct InUse {
    plugin: Plugin,
    watched: Vec<Watched>,
    /// By plugin name and version: what former schedulers of the service did.
    former: BTreeMap<(String, String), PluginCounts>,
}

/// A plugin's counts for one service.
pub struct PluginReport<'a> {
    /// The service.
    pub service: ServiceIndex,
    /// The plugin's name.
    pub name: &'a str,
    /// The plugin's version.
    pub version: &'a str,
    /// What it did.
    pub counts: PluginCounts,
}

/// All schedulers in use.
pub struct Schedulers {
    host: PluginHost,
    workers: u32,
    /// What plugins that choose at random begin with.
    seed: u64,
    in_use: HashMap<ServiceIndex, InUse>,
}

/// For one worker: which instances go in (or out) where.
pub type Changes = Vec<(ServiceIndex, Option<Box<Instance>>)>;

/// Instances that are ready and in nobody's hands yet.
pub struct PreparedSchedulers {
    /// By worker.
    pub changes: Vec<Changes>,
    started: Vec<(ServiceIndex, Plugin, Vec<Watched>)>,
    ended: Vec<ServiceIndex>,
}

impl Schedulers {
    /// None in use yet.
    pub fn new(host: PluginHost, workers: usize, seed: u64) -> Schedulers {
        Schedulers { host, workers: workers as u32, seed, in_use: HashMap::new() }
    }

    /// Makes the instances that `services` need beyond, or instead of, those in use.
    pub fn prepare(&self, services: &Services) -> Result<PreparedSchedulers, plugin_host::Error> {
        let mut prepared = PreparedSchedulers {
            changes: (0..self.workers).map(|_| Changes::new()).collect(),
            started: Vec::new(),
            ended: Vec::new(),
        };
        for (index, service) in services.services() {
            if self
                .in_use
                .get(&index)
                .is_some_and(|used| used.plugin.name() == service.scheduler.name.as_str())
            {
                continue;
            }
            let plugin = self.host.stock(service.scheduler.name.as_str())?;
            let mut watched = Vec::new();
            for (worker, changes) in (0u32..).zip(&mut prepared.changes) {
                let placement = Placement { worker, workers: self.workers, seed: self.seed };
                let ready = plugin.instantiate(placement, &Params::new())?;
                let counters = ready.instance.counters().clone();
                watched.push(Watched { counters, latency: ready.latency });
                changes.push((index, Some(ready.instance)));
            }
            prepared.started.push((index, plugin, watched));
        }
        for &index in self.in_use.keys().filter(|&&index| services.service(index).is_none()) {
            prepared.changes.iter_mut().for_each(|changes| changes.push((index, None)));
            prepared.ended.push(index);
        }
        Ok(prepared)
    }

    /// The workers have adopted what was prepared: what was replaced counts no further.
    pub fn installed(&mut self, prepared: PreparedSchedulers) {
        for index in prepared.ended {
            self.in_use.remove(&index);
        }
        for (index, plugin, watched) in prepared.started {
            let mut former = BTreeMap::new();
            if let Some(replaced) = self.in_use.remove(&index) {
                former = replaced.former;
                let name =
                    (replaced.plugin.name().to_owned(), replaced.plugin.version().to_owned());
                let counts: &mut PluginCounts = former.entry(name).or_default();
                replaced.watched.iter().for_each(|watched| counts.add(watched));
            }
            self.in_use.insert(index, InUse { plugin, watched, former });
        }
    }

    /// The plugins in use, each once, with the number of services that use it.
    pub fn plugins(&self) -> BTreeMap<&str, (&Plugin, usize)> {
        let mut plugins = BTreeMap::new();
        for used in self.in_use.values() {
            plugins.entry(used.plugin.name()).or_insert((&used.plugin, 0)).1 += 1;
        }
        plugins
    }

    /// Whether a service's scheduler is no longer asked, on any worker.
    pub fn is_benched(&self, service: ServiceIndex) -> bool {
        self.in_use
            .get(&service)
            .is_some_and(|used| used.watched.iter().any(|watched| watched.counters.is_benched()))
    }

    /// What each plugin did for each service, former schedulers of a service included.
    pub fn reports(&self) -> Vec<PluginReport<'_>> {
        let mut reports = Vec::new();
        for (&service, used) in &self.in_use {
            let (name, version) = (used.plugin.name(), used.plugin.version());
            let mut counts = PluginCounts::default();
            used.watched.iter().for_each(|watched| counts.add(watched));
            for ((former, of_version), earlier) in &used.former {
                if (former.as_str(), of_version.as_str()) == (name, version) {
                    counts.calls += earlier.calls;
                    counts.latency.add(&earlier.latency);
                    for (reason, more) in counts.failures.iter_mut().zip(earlier.failures) {
                        *reason += more;
                    }
                } else {
                    reports.push(PluginReport {
                        service,
                        name: former,
                        version: of_version,
                        counts: *earlier,
                    });
                }
            }
            reports.push(PluginReport { service, name, version, counts });
        }
        reports.sort_by(|left, right| (left.service, left.name).cmp(&(right.service, right.name)));
        reports
    }
}
