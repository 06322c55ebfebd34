//! The control thread's view of everything: what should be done, what the workers were told, and
//! how a change gets from the one to the other.
//!
//! A change is worked out on a copy, prepared completely (plugin instances, tables), then handed
//! to all workers, and it is done when each of them has adopted it. Whatever fails before that
//! changes nothing.

use crate::apart::Apart;
use crate::clock;
use crate::config::{Config, ConfigError, ServiceConfig};
use crate::durations::Durations;
use crate::events::Events;
use crate::health::Health;
use crate::health::weights::{Scales, Weights};
use crate::neighbors::Neighbors;
use crate::plugin_store::Names;
use crate::plugin_watch::PluginWatch;
use crate::plugins::{self, Plugins, PluginsError};
use crate::reload;
use crate::schedulers::{Changes, Otherwise, Schedulers};
use crate::seats::{ServedInterface, WorkerSeat};
use crate::services::{Freed, Services, ServicesError};
use crate::tasks::Restarts;
use crate::vips::Vips;
use dataplane::{
    Instance, Load, ServerCounts, ServerIndex, ServiceIndex, ServiceTable, Settings, Update,
};
use plugin_host::PluginHost;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use xsk::SteerKey;

/// How long a worker has to adopt a change. It takes one turn, or a wake-up from poll(2).
const ADOPTION: Duration = Duration::from_secs(5);
/// How often the control thread looks whether it has, while it waits.
const ADOPTION_CHECK: Duration = Duration::from_millis(1);

/// Why a change did not take place.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It makes no sense.
    #[error(transparent)]
    Services(#[from] ServicesError),
    /// A scheduler cannot be had.
    #[error(transparent)]
    Plugins(#[from] PluginsError),
    /// The change is in force, but packets of new services are not steered to it.
    #[error("the workers have the change, but the XDP program does not: {0}")]
    Steer(#[from] xsk::Error),
    /// A worker has not adopted it.
    #[error("worker {worker} ({place}) has not adopted the change within {} s: is its core taken by something else?", ADOPTION.as_secs())]
    NotAdopted {
        /// The worker's number.
        worker: usize,
        /// Its interface and queue.
        place: String,
    },
}

impl ChangeError {
    /// Whether the change is in force all the same, as far as it can be.
    pub fn is_in_force(&self) -> bool {
        match self {
            ChangeError::Services(_) | ChangeError::Plugins(_) => false,
            ChangeError::Steer(_) | ChangeError::NotAdopted { .. } => true,
        }
    }
}

/// Why a reload did not take place.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is of no use.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it says cannot be done.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

/// Everything that the control thread knows.
pub struct Supervisor {
    /// The config file as it was last applied.
    pub config: Config,
    /// Where it was read from.
    pub config_path: PathBuf,
    /// The served interfaces.
    pub interfaces: Vec<ServedInterface>,
    /// The workers, in the order of their numbers.
    pub workers: Vec<WorkerSeat>,
    /// Where real servers are on the wire.
    pub neighbors: Neighbors,
    /// Real servers that are not where packets for their VIP come in.
    pub apart: Apart,
    /// Told when `neighbors` wants new addresses.
    pub neighbors_wanted: Arc<Notify>,
    /// Told when there is something to ask `neighbors`' machines at once.
    pub neighbors_due: Arc<Notify>,
    /// How the real servers are.
    pub health: Health,
    /// The VIPs on the director's own interfaces.
    pub vips: Vips,
    /// Told when the services may have other VIPs.
    pub vips_wanted: Arc<Notify>,
    /// When the director started.
    pub started: Instant,
    /// How often each of its tasks had to be started again.
    pub restarts: Restarts,
    /// Reloads of the config file: those that went well, and those that did not.
    pub reloads: (u64, u64),
    /// What happened to plugins.
    pub events: Events,
    /// How plugins behave.
    pub watch: PluginWatch,
    /// How long changes of plugins took, from the first instance to the last worker's adoption.
    pub swaps: Durations,
    pub(crate) services: Services,
    pub(crate) plugins: Plugins,
    pub(crate) schedulers: Schedulers,
    /// By server: what the workers had counted when the index was given to it.
    zeros: HashMap<ServerIndex, ServerCounts>,
    /// By service: what its servers that are gone had counted.
    gone: HashMap<ServiceIndex, ServerCounts>,
}

/// What is to be different.
pub(crate) struct Change {
    /// The services and servers from now on.
    pub services: Services,
    /// The settings from now on; none: as they are.
    pub settings: Option<Settings>,
    /// The plugins from now on; none: as they are.
    pub names: Option<Names>,
    /// What happens when a plugin cannot be used.
    pub otherwise: Otherwise,
}

impl Change {
    /// Other services, and refused if a plugin cannot be used.
    pub fn of(services: Services) -> Change {
        Change { services, settings: None, names: None, otherwise: Otherwise::Refuse }
    }
}

impl Supervisor {
    /// A supervisor of workers that know nothing yet; [`Supervisor::begin`] tells them.
    pub fn new(
        config: Config,
        config_path: PathBuf,
        interfaces: Vec<ServedInterface>,
        workers: Vec<WorkerSeat>,
        plugins: Plugins,
        seed: u64,
    ) -> Supervisor {
        let schedulers = Schedulers::new(workers.len(), seed, config.plugins.instances);
        let vips = Vips::new(&config);
        Supervisor {
            config,
            config_path,
            interfaces,
            workers,
            neighbors: Neighbors::default(),
            apart: Apart::default(),
            neighbors_wanted: Arc::default(),
            neighbors_due: Arc::default(),
            health: Health::default(),
            vips,
            vips_wanted: Arc::default(),
            started: Instant::now(),
            restarts: Restarts::default(),
            reloads: (0, 0),
            events: Events::default(),
            watch: PluginWatch::default(),
            swaps: Durations::default(),
            services: Services::default(),
            plugins,
            schedulers,
            zeros: HashMap::new(),
            gone: HashMap::new(),
        }
    }

    /// Tells the workers what the config says. A plugin that cannot be used does not keep its
    /// service from being served.
    pub async fn begin(&mut self) -> Result<(), ChangeError> {
        let mut services = self.services.clone();
        reload::apply(&mut services, &reload::differences(&[], &self.config.services))?;
        self.check_params()?;
        let settings = Some(self.config.settings);
        let otherwise = Otherwise::NextBest;
        self.commit(Change { services, settings, names: None, otherwise }).await
    }

    /// Parameters that a plugin refuses are a mistake in the config, not the plugin's failure.
    fn check_params(&mut self) -> Result<(), ChangeError> {
        for service in &self.config.services {
            let found = plugins::find(self.plugins.names(), &service.scheduler);
            if let Ok(plugin) = found.and_then(|version| self.plugins.plugin(&version)) {
                plugin.check_params(&service.params).map_err(PluginsError::from)?;
            }
        }
        Ok(())
    }

    /// What should be done.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// The schedulers in use.
    pub fn schedulers(&self) -> &Schedulers {
        &self.schedulers
    }

    /// The plugins that there are.
    pub fn plugins(&self) -> &Plugins {
        &self.plugins
    }

    /// Changes services or servers. When this returns, all workers have adopted the change.
    pub async fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Services) -> Result<T, ServicesError>,
    ) -> Result<T, ChangeError> {
        let mut next = self.services.clone();
        let changed = change(&mut next)?;
        self.commit(Change::of(next)).await?;
        Ok(changed)
    }

    /// Reads the config file anew and applies what is different. Returns what an operator should
    /// hear about it.
    pub async fn read_config_anew(&mut self) -> Result<Vec<String>, ReloadError> {
        let result = match self.read_config() {
            Ok(config) => self.reload(config).await.map_err(ReloadError::from),
            Err(error) => Err(error.into()),
        };
        let (ok, failed) = &mut self.reloads;
        *if result.is_ok() { ok } else { failed } += 1;
        result
    }

    fn read_config(&self) -> Result<Config, ConfigError> {
        let names = self.plugins.names();
        Config::read(&self.config_path, &|_, scheduler| {
            plugins::find(names, scheduler).map(drop).map_err(|error| error.to_string())
        })
    }

    async fn reload(&mut self, config: Config) -> Result<Vec<String>, ChangeError> {
        let former = self.config.services.clone();
        let changed = config.settings != self.config.settings;
        let settings = changed.then_some(config.settings);
        // First, since the file may raise it for the services that it adds.
        let limit = self.schedulers.set_limit(config.plugins.instances);
        let mut remarks = match self.move_to(&former, &config.services, settings).await {
            Ok(remarks) => remarks,
            Err(error) => {
                self.schedulers.set_limit(limit);
                return Err(error);
            }
        };
        remarks.extend(reload::needs_restart(&self.config, &config));
        reload::take_over(&mut self.config, config);
        let limits = self.config.plugins.limits;
        if limits != *self.plugins.host().limits() {
            self.plugins.set_host(PluginHost::new(limits).map_err(PluginsError::from)?);
        }
        Ok(remarks)
    }

    async fn move_to(
        &mut self,
        former: &[ServiceConfig],
        wanted: &[ServiceConfig],
        settings: Option<Settings>,
    ) -> Result<Vec<String>, ChangeError> {
        let mut next = self.services.clone();
        let remarks = reload::apply(&mut next, &reload::differences(former, wanted))?;
        self.commit(Change { settings, ..Change::of(next) }).await?;
        Ok(remarks)
    }

    /// Prepares everything that a change needs, and then has it take place.
    pub(crate) async fn commit(&mut self, change: Change) -> Result<(), ChangeError> {
        let Change { services, settings, names, otherwise } = change;
        let former = self.neighbors.clone();
        self.neighbors.set_fixed(services.macs().clone());
        let wanted = services.servers().map(|(_, server)| server.address);
        if !self.neighbors.want(wanted).is_empty() {
            self.neighbors_wanted.notify_one();
        }
        // One whose MAC address is not given any more is to be asked for.
        self.neighbors_due.notify_one();
        // What the last change replaced takes room that the next one may need.
        drop(self.take_returned());
        let weights = self.weigh(&services);
        let tables = self.tables(&services, &weights);
        let names = names.unwrap_or_else(|| self.plugins.names().clone());
        let prepared =
            self.schedulers.prepare(&mut self.plugins, &services, &names, &tables, otherwise);
        let prepared = prepared.and_then(|prepared| {
            self.plugins.set_names(names)?;
            Ok(prepared)
        });
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.neighbors = former;
                return Err(error.into());
            }
        };
        let changes = std::mem::take(&mut prepared.changes);
        self.set_zeros(&services);
        self.services = services;
        self.health.members.follow(&self.services, clock::now());
        self.health.accept(weights, &self.services);
        self.health.changed.notify_one();
        self.vips.want(self.services.services().map(|(_, service)| service.key.address));
        self.vips_wanted.notify_one();
        self.send_all(tables, changes, settings);
        let adopted = self.adopted().await;
        // The last words of what was replaced.
        self.schedulers.say(&self.services);
        for (service, skipped) in self.schedulers.installed(prepared) {
            self.tell_skipped(service, &skipped);
        }
        self.steer()?;
        adopted
    }

    /// Neighbors, or the servers' health, changed: the workers get tables that say so.
    pub async fn publish(&mut self) -> Result<(), ChangeError> {
        let weights = self.weigh(&self.services);
        // A copy, so that a panic on the way leaves the services as they are.
        let services = self.services.clone();
        let tables = self.tables(&services, &weights);
        self.health.accept(weights, &self.services);
        self.send_all(tables, Vec::new(), None);
        self.adopted().await
    }

    /// Who would take how many new flows if these were the services.
    pub(crate) fn weigh(&self, services: &Services) -> Weights {
        let Health { members, weights: former, .. } = &self.health;
        let now = clock::now();
        Scales { services, neighbors: &self.neighbors, members, former, now }.weigh()
    }

    /// The tables of the workers, one each; those of one interface share one.
    fn tables(&mut self, services: &Services, weights: &Weights) -> Vec<Arc<ServiceTable>> {
        let mut of_interface = Vec::new();
        for (position, interface) in self.interfaces.iter_mut().enumerate() {
            let table = interface.tables.make(services, &self.neighbors, weights, position);
            of_interface.push(Arc::new(table));
        }
        self.workers.iter().map(|worker| of_interface[worker.interface].clone()).collect()
    }

    fn send_all(
        &mut self,
        tables: Vec<Arc<ServiceTable>>,
        changes: Vec<Changes>,
        settings: Option<Settings>,
    ) {
        let mut changes = changes.into_iter();
        for (worker, table) in self.workers.iter_mut().zip(tables) {
            worker.returned.clear();
            let schedulers = changes.next().unwrap_or_default();
            worker.send(Update { table: Some(table), settings, schedulers });
        }
    }

    /// The instances that the last change has replaced.
    pub(crate) fn take_returned(&mut self) -> Vec<(ServiceIndex, Box<Instance>)> {
        let workers = self.workers.iter_mut();
        workers.flat_map(|seat| std::mem::take(&mut seat.returned)).collect()
    }

    /// Waits until every worker has adopted everything that it was sent.
    async fn adopted(&mut self) -> Result<(), ChangeError> {
        let deadline = Instant::now() + ADOPTION;
        loop {
            self.workers.iter_mut().for_each(WorkerSeat::reap);
            let Some(worker) = self.workers.iter().position(|worker| worker.pending > 0) else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let place = self.place(worker);
                return Err(ChangeError::NotAdopted { worker, place });
            }
            tokio::time::sleep(ADOPTION_CHECK).await;
        }
    }

    /// A worker's interface and queue, as messages name it.
    pub fn place(&self, worker: usize) -> String {
        let seat = &self.workers[worker];
        format!("{} queue {}", self.interfaces[seat.interface].name, seat.queue)
    }

    fn steer(&mut self) -> Result<(), ChangeError> {
        let keys: Vec<SteerKey> = self
            .services
            .services()
            .map(|(_, service)| SteerKey {
                address: service.key.address,
                port: service.key.port,
                protocol: service.key.protocol as u8,
            })
            .collect();
        for steer in self.interfaces.iter_mut().filter_map(|interface| interface.steer.as_mut()) {
            steer.set_services(&keys)?;
        }
        Ok(())
    }

    /// Lets packets come: attaches the XDP programs.
    pub fn attach(&mut self) -> Result<(), xsk::Error> {
        for interface in &mut self.interfaces {
            if let Some(steer) = &mut interface.steer {
                interface.attached = Some(steer.attach()?);
            }
        }
        Ok(())
    }

    /// Gives all packets back to the kernel.
    pub fn detach(&mut self) {
        for interface in &mut self.interfaces {
            if let Some(steer) = &mut interface.steer {
                steer.detach();
            }
            interface.attached = None;
        }
    }

    /// Frees the indices of what was removed and has no flows any more. To be called about each
    /// second.
    pub async fn free_idle(&mut self) -> Result<Freed, ChangeError> {
        self.workers.iter_mut().for_each(WorkerSeat::reap);
        if self.workers.iter().any(|worker| worker.pending > 0) {
            return Ok(Freed::default());
        }
        let mut next = self.services.clone();
        let freed = next.free_idle(|index| {
            let load = self.counted(index).load;
            load.active + load.inactive > 0
        });
        if freed.is_empty() {
            self.services = next;
            return Ok(freed);
        }
        for index in &freed.servers {
            if let Some(server) = self.services.server(*index) {
                let counts = self.server_counts(*index);
                sum_up(self.gone.entry(server.service).or_default(), &counts);
            }
            self.zeros.remove(index);
        }
        self.gone.retain(|index, _| !freed.services.contains(index));
        self.commit(Change::of(next)).await?;
        Ok(freed)
    }

    /// Servers that are new in `next` count from here.
    fn set_zeros(&mut self, next: &Services) {
        let new: Vec<ServerIndex> = next
            .servers()
            .map(|(index, _)| index)
            .filter(|&index| self.services.server(index).is_none())
            .collect();
        for index in new {
            self.zeros.insert(index, self.counted(index));
        }
    }

    /// What all workers together counted for an index, whoever held it.
    fn counted(&self, index: ServerIndex) -> ServerCounts {
        let mut total = ServerCounts::default();
        for worker in &self.workers {
            sum_up(&mut total, &worker.handle.memory.counters().server(index));
        }
        total
    }

    /// What all workers together counted for a server.
    pub fn server_counts(&self, index: ServerIndex) -> ServerCounts {
        let counted = self.counted(index);
        let zero = self.zeros.get(&index).copied().unwrap_or_default();
        ServerCounts {
            connections: counted.connections.saturating_sub(zero.connections),
            packets: counted.packets.saturating_sub(zero.packets),
            bytes: counted.bytes.saturating_sub(zero.bytes),
            load: counted.load,
        }
    }

    /// What all workers together counted for a service, servers that are gone included.
    pub fn service_counts(&self, index: ServiceIndex) -> ServerCounts {
        let mut total = self.gone.get(&index).copied().unwrap_or_default();
        if let Some(service) = self.services.service(index) {
            for (server, _) in self.services.members(service) {
                sum_up(&mut total, &self.server_counts(server));
            }
        }
        total
    }
}

fn sum_up(total: &mut ServerCounts, more: &ServerCounts) {
    total.connections += more.connections;
    total.packets += more.packets;
    total.bytes += more.bytes;
    total.load = Load {
        active: total.load.active + more.load.active,
        inactive: total.load.inactive + more.load.inactive,
    };
}
