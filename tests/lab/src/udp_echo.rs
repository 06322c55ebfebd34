use crate::error::{Doing, Result};
use crate::netns::Netns;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the thread looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Client ports, from below those that the kernel gives away by itself.
static NEXT_PORT: AtomicU16 = AtomicU16::new(10_000);
/// The longest datagram that is answered whole, in bytes.
const DATAGRAM_MAX: usize = 65_535;

/// Answers every datagram with its own name and the datagram. It ends when it is dropped.
#[derive(Debug)]
pub struct UdpEcho {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts an echo that calls itself `name`. In direct routing `address` is the VIP, so that
    /// the answers come from it.
    pub fn start(netns: &Netns, name: &str, address: SocketAddr) -> Result<UdpEcho> {
        let bind = || {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(LOOK_UP))?;
            Ok::<_, std::io::Error>(socket)
        };
        let doing = || format!("listening at udp {address} in {}", netns.name());
        let socket = netns.run(bind)?.doing(doing)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (prefix, stopped) = (format!("{name} "), Arc::clone(&stop));
        let answer_all = move || {
            let mut datagram = vec![0; DATAGRAM_MAX];
            while !stopped.load(Relaxed) {
                if let Ok((count, client)) = socket.recv_from(&mut datagram) {
                    let answer = [prefix.as_bytes(), &datagram[..count]].concat();
                    let _ = socket.send_to(&answer, client);
                }
            }
        };
        let thread = thread::Builder::new().name(format!("udp-{name}")).spawn(answer_all);
        Ok(UdpEcho { stop, thread: Some(thread.doing(|| "starting a thread".into())?) })
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client's UDP socket towards one peer.
#[derive(Debug)]
pub struct UdpClient {
    peer: SocketAddr,
    socket: UdpSocket,
}

impl UdpClient {
    /// A socket inside `netns`, on a port that no client of this process had before: to a director
    /// the next datagram from a former port still belongs to the former flow.
    pub fn connect(netns: &Netns, peer: SocketAddr, patience: Duration) -> Result<UdpClient> {
        let port = NEXT_PORT.fetch_add(1, Relaxed);
        let connect = || {
            let any: IpAddr = match peer {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, port))?;
            socket.connect(peer)?;
            socket.set_read_timeout(Some(patience))?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = netns.run(connect)?.doing(|| format!("making a udp socket to {peer}"))?;
        Ok(UdpClient { peer, socket })
    }

    /// Sends a datagram, and returns the name of the echo whose answer comes back with the same
    /// text.
    pub fn ask(&self, text: &str) -> Result<String> {
        let peer = self.peer;
        self.socket.send(text.as_bytes()).doing(|| format!("sending to udp {peer}"))?;
        let mut datagram = vec![0; DATAGRAM_MAX];
        loop {
            let count =
                self.socket.recv(&mut datagram).doing(|| format!("no answer from udp {peer}"))?;
            let answer = String::from_utf8_lossy(&datagram[..count]);
            // The answer to an earlier, given-up question may still arrive.
            if let Some((name, echoed)) = answer.split_once(' ')
                && echoed == text
            {
                return Ok(name.to_owned());
            }
        }
    }
}
