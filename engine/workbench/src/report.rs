//! What the conformance suite found, as text and as JSON.

use crate::figures::{Disruption, Evenness};
use serde::Serialize;
use std::fmt::{self, Display, Formatter};

/// How a rule was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was kept.
    Ok,
    /// It was broken.
    Failed,
    /// It does not apply, or there was no trying it.
    NotTried,
}

/// A rule, and how it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The rule in a word or two.
    pub rule: &'static str,
    /// How it was kept.
    pub outcome: Outcome,
    /// What was seen; for a broken one, what to mend.
    pub detail: String,
}

/// The plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The version that its author gave it, if any.
    pub label: Option<String>,
    /// SHA-256 of the module.
    pub digest: String,
    /// Size of the module in bytes.
    pub size: usize,
    /// Version of the ABI.
    pub abi: u32,
    /// The most servers that it can choose from.
    pub capacity: usize,
}

/// What a plugin is like. None of it is right or wrong by itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// On one worker, and on four.
    pub evenness: Vec<Evenness>,
    /// When one of 16 servers leaves.
    pub disruption: Disruption,
    /// Flows that it declined, of those for which there was a server.
    pub declined: usize,
    /// Of so many flows.
    pub flows: usize,
    /// Fuel of a `shunt_schedule`.
    pub schedule_fuel: FuelFigures,
    /// Fuel of a `shunt_update`.
    pub update_fuel: FuelFigures,
    /// Servers over which the cost was taken: 64, or as many as it has slots for.
    pub cost_servers: usize,
    /// Nanoseconds a call, median of rounds.
    pub nanoseconds: f64,
    /// The same of `rr`, measured by turns with it.
    pub rr_nanoseconds: f64,
    /// Median of the ratios of neighboring rounds.
    pub times_rr: f64,
}

/// Fuel of one kind of call, in units of about an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FuelFigures {
    /// Of half of the calls, at most.
    pub median: u64,
    /// Of every call, at most.
    pub max: u64,
    /// What a call may take.
    pub limit: u64,
}

/// What `shunt plugin check` found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was checked, as it was named.
    pub file: String,
    /// Whether no rule was broken.
    pub passed: bool,
    /// What all that looks random began with.
    pub seed: u64,
    /// The plugin; `None` if it was refused.
    pub plugin: Option<Identity>,
    /// In the order in which they were tried.
    pub rules: Vec<Rule>,
    /// `None` if a rule was broken.
    pub figures: Option<Figures>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.plugin {
            Some(Identity { label, digest, size, abi, .. }) => {
                let label = label.as_deref().unwrap_or("unknown");
                let digest = digest.get(..12).unwrap_or(digest);
                let Report { file, .. } = self;
                writeln!(
                    f,
                    "{file}: version {label}, {size} bytes, sha256 {digest}…, ABI {abi}\n"
                )?;
            }
            None => writeln!(f, "{}\n", self.file)?,
        }
        for Rule { rule, outcome, detail } in &self.rules {
            let outcome = match outcome {
                Outcome::Ok => "ok",
                Outcome::Failed => "FAILED",
                Outcome::NotTried => "-",
            };
            writeln!(f, "{outcome:<6}  {rule:<12} {detail}")?;
        }
        if let Some(figures) = &self.figures {
            write!(f, "\n{figures}")?;
        }
        let failed = self.rules.iter().filter(|rule| rule.outcome == Outcome::Failed).count();
        match failed {
            0 => writeln!(f, "\npassed"),
            1 => writeln!(f, "\n1 rule is broken"),
            _ => writeln!(f, "\n{failed} rules are broken"),
        }
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for Evenness { workers, max_over_mean, cv, weighted_share_error } in &self.evenness {
            let workers = match workers {
                1 => "1 worker".to_owned(),
                _ => format!("{workers} workers"),
            };
            writeln!(
                f,
                "evenness      {workers}, 16 servers: max/mean {max_over_mean:.3}, CV {cv:.3}; weights \
                 1 to 4: a share is off by at most {:.1}%",
                weighted_share_error * 100.0
            )?;
        }
        write!(f, "disruption    ")?;
        let Disruption { by_flow_only, one_for_all, mean, max } = self.disruption;
        if by_flow_only {
            writeln!(
                f,
                "by the flow alone: when one of 16 servers leaves, {:.1}% of the others' flows \
                 (at most {:.1}%) would get another server",
                mean * 100.0,
                max * 100.0
            )?;
        } else if one_for_all {
            writeln!(f, "does not apply: one server gets every flow")?;
        } else {
            writeln!(
                f,
                "does not apply: the choice follows what came before, so no flow has a server of \
                 its own"
            )?;
        }
        let Figures { declined, flows, .. } = self;
        writeln!(f, "declined      {declined} of {flows} flows, though there was a server")?;
        for (name, fuel) in [("schedule", self.schedule_fuel), ("update", self.update_fuel)] {
            let FuelFigures { median, max, limit } = fuel;
            let share = max as f64 / limit as f64 * 100.0;
            writeln!(
                f,
                "fuel          {name}: median {median}, max {max} ({share:.1}% of the limit {limit})"
            )?;
        }
        let Figures { nanoseconds, rr_nanoseconds, times_rr, cost_servers, .. } = self;
        writeln!(
            f,
            "cost          {nanoseconds:.0} ns a call over {cost_servers} servers, {times_rr:.1} times rr's \
             {rr_nanoseconds:.0} ns"
        )
    }
}
