//! Why a change of virtual services or real servers is refused.

use crate::mac::{Mac, mac_text};
use crate::service_name::ServiceName;
use std::net::IpAddr;

/// Why a change is refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServicesError {
    /// No such virtual service.
    #[error("no virtual service {service}; there {}", Known(known))]
    UnknownService {
        /// As it was asked for.
        service: ServiceName,
        /// Those that exist.
        known: Vec<String>,
    },
    /// The virtual service has no such real server.
    #[error("{service} has no real server {address}; there {}", Known(known))]
    UnknownServer {
        /// The service.
        service: ServiceName,
        /// As it was asked for.
        address: IpAddr,
        /// Those that exist.
        known: Vec<String>,
    },
    /// The virtual service exists already.
    #[error("virtual service {service} exists already")]
    ServiceExists {
        /// The service.
        service: ServiceName,
    },
    /// The real server serves already.
    #[error("{service} has real server {address} already; `shunt server set` changes its weight")]
    ServerExists {
        /// The service.
        service: ServiceName,
        /// The server.
        address: IpAddr,
    },
    /// The real server was removed and only waits for its flows to end.
    #[error("real server {address} of {service} is removed; `shunt server add` puts it back")]
    ServerRemoved {
        /// The service.
        service: ServiceName,
        /// The server.
        address: IpAddr,
    },
    /// The real server is the sorry server, which the config alone names.
    #[error(
        "{address} is the sorry server of {service}: change sorry_server in the config and reload it"
    )]
    SorryServer {
        /// The service.
        service: ServiceName,
        /// The server.
        address: IpAddr,
    },
    /// What is to be the sorry server serves already.
    #[error(
        "{address} serves {service} as a real server, so it cannot be its sorry server: `shunt server remove` takes it out"
    )]
    SorryServes {
        /// The service.
        service: ServiceName,
        /// The server.
        address: IpAddr,
    },
    /// The address cannot serve this virtual service.
    #[error("{0}")]
    NoMember(String),
    /// The real server was given another MAC address.
    #[error(
        "real server {address} has the MAC address {}, in another virtual service too: it is one machine, so give it that one, or none",
        mac_text(*given)
    )]
    OtherMac {
        /// The server.
        address: IpAddr,
        /// The one that it has.
        given: Mac,
    },
    /// A limit of the dataplane.
    #[error("no room for another {what}: the limit is {limit}, removed ones with flows included")]
    Full {
        /// What there would be too many of.
        what: &'static str,
        /// How many there can be.
        limit: usize,
    },
}

struct Known<'a>(&'a [String]);

impl std::fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => write!(f, "is none"),
            [only] => write!(f, "is only {only}"),
            several => write!(f, "are {}", several.join(", ")),
        }
    }
}
