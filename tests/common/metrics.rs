//! The director's metrics, read as Prometheus reads them.

use lab::{METRICS, Netns, get_once};
use std::collections::BTreeMap;

/// One line of the exposition.
#[derive(Debug, Clone)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// All samples at one moment.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Metrics {
    /// Fetches them from inside the director's namespace.
    pub fn fetch(director: &Netns) -> Metrics {
        let answer = get_once(director, METRICS.parse().unwrap(), "/metrics").unwrap();
        Metrics::parse(String::from_utf8(answer.body).unwrap())
    }

    /// Reads the exposition format.
    pub fn parse(text: String) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = samples.map(|line| parse(line).unwrap_or_else(|| panic!("{line}"))).collect();
        Metrics { text, samples }
    }

    /// The samples of a metric that carry all of these labels.
    pub fn with<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| {
                    sample.labels.get(*label).is_some_and(|found| found == value)
                })
        })
    }

    /// Their sum. A metric that has no such sample is an error of the test.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let values: Vec<f64> = self.with(name, labels).map(|sample| sample.value).collect();
        assert!(!values.is_empty(), "no {name} {labels:?} in\n{}", self.text);
        values.iter().sum()
    }
}

fn parse(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut map = BTreeMap::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let (value, after) = after.split_once('"')?;
        map.insert(label.to_owned(), value.to_owned());
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Sample { name: name.to_owned(), labels: map, value: value.parse().ok()? })
}
