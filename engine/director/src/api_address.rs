//! Where a command finds a director: a socket of this machine, or a TCP listener.

use hyper::Uri;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a director listens for commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiAddress {
    /// A Unix socket.
    Socket(PathBuf),
    /// A TCP listener.
    Tcp {
        /// A name or an address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whether it speaks TLS.
        tls: bool,
    },
}

impl ApiAddress {
    /// At a Unix socket.
    pub fn socket(path: &Path) -> ApiAddress {
        ApiAddress::Socket(path.to_owned())
    }
}

impl FromStr for ApiAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ApiAddress, String> {
        let tls = match text.split_once("://") {
            None if text.is_empty() => return Err("write the path of a socket or a URL".into()),
            None => return Ok(ApiAddress::Socket(PathBuf::from(text))),
            Some(("http", _)) => false,
            Some(("https", _)) => true,
            Some((scheme, _)) => {
                return Err(format!("{scheme}:// is not spoken here: write http:// or https://"));
            }
        };
        let wrong = || {
            format!("\"{text}\" is no address of a director: write it as in https://director1:9465")
        };
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        if uri.path() != "/" || uri.query().is_some() || text.contains('@') {
            return Err(wrong());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let port = uri.port_u16().ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(ApiAddress::Tcp { host, port, tls })
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiAddress::Socket(path) => path.display().fmt(f),
            ApiAddress::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16, tls: bool) -> ApiAddress {
        ApiAddress::Tcp { host: host.into(), port, tls }
    }

    #[test]
    fn sockets_and_urls_are_told_apart() {
        for (text, expected) in [
            ("/run/shunt/api.sock", ApiAddress::socket(Path::new("/run/shunt/api.sock"))),
            ("api.sock", ApiAddress::socket(Path::new("api.sock"))),
            ("http://127.0.0.1:9465", tcp("127.0.0.1", 9465, false)),
            ("https://director1.example:1/", tcp("director1.example", 1, true)),
            ("https://[2001:db8::3]:9465", tcp("2001:db8::3", 9465, true)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_neither_gets_the_next_step() {
        for text in [
            "",
            "ftp://h:1",
            "https://h",
            "https://:1",
            "https://h:0x1",
            "https://h:70000",
            "https://h:1/v1",
            "https://h:1?q",
            "https://user@h:1",
            "https://",
        ] {
            let error = text.parse::<ApiAddress>().unwrap_err();
            assert!(error.contains("write "), "{text}: {error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_read_is_written_the_same(text in "(https?://)?[a-z0-9.:/\\[\\]-]{0,20}") {
            if let Ok(address) = text.parse::<ApiAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
