//! A second parser, to be compared with the dataplane's: it takes bytes off the front of what is
//! left, where the other one indexes into the whole.

use dataplane::{DropReason, Protocol};
use std::net::IpAddr;

/// What must become of a packet, as far as its bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expected {
    /// It cannot be parsed, for this reason.
    Unparsed(DropReasonOf),
    /// It is addressed to this, be it that there is such a service or not.
    For {
        /// The VIP.
        vip: IpAddr,
        /// The service's port.
        port: u16,
        /// The service's protocol.
        protocol: Protocol,
        /// Whether it is an ICMP error.
        error: bool,
        /// Its VLAN ids, outermost first.
        vlans: [u16; 2],
    },
}

/// The three reasons that parsing can end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReasonOf {
    /// [`DropReason::Malformed`]
    Malformed,
    /// [`DropReason::UnknownProtocol`]
    UnknownProtocol,
    /// [`DropReason::Fragment`]
    Fragment,
}

use DropReasonOf::{Fragment, Malformed, UnknownProtocol};

impl From<DropReasonOf> for DropReason {
    fn from(reason: DropReasonOf) -> DropReason {
        match reason {
            Malformed => DropReason::Malformed,
            UnknownProtocol => DropReason::UnknownProtocol,
            Fragment => DropReason::Fragment,
        }
    }
}

/// Bytes that are taken from the front.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], DropReasonOf> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DropReasonOf> {
        Ok(self.take(1)?[0])
    }

    fn word(&mut self) -> Result<u16, DropReasonOf> {
        let bytes = self.take(2)?;
        Ok(u16::from(bytes[0]) * 256 + u16::from(bytes[1]))
    }

    /// Only so many bytes are left from here on.
    fn limit(&mut self, bytes: usize) -> Result<(), DropReasonOf> {
        self.0 = self.0.get(..bytes).ok_or(Malformed)?;
        Ok(())
    }
}

/// What must become of `packet`.
pub fn judge(packet: &[u8]) -> Expected {
    frame(Rest(packet)).unwrap_or_else(Expected::Unparsed)
}

fn frame(mut rest: Rest<'_>) -> Result<Expected, DropReasonOf> {
    rest.take(12)?;
    let mut kind = rest.word()?;
    let mut vlans = [0; 2];
    for id in &mut vlans {
        if kind == 0x8100 || kind == 0x88a8 {
            *id = rest.word()? % 4096;
            kind = rest.word()?;
        }
    }
    match kind {
        0x0800 => packet(rest, Version::V4, vlans),
        0x86dd => packet(rest, Version::V6, vlans),
        _ => Err(UnknownProtocol),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Version {
    V4,
    V6,
}

/// Addresses and protocol of an IP header, which is taken off `rest` with all its extensions.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
}

fn packet(mut rest: Rest<'_>, version: Version, vlans: [u16; 2]) -> Result<Expected, DropReasonOf> {
    let ip = header(&mut rest, version, false)?;
    let error_types: &[u8] = match (version, ip.protocol) {
        (Version::V4, 1) => &[3, 11, 12],
        (Version::V6, 58) => &[1, 2, 3, 4],
        _ => {
            let (port, protocol) = transport(&mut rest, ip.protocol)?;
            return Ok(Expected::For { vip: ip.destination, port, protocol, error: false, vlans });
        }
    };
    if !error_types.contains(&rest.byte()?) {
        return Err(UnknownProtocol);
    }
    rest.take(7)?;
    let quoted = header(&mut rest, version, true)?;
    let protocol = match quoted.protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return Err(UnknownProtocol),
    };
    let port = rest.word()?;
    rest.word()?;
    Ok(Expected::For { vip: quoted.source, port, protocol, error: true, vlans })
}

fn header(rest: &mut Rest<'_>, version: Version, quoted: bool) -> Result<Ip, DropReasonOf> {
    match version {
        Version::V4 => header_v4(rest, quoted),
        Version::V6 => header_v6(rest, quoted),
    }
}

fn header_v4(rest: &mut Rest<'_>, quoted: bool) -> Result<Ip, DropReasonOf> {
    let present = rest.0.len();
    let first = rest.byte()?;
    rest.byte()?;
    let total = usize::from(rest.word()?);
    rest.word()?;
    let fragment = rest.word()?;
    rest.byte()?;
    let protocol = rest.byte()?;
    rest.word()?;
    let source: [u8; 4] = rest.take(4)?.try_into().expect("four bytes");
    let destination: [u8; 4] = rest.take(4)?.try_into().expect("four bytes");
    let header = usize::from(first % 16) * 4;
    if first / 16 != 4 || header < 20 || total < header {
        return Err(Malformed);
    }
    rest.take(header - 20)?;
    let total = if quoted { total.min(present) } else { total };
    rest.limit(total - header)?;
    let (more, offset) = (fragment & 0x2000 != 0, fragment % 0x2000);
    if offset != 0 || (more && !quoted) {
        return Err(Fragment);
    }
    Ok(Ip { source: source.into(), destination: destination.into(), protocol })
}

fn header_v6(rest: &mut Rest<'_>, quoted: bool) -> Result<Ip, DropReasonOf> {
    let first = rest.byte()?;
    rest.take(3)?;
    let length = usize::from(rest.word()?);
    let mut next = rest.byte()?;
    rest.byte()?;
    let source: [u8; 16] = rest.take(16)?.try_into().expect("sixteen bytes");
    let destination: [u8; 16] = rest.take(16)?.try_into().expect("sixteen bytes");
    if first / 16 != 6 {
        return Err(Malformed);
    }
    rest.limit(if quoted { length.min(rest.0.len()) } else { length })?;
    let mut extensions = 0;
    while [0, 43, 44, 51, 60].contains(&next) {
        let this = next;
        next = rest.byte()?;
        match this {
            44 => {
                rest.byte()?;
                if rest.word()? >= 8 || !quoted {
                    return Err(Fragment);
                }
                rest.take(4)?;
            }
            51 => {
                let words = usize::from(rest.byte()?) + 2;
                rest.take(words * 4 - 2)?;
            }
            _ => {
                let units = usize::from(rest.byte()?) + 1;
                rest.take(units * 8 - 2)?;
            }
        }
        extensions += 1;
        if extensions > 8 {
            return Err(UnknownProtocol);
        }
    }
    Ok(Ip { source: source.into(), destination: destination.into(), protocol: next })
}

/// The destination's port.
fn transport(rest: &mut Rest<'_>, protocol: u8) -> Result<(u16, Protocol), DropReasonOf> {
    let payload = rest.0.len();
    match protocol {
        6 => {
            rest.word()?;
            let port = rest.word()?;
            rest.take(8)?;
            let header = usize::from(rest.byte()? / 16) * 4;
            rest.take(7)?;
            if header < 20 || header > payload { Err(Malformed) } else { Ok((port, Protocol::Tcp)) }
        }
        17 => {
            rest.word()?;
            let port = rest.word()?;
            let length = usize::from(rest.word()?);
            if length < 8 || length > payload { Err(Malformed) } else { Ok((port, Protocol::Udp)) }
        }
        _ => Err(UnknownProtocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frames::frame;

    #[test]
    fn the_judge_knows_packets() {
        for (text, port, protocol, error) in [
            ("ip client > vip / tcp 4000 > 80 S", 80, Protocol::Tcp, false),
            ("ip6 client6 > vip6 / hop / udp 4000 > 53", 53, Protocol::Udp, false),
            (
                "ip router > vip / icmp 3 4 / ip vip > client / tcp 80 > 4000 A",
                80,
                Protocol::Tcp,
                true,
            ),
        ] {
            let Expected::For { port: p, protocol: q, error: e, vip, vlans } = judge(&frame(text))
            else {
                panic!("{text}");
            };
            assert_eq!(vlans, [0, 0]);
            assert_eq!((p, q, e), (port, protocol, error), "{text}");
            assert!([frames::VIP, frames::VIP6].contains(&vip.to_string().as_str()));
        }
        assert_eq!(judge(&[]), Expected::Unparsed(Malformed));
        assert_eq!(judge(&frame("eth type=1 / data 60")), Expected::Unparsed(UnknownProtocol));
    }
}
