//! What can go wrong between user space and a queue.

use std::fmt;
use std::io;

/// A boxed cause.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What can go wrong between user space and a queue. Each message names the place and, where
/// there is one, the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No such interface.
    #[error("interface {name:?} does not exist here; `ip link` lists the ones that do")]
    NoInterface {
        /// As it was asked for.
        name: String,
    },
    /// The interface exists and cannot be used.
    #[error("{interface}: {reason}")]
    Unsuitable {
        /// The interface's name.
        interface: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The list of queues does not match the queues that the interface has.
    #[error("{interface}: {reason}")]
    Queues {
        /// The interface's name.
        interface: String,
        /// What is wrong with the list, and the `ethtool -L` line that mends it.
        reason: String,
    },
    /// An option is out of range.
    #[error("{option} = {value}: {reason}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What was asked.
        value: u64,
        /// What would do.
        reason: &'static str,
    },
    /// A capability is missing.
    #[error(
        "no permission to {doing}: {capability} is needed (run as root, or give it to the program)"
    )]
    NoPermission {
        /// What was tried.
        doing: &'static str,
        /// The capabilities that allow it.
        capability: &'static str,
    },
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP sockets: CONFIG_XDP_SOCKETS is needed, Linux 5.15 or newer")]
    NoAfXdp,
    /// Somebody else has the queue.
    #[error(
        "another program, perhaps another shunt, already has queue {queue} of {interface}: stop it, or serve another interface (`ss --xdp -p` shows who has which queue)"
    )]
    QueueBusy {
        /// The interface's name.
        interface: String,
        /// The queue's number.
        queue: u32,
    },
    /// Zero-copy was asked for and the driver cannot.
    #[error(
        "queue {queue} of {interface}: {refusal}; \
         i40e, ixgbe, ice, mlx5, igc, igb (6.14), stmmac, nfp, dpaa2, gve, tsnep and virtio_net \
         (6.13) can; mode \"auto\" or \"copy\" works with every driver"
    )]
    NoZeroCopy {
        /// The interface's name.
        interface: String,
        /// The queue's number.
        queue: u32,
        /// Who refuses, and why.
        refusal: ZeroCopyRefusal,
    },
    /// Another XDP program is attached.
    #[error(
        "{interface} has an XDP program already, perhaps another shunt's; \
         `ip link show dev {interface}` names it, `bpftool link` says whose it is"
    )]
    ProgramBusy {
        /// The interface's name.
        interface: String,
    },
    /// The program could not be attached as a bpf_link, in either mode.
    #[error(
        "the XDP program cannot be attached to {interface}: native mode: {native}; \
         generic mode: {generic}"
    )]
    Attach {
        /// The interface's name.
        interface: String,
        /// Why the driver refused it.
        native: io::Error,
        /// Why the network stack refused it.
        generic: io::Error,
    },
    /// A service that the XDP program cannot steer.
    #[error("protocol {protocol} cannot be steered: 6 (TCP) and 17 (UDP) can")]
    Protocol {
        /// The IP protocol number.
        protocol: u8,
    },
    /// The table of virtual services in the XDP program is full. What is to go is in it until
    /// what is to come is there too.
    #[error("more than {capacity} virtual services and VIPs, old and new, on {interface}")]
    TooManyServices {
        /// The interface's name.
        interface: String,
        /// What fits.
        capacity: u32,
    },
    /// The port that a monitor looks at was closed.
    #[error("queue {queue} is closed")]
    Closed {
        /// The queue's number.
        queue: u32,
    },
    /// The kernel refused a BPF operation.
    #[error("{interface}: cannot {doing}")]
    Bpf {
        /// The interface's name.
        interface: String,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: Cause,
    },
    /// The kernel refused a system call.
    #[error("{place}: cannot {doing}")]
    System {
        /// The interface, queue or file.
        place: String,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A driver refuses zero-copy.
#[derive(Debug)]
pub struct ZeroCopyRefusal {
    /// The driver's name.
    pub driver: String,
    /// The kernel's answer.
    pub answer: io::Error,
}

impl fmt::Display for ZeroCopyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ZeroCopyRefusal { driver, answer } = self;
        write!(f, "its driver, {driver}, refuses zero-copy ({answer}")?;
        // In drivers/net/virtio_net.c, where it looks for `virtqueue_dma_dev`: the frames cannot be
        // mapped for a device that takes the guest's own addresses.
        if driver == "virtio_net" && answer.raw_os_error() == Some(libc::EINVAL) {
            write!(f, ": the device lacks VIRTIO_F_ACCESS_PLATFORM, QEMU's iommu_platform=on")?;
        }
        write!(f, ")")
    }
}

impl Error {
    /// Why there is no AF_XDP socket.
    pub(crate) fn from_socket(error: io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::EPERM) => {
                Error::NoPermission { doing: "open an AF_XDP socket", capability: "CAP_NET_RAW" }
            }
            Some(libc::EAFNOSUPPORT) => Error::NoAfXdp,
            _ => system("AF_XDP".to_owned(), "open a socket")(error),
        }
    }
}

/// For `map_err`: what the system call was for.
pub(crate) fn system(place: String, doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { place, doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_af_xdp_is_told_from_a_missing_capability() {
        let from = |number| Error::from_socket(io::Error::from_raw_os_error(number)).to_string();
        assert!(from(libc::EAFNOSUPPORT).contains("CONFIG_XDP_SOCKETS"));
        assert!(from(libc::EPERM).contains("CAP_NET_RAW"));
        assert_eq!(from(libc::EMFILE), "AF_XDP: cannot open a socket");
    }
}
