//! Listings of plugins, for people.

use crate::plugin_views::{EventView, PluginShowView, PluginView, PluginsView, UploadView};
use crate::plugin_views::{SwapView, VersionView};
use crate::scheduler_name::SchedulerName;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// Characters of a digest that tell two modules apart well enough.
const DIGEST_SHOWN: usize = 12;
/// What stands for nothing in a column.
const NOTHING: &str = "-";

/// Where a column's words begin or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

/// All plugins, one a line.
pub fn list(view: &PluginsView) -> String {
    let head = [
        ("NAME", Left),
        ("VERSION", Right),
        ("LABEL", Left),
        ("DIGEST", Left),
        ("SIZE", Right),
        ("ABI", Right),
        ("SERVICES", Right),
        ("CALLS", Right),
        ("TRAPS", Right),
        ("P50", Right),
        ("P99", Right),
    ];
    let row = |plugin: &PluginView| {
        vec![
            plugin.name.to_string(),
            plugin.version.to_string(),
            optional(plugin.label.as_ref()),
            short(&plugin.digest),
            plugin.size.to_string(),
            plugin.abi.to_string(),
            plugin.services.len().to_string(),
            plugin.calls.to_string(),
            plugin.traps.to_string(),
            optional(plugin.p50),
            optional(plugin.p99),
        ]
    };
    table(&head, &view.plugins.iter().map(row).collect::<Vec<_>>())
}

/// Everything that is known about one plugin.
pub fn show(view: &PluginShowView) -> String {
    let PluginShowView { plugin, limits, events } = view;
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut line = |key: &str, value: String| {
        let _ = writeln!(text, "{key:<10} {value}");
    };
    line("plugin", plugin.name.to_string());
    let label = plugin.label.as_ref().map(|label| format!(", label {label}"));
    let stock = if plugin.stock { ", part of the program" } else { "" };
    line("version", format!("{}{}{stock}", plugin.version, label.unwrap_or_default()));
    line("digest", plugin.digest.clone());
    line("size", format!("{} bytes, ABI {}", plugin.size, plugin.abi));
    let services: Vec<String> = plugin.services.iter().map(ToString::to_string).collect();
    line("services", if services.is_empty() { "none".into() } else { services.join(", ") });
    line("instances", format!("{}, with {} bytes of memory", plugin.instances, plugin.memory));
    line("calls", calls(plugin));
    let fallbacks: Vec<String> =
        plugin.fallbacks.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    line("fallbacks", if fallbacks.is_empty() { "none".into() } else { fallbacks.join(", ") });
    line("rollbacks", plugin.rollbacks.to_string());
    if let Some(SwapView { count, p50, p999 }) = plugin.swap {
        line("swaps", format!("{count}, pausing a worker for {p50} ns (p50), {p999} ns (p99.9)"));
    }
    text.push('\n');
    text.push_str(&versions(&plugin.versions));
    text.push_str("\nLimits\n");
    let width = limits.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in limits {
        let _ = writeln!(text, "  {key:<width$}  {value}{}", unit(key));
    }
    if !events.is_empty() {
        text.push_str("\nEvents\n");
        events.iter().for_each(|event| text.push_str(&self::event(event)));
    }
    text
}

fn calls(plugin: &PluginView) -> String {
    match (plugin.p50, plugin.p99) {
        (Some(p50), Some(p99)) => {
            format!("{}, taking {p50} ns (p50), {p99} ns (p99)", plugin.calls)
        }
        _ => plugin.calls.to_string(),
    }
}

fn versions(versions: &[VersionView]) -> String {
    let head = [
        ("VERSION", Right),
        ("STATE", Left),
        ("LABEL", Left),
        ("DIGEST", Left),
        ("SIZE", Right),
        ("UPLOADED", Left),
        ("REASON", Left),
    ];
    let row = |version: &VersionView| {
        vec![
            version.version.to_string(),
            version.state.name().to_owned(),
            optional(version.label.as_ref()),
            short(&version.digest),
            version.size.to_string(),
            if version.uploaded == 0 { NOTHING.to_owned() } else { time(version.uploaded) },
            version.reason.clone().unwrap_or_default(),
        ]
    };
    table(&head, &versions.iter().map(row).collect::<Vec<_>>())
}

/// The unit of a limit, by its key.
fn unit(key: &str) -> &'static str {
    match key {
        "file_size" | "memory" | "stack" | "state" => " bytes",
        "compile_time" | "window" => " ms",
        _ => "",
    }
}

/// An event, in one line; its dump in another.
pub fn event(event: &EventView) -> String {
    let EventView { time, kind, plugin, version, service, message, .. } = event;
    let name = SchedulerName { name: plugin.clone(), version: *version };
    let service = service.map(|service| format!(" {service}")).unwrap_or_default();
    let mut text = format!("  {} {kind} {name}{service}: {message}\n", self::time(*time));
    if let Some(dump) = &event.dump {
        let _ = writeln!(
            text,
            "    shunt plugin check FILE --replay {dump}    repeats the call that failed"
        );
    }
    text
}

/// What an upload or a rollback did, in one sentence.
pub fn uploaded(view: &UploadView) -> String {
    let UploadView { name, version, label, digest, services, milliseconds, unchanged } = view;
    let label = label.as_ref().map(|label| format!(", label {label}")).unwrap_or_default();
    let what = format!("{name}@{version} (digest {}{label})", short(digest));
    if *unchanged {
        return format!("{what} was current already, nothing has changed\n");
    }
    let services = match services {
        0 => format!("no service uses it yet: `shunt service set SERVICE --scheduler {name}`"),
        1 => "1 service uses it".to_owned(),
        several => format!("{several} services use it"),
    };
    format!("{what} is current, {milliseconds:.1} ms after the request; {services}\n")
}

/// Seconds since 1970 as 2026-01-31T12:00:00Z.
fn time(seconds: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    // A clock that is set to the year 10000 is shown as it counts.
    time.filter(|_| seconds < 253_402_300_800)
        .map_or_else(|| seconds.to_string(), |t| humantime::format_rfc3339_seconds(t).to_string())
}

fn short(digest: &str) -> String {
    digest.chars().take(DIGEST_SHOWN).collect()
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| value.to_string())
}

/// Columns as wide as what is in them, two spaces apart.
fn table<const N: usize>(head: &[(&str, Align); N], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(head[column].0.len())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(head).zip(widths).map(|((cell, (_, align)), width)| match align {
            Left => format!("{cell:<width$}"),
            Right => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    };
    line(&mut head.iter().map(|(title, _)| *title));
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin_views::VersionState;
    use std::collections::BTreeMap;

    fn version(number: u32, state: VersionState) -> VersionView {
        VersionView {
            version: number,
            label: (number > 0).then(|| format!("0.{number}.0")),
            digest: format!("{number:064x}"),
            size: 3000 + number as usize,
            uploaded: if number > 0 { 1_700_000_000 + u64::from(number) } else { 0 },
            state,
            reason: (state == VersionState::Failed).then(|| "trapped 11 times in 60 s".into()),
        }
    }

    fn plugin() -> PluginView {
        PluginView {
            name: "my".parse().unwrap(),
            version: 2,
            label: Some("0.2.0".into()),
            digest: format!("{:064x}", 0xabcd),
            size: 3002,
            abi: 1,
            stock: false,
            services: vec![
                "tcp:172.17.100.100:80".parse().unwrap(),
                "udp:172.17.100.100:53".parse().unwrap(),
            ],
            instances: 4,
            memory: 262_144,
            calls: 1_234_567,
            traps: 1,
            fallbacks: BTreeMap::from([("trap".into(), 1), ("declined".into(), 20)]),
            rollbacks: 1,
            p50: Some(31),
            p99: Some(64),
            swap: Some(SwapView { count: 4, p50: 500, p999: 900 }),
            versions: vec![
                version(3, VersionState::Failed),
                version(2, VersionState::Current),
                version(1, VersionState::Kept),
            ],
        }
    }

    fn stock() -> PluginView {
        PluginView {
            name: "rr".parse().unwrap(),
            version: 0,
            label: None,
            digest: "0123456789abcdef".repeat(4),
            stock: true,
            services: vec![],
            instances: 0,
            memory: 0,
            calls: 0,
            traps: 0,
            fallbacks: BTreeMap::new(),
            rollbacks: 0,
            p50: None,
            p99: None,
            swap: None,
            versions: vec![version(0, VersionState::Current)],
            ..plugin()
        }
    }

    #[test]
    fn plugins_are_listed_in_columns() {
        let expected = "\
NAME  VERSION  LABEL  DIGEST        SIZE  ABI  SERVICES    CALLS  TRAPS  P50  P99
my          2  0.2.0  000000000000  3002    1         2  1234567      1   31   64
rr          0  -      0123456789ab  3002    1         0        0      0    -    -
";
        assert_eq!(list(&PluginsView { plugins: vec![plugin(), stock()] }), expected);
    }

    #[test]
    fn a_plugin_is_shown_with_everything_that_is_known() {
        let event = EventView {
            number: 7,
            time: 1_700_000_100,
            kind: "automatic_rollback".into(),
            plugin: "my".parse().unwrap(),
            version: Some(3),
            service: Some("tcp:172.17.100.100:80".parse().unwrap()),
            message: "trapped 11 times in 60 s, back to my@2".into(),
            dump: Some("/var/lib/shunt/dumps/1.json".into()),
        };
        let limits = BTreeMap::from([("memory".into(), 16_777_216), ("fuel".into(), 100_000)]);
        let expected = "\
plugin     my
version    2, label 0.2.0
digest     000000000000000000000000000000000000000000000000000000000000abcd
size       3002 bytes, ABI 1
services   tcp:172.17.100.100:80, udp:172.17.100.100:53
instances  4, with 262144 bytes of memory
calls      1234567, taking 31 ns (p50), 64 ns (p99)
fallbacks  20 declined, 1 trap
rollbacks  1
swaps      4, pausing a worker for 500 ns (p50), 900 ns (p99.9)

VERSION  STATE    LABEL  DIGEST        SIZE  UPLOADED              REASON
      3  failed   0.3.0  000000000000  3003  2023-11-14T22:13:23Z  trapped 11 times in 60 s
      2  current  0.2.0  000000000000  3002  2023-11-14T22:13:22Z
      1  kept     0.1.0  000000000000  3001  2023-11-14T22:13:21Z

Limits
  fuel    100000
  memory  16777216 bytes

Events
  2023-11-14T22:15:00Z automatic_rollback my@3 tcp:172.17.100.100:80: trapped 11 times in 60 s, back to my@2
    shunt plugin check FILE --replay /var/lib/shunt/dumps/1.json    repeats the call that failed
";
        let view = PluginShowView { plugin: plugin(), limits, events: vec![event] };
        assert_eq!(show(&view), expected);
    }

    #[test]
    fn a_stock_plugin_that_nobody_uses_is_shown_without_what_it_has_not() {
        let view = PluginShowView { plugin: stock(), limits: BTreeMap::new(), events: Vec::new() };
        let text = show(&view);
        for expected in
            ["version    0, part of the program\n", "services   none\n", "calls      0\n"]
        {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("Events") && !text.contains("swaps"), "{text}");
    }

    #[test]
    fn an_upload_says_what_serves_now() {
        let view = |services, unchanged| UploadView {
            name: "my".parse().unwrap(),
            version: 3,
            label: Some("0.3.0".into()),
            digest: "0123456789abcdef".repeat(4),
            services,
            milliseconds: 12.34,
            unchanged,
        };
        let what = "my@3 (digest 0123456789ab, label 0.3.0)";
        for (view, expected) in [
            (view(2, false), "is current, 12.3 ms after the request; 2 services use it\n"),
            (view(1, false), "is current, 12.3 ms after the request; 1 service uses it\n"),
            (
                view(0, false),
                "is current, 12.3 ms after the request; no service uses it yet: `shunt service set SERVICE --scheduler my`\n",
            ),
            (view(2, true), "was current already, nothing has changed\n"),
        ] {
            assert_eq!(uploaded(&view), format!("{what} {expected}"));
        }
    }
}
