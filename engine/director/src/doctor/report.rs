//! How findings are shown.

use super::finding::{Finding, State};
use serde::Serialize;
use std::fmt::Write;

/// All findings, the areas in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this command.
    pub version: &'static str,
    /// The worst of all.
    pub state: State,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Puts findings into their order. Those of one area stay as they came.
    pub fn of(mut findings: Vec<Finding>) -> Report {
        findings.sort_by_key(|finding| finding.area);
        let state = findings.iter().map(|finding| finding.state).max().unwrap_or(State::Ok);
        Report { version: env!("CARGO_PKG_VERSION"), state, findings }
    }

    /// The command's exit code: 0 if all is ok, 1 if there are warnings, 2 if there are problems,
    /// as monitoring plugins have it. Wrong usage is 2, too, and prints no report.
    pub fn exit_code(&self) -> u8 {
        match self.state {
            State::Ok => 0,
            State::Warning => 1,
            State::Problem => 2,
        }
    }

    /// One line a finding, and a line that counts them.
    pub fn text(&self) -> String {
        let width = |of: fn(&Finding) -> &str| {
            self.findings.iter().map(|finding| of(finding).chars().count()).max().unwrap_or(0)
        };
        let area = width(|finding| finding.area.name());
        let subject = width(|finding| &finding.subject);
        let mut text = String::new();
        for finding in &self.findings {
            let Finding { state, sentence, remedy, .. } = finding;
            let _ = write!(
                text,
                "{:7}  {:area$}  {:subject$}  {sentence}",
                name(*state),
                finding.area.name(),
                finding.subject,
            );
            if let Some(remedy) = remedy {
                let _ = write!(text, " -> {remedy}");
            }
            text.push('\n');
        }
        let count = |state| self.findings.iter().filter(|finding| finding.state == state).count();
        let counted = |count: usize, what: &str| {
            format!("{count} {what}{}", if count == 1 { "" } else { "s" })
        };
        let _ = writeln!(
            text,
            "{}, {}, {} ok",
            counted(count(State::Problem), "problem"),
            counted(count(State::Warning), "warning"),
            count(State::Ok)
        );
        text
    }

    /// Everything, as JSON.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

fn name(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Problem => "problem",
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Area;
    use super::*;

    fn report() -> Report {
        Report::of(vec![
            Finding::problem(Area::Vip, "172.17.100.100", "it is gone").mended_by("add it"),
            Finding::ok(Area::Machine, "kernel", "Linux"),
            Finding::warning(Area::Vip, "fd00::1", "slow"),
        ])
    }

    #[test]
    fn a_finding_is_a_line_with_its_remedy_at_the_end() {
        assert_eq!(
            report().text(),
            "ok       machine  kernel          Linux\n\
             problem  VIP      172.17.100.100  it is gone -> add it\n\
             warning  VIP      fd00::1         slow\n\
             1 problem, 1 warning, 1 ok\n"
        );
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        assert_eq!(report().exit_code(), 2);
        let of = |finding| Report::of(vec![finding]).exit_code();
        assert_eq!(of(Finding::warning(Area::Vip, "", "")), 1);
        assert_eq!(of(Finding::ok(Area::Vip, "", "")), 0);
        assert_eq!(Report::of(vec![]).exit_code(), 0);
    }

    #[test]
    fn json_has_all_there_is() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();
        assert_eq!(json["state"], "problem");
        assert_eq!(json["findings"][0]["remedy"], serde_json::Value::Null);
        assert_eq!(json["findings"][1]["area"], "vip");
        assert_eq!(json["findings"][1]["remedy"], "add it");
    }
}
