//! AF_XDP zero-copy in virtio_net, and what becomes of `shunt` where there is none.
//!
//! `shunt` runs in a guest; the test is the network at the other end of its NIC. A test is what is
//! done with one guest, because the boot is most of its time.

mod common;

use common::diagnosis::remedy;
use common::guest_site::{GuestSite, Offered, PATIENCE};
use director::doctor::{Area, State};
use guest::{Kernel, Machine, Nic};

#[test]
fn one_queue() {
    let mut site = GuestSite::boot(Machine::new(Kernel::Cloud618).nic(Nic::virtio()));
    the_doctor_says(&mut site, "auto", State::Ok, "its driver, virtio_net, can do zero-copy");
    let shunt = site.start("mode = \"auto\"");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("zero-copy", &offered);
    the_doctor_says(&mut site, "auto", State::Ok, "its queues are in zero-copy mode (virtio_net)");
    site.lose_and_find_the_link(&shunt, &mut offered);
    site.check_counts("zero-copy", &offered);
    site.stop(&shunt);

    let shunt = site.start("mode = \"copy\"");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("copy", &offered);
    let driver = "/sys/bus/virtio/drivers/virtio_net";
    site.guest.run(&format!("echo $(ls {driver} | grep virtio) >{driver}/unbind")).unwrap();
    site.ends_because_its_interface_is_gone(&shunt);
}

#[test]
fn two_queues() {
    let nic = Nic::Virtio { queues: 2, iommu_platform: true };
    let mut site = GuestSite::boot(Machine::new(Kernel::Cloud618).nic(nic));
    let shunt = site.start("mode = \"zero-copy\"");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("zero-copy", &offered);
    // The driver still lists what it has switched off, and would refuse to switch it.
    the_doctor_says(&mut site, "zero-copy", State::Ok, "as they come, none merged");
    site.lose_and_find_the_link(&shunt, &mut offered);
    site.check_counts("zero-copy", &offered);
    // The driver goes as a whole, with packets under way.
    site.send_and_leave();
    site.guest.run("rmmod virtio_net").unwrap();
    site.ends_because_its_interface_is_gone(&shunt);
}

#[test]
fn a_device_with_queues_to_spare() {
    // One core, one queue in use: attached, the driver would use the second as well.
    let nic = Nic::Virtio { queues: 2, iommu_platform: true };
    let mut site = GuestSite::boot(Machine::new(Kernel::Cloud618).cores(1).nic(nic));
    let diagnosis = site.doctor("mode = \"zero-copy\"");
    let spare = diagnosis.problem(Area::Queues, "eth0", "it has 1 of 2 queues in use");
    assert_eq!(remedy(spare), "ethtool -L eth0 combined 2");
    let refused = site.begin("mode = \"zero-copy\"");
    let status = site.guest.wait(&refused, PATIENCE).unwrap();
    let output = site.guest.output(&refused).unwrap();
    assert_eq!(status, 1, "{output}");
    for part in ["eth0: its driver uses 2 queues instead of 1", "`ethtool -L eth0 combined 2`"] {
        assert!(output.contains(part), "no {part:?} in {output}");
    }
    assert_eq!(site.guest.run("ls /sys/class/net/eth0/queues | grep rx").unwrap(), "rx-0\n");
}

#[test]
fn a_device_without_iommu_platform() {
    let nic = Nic::Virtio { queues: 1, iommu_platform: false };
    without_zero_copy(Machine::new(Kernel::Cloud618).nic(nic), "iommu_platform=on");
}

#[test]
fn a_kernel_without_zero_copy() {
    without_zero_copy(Machine::new(Kernel::Cloud612).nic(Nic::virtio()), "not supported");
}

fn without_zero_copy(machine: Machine, reason: &str) {
    let mut site = GuestSite::boot(machine);
    the_doctor_says(&mut site, "zero-copy", State::Problem, "the config wants nothing else");
    the_doctor_says(&mut site, "auto", State::Warning, "every packet will be copied");
    let refused = site.begin("mode = \"zero-copy\"");
    let status = site.guest.wait(&refused, PATIENCE).unwrap();
    let output = site.guest.output(&refused).unwrap();
    assert_eq!(status, 1, "{output}");
    assert_eq!(output.lines().count(), 1, "{output}");
    for part in ["queue 0 of eth0: its driver, virtio_net, refuses zero-copy", reason, "\"auto\""] {
        assert!(output.contains(part), "no {part:?} in {output}");
    }

    let shunt = site.start("mode = \"auto\"");
    let output = site.guest.output(&shunt).unwrap();
    let said = "eth0 queue 0: copy mode, as its driver, virtio_net, refuses zero-copy (";
    assert!(output.contains(said) && output.contains(reason), "{output}");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("copy", &offered);
    site.stop(&shunt);
}

/// Checks what `shunt doctor` finds of the interface, with this mode in the config.
fn the_doctor_says(site: &mut GuestSite, mode: &str, state: State, part: &str) {
    let diagnosis = site.doctor(&format!("mode = \"{mode}\""));
    let found = diagnosis.find(Area::Interface, part);
    assert_eq!(found.map(|found| found.state), Some(state), "{diagnosis:#?}");
}
