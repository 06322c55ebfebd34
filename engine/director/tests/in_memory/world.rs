//! A director in memory: the real supervisor, workers, plugins and API; packets come from a test
//! instead of a NIC, neighbors from a test instead of the kernel.

use dataplane::{DropReason, Handle, Seeds, Worker};
use director::addresses::OwnAddress;
use director::config::Config;
use director::health::kinds::CheckError;
use director::health::members::Outcome;
use director::listen::{self, SocketFile};
use director::neighbors::{KernelState, Reach};
use director::plugin_store::PluginStore;
use director::plugins::Plugins;
use director::scheduler_name::SchedulerName;
use director::seats::{ServedInterface, WorkerSeat};
use director::service_name::ServiceName;
use director::supervisor::Supervisor;
use director::views::{FlowView, ServerView, ServiceView, ServicesView};
use director::vip_claims::Whose;
use director::vip_ground::{Ground, LinkSeen};
use director::{api, client, clock};
use frames::DIRECTOR_MAC;
use hyper::Method;
use plugin_host::PluginHost;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use xsk::{MemoryPort, Port};

/// Index of the only link.
pub const LINK: u32 = 7;
const FRAMES: u32 = 256;

/// One service of two servers, on `eth0` with two queues.
pub const CONFIG: &str = r#"
flows = 2000
flows_v6 = 1100
[[interface]]
name = "eth0"
[[virtual_service]]
address = "172.17.100.100:80"
protocol = "tcp"
scheduler = "rr"
[[virtual_service.real_server]]
address = "172.17.100.1"
[[virtual_service.real_server]]
address = "172.17.100.2"
"#;

pub const SERVICE: &str = "tcp:172.17.100.100:80";

pub struct World {
    pub supervisor: Arc<tokio::sync::Mutex<Supervisor>>,
    pub socket: PathBuf,
    pub folder: PathBuf,
    /// Of the directors before: the first holds what was kept.
    former_folders: Vec<PathBuf>,
    workers: Vec<Arc<Mutex<Worker<MemoryPort>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _file: SocketFile,
}

/// The MAC address of the server with this last byte in its address.
pub fn mac(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, host]
}

pub fn rs(host: u8) -> IpAddr {
    [172, 17, 100, host].into()
}

/// The same config with a `state_dir` of this world's own, in its first line, which is empty.
pub fn in_folder(folder: &Path, config: &str) -> String {
    assert!(config.starts_with('\n'), "{config}");
    format!("state_dir = {:?}{config}", folder.join("state"))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl World {
    /// Both servers resolved, two workers that turn.
    pub fn new() -> World {
        World::with(CONFIG)
    }

    pub fn with(config: &str) -> World {
        World::with_state(config, None)
    }

    /// The director of another world ended, and starts anew with this config and what it kept.
    pub fn after(mut former: World, config: &str) -> World {
        let mut folders = std::mem::take(&mut former.former_folders);
        folders.push(std::mem::take(&mut former.folder));
        // It gives up what it keeps when it ends.
        drop(former);
        let mut world = World::with_state(config, Some(folders[0].join("state")));
        world.former_folders = folders;
        world
    }

    fn with_state(config: &str, state_dir: Option<PathBuf>) -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("shunt-world-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).unwrap();
        let socket = folder.join("api.sock");
        let config_path = folder.join("director.toml");
        let config = in_folder(&folder, config);
        std::fs::write(&config_path, &config).unwrap();
        let known = |_: &Path, _: &SchedulerName| Ok(());
        let mut config = Config::parse(&config, &known).unwrap();
        config.state_dir = state_dir.unwrap_or(config.state_dir);

        let ports = (0..2).map(|_| MemoryPort::new(DIRECTOR_MAC, FRAMES)).collect();
        let made = dataplane::workers(ports, config.capacity, Seeds([1, 2])).unwrap();
        let (workers, seats) = seats(made);
        let stop = Arc::new(AtomicBool::new(false));

        let host = PluginHost::new(config.plugins.limits).unwrap();
        let plugins = Plugins::new(host, PluginStore::read(&config.state_dir).unwrap());
        let interfaces = vec![ServedInterface::new("eth0".into(), LINK, DIRECTOR_MAC, None)];
        let supervisor = Supervisor::new(config, config_path, interfaces, seats, plugins, 3);
        let supervisor = Arc::new(tokio::sync::Mutex::new(supervisor));
        let mut threads: Vec<_> =
            workers.iter().map(|worker| turn(worker.clone(), stop.clone())).collect();
        block_on(async { supervisor.lock().await.begin().await.unwrap() });
        let (served, file) = mpsc::channel();
        let serve = {
            let (supervisor, socket, stop) = (supervisor.clone(), socket.clone(), stop.clone());
            move || {
                block_on(async move {
                    let listen::ApiSocket { listener, guard } = listen::api(&socket, None).unwrap();
                    served.send(guard).unwrap();
                    tokio::spawn(async { axum::serve(listener, api::routes(supervisor)).await });
                    while !stop.load(Relaxed) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                });
            }
        };
        threads.push(thread::spawn(serve));
        let file = file.recv().unwrap();
        let world = World {
            supervisor,
            socket,
            folder,
            former_folders: Vec::new(),
            workers,
            stop,
            threads,
            _file: file,
        };
        world.resolve(1);
        world.resolve(2);
        world
    }

    pub fn supervisor(&self) -> tokio::sync::MutexGuard<'_, Supervisor> {
        self.supervisor.blocking_lock()
    }

    /// The kernel finds a server's MAC address.
    pub fn resolve(&self, host: u8) {
        self.neighbor(host, KernelState::Reachable, Some(mac(host)));
    }

    /// The kernel has a route to a server.
    pub fn on_link(&self, host: u8) {
        block_on(async {
            let mut supervisor = self.supervisor.lock().await;
            let reach = Reach::OnLink { interface: 0, link: LINK, vlans: [0, 0], source: None };
            supervisor.neighbors.place(rs(host), reach);
            supervisor.publish().await.unwrap();
        });
    }

    /// The kernel says this of a server.
    pub fn neighbor(&self, host: u8, state: KernelState, mac: Option<[u8; 6]>) {
        self.on_link(host);
        block_on(async {
            let mut supervisor = self.supervisor.lock().await;
            supervisor.neighbors.learned(LINK, rs(host), state, mac, clock::now());
            supervisor.publish().await.unwrap();
        });
    }

    /// A check of a server ends, and the workers hear of it.
    pub fn check(&self, host: u8, good: bool) {
        let failed = CheckError::Failed("a test says so".to_owned());
        self.hear(host, if good { Ok(()) } else { Err(failed) });
    }

    /// A check of a server ends like this, and the workers hear of it.
    pub fn hear(&self, host: u8, result: Result<(), CheckError>) {
        block_on(async {
            let mut supervisor = self.supervisor.lock().await;
            let service = SERVICE.parse::<ServiceName>().unwrap().0;
            let member = (service, rs(host));
            let check = supervisor.health.members.get(&member).unwrap().check.clone().unwrap();
            let outcome = Outcome { member, check, result, took: Duration::from_millis(2) };
            supervisor.health.members.hear(outcome, clock::now());
            supervisor.weigh_anew().await.unwrap();
        });
    }

    /// The VIP is on the interface by other hands, and another machine says that it has it.
    pub fn claim_vip(&self, mac: [u8; 6]) {
        let vip: IpAddr = [172, 17, 100, 100].into();
        let own = OwnAddress { link: LINK, address: vip, prefix: 32, by_shunt: false };
        let (name, served) = ("eth0".to_owned(), Some(0));
        let link =
            LinkSeen { index: LINK, name, mac: Some(DIRECTOR_MAC), served, up: true, downs: 0 };
        let ground = Ground { links: vec![link], addresses: vec![own] };
        let vips = &mut self.supervisor().vips;
        vips.look(&ground, |_| SERVICE.to_owned(), clock::now());
        assert!(vips.claimed(LINK, vip, mac, Whose::Unknown, clock::now()));
    }

    /// The file is changed and the director told.
    pub fn reload(&self, config: &str) -> Vec<String> {
        self.reload_text(config).unwrap()
    }

    /// The same with a file that may be wrong.
    pub fn reload_text(&self, config: &str) -> Result<Vec<String>, String> {
        let config = in_folder(&self.folder, config);
        std::fs::write(self.folder.join("director.toml"), config).unwrap();
        let reload = async { self.supervisor.lock().await.read_config_anew().await };
        block_on(reload).map_err(|error| error.to_string())
    }

    /// Time passes: one look at what the plugins did.
    pub fn look_after_plugins(&self) {
        block_on(async { self.supervisor.lock().await.look_after_plugins().await.unwrap() });
    }

    /// Time passes: one look for indices that came free.
    pub fn keep_house(&self) -> director::services::Freed {
        block_on(async { self.supervisor.lock().await.free_idle().await.unwrap() })
    }

    fn worker(&self, worker: usize) -> MutexGuard<'_, Worker<MemoryPort>> {
        self.workers[worker].lock().unwrap()
    }

    /// A packet arrives on a worker's queue. Returns the server that it was sent to, by the last
    /// byte of its address, if any.
    pub fn send(&self, worker: usize, packet: &[u8]) -> Option<u8> {
        let mut worker = self.worker(worker);
        assert!(worker.port_mut().inject(packet));
        assert_eq!(worker.turn(clock::now()), 1);
        let sent = worker.port_mut().sent();
        let is_answer = |packet: &&Vec<u8>| packet.starts_with(&frames::ROUTER_MAC);
        let destination = sent.iter().find(|packet| !is_answer(packet)).map(|packet| packet[5]);
        worker.turn(clock::now());
        assert!(worker.port().census().is_conserved());
        destination
    }

    /// Flow `number` becomes an established one. Returns its server.
    pub fn connect(&self, worker: usize, number: u32) -> Option<u8> {
        let server = self.send(worker, &frames::tcp_of(number, "S"));
        assert_eq!(self.send(worker, &frames::tcp_of(number, "A")), server);
        server
    }

    /// What a worker dropped for this reason.
    pub fn dropped(&self, worker: usize, reason: DropReason) -> u64 {
        let supervisor = self.supervisor();
        supervisor.workers[worker].handle.memory.counters().read().dropped[reason as usize]
    }

    /// A packet arrives on a worker's queue while the TX ring is full.
    pub fn without_room_to_send(&self, worker: usize, packet: &[u8]) {
        let mut worker = self.worker(worker);
        worker.port_mut().limit_tx_ring(0);
        assert!(worker.port_mut().inject(packet));
        worker.turn(clock::now());
        worker.port_mut().limit_tx_ring(FRAMES as usize);
    }

    /// The packet arrives until no frame is left to receive into.
    pub fn flood(&self, worker: usize, packet: &[u8]) {
        let mut worker = self.worker(worker);
        while worker.port_mut().inject(packet) {}
        while worker.turn(clock::now()) > 0 {
            worker.port_mut().sent();
        }
        worker.port_mut().sent();
    }

    /// A packet arrives while a change is on its way, so that the worker adopts the change in the
    /// turn that receives the packet.
    pub fn arrive_during(&self, worker: usize, packet: &[u8], change: impl FnOnce() + Send) {
        let mut held = self.worker(worker);
        assert!(held.port_mut().inject(packet));
        thread::scope(|scope| {
            let change = scope.spawn(change);
            while self.supervisor.try_lock().is_ok() && !change.is_finished() {
                thread::yield_now();
            }
            // It waits for the worker now, or is about to send what the worker is to adopt.
            thread::sleep(Duration::from_millis(2));
            drop(held);
        });
    }

    /// Does something while a worker does not turn.
    pub fn with_a_worker_held<T>(&self, worker: usize, act: impl FnOnce() -> T) -> T {
        let held = self.worker(worker);
        let done = act();
        drop(held);
        done
    }

    /// The kernel's routes now say that a server is not on the link.
    pub fn neighbor_is_elsewhere(&self, host: u8) {
        block_on(async {
            let mut supervisor = self.supervisor.lock().await;
            supervisor.neighbors.place(rs(host), Reach::Impossible("a test says so".into()));
            supervisor.publish().await.unwrap();
        });
    }

    /// Asks the API. Returns the body, or what the refusal says.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<String, String> {
        self.ask_bytes(method, path, body.as_bytes())
    }

    /// The same with a body that is no text.
    pub fn ask_bytes(&self, method: &str, path: &str, body: &[u8]) -> Result<String, String> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        block_on(client::ask(&client::Api::at_socket(&self.socket), method, path, body.to_owned()))
            .map(|body| String::from_utf8(body.to_vec()).unwrap())
            .map_err(|error| error.to_string())
    }

    /// The whole answer, as it comes over the socket.
    pub fn ask_raw(&self, request: &str) -> String {
        use std::io::{Read, Write};
        let mut connection = std::os::unix::net::UnixStream::connect(&self.socket).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    }

    pub fn services(&self) -> ServicesView {
        serde_json::from_str(&self.ask("GET", "/v1/services", "").unwrap()).unwrap()
    }

    pub fn service(&self) -> ServiceView {
        self.services().services.into_iter().find(|s| s.service.to_string() == SERVICE).unwrap()
    }

    pub fn server(&self, host: u8) -> Option<ServerView> {
        self.service().servers.into_iter().find(|server| server.address == rs(host))
    }

    pub fn flows(&self) -> Vec<FlowView> {
        let text = self.ask("GET", "/v1/flows", "").unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs `shunt` with these words and `--api`.
    pub fn shunt(&self, words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_shunt"))
            .args(words.split(' '))
            .arg("--api")
            .arg(&self.socket)
            .output()
            .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for folder in self.former_folders.iter().chain([&self.folder]) {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

type Shared = Arc<Mutex<Worker<MemoryPort>>>;

fn seats(made: Vec<(Worker<MemoryPort>, Handle)>) -> (Vec<Shared>, Vec<WorkerSeat>) {
    made.into_iter()
        .zip(0..)
        .map(|((worker, handle), queue)| {
            (Arc::new(Mutex::new(worker)), WorkerSeat::new(0, queue, 0, handle, None))
        })
        .unzip()
}

fn turn(worker: Shared, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Relaxed) {
            worker.lock().unwrap().turn(clock::now());
            thread::sleep(Duration::from_micros(500));
        }
    })
}
