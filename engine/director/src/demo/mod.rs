//! `shunt demo`: LVS direct routing on one machine, in network namespaces of its own, with the
//! program's own `shunt run` in the middle.
//!
//! It shows, and it checks: what it claims about the schedulers and about lost requests is
//! compared with what happened, and the exit code says whether it held.

mod checks;
mod narrator;
mod scenes;
mod traffic;

use clap::Args;
use lab::{
    Config, Director, Family, HttpServer, OwnFiles, Plan, Symlink, Topology, VirtualService,
};
use narrator::Narrator;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;
use traffic::Traffic;

/// The port of the virtual service.
const PORT: u16 = 80;
/// Real servers.
const REAL_SERVERS: u8 = 2;

/// A health check that proves direct routing, quick enough to be watched.
const HEALTH_CHECK: &str = "[virtual_service.health_check]
kind = \"dr\"
interval = 0.5
timeout = 0.5
rise = 2
fall = 2
";

/// Where the API of a held demo is found, besides its own socket.
pub const HELD_API: &str = "/run/shunt-demo.sock";

/// From nothing to a scheduler of one's own that serves a held demo.
pub const OWN_SCHEDULER: [&str; 5] = [
    "shunt plugin new mine",
    "cargo build --release --target wasm32-unknown-unknown --manifest-path mine/Cargo.toml",
    "shunt plugin check mine/target/wasm32-unknown-unknown/release/mine.wasm",
    "shunt plugin upload mine/target/wasm32-unknown-unknown/release/mine.wasm --api /run/shunt-demo.sock",
    "shunt service set tcp:172.17.100.100:80 --scheduler mine --api /run/shunt-demo.sock",
];

/// Options of `shunt demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Keep everything up afterwards, until Ctrl-C, to try commands on it
    #[arg(long)]
    pub hold: bool,
}

/// Why the demo did not end as it should.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Lab(#[from] lab::Error),
    #[error("cannot find this program's own file: {0}. Start it by its path")]
    OwnFile(std::io::Error),
    #[error("cannot read the config that was just written: {0}")]
    Config(std::io::Error),
    #[error("{0}")]
    Broken(String),
}

/// Runs the demo. 0: everything it claims was seen to hold; 1: something did not.
pub fn run(args: &DemoArgs) -> ExitCode {
    let say = Narrator::on_stdout();
    match perform(args, &say) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What failed because a signal is ending the process is no failure of the demo.
            lab::sleep_if_interrupted();
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that is up.
struct Stage {
    director: Director,
    // Before the topology, so that it is the last to go.
    _servers: Vec<HttpServer>,
    topology: Topology,
    real_servers: RealServers,
    service: VirtualService,
}

/// The real servers as machines on which commands are typed.
struct RealServers {
    program: PathBuf,
    /// Of each: what `rs setup` remembers is its own.
    files: Vec<OwnFiles>,
}

impl RealServers {
    /// Runs `shunt` with these words on one of them, and returns what it prints.
    fn shunt(&self, topology: &Topology, number: u8, words: &str) -> Result<String, DemoError> {
        let files = &self.files[usize::from(number) - 1];
        let mut command = files.command(topology.real_server(number), &self.program);
        Ok(lab::run(command.args(words.split_whitespace()))?)
    }
}

fn perform(args: &DemoArgs, say: &Narrator) -> Result<(), DemoError> {
    let begun = Instant::now();
    let own_file = std::env::current_exe().map_err(DemoError::OwnFile)?;
    let hold = if args.hold { " --hold" } else { "" };
    lab::require_root("shunt demo", &format!("{} demo{hold}", own_file.display()))?;
    lab::catch_signals(|| narrator::last_words("Interrupted: removing everything that was made."))
        .map_err(|error| DemoError::Broken(format!("cannot catch Ctrl-C: {error}")))?;

    say.title("shunt demo: LVS direct routing, in network namespaces of its own");
    let stage = build(own_file, say)?;
    let mut traffic = Traffic::new(&stage.topology.client, stage.service.address);
    scenes::round_robin(&mut traffic, say)?;
    scenes::weighted(&stage, &mut traffic, say)?;
    scenes::least_connection(&stage, &mut traffic, say)?;
    scenes::nothing_lost(&traffic, say)?;
    scenes::lost_vip(&stage, &mut traffic, say)?;
    scenes::listing(&stage, say)?;
    scenes::metrics(&stage, say)?;
    let seconds = begun.elapsed().as_secs_f32();
    say.title(&format!("Everything held, in {seconds:.1} s."));
    scenes::next(&stage, args.hold, say);
    if args.hold {
        // Another demo that is held has the name already: both can be reached by their sockets.
        let link = Symlink::create(HELD_API.as_ref(), stage.director.socket());
        scenes::own_scheduler(link.is_ok(), say);
        say.line("Up until Ctrl-C, which removes everything.");
        // The thread that catches the signal ends the process.
        loop {
            std::thread::park();
        }
    }
    Ok(())
}

fn build(own_file: PathBuf, say: &Narrator) -> Result<Stage, DemoError> {
    say.step("Build the network");
    let begun = Instant::now();
    let topology = Plan::new("").real_servers(REAL_SERVERS).bare().build()?;
    say.picture(&topology);
    say.done(&format!(
        "{} namespaces, wired up in {:.1} s. Nothing outside them is touched.",
        topology.real_servers.len() + 4,
        begun.elapsed().as_secs_f32()
    ));

    say.step("Make the real servers ready: the VIP on lo, and silence about it in ARP");
    let files = (1..=REAL_SERVERS)
        .map(|number| OwnFiles::create(&format!("{}-own", name(number))))
        .collect::<Result<_, _>>()?;
    let real_servers = RealServers { program: own_file.clone(), files };
    let setup = format!("rs setup --vip {}", lab::vip(Family::V4));
    for number in 1..=REAL_SERVERS {
        say.command_on(&name(number), &format!("shunt {setup}"));
        say.quote(&real_servers.shunt(&topology, number, &setup)?);
    }

    say.step("Start a small HTTP server on each real server, and shunt on the director");
    let servers = (1..=REAL_SERVERS)
        .map(|number| {
            let anywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
            HttpServer::start(topology.real_server(number), &name(number), anywhere)
        })
        .collect::<Result<_, _>>()?;
    let members =
        (1..=REAL_SERVERS).map(|number| (lab::real_server_address(number, Family::V4), 1));
    let address = SocketAddr::new(lab::vip(Family::V4), PORT);
    let mut service = VirtualService::new("tcp", address, "rr", members.collect());
    service.more = HEALTH_CHECK.to_owned();
    let begun = Instant::now();
    let director = Director::start(&topology, &own_file, &Config::of(vec![service.clone()]))?;
    let stage = Stage { director, _servers: servers, topology, real_servers, service };
    scenes::ready(&stage, begun, say)?;
    Ok(stage)
}

/// What the real server with this number calls itself.
fn name(number: u8) -> String {
    format!("rs{number}")
}
