//! The files that set a real server up again at each boot.
//!
//! Two do it together: systemd-sysctl silences ARP before the network comes up (sysctl.d(5)), and
//! a unit then runs `shunt rs setup`, which adds the VIPs once the interfaces are there. The unit
//! is enabled as `systemctl enable` does it, by a link, so that it works in an image that no
//! systemd runs in. The fourth file keeps the former values for `shunt rs teardown`.

use crate::rs::record::{Record, interfaces};
use crate::rs::steps::Content;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Before /etc/sysctl.conf, which is read as 99: the operator has the last word, and the unit, run
/// later, says so.
const SYSCTLS: &str = "etc/sysctl.d/60-shunt-rs.conf";
const UNIT: &str = "etc/systemd/system/shunt-rs.service";
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/shunt-rs.service";
const KEPT: &str = "var/lib/shunt/rs.json";

/// The interface that a VIP is added to unless another is named.
pub const LOOPBACK: &str = "lo";

/// lo is always there.
const ORDER_LO: &str = "# Who listens on a VIP may come after network-online.target.\n\
    After=systemd-sysctl.service network.target\n\
    Before=network-online.target\n";
/// Any other is made, and switched on, by whoever sets up the network.
const ORDER_OTHER: &str = "# The interface is there, and up.\n\
    After=systemd-sysctl.service network-online.target\n\
    Wants=network-online.target\n";

/// Files by their path.
pub type Files = BTreeMap<PathBuf, Content>;

/// All files that may be written below this root. The one that a teardown goes by comes first, and
/// goes last.
pub fn paths(root: &Path) -> [PathBuf; 4] {
    [KEPT, SYSCTLS, UNIT, WANTED].map(|path| root.join(path))
}

/// Where the former values are kept below this root.
pub fn kept_path(root: &Path) -> PathBuf {
    root.join(KEPT)
}

/// The files that apply a record at boot, by the program that it names.
pub fn files(root: &Path, record: &Record) -> Files {
    let mut files = Files::new();
    if record.vips.is_empty() {
        return files;
    }
    if !record.sysctls.is_empty() {
        files.insert(root.join(SYSCTLS), Content::Text(sysctls(record)));
    }
    files.insert(root.join(UNIT), Content::Text(unit(record)));
    files.insert(root.join(WANTED), Content::Link("../shunt-rs.service".into()));
    files.insert(root.join(KEPT), Content::Text(record.to_text()));
    files
}

fn sysctls(record: &Record) -> String {
    let mut text = "# Written by `shunt rs setup --persist`; `shunt rs teardown` removes it.\n\
        # This real server holds VIPs of direct routing. It must not answer ARP for them, nor ask\n\
        # from them: the kernel takes the greater value of `all` and of the interface.\n"
        .to_owned();
    for sysctl in &record.sysctls {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} = {}", sysctl.setting, sysctl.value);
    }
    text
}

fn unit(record: &Record) -> String {
    let program = record.program.as_deref().unwrap_or(Path::new("/usr/bin/shunt"));
    let mut commands = String::new();
    for interface in interfaces(&record.vips) {
        let _ = write!(commands, "ExecStart={} rs setup", word(&program.to_string_lossy()));
        for vip in record.vips.iter().filter(|vip| vip.interface == interface) {
            let _ = write!(commands, " --vip {}", vip.address);
        }
        if interface != LOOPBACK {
            let _ = write!(commands, " --interface {}", word(interface));
        }
        commands.push('\n');
    }
    let lo_alone = record.vips.iter().all(|vip| vip.interface == LOOPBACK);
    let order = if lo_alone { ORDER_LO } else { ORDER_OTHER };
    format!(
        "# Written by `shunt rs setup --persist`; `shunt rs teardown` removes it.\n\
        [Unit]\n\
        Description=VIPs of direct routing on this real server\n\
        {order}\
        \n\
        [Service]\n\
        Type=oneshot\n\
        RemainAfterExit=yes\n\
        {commands}\
        \n\
        [Install]\n\
        WantedBy=multi-user.target\n"
    )
}

/// A word of a command line in a unit file (systemd.service(5), Command lines; systemd.syntax(7)).
fn word(text: &str) -> String {
    let escaped = text.replace('%', "%%").replace('$', "$$").replace('\\', "\\\\");
    if escaped.contains([' ', '\t', '"', '\'', ';']) {
        format!("\"{}\"", escaped.replace('"', "\\\""))
    } else {
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rs::facts::{ALL, Key, Setting};
    use crate::rs::record::{SysctlRecord, VipRecord};

    fn record() -> Record {
        let vip = |address: &str, interface: &str| VipRecord {
            address: address.parse().unwrap(),
            interface: interface.to_owned(),
            added: true,
        };
        let sysctl = |interface: &str, key: Key| SysctlRecord {
            setting: Setting::new(interface, key),
            former: 0,
            value: key.wanted(),
        };
        Record {
            vips: vec![vip("10.0.0.1", "lo"), vip("fd00::1", "du.1"), vip("10.0.0.2", "lo")],
            sysctls: vec![sysctl(ALL, Key::ArpIgnore), sysctl("du.1", Key::ArpAnnounce)],
            program: Some("/opt/shunt".into()),
            ..Record::default()
        }
    }

    fn text(files: &Files, path: &str) -> String {
        match &files[Path::new(path)] {
            Content::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_files_apply_what_was_set_up() {
        let root = Path::new("/image");
        let files = files(root, &record());
        assert!(files.keys().all(|path| paths(root).contains(path)));
        assert_eq!(files.len(), 4);
        let sysctls = text(&files, "/image/etc/sysctl.d/60-shunt-rs.conf");
        let lines: Vec<&str> = sysctls.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            ["net.ipv4.conf.all.arp_ignore = 1", "net.ipv4.conf.du/1.arp_announce = 2"]
        );
        let unit = text(&files, "/image/etc/systemd/system/shunt-rs.service");
        let lines: Vec<&str> =
            unit.lines().filter_map(|line| line.strip_prefix("ExecStart=")).collect();
        assert_eq!(
            lines,
            [
                "/opt/shunt rs setup --vip 10.0.0.1 --vip 10.0.0.2",
                "/opt/shunt rs setup --vip fd00::1 --interface du.1"
            ]
        );
        // A dummy may be made late.
        assert!(unit.contains("\nAfter=systemd-sysctl.service network-online.target\n"), "{unit}");
        let mut lo = record();
        lo.vips.retain(|vip| vip.interface == LOOPBACK);
        let unit = text(&super::files(root, &lo), "/image/etc/systemd/system/shunt-rs.service");
        assert!(unit.contains("\nBefore=network-online.target\n"), "{unit}");
        let kept = text(&files, "/image/var/lib/shunt/rs.json");
        assert_eq!(Record::parse(&kept_path(root), &kept), Ok(record()));
    }

    #[test]
    fn nothing_is_kept_of_nothing_and_no_sysctl_for_ipv6_alone() {
        let root = Path::new("/");
        assert_eq!(files(root, &Record::default()), Files::new());
        let mut record = record();
        record.sysctls.clear();
        assert_eq!(files(root, &record).len(), 3);
    }

    #[test]
    fn a_word_survives_systemd() {
        for (text, expected) in [
            ("/usr/bin/shunt", "/usr/bin/shunt"),
            ("/opt/my tools/shunt", "\"/opt/my tools/shunt\""),
            ("/opt/100%/$x", "/opt/100%%/$$x"),
            ("a\"b\\", "\"a\\\"b\\\\\""),
        ] {
            assert_eq!(word(text), expected);
        }
    }
}
