//! The `[api]` section of the config: where the director listens for commands, and to whom.

use crate::config::API_SOCKET_DEFAULT;
use crate::config_check::Check;
use nix::unistd::Group;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::Spanned;

/// sun_path in include/uapi/linux/un.h counts the terminating zero.
const SOCKET_PATH_MAX: usize = 107;
/// What the messages suggest: the port after that of the metrics.
const LISTEN_EXAMPLE: &str = "127.0.0.1:9465";

/// Where the director listens for commands, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// Who may open it beside root.
    pub group: Option<SocketGroup>,
    /// The TCP listener, if there is one.
    pub listen: Option<ApiListen>,
}

/// A group of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketGroup {
    /// Its name.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// A TCP listener. Whoever speaks to it needs the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiListen {
    /// The address.
    pub address: SocketAddr,
    /// Holds the token.
    pub token_file: PathBuf,
    /// What TLS needs; without it the address is a loopback address.
    pub tls: Option<TlsFiles>,
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by those between it and the authority's.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// The section as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenApi {
    socket: Option<Spanned<String>>,
    group: Option<Spanned<String>>,
    listen: Option<Spanned<String>>,
    token_file: Option<Spanned<String>>,
    certificate: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
}

impl Check<'_> {
    pub(crate) fn api(&mut self, written: &WrittenApi) -> ApiConfig {
        ApiConfig {
            socket: self.api_socket(&written.socket),
            group: written.group.as_ref().and_then(|written| self.api_group(written)),
            listen: self.api_listen(written),
        }
    }

    fn api_socket(&mut self, written: &Option<Spanned<String>>) -> PathBuf {
        let Some(written) = written else { return PathBuf::from(API_SOCKET_DEFAULT) };
        let path = PathBuf::from(written.get_ref());
        if !path.is_absolute() {
            self.problem(
                written.span().start,
                "the API's socket needs an absolute path, as in \"/run/shunt/api.sock\"",
            );
        } else if written.get_ref().len() > SOCKET_PATH_MAX {
            self.problem(written.span().start, format!("the path of the API's socket is longer than the {SOCKET_PATH_MAX} bytes that the kernel allows: choose a shorter one"));
        }
        path
    }

    fn api_group(&mut self, written: &Spanned<String>) -> Option<SocketGroup> {
        let name = written.get_ref().clone();
        let problem = match Group::from_name(&name) {
            Ok(Some(group)) => return Some(SocketGroup { name, gid: group.gid.as_raw() }),
            Ok(None) => format!(
                "there is no group \"{name}\" on this machine: `getent group` lists them, `groupadd` makes one"
            ),
            Err(error) => {
                format!(
                    "cannot look up the group \"{name}\" ({error}): see whether `getent group` works"
                )
            }
        };
        self.problem(written.span().start, problem);
        None
    }

    fn api_listen(&mut self, written: &WrittenApi) -> Option<ApiListen> {
        let Some(listen) = &written.listen else {
            let keys = [
                ("token_file", &written.token_file),
                ("certificate", &written.certificate),
                ("key", &written.key),
            ];
            for (key, value) in keys {
                if let Some(value) = value {
                    self.problem(
                        value.span().start,
                        format!("{key} is for the API's TCP listener, and there is none: add listen = \"{LISTEN_EXAMPLE}\", or remove {key}"),
                    );
                }
            }
            return None;
        };
        let offset = listen.span().start;
        let tls = self.api_tls(written);
        let token_file = match &written.token_file {
            Some(file) => self.api_file(file, "token_file"),
            None => {
                self.problem(offset, "who speaks to the API over TCP needs a token: add token_file = \"/etc/shunt/token\", a file made with `(umask 077; openssl rand -hex 32 > /etc/shunt/token)`");
                PathBuf::new()
            }
        };
        let Ok(address) = listen.get_ref().parse::<SocketAddr>() else {
            self.problem(
                offset,
                format!(
                    "\"{}\" is no address with a port: write \"{LISTEN_EXAMPLE}\", or leave listen out for no TCP listener",
                    listen.get_ref()
                ),
            );
            return None;
        };
        let without_tls = written.certificate.is_none() && written.key.is_none();
        if without_tls && !address.ip().is_loopback() {
            self.problem(offset, format!("without TLS the token would cross the network in plain text: add certificate and key, or listen on a loopback address such as {LISTEN_EXAMPLE}"));
        }
        Some(ApiListen { address, token_file, tls })
    }

    fn api_tls(&mut self, written: &WrittenApi) -> Option<TlsFiles> {
        match (&written.certificate, &written.key) {
            (Some(certificate), Some(key)) => Some(TlsFiles {
                certificate: self.api_file(certificate, "certificate"),
                key: self.api_file(key, "key"),
            }),
            (Some(only), None) => {
                self.problem(
                    only.span().start,
                    "a certificate needs its private key: add key = \"/etc/shunt/key.pem\"",
                );
                None
            }
            (None, Some(only)) => {
                self.problem(
                    only.span().start,
                    "a key needs its certificate: add certificate = \"/etc/shunt/certificate.pem\"",
                );
                None
            }
            (None, None) => None,
        }
    }

    /// The director may be started from anywhere.
    fn api_file(&mut self, written: &Spanned<String>, key: &str) -> PathBuf {
        let path = PathBuf::from(written.get_ref());
        if !path.is_absolute() {
            self.problem(
                written.span().start,
                format!("{key} needs an absolute path, as in \"/etc/shunt/token\""),
            );
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Problem};

    fn parse(api: &str) -> Result<ApiConfig, Vec<Problem>> {
        Config::parse(&format!("[[interface]]\nname = \"eth0\"\n[api]\n{api}"), &|_, _| Ok(()))
            .map(|config| config.api)
    }

    #[test]
    fn without_keys_it_is_roots_socket_and_nothing_else() {
        let config = parse("").unwrap();
        assert_eq!(config.socket, PathBuf::from(API_SOCKET_DEFAULT));
        assert_eq!((config.group, config.listen), (None, None));
    }

    #[test]
    fn every_key_is_heard() {
        let config = parse(
            "socket = \"/s\"\ngroup = \"root\"\nlisten = \"[2001:db8::3]:9465\"\n\
             token_file = \"/t\"\ncertificate = \"/c\"\nkey = \"/k\"",
        )
        .unwrap();
        assert_eq!(config.group, Some(SocketGroup { name: "root".into(), gid: 0 }));
        let tls = TlsFiles { certificate: "/c".into(), key: "/k".into() };
        let address = "[2001:db8::3]:9465".parse().unwrap();
        let listen = ApiListen { address, token_file: "/t".into(), tls: Some(tls) };
        assert_eq!((config.socket, config.listen), ("/s".into(), Some(listen)));
    }

    #[test]
    fn a_loopback_address_needs_a_token_but_no_certificate() {
        for address in ["127.0.0.1:9465", "127.9.9.9:1", "[::1]:9465"] {
            let config = parse(&format!("listen = \"{address}\"\ntoken_file = \"/t\"")).unwrap();
            assert_eq!(config.listen.unwrap().tls, None);
        }
    }

    #[test]
    fn what_is_unsafe_or_makes_no_sense_is_named_with_its_place_and_the_next_step() {
        let tcp = "listen = \"127.0.0.1:9465\"\ntoken_file = \"/t\"\n";
        for (api, place, expected) in [
            ("socket = \"s\"", (4, 10), "absolute path"),
            ("group = \"no such group\"", (4, 9), "`groupadd` makes one"),
            ("listen = \"127.0.0.1:9465\"", (4, 10), "add token_file"),
            ("listen = \"9465\"\ntoken_file = \"/t\"", (4, 10), "is no address with a port"),
            ("listen = \"0.0.0.0:9465\"\ntoken_file = \"/t\"", (4, 10), "add certificate and key"),
            ("listen = \"[::]:9465\"\ntoken_file = \"/t\"", (4, 10), "add certificate and key"),
            ("token_file = \"/t\"", (4, 14), "add listen"),
            ("certificate = \"/t\"", (4, 15), "remove certificate"),
            (&format!("{tcp}certificate = \"/c\""), (6, 15), "add key"),
            (&format!("{tcp}key = \"/c\""), (6, 7), "add certificate"),
            (&format!("{tcp}key = \"k\"\ncertificate = \"/c\""), (6, 7), "key needs an absolute"),
            ("tokenfile = \"/t\"", (4, 1), "unknown field `tokenfile`"),
        ] {
            let problems = parse(api).unwrap_err();
            let [problem] = &problems[..] else { panic!("{api}: {problems:?}") };
            assert_eq!((problem.line, problem.column), place, "{api}: {problem:?}");
            assert!(problem.message.contains(expected), "{api}: {}", problem.message);
        }
    }
}
