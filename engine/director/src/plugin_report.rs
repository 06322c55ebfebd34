//! What the API answers about plugins, gathered at the moment of the question.

use crate::plugin_views::{
    PluginShowView, PluginView, PluginsView, SwapView, VersionState, VersionView,
};
use crate::plugins::{self, PluginVersion};
use crate::scheduler_name::PluginName;
use crate::schedulers::PluginCounts;
use crate::service_name::ServiceName;
use crate::supervisor::Supervisor;
use dataplane::Failure;
use plugin_host::{About, LatencyCounts, Limits, STOCK};
use std::collections::{BTreeMap, BTreeSet};

/// All plugins.
pub fn plugins(supervisor: &Supervisor) -> PluginsView {
    let stock = STOCK.iter().filter_map(|name| name.parse().ok());
    let names: BTreeSet<PluginName> =
        supervisor.plugins().names().keys().cloned().chain(stock).collect();
    PluginsView { plugins: names.iter().map(|name| plugin(supervisor, name)).collect() }
}

/// One plugin with what else there is to know. `name` is one that exists.
pub fn show(supervisor: &Supervisor, name: &PluginName) -> PluginShowView {
    let events = supervisor.events.last().filter(|event| event.plugin == *name);
    PluginShowView {
        plugin: plugin(supervisor, name),
        limits: limits(supervisor),
        events: events.cloned().collect(),
    }
}

fn limits(supervisor: &Supervisor) -> BTreeMap<String, u64> {
    let config = &supervisor.config.plugins;
    let Limits {
        file_size,
        memory,
        table_elements,
        stack,
        schedule_fuel,
        update_fuel,
        init_fuel,
        state,
        compile_time,
    } = *supervisor.plugins().host().limits();
    let milliseconds = |time: std::time::Duration| time.as_millis() as u64;
    [
        ("file_size", file_size as u64),
        ("memory", memory as u64),
        ("tables", table_elements as u64),
        ("stack", stack as u64),
        ("fuel", schedule_fuel),
        ("update_fuel", update_fuel),
        ("init_fuel", init_fuel),
        ("state", state as u64),
        ("compile_time", milliseconds(compile_time)),
        ("instances", config.instances as u64),
        ("failures", config.failures.into()),
        ("window", milliseconds(config.window)),
        ("keep", config.keep as u64),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// What is known of a version that exists. Of one that was removed this moment: nothing.
pub fn about(supervisor: &Supervisor, version: &PluginVersion) -> About {
    let plugins = supervisor.plugins();
    let stored = plugins.names().get(&version.name);
    match stored.and_then(|stored| stored.version(version.number)) {
        Some(stored) => {
            About { label: stored.label.clone(), digest: stored.digest.clone(), size: stored.size }
        }
        None => plugins.host().about_stock(version.name.as_str()).unwrap_or(About {
            label: None,
            digest: String::new(),
            size: 0,
        }),
    }
}

fn plugin(supervisor: &Supervisor, name: &PluginName) -> PluginView {
    let names = supervisor.plugins().names();
    let current = plugins::current(names, name)
        .unwrap_or_else(|| PluginVersion { name: name.clone(), number: 0 });
    let about = about(supervisor, &current);
    let counts = counts(supervisor, name);
    let (services, instances, memory) = uses(supervisor, name);
    let quantile = |quantile| counts.latency.quantile(quantile);
    let rollbacks = supervisor.watch.rollbacks();
    let of_this = rollbacks.filter(|(from, ..)| from.name == *name);
    PluginView {
        name: name.clone(),
        version: current.number,
        label: about.label,
        digest: about.digest,
        size: about.size,
        abi: plugin_host::ABI_VERSION,
        stock: current.number == 0,
        services,
        instances,
        memory,
        calls: counts.calls,
        traps: counts.fallbacks[Failure::Trap as usize],
        fallbacks: Failure::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), counts.fallbacks[reason as usize]))
            .filter(|&(_, count)| count > 0)
            .collect(),
        rollbacks: of_this.map(|(.., count)| count).sum(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        swap: swap(supervisor),
        versions: versions(supervisor, name, &current),
    }
}

/// How long all workers paused to adopt changes.
fn swap(supervisor: &Supervisor) -> Option<SwapView> {
    let mut pauses = LatencyCounts::default();
    for seat in &supervisor.workers {
        pauses.add(&seat.handle.memory.counters().pauses().read());
    }
    let (p50, p999) = (pauses.quantile(0.5)?, pauses.quantile(0.999)?);
    Some(SwapView { count: pauses.count(), p50, p999 })
}

/// What all versions of a plugin did for all services.
fn counts(supervisor: &Supervisor, name: &PluginName) -> PluginCounts {
    let mut counts = supervisor.schedulers().gone(name);
    let reports = supervisor.schedulers().reports();
    let of_this = reports.iter().filter(|report| report.version.name == *name);
    of_this.for_each(|report| counts.add(&report.counts));
    counts
}

/// The services that a plugin schedules, its instances, and their memory in bytes.
fn uses(supervisor: &Supervisor, name: &PluginName) -> (Vec<ServiceName>, usize, usize) {
    let (mut services, mut instances, mut memory) = (Vec::new(), 0, 0);
    for (version, (plugin, used)) in supervisor.schedulers().versions() {
        if version.name == *name {
            let count = used.len() * supervisor.workers.len();
            instances += count;
            memory += count * plugin.memory();
            let entries = used.iter().filter_map(|&index| supervisor.services().service(index));
            services.extend(entries.map(|service| ServiceName(service.key)));
        }
    }
    services.sort_unstable();
    (services, instances, memory)
}

/// The latest first.
fn versions(
    supervisor: &Supervisor,
    name: &PluginName,
    current: &PluginVersion,
) -> Vec<VersionView> {
    let names = supervisor.plugins().names();
    let in_use = supervisor.schedulers().versions();
    let view = |version: PluginVersion| {
        let reason = plugins::failure(names, &version).map(str::to_owned);
        let state = if reason.is_some() {
            VersionState::Failed
        } else if version == *current {
            VersionState::Current
        } else if in_use.contains_key(&version) {
            VersionState::Pinned
        } else {
            VersionState::Kept
        };
        let About { label, digest, size } = about(supervisor, &version);
        let stored = names.get(name).and_then(|stored| stored.version(version.number));
        let uploaded = stored.map_or(0, |stored| stored.uploaded);
        VersionView { version: version.number, label, digest, size, uploaded, state, reason }
    };
    plugins::versions(names, name).into_iter().rev().map(view).collect()
}
