//! The config file, and the director that runs, if one does.

use super::finding::{Area, Finding};
use crate::views::{ServicesView, StatusView, VipView};
use std::net::IpAddr;

/// The director that answers at the API's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// One runs and says this.
    Yes(Box<StatusView>, Box<ServicesView>),
    /// None answers: why.
    No(String),
    /// One may run, but this process may not ask it, or cannot make sense of it: why.
    Unknown(String),
}

impl Running {
    /// Its status.
    pub fn status(&self) -> Option<&StatusView> {
        match self {
            Running::Yes(status, _) => Some(status),
            _ => None,
        }
    }

    /// What it says of a VIP.
    pub fn vip(&self, vip: IpAddr) -> Option<&VipView> {
        self.status()?.vips.iter().find(|view| view.address == vip)
    }

    /// Its virtual services.
    pub fn services(&self) -> Option<&ServicesView> {
        match self {
            Running::Yes(_, services) => Some(services),
            _ => None,
        }
    }
}

/// What was read of the config file: how many virtual services it has, or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFacts {
    /// The file.
    pub path: String,
    /// What is in it: virtual services; or each thing that is wrong with it.
    pub content: Result<usize, Vec<String>>,
}

/// What follows from it.
pub fn findings(config: &ConfigFacts, running: &Running) -> Vec<Finding> {
    let mut findings = match &config.content {
        Ok(services) => {
            let s = if *services == 1 { "" } else { "s" };
            let sentence = format!("{services} virtual service{s}, nothing wrong with it");
            vec![Finding::ok(Area::Director, &config.path, sentence)]
        }
        Err(problems) => problems
            .iter()
            .map(|problem| match problem.strip_prefix(&format!("{}:", config.path)) {
                Some(line) => Finding::problem(Area::Director, &config.path, line)
                    .mended_by(format!("shunt check --config {}", config.path)),
                None => Finding::problem(Area::Director, &config.path, problem.as_str())
                    .mended_by(format!("shunt check --config {}", config.path)),
            })
            .collect(),
    };
    match running {
        Running::Yes(status, services) => findings.extend(those_of(config, status, services)),
        Running::No(why) => {
            let sentence = format!("none runs ({why}): this is how a start would find things");
            findings.push(Finding::ok(Area::Director, "running", sentence));
        }
        Running::Unknown(why) => {
            findings.push(Finding::unread(Area::Director, "running", "the director's state", why));
        }
    }
    findings
}

/// Whether two paths lead to one file.
fn one_file(one: &str, other: &str) -> bool {
    let place = |path: &str| std::fs::canonicalize(path).ok();
    one == other || place(one).is_some_and(|one| place(other) == Some(one))
}

fn those_of(config: &ConfigFacts, status: &StatusView, services: &ServicesView) -> Vec<Finding> {
    let sentence = format!("shunt {} has run for {} s", status.version, status.uptime);
    let mut findings = vec![Finding::ok(Area::Director, "running", sentence)];
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        let sentence = format!("it is shunt {}, and this command is {own}", status.version);
        findings.push(
            Finding::warning(Area::Director, "running", sentence)
                .mended_by("start the director anew, or use its own shunt"),
        );
    }
    if !one_file(&status.config, &config.path) {
        let sentence = format!("it has its config from {}", status.config);
        findings.push(
            Finding::warning(Area::Director, "running", sentence)
                .mended_by(format!("shunt doctor --config {}", status.config)),
        );
    }
    let changed = services.services.iter().any(|service| {
        service.run_time.is_some() || service.servers.iter().any(|server| server.run_time.is_some())
    });
    if changed {
        let sentence = "what was changed at run time is not in its config: the next start loses it";
        findings.push(
            Finding::warning(Area::Director, "running", sentence)
                .mended_by(format!("shunt save, into {}", status.config)),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn config() -> ConfigFacts {
        ConfigFacts { path: "director.toml".into(), content: Ok(2) }
    }

    fn running(version: &str, config: &str) -> Running {
        let status = StatusView {
            version: version.into(),
            uptime: 5,
            config: config.into(),
            ..serde_json::from_str(r#"{"version":"","uptime":0,"config":"","interfaces":[]}"#)
                .unwrap()
        };
        let services = ServicesView { version: version.into(), flow_capacity: 0, services: vec![] };
        Running::Yes(Box::new(status), Box::new(services))
    }

    fn worst(config: &ConfigFacts, running: &Running) -> Finding {
        findings(config, running).into_iter().max_by_key(|finding| finding.state).unwrap()
    }

    #[test]
    fn a_good_config_is_ok_with_and_without_a_director() {
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(worst(&config(), &Running::No("refused".into())).state, State::Ok);
        assert_eq!(worst(&config(), &running(own, "director.toml")).state, State::Ok);
    }

    #[test]
    fn each_thing_that_is_wrong_with_the_config_is_a_problem() {
        let content = Err(vec!["director.toml:3:5: no interface".into(), "another".into()]);
        let wrong = ConfigFacts { content, ..config() };
        let found = findings(&wrong, &Running::No("refused".into()));
        assert_eq!(found.iter().filter(|finding| finding.state == State::Problem).count(), 2);
        assert_eq!(found[0].sentence, "3:5: no interface");
        assert_eq!(found[1].remedy.as_deref(), Some("shunt check --config director.toml"));
    }

    #[test]
    fn one_file_may_have_several_paths() {
        let folder = lab::TempDir::create("paths").unwrap();
        let file = folder.write("director.toml", "").unwrap().display().to_string();
        let other = folder.write("other.toml", "").unwrap().display().to_string();
        let roundabout = folder.path().join("./director.toml").display().to_string();
        assert!(one_file(&file, &roundabout) && one_file("/no/such", "/no/such"));
        assert!(!one_file(&file, &other) && !one_file(&file, "/no/such"));
        assert!(!one_file("/no/such", "/no/other"));
    }

    #[test]
    fn another_version_config_or_an_unclear_answer_is_a_warning() {
        let own = env!("CARGO_PKG_VERSION");
        assert_eq!(worst(&config(), &running("0.0.0", "director.toml")).state, State::Warning);
        assert_eq!(worst(&config(), &running(own, "other.toml")).state, State::Warning);
        assert_eq!(worst(&config(), &Running::Unknown("no".into())).state, State::Warning);
    }
}
