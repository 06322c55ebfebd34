//! What this machine is like, as far as a VIP on it matters: its links with their addresses, and
//! what rules ARP on them.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// The name that stands for every interface at once under /proc/sys/net/ipv4/conf.
pub const ALL: &str = "all";

/// A setting that rules ARP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// Which requests are answered.
    ArpIgnore,
    /// Which address asks.
    ArpAnnounce,
}

impl Key {
    /// Both, in the order in which they are set.
    pub const BOTH: [Key; 2] = [Key::ArpIgnore, Key::ArpAnnounce];

    /// Its file's name.
    pub fn name(self) -> &'static str {
        match self {
            Key::ArpIgnore => "arp_ignore",
            Key::ArpAnnounce => "arp_announce",
        }
    }

    /// What a real server sets it to.
    pub fn wanted(self) -> i32 {
        match self {
            Key::ArpIgnore => 1,
            Key::ArpAnnounce => 2,
        }
    }

    /// Whether a VIP on another interface stays silent with this value in effect, and the machine
    /// reachable (Linux, net/ipv4/arp.c).
    ///
    /// `arp_ignore`: 1 and 2 answer for addresses of the asked interface only. 3 answers for all
    /// but those of host scope, and a VIP is global. 4 to 7 and those above 8 mean nothing and
    /// answer for all; 8 answers for none, not even for the machine's own.
    ///
    /// `arp_announce`: 2 never asks from the VIP. 1 does where the VIP is of the interface's
    /// network, as in the usual topology. Those above 2 mean nothing and do, too.
    pub fn serves(self, effective: i32) -> bool {
        match self {
            Key::ArpIgnore => effective == 1 || effective == 2,
            Key::ArpAnnounce => effective == 2,
        }
    }
}

/// A setting of an interface, or of all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Setting {
    /// The interface, or [`ALL`].
    pub interface: String,
    /// Which.
    pub key: Key,
}

impl Setting {
    /// A setting of an interface.
    pub fn new(interface: &str, key: Key) -> Setting {
        Setting { interface: interface.to_owned(), key }
    }

    /// Its file. An interface's name is one folder there, dots and all.
    pub fn path(&self) -> PathBuf {
        conf_folder(&self.interface).join(self.key.name())
    }
}

/// As sysctl(8) and sysctl.d(5) write it: in a name, dot and slash have swapped places.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sysctl_name(&self.interface, self.key.name()))
    }
}

/// The folder with an interface's settings for IPv4. It shows the network namespace of the thread
/// that looks.
pub fn conf_folder(interface: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net/ipv4/conf").join(interface)
}

/// What sysctl(8) calls a setting of an interface for IPv4.
pub fn sysctl_name(interface: &str, key: &str) -> String {
    format!("net.ipv4.conf.{}.{key}", interface.replace('.', "/"))
}

/// The settings of an interface, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conf {
    /// `arp_ignore`.
    pub arp_ignore: i32,
    /// `arp_announce`.
    pub arp_announce: i32,
    /// `rp_filter`: 0 takes any source, 1 only from where the way back leads, 2 from anywhere
    /// that has a way back (RFC 3704).
    pub rp_filter: i32,
}

impl Conf {
    /// The value of a setting.
    pub fn get(&self, key: Key) -> i32 {
        match key {
            Key::ArpIgnore => self.arp_ignore,
            Key::ArpAnnounce => self.arp_announce,
        }
    }

    /// What is in effect on an interface with these settings: the kernel takes the greater value
    /// (Linux, include/linux/inetdevice.h, IN_DEV_MAXCONF).
    pub fn with(&self, all: &Conf) -> Conf {
        Conf {
            arp_ignore: self.arp_ignore.max(all.arp_ignore),
            arp_announce: self.arp_announce.max(all.arp_announce),
            rp_filter: self.rp_filter.max(all.rp_filter),
        }
    }
}

/// Whether an address can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Ready,
    /// The kernel still asks whether somebody else has it (RFC 4862, 5.4).
    Tentative,
    /// Somebody else has it, and the kernel does not use it.
    Duplicate,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// It has shunt's mark.
    pub by_shunt: bool,
    /// Whether it can be used.
    pub readiness: Readiness,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Bytes of its largest packet.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it answers ARP or neighbor solicitations: neither loopback nor a dummy does.
    pub answers: bool,
    /// Its settings for IPv4; none if it does not do IPv4.
    pub conf: Option<Conf>,
    /// Whether IPv6 is switched off on it.
    pub ipv6_off: bool,
    /// Its addresses.
    pub addresses: Vec<Held>,
}

/// What this machine is like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The links, by index.
    pub links: Vec<LinkFacts>,
    /// What is set for all interfaces.
    pub all: Conf,
}

impl Facts {
    /// The link of this name.
    pub fn link(&self, name: &str) -> Option<&LinkFacts> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The link with this index.
    pub fn link_at(&self, index: u32) -> Option<&LinkFacts> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Where an address is.
    pub fn places(&self, address: IpAddr) -> impl Iterator<Item = (&LinkFacts, &Held)> {
        self.links.iter().flat_map(move |link| {
            let held = link.addresses.iter().filter(move |held| held.address == address);
            held.map(move |held| (link, held))
        })
    }

    /// The value of a setting, if there is such an interface and it does IPv4.
    pub fn value(&self, setting: &Setting) -> Option<i32> {
        let conf = match setting.interface.as_str() {
            ALL => Some(self.all),
            name => self.link(name).and_then(|link| link.conf),
        };
        conf.map(|conf| conf.get(setting.key))
    }
}

/// The prefix of an address that is alone on its network.
pub fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_an_interfaces_name_stays_one_folder() {
        let setting = Setting::new("eth0.5", Key::ArpIgnore);
        assert_eq!(setting.path().to_str(), Some("/proc/sys/net/ipv4/conf/eth0.5/arp_ignore"));
        assert_eq!(setting.to_string(), "net.ipv4.conf.eth0/5.arp_ignore");
        let all = Setting::new(ALL, Key::ArpAnnounce);
        assert_eq!(all.to_string(), "net.ipv4.conf.all.arp_announce");
    }

    #[test]
    fn the_greater_value_is_in_effect() {
        let all = Conf { arp_ignore: 1, arp_announce: 2, rp_filter: 0 };
        let own = Conf { arp_ignore: 3, arp_announce: 1, rp_filter: -1 };
        let effective = Conf { arp_ignore: 3, arp_announce: 2, rp_filter: 0 };
        assert_eq!((own.with(&all), all.with(&own)), (effective, effective));
    }

    #[test]
    fn only_some_values_keep_a_vip_silent() {
        let serving = |key: Key| (-2..12).filter(|&value| key.serves(value)).collect::<Vec<i32>>();
        assert_eq!(serving(Key::ArpIgnore), [1, 2]);
        assert_eq!(serving(Key::ArpAnnounce), [2]);
        assert!(Key::BOTH.iter().all(|key| key.serves(key.wanted())));
    }
}
