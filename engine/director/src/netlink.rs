//! Carries messages between the kernel and [`crate::neighbors`]: what its neighbor table, links,
//! addresses and routes say, and what it is asked to resolve or to confirm.
//!
//! Two sockets: one only listens, so that an overrun of it (ENOBUFS) cannot swallow the answer to
//! a question asked on the other. After an overrun everything is read anew.

use crate::apart;
use crate::clock;
use crate::from_vip::{self, FromVips};
use crate::links::Links;
use crate::mac::{Mac, mac_text};
use crate::neighbors::{Ask, AskKind, NeighborState};
use crate::netlink_read::{self, ANSWER, Connection, Task, kernel_state, read_neighbor};
use crate::supervisor::Supervisor;
use crate::{say, warn};
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::{Handle, MulticastGroup};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Rest between two readings of links, addresses and routes: a router's table may change often.
const SURROUNDINGS: Duration = Duration::from_secs(1);
/// Rest between two looks for something to ask, at least.
const REST_MIN: Duration = Duration::from_millis(20);
/// And at most, while nothing is due.
const REST_MAX: Duration = Duration::from_secs(5);
/// Rest before the sockets are opened again.
const REOPEN: Duration = Duration::from_secs(1);
/// Notifications handled before the workers are told, at most.
const EVENTS_AT_ONCE: usize = 1_000;

const GROUPS: &[MulticastGroup] = &[
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

type Shared = Arc<Mutex<Supervisor>>;
type Event = NetlinkMessage<RouteNetlinkMessage>;

/// A served interface is not what it was when its queues were opened, so that this director cannot
/// serve it any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It has vanished.
    #[error(
        "interface {0:?} is gone: its driver was unloaded, or it was removed or moved; start shunt again when it is back"
    )]
    Gone(String),
    /// The XDP program leaves all packets to its new MAC address to the kernel, which resets them.
    #[error(
        "interface {interface:?} has the MAC address {} now, it had {} when shunt opened it, and its queues are for that: start shunt again (systemd does, by config/shunt.service)",
        mac_text(*to),
        mac_text(*from)
    )]
    OtherMac {
        /// Its name.
        interface: String,
        /// The one before.
        from: Mac,
        /// The one now.
        to: Mac,
    },
}

/// What was said already.
#[derive(Default)]
struct Told {
    from_vips: FromVips,
}

/// Why a watch ends.
enum End {
    Lost(Lost),
    /// The kernel cannot be asked: why.
    Broken(String),
}

impl<T: Into<String>> From<T> for End {
    fn from(reason: T) -> End {
        End::Broken(reason.into())
    }
}

/// Keeps the supervisor's neighbors as the kernel has them, as long as its interfaces are what they
/// were.
pub async fn watch(supervisor: Shared) -> Lost {
    let mut told = Told::default();
    loop {
        match watch_until_end(&supervisor, &mut told).await {
            Err(End::Lost(lost)) => return lost,
            Err(End::Broken(reason)) => {
                warn!("neighbors cannot be watched ({reason}); trying again");
                tokio::time::sleep(REOPEN).await;
            }
        }
    }
}

async fn watch_until_end(supervisor: &Shared, told: &mut Told) -> Result<Infallible, End> {
    let opened = rtnetlink::new_multicast_connection(GROUPS);
    let (connection, _, mut events) = opened.map_err(|error| error.to_string())?;
    let _listening = Task(tokio::spawn(connection));
    let asking = Connection::open()?;

    let (wanted, due, served) = {
        let supervisor = supervisor.lock().await;
        let served = supervisor.interfaces.iter().map(|interface| interface.index).collect();
        (supervisor.neighbors_wanted.clone(), supervisor.neighbors_due.clone(), served)
    };
    let mut watcher = Watcher {
        supervisor,
        handle: asking.handle.clone(),
        served,
        told,
        surroundings_changed: true,
        looked: Instant::now(),
    };
    watcher.look_around().await?;
    loop {
        let rest = watcher.rest().await;
        tokio::select! {
            event = events.next() => {
                let (event, _) = event.ok_or("the kernel's notifications have ended")?;
                let mut burst = vec![event];
                while burst.len() < EVENTS_AT_ONCE
                    && let Some(Some((event, _))) = events.next().now_or_never()
                {
                    burst.push(event);
                }
                watcher.hear(burst).await?;
            }
            () = wanted.notified() => watcher.look_around().await?,
            () = due.notified() => watcher.ask().await,
            () = tokio::time::sleep(rest) => {
                if watcher.surroundings_changed && watcher.looked.elapsed() >= SURROUNDINGS {
                    watcher.looked = Instant::now();
                    watcher.look_around().await?;
                }
                watcher.ask().await;
            }
        }
    }
}

struct Watcher<'a> {
    supervisor: &'a Shared,
    handle: Handle,
    /// Indices of the served interfaces.
    served: Vec<u32>,
    told: &'a mut Told,
    /// Links, addresses or routes changed since they were last read.
    surroundings_changed: bool,
    /// When they were last read for that.
    looked: Instant,
}

impl Watcher<'_> {
    async fn hear(&mut self, events: Vec<Event>) -> Result<(), End> {
        let mut overrun = false;
        let mut link_changed = false;
        let mut neighbors = Vec::new();
        for event in events {
            match event.payload {
                NetlinkPayload::Overrun(_) => overrun = true,
                NetlinkPayload::InnerMessage(message) => match message {
                    RouteNetlinkMessage::NewNeighbour(entry) => neighbors.push((entry, true)),
                    RouteNetlinkMessage::DelNeighbour(entry) => neighbors.push((entry, false)),
                    // A bridge says DelLink too, of a link that only leaves it: what is true is
                    // in the dump.
                    RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                        if self.served.contains(&link.header.index) =>
                    {
                        link_changed = true;
                    }
                    _ => self.surroundings_changed = true,
                },
                _ => {}
            }
        }
        self.learn(neighbors, false).await;
        if overrun {
            say!("the kernel sent more notifications than could be read: reading everything anew");
        }
        // Without the rest that follows other changes: no packet comes or goes until this is known.
        if overrun || link_changed {
            self.look_around().await?;
        }
        Ok(())
    }

    /// Tells the supervisor, and the workers if it matters to them. `dump`: this is all there is.
    async fn learn(&mut self, entries: Vec<(NeighbourMessage, bool)>, dump: bool) {
        let mut supervisor = self.supervisor.lock().await;
        let now = clock::now();
        let mut changed = false;
        if dump {
            supervisor.neighbors.begin_dump();
        }
        for (entry, exists) in &entries {
            let Some((address, mac)) = read_neighbor(entry) else { continue };
            let link = entry.header.ifindex;
            if *exists {
                let state = kernel_state(entry.header.state);
                changed |= supervisor.neighbors.learned(link, address, state, mac, now);
            } else {
                supervisor.neighbors.deleted(link, address, now);
            }
        }
        if dump {
            supervisor.neighbors.end_dump(now);
        }
        tell(&mut supervisor, changed).await;
    }

    /// How long there is nothing to do, if nothing happens.
    async fn rest(&self) -> Duration {
        let due = self.supervisor.lock().await.neighbors.due_at();
        let rest = due.map(|due| Duration::from_millis(due.saturating_sub(clock::now())));
        let longest = if self.surroundings_changed {
            SURROUNDINGS.saturating_sub(self.looked.elapsed()).max(REST_MIN)
        } else {
            REST_MAX
        };
        rest.unwrap_or(longest).clamp(REST_MIN, longest)
    }

    /// Asks the kernel for what is due.
    async fn ask(&mut self) {
        let asks = {
            let mut supervisor = self.supervisor.lock().await;
            let (asks, changed) = supervisor.neighbors.due(clock::now());
            tell(&mut supervisor, changed).await;
            asks
        };
        let (probes, before): (Vec<Ask>, Vec<Ask>) =
            asks.into_iter().partition(|ask| ask.kind == AskKind::Probe);
        for asks in [before, probes] {
            // All at once, which costs one wake-up and not one for each. An error is as good as
            // no answer: the entry is asked for again later, and a listing shows its state. The
            // likely ones are a link that is down, and an entry that went away between the
            // decision to probe it and this request.
            let _ = timeout(ANSWER, join_all(asks.into_iter().map(|ask| self.send(ask)))).await;
        }
    }

    async fn send(&self, ask: Ask) -> Result<(), rtnetlink::Error> {
        let request = self.handle.neighbours().add(ask.link, ask.address).replace();
        match ask.kind {
            // NTF_USE makes the kernel resolve the entry as if it had a packet to send.
            AskKind::Resolve => {
                request.state(NeighbourState::None).flags(NeighbourFlags::Use).execute().await
            }
            AskKind::Tell(mac) => {
                request.state(NeighbourState::Stale).link_layer_address(&mac).execute().await
            }
            // Without NLM_F_CREATE: only what exists can be probed.
            AskKind::Probe => {
                let mut request = request.state(NeighbourState::Probe);
                let entry = request.message_mut().clone();
                let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(entry));
                message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
                let mut answers = self.handle.clone().request(message)?;
                while let Some(answer) = answers.next().await {
                    if let NetlinkPayload::Error(error) = answer.payload {
                        return Err(rtnetlink::Error::NetlinkError(error));
                    }
                }
                Ok(())
            }
        }
    }

    /// Reads links, addresses, the way to every real server, and the neighbor table.
    async fn look_around(&mut self) -> Result<(), End> {
        self.surroundings_changed = false;
        let links = netlink_read::read_links(&self.handle).await?;
        self.look_at_served(&links).await.map_err(End::Lost)?;
        let addresses: Vec<IpAddr> = self.supervisor.lock().await.neighbors.addresses().collect();
        let mut reaches = Vec::new();
        for address in addresses {
            reaches.push((
                address,
                links.reach(&self.served, &netlink_read::route(&self.handle, address).await?),
            ));
        }
        let own = links.macs().collect();
        let mut moved = self.supervisor.lock().await.neighbors.set_own(own, clock::now());
        moved |= self.place(reaches).await;
        let entries = netlink_read::dump_neighbors(&self.handle).await?;
        self.learn(entries.into_iter().map(|entry| (entry, true)).collect(), true).await;
        self.look_from_vips(&links).await;
        self.look_apart(&links).await;
        if moved {
            // What was known on the former link is gone, whatever the dump said of the new one.
            if let Err(error) = self.supervisor.lock().await.publish().await {
                warn!("{error}");
            }
        }
        self.ask().await;
        Ok(())
    }

    /// Whether the served interfaces are still what they were, and have a carrier.
    async fn look_at_served(&self, links: &Links) -> Result<(), Lost> {
        let supervisor = &mut *self.supervisor.lock().await;
        for (number, interface) in supervisor.interfaces.iter_mut().enumerate() {
            let name = &interface.name;
            let carrier = links.carrier(interface.index).ok_or_else(|| Lost::Gone(name.clone()))?;
            if let Some(to) = links.mac(interface.index).filter(|&mac| mac != interface.mac) {
                let (interface, from) = (name.clone(), interface.mac);
                return Err(Lost::OtherMac { interface, from, to });
            }
            match (interface.carrier, carrier) {
                (true, false) => warn!("{name} is down: no packet comes or goes until it is up"),
                (false, true) => {
                    say!("{name} is up again");
                    supervisor.neighbors.link_up(number, clock::now());
                }
                _ => {}
            }
            interface.carrier = carrier;
        }
        Ok(())
    }

    /// Whether the kernel would speak to real servers from a VIP.
    async fn look_from_vips(&mut self, links: &Links) {
        let supervisor = self.supervisor.lock().await;
        let vips = supervisor.services().services().map(|(_, service)| service.key.address);
        let found = from_vip::find(&supervisor.neighbors, &vips.collect());
        for ((vip, link), servers) in &found {
            if self.told.from_vips.get(&(*vip, *link)) != Some(servers) {
                warn!("{}", from_vip::sentence(*vip, &links.name(*link), servers));
            }
        }
        self.told.from_vips = found;
    }

    /// Whether real servers are where packets for their VIP come in.
    async fn look_apart(&self, links: &Links) {
        let supervisor = &mut *self.supervisor.lock().await;
        let found = apart::find(&supervisor.services, &supervisor.neighbors, links, &self.served);
        for (place, sentence) in &found {
            if supervisor.apart.get(place) != Some(sentence) {
                warn!("flows of real server {} do not get there: {sentence}", place.1);
            }
        }
        supervisor.apart = found;
    }

    async fn place(&mut self, reaches: Vec<(IpAddr, crate::neighbors::Reach)>) -> bool {
        let mut supervisor = self.supervisor.lock().await;
        let mut moved = false;
        for (address, reach) in reaches {
            let before = supervisor.neighbors.state(address);
            if supervisor.neighbors.place(address, reach) {
                moved = true;
                // What it says of itself is heard there.
                supervisor.vips_wanted.notify_one();
                if let Some(reason) = supervisor.neighbors.impossible(address) {
                    warn!("real server {address} gets no flows: {reason}");
                } else if before == NeighborState::Impossible {
                    say!("real server {address} can be reached now");
                }
            }
        }
        moved
    }
}

/// Says what happened to neighbors, and tells the workers if it matters to them.
pub(crate) async fn tell(supervisor: &mut Supervisor, changed: bool) {
    for event in supervisor.neighbors.take_events() {
        if event.is_warning() {
            warn!("{event}");
        } else {
            say!("{event}");
        }
    }
    if changed && let Err(error) = supervisor.publish().await {
        warn!("{error}");
    }
    if supervisor.neighbors.due_at().is_some_and(|due| due <= clock::now()) {
        supervisor.neighbors_due.notify_one();
    }
}
