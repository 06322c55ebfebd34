//! The director's links, addresses and routes, as far as direct routing cares: on which link a
//! real server is, and with which VLAN tags.

use crate::neighbors::Reach;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// For a VLAN device: the link below it and its VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// Whether it is up and has a carrier.
    pub carrier: bool,
    /// Its MAC address, if it is one of Ethernet.
    pub mac: Option<[u8; 6]>,
}

/// What the kernel answers when asked for the way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Out of a link, perhaps by a gateway.
    Out {
        /// The link's index.
        link: u32,
        /// The gateway.
        gateway: Option<IpAddr>,
        /// The address of the director's own that the kernel would send from.
        source: Option<IpAddr>,
    },
    /// The address is the director's own.
    Local,
    /// There is none: why.
    None(String),
}

/// Links and addresses of the director.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Links {
    links: HashMap<u32, Link>,
    /// How often each lost its carrier.
    downs: HashMap<u32, u32>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

/// An Ethernet frame has at most two VLAN tags, here and in the dataplane.
const TAGS_MAX: usize = 2;

impl Links {
    /// Takes a link in.
    pub fn add_link(&mut self, index: u32, link: Link) {
        self.links.insert(index, link);
    }

    /// A link has lost its carrier so often (IFLA_CARRIER_DOWN_COUNT).
    pub fn set_downs(&mut self, index: u32, downs: u32) {
        self.downs.insert(index, downs);
    }

    /// How often a link has lost its carrier: one that is up again soon is seen by that.
    pub fn downs(&self, index: u32) -> u32 {
        self.downs.get(&index).copied().unwrap_or_default()
    }

    /// All links, with their indices.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(&index, link)| (index, link))
    }

    /// Whether a link is up and has a carrier; nothing if there is no such link.
    pub fn carrier(&self, index: u32) -> Option<bool> {
        self.links.get(&index).map(|link| link.carrier)
    }

    /// The MAC address of a link.
    pub fn mac(&self, index: u32) -> Option<[u8; 6]> {
        self.links.get(&index)?.mac
    }

    /// The MAC addresses of all links. That of the loopback, which has none, is not among them.
    pub fn macs(&self) -> impl Iterator<Item = [u8; 6]> {
        self.links.values().filter_map(|link| link.mac).filter(|mac| *mac != [0; 6])
    }

    /// Takes an address in.
    pub fn add_address(&mut self, index: u32, address: IpAddr) {
        self.addresses.insert((index, address));
    }

    /// The links that have an address.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let holders = self.addresses.iter().filter(move |(_, own)| *own == address);
        holders.map(|&(link, _)| link)
    }

    /// Which served interface a link is, or is a VLAN device on top of, and the VLAN tags there; none
    /// if it has more tags than there can be.
    pub fn place(&self, served: &[u32], link: u32) -> Option<(usize, [u16; TAGS_MAX])> {
        let (interface, tags) = self.below(served, link)?;
        let mut vlans = [0; TAGS_MAX];
        vlans.get_mut(..tags.len())?.copy_from_slice(&tags);
        Some((interface, vlans))
    }

    /// The position, among the served ones, of the interface that a link is, or is a VLAN device on
    /// top of.
    pub fn served_by(&self, served: &[u32], link: u32) -> Option<usize> {
        self.below(served, link).map(|(interface, _)| interface)
    }

    /// How a real server is reached when the kernel answers `route`. `served` holds the indices
    /// of the served interfaces.
    pub fn reach(&self, served: &[u32], route: &Route) -> Reach {
        let impossible = |reason: String| Reach::Impossible(reason);
        let (link, source) = match route {
            Route::Local => {
                return impossible(
                    "it is an address of the director itself; a real server is another machine"
                        .into(),
                );
            }
            // The kernel takes the routes of a link that is set down.
            Route::None(_) if let Some(down) = self.down(served) => {
                return impossible(format!("there is no route to it while {down} is down"));
            }
            Route::None(reason) => {
                return impossible(format!(
                    "there is no route to it ({reason}); give the director an address on its network"
                ));
            }
            Route::Out { gateway: Some(gateway), .. } => {
                return impossible(format!(
                    "it is behind the gateway {gateway}; direct routing changes MAC addresses only, so it must be on a network that the director is on"
                ));
            }
            Route::Out { link, gateway: None, source } => (*link, *source),
        };
        match (self.place(served, link), self.served_by(served, link)) {
            (Some((interface, vlans)), _) => Reach::OnLink { interface, link, vlans, source },
            (None, Some(_)) => {
                impossible(format!("{} adds more than {TAGS_MAX} VLAN tags", self.name(link)))
            }
            (None, None) => impossible(format!(
                "it is reached by {}, which is neither a served interface nor a VLAN of one; packets leave by the interface that they came in by",
                self.name(link)
            )),
        }
    }

    /// The name of the first served interface that is down.
    fn down(&self, served: &[u32]) -> Option<String> {
        let down = served.iter().find(|&&index| self.carrier(index) == Some(false))?;
        Some(self.name(*down))
    }

    /// The name of a link.
    pub fn name(&self, link: u32) -> String {
        self.links.get(&link).map_or_else(|| format!("link {link}"), |link| link.name.clone())
    }

    /// The served interface below a link, and the VLAN tags on the way, outermost first.
    fn below(&self, served: &[u32], link: u32) -> Option<(usize, Vec<u16>)> {
        let mut tags = Vec::new();
        let mut link = link;
        // VLAN devices cannot be stacked in a circle, but this does not depend on it.
        for _ in 0..=self.links.len() {
            if let Some(interface) = served.iter().position(|&index| index == link) {
                tags.reverse();
                return Some((interface, tags));
            }
            let (parent, tag) = self.links.get(&link)?.vlan?;
            tags.push(tag);
            link = parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const OWN: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(172, 17, 100, 3)));

    /// eth0 (2), eth0.5 (3) on it, eth0.5.7 (4) on that, one more (5), eth1 (6) apart.
    fn links() -> Links {
        let mut links = Links::default();
        for (index, name, vlan) in [
            (2, "eth0", None),
            (3, "eth0.5", Some((2, 5))),
            (4, "eth0.5.7", Some((3, 7))),
            (5, "eth0.5.7.9", Some((4, 9))),
            (6, "eth1", None),
            (7, "loop0", Some((8, 1))),
            (8, "loop1", Some((7, 2))),
        ] {
            let mac = Some([2, 0, 0, 0, 0, index as u8]);
            links.add_link(index, Link { name: name.into(), vlan, carrier: true, mac });
        }
        links
    }

    fn reach(served: &[u32], link: u32) -> Reach {
        links().reach(served, &Route::Out { link, gateway: None, source: OWN })
    }

    #[test]
    fn a_server_is_on_the_interface_or_on_a_vlan_of_it() {
        let on_link = |interface, link, vlans| {
            let source = OWN;
            Reach::OnLink { interface, link, vlans, source }
        };
        assert_eq!(reach(&[2], 2), on_link(0, 2, [0, 0]));
        assert_eq!(reach(&[2], 3), on_link(0, 3, [5, 0]));
        assert_eq!(reach(&[6, 2], 4), on_link(1, 4, [5, 7]));
        assert_eq!(reach(&[3], 4), on_link(0, 4, [7, 0]));
    }

    #[test]
    fn what_direct_routing_cannot_reach_is_explained() {
        for (reach, expected) in [
            (reach(&[2], 6), "reached by eth1"),
            (reach(&[2], 5), "more than 2 VLAN tags"),
            (reach(&[2], 7), "reached by loop0"),
            (reach(&[2], 99), "reached by link 99"),
            (links().reach(&[2], &Route::Local), "director itself"),
            (
                links().reach(&[2], &Route::None("unreachable".into())),
                "no route to it (unreachable)",
            ),
            (
                links().reach(
                    &[2],
                    &Route::Out { link: 2, gateway: Some([10, 0, 0, 1].into()), source: OWN },
                ),
                "gateway 10.0.0.1",
            ),
        ] {
            let Reach::Impossible(reason) = reach else { panic!("{reach:?}") };
            assert!(reason.contains(expected), "{reason}");
        }
    }

    #[test]
    fn a_route_that_went_with_its_link_is_told_from_one_that_never_was() {
        let mut links = links();
        let reason = |links: &Links| match links.reach(&[6, 2], &Route::None("unreachable".into()))
        {
            Reach::Impossible(reason) => reason,
            reach => panic!("{reach:?}"),
        };
        assert!(reason(&links).contains("give the director an address"), "{}", reason(&links));
        let down = Link { name: "eth0".into(), vlan: None, carrier: false, mac: None };
        links.add_link(2, down);
        assert_eq!(reason(&links), "there is no route to it while eth0 is down");
    }
}
