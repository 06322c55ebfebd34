//! Listings in the columns that users of `ipvsadm -Ln`, `--stats` and `-Lnc` know.
//!
//! What IPVS has no column for (removed, no neighbor, changed at run time) follows at the end of
//! the line, so that scripts which read columns go on working.

use crate::health::views as health;
use crate::views::{CountsView, FlowView, ServerView, ServiceView, ServicesView, params_text};
use std::fmt::Write;
use std::net::SocketAddr;

/// As `ipvsadm -Ln`.
pub fn list(view: &ServicesView) -> String {
    let mut text = head(view);
    text.push_str("Prot LocalAddress:Port Scheduler Flags\n");
    text.push_str("  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n");
    for service in &view.services {
        let remark = remark(&service_remarks(service));
        line(&mut text, format_args!("{} {}{remark}", name(service), scheduler(service)));
        for server in &service.servers {
            let address = SocketAddr::new(server.address, service.service.0.port).to_string();
            let CountsView { active, inactive, .. } = server.counts;
            let remark = self::remark(&server_remarks(server));
            line(
                &mut text,
                format_args!(
                    "  -> {address:<28} {:<7} {:<6} {active:<10} {inactive:<10}{remark}",
                    "Route", server.weight
                ),
            );
        }
    }
    text
}

/// As `ipvsadm -Ln --stats`. The replies do not come by the director, so OutPkts and OutBytes
/// are 0, as they are with IPVS in direct routing.
pub fn statistics(view: &ServicesView) -> String {
    let mut text = head(view);
    text.push_str(
        "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n",
    );
    text.push_str("  -> RemoteAddress:Port\n");
    for service in &view.services {
        let remark = remark(&service_remarks(service));
        let columns = columns(&service.counts);
        line(&mut text, format_args!("{:<33}{columns}{remark}", name(service)));
        for server in &service.servers {
            let address = SocketAddr::new(server.address, service.service.0.port).to_string();
            let remark = self::remark(&server_remarks(server));
            let columns = self::columns(&server.counts);
            line(&mut text, format_args!("  -> {address:<28}{columns}{remark}"));
        }
    }
    text
}

/// The two lines above the flows, as with `ipvsadm -Lnc`.
pub const FLOWS_HEAD: &str = "IPVS connection entries\n\
                              pro expire state       source             virtual            destination\n";

/// A flow, as with `ipvsadm -Lnc`.
pub fn flow(flow: &FlowView) -> String {
    let FlowView { protocol, expires, state, source, r#virtual, destination } = flow;
    format!(
        "{:<3} {:02}:{:02}  {state:<11} {:<18} {:<18} {destination}\n",
        protocol.to_uppercase(),
        expires / 60,
        expires % 60,
        source.to_string(),
        r#virtual.to_string(),
    )
}

fn head(view: &ServicesView) -> String {
    format!("shunt {} (size={})\n", view.version, view.flow_capacity)
}

fn name(service: &ServiceView) -> String {
    let key = service.service.0;
    let protocol = crate::service_name::protocol_name(key.protocol).to_uppercase();
    format!("{protocol}  {}", SocketAddr::new(key.address, key.port))
}

/// The scheduler and, in brackets as ipvsadm has its flags, the parameters.
fn scheduler(service: &ServiceView) -> String {
    let name = &service.scheduler.name;
    match &service.params {
        none if none.is_empty() => name.to_string(),
        some => format!("{name} ({})", params_text(some)),
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{arguments}");
}

fn remark(remarks: &[String]) -> String {
    if remarks.is_empty() { String::new() } else { format!("  [{}]", remarks.join("; ")) }
}

fn service_remarks(service: &ServiceView) -> Vec<String> {
    let mut remarks = Vec::new();
    if service.removed {
        remarks.push("removed".to_owned());
    }
    if let Some(version) = service.scheduler.version {
        remarks.push(format!("version {version}, whichever is current"));
    }
    remarks.extend(service.vip.clone());
    remarks.extend(stand_in(service));
    remarks.extend(service.quorum.as_ref().and_then(health::quorum_remark));
    remarks.extend(service.run_time.clone());
    remarks
}

/// Who chooses in place of the version that should.
fn stand_in(service: &ServiceView) -> Option<String> {
    let stand_in = match service.version {
        version if version == service.meant && version.is_some() && !service.benched => {
            return None;
        }
        Some(version) if service.meant != Some(version) => format!("version {version} chooses"),
        // Benched this moment, or for want of another version.
        _ => "flows go by hash".to_owned(),
    };
    let what = match service.meant {
        Some(meant) if service.version.is_some_and(|version| version != meant) => {
            format!("version {meant}")
        }
        _ => "scheduler".to_owned(),
    };
    let why = if service.benched { "used up its fuel" } else { "cannot be used" };
    Some(format!("{what} {why}; {stand_in}"))
}

fn server_remarks(server: &ServerView) -> Vec<String> {
    let mut remarks = Vec::new();
    if server.state != "serving" {
        remarks.push(server.state.clone());
    }
    if !matches!(server.neighbor.as_str(), "reachable" | "stale") {
        remarks.push(format!("neighbor {}", server.neighbor));
    }
    remarks.extend(server.problem.clone());
    if !server.claimed_by.is_empty() {
        remarks.push(format!("address claimed by {}, too", server.claimed_by.join(", ")));
    }
    if server.sorry {
        remarks.push("sorry server".to_owned());
    }
    remarks.extend(server.health.as_ref().and_then(health::health_remark));
    remarks.extend(server.run_time.clone());
    remarks
}

/// Connections, packets in and out, bytes in and out.
fn columns(counts: &CountsView) -> String {
    [counts.connections, counts.packets, 0, counts.bytes, 0].map(number).concat()
}

/// Eight digits, shortened as `ipvsadm` does.
fn number(value: u64) -> String {
    let (value, suffix) = match value {
        0..100_000_000 => return format!("{value:>9}"),
        100_000_000..1_000_000_000 => (value / 1_000, 'K'),
        1_000_000_000..100_000_000_000 => (value / 1_000_000, 'M'),
        100_000_000_000..100_000_000_000_000 => (value / 1_000_000_000, 'G'),
        _ => (value / 1_000_000_000_000, 'T'),
    };
    format!("{value:>8}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler_name::Params;
    use crate::views::{HealthView, QuorumView};

    fn server(host: u8, weight: u16) -> ServerView {
        ServerView {
            address: [172, 17, 100, host].into(),
            weight,
            state: "serving".into(),
            neighbor: "reachable".into(),
            mac: None,
            claimed_by: vec![],
            problem: None,
            run_time: None,
            sorry: false,
            health: None,
            counts: CountsView {
                connections: 12,
                packets: 345,
                bytes: 6789,
                active: 2,
                inactive: 1,
            },
        }
    }

    fn view() -> ServicesView {
        ServicesView {
            version: "0.1.0".into(),
            flow_capacity: 4096,
            services: vec![ServiceView {
                service: "tcp:172.17.100.100:80".parse().unwrap(),
                scheduler: "rr".parse().unwrap(),
                params: Params::new(),
                meant: Some(0),
                version: Some(0),
                benched: false,
                removed: false,
                vip: None,
                run_time: None,
                quorum: None,
                counts: CountsView {
                    connections: 24,
                    packets: 690,
                    bytes: 1_234_567_890,
                    active: 4,
                    inactive: 2,
                },
                servers: vec![server(1, 1), server(2, 10)],
            }],
        }
    }

    #[test]
    fn the_listing_is_ipvsadms() {
        let expected = "\
shunt 0.1.0 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  172.17.100.100:80 rr
  -> 172.17.100.1:80              Route   1      2          1         \n  \
-> 172.17.100.2:80              Route   10     2          1         \n";
        assert_eq!(list(&view()), expected);
    }

    #[test]
    fn remarks_come_after_the_columns() {
        let mut view = view();
        view.services[0].run_time = Some("scheduler set at run time; the config has wrr".into());
        view.services[0].servers[0].state = "removed".into();
        view.services[0].servers[1].neighbor = "failed".into();
        view.services[0].servers[1].claimed_by = vec!["02:00:00:00:00:09".into()];
        let text = list(&view);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[3].ends_with("rr  [scheduler set at run time; the config has wrr]"),
            "{text}"
        );
        assert!(lines[4].ends_with("1           [removed]"), "{text}");
        let failed = "1           [neighbor failed; address claimed by 02:00:00:00:00:09, too]";
        assert!(lines[5].ends_with(failed), "{text}");
    }

    #[test]
    fn health_is_remarked_upon_when_there_is_something_to_say() {
        let health = |state: &str, error: Option<&str>, slow_start| {
            let (since, kind) = (12, "tcp".to_owned());
            let (state, error) = (state.to_owned(), error.map(str::to_owned));
            let (unmade, passed) = (None, None);
            Some(HealthView { state, error, since, kind, unmade, passed, slow_start })
        };
        let refused = Some("connect to 172.17.100.1:80: refused");
        for (health, sorry, expected) in [
            (health("up", None, None), false, ""),
            (
                health("up", refused, None),
                false,
                "  [last check failed: connect to 172.17.100.1:80: refused]",
            ),
            (
                health("down", refused, None),
                false,
                "  [down for 12 s: connect to 172.17.100.1:80: refused]",
            ),
            (
                health("down", refused, None)
                    .map(|down| HealthView { passed: Some((3, 8)), ..down }),
                false,
                "  [down for 12 s: connect to 172.17.100.1:80: refused; 3 of 8 checks passed since]",
            ),
            (health("checking", None, None), false, "  [not checked yet]"),
            (
                health("up", None, None)
                    .map(|up| HealthView { unmade: Some("eth0 is down".into()), ..up }),
                false,
                "  [cannot be checked: eth0 is down]",
            ),
            (
                health("down", refused, None)
                    .map(|down| HealthView { unmade: Some("eth0 is down".into()), ..down }),
                false,
                "  [down for 12 s: connect to 172.17.100.1:80: refused; cannot be checked: eth0 is down]",
            ),
            (health("up", None, Some(3)), false, "  [slow start: weight 3 for now]"),
            (None, true, "  [sorry server]"),
        ] {
            let mut view = view();
            (view.services[0].servers[0].health, view.services[0].servers[0].sorry) =
                (health, sorry);
            let text = list(&view);
            let line = text.lines().nth(4).unwrap();
            assert_eq!(line.split_once("2          1         ").unwrap().1, expected);
        }
    }

    #[test]
    fn a_lost_quorum_is_remarked_upon() {
        let sorry = "172.17.100.9".parse().unwrap();
        for (lost, sorry, expected) in [
            (false, None, "TCP  172.17.100.100:80 rr"),
            (true, None, "TCP  172.17.100.100:80 rr  [quorum of 2 lost: 1 of 3 up]"),
            (
                true,
                Some(sorry),
                "TCP  172.17.100.100:80 rr  [quorum of 2 lost: 1 of 3 up; new flows go to the sorry server]",
            ),
        ] {
            let mut view = view();
            let (up, servers, quorum) = (1, 3, 2);
            let quorum = QuorumView {
                up,
                servers,
                quorum,
                lost,
                sorry: sorry.is_some(),
                sorry_server: sorry,
            };
            view.services[0].quorum = Some(quorum);
            assert_eq!(list(&view).lines().nth(3), Some(expected));
        }
    }

    #[test]
    fn parameters_are_flags_and_a_version_is_a_remark() {
        let mut view = view();
        let params = [("mh-port", "true"), ("mh-fallback", "false"), ("size", "5")];
        view.services[0].params =
            params.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        view.services[0].scheduler = "mh@3".parse().unwrap();
        let text = list(&view);
        let expected = "TCP  172.17.100.100:80 mh (mh-fallback=false,mh-port,size=5)  \
                        [version 3, whichever is current]\n";
        assert!(text.contains(expected), "{text}");
        assert!(statistics(&view).contains("  [version 3, whichever is current]\n"), "{text}");
    }

    #[test]
    fn who_chooses_in_place_of_the_scheduler_is_remarked_upon() {
        for (version, benched, expected) in [
            (Some(3), false, None),
            (Some(2), false, Some("version 3 cannot be used; version 2 chooses")),
            (Some(2), true, Some("version 3 used up its fuel; version 2 chooses")),
            (Some(3), true, Some("scheduler used up its fuel; flows go by hash")),
            (None, true, Some("scheduler used up its fuel; flows go by hash")),
            (None, false, Some("scheduler cannot be used; flows go by hash")),
        ] {
            let mut view = view();
            let service = &mut view.services[0];
            (service.meant, service.version, service.benched) = (Some(3), version, benched);
            let text = list(&view);
            let remark = expected.map(|remark| format!(" rr  [{remark}]")).unwrap_or(" rr".into());
            assert_eq!(text.lines().nth(3), Some(&*format!("TCP  172.17.100.100:80{remark}")));
        }
    }

    #[test]
    fn statistics_are_ipvsadms() {
        let expected = "\
shunt 0.1.0 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  172.17.100.100:80                  24      690        0    1234M        0
  -> 172.17.100.1:80                    12      345        0     6789        0
  -> 172.17.100.2:80                    12      345        0     6789        0
";
        assert_eq!(statistics(&view()), expected);
    }

    #[test]
    fn flows_are_ipvsadms() {
        let view = FlowView {
            protocol: "tcp".into(),
            expires: 114,
            state: "ESTABLISHED".into(),
            source: "192.168.100.11:40000".parse().unwrap(),
            r#virtual: "172.17.100.100:80".parse().unwrap(),
            destination: "172.17.100.1:80".parse().unwrap(),
        };
        assert_eq!(
            flow(&view),
            "TCP 01:54  ESTABLISHED 192.168.100.11:40000 172.17.100.100:80  172.17.100.1:80\n"
        );
    }

    #[test]
    fn large_numbers_are_shortened() {
        for (value, expected) in [
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (100_000_000_000, "     100G"),
            (100_000_000_000_000, "     100T"),
        ] {
            assert_eq!(number(value), expected);
        }
    }
}
