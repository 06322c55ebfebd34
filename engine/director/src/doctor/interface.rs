//! A served interface: whether it is there and up, what its driver can do, and what it does to
//! packets before they come to the XDP program.

use super::finding::{Area, Finding, Read};
use super::nic::{Features, NicFacts};
use super::program::{self, Program};
use crate::config::Mode;
use crate::views::InterfaceView;
use xsk::{Error, Survey};

/// Drivers that could do AF_XDP with zero-copy before the kernel said so itself (6.3), by the names
/// that ethtool has for them. virtio_net, igb, gve, tsnep and idpf learnt it later.
const ZERO_COPY_DRIVERS: [&str; 9] =
    ["i40e", "ixgbe", "ice", "mlx5_core", "igc", "nfp", "st_gmac", "st_xgmac", "fsl_dpaa2_eth"];
/// NICs to look for, by their drivers.
const ZERO_COPY_NICS: &str = "i40e, ice, ixgbe, igb, igc, mlx5_core";
/// The largest MTU that the native XDP of most drivers takes on pages of 4 KiB: a page without
/// headroom and what the kernel keeps at its end.
const NATIVE_MTU: u32 = 3498;
/// A receive ring that holds fewer packets than this overflows while a worker is interrupted.
const RING_SMALL: u32 = 512;
const LRO: &str = "rx-lro";
const GRO_HW: &str = "rx-gro-hw";
const RX_VLAN: &str = "rx-vlan-hw-parse";

/// A link, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkState {
    /// Switched on.
    pub up: bool,
    /// Switched on, and there is somebody at the other end.
    pub carrier: bool,
    /// The bond or bridge that it is a port of.
    pub port_of: Option<String>,
}

/// What was read of a served interface.
#[derive(Debug)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// How its sockets are to be bound.
    pub mode: Mode,
    /// What a start would find.
    pub survey: Result<Survey, Error>,
    /// The interfaces that there are.
    pub there: Vec<String>,
    /// Its link, if it exists.
    pub link: Option<LinkState>,
    /// What the kernel says of the NIC, if it exists.
    pub nic: Option<NicFacts>,
    /// The XDP program on it.
    pub program: Option<Program>,
    /// VLAN devices on top of it.
    pub vlans: Vec<String>,
    /// A director runs.
    pub running: bool,
    /// What it says of this interface.
    pub view: Option<InterfaceView>,
}

impl InterfaceFacts {
    fn attached(&self) -> Option<&str> {
        self.view.as_ref()?.xdp.as_deref()
    }
}

/// What follows from it.
pub fn findings(facts: &InterfaceFacts) -> Vec<Finding> {
    let survey = match &facts.survey {
        Ok(survey) => survey,
        Err(error) => return vec![unusable(facts, error)],
    };
    let mut findings: Vec<Finding> =
        facts.link.iter().map(|link| state(&facts.name, link)).collect();
    let program = facts.program.as_ref();
    let attached = facts.attached().is_some();
    findings.push(program::finding(&facts.name, program, facts.running, attached));
    if let Some(nic) = &facts.nic {
        findings.push(native(facts, survey, nic));
        findings.push(mode(facts, survey, nic));
        findings.extend(merging(facts, &nic.features));
        findings.push(vlan_stripping(facts, &nic.features));
        findings.extend(ring(&facts.name, nic));
    }
    findings.push(mtu(facts, survey));
    findings
}

fn unusable(facts: &InterfaceFacts, error: &Error) -> Finding {
    let finding = Finding::problem(Area::Interface, &facts.name, error.to_string());
    match error {
        Error::NoInterface { .. } | Error::Unsuitable { .. } => finding.mended_by(format!(
            "set name in [[interface]] of the config to one of {}",
            facts.there.join(", ")
        )),
        _ => finding,
    }
}

fn state(name: &str, link: &LinkState) -> Finding {
    if !link.up {
        let sentence = "it is down: no packet comes or goes";
        return Finding::problem(Area::Interface, name, sentence)
            .mended_by(format!("ip link set dev {name} up"));
    }
    if !link.carrier {
        let sentence = "it has no carrier: the cable, or the other end, is down";
        return Finding::problem(Area::Interface, name, sentence)
            .mended_by("look at the cable and the switch's port");
    }
    if let Some(port_of) = &link.port_of {
        let sentence = format!("it is a port of {port_of}, whose traffic it would take away");
        return Finding::warning(Area::Interface, name, sentence)
            .mended_by(format!("ip link set dev {name} nomaster"));
    }
    Finding::ok(Area::Interface, name, "it is up and has a carrier")
}

fn native(facts: &InterfaceFacts, survey: &Survey, nic: &NicFacts) -> Finding {
    let name = facts.name.as_str();
    let driver = survey.driver.as_str();
    let generic = |sentence: String| {
        Finding::warning(Area::Interface, name, sentence)
            .mended_by("a NIC whose driver has native XDP, or a newer kernel")
    };
    match (facts.attached(), &nic.xdp) {
        (Some("native"), _) => {
            let sentence = format!("the XDP program runs in its driver, {driver}");
            Finding::ok(Area::Interface, name, sentence)
        }
        (Some(_), _) => generic(format!(
            "its driver, {driver}, has refused the XDP program, which runs in the network stack: \
             slow, and copied twice"
        )),
        (None, Ok(xdp)) if xdp.native() => {
            let sentence = format!("its driver, {driver}, has native XDP");
            Finding::ok(Area::Interface, name, sentence)
        }
        (None, Ok(_)) => generic(format!(
            "its driver, {driver}, has no native XDP: the program will run in the network stack, \
             which is slow"
        )),
        (None, Err(why)) => {
            let what = format!("what its driver, {driver}, can do with XDP");
            Finding::unread(Area::Interface, name, &what, why)
        }
    }
}

/// What stands in the way of zero-copy, if anything.
fn obstacle(driver: &str, nic: &NicFacts) -> Option<String> {
    let can = match &nic.xdp {
        Ok(xdp) => xdp.zero_copy(),
        Err(_) => ZERO_COPY_DRIVERS.contains(&driver),
    };
    if !can {
        return Some(format!("its driver, {driver}, cannot do zero-copy"));
    }
    // The driver says that it can, and refuses each queue.
    let lacks = nic.access_platform == Some(false);
    lacks.then(|| {
        format!(
            "its device lacks VIRTIO_F_ACCESS_PLATFORM (QEMU's iommu_platform=on), without which \
             {driver} cannot do zero-copy"
        )
    })
}

/// What mode its queues have or will get.
fn mode(facts: &InterfaceFacts, survey: &Survey, nic: &NicFacts) -> Finding {
    let name = facts.name.as_str();
    let driver = survey.driver.as_str();
    let obstacle = obstacle(driver, nic);
    let queues = facts.view.iter().flat_map(|view| &view.queues);
    let modes: Vec<&str> = queues.filter_map(|queue| queue.mode.as_deref()).collect();
    if !modes.is_empty() {
        return mode_now(name, driver, facts.mode, obstacle, &modes);
    }
    match (facts.mode, obstacle) {
        (Mode::Copy, _) => {
            let sentence = "its queues will be in copy mode, as configured";
            Finding::ok(Area::Interface, name, sentence)
        }
        (_, None) => {
            let sentence =
                format!("its driver, {driver}, can do zero-copy, which will be asked for");
            Finding::ok(Area::Interface, name, sentence)
        }
        (Mode::Auto, Some(obstacle)) => {
            let sentence = format!("{obstacle}: every packet will be copied");
            Finding::warning(Area::Interface, name, sentence).mended_by(better())
        }
        (Mode::ZeroCopy, Some(obstacle)) => {
            let sentence =
                format!("{obstacle}, and the config wants nothing else: a start is refused");
            Finding::problem(Area::Interface, name, sentence)
                .mended_by("set mode = \"auto\" in [[interface]] of the config")
        }
    }
}

fn better() -> String {
    format!("a NIC of {ZERO_COPY_NICS} and others, or mode = \"copy\" if that will do")
}

fn mode_now(
    name: &str,
    driver: &str,
    wanted: Mode,
    obstacle: Option<String>,
    modes: &[&str],
) -> Finding {
    if modes.iter().all(|&mode| mode == xsk::Mode::ZeroCopy.name()) {
        let sentence = format!("its queues are in zero-copy mode ({driver})");
        return Finding::ok(Area::Interface, name, sentence);
    }
    if wanted == Mode::Copy {
        let sentence = "its queues are in copy mode, as configured";
        return Finding::ok(Area::Interface, name, sentence);
    }
    let (because, remedy) = match obstacle {
        Some(obstacle) => (format!("as {obstacle}"), better()),
        None => (
            format!("though its driver, {driver}, can do zero-copy"),
            "look in the log of the start why it was refused".to_owned(),
        ),
    };
    let sentence = format!("its queues are in copy mode, {because}: every packet is copied");
    Finding::warning(Area::Interface, name, sentence).mended_by(remedy)
}

/// Packets that the NIC has put together of several have no place in a frame. A driver that has the
/// program does not let them come, whatever it lists: it refuses one of both, or switches the other
/// off by itself, as virtio_net does (virtnet_clear_guest_offloads in drivers/net/virtio_net.c).
fn merging(facts: &InterfaceFacts, features: &Read<Features>) -> Vec<Finding> {
    let name = facts.name.as_str();
    if facts.attached() == Some("native") {
        let sentence = "its driver gives packets to the XDP program as they come, none merged";
        return vec![Finding::ok(Area::Interface, name, sentence)];
    }
    let features = match features {
        Ok(features) => features,
        Err(why) => return vec![Finding::unread(Area::Interface, name, "its features", why)],
    };
    let on: Vec<Finding> = [(LRO, "LRO", "lro"), (GRO_HW, "GRO in hardware", "rx-gro-hw")]
        .into_iter()
        .filter(|(feature, ..)| features.is_on(feature))
        .map(|(feature, text, switch)| {
            let sentence = format!(
                "{text} is on: the driver refuses native XDP, or packets come merged and too long"
            );
            let finding = Finding::warning(Area::Interface, name, sentence);
            match features.changeable.contains(feature) {
                true => finding.mended_by(format!("ethtool -K {name} {switch} off")),
                false => finding.mended_by("switch it off in the hypervisor or the firmware"),
            }
        })
        .collect();
    match on.is_empty() {
        true => vec![Finding::ok(Area::Interface, name, "LRO and GRO in hardware are off")],
        false => on,
    }
}

fn vlan_stripping(facts: &InterfaceFacts, features: &Read<Features>) -> Finding {
    let name = facts.name.as_str();
    let strips = match features {
        Ok(features) => features.is_on(RX_VLAN),
        Err(why) => return Finding::unread(Area::Interface, name, "VLAN stripping", why),
    };
    if facts.vlans.is_empty() {
        let sentence = "there are no VLANs on it";
        return Finding::ok(Area::Interface, name, sentence);
    }
    let vlans = facts.vlans.join(", ");
    if !strips {
        let sentence = format!("VLAN tags of {vlans} stay in the packets");
        return Finding::ok(Area::Interface, name, sentence);
    }
    let sentence = format!(
        "it strips VLAN tags before XDP sees them, so that packets of {vlans} look untagged and \
         leave untagged"
    );
    let finding = Finding::problem(Area::Interface, name, sentence);
    match features.as_ref().is_ok_and(|features| features.changeable.contains(RX_VLAN)) {
        true => finding.mended_by(format!("ethtool -K {name} rxvlan off")),
        false => finding.mended_by("another NIC: this one's driver does not switch it off"),
    }
}

fn mtu(facts: &InterfaceFacts, survey: &Survey) -> Finding {
    let name = facts.name.as_str();
    let (mtu, most) = (survey.mtu, survey.mtu_max);
    if let Err(error) = &survey.frame_size {
        let now = if facts.running { "" } else { "; a start is refused" };
        let sentence = format!(
            "its MTU of {mtu} is above {most}, beyond which a packet needs several frames{now}"
        );
        return match error {
            Error::Unsuitable { .. } => Finding::problem(Area::Interface, name, sentence)
                .mended_by(format!("ip link set dev {name} mtu {most}")),
            other => Finding::problem(Area::Interface, name, other.to_string()),
        };
    }
    if mtu > NATIVE_MTU && facts.attached() != Some("native") {
        let sentence = format!(
            "its MTU of {mtu} is above {NATIVE_MTU}, beyond which most drivers refuse native XDP"
        );
        return Finding::warning(Area::Interface, name, sentence)
            .mended_by(format!("ip link set dev {name} mtu {NATIVE_MTU}"));
    }
    Finding::ok(Area::Interface, name, format!("its MTU of {mtu} fits into a frame"))
}

/// Nothing where the driver has no ring of its own.
fn ring(name: &str, nic: &NicFacts) -> Option<Finding> {
    let ring = *nic.ring.as_ref().ok()?;
    if ring.size >= RING_SMALL.min(ring.max) {
        let sentence = format!("its receive rings hold {} packets each", ring.size);
        return Some(Finding::ok(Area::Interface, name, sentence));
    }
    let sentence = format!(
        "its receive rings hold {} packets of {} that they could: they overflow when a worker is \
         interrupted",
        ring.size, ring.max
    );
    let wanted = ring.max.min(4096);
    let finding = Finding::warning(Area::Interface, name, sentence);
    Some(finding.mended_by(format!("ethtool -G {name} rx {wanted}")))
}

#[cfg(test)]
#[path = "interface_tests.rs"]
mod tests;
