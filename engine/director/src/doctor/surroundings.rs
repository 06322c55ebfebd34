//! The machine's links, addresses and routes, read once for all findings.

use super::finding::Read;
use super::interface::LinkState;
use crate::addresses::{self, OwnAddress};
use crate::links::{Link, Links, Route};
use crate::neighbors::Reach;
use crate::netlink_read::{ANSWER, Connection, read_vlan, route};
use futures_util::StreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp};
use std::collections::HashMap;
use std::net::IpAddr;
use tokio::time::timeout;

/// A link, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRow {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it is Ethernet.
    pub mac: Option<[u8; 6]>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: bool,
    /// For a VLAN device: the link below it and its VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// Index of the bond or bridge that it is a port of.
    pub port_of: Option<u32>,
    /// The id of the XDP program on it.
    pub program: Option<u32>,
}

/// Links, addresses, and the ways to the real servers.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The links.
    pub rows: Vec<LinkRow>,
    /// The same, as the director has them.
    pub links: Links,
    /// The machine's own addresses.
    pub addresses: Vec<OwnAddress>,
    /// The kernel's way to each real server.
    routes: HashMap<IpAddr, Read<Route>>,
}

impl Surroundings {
    /// Reads all of it, and the ways to these real servers.
    pub async fn read(servers: &[IpAddr]) -> Read<Surroundings> {
        let connection = Connection::open()?;
        let handle = &connection.handle;
        let rows = timeout(ANSWER, async {
            let mut rows = Vec::new();
            let mut messages = std::pin::pin!(handle.link().get().execute());
            while let Some(message) = messages.next().await {
                rows.push(read_row(&message.map_err(|error| error.to_string())?));
            }
            Ok::<_, String>(rows)
        });
        let rows = rows.await.map_err(|_| "the kernel does not answer".to_owned())??;
        let addresses = addresses::list(handle).await?;
        let mut links = Links::default();
        for row in &rows {
            let LinkRow { name, mac, vlan, carrier, .. } = row.clone();
            links.add_link(row.index, Link { name, mac, vlan, carrier });
        }
        for own in &addresses {
            links.add_address(own.link, own.address);
        }
        let mut routes = HashMap::new();
        for &server in servers {
            routes.insert(server, route(handle, server).await);
        }
        Ok(Surroundings { rows, links, addresses, routes })
    }

    /// The link with this index.
    pub fn row(&self, index: u32) -> Option<&LinkRow> {
        self.rows.iter().find(|row| row.index == index)
    }

    /// Whether a MAC address is one of this machine's.
    pub fn own(&self, mac: [u8; 6]) -> bool {
        self.rows.iter().any(|row| row.mac == Some(mac))
    }

    /// The name of the link with this MAC address, if it is another than that of `link`.
    pub fn another(&self, link: u32, mac: [u8; 6]) -> Option<String> {
        let on_link = self.row(link).is_some_and(|row| row.mac == Some(mac));
        let other = self.rows.iter().find(|row| !on_link && row.mac == Some(mac));
        other.map(|row| row.name.clone())
    }

    /// The link's name.
    pub fn name(&self, index: u32) -> String {
        self.row(index).map_or_else(|| format!("link {index}"), |row| row.name.clone())
    }

    /// How a real server is reached, or why that cannot be told.
    pub fn reach(&self, served: &[u32], server: IpAddr) -> Read<Reach> {
        match self.routes.get(&server) {
            Some(Ok(route)) => Ok(self.links.reach(served, route)),
            Some(Err(why)) => Err(why.clone()),
            None => Err("it was not looked up".to_owned()),
        }
    }

    /// VLAN devices on top of a link.
    pub fn vlans_on(&self, index: u32) -> Vec<String> {
        self.rows
            .iter()
            .filter(|row| row.index != index && self.links.served_by(&[index], row.index).is_some())
            .map(|row| row.name.clone())
            .collect()
    }

    /// A link's state.
    pub fn state(&self, index: u32) -> Option<LinkState> {
        let row = self.row(index)?;
        Some(LinkState {
            up: row.up,
            carrier: row.carrier,
            port_of: row.port_of.map(|index| self.name(index)),
        })
    }

    /// An address of this machine's own, no VIP, on a served link and with a network that has
    /// `address`; and its link.
    pub fn beside(&self, served: &[u32], vips: &[IpAddr], address: IpAddr) -> Option<OwnAddress> {
        self.addresses.iter().copied().find(|own| {
            !vips.contains(&own.address)
                && self.links.served_by(served, own.link).is_some()
                && addresses::holds(own.address, own.prefix, address)
        })
    }
}

fn read_row(message: &LinkMessage) -> LinkRow {
    let flags = message.header.flags;
    let mut row = LinkRow {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        vlan: read_vlan(message),
        port_of: None,
        program: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => row.name.clone_from(name),
            LinkAttribute::Address(mac) => row.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => row.port_of = Some(*index),
            LinkAttribute::Xdp(facts) => {
                // Without ProgId, one in the driver and one in the NIC (rtnl_xdp_fill in
                // net/core/rtnetlink.c).
                row.program = facts.iter().find_map(|fact| match fact {
                    LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => {
                        Some(*id).filter(|id| *id != 0)
                    }
                    _ => None,
                });
            }
            _ => {}
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u32, name: &str, vlan: Option<(u32, u16)>) -> LinkRow {
        let (mac, port_of, program) = (None, None, None);
        LinkRow { index, name: name.into(), mac, up: true, carrier: true, vlan, port_of, program }
    }

    fn surroundings() -> Surroundings {
        let own = |link, address: &str, prefix| OwnAddress {
            link,
            address: address.parse().unwrap(),
            prefix,
            by_shunt: false,
        };
        let rows = vec![row(2, "eth0", None), row(3, "eth0.5", Some((2, 5))), row(4, "eth1", None)];
        let mut links = Links::default();
        for row in &rows {
            let LinkRow { name, mac, vlan, carrier, .. } = row.clone();
            links.add_link(row.index, Link { name, mac, vlan, carrier });
        }
        let addresses = vec![
            own(2, "172.17.100.100", 24),
            own(4, "172.17.100.9", 24),
            own(3, "172.17.100.3", 24),
            own(2, "fd00::3", 64),
        ];
        Surroundings { rows, links, addresses, routes: HashMap::new() }
    }

    #[test]
    fn an_address_beside_the_vip_is_the_directors_own_and_on_a_served_link() {
        let vip: IpAddr = [172, 17, 100, 100].into();
        let beside = |served: &[u32], address: IpAddr| {
            surroundings().beside(served, &[vip], address).map(|own| own.address.to_string())
        };
        assert_eq!(beside(&[2], vip).as_deref(), Some("172.17.100.3"));
        assert_eq!(beside(&[4], vip).as_deref(), Some("172.17.100.9"));
        assert_eq!(beside(&[2], [10, 0, 0, 1].into()), None);
        assert_eq!(beside(&[2], "fd00::100".parse().unwrap()).as_deref(), Some("fd00::3"));
        assert_eq!(beside(&[2], "fd00:1::100".parse().unwrap()), None);
    }

    #[test]
    fn vlans_are_those_on_top() {
        assert_eq!(surroundings().vlans_on(2), ["eth0.5"]);
        assert!(surroundings().vlans_on(4).is_empty());
        assert_eq!(surroundings().name(9), "link 9");
    }

    #[test]
    fn a_server_that_was_not_looked_up_is_said_to_be_so() {
        assert!(surroundings().reach(&[2], [172, 17, 100, 1].into()).is_err());
    }
}
