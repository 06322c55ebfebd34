//! Reads what a check needs beyond the machine's own facts: ways, sockets, who answers on the wire.

use crate::addresses::holds;
use crate::layer2::who_has::who_has;
use crate::netlink_read::collect;
use crate::rs::check::{HEADERS_V4, HEADERS_V6, Known, Listener, Surroundings, Way};
use crate::rs::facts::{Facts, LinkFacts, conf_folder};
use crate::rs::read;
use crate::rs_cli::{Listens, RsCheckArgs, VipTarget};
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use nix::errno::Errno;
use rtnetlink::proto::new_connection;
use rtnetlink::sys::{SocketAddr as KernelAddress, protocols::NETLINK_SOCK_DIAG};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// How long those on the wire may take to answer.
const PATIENCE: Duration = Duration::from_millis(600);
/// How long the kernel may take to list its sockets.
const ANSWER: Duration = Duration::from_secs(5);
/// Links that are asked on who has a VIP, at most. Hosts of containers have hundreds. Those come
/// first by which the director's packets are most likely to come.
const LINKS_MAX: usize = 32;

/// Stand for clients where none is named: addresses that are nobody's (RFC 5737, RFC 3849), so
/// that the way to them is the way to anywhere.
const ANYONE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ANYONE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Looks at everything that the arguments ask for.
pub async fn look(arguments: &RsCheckArgs) -> Result<(Known, Vec<Surroundings>), String> {
    let handle = read::open()?;
    let facts = read::facts(&handle).await?;
    let client = arguments.client;
    for VipTarget { address, .. } in &arguments.vips {
        if let Some(client) = client
            && client.is_ipv4() != address.is_ipv4()
        {
            return Err(format!(
                "--client {client} is no client of {address}: name one of the same family"
            ));
        }
    }
    // All at once: most of the time is spent on waiting for who might answer.
    let looks = arguments.vips.iter().map(|&vip| look_around(&handle, &facts, vip, client));
    let surroundings = join_all(looks).await;
    let listeners = listeners(arguments.protocol).await;
    let (interface, protocol) = (arguments.interface.clone(), arguments.protocol);
    Ok((Known { facts, interface, protocol, listeners }, surroundings))
}

async fn look_around(
    handle: &Handle,
    facts: &Facts,
    vip: VipTarget,
    client: Option<IpAddr>,
) -> Surroundings {
    let anyone = if vip.address.is_ipv4() { ANYONE_V4 } else { ANYONE_V6 };
    let to = client.unwrap_or(anyone);
    let present = facts.places(vip.address).next().is_some();
    // Replies come from the VIP, which may have rules of its own (`ip rule`).
    let source = present.then_some(vip.address);
    let back = way(handle, to, source).await;
    let gateway = back.as_ref().ok().and_then(|way| Some((way.link, way.gateway?)));
    let gateway_macs = async {
        match gateway {
            Some((link, gateway)) => macs(handle, facts, link, gateway).await,
            None => Ok(BTreeSet::new()),
        }
    };
    let links = links_to_ask(facts, vip.address, back.as_ref().ok());
    let left_out = links.len().saturating_sub(LINKS_MAX);
    let (owners, gateway_macs) = join(owners(&links, vip.address), gateway_macs).await;
    let arrival = arrival(&links, vip.address, owners.as_ref().ok(), back.as_ref().ok());
    let taken = match arrival {
        Some(link) if present => Some(takes(handle, to, vip.address, link).await),
        _ => None,
    };
    let forwards = arrival.and_then(|link| facts.link_at(link)).is_some_and(|link| {
        let path = forwarding_path(&link.name, vip.address.is_ipv4());
        std::fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
    });
    Surroundings { vip, client, back, arrival, forwards, taken, owners, left_out, gateway_macs }
}

/// Where it is said whether packets that come by an interface are forwarded. For IPv6 what is set
/// for all decides (Linux, net/ipv6/ip6_output.c, ip6_forward).
fn forwarding_path(interface: &str, v4: bool) -> PathBuf {
    let folder =
        if v4 { conf_folder(interface) } else { PathBuf::from("/proc/sys/net/ipv6/conf/all") };
    folder.join("forwarding")
}

/// The links on which somebody may have the VIP: those of its family, and that of the way back. The
/// likeliest come first.
fn links_to_ask<'a>(facts: &'a Facts, vip: IpAddr, back: Option<&Way>) -> Vec<&'a LinkFacts> {
    let leads_back = |link: &LinkFacts| back.is_some_and(|way| way.link == link.index);
    let numbered = |link: &LinkFacts| {
        let mut own = link.addresses.iter().map(|held| held.address);
        own.any(|own| own.is_ipv4() == vip.is_ipv4() && !link_local(own))
    };
    let able = |link: &LinkFacts| link.answers && link.up && link.mac.is_some();
    let links = facts.links.iter();
    let mut links: Vec<&LinkFacts> =
        links.filter(|link| able(link) && (numbered(link) || leads_back(link))).collect();
    links.sort_by_key(|link| !(of_network(link, vip) || leads_back(link)));
    links
}

fn link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether the VIP is of a network of this link.
fn of_network(link: &LinkFacts, vip: IpAddr) -> bool {
    let mut own = link.addresses.iter().filter(|held| held.address != vip);
    own.any(|held| holds(held.address, held.prefix, vip))
}

/// Who answers for the VIP on each link; those without an answer are left out.
async fn owners(
    links: &[&LinkFacts],
    vip: IpAddr,
) -> Result<BTreeMap<u32, BTreeSet<[u8; 6]>>, String> {
    if links.is_empty() {
        return Err("no interface that answers ARP is up and has an address".to_owned());
    }
    let asked = links.iter().take(LINKS_MAX);
    let asked = asked.map(|link| async move { (link.index, answering(link, vip).await) });
    let mut owners = BTreeMap::new();
    for (link, macs) in join_all(asked).await {
        owners.insert(link, macs?);
    }
    owners.retain(|_, macs| !macs.is_empty());
    Ok(owners)
}

/// Who answers for an address on a link. There is nobody on one that is down, or gone by now.
async fn answering(link: &LinkFacts, address: IpAddr) -> Result<BTreeSet<[u8; 6]>, String> {
    let Some(mac) = link.mac else { return Ok(BTreeSet::new()) };
    let error = match who_has(link.index, mac, address, PATIENCE).await {
        Ok(macs) => return Ok(macs),
        Err(error) => error,
    };
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENETDOWN | Errno::ENODEV | Errno::ENXIO) => Ok(BTreeSet::new()),
        // Without the number that Rust adds.
        Some(other) => Err(other.desc().to_owned()),
        None => Err(error.to_string()),
    }
}

/// The link by which the director's packets come: where somebody answers for the VIP; else where
/// its network is; else the one of the way back.
fn arrival(
    links: &[&LinkFacts],
    vip: IpAddr,
    owners: Option<&BTreeMap<u32, BTreeSet<[u8; 6]>>>,
    back: Option<&Way>,
) -> Option<u32> {
    let on_wire = owners.and_then(|owners| owners.keys().next().copied());
    let network = || links.iter().find(|link| of_network(link, vip)).map(|link| link.index);
    on_wire.or_else(network).or_else(|| back.map(|way| way.link))
}

fn request(to: IpAddr, from: Option<IpAddr>, by: Option<u32>) -> RouteMessage {
    match to {
        IpAddr::V4(to) => {
            let mut request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32);
            if let Some(IpAddr::V4(from)) = from {
                request = request.source_prefix(from, 32);
            }
            by.map_or(request.clone(), |link| request.input_interface(link)).build()
        }
        IpAddr::V6(to) => {
            let mut request = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128);
            if let Some(IpAddr::V6(from)) = from {
                request = request.source_prefix(from, 128);
            }
            by.map_or(request.clone(), |link| request.input_interface(link)).build()
        }
    }
}

async fn ask_route(handle: &Handle, request: RouteMessage) -> Result<RouteMessage, String> {
    let answers = collect(handle.route().get(request).execute()).await?;
    answers.into_iter().next().ok_or_else(|| "the kernel has not answered".to_owned())
}

async fn way(handle: &Handle, to: IpAddr, from: Option<IpAddr>) -> Result<Way, String> {
    read_way(&ask_route(handle, request(to, from, None)).await?)
}

fn read_way(route: &RouteMessage) -> Result<Way, String> {
    let (mut link, mut gateway, mut mtu) = (None, None, None::<u32>);
    let v4 = route.header.address_family == AddressFamily::Inet;
    let headers = if v4 { HEADERS_V4 } else { HEADERS_V6 };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::Metrics(metrics) => {
                let limits = metrics.iter().filter_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    RouteMetric::Advmss(segment) => Some(segment.saturating_add(headers)),
                    _ => None,
                });
                mtu = limits.min();
            }
            _ => {}
        }
    }
    match (route.header.kind, link) {
        (RouteType::Unicast, Some(link)) => Ok(Way { link, gateway, mtu }),
        (RouteType::Local, _) => Err("it is this machine itself".to_owned()),
        (kind, _) => Err(format!("{kind:?}").to_lowercase()),
    }
}

/// Whether the kernel takes a packet by a link as its own: this asks its very checks, rp_filter
/// among them.
async fn takes(handle: &Handle, from: IpAddr, to: IpAddr, by: u32) -> Result<(), String> {
    match ask_route(handle, request(to, Some(from), Some(by))).await?.header.kind {
        RouteType::Local => Ok(()),
        other => Err(format!("{other:?}").to_lowercase()),
    }
}

/// Who answers for a neighbor, and what the kernel is sure of.
async fn macs(
    handle: &Handle,
    facts: &Facts,
    link: u32,
    address: IpAddr,
) -> Result<BTreeSet<[u8; 6]>, String> {
    let mut macs = match facts.link_at(link).filter(|link| link.answers) {
        Some(link) => answering(link, address).await?,
        None => BTreeSet::new(),
    };
    macs.extend(known_macs(handle, link, address).await?);
    Ok(macs)
}

/// Whether an entry tells who has the address now. A stale one tells who had it.
fn is_sure(entry: &NeighbourMessage) -> bool {
    matches!(
        entry.header.state,
        NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp
    )
}

/// The MAC address that the kernel knows of a neighbor.
async fn known_macs(
    handle: &Handle,
    link: u32,
    address: IpAddr,
) -> Result<BTreeSet<[u8; 6]>, String> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let entries = collect(handle.neighbours().get().set_address_family(family).execute()).await?;
    let of_link = entries.into_iter().filter(|e| e.header.ifindex == link && is_sure(e));
    let of_address = of_link.filter(|entry| {
        entry.attributes.iter().any(|attribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address == *v4,
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address == *v6,
            _ => false,
        })
    });
    let macs =
        of_address.flat_map(|entry| entry.attributes).filter_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
            _ => None,
        });
    Ok(macs.collect())
}

/// All sockets that wait for connections or datagrams (sock_diag(7)).
async fn listeners(protocol: Listens) -> Result<Vec<Listener>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("sock_diag(7): {error}");
    let (connection, handle, _) =
        new_connection(NETLINK_SOCK_DIAG).map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let (protocol, states) = match protocol {
        Listens::Tcp => (IPPROTO_TCP, StateFlags::LISTEN),
        // What the kernel calls a UDP socket that is not connected.
        Listens::Udp => (IPPROTO_UDP, StateFlags::CLOSE),
    };
    let mut all = Vec::new();
    for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let (extensions, states) = (ExtensionFlags::empty(), states.clone());
        let request = InetRequest { family, protocol, extensions, states, socket_id };
        let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let kernel = KernelAddress::new(0, 0);
        let mut answers = handle.request(message, kernel).map_err(|error| failed(&error))?;
        let gather = async {
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        all.push(read_listener(&response));
                    }
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(failed(&error.to_io()));
                    }
                    _ => {}
                }
            }
            Ok(())
        };
        timeout(ANSWER, gather).await.map_err(|_| failed(&"the kernel does not answer"))??;
    }
    Ok(all)
}

fn read_listener(response: &InetResponse) -> Listener {
    let id = &response.header.socket_id;
    Listener {
        address: SocketAddr::new(id.source_address, id.source_port),
        v6only: response.nlas.contains(&Nla::SkV6Only(true)),
        link: id.interface_id,
    }
}
