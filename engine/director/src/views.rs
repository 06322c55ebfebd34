//! What the API answers, as both its ends know it.

use crate::clock;
use crate::config::{Config, ServiceConfig};
use crate::health;
pub use crate::health::views::{HealthView, QuorumView};
use crate::mac::mac_text;
use crate::plugins;
use crate::scheduler_name::{Params, SchedulerName};
use crate::service_name::ServiceName;
use crate::services::{ServerEntry, ServiceEntry, Services};
use crate::supervisor::Supervisor;
use crate::vip_care;
use crate::vip_claims::Claims;
use dataplane::{ServerCounts, ServerIndex, ServerState};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use xsk::{AttachMode, Mode};

/// What was counted for a service or a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CountsView {
    /// Flows created.
    pub connections: u64,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes forwarded.
    pub bytes: u64,
    /// Established TCP flows and living UDP flows.
    pub active: u32,
    /// All other flows.
    pub inactive: u32,
}

/// `GET /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesView {
    /// Version of the director.
    pub version: String,
    /// Flows that all workers together can remember, IPv4 and IPv6.
    pub flow_capacity: usize,
    /// The virtual services.
    pub services: Vec<ServiceView>,
}

/// A virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub service: ServiceName,
    /// The name of its scheduler.
    pub scheduler: SchedulerName,
    /// What its scheduler is told.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// The version that the name means: the one in it, or the current one.
    #[serde(default)]
    pub meant: Option<u32>,
    /// The version that chooses; nothing: the native fallback does.
    #[serde(default)]
    pub version: Option<u32>,
    /// The scheduler, as it is meant, used up its fuel and is no longer asked.
    pub benched: bool,
    /// Removed: no new flows.
    pub removed: bool,
    /// What was changed at run time and is not in the config file.
    pub run_time: Option<String>,
    /// Whether enough of its real servers are up; nothing: nobody wants to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumView>,
    /// What is wrong with its VIP, if anything.
    #[serde(default)]
    pub vip: Option<String>,
    /// What was counted.
    pub counts: CountsView,
    /// Its real servers.
    pub servers: Vec<ServerView>,
}

/// A real server of a virtual service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its address.
    pub address: IpAddr,
    /// Its weight.
    pub weight: u16,
    /// serving, removed or expired.
    pub state: String,
    /// State of its neighbor entry.
    pub neighbor: String,
    /// Its MAC address, as last known.
    pub mac: Option<String>,
    /// MAC addresses of other machines that said lately that they have its address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claimed_by: Vec<String>,
    /// Why flows do not get there, whatever else is well, if so.
    pub problem: Option<String>,
    /// What was changed at run time and is not in the config file.
    pub run_time: Option<String>,
    /// It is the sorry server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sorry: bool,
    /// What its health checks say; nothing: it is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthView>,
    /// What was counted.
    pub counts: CountsView,
}

/// A line of `GET /v1/flows`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// tcp or udp.
    pub protocol: String,
    /// Seconds until it ends, if no packet comes.
    pub expires: u32,
    /// Its state, as IPVS calls it.
    pub state: String,
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub r#virtual: SocketAddr,
    /// The real server.
    pub destination: SocketAddr,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the director.
    pub version: String,
    /// Seconds since it started.
    pub uptime: u64,
    /// The config file.
    pub config: String,
    /// The interfaces.
    pub interfaces: Vec<InterfaceView>,
    /// The VIPs.
    #[serde(default)]
    pub vips: Vec<VipView>,
}

/// A VIP on the director.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// The VIP.
    pub address: IpAddr,
    /// The link where it is, or where it belongs.
    pub interface: Option<String>,
    /// By whose hands it is there: shunt or other; absent: it is not.
    pub held: String,
    /// Other machines that say that they have it.
    pub claims: Vec<ClaimView>,
    /// How often further ones said so, which are not named: somebody makes MAC addresses up.
    #[serde(default)]
    pub unnamed_claims: u64,
}

/// Another machine that says that it has a VIP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimView {
    /// Its MAC address.
    pub mac: String,
    /// The real server that has it, if it is one's.
    pub server: Option<IpAddr>,
}

/// A served interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// native or generic; nothing while no XDP program is attached.
    pub xdp: Option<String>,
    /// Its queues.
    pub queues: Vec<QueueView>,
}

/// A queue with its worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueView {
    /// Its number.
    pub queue: u32,
    /// The worker's number.
    pub worker: usize,
    /// The worker's core.
    pub core: usize,
    /// zero-copy or copy, as the kernel reports it.
    pub mode: Option<String>,
    /// Whether its frames are on huge pages.
    pub huge_pages: Option<bool>,
}

/// What every refusal looks like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What is wrong, and what to do.
    pub error: String,
}

impl From<ServerCounts> for CountsView {
    fn from(counts: ServerCounts) -> CountsView {
        CountsView {
            connections: counts.connections,
            packets: counts.packets,
            bytes: counts.bytes,
            active: counts.load.active,
            inactive: counts.load.inactive,
        }
    }
}

/// All services.
pub fn services(supervisor: &Supervisor) -> ServicesView {
    let mut services: Vec<ServiceView> = supervisor
        .services()
        .services()
        .map(|(index, entry)| {
            let mut servers: Vec<ServerView> = supervisor
                .services()
                .members(entry)
                .map(|(index, server)| view_server(supervisor, entry, (index, server)))
                .collect();
            servers.sort_by_key(|server| server.address);
            ServiceView {
                service: ServiceName(entry.key),
                scheduler: entry.scheduler.clone(),
                params: entry.params.clone(),
                meant: plugins::find(supervisor.plugins().names(), &entry.scheduler)
                    .ok()
                    .map(|version| version.number),
                version: supervisor.schedulers().runs(index).map(|(version, _)| version.number),
                benched: supervisor.schedulers().is_benched(index),
                removed: entry.removed,
                run_time: service_mark(&supervisor.config, entry),
                quorum: health::views::quorum(supervisor, entry),
                vip: supervisor.vips.trouble(entry.key.address),
                counts: supervisor.service_counts(index).into(),
                servers,
            }
        })
        .collect();
    services.sort_by_key(|service| service.service);
    let capacities = supervisor.workers.iter().map(|worker| worker.handle.memory.capacity());
    ServicesView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        flow_capacity: capacities.map(|capacity| capacity.flows_v4 + capacity.flows_v6).sum(),
        services,
    }
}

fn view_server(
    supervisor: &Supervisor,
    service: &ServiceEntry,
    (index, server): (ServerIndex, &ServerEntry),
) -> ServerView {
    let neighbors = &supervisor.neighbors;
    let apart = supervisor.apart.get(&(service.key.address, server.address));
    ServerView {
        address: server.address,
        weight: server.weight,
        state: match server.state {
            ServerState::Serving => "serving",
            ServerState::Removed => "removed",
            ServerState::Expired => "expired",
        }
        .to_owned(),
        neighbor: neighbors.state(server.address).name().to_owned(),
        mac: neighbors.mac(server.address).map(mac_text),
        claimed_by: neighbors.claims(server.address, clock::now()).map(mac_text).collect(),
        problem: neighbors.problem(server.address).or(apart.map(String::as_str)).map(str::to_owned),
        run_time: server_mark(&supervisor.config, supervisor.services(), service, server),
        sorry: server.sorry,
        health: health::views::health(supervisor, service, (index, server)),
        counts: supervisor.server_counts(index).into(),
    }
}

/// A path as others can use it, who are in another folder.
fn absolute(path: &Path) -> String {
    std::path::absolute(path).as_deref().unwrap_or(path).display().to_string()
}

/// The director itself.
pub fn status(supervisor: &Supervisor) -> StatusView {
    let interfaces = supervisor.interfaces.iter().enumerate().map(|(position, interface)| {
        let workers = supervisor.workers.iter().enumerate();
        let queues =
            workers.filter(|(_, seat)| seat.interface == position).map(|(worker, seat)| {
                let monitor = seat.monitor.as_ref();
                QueueView {
                    queue: seat.queue,
                    worker,
                    core: seat.core,
                    mode: monitor.map(|monitor| Mode::name(monitor.mode()).to_owned()),
                    huge_pages: monitor.map(|monitor| monitor.huge_pages()),
                }
            });
        InterfaceView {
            name: interface.name.clone(),
            xdp: interface.attached.map(|mode| AttachMode::name(mode).to_owned()),
            queues: queues.collect(),
        }
    });
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime: supervisor.started.elapsed().as_secs(),
        config: absolute(&supervisor.config_path),
        interfaces: interfaces.collect(),
        vips: vips(supervisor),
    }
}

/// The VIPs, and who else says that they have them.
pub fn vips(supervisor: &Supervisor) -> Vec<VipView> {
    let vips = &supervisor.vips;
    let claims = |vip| {
        let server = move |mac| vip_care::owner(&supervisor.neighbors, mac, vip);
        let named = vips.claims(vip).into_iter().flat_map(Claims::standing);
        named.map(move |mac| ClaimView { mac: mac_text(mac), server: server(mac) })
    };
    vips.addresses()
        .map(|vip| VipView {
            address: vip,
            interface: vips.interface(vip).map(str::to_owned),
            held: vips.held(vip).name().to_owned(),
            claims: claims(vip).collect(),
            unnamed_claims: vips.claims(vip).map_or(0, Claims::unnamed),
        })
        .collect()
}

fn in_file<'a>(config: &'a Config, service: &ServiceEntry) -> Option<&'a ServiceConfig> {
    config.services.iter().find(|written| written.key == service.key)
}

/// What a service has that its entry in the config file does not say.
pub fn service_mark(config: &Config, service: &ServiceEntry) -> Option<String> {
    if service.removed {
        return None;
    }
    match in_file(config, service) {
        None => Some("added at run time".to_owned()),
        Some(written) if written.scheduler != service.scheduler => {
            Some(format!("scheduler set at run time; the config has {}", written.scheduler))
        }
        Some(written) if written.params != service.params => {
            let params = match &written.params {
                none if none.is_empty() => "none".to_owned(),
                some => params_text(some),
            };
            Some(format!("parameters set at run time; the config has {params}"))
        }
        Some(_) => None,
    }
}

/// Parameters as listings show them: `mh-port,size=5`, as ipvsadm does with a scheduler's flags.
pub fn params_text(params: &Params) -> String {
    let text = |(key, value): (&String, &String)| match value.as_str() {
        "true" => key.clone(),
        value => format!("{key}={value}"),
    };
    params.iter().map(text).collect::<Vec<_>>().join(",")
}

/// What a server has that its entry in the config file does not say.
pub fn server_mark(
    config: &Config,
    services: &Services,
    service: &ServiceEntry,
    server: &ServerEntry,
) -> Option<String> {
    let written = in_file(config, service)
        .and_then(|service| service.servers.iter().find(|s| s.address == server.address));
    if server.sorry {
        return None;
    }
    let serving = server.state == ServerState::Serving;
    match written {
        None if serving => Some("added at run time".to_owned()),
        Some(_) if !serving && !service.removed => {
            Some("removed at run time; the config has it".to_owned())
        }
        Some(written) if serving && written.weight != server.weight => {
            Some(format!("weight set at run time; the config has {}", written.weight))
        }
        Some(_) if serving => {
            let written = config.mac(server.address);
            (services.macs().get(&server.address) != written.as_ref()).then(|| {
                let written = written.map_or("none".to_owned(), mac_text);
                format!("MAC address set at run time; the config has {written}")
            })
        }
        _ => None,
    }
}
