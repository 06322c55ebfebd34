//! One veth pair: the generator's end in one network namespace, the director's in another.

use crate::programs::SERVERS;
use anyhow::{Context, Result};
use lab::{Netns, TempDir, mac_text};
use std::net::Ipv4Addr;

/// The director's end.
pub const NIC: &str = "eth0";
const GENERATOR: &str = "eth0";

/// The virtual service's address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 17, 100, 100);
const NETWORK: [u8; 3] = [172, 17, 100];

/// The last byte of MAC addresses, as in wire.bpf.c.
const DIRECTOR: u8 = 1;
const MAKER: u8 = 2;
const FIRST_SERVER: u8 = 16;

pub struct Link {
    pub generator: Netns,
    pub director: Netns,
    pub files: TempDir,
}

impl Link {
    /// Makes it, with a permanent neighbor for every real server: nobody answers ARP here.
    pub fn build() -> Result<Link> {
        lab::sweep_leftovers()?;
        let link = Link {
            generator: Netns::create("wire-gen")?,
            director: Netns::create("wire-dir")?,
            files: TempDir::create("wire-files")?,
        };
        for netns in [&link.generator, &link.director] {
            // Otherwise the kernel sends packets of its own.
            netns.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
            netns.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        let (one, mac) = ("numtxqueues 1 numrxqueues 1", |last| mac_text([2, 0, 0, 0, 0, last]));
        link.generator.ip(&format!(
            "link add {GENERATOR} address {} {one} type veth peer {NIC} netns {} address {} {one}",
            mac(MAKER),
            link.director.name(),
            mac(DIRECTOR),
        ))?;
        for (netns, name) in [(&link.generator, GENERATOR), (&link.director, NIC)] {
            netns.offloads_off(name)?;
            netns.ip(&format!("link set {name} up"))?;
        }
        let [a, b, c] = NETWORK;
        link.director.ip(&format!("address add {a}.{b}.{c}.3/24 dev {NIC}"))?;
        link.director.ip(&format!("address add {VIP}/32 dev {NIC}"))?;
        for (number, address) in (FIRST_SERVER..).zip(servers()) {
            let mac = mac(number);
            link.director
                .ip(&format!("neigh add {address} lladdr {mac} nud permanent dev {NIC}"))?;
        }
        Ok(link)
    }

    pub fn generator_index(&self) -> Result<u32> {
        index(&self.generator, GENERATOR)
    }

    pub fn director_index(&self) -> Result<u32> {
        index(&self.director, NIC)
    }
}

/// The real servers' addresses.
pub fn servers() -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c] = NETWORK;
    (0..SERVERS as u8).map(move |number| Ipv4Addr::new(a, b, c, 10 + number))
}

fn index(netns: &Netns, interface: &str) -> Result<u32> {
    let text = netns.exec(&format!("cat /sys/class/net/{interface}/ifindex"))?;
    text.trim().parse().context("an interface's index")
}
