//! The check `dr`: whether a real server serves the VIP itself, by the way that packets of flows
//! take.
//!
//! The SYN comes from the director's own address, which the real server answers directly. Its
//! SYN-ACK has the VIP as its source: the XDP program lets it pass, since it is not addressed to
//! the VIP, and a packet socket hears it before the kernel drops it as a martian (the VIP is the
//! director's own).

use super::dr_packet::{Answer, Ends, Question, Reply, Way, ether_type, filter};
use super::source;
use crate::layer2;
use crate::neighbors::{NeighborState, Reach};
use crate::seats::WorkerSeat;
use crate::supervisor::Supervisor;
use dataplane::{Probe, ServerIndex, ServerState, ServiceKey};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use xsk::PacketSocket;

/// A SYN that gets lost, as any packet may, is sent again after this part of the patience.
const TRIES: u32 = 2;
/// How often it is looked whether a new real server's MAC address is known by now.
const FOUND_CHECK: Duration = Duration::from_millis(20);
const NOT_SENT: &str = "the worker does not send: is its core taken by something else?";
/// Headers are all that is read of a frame: Ethernet, two tags, IPv6, TCP with options.
const HEADERS: usize = 128;

/// Why a real server does not serve a VIP, or why that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DrError {
    /// It has the VIP, and no listener there.
    #[error("{0} is refused: the service does not listen on the VIP")]
    Refused(SocketAddr),
    /// Nothing came back.
    #[error("no answer for {0}; `shunt rs check` there says why")]
    Silent(SocketAddr),
    /// Packets cannot be sent or heard.
    #[error("cannot ask for {vip}: {cause}")]
    Io {
        /// The VIP and port.
        vip: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// Packets of flows would not reach it either: why.
    #[error("cannot ask: {0}")]
    Unreachable(String),
    /// It cannot be asked as things are with the director: why.
    #[error("cannot ask: {0}")]
    Unable(String),
}

impl DrError {
    /// Whether this says nothing of the real server.
    pub fn is_own(&self) -> bool {
        match self {
            DrError::Refused(_) | DrError::Silent(_) | DrError::Unreachable(_) => false,
            DrError::Io { .. } | DrError::Unable(_) => true,
        }
    }
}

/// How a real server is reached by a packet socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrPath {
    /// Index of the link that it is on.
    pub link: u32,
    /// The link's MAC address.
    pub own_mac: [u8; 6],
    /// An address of the director on the real server's network, not the VIP.
    pub source: IpAddr,
    /// The real server's MAC address.
    pub server_mac: [u8; 6],
}

/// Asks a real server for a VIP, by a packet socket of its own: for when no worker runs. `patience`
/// is how long an answer may take.
pub async fn ask(path: &DrPath, vip: SocketAddr, patience: Duration) -> Result<(), DrError> {
    let DrPath { link, own_mac, source, server_mac } = *path;
    let failed = |cause| DrError::Io { vip, cause };
    let socket = open(link, vip.ip()).map_err(failed)?;
    let question = Question::new(source, vip);
    let way = Way { own_mac, server_mac, vlans: [0, 0] };
    let (Some(syn), Some(reset)) = (question.syn(&way), question.reset(&way)) else {
        return Err(DrError::Unable(format!("{source} and {vip} are not of one family")));
    };
    for _ in 0..TRIES {
        socket.get_ref().send(&syn).map_err(failed)?;
        let answer = async {
            loop {
                let reply = hear(&socket).await?;
                if let Some(answer) = reply.and_then(|reply| question.answer(&reply)) {
                    return io::Result::Ok(answer);
                }
            }
        };
        match timeout(patience / TRIES, answer).await {
            Ok(Ok(Answer::Accepted)) => {
                socket.get_ref().send(&reset).map_err(failed)?;
                return Ok(());
            }
            Ok(Ok(Answer::Refused)) => return Err(DrError::Refused(vip)),
            Ok(Err(cause)) => return Err(failed(cause)),
            Err(_) => {}
        }
    }
    // One that answers later must not keep half a connection.
    socket.get_ref().send(&reset).map_err(failed)?;
    Err(DrError::Silent(vip))
}

fn open(link: u32, vip: IpAddr) -> io::Result<AsyncFd<PacketSocket>> {
    layer2::awaited(PacketSocket::open(link, ether_type(vip), &filter(vip))?)
}

/// The next frame that may be an answer; nothing if it is none.
async fn hear(socket: &AsyncFd<PacketSocket>) -> io::Result<Option<Reply>> {
    let mut headers = [0; HEADERS];
    let length = socket
        .async_io(tokio::io::Interest::READABLE, |socket| socket.receive(&mut headers))
        .await?;
    Ok(Reply::read(&headers[..length.min(HEADERS)]))
}

/// Questions that wait for an answer on one link.
type Waiting = Arc<StdMutex<HashMap<Ends, (Question, oneshot::Sender<Answer>)>>>;

/// One link's ear. It stays open: closing a packet socket makes the kernel wait for all its cores.
struct Listener {
    waiting: Waiting,
    task: JoinHandle<io::Result<()>>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The checks `dr` of a running director.
#[derive(Default)]
pub struct Dr {
    /// By link, and whether for IPv6.
    listeners: StdMutex<HashMap<(u32, bool), Listener>>,
}

/// A question whose answer is awaited until it is dropped.
struct Awaited {
    ends: Ends,
    waiting: Waiting,
    answer: oneshot::Receiver<Answer>,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.ends);
    }
}

/// What a question needs to know of the director.
struct Place {
    server: ServerIndex,
    interface: usize,
    link: u32,
    /// What the kernel would send from, unless it is a VIP.
    source: Option<IpAddr>,
    vlans: [u16; 2],
}

impl Dr {
    /// Asks a real server of a virtual service for its VIP. The SYN leaves by a worker's TX ring, to
    /// the MAC address that the worker has for flows. `patience` is how long an answer may take.
    pub async fn check(
        &self,
        supervisor: &Mutex<Supervisor>,
        service: ServiceKey,
        server: IpAddr,
        patience: Duration,
    ) -> Result<(), DrError> {
        let vip = SocketAddr::new(service.address, service.port);
        let place = found(supervisor, service, server, patience).await?;
        let source = match place.source {
            Some(source) => source,
            None => source::beside_the_vips(supervisor, place.link, server)
                .await
                .map_err(DrError::Unable)?,
        };
        let question = Question::new(source, vip);
        let mut awaited =
            self.expect(place.link, question).map_err(|cause| DrError::Io { vip, cause })?;
        let way = Way { own_mac: [0; 6], server_mac: [0; 6], vlans: place.vlans };
        let mut sent = 0;
        for _ in 0..TRIES {
            sent = send(supervisor, &place, question.syn(&way)).await?;
            match timeout(patience / TRIES, &mut awaited.answer).await {
                Ok(Ok(Answer::Accepted)) => {
                    // Without it, the real server keeps half a connection for a while.
                    let _ = send(supervisor, &place, question.reset(&way)).await;
                    return Ok(());
                }
                Ok(Ok(Answer::Refused)) => return Err(DrError::Refused(vip)),
                Ok(Err(_)) => {
                    return Err(DrError::Unable("the link is down or has changed".to_owned()));
                }
                Err(_) => {}
            }
        }
        if !has_left(supervisor, &place, sent).await {
            return Err(DrError::Unable(NOT_SENT.to_owned()));
        }
        // One that answers later must not keep half a connection.
        let _ = send(supervisor, &place, question.reset(&way)).await;
        Err(DrError::Silent(vip))
    }

    /// Has the link's listener look out for the answer.
    fn expect(&self, link: u32, question: Question) -> io::Result<Awaited> {
        let vip = question.ends.vip.ip();
        let mut listeners = lock(&self.listeners);
        // What ended did so by an error, as when the link went down: a new one says whether it is
        // over. Those of other links that are gone go, too.
        listeners.retain(|_, listener| !listener.task.is_finished());
        let listener = match listeners.entry((link, vip.is_ipv6())) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let waiting = Waiting::default();
                let task = tokio::spawn(listen(open(link, vip)?, waiting.clone()));
                entry.insert(Listener { waiting, task })
            }
        };
        let waiting = listener.waiting.clone();
        let (tell, answer) = oneshot::channel();
        lock(&waiting).insert(question.ends, (question, tell));
        Ok(Awaited { ends: question.ends, waiting, answer })
    }
}

/// Nothing that holds one of these locks can panic halfway through a change.
fn lock<T>(mutex: &StdMutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands answers to whom they are for. At an error nobody is left to wait.
async fn listen(socket: AsyncFd<PacketSocket>, waiting: Waiting) -> io::Result<()> {
    let result = async {
        loop {
            let Some(reply) = hear(&socket).await? else { continue };
            let mut waiting = lock(&waiting);
            let asked = waiting.get(&reply.ends).map(|(question, _)| *question);
            if let Some(answer) = asked.and_then(|question| question.answer(&reply))
                && let Some((_, tell)) = waiting.remove(&reply.ends)
            {
                // Whoever asked may have given up.
                let _ = tell.send(answer);
            }
        }
    };
    let ended = result.await;
    lock(&waiting).clear();
    ended
}

/// A real server that is new is asked as soon as its MAC address is known: that it is not known yet
/// says nothing against it.
async fn found(
    supervisor: &Mutex<Supervisor>,
    service: ServiceKey,
    server: IpAddr,
    patience: Duration,
) -> Result<Place, DrError> {
    let deadline = Instant::now() + patience;
    loop {
        let place = {
            let supervisor = supervisor.lock().await;
            let unresolved = supervisor.neighbors.state(server) == NeighborState::Unresolved;
            let is_late = !unresolved || Instant::now() >= deadline;
            place(&supervisor, service, server).map_err(|why| is_late.then_some(why))
        };
        match place {
            Ok(place) => return Ok(place),
            Err(Some(why)) => return Err(why),
            Err(None) => sleep(FOUND_CHECK).await,
        }
    }
}

fn place(supervisor: &Supervisor, service: ServiceKey, server: IpAddr) -> Result<Place, DrError> {
    let unable = |why: &str| DrError::Unable(why.to_owned());
    let services = supervisor.services();
    let index = services
        .find(&service)
        .and_then(|service| services.find_server(service, server))
        .filter(|&index| {
            services.server(index).is_some_and(|entry| entry.state == ServerState::Serving)
        })
        .ok_or_else(|| unable("it is no real server of the service any more"))?;
    let Some(Reach::OnLink { interface, link, vlans, source }) = supervisor.neighbors.reach(server)
    else {
        let why = supervisor.neighbors.impossible(server);
        return Err(why.map_or(unable("its link is not known yet"), |why| {
            DrError::Unreachable(why.to_owned())
        }));
    };
    if supervisor.neighbors.neighbor(*interface, server).is_none() {
        let why = format!("it does not answer {}", layer2::question(server));
        return Err(DrError::Unreachable(why));
    }
    let source = source.filter(|&source| !source::is_vip(supervisor, source));
    Ok(Place { server: index, interface: *interface, link: *link, source, vlans: *vlans })
}

/// The worker that sends: the interface's first.
fn seat<'a>(supervisor: &'a mut Supervisor, place: &Place) -> Option<&'a mut WorkerSeat> {
    supervisor.workers.iter_mut().find(|seat| seat.interface == place.interface)
}

/// Has the worker send a packet. Returns its number among those that the worker is to send.
async fn send(
    supervisor: &Mutex<Supervisor>,
    place: &Place,
    packet: Option<Vec<u8>>,
) -> Result<u64, DrError> {
    let unable = |what: &str| DrError::Unable(what.to_owned());
    let packet = packet.ok_or_else(|| unable("source and VIP are not of one family"))?;
    let probe = Probe::new(place.server, &packet).ok_or_else(|| unable("the SYN is too long"))?;
    let mut supervisor = supervisor.lock().await;
    let seat = seat(&mut supervisor, place);
    let seat = seat.ok_or_else(|| unable("no worker serves its interface"))?;
    let number = seat.handle.mailbox.probe(probe).ok_or_else(|| unable(NOT_SENT))?;
    seat.wake();
    Ok(number)
}

/// Whether the worker has come to the packet with this number.
async fn has_left(supervisor: &Mutex<Supervisor>, place: &Place, number: u64) -> bool {
    let mut supervisor = supervisor.lock().await;
    seat(&mut supervisor, place).is_some_and(|seat| seat.handle.mailbox.has_taken(number))
}
