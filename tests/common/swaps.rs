//! One plugin after the other under one name, while packets are numbered, connections carry data
//! and flows begin.

use super::kernel_counts::KernelCounts;
use super::metrics::Metrics;
use super::numbered::{Numbered, Rate, Tally};
use super::{HTTP, Site, http_rr, list, service, wait_for_list};
use director::client::{Api, ask};
use director::plugin_views::{PluginShowView, UploadView};
use director::views::FlowView;
use hyper::Method;
use lab::{Config, Director, Family, HttpClient, Plan, Topology, real_server_address, vip};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The port of the service that the numbered packets are for.
const NUMBERED: u16 = 5_353;
const REAL_SERVERS: u8 = 4;
const QUEUES: u8 = 2;
/// Threads that share the connections.
const THREADS: usize = 2;
/// The name that all files are uploaded under.
const NAME: &str = "swapped";
/// What is uploaded in turn, below `plugins/`.
const FILES: [&str; 5] =
    ["rr/rr.wasm", "wrr/wrr.wasm", "lc/lc.wasm", "mh/mh.wasm", "examples/c/affinity.wasm"];
/// Waits for a call of a new version. At the lowest rate a new flow comes every millisecond.
const CALLED: Duration = Duration::from_secs(10);
/// More than any of this takes, so that the numbers do not run out.
const LONGEST: Duration = Duration::from_secs(600);
/// What the director's memory may grow by from one fifth of the swaps to the last, in KiB. A leak
/// of one instance's linear memory a swap would be several times that.
const GROWTH_MAX: u64 = 6 * 1024;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Uploads that replace the plugin in use.
    pub swaps: usize,
    /// TCP connections that carry data all the time.
    pub connections: usize,
    /// Numbered packets.
    pub rate: Rate,
    /// Time from one request on a connection to the next.
    pub pace: Duration,
    /// The least share of `rate` that the machine must have offered.
    pub offered: f64,
}

/// Swaps as the scale says and checks that nobody has noticed.
pub fn swap_under_load(scale: Scale) {
    let files = 3 * scale.connections as u64 + 500;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(files), hard).unwrap();
    let plan = Plan::new("swaps").queues(QUEUES).real_servers(REAL_SERVERS);
    let site = Site::build(plan, &[Family::V4]);
    let mut numbered = service("udp", Family::V4, "rr", REAL_SERVERS);
    numbered.address.set_port(NUMBERED);
    let services = vec![http_rr(REAL_SERVERS), numbered];
    // Flows of one packet end soon, so that the table is as full at the end as at the beginning.
    let top = "flows = 200_000\nflows_v6 = 1_024\ntimeouts = { udp = 3 }".to_owned();
    let director = site.start(&Config { top, ..Config::of(services.clone()) });
    let api = Api::at_socket(director.socket());

    let before = KernelCounts::read(&site.topology);
    let most = scale.rate.packets * LONGEST.as_secs();
    let load = Numbered::start(&site.topology, NUMBERED, scale.rate, most);
    let connections = Connections::open(&site.topology, scale);
    upload(&api, 0);
    for service in &services {
        director.shunt(&format!("service set {} --scheduler {NAME}", service.name())).unwrap();
    }
    let held = connections.real_servers();
    assert_eq!(established(&api), held, "before the swaps");

    let mut times = Vec::new();
    let mut memory = None;
    for number in 1..=scale.swaps {
        let begun = Instant::now();
        let uploaded = upload(&api, number);
        times.push(begun.elapsed());
        assert!(!uploaded.unchanged && uploaded.services == 2, "{uploaded:?}");
        let is_called = || calls(&api, uploaded.version) > 0.0;
        lab::wait_until(CALLED, "the new version is called", is_called).unwrap();
        if number == scale.swaps / 5 {
            memory = Some(resident(&director));
        }
    }
    let (memory, memory_after) = (memory.unwrap(), resident(&director));
    assert_eq!(established(&api), held, "after the swaps");
    let requests = connections.finish();
    let lasting = load.places();
    let flows = udp_flows(&api);
    let tally = load.finish();
    let lost_by_kernel = KernelCounts::read(&site.topology).since(&before);
    print(
        &mut times,
        &tally,
        &lost_by_kernel,
        requests,
        (memory, memory_after),
        &show_plugin(&api, NAME),
    );

    for (source, real_server) in lasting {
        let place = SocketAddr::new(real_server_address(real_server, Family::V4), NUMBERED);
        assert_eq!(flows.get(&source), Some(&place), "{source} by what has arrived");
    }
    check_director(&site, &show_plugin(&api, NAME));
    check_tally(scale, &tally, &lost_by_kernel);
    assert!(memory_after < memory + GROWTH_MAX, "{memory} KiB, then {memory_after} KiB");
}

fn check_tally(scale: Scale, tally: &Tally, lost_by_kernel: &KernelCounts) {
    assert_eq!((tally.twice, tally.moved), (0, 0), "{tally:?}");
    // A frame that the kernel has dropped is counted where it was dropped: in a device when a
    // veth's ring of 256 is full, in the backlog, in a socket whose reader was not there for long.
    // What shunt drops is counted by shunt, and that is nothing (see `check_director`).
    assert!(tally.lost <= lost_by_kernel.sum(), "{tally:?}\n{lost_by_kernel:#?}");
    let seconds = tally.time.as_secs_f64();
    for (offered, wanted) in
        [(tally.sent, scale.rate.packets), (tally.new_flows, scale.rate.new_flows)]
    {
        let (offered, wanted) = (offered as f64 / seconds, wanted as f64 * scale.offered);
        assert!(offered >= wanted, "{offered} a second were offered, not {wanted}");
    }
}

/// Nothing was dropped by shunt, nor between the kernel and shunt, and no plugin has failed.
fn check_director(site: &Site, shown: &PluginShowView) {
    let metrics = Metrics::fetch(&site.topology.director);
    let counters = [
        "shunt_worker_packets_dropped_total",
        "shunt_interface_packets_shed_total",
        "shunt_queue_rx_dropped_total",
        "shunt_queue_rx_ring_full_total",
        "shunt_queue_rx_invalid_descriptors_total",
        "shunt_queue_tx_invalid_descriptors_total",
        "shunt_queue_fill_ring_empty_total",
    ];
    // A name that no metric has is an error of the sum.
    let counted = counters.map(|name| (name, metrics.sum(name, &[])));
    let counted: Vec<_> = counted.into_iter().filter(|&(_, count)| count > 0.0).collect();
    assert!(counted.is_empty(), "a worker was kept from its core for too long? {counted:?}");
    for kind in ["no_socket", "foreign_mac", "malformed"] {
        let passed = metrics.sum("shunt_interface_packets_passed_total", &[("kind", kind)]);
        assert_eq!(passed, 0.0, "left to the kernel: {kind}");
    }
    let fallbacks: u64 = shown.plugin.fallbacks.values().sum();
    assert_eq!((shown.plugin.traps, fallbacks, shown.plugin.rollbacks), (0, 0, 0), "{shown:?}");
}

fn print(
    times: &mut [Duration],
    tally: &Tally,
    lost_by_kernel: &KernelCounts,
    requests: usize,
    (memory, memory_after): (u64, u64),
    shown: &PluginShowView,
) {
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    let seconds = tally.time.as_secs_f64();
    println!(
        "{} swaps; an upload until it serves: p50 {:.1} ms, p99 {:.1} ms",
        times.len(),
        at(0.5),
        at(0.99)
    );
    println!("a worker's pause, ns: {:?}", shown.plugin.swap);
    println!(
        "{} packets ({:.0} a second), {} new flows ({:.0} a second): {} lost, {} twice, {} moved",
        tally.sent,
        tally.sent as f64 / seconds,
        tally.new_flows,
        tally.new_flows as f64 / seconds,
        tally.lost,
        tally.twice,
        tally.moved
    );
    println!("what the kernel has dropped: {lost_by_kernel:?}");
    println!("{requests} requests on held connections, each answered by its real server");
    println!("resident: {memory} KiB after a fifth of the swaps, {memory_after} KiB at the end");
}

/// Runs a future of the client to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Uploads the next file, under the same name as the one before.
fn upload(api: &Api, number: usize) -> UploadView {
    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins");
    let file = std::fs::read(plugins.join(FILES[number % FILES.len()])).unwrap();
    let answer = block_on(ask(api, Method::PUT, &format!("/v1/plugins/{NAME}"), file));
    serde_json::from_slice(&answer.unwrap()).unwrap()
}

/// Flows that this version was asked for.
fn calls(api: &Api, version: u32) -> f64 {
    let answer = block_on(ask(api, Method::GET, "/metrics", "")).unwrap();
    let all = String::from_utf8(answer.to_vec()).unwrap();
    let of_plugins = all.lines().filter(|line| line.starts_with("shunt_plugin_calls_total{"));
    let metrics = Metrics::parse(of_plugins.map(|line| format!("{line}\n")).collect());
    let version = version.to_string();
    metrics.sum("shunt_plugin_calls_total", &[("plugin", NAME), ("version", &version)])
}

/// What the director shows of a plugin.
pub fn show_plugin(api: &Api, name: &str) -> PluginShowView {
    let answer = block_on(ask(api, Method::GET, &format!("/v1/plugins/{name}"), "")).unwrap();
    serde_json::from_slice(&answer).unwrap()
}

/// Instances of a plugin that so many services use.
pub fn instances_of(services: u16) -> usize {
    usize::from(services) * usize::from(QUEUES)
}

/// The flows of a service, as the director lists them: where each goes.
fn flows(api: &Api, wanted: impl Fn(&FlowView) -> bool) -> BTreeMap<SocketAddr, SocketAddr> {
    let answer = block_on(ask(api, Method::GET, "/v1/flows", "")).unwrap();
    let text = String::from_utf8(answer.to_vec()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|flow: &FlowView| wanted(flow))
        .map(|flow| (flow.source, flow.destination))
        .collect()
}

fn established(api: &Api) -> BTreeMap<SocketAddr, SocketAddr> {
    flows(api, |flow| flow.r#virtual.port() == HTTP && flow.state == "ESTABLISHED")
}

fn udp_flows(api: &Api) -> BTreeMap<SocketAddr, SocketAddr> {
    flows(api, |flow| flow.r#virtual.port() == NUMBERED)
}

/// VmRSS of proc(5), in KiB.
fn resident(director: &Director) -> u64 {
    let status = format!("/proc/{}/status", director.process().pid());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// TCP connections on which a request follows the other; each answer must come from the real
/// server that gave the first.
struct Connections {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    /// Where each goes, by its own address.
    held: BTreeMap<SocketAddr, SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

/// A connection and the name of its real server.
type Held = (HttpClient, String);

impl Connections {
    fn open(topology: &Topology, scale: Scale) -> Connections {
        let (stop, requests) = (Arc::default(), Arc::default());
        let (mut all, mut threads) = (BTreeMap::new(), Vec::new());
        for _ in 0..THREADS {
            let open =
                || -> Vec<Held> { (0..scale.connections / THREADS).map(|_| open_one()).collect() };
            let mut held = topology.client.run(open).unwrap();
            for (client, name) in &held {
                let number = name.strip_prefix("rs").unwrap().parse().unwrap();
                let place = SocketAddr::new(real_server_address(number, Family::V4), HTTP);
                all.insert(client.local_address().unwrap(), place);
            }
            let (stop, requests) = (Arc::clone(&stop), Arc::clone(&requests));
            let pace = scale.pace;
            threads.push(thread::spawn(move || go_on(&mut held, pace, &stop, &requests)));
        }
        Connections { stop, requests, held: all, threads }
    }

    fn real_servers(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        self.held.clone()
    }

    /// Ends them, and returns how many requests were answered.
    fn finish(self) -> usize {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let requests = self.requests.load(Relaxed);
        assert!(requests > self.held.len(), "{requests} requests are no load");
        requests
    }
}

fn open_one() -> Held {
    let address = SocketAddr::new(vip(Family::V4), HTTP);
    let mut client = HttpClient::connect_here(address).unwrap();
    let name = client.get("/").unwrap().real_server;
    (client, name)
}

fn go_on(held: &mut [Held], pace: Duration, stop: &AtomicBool, requests: &AtomicUsize) {
    while !stop.load(Relaxed) {
        let begun = Instant::now();
        for (client, _) in held.iter_mut() {
            client.send_get("/").unwrap();
        }
        for (client, real_server) in held.iter_mut() {
            let answer = client.take_answer().unwrap();
            assert_eq!((answer.status, &answer.real_server), (200, &*real_server));
        }
        requests.fetch_add(held.len(), Relaxed);
        thread::sleep(pace.saturating_sub(begun.elapsed()));
    }
}

/// So many services on two workers: one upload replaces the plugin of all of them.
pub fn swap_many_services(services: u16) {
    const FIRST_PORT: u16 = 1_000;
    let plan = Plan::new("services").queues(QUEUES).real_servers(REAL_SERVERS);
    let site = Site::build(plan, &[Family::V4]);
    let of_port = |port| {
        let mut service = service("udp", Family::V4, "rr", REAL_SERVERS);
        service.address.set_port(port);
        service
    };
    let all = (FIRST_PORT..FIRST_PORT + services).map(of_port).collect();
    let top = "flows = 10_000\nflows_v6 = 1_024".to_owned();
    let begun = Instant::now();
    let director = site.start(&Config { top, ..Config::of(all) });
    let started = begun.elapsed();
    wait_for_list(&director, "all services", |list| list.len() == usize::from(services));

    let api = Api::at_socket(director.socket());
    let wrr = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/wrr/wrr.wasm");
    let begun = Instant::now();
    let file = std::fs::read(wrr).unwrap();
    let answer = block_on(ask(&api, Method::PUT, "/v1/plugins/rr", file)).unwrap();
    let swapped = begun.elapsed();
    let uploaded: UploadView = serde_json::from_slice(&answer).unwrap();
    assert_eq!((uploaded.version, uploaded.services), (1, services.into()), "{uploaded:?}");
    let shown = show_plugin(&api, "rr");
    assert_eq!((shown.plugin.version, shown.plugin.instances), (1, instances_of(services)));
    println!(
        "{services} services on {QUEUES} workers: started in {:.0} ms, swapped in {:.0} ms, a worker's pause, ns: {:?}",
        started.as_secs_f64() * 1e3,
        swapped.as_secs_f64() * 1e3,
        shown.plugin.swap
    );

    // Flows of each service go by it: asked, and all served.
    let client = |port| {
        let to = SocketAddr::new(vip(Family::V4), port);
        lab::UdpClient::connect(&site.topology.client, to, super::PATIENCE).unwrap()
    };
    for port in [FIRST_PORT, FIRST_PORT + services / 2, FIRST_PORT + services - 1] {
        let to = SocketAddr::new(vip(Family::V4), port);
        let _echoes: Vec<_> = (1..=REAL_SERVERS)
            .map(|number| {
                let netns = site.topology.real_server(number);
                lab::UdpEcho::start(netns, &format!("rs{number}"), to).unwrap()
            })
            .collect();
        let answered: std::collections::BTreeSet<_> =
            (0..64).map(|_| client(port).ask("who").unwrap()).collect();
        assert!(answered.len() > 1, "{answered:?}");
    }
    let shown = show_plugin(&api, "rr");
    assert_eq!(shown.plugin.fallbacks.values().sum::<u64>(), 0, "{shown:?}");
    assert!(shown.plugin.calls >= 3 * 64, "{shown:?}");
    assert!(list(&director).is_some());
}
