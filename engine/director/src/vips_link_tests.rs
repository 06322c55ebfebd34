//! VIPs while links go down, come up, and are made anew.

use super::*;

#[test]
fn an_ipv6_vip_comes_back_with_its_link() {
    let mut vips = vips(true, false, &[vip6()]);
    vips.see(&ground(), 0);
    vips.answered(vip6(), &BTreeMap::new(), 0);
    vips.due(0);
    vips.added(vip6(), LINK, Ok(()), 0);
    vips.see(&ground().with(vip6(), true), 0);
    assert_eq!(vips.see(&ground().down(), 20_000), [], "nobody deleted it");
    assert_eq!(vips.see(&ground(), 30_000), [Act::Ask(vip6(), LINK)]);
    vips.answered(vip6(), &BTreeMap::new(), 30_500);
    assert_eq!(vips.due(30_500), [Act::Add(vip6(), LINK)]);
}

/// Added and announced, then its link was down, and is up again at 70,000.
fn after_its_link_was_down() -> (Vips, Ground) {
    let mut vips = Vips::started();
    let there = ground().with(vip(), true);
    vips.see(&there, 0);
    announcements(&mut vips, 100, 9_000);
    assert_eq!(vips.see(&there.down(), 9_100), []);
    assert!(announcements(&mut vips, 9_100, 69_100).is_empty(), "nobody would hear it");
    // Nothing is announced before it was asked.
    assert_eq!(vips.see(&there, 70_000), [Act::Ask(vip(), LINK), Act::Probe(vip(), LINK)]);
    assert!(announcements(&mut vips, 70_100, 70_400).is_empty());
    (vips, there)
}

#[test]
fn a_vip_is_announced_anew_when_its_link_is_up_again() {
    let (mut vips, _) = after_its_link_was_down();
    assert!(!vips.answered(vip(), &BTreeMap::new(), 70_500));
    let at = announcements(&mut vips, 70_500, 75_000);
    assert_eq!(at, [70_500, 71_500, 72_500, 73_500, 74_500]);
}

#[test]
fn a_vip_that_another_machine_took_while_the_link_was_down_is_left_to_it() {
    let (mut vips, there) = after_its_link_was_down();
    assert!(vips.answered(vip(), &BTreeMap::from([(OTHER, None)]), 70_500));
    let [Act::Warn(warning), remove] = &vips.due(70_500)[..] else { panic!() };
    assert!(warning.ends_with("it is removed here while that is so"), "{warning}");
    assert_eq!(*remove, Act::Remove(vip(), LINK));
    // It is still there when it is looked at next.
    assert_eq!(vips.see(&there, 70_600), []);
    assert_eq!(vips.see(&ground(), 70_700), [], "that it is gone is no surprise");
    let trouble = vips.trouble(vip()).unwrap();
    assert_eq!(trouble, "VIP absent: 02:00:00:00:00:09 answers for it");
    assert_eq!(vips.due(75_500), [Act::Ask(vip(), LINK)]);
    vips.answered(vip(), &BTreeMap::new(), 76_000);
    let free = Act::Say(format!("nobody else has VIP {} any more", vip()));
    assert_eq!(vips.due(76_000), [free, Act::Add(vip(), LINK)]);
    vips.added(vip(), LINK, Ok(()), 76_000);
    assert!(vips.see(&there, 76_000).contains(&Act::Announce(vip(), LINK)));
    assert_eq!(vips.trouble(vip()), None);
}

#[test]
fn a_link_that_was_down_for_a_moment_is_seen_by_its_count() {
    let mut vips = Vips::started();
    let mut there = ground().with(vip(), true);
    vips.see(&there, 0);
    announcements(&mut vips, 100, 9_000);
    there.links[0].downs += 1;
    assert_eq!(vips.see(&there, 9_100), [Act::Ask(vip(), LINK)]);
    vips.answered(vip(), &BTreeMap::new(), 9_600);
    assert_eq!(announcements(&mut vips, 9_600, 20_000).len(), 5);
    there.links[1].downs += 1;
    assert_eq!(vips.see(&there, 30_000), [Act::Probe(vip(), LINK)], "another link");
}

/// A switch with spanning tree, for one, forwards nothing while it is asked.
#[test]
fn a_machine_that_did_not_hear_the_question_is_asked_again() {
    let (mut vips, _) = after_its_link_was_down();
    vips.answered(vip(), &BTreeMap::new(), 70_500);
    announcements(&mut vips, 70_500, 75_000);
    assert!(vips.claimed(LINK, vip(), RS, Whose::Server([172, 17, 100, 1].into()), 100_000));
    assert!(!vips.due(100_000).contains(&Act::Ask(vip(), LINK)), "it never has it by right");
    vips.claimed(LINK, vip(), OTHER, Whose::Unknown, 100_000);
    assert!(vips.due(100_000).contains(&Act::Ask(vip(), LINK)));
    // A claim is no answer.
    assert!(!vips.answered(vip(), &BTreeMap::new(), 100_500));
    assert!(vips.due(101_000).contains(&Act::Announce(vip(), LINK)));
    assert!(vips.claimed(LINK, vip(), OTHER, Whose::Unknown, 101_500));
    vips.due(101_500);
    assert!(vips.answered(vip(), &BTreeMap::from([(OTHER, None)]), 102_000));
    assert!(vips.due(102_000).contains(&Act::Remove(vip(), LINK)));
    // Later, whoever claims it is the one that is wrong.
    let (mut vips, _) = after_its_link_was_down();
    vips.answered(vip(), &BTreeMap::new(), 70_500);
    vips.claimed(LINK, vip(), OTHER, Whose::Unknown, 70_000 + UNSURE);
    assert!(!vips.due(70_000 + UNSURE).contains(&Act::Ask(vip(), LINK)));
}

/// A real server that answers by mistake would be all that serves, without one.
#[test]
fn a_vip_is_not_left_to_a_real_server_that_answers_when_the_link_is_up_again() {
    let (mut vips, _) = after_its_link_was_down();
    let by = BTreeMap::from([(RS, Some([172, 17, 100, 1].into()))]);
    assert!(!vips.answered(vip(), &by, 70_500));
    let [Act::Warn(warning), Act::Announce(..)] = &vips.due(70_500)[..] else { panic!() };
    assert!(warning.ends_with("it stays here, and is announced again"), "{warning}");
    // But beside another machine it may be one that took it, too.
    let (mut vips, _) = after_its_link_was_down();
    let by = BTreeMap::from([(RS, Some([172, 17, 100, 1].into())), (OTHER, None)]);
    assert!(vips.answered(vip(), &by, 70_500));
}

#[test]
fn an_answer_from_a_link_that_went_down_meanwhile_is_none() {
    let mut vips = vips(true, false, &[vip()]);
    vips.see(&ground(), 0);
    vips.see(&ground().down(), 100);
    assert!(vips.asks(vip(), LINK));
    assert!(!vips.answered(vip(), &BTreeMap::new(), 500));
    assert_eq!(vips.due(500), []);
    assert_eq!(vips.see(&ground(), 1_000), [Act::Ask(vip(), LINK)]);
}

/// A VLAN is taken down and made again, as by a change of the network's configuration.
#[test]
fn a_vip_follows_its_network() {
    let vip: IpAddr = "10.5.7.7".parse().unwrap();
    let vlan = |index| {
        let mut ground = ground();
        ground.links[1].index = index;
        ground.addresses.push(own(index, "10.5.0.3", 16));
        ground
    };
    let with = |mut ground: Ground, link| {
        ground.addresses.push(OwnAddress { link, address: vip, prefix: 32, by_shunt: true });
        ground
    };
    let mut vips = vips(true, false, &[vip]);
    assert_eq!(vips.see(&vlan(3), 0), [Act::Ask(vip, 3)]);
    vips.answered(vip, &BTreeMap::new(), 500);
    assert_eq!(vips.due(500), [Act::Add(vip, 3)]);
    vips.added(vip, 3, Ok(()), 500);
    vips.see(&with(vlan(3), 3), 500);
    // It is gone, and there is another link by that name, where others may be.
    assert_eq!(vips.see(&vlan(9), 10_000), [Act::Ask(vip, 9)]);
    assert!(!vips.asks(vip, 3));
    vips.answered(vip, &BTreeMap::new(), 10_500);
    assert_eq!(vips.due(10_500), [Act::Add(vip, 9)]);
    vips.added(vip, 9, Ok(()), 10_500);
    vips.see(&with(vlan(9), 9), 10_500);
    // The new one comes late: meanwhile the VIP is on the first interface.
    let mut without = ground();
    without.links.remove(1);
    assert_eq!(vips.see(&without, 20_000), [Act::Ask(vip, LINK)]);
    vips.answered(vip, &BTreeMap::new(), 20_500);
    assert_eq!(vips.due(20_500), [Act::Add(vip, LINK)]);
    vips.added(vip, LINK, Ok(()), 20_500);
    let misplaced = with(vlan(12), LINK);
    let acts = vips.see(&misplaced, 30_000);
    let said = Act::Say(format!("VIP {vip} goes from eth0 to eth0.5, where its network is"));
    assert_eq!(acts[..2], [said, Act::Remove(vip, LINK)]);
    assert_eq!(vips.see(&vlan(12), 30_100), [Act::Ask(vip, 12)]);
}

/// The director's own address may go and come: a VIP that is there stays.
#[test]
fn a_vip_stays_where_it_is_as_long_as_its_network_is_nowhere_else() {
    let mut vips = Vips::started();
    let there = ground().with(vip(), true);
    vips.see(&there, 0);
    let mut bare = there.clone();
    bare.addresses.retain(|own| own.by_shunt);
    for ground in [&bare, &there] {
        assert!(!vips.see(ground, 100).contains(&Act::Remove(vip(), LINK)));
    }
    // Two links on one network.
    let mut both = there.clone();
    both.addresses.push(own(3, "172.17.100.4", 25));
    assert!(!vips.see(&both, 200).contains(&Act::Remove(vip(), LINK)));
}

#[test]
fn a_link_that_is_down_at_the_start_is_asked_when_it_is_up() {
    let mut vips = vips(true, false, &[vip()]);
    assert_eq!(vips.see(&ground().down(), 0), [], "whoever has it would not hear the question");
    assert!(!vips.asking(), "the start does not wait for it");
    assert_eq!(vips.rest(0), Millis::MAX);
    assert_eq!(vips.see(&ground(), 60_000), [Act::Ask(vip(), LINK)]);
    // It goes down while it is asked.
    vips.unanswered(vip());
    assert_eq!(vips.see(&ground().down(), 60_100), []);
    assert_eq!(vips.see(&ground(), 70_000), [Act::Ask(vip(), LINK)]);
    assert!(vips.answered(vip(), &BTreeMap::from([(OTHER, None)]), 70_500));
    let acts = vips.due(70_500);
    assert!(matches!(acts[..], [Act::Warn(_)]), "another director has it by now: {acts:?}");
}
