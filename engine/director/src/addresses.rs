//! The machine's own addresses: which there are, and how a VIP is added and removed.

use futures_util::StreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use rtnetlink::Handle;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::timeout;

/// What an address's origin (IFA_PROTO, since Linux 5.18) says of one that shunt added: whatever
/// the kernel and /etc/iproute2/rt_addrprotos have no meaning for. Older kernels keep nothing.
pub const BY_SHUNT: u8 = 0x53;
/// How long the kernel may take to answer. It answers at once, unless something is very wrong.
const ANSWER: Duration = Duration::from_secs(2);

/// An address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnAddress {
    /// Index of its link.
    pub link: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// It has shunt's mark: this shunt added it, or one that was killed.
    pub by_shunt: bool,
}

/// All addresses of this machine, as the kernel lists them. Errors: one sentence.
pub async fn list(handle: &Handle) -> Result<Vec<OwnAddress>, String> {
    let gather = async {
        let mut answers = std::pin::pin!(handle.address().get().execute());
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            all.extend(read(&answer?));
        }
        Ok::<_, rtnetlink::Error>(all)
    };
    answered(gather).await.map_err(|error| format!("cannot read the machine's addresses: {error}"))
}

/// Adds a VIP to a link, alone on its network and with shunt's mark. IPv6: without duplicate
/// address detection, which would keep it silent for a second, and deprecated, so that the kernel
/// never asks or connects from it (RFC 6724, rule 3). Errors: one sentence, also if it is there.
pub async fn add(handle: &Handle, link: u32, address: IpAddr) -> Result<(), String> {
    let mut request = handle.address().add(link, address, width(address));
    let attributes = &mut request.message_mut().attributes;
    attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(BY_SHUNT)));
    if address.is_ipv6() {
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        attributes.push(AddressAttribute::CacheInfo(lifetimes));
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    answered(request.execute()).await
}

/// Removes a VIP from a link. Errors: one sentence, also if it is not there.
pub async fn remove(handle: &Handle, link: u32, address: IpAddr) -> Result<(), String> {
    let mut request = handle.address().add(link, address, width(address));
    let message = request.message_mut().clone();
    answered(handle.address().del(message).execute()).await
}

/// Whether a network holds an address.
pub fn holds(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let same = |a: u128, b: u128, bits: u32| {
        let shift = bits - u32::from(prefix).min(bits);
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            same(u128::from(network.to_bits()), u128::from(address.to_bits()), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            same(network.to_bits(), address.to_bits(), 128)
        }
        _ => false,
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn read(message: &AddressMessage) -> Option<OwnAddress> {
    let mut address = None;
    let mut local = None;
    let mut by_shunt = false;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link Address is the other end; Local is always ours.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(own) => address = Some(*own),
            AddressAttribute::Protocol(protocol) => by_shunt = u8::from(*protocol) == BY_SHUNT,
            _ => {}
        }
    }
    Some(OwnAddress {
        link: message.header.index,
        address: local.or(address)?,
        prefix: message.header.prefix_len,
        by_shunt,
    })
}

async fn answered<T>(
    asking: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, String> {
    match timeout(ANSWER, asking).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(rtnetlink::Error::NetlinkError(error))) => Err(error.to_io().to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the kernel does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::{Family, MachineLock, NIC, Plan, vip};

    #[test]
    fn a_network_holds_the_addresses_of_its_prefix() {
        for (network, prefix, address, expected) in [
            ("172.17.100.3", 24, "172.17.100.100", true),
            ("172.17.100.3", 24, "172.17.101.100", false),
            ("172.17.100.3", 32, "172.17.100.3", true),
            ("172.17.100.3", 32, "172.17.100.2", false),
            ("172.17.100.3", 0, "10.0.0.1", true),
            ("fd00::3", 64, "fd00::100", true),
            ("fd00::3", 64, "fd00:0:0:1::100", false),
            ("fd00::3", 0, "::1", true),
            ("fd00::3", 0, "10.0.0.1", false),
        ] {
            let held = holds(network.parse().unwrap(), prefix, address.parse().unwrap());
            assert_eq!(held, expected, "{network}/{prefix} {address}");
        }
    }

    #[test]
    fn an_address_is_added_with_the_mark_and_removed() {
        let _lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("addresses").ipv6().build().unwrap();
        for family in [Family::V4, Family::V6] {
            let width = if family == Family::V4 { 32 } else { 128 };
            topology
                .director
                .ip(&format!("address del {}/{width} dev {NIC}", vip(family)))
                .unwrap();
        }
        let result = topology.director.run(|| {
            let link = nix::net::if_::if_nametoindex(NIC).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                for family in [Family::V4, Family::V6] {
                    let vip = vip(family);
                    let prefix = width(vip);
                    let of_vip = || async {
                        let all = list(&handle).await.unwrap();
                        all.into_iter().filter(|own| own.address == vip).collect::<Vec<_>>()
                    };
                    assert_eq!(of_vip().await, []);
                    add(&handle, link, vip).await.unwrap();
                    let added = OwnAddress { link, address: vip, prefix, by_shunt: true };
                    assert_eq!(of_vip().await, [added]);
                    let twice = add(&handle, link, vip).await.unwrap_err();
                    assert!(twice.contains("exists"), "{twice}");
                    remove(&handle, link, vip).await.unwrap();
                    assert_eq!(of_vip().await, []);
                    assert!(remove(&handle, link, vip).await.is_err());
                    add(&handle, link, vip).await.unwrap();
                }
                let own = lab::director_address(Family::V4);
                let all = list(&handle).await.unwrap();
                assert!(all.contains(&OwnAddress {
                    link,
                    address: own,
                    prefix: 24,
                    by_shunt: false
                }));
            });
        });
        result.unwrap();
        // Ready at once, and never a source of the kernel's own choice.
        let shown =
            topology.director.ip(&format!("-6 address show dev {NIC} to {}", vip(Family::V6)));
        let shown = shown.unwrap();
        assert!(shown.contains("deprecated") && !shown.contains("tentative"), "{shown}");
        let route = format!("route get {}", lab::real_server_address(1, Family::V6));
        let route = topology.director.ip(&route).unwrap();
        assert!(route.contains(&format!("src {}", lab::director_address(Family::V6))), "{route}");
    }
}
