//! `fuzz EXECUTIONS [SEED]` executes that many inputs and says how far they got;
//! `fuzz replay LIFE FILE` lives a life again that went wrong;
//! `fuzz distill EXECUTIONS SEED` writes a new corpus.

use fuzz::{Depth, Input, Run, Tally, distill, parse_inputs, replay, write_inputs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// The share of executions that must reach the flow table.
const SHARE_MIN: f64 = 0.25;
/// Inputs that a corpus keeps.
const CORPUS_MAX: usize = 300;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match *arguments.as_slice() {
        ["replay", life, file] => play_again(life, file),
        ["distill", executions, seed] => make_corpus(executions, seed),
        [executions, seed] => execute(executions, seed),
        [executions] => execute(executions, "1"),
        _ => {
            Err("usage: fuzz EXECUTIONS [SEED] | replay LIFE FILE | distill EXECUTIONS SEED".into())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.replace('_', "").parse().map_err(|error| format!("`{word}`: {error}"))
}

fn corpus_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/found.txt")
}

fn read(path: &Path) -> Result<Vec<Input>, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
    parse_inputs(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn check(tally: &Tally) -> Result<(), String> {
    let share = tally.share(Depth::FlowTable);
    if share < SHARE_MIN {
        return Err(format!("only {:.1}% of the executions reached the flow table", share * 100.0));
    }
    Ok(())
}

fn execute(executions: &str, seed: &str) -> Result<(), String> {
    let (executions, seed) = (number(executions)?, number(seed)?);
    let started = Instant::now();
    let report = Run::new(seed, read(&corpus_file())?).execute(executions);
    let seconds = started.elapsed().as_secs_f64();
    println!("{}", report.tally);
    println!("{seconds:.0} s, {:.0} executions a second", report.tally.executions as f64 / seconds);
    check(&report.tally)
}

fn play_again(life: &str, file: &str) -> Result<(), String> {
    println!("{}", replay(number(life)?, &read(Path::new(file))?));
    Ok(())
}

fn make_corpus(executions: &str, seed: &str) -> Result<(), String> {
    let report = Run::new(number(seed)?, Vec::new()).execute(number(executions)?);
    println!("{}", report.tally);
    let corpus = distill(&report.kept, CORPUS_MAX);
    let path = corpus_file();
    std::fs::write(&path, write_inputs(&corpus))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{} inputs in {}", corpus.len(), path.display());
    Ok(())
}
