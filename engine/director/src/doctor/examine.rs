//! Reads all facts, and makes findings of them.

use super::cores::{CoreFacts, Workers};
use super::director::{ConfigFacts, Running};
use super::finding::{Area, Finding, Read};
use super::interface::InterfaceFacts;
use super::machine::{Capabilities, MachineFacts};
use super::memory::{Demand, MemoryFacts, OnHugePages};
use super::nic::NicFacts;
use super::on_the_wire::{ask_for_vips, ask_servers};
use super::program::Program;
use super::queues::QueueFacts;
use super::settings::NetworkFacts;
use super::site::Site;
use super::surroundings::Surroundings;
use super::{cores, director, interface, machine, memory, queues, servers, settings, site, vip};
use crate::client::{Api, ClientError, ask};
use crate::config::{API_SOCKET_DEFAULT, Config, ConfigError, InterfaceConfig, Poll, Queues};
use crate::run::options;
use crate::{plugin_commands, plugins};
use hyper::Method;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use xsk::InterfaceOptions;

/// Looks at everything, with this config file.
pub async fn examine(path: &Path) -> Vec<Finding> {
    let (config, facts) = read_config(path);
    let socket = config.as_ref().map_or(Path::new(API_SOCKET_DEFAULT), |config| &config.api.socket);
    let running = ask_director(socket).await;
    let mut findings = director::findings(&facts, &running);
    findings.extend(machine::findings(&MachineFacts::read()));

    let site = Site::of(config.as_ref(), &running);
    let servers = site.server_addresses();
    let around = Surroundings::read(&servers).await.unwrap_or_else(|why| {
        findings.push(Finding::unread(Area::Network, "links", "links and addresses", &why));
        Surroundings::default()
    });
    let interfaces: Vec<InterfaceFacts> = site
        .interfaces
        .iter()
        .map(|interface| read_interface(interface, &around, &running))
        .collect();
    for interface in &interfaces {
        findings.extend(interface::findings(interface));
    }
    findings.extend(queues_and_cores(config.as_ref(), &site, &interfaces));
    findings.extend(network(&site, &around, &interfaces, &running).await);
    findings
}

fn read_config(path: &Path) -> (Option<Config>, ConfigFacts) {
    let shown = path.display().to_string();
    match Config::read(path, &plugins::known) {
        Ok(config) => {
            let problems = plugin_commands::scheduler_problems(&config);
            let services = config.services.len();
            let content = if problems.is_empty() { Ok(services) } else { Err(problems) };
            (Some(config), ConfigFacts { path: shown, content })
        }
        Err(error @ ConfigError::Unreadable { .. }) => {
            (None, ConfigFacts { path: shown, content: Err(vec![error.to_string()]) })
        }
        Err(error) => {
            let problems = error.to_string().lines().map(str::to_owned).collect();
            (None, ConfigFacts { path: shown, content: Err(problems) })
        }
    }
}

async fn ask_director(socket: &Path) -> Running {
    let api = Api::at_socket(socket);
    let both = async { Ok((get(&api, "/v1/status").await?, get(&api, "/v1/services").await?)) };
    match both.await {
        Ok((status, services)) => Running::Yes(Box::new(status), Box::new(services)),
        Err(ClientError::NotRunning { cause, .. }) => {
            Running::No(format!("{}: {cause}", socket.display()))
        }
        Err(error) => Running::Unknown(error.to_string()),
    }
}

async fn get<T: DeserializeOwned>(api: &Api, path: &str) -> Result<T, ClientError> {
    Ok(serde_json::from_slice(&ask(api, Method::GET, path, "").await?)?)
}

fn read_interface(
    config: &InterfaceConfig,
    around: &Surroundings,
    running: &Running,
) -> InterfaceFacts {
    let name = config.name.clone();
    let survey = xsk::survey(&options(config));
    let index = survey.as_ref().ok().map(|survey| survey.index);
    let views = running.status().map(|status| status.interfaces.as_slice()).unwrap_or_default();
    InterfaceFacts {
        mode: config.mode,
        there: around.rows.iter().map(|row| row.name.clone()).collect(),
        link: index.and_then(|index| around.state(index)),
        nic: index.map(|index| NicFacts::read(&name, index)),
        program: index.and_then(|index| around.row(index)?.program).map(Program::read),
        vlans: index.map(|index| around.vlans_on(index)).unwrap_or_default(),
        running: running.status().is_some(),
        view: views.iter().find(|view| view.name == name).cloned(),
        survey,
        name,
    }
}

fn queues_and_cores(
    config: Option<&Config>,
    site: &Site,
    interfaces: &[InterfaceFacts],
) -> Vec<Finding> {
    let available = crate::cores::available();
    let mut findings = Vec::new();
    for interface in interfaces {
        if let Some(facts) = queue_facts(site, interface, available.len() as u32) {
            findings.extend(queues::findings(&facts));
        }
    }
    let workers = match workers(site, interfaces, &available) {
        Ok(workers) => workers,
        Err(why) => {
            let finding = Finding::problem(Area::Cores, "workers", why);
            findings.push(finding.mended_by("change cores in [[interface]] of the config"));
            Vec::new()
        }
    };
    let facts = CoreFacts::read(workers.iter().flat_map(|workers| workers.cores.clone()));
    let never_idle = config.is_some_and(|config| config.poll == Poll::Busy);
    findings.extend(cores::findings(&facts, &workers, never_idle));
    if let Some(config) = config {
        findings.extend(memory_findings(config, interfaces));
    }
    findings
}

fn queue_facts(site: &Site, interface: &InterfaceFacts, cores: u32) -> Option<QueueFacts> {
    let survey = interface.survey.as_ref().ok()?;
    let nic = interface.nic.as_ref()?;
    let hashes = |kind| {
        let ports = xsk::hashes_ports(&interface.name, kind);
        (kind, ports.map_err(|error| error.to_string()))
    };
    Some(QueueFacts {
        interface: interface.name.clone(),
        driver: survey.driver.clone(),
        served: survey.queues.as_ref().cloned().map_err(|error| error.to_string()),
        in_use: survey.rx_queues,
        most: survey.queues_max,
        cores,
        rss: nic.rss.clone(),
        hashes: site.hashed_kinds().into_iter().map(hashes).collect(),
        taken: nic.taken.clone(),
        running: interface.view.is_some(),
    })
}

/// The workers' cores: the running director's word, else what a start would choose.
fn workers(site: &Site, interfaces: &[InterfaceFacts], available: &[usize]) -> Read<Vec<Workers>> {
    let queues = |interface: &InterfaceFacts| {
        let survey = interface.survey.as_ref().ok();
        survey.and_then(|survey| Some(survey.queues.as_ref().ok()?.len())).unwrap_or(0)
    };
    let served: Vec<(&InterfaceFacts, &InterfaceConfig)> =
        interfaces.iter().zip(&site.interfaces).filter(|(facts, _)| queues(facts) > 0).collect();
    let demands: Vec<crate::cores::Demand> = served
        .iter()
        .map(|(facts, config)| crate::cores::Demand {
            interface: facts.name.clone(),
            queues: queues(facts),
            cores: config.cores.clone(),
        })
        .collect();
    let running = served.iter().any(|(facts, _)| facts.view.is_some());
    let chosen = match running {
        true => Vec::new(),
        false => crate::cores::assign(&demands, available).map_err(|error| error.to_string())?,
    };
    let mut chosen = chosen.into_iter();
    let of = |(facts, config): (&InterfaceFacts, &InterfaceConfig)| {
        let assigned = chosen.next().unwrap_or_default();
        let seen = facts.view.as_ref();
        let nic = facts.nic.as_ref();
        Workers {
            interface: facts.name.clone(),
            cores: match seen {
                Some(view) => view.queues.iter().map(|queue| queue.core).collect(),
                None => assigned,
            },
            numa: nic.map_or(Ok(None), |nic| nic.numa.clone()),
            interrupts: nic.map_or_else(|| Ok(Vec::new()), |nic| nic.interrupts.clone()),
            busy_poll: config.busy_poll.is_some(),
        }
    };
    Ok(served.into_iter().map(of).collect())
}

fn memory_findings(config: &Config, interfaces: &[InterfaceFacts]) -> Vec<Finding> {
    let may_lock = Capabilities::read().is_ok_and(Capabilities::may_lock);
    let mut demand = Demand { workers: 0, frames: 0, capacity: config.capacity };
    for survey in interfaces.iter().filter_map(|interface| interface.survey.as_ref().ok()) {
        let Ok(frame_size) = survey.frame_size else { continue };
        let frames = InterfaceOptions::new("").frames;
        demand.workers += u64::from(survey.rx_queues);
        demand.frames = demand.frames.max(u64::from(frames) * u64::from(frame_size));
    }
    if demand.workers == 0 {
        return Vec::new();
    }
    let queues: Vec<bool> = interfaces
        .iter()
        .filter_map(|interface| interface.view.as_ref())
        .flat_map(|view| &view.queues)
        .filter_map(|queue| queue.huge_pages)
        .collect();
    let on =
        OnHugePages { huge: queues.iter().filter(|&&huge| huge).count(), queues: queues.len() };
    let running = (on.queues > 0).then_some(on);
    memory::findings(&MemoryFacts::read(may_lock), &demand, running)
}

async fn network(
    site: &Site,
    around: &Surroundings,
    interfaces: &[InterfaceFacts],
    running: &Running,
) -> Vec<Finding> {
    let served: Vec<u32> =
        interfaces.iter().filter_map(|facts| Some(facts.survey.as_ref().ok()?.index)).collect();
    let homes = site.homes(around, &served, running);
    // Where VIPs are asked for, too: a VLAN has settings of its own.
    let vlans: BTreeSet<u32> = homes.iter().map(|&(_, link)| link).collect();
    let links = served.iter().chain(vlans.iter().filter(|link| !served.contains(link)));
    let names: Vec<String> = links.map(|&index| around.name(index)).collect();
    let mut findings = settings::findings(&NetworkFacts::read(&names, site));
    if served.is_empty() {
        return findings;
    }
    let questions = site.servers.iter().map(site::SiteServer::question).collect();
    let vips: Vec<IpAddr> = site.vips().into_iter().collect();
    let (answers, claims) =
        tokio::join!(ask_servers(around, &served, &vips, questions), ask_for_vips(around, &homes));
    for facts in site::vip_facts(site, around, &served, &homes, &claims, &answers, running) {
        findings.extend(vip::findings(&facts));
    }
    let views = running.services().map(|view| view.services.as_slice()).unwrap_or_default();
    findings.extend(views.iter().filter(|view| !view.removed).filter_map(servers::quorum));
    for facts in site::server_facts(site, around, &served, &homes, &answers) {
        findings.extend(servers::findings(&facts));
    }
    findings
}

/// Interfaces that only the running director names.
pub(super) fn interface_named(name: &str) -> InterfaceConfig {
    InterfaceConfig {
        name: name.to_owned(),
        mode: crate::config::Mode::Auto,
        queues: Queues::All,
        cores: None,
        busy_poll: None,
    }
}
