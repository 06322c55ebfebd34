//! Setups and teardowns on a machine that is only facts.

use super::*;
use crate::rs::facts::{Conf, Readiness};
use proptest::prelude::*;

const VIP: &str = "172.17.100.100";
const RECORD: &str = "/run/shunt/rs.1.json";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A machine that takes every step.
#[derive(Debug, Clone, PartialEq)]
struct World {
    facts: Facts,
    files: Files,
}

impl World {
    /// As machines come: lo, dummy0, and two NICs, the first of which has an address.
    fn new() -> World {
        let link = |index: u32, name: &str, answers: bool, own: &[(&str, u8)]| LinkFacts {
            index,
            name: name.to_owned(),
            mac: answers.then_some([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            up: true,
            answers,
            conf: Some(Conf::default()),
            ipv6_off: false,
            addresses: own.iter().map(|(address, prefix)| held(address, *prefix)).collect(),
        };
        let links = vec![
            link(1, "lo", false, &[("127.0.0.1", 8), ("::1", 128)]),
            link(2, "eth0", true, &[("172.17.100.1", 24), ("fd00::1", 64)]),
            link(3, "eth0.5", true, &[]),
            link(4, "dummy0", false, &[]),
        ];
        World { facts: Facts { links, all: Conf::default() }, files: Files::new() }
    }

    fn link(&mut self, name: &str) -> &mut LinkFacts {
        self.facts.links.iter_mut().find(|link| link.name == name).unwrap()
    }

    fn conf(&mut self, interface: &str) -> &mut Conf {
        if interface == ALL {
            return &mut self.facts.all;
        }
        self.link(interface).conf.as_mut().unwrap()
    }

    fn set(&mut self, interface: &str, key: Key, value: i32) {
        let conf = self.conf(interface);
        match key {
            Key::ArpIgnore => conf.arp_ignore = value,
            Key::ArpAnnounce => conf.arp_announce = value,
        }
    }

    fn take(&mut self, steps: &[Step]) {
        for step in steps {
            match step.clone() {
                Step::Sysctl { setting, from, to } => {
                    assert_eq!(self.facts.value(&setting), Some(from));
                    self.set(&setting.interface, setting.key, to);
                }
                Step::Address { address, interface, present, .. } => {
                    let addresses = &mut self.link(&interface).addresses;
                    let before = addresses.len();
                    addresses
                        .retain(|held| (held.address, held.prefix) != (address, width(address)));
                    assert_eq!(before == addresses.len(), present);
                    if present {
                        addresses.push(Held {
                            by_shunt: true,
                            ..held(&address.to_string(), width(address))
                        });
                    }
                }
                Step::File { path, from, to } => {
                    assert_eq!(self.files.remove(&path), from);
                    self.files.extend(to.map(|to| (path, to)));
                }
            }
        }
    }

    fn kept(&self) -> Kept {
        let read = |path: &Path| match self.files.get(path) {
            Some(Content::Text(text)) => Some(Record::parse(path, text).unwrap()),
            _ => None,
        };
        let root = PathBuf::from("/image");
        Kept {
            path: RECORD.into(),
            record: read(Path::new(RECORD)),
            persisted: read(&persist::kept_path(&root)),
            root,
            files: self.files.clone(),
        }
    }

    fn setup(&mut self, vips: &[&str], interface: &str, persist: bool) -> Report {
        let request = request(vips, interface, persist);
        let plan = setup(&request, &self.facts, &self.kept()).unwrap();
        self.take(&plan.steps);
        plan.report
    }

    fn teardown(&mut self, vips: &[&str]) -> Report {
        let vips: Vec<IpAddr> = vips.iter().map(|vip| ip(vip)).collect();
        let plan = teardown(&vips, &self.facts, &self.kept()).unwrap();
        self.take(&plan.steps);
        plan.report
    }

    fn refusal(&self, vips: &[&str], interface: &str) -> String {
        let request = request(vips, interface, false);
        setup(&request, &self.facts, &self.kept()).unwrap_err().join("\n")
    }

    /// After a boot: the addresses and settings are those of before, but for what systemd-sysctl
    /// has set; what is below /run is gone.
    fn reboot(&mut self, before: &World) {
        self.facts = before.facts.clone();
        self.files.remove(Path::new(RECORD));
        let Some(record) = self.kept().persisted else { return };
        for SysctlRecord { setting, value, .. } in record.sysctls {
            self.set(&setting.interface, setting.key, value);
        }
    }
}

fn held(address: &str, prefix: u8) -> Held {
    Held { address: ip(address), prefix, by_shunt: false, readiness: Readiness::Ready }
}

fn request(vips: &[&str], interface: &str, persist: bool) -> Request {
    Request {
        vips: vips.iter().map(|vip| ip(vip)).collect(),
        interface: interface.to_owned(),
        persist: persist.then(|| "/usr/bin/shunt".into()),
    }
}

fn states(report: &Report) -> Vec<VipState> {
    report.vips.iter().map(|line| line.state).collect()
}

#[test]
fn a_bare_machine_becomes_a_real_server_and_is_put_back() {
    let before = World::new();
    let mut world = before.clone();
    let report = world.setup(&[VIP], "lo", false);
    assert_eq!(
        report.to_string(),
        "net.ipv4.conf.all.arp_ignore: 0 -> 1\n\
         net.ipv4.conf.all.arp_announce: 0 -> 2\n\
         net.ipv4.conf.lo.arp_ignore: 0 -> 1\n\
         net.ipv4.conf.lo.arp_announce: 0 -> 2\n\
         172.17.100.100/32 on lo: added\n"
    );
    let after = world.clone();
    let again = world.setup(&[VIP], "lo", false);
    assert_eq!((again.changed, &world), (false, &after));
    assert!(again.to_string().contains("net.ipv4.conf.lo.arp_announce: already 2\n"));
    assert!(again.to_string().ends_with("lo: already there\nnothing had to be changed\n"));
    assert_eq!(states(&world.teardown(&[])), [VipState::Removed]);
    assert_eq!(world, before);
    assert!(!world.teardown(&[]).changed);
}

#[test]
fn nobody_answers_arp_for_a_vip_meanwhile() {
    let world = World::new();
    let request = request(&[VIP], "lo", false);
    let plan = setup(&request, &world.facts, &world.kept()).unwrap();
    let kinds: Vec<&str> = plan.steps.iter().map(kind).collect();
    assert_eq!(kinds, ["file", "sysctl", "sysctl", "sysctl", "sysctl", "address"]);
    let mut world = world;
    world.take(&plan.steps);
    let plan = teardown(&[], &world.facts, &world.kept()).unwrap();
    let kinds: Vec<&str> = plan.steps.iter().map(kind).collect();
    assert_eq!(kinds, ["address", "sysctl", "sysctl", "sysctl", "sysctl", "file"]);
}

fn kind(step: &Step) -> &'static str {
    match step {
        Step::Sysctl { .. } => "sysctl",
        Step::Address { .. } => "address",
        Step::File { .. } => "file",
    }
}

#[test]
fn stricter_values_stay_and_useless_ones_do_not() {
    let mut world = World::new();
    world.set(ALL, Key::ArpIgnore, 2);
    world.set("lo", Key::ArpIgnore, 3);
    world.set(ALL, Key::ArpAnnounce, 1);
    let before = world.clone();
    let said = world.setup(&[VIP], "lo", false).to_string();
    for line in ["all.arp_ignore: already 2", "lo.arp_ignore: 3 -> 1", "all.arp_announce: 1 -> 2"] {
        assert!(said.contains(line), "{said}");
    }
    world.teardown(&[]);
    assert_eq!(world, before);
}

#[test]
fn a_vip_that_was_there_before_stays() {
    let mut world = World::new();
    world.link("lo").addresses.push(held(VIP, 32));
    let before = world.clone();
    assert_eq!(states(&world.setup(&[VIP], "lo", false)), [VipState::Foreign]);
    assert_eq!(states(&world.setup(&[VIP], "lo", false)), [VipState::Foreign]);
    assert_eq!(states(&world.teardown(&[])), [VipState::Left]);
    assert_eq!(world, before);
    // One that carries shunt's mark, but that there is no record of, is shunt's.
    world.link("lo").addresses.pop();
    let bare = world.clone();
    world.setup(&[VIP], "lo", false);
    world.files.clear();
    assert_eq!(states(&world.setup(&[VIP], "lo", false)), [VipState::Already]);
    assert_eq!(states(&world.teardown(&[])), [VipState::Removed]);
    assert_eq!(world.facts.places(ip(VIP)).count(), bare.facts.places(ip(VIP)).count());
}

#[test]
fn the_settings_stay_as_long_as_a_vip_needs_them() {
    let before = World::new();
    let mut world = before.clone();
    world.setup(&[VIP, "fd00::100"], "lo", false);
    world.setup(&["172.17.100.101"], "dummy0", false);
    assert_eq!(states(&world.teardown(&[VIP])), [VipState::Removed]);
    let value = |world: &World, interface: &str| {
        world.facts.value(&Setting::new(interface, Key::ArpIgnore)).unwrap()
    };
    let values = |world: &World| ["all", "lo", "dummy0"].map(|name| value(world, name));
    assert_eq!(values(&world), [1, 0, 1]);
    world.teardown(&["172.17.100.101"]);
    assert_eq!(values(&world), [0, 0, 0]);
    assert_eq!(states(&world.teardown(&[])), [VipState::Removed]);
    assert_eq!(world, before);
}

#[test]
fn ipv6_needs_no_setting() {
    let mut world = World::new();
    let report = world.setup(&["fd00::100"], "lo", false);
    assert_eq!((report.sysctls.len(), states(&report)), (0, vec![VipState::Added]));
}

#[test]
fn what_others_have_changed_since_is_left_alone() {
    let mut world = World::new();
    world.setup(&[VIP], "lo", false);
    world.set(ALL, Key::ArpIgnore, 0);
    world.set("lo", Key::ArpIgnore, 2);
    world.link("lo").addresses.retain(|held| held.address != ip(VIP));
    let said = world.teardown(&[]).to_string();
    assert!(said.contains("all.arp_ignore: already 0"), "{said}");
    assert!(said.contains("lo.arp_ignore: left at 2"), "{said}");
    assert!(said.contains("lo: was gone already"), "{said}");
    assert!(world.files.is_empty());
}

/// A second setup keeps what serves and sets what does not; a teardown leaves what there would be
/// without shunt.
#[test]
fn what_others_have_set_between_two_setups_is_there_after_a_teardown() {
    for (persist, theirs, said) in [
        (false, 2, "all.arp_ignore: already 2"),
        (true, 2, "all.arp_ignore: already 2"),
        (false, 3, "all.arp_ignore: 3 -> 1"),
        (true, 0, "all.arp_ignore: 0 -> 1"),
    ] {
        let mut world = World::new();
        world.set(ALL, Key::ArpIgnore, 4);
        let mut without = world.clone();
        world.setup(&[VIP], "lo", persist);
        world.set(ALL, Key::ArpIgnore, theirs);
        without.set(ALL, Key::ArpIgnore, theirs);
        let report = world.setup(&[VIP], "lo", persist).to_string();
        assert!(report.contains(said), "{report}");
        assert!(!world.setup(&[VIP], "lo", persist).changed);
        world.teardown(&[]);
        assert_eq!(world, without, "{theirs}, persist {persist}");
    }
}

/// The unit has not run since the boot, and another VIP came and went: what somebody has set
/// meanwhile is still known.
#[test]
fn a_setting_that_only_a_boot_needs_keeps_its_record() {
    let mut world = World::new();
    world.setup(&[VIP], "lo", true);
    let before = World::new();
    world.reboot(&before);
    world.set(ALL, Key::ArpIgnore, 3);
    world.setup(&["172.17.100.101"], "lo", false);
    world.teardown(&["172.17.100.101"]);
    assert_eq!(world.facts.all.arp_ignore, 1);
    world.teardown(&[]);
    let mut without = before;
    without.set(ALL, Key::ArpIgnore, 3);
    assert_eq!(world, without);
}

#[test]
fn a_vip_that_somebody_has_removed_is_added_again() {
    let before = World::new();
    let mut world = before.clone();
    world.setup(&[VIP], "lo", false);
    world.link("lo").addresses.retain(|held| held.address != ip(VIP));
    assert_eq!(states(&world.setup(&[VIP], "lo", false)), [VipState::Added]);
    world.teardown(&[]);
    assert_eq!(world, before);
}

#[test]
fn a_record_of_another_time_is_not_followed() {
    let mut world = World::new();
    world.set(ALL, Key::ArpAnnounce, 1);
    world.setup(&[VIP], "lo", false);
    // The namespace is gone, and another has its number.
    let mut other = World::new();
    other.files = world.files.clone();
    let before = other.facts.clone();
    let report = other.teardown(&[]);
    assert_eq!((report.changed, &other.facts, other.files.len()), (false, &before, 0));
    other.files = world.files;
    other.setup(&[VIP], "lo", false);
    other.teardown(&[]);
    assert_eq!(other.facts, before);
}

#[test]
fn what_is_applied_at_boot_is_put_back_after_a_boot() {
    let mut before = World::new();
    before.set(ALL, Key::ArpAnnounce, 1);
    let mut world = before.clone();
    let report = world.setup(&[VIP], "lo", true);
    assert!(report.files.iter().all(|line| line.state == FileState::Written));
    assert_eq!(report.files.len(), 4);
    assert!(!world.setup(&[VIP], "lo", true).changed);
    world.setup(&["172.17.100.101"], "lo", true);
    for boots in 0..2 {
        world.reboot(&before);
        // What the unit runs.
        let report = world.setup(&[VIP, "172.17.100.101"], "lo", false);
        assert_eq!(states(&report), [VipState::Added; 2], "boot {boots}");
        assert!(report.sysctls.iter().all(|line| line.state == SysctlState::Already));
    }
    let report = world.teardown(&["172.17.100.101"]);
    let states: Vec<FileState> = report.files.iter().map(|line| line.state).collect();
    let (written, already) = (FileState::Written, FileState::Already);
    assert_eq!(states, [written, already, written, already]);
    let report = world.teardown(&[]);
    assert!(report.files.iter().all(|line| line.state == FileState::Removed));
    assert_eq!(world, before);
}

/// Killed at any point, whatever it was at: a teardown finds the way back.
#[test]
fn what_was_cut_short_is_put_back_by_a_teardown() {
    let mut before = World::new();
    before.set(ALL, Key::ArpAnnounce, 1);
    before.link("lo").addresses.push(held("172.17.100.101", 32));
    let request = request(&[VIP, "172.17.100.101", "fd00::100"], "lo", true);
    let plan = setup(&request, &before.facts, &before.kept()).unwrap();
    assert_eq!(plan.steps.len(), 1 + 4 + 2 + 4);
    for taken in 0..=plan.steps.len() {
        let mut world = before.clone();
        world.take(&plan.steps[..taken]);
        world.teardown(&[]);
        assert_eq!(world, before, "after {taken} steps of the setup");
    }
    let mut after = before.clone();
    after.take(&plan.steps);
    let plan = teardown(&[], &after.facts, &after.kept()).unwrap();
    for taken in 0..=plan.steps.len() {
        let mut world = after.clone();
        world.take(&plan.steps[..taken]);
        world.teardown(&[]);
        assert_eq!(world, before, "after {taken} steps of the teardown");
    }
}

#[test]
fn a_teardown_before_the_unit_has_run_puts_back_what_the_boot_has_set() {
    let before = World::new();
    let mut world = before.clone();
    world.setup(&[VIP], "lo", true);
    world.reboot(&before);
    let report = world.teardown(&[]);
    assert_eq!(states(&report), [VipState::Gone]);
    assert_eq!(world, before);
}

#[test]
fn what_cannot_work_is_refused_with_the_next_step() {
    let world = World::new();
    let mut off = world.clone();
    off.link("dummy0").up = false;
    off.link("dummy0").ipv6_off = true;
    off.link("lo").addresses.push(held(VIP, 24));
    off.link("eth0").addresses.push(held("172.17.100.101", 32));
    off.link("dummy0").addresses.push(held("172.17.100.102", 32));
    for (world, vip, interface, expected) in [
        (&world, "172.17.100.1", "lo", "172.17.100.1 is this machine's own address on eth0"),
        (&world, "fd00::1", "lo", "`ip address del fd00::1/64 dev eth0` and repeat"),
        (&world, VIP, "dummy9", "`ip link add dummy9 type dummy && ip link set dummy9 up`"),
        (&world, VIP, "eth0.5", "eth0.5 answers ARP for its addresses"),
        (&off, VIP, "dummy0", "`ip link set dummy0 up`"),
        (&off, "fd00::2", "dummy0", "`sysctl -w net.ipv6.conf.dummy0.disable_ipv6=0`"),
        (&off, VIP, "lo", "`ip address del 172.17.100.100/24 dev lo`"),
        (&off, "172.17.100.101", "lo", "`ip address del 172.17.100.101/32 dev eth0` and repeat"),
        (&off, "172.17.100.102", "lo", "repeat with --interface dummy0"),
    ] {
        let said = world.refusal(&[vip], interface);
        assert!(said.contains(expected), "{vip} on {interface}: {said}");
    }
}

#[test]
fn an_interface_that_defeats_the_settings_is_named() {
    for (key, value, defeats) in [
        (Key::ArpIgnore, 3, true),
        (Key::ArpIgnore, 7, true),
        (Key::ArpIgnore, 9, true),
        (Key::ArpAnnounce, 3, true),
        (Key::ArpIgnore, -1, false),
        (Key::ArpIgnore, 2, false),
        // Answers nothing at all: the VIP is silent.
        (Key::ArpIgnore, 8, false),
        (Key::ArpAnnounce, 1, false),
    ] {
        let mut world = World::new();
        world.set("eth0.5", key, value);
        let request = request(&[VIP], "lo", false);
        let refused = setup(&request, &world.facts, &world.kept()).err();
        assert_eq!(refused.is_some(), defeats, "{key:?} {value}: {refused:?}");
        let Some(said) = refused else { continue };
        let name = key.name();
        let remedy = format!("`sysctl -w net.ipv4.conf.eth0/5.{name}={}`", key.wanted());
        assert!(said[0].contains(&remedy) && said[0].contains(&format!("({value})")), "{said:?}");
        // An IPv6 VIP does not care.
        world.setup(&["fd00::100"], "lo", false);
    }
}

#[test]
fn a_teardown_leaves_what_is_not_its_own() {
    let mut world = World::new();
    world.link("lo").addresses.push(held(VIP, 32));
    let refused = teardown(&[ip(VIP)], &world.facts, &world.kept()).unwrap_err();
    assert!(refused[0].contains("`ip address del 172.17.100.100/32 dev lo`"), "{refused:?}");
    assert_eq!(states(&world.teardown(&["172.17.100.101"])), [VipState::Unknown]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_was_there_is_there_again(
        all in (-1..10i32, -1..4i32),
        lo in (-1..10i32, -1..4i32),
        present in 0..4u8,
        acts in prop::collection::vec((0..5u8, 0..2usize, any::<bool>(), any::<bool>()), 1..8),
    ) {
        // What others may set: never what shunt sets, which could not be told from it.
        const THEIRS: [(Key, [i32; 2]); 2] = [(Key::ArpIgnore, [0, 2]), (Key::ArpAnnounce, [0, 1])];
        const VIPS: [&str; 2] = [VIP, "172.17.100.101"];
        let mut world = World::new();
        for (interface, (ignore, announce)) in [(ALL, all), ("lo", lo)] {
            world.set(interface, Key::ArpIgnore, ignore);
            world.set(interface, Key::ArpAnnounce, announce);
        }
        for (bit, vip) in VIPS.iter().enumerate() {
            if present >> bit & 1 == 1 {
                world.link("lo").addresses.push(held(vip, 32));
            }
        }
        let mut without = world.clone();
        // What others set is gone after a boot, but what shunt has found by then is not.
        let mut meddled = false;
        for (act, vip, persist, both) in acts {
            let vips = if both { &VIPS[..] } else { &VIPS[vip..=vip] };
            match act {
                0 | 1 => drop(world.setup(vips, "lo", persist)),
                2 if !meddled => world.reboot(&without),
                2 | 3 => {
                    let (key, values) = THEIRS[vip];
                    let value = values[usize::from(both)];
                    let interface = if persist { ALL } else { "lo" };
                    world.set(interface, key, value);
                    without.set(interface, key, value);
                    meddled = true;
                }
                _ => {
                    // What was never set up, but is there, is refused.
                    let vips: Vec<IpAddr> = vips.iter().map(|vip| ip(vip)).collect();
                    if let Ok(plan) = teardown(&vips, &world.facts, &world.kept()) {
                        world.take(&plan.steps);
                    }
                }
            }
        }
        world.teardown(&[]);
        // In no particular order: an address that is added comes last.
        prop_assert_eq!(world, without);
    }
}
