//! A short round, for every `cargo test`; the longer ones are the program's.

use fuzz::{Depth, Run, parse_inputs};

fn corpus() -> Vec<fuzz::Input> {
    parse_inputs(include_str!("../corpus/found.txt")).expect("a readable corpus")
}

#[test]
fn a_short_round_finds_nothing_wrong_and_gets_far() {
    let report = Run::new(1, corpus()).execute(20_000);
    println!("{}", report.tally);
    assert!(report.tally.share(Depth::FlowTable) > 0.25);
    assert!(report.tally.share(Depth::Forwarded) > 0.1);
    for depth in [Depth::Malformed, Depth::UnknownProtocol, Depth::Fragment, Depth::NoService] {
        assert!(report.tally.share(depth) > 0.005, "{depth:?} is tried, too");
    }
    assert!(report.tally.never_dropped_for().is_empty(), "every reason to drop is met");
}

#[test]
fn the_same_seed_finds_the_same() {
    let runs = [(); 2].map(|()| Run::new(5, corpus()).execute(3_000));
    assert_eq!(runs[0].tally, runs[1].tally);
    assert_eq!(runs[0].kept, runs[1].kept);
    assert_ne!(Run::new(6, corpus()).execute(3_000).kept, runs[0].kept);
}

#[test]
fn the_corpus_is_small_and_every_input_shows_something() {
    let corpus = corpus();
    assert!((50..=300).contains(&corpus.len()), "{}", corpus.len());
    let mut seen = std::collections::HashSet::new();
    for (position, input) in corpus.iter().enumerate() {
        let before = seen.len();
        seen.extend(fuzz::features_alone(input));
        assert_ne!(seen.len(), before, "input {position} shows nothing new");
    }
}
