//! `shunt run`: from a config file to packets that are forwarded, and back.
//!
//! The order matters. Sockets of the API and the metrics first, since they fail without harm;
//! then the queues, the workers, what they are to do, the real servers' addresses; then
//! the XDP program, so that the first packet finds everything in place; the VIPs last, since they
//! are what makes packets come. At the end they go first, and the XDP program after them.

use crate::api_access::{self, Access, Bounds};
use crate::config::{Config, ConfigError, Mode, Queues};
use crate::cores::{self, CoresError, Demand};
use crate::health::{self, run::await_first_results};
use crate::listen::{self, ApiSocket, ListenError};
use crate::netlink::Lost;
use crate::plugin_store::{PluginStore, StoreError};
use crate::plugins::{self, Plugins};
use crate::seats::{ServedInterface, WorkerSeat};
use crate::service_name::ServiceName;
use crate::supervisor::{ChangeError, Supervisor};
use crate::tasks::{Duty, keep};
use crate::vip_care::{self, VipError};
use crate::worker_thread::WorkerThread;
use crate::{api, netlink, netlink_read, say, warn};
use dataplane::Seeds;
use plugin_host::PluginHost;
use std::convert::Infallible;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, timeout};
use xsk::{BusyPoll, Interface, InterfaceOptions, ModeRequest, Monitor};

/// How long the start waits for the real servers' MAC addresses. One that does not answer must
/// not keep the others from serving.
const NEIGHBORS: Duration = Duration::from_secs(1);
/// How often it looks meanwhile.
const NEIGHBORS_CHECK: Duration = Duration::from_millis(10);
/// How long the start waits for links that the XDP program's coming has reset. A link over copper
/// takes 2 to 4 s.
const CARRIER: Duration = Duration::from_secs(10);
/// How often it looks meanwhile.
const CARRIER_CHECK: Duration = Duration::from_millis(50);
/// Time between two looks for indices that came free. More than a flow needs from one worker to
/// another.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Time between two looks at what plugins do: how long a service whose plugin has trapped, or used
/// up its fuel, goes by hash.
const PLUGINS: Duration = Duration::from_millis(200);
/// How long what is wrong with plugins at each look is not said again.
const SAID_AGAIN: Duration = Duration::from_secs(60);
/// How long a change in progress may hold up the end.
const END: Duration = Duration::from_millis(500);

/// Why the director does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The config is of no use.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An interface cannot be served.
    #[error(transparent)]
    Interface(#[from] xsk::Error),
    /// The cores do not fit.
    #[error(transparent)]
    Cores(#[from] CoresError),
    /// The plugins cannot run.
    #[error(transparent)]
    Plugins(#[from] plugin_host::Error),
    /// The uploaded plugins cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The workers do not start as told.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The VIPs cannot be had.
    #[error(transparent)]
    Vips(#[from] VipError),
    /// A socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// There is not enough memory for the flow tables.
    #[error(
        "no memory for flow tables of {flows_v4} IPv4 and {flows_v6} IPv6 flows a worker ({cause}): lower flows and flows_v6 in the config"
    )]
    Memory {
        /// As configured.
        flows_v4: usize,
        /// As configured.
        flows_v6: usize,
        /// What the system says.
        cause: io::Error,
    },
    /// A served interface is not what it was.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// The system refuses something that a start needs.
    #[error("cannot {doing}")]
    System {
        /// What.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

fn system(doing: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

/// Runs the director until it is told to end.
pub fn run(config_path: &Path) -> Result<(), RunError> {
    let config = Config::read(config_path, &plugins::known)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the control thread"))?;
    let result = runtime.block_on(start_and_serve(config, config_path));
    // A listing of flows may still be read; its reader is not waited for.
    runtime.shutdown_background();
    result
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// For whoever keeps house, and who may have to be started again.
    hang_up: Arc<Mutex<Signal>>,
}

impl Signals {
    fn catch() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: Arc::new(Mutex::new(signal(SignalKind::hangup())?)),
        })
    }
}

async fn start_and_serve(config: Config, config_path: &Path) -> Result<(), RunError> {
    let mut signals = Signals::catch().map_err(system("catch signals"))?;
    let api_socket = listen::api(&config.api.socket, config.api.group.as_ref())?;
    let over_tcp = config.api.listen.as_ref().map(listen::api_over_tcp).transpose()?;
    let metrics = config.metrics_listen.map(listen::metrics).transpose()?;
    let manages = config.manage_vip;
    let (supervisor, threads) = start(config, config_path)?;
    let interfaces = supervisor.interfaces.iter().filter(|_| manages);
    let served: Vec<u32> = interfaces.map(|interface| interface.index).collect();
    let supervisor = Arc::new(Mutex::new(supervisor));

    supervisor.lock().await.begin().await?;
    let mut watching = keep(&supervisor, Duty::Neighbors, netlink::watch);
    let checking = keep(&supervisor, Duty::Health, health::run::watch);
    await_neighbors(&supervisor).await;
    if let Err(error) = await_first_results(&supervisor).await {
        warn!("{error}");
    }
    if let Err(error) = attach(&supervisor).await {
        end(&supervisor, threads, &served, api_socket).await;
        return Err(error.into());
    }
    let mut care = match vip_care::start(&supervisor).await {
        Ok(care) => Some(care),
        Err(error) => {
            end(&supervisor, threads, &served, api_socket).await;
            return Err(error.into());
        }
    };
    describe(&*supervisor.lock().await);
    let caring = keep(&supervisor, Duty::Vips, move |of| vip_care::watch(of, care.take()));

    let ApiSocket { listener, guard } = api_socket;
    let api = axum::serve(listener, api::routes(supervisor.clone()));
    tokio::spawn(async move { api.await });
    let access = over_tcp.map(|(listener, access)| {
        let routes = api::routes(supervisor.clone());
        tokio::spawn(api_access::serve(listener, access.clone(), routes, Bounds::default()));
        access
    });
    if let Some(listener) = metrics {
        let routes = api::metrics_routes(supervisor.clone());
        tokio::spawn(api_access::serve_anybody(listener, routes, Bounds::default()));
    }
    let hang_up = signals.hang_up.clone();
    keep(&supervisor, Duty::Housekeeping, move |of| {
        keep_house(of, hang_up.clone(), access.clone())
    });
    let lost = tokio::select! {
        _ = signals.terminate.recv() => None,
        _ = signals.interrupt.recv() => None,
        Ok(lost) = &mut watching => Some(lost),
    };
    watching.abort();
    checking.abort();
    // What is removed now must not come back.
    caring.abort();
    let _ = caring.await;
    let began = Instant::now();
    finish(&supervisor, threads, &served).await;
    drop(guard);
    say!("ended in {} ms", began.elapsed().as_millis());
    lost.map_or(Ok(()), |lost| Err(lost.into()))
}

/// Attaches the XDP programs and waits until the links that were up are so again: some drivers,
/// igb for one, reset the NIC at that.
async fn attach(supervisor: &Arc<Mutex<Supervisor>>) -> Result<(), xsk::Error> {
    let links: Vec<u32> = {
        let supervisor = supervisor.lock().await;
        supervisor.interfaces.iter().map(|interface| interface.index).collect()
    };
    let before = netlink_read::with_carrier(&links).await;
    supervisor.lock().await.attach()?;
    let as_before = async {
        while !netlink_read::with_carrier(&links).await.is_superset(&before) {
            tokio::time::sleep(CARRIER_CHECK).await;
        }
    };
    // What takes longer is said, and told, by the watch of the links.
    let _ = timeout(CARRIER, as_before).await;
    await_neighbors(supervisor).await;
    Ok(())
}

async fn end(
    supervisor: &Arc<Mutex<Supervisor>>,
    threads: Vec<WorkerThread>,
    served: &[u32],
    socket: ApiSocket,
) {
    finish(supervisor, threads, served).await;
    drop(socket);
}

/// Opens the interfaces and starts the workers. Nothing reaches them yet.
fn start(config: Config, path: &Path) -> Result<(Supervisor, Vec<WorkerThread>), RunError> {
    let plugins = Plugins::new(PluginHost::new(config.plugins.limits)?, store(&config)?);
    let mut opened = Vec::new();
    for interface in &config.interfaces {
        opened.push(xsk::open(&options(interface))?);
    }
    let demands: Vec<Demand> = config
        .interfaces
        .iter()
        .zip(&opened)
        .map(|(interface, opened)| Demand {
            interface: interface.name.clone(),
            queues: opened.ports.len(),
            cores: interface.cores.clone(),
        })
        .collect();
    let cores = cores::assign(&demands, &cores::available())?;

    let mut served = Vec::new();
    let mut ports = Vec::new();
    let mut places: Vec<(usize, usize, Monitor)> = Vec::new();
    for (position, (interface, cores)) in opened.into_iter().zip(cores).enumerate() {
        let Interface { name, index, mac, steer, ports: its_ports, monitors, .. } = interface;
        served.push(ServedInterface::new(name, index, mac, Some(steer)));
        ports.extend(its_ports);
        places.extend(monitors.into_iter().zip(cores).map(|(m, core)| (position, core, m)));
    }
    let [first, second, third] = random()?;
    let capacity = config.capacity;
    let workers = dataplane::workers(ports, capacity, Seeds([first, second])).map_err(|cause| {
        let (flows_v4, flows_v6) = (capacity.flows_v4, capacity.flows_v6);
        RunError::Memory { flows_v4, flows_v6, cause }
    })?;
    let mut seats = Vec::new();
    let mut threads = Vec::new();
    for ((worker, handle), (interface, core, monitor)) in workers.into_iter().zip(places) {
        let name = format!("{}/{}", served[interface].name, monitor.queue());
        let thread = WorkerThread::start(worker, name, core, config.poll);
        threads.push(thread.map_err(system("start a worker"))?);
        let queue = monitor.queue();
        seats.push(WorkerSeat::new(interface, queue, core, handle, Some(monitor)));
    }
    let path = path.to_owned();
    Ok((Supervisor::new(config, path, served, seats, plugins, third), threads))
}

/// The plugins that were uploaded. One damaged file must not keep the director from starting.
fn store(config: &Config) -> Result<PluginStore, StoreError> {
    match PluginStore::open(&config.state_dir) {
        Err(error @ StoreError::Damaged { .. }) => {
            warn!("{error}. Their virtual services go on with stock plugins, or by hash");
            PluginStore::without_index(&config.state_dir)
        }
        other => other,
    }
}

/// How an interface is opened.
pub(crate) fn options(interface: &crate::config::InterfaceConfig) -> InterfaceOptions {
    InterfaceOptions {
        queues: match &interface.queues {
            Queues::All => xsk::Queues::All,
            Queues::List(queues) => xsk::Queues::List(queues.clone()),
        },
        mode: match interface.mode {
            Mode::Auto => ModeRequest::Auto,
            Mode::ZeroCopy => ModeRequest::ZeroCopy,
            Mode::Copy => ModeRequest::Copy,
        },
        busy_poll: interface.busy_poll.map(|poll| BusyPoll {
            budget: poll.budget,
            duration: Duration::from_micros(poll.wait.into()),
            defer_hard_irqs: poll.defer_hard_irqs,
            gro_flush_timeout: Duration::from_nanos(poll.gro_flush_timeout.into()),
        }),
        ..InterfaceOptions::new(interface.name.as_str())
    }
}

/// Numbers that nobody outside can guess.
fn random() -> Result<[u64; 3], RunError> {
    let mut bytes = [0; 24];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(system("read /dev/urandom"))?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok([0, 1, 2].map(|word| u64::from_ne_bytes(words[word])))
}

async fn await_neighbors(supervisor: &Arc<Mutex<Supervisor>>) {
    let settled = async {
        while !supervisor.lock().await.neighbors.settled() {
            tokio::time::sleep(NEIGHBORS_CHECK).await;
        }
    };
    // Those that are not found by now take flows as soon as they are.
    let _ = timeout(NEIGHBORS, settled).await;
}

/// Says what was started, and how.
fn describe(supervisor: &Supervisor) {
    for (position, interface) in supervisor.interfaces.iter().enumerate() {
        let xdp = interface.attached.map_or("no", xsk::AttachMode::name);
        for (number, seat) in supervisor.workers.iter().enumerate() {
            let Some(monitor) = seat.monitor.as_ref().filter(|_| seat.interface == position) else {
                continue;
            };
            let refusal = monitor.zero_copy_refusal();
            let because = refusal.map(|refusal| format!(", as {refusal}")).unwrap_or_default();
            say!(
                "{} queue {}: {} mode{because}, {xdp} XDP, frames on {} pages, worker {number} on core {}",
                interface.name,
                seat.queue,
                monitor.mode().name(),
                if monitor.huge_pages() { "huge" } else { "ordinary" },
                seat.core
            );
        }
    }
    let mut cores: Vec<usize> = supervisor.workers.iter().map(|seat| seat.core).collect();
    cores.sort_unstable();
    if cores.windows(2).any(|pair| pair[0] == pair[1]) {
        warn!(
            "there are more queues than cores, so that workers share a core and wait for each other"
        );
    }
    let services = supervisor.services();
    let count = |number: usize, what: &str| {
        format!("{number} {what}{}", if number == 1 { "" } else { "s" })
    };
    say!(
        "ready: {}, {}",
        count(services.services().count(), "virtual service"),
        count(services.servers().count(), "real server")
    );
}

/// Applies the config when it is told to (SIGHUP), looks after the plugins, and frees what nobody uses
/// any more, as long as it is let.
async fn keep_house(
    supervisor: Arc<Mutex<Supervisor>>,
    hang_up: Arc<Mutex<Signal>>,
    access: Option<Arc<Access>>,
) -> Infallible {
    let mut hang_up = hang_up.lock().await;
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut plugins = tokio::time::interval(PLUGINS);
    plugins.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            _ = hang_up.recv() => {
                reload(&mut *supervisor.lock().await).await;
                read_secrets_anew(access.as_deref());
            }
            _ = plugins.tick() => look_after_plugins(&mut *supervisor.lock().await, &mut told).await,
            _ = housekeeping.tick() => free_idle(&mut *supervisor.lock().await).await,
        }
    }
}

/// What is wrong at every look is said now and then. `told` is what was said last, and when.
async fn look_after_plugins(supervisor: &mut Supervisor, told: &mut Option<(String, Instant)>) {
    let Err(error) = supervisor.look_after_plugins().await else { return };
    let error = error.to_string();
    let known = |(last, when): &(String, Instant)| *last == error && when.elapsed() < SAID_AGAIN;
    if !told.as_ref().is_some_and(known) {
        warn!("{error}");
        *told = Some((error, Instant::now()));
    }
}

/// Says which removed servers have no flow any more.
async fn free_idle(supervisor: &mut Supervisor) {
    if !supervisor.services().has_removed() {
        return;
    }
    let before = supervisor.services().clone();
    match supervisor.free_idle().await {
        Ok(freed) => {
            for server in freed.servers.iter().filter_map(|&index| before.server(index)) {
                let Some(service) = before.service(server.service) else { continue };
                say!(
                    "{} of {}: removed, its last flow has ended",
                    server.address,
                    ServiceName(service.key)
                );
            }
        }
        Err(error) => warn!("{error}"),
    }
}

async fn reload(supervisor: &mut Supervisor) {
    match supervisor.read_config_anew().await {
        Ok(remarks) => {
            say!("{} read anew", supervisor.config_path.display());
            for remark in remarks {
                warn!("{remark}");
            }
        }
        Err(error) => {
            warn!("the config is not applied, nothing has changed:");
            for line in error.to_string().lines() {
                warn!("{line}");
            }
        }
    }
}

/// A token or certificate may have been replaced, whatever became of the config.
fn read_secrets_anew(access: Option<&Access>) {
    match access.map(Access::read_anew) {
        None => {}
        Some(Ok(())) => say!("the API's token and certificate read anew"),
        Some(Err(error)) => warn!("the API's token and certificate stay as they were: {error}"),
    }
}

/// Removes the VIPs, gives the packets back to the kernel, then stops the workers. `served` holds the
/// indices of the interfaces whose VIPs are shunt's to remove.
async fn finish(supervisor: &Arc<Mutex<Supervisor>>, threads: Vec<WorkerThread>, served: &[u32]) {
    let Ok(mut supervisor) = timeout(END, supervisor.lock()).await else {
        // A change that hangs is in the way. The end of the process detaches, too, but leaves VIPs.
        return vip_care::end_by_mark(served).await;
    };
    // First, so that no packet meets a kernel that would answer it.
    vip_care::end(&supervisor).await;
    supervisor.detach();
    threads.iter().for_each(WorkerThread::stop);
    supervisor.workers.iter().for_each(WorkerSeat::wake);
    threads.into_iter().for_each(WorkerThread::join);
}
