//! Whether the kernel would speak to real servers from a VIP.
//!
//! It does where the director has no address of its own on their network (inet_select_addr in
//! net/ipv4/devinet.c). A real server drops what comes from a VIP, ARP requests and all else alike,
//! since the VIP is an address of its own; its neighbor entry ends failed. Health checks ask from
//! another address if there is one (health/source.rs); the programs of `command` checks do not.

use crate::neighbors::{Neighbors, Reach};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Real servers that the kernel speaks to from a VIP, by VIP and link.
pub type FromVips = BTreeMap<(IpAddr, u32), BTreeSet<IpAddr>>;

/// Which those are.
pub fn find(neighbors: &Neighbors, vips: &BTreeSet<IpAddr>) -> FromVips {
    let mut found = FromVips::new();
    for address in neighbors.addresses() {
        if let Some(&Reach::OnLink { link, source: Some(source), .. }) = neighbors.reach(address)
            && vips.contains(&source)
        {
            found.entry((source, link)).or_default().insert(address);
        }
    }
    found
}

/// What is wrong with that, and what to do. `link`: the link's name.
pub fn sentence(vip: IpAddr, link: &str, servers: &BTreeSet<IpAddr>) -> String {
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    let servers = servers.join(", ");
    if vip.is_ipv4() {
        format!(
            "the kernel asks for the MAC address of {servers} from the VIP {vip}, which a real server does not answer, since it has the VIP itself: give {link} an address of the director's own on that network, and the VIP as {vip}/32 (`ip address add OWN/PREFIX dev {link}`)"
        )
    } else {
        format!(
            "the kernel speaks to {servers} from the VIP {vip}, which a real server does not answer, since it has the VIP itself, so that the programs of command checks get no answer: give {link} an address of the director's own on that network, and have the VIP deprecated (`ip address change {vip}/128 dev {link} preferred_lft 0`)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_a_vip_is_found_with_all_its_real_servers() {
        let (vip, own): (IpAddr, IpAddr) = ([172, 17, 100, 100].into(), [172, 17, 100, 3].into());
        let rs = |host: u8| IpAddr::from([172, 17, 100, host]);
        let mut neighbors = Neighbors::default();
        neighbors.want((1..=6).map(rs));
        for (host, link, source) in [
            (1, 2, Some(vip)),
            (2, 2, Some(vip)),
            (4, 2, Some(own)),
            (5, 2, None),
            (6, 3, Some(vip)),
        ] {
            let reach = Reach::OnLink { interface: 0, link, vlans: [0, 0], source };
            neighbors.place(rs(host), reach);
        }
        let found = find(&neighbors, &[vip].into());
        assert_eq!(found, [((vip, 2), [rs(1), rs(2)].into()), ((vip, 3), [rs(6)].into())].into(),);
        assert_eq!(find(&neighbors, &BTreeSet::new()), FromVips::new());
        let text = sentence(vip, "eth0", &found[&(vip, 2)]);
        assert!(text.contains("172.17.100.1, 172.17.100.2 from the VIP 172.17.100.100"), "{text}");
        assert!(text.contains("172.17.100.100/32") && text.contains("dev eth0"), "{text}");
    }

    #[test]
    fn over_ipv6_a_deprecated_vip_is_not_spoken_from() {
        let text =
            sentence("fd00::100".parse().unwrap(), "eth0", &["fd00::1".parse().unwrap()].into());
        assert!(text.contains("fd00::100/128 dev eth0 preferred_lft 0"), "{text}");
    }
}
