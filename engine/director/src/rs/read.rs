//! Reads what this machine is like from the kernel, and what earlier setups have left from files.

use crate::addresses;
use crate::netlink_read::collect;
use crate::rs::facts::{ALL, Conf, Facts, Held, LinkFacts, Readiness, conf_folder};
use crate::rs::persist;
use crate::rs::plan::Kept;
use crate::rs::record::Record;
use crate::rs::steps::{Content, read_content};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::Handle;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where records are kept until the next reboot.
pub const RUN: &str = "/run/shunt";
/// The number of CAP_NET_ADMIN (capabilities(7)).
const NET_ADMIN: u32 = 12;

/// Opens the kernel's routing socket, which works as long as the runtime does.
pub fn open() -> Result<Handle, String> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|error| format!("cannot ask the kernel by netlink: {error}"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Reads what this machine is like.
pub async fn facts(handle: &Handle) -> Result<Facts, String> {
    let links = collect(handle.link().get().execute()).await;
    let links = links.map_err(|error| format!("cannot read the interfaces: {error}"))?;
    let mut links: Vec<LinkFacts> = links.iter().map(link).collect();
    let addresses = collect(handle.address().get().execute()).await;
    let addresses = addresses.map_err(|error| format!("cannot read the addresses: {error}"))?;
    for message in &addresses {
        let link = links.iter_mut().find(|link| link.index == message.header.index);
        if let (Some(link), Some(held)) = (link, held(message)) {
            link.addresses.push(held);
        }
    }
    for link in &mut links {
        link.conf = conf(&link.name)?;
        link.ipv6_off = ipv6_off(&link.name);
    }
    let all = conf(ALL)?.ok_or("cannot read /proc/sys/net/ipv4/conf/all: mount /proc")?;
    Ok(Facts { links, all })
}

fn link(message: &LinkMessage) -> LinkFacts {
    let flags = message.header.flags;
    let mut facts = LinkFacts {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        answers: !flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp),
        conf: None,
        ipv6_off: false,
        addresses: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Address(bytes) => facts.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            _ => {}
        }
    }
    facts
}

fn held(message: &AddressMessage) -> Option<Held> {
    let (mut address, mut local, mut by_shunt) = (None, None, false);
    // The header has room for the first eight flags, which are these.
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link Address is the other end; Local is always ours.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            AddressAttribute::Flags(all) => flags = *all,
            AddressAttribute::Protocol(protocol) => {
                by_shunt = u8::from(*protocol) == addresses::BY_SHUNT;
            }
            _ => {}
        }
    }
    let readiness = if flags.contains(AddressFlags::Dadfailed) {
        Readiness::Duplicate
    } else if flags.contains(AddressFlags::Tentative) {
        Readiness::Tentative
    } else {
        Readiness::Ready
    };
    let prefix = message.header.prefix_len;
    Some(Held { address: local.or(address)?, prefix, by_shunt, readiness })
}

/// The settings of an interface; nothing if it does not do IPv4, or is gone by now.
fn conf(interface: &str) -> Result<Option<Conf>, String> {
    let read = |key: &str| {
        let path = conf_folder(interface).join(key);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
        };
        let value = text.trim().parse::<i32>();
        value.map(Some).map_err(|_| format!("{} holds {text:?}, no number", path.display()))
    };
    // It may go from one to the next.
    let values = (read("arp_ignore")?, read("arp_announce")?, read("rp_filter")?);
    let (Some(arp_ignore), Some(arp_announce), Some(rp_filter)) = values else { return Ok(None) };
    Ok(Some(Conf { arp_ignore, arp_announce, rp_filter }))
}

/// Whether an interface has IPv6 switched off. A kernel without IPv6 has no such file.
fn ipv6_off(interface: &str) -> bool {
    let path = Path::new("/proc/sys/net/ipv6/conf").join(interface).join("disable_ipv6");
    fs::read_to_string(path).map_or(true, |text| text.trim() != "0")
}

/// Reads what earlier setups have left. `root`: where the files are that apply it at boot; left
/// out, it is where the last setup has put them.
pub fn kept(root: Option<&Path>) -> Result<Kept, String> {
    let path = record_path()?;
    let mut kept = Kept { path: path.clone(), ..Kept::default() };
    kept.record = take_in(&mut kept, &path)?;
    let known = kept.record.as_ref().and_then(|record| record.persisted_below.clone());
    kept.root = root.map(Path::to_owned).or(known).unwrap_or_else(|| PathBuf::from("/"));
    for path in persist::paths(&kept.root) {
        stays_below(&kept.root, &path)?;
    }
    let persisted = persist::kept_path(&kept.root);
    kept.persisted = take_in(&mut kept, &persisted)?;
    for path in persist::paths(&kept.root) {
        read_in(&mut kept, &path)?;
    }
    Ok(kept)
}

/// A folder of an image may be a link that means a place within the image, as /usr/lib does, and
/// would lead to this machine's.
fn stays_below(root: &Path, path: &Path) -> Result<(), String> {
    let Ok(below) = path.strip_prefix(root) else { return Ok(()) };
    if root == Path::new("/") {
        return Ok(());
    }
    let folders = below.ancestors().skip(1).map(|folder| root.join(folder));
    let link = |folder: &PathBuf| folder != root && folder.is_symlink();
    match folders.into_iter().find(link) {
        Some(link) => Err(format!(
            "{} is a symbolic link, which may lead out of {}: make it a folder, or start the image and type the command there",
            link.display(),
            root.display()
        )),
        None => Ok(()),
    }
}

/// Where the record of this network namespace is. Namespaces of one machine may share /run, and
/// have settings of their own.
fn record_path() -> Result<PathBuf, String> {
    let path = "/proc/thread-self/ns/net";
    let namespace = fs::metadata(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    Ok(Path::new(RUN).join(format!("rs.{}.json", namespace.ino())))
}

fn take_in(kept: &mut Kept, path: &Path) -> Result<Option<Record>, String> {
    read_in(kept, path)?;
    match kept.files.get(path) {
        Some(Content::Text(text)) => Record::parse(path, text).map(Some),
        _ => Ok(None),
    }
}

fn read_in(kept: &mut Kept, path: &Path) -> Result<(), String> {
    let content =
        read_content(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    kept.files.extend(content.map(|content| (path.to_owned(), content)));
    Ok(())
}

/// Whether this process may change the network's settings.
pub fn may_change() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    has_capability(&status, NET_ADMIN)
}

/// Whether a process with this status (proc(5)) has a capability in effect.
fn has_capability(status: &str, number: u32) -> bool {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits >> number & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::address::{AddressHeaderFlags, AddressProtocol};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    #[test]
    fn what_is_written_for_an_image_stays_in_it() {
        let files = lab::TempDir::create("rs-image").unwrap();
        let root = files.path().join("image");
        let all = || persist::paths(&root).iter().try_for_each(|path| stays_below(&root, path));
        fs::create_dir_all(root.join("etc/systemd")).unwrap();
        assert_eq!(all(), Ok(()));
        std::os::unix::fs::symlink("/dev/null", root.join("etc/systemd/system")).unwrap();
        let error = all().unwrap_err();
        assert!(error.contains("image/etc/systemd/system is a symbolic link"), "{error}");
        fs::remove_file(root.join("etc/systemd/system")).unwrap();
        fs::create_dir(root.join("etc/systemd/system")).unwrap();
        // The file itself may be a link: it is replaced, not followed.
        let unit = root.join("etc/systemd/system/shunt-rs.service");
        std::os::unix::fs::symlink("/dev/null", unit).unwrap();
        assert_eq!(all(), Ok(()));
        assert_eq!(stays_below(Path::new("/"), Path::new("/etc/sysctl.d/a")), Ok(()));
    }

    #[test]
    fn a_capability_is_a_bit_of_the_status() {
        let status = "Name:\tshunt\nCapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert!(has_capability(status, NET_ADMIN));
        assert!(!has_capability(status, 13) && !has_capability("", NET_ADMIN));
    }

    #[test]
    fn an_address_is_read_with_whether_it_can_be_used() {
        let mut message = AddressMessage::default();
        assert_eq!(held(&message), None);
        message.header.prefix_len = 128;
        let address: IpAddr = Ipv6Addr::LOCALHOST.into();
        message.attributes.push(AddressAttribute::Address(address));
        let ready = Held { address, prefix: 128, by_shunt: false, readiness: Readiness::Ready };
        assert_eq!(held(&message), Some(ready));
        message.header.flags = AddressHeaderFlags::Tentative;
        assert_eq!(held(&message).unwrap().readiness, Readiness::Tentative);
        let failed = AddressFlags::Tentative | AddressFlags::Dadfailed;
        message.attributes.push(AddressAttribute::Flags(failed));
        assert_eq!(held(&message).unwrap().readiness, Readiness::Duplicate);
        let mark = AddressProtocol::Other(addresses::BY_SHUNT);
        message.attributes.push(AddressAttribute::Protocol(mark));
        assert!(held(&message).unwrap().by_shunt);
        // On a point-to-point link the other end is named, too.
        let own: IpAddr = Ipv4Addr::new(10, 0, 0, 1).into();
        message.attributes.push(AddressAttribute::Local(own));
        assert_eq!(held(&message).unwrap().address, own);
    }

    #[test]
    fn loopback_and_dummies_answer_nobody() {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up | LinkFlags::Broadcast;
        message.attributes.push(LinkAttribute::IfName("eth0.5".into()));
        message.attributes.push(LinkAttribute::Mtu(1500));
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
        let ethernet = link(&message);
        assert!(ethernet.answers && ethernet.up && ethernet.mtu == 1500);
        assert_eq!((ethernet.name.as_str(), ethernet.mac), ("eth0.5", Some([2, 0, 0, 0, 0, 1])));
        for flag in [LinkFlags::Loopback, LinkFlags::Noarp] {
            message.header.flags = flag;
            assert!(!link(&message).answers && !link(&message).up);
        }
    }
}
