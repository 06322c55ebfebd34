//! What `shunt doctor` says.

use super::shunt;
use director::doctor::{Area, State};
use lab::Topology;
use serde::Deserialize;
use std::path::Path;

/// What the doctor printed as JSON.
#[derive(Debug, Deserialize)]
pub struct Diagnosis {
    pub state: State,
    pub findings: Vec<Found>,
    #[serde(skip)]
    pub code: i32,
}

#[derive(Debug, Deserialize)]
pub struct Found {
    pub area: Area,
    pub subject: String,
    pub state: State,
    pub sentence: String,
    pub remedy: Option<String>,
}

impl Diagnosis {
    /// Runs `shunt doctor` on the director with this config file.
    pub fn of(topology: &Topology, config: &Path) -> Diagnosis {
        let mut command = topology.director.command(shunt());
        Diagnosis::by(command.args(["doctor", "--json", "--config"]).arg(config))
    }

    /// Runs this command.
    pub fn by(command: &mut std::process::Command) -> Diagnosis {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.is_empty(), "{complaint}");
        let mut diagnosis = Diagnosis::read(&said);
        diagnosis.code = output.status.code().unwrap();
        assert_eq!(diagnosis.code, diagnosis.state as i32, "{diagnosis:#?}");
        diagnosis
    }

    /// Reads what it printed. What is not ok has something that mends it, unless that is why it
    /// could not be looked at.
    pub fn read(said: &str) -> Diagnosis {
        let diagnosis: Diagnosis =
            serde_json::from_str(said).unwrap_or_else(|error| panic!("{error}: {said}"));
        for found in &diagnosis.findings {
            let unread = found.sentence.contains("cannot be read");
            let mended = found.remedy.is_some() || found.state == State::Ok || unread;
            assert!(mended, "no remedy: {found:#?}");
        }
        diagnosis
    }

    /// The finding whose sentence has this part.
    pub fn find(&self, area: Area, part: &str) -> Option<&Found> {
        self.findings.iter().find(|found| found.area == area && found.sentence.contains(part))
    }

    /// Checks that there is a problem with this part, and returns it.
    pub fn problem(&self, area: Area, subject: &str, part: &str) -> &Found {
        let found = self.find(area, part).unwrap_or_else(|| panic!("no {part:?} in {self:#?}"));
        assert_eq!((found.state, found.subject.as_str()), (State::Problem, subject), "{found:#?}");
        found
    }

    /// Checks that there is no problem.
    pub fn assert_no_problems(&self) {
        let problems: Vec<&Found> =
            self.findings.iter().filter(|found| found.state == State::Problem).collect();
        assert!(problems.is_empty(), "{problems:#?}");
    }

    /// Checks that the site is well. What the machine is like that this runs on is not the site's.
    pub fn assert_well(&self) {
        self.assert_no_problems();
        let machine = [Area::Machine, Area::Memory, Area::Cores];
        let warnings: Vec<&Found> = self
            .findings
            .iter()
            .filter(|found| found.state == State::Warning && !machine.contains(&found.area))
            .collect();
        assert!(warnings.is_empty(), "{warnings:#?}");
    }
}

/// What mends it.
pub fn remedy(found: &Found) -> &str {
    found.remedy.as_deref().unwrap_or_else(|| panic!("no remedy: {found:#?}"))
}
