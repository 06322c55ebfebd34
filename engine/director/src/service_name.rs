//! Virtual services by name: `tcp:172.17.100.100:80`, `udp:[2001:db8::1]:53`.

use dataplane::{Protocol, ServiceKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A virtual service as commands, the API and messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(pub ServiceKey);

/// The name of a protocol as config and commands write it.
pub fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.0.address, self.0.port);
        write!(f, "{}:{address}", protocol_name(self.0.protocol))
    }
}

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<ServiceName, String> {
        let (protocol, address) = text.split_once(':').ok_or_else(|| {
            format!("\"{text}\" names no virtual service: write PROTOCOL:VIP:PORT, as in tcp:172.17.100.100:80")
        })?;
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => {
                return Err(format!(
                    "\"{other}\" is no protocol: write tcp:{address} or udp:{address}"
                ));
            }
        };
        let address = parse_vip(address)?;
        Ok(ServiceName(ServiceKey { address: address.ip(), port: address.port(), protocol }))
    }
}

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ServiceName, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Reads a VIP with its port. The error says how to write it.
pub fn parse_vip(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return check_vip(address);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let with_port = SocketAddr::new(address, 80);
        return Err(format!("\"{text}\" has no port: write \"{with_port}\""));
    }
    Err(format!(
        "\"{text}\" is no address with a port: write \"172.17.100.100:80\" or \"[2001:db8::1]:80\""
    ))
}

fn check_vip(address: SocketAddr) -> Result<SocketAddr, String> {
    if address.port() == 0 {
        return Err(format!(
            "port 0 in \"{address}\" would mean any port, which needs persistence and is not supported: name the port"
        ));
    }
    check_address(address.ip(), "VIP")?;
    Ok(address)
}

/// Reads the address of a real server of a service on `port`. In direct routing the packet keeps
/// its destination port, so a port is accepted only where it changes nothing.
pub fn parse_server(text: &str, port: Option<u16>) -> Result<IpAddr, String> {
    let address = if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else if let Ok(with_port) = text.parse::<SocketAddr>() {
        if port.is_some_and(|port| port != with_port.port()) {
            return Err(format!(
                "\"{text}\": direct routing keeps the destination port, so the real server listens on the service's port: write \"{}\"",
                with_port.ip()
            ));
        }
        with_port.ip()
    } else {
        return Err(format!(
            "\"{text}\" is no address of a real server: write \"172.17.100.1\" or \"2001:db8::1\""
        ));
    };
    check_address(address, "real server")?;
    Ok(address)
}

/// Reads a real server's MAC address: six bytes in hexadecimal, colons or hyphens between.
pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|byte| {
            // from_str_radix would read a sign, too.
            let two_digits = byte.len() == 2 && byte.bytes().all(|c| c.is_ascii_hexdigit());
            u8::from_str_radix(byte, 16).ok().filter(|_| two_digits)
        })
        .collect();
    let mac: Option<[u8; 6]> = bytes.and_then(|bytes| bytes.try_into().ok());
    match mac {
        None => Err(format!("\"{text}\" is no MAC address: write \"02:00:5e:10:00:01\"")),
        Some(mac) if mac == [0; 6] || mac[0] & 1 == 1 => Err(format!(
            "\"{text}\" is not the MAC address of one machine: write the real server's own, as `ip link` shows it there"
        )),
        Some(mac) => Ok(mac),
    }
}

/// Whether an address can be that of a VIP or a real server. The error says why not.
pub fn check_address(address: IpAddr, of: &str) -> Result<(), String> {
    let kind = match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4-mapped IPv6",
        _ if address.is_unspecified() => "an unspecified",
        _ if address.is_multicast() => "a multicast",
        _ if address.is_loopback() => "a loopback",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local",
        _ => return Ok(()),
    };
    Err(format!("{address} is {kind} address, which no {of} can have: write its unicast address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["tcp:172.17.100.100:80", "udp:[2001:db8::1]:53"] {
            assert_eq!(name.parse::<ServiceName>().unwrap().to_string(), name);
        }
        assert_eq!("TCP:10.0.0.1:1".parse::<ServiceName>().unwrap().to_string(), "tcp:10.0.0.1:1");
    }

    #[test]
    fn a_bad_name_says_how_to_write_it() {
        for (text, expected) in [
            ("nonsense", "PROTOCOL:VIP:PORT"),
            ("sctp:10.0.0.1:80", "tcp:10.0.0.1:80 or udp:10.0.0.1:80"),
            ("tcp:10.0.0.1", "write \"10.0.0.1:80\""),
            ("tcp:2001:db8::1", "write \"[2001:db8::1]:80\""),
            ("tcp:10.0.0.1:0", "name the port"),
            ("tcp:10.0.0.1:65536", "no address with a port"),
            ("tcp:0.0.0.0:80", "unspecified"),
            ("tcp:224.0.0.1:80", "multicast"),
            ("tcp:255.255.255.255:80", "broadcast"),
            ("tcp:127.0.0.1:80", "loopback"),
            ("tcp:[::ffff:10.0.0.1]:80", "IPv4-mapped"),
            ("tcp:[fe80::1]:80", "link-local"),
        ] {
            let error = text.parse::<ServiceName>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_real_servers_port_is_the_services() {
        let address: IpAddr = "172.17.100.1".parse().unwrap();
        assert_eq!(parse_server("172.17.100.1", Some(80)), Ok(address));
        assert_eq!(parse_server("172.17.100.1:80", Some(80)), Ok(address));
        let error = parse_server("172.17.100.1:8080", Some(80)).unwrap_err();
        assert!(error.contains("write \"172.17.100.1\""), "{error}");
        assert!(parse_server("rs1", Some(80)).unwrap_err().contains("no address"));
    }
}
