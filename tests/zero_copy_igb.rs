//! AF_XDP zero-copy in igb, the driver of a real NIC, Intel's 82576, which QEMU plays. It resets
//! the link when an XDP program comes, and spreads flows over its queues by itself.

mod common;

use common::diagnosis::{Diagnosis, remedy};
use common::guest_site::{GuestSite, Offered};
use director::doctor::{Area, State};
use guest::{Kernel, Machine, Nic};

#[test]
fn two_queues() {
    let machine = Machine::new(Kernel::Full618).nic(Nic::Igb).module("8021q");
    let mut site = GuestSite::boot(machine.program("/usr/sbin/ethtool", "/bin/ethtool"));
    the_doctor_knows_the_nic(&mut site);
    let shunt = site.start("mode = \"zero-copy\"");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("zero-copy", &offered);
    site.lose_and_find_the_link(&shunt, &mut offered);
    site.check_counts("zero-copy", &offered);
    site.stop(&shunt);

    let shunt = site.start("mode = \"copy\"");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("copy", &offered);
    site.stop(&shunt);

    let shunt = site.start("mode = \"auto\"");
    let mut offered = Offered::default();
    site.exchange_flows(&mut offered);
    site.check_counts("zero-copy", &offered);
    site.guest.run("rmmod igb").unwrap();
    site.ends_because_its_interface_is_gone(&shunt);
}

/// What `shunt doctor` says of a NIC that has queues, rings, interrupts and a hash of its own, and
/// what becomes of that when its remedies are typed.
fn the_doctor_knows_the_nic(site: &mut GuestSite) {
    let has = |diagnosis: &Diagnosis, area, state, part: &str| {
        let found = diagnosis.find(area, part);
        assert_eq!(found.map(|found| found.state), Some(state), "{part}: {diagnosis:#?}");
    };
    site.guest.run("ip link add link eth0 name eth0.5 type vlan id 5").unwrap();
    site.guest.run("ethtool -X eth0 weight 1 0").unwrap();
    let before = site.doctor("mode = \"zero-copy\"");
    has(&before, Area::Interface, State::Ok, "its driver, igb, can do zero-copy");
    has(&before, Area::Queues, State::Ok, "RSS counts addresses and ports of tcp4 in");
    // Both cores have a worker.
    has(&before, Area::Cores, State::Warning, "(eth0-rx-0) on core ");
    let ills = [
        (Area::Interface, State::Problem, "it strips VLAN tags"),
        (Area::Queues, State::Warning, "RSS sends nothing to queue 1"),
        (Area::Interface, State::Warning, "its receive rings hold 256 packets of 4096"),
    ];
    for (area, state, part) in ills {
        has(&before, area, state, part);
        let command = remedy(before.find(area, part).unwrap());
        site.guest.run(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    let mended = site.doctor("mode = \"zero-copy\"");
    has(&mended, Area::Interface, State::Ok, "VLAN tags of eth0.5 stay in the packets");
    has(&mended, Area::Queues, State::Ok, "RSS spreads over 2 queues");
    has(&mended, Area::Interface, State::Ok, "its receive rings hold 4096 packets each");
    site.guest.run("ip link del eth0.5").unwrap();
    site.guest.run("ethtool -G eth0 rx 256").unwrap();
}
