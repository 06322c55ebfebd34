//! A service that is broken on purpose, with clients meanwhile, and what is measured of it.

use super::pressure::{Outcome, Pressure};
use super::{HTTP, PATIENCE, Site, http, http_rr, shunt};
use lab::{Config, Director, Family, HttpServer, OwnFiles, Plan, real_server_address, vip};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Connections that are held open while something breaks.
const HELD: usize = 12;
/// What the health checks of a service are here: two failures a second apart.
const EACH_SECOND: &str = "interval = 1\ntimeout = 0.8\nrise = 2\nfall = 2";

/// Three machines that `shunt rs setup` has made real servers, the first two of which are those of
/// the service, and a director.
pub struct Rig {
    pub director: Director,
    pub config: Config,
    /// How much the director had said when something was last broken.
    said_before: usize,
    files: Vec<OwnFiles>,
    pub site: Site,
}

/// What was measured of a fault.
#[derive(Debug)]
pub struct Measured {
    /// From the fault to the moment at which the director said so.
    pub noticed: Duration,
    /// From the fault to the last new connection that failed.
    pub handled: Duration,
    /// New connections that went past the director meanwhile, to whoever answered for the VIP.
    pub past: Option<usize>,
    /// When it was broken.
    pub broken: Instant,
    /// What became of the clients.
    pub outcome: Outcome,
}

impl Rig {
    /// Builds it, with a health check of this kind, a second apart.
    pub fn start(purpose: &str, kind: &str) -> Rig {
        let plan = Plan::new(purpose).bare().real_servers(3);
        let mut site = Site::without_servers(plan, &[Family::V4]);
        let files: Vec<OwnFiles> =
            (1..=3).map(|n| OwnFiles::create(&format!("{purpose}-own{n}")).unwrap()).collect();
        for number in 1..=3u8 {
            set_up(&site, &files, number);
            site.serve(number);
        }
        let check = format!("[virtual_service.health_check]\nkind = \"{kind}\"\n{EACH_SECOND}");
        let config = Config::of(vec![http_rr(2).with(&check)]);
        let director = site.start(&config);
        let rig = Rig { director, config, said_before: 0, files, site };
        for number in [1, 2] {
            rig.wait_for_health(number, "up");
        }
        rig
    }

    /// Runs `shunt rs setup` on a real server.
    pub fn set_up(&self, number: u8) {
        set_up(&self.site, &self.files, number);
    }

    /// What `shunt rs check` says on a real server, and whether all is well.
    pub fn rs_check(&self, number: u8) -> (bool, String) {
        let netns = self.site.topology.real_server(number);
        let mut command = self.files[usize::from(number) - 1].command(netns, shunt());
        let service = format!("{}", http(Family::V4));
        let output = command.args(["rs", "check", "--vip", &service]).output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.success(), said)
    }

    /// What `shunt doctor` finds.
    pub fn doctor(&self) -> Vec<Value> {
        let mut command = self.site.topology.director.command(shunt());
        command.args(["doctor", "--json", "--config"]).arg(self.director.config());
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let view: Value = serde_json::from_str(&said).unwrap_or_else(|error| {
            panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr))
        });
        let findings = view.get("findings").unwrap_or(&view);
        findings.as_array().unwrap_or_else(|| panic!("{said}")).clone()
    }

    /// What the doctor finds that is not ok, a line each: subject, sentence, remedy.
    pub fn complaints(&self) -> Vec<String> {
        let findings = self.doctor();
        let bad = findings.iter().filter(|finding| finding["state"] != "ok");
        let line = |finding: &Value| {
            let part = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {} ({})", part("subject"), part("sentence"), part("remedy"))
        };
        bad.map(line).collect()
    }

    /// The doctor complains in one line with all of these words.
    #[track_caller]
    pub fn doctor_says(&self, words: &[&str]) {
        let said = self.complaints();
        let found = said.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{words:?} in none of {said:#?}");
    }

    /// What `shunt list --json` says of a real server of the service.
    pub fn listed(&self, number: u8) -> Option<Value> {
        let said = self.director.shunt("list --json").ok()?;
        let view: Value = serde_json::from_str(&said).ok()?;
        let address = real_server_address(number, Family::V4).to_string();
        let servers = view["services"][0]["servers"].as_array()?;
        servers.iter().find(|server| server["address"] == address.as_str()).cloned()
    }

    /// The health of a real server of the service, as listed.
    pub fn health(&self, number: u8) -> Option<String> {
        Some(self.listed(number)?["health"]["state"].as_str()?.to_owned())
    }

    /// Waits until a real server is `up` or `down`.
    #[track_caller]
    pub fn wait_for_health(&self, number: u8, state: &str) {
        self.wait_for(&format!("rs{number} is {state}"), || {
            self.health(number).as_deref() == Some(state)
        });
    }

    /// Waits until something is so.
    #[track_caller]
    pub fn wait_for(&self, until: &str, condition: impl FnMut() -> bool) {
        if let Err(error) = self.director.process().wait_until(PATIENCE, until, condition) {
            let listed = self.director.shunt("list");
            panic!("{error}\n{listed:?}\n{}", self.director.process().output());
        }
    }

    /// Whether the log has a line with all of these words, since something was last broken.
    pub fn logged(&self, words: &[&str]) -> bool {
        let log = self.director.process().output();
        let since = log.get(self.said_before..).unwrap_or_default();
        since.lines().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// Ends the server that a real server has.
    pub fn stop_server(&mut self, number: u8) {
        drop(self.site.servers.remove(usize::from(number) - 1));
    }

    /// Starts it again.
    pub fn start_server(&mut self, number: u8) {
        let netns = self.site.topology.real_server(number);
        let anywhere = (Ipv4Addr::UNSPECIFIED, HTTP).into();
        let server = HttpServer::start(netns, &format!("rs{number}"), anywhere).unwrap();
        self.site.servers.insert(usize::from(number) - 1, server);
    }

    /// Sets the link of a port of the switch.
    pub fn port(&self, name: &str, state: &str) {
        self.site.topology.switch.ip(&format!("link set {name} {state}")).unwrap();
    }

    /// Breaks something while clients come, until it is `noticed`; then `look`s, goes on for
    /// `longer`, and ends the clients.
    pub fn measure(
        &mut self,
        break_it: impl FnOnce(&mut Rig),
        noticed: impl Fn(&Rig) -> bool,
        look: impl FnOnce(&mut Rig),
        longer: Duration,
    ) -> Measured {
        let clients = Pressure::start(&self.site.topology, http(Family::V4), HELD);
        clients.wait_for_answers(&["rs1", "rs2"]);
        self.said_before = self.director.process().output().len();
        let broken = Instant::now();
        break_it(self);
        self.wait_for("it is noticed", || noticed(self));
        let when_noticed = broken.elapsed();
        look(self);
        clients.go_on_for(longer);
        let outcome = clients.finish();
        let handled = outcome.last_failure(broken);
        Measured { noticed: when_noticed, handled, past: None, broken, outcome }
    }
}

fn set_up(site: &Site, files: &[OwnFiles], number: u8) {
    let netns = site.topology.real_server(number);
    let mut command = files[usize::from(number) - 1].command(netns, shunt());
    lab::run(command.args(["rs", "setup", "--vip", &vip(Family::V4).to_string()])).unwrap();
}

/// The real server's address.
pub fn server(number: u8) -> IpAddr {
    real_server_address(number, Family::V4)
}

impl Measured {
    /// One line of the table in docs/faults.md, figures alone.
    pub fn figures(&self) -> String {
        let Measured { noticed, handled, past, outcome, .. } = self;
        let past = past.map(|count| format!(", {count} past the director")).unwrap_or_default();
        format!(
            "{:.1} s | {:.1} s | {} of {}{past} | {} of {}",
            noticed.as_secs_f64(),
            handled.as_secs_f64(),
            outcome.failed().count(),
            outcome.attempts.len(),
            outcome.broken(),
            outcome.held.len()
        )
    }

    /// Counts what `thief` has answered in the director's place, too: it is handled when that ends.
    pub fn stolen_by(mut self, thief: &str) -> Measured {
        let past = self.outcome.past_the_director(thief, self.broken);
        let last = past.iter().map(|attempt| attempt.begun.duration_since(self.broken)).max();
        self.handled = self.handled.max(last.unwrap_or_default());
        self.past = Some(past.len());
        self
    }

    /// No new connection failed that was begun later than this after the fault.
    #[track_caller]
    pub fn handled_within(&self, time: Duration) {
        let all = self.outcome.by_answer();
        let failed: Vec<_> = self.outcome.failed().collect();
        assert!(
            self.handled <= time,
            "{:?} > {time:?}: {all:?}, {:#?}",
            self.handled,
            failed.last()
        );
    }
}
