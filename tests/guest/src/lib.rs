//! Boots a Debian kernel in QEMU, without hardware support, for what the machine at hand has not:
//! NICs whose drivers do AF_XDP zero-copy, VLAN devices, IPVS.
//!
//! ```no_run
//! use guest::{Kernel, Machine, Nic};
//!
//! # fn main() -> lab::Result<()> {
//! let mut guest = Machine::new(Kernel::Cloud618).nic(Nic::virtio()).boot()?;
//! guest.run("ip link set eth0 up")?;
//! guest.wire.send(&[vec![0xff; 60]])?;
//! println!("{}", guest.run("ip -s link show eth0")?);
//! # Ok(())
//! # }
//! ```
//!
//! Everything it needs is fetched once by `tests/guest/fetch`, unpacked under the target folder
//! and not installed. A guest ends with its value, or with the calling process; there should be
//! one at a time ([`lab::MachineLock`]).

mod console;
mod image;
mod machine;
mod modules;
mod packages;
mod running;
mod wire;

pub use machine::{HOST_MAC, Kernel, Machine, NIC_MAC, Nic};
pub use running::{Background, Guest};
pub use wire::Wire;
