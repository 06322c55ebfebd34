//! Does what [`crate::vips`] decides: looks at the machine's links and addresses, adds and removes
//! VIPs, asks and tells the links who has them; and hears who else says so (ARP and neighbor
//! discovery), which also tells [`crate::neighbors`] where a real server has moved.

use crate::addresses;
use crate::clock;
use crate::layer2::frames::{
    Claim, arp_probe, duplicate_solicitation, gratuitous_arp, solicitation,
    unsolicited_advertisement,
};
use crate::layer2::who_has::{Ear, who_has};
use crate::neighbors::{Neighbors, Reach};
use crate::netlink;
use crate::netlink_read::{self, Connection, Task};
use crate::service_name::ServiceName;
use crate::supervisor::Supervisor;
use crate::vip_claims::{Whose, duplicate};
use crate::vip_ground::{Ground, LinkSeen};
use crate::vips::{Act, Held};
use crate::{say, warn};
use futures_util::StreamExt;
use nix::errno::Errno;
use rtnetlink::{Handle, MulticastGroup};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

/// Time between two looks at what the machine has, and at what is to be done, at least.
const TICK: Duration = Duration::from_millis(100);
/// The same at most, while nothing happens.
const REST: Duration = Duration::from_secs(1);
/// How long those who have a VIP get to say so before it is added: three questions in 300 ms, and
/// 200 ms more.
const PATIENCE: Duration = Duration::from_millis(500);
/// VIPs that are asked about at the same time.
const ASKED_AT_ONCE: usize = 64;
/// How long the removal of all VIPs may hold up the end.
const END: Duration = Duration::from_millis(500);
/// Rest before the kernel's sockets are opened again.
const REOPEN: Duration = Duration::from_secs(1);
/// Rest before it is tried again to listen on a link.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
/// Claims handled before the workers are told, at most.
const AT_ONCE: usize = 1_000;
/// What the kernel is told of the machine's links and addresses by.
const GROUPS: &[MulticastGroup] =
    &[MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

type Shared = Arc<Mutex<Supervisor>>;
/// An address, and who says that they have it: on which link.
type Heard = (u32, Claim);
/// Who has a VIP, as was answered on a link.
type Answer = (IpAddr, u32, io::Result<BTreeSet<[u8; 6]>>);

/// Why the VIPs keep a director from starting.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// Other machines answer for some. One line for each VIP.
    #[error(
        "{}\nNothing was taken over. Start again when nobody answers any more, or set in the config duplicate_vip = \"take\" to start all the same, manage_vip = false if other hands (keepalived) move VIPs between directors",
        .0.join("\n")
    )]
    Duplicate(Vec<String>),
    /// The kernel cannot be asked.
    #[error("cannot look after the VIPs: {0}")]
    Kernel(String),
}

/// An ear on a link, and the task that listens.
struct Listening {
    ear: Arc<Ear>,
    task: Task,
}

/// Looks after the VIPs.
pub struct VipCare {
    supervisor: Shared,
    wanted: Arc<Notify>,
    handle: Handle,
    /// Told when links or addresses change.
    changed: Arc<Notify>,
    /// Ends when that cannot be told any more.
    notifications: Task,
    _connections: [Task; 2],
    ground: Ground,
    /// By link, and whether it is for IPv4.
    ears: HashMap<(u32, bool), Listening>,
    /// Links on which that could not be had, as it was said.
    deaf: BTreeSet<u32>,
    heard: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
    asking: Arc<Semaphore>,
}

/// Finds out who else has the VIPs, and adds and announces those that nobody has. To be called
/// when the packets for them would be forwarded.
pub async fn start(supervisor: &Shared) -> Result<VipCare, VipError> {
    let mut care = VipCare::open(supervisor.clone()).await.map_err(VipError::Kernel)?;
    care.look().await.map_err(VipError::Kernel)?;
    care.act().await.map_err(VipError::Kernel)?;
    let mut duplicates = Vec::new();
    while supervisor.lock().await.vips.asking() {
        let Some(answer) = care.answers.1.recv().await else { break };
        duplicates.extend(care.answered(answer).await);
    }
    if !duplicates.is_empty() {
        return Err(VipError::Duplicate(duplicates));
    }
    care.act().await.map_err(VipError::Kernel)?;
    Ok(care)
}

/// Looks after the VIPs as long as it is let. `begun`: by [`start`], unless that has come to an end.
pub async fn watch(supervisor: Shared, mut begun: Option<VipCare>) -> Infallible {
    loop {
        let mut care = match begun.take() {
            Some(care) => care,
            None => reopened(&supervisor).await,
        };
        let Err(reason) = care.go_on().await;
        warn!("the VIPs cannot be looked after ({reason}); trying again");
    }
}

async fn reopened(supervisor: &Shared) -> VipCare {
    let care = loop {
        tokio::time::sleep(REOPEN).await;
        if let Ok(care) = VipCare::open(supervisor.clone()).await {
            break care;
        }
    };
    // The answers to what was being asked went with the one before.
    let vips = &mut supervisor.lock().await.vips;
    let asked: Vec<IpAddr> = vips.addresses().collect();
    asked.into_iter().for_each(|vip| vips.unanswered(vip));
    care
}

/// Removes the VIPs that are shunt's. To be called while packets for them are still forwarded:
/// afterwards the kernel would answer them, with a reset, as long as it has the VIP.
pub async fn end(supervisor: &Supervisor) {
    let served: Vec<u32> = supervisor.interfaces.iter().map(|served| served.index).collect();
    remove(&served, |ground| supervisor.vips.own(ground)).await;
}

/// As [`end`], where a change that hangs keeps the supervisor from saying which VIPs these are: all
/// with shunt's mark on these served interfaces. Without it the kernel would have them for good.
pub async fn end_by_mark(served: &[u32]) {
    remove(served, |ground| ground.marked().collect()).await;
}

/// What stays, the kernel answers from then on: it is said.
async fn remove(served: &[u32], which: impl FnOnce(&Ground) -> Vec<(IpAddr, u32)>) {
    let remove = async {
        let Connection { handle, _asking } = Connection::open()?;
        let ground = read_ground(&handle, served).await?;
        for (vip, link) in which(&ground) {
            if let Err(reason) = addresses::remove(&handle, link, vip).await {
                warn!("cannot remove VIP {vip}: {reason}");
            }
        }
        Ok::<_, String>(())
    };
    let done = timeout(END, remove).await;
    let in_time = done.unwrap_or_else(|_| Err("the kernel is not done in time".to_owned()));
    if let Err(reason) = in_time {
        warn!("cannot remove the VIPs ({reason}): what stays, the kernel answers with resets");
    }
}

impl VipCare {
    async fn open(supervisor: Shared) -> Result<VipCare, String> {
        let opened = rtnetlink::new_multicast_connection(GROUPS);
        let (connection, _, mut events) = opened.map_err(|error| error.to_string())?;
        let listening = Task(tokio::spawn(connection));
        let changed = Arc::new(Notify::new());
        let tell = changed.clone();
        let notifications = Task(tokio::spawn(async move {
            // An overrun (ENOBUFS) is an event, too: whatever it is, everything is read anew.
            while events.next().await.is_some() {
                tell.notify_one();
            }
        }));
        let Connection { handle, _asking: asking } = Connection::open()?;
        let wanted = supervisor.lock().await.vips_wanted.clone();
        Ok(VipCare {
            supervisor,
            wanted,
            handle,
            changed,
            notifications,
            _connections: [listening, asking],
            ground: Ground::default(),
            ears: HashMap::new(),
            deaf: BTreeSet::new(),
            heard: mpsc::channel(AT_ONCE),
            answers: mpsc::unbounded_channel(),
            asking: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
        })
    }

    async fn go_on(&mut self) -> Result<Infallible, String> {
        let mut changed = true;
        let mut looked = Instant::now();
        let mut at = looked;
        loop {
            tokio::select! {
                () = self.changed.notified() => {
                    changed = true;
                    // A link that is up again soon is to be seen while it is down.
                    if looked.elapsed() >= TICK {
                        (looked, changed) = (Instant::now(), false);
                        self.look().await?;
                    }
                }
                () = self.wanted.notified() => changed = true,
                Some(heard) = self.heard.1.recv() => {
                    let mut burst = vec![heard];
                    while burst.len() < AT_ONCE && let Ok(heard) = self.heard.1.try_recv() {
                        burst.push(heard);
                    }
                    if !self.hear(burst).await {
                        continue;
                    }
                }
                Some(answer) = self.answers.1.recv() => {
                    self.answered(answer).await;
                }
                () = sleep_until(at) => {
                    if self.notifications.0.is_finished() {
                        return Err("the kernel's notifications have ended".to_owned());
                    }
                    // Many changes that come together are looked at once.
                    let deaf = self.is_deaf() && looked.elapsed() >= LISTEN_AGAIN;
                    if std::mem::take(&mut changed) || deaf {
                        looked = Instant::now();
                        self.look().await?;
                    }
                    self.act().await?;
                    let rest = self.supervisor.lock().await.vips.rest(clock::now());
                    at = Instant::now() + Duration::from_millis(rest).clamp(TICK, REST);
                    continue;
                }
            }
            // Whatever happened, there may be something to do for it.
            at = at.min(Instant::now() + TICK);
        }
    }

    /// Reads what the machine has, and listens where VIPs and real servers are.
    async fn look(&mut self) -> Result<(), String> {
        let served: Vec<u32> = {
            let supervisor = self.supervisor.lock().await;
            supervisor.interfaces.iter().map(|served| served.index).collect()
        };
        self.ground = read_ground(&self.handle, &served).await?;
        let places = self.tell_ground().await;
        self.listen(&places);
        Ok(())
    }

    /// Tells the supervisor what the machine has. Returns the links on which VIPs and real servers
    /// are, each with whether IPv4 is spoken.
    async fn tell_ground(&self) -> BTreeSet<(u32, bool)> {
        let supervisor = &mut *self.supervisor.lock().await;
        let names = |vip: IpAddr| {
            let services = supervisor.services.services();
            let names = services.filter(|(_, service)| service.key.address == vip);
            let names: Vec<String> =
                names.map(|(_, service)| ServiceName(service.key).to_string()).collect();
            names.join(", ")
        };
        supervisor.vips.look(&self.ground, names, clock::now());
        let mut places: BTreeSet<(u32, bool)> = BTreeSet::new();
        for vip in supervisor.vips.addresses() {
            places.extend(supervisor.vips.link(vip).map(|link| (link, vip.is_ipv4())));
        }
        for server in supervisor.neighbors.addresses() {
            if let Some(Reach::OnLink { link, .. }) = supervisor.neighbors.reach(server) {
                places.insert((*link, server.is_ipv4()));
            }
        }
        places
    }

    fn listen(&mut self, places: &BTreeSet<(u32, bool)>) {
        self.ears
            .retain(|place, listening| places.contains(place) && !listening.task.0.is_finished());
        let mut deaf = BTreeSet::new();
        for &(link, v4) in places {
            if self.ears.contains_key(&(link, v4)) {
                continue;
            }
            let ear = match Ear::open(link, v4) {
                Ok(ear) => Arc::new(ear),
                Err(error) => {
                    self.tell_deaf(link, &error);
                    deaf.extend(self.ground.link(link).map(|link| link.index));
                    continue;
                }
            };
            let (listener, to) = (ear.clone(), self.heard.0.clone());
            let listen = async move {
                while let Ok(claim) = listener.hear().await {
                    // If there is no room, others say the same and will say it again.
                    let _ = to.try_send((link, claim));
                }
            };
            self.ears.insert((link, v4), Listening { ear, task: Task(tokio::spawn(listen)) });
        }
        self.deaf = deaf;
    }

    /// Without an ear nothing is announced either. A link that has just gone is no loss.
    fn tell_deaf(&self, link: u32, error: &io::Error) {
        let Some(seen) = self.ground.link(link).filter(|_| !self.deaf.contains(&link)) else {
            return;
        };
        if !is_of_the_link(error) {
            warn!(
                "VIPs on {} are not announced, and who else claims them is not heard: no packet socket can be opened ({error}); trying again",
                seen.name
            );
        }
    }

    /// Whether some link is not listened to that should be.
    fn is_deaf(&self) -> bool {
        !self.deaf.is_empty() || self.ears.values().any(|ear| ear.task.0.is_finished())
    }

    /// Does what is due. What is added is announced at once.
    async fn act(&mut self) -> Result<(), String> {
        loop {
            let acts = self.supervisor.lock().await.vips.due(clock::now());
            let mut changed = false;
            for act in acts {
                match act {
                    Act::Say(sentence) => say!("{sentence}"),
                    Act::Warn(sentence) => warn!("{sentence}"),
                    Act::Ask(vip, link) => self.ask(vip, link),
                    Act::Announce(vip, link) => {
                        if !self.announce(vip, link) {
                            self.supervisor.lock().await.vips.unannounced(vip, clock::now());
                        }
                    }
                    Act::Probe(vip, link) => self.probe(vip, link).await,
                    Act::Add(vip, link) => {
                        let result = addresses::add(&self.handle, link, vip).await;
                        changed |= result.is_ok();
                        self.supervisor.lock().await.vips.added(vip, link, result, clock::now());
                    }
                    Act::Remove(vip, link) => {
                        // It may have gone by itself, or with its link.
                        let _ = addresses::remove(&self.handle, link, vip).await;
                    }
                }
            }
            if !changed {
                return Ok(());
            }
            self.look().await?;
        }
    }

    fn mac(&self, link: u32) -> Option<[u8; 6]> {
        self.ground.link(link)?.mac
    }

    fn ask(&self, vip: IpAddr, link: u32) {
        let (to, asking) = (self.answers.0.clone(), self.asking.clone());
        let mac = self.mac(link);
        tokio::spawn(async move {
            let _turn = asking.acquire().await;
            let answer = match mac {
                Some(mac) => who_has(link, mac, vip, PATIENCE).await,
                None => Ok(BTreeSet::new()),
            };
            let _ = to.send((vip, link, answer));
        });
    }

    /// Returns a sentence if the VIP is left to others.
    async fn answered(&self, (vip, link, answer): Answer) -> Option<String> {
        let supervisor = &mut *self.supervisor.lock().await;
        if !supervisor.vips.asks(vip, link) {
            // It belongs on another link by now.
            return None;
        }
        let macs = match answer {
            Ok(macs) => macs,
            Err(error) if is_of_the_link(&error) => {
                supervisor.vips.unanswered(vip);
                return None;
            }
            Err(error) => {
                warn!("cannot ask who else has VIP {vip}: {error}");
                BTreeSet::new()
            }
        };
        let own = self.ground.macs();
        let by: BTreeMap<_, _> = macs
            .difference(&own)
            .map(|&mac| (mac, owner(&supervisor.neighbors, mac, vip)))
            .collect();
        let left = supervisor.vips.answered(vip, &by, clock::now());
        left.then(|| duplicate(vip, &by))
    }

    /// Returns whether it was said.
    fn announce(&self, vip: IpAddr, link: u32) -> bool {
        let Some(mac) = self.mac(link) else { return false };
        let frame = match vip {
            IpAddr::V4(vip) => gratuitous_arp(mac, vip),
            IpAddr::V6(vip) => unsolicited_advertisement(mac, vip),
        };
        self.tell(vip, link, &frame)
    }

    async fn probe(&self, vip: IpAddr, link: u32) {
        let Some(mac) = self.mac(link) else { return };
        let frame = match vip {
            IpAddr::V4(vip) => arp_probe(mac, vip),
            IpAddr::V6(vip) => match self.source(link).await {
                Some(source) => solicitation(mac, source, vip),
                None => duplicate_solicitation(mac, vip),
            },
        };
        self.tell(vip, link, &frame);
    }

    /// An address of the link's own that is no VIP: an answer to it tells nobody else anything.
    async fn source(&self, link: u32) -> Option<Ipv6Addr> {
        let vips: BTreeSet<IpAddr> = self.supervisor.lock().await.vips.addresses().collect();
        let own = self.ground.addresses.iter().filter(|own| own.link == link);
        let own = own.filter(|own| !own.by_shunt && !vips.contains(&own.address));
        own.filter_map(|own| match own.address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
        .max_by_key(Ipv6Addr::is_unicast_link_local)
    }

    fn tell(&self, vip: IpAddr, link: u32, frame: &[u8]) -> bool {
        let listening = self.ears.get(&(link, vip.is_ipv4()));
        listening.is_some_and(|listening| listening.ear.say(frame).is_ok())
    }

    /// Returns whether one of the VIPs is claimed, which is news.
    async fn hear(&self, burst: Vec<Heard>) -> bool {
        let own = self.ground.macs();
        let supervisor = &mut *self.supervisor.lock().await;
        let now = clock::now();
        let (mut moved, mut news) = (false, false);
        for (link, Claim { address, mac }) in burst {
            let is_own = own.contains(&mac);
            if !is_own {
                moved |= supervisor.neighbors.heard(link, address, mac, now);
            }
            if supervisor.vips.held(address) == Held::Absent {
                continue;
            }
            let whose = match owner(&supervisor.neighbors, mac, address) {
                _ if is_own => match self.ground.beside(link, mac) {
                    Some(name) => Whose::Own(name.to_owned()),
                    None => continue,
                },
                Some(server) => Whose::Server(server),
                None => Whose::Unknown,
            };
            news |= supervisor.vips.claimed(link, address, mac, whose, now);
        }
        netlink::tell(supervisor, moved).await;
        news
    }
}

/// Whether an error says that the link is down, or gone.
fn is_of_the_link(error: &io::Error) -> bool {
    let gone = [Errno::ENODEV, Errno::ENXIO].map(|gone| Some(gone as i32));
    error.kind() == io::ErrorKind::NetworkDown || gone.contains(&error.raw_os_error())
}

/// The real server that a MAC address belongs to; by its address of the VIP's family, if it has
/// several.
pub fn owner(neighbors: &Neighbors, mac: [u8; 6], vip: IpAddr) -> Option<IpAddr> {
    let its = || neighbors.addresses().filter(|&address| neighbors.mac(address) == Some(mac));
    its().find(|address| address.is_ipv4() == vip.is_ipv4()).or_else(|| its().next())
}

/// The machine's links and addresses. `served` holds the indices of the served interfaces.
pub async fn read_ground(handle: &Handle, served: &[u32]) -> Result<Ground, String> {
    // First: whoever has lost an address to a link that went down is then seen to have no link.
    let addresses = addresses::list(handle).await?;
    let known = netlink_read::read_links(handle).await?;
    let seen = known.all().map(|(index, link)| LinkSeen {
        index,
        name: link.name.clone(),
        mac: link.mac,
        served: known.served_by(served, index),
        up: link.carrier,
        downs: known.downs(index),
    });
    let links = seen.collect();
    Ok(Ground { links, addresses })
}

/// Whether a VIP is on the director, whoever put it there.
pub fn is_held(supervisor: &Supervisor, vip: IpAddr) -> bool {
    supervisor.vips.held(vip) != Held::Absent
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::{Family, MachineLock, NIC, Plan, vip};
    use nix::net::if_::if_nametoindex;

    #[test]
    fn a_director_that_hangs_leaves_no_vip_of_its_own_behind() {
        let _lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("end-by-mark").build().unwrap();
        let others = vip(Family::V4);
        let own: IpAddr = [172, 17, 100, 101].into();
        let left = topology.director.run(|| {
            let (link, lo) = (if_nametoindex(NIC).unwrap(), if_nametoindex("lo").unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let connection = Connection::open().unwrap();
                for link in [link, lo] {
                    addresses::add(&connection.handle, link, own).await.unwrap();
                }
                end_by_mark(&[link]).await;
                let all = addresses::list(&connection.handle).await.unwrap();
                let of = |address| all.iter().filter(move |own| own.address == address);
                let links = |address| of(address).map(|own| own.link).collect::<Vec<u32>>();
                assert_eq!(links(others), [link], "by other hands");
                assert_eq!(links(own), [lo], "not on a served interface");
            });
        });
        left.unwrap();
    }
}
