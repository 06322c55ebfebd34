//! The command line.

use crate::api_address::ApiAddress;
use crate::client::{Api, ClientError};
use crate::config::API_SOCKET_DEFAULT;
use crate::demo::DemoArgs;
use crate::doctor_cli::DoctorArgs;
use crate::mac::Mac;
use crate::plugin_cli::PluginCommand;
use crate::rs_cli::RsCommand;
use crate::scheduler_name::{SchedulerName, check_param};
use crate::service_name::{ServiceName, parse_mac, parse_server};
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;

/// Where the config file is looked for.
pub const CONFIG_DEFAULT: &str = "/etc/shunt/director.toml";

/// LVS-DR layer-4 load balancer on AF_XDP, with WebAssembly schedulers
#[derive(Debug, Parser)]
#[command(name = "shunt", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the director
    ///
    /// Ends at SIGTERM or SIGINT. At SIGHUP it applies what has changed in the config file.
    Run(ConfigArgs),
    /// Say what is wrong with a config file, if anything
    Check(ConfigArgs),
    /// List virtual services and real servers, or flows
    List(ListArgs),
    /// Change a virtual service of the running director
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Add, change or remove a real server of the running director
    #[command(subcommand)]
    Server(ServerCommand),
    /// Write, try and measure scheduler plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Make this machine a real server, and see whether it is one
    #[command(subcommand)]
    Rs(RsCommand),
    /// Print a config file that holds what was changed at run time
    Save(ApiArgs),
    /// Look for what is wrong with this machine and around it, before or while the director runs
    ///
    /// One line a finding: its state, what it is about, a sentence, and after an arrow what mends it.
    /// The exit code is 0 if all is ok, 1 if there are warnings, 2 if there are problems.
    Doctor(DoctorArgs),
    /// Show direct routing on this machine, in network namespaces of its own
    Demo(DemoArgs),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one for each command
    Man {
        /// Folder to write the pages to
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// The config file.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The config file
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,
}

/// The director to speak to.
#[derive(Debug, Args)]
pub struct ApiArgs {
    /// The director's API: a socket, or http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "SOCKET|URL", default_value = API_SOCKET_DEFAULT)]
    pub api: ApiAddress,
    /// File with the token, needed over TCP
    #[arg(long, value_name = "FILE", env = "SHUNT_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// File with the certificate of who issued the director's, needed for https (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl ApiArgs {
    /// What it takes to speak to it.
    pub fn open(&self) -> Result<Api, ClientError> {
        Api::new(&self.api, self.token_file.as_deref(), self.ca.as_deref())
    }
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Connections, packets and bytes, as `ipvsadm -Ln --stats`
    #[arg(long)]
    pub stats: bool,
    /// The flows, as `ipvsadm -Lnc`
    #[arg(long, conflicts_with = "stats")]
    pub flows: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// The director
    #[command(flatten)]
    pub api: ApiArgs,
}

/// What to do with a virtual service.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Change its scheduler, or what its scheduler is told; established flows stay where they are
    ///
    /// Parameters take the place of all that it had. Left out, they stay as they are, unless the
    /// scheduler is another: that starts with none.
    #[command(group = ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// The virtual service, as in tcp:172.17.100.100:80
        service: ServiceName,
        /// The new scheduler: NAME is its current version, NAME@3 its third, whatever comes later
        #[arg(long, value_name = "NAME[@VERSION]", group = "change")]
        scheduler: Option<SchedulerName>,
        /// A parameter for the scheduler; may be repeated
        #[arg(long = "param", value_name = "KEY=VALUE", group = "change", value_parser = parse_param)]
        params: Vec<(String, String)>,
        /// No parameters any more
        #[arg(long, group = "change", conflicts_with = "params")]
        no_params: bool,
        /// The director
        #[command(flatten)]
        api: ApiArgs,
    },
}

fn parse_param(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no parameter: write KEY=VALUE, as in {text}=true"))?;
    check_param(key, value)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Which real server.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The virtual service, as in tcp:172.17.100.100:80
    pub service: ServiceName,
    /// The real server's address
    #[arg(value_parser = |text: &str| parse_server(text, None))]
    pub server: IpAddr,
    /// The director
    #[command(flatten)]
    pub api: ApiArgs,
}

/// What to do with a real server.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Add it, or put it back: flows that it still has are its own again
    Add {
        /// Which
        #[command(flatten)]
        server: ServerArgs,
        /// Its weight; left out: 1, or what it was before
        #[arg(long, value_name = "N")]
        weight: Option<u16>,
        /// Its MAC address, which is then never asked for; left out: found out, or what it was before
        #[arg(long, value_name = "MAC", value_parser = parse_mac)]
        mac: Option<Mac>,
    },
    /// Change its weight
    Set {
        /// Which
        #[command(flatten)]
        server: ServerArgs,
        /// Its weight; 0 drains
        #[arg(long, value_name = "N")]
        weight: u16,
    },
    /// Remove it; its flows stay until they end
    Remove {
        /// Which
        #[command(flatten)]
        server: ServerArgs,
        /// End its flows now
        #[arg(long)]
        expire: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_service_can_be_told_parameters_alone_or_with_a_scheduler() {
        let line = "shunt service set tcp:10.0.0.1:80 --scheduler my@3 --param a=b=c --param d=";
        let Command::Service(ServiceCommand::Set { scheduler, params, no_params, .. }) =
            Cli::try_parse_from(line.split(' ')).unwrap().command
        else {
            panic!("another command");
        };
        assert_eq!(scheduler.unwrap().to_string(), "my@3");
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!((params, no_params), (vec![pair("a", "b=c"), pair("d", "")], false));
        for line in ["--no-params", "--param a=1", "--scheduler my --no-params"] {
            let line = format!("shunt service set tcp:10.0.0.1:80 {line}");
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_usage_is_exit_code_2_and_says_how() {
        for (line, expected) in [
            ("shunt", "Usage"),
            ("shunt nonsense", "unrecognized subcommand"),
            ("shunt server set tcp:10.0.0.1:80 10.0.0.2", "--weight"),
            ("shunt server set tcp:10.0.0.1:80 10.0.0.2 --weight 65536", "65536"),
            ("shunt server set 10.0.0.1:80 10.0.0.2 --weight 1", "is no protocol"),
            ("shunt server set tcp:10.0.0.1:80 rs2 --weight 1", "no address of a real server"),
            ("shunt server add tcp:10.0.0.1:80 10.0.0.2 --mac 02:00", "is no MAC address"),
            ("shunt list --stats --flows", "cannot be used with"),
            ("shunt service set tcp:10.0.0.1:80", "--scheduler <NAME[@VERSION]>"),
            ("shunt service set tcp:10.0.0.1:80 --scheduler My", "\"My\" is no name of a plugin"),
            ("shunt service set tcp:10.0.0.1:80 --scheduler my@x", "is no version of my"),
            ("shunt service set tcp:10.0.0.1:80 --param mh-port", "as in mh-port=true"),
            ("shunt service set tcp:10.0.0.1:80 --param =1", "is no key of a parameter"),
            ("shunt service set tcp:10.0.0.1:80 --param a=1 --no-params", "cannot be used with"),
            ("shunt plugin upload", "<FILE>"),
            ("shunt plugin upload my.wasm --name My", "\"My\" is no name of a plugin"),
            ("shunt plugin show my@3", "is no name of a plugin"),
            ("shunt plugin rollback my --to first", "invalid value 'first'"),
            ("shunt plugin remove", "<NAME[@VERSION]>"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
    }
}
