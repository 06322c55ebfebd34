//! The other end of the guest's cable.

use lab::{Doing, Netns, Result};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the guest may leave what was sent to it lying before that is an error.
const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// The interface at the other end of a NIC of several queues, in a namespace of its own.
pub(crate) const TAP: &str = "tap0";

/// The other end of the guest's cable: what it sends is received here, and the other way round.
/// Frames begin with the Ethernet header and have no checksum at the end.
#[derive(Debug)]
pub struct Wire {
    end: End,
}

#[derive(Debug)]
enum End {
    /// QEMU's `-netdev stream`: each frame after its length in four bytes, big end first.
    Stream { stream: UnixStream, read: Vec<u8>, ready: VecDeque<Vec<u8>> },
    /// A tap, whose queues the kernel chooses by a hash of the flow. The namespace goes with it.
    Tap { wire: lab::Wire, _netns: Netns },
    /// A guest without a NIC.
    None,
}

impl Wire {
    pub(crate) fn none() -> Wire {
        Wire { end: End::None }
    }

    pub(crate) fn stream(stream: UnixStream) -> Result<Wire> {
        stream.set_write_timeout(Some(SEND_PATIENCE)).doing(|| "setting up the wire".into())?;
        Ok(Wire { end: End::Stream { stream, read: Vec::new(), ready: VecDeque::new() } })
    }

    pub(crate) fn tap(netns: Netns) -> Result<Wire> {
        Ok(Wire { end: End::Tap { wire: lab::Wire::open(&netns, TAP)?, _netns: netns } })
    }

    /// Sends frames, one after the other. From a stream, the NIC of the guest gets them together:
    /// nothing runs in the guest between the first and the last.
    pub fn send<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<()> {
        let frames = frames.iter().map(AsRef::as_ref);
        match &mut self.end {
            End::Stream { stream, .. } => {
                let mut bytes = Vec::new();
                for frame in frames {
                    bytes.extend((frame.len() as u32).to_be_bytes());
                    bytes.extend(frame);
                }
                stream.write_all(&bytes).doing(|| "sending to the guest".into())
            }
            End::Tap { wire, .. } => frames.into_iter().try_for_each(|frame| wire.send(frame)),
            End::None => Err(unplugged()),
        }
    }

    /// The next frame that the guest sends, if there is one within `patience`.
    pub fn receive(&mut self, patience: Duration) -> Result<Option<Vec<u8>>> {
        match &mut self.end {
            End::Stream { stream, read, ready } => {
                if ready.is_empty() {
                    read_frames(stream, read, ready, patience)
                        .doing(|| "receiving from the guest".into())?;
                }
                Ok(ready.pop_front())
            }
            End::Tap { wire, .. } => {
                // What the tap sends is what was sent here.
                let seen = wire.receive_such(patience, |seen| !seen.outgoing)?;
                Ok(seen.map(|seen| seen.bytes))
            }
            End::None => Err(unplugged()),
        }
    }
}

fn unplugged() -> lab::Error {
    let source = io::Error::from(ErrorKind::NotConnected);
    lab::Error::Io { doing: "using the wire of a guest without a NIC".into(), source }
}

/// Reads until at least one frame is there, or the time is up.
fn read_frames(
    stream: &mut UnixStream,
    read: &mut Vec<u8>,
    ready: &mut VecDeque<Vec<u8>>,
    patience: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut bytes = vec![0; 1 << 16];
    while ready.is_empty() {
        // Zero would mean for ever.
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_micros(1))))?;
        match stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => read.extend(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock && left.is_zero() => return Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let mut taken = 0;
        while let Some((length, rest)) = read[taken..].split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(frame) = rest.get(..length) else { break };
            ready.push_back(frame.to_vec());
            taken += 4 + length;
        }
        read.drain(..taken);
    }
    Ok(())
}
