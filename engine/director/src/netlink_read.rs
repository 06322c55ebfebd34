//! Reads what the kernel says over rtnetlink: links, addresses, routes and neighbors, each as far
//! as [`crate::links`] and [`crate::neighbors`] care.

use crate::links::{Link, Links, Route};
use crate::neighbors::KernelState;
use futures_util::{Stream, StreamExt};
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the kernel may take to answer. It answers at once, unless something is very wrong.
pub const ANSWER: Duration = Duration::from_secs(2);

/// A connection to the kernel's tables. It ends with this.
pub struct Connection {
    /// To ask by.
    pub handle: Handle,
    pub(crate) _asking: Task,
}

impl Connection {
    /// Opens one, within a tokio runtime.
    pub fn open() -> Result<Connection, String> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| error.to_string())?;
        Ok(Connection { handle, _asking: Task(tokio::spawn(connection)) })
    }
}

/// Ends a task when dropped.
pub(crate) struct Task(pub JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Which of these links have a carrier; none if the kernel cannot be asked.
pub async fn with_carrier(links: &[u32]) -> BTreeSet<u32> {
    let Ok(connection) = Connection::open() else { return BTreeSet::new() };
    let known = read_links(&connection.handle).await.unwrap_or_default();
    links.iter().copied().filter(|&link| known.carrier(link) == Some(true)).collect()
}

/// All links and addresses.
pub async fn read_links(handle: &Handle) -> Result<Links, String> {
    let mut links = Links::default();
    for message in collect(handle.link().get().execute()).await? {
        let (mut name, mut mac) = (String::new(), None);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(known) => name.clone_from(known),
                LinkAttribute::Address(bytes) => mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::CarrierDownCount(downs) => {
                    links.set_downs(message.header.index, *downs);
                }
                _ => {}
            }
        }
        let carrier = message.header.flags.contains(LinkFlags::LowerUp);
        let link = Link { name, vlan: read_vlan(&message), carrier, mac };
        links.add_link(message.header.index, link);
    }
    for message in collect(handle.address().get().execute()).await? {
        for attribute in &message.attributes {
            // On a point-to-point link Address is the other end; Local is always ours.
            if let AddressAttribute::Local(own) | AddressAttribute::Address(own) = attribute {
                links.add_address(message.header.index, *own);
            }
        }
    }
    Ok(links)
}

/// The kernel's way to an address.
pub async fn route(handle: &Handle, address: IpAddr) -> Result<Route, String> {
    let question = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, if address.is_ipv4() { 32 } else { 128 })
        .map_err(|error| error.to_string())?
        .build();
    let answers = handle.route().get(question).execute();
    let mut answers = std::pin::pin!(answers);
    match timeout(ANSWER, answers.next()).await {
        Ok(Some(Ok(route))) => Ok(read_route(&route)),
        // ENETUNREACH and the like: an answer, not a failure of the question.
        Ok(Some(Err(rtnetlink::Error::NetlinkError(error)))) => {
            Ok(Route::None(error.to_io().to_string()))
        }
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Ok(Route::None("no answer".into())),
        Err(_) => Err(format!("no answer about the route to {address}")),
    }
}

/// All neighbor entries.
pub async fn dump_neighbors(handle: &Handle) -> Result<Vec<NeighbourMessage>, String> {
    collect(handle.neighbours().get().execute()).await
}

/// All answers of the kernel, or why there are none: one clause.
pub async fn collect<T>(
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, String> {
    let gather = async {
        let mut answers = std::pin::pin!(answers);
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            all.push(answer.map_err(reason)?);
        }
        Ok(all)
    };
    timeout(ANSWER, gather).await.unwrap_or_else(|_| Err("the kernel does not answer".into()))
}

/// What the kernel says is wrong, without the number that Rust adds.
fn reason(error: rtnetlink::Error) -> String {
    match error {
        rtnetlink::Error::NetlinkError(error) => {
            Errno::from_raw(error.raw_code().saturating_neg()).desc().to_owned()
        }
        other => other.to_string(),
    }
}

/// The state of a neighbor entry, as far as it matters here.
pub fn kernel_state(state: NeighbourState) -> KernelState {
    match state {
        NeighbourState::Reachable => KernelState::Reachable,
        NeighbourState::Permanent | NeighbourState::Noarp => KernelState::Permanent,
        NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => {
            KernelState::Unconfirmed
        }
        NeighbourState::Failed => KernelState::Failed,
        _ => KernelState::Incomplete,
    }
}

/// The address of a neighbor entry and, if it has one of Ethernet, its MAC address.
pub fn read_neighbor(entry: &NeighbourMessage) -> Option<(IpAddr, Option<[u8; 6]>)> {
    let mut address = None;
    let mut mac = None;
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some((address?, mac))
}

pub(crate) fn read_vlan(message: &LinkMessage) -> Option<(u32, u16)> {
    let mut parent = None;
    let mut id = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Data(InfoData::Vlan(facts)) = info {
                        id = facts.iter().find_map(|fact| match fact {
                            InfoVlan::Id(id) => Some(*id),
                            _ => None,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    Some((parent?, id?))
}

fn read_route(route: &RouteMessage) -> Route {
    if route.header.kind == RouteType::Local {
        return Route::Local;
    }
    let (mut link, mut gateway, mut source) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some(IpAddr::V6(*v6)),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            // An IPv4 route by an IPv6 gateway (RFC 5549).
            RouteAttribute::Via(netlink_packet_route::route::RouteVia::Inet6(v6)) => {
                gateway = Some(IpAddr::V6(*v6));
            }
            _ => {}
        }
    }
    match (route.header.kind, link) {
        (RouteType::Unicast, Some(link)) => Route::Out { link, gateway, source },
        (kind, _) => Route::None(format!("{kind:?}").to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::link::InfoKind;
    use netlink_packet_route::route::RouteVia;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const V4: Ipv4Addr = Ipv4Addr::new(172, 17, 100, 1);
    const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1);

    #[test]
    fn a_vlan_device_names_what_is_below_it_and_its_id() {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Link(2));
        assert_eq!(read_vlan(&message), None, "a veth has a link too");
        let data = LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(5)]));
        let info = vec![LinkInfo::Kind(InfoKind::Vlan), data];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        assert_eq!(read_vlan(&message), Some((2, 5)));
    }

    #[test]
    fn a_neighbor_has_an_address_and_perhaps_a_mac() {
        let mut message = NeighbourMessage::default();
        assert_eq!(read_neighbor(&message), None);
        let of = NeighbourAttribute::Destination;
        message.attributes.push(of(NeighbourAddress::Inet6(V6)));
        assert_eq!(read_neighbor(&message), Some((V6.into(), None)));
        message.attributes = vec![
            of(NeighbourAddress::Inet(V4)),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
        ];
        assert_eq!(read_neighbor(&message), Some((V4.into(), Some([2, 0, 0, 0, 0, 1]))));
        // An address of another length (InfiniBand has 20 bytes) is none that Ethernet can use.
        message.attributes[1] = NeighbourAttribute::LinkLayerAddress(vec![0; 20]);
        assert_eq!(read_neighbor(&message), Some((V4.into(), None)));
    }

    #[test]
    fn a_route_says_by_which_link_and_gateway() {
        let mut route = RouteMessage::default();
        route.header.kind = RouteType::Unicast;
        assert!(matches!(read_route(&route), Route::None(_)));
        route.attributes.push(RouteAttribute::Oif(3));
        let out = |gateway, source| Route::Out { link: 3, gateway, source };
        assert_eq!(read_route(&route), out(None, None));
        for (address, own) in
            [(RouteAddress::Inet(V4), V4.into()), (RouteAddress::Inet6(V6), V6.into())]
        {
            let mut route = route.clone();
            route.attributes.push(RouteAttribute::PrefSource(address));
            assert_eq!(read_route(&route), out(None, Some(own)), "the director's own address");
        }
        for (attribute, gateway) in [
            (RouteAttribute::Gateway(RouteAddress::Inet(V4)), V4.into()),
            (RouteAttribute::Gateway(RouteAddress::Inet6(V6)), V6.into()),
            (RouteAttribute::Via(RouteVia::Inet6(V6)), V6.into()),
        ] {
            let mut route = route.clone();
            route.attributes.push(attribute);
            assert_eq!(read_route(&route), out(Some(gateway), None));
        }
        route.header.kind = RouteType::Local;
        assert_eq!(read_route(&route), Route::Local);
        route.header.kind = RouteType::BlackHole;
        assert_eq!(read_route(&route), Route::None("blackhole".into()));
    }

    #[test]
    fn the_kernels_states_are_told_apart() {
        for (state, expected) in [
            (NeighbourState::None, KernelState::Incomplete),
            (NeighbourState::Incomplete, KernelState::Incomplete),
            (NeighbourState::Reachable, KernelState::Reachable),
            (NeighbourState::Noarp, KernelState::Permanent),
            (NeighbourState::Stale, KernelState::Unconfirmed),
            (NeighbourState::Delay, KernelState::Unconfirmed),
            (NeighbourState::Probe, KernelState::Unconfirmed),
            (NeighbourState::Failed, KernelState::Failed),
            (NeighbourState::Permanent, KernelState::Permanent),
        ] {
            assert_eq!(kernel_state(state), expected, "{state:?}");
        }
    }
}
