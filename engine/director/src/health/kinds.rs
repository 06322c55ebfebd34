//! What is asked of a real server: keepalived's kinds of checks where they make sense, and `dr`.

use super::doing::Doing;
use super::{command, dns, http, tcp, udp};
use dataplane::ServiceKey;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::rustls::RootCertStore;

/// Bytes that a pattern may take while it is compiled, and as the table that it becomes.
const PATTERN_NFA_MAX: usize = 128 << 10;
const PATTERN_TABLE_MAX: usize = 1 << 20;

/// The health check of a virtual service.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// The port that is asked; `None`: the service's.
    pub port: Option<u16>,
    /// From the beginning of one check to that of the next.
    pub interval: Duration,
    /// How long one check may take, not longer than `interval`.
    pub timeout: Duration,
    /// Checks in a row that must pass before a server that is down is up.
    pub rise: u32,
    /// Checks in a row that must fail before a server that is up is down.
    pub fall: u32,
    /// How much earlier or later than told a check may begin, as a share of `interval`, 0 to 1:
    /// so that the servers are not asked all at once.
    pub jitter: f64,
    /// What happens to the flows of a server that goes down.
    pub on_failure: OnFailure,
}

// `jitter` is within a range, and thereby a number.
impl Eq for HealthCheck {}

impl HealthCheck {
    /// Seconds between two checks, unless told otherwise.
    pub const INTERVAL: Duration = Duration::from_secs(5);
    /// Seconds that a check may take, unless told otherwise; the interval if that is shorter.
    pub const TIMEOUT: Duration = Duration::from_secs(2);
    /// Checks in a row that take a server up, unless told otherwise.
    pub const RISE: u32 = 2;
    /// Checks in a row that take a server down, unless told otherwise.
    pub const FALL: u32 = 3;
    /// Share of the interval that is left to chance, unless told otherwise.
    pub const JITTER: f64 = 0.1;
}

/// What happens to the flows of a server that goes down. New flows go elsewhere either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// They stay until they end, as with weight 0.
    #[default]
    Drain,
    /// They end with their next packet, so that clients connect anew.
    Expire,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// Does it take a connection?
    Tcp,
    /// Does it answer a request, over TLS or not?
    Http(HttpCheck),
    /// Does it answer a datagram, or at least not say that nobody listens?
    Udp(UdpCheck),
    /// Does it know a name?
    Dns(DnsCheck),
    /// Does a program say that it is well?
    Command(CommandCheck),
    /// Does it take a connection for the VIP itself? Asked by the data plane.
    Dr,
}

impl CheckKind {
    /// Its name, as the config writes it.
    pub fn name(&self) -> &'static str {
        match self {
            CheckKind::Tcp => "tcp",
            CheckKind::Http(HttpCheck { tls: None, .. }) => "http",
            CheckKind::Http(HttpCheck { tls: Some(_), .. }) => "https",
            CheckKind::Udp(_) => "udp",
            CheckKind::Dns(_) => "dns",
            CheckKind::Command(_) => "command",
            CheckKind::Dr => "dr",
        }
    }
}

/// A GET request (RFC 9110) by HTTP/1.1. Redirects are not followed: their status is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path and query.
    pub path: String,
    /// The value of the header Host; `None`: the server's address.
    pub host: Option<String>,
    /// The statuses that are well.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the first 64 KiB of the answer's body must match.
    pub body: Option<Pattern>,
    /// With TLS.
    pub tls: Option<TlsCheck>,
}

/// TLS, 1.2 or later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsCheck {
    /// Who must have signed the server's certificate, which must also be for `server_name` and
    /// in its time; `None`: any certificate will do.
    pub ca: Option<Authority>,
    /// The name that is asked for, and that the certificate must be for; `None`: that of the
    /// header Host, if it is a name, else the server's address.
    pub server_name: Option<String>,
}

/// A file of certificates of authorities, and what it held when it was read. It is read again with
/// the config.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The file.
    pub path: PathBuf,
    /// Its certificates.
    pub roots: Arc<RootCertStore>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Authority) -> bool {
        self.path == other.path && self.roots.roots == other.roots.roots
    }
}

impl Eq for Authority {}

/// A datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpCheck {
    /// What is sent; it may be empty.
    pub send: String,
    /// What the answer must match; `None`: silence is well, but not an ICMP error.
    pub expect: Option<Pattern>,
    /// How long an ICMP error is waited for before silence is well.
    pub silence: Duration,
}

impl UdpCheck {
    /// The silence that is well, of a check that may take `timeout`: it must end before the check
    /// has failed.
    pub fn silence(timeout: Duration) -> Duration {
        timeout / 2
    }
}

/// A query (RFC 1035), over the protocol of the service. Any answer with NOERROR is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsCheck {
    /// The name asked for.
    pub name: String,
    /// The type of the record asked for, as in "A".
    pub record: String,
}

/// A program that exits with 0 if the server is well. It is told of the server by its environment:
/// SHUNT_SERVICE, SHUNT_VIP, SHUNT_PORT and SHUNT_SERVER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandCheck {
    /// Its path, which is absolute, and its arguments.
    pub command: Vec<String>,
}

/// A regular expression over bytes: its classes are those of ASCII, and ^ and $ stand at the ends of
/// a line, as with grep, so that "^OK$" is found in "OK\r\n".
///
/// It is compiled completely, to a table in which each byte is one step: whatever a server answers,
/// matching takes the control thread no longer than reading. An expression for which that table
/// would be too large is none.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    table: Arc<dense::DFA<Vec<u32>>>,
}

impl Pattern {
    /// Compiles `text`; the error says in one clause what is wrong with it, and what to do.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let syntax = syntax::Config::new().unicode(false).utf8(false).multi_line(true).crlf(true);
        let parsed = syntax::parse_with(text, &syntax).map_err(|error| {
            // A syntax error is drawn over several lines; the last says what it is.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!(
                "is no regular expression ({last}): see https://docs.rs/regex for how to write one"
            )
        })?;
        let too_large = "is too complex to be matched in one pass: write * or + instead of great repetitions as in .{1,100}, or fewer alternatives";
        let size = thompson::Config::new().utf8(false).nfa_size_limit(Some(PATTERN_NFA_MAX));
        let states = thompson::Compiler::new()
            .configure(size)
            .build_from_hir(&parsed)
            .map_err(|_| too_large)?;
        let size = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(PATTERN_TABLE_MAX))
            .determinize_size_limit(Some(PATTERN_TABLE_MAX));
        let table =
            dense::Builder::new().configure(size).build_from_nfa(&states).map_err(|_| too_large)?;
        Ok(Pattern { text: text.to_owned(), table: Arc::new(table) })
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches anywhere in `bytes`.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        let input = Input::new(bytes).anchored(Anchored::No).earliest(true);
        // There is no byte at which this table gives up.
        self.table.try_search_fwd(&input).is_ok_and(|end| end.is_some())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.as_str())
    }
}

/// Why a check did not pass: one short clause for a listing, as in "connect to 172.17.100.1:80:
/// refused".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The server did not answer as it should, or not at all.
    #[error("{0}")]
    Failed(String),
    /// The director could not make the check, which says nothing of the server.
    #[error("{0}")]
    Unable(String),
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// On behalf of which service.
    pub service: ServiceKey,
    /// The real server.
    pub server: IpAddr,
    /// The port: the check's, or the service's.
    pub port: u16,
    /// The address of the director's own that it is asked from; `None`: the kernel's choice. A
    /// program asks by itself.
    pub source: Option<IpAddr>,
}

impl Target {
    /// The real server's own address with the port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.server, self.port)
    }
}

impl HealthCheck {
    /// Asks once, within `timeout`. Who asks many bounds how many at once: each holds a socket, or
    /// a process. `Dr` is not asked here, but by the data plane.
    pub async fn ask(&self, target: &Target) -> Result<(), CheckError> {
        let doing = Doing::default();
        match timeout(self.timeout, self.kind.ask(target, &doing)).await {
            Ok(result) => result,
            Err(_) => Err(doing.late(self.timeout)),
        }
    }
}

impl CheckKind {
    async fn ask(&self, target: &Target, doing: &Doing) -> Result<(), CheckError> {
        match self {
            CheckKind::Tcp => tcp::check(target, doing).await,
            CheckKind::Http(http) => http::check(target, http, doing).await,
            CheckKind::Udp(udp) => udp::check(target, udp, doing).await,
            CheckKind::Dns(dns) => dns::check(target, dns, doing).await,
            CheckKind::Command(command) => command::check(target, command, doing).await,
            CheckKind::Dr => Err(CheckError::Unable("dr: asked without the data plane".to_owned())),
        }
    }
}
