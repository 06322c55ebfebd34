use super::*;
use crate::neighbor_events::What;

const LINK: u32 = 7;
const OLD: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEW: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn rs() -> IpAddr {
    [172, 17, 100, 1].into()
}

fn placed() -> Neighbors {
    let mut neighbors = Neighbors::default();
    assert_eq!(neighbors.want([rs()]), [rs()]);
    assert!(
        neighbors
            .place(rs(), Reach::OnLink { interface: 0, link: LINK, vlans: [5, 0], source: None })
    );
    neighbors
}

/// Resolved at time 0.
fn resolved() -> Neighbors {
    let mut neighbors = placed();
    assert_eq!(kinds(&mut neighbors, 0), [AskKind::Resolve]);
    assert!(neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 0));
    neighbors
}

fn said(neighbors: &mut Neighbors) -> Vec<What> {
    neighbors.take_events().into_iter().map(|event| event.what).collect()
}

fn mac(neighbors: &Neighbors) -> [u8; 6] {
    neighbors.neighbor(0, rs()).unwrap().mac
}

fn kinds(neighbors: &mut Neighbors, now: Millis) -> Vec<AskKind> {
    neighbors.due(now).0.into_iter().map(|ask| ask.kind).collect()
}

#[test]
fn an_unknown_neighbor_is_asked_for_and_takes_no_flows() {
    let mut neighbors = placed();
    assert_eq!(neighbors.state(rs()), NeighborState::Unresolved);
    assert_eq!((neighbors.neighbor(0, rs()), neighbors.takes_new_flows(0, rs())), (None, false));
    assert_eq!(neighbors.due(0).0, [Ask { link: LINK, address: rs(), kind: AskKind::Resolve }]);
    assert_eq!(neighbors.due(1).0, [], "the kernel gets its time");
    assert!(!neighbors.learned(LINK, rs(), KernelState::Incomplete, None, 1));
    assert!(!neighbors.settled());
    assert!(neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 2));
    assert!(neighbors.settled());
    assert_eq!(neighbors.neighbor(0, rs()), Some(Neighbor { mac: OLD, vlans: [5, 0] }));
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(neighbors.neighbor(1, rs()), None, "not on another interface");
}

/// The kernel's answer to a probe: first that it probes, then that it was answered.
fn answered(neighbors: &mut Neighbors, now: Millis) {
    assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), now));
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable, "it is only being asked");
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), now));
}

#[test]
fn a_neighbor_is_probed_each_second() {
    let mut neighbors = resolved();
    for second in 1..5 {
        let now = second * REFRESH;
        assert_eq!(kinds(&mut neighbors, now - 1), []);
        assert_eq!(kinds(&mut neighbors, now), [AskKind::Probe]);
        answered(&mut neighbors, now);
    }
}

#[test]
fn a_stale_neighbor_keeps_forwarding() {
    let mut neighbors = resolved();
    assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), 10));
    assert_eq!(neighbors.state(rs()), NeighborState::Stale);
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(kinds(&mut neighbors, REFRESH), [AskKind::Probe]);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), REFRESH + 2));
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
}

/// The kernel's own patience is a sysctl (ucast_solicit, retrans_time_ms): it may be long.
#[test]
fn three_misses_are_a_failure_whatever_the_kernel_thinks() {
    let mut neighbors = resolved();
    for second in 1..=3 {
        let (asks, changed) = neighbors.due(second * REFRESH);
        assert_eq!((asks.len(), changed), (1, false));
        neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), second * REFRESH);
        let state = if second == 1 { NeighborState::Reachable } else { NeighborState::Stale };
        assert_eq!(neighbors.state(rs()), state, "after {second} probes");
        assert!(neighbors.takes_new_flows(0, rs()));
    }
    assert_eq!(neighbors.due(4 * REFRESH - 1), (vec![], false));
    assert_eq!(neighbors.due(4 * REFRESH), (vec![], true));
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    assert!(!neighbors.takes_new_flows(0, rs()));
    assert_eq!(said(&mut neighbors), [What::Failed]);
    // A dump that still calls it probed is no answer.
    assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), 4_500));
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    // The kernel follows, and is then asked to ask everybody.
    assert!(!neighbors.learned(LINK, rs(), KernelState::Failed, None, 4_600));
    assert_eq!(kinds(&mut neighbors, 4_600), [AskKind::Resolve]);
    assert_eq!(said(&mut neighbors), [], "said once");
}

#[test]
fn a_failed_neighbor_takes_no_new_flows_but_keeps_its_own() {
    let mut neighbors = resolved();
    assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 100));
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    assert!(!neighbors.takes_new_flows(0, rs()));
    assert_eq!(neighbors.neighbor(0, rs()).unwrap().mac, OLD);
    // The kernel tries again: still failed until there is an answer.
    assert_eq!(kinds(&mut neighbors, 100), [AskKind::Resolve], "at once, by broadcast");
    assert!(!neighbors.learned(LINK, rs(), KernelState::Incomplete, None, 101));
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    assert!(neighbors.learned(LINK, rs(), KernelState::Reachable, Some(NEW), 102));
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(neighbors.neighbor(0, rs()).unwrap().mac, NEW);
}

#[test]
fn retries_of_a_failed_neighbor_back_off_to_a_limit() {
    let mut neighbors = resolved();
    let mut now = 1_000;
    let mut rests = Vec::new();
    for _ in 0..6 {
        neighbors.learned(LINK, rs(), KernelState::Failed, None, now);
        let failed_at = now;
        while kinds(&mut neighbors, now).is_empty() {
            now += 100;
        }
        rests.push(now - failed_at);
        now += 3_000;
    }
    assert_eq!(rests, [0, 1_000, 2_000, 4_000, 4_000, 4_000]);
}

#[test]
fn a_changed_mac_address_is_followed_when_the_former_one_is_silent() {
    for by_kernel in [false, true] {
        let mut neighbors = resolved();
        let claim = |neighbors: &mut Neighbors, now| match by_kernel {
            false => neighbors.heard(LINK, rs(), NEW, now),
            true => neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(NEW), now),
        };
        assert!(!claim(&mut neighbors, 100), "the one that has it is asked first");
        let asked = [AskKind::Tell(OLD), AskKind::Probe];
        assert_eq!(kinds(&mut neighbors, 150), asked, "at its own address");
        neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), 151);
        assert_eq!(kinds(&mut neighbors, 249), []);
        for again in [250, 350] {
            assert!(!claim(&mut neighbors, again), "it says so again");
            assert_eq!(kinds(&mut neighbors, again), asked, "the kernel may have asked the other");
        }
        assert_eq!(neighbors.due(449), (vec![], false));
        let (asks, changed) = neighbors.due(450);
        assert!(changed);
        // The kernel that has followed by itself need not be told.
        let tell = (!by_kernel).then_some(AskKind::Tell(NEW));
        let asked: Vec<AskKind> = tell.into_iter().chain([AskKind::Probe]).collect();
        assert_eq!(asks.iter().map(|ask| ask.kind).collect::<Vec<_>>(), asked);
        assert_eq!(mac(&neighbors), NEW);
        assert!(neighbors.takes_new_flows(0, rs()), "all the time");
        assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(NEW), 451));
        assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(NEW), 452));
        assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
        assert_eq!(neighbors.mac_changes(rs()), 1);
        assert_eq!(said(&mut neighbors), [What::Moved { from: OLD, to: NEW }]);
    }
}

#[test]
fn two_machines_with_one_address_do_not_take_it_in_turns() {
    let mut neighbors = resolved();
    for round in 1..20 {
        let now = round * 10_000;
        assert!(!neighbors.heard(LINK, rs(), NEW, now));
        assert_eq!(kinds(&mut neighbors, now), [AskKind::Tell(OLD), AskKind::Probe]);
        neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), now);
        neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), now + 1);
        assert_eq!(neighbors.due(now + 500), (vec![], false));
        assert_eq!(mac(&neighbors), OLD);
    }
    assert_eq!(said(&mut neighbors), [What::TwoMachines { at: OLD, other: NEW }], "once");
    assert_eq!(neighbors.mac_changes(rs()), 0);
    let claims = |neighbors: &Neighbors, now| neighbors.claims(rs(), now).collect::<Vec<_>>();
    assert_eq!(claims(&neighbors, 200_000), [NEW]);
    // The kernel may follow the other one: it is told.
    assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(NEW), 300_000));
    assert_eq!(kinds(&mut neighbors, 300_000), [AskKind::Tell(OLD), AskKind::Probe]);
    // The first one goes, which the kernel finds out before the other one speaks again.
    neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 300_001);
    assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 304_000));
    assert!(neighbors.heard(LINK, rs(), NEW, 304_500));
    assert_eq!(mac(&neighbors), NEW);
    assert_eq!(claims(&neighbors, 304_500), [] as [Mac; 0], "it is the real server now");
}

#[test]
fn what_was_heard_before_the_question_is_no_answer_to_it() {
    let mut neighbors = resolved();
    assert!(!neighbors.heard(LINK, rs(), NEW, 100));
    // Some dump.
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 110));
    assert_eq!(kinds(&mut neighbors, 150), [AskKind::Tell(OLD), AskKind::Probe]);
    assert!(neighbors.due(450).1);
    assert_eq!(mac(&neighbors), NEW);
}

#[test]
fn a_claim_to_a_failed_neighbors_address_is_followed_at_once() {
    for claimed in [OLD, NEW] {
        let mut neighbors = resolved();
        assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 100));
        neighbors.due(100);
        neighbors.learned(LINK, rs(), KernelState::Incomplete, None, 101);
        said(&mut neighbors);
        if claimed == OLD {
            assert!(!neighbors.heard(LINK, rs(), OLD, 500), "it has to answer");
            assert_eq!(kinds(&mut neighbors, 500), [AskKind::Resolve], "and is asked at once");
        } else {
            assert!(neighbors.heard(LINK, rs(), NEW, 500));
            assert_eq!(mac(&neighbors), NEW);
            assert_eq!(kinds(&mut neighbors, 500), [AskKind::Tell(NEW), AskKind::Probe]);
            assert_eq!(said(&mut neighbors), [What::Moved { from: OLD, to: NEW }, What::Answers]);
        }
    }
}

#[test]
fn a_rival_takes_over_when_the_kernel_gives_the_other_up() {
    let mut neighbors = resolved();
    assert!(!neighbors.heard(LINK, rs(), NEW, 100));
    assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 110));
    assert_eq!(mac(&neighbors), NEW);
    assert!(neighbors.takes_new_flows(0, rs()), "without a gap");
    assert_eq!(kinds(&mut neighbors, 110), [AskKind::Tell(NEW), AskKind::Probe]);
}

#[test]
fn claims_that_make_no_sense_are_ignored() {
    let mut neighbors = resolved();
    assert!(!neighbors.heard(LINK, rs(), OLD, 10), "no news");
    assert!(!neighbors.heard(LINK + 1, rs(), NEW, 10), "on another link");
    for nobody in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        assert!(!neighbors.heard(LINK, rs(), nobody, 10));
        assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(nobody), 10));
    }
    assert_eq!(neighbors.due(900), (vec![], false));
    assert_eq!((mac(&neighbors), neighbors.mac_changes(rs())), (OLD, 0));
}

#[test]
fn a_mac_address_of_the_config_is_never_asked_for_and_never_changes() {
    let mut neighbors = Neighbors::default();
    assert!(!neighbors.set_fixed([(rs(), OLD)].into()));
    neighbors.want([rs()]);
    neighbors.place(rs(), Reach::OnLink { interface: 0, link: LINK, vlans: [5, 0], source: None });
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
    assert!(neighbors.settled() && neighbors.takes_new_flows(0, rs()));
    assert_eq!(neighbors.due(1_000_000), (vec![], false));
    for now in [10, 20] {
        assert!(!neighbors.heard(LINK, rs(), NEW, now));
        assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(NEW), now));
        assert!(!neighbors.learned(LINK, rs(), KernelState::Failed, None, now));
    }
    neighbors.deleted(LINK, rs(), 30);
    assert_eq!((mac(&neighbors), neighbors.state(rs())), (OLD, NeighborState::Reachable));
    assert_eq!(said(&mut neighbors), [What::Differs { claimed: NEW }], "once");

    assert!(neighbors.set_fixed([(rs(), NEW)].into()), "a reload");
    assert_eq!(mac(&neighbors), NEW);
    assert!(!neighbors.set_fixed(BTreeMap::new()), "it goes there until the kernel knows better");
    assert_eq!(mac(&neighbors), NEW);
    assert_eq!(kinds(&mut neighbors, 2_000_000), [AskKind::Resolve]);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(NEW), 2_000_001));
    assert_eq!(neighbors.mac_changes(rs()), 0, "nothing that was heard");
}

#[test]
fn the_directors_own_mac_address_is_never_used() {
    let mut neighbors = placed();
    assert!(neighbors.set_own([OLD].into(), 0));
    assert!(!neighbors.set_own([OLD].into(), 0), "no news");
    // It is the first that is heard of.
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 1));
    assert_eq!(neighbors.neighbor(0, rs()), None);
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    assert!(neighbors.settled(), "it does not hold up the start");
    assert!(neighbors.problem(rs()).unwrap().contains("the director's own"));
    assert!(!neighbors.heard(LINK, rs(), OLD, 2));
    assert_eq!(kinds(&mut neighbors, 2), [AskKind::Probe], "so that the entry goes");
    assert_eq!(said(&mut neighbors), [What::OwnMac(OLD)]);
    // It is mended.
    assert!(neighbors.learned(LINK, rs(), KernelState::Reachable, Some(NEW), 3));
    assert_eq!((mac(&neighbors), neighbors.problem(rs())), (NEW, None));
    // It happens again: the one that is known has to answer, and does not.
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 4));
    assert_eq!(kinds(&mut neighbors, 4), [AskKind::Tell(NEW), AskKind::Probe]);
    assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 3_000));
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 3_001));
    assert!(!neighbors.takes_new_flows(0, rs()));
    assert_eq!(mac(&neighbors), NEW, "established flows go where they went");
    assert!(neighbors.problem(rs()).is_some());
}

#[test]
fn the_directors_own_mac_address_is_refused_by_hand_and_in_the_config_too() {
    let mut neighbors = placed();
    neighbors.set_own([OLD].into(), 0);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Permanent, Some(OLD), 1));
    assert_eq!((neighbors.neighbor(0, rs()), neighbors.takes_new_flows(0, rs())), (None, false));
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    neighbors.set_fixed([(rs(), OLD)].into());
    assert_eq!(neighbors.neighbor(0, rs()), None, "at once");
    neighbors.due(1);
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    assert!(neighbors.problem(rs()).is_some());
    // The NIC gets another address.
    assert!(neighbors.set_own([NEW].into(), 2));
    assert_eq!((mac(&neighbors), neighbors.state(rs())), (OLD, NeighborState::Reachable));
    assert_eq!(neighbors.problem(rs()), None);
    // A link comes with the address that a real server has.
    assert!(neighbors.set_own([OLD, NEW].into(), 3));
    assert_eq!(neighbors.neighbor(0, rs()), None);
}

#[test]
fn an_entry_that_the_kernel_dropped_is_asked_for_and_keeps_forwarding() {
    let mut neighbors = resolved();
    neighbors.deleted(LINK, rs(), 10);
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(kinds(&mut neighbors, 10), [AskKind::Resolve]);
    assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 3_010));
    assert!(!neighbors.takes_new_flows(0, rs()));
}

/// As when its table is full (gc_thresh3): it takes no entry, and nobody is told.
#[test]
fn a_neighbor_that_the_kernel_has_no_word_for_has_failed_after_its_patience() {
    let mut neighbors = resolved();
    neighbors.deleted(LINK, rs(), 10);
    assert_eq!(kinds(&mut neighbors, 10), [AskKind::Resolve]);
    neighbors.begin_dump();
    neighbors.end_dump(1_000);
    assert_eq!(neighbors.due(4_009), (vec![], false), "a dump without it is no news");
    let (asks, changed) = neighbors.due(4_010);
    assert_eq!((asks.len(), changed), (1, true));
    assert_eq!(neighbors.state(rs()), NeighborState::Failed);
    assert_eq!(said(&mut neighbors), [What::Failed]);
    // There is room again.
    assert!(neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 5_000));
    assert_eq!(kinds(&mut neighbors, 6_000), [AskKind::Probe]);
}

#[test]
fn a_permanent_entry_is_never_asked_for() {
    let mut neighbors = placed();
    neighbors.learned(LINK, rs(), KernelState::Permanent, Some(OLD), 0);
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
    assert_eq!(kinds(&mut neighbors, 1_000_000), []);
    assert!(!neighbors.heard(LINK, rs(), NEW, 1_000_000));
    assert_eq!(kinds(&mut neighbors, 1_000_000), []);
    assert_eq!(said(&mut neighbors), [What::Differs { claimed: NEW }]);
    assert!(neighbors.learned(LINK, rs(), KernelState::Permanent, Some(NEW), 1_000_001));
    assert_eq!(mac(&neighbors), NEW, "the operator's word");
    neighbors.deleted(LINK, rs(), 1_000_002);
    assert_eq!(kinds(&mut neighbors, 1_000_002), [AskKind::Resolve]);
}

#[test]
fn other_links_say_nothing() {
    let mut neighbors = placed();
    assert!(!neighbors.learned(LINK + 1, rs(), KernelState::Reachable, Some(OLD), 0));
    assert_eq!(neighbors.state(rs()), NeighborState::Unresolved);
    let mut neighbors = resolved();
    neighbors.deleted(LINK + 1, rs(), 0);
    assert!(!neighbors.learned(LINK + 1, rs(), KernelState::Failed, None, 0));
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
}

#[test]
fn a_dump_without_an_entry_means_that_the_kernel_has_none() {
    let mut neighbors = resolved();
    neighbors.begin_dump();
    neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 1);
    neighbors.end_dump(1);
    assert_eq!(kinds(&mut neighbors, 1), []);
    neighbors.begin_dump();
    neighbors.end_dump(2);
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(kinds(&mut neighbors, 2), [AskKind::Resolve]);
}

#[test]
fn a_server_that_moved_to_another_link_is_resolved_anew() {
    let mut neighbors = resolved();
    let elsewhere = Reach::OnLink { interface: 1, link: 9, vlans: [0, 0], source: None };
    assert!(neighbors.place(rs(), elsewhere.clone()));
    assert!(!neighbors.place(rs(), elsewhere));
    assert_eq!(neighbors.neighbor(0, rs()), None);
    assert_eq!(neighbors.neighbor(1, rs()), None);
    assert_eq!(neighbors.due(0).0[0].link, 9);
    assert!(neighbors.place(rs(), Reach::Impossible("by a gateway".into())));
    assert_eq!(neighbors.state(rs()), NeighborState::Impossible);
    assert_eq!(neighbors.impossible(rs()), Some("by a gateway"));
    assert_eq!(neighbors.due(1_000_000).0, []);
    assert!(neighbors.settled());
}

#[test]
fn what_is_no_longer_wanted_is_forgotten_and_the_rest_is_kept() {
    let mut neighbors = resolved();
    let other: IpAddr = [172, 17, 100, 2].into();
    assert_eq!(neighbors.want([other, rs(), rs()]), [other]);
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(neighbors.addresses().collect::<Vec<_>>(), [rs(), other]);
    assert!(neighbors.want([other]).is_empty());
    assert_eq!(neighbors.state(rs()), NeighborState::Unresolved);
    assert_eq!(neighbors.mac(rs()), None);
}

#[test]
fn what_failed_with_its_link_is_asked_for_as_soon_as_the_link_is_back() {
    let mut neighbors = resolved();
    assert!(neighbors.learned(LINK, rs(), KernelState::Failed, None, 100));
    assert_eq!(kinds(&mut neighbors, 100), [AskKind::Resolve]);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Failed, None, 3_100));
    assert_eq!(kinds(&mut neighbors, 3_200), [], "it rests");
    neighbors.link_up(1, 3_200);
    assert_eq!(kinds(&mut neighbors, 3_200), [], "that was another interface");
    neighbors.link_up(0, 3_200);
    assert_eq!(kinds(&mut neighbors, 3_200), [AskKind::Resolve]);
}

#[test]
fn another_source_address_is_no_other_place() {
    let mut neighbors = resolved();
    let source = Some([172, 17, 100, 3].into());
    let reach = Reach::OnLink { interface: 0, link: LINK, vlans: [5, 0], source };
    assert!(!neighbors.place(rs(), reach.clone()));
    assert_eq!(neighbors.reach(rs()), Some(&reach));
    assert!(neighbors.takes_new_flows(0, rs()));
}

#[test]
fn many_machines_that_claim_an_address_give_who_has_it_no_less_time() {
    let mut neighbors = resolved();
    let mut asks = Vec::new();
    for last in 0..20 {
        let now = 500 + u64::from(last) * 10;
        assert!(!neighbors.heard(LINK, rs(), [2, 0, 0, 0, 1, last], now));
        asks.extend(kinds(&mut neighbors, now));
        assert_eq!(mac(&neighbors), OLD, "claim {last}");
    }
    let asked = [AskKind::Tell(OLD), AskKind::Probe];
    assert_eq!(asks, [asked, asked].concat(), "ten questions a second serve for all");
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 700));
    assert_eq!(kinds(&mut neighbors, 1_000), []);
    assert_eq!((mac(&neighbors), neighbors.mac_changes(rs())), (OLD, 0));
    // Without an answer the last of them has it, as late as if it were the only one.
    let mut neighbors = resolved();
    assert!(!neighbors.heard(LINK, rs(), [2, 0, 0, 0, 1, 1], 500));
    kinds(&mut neighbors, 500);
    assert!(!neighbors.heard(LINK, rs(), NEW, 700));
    assert!(!neighbors.due(799).1);
    assert!(neighbors.due(800).1);
    assert_eq!(mac(&neighbors), NEW);
}
