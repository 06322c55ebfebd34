//! Real servers that are not where packets for their VIP come in.
//!
//! A packet leaves by the interface, and in the VLAN, that it came in by: the dataplane changes two
//! MAC addresses and no tag. A real server elsewhere can answer each of its checks, `dr` too, and yet
//! none of its flows would get there.

use crate::links::Links;
use crate::neighbors::{Neighbors, Reach};
use crate::services::Services;
use dataplane::ServerState;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// By VIP and real server: what is wrong, and what to do.
pub type Apart = BTreeMap<(IpAddr, IpAddr), String>;

/// Which those are. Where a VIP is on no served interface, and on no VLAN of one, nobody knows where
/// its packets come in. `served`: the indices of the served interfaces.
pub fn find(services: &Services, neighbors: &Neighbors, links: &Links, served: &[u32]) -> Apart {
    let mut apart = Apart::new();
    for (_, service) in services.services() {
        let vip = service.key.address;
        let on: BTreeMap<(usize, [u16; 2]), u32> = links
            .holders(vip)
            .filter_map(|link| Some((links.place(served, link)?, link)))
            .collect();
        let names: BTreeSet<String> = on.values().map(|&link| links.name(link)).collect();
        for (_, server) in services.members(service) {
            let Some(&Reach::OnLink { interface, link, vlans, .. }) =
                neighbors.reach(server.address)
            else {
                continue;
            };
            let together = on.is_empty() || on.contains_key(&(interface, vlans));
            if together || server.state != ServerState::Serving {
                continue;
            }
            let names = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let sentence = format!(
                "it is on {} and VIP {vip} on {names}, and packets leave by the interface and in the VLAN that they came in by: put both on the same",
                links.name(link)
            );
            apart.insert((vip, server.address), sentence);
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::{Link, Route};
    use crate::scheduler_name::Params;
    use dataplane::{Protocol, ServiceKey};

    /// eth0 (2) and its VLANs 5 (3) and 7 (4), eth1 (5).
    fn links() -> Links {
        let mut links = Links::default();
        for (index, name, vlan) in [
            (1, "lo", None),
            (2, "eth0", None),
            (3, "eth0.5", Some((2, 5))),
            (4, "eth0.7", Some((2, 7))),
            (5, "eth1", None),
        ] {
            links.add_link(index, Link { name: name.into(), vlan, carrier: true, mac: None });
        }
        links
    }

    #[test]
    fn a_real_server_in_another_vlan_or_on_another_interface_than_its_vip_is_found() {
        let vip: IpAddr = [172, 17, 100, 100].into();
        let rs = |host: u8| IpAddr::from([172, 17, 100, host]);
        let served = [2, 5];
        let (mut services, mut neighbors) = (Services::default(), Neighbors::default());
        let key = ServiceKey { address: vip, port: 80, protocol: Protocol::Tcp };
        services.add_service(key, "rr".parse().unwrap(), Params::new()).unwrap();
        // Real server N is on link N.
        neighbors.want((2..=5).map(rs));
        for host in 2..=5 {
            services.add_server(&key, rs(host), None).unwrap();
            let route = Route::Out { link: host.into(), gateway: None, source: None };
            neighbors.place(rs(host), links().reach(&served, &route));
        }
        for (vip_on, apart) in [
            (vec![], vec![]),
            (vec![1], vec![]),
            (vec![3], vec![2, 4, 5]),
            (vec![2, 3], vec![4, 5]),
        ] {
            let mut links = links();
            vip_on.iter().for_each(|&link| links.add_address(link, vip));
            let found = find(&services, &neighbors, &links, &served);
            let expected: Vec<_> = apart.into_iter().map(|host| (vip, rs(host))).collect();
            assert_eq!(found.keys().copied().collect::<Vec<_>>(), expected, "{vip_on:?}");
        }
        let mut links = links();
        links.add_address(3, vip);
        let found = find(&services, &neighbors, &links, &served);
        let expected = "it is on eth0.7 and VIP 172.17.100.100 on eth0.5, and packets leave";
        assert!(found[&(vip, rs(4))].starts_with(expected), "{found:?}");
    }
}
