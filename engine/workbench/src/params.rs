//! What a plugin makes of parameters that make no sense.

use crate::check::{failed, kept};
use crate::history::new_flow;
use crate::numbers::Numbers;
use crate::report::{Outcome, Rule};
use crate::server_set::ServerSet;
use crate::site::Site;
use crate::subject::Configured;
use plugin_host::{Error, Limits, Params, Plugin};

const RULE: &str = "parameters";

/// Keys that are tried beside those that are given: one that nobody has, and those that IPVS has
/// as flags of its schedulers.
const KEYS: [&str; 5] = ["no-such-parameter", "sh-port", "sh-fallback", "mh-port", "mh-fallback"];

/// Flows that are asked about when absurd parameters were accepted.
const FLOWS: usize = 200;

/// Reads `KEY=VALUE`.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give it as KEY=VALUE".to_owned()),
    }
}

/// Values that no parameter is likely to take.
fn absurd_values() -> Vec<String> {
    let longest = "9".repeat(256);
    [
        "",
        " ",
        "-1",
        "0",
        "4294967296",
        "18446744073709551616",
        "1e400",
        "NaN",
        "true",
        "=",
        "\u{1F600}",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain([longest])
    .collect()
}

/// Whether a plugin takes the parameters that are given, and survives others.
pub(crate) fn rule(plugin: &Plugin, given: &Params, limits: &Limits, seed: u64) -> Rule {
    if let Err(error) = plugin.check_params(given) {
        return failed(RULE, error.to_string());
    }
    if !plugin.takes_params() {
        let detail = "it takes none".to_owned();
        return Rule { rule: RULE, outcome: Outcome::NotTried, detail };
    }
    let keys = given.keys().map(String::as_str).chain(KEYS);
    let values = absurd_values();
    let pairs = keys.flat_map(|key| values.iter().map(move |value| (key, value)));
    let mut tries: Vec<Params> =
        pairs.map(|(key, value)| Params::from([(key.to_owned(), value.clone())])).collect();
    // As much as the host would ever write.
    tries.push((0..64).map(|key| (format!("k{key:063}"), String::new())).collect());
    let mut refused = 0;
    for params in &tries {
        match try_with(plugin, params, limits, seed) {
            Ok(accepted) => refused += usize::from(!accepted),
            Err(what) => return failed(RULE, format!("{what}, given {}", describe(params))),
        }
    }
    kept(
        RULE,
        format!("of {} that make no sense, {refused} were refused, none did harm", tries.len()),
    )
}

/// Whether the parameters are accepted. The error is what happened that must not.
fn try_with(plugin: &Plugin, params: &Params, limits: &Limits, seed: u64) -> Result<bool, String> {
    match plugin.check_params(params) {
        Ok(()) => {}
        // The host says so of a call that did not return; anything else is an answer.
        Err(Error::Params { reason, .. }) if reason.starts_with("shunt_configure ") => {
            return Err(reason);
        }
        Err(Error::Params { .. }) => return Ok(false),
        Err(other) => return Err(other.to_string()),
    }
    let subject = Configured { plugin: plugin.clone(), params: params.clone(), limits: *limits };
    let mut site = Site::new(&subject, 1, seed, 0)?;
    site.set_servers(&ServerSet::of(&[1; 16][..plugin.capacity().min(16)]));
    let mut numbers = Numbers::new(seed);
    for _ in 0..FLOWS {
        let flow = new_flow(&mut numbers, false);
        site.ask(0, &flow, &mut numbers).map_err(|mishap| format!("it {}", mishap.what))?;
    }
    Ok(true)
}

fn describe(params: &Params) -> String {
    let mut pairs = params.iter().map(|(key, value)| format!("{key}={value}"));
    match params.len() {
        1 => pairs.next().unwrap_or_default(),
        many => format!("{many} parameters ({} ...)", pairs.next().unwrap_or_default()),
    }
}
