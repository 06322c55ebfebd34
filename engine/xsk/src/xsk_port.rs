//! A port over an AF_XDP socket.

use crate::port::{Census, Packet, Port, PortCounters};
use std::convert::Infallible;
use std::time::Duration;

/// One queue of a NIC. Owned by one worker; the control thread has its [`crate::Monitor`].
#[derive(Debug)]
pub struct XskPort {
    never: Infallible,
}

impl XskPort {
    /// The queue's number.
    pub fn queue(&self) -> u32 {
        match self.never {}
    }
}

impl Port for XskPort {
    fn reclaim(&mut self) {
        match self.never {}
    }

    fn receive(&mut self, _burst: &mut Vec<Packet>) -> usize {
        match self.never {}
    }

    fn bytes(&self, _packet: &Packet) -> &[u8] {
        match self.never {}
    }

    fn bytes_mut(&mut self, _packet: &Packet) -> &mut [u8] {
        match self.never {}
    }

    fn send(&mut self, _packet: Packet) -> Result<(), Packet> {
        match self.never {}
    }

    fn release(&mut self, _packet: Packet) {
        match self.never {}
    }

    fn flush(&mut self) {
        match self.never {}
    }

    fn refill(&mut self) {
        match self.never {}
    }

    fn wait(&mut self, _timeout: Duration) {
        match self.never {}
    }

    fn census(&self) -> Census {
        match self.never {}
    }

    fn counters(&self) -> PortCounters {
        match self.never {}
    }

    fn mac(&self) -> [u8; 6] {
        match self.never {}
    }
}
