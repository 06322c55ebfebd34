//! The language in which packets are written.

use crate::packet::{ETHERTYPE_VLAN, Layer, Layers, flags};
use crate::{CLIENT, CLIENT6, DIRECTOR_MAC, ROUTER_MAC, VIP, VIP6};
use std::net::IpAddr;
use std::str::FromStr;

/// The words of one layer: what stands in order, and the `name=value` pairs.
struct Words<'a> {
    kind: &'a str,
    plain: Vec<&'a str>,
    named: Vec<(&'a str, &'a str)>,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Result<Words<'a>, String> {
        let mut words = text.split_whitespace();
        let kind = words.next().ok_or("a layer without a name")?;
        let mut plain = Vec::new();
        let mut named = Vec::new();
        for word in words.filter(|&word| word != ">") {
            match word.split_once('=') {
                Some(pair) => named.push(pair),
                None => plain.push(word),
            }
        }
        Ok(Words { kind, plain, named })
    }

    /// The next word in order.
    fn take(&mut self) -> Result<&'a str, String> {
        if self.plain.is_empty() {
            return Err(format!("`{}` lacks a word", self.kind));
        }
        Ok(self.plain.remove(0))
    }

    fn take_number<N: TryFrom<u64>>(&mut self) -> Result<N, String> {
        number(self.take()?)
    }

    /// Whether this word is there; it is taken.
    fn take_flag(&mut self, flag: &str) -> bool {
        let place = self.plain.iter().position(|&word| word == flag);
        place.map(|place| self.plain.remove(place)).is_some()
    }

    /// The value of `name=`, taken.
    fn value<N: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<N>, String> {
        let Some(place) = self.named.iter().position(|pair| pair.0 == name) else {
            return Ok(None);
        };
        number(self.named.remove(place).1).map(Some)
    }

    /// Nothing may be left over.
    fn end(self) -> Result<(), String> {
        if self.plain.is_empty() && self.named.is_empty() {
            return Ok(());
        }
        Err(format!("`{}` does not know {:?} {:?}", self.kind, self.plain, self.named))
    }
}

fn number<N: TryFrom<u64>>(word: &str) -> Result<N, String> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => u64::from_str(word),
    };
    let parsed = parsed.map_err(|error| format!("`{word}`: {error}"))?;
    N::try_from(parsed).map_err(|_| format!("`{word}` is too large"))
}

/// An address, or the name of one.
pub(crate) fn address(word: &str) -> Result<IpAddr, String> {
    let word = match word {
        "client" => CLIENT,
        "other" => "192.168.100.12",
        "router" => "192.168.100.253",
        "vip" => VIP,
        "client6" => CLIENT6,
        "other6" => "fd00:1::12",
        "router6" => "fd00:1::1",
        "vip6" => VIP6,
        literal => literal,
    };
    word.parse().map_err(|error| format!("`{word}`: {error}"))
}

fn addresses<A: TryFrom<IpAddrOf>>(words: &mut Words<'_>) -> Result<[A; 2], String> {
    let mut next = || {
        let word = words.take()?;
        A::try_from(IpAddrOf(address(word)?)).map_err(|_| format!("`{word}`: other IP version"))
    };
    Ok([next()?, next()?])
}

/// So that both versions convert alike.
struct IpAddrOf(IpAddr);

impl TryFrom<IpAddrOf> for std::net::Ipv4Addr {
    type Error = ();
    fn try_from(address: IpAddrOf) -> Result<Self, ()> {
        if let IpAddr::V4(address) = address.0 { Ok(address) } else { Err(()) }
    }
}

impl TryFrom<IpAddrOf> for std::net::Ipv6Addr {
    type Error = ();
    fn try_from(address: IpAddrOf) -> Result<Self, ()> {
        if let IpAddr::V6(address) = address.0 { Ok(address) } else { Err(()) }
    }
}

/// The layers that `text` names, separated by ` / `; [`crate::table`] describes them.
pub fn parse_layers(text: &str) -> Result<Layers, String> {
    text.split(" / ").map(parse_layer).collect()
}

fn parse_layer(text: &str) -> Result<Layer, String> {
    let mut words = Words::new(text)?;
    let extension = |number, words: &mut Words<'_>| -> Result<Layer, String> {
        Ok(Layer::Extension { number, units: words.value("units")?.unwrap_or(0) })
    };
    let layer = match words.kind {
        "eth" => {
            Layer::Ethernet { macs: [DIRECTOR_MAC, ROUTER_MAC], ethertype: words.value("type")? }
        }
        "vlan" => Layer::Vlan {
            id: words.take_number()?,
            announced: words.value("type")?.unwrap_or(ETHERTYPE_VLAN),
        },
        "ip" => parse_ipv4(&mut words)?,
        "ip6" => Layer::Ipv6 {
            addresses: addresses(&mut words)?,
            length: words.value("length")?,
            version: words.value("version")?.unwrap_or(6),
            next: words.value("next")?,
        },
        "hop" => extension(0, &mut words)?,
        "route" => extension(43, &mut words)?,
        "auth" => extension(51, &mut words)?,
        "dest" => extension(60, &mut words)?,
        "frag6" => Layer::Fragment { offset: words.take_number()?, more: words.take_flag("more") },
        "tcp" => Layer::Tcp {
            ports: [words.take_number()?, words.take_number()?],
            flags: flags(words.take()?),
            options: words.value::<u16>("options")?.unwrap_or(0).into(),
            words: words.value("words")?,
        },
        "udp" => Layer::Udp {
            ports: [words.take_number()?, words.take_number()?],
            length: words.value("length")?,
        },
        "icmp" => Layer::Icmp { kind: [words.take_number()?, words.take_number()?] },
        "data" => Layer::Data(vec![0xda; words.take_number::<u16>()?.into()]),
        "keep" => Layer::Keep(words.take_number::<u16>()?.into()),
        unknown => return Err(format!("no layer is called `{unknown}`")),
    };
    words.end()?;
    Ok(layer)
}

fn parse_ipv4(words: &mut Words<'_>) -> Result<Layer, String> {
    let mut fragment = words.value::<u16>("offset")?.unwrap_or(0);
    for (flag, bit) in [("more", 0x2000), ("df", 0x4000), ("evil", 0x8000)] {
        if words.take_flag(flag) {
            fragment |= bit;
        }
    }
    Ok(Layer::Ipv4 {
        fragment,
        options: words.value::<u16>("options")?.unwrap_or(0).into(),
        total: words.value("total")?,
        words: words.value("words")?,
        version: words.value("version")?.unwrap_or(4),
        protocol: words.value("proto")?,
        addresses: addresses(words)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_read() {
        let layers =
            parse_layers("vlan 5 / ip client > vip more offset=3 / tcp 1 > 80 SA / data 2");
        let layers = layers.unwrap();
        assert_eq!(layers[0], Layer::Vlan { id: 5, announced: 0x8100 });
        assert!(matches!(layers[1], Layer::Ipv4 { fragment: 0x2003, .. }));
        assert_eq!(layers[2], Layer::tcp(1, 80, 0x12));
        assert_eq!(layers[3], Layer::Data(vec![0xda; 2]));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, complaint) in [
            ("ip client", "lacks a word"),
            ("ip client > vip6", "other IP version"),
            ("tcp 1 > 80 S sooner", "does not know"),
            ("ip client > vip colour=3", "does not know"),
            ("udp 1 > 70000", "too large"),
            ("sctp 1 > 2", "no layer"),
        ] {
            let error = parse_layers(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        }
    }
}
