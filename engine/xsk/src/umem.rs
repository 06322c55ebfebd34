//! The memory that packets are in.

use crate::mapping::Mapping;
use crate::port::Packet;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// What the kernel leaves free before a received packet: `XDP_PACKET_HEADROOM` in linux/bpf.h.
/// None is asked for beyond that.
pub(crate) const HEADROOM: u32 = 256;

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
        Ok(Umem { memory: Mapping::anonymous(length)?, length, frames, frame_size })
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

    /// The address of the frame that holds this address.
    #[inline]
    pub(crate) fn frame(&self, address: u64) -> u64 {
        address & !u64::from(self.frame_size - 1)
    }

    /// # Panics
    /// If the packet is not in this UMEM: it is another port's, or the kernel's answer is broken.
    #[inline]
    fn range(&self, packet: &Packet) -> Range<usize> {
        let start = packet.address as usize;
        let end = start.saturating_add(packet.length as usize);
        assert!(end <= self.length, "a packet beyond its UMEM");
        start..end
    }

    #[inline]
    pub(crate) fn bytes(&self, packet: &Packet) -> &[u8] {
        let range = self.range(packet);
        // SAFETY: `range` ends within the mapping, which lives as long as `self`. The packet is
        // the frame's only key, so that the kernel does not write to it (port.rs), and this side
        // writes only through `bytes_mut`, for which it borrows all frames.
        unsafe { std::slice::from_raw_parts(self.start().add(range.start).as_ptr(), range.len()) }
    }

    #[inline]
    pub(crate) fn bytes_mut(&mut self, packet: &Packet) -> &mut [u8] {
        let range = self.range(packet);
        // SAFETY: as in `bytes`; `&mut self` keeps every other reference to a frame away.
        unsafe {
            std::slice::from_raw_parts_mut(self.start().add(range.start).as_ptr(), range.len())
        }
    }
}
