//! The way in: all queues of an interface, opened together.

use crate::interrupts::Interrupts;
use crate::nic::{Channels, Nic};
use crate::umem::HEADROOM;
use crate::{Error, InterfaceOptions, Monitor, Queues, Steer, XskPort};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;

const RING_SIZES: RangeInclusive<u32> = 64..=32768;
const FRAMES_MAX: u32 = 1 << 20;

/// The frame sizes that the kernel takes: powers of two from 2048 to a page.
const FRAME_SIZES: [u32; 2] = [2048, 4096];

/// Drivers whose NICs are told in whole KiB how long a packet may be, rounded down: 2048 bytes less
/// the headroom would be 1024, and with zero-copy every longer packet be lost. The register is
/// SRRCTL.BSIZEPKT: `igb_setup_srrctl`, `igc_configure_rx_ring`, and `ixgbe_configure_srrctl` with
/// an 82599, which only its driver can tell from the later ones.
const WHOLE_KIB_DRIVERS: [&str; 3] = ["igb", "igc", "ixgbe"];

/// What a packet has before its MTU: the Ethernet header and two VLAN tags.
const FRAMING: u32 = 14 + 2 * 4;

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
    /// The interface's MAC address. Packets to another one are left to the kernel, so if it
    /// changes, the interface must be opened anew.
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
    check(options)?;
    let nic = Nic::look_up(&options.name)?;
    let queues = choose_queues(&nic.name, nic.channels, &options.queues)?;
    let frame_size = frame_size(&nic)?;
    let interrupts =
        options.busy_poll.as_ref().map(|options| Interrupts::defer(&nic, options)).transpose()?;
    let mut ports = queues
        .iter()
        .map(|&queue| XskPort::open(&nic, queue, frame_size, options))
        .collect::<Result<Vec<XskPort>, Error>>()?;
    let mut steer = Steer::load(&nic, nic.channels.rx, interrupts)?;
    for port in &mut ports {
        steer.set_socket(port.queue(), port.as_fd())?;
        port.shed_by(&steer, options.ring_size);
    }
    let monitors = ports.iter().map(XskPort::monitor).collect();
    Ok(Interface { name: nic.name, index: nic.index, mac: nic.mac, steer, ports, monitors })
}

pub(crate) fn check(options: &InterfaceOptions) -> Result<(), Error> {
    let ring_size = options.ring_size;
    if !ring_size.is_power_of_two() || !RING_SIZES.contains(&ring_size) {
        let reason = "a power of two from 64 to 32768 would do";
        return Err(Error::Option { option: "ring_size", value: ring_size.into(), reason });
    }
    if options.frames < ring_size || options.frames > FRAMES_MAX {
        let reason = "at least ring_size, better twice that, and at most 1048576 would do";
        return Err(Error::Option { option: "frames", value: options.frames.into(), reason });
    }
    Ok(())
}

/// The bytes of a frame of this size that a packet may have with this driver.
fn room(driver: &str, size: u32) -> u32 {
    let unit = if WHOLE_KIB_DRIVERS.contains(&driver) { 1024 } else { 1 };
    (size - HEADROOM) / unit * unit
}

/// The largest MTU whose packets fit into one frame.
pub(crate) fn largest_mtu(driver: &str) -> u32 {
    room(driver, FRAME_SIZES[1]) - FRAMING
}

/// The smallest frame that holds the interface's largest packet.
pub(crate) fn frame_size(nic: &Nic) -> Result<u32, Error> {
    let packet = nic.mtu.saturating_add(FRAMING);
    let fits = |size: &u32| packet <= room(&nic.driver, *size);
    FRAME_SIZES.into_iter().find(fits).ok_or_else(|| {
        let largest = largest_mtu(&nic.driver);
        let reason = format!(
            "an MTU of {} needs packets of several frames, which shunt does not take; \
             `ip link set dev {} mtu {largest}` mends it",
            nic.mtu, nic.name
        );
        Error::Unsuitable { interface: nic.name.clone(), reason }
    })
}

/// The queues to open: all that there are, in order.
pub(crate) fn choose_queues(name: &str, has: Channels, asked: &Queues) -> Result<Vec<u32>, Error> {
    let refuse = |reason| Err(Error::Queues { interface: name.to_owned(), reason });
    let all: Vec<u32> = (0..has.rx).collect();
    let chosen = match asked {
        Queues::All => all.clone(),
        Queues::List(list) => {
            let mut list = list.clone();
            list.sort_unstable();
            list
        }
    };
    if let Some(pair) = chosen.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(format!("queue {} is listed twice", pair[0]));
    }
    let Some(&last) = chosen.last() else {
        return refuse("no queue is listed; queues = \"all\" takes every one".to_owned());
    };
    if last >= has.rx {
        return refuse(format!(
            "queue {last} does not exist, there {} {}; {}",
            if has.rx == 1 { "is" } else { "are" },
            has.rx,
            mend(name, has, last.saturating_add(1))
        ));
    }
    if chosen != all {
        let count = chosen.len() as u32;
        let missing: Vec<String> =
            all.iter().filter(|queue| !chosen.contains(queue)).map(u32::to_string).collect();
        let renumber = if last >= count {
            format!(" (and then list queues 0 to {})", count - 1)
        } else {
            String::new()
        };
        return refuse(format!(
            "packets that arrive on queue {} would reach no worker; list every queue, or {}{renumber}",
            missing.join(", "),
            mend(name, has, count)
        ));
    }
    if has.tx < has.rx {
        return refuse(format!(
            "{} receive queues need as many transmit queues, there are {}; {}",
            has.rx,
            has.tx,
            mend(name, has, has.rx)
        ));
    }
    Ok(chosen)
}

/// What makes the interface have `count` queues.
pub(crate) fn mend(name: &str, has: Channels, count: u32) -> String {
    if has.max == 0 {
        "this driver's number of queues cannot be set".to_owned()
    } else if count > has.max {
        format!("this driver has at most {}", has.max)
    } else if has.separate {
        format!("`ethtool -L {name} rx {count} tx {count}` mends it")
    } else {
        format!("`ethtool -L {name} combined {count}` mends it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMBINED: Channels = Channels { rx: 4, tx: 4, max: 8, separate: false };
    const SEPARATE: Channels = Channels { rx: 2, tx: 2, max: 16, separate: true };

    fn refusal(has: Channels, list: &[u32]) -> String {
        choose_queues("eth0", has, &Queues::List(list.to_vec())).unwrap_err().to_string()
    }

    #[test]
    fn all_queues_are_chosen_in_order() {
        assert_eq!(choose_queues("eth0", COMBINED, &Queues::All).unwrap(), [0, 1, 2, 3]);
        let list = Queues::List(vec![3, 1, 0, 2]);
        assert_eq!(choose_queues("eth0", COMBINED, &list).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_list_that_leaves_queues_out_names_the_line_that_mends_it() {
        assert_eq!(
            refusal(COMBINED, &[0, 1]),
            "eth0: packets that arrive on queue 2, 3 would reach no worker; list every queue, or \
             `ethtool -L eth0 combined 2` mends it"
        );
        assert_eq!(
            refusal(SEPARATE, &[0]),
            "eth0: packets that arrive on queue 1 would reach no worker; list every queue, or \
             `ethtool -L eth0 rx 1 tx 1` mends it"
        );
        assert!(
            refusal(COMBINED, &[2, 3])
                .ends_with("`ethtool -L eth0 combined 2` mends it (and then list queues 0 to 1)")
        );
    }

    #[test]
    fn a_queue_that_does_not_exist_is_refused() {
        assert_eq!(
            refusal(COMBINED, &[0, 5]),
            "eth0: queue 5 does not exist, there are 4; `ethtool -L eth0 combined 6` mends it"
        );
        assert!(refusal(COMBINED, &[8]).ends_with("this driver has at most 8"));
        assert!(refusal(COMBINED, &[u32::MAX]).ends_with("this driver has at most 8"));
        let fixed = Channels { rx: 1, tx: 1, max: 0, separate: false };
        assert_eq!(
            refusal(fixed, &[1]),
            "eth0: queue 1 does not exist, there is 1; this driver's number of queues cannot be set"
        );
    }

    #[test]
    fn empty_and_doubled_lists_are_refused() {
        assert!(refusal(COMBINED, &[]).contains("no queue is listed"));
        assert!(refusal(COMBINED, &[0, 1, 1, 2, 3]).contains("queue 1 is listed twice"));
    }

    #[test]
    fn every_receive_queue_needs_a_transmit_queue() {
        let has = Channels { rx: 4, tx: 2, max: 4, separate: true };
        let error = choose_queues("eth0", has, &Queues::All).unwrap_err().to_string();
        assert!(error.ends_with("`ethtool -L eth0 rx 4 tx 4` mends it"), "{error}");
    }

    #[test]
    fn rings_and_frames_out_of_range_are_refused() {
        let good = InterfaceOptions::new("eth0");
        assert!(check(&good).is_ok());
        for (ring_size, frames) in [
            (0, 8192),
            (100, 8192),
            (32, 8192),
            (65536, 1 << 17),
            (4096, 4095),
            (64, FRAMES_MAX + 1),
        ] {
            let error = check(&InterfaceOptions { ring_size, frames, ..good.clone() }).unwrap_err();
            assert!(matches!(error, Error::Option { .. }), "{error}");
        }
    }

    #[test]
    fn the_frame_follows_the_mtu() {
        let frame_size = |driver: &str, mtu| {
            frame_size(&Nic {
                name: "eth0".to_owned(),
                index: 1,
                mac: [0; 6],
                mtu,
                driver: driver.to_owned(),
                channels: COMBINED,
            })
        };
        for (mtu, size) in [(1500, 2048), (1770, 2048), (1771, 4096), (3818, 4096)] {
            assert_eq!(frame_size("mlx5_core", mtu).unwrap(), size, "mtu {mtu}");
        }
        let error = frame_size("mlx5_core", 9000).unwrap_err().to_string();
        assert!(error.contains("`ip link set dev eth0 mtu 3818`"), "{error}");
        assert!(frame_size("", 3819).is_err() && frame_size("", u32::MAX).is_err());
        // Found with QEMU's 82576: of frames of 2048 bytes it used 1024.
        for driver in WHOLE_KIB_DRIVERS {
            for (mtu, size) in [(1002, 2048), (1003, 4096), (1500, 4096), (3050, 4096)] {
                assert_eq!(frame_size(driver, mtu).unwrap(), size, "{driver}, mtu {mtu}");
            }
            let error = frame_size(driver, 3051).unwrap_err().to_string();
            assert!(error.contains("`ip link set dev eth0 mtu 3050`"), "{error}");
        }
    }
}
