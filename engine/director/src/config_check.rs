//! Judges what a config file says. Every problem is found, not only the first.

use crate::config::{
    BusyPollConfig, Config, FLOWS_DEFAULT, FLOWS_V6_DEFAULT, InterfaceConfig, Known,
    METRICS_LISTEN_DEFAULT, METRICS_OFF, Problem, Queues, ServerConfig, ServiceConfig, Written,
    WrittenBusyPoll, WrittenInterface, WrittenProtocol, WrittenServer, WrittenService,
    WrittenTimeouts, WrittenUnknownFlow, place,
};
use crate::mac::Mac;
use crate::mac::mac_text;
use crate::scheduler_name::{self, Params, SchedulerName};
use crate::service_name::{ServiceName, parse_mac, parse_server, parse_vip};
use dataplane::{
    Capacity, Protocol, SERVERS_MAX, SERVERS_PER_SERVICE_MAX, SERVICES_MAX, ServiceKey, Settings,
    Timeouts, UnknownFlow,
};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use toml::Spanned;

/// Fewer flows than this would not fill one page of the table; more would need tens of gigabytes.
const FLOWS: RangeInclusive<i64> = 1_024..=1 << 30;
/// A day, as `ipvsadm --set` allows; the flow table keeps ages in seconds.
const TIMEOUT: RangeInclusive<i64> = 1..=86_400;
const QUEUE: RangeInclusive<i64> = 0..=4_095;
const CORE: RangeInclusive<i64> = 0..=8_191;
const WEIGHT: RangeInclusive<i64> = 0..=65_535;
/// IFNAMSIZ in include/uapi/linux/if.h counts the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
/// SO_BUSY_POLL_BUDGET and SO_BUSY_POLL in microseconds: beyond these a poll starves the worker.
const BUSY_POLL_BUDGET: RangeInclusive<i64> = 1..=1_024;
const BUSY_POLL_WAIT: RangeInclusive<i64> = 1..=10_000;
/// What the kernel keeps in an int.
const KERNEL_INT: RangeInclusive<i64> = 0..=i32::MAX as i64;
/// The scheduler of a service that names none.
const SCHEDULER_DEFAULT: &str = "rr";

/// Makes a config of what is written, or says everything that is wrong with it.
pub(crate) fn check(
    text: &str,
    written: &Written,
    known: Known<'_>,
) -> Result<Config, Vec<Problem>> {
    let mut check = Check { text, problems: Vec::new() };
    let state_dir = check.state_dir(&written.state_dir);
    let known = |scheduler: &SchedulerName| known(&state_dir, scheduler);
    let config = Config {
        poll: written.poll,
        capacity: Capacity {
            flows_v4: check.number(&written.flows, FLOWS, FLOWS_DEFAULT, "flows") as usize,
            flows_v6: check.number(&written.flows_v6, FLOWS, FLOWS_V6_DEFAULT, "flows_v6") as usize,
        },
        settings: Settings {
            timeouts: check.timeouts(&written.timeouts),
            unknown_flow: match written.unknown_flow {
                WrittenUnknownFlow::Reset => UnknownFlow::Reset,
                WrittenUnknownFlow::Drop => UnknownFlow::Drop,
                WrittenUnknownFlow::Schedule => UnknownFlow::Schedule,
            },
        },
        manage_vip: written.manage_vip.unwrap_or(true),
        duplicate_vip: written.duplicate_vip,
        interfaces: check.interfaces(&written.interface),
        api: check.api(&written.api),
        metrics_listen: check.metrics_listen(&written.metrics.listen),
        services: check.services(&written.virtual_service, &known),
        plugins: check.plugins(&written.plugins),
        state_dir: state_dir.clone(),
    };
    if check.problems.is_empty() {
        return Ok(config);
    }
    check.problems.sort_by_key(|problem| (problem.line, problem.column));
    Err(check.problems)
}

/// [`Known`], with the folder that this config names.
type KnownHere<'a> = &'a dyn Fn(&SchedulerName) -> Result<(), String>;

/// A judgement in progress.
pub(crate) struct Check<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

impl Check<'_> {
    /// Notes a problem at a byte offset.
    pub(crate) fn problem(&mut self, offset: usize, message: impl Into<String>) {
        let (line, column) = place(self.text, offset);
        self.problems.push(Problem { line, column, message: message.into() });
    }

    /// The line of a value.
    pub(crate) fn line<T>(&self, value: &Spanned<T>) -> usize {
        place(self.text, value.span().start).0
    }

    /// A number within its range; a missing one takes the default.
    pub(crate) fn number(
        &mut self,
        written: &Option<Spanned<i64>>,
        range: RangeInclusive<i64>,
        default: i64,
        what: &str,
    ) -> i64 {
        let Some(written) = written else { return default };
        let value = *written.get_ref();
        if !range.contains(&value) {
            let message = format!(
                "{what} is {value}: write a number from {} to {}",
                range.start(),
                range.end()
            );
            self.problem(written.span().start, message);
        }
        value
    }

    fn timeouts(&mut self, written: &WrittenTimeouts) -> Timeouts {
        let default = Timeouts::default();
        let mut seconds = |written, default: u32, what| {
            self.number(written, TIMEOUT, i64::from(default), what) as u32
        };
        Timeouts {
            established: seconds(&written.tcp, default.established, "the timeout tcp"),
            fin_wait: seconds(&written.tcpfin, default.fin_wait, "the timeout tcpfin"),
            udp: seconds(&written.udp, default.udp, "the timeout udp"),
            ..default
        }
    }

    fn interfaces(&mut self, written: &[WrittenInterface]) -> Vec<InterfaceConfig> {
        if written.is_empty() {
            self.problem(0, "no interface: add [[interface]] with name = \"eth0\", the interface that the VIPs are on");
        }
        let mut lines = HashMap::new();
        let mut core_lines = HashMap::new();
        written
            .iter()
            .map(|interface| {
                let offset = interface.name.span().start;
                let name = interface.name.get_ref();
                if name.is_empty()
                    || name.len() > INTERFACE_NAME_MAX
                    || name.contains(|c: char| c == '/' || c.is_whitespace())
                {
                    self.problem(offset, format!("\"{name}\" is no name of an interface: `ip link` lists them"));
                }
                let line = self.line(&interface.name);
                if let Some(first) = lines.insert(name.clone(), line) {
                    self.problem(offset, format!("interface {name} is already in line {first}: put both into one [[interface]]"));
                }
                let queues = self.queues(interface);
                let cores = self.cores(interface, &queues, &mut core_lines);
                let busy_poll = interface.busy_poll.as_ref().map(|written| self.busy_poll(written));
                InterfaceConfig { name: name.clone(), mode: interface.mode, queues, cores, busy_poll }
            })
            .collect()
    }

    fn queues(&mut self, interface: &WrittenInterface) -> Queues {
        let Some(written) = &interface.queues else { return Queues::All };
        let offset = written.span().start;
        let list = match written.get_ref() {
            toml::Value::String(all) if all == "all" => return Queues::All,
            toml::Value::Array(list) if !list.is_empty() => list,
            _ => {
                self.problem(offset, "queues is \"all\" or a list of queue numbers as in [0, 1]");
                return Queues::All;
            }
        };
        let mut queues = Vec::new();
        for queue in list {
            match queue.as_integer() {
                Some(queue) if QUEUE.contains(&queue) => {
                    if queues.contains(&(queue as u32)) {
                        self.problem(
                            offset,
                            format!("queue {queue} is listed twice: one worker serves a queue"),
                        );
                    }
                    queues.push(queue as u32);
                }
                _ => self.problem(
                    offset,
                    format!(
                        "{queue:?} is no queue: write numbers from {} to {}",
                        QUEUE.start(),
                        QUEUE.end()
                    ),
                ),
            }
        }
        Queues::List(queues)
    }

    fn cores(
        &mut self,
        interface: &WrittenInterface,
        queues: &Queues,
        lines: &mut HashMap<i64, usize>,
    ) -> Option<Vec<usize>> {
        let written = interface.cores.as_ref()?;
        for core in written.get_ref() {
            let (offset, number) = (core.span().start, *core.get_ref());
            if !CORE.contains(&number) {
                self.problem(offset, format!("{number} is no core: `lscpu -e` lists them"));
            }
            let line = self.line(core);
            if let Some(first) = lines.insert(number, line) {
                self.problem(offset, format!("core {number} already has a worker, in line {first}: give each queue a core of its own"));
            }
        }
        let cores: Vec<usize> =
            written.get_ref().iter().map(|core| *core.get_ref() as usize).collect();
        if let Queues::List(queues) = queues
            && queues.len() != cores.len()
        {
            self.problem(
                written.span().start,
                format!(
                    "{} cores for {} queues: name one core for each queue, or leave cores out",
                    cores.len(),
                    queues.len()
                ),
            );
        }
        Some(cores)
    }

    fn busy_poll(&mut self, written: &WrittenBusyPoll) -> BusyPollConfig {
        let default = BusyPollConfig::default();
        let mut number = |written, range, default: u32, what| {
            self.number(written, range, i64::from(default), what) as u32
        };
        BusyPollConfig {
            budget: number(&written.budget, BUSY_POLL_BUDGET, default.budget.into(), "budget")
                as u16,
            wait: number(&written.wait, BUSY_POLL_WAIT, default.wait, "wait"),
            defer_hard_irqs: number(
                &written.defer_hard_irqs,
                KERNEL_INT,
                default.defer_hard_irqs,
                "defer_hard_irqs",
            ),
            gro_flush_timeout: number(
                &written.gro_flush_timeout,
                KERNEL_INT,
                default.gro_flush_timeout,
                "gro_flush_timeout",
            ),
        }
    }

    fn metrics_listen(&mut self, written: &Option<Spanned<String>>) -> Option<SocketAddr> {
        let listen = written.as_ref().map_or(METRICS_LISTEN_DEFAULT, |written| written.get_ref());
        if listen == METRICS_OFF {
            return None;
        }
        let address = listen.parse().ok();
        if let (None, Some(written)) = (address, written) {
            self.problem(
                written.span().start,
                format!("\"{listen}\" is no address with a port: write \"{METRICS_LISTEN_DEFAULT}\", or \"{METRICS_OFF}\" for no metrics"),
            );
        }
        address
    }

    fn services(&mut self, written: &[WrittenService], known: KnownHere<'_>) -> Vec<ServiceConfig> {
        let mut lines = HashMap::new();
        let mut macs = HashMap::new();
        let mut services = Vec::new();
        for service in written {
            let offset = service.address.span().start;
            let scheduler = self.scheduler(&service.scheduler, known);
            let params = self.params(&service.scheduler_params);
            let address = match parse_vip(service.address.get_ref()) {
                Ok(address) => address,
                Err(message) => {
                    self.problem(offset, message);
                    continue;
                }
            };
            let protocol = match service.protocol.get_ref() {
                WrittenProtocol::Tcp => Protocol::Tcp,
                WrittenProtocol::Udp => Protocol::Udp,
            };
            let key = ServiceKey { address: address.ip(), port: address.port(), protocol };
            let line = self.line(&service.address);
            if let Some(first) = lines.insert(key, line) {
                self.problem(offset, format!("virtual service {} is already in line {first}: put their real servers into one", ServiceName(key)));
            }
            let servers = self.servers(key, &service.real_server, &mut macs);
            let policy = self.policy(key, service, &scheduler, &servers);
            services.push(ServiceConfig { key, scheduler, params, policy, servers });
        }
        let servers: usize = services.iter().map(|service| service.servers.len()).sum();
        if services.len() > SERVICES_MAX {
            self.problem(
                0,
                format!(
                    "{} virtual services: a director serves at most {SERVICES_MAX}",
                    services.len()
                ),
            );
        }
        if servers > SERVERS_MAX {
            self.problem(0, format!("{servers} real servers: a director serves at most {SERVERS_MAX}, each counted once per virtual service"));
        }
        services
    }

    fn scheduler(
        &mut self,
        written: &Option<Spanned<String>>,
        known: KnownHere<'_>,
    ) -> SchedulerName {
        let default = || SCHEDULER_DEFAULT.parse().expect("the default is a name");
        let Some(written) = written else { return default() };
        let judged =
            written.get_ref().parse().and_then(|name: SchedulerName| known(&name).map(|()| name));
        judged.unwrap_or_else(|message| {
            self.problem(written.span().start, message);
            default()
        })
    }

    /// Parameters: whatever is written plainly is told as text.
    fn params(&mut self, written: &BTreeMap<Spanned<String>, Spanned<toml::Value>>) -> Params {
        let mut params = Params::new();
        for (key, value) in written {
            let text = match value.get_ref() {
                toml::Value::String(text) => text.clone(),
                toml::Value::Boolean(flag) => flag.to_string(),
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => format!("{number:?}"),
                _ => {
                    let message = format!(
                        "the parameter {} has a value of the type {}: write text, a number, true or false",
                        key.get_ref(),
                        value.get_ref().type_str()
                    );
                    self.problem(value.span().start, message);
                    continue;
                }
            };
            if let Err(message) = scheduler_name::check_param(key.get_ref(), &text) {
                // A bad key is its own place; all else is the value's.
                let bad_key = scheduler_name::check_param(key.get_ref(), "").is_err();
                let span = if bad_key { key.span() } else { value.span() };
                self.problem(span.start, message);
            }
            params.insert(key.get_ref().clone(), text);
        }
        if let (Err(message), Some((first, _)), 0) =
            (scheduler_name::check_params(&params), written.first_key_value(), self.problems.len())
        {
            self.problem(first.span().start, message);
        }
        params
    }

    fn servers(
        &mut self,
        key: ServiceKey,
        written: &[WrittenServer],
        macs: &mut HashMap<IpAddr, (Mac, usize)>,
    ) -> Vec<ServerConfig> {
        let mut lines = HashMap::new();
        let mut servers = Vec::new();
        if let Some(first_too_many) = written.get(SERVERS_PER_SERVICE_MAX) {
            self.problem(
                first_too_many.address.span().start,
                format!("{} has {} real servers: a virtual service has at most {SERVERS_PER_SERVICE_MAX}", ServiceName(key), written.len()),
            );
        }
        for server in written {
            let offset = server.address.span().start;
            let weight = self.number(&server.weight, WEIGHT, 1, "weight") as u16;
            let address = parse_server(server.address.get_ref(), Some(key.port))
                .and_then(|address| check_member(key, address).map(|()| address));
            match address {
                Ok(address) => {
                    let line = self.line(&server.address);
                    if let Some(first) = lines.insert(address, line) {
                        self.problem(offset, format!("real server {address} is already in line {first} of {}: give it one entry with the weight it should have", ServiceName(key)));
                    }
                    let mac = self.mac(address, &server.mac, macs);
                    servers.push(ServerConfig { address, weight, mac });
                }
                Err(message) => self.problem(offset, message),
            }
        }
        servers
    }

    /// The MAC address of a real server. It may be in several services, and it is one machine in
    /// all of them. `macs`: those given so far, each with its line.
    fn mac(
        &mut self,
        address: IpAddr,
        written: &Option<Spanned<String>>,
        macs: &mut HashMap<IpAddr, (Mac, usize)>,
    ) -> Option<Mac> {
        let written = written.as_ref()?;
        let offset = written.span().start;
        let mac = parse_mac(written.get_ref()).map_err(|message| self.problem(offset, message));
        let mac = mac.ok()?;
        let (first, line) = *macs.entry(address).or_insert((mac, self.line(written)));
        if first != mac {
            self.problem(offset, format!("real server {address} has the MAC address {} in line {line}: it is one machine, so give it one, or none and shunt asks for it", mac_text(first)));
        }
        Some(mac)
    }
}

/// Whether a real server with this address can serve this virtual service.
pub fn check_member(key: ServiceKey, address: IpAddr) -> Result<(), String> {
    if address.is_ipv4() != key.address.is_ipv4() {
        return Err(format!(
            "real server {address} and VIP {} are not of the same family: direct routing leaves the packet's addresses alone, so both are IPv4 or both IPv6",
            key.address
        ));
    }
    if address == key.address {
        return Err(format!(
            "real server {address} is the VIP itself: write the real server's own address"
        ));
    }
    Ok(())
}
