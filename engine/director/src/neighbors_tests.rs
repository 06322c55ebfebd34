use super::*;

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

fn kinds(neighbors: &mut Neighbors, now: Millis) -> Vec<AskKind> {
    neighbors.due(now).into_iter().map(|ask| ask.kind).collect()
}

#[test]
fn an_unknown_neighbor_is_asked_for_and_takes_no_flows() {
    let mut neighbors = placed();
    assert_eq!(neighbors.state(rs()), NeighborState::Unresolved);
    assert_eq!((neighbors.neighbor(0, rs()), neighbors.takes_new_flows(0, rs())), (None, false));
    assert_eq!(neighbors.due(0), [Ask { link: LINK, address: rs(), kind: AskKind::Resolve }]);
    assert_eq!(neighbors.due(1), [], "the kernel gets its time");
    assert!(!neighbors.learned(LINK, rs(), KernelState::Incomplete, None, 1));
    assert!(!neighbors.settled());
    assert!(neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), 2));
    assert!(neighbors.settled());
    assert_eq!(neighbors.neighbor(0, rs()), Some(Neighbor { mac: OLD, vlans: [5, 0] }));
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(neighbors.neighbor(1, rs()), None, "not on another interface");
}

#[test]
fn a_stale_neighbor_keeps_forwarding_and_is_probed() {
    let mut neighbors = resolved();
    assert_eq!(kinds(&mut neighbors, REFRESH - 1), []);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(OLD), REFRESH - 1));
    assert_eq!(neighbors.state(rs()), NeighborState::Stale);
    assert!(neighbors.takes_new_flows(0, rs()));
    assert_eq!(kinds(&mut neighbors, REFRESH), [AskKind::Probe]);
    assert_eq!(kinds(&mut neighbors, REFRESH + 1), []);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Reachable, Some(OLD), REFRESH + 2));
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
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
fn a_changed_mac_address_is_followed() {
    let mut neighbors = resolved();
    assert!(neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some(NEW), 1));
    assert_eq!(neighbors.neighbor(0, rs()).unwrap().mac, NEW);
    assert!(!neighbors.learned(LINK, rs(), KernelState::Unconfirmed, Some([0; 6]), 2));
    assert_eq!(neighbors.neighbor(0, rs()).unwrap().mac, NEW, "no address is no news");
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

#[test]
fn a_permanent_entry_is_never_asked_for() {
    let mut neighbors = placed();
    neighbors.learned(LINK, rs(), KernelState::Permanent, Some(OLD), 0);
    assert_eq!(neighbors.state(rs()), NeighborState::Reachable);
    assert_eq!(kinds(&mut neighbors, 1_000_000), []);
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
    assert_eq!(neighbors.due(0)[0].link, 9);
    assert!(neighbors.place(rs(), Reach::Impossible("by a gateway".into())));
    assert_eq!(neighbors.state(rs()), NeighborState::Impossible);
    assert_eq!(neighbors.impossible(rs()), Some("by a gateway"));
    assert_eq!(neighbors.due(1_000_000), []);
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
fn a_claim_that_is_heard_is_followed_at_once_and_then_confirmed() {
    let mut neighbors = resolved();
    assert!(!neighbors.heard(LINK, rs(), OLD, 10), "no news");
    assert!(!neighbors.heard(LINK + 1, rs(), NEW, 10), "on another link");
    assert!(neighbors.heard(LINK, rs(), NEW, 10));
    assert_eq!(neighbors.neighbor(0, rs()).unwrap().mac, NEW);
    assert_eq!(kinds(&mut neighbors, 10), [AskKind::Probe]);
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
