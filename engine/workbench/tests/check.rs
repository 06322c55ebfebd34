//! The suite on whole plugins: the stock ones, and small ones that break one rule each.

mod common;

use common::{Folder, PLUGIN, schedule};
use dataplane::{Candidate, Failure, Instance, NewFlow};
use plugin_host::{Dump, Limits, Params, Placement, PluginHost, STOCK};
use serde_json::Value;
use workbench::{CheckArgs, check};

/// What the suite says of a plugin, as JSON.
fn report(file: &str, param: &[(&str, &str)]) -> Value {
    let param = param.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let arguments = CheckArgs { file: file.to_owned(), param, seed: 1, json: true, replay: None };
    let mut out = Vec::new();
    let passed = check(&arguments, &mut out).unwrap();
    let report: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(report["passed"], passed);
    report
}

/// The one rule that a plugin breaks, and what is said of it.
fn broken(report: &Value) -> (String, String) {
    let rules = report["rules"].as_array().unwrap();
    let broken: Vec<_> = rules.iter().filter(|rule| rule["outcome"] == "failed").collect();
    assert_eq!(broken.len(), 1, "{report}");
    let text = |field: &str| broken[0][field].as_str().unwrap().to_owned();
    (text("rule"), text("detail"))
}

#[test]
fn stock_plugins_pass() {
    for &name in STOCK {
        let report = report(name, &[]);
        assert_eq!(report["passed"], true, "{name}: {report}");
        let figures = &report["figures"];
        let number = |path: &str| figures.pointer(path).and_then(Value::as_f64).unwrap();
        assert!(number("/schedule_fuel/max") < number("/schedule_fuel/limit"), "{name}");
        assert!(number("/schedule_fuel/median") > 0.0, "{name}");
        assert!(number("/nanoseconds") > 0.0 && number("/times_rr") > 0.0, "{name}");
        if ["rr", "wrr", "lc", "wlc", "sed", "nq", "twos"].contains(&name) {
            assert_eq!(figures["declined"], 0, "{name}: they find whoever is there");
        }
    }
}

#[test]
fn figures_tell_schedulers_apart() {
    let rr = report("rr", &[]);
    let wrr = report("wrr", &[]);
    let number = |report: &Value, path: &str| report.pointer(path).and_then(Value::as_f64).unwrap();
    for alone in [&rr, &wrr] {
        assert!(number(alone, "/figures/evenness/0/max_over_mean") < 1.001, "{alone}");
        assert!(number(alone, "/figures/evenness/0/cv") < 0.001, "{alone}");
        assert_eq!(alone["figures"]["disruption"]["by_flow_only"], false);
    }
    // Equal shares where 1 of 40 was due: off by 1.5.
    assert!(number(&rr, "/figures/evenness/0/weighted_share_error") > 1.0, "{rr}");
    assert!(number(&wrr, "/figures/evenness/0/weighted_share_error") < 0.01, "{wrr}");
}

/// Takes the client's last byte modulo the servers, and from there the next that takes flows.
const MODULO: &str = r#"(local $slot i32) (local $left i32)
  (local.set $left (i32.load (i32.const 88)))
  (if (i32.eqz (local.get $left)) (then (return (i32.const -1))))
  (local.set $slot (i32.rem_u (i32.load16_u (i32.const 158)) (local.get $left)))
  (loop $next
    (if (i32.load (i32.add (i32.const 4096) (i32.mul (local.get $slot) (i32.const 32))))
      (then (return (local.get $slot))))
    (local.set $slot (i32.add (local.get $slot) (i32.const 1)))
    (if (i32.eq (local.get $slot) (i32.load (i32.const 88))) (then (local.set $slot (i32.const 0))))
    (local.set $left (i32.sub (local.get $left) (i32.const 1)))
    (br_if $next (local.get $left)))
  (i32.const -1)"#;

/// Where it reads the weight.
const WEIGHT: &str =
    "(i32.load (i32.add (i32.const 4096) (i32.mul (local.get $slot) (i32.const 32))))";

#[test]
fn a_choice_by_the_flow_is_recognized_and_so_is_whom_a_removal_disturbs() {
    let folder = Folder::new("modulo");
    let report = report(&folder.write("modulo.wat", schedule(MODULO)), &[]);
    assert_eq!(report["passed"], true, "{report}");
    let disruption = &report["figures"]["disruption"];
    assert_eq!(disruption["by_flow_only"], true, "{report}");
    // Only the removal of the last server changes the modulus; of the others' flows none moves
    // when another leaves its slot empty.
    assert!(disruption["max"].as_f64().unwrap() > 0.8, "{report}");
    assert!(disruption["mean"].as_f64().unwrap() < 0.2, "{report}");
}

#[test]
fn unevenness_is_seen() {
    // The first server that takes flows gets them all.
    let folder = Folder::new("uneven");
    let first = MODULO.replace("(i32.load16_u (i32.const 158))", "(i32.const 0)");
    let report = report(&folder.write("first.wat", schedule(&first)), &[]);
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["figures"]["evenness"][0]["max_over_mean"], 16.0, "{report}");
    assert_eq!(report["figures"]["disruption"]["by_flow_only"], false);
    assert_eq!(report["figures"]["disruption"]["one_for_all"], true);
}

#[test]
fn what_is_refused_names_the_rule() {
    let folder = Folder::new("refused");
    let without = |part: &str| PLUGIN.replace(part, "");
    for (name, text, rule, words) in [
        ("text.wat", "(module (func".to_owned(), "module", "mistake"),
        ("other.wasm", "hello".to_owned(), "module", "no WebAssembly module"),
        ("memory.wat", PLUGIN.replace("\"memory\") 2", "\"memory\") 300"), "memory", "limit"),
        (
            "import.wat",
            PLUGIN.replacen("(memory", "(import \"env\" \"x\" (func)) (memory", 1),
            "imports",
            "now_ms",
        ),
        ("export.wat", without(r#"(export "shunt_schedule")"#), "exports", "shunt_schedule"),
        ("version.wat", PLUGIN.replace("(i32.const 1))", "(i32.const 2))"), "start", "version 2"),
        ("init.wat", PLUGIN.replace("(i32.const 64))", "(unreachable))"), "start", "trapped"),
        ("table.wat", PLUGIN.replace("(i32.const 64))", "(i32.const 66))"), "table", "aligned"),
    ] {
        let report = report(&folder.write(name, text), &[]);
        let (broken, detail) = broken(&report);
        assert_eq!(broken, rule, "{name}: {detail}");
        assert!(detail.contains(words), "{name}: {detail}");
        assert_eq!(report["figures"], Value::Null, "{name}");
    }
}

#[test]
fn what_goes_wrong_when_it_is_asked_says_where() {
    let folder = Folder::new("asked");
    let divides = r#"(func (export "shunt_update")
        (drop (i32.div_u (i32.const 1) (i32.load (i32.const 88)))))"#;
    let late = "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (if (i32.gt_u (global.get $calls) (i32.const 10000)) (then (unreachable)))";
    for (name, text, words) in [
        ("unreachable.wat", schedule("(unreachable)"), "trapped in shunt_schedule: flow 200,"),
        ("loop.wat", schedule("(loop (br 0)) (unreachable)"), "used up its fuel in shunt_schedule"),
        ("five.wat", schedule("(i32.const -5)"), "no slot (declining is -1)"),
        (
            "zero.wat",
            schedule(MODULO).replacen("(func", &format!("{divides} (func"), 1),
            "trapped in shunt_update: flow 0,",
        ),
        (
            "late.wat",
            schedule(&MODULO.replace("(local $left i32)", &format!("(local $left i32) {late}"))),
            "trapped in shunt_schedule: flow",
        ),
        ("drained.wat", schedule(&MODULO.replace(WEIGHT, "(i32.const 1)")), "that has weight 0"),
    ] {
        let report = report(&folder.write(name, text), &[]);
        let (rule, detail) = broken(&report);
        assert_eq!(rule, "flows", "{name}: {detail}");
        assert!(
            detail.contains(words) && detail.contains("`--seed 1` repeats it"),
            "{name}: {detail}"
        );
    }
}

#[test]
fn parameters_are_refused_by_what_takes_none() {
    let report = report("rr", &[("mh-port", "true")]);
    let (rule, detail) = broken(&report);
    assert_eq!(rule, "parameters");
    assert!(detail.contains("mh-port"), "{detail}");
}

/// What `--replay` says of a plugin and a dump.
fn replay(file: &str, dump: &str) -> Result<(bool, Value), String> {
    let arguments = CheckArgs {
        file: file.to_owned(),
        param: Vec::new(),
        seed: 1,
        json: true,
        replay: Some(dump.into()),
    };
    let mut out = Vec::new();
    let reproduced = check(&arguments, &mut out).map_err(|error| error.to_string())?;
    Ok((reproduced, serde_json::from_slice(&out).unwrap()))
}

/// A plugin that traps at its third flow, from a memory that counts them, and its dump.
fn traps_at_the_third(folder: &Folder) -> (String, String) {
    let body = "(i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 1)))
        (if (i32.gt_u (i32.load (i32.const 1024)) (i32.const 2)) (then (unreachable)))
        (i32.const 0)";
    let text = schedule(body);
    let host = PluginHost::new(Limits::default()).unwrap();
    let plugin = host.load("third", text.as_bytes()).unwrap();
    let placement = Placement { worker: 1, workers: 2, seed: 9 };
    let (mut scheduler, _) = plugin.scheduler(placement, &Params::new()).unwrap();
    let server = Candidate { address: [10, 0, 0, 1].into(), weight: 1 };
    scheduler.servers_changed(&[server], 5).unwrap();
    let flow = NewFlow {
        source: [1; 16],
        destination: [2; 16],
        source_port: 3,
        destination_port: 4,
        protocol: 6,
    };
    assert_eq!([0; 3].map(|_| scheduler.choose(&flow, 5)), [Ok(0), Ok(0), Err(Failure::Trap)]);
    let dump = Dump::of(Instance::new(scheduler)).unwrap();
    (folder.write("third.wat", text), folder.write("dump.json", dump.to_json()))
}

#[test]
fn a_dump_is_replayed() {
    let folder = Folder::new("replayed");
    let (file, dump) = traps_at_the_third(&folder);
    let (reproduced, outcome) = replay(&file, &dump).unwrap();
    assert!(reproduced && outcome["reproduced"] == true, "{outcome}");
    assert_eq!((&outcome["failure"], &outcome["same_module"]), (&"trap".into(), &true.into()));
    // The mended plugin does not fail, and the answer says that it is another one.
    let mended = folder.write("mended.wat", schedule("(i32.const 0)"));
    let (reproduced, outcome) = replay(&mended, &dump).unwrap();
    assert!(!reproduced && outcome["same_module"] == false, "{outcome}");
    assert!(outcome["found"].as_str().unwrap().contains("does not fail"), "{outcome}");
}

#[test]
fn what_is_no_dump_is_named() {
    let folder = Folder::new("no dump");
    let (file, dump) = traps_at_the_third(&folder);
    let other = folder.write("other.json", "{\"version\": 9}");
    for (file, dump, words) in [
        (&file, &"nothing.json".to_owned(), "cannot read the dump nothing.json"),
        (&file, &file, "third.wat: "),
        (&file, &other, "version 9"),
        (&other, &dump, "other.json"),
    ] {
        let error = replay(file, dump).unwrap_err();
        assert!(error.contains(words), "{words:?} is not in {error}");
    }
}
