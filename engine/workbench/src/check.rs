//! `shunt plugin check`: the conformance suite.

use crate::contract;
use crate::cost::{Timed, by_turns, median, ratio};
use crate::figures::{disruption, evenness};
use crate::handover::{self, HandedOver};
use crate::history::{Failed, Plan, Played, Unplayed, play};
use crate::named::{NamedError, host, load, read};
use crate::output::write;
use crate::params;
use crate::replay::{ReplayError, replay};
use crate::report::{Figures, FuelFigures, Identity, Outcome, Report, Rule};
use crate::subject::{Configured, Subject};
use clap::Args;
use dataplane::Millis;
use plugin_host::{Error, Params, Placement, Plugin, PluginHost};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Flows of the history.
const FLOWS: usize = 100_000;
/// When the time of another play begins: some 11 days later, at an odd number.
const LATER: Millis = 987_654_321;
/// Servers over which the cost is taken, and rounds of it.
const COST_SERVERS: usize = 64;
const COST_ROUNDS: usize = 51;

/// What to check, and how.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The plugin (.wasm or .wat), or the name of a stock plugin
    pub file: String,
    /// A parameter that the service would pass to it; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = params::parse, conflicts_with = "replay")]
    pub param: Vec<(String, String)>,
    /// What all that looks random begins with: the same seed, the same flows and servers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Instead of all that, call again what failed on a director, from its dump: ends with 0 if it
    /// fails as it did there, with 1 if not, and with 2 if a file is of no use
    #[arg(long, value_name = "DUMP")]
    pub replay: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no plugin to check.
    #[error(transparent)]
    Named(#[from] NamedError),
    /// The plugin, or `rr` beside it, cannot be run on this machine.
    #[error(transparent)]
    Host(#[from] Error),
    /// There is nothing to call again.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The report cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Checks a plugin and writes the report. Answers whether it keeps all rules; with a dump, whether
/// the call fails as it did.
pub fn check(arguments: &CheckArgs, out: &mut impl Write) -> Result<bool, CheckError> {
    if let Some(dump) = &arguments.replay {
        return replay(&arguments.file, dump, arguments.json, out);
    }
    let host = host()?;
    let params = arguments.param.iter().cloned().collect();
    let report = report(&host, &arguments.file, params, arguments.seed)?;
    let text = match arguments.json {
        true => serde_json::to_string_pretty(&report).map_err(io::Error::from)? + "\n",
        false => report.to_string(),
    };
    write(out, &text)?;
    Ok(report.passed)
}

/// Tries every rule, and measures what there is to measure.
fn report(host: &PluginHost, name: &str, params: Params, seed: u64) -> Result<Report, CheckError> {
    let mut report = Report {
        file: name.to_owned(),
        passed: false,
        seed,
        plugin: None,
        rules: Vec::new(),
        figures: None,
    };
    let plugin = match load(host, name, &read(name)?) {
        Ok(plugin) => plugin,
        Err(Error::Refused { refusal, .. }) => {
            report.rules = contract::broken(&refusal);
            return Ok(report);
        }
        Err(other) => return Err(other.into()),
    };
    report.plugin = Some(Identity {
        label: plugin.label().map(str::to_owned),
        digest: plugin.digest().to_owned(),
        size: plugin.size(),
        abi: plugin.abi(),
        capacity: plugin.capacity(),
    });
    let limits = *host.limits();
    report.rules = contract::kept(&plugin, &limits);
    report.rules.push(params::rule(&plugin, &params, &limits, seed));
    if report.rules.iter().all(|rule| rule.outcome != Outcome::Failed) {
        let subject = Configured { plugin: plugin.clone(), params, limits };
        let claims = Claims::of(&plugin);
        let (rules, played) = behaviour(&subject, plugin.capacity(), &claims, seed);
        report.rules.extend(rules);
        if let Some(played) = played {
            report.figures = measure(host, &subject, &played, seed, &mut report.rules)?;
        }
    }
    report.passed = report.rules.iter().all(|rule| rule.outcome != Outcome::Failed);
    Ok(report)
}

/// What a plugin lets expect.
pub(crate) struct Claims {
    /// It hands its state over.
    pub state: bool,
    /// It has no numbers that look random but the seed.
    pub no_random: bool,
    /// It does not ask for the time.
    pub no_time: bool,
}

impl Claims {
    fn of(plugin: &Plugin) -> Claims {
        Claims {
            state: plugin.keeps_state(),
            no_random: !plugin.imports().contains(&"random"),
            no_time: !plugin.imports().contains(&"now_ms"),
        }
    }
}

/// Plays the history, and what belongs to it.
pub(crate) fn behaviour(
    subject: &dyn Subject,
    capacity: usize,
    claims: &Claims,
    seed: u64,
) -> (Vec<Rule>, Option<Played>) {
    let plan = Plan { flows: FLOWS, seed, capacity, now: 0 };
    let played = match play(subject, &plan) {
        Ok(played) => played,
        Err(reason) => return (vec![failed("flows", describe(reason, seed))], None),
    };
    let flows = played.answers.len();
    let changes = played.changes;
    let mut rules = vec![kept(
        "flows",
        format!("{flows} over servers that changed {changes} times: each answer was of use"),
    )];
    rules.push(match play(subject, &plan).map(|again| again.answers) {
        Ok(answers) if answers == played.answers => {
            let mut detail = "the same history twice: the same answers".to_owned();
            if !claims.no_time {
                let later = play(subject, &Plan { now: LATER, ..plan }).map(|later| later.answers);
                let same = later.is_ok_and(|later| later == answers);
                detail.push_str(if same {
                    "; at another time, too"
                } else {
                    "; at another time others, as it asks for the time"
                });
            }
            if !claims.no_random {
                detail.push_str("; its random numbers were the same, too");
            }
            kept("determinism", detail)
        }
        Ok(answers) => {
            let flow = played.answers.iter().zip(&answers).position(|(one, other)| one != other);
            let flow = flow.unwrap_or_default();
            failed(
                "determinism",
                format!(
                    "the same history twice gives different answers, first about flow {flow} \
                     (seed {seed}): depend on what the host tells, and on nothing else"
                ),
            )
        }
        Err(reason) => failed("determinism", describe(reason, seed)),
    });
    rules.push(state(subject, claims, seed));
    let (before, after) = played.memory;
    rules.push(match before == after {
        true => kept("growth", format!("none: {before} bytes in all instances, first and last")),
        false => failed(
            "growth",
            format!("the instances had {before} bytes at first and {after} at last"),
        ),
    });
    (rules, Some(played))
}

fn state(subject: &dyn Subject, claims: &Claims, seed: u64) -> Rule {
    if !claims.state {
        let why = "it has not all of shunt_save, shunt_restore and room for state: a new version \
                   starts fresh";
        return Rule { rule: "state", outcome: Outcome::NotTried, detail: why.to_owned() };
    }
    let tried = handover::goes_on(subject, seed)
        .and_then(|state| Ok((state, handover::survives_foreign_bytes(subject, seed)?)));
    match tried {
        Ok((HandedOver { bytes, as_before, answers }, offers)) => kept(
            "state",
            format!(
                "{bytes} bytes handed over, and {as_before} of the next {answers} answers are as \
                 without a swap; {offers} times bytes of no use, survived"
            ),
        ),
        Err(reason) => failed("state", format!("{reason} (seed {seed})")),
    }
}

/// A rule that was kept.
pub(crate) fn kept(rule: &'static str, detail: String) -> Rule {
    Rule { rule, outcome: Outcome::Ok, detail }
}

/// A rule that was broken.
pub(crate) fn failed(rule: &'static str, detail: String) -> Rule {
    Rule { rule, outcome: Outcome::Failed, detail }
}

fn describe(reason: Unplayed, seed: u64) -> String {
    match reason {
        Unplayed::NoInstance(reason) => reason,
        Unplayed::Failed(Failed { flow, scene, servers, available, worker, what }) => format!(
            "{what}: flow {flow}, worker {worker}, scene \"{scene}\", {servers} servers of which \
             {available} take new flows; `--seed {seed}` repeats it"
        ),
    }
}

/// Takes the figures. `None`, and a rule more, if the scheduler fails meanwhile.
fn measure(
    host: &PluginHost,
    subject: &Configured,
    played: &Played,
    seed: u64,
    rules: &mut Vec<Rule>,
) -> Result<Option<Figures>, CheckError> {
    let servers = COST_SERVERS.min(subject.plugin.capacity());
    let rr = host.stock("rr")?;
    let figures = evenness(subject, 1, seed)
        .and_then(|alone| {
            Ok((vec![alone, evenness(subject, 4, seed)?], disruption(subject, seed)?))
        })
        .and_then(|(evenness, disruption)| {
            let alone = Placement { worker: 0, workers: 1, seed };
            let start = |plugin: &Plugin, params: &Params| {
                let (scheduler, _) =
                    plugin.scheduler(alone, params).map_err(|error| error.to_string())?;
                Timed::new(scheduler, servers)
            };
            let mut timed = [start(&subject.plugin, &subject.params)?, start(&rr, &Params::new())?];
            let times = by_turns(&mut timed, COST_ROUNDS, Duration::ZERO);
            Ok(Figures {
                evenness,
                disruption,
                declined: played.declined,
                flows: played.answers.len(),
                schedule_fuel: fuel(&played.fuel.schedule, host.limits().schedule_fuel),
                update_fuel: fuel(&played.fuel.update, host.limits().update_fuel),
                cost_servers: servers,
                nanoseconds: median(times[0].clone()),
                rr_nanoseconds: median(times[1].clone()),
                times_rr: ratio(&times[0], &times[1]),
            })
        });
    Ok(match figures {
        Ok(figures) => Some(figures),
        Err(reason) => {
            rules.push(failed("figures", format!("cannot be taken: {reason}")));
            None
        }
    })
}

fn fuel(calls: &[u64], limit: u64) -> FuelFigures {
    let mut calls = calls.to_vec();
    calls.sort_unstable();
    let median = calls.get(calls.len() / 2).copied().unwrap_or_default();
    FuelFigures { median, max: calls.last().copied().unwrap_or_default(), limit }
}

#[cfg(test)]
mod tests;
