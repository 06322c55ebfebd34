//! Frames as they are, sent and captured by an AF_PACKET socket (packet(7)).

use crate::error::{Doing, Result};
use crate::netns::Netns;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Receive buffer of a capture in bytes, so that a burst is not lost while the thread waits for
/// its turn on a busy core.
const RECEIVE_BUFFER: usize = 32 << 20;
/// The longest frame that is kept whole, in bytes.
const FRAME_MAX: usize = 65_536;
/// How often a capture looks whether it shall end.
const LOOK_UP: Duration = Duration::from_millis(50);
/// PACKET_OUTGOING of include/uapi/linux/if_packet.h.
const PACKET_OUTGOING: u8 = 4;

/// A frame that was seen on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFrame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Whether the interface sent it, rather than received it.
    pub outgoing: bool,
}

impl SeenFrame {
    /// Destination MAC address.
    pub fn destination(&self) -> &[u8] {
        self.bytes.get(..6).unwrap_or_default()
    }

    /// Source MAC address.
    pub fn source(&self) -> &[u8] {
        self.bytes.get(6..12).unwrap_or_default()
    }

    /// All that a rewrite of the MAC addresses leaves as it is.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(12..).unwrap_or_default()
    }
}

/// An interface's raw frames.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    name: String,
}

impl Wire {
    /// Opens an interface of a namespace.
    pub fn open(netns: &Netns, interface: &str) -> Result<Wire> {
        let name = format!("{interface} in {}", netns.name());
        let socket = netns.run(|| open(interface))?.doing(|| format!("opening {name}"))?;
        Ok(Wire { socket, name })
    }

    /// Sends a frame, from the Ethernet header on, with these MAC addresses in place of its own.
    pub fn send_to(&self, destination: [u8; 6], source: [u8; 6], frame: &[u8]) -> Result<()> {
        let rest = frame.get(12..).unwrap_or_default();
        self.send(&[&destination[..], &source, rest].concat())
    }

    /// Sends a frame, from the Ethernet header on.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())
            .map(drop)
            .doing(|| format!("sending a frame on {}", self.name))
    }

    /// The next frame that the interface sends or receives, if there is one within `patience`.
    pub fn receive(&self, patience: Duration) -> Result<Option<SeenFrame>> {
        let doing = || format!("receiving from {}", self.name);
        let mut set = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut set, timeout).doing(doing)? == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; FRAME_MAX];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
            Ok((length, address)) => {
                bytes.truncate(length);
                let outgoing = address.is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
                Ok(Some(SeenFrame { bytes, outgoing }))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).doing(doing),
        }
    }

    /// The next received frame for which `wanted` holds, if there is one within `patience`.
    pub fn receive_such(
        &self,
        patience: Duration,
        wanted: impl Fn(&SeenFrame) -> bool,
    ) -> Result<Option<SeenFrame>> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left)? {
                Some(frame) if wanted(&frame) => return Ok(Some(frame)),
                None if left.is_zero() => return Ok(None),
                _ => {}
            }
        }
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    // Its protocol is 0, for which bind(2) keeps the socket's own: all of them.
    let address = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or(io::Error::from(Errno::ENODEV))?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Everything that an interface sends and receives, from its start to its end.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<SeenFrame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts to capture. Frames sent after this call has returned are seen.
    pub fn start(netns: &Netns, interface: &str) -> Result<Capture> {
        let wire = Wire::open(netns, interface)?;
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (kept, stopped) = (Arc::clone(&frames), Arc::clone(&stop));
        let collect = move || {
            // What has arrived by the time of the stop is kept: the loop ends on an empty turn.
            while let Ok(received) = wire.receive(LOOK_UP) {
                match received {
                    Some(frame) => {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                    }
                    None if stopped.load(Relaxed) => return,
                    None => {}
                }
            }
        };
        let thread = thread::Builder::new().name("lab-capture".into()).spawn(collect);
        let thread = Some(thread.doing(|| "starting a thread for a capture".into())?);
        Ok(Capture { frames, stop, thread })
    }

    /// The frames so far.
    pub fn frames(&self) -> Vec<SeenFrame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the capture and returns all frames.
    pub fn finish(mut self) -> Vec<SeenFrame> {
        self.end();
        std::mem::take(&mut self.frames.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}
