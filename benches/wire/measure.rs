//! What is measured of a contender in its turn.

use crate::contenders::{Contender, Stable};
use crate::link::Link;
use crate::programs::{ACK, Offer, Outcome, Programs, SERVERS, SYN};
use crate::results::{Figure, Results, Scenario};
use crate::{Plan, SHORTEST};
use anyhow::{Context, Result, bail, ensure};

/// The longer of the two frames, in bytes.
const LONG: usize = 1_500;
/// What is offered, as multiples of the capacity that was found at the start. The last is as much
/// as the generator can, while somebody takes the frames from it: four to six times.
const LEVELS: [f64; 10] = [0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, FULL];
/// The fewer levels of the scenarios that get no full curve.
const FEW_LEVELS: [f64; 3] = [1.0, 2.0, FULL];
pub const FULL: f64 = f64::INFINITY;
/// Loads at which latency is taken, as shares of the contender's loss-free rate.
pub const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// The percentiles.
pub const SHARES: [f64; 3] = [0.5, 0.9, 0.99];
/// Halvings of the loss-free search: it ends within 2% of the capacity.
const HALVINGS: u32 = 6;
/// A rate that loses frames is tried again, so that the machine's own pauses, which hit every
/// contender alike but not at the same time, are not taken for a limit of the forwarder.
const TRIES: u32 = 3;
/// Measurements that may fail because nobody watched.
const WATCH_TRIES: u32 = 10;
/// Frames that the largest capacity is looked for with.
const CALIBRATION_FRAMES: u32 = 3_000_000;
/// New flows begin here, far from the established ones.
const NEW_FLOWS_FIRST: u64 = 1 << 26;

/// Everything in its place.
pub struct Bench {
    pub programs: Programs,
    pub link: Link,
    pub stable: Stable,
    pub plan: Plan,
    /// Frames a second that the bare swap forwards at best: the measure of what is offered.
    pub capacity: f64,
}

impl Bench {
    /// Finds out what this machine can do, so that the levels suit it.
    pub fn find_capacity(&mut self) -> Result<()> {
        let _running = self.start(Contender::MacSwap)?;
        let mut offer = self.offer(Scenario { flows: self.plan.flows_few, length: SHORTEST });
        offer.frames = CALIBRATION_FRAMES;
        let full = self.run(&offer)?;
        for share in [2.0, 3.0, 4.0] {
            let outcome = self.run(&Offer { rate: Some(full.offered / share), ..offer })?;
            self.capacity = self.capacity.max(outcome.forwarded);
        }
        ensure!(self.capacity > 0.0, "nothing was forwarded");
        Ok(())
    }

    /// One contender's turn of one round.
    pub fn measure(&mut self, who: Contender, round: usize, results: &mut Results) -> Result<()> {
        let running = self.start(who)?;
        self.measure_all(who, round, results).with_context(|| running.said(who))
    }

    fn measure_all(&mut self, who: Contender, round: usize, results: &mut Results) -> Result<()> {
        let scenarios = self.scenarios();
        for scenario in scenarios {
            let mut note = |figure, value| results.note(who, scenario, figure, round, value);
            if self.plan.overload {
                let whole = scenario == scenarios[0];
                for level in if whole { &LEVELS[..] } else { &FEW_LEVELS } {
                    if who == Contender::Kernel && *level != FULL {
                        continue; // It forwards all that is offered.
                    }
                    let outcome = self.checked(who, &self.at(scenario, *level))?;
                    note(Figure::Offered(*level), outcome.offered);
                    note(Figure::Forwarded(*level), outcome.forwarded);
                }
            }
            if self.plan.loss_free && who != Contender::Kernel {
                let rate = self.loss_free(who, scenario, false)?;
                note(Figure::LossFree, rate);
            }
        }
        if self.plan.latency && who != Contender::Kernel {
            self.latency(who, scenarios[0], round, results)?;
        }
        if self.plan.new_flows && who == Contender::Shunt {
            self.new_flows(scenarios[0], round, results)?;
        }
        Ok(())
    }

    fn start(&mut self, who: Contender) -> Result<crate::contenders::Running> {
        self.stable.start(who, &self.link, &mut self.programs, self.plan.flows_max)
    }

    /// The first one is the one that gets every measurement.
    fn scenarios(&self) -> [Scenario; 4] {
        let (many, few) = (self.plan.flows_max, self.plan.flows_few);
        [(many, SHORTEST), (few, SHORTEST), (many, LONG), (few, LONG)]
            .map(|(flows, length)| Scenario { flows, length })
    }

    /// Established flows, all over the place, as fast as can be.
    fn offer(&self, scenario: Scenario) -> Offer {
        Offer {
            flows: (0, scenario.flows),
            in_order: false,
            flags: ACK,
            length: scenario.length,
            rate: None,
            // What the generator makes in the time of a measurement at its full speed.
            frames: (6.0 * self.capacity * self.plan.seconds) as u32,
            timed: false,
        }
    }

    fn at(&self, scenario: Scenario, level: f64) -> Offer {
        match level {
            FULL => self.offer(scenario),
            level => self.at_rate(scenario, level * self.capacity),
        }
    }

    fn at_rate(&self, scenario: Scenario, rate: f64) -> Offer {
        let frames = (rate * self.plan.seconds) as u32;
        Offer { rate: Some(rate), frames, ..self.offer(scenario) }
    }

    fn run(&mut self, offer: &Offer) -> Result<Outcome> {
        for _ in 0..WATCH_TRIES {
            let outcome = self.programs.run(&self.link, offer)?;
            if outcome.watched {
                return Ok(outcome);
            }
        }
        bail!("this machine is too busy: what was offered was over before it could be watched")
    }

    /// Runs an offer and checks that frames went where this contender is to send them: `shunt` to
    /// the real servers, the others back.
    fn checked(&mut self, who: Contender, offer: &Offer) -> Result<Outcome> {
        let outcome = self.run(offer)?;
        let to_servers: u64 = outcome.arrived[..SERVERS].iter().sum();
        let expected = if who == Contender::Shunt { outcome.returned() } else { 0 };
        ensure!(to_servers == expected, "frames went to the wrong place: {:?}", outcome.arrived);
        ensure!(outcome.returned() > 0, "no frame of {} came back", outcome.sent);
        Ok(outcome)
    }

    /// RFC 2544, 26.1: the largest rate at which every frame comes back, by binary search. Trials
    /// last not a minute but a part of a second.
    fn loss_free(&mut self, who: Contender, scenario: Scenario, timed: bool) -> Result<f64> {
        let (mut best, mut low, mut high) = (0.0, 0.0, 1.25 * self.capacity);
        for _ in 0..HALVINGS {
            let rate = (low + high) / 2.0;
            let mut passed = false;
            for _ in 0..TRIES {
                let offer = Offer { timed, ..self.at_rate(scenario, rate) };
                let outcome = self.checked(who, &offer)?;
                if outcome.lost() == 0 {
                    // What was really offered: a generator that was held up offers less.
                    best = outcome.offered.min(rate);
                    passed = true;
                    break;
                }
            }
            (low, high) = if passed { (rate, high) } else { (low, rate) };
        }
        Ok(best)
    }

    /// Latency at shares of the loss-free rate, which is looked for again: frames that come one by
    /// one and are timed when they return are more work than others.
    fn latency(
        &mut self,
        who: Contender,
        scenario: Scenario,
        round: usize,
        results: &mut Results,
    ) -> Result<()> {
        let rate = self.loss_free(who, scenario, true)?;
        for load in LOADS {
            let offer = Offer { timed: true, ..self.at_rate(scenario, rate * load) };
            self.programs.latencies()?;
            let outcome = self.checked(who, &offer)?;
            let latencies = self.programs.latencies()?;
            let mut note = |figure, value| results.note(who, scenario, figure, round, value);
            note(Figure::Load(load), outcome.offered);
            for share in SHARES {
                note(Figure::Latency(load, share), latencies.percentile(share));
            }
        }
        Ok(())
    }

    /// SYNs of flows that were never seen, at twice the capacity, between two runs of packets of
    /// established flows at the same rate.
    fn new_flows(&mut self, scenario: Scenario, round: usize, results: &mut Results) -> Result<()> {
        let established = self.at(scenario, 2.0);
        let frames = 2 * established.frames;
        let first = NEW_FLOWS_FIRST;
        let flood =
            Offer { flows: (first, 1 << 32), in_order: true, flags: SYN, frames, ..established };
        let mut note =
            |figure, value| results.note(Contender::Shunt, scenario, figure, round, value);
        let before = self.checked(Contender::Shunt, &established)?.forwarded;
        note(Figure::NewFlows, self.checked(Contender::Shunt, &flood)?.forwarded);
        let after = self.checked(Contender::Shunt, &established)?.forwarded;
        note(Figure::BesideNewFlows, (before + after) / 2.0);
        Ok(())
    }
}
