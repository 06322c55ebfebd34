//! What the machine has, as far as its VIPs care: links and addresses, and where a VIP belongs.

use crate::addresses::{OwnAddress, holds};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// A link of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSeen {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Position of the served interface that it is, or is a VLAN of.
    pub served: Option<usize>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// How often it lost its carrier.
    pub downs: u32,
}

/// What the machine has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ground {
    /// Its links.
    pub links: Vec<LinkSeen>,
    /// Its addresses.
    pub addresses: Vec<OwnAddress>,
}

impl Ground {
    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&LinkSeen> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The MAC addresses of all links.
    pub fn macs(&self) -> BTreeSet<[u8; 6]> {
        self.links.iter().filter_map(|link| link.mac).collect()
    }

    /// The name of the link that has this MAC address, if it is another than that of `link`.
    pub fn beside(&self, link: u32, mac: [u8; 6]) -> Option<&str> {
        let on_link = self.link(link).is_some_and(|link| link.mac == Some(mac));
        let other = self.links.iter().find(|other| !on_link && other.mac == Some(mac));
        other.map(|other| other.name.as_str())
    }

    /// Whether the link is a served interface, or a VLAN of one.
    pub fn is_served(&self, index: u32) -> bool {
        self.link(index).is_some_and(|link| link.served.is_some())
    }

    /// The addresses that a director has added to a served interface: this one, or one before it.
    pub fn marked(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let marked = self.addresses.iter().filter(|own| own.by_shunt && self.is_served(own.link));
        marked.map(|own| (own.address, own.link))
    }

    /// The VIP where it is: on a served interface if it is on one.
    pub fn find(&self, vip: IpAddr) -> Option<&OwnAddress> {
        let there = || self.addresses.iter().filter(|own| own.address == vip);
        there()
            .find(|own| own.by_shunt && self.is_served(own.link))
            .or_else(|| there().find(|own| self.is_served(own.link)))
            .or_else(|| there().next())
    }

    /// The served link on whose network a VIP is.
    pub fn home(&self, vip: IpAddr, vips: &BTreeSet<IpAddr>) -> Option<u32> {
        // The longest prefix is the nearest network.
        let nearest = self.own_beside(vip, vips).max_by_key(|own| (own.prefix, Reverse(own.link)));
        nearest.map(|own| own.link)
    }

    /// Where a VIP belongs that is nowhere: on its network, else where it was, else on the first
    /// interface.
    pub fn place(&self, vip: IpAddr, vips: &BTreeSet<IpAddr>, was: Option<u32>) -> Option<u32> {
        let first = || {
            let served = self.links.iter().filter(|link| link.served.is_some());
            served.min_by_key(|link| (link.served, link.index)).map(|link| link.index)
        };
        let was = was.filter(|&index| self.is_served(index));
        self.home(vip, vips).or(was).or_else(first)
    }

    /// The served link on whose network a VIP is, if the one that it is on has no such network.
    pub fn elsewhere(&self, vip: IpAddr, vips: &BTreeSet<IpAddr>, link: u32) -> Option<u32> {
        let home = self.home(vip, vips)?;
        (!self.own_beside(vip, vips).any(|own| own.link == link)).then_some(home)
    }

    /// The director's own addresses on a VIP's network, on served links.
    fn own_beside(
        &self,
        vip: IpAddr,
        vips: &BTreeSet<IpAddr>,
    ) -> impl Iterator<Item = &OwnAddress> {
        self.addresses.iter().filter(move |own| {
            holds(own.address, own.prefix, vip)
                && own.address != vip
                && !vips.contains(&own.address)
                && self.is_served(own.link)
        })
    }
}
