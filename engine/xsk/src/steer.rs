//! The XDP program that steers packets for virtual services to the queues' sockets.

use crate::error::{Cause, Error};
use crate::interface::mend;
use crate::interrupts::Interrupts;
use crate::mapping::Mapping;
use crate::nic::Nic;
use crate::shedding;
use crate::xdp_link::{XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE, XdpLink};
use aya::maps::{Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

/// What the XDP program recognises a virtual service by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SteerKey {
    /// The VIP.
    pub address: IpAddr,
    /// The port, in host byte order.
    pub port: u16,
    /// The IP protocol number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
}

/// Why the XDP program left a packet to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PassKind {
    /// ARP.
    Arp,
    /// Neither ARP nor IP; more than two VLAN tags count as this too.
    OtherProtocol,
    /// IP to a multicast or broadcast MAC address.
    Multicast,
    /// IP to another station's MAC address.
    ForeignMac,
    /// IP to an address that is no VIP.
    OtherAddress,
    /// For a VIP, but for no virtual service: another port or protocol, or an ICMP message that
    /// is not an error.
    OtherPort,
    /// A fragment, the first one included, of a packet for a VIP.
    Fragment,
    /// Truncated, or not what its headers say.
    Malformed,
    /// For a virtual service, but the queue has no socket.
    NoSocket,
}

impl PassKind {
    /// How many kinds there are.
    pub const COUNT: usize = PassKind::ALL.len();

    /// All kinds, in the order of their numbers.
    pub const ALL: [PassKind; 9] = [
        PassKind::Arp,
        PassKind::OtherProtocol,
        PassKind::Multicast,
        PassKind::ForeignMac,
        PassKind::OtherAddress,
        PassKind::OtherPort,
        PassKind::Fragment,
        PassKind::Malformed,
        PassKind::NoSocket,
    ];

    /// The metric's label.
    pub const fn name(self) -> &'static str {
        match self {
            PassKind::Arp => "arp",
            PassKind::OtherProtocol => "other_protocol",
            PassKind::Multicast => "multicast",
            PassKind::ForeignMac => "foreign_mac",
            PassKind::OtherAddress => "other_address",
            PassKind::OtherPort => "other_port",
            PassKind::Fragment => "fragment",
            PassKind::Malformed => "malformed",
            PassKind::NoSocket => "no_socket",
        }
    }
}

/// What the XDP program did with the packets that it saw, summed over the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SteerCounts {
    /// Given to a queue's socket.
    pub redirected: u64,
    /// Dropped because too many were waiting for the worker of their queue. Only in copy mode.
    pub shed: u64,
    /// Left to the kernel, by [`PassKind`].
    pub passed: [u64; PassKind::COUNT],
}

impl SteerCounts {
    /// How many packets were left to the kernel for this reason.
    pub fn passed(&self, kind: PassKind) -> u64 {
        self.passed[kind as usize]
    }
}

/// Where the XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttachMode {
    /// In the driver, before the kernel has made a socket buffer of the packet.
    Native,
    /// In the network stack, because the driver cannot: works everywhere, and is slow.
    Generic,
}

impl AttachMode {
    /// The name, as in the log and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        }
    }
}

/// The XDP program of one interface. Dropping it detaches the program, and so does the end of
/// the process, however it ends: it is attached as a bpf_link.
pub struct Steer {
    // Detached first, when all of this is dropped.
    link: Option<XdpLink>,
    native_refusal: Option<io::Error>,
    interface: String,
    index: u32,
    queues: u32,
    program: Ebpf,
    services: aya::maps::HashMap<MapData, MapKey, u8>,
    /// What is in `services`.
    present: HashSet<MapKey>,
    sockets: XskMap<MapData>,
    shedding: Arc<Mapping>,
    counts: PerCpuArray<MapData, u64>,
    _interrupts: Option<Interrupts>,
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer")
            .field("interface", &self.interface)
            .field("link", &self.link)
            .field("entries", &self.present.len())
            .finish_non_exhaustive()
    }
}

/// `struct service` in steer.bpf.c: address, port (both in network byte order), protocol and IP
/// version.
type MapKey = [u8; 20];

/// `entries` of the services in steer.bpf.c.
const SERVICES_MAX: u32 = 65536;

impl SteerKey {
    fn to_map(self) -> MapKey {
        let mut key = vip(self.address);
        key[16..18].copy_from_slice(&self.port.to_be_bytes());
        key[18] = self.protocol;
        key
    }
}

/// The entry that says that an address is a VIP.
fn vip(address: IpAddr) -> MapKey {
    let mut key = [0; 20];
    let (address, version) = match address {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), 4),
        IpAddr::V6(address) => (address, 6),
    };
    key[..16].copy_from_slice(&address.octets());
    key[19] = version;
    key
}

impl Steer {
    /// Loads the program for an interface with `queues` receive queues.
    ///
    /// `interrupts` are put back when this is dropped.
    pub(crate) fn load(
        nic: &Nic,
        queues: u32,
        interrupts: Option<Interrupts>,
    ) -> Result<Steer, Error> {
        let failed = |error| refused(&nic.name, "load the XDP program", error);
        let mac: [u16; 3] =
            std::array::from_fn(|n| u16::from_ne_bytes([nic.mac[2 * n], nic.mac[2 * n + 1]]));
        let mut program = EbpfLoader::new()
            .override_global("own_mac", &mac, true)
            .map_max_entries("sockets", queues)
            .map_max_entries("shedding", queues)
            .load(aya::include_bytes_aligned!("steer.bpf.o"))
            .map_err(|error| failed(error.into()))?;
        let mut map =
            |name| program.take_map(name).ok_or_else(|| failed(format!("no map {name:?}").into()));
        let services =
            map("services")?.try_into().map_err(|error: MapError| failed(error.into()))?;
        let sockets = map("sockets")?.try_into().map_err(|error: MapError| failed(error.into()))?;
        // Open until the program is loaded, which names its maps by their descriptors.
        let shedding_map = map("shedding")?;
        let shedding = share(&shedding_map, queues).map_err(failed)?;
        let counts = map("counts")?.try_into().map_err(|error: MapError| failed(error.into()))?;
        xdp(&mut program).and_then(|xdp| Ok(xdp.load()?)).map_err(failed)?;
        Ok(Steer {
            link: None,
            native_refusal: None,
            interface: nic.name.clone(),
            index: nic.index,
            queues,
            program,
            services,
            present: HashSet::new(),
            sockets,
            shedding,
            counts,
            _interrupts: interrupts,
        })
    }

    /// Steers what arrives on a queue to this socket, which must be bound to it.
    pub(crate) fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| {
            refused(&self.interface, "enter a socket into the XSKMAP", error.into())
        })
    }

    /// The map by which workers say that they cannot keep up.
    pub(crate) fn shedding(&self) -> Arc<Mapping> {
        self.shedding.clone()
    }

    /// Steers packets for exactly these virtual services from now on.
    ///
    /// Only the difference to the last call is applied, additions first, so that a service that
    /// stays is never unmatched. An error leaves the services as they were.
    pub fn set_services(&mut self, services: &[SteerKey]) -> Result<(), Error> {
        let mut wanted = HashSet::with_capacity(2 * services.len());
        for service in services {
            if !matches!(i32::from(service.protocol), libc::IPPROTO_TCP | libc::IPPROTO_UDP) {
                return Err(Error::Protocol { protocol: service.protocol });
            }
            wanted.insert(service.to_map());
            wanted.insert(vip(service.address));
        }
        let mut added = Vec::new();
        for key in wanted.difference(&self.present) {
            if let Err(error) = self.services.insert(key, 0, 0) {
                for key in added {
                    // Nothing better is left if this fails too: the packets would find a worker
                    // that does not know the service, and be dropped and counted there.
                    let _ = self.services.remove(key);
                }
                return Err(self.insert_refused(error));
            }
            added.push(key);
        }
        let gone: Vec<MapKey> = self.present.difference(&wanted).copied().collect();
        self.present.extend(wanted.iter());
        for key in gone {
            self.services.remove(&key).map_err(|error| {
                refused(&self.interface, "remove a virtual service", error.into())
            })?;
            self.present.remove(&key);
        }
        Ok(())
    }

    fn insert_refused(&self, error: MapError) -> Error {
        if os_error(&error) == Some(libc::E2BIG) {
            return Error::TooManyServices {
                interface: self.interface.clone(),
                capacity: SERVICES_MAX,
            };
        }
        refused(&self.interface, "add a virtual service", error.into())
    }

    /// Attaches the program: in the driver if it can, else in the network stack. Why the driver
    /// could not is then [`native_refusal`](Steer::native_refusal). Nothing is steered before.
    pub fn attach(&mut self) -> Result<AttachMode, Error> {
        self.detach();
        let interface = self.interface.clone();
        // Links are attached by index, which means another interface in another namespace, and
        // nothing at all once the interface was made anew.
        if Nic::look_up(&interface)?.index != self.index {
            return Err(Error::NoInterface { name: interface });
        }
        let failed = |error| refused(&interface, "find the XDP program", error);
        let program = xdp(&mut self.program).map_err(failed)?;
        let program = program.fd().map_err(|error| failed(error.into()))?.as_fd();
        let native = match XdpLink::create(program, self.index, XDP_FLAGS_DRV_MODE) {
            Ok(link) => {
                self.link = Some(link);
                self.check_queues()?;
                return Ok(AttachMode::Native);
            }
            Err(error) => error,
        };
        match native.raw_os_error() {
            // dev_xdp_attach in net/core/dev.c: a program in this mode, or in the other one.
            Some(libc::EBUSY | libc::EEXIST) => return Err(Error::ProgramBusy { interface }),
            Some(libc::EPERM) => return Err(no_permission()),
            _ => {}
        }
        match XdpLink::create(program, self.index, XDP_FLAGS_SKB_MODE) {
            Ok(link) => {
                self.link = Some(link);
                self.native_refusal = Some(native);
                Ok(AttachMode::Generic)
            }
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                Err(Error::ProgramBusy { interface })
            }
            Err(generic) => Err(Error::Attach { interface, native, generic }),
        }
    }

    /// Detaches the program again if its driver has put further queues to use for it, as virtio_net
    /// does when the device has as many to spare as there are cores (virtnet_xdp_set in
    /// drivers/net/virtio_net.c): packets arrive on those, too, where nobody would take them.
    fn check_queues(&mut self) -> Result<(), Error> {
        let has = Nic::look_up(&self.interface)?.channels;
        if has.rx <= self.queues {
            return Ok(());
        }
        self.detach();
        let reason = format!(
            "its driver uses {} queues instead of {} when the XDP program is attached, and packets \
             that arrive on the others would reach no worker; a driver with none to spare leaves \
             it: {}",
            has.rx,
            self.queues,
            mend(&self.interface, has, has.max)
        );
        Err(Error::Queues { interface: self.interface.clone(), reason })
    }

    /// Why the program is in the network stack and not in the driver.
    pub fn native_refusal(&self) -> Option<&io::Error> {
        self.native_refusal.as_ref()
    }

    /// Gives all packets back to the kernel. The services stay set.
    pub fn detach(&mut self) {
        self.link = None;
        self.native_refusal = None;
    }

    /// What was steered and what was passed since the program was loaded.
    pub fn counts(&self) -> Result<SteerCounts, Error> {
        let sum = |index: usize| -> Result<u64, Error> {
            let counts = self.counts.get(&(index as u32), 0).map_err(|error| {
                refused(&self.interface, "read the XDP program's counts", error.into())
            })?;
            Ok(counts.iter().sum())
        };
        let mut counts = SteerCounts::default();
        for kind in PassKind::ALL {
            counts.passed[kind as usize] = sum(kind as usize)?;
        }
        counts.redirected = sum(PassKind::COUNT)?;
        counts.shed = sum(PassKind::COUNT + 1)?;
        Ok(counts)
    }
}

/// Maps the map `shedding` into this process, so that a worker writes to it without a system call.
fn share(map: &Map, queues: u32) -> Result<Arc<Mapping>, Cause> {
    let Map::Array(map) = map else { return Err("the map \"shedding\" is no array".into()) };
    let bytes = queues as usize * shedding::ENTRY;
    Ok(Arc::new(Mapping::shared(map.fd().as_fd(), 0, bytes)?))
}

fn xdp(program: &mut Ebpf) -> Result<&mut Xdp, Cause> {
    let program = program.program_mut("steer").ok_or("no program \"steer\"")?;
    Ok(program.try_into()?)
}

fn refused(interface: &str, doing: &'static str, source: Cause) -> Error {
    // EPERM: a map or the program. aya looks first what the kernel can do, and finds that it can
    // do nothing; what fails then has no error number.
    if os_error(&*source) == Some(libc::EPERM) || !may_use_bpf() {
        return no_permission();
    }
    Error::Bpf { interface: interface.to_owned(), doing, source }
}

fn no_permission() -> Error {
    Error::NoPermission {
        doing: "load and attach the XDP program",
        capability: "CAP_NET_ADMIN, CAP_BPF and CAP_PERFMON",
    }
}

/// Whether this thread has the capabilities; true if it cannot be told.
fn may_use_bpf() -> bool {
    // linux/capability.h
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_BPF: u64 = 1 << 39;
    let Ok(status) = std::fs::read_to_string("/proc/thread-self/status") else {
        return true;
    };
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_none_or(|mask| mask & CAP_NET_ADMIN != 0 && mask & (CAP_BPF | CAP_SYS_ADMIN) != 0)
}

/// The kernel's answer, if there is one below an error.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}
