//! Hashes with fixed keys, so that every worker of every director chooses alike.
//!
//! The kernel takes SipHash with fixed keys. This is the finalizer of SplitMix64 (Steele, Lea and
//! Flood 2014), a third of the instructions; neither keeps a client from choosing an address and a
//! port whose hash it likes, since the keys are public.

/// Keys of servers and of flows: digits of pi, so that there is nothing to suspect.
const SERVER_KEY: u64 = 0x243f_6a88_85a3_08d3;
const FLOW_KEY: u64 = 0x1319_8a2e_0370_7344;
/// 2^64 divided by the golden ratio: the step of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a server's order of places, and its place among the servers, follow from.
#[inline]
pub fn identity(address: &[u8; 16]) -> u64 {
    of(SERVER_KEY, address)
}

/// The hash of a flow: of the client's address and, unless it is 0, of its port.
#[inline]
pub fn flow_hash(source: &[u8; 16], port: u16) -> u64 {
    of(FLOW_KEY ^ u64::from(port), source)
}

/// Another hash, number `number`, from one.
#[inline]
pub fn next(hash: u64, number: u64) -> u64 {
    mix(hash.wrapping_add(number.wrapping_mul(STEP)))
}

/// A hash as a number below `bound`, which is below 2^32.
#[inline]
pub fn below(hash: u64, bound: usize) -> usize {
    (((hash >> 32) * bound as u64) >> 32) as usize
}

#[inline]
fn of(key: u64, address: &[u8; 16]) -> u64 {
    let (halves, _) = address.as_chunks::<8>();
    halves.iter().fold(key, |hash, half| mix(hash ^ u64::from_le_bytes(*half)))
}

#[inline]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
