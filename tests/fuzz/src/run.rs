//! A run: lives, one after another, and the inputs worth keeping.

use crate::input::{Input, write_inputs};
use crate::life::Life;
use crate::mutate::{mutate, valid_input};
use crate::tally::Tally;
use frames::Random;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Executions of one life.
const LIFE: u64 = 2_000;
/// The most inputs that are kept.
const KEPT_MAX: usize = 20_000;

/// A run in progress.
pub struct Run {
    random: Random,
    kept: Vec<Input>,
    lives: u64,
    /// What was reached so far.
    pub tally: Tally,
}

/// What a run found out.
pub struct Report {
    /// What was reached.
    pub tally: Tally,
    /// The inputs that showed something new.
    pub kept: Vec<Input>,
}

impl Run {
    /// A run from this seed, after the inputs of a corpus.
    ///
    /// # Panics
    /// When the dataplane is wrong.
    pub fn new(seed: u64, corpus: Vec<Input>) -> Run {
        let mut run =
            Run { random: Random::new(seed), kept: Vec::new(), lives: 0, tally: Tally::default() };
        for inputs in corpus.chunks(LIFE as usize) {
            run.live(|_, number| inputs.get(number as usize).cloned());
        }
        if run.kept.is_empty() {
            run.kept.push(valid_input(&mut run.random));
        }
        run
    }

    /// Executes so many inputs.
    ///
    /// # Panics
    /// When the dataplane is wrong. The inputs of the life are written to a file first.
    pub fn execute(mut self, executions: u64) -> Report {
        let end = self.tally.executions + executions;
        while self.tally.executions < end {
            let left = LIFE.min(end - self.tally.executions);
            self.live(|run, number| (number < left).then(|| run.next_input()));
        }
        Report { tally: self.tally, kept: self.kept }
    }

    fn next_input(&mut self) -> Input {
        let random = &mut self.random;
        if random.once_in(4) {
            return valid_input(random);
        }
        // What was found last is tried more often.
        let from = if random.once_in(2) { self.kept.len().saturating_sub(100) } else { 0 };
        let mut input = self.kept[from + random.below(self.kept.len() - from)].clone();
        let other = random.pick(&self.kept);
        mutate(random, &mut input, other);
        if !random.once_in(20) {
            // Flows that end all the time never crowd the table.
            input.iter_mut().for_each(|event| event.wait %= 200);
        }
        input
    }

    /// A life of the inputs that `next` gives until it gives none.
    fn live(&mut self, mut next: impl FnMut(&mut Run, u64) -> Option<Input>) {
        let mut life = Life::new(self.lives);
        self.lives += 1;
        let mut number = 0;
        while let Some(input) = next(self, number) {
            number += 1;
            let tally = &mut self.tally;
            let executed = catch_unwind(AssertUnwindSafe(|| life.execute(&input, tally)));
            match executed {
                Ok(features) => {
                    if self.tally.is_new(&features) && self.kept.len() < KEPT_MAX {
                        self.kept.push(input);
                    }
                }
                Err(panic) => {
                    report(&life);
                    resume_unwind(panic);
                }
            }
        }
        self.tally.note_life(&life.counts());
    }
}

/// Writes down the inputs of a life that went wrong.
fn report(life: &Life) {
    let path = std::env::temp_dir().join(format!("fuzz-life-{}.txt", life.number));
    match std::fs::write(&path, write_inputs(&life.inputs)) {
        Ok(()) => {
            eprintln!("to repeat: cargo run -p fuzz -- replay {} {}", life.number, path.display())
        }
        Err(error) => eprintln!("cannot write {}: {error}", path.display()),
    }
}

/// Lives one life again.
///
/// # Panics
/// When the dataplane is wrong.
pub fn replay(number: u64, inputs: &[Input]) -> Tally {
    let mut life = Life::new(number);
    let mut tally = Tally::default();
    for input in inputs {
        life.execute(input, &mut tally);
    }
    tally.note_life(&life.counts());
    tally
}

/// What an input shows in a life of its own.
///
/// # Panics
/// When the dataplane is wrong.
pub fn features_alone(input: &Input) -> HashSet<u64> {
    Life::new(0).execute(input, &mut Tally::default()).into_iter().collect()
}

/// Of these inputs at most `most` that together show as much as possible, each of them alone.
pub fn distill(inputs: &[Input], most: usize) -> Vec<Input> {
    let mut left: Vec<_> = inputs.iter().map(|input| (input, features_alone(input))).collect();
    let mut chosen = Vec::new();
    while chosen.len() < most {
        let length = |input: &Input| input.iter().map(|event| event.packet.len()).sum::<usize>();
        let worth =
            |input: &Input, shows: &HashSet<u64>| shows.len() * 10_000 / (length(input) + 1);
        let best = left.iter().max_by_key(|(input, shows)| worth(input, shows)).cloned();
        let Some((input, shows)) = best else { break };
        chosen.push(input.clone());
        for (_, features) in &mut left {
            features.retain(|feature| !shows.contains(feature));
        }
        left.retain(|(_, features)| !features.is_empty());
    }
    chosen
}
