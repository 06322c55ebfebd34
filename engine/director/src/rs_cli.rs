//! The command line of `shunt rs`.

use crate::rs::LOOPBACK;
use crate::service_name::check_address;
use clap::{Args, Subcommand, ValueEnum};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// What to do on a real server.
#[derive(Debug, Subcommand)]
pub enum RsCommand {
    /// Make this machine a real server of a VIP: the address on lo, and ARP silent about it
    ///
    /// Puts the VIP (/32, /128) on lo and sets net.ipv4.conf.{all,lo}.arp_ignore=1 and
    /// arp_announce=2. Says what it has changed and what already was, and remembers the former
    /// values for `shunt rs teardown`. If a step fails, what was changed before is put back.
    Setup(SetupArgs),
    /// Put back what `shunt rs setup` has changed
    Teardown(TeardownArgs),
    /// Say whether this machine can serve a VIP, and what to do if not
    ///
    /// Looks from here at the address, at what rules ARP on each interface, at the filter of
    /// sources, at who listens, at the way back to clients, and at the MTU. Changes nothing. Ends
    /// with 1 if something is wrong, or could not be looked at.
    Check(RsCheckArgs),
}

/// What to set up.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// The VIP; may be repeated
    #[arg(long = "vip", value_name = "VIP", required = true, value_parser = parse_vip)]
    pub vips: Vec<IpAddr>,
    /// The interface that gets it: lo, or a dummy interface
    #[arg(long, value_name = "IF", default_value = LOOPBACK)]
    pub interface: String,
    /// Write files that do the same at each boot: for systemd and its sysctl.d
    #[arg(long)]
    pub persist: bool,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where the files of --persist go: the root of an image
    #[arg(long, value_name = "DIR", default_value = "/", requires = "persist")]
    pub root: PathBuf,
}

/// What to put back.
#[derive(Debug, Args)]
pub struct TeardownArgs {
    /// The VIP; may be repeated; left out: all that were set up
    #[arg(long = "vip", value_name = "VIP", value_parser = parse_vip)]
    pub vips: Vec<IpAddr>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What to check.
#[derive(Debug, Args)]
pub struct RsCheckArgs {
    /// The VIP, with the service's port to have who listens checked; may be repeated
    #[arg(long = "vip", value_name = "VIP[:PORT]", required = true, value_parser = parse_target)]
    pub vips: Vec<VipTarget>,
    /// The interface that is to hold the VIP; left out: where it is, which must not answer ARP
    #[arg(long, value_name = "IF")]
    pub interface: Option<String>,
    /// The service's protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    pub protocol: Listens,
    /// A client's address, for the way back to it; left out: any address far away
    #[arg(long, value_name = "ADDR")]
    pub client: Option<IpAddr>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A VIP, and perhaps the port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VipTarget {
    /// The VIP.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

/// A protocol that is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listens {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Listens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Listens::Tcp => "tcp",
            Listens::Udp => "udp",
        })
    }
}

fn parse_vip(text: &str) -> Result<IpAddr, String> {
    let target = parse_target(text)?;
    match target.port {
        None => Ok(target.address),
        Some(_) => Err(format!("the port plays no part here: write {}", target.address)),
    }
}

fn parse_target(text: &str) -> Result<VipTarget, String> {
    let target = if let Ok(address) = text.parse::<IpAddr>() {
        VipTarget { address, port: None }
    } else if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(format!("port 0 is no service's: write {}", address.ip()));
        }
        VipTarget { address: address.ip(), port: Some(address.port()) }
    } else if let Some((address, prefix)) = text.split_once('/')
        && address.parse::<IpAddr>().is_ok()
    {
        return Err(format!("a VIP is alone on its network: write {address} without /{prefix}"));
    } else {
        return Err(format!("\"{text}\" is no VIP: write 172.17.100.100 or 2001:db8::1"));
    };
    check_address(target.address, "VIP")?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<RsCommand, clap::Error> {
        match Cli::try_parse_from(line.split(' '))?.command {
            Command::Rs(command) => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_setup_may_have_several_vips() {
        let Ok(RsCommand::Setup(arguments)) =
            parse("shunt rs setup --vip 172.17.100.100 --vip fd00::1 --dry-run")
        else {
            panic!("no setup");
        };
        let vips: Vec<String> = arguments.vips.iter().map(IpAddr::to_string).collect();
        assert_eq!(vips, ["172.17.100.100", "fd00::1"]);
        assert_eq!((arguments.interface.as_str(), arguments.dry_run), ("lo", true));
        assert!(matches!(parse("shunt rs teardown"), Ok(RsCommand::Teardown(_))));
    }

    #[test]
    fn a_check_takes_ports() {
        let line = "shunt rs check --vip 172.17.100.100:80 --vip [fd00::1]:53 --vip fd00::2 --protocol udp --client 192.0.2.9";
        let Ok(RsCommand::Check(arguments)) = parse(line) else { panic!("no check") };
        let ports: Vec<Option<u16>> = arguments.vips.iter().map(|vip| vip.port).collect();
        assert_eq!(ports, [Some(80), Some(53), None]);
        assert_eq!((arguments.protocol, arguments.interface), (Listens::Udp, None));
    }

    #[test]
    fn a_bad_vip_says_how_to_write_it() {
        for (line, expected) in [
            ("setup", "--vip <VIP>"),
            ("setup --vip rs1", "is no VIP: write 172.17.100.100"),
            ("setup --vip 172.17.100.100/32", "write 172.17.100.100 without /32"),
            ("setup --vip 172.17.100.100:80", "the port plays no part here"),
            ("setup --vip 127.0.0.1", "is a loopback address"),
            ("setup --vip fe80::1", "is a link-local address"),
            ("setup --vip 172.17.100.100 --root /image", "--persist"),
            ("check --vip 172.17.100.100:0", "port 0 is no service's"),
            ("check --vip 172.17.100.100 --protocol sctp", "possible values: tcp, udp"),
            ("check --vip 172.17.100.100 --client me", "invalid"),
            ("teardown --vip 0.0.0.0", "an unspecified address"),
        ] {
            let error = parse(&format!("shunt rs {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(expected), "{line}: {error}");
        }
    }
}
