//! What the kernel knows of an interface.

use crate::Error;
use crate::error::system;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

/// linux/sockios.h, linux/ethtool.h.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_GRXFHINDIR: u32 = 0x38;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// Both halves of the four bytes that have the ports (RXH_L4_B_0_1, RXH_L4_B_2_3).
const PORTS: u64 = 1 << 6 | 1 << 7;
/// More entries than a NIC's RSS indirection table has.
const TABLE_MAX: usize = 8192;

/// `struct ethtool_channels`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct EthtoolChannels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`.
#[derive(Clone, Copy)]
#[repr(C)]
struct EthtoolDriver {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// What `struct ethtool_rxnfc` was first, which is all of it that ETHTOOL_GRXFH reads and writes
/// (ethtool_rxnfc_copy_struct in net/ethtool/ioctl.c).
#[derive(Clone, Copy)]
#[repr(C)]
struct EthtoolHash {
    command: u32,
    kind: u32,
    fields: u64,
}

/// `struct ethtool_rxfh_indir`.
#[derive(Clone, Copy)]
#[repr(C)]
struct EthtoolTable {
    command: u32,
    size: u32,
    queues: [u32; TABLE_MAX],
}

/// Packets that a NIC's hash may treat in their own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HashedKind {
    /// TCP over IPv4.
    Tcp4,
    /// UDP over IPv4.
    Udp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over IPv6.
    Udp6,
}

impl HashedKind {
    /// As `ethtool -n IF rx-flow-hash` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            HashedKind::Tcp4 => "tcp4",
            HashedKind::Udp4 => "udp4",
            HashedKind::Tcp6 => "tcp6",
            HashedKind::Udp6 => "udp6",
        }
    }

    /// TCP_V4_FLOW and the others of linux/ethtool.h.
    const fn number(self) -> u32 {
        match self {
            HashedKind::Tcp4 => 1,
            HashedKind::Udp4 => 2,
            HashedKind::Tcp6 => 5,
            HashedKind::Udp6 => 6,
        }
    }
}

/// The queue of each entry of the RSS indirection table; none: the NIC has no such table.
pub(crate) fn rss_table(name: &str) -> Result<Vec<u32>, Error> {
    let table = Query::new(name)?.table();
    Ok(known(table).map_err(system(name.to_owned(), "read its RSS table"))?.unwrap_or_default())
}

/// Whether the hash that spreads such packets counts their ports in; nothing: it is not said.
pub(crate) fn hashes_ports(name: &str, kind: HashedKind) -> Result<Option<bool>, Error> {
    let fields = known(Query::new(name)?.hashed_fields(kind));
    let fields = fields.map_err(system(name.to_owned(), "read what RSS hashes"))?;
    Ok(fields.map(|fields| fields & PORTS == PORTS))
}

/// What a driver says, nothing where it cannot.
fn known<T>(answer: io::Result<T>) -> io::Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An interface, as it was when it was looked at.
#[derive(Debug)]
pub(crate) struct Nic {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) driver: String,
    pub(crate) channels: Channels,
}

/// The queues that an interface has, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channels {
    /// Receive queues in use.
    pub(crate) rx: u32,
    /// Transmit queues in use.
    pub(crate) tx: u32,
    /// The most queues that `ethtool -L` would set, 0 where it is not known.
    pub(crate) max: u32,
    /// Whether `ethtool -L` counts receive and transmit queues apart.
    pub(crate) separate: bool,
}

impl Nic {
    pub(crate) fn look_up(name: &str) -> Result<Nic, Error> {
        let query = Query::new(name)?;
        let failed = |doing| system(name.to_owned(), doing);
        let index = query.index()?;
        let mac = query.mac().map_err(failed("read its MAC address"))?.ok_or_else(|| {
            let reason = "not an Ethernet interface".to_owned();
            Error::Unsuitable { interface: name.to_owned(), reason }
        })?;
        let mtu = query.mtu().map_err(failed("read its MTU"))?;
        let driver = query.driver().unwrap_or_else(|_| "unknown to ethtool".to_owned());
        let channels = match query.channels() {
            Ok(channels) => channels,
            // Virtual interfaces often cannot tell.
            Err(_) => count_queues(name, index).map_err(failed("count its queues"))?,
        };
        Ok(Nic { name: name.to_owned(), index, mac, mtu, driver, channels })
    }
}

/// The interface's folder in sysfs, if it is this very interface: a thread that has entered a
/// network namespace still sees the interfaces of the one that sysfs was mounted in.
pub(crate) fn sysfs(name: &str, index: u32) -> io::Result<PathBuf> {
    let folder = PathBuf::from("/sys/class/net").join(name);
    let shown = std::fs::read_to_string(folder.join("ifindex"))?;
    if shown.trim().parse() != Ok(index) {
        let reason = "/sys shows another network namespace; mount sysfs in this one";
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    Ok(folder)
}

fn count_queues(name: &str, index: u32) -> io::Result<Channels> {
    let mut channels = Channels { rx: 0, tx: 0, max: 0, separate: false };
    for entry in std::fs::read_dir(sysfs(name, index)?.join("queues"))? {
        match entry?.file_name().to_string_lossy().split_once('-') {
            Some(("rx", _)) => channels.rx += 1,
            Some(("tx", _)) => channels.tx += 1,
            _ => {}
        }
    }
    Ok(channels)
}

/// ioctls on an interface that is known by name.
struct Query<'a> {
    name: &'a str,
    socket: OwnedFd,
    request: libc::ifreq,
}

impl Query<'_> {
    fn new(name: &str) -> Result<Query<'_>, Error> {
        let missing = || Error::NoInterface { name: name.to_owned() };
        let text = CString::new(name).map_err(|_| missing())?;
        let text = text.as_bytes_with_nul();
        // SAFETY: zero is a value of every field: integers, arrays of them, a null pointer.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if text.len() < 2 || text.len() > request.ifr_name.len() {
            return Err(missing());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(text) {
            *to = from.cast_signed();
        }
        // SAFETY: no pointers; the descriptor is checked below.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(system(name.to_owned(), "open a socket")(io::Error::last_os_error()));
        }
        // SAFETY: a descriptor that the kernel just made and that nobody else knows.
        Ok(Query { name, socket: unsafe { OwnedFd::from_raw_fd(fd) }, request })
    }

    fn index(&self) -> Result<u32, Error> {
        let answer = self.ask(libc::SIOCGIFINDEX, self.request);
        match answer {
            // SAFETY: the kernel has set the index, an integer.
            Ok(answer) => Ok(unsafe { answer.ifr_ifru.ifru_ifindex }.cast_unsigned()),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                Err(Error::NoInterface { name: self.name.to_owned() })
            }
            Err(error) => Err(system(self.name.to_owned(), "find its index")(error)),
        }
    }

    /// `None` if it is not Ethernet.
    fn mac(&self) -> io::Result<Option<[u8; 6]>> {
        let answer = self.ask(libc::SIOCGIFHWADDR, self.request)?;
        // SAFETY: the kernel has set the address, made of integers.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Ok(None);
        }
        Ok(Some(std::array::from_fn(|n| address.sa_data[n].cast_unsigned())))
    }

    fn mtu(&self) -> io::Result<u32> {
        let answer = self.ask(libc::SIOCGIFMTU, self.request)?;
        // SAFETY: the kernel has set the MTU, an integer.
        Ok(unsafe { answer.ifr_ifru.ifru_mtu }.cast_unsigned())
    }

    fn driver(&self) -> io::Result<String> {
        let mut info = EthtoolDriver { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        self.ethtool(&mut info)?;
        let name = info.driver.split(|&byte| byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    fn channels(&self) -> io::Result<Channels> {
        let mut answer =
            EthtoolChannels { command: ETHTOOL_GCHANNELS, ..EthtoolChannels::default() };
        self.ethtool(&mut answer)?;
        let separate = answer.max_combined == 0;
        Ok(Channels {
            rx: answer.combined + answer.rx,
            tx: answer.combined + answer.tx,
            max: if separate { answer.max_rx.min(answer.max_tx) } else { answer.max_combined },
            separate,
        })
    }

    fn table(&self) -> io::Result<Vec<u32>> {
        let size = TABLE_MAX as u32;
        let mut answer = EthtoolTable { command: ETHTOOL_GRXFHINDIR, size, queues: [0; TABLE_MAX] };
        self.ethtool(&mut answer)?;
        Ok(answer.queues.into_iter().take(answer.size as usize).collect())
    }

    fn hashed_fields(&self, kind: HashedKind) -> io::Result<u64> {
        let mut answer = EthtoolHash { command: ETHTOOL_GRXFH, kind: kind.number(), fields: 0 };
        self.ethtool(&mut answer)?;
        Ok(answer.fields)
    }

    /// `T` must be the struct of linux/ethtool.h that belongs to the command in its first field.
    fn ethtool<T: Copy>(&self, argument: &mut T) -> io::Result<()> {
        let mut request = self.request;
        request.ifr_ifru.ifru_data = std::ptr::from_mut(argument).cast();
        self.ask(SIOCETHTOOL, request)?;
        Ok(())
    }

    fn ask(&self, what: libc::Ioctl, mut request: libc::ifreq) -> io::Result<libc::ifreq> {
        // SAFETY: the kernel reads and writes one ifreq, a live local, and for SIOCETHTOOL the
        // struct behind `ifru_data`, which `ethtool` borrows for as long.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
    }
}
