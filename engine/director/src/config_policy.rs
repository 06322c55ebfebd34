//! How a virtual service looks after its real servers, as the config says it: `quorum`,
//! `hysteresis`, `sorry_server`, `slow_start`, and the check.

use crate::config::{ServerConfig, WrittenService};
use crate::config_check::{Check, check_member};
use crate::health::Policy;
use crate::scheduler_name::SchedulerName;
use crate::service_name::{ServiceName, parse_server};
use dataplane::{SERVERS_PER_SERVICE_MAX, ServiceKey};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use toml::Spanned;

const QUORUM: RangeInclusive<i64> = 1..=SERVERS_PER_SERVICE_MAX as i64;
const HYSTERESIS: RangeInclusive<i64> = 0..=SERVERS_PER_SERVICE_MAX as i64;
/// In seconds. Whoever needs more than an hour to warm up needs something else.
const SLOW_START: RangeInclusive<i64> = 0..=3_600;
/// Stock schedulers for which a weight that grows is no growing share: those that know only zero
/// or not, and those that give all to the greatest weight or fill one server before the next.
const WITHOUT_SHARES: [&str; 5] = ["rr", "lc", "dh", "fo", "ovf"];

impl Check<'_> {
    /// How a service looks after these servers.
    pub(crate) fn policy(
        &mut self,
        key: ServiceKey,
        written: &WrittenService,
        scheduler: &SchedulerName,
        servers: &[ServerConfig],
    ) -> Policy {
        let quorum = self.number(&written.quorum, QUORUM, 1, "quorum") as u16;
        let hysteresis = self.number(&written.hysteresis, HYSTERESIS, 0, "hysteresis") as u16;
        if let Some(at) = &written.hysteresis
            && hysteresis >= quorum
        {
            let message = format!(
                "hysteresis is {hysteresis} with a quorum of {quorum}: write less than the quorum, which is lost below quorum - hysteresis and regained at quorum + hysteresis servers"
            );
            self.problem(at.span().start, message);
        }
        let sorry_server =
            written.sorry_server.as_ref().and_then(|at| self.sorry_server(key, at, servers));
        let check = written.health_check.as_ref();
        let check = check.map(|check| Arc::new(self.health_check(check, key)));
        let slow_start = self.slow_start(written, scheduler, servers, check.is_some());
        Policy { check, quorum, hysteresis, sorry_server, slow_start }
    }

    fn sorry_server(
        &mut self,
        key: ServiceKey,
        written: &Spanned<String>,
        servers: &[ServerConfig],
    ) -> Option<IpAddr> {
        let offset = written.span().start;
        let address = parse_server(written.get_ref(), Some(key.port))
            .and_then(|address| check_member(key, address).map(|()| address));
        match address {
            Ok(address) if servers.iter().any(|server| server.address == address) => {
                let message = format!(
                    "{address} is a real server of {} already: name a machine that does nothing else for it as its sorry server",
                    ServiceName(key)
                );
                self.problem(offset, message);
                None
            }
            Ok(address) => Some(address),
            Err(message) => {
                self.problem(offset, message);
                None
            }
        }
    }

    fn slow_start(
        &mut self,
        written: &WrittenService,
        scheduler: &SchedulerName,
        servers: &[ServerConfig],
        checked: bool,
    ) -> u16 {
        let seconds = self.number(&written.slow_start, SLOW_START, 0, "slow_start") as u16;
        let Some(at) = written.slow_start.as_ref().filter(|_| seconds > 0) else { return 0 };
        let offset = at.span().start;
        if !checked {
            self.problem(offset, "slow_start needs a health check that says when a server is back: add [virtual_service.health_check]");
        }
        let weights = servers.iter().map(|server| (server.address, server.weight));
        for message in slow_start_problems(scheduler, weights) {
            self.problem(offset, message);
        }
        seconds
    }
}

/// Why weights cannot grow with this scheduler and these weights of real servers. A change at run
/// time may bring that about, too, and `shunt save` writes what a start takes.
pub(crate) fn slow_start_problems(
    scheduler: &SchedulerName,
    mut weights: impl Iterator<Item = (IpAddr, u16)>,
) -> Vec<String> {
    let mut problems = Vec::new();
    let plugin = scheduler.name.as_str();
    if WITHOUT_SHARES.contains(&plugin) {
        problems.push(format!(
            "slow_start has no effect with the scheduler {plugin}, whose flows are not shared by weight: choose wrr, wlc or mh, or leave slow_start out"
        ));
    }
    if let Some((server, _)) = weights.find(|(_, weight)| *weight == 1) {
        problems.push(format!(
            "slow_start cannot grow the weight 1 of {server}, which has no steps: give all real servers ten times the weight, or leave slow_start out"
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::scheduler_name::stock_only;

    fn parse(scheduler: &str, weight: u16, keys: &str) -> Result<Config, Vec<String>> {
        let text = format!(
            "[[interface]]\nname = 'eth0'\n[[virtual_service]]\naddress = '172.17.100.100:80'\n\
             protocol = 'tcp'\nscheduler = '{scheduler}'\n{keys}\n[[virtual_service.real_server]]\n\
             address = '172.17.100.1'\nweight = {weight}\n"
        );
        Config::parse(&text, &stock_only).map_err(|problems| {
            let line =
                |p: crate::config::Problem| format!("{}:{}: {}", p.line, p.column, p.message);
            problems.into_iter().map(line).collect()
        })
    }

    #[test]
    fn what_is_left_out_has_defaults() {
        let policy = parse("rr", 1, "").unwrap().services[0].policy.clone();
        assert_eq!(policy, crate::health::Policy::default());
        let keys = "quorum = 3\nhysteresis = 2\nsorry_server = '172.17.100.9'";
        let policy = parse("rr", 1, keys).unwrap().services[0].policy.clone();
        assert_eq!((policy.quorum, policy.hysteresis), (3, 2));
        assert_eq!(policy.sorry_server, Some([172, 17, 100, 9].into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        let check = "[virtual_service.health_check]\nkind = 'tcp'";
        for (scheduler, weight, keys, expected) in [
            ("rr", 1, "quorum = 0".to_owned(), "7:10: quorum is 0: write a number from 1"),
            ("rr", 1, "hysteresis = 1".into(), "7:14: hysteresis is 1 with a quorum of 1"),
            ("rr", 1, "sorry_server = '172.17.100.1'".into(), "7:16: 172.17.100.1 is a real"),
            ("rr", 1, "sorry_server = '172.17.100.100'".into(), "7:16: real server 172.17"),
            ("rr", 1, "sorry_server = '2001:db8::9'".into(), "7:16: real server 2001:db8::9 and"),
            ("wrr", 10, "slow_start = 9".into(), "7:14: slow_start needs a health check"),
            ("lc", 10, format!("slow_start = 9\n{check}"), "7:14: slow_start has no effect"),
            ("fo", 10, format!("slow_start = 9\n{check}"), "7:14: slow_start has no effect"),
            ("wrr", 1, format!("slow_start = 9\n{check}"), "7:14: slow_start cannot grow"),
            ("wrr", 1, format!("slow_start = 4000\n{check}"), "7:14: slow_start is 4000"),
        ] {
            let problems = parse(scheduler, weight, &keys).unwrap_err();
            assert!(problems[0].starts_with(expected), "{keys}: {problems:?}");
        }
        for (weight, keys) in
            [(1, "slow_start = 0".to_owned()), (2, format!("slow_start = 9\n{check}"))]
        {
            assert_eq!(parse("wrr", weight, &keys).map(drop), Ok(()), "{keys}");
        }
    }
}
