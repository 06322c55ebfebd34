use super::*;

#[path = "vips_link_tests.rs"]
mod link;

const LINK: u32 = 2;
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const RS: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn vip() -> IpAddr {
    [172, 17, 100, 100].into()
}

fn vip6() -> IpAddr {
    "fd00::100".parse().unwrap()
}

/// eth0 (2) is served, and eth0.5 (3) on it; eth1 (4) is not.
fn ground() -> Ground {
    let link = |index, name: &str, served| LinkSeen {
        index,
        name: name.into(),
        mac: Some([2, 0, 0, 0, 1, index as u8]),
        served,
        up: true,
        downs: 1,
    };
    let links = vec![link(2, "eth0", Some(0)), link(3, "eth0.5", Some(0)), link(4, "eth1", None)];
    Ground { links, addresses: vec![own(2, "172.17.100.3", 24), own(2, "fd00::3", 64)] }
}

fn own(link: u32, address: &str, prefix: u8) -> OwnAddress {
    OwnAddress { link, address: address.parse().unwrap(), prefix, by_shunt: false }
}

impl Ground {
    fn with(&self, vip: IpAddr, by_shunt: bool) -> Ground {
        let mut ground = self.clone();
        let prefix = if vip.is_ipv4() { 32 } else { 128 };
        ground.addresses.push(OwnAddress { link: LINK, address: vip, prefix, by_shunt });
        ground
    }

    fn down(&self) -> Ground {
        let mut ground = self.clone();
        ground.links[0].up = false;
        ground
    }
}

/// A director that manages its VIPs, or does not.
fn vips(manage: bool, take: bool, wanted: &[IpAddr]) -> Vips {
    let mut vips = Vips { manage, take, ..Vips::default() };
    vips.want(wanted.iter().copied());
    vips
}

impl Vips {
    fn see(&mut self, ground: &Ground, now: Millis) -> Vec<Act> {
        self.look(ground, |vip| format!("tcp:{vip}:80"), now);
        self.due(now)
    }

    /// Seen, asked, added: with the VIP on eth0 since 0.
    fn started() -> Vips {
        let mut vips = vips(true, false, &[vip()]);
        assert_eq!(vips.see(&ground(), 0), [Act::Ask(vip(), LINK)]);
        assert!(vips.asking());
        assert!(!vips.answered(vip(), &BTreeMap::new(), 0));
        assert_eq!(vips.due(0), [Act::Add(vip(), LINK)]);
        vips.added(vip(), LINK, Ok(()), 0);
        vips
    }
}

fn announcements(vips: &mut Vips, from: Millis, to: Millis) -> Vec<Millis> {
    (from..=to)
        .step_by(100)
        .filter(|&now| vips.due(now).iter().any(|act| matches!(act, Act::Announce(..))))
        .collect()
}

#[test]
fn a_vip_is_asked_for_added_and_announced() {
    let mut vips = Vips::started();
    let there = ground().with(vip(), true);
    assert_eq!(vips.held(vip()), Held::Absent);
    assert_eq!(vips.see(&there, 0), [Act::Probe(vip(), LINK), Act::Announce(vip(), LINK)]);
    assert_eq!((vips.held(vip()), vips.interface(vip())), (Held::Shunt, Some("eth0")));
    let at = announcements(&mut vips, 100, 130_000);
    assert_eq!(at, [1_000, 2_000, 3_000, 4_000, 64_000, 124_000]);
    assert_eq!(vips.announcements(vip()), 7);
    assert_eq!(vips.own(&there), [(vip(), LINK)]);
}

#[test]
fn it_is_asked_every_five_seconds_who_else_has_it() {
    let mut vips = Vips::started();
    vips.see(&ground().with(vip(), true), 0);
    let probe = Act::Probe(vip(), LINK);
    let at: Vec<Millis> =
        (100..=15_000).step_by(100).filter(|&now| vips.due(now).contains(&probe)).collect();
    assert_eq!(at, [5_000, 10_000, 15_000]);
}

#[test]
fn there_is_rest_until_something_is_due() {
    let mut vips = Vips::started();
    vips.see(&ground().with(vip(), true), 0);
    assert_eq!(vips.rest(100), 900, "the second announcement");
    announcements(&mut vips, 100, 4_000);
    assert_eq!(vips.rest(4_000), 1_000, "the next question");
    vips.due(5_000);
    assert_eq!(vips.rest(5_000), 5_000);
    vips.claimed(LINK, vip(), RS, Whose::Unknown, 5_100);
    assert_eq!(vips.rest(5_100), 0, "it is answered at once");
}

#[test]
fn a_kernel_that_keeps_no_mark_has_shunts_vip_all_the_same() {
    let mut vips = Vips::started();
    let there = ground().with(vip(), false);
    vips.see(&there, 0);
    assert_eq!(vips.held(vip()), Held::Shunt);
    assert_eq!(vips.own(&there), [(vip(), LINK)]);
}

#[test]
fn what_other_hands_put_there_is_left_to_them_for_ever() {
    let mut vips = vips(true, false, &[vip()]);
    let there = ground().with(vip(), false);
    let said =
        Act::Say(format!("VIP {} is on eth0 by other hands: shunt leaves it to them", vip()));
    assert_eq!(vips.see(&there, 0), [said.clone(), Act::Probe(vip(), LINK)]);
    assert!(announcements(&mut vips, 0, 100_000).is_empty());
    assert_eq!(vips.own(&there), []);
    // keepalived makes another director the master, and this one again.
    let [Act::Warn(warning)] = &vips.see(&ground(), 100_000)[..] else { panic!() };
    let expected = format!("VIP {0} of tcp:{0}:80 is not on eth0, so nobody sends", vip());
    assert!(warning.starts_with(&expected), "{warning}");
    assert_eq!(vips.held(vip()), Held::Absent);
    for now in (100_000..200_000).step_by(1_000) {
        assert_eq!(vips.see(&ground(), now), []);
    }
    assert_eq!(vips.see(&there, 200_000), [said, Act::Probe(vip(), LINK)]);
}

#[test]
fn on_a_link_that_is_not_served_nothing_is_said() {
    let mut vips = vips(true, false, &[vip()]);
    let mut there = ground();
    there.addresses.push(own(4, "172.17.100.100", 32));
    let acts = vips.see(&there, 0);
    assert!(matches!(acts[..], [Act::Say(_)]), "{acts:?}");
    assert_eq!((vips.held(vip()), vips.interface(vip())), (Held::Other, Some("eth1")));
    assert!(vips.due(100_000).is_empty());
}

#[test]
fn without_managing_it_waits() {
    let mut vips = vips(false, false, &[vip()]);
    let [Act::Say(said)] = &vips.see(&ground(), 0)[..] else { panic!() };
    assert!(said.contains("shunt waits for it"), "{said}");
    assert!(!vips.asking(), "nobody waits for an answer");
    assert_eq!(vips.rest(0), Millis::MAX);
    // A mark means nothing to one who does not manage.
    let there = ground().with(vip(), true);
    let acts = vips.see(&there, 1_000);
    let now_there = Act::Say(format!("VIP {} is there now, on eth0", vip()));
    assert_eq!(acts, [now_there, Act::Probe(vip(), LINK)]);
    assert_eq!(vips.held(vip()), Held::Other);
    assert_eq!(vips.own(&there), []);
}

#[test]
fn a_vip_that_another_machine_has_is_left_to_it_until_it_is_free() {
    let mut vips = vips(true, false, &[vip()]);
    vips.see(&ground(), 0);
    let by = BTreeMap::from([(RS, Some([172, 17, 100, 1].into()))]);
    assert!(vips.answered(vip(), &by, 0));
    let [Act::Warn(warning)] = &vips.due(0)[..] else { panic!() };
    for part in ["real server 172.17.100.1 (02:00:00:00:00:01) answers ARP for VIP", "rs setup"] {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(vips.due(4_900), []);
    assert_eq!(vips.due(5_000), [Act::Ask(vip(), LINK)]);
    assert!(vips.answered(vip(), &by, 5_500));
    assert_eq!(vips.due(5_500), [], "it is said once");
    assert_eq!(vips.due(10_500), [Act::Ask(vip(), LINK)]);
    assert!(!vips.answered(vip(), &BTreeMap::new(), 11_000));
    let free = Act::Say(format!("nobody else has VIP {} any more", vip()));
    assert_eq!(vips.due(11_000), [free, Act::Add(vip(), LINK)]);
}

#[test]
fn a_vip_may_be_taken_all_the_same() {
    let mut vips = vips(true, true, &[vip()]);
    vips.see(&ground(), 0);
    assert!(!vips.answered(vip(), &BTreeMap::from([(OTHER, None)]), 0));
    let [Act::Warn(warning), Act::Add(..)] = &vips.due(0)[..] else { panic!() };
    assert!(warning.contains("02:00:00:00:00:09, which is no real server's,"), "{warning}");
}

#[test]
fn what_a_killed_director_left_is_shunts_own() {
    let mut vips = vips(true, false, &[vip()]);
    let there = ground().with(vip(), true).with([172, 17, 100, 101].into(), true);
    let acts = vips.see(&there, 0);
    // The other one is no service's any more. Nothing is announced before it was asked.
    let stale = Act::Remove([172, 17, 100, 101].into(), LINK);
    assert_eq!(acts, [stale, Act::Ask(vip(), LINK), Act::Probe(vip(), LINK)]);
    assert_eq!(vips.held(vip()), Held::Shunt);
    vips.answered(vip(), &BTreeMap::new(), 500);
    assert_eq!(vips.due(500), [Act::Announce(vip(), LINK)]);
}

#[test]
fn a_vip_that_somebody_deletes_comes_back() {
    let mut vips = Vips::started();
    let there = ground().with(vip(), true);
    vips.see(&there, 0);
    announcements(&mut vips, 100, 9_000);
    let acts = vips.see(&ground(), 9_100);
    let gone = format!("VIP {} is gone from eth0, and not by shunt: it is added again", vip());
    assert_eq!(acts, [Act::Warn(gone), Act::Add(vip(), LINK)]);
    vips.added(vip(), LINK, Ok(()), 9_100);
    let acts = vips.see(&there, 9_100);
    assert!(acts.contains(&Act::Announce(vip(), LINK)), "{acts:?}");
    // Whoever goes on deleting it is answered once a second.
    let acts = vips.see(&ground(), 9_200);
    assert!(matches!(acts[..], [Act::Warn(_)]), "{acts:?}");
    assert_eq!(vips.see(&ground(), 10_000), []);
    assert_eq!(vips.see(&ground(), 10_100), [Act::Add(vip(), LINK)]);
}

#[test]
fn what_could_not_be_announced_is_announced_again() {
    let mut vips = Vips::started();
    vips.see(&ground().with(vip(), true), 0);
    vips.unannounced(vip(), 0);
    assert_eq!(vips.announcements(vip()), 0);
    announcements(&mut vips, 100, 4_000);
    vips.unannounced(vip(), 4_000);
    // All five again.
    let at = announcements(&mut vips, 4_100, 60_000);
    assert_eq!(at, [5_000, 6_000, 7_000, 8_000, 9_000]);
}

#[test]
fn a_claim_is_news_once_is_answered_and_ends() {
    let mut vips = Vips::started();
    vips.see(&ground().with(vip(), true), 0);
    announcements(&mut vips, 100, 9_000);
    let claimed =
        |vips: &mut Vips, link, vip, mac, now| vips.claimed(link, vip, mac, Whose::Unknown, now);
    assert!(claimed(&mut vips, LINK, vip(), RS, 10_000));
    assert!(!claimed(&mut vips, LINK, vip(), RS, 10_100));
    assert!(!claimed(&mut vips, 3, vip(), OTHER, 10_100), "on another link it is another's");
    assert!(!claimed(&mut vips, LINK, [172, 17, 100, 1].into(), RS, 10_100));
    assert_eq!(vips.claims(vip()).unwrap().standing().collect::<Vec<_>>(), [RS]);
    let acts = vips.due(10_100);
    assert!(matches!(&acts[0], Act::Warn(warning) if warning.contains("may go past this")));
    assert!(acts.contains(&Act::Announce(vip(), LINK)), "{acts:?}");
    // At most once a second, however often it is claimed.
    let mut at = Vec::new();
    for now in (10_200..15_000).step_by(100) {
        claimed(&mut vips, LINK, vip(), RS, now);
        if vips.due(now).contains(&Act::Announce(vip(), LINK)) {
            at.push(now);
        }
    }
    assert_eq!(at, [11_100, 12_100, 13_100, 14_100]);
    announcements(&mut vips, 15_000, 29_800);
    assert_eq!(vips.trouble(vip()).as_deref(), Some("VIP claimed by 02:00:00:00:00:01"));
    let ended = format!("02:00:00:00:00:01 no longer claims VIP {}", vip());
    assert_eq!(vips.due(29_900)[0], Act::Say(ended));
    assert_eq!(vips.trouble(vip()), None);
    assert!(claimed(&mut vips, LINK, vip(), RS, 40_000), "the next time is news again");
}

/// Whoever makes claims up must not keep a true one from being answered.
#[test]
fn every_claim_is_answered_also_those_that_are_not_named() {
    let mut vips = Vips::started();
    vips.see(&ground().with(vip(), true), 0);
    announcements(&mut vips, 100, 9_000);
    for last in 0..200 {
        vips.claimed(LINK, vip(), [2, 0, 0, 0, 2, last], Whose::Unknown, 10_000);
    }
    assert!(vips.due(10_000).contains(&Act::Announce(vip(), LINK)));
    vips.claimed(LINK, vip(), [2, 0, 0, 0, 3, 1], Whose::Unknown, 20_000);
    assert!(vips.due(20_000).contains(&Act::Announce(vip(), LINK)));
    assert_eq!(vips.claims(vip()).unwrap().unnamed(), 193);
}

#[test]
fn claims_while_another_director_has_the_vip_are_right() {
    let mut vips = vips(false, false, &[vip()]);
    vips.see(&ground(), 0);
    assert!(!vips.claimed(LINK, vip(), OTHER, Whose::Unknown, 0));
    // keepalived makes it the master, and then this one's neighbor.
    let there = ground().with(vip(), false);
    vips.see(&there, 1_000);
    assert!(vips.claimed(LINK, vip(), OTHER, Whose::Unknown, 2_000));
    assert!(matches!(vips.due(2_000)[..], [Act::Warn(_)]));
    assert!(matches!(vips.see(&ground(), 3_000)[..], [Act::Warn(_)]), "it was taken away");
    assert_eq!(vips.see(&ground(), 60_000), [], "and nothing of the claim");
}

#[test]
fn many_vips_are_announced_one_hundred_a_second() {
    let all: Vec<IpAddr> = (0..250).map(|last| [10, 0, 0, last].into()).collect();
    let mut vips = vips(true, false, &all);
    let mut there = ground();
    for &vip in &all {
        there = there.with(vip, true);
    }
    vips.look(&there, |_| String::new(), 0);
    for &vip in &all {
        vips.answered(vip, &BTreeMap::new(), 0);
    }
    let count = |acts: Vec<Act>| acts.iter().filter(|act| matches!(act, Act::Announce(..))).count();
    let mut announced = Vec::new();
    for now in (0..10_000).step_by(100) {
        announced.push(count(vips.due(now)));
        let second = announced.iter().rev().take(10).sum::<usize>();
        assert!(second <= 100, "{second} within a second at {now}");
    }
    assert!(all.iter().all(|&vip| vips.announcements(vip) > 0));
}

#[test]
fn many_vips_are_asked_about_some_at_a_time() {
    let all: Vec<IpAddr> = (0..250).map(|last| [10, 0, 0, last].into()).collect();
    let mut vips = vips(false, false, &all);
    let there = all.iter().fold(ground(), |there, &vip| there.with(vip, false));
    vips.look(&there, |_| String::new(), 0);
    let mut asked = Vec::new();
    for now in (0..PROBE).step_by(100) {
        let probes = vips.due(now).into_iter().filter(|act| matches!(act, Act::Probe(..)));
        asked.push(probes.count());
    }
    assert_eq!(asked[..6], [200, 50, 0, 0, 0, 0]);
    assert_eq!(asked.iter().sum::<usize>(), all.len());
}

#[test]
fn services_come_and_go_with_their_vips() {
    let other: IpAddr = [172, 17, 100, 101].into();
    let mut vips = Vips::started();
    let there = ground().with(vip(), true);
    vips.see(&there, 0);
    vips.want([vip(), other]);
    assert_eq!(vips.see(&there, 100), [Act::Ask(other, LINK)]);
    vips.answered(other, &BTreeMap::new(), 600);
    assert_eq!(vips.due(600), [Act::Add(other, LINK)]);
    vips.added(other, LINK, Ok(()), 600);
    let there = there.with(other, true);
    vips.see(&there, 600);

    vips.want([other]);
    assert_eq!(vips.due(700)[0], Act::Remove(vip(), LINK));
    vips.want([]);
    vips.want([other]);
    // It came back before it was removed.
    let acts = vips.see(&there, 800);
    assert!(!acts.contains(&Act::Remove(other, LINK)), "{acts:?}");
    assert!(!acts.contains(&Act::Ask(other, LINK)), "{acts:?}");
    assert_eq!(vips.held(other), Held::Shunt);
    vips.want([]);
    assert_eq!(vips.own(&there), [(other, LINK)], "the end removes what is about to be");
}

#[test]
fn what_cannot_be_added_is_said_once_and_tried_again() {
    let mut vips = vips(true, false, &[vip()]);
    vips.see(&ground(), 0);
    vips.answered(vip(), &BTreeMap::new(), 0);
    let add = Act::Add(vip(), LINK);
    assert_eq!(vips.due(0), std::slice::from_ref(&add));
    vips.added(vip(), LINK, Err("Operation not permitted".into()), 0);
    let why = format!("cannot add VIP {} to eth0: Operation not permitted; trying again", vip());
    assert_eq!(vips.due(500), [Act::Warn(why)]);
    assert_eq!(vips.due(1_000), std::slice::from_ref(&add));
    vips.added(vip(), LINK, Err("Operation not permitted".into()), 1_000);
    assert_eq!(vips.due(2_000), [add]);
}

#[test]
fn a_vip_belongs_where_its_network_is() {
    let mut ground = ground();
    ground.addresses.extend([own(3, "10.5.0.3", 16), own(4, "10.6.0.3", 16)]);
    for (vip, link) in [
        ("172.17.100.100", 2),
        ("10.5.7.7", 3),
        // Of a network that is not served, or of none.
        ("10.6.0.100", 2),
        ("192.0.2.1", 2),
        ("fd00::100", 2),
    ] {
        let mut vips = vips(true, false, &[vip.parse().unwrap()]);
        assert_eq!(vips.see(&ground, 0), [Act::Ask(vip.parse().unwrap(), link)]);
    }
    // An address that is a VIP itself makes no network.
    let vip: IpAddr = "10.5.7.7".parse().unwrap();
    let mut vips = vips(true, false, &[vip, "10.5.0.3".parse().unwrap()]);
    assert!(vips.see(&ground, 0).contains(&Act::Ask(vip, 2)));
}

/// Kernels before 5.18 keep no mark that would tell of it later.
#[test]
fn what_was_added_when_its_service_went_is_removed_without_a_mark() {
    let mut vips = Vips::started();
    vips.want([]);
    let there = ground().with(vip(), false);
    assert_eq!(vips.see(&there, 100), [Act::Remove(vip(), LINK)]);
}

#[test]
fn what_the_kernel_was_adding_when_its_service_went_is_removed() {
    let mut vips = vips(true, false, &[vip()]);
    vips.see(&ground(), 0);
    vips.answered(vip(), &BTreeMap::new(), 0);
    vips.due(0);
    // While the kernel is adding it.
    vips.want([]);
    vips.added(vip(), LINK, Ok(()), 0);
    assert_eq!(vips.see(&ground().with(vip(), false), 100), [Act::Remove(vip(), LINK)]);
}

#[test]
fn what_is_added_when_its_service_goes_is_removed() {
    let mut vips = Vips::started();
    // The kernel has it, and nobody has looked since.
    vips.want([]);
    let there = ground().with(vip(), true);
    assert_eq!(vips.see(&there, 100), [Act::Remove(vip(), LINK)]);
    assert_eq!(vips.see(&ground(), 200), []);
    vips.see(&there, 300);
    vips.look(&there, |_| String::new(), 400);
    vips.look(&there, |_| String::new(), 500);
    assert_eq!(vips.own(&there), [(vip(), LINK)]);
    // It is wanted again before it is removed.
    vips.want([vip()]);
    assert!(!vips.see(&there, 600).contains(&Act::Remove(vip(), LINK)));
}

#[test]
fn what_rs_setup_has_put_on_another_link_is_not_the_directors() {
    let mut vips = vips(true, false, &[vip()]);
    let mut there = ground();
    there.addresses.push(OwnAddress { link: 4, address: vip(), prefix: 32, by_shunt: true });
    let acts = vips.see(&there, 0);
    let said =
        Act::Say(format!("VIP {} is on eth1 by other hands: shunt leaves it to them", vip()));
    assert!(acts.contains(&said), "{acts:?}");
    assert!(!acts.iter().any(|act| matches!(act, Act::Announce(..))), "{acts:?}");
    assert_eq!((vips.held(vip()), vips.own(&there)), (Held::Other, Vec::new()));
}
