//! The memory that packets are in.

use crate::mapping::{Mapping, prefetch};
use crate::port::Packet;
use std::io;
use std::ptr::NonNull;

/// What the kernel leaves free before a received packet: `XDP_PACKET_HEADROOM` in linux/bpf.h.
/// None is asked for beyond that.
pub(crate) const HEADROOM: u32 = 256;

/// Mapped behind the frames, so that a packet that starts in a frame, or just behind the last, has
/// its bytes in the mapping whatever length it claims: one comparison a look instead of three.
const SLACK: usize = u16::MAX as usize;

/// Frames of one size, one behind the other. An address is an offset into them.
#[derive(Debug)]
pub(crate) struct Umem {
    memory: Mapping,
    /// Bytes that belong to frames: the mapping may have more.
    length: usize,
    frames: u32,
    frame_size: u32,
}

impl Umem {
    /// Maps `frames` frames of `frame_size` bytes, a power of two.
    pub(crate) fn new(frames: u32, frame_size: u32) -> io::Result<Umem> {
        assert!(frame_size.is_power_of_two() && frame_size > HEADROOM);
        let length = frames as usize * frame_size as usize;
        Ok(Umem { memory: Mapping::anonymous(length + SLACK)?, length, frames, frame_size })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.memory.start()
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn frames(&self) -> u32 {
        self.frames
    }

    pub(crate) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    pub(crate) fn is_huge(&self) -> bool {
        self.memory.is_huge()
    }

    /// What leaves of an address the one of its frame.
    #[inline]
    pub(crate) fn frame_mask(&self) -> u64 {
        !u64::from(self.frame_size - 1)
    }

    /// Asks for the packet's first cache line.
    #[inline]
    pub(crate) fn prefetch(&self, packet: &Packet) {
        prefetch(self.start().as_ptr().wrapping_add(packet.address as usize));
    }

    /// The packet's first byte and its length. No frame holds as much as 64 KiB.
    ///
    /// # Panics
    /// If the packet is not in this UMEM: it is another port's, or the kernel's answer is broken.
    #[inline]
    fn locate(&self, packet: &Packet) -> (NonNull<u8>, usize) {
        let start = packet.address as usize;
        assert!(start <= self.length, "a packet beyond its UMEM");
        // SAFETY: `start` is within the frames, or just behind them.
        (unsafe { self.start().add(start) }, usize::from(packet.length as u16))
    }

    #[inline]
    pub(crate) fn bytes(&self, packet: &Packet) -> &[u8] {
        let (start, length) = self.locate(packet);
        // SAFETY: `start` is at most `self.length`, and from there on at least SLACK bytes are
        // mapped, which no `length` exceeds; the mapping lives as long as `self`. The packet is
        // the frame's only key, so that the kernel does not write to it (port.rs), and this side
        // writes only through `bytes_mut`, which borrows all frames.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), length) }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        let (start, length) = self.locate(packet);
        // SAFETY: as in `bytes`; `&mut self` keeps every other reference to a frame away.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) }
    }
}
