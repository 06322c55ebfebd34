//! The table `[virtual_service.health_check]` of the config: what is asked of the real servers, how
//! often, and what follows.

use crate::config_check::Check;
use crate::config_text::quoted;
use crate::health::doing::plain_seconds;
use crate::health::kinds::{
    Authority, CheckKind, CommandCheck, DnsCheck, HealthCheck, HttpCheck, OnFailure, Pattern,
    TlsCheck, UdpCheck,
};
use dataplane::{Protocol, ServiceKey};
use domain::base::{Name, Rtype};
use hyper::http::uri::{Authority as UriAuthority, PathAndQuery};
use serde::Deserialize;
use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use toml::Spanned;

/// In seconds. Below a tenth a check would mostly find what the one before has found; an hour is
/// longer than any outage should go unnoticed.
const INTERVAL: RangeInclusive<f64> = 0.1..=3_600.0;
/// In seconds. Below a hundredth an ordinary delay would be a failure.
const TIMEOUT: RangeInclusive<f64> = 0.01..=3_600.0;
const TIMES: RangeInclusive<i64> = 1..=1_000;
const JITTER: RangeInclusive<f64> = 0.0..=1.0;
const PORT: RangeInclusive<i64> = 1..=65_535;
/// The statuses that HTTP has (RFC 9110, 15), the interim ones left out.
const STATUS: RangeInclusive<u16> = 200..=599;
const STATUS_DEFAULT: u16 = 200;
/// A datagram of up to this fits into any frame, fragments being nothing that a check should need.
const SEND_MAX: usize = 1_200;
const PATTERN_MAX: usize = 1_024;
const ARGUMENTS_MAX: usize = 64;
/// Bytes of a file of certificates. That of all authorities of the web has some 250,000.
const CA_FILE_MAX: u64 = 4 << 20;
/// Permission bit by which others could change a file.
const OTHERS_WRITE: u32 = 0o002;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WrittenKind {
    Tcp,
    Http,
    Https,
    Udp,
    Dns,
    Command,
    Dr,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WrittenOnFailure {
    #[default]
    Drain,
    Expire,
}

/// The table as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenHealthCheck {
    kind: Spanned<WrittenKind>,
    interval: Option<Spanned<toml::Value>>,
    timeout: Option<Spanned<toml::Value>>,
    rise: Option<Spanned<i64>>,
    fall: Option<Spanned<i64>>,
    jitter: Option<Spanned<toml::Value>>,
    #[serde(default)]
    on_failure: WrittenOnFailure,
    port: Option<Spanned<i64>>,
    path: Option<Spanned<String>>,
    host: Option<Spanned<String>>,
    status: Option<Spanned<Vec<Spanned<toml::Value>>>>,
    body: Option<Spanned<String>>,
    ca: Option<Spanned<String>>,
    server_name: Option<Spanned<String>>,
    send: Option<Spanned<String>>,
    expect: Option<Spanned<String>>,
    name: Option<Spanned<String>>,
    record: Option<Spanned<String>>,
    command: Option<Spanned<Vec<Spanned<String>>>>,
}

impl WrittenHealthCheck {
    /// The keys that not every kind knows: name, place of the value if it is written, the kinds.
    fn special_keys(&self) -> [(&'static str, Option<usize>, &'static [WrittenKind]); 11] {
        use WrittenKind::{Command, Dns, Http, Https, Tcp, Udp};
        fn start<T>(written: &Option<Spanned<T>>) -> Option<usize> {
            written.as_ref().map(|written| written.span().start)
        }
        [
            ("port", start(&self.port), &[Tcp, Http, Https, Udp, Dns, Command]),
            ("path", start(&self.path), &[Http, Https]),
            ("host", start(&self.host), &[Http, Https]),
            ("status", start(&self.status), &[Http, Https]),
            ("body", start(&self.body), &[Http, Https]),
            ("ca", start(&self.ca), &[Https]),
            ("server_name", start(&self.server_name), &[Https]),
            ("send", start(&self.send), &[Udp]),
            ("expect", start(&self.expect), &[Udp]),
            ("name", start(&self.name), &[Dns]),
            ("record", start(&self.record), &[Dns]),
        ]
    }
}

impl WrittenKind {
    fn name(self) -> &'static str {
        match self {
            WrittenKind::Tcp => "tcp",
            WrittenKind::Http => "http",
            WrittenKind::Https => "https",
            WrittenKind::Udp => "udp",
            WrittenKind::Dns => "dns",
            WrittenKind::Command => "command",
            WrittenKind::Dr => "dr",
        }
    }
}

impl Check<'_> {
    /// The health check of the service `key`.
    pub(crate) fn health_check(
        &mut self,
        written: &WrittenHealthCheck,
        key: ServiceKey,
    ) -> HealthCheck {
        self.foreign_keys(written);
        let kind = *written.kind.get_ref();
        if kind == WrittenKind::Dr && key.protocol != Protocol::Tcp {
            self.problem(
                written.kind.span().start,
                "a dr check asks for a TCP connection, and this service is UDP: write kind = \"udp\" or \"dns\", or \"command\" for anything else",
            );
        }
        let interval = self.seconds(&written.interval, INTERVAL, HealthCheck::INTERVAL, "interval");
        let timeout = HealthCheck::TIMEOUT.min(interval);
        let timeout = self.timeout(&written.timeout, timeout, interval);
        let times = |check: &mut Self, written, default: u32, what| {
            check.number(written, TIMES, default.into(), what).max(1) as u32
        };
        HealthCheck {
            port: written.port.as_ref().map(|_| self.number(&written.port, PORT, 1, "port") as u16),
            interval,
            timeout,
            rise: times(self, &written.rise, HealthCheck::RISE, "rise"),
            fall: times(self, &written.fall, HealthCheck::FALL, "fall"),
            jitter: self.fraction(&written.jitter, JITTER, HealthCheck::JITTER, "jitter"),
            on_failure: match written.on_failure {
                WrittenOnFailure::Drain => OnFailure::Drain,
                WrittenOnFailure::Expire => OnFailure::Expire,
            },
            kind: match kind {
                WrittenKind::Tcp => CheckKind::Tcp,
                WrittenKind::Http => CheckKind::Http(self.http(written, None)),
                WrittenKind::Https => {
                    let tls = self.tls(written);
                    CheckKind::Http(self.http(written, Some(tls)))
                }
                WrittenKind::Udp => CheckKind::Udp(self.udp(written, timeout)),
                WrittenKind::Dns => CheckKind::Dns(self.dns(written)),
                WrittenKind::Command => CheckKind::Command(self.command(written)),
                WrittenKind::Dr => CheckKind::Dr,
            },
        }
    }

    /// Notes the keys that this kind of check does not know.
    fn foreign_keys(&mut self, written: &WrittenHealthCheck) {
        let kind = *written.kind.get_ref();
        let command = written.command.as_ref().map(|written| written.span().start);
        let command = [("command", command, &[WrittenKind::Command][..])];
        for (key, place, kinds) in written.special_keys().into_iter().chain(command) {
            let Some(offset) = place else { continue };
            if kinds.contains(&kind) {
                continue;
            }
            let message = if (key, kind) == ("port", WrittenKind::Dr) {
                "a dr check asks for the VIP and port of the service: remove port".to_owned()
            } else {
                let known: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                format!(
                    "{key} is a key of {} checks, and this is a {} check: remove {key}, or change kind",
                    known.join(" and "),
                    kind.name()
                )
            };
            self.problem(offset, message);
        }
    }

    /// A number that may have a fraction, within its range.
    fn fraction(
        &mut self,
        written: &Option<Spanned<toml::Value>>,
        range: RangeInclusive<f64>,
        default: f64,
        what: &str,
    ) -> f64 {
        let Some(written) = written else { return default };
        let value = match written.get_ref() {
            toml::Value::Integer(number) => Some(*number as f64),
            toml::Value::Float(number) => Some(*number),
            _ => None,
        };
        let (from, to) = (range.start(), range.end());
        match value.filter(|value| range.contains(value)) {
            Some(value) => value,
            None => {
                let value = shown(written.get_ref());
                let message = format!("{what} is {value}: write a number from {from} to {to}");
                self.problem(written.span().start, message);
                default
            }
        }
    }

    fn seconds(
        &mut self,
        written: &Option<Spanned<toml::Value>>,
        range: RangeInclusive<f64>,
        default: Duration,
        what: &str,
    ) -> Duration {
        let seconds = self.fraction(written, range, default.as_secs_f64(), what);
        Duration::from_secs_f64(seconds)
    }

    fn timeout(
        &mut self,
        written: &Option<Spanned<toml::Value>>,
        default: Duration,
        interval: Duration,
    ) -> Duration {
        let timeout = self.seconds(written, TIMEOUT, default, "timeout");
        if let Some(written) = written
            && timeout > interval
        {
            self.problem(
                written.span().start,
                format!(
                    "timeout is {} and interval {}: the next check begins when the one before has ended, so write a timeout of at most the interval",
                    plain_seconds(timeout),
                    plain_seconds(interval)
                ),
            );
        }
        timeout
    }

    fn pattern(&mut self, written: &Option<Spanned<String>>, what: &str) -> Option<Pattern> {
        let written = written.as_ref()?;
        let (offset, text) = (written.span().start, written.get_ref());
        if text.len() > PATTERN_MAX {
            let message = format!(
                "{what} has {} bytes: write a pattern of at most {PATTERN_MAX}",
                text.len()
            );
            self.problem(offset, message);
            return None;
        }
        let pattern = Pattern::new(text);
        if let Err(cause) = &pattern {
            self.problem(offset, format!("{what} {cause}"));
        }
        pattern.ok()
    }

    fn http(&mut self, written: &WrittenHealthCheck, tls: Option<TlsCheck>) -> HttpCheck {
        let path = written.path.as_ref().map_or("/", |path| path.get_ref());
        let is_path = path.starts_with('/')
            && !path.contains('#')
            && PathAndQuery::from_str(path).is_ok_and(|parsed| parsed.as_str() == path);
        if let (false, Some(written)) = (is_path, &written.path) {
            self.problem(
                written.span().start,
                format!("{path:?} is no path of a request: write one as in \"/health?full=1\", other characters as %20 and the like"),
            );
        }
        let host = written.host.as_ref().map(|host| host.get_ref().clone());
        if let (Some(host), Some(written)) = (&host, &written.host)
            && (UriAuthority::from_str(host).is_err() || host.contains('@'))
        {
            self.problem(
                written.span().start,
                format!("{host:?} is no name of a host: write one as in \"www.example.org\", with its port if that is not the usual one"),
            );
        }
        HttpCheck {
            path: path.to_owned(),
            host,
            status: self.status(&written.status),
            body: self.pattern(&written.body, "body"),
            tls,
        }
    }

    fn status(
        &mut self,
        written: &Option<Spanned<Vec<Spanned<toml::Value>>>>,
    ) -> Vec<RangeInclusive<u16>> {
        let Some(list) = written else { return vec![STATUS_DEFAULT..=STATUS_DEFAULT] };
        let mut status = Vec::new();
        for written in list.get_ref() {
            match status_range(written.get_ref()) {
                Some(range) => status.push(range),
                None => self.problem(
                    written.span().start,
                    format!(
                        "{} is no status: write numbers from {} to {}, or ranges as in \"200-299\"",
                        shown(written.get_ref()),
                        STATUS.start(),
                        STATUS.end()
                    ),
                ),
            }
        }
        if list.get_ref().is_empty() {
            self.problem(list.span().start, "status lists nothing, so that no answer could be well: write [200], or leave status out");
        }
        status
    }

    fn tls(&mut self, written: &WrittenHealthCheck) -> TlsCheck {
        let ca = written.ca.as_ref().and_then(|ca| {
            read_authority(Path::new(ca.get_ref()))
                .map_err(|message| self.problem(ca.span().start, message))
                .ok()
        });
        let server_name = written.server_name.as_ref().map(|name| name.get_ref().clone());
        if let (Some(name), Some(written)) = (&server_name, &written.server_name)
            && ServerName::try_from(name.as_str()).is_err()
        {
            self.problem(
                written.span().start,
                format!("{name:?} is no name that a certificate could be for: write one as in \"www.example.org\""),
            );
        }
        TlsCheck { ca, server_name }
    }

    fn udp(&mut self, written: &WrittenHealthCheck, timeout: Duration) -> UdpCheck {
        let send = written.send.as_ref().map_or("", |send| send.get_ref());
        if let (true, Some(written)) = (send.len() > SEND_MAX, &written.send) {
            let message = format!("send has {} bytes: write at most {SEND_MAX}", send.len());
            self.problem(written.span().start, message);
        }
        let expect = self.pattern(&written.expect, "expect");
        UdpCheck { send: send.to_owned(), expect, silence: UdpCheck::silence(timeout) }
    }

    fn dns(&mut self, written: &WrittenHealthCheck) -> DnsCheck {
        let name = match &written.name {
            Some(name) => name.get_ref().clone(),
            None => {
                self.problem(
                    written.kind.span().start,
                    "a dns check asks for a name: add name = \"www.example.org\"",
                );
                String::new()
            }
        };
        if let Some(written) = &written.name
            && Name::<Vec<u8>>::from_str(&name).is_err()
        {
            self.problem(
                written.span().start,
                format!("{name:?} is no name in the DNS: write one as in \"www.example.org\""),
            );
        }
        let record = written.record.as_ref().map_or("A", |record| record.get_ref());
        if let (Err(_), Some(written)) = (Rtype::from_str(record), &written.record) {
            self.problem(
                written.span().start,
                format!("{record:?} is no type of a record: write one as in \"A\", \"AAAA\", \"SOA\" or \"TYPE65\""),
            );
        }
        DnsCheck { name, record: record.to_owned() }
    }

    fn command(&mut self, written: &WrittenHealthCheck) -> CommandCheck {
        let Some(list) = &written.command else {
            self.problem(
                written.kind.span().start,
                "a command check needs a program to run: add command = [\"/usr/local/bin/is_well\"]",
            );
            return CommandCheck { command: Vec::new() };
        };
        match list.get_ref().first() {
            None => self.problem(
                list.span().start,
                "command is empty: write the program's path and its arguments, as in [\"/usr/local/bin/is_well\", \"-v\"]",
            ),
            Some(program) => {
                if let Err(message) = may_run(Path::new(program.get_ref())) {
                    self.problem(program.span().start, message);
                }
            }
        }
        if list.get_ref().len() > ARGUMENTS_MAX {
            let message = format!(
                "command has {} words: write at most {ARGUMENTS_MAX}",
                list.get_ref().len()
            );
            self.problem(list.span().start, message);
        }
        for word in list.get_ref() {
            if word.get_ref().contains('\0') {
                self.problem(word.span().start, "a word of a command cannot hold a zero byte: the kernel would end it there, so remove it");
            }
        }
        CommandCheck { command: list.get_ref().iter().map(|word| word.get_ref().clone()).collect() }
    }
}

/// A value as a message shows it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => quoted(text),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Boolean(flag) => flag.to_string(),
        other => format!("of the type {}", other.type_str()),
    }
}

/// A status, or a range of them as in "200-299".
fn status_range(written: &toml::Value) -> Option<RangeInclusive<u16>> {
    let range = match written {
        toml::Value::Integer(status) => {
            let status = u16::try_from(*status).ok()?;
            status..=status
        }
        toml::Value::String(text) => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            from.trim().parse().ok()?..=to.trim().parse().ok()?
        }
        _ => return None,
    };
    let known = STATUS.contains(range.start()) && STATUS.contains(range.end());
    (known && !range.is_empty()).then_some(range)
}

/// Whether a program may be run as what the director is.
fn may_run(path: &Path) -> Result<(), String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!(
            "{shown} is no absolute path: write the program's path from / on, as `command -v {shown}` prints it"
        ));
    }
    let found = std::fs::metadata(path).map_err(|cause| {
        format!("cannot find {shown} ({cause}): name a program of this machine")
    })?;
    let mode = found.permissions().mode();
    if !found.is_file() || mode & 0o111 == 0 {
        return Err(format!(
            "{shown} is no program that could be run: `chmod +x {shown}`, or name another"
        ));
    }
    if mode & OTHERS_WRITE != 0 {
        return Err(format!(
            "any user of this machine may change {shown} (mode {:04o}), which the director would run: `chmod o-w {shown}`",
            mode & 0o7777
        ));
    }
    Ok(())
}

/// Reads the certificates of authorities.
fn read_authority(path: &Path) -> Result<Authority, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("ca needs an absolute path, and {shown} is none: write it from / on"));
    }
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_FILE_MAX).read_to_end(&mut content))
        .map_err(|cause| {
            format!("cannot read {shown} ({cause}): name the PEM file of the authority that signed the servers' certificates")
        })?;
    let unusable = |cause: String| {
        format!("{shown} holds no usable certificate ({cause}): it takes PEM, one or several")
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|cause| unusable(cause.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("there is none".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|cause| unusable(cause.to_string()))?;
    }
    Ok(Authority { path: path.to_owned(), roots: Arc::new(roots) })
}

/// Writes the table so that it reads the same.
pub(crate) fn write_health_check(text: &mut String, check: &HealthCheck) -> fmt::Result {
    writeln!(text, "[virtual_service.health_check]\nkind = \"{}\"", check.kind.name())?;
    writeln!(text, "interval = {}", check.interval.as_secs_f64())?;
    writeln!(text, "timeout = {}", check.timeout.as_secs_f64())?;
    writeln!(text, "rise = {}\nfall = {}\njitter = {}", check.rise, check.fall, check.jitter)?;
    let on_failure = match check.on_failure {
        OnFailure::Drain => "drain",
        OnFailure::Expire => "expire",
    };
    writeln!(text, "on_failure = \"{on_failure}\"")?;
    if let Some(port) = check.port {
        writeln!(text, "port = {port}")?;
    }
    match &check.kind {
        CheckKind::Tcp | CheckKind::Dr => Ok(()),
        CheckKind::Http(http) => write_http(text, http),
        CheckKind::Udp(UdpCheck { send, expect, silence: _ }) => {
            writeln!(text, "send = {}", quoted(send))?;
            write_key(text, "expect", expect.as_ref().map(Pattern::as_str))
        }
        CheckKind::Dns(DnsCheck { name, record }) => {
            writeln!(text, "name = {}\nrecord = {}", quoted(name), quoted(record))
        }
        CheckKind::Command(CommandCheck { command }) => {
            let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
            writeln!(text, "command = [{}]", words.join(", "))
        }
    }
}

fn write_http(text: &mut String, http: &HttpCheck) -> fmt::Result {
    let HttpCheck { path, host, status, body, tls } = http;
    writeln!(text, "path = {}", quoted(path))?;
    write_key(text, "host", host.as_deref())?;
    let status: Vec<String> = status
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (from, to) if from == to => from.to_string(),
            (from, to) => format!("\"{from}-{to}\""),
        })
        .collect();
    writeln!(text, "status = [{}]", status.join(", "))?;
    write_key(text, "body", body.as_ref().map(Pattern::as_str))?;
    let Some(TlsCheck { ca, server_name }) = tls else { return Ok(()) };
    let ca = ca.as_ref().map(|ca| ca.path.to_string_lossy());
    write_key(text, "ca", ca.as_deref())?;
    write_key(text, "server_name", server_name.as_deref())
}

fn write_key(text: &mut String, key: &str, value: Option<&str>) -> fmt::Result {
    match value {
        Some(value) => writeln!(text, "{key} = {}", quoted(value)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "config_health_tests.rs"]
mod tests;
