//! What the kernel says of a NIC: its settings, what its driver can do with XDP, its interrupts.

use super::ask_kernel::{
    ask_family, ask_family_for_all, attribute, attributes, find, nested, number,
};
use super::finding::{Read, read_if_any, read_line, read_list};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Commands and attributes of linux/ethtool_netlink_generated.h.
mod ethtool {
    pub(super) const FEATURES_GET: u8 = 11;
    pub(super) const RINGS_GET: u8 = 15;
    /// The header is the first attribute of every request; the interface's index that of it.
    pub(super) const HEADER: u16 = 1;
    pub(super) const HEADER_INDEX: u16 = 1;
    pub(super) const FEATURES_CHANGEABLE: u16 = 2;
    pub(super) const FEATURES_ACTIVE: u16 = 4;
    pub(super) const BITS: u16 = 3;
    pub(super) const BIT_NAME: u16 = 2;
    pub(super) const BIT_VALUE: u16 = 3;
    pub(super) const BITS_NO_MASK: u16 = 1;
    pub(super) const RINGS_RX_MAX: u16 = 2;
    pub(super) const RINGS_RX: u16 = 6;
}

/// NETDEV_CMD_DEV_GET and attributes of linux/netdev.h.
const NETDEV_GET: u8 = 1;
const NETDEV_INDEX: u16 = 1;
const NETDEV_XDP: u16 = 3;
/// NETDEV_CMD_QUEUE_GET; NETDEV_A_QUEUE_XSK is there while an AF_XDP socket has the queue (6.14).
const QUEUE_GET: u8 = 10;
const QUEUE_ID: u16 = 1;
const QUEUE_INDEX: u16 = 2;
const QUEUE_TYPE: u16 = 3;
const QUEUE_XSK: u16 = 7;
const TYPE_RX: u32 = 0;
/// VIRTIO_F_ACCESS_PLATFORM of linux/virtio_config.h.
const ACCESS_PLATFORM: usize = 33;

/// NETDEV_XDP_ACT_* of linux/netdev.h: what a driver can do with XDP, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    /// XDP_ABORTED, XDP_DROP, XDP_PASS and XDP_TX.
    pub const BASIC: u64 = 1;
    /// XDP_REDIRECT.
    pub const REDIRECT: u64 = 2;
    /// AF_XDP sockets with zero-copy.
    pub const ZERO_COPY: u64 = 8;

    /// Whether a program that redirects can run in the driver.
    pub fn native(self) -> bool {
        self.0 & XdpFeatures::BASIC != 0 && self.0 & XdpFeatures::REDIRECT != 0
    }

    /// Whether sockets can be bound with zero-copy.
    pub fn zero_copy(self) -> bool {
        self.0 & XdpFeatures::ZERO_COPY != 0
    }
}

/// Features by their names in `ethtool -k`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    /// Those that are on.
    pub active: BTreeSet<String>,
    /// Those that can be switched.
    pub changeable: BTreeSet<String>,
}

impl Features {
    /// Whether one is on.
    pub fn is_on(&self, name: &str) -> bool {
        self.active.contains(name)
    }
}

/// Entries of the NIC's own receive ring: in use, and at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// In use.
    pub size: u32,
    /// At most.
    pub max: u32,
}

/// One interrupt of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// What the driver calls it.
    pub name: String,
    /// The cores that handle it.
    pub cores: Vec<usize>,
}

/// What was read of a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicFacts {
    /// What its driver can do with XDP.
    pub xdp: Read<XdpFeatures>,
    /// Its features.
    pub features: Read<Features>,
    /// The queue of each entry of its RSS indirection table.
    pub rss: Read<Vec<u32>>,
    /// Its receive ring.
    pub ring: Read<Ring>,
    /// Its NUMA position; nothing where the machine has but one, or the device none.
    pub numa: Read<Option<usize>>,
    /// The receive queues that AF_XDP sockets have, anybody's.
    pub taken: Read<Vec<u32>>,
    /// Its interrupts; none where it has no device of its own.
    pub interrupts: Read<Vec<Interrupt>>,
    /// Whether a virtio device takes addresses of the platform (VIRTIO_F_ACCESS_PLATFORM, QEMU's
    /// iommu_platform=on), without which it cannot do zero-copy; nothing for others.
    pub access_platform: Option<bool>,
}

impl NicFacts {
    /// Looks at the interface of this name and index.
    pub fn read(name: &str, index: u32) -> NicFacts {
        let folders = sysfs(name, index).and_then(|folder| device_folders(&folder));
        let device = || folders.as_ref().ok()?.first();
        let features = device().and_then(|folder| read_if_any(folder, "features").ok().flatten());
        NicFacts {
            xdp: read_xdp(index),
            features: read_features(index),
            rss: xsk::rss_table(name).map_err(|error| error.to_string()),
            ring: read_ring(index),
            taken: read_taken(index),
            numa: folders.as_ref().map_err(String::clone).and_then(|folders| read_numa(folders)),
            interrupts: folders.and_then(|folders| read_interrupts(name, &folders)),
            access_platform: features.map(|bits| has_access_platform(&bits)),
        }
    }
}

/// The features of a virtio device, from the first bit to the last, a character each.
fn has_access_platform(features: &str) -> bool {
    features.as_bytes().get(ACCESS_PLATFORM) == Some(&b'1')
}

/// The interface's folder, if sysfs shows this very network namespace.
fn sysfs(name: &str, index: u32) -> Read<PathBuf> {
    let folder = Path::new("/sys/class/net").join(name);
    let shown = read_line(&folder.join("ifindex").display().to_string())?;
    if shown.parse() == Ok(index) {
        Ok(folder)
    } else {
        Err("/sys shows another network namespace; mount sysfs in this one".to_owned())
    }
}

/// A request that is about one interface.
fn about(index: u32) -> Vec<u8> {
    nested(ethtool::HEADER, &attribute(ethtool::HEADER_INDEX, &index.to_ne_bytes()))
}

fn read_xdp(index: u32) -> Read<XdpFeatures> {
    let answer = ask_family("netdev", NETDEV_GET, &attribute(NETDEV_INDEX, &index.to_ne_bytes()))?;
    find(&answer, NETDEV_XDP)
        .and_then(|value| value.try_into().ok())
        .map(|bytes| XdpFeatures(u64::from_ne_bytes(bytes)))
        .ok_or_else(|| "the kernel does not say".to_owned())
}

fn read_taken(index: u32) -> Read<Vec<u32>> {
    let about = attribute(QUEUE_INDEX, &index.to_ne_bytes());
    let queues = ask_family_for_all("netdev", QUEUE_GET, &about)?;
    let taken = queues.iter().filter(|queue| {
        find(queue, QUEUE_XSK).is_some()
            && find(queue, QUEUE_TYPE).and_then(number) == Some(TYPE_RX)
    });
    Ok(taken.filter_map(|queue| number(find(queue, QUEUE_ID)?)).collect())
}

fn read_features(index: u32) -> Read<Features> {
    let answer = ask_family("ethtool", ethtool::FEATURES_GET, &about(index))?;
    let set = |kind| find(&answer, kind).map(names).unwrap_or_default();
    Ok(Features {
        active: set(ethtool::FEATURES_ACTIVE),
        changeable: set(ethtool::FEATURES_CHANGEABLE),
    })
}

/// The names of the bits that are set (Documentation/networking/ethtool-netlink.rst, Bit sets).
fn names(set: &[u8]) -> BTreeSet<String> {
    let set = attributes(set);
    // Without a mask only the bits that are set are listed.
    let all = find(&set, ethtool::BITS_NO_MASK).is_some();
    let bits = find(&set, ethtool::BITS).map(attributes).unwrap_or_default();
    bits.iter()
        .map(|(_, bit)| attributes(bit))
        .filter(|bit| all || find(bit, ethtool::BIT_VALUE).is_some())
        .filter_map(|bit| {
            let name = find(&bit, ethtool::BIT_NAME)?;
            let name = name.split(|&byte| byte == 0).next()?;
            Some(String::from_utf8_lossy(name).into_owned())
        })
        .collect()
}

fn read_ring(index: u32) -> Read<Ring> {
    let answer = ask_family("ethtool", ethtool::RINGS_GET, &about(index))?;
    let of = |kind| find(&answer, kind).and_then(number);
    match (of(ethtool::RINGS_RX), of(ethtool::RINGS_RX_MAX)) {
        (Some(size), Some(max)) => Ok(Ring { size, max }),
        _ => Err("the driver does not say".to_owned()),
    }
}

/// The folders of an interface's device, and of what that is a part of: a virtio device has its
/// interrupts and its NUMA domain from the PCI function above it. None: it has no device.
fn device_folders(folder: &Path) -> Read<Vec<PathBuf>> {
    let device = folder.join("device");
    if !device.exists() {
        return Ok(Vec::new());
    }
    let device = device.canonicalize().map_err(|error| error.to_string())?;
    Ok(device.ancestors().take(2).map(Path::to_owned).collect())
}

/// The kernel writes -1 where there is nothing to choose.
fn read_numa(folders: &[PathBuf]) -> Read<Option<usize>> {
    for folder in folders {
        if let Some(text) = read_if_any(folder, "numa_node")? {
            return Ok(text.parse().ok());
        }
    }
    Ok(None)
}

/// The interrupts of an interface whose device has these folders.
fn read_interrupts(interface: &str, folders: &[PathBuf]) -> Read<Vec<Interrupt>> {
    let Some(device) = folders.first() else { return Ok(Vec::new()) };
    const NAMES: &str = "/proc/interrupts";
    let lines = std::fs::read_to_string(NAMES).map_err(|error| format!("{NAMES}: {error}"))?;
    let device = device.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut found = by_number(&lines, &message_interrupts(folders));
    if found.is_empty() {
        found = by_name(&lines, &[interface, device]);
    }
    if found.is_empty() {
        return Err(format!("neither /sys nor {NAMES} says which are its"));
    }
    let cores = |(number, name)| {
        let cores = read_cores(Path::new("/proc/irq"), number)?;
        Ok(Interrupt { number, name, cores })
    };
    found.into_iter().map(cores).collect()
}

/// The numbers of a PCI device's MSI and MSI-X interrupts, used or not.
fn message_interrupts(folders: &[PathBuf]) -> Vec<u32> {
    let entries = folders.iter().find_map(|folder| std::fs::read_dir(folder.join("msi_irqs")).ok());
    let number = |name: std::ffi::OsString| name.to_str()?.parse().ok();
    let entries = entries.into_iter().flatten().flatten();
    let mut numbers: Vec<u32> = entries.filter_map(|entry| number(entry.file_name())).collect();
    numbers.sort_unstable();
    numbers
}

/// Number and name of the interrupts in /proc/interrupts: `38:  0  68594  PCI-MSIX  1-edge  eth0-rx-0`.
fn named(interrupts: &str) -> impl Iterator<Item = (u32, &str)> {
    interrupts.lines().filter_map(|line| {
        let (number, rest) = line.split_once(':')?;
        Some((number.trim().parse().ok()?, rest.split_whitespace().last()?))
    })
}

/// Those with these numbers. One that is not in use has no line.
fn by_number(interrupts: &str, numbers: &[u32]) -> Vec<(u32, String)> {
    let mine = named(interrupts).filter(|(number, _)| numbers.contains(number));
    mine.map(|(number, name)| (number, name.to_owned())).collect()
}

/// Those that a driver has called after its interface or device, alone or with what each is for.
fn by_name(interrupts: &str, names: &[&str]) -> Vec<(u32, String)> {
    let is = |name: &str, of: &&str| {
        let rest = name.strip_prefix(*of);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', ':']))
    };
    let mine = named(interrupts).filter(|(_, name)| names.iter().any(|of| is(name, of)));
    mine.map(|(number, name)| (number, name.to_owned())).collect()
}

/// The cores that an interrupt goes to. Not every kernel tells which one it has chosen of those that
/// are allowed (CONFIG_GENERIC_IRQ_EFFECTIVE_AFF_MASK).
fn read_cores(folder: &Path, number: u32) -> Read<Vec<usize>> {
    let read =
        |file: &str| read_line(&folder.join(format!("{number}/{file}")).display().to_string());
    let cores = read("effective_affinity_list").or_else(|_| read("smp_affinity_list"))?;
    Ok(read_list(&cores))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xdp_features_are_told_apart() {
        let veth = XdpFeatures(0x23);
        assert!(veth.native() && !veth.zero_copy());
        let mlx5 = XdpFeatures(0x6f);
        assert!(mlx5.native() && mlx5.zero_copy());
        assert!(!XdpFeatures(0).native() && !XdpFeatures(1).native());
    }

    #[test]
    fn only_bits_that_are_set_are_named() {
        let bit = |name: &str, on: bool| {
            let name = attribute(ethtool::BIT_NAME, &[name.as_bytes(), &[0]].concat());
            let value = if on { attribute(ethtool::BIT_VALUE, &[]) } else { Vec::new() };
            nested(1, &[name, value].concat())
        };
        let bits = nested(ethtool::BITS, &[bit("rx-lro", false), bit("rx-gro-hw", true)].concat());
        assert_eq!(names(&bits), BTreeSet::from(["rx-gro-hw".to_owned()]));
        let no_mask = [attribute(ethtool::BITS_NO_MASK, &[]), bits].concat();
        assert_eq!(names(&no_mask).len(), 2);
    }

    #[test]
    fn an_interrupt_is_found_by_its_number_or_its_drivers_name_for_it() {
        let text = "           CPU0       CPU1\n 38:          0      68594 PCI-MSIX-0000:00:03.0   \
                    1-edge      virtio2-input.0\n138:  0 0 IO-APIC other\n 39: 0 7 GICv3 eth0\n\
                    NMI:   0   0   Non-maskable interrupts\n";
        assert_eq!(by_number(text, &[8, 38]), [(38, "virtio2-input.0".to_owned())]);
        assert_eq!(by_number(text, &[8]), []);
        let found = by_name(text, &["eth0", "virtio2"]);
        assert_eq!(found, [(38, "virtio2-input.0".to_owned()), (39, "eth0".to_owned())]);
        assert_eq!(by_name(text, &["eth", "virtio"]), []);
    }

    #[test]
    fn a_device_has_its_place_from_what_it_is_a_part_of() {
        let sys = lab::TempDir::create("numa").unwrap();
        let (function, device) = (sys.path().join("0000:00:03.0"), "0000:00:03.0/nobody9");
        std::fs::create_dir_all(sys.path().join(device)).unwrap();
        let link = sys.path().join("device");
        assert_eq!(device_folders(sys.path()), Ok(vec![]));
        assert_eq!(read_numa(&[]), Ok(None));
        std::os::unix::fs::symlink(device, link).unwrap();
        let folders = device_folders(sys.path()).unwrap();
        assert_eq!(read_numa(&folders), Ok(None));
        std::fs::write(function.join("numa_node"), "1\n").unwrap();
        assert_eq!(read_numa(&folders), Ok(Some(1)));
        std::fs::write(function.join("numa_node"), "-1\n").unwrap();
        assert_eq!(read_numa(&folders), Ok(None));
        assert!(read_interrupts("no-such", &folders).is_err());
    }

    #[test]
    fn an_interrupt_that_cannot_be_looked_at_is_none_that_is_elsewhere() {
        let folder = lab::TempDir::create("irq").unwrap();
        let read = || read_cores(folder.path(), 38);
        assert!(read().unwrap_err().contains("38/smp_affinity_list"));
        std::fs::create_dir(folder.path().join("38")).unwrap();
        std::fs::write(folder.path().join("38/smp_affinity_list"), "0-1\n").unwrap();
        assert_eq!(read(), Ok(vec![0, 1]));
        std::fs::write(folder.path().join("38/effective_affinity_list"), "1\n").unwrap();
        assert_eq!(read(), Ok(vec![1]));
    }

    #[test]
    fn a_virtio_device_says_whose_addresses_it_takes() {
        let mut features = "1".repeat(33);
        assert!(!has_access_platform(&features) && !has_access_platform(&format!("{features}0")));
        features.push('1');
        assert!(has_access_platform(&features) && !has_access_platform("1"));
    }

    #[test]
    fn the_loopback_interface_is_no_device_and_can_be_read() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let facts = NicFacts::read("lo", index);
        assert_eq!((facts.access_platform, facts.numa), (None, Ok(None)));
        assert!(facts.features.unwrap().is_on("rx-lro") || !facts.xdp.unwrap().zero_copy());
    }
}
