//! The program under test, or on show: `shunt run` inside the director's namespace.

use crate::command::{self, run};
use crate::error::{Doing, Result};
use crate::process::Process;
use crate::topology::{NIC, Topology};
use nix::sys::signal::Signal;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Where the director's metrics are, inside its namespace.
pub const METRICS: &str = "127.0.0.1:9464";
/// How long shunt may take until its API answers. Compiling the plugins is most of it.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A virtual service of a config file.
#[derive(Debug, Clone)]
pub struct VirtualService {
    /// The VIP and port.
    pub address: SocketAddr,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The scheduler's name.
    pub scheduler: &'static str,
    /// Further TOML of the service, tables included, before its real servers.
    pub more: String,
    /// Real servers with their weights.
    pub real_servers: Vec<(IpAddr, u16)>,
}

impl VirtualService {
    /// A service of which all else is as it is by default.
    pub fn new(
        protocol: &'static str,
        address: SocketAddr,
        scheduler: &'static str,
        real_servers: Vec<(IpAddr, u16)>,
    ) -> VirtualService {
        VirtualService { address, protocol, scheduler, more: String::new(), real_servers }
    }

    /// The service with this TOML beside what it has: keys first, tables after them.
    pub fn with(mut self, more: &str) -> VirtualService {
        self.more.push_str(more.trim_end());
        self.more.push('\n');
        self
    }

    /// The name by which commands refer to it.
    pub fn name(&self) -> String {
        format!("{}:{}", self.protocol, self.address)
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VirtualService { address, protocol, scheduler, more, real_servers } = self;
        writeln!(f, "[[virtual_service]]")?;
        writeln!(f, "address = \"{address}\"\nprotocol = \"{protocol}\"")?;
        writeln!(f, "scheduler = \"{scheduler}\"")?;
        if !more.is_empty() {
            writeln!(f, "{}", more.trim_end())?;
        }
        real_servers.iter().try_for_each(|(address, weight)| {
            writeln!(f, "[[virtual_service.real_server]]")?;
            writeln!(f, "address = \"{address}\"\nweight = {weight}")
        })
    }
}

/// What a director is told.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Keys of the top level, one a line.
    pub top: String,
    /// Further keys of the interface, one a line.
    pub interface: String,
    /// Further keys of the API, one a line.
    pub api: String,
    /// The virtual services.
    pub services: Vec<VirtualService>,
}

impl Config {
    /// These services, and everything else as it is by default.
    pub fn of(services: Vec<VirtualService>) -> Config {
        Config { services, ..Config::default() }
    }

    /// The config file's text, for an API at `socket`. What the director keeps goes beside it.
    pub fn text(&self, socket: &Path) -> String {
        let mut text = String::new();
        let state_dir = socket.with_file_name("state");
        let _ = writeln!(text, "state_dir = \"{}\"", state_dir.display());
        if !self.top.is_empty() {
            let _ = writeln!(text, "{}", self.top.trim_end());
        }
        let _ = writeln!(text, "[[interface]]\nname = \"{NIC}\"");
        if !self.interface.is_empty() {
            let _ = writeln!(text, "{}", self.interface.trim_end());
        }
        let _ = writeln!(text, "[api]\nsocket = \"{}\"", socket.display());
        if !self.api.is_empty() {
            let _ = writeln!(text, "{}", self.api.trim_end());
        }
        let _ = writeln!(text, "[metrics]\nlisten = \"{METRICS}\"");
        for service in &self.services {
            let _ = write!(text, "{service}");
        }
        text
    }
}

/// A running director. Dropping it ends it.
#[derive(Debug)]
pub struct Director {
    process: Process,
    program: PathBuf,
    namespace: String,
    socket: PathBuf,
    config: PathBuf,
}

impl Director {
    /// Starts `program` and waits until its API answers.
    pub fn start(topology: &Topology, program: &Path, config: &Config) -> Result<Director> {
        let director = Director::begin(topology, program, config)?;
        let answers = || director.shunt("list").is_ok();
        director.process.wait_until(START_PATIENCE, "the director's API answers", answers)?;
        Ok(director)
    }

    /// Starts `program` and does not wait.
    pub fn begin(topology: &Topology, program: &Path, config: &Config) -> Result<Director> {
        let socket = topology.files.path().join("api.sock");
        let file = topology.files.write("director.toml", config.text(&socket))?;
        let mut command = topology.director.command(program);
        command.arg("run").arg("--config").arg(&file);
        Ok(Director {
            process: Process::start(command)?,
            program: program.to_owned(),
            namespace: topology.director.name().to_owned(),
            socket,
            config: file,
        })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The API's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The config file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The command line that runs `shunt` with these words against this director.
    pub fn command_line(&self, words: &str) -> String {
        command::line(&self.command(words))
    }

    /// Runs `shunt` with these words against this director and returns what it prints.
    pub fn shunt(&self, words: &str) -> Result<String> {
        run(&mut self.command(words))
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(&self.program);
        command.args(words.split_whitespace()).arg("--api").arg(&self.socket);
        command
    }

    /// Writes a new config file and tells the director to read it.
    pub fn reload(&self, config: &Config) -> Result<()> {
        self.write_config(&config.text(&self.socket))?;
        self.process.signal(Signal::SIGHUP)
    }

    /// Writes a new config file.
    pub fn write_config(&self, text: &str) -> Result<()> {
        std::fs::write(&self.config, text).doing(|| format!("writing {}", self.config.display()))
    }

    /// Asks it to end, and waits for that.
    pub fn stop(&self, patience: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(patience)
    }
}
