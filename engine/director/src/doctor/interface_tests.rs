use super::super::finding::State;
use super::super::nic::{Ring, XdpFeatures};
use super::*;
use crate::views::QueueView;
use std::collections::BTreeSet;

fn survey() -> Survey {
    Survey {
        index: 2,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        mtu_max: 3818,
        driver: "mlx5_core".into(),
        rx_queues: 2,
        queues_max: 8,
        queues: Ok(vec![0, 1]),
        frame_size: Ok(2048),
    }
}

fn nic() -> NicFacts {
    NicFacts {
        xdp: Ok(XdpFeatures(0x6f)),
        features: Ok(Features::default()),
        rss: Ok(vec![0, 1]),
        ring: Ok(Ring { size: 1024, max: 8192 }),
        taken: Ok(vec![]),
        numa: Ok(Some(0)),
        interrupts: Ok(vec![]),
        access_platform: None,
    }
}

fn facts() -> InterfaceFacts {
    InterfaceFacts {
        name: "eth0".into(),
        mode: Mode::Auto,
        survey: Ok(survey()),
        there: vec!["lo".into(), "eth0".into()],
        link: Some(LinkState { up: true, carrier: true, port_of: None }),
        nic: Some(nic()),
        program: None,
        vlans: vec![],
        running: false,
        view: None,
    }
}

fn view(xdp: &str, modes: &[&str]) -> Option<InterfaceView> {
    let queue = |(queue, mode): (usize, &&str)| QueueView {
        queue: queue as u32,
        worker: queue,
        core: queue,
        mode: Some((*mode).to_owned()),
        huge_pages: Some(true),
    };
    Some(InterfaceView {
        name: "eth0".into(),
        xdp: Some(xdp.into()),
        queues: modes.iter().enumerate().map(queue).collect(),
    })
}

fn with_features(on: &[&str], changeable: &[&str]) -> Read<Features> {
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    Ok(Features { active: set(on), changeable: set(changeable) })
}

#[test]
fn a_good_interface_is_ok() {
    for finding in findings(&facts()) {
        assert_eq!(finding.state, State::Ok, "{finding:?}");
    }
}

#[test]
fn an_interface_that_is_not_there_is_the_only_finding() {
    let name = "eth9".to_owned();
    let survey = Err(Error::NoInterface { name: name.clone() });
    let found = findings(&InterfaceFacts { name, survey, ..facts() });
    assert_eq!((found.len(), found[0].state), (1, State::Problem));
    assert!(found[0].remedy.as_ref().unwrap().contains("lo, eth0"), "{found:?}");
}

#[test]
fn a_link_without_power_or_cable_is_a_problem() {
    let link = |up, carrier, port_of: Option<&str>| {
        state("eth0", &LinkState { up, carrier, port_of: port_of.map(str::to_owned) })
    };
    assert_eq!(link(true, true, None).state, State::Ok);
    assert_eq!(link(false, false, None).remedy.as_deref(), Some("ip link set dev eth0 up"));
    assert_eq!(link(true, false, None).state, State::Problem);
    assert_eq!(link(true, true, Some("bond0")).state, State::Warning);
}

#[test]
fn native_xdp_is_what_the_director_says_else_what_the_driver_says() {
    let of = |view, xdp| {
        let nic = NicFacts { xdp, ..nic() };
        native(&InterfaceFacts { view, ..facts() }, &survey(), &nic).state
    };
    assert_eq!(of(None, Ok(XdpFeatures(3))), State::Ok);
    assert_eq!(of(None, Ok(XdpFeatures(0))), State::Warning);
    assert_eq!(of(None, Err("no".into())), State::Warning);
    assert_eq!(of(view("native", &[]), Err("no".into())), State::Ok);
    assert_eq!(of(view("generic", &[]), Ok(XdpFeatures(3))), State::Warning);
}

#[test]
fn the_mode_that_it_will_get_follows_from_driver_and_config() {
    let of = |wanted, xdp| {
        let nic = NicFacts { xdp, ..nic() };
        mode(&InterfaceFacts { mode: wanted, ..facts() }, &survey(), &nic).state
    };
    let (can, cannot) = (Ok(XdpFeatures(0xb)), Ok(XdpFeatures(3)));
    assert_eq!(of(Mode::Auto, can.clone()), State::Ok);
    assert_eq!(of(Mode::ZeroCopy, can), State::Ok);
    assert_eq!(of(Mode::Auto, cannot.clone()), State::Warning);
    assert_eq!(of(Mode::Copy, cannot.clone()), State::Ok);
    assert_eq!(of(Mode::ZeroCopy, cannot), State::Problem);
    let of_virtio = |wanted, access_platform| {
        let nic = NicFacts { access_platform, ..nic() };
        mode(&InterfaceFacts { mode: wanted, ..facts() }, &survey(), &nic)
    };
    assert_eq!(of_virtio(Mode::ZeroCopy, Some(true)).state, State::Ok);
    let lacks = of_virtio(Mode::ZeroCopy, Some(false));
    assert_eq!(lacks.state, State::Problem);
    assert!(lacks.sentence.contains("iommu_platform=on"), "{lacks:?}");
    assert_eq!(of_virtio(Mode::Auto, Some(false)).state, State::Warning);
    // A kernel before 6.3 does not say. The driver is a known one, or learnt it only later.
    assert_eq!(of(Mode::ZeroCopy, Err("no".into())), State::Ok);
    let nic = NicFacts { xdp: Err("no".into()), access_platform: Some(true), ..nic() };
    let virtio = Survey { driver: "virtio_net".into(), ..survey() };
    let old = mode(&InterfaceFacts { mode: Mode::ZeroCopy, ..facts() }, &virtio, &nic);
    assert_eq!(old.state, State::Problem);
}

#[test]
fn the_mode_that_it_has_is_the_directors_word() {
    let of = |wanted, modes: &[&str]| {
        let facts = InterfaceFacts { mode: wanted, view: view("native", modes), ..facts() };
        mode(&facts, &survey(), &nic())
    };
    assert_eq!(of(Mode::Auto, &["zero-copy", "zero-copy"]).state, State::Ok);
    assert_eq!(of(Mode::Copy, &["copy"]).state, State::Ok);
    let refused = of(Mode::Auto, &["zero-copy", "copy"]);
    assert_eq!(refused.state, State::Warning);
    assert!(refused.sentence.contains("can do zero-copy"), "{refused:?}");
}

#[test]
fn merged_packets_are_named_with_what_switches_them_off() {
    let of = |features| merging(&facts(), &features);
    assert_eq!(of(with_features(&[], &[]))[0].state, State::Ok);
    let on = of(with_features(&[LRO, GRO_HW], &[LRO]));
    assert_eq!((on.len(), on[0].state), (2, State::Warning));
    assert_eq!(on[0].remedy.as_deref(), Some("ethtool -K eth0 lro off"));
    assert!(on[1].remedy.as_ref().unwrap().contains("hypervisor"));
    assert_eq!(of(Err("no".into()))[0].state, State::Warning);
    // virtio_net lists what it has switched off for the program, and refuses to switch it then.
    let running = |xdp| {
        let facts = InterfaceFacts { view: view(xdp, &[]), ..facts() };
        merging(&facts, &with_features(&[GRO_HW], &[GRO_HW])).remove(0).state
    };
    assert_eq!((running("native"), running("generic")), (State::Ok, State::Warning));
}

#[test]
fn tags_are_stripped_only_where_there_are_any() {
    let of = |vlans: &[&str], features| {
        let vlans = vlans.iter().map(|&vlan| vlan.to_owned()).collect();
        vlan_stripping(&InterfaceFacts { vlans, ..facts() }, &features)
    };
    assert_eq!(of(&[], with_features(&[RX_VLAN], &[])).state, State::Ok);
    assert_eq!(of(&["eth0.5"], with_features(&[], &[])).state, State::Ok);
    let fixed = of(&["eth0.5"], with_features(&[RX_VLAN], &[]));
    assert!(fixed.remedy.unwrap().starts_with("another NIC"));
    let stripped = of(&["eth0.5"], with_features(&[RX_VLAN], &[RX_VLAN]));
    assert_eq!(stripped.state, State::Problem);
    assert_eq!(stripped.remedy.as_deref(), Some("ethtool -K eth0 rxvlan off"));
    assert_eq!(of(&[], Err("no".into())).state, State::Warning);
}

#[test]
fn an_mtu_beyond_a_frame_is_a_problem_and_beyond_most_drivers_a_warning() {
    let of = |size, frame_size, view| {
        let survey = Survey { mtu: size, frame_size, ..survey() };
        mtu(&InterfaceFacts { view, ..facts() }, &survey)
    };
    assert_eq!(of(1500, Ok(2048), None).state, State::Ok);
    assert_eq!(of(3600, Ok(4096), None).state, State::Warning);
    assert_eq!(of(3600, Ok(4096), view("native", &[])).state, State::Ok);
    let refusal = Error::Unsuitable { interface: "eth0".into(), reason: "too large".into() };
    let large = of(9000, Err(refusal), None);
    assert_eq!(large.state, State::Problem);
    assert_eq!(large.remedy.as_deref(), Some("ip link set dev eth0 mtu 3818"));
}

#[test]
fn a_ring_is_as_large_as_it_can_be_or_large_enough() {
    let of = |ring| super::ring("eth0", &NicFacts { ring, ..nic() }).map(|finding| finding.state);
    assert_eq!(of(Ok(Ring { size: 1024, max: 8192 })), Some(State::Ok));
    assert_eq!(of(Ok(Ring { size: 256, max: 256 })), Some(State::Ok));
    assert_eq!(of(Ok(Ring { size: 256, max: 4096 })), Some(State::Warning));
    assert_eq!(of(Err("no".into())), None);
}
