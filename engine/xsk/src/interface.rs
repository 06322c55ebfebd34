//! The way in: all queues of an interface, opened together.

use crate::{Error, InterfaceOptions, Monitor, Steer, XskPort};

/// An interface whose queues are open.
///
/// The order of use is: [`open`], [`Steer::set_services`], start the workers,
/// [`Steer::attach`].
#[derive(Debug)]
pub struct Interface {
    /// The interface's name.
    pub name: String,
    /// The interface's index.
    pub index: u32,
    /// The interface's MAC address.
    pub mac: [u8; 6],
    /// The XDP program. Before the ports, so that it is dropped, and detached, before them.
    pub steer: Steer,
    /// One port per queue, by the queue's number.
    pub ports: Vec<XskPort>,
    /// One monitor per port, in the same order.
    pub monitors: Vec<Monitor>,
}

/// Opens the queues of an interface and loads the XDP program, without attaching it.
pub fn open(options: &InterfaceOptions) -> Result<Interface, Error> {
    Err(Error::NoInterface { name: options.name.clone() })
}
