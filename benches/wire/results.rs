//! The figures of all rounds, and the tables made of them.

use crate::Plan;
use crate::contenders::Contender;
use crate::measure::{FULL, LOADS, SHARES};
use std::fmt::Write;

/// What is offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    pub flows: u64,
    /// Bytes of a frame.
    pub length: usize,
}

/// What is measured: frames a second, or microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Figure {
    /// At this level.
    Offered(f64),
    Forwarded(f64),
    LossFree,
    /// What was offered at this load, and the latency that this share of the frames does not
    /// exceed.
    Load(f64),
    Latency(f64, f64),
    /// SYNs of new flows, and packets of established ones before and after.
    NewFlows,
    BesideNewFlows,
}

#[derive(Debug)]
struct Entry {
    who: Contender,
    scenario: Scenario,
    figure: Figure,
    round: usize,
    value: f64,
}

/// Everything that was measured, in the order in which it was.
#[derive(Debug, Default)]
pub struct Results {
    entries: Vec<Entry>,
}

impl Results {
    pub fn note(
        &mut self,
        who: Contender,
        scenario: Scenario,
        figure: Figure,
        round: usize,
        value: f64,
    ) {
        self.entries.push(Entry { who, scenario, figure, round, value });
    }

    /// A figure in each round, by the round.
    fn values(&self, who: Contender, scenario: Scenario, figure: Figure) -> Vec<f64> {
        let wanted = self
            .entries
            .iter()
            .filter(|entry| (entry.who, entry.scenario, entry.figure) == (who, scenario, figure));
        let mut found: Vec<_> = wanted.map(|entry| (entry.round, entry.value)).collect();
        found.sort_by_key(|&(round, _)| round);
        found.into_iter().map(|(_, value)| value).collect()
    }

    fn median(&self, who: Contender, scenario: Scenario, figure: Figure) -> f64 {
        median(self.values(who, scenario, figure))
    }

    /// The median of the ratios within each round.
    fn ratio(&self, who: Contender, to: Contender, scenario: Scenario, figure: Figure) -> f64 {
        let pairs = self.values(who, scenario, figure).into_iter();
        median(pairs.zip(self.values(to, scenario, figure)).map(|(a, b)| a / b).collect())
    }

    /// The scenarios that have this figure.
    fn scenarios(&self, figure: impl Fn(Figure) -> bool) -> Vec<Scenario> {
        let mut scenarios: Vec<Scenario> = Vec::new();
        for entry in self.entries.iter().filter(|entry| figure(entry.figure)) {
            if !scenarios.contains(&entry.scenario) {
                scenarios.push(entry.scenario);
            }
        }
        scenarios
    }

    /// All tables, in Markdown. Rates are in Mpps.
    pub fn tables(&self, plan: &Plan) -> String {
        let mut out = String::new();
        if plan.loss_free {
            self.loss_free(plan, &mut out);
        }
        if plan.overload {
            self.overload(plan, &mut out);
        }
        if plan.latency {
            self.latency(plan, &mut out);
        }
        if plan.new_flows {
            self.new_flows(&mut out);
        }
        out
    }

    fn loss_free(&self, plan: &Plan, out: &mut String) {
        let whos = without_kernel(plan);
        title(out, "Loss-free rate, Mpps", &["frame, flows"], &whos);
        for scenario in self.scenarios(|figure| figure == Figure::LossFree) {
            let _ = write!(out, "| {} ", scenario.name());
            self.row(out, &whos, scenario, Figure::LossFree);
        }
    }

    fn overload(&self, plan: &Plan, out: &mut String) {
        let whos = without_kernel(plan);
        title(out, "Forwarded, Mpps, against offered", &["frame, flows", "offered"], &whos);
        for scenario in self.scenarios(|figure| matches!(figure, Figure::Offered(_))) {
            for level in self.levels(scenario) {
                let offered = self.median(Contender::Shunt, scenario, Figure::Offered(level));
                let all = if level == FULL { " (all)" } else { "" };
                let _ = write!(out, "| {} | {:.2}{all} ", scenario.name(), offered / 1e6);
                self.row(out, &whos, scenario, Figure::Forwarded(level));
            }
        }
        let _ =
            writeln!(out, "\nShare of its best that a contender still forwards when offered all\n");
        let _ =
            writeln!(out, "| frame, flows | | best, Mpps | offered / best | forwarded / best |");
        let _ = writeln!(out, "|---|---|---|---|---|");
        for scenario in self.scenarios(|figure| matches!(figure, Figure::Offered(_))) {
            for &who in &plan.contenders {
                self.overload_share(who, scenario, out);
            }
        }
    }

    fn overload_share(&self, who: Contender, scenario: Scenario, out: &mut String) {
        let curve: Vec<Vec<f64>> = self
            .levels(scenario)
            .into_iter()
            .map(|level| self.values(who, scenario, Figure::Forwarded(level)))
            .filter(|values| !values.is_empty())
            .collect();
        let best: Vec<f64> = (0..curve.last().map_or(0, Vec::len))
            .map(|round| curve.iter().map(|values| values[round]).fold(0.0, f64::max))
            .collect();
        let share = |figure| {
            let values = self.values(who, scenario, figure).into_iter();
            median(values.zip(&best).map(|(value, best)| value / best).collect())
        };
        let (times, kept) = (share(Figure::Offered(FULL)), share(Figure::Forwarded(FULL)));
        let (scenario, name, best) = (scenario.name(), who.name(), median(best.clone()) / 1e6);
        let _ = writeln!(out, "| {scenario} | {name} | {best:.2} | {times:.1} | {kept:.2} |");
    }

    /// The levels at which shunt was measured, in their order.
    fn levels(&self, scenario: Scenario) -> Vec<f64> {
        let mut levels: Vec<f64> = Vec::new();
        for entry in &self.entries {
            match entry.figure {
                Figure::Offered(level)
                    if entry.who == Contender::Shunt
                        && entry.scenario == scenario
                        && !levels.contains(&level) =>
                {
                    levels.push(level);
                }
                _ => {}
            }
        }
        levels
    }

    fn latency(&self, plan: &Plan, out: &mut String) {
        let _ = writeln!(out, "\nLatency, us, at shares of the contender's own loss-free rate\n");
        let _ = writeln!(out, "| | load | Mpps | p50 | p90 | p99 |\n|---|---|---|---|---|---|");
        let is_latency = |figure| matches!(figure, Figure::Latency(..));
        for scenario in self.scenarios(is_latency) {
            for who in without_kernel(plan) {
                for load in LOADS {
                    let at = |share| self.median(who, scenario, Figure::Latency(load, share));
                    let rate = self.median(who, scenario, Figure::Load(load)) / 1e6;
                    let (name, percent) = (who.name(), load * 100.0);
                    let _ = write!(out, "| {name} | {percent:.0}% | {rate:.2} ");
                    let [p50, p90, p99] = SHARES.map(at);
                    let _ = writeln!(out, "| {p50:.1} | {p90:.1} | {p99:.0} |");
                }
            }
        }
    }

    fn new_flows(&self, out: &mut String) {
        for scenario in self.scenarios(|figure| figure == Figure::NewFlows) {
            let fresh = self.values(Contender::Shunt, scenario, Figure::NewFlows);
            let beside = self.values(Contender::Shunt, scenario, Figure::BesideNewFlows);
            let cost = median(fresh.iter().zip(&beside).map(|(new, old)| old / new).collect());
            let (fresh, beside) = (median(fresh) / 1e6, median(beside) / 1e6);
            let _ = writeln!(
                out,
                "\nNew flows (SYN, `rr`): {fresh:.2} Mpps, packets of established flows {beside:.2}: \
                 a new flow costs {cost:.2} times as much"
            );
        }
    }

    /// The contenders' medians, and shunt's ratios to the others.
    fn row(&self, out: &mut String, whos: &[Contender], scenario: Scenario, figure: Figure) {
        for &who in whos {
            let _ = write!(out, "| {:.2} ", self.median(who, scenario, figure) / 1e6);
        }
        for &who in whos.iter().filter(|&&who| who != Contender::Shunt) {
            let _ = write!(out, "| {:.2} ", self.ratio(Contender::Shunt, who, scenario, figure));
        }
        let _ = writeln!(out, "|");
    }
}

impl Scenario {
    fn name(self) -> String {
        let flows = match self.flows {
            flows if flows >= 1_000_000 => format!("{} M", flows / 1_000_000),
            flows => format!("{} K", flows / 1_000),
        };
        format!("{} B, {flows}", self.length)
    }
}

fn without_kernel(plan: &Plan) -> Vec<Contender> {
    plan.contenders.iter().copied().filter(|&who| who != Contender::Kernel).collect()
}

fn title(out: &mut String, title: &str, first: &[&str], whos: &[Contender]) {
    let mut columns: Vec<String> = first.iter().map(|&name| name.to_owned()).collect();
    columns.extend(whos.iter().map(|who| who.name().to_owned()));
    let others = whos.iter().filter(|&&who| who != Contender::Shunt);
    columns.extend(others.map(|who| format!("shunt / {}", who.name())));
    let _ = writeln!(out, "\n{title}\n\n| {} |", columns.join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(columns.len()));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}
