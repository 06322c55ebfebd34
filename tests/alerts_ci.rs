//! The alert rules of config/: Prometheus reads them, each fires when it should and only then, and
//! what they ask for is what shunt exports. Needs promtool, so it runs with the feature `ci`.

use dataplane::DropReason;
use director::metrics::{Metric, find};
use director::neighbors::NeighborState;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use xsk::PassKind;

/// Labels that Prometheus adds to each series when it scrapes.
const SCRAPED: [&str; 2] = ["instance", "job"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

fn promtool(what: &str, name: &str) -> String {
    let mut command = Command::new("promtool");
    lab::run(command.args([what, "rules"]).arg(file(name))).unwrap()
}

#[test]
fn promtool_reads_the_rules_and_each_fires_when_it_should() {
    let alerts = named(&read("alerts.yml"), "- alert: ").len();
    let said = promtool("check", "alerts.yml");
    assert!(said.contains(&format!("{alerts} rules found")), "{said}");
    promtool("test", "alerts_test.yml");
}

/// What follows `key` in the lines that have it.
fn named(text: &str, key: &str) -> BTreeSet<String> {
    let after = text.lines().filter_map(|line| line.split_once(key));
    after.map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let alerts = named(&read("alerts.yml"), "- alert: ");
    assert!(alerts.len() > 20, "{alerts:?}");
    let cases = read("alerts_test.yml");
    let (silent, firing): (Vec<&str>, Vec<&str>) = cases
        .lines()
        .filter(|line| line.contains("alertname: "))
        .partition(|line| line.contains("exp_alerts: []"));
    for (which, lines) in [("silent", silent), ("firing", firing)] {
        assert_eq!(named(&lines.join("\n"), "alertname: "), alerts, "{which}");
    }
}

#[test]
fn the_table_of_faults_names_alerts_that_there_are() {
    let alerts = named(&read("alerts.yml"), "- alert: ");
    let page = read("../docs/faults.md");
    let words = page.split(|letter: char| !letter.is_ascii_alphanumeric());
    let found: Vec<&str> = words.filter(|word| word.starts_with("Shunt")).collect();
    assert!(found.len() >= 9, "{found:?}");
    for name in found {
        assert!(alerts.contains(name), "docs/faults.md names {name}");
    }
}

#[test]
fn each_metric_that_an_alert_asks_for_is_exported() {
    let rules = read("alerts.yml");
    let asked = selectors(&rules);
    assert!(asked.len() > 25, "{asked:?}");
    for (name, labels) in &asked {
        let metric = find(name).unwrap_or_else(|| panic!("{name} is not a metric of shunt"));
        for (label, values) in labels {
            assert!(metric.labels.contains(&label.as_str()), "{name} has no label {label}");
            for value in values {
                let known = known_values(metric, label);
                let known = known.is_none_or(|known| known.contains(&value.as_str()));
                assert!(known, "{label} of {name} is never {value}");
            }
        }
    }
    // A word that is no selector, in a sentence for example, is no other metric either.
    for word in words(&rules) {
        assert!(asked.iter().any(|(name, _)| *name == word), "{word} in alerts.yml");
    }
}

#[test]
fn the_cases_have_the_labels_of_the_metrics() {
    let cases = read("alerts_test.yml");
    let series = selectors(&cases);
    assert!(series.len() > 30, "{series:?}");
    for (name, labels) in series {
        let metric = find(&name).unwrap_or_else(|| panic!("{name} is not a metric of shunt"));
        let expected: BTreeSet<&str> = metric.labels.iter().chain(&SCRAPED).copied().collect();
        let labels: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
        assert_eq!(labels, expected, "{name}");
    }
}

/// The values that a label can have, where shunt gives them names itself.
fn known_values(metric: &Metric, label: &str) -> Option<Vec<&'static str>> {
    Some(match (metric.name, label) {
        ("shunt_server_neighbor_state", "state") => {
            NeighborState::ALL.iter().map(|state| state.name()).collect()
        }
        (_, "reason") => DropReason::ALL.iter().map(|reason| reason.name()).collect(),
        ("shunt_interface_packets_passed_total", "kind") => {
            PassKind::ALL.iter().map(|kind| kind.name()).collect()
        }
        (_, "kind") => vec!["automatic", "manual"],
        (_, "result") => vec!["ok", "failed", "unable"],
        _ => return None,
    })
}

/// The words that look like metrics.
fn words(text: &str) -> BTreeSet<String> {
    let names = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let groups = named(text, "- name: ");
    names
        .filter(|word| word.starts_with("shunt_") && !groups.contains(*word))
        .map(str::to_owned)
        .collect()
}

/// Metrics with the values that each label is compared with.
fn selectors(text: &str) -> Vec<(String, BTreeMap<String, Vec<String>>)> {
    let lines = text.lines().filter(|line| !line.contains("- name: "));
    lines
        .flat_map(|line| line.match_indices("shunt_").map(|(at, _)| &line[at..]))
        .map(one)
        .collect()
}

fn one(text: &str) -> (String, BTreeMap<String, Vec<String>>) {
    let length = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let (name, rest) = text.split_at(length.unwrap_or(text.len()));
    let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let mut labels = BTreeMap::new();
    let mut rest = inside.map_or("", |(inside, _)| inside);
    while let Some((label, after)) = rest.split_once('"') {
        let (values, after) = after.split_once('"').unwrap_or((after, ""));
        let label = label.trim_matches([',', ' ', '=', '~', '!']).to_owned();
        let values = values.split('|').filter(|value| !value.is_empty());
        labels.insert(label, values.map(str::to_owned).collect());
        rest = after;
    }
    (name.to_owned(), labels)
}
