//! The examples in other languages pass the suite that their authors are told to run.

use serde_json::Value;
use std::path::Path;
use workbench::{CheckArgs, check};

/// The suite's report on a file of plugins/examples, with these parameters.
fn report(path: &str, param: &[(&str, &str)]) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/examples");
    let param = param.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let file = folder.join(path).to_str().unwrap().to_owned();
    let mut out = Vec::new();
    let passed =
        check(&CheckArgs { file, param, seed: 1, json: true, replay: None }, &mut out).unwrap();
    let report: Value = serde_json::from_slice(&out).unwrap();
    assert!(passed, "{path}: {report:#}");
    report
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {report:#}"))
}

#[test]
fn affinity_passes() {
    let report = report("c/affinity.wasm", &[("bound", "200")]);
    // No server gets more than the bound.
    assert!(number(&report, "/figures/evenness/0/max_over_mean") < 2.0, "{report:#}");
}

#[test]
fn random_passes() {
    let report = report("wat/random.wat", &[]);
    assert!(number(&report, "/figures/evenness/0/max_over_mean") < 1.2, "{report:#}");
}

#[test]
fn slow_start_passes() {
    let report = report("assemblyscript/slow_start.wasm", &[("seconds", "5")]);
    assert!(number(&report, "/figures/evenness/0/max_over_mean") < 1.01, "{report:#}");
}
