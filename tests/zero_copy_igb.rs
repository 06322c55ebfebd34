//! AF_XDP zero-copy in igb, the driver of a real NIC, Intel's 82576, which QEMU plays. It resets
//! the link when an XDP program comes, and spreads flows over its queues by itself.

mod common;

use common::guest_site::{GuestSite, Offered};
use guest::{Kernel, Machine, Nic};

#[test]
fn two_queues() {
    let mut site = GuestSite::boot(Machine::new(Kernel::Full618).nic(Nic::Igb));
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
