//! What the demo shows, and what it checks of it.

use super::narrator::Narrator;
use super::traffic::Traffic;
use super::{DemoError, HELD_API, OWN_SCHEDULER, PORT, REAL_SERVERS, Stage, checks, name};
use crate::views::ServicesView;
use lab::{Family, METRICS, get_once};
use std::time::{Duration, Instant};

/// How long the MAC addresses may take to be found.
const READY_PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are printed one by one.
const PRINTED: usize = 8;
/// Requests of a distribution: a multiple of every period that is shown.
const COUNTED: usize = 40;
/// Connections that are opened under `rr` and stay open.
const HELD_UNDER_RR: usize = 4;
/// Likewise under `wrr`, which leaves them uneven.
const HELD_UNDER_WRR: usize = 8;
/// Likewise under `lc`: as many as it takes to be level, and two.
const HELD_UNDER_LC: usize = 6;
/// The weights that are shown.
const WEIGHTS: [u16; REAL_SERVERS as usize] = [3, 1];

/// Lines of /metrics that are shown: those that begin with one of these.
const KEY_METRICS: [&str; 8] = [
    "shunt_build_info",
    "shunt_queue_zero_copy",
    "shunt_worker_packets_received_total",
    "shunt_worker_packets_forwarded_total",
    "shunt_server_connections_total",
    "shunt_server_active_connections",
    "shunt_server_weight",
    "shunt_plugin_calls_total",
];

/// shunt is up: says with which queues, and waits until it knows where the real servers are.
pub(super) fn ready(stage: &Stage, begun: Instant, say: &Narrator) -> Result<(), DemoError> {
    let config = stage.director.config();
    say.command(&format!("cat {}", config.display()));
    say.quote(&std::fs::read_to_string(config).map_err(DemoError::Config)?);
    say.command(&format!("shunt run --config {}", config.display()));
    let resolved = || {
        let Ok(list) = stage.director.shunt("list --json") else { return false };
        let Ok(view) = serde_json::from_str::<ServicesView>(&list) else { return false };
        let known = view.services.iter().flat_map(|service| &service.servers);
        known.filter(|server| server.mac.is_some()).count() == usize::from(REAL_SERVERS)
    };
    let until = "shunt has found the real servers' MAC addresses";
    stage.director.process().wait_until(READY_PATIENCE, until, resolved)?;
    say.quote(&stage.director.process().output());
    say.done(&format!("shunt forwards, {:.1} s after its start.", begun.elapsed().as_secs_f32()));
    Ok(())
}

/// `rr`: every new connection goes to the other real server.
pub(super) fn round_robin(traffic: &mut Traffic, say: &Narrator) -> Result<(), DemoError> {
    say.step("Scheduler rr: each new connection goes to the next real server");
    say.line(&format!("GET http://{}:{PORT}/ as the client:", lab::vip(Family::V4)));
    for number in 1..=PRINTED {
        let answer = traffic.request();
        say.line(&match answer {
            Some(answer) => format!(
                "request {number:>2} -> {}, which saw the client as {}",
                answer.real_server, answer.client
            ),
            None => format!("request {number:>2} failed"),
        });
    }
    (PRINTED..COUNTED).for_each(|_| drop(traffic.request()));
    distribution(traffic, say);
    if !checks::alternate(traffic.last(COUNTED), COUNTED) {
        return Err(broken("the real servers do not alternate under rr", traffic));
    }
    say.done(&format!("{COUNTED} requests, and the real servers alternate without exception."));
    (0..HELD_UNDER_RR).for_each(|_| drop(traffic.open_long()));
    say.line(&format!("{HELD_UNDER_RR} connections are now held open, and keep asking."));
    Ok(())
}

/// `wrr` 3:1, switched to while requests go on.
pub(super) fn weighted(
    stage: &Stage,
    traffic: &mut Traffic,
    say: &Narrator,
) -> Result<(), DemoError> {
    say.step("Change to wrr with weights 3:1, while requests go on");
    for (number, weight) in (1..).zip(WEIGHTS) {
        let address = lab::real_server_address(number, Family::V4);
        let service = stage.service.name();
        change(stage, traffic, say, &format!("server set {service} {address} --weight {weight}"))?;
    }
    change_scheduler(stage, traffic, say, "wrr")?;
    traffic.go_on(COUNTED);
    say.line(&format!("The next requests went to {} ...", traffic.last(COUNTED)[..8].join(" ")));
    distribution(traffic, say);
    let counts: Vec<usize> = names().map(|name| answered(traffic, &name)).collect();
    if !checks::keep_to_weights(&counts, &WEIGHTS, COUNTED) {
        return Err(broken("wrr does not keep to the weights 3:1", traffic));
    }
    say.done("The shares are 3:1.");
    (0..HELD_UNDER_WRR).for_each(|_| drop(traffic.open_long()));
    say.line(&format!("{} connections are now held open: {}.", traffic.held(), held(traffic)));
    Ok(())
}

/// `lc`: a new connection goes where fewer are open.
pub(super) fn least_connection(
    stage: &Stage,
    traffic: &mut Traffic,
    say: &Narrator,
) -> Result<(), DemoError> {
    say.step("Change to lc: a new connection goes where fewer are open");
    change_scheduler(stage, traffic, say, "lc")?;
    let counts =
        |traffic: &Traffic| -> Vec<usize> { names().map(|name| traffic.held_by(&name)).collect() };
    for _ in 0..HELD_UNDER_LC {
        let fewest = counts(traffic).into_iter().min().unwrap_or_default();
        traffic.go_on(1);
        let Some(chosen) = traffic.open_long() else { continue };
        let had = traffic.held_by(&chosen) - 1;
        say.line(&format!("a connection opens -> {chosen}; held open: {}", held(traffic)));
        if had != fewest {
            let what = format!("lc chose {chosen}, which had {had} open and not {fewest}");
            return Err(broken(&what, traffic));
        }
    }
    let all = HELD_UNDER_RR + HELD_UNDER_WRR + HELD_UNDER_LC;
    if !checks::level(&counts(traffic), all) {
        return Err(broken("lc did not level the connections", traffic));
    }
    say.done("lc levelled what wrr had left uneven.");
    Ok(())
}

/// The sum of it: no request failed, new or on a connection held open throughout.
pub(super) fn nothing_lost(traffic: &Traffic, say: &Narrator) -> Result<(), DemoError> {
    say.step("Was anything lost?");
    let (new, held) = traffic.answered();
    if !traffic.failures().is_empty() {
        return Err(broken("requests failed", traffic));
    }
    say.done(&format!(
        "{new} requests on connections of their own, {held} on connections held open across \
         the changes: 0 failed."
    ));
    Ok(())
}

/// A real server that does not serve the VIP any more gets no new flows, until it does again.
pub(super) fn lost_vip(
    stage: &Stage,
    traffic: &mut Traffic,
    say: &Narrator,
) -> Result<(), DemoError> {
    let vip = lab::vip(Family::V4);
    say.step(&format!("{} loses the VIP, and a health check that asks for it notices", name(2)));
    change_vip(stage, say, "rs teardown", "down")?;
    for _ in 0..PRINTED {
        traffic.request();
    }
    let answers = traffic.last(PRINTED);
    if !traffic.failures().is_empty() || answers.iter().any(|by| *by != name(1)) {
        return Err(broken("new flows went to a real server without the VIP", traffic));
    }
    say.done(&format!("The next {PRINTED} requests were answered, all by {}.", name(1)));
    change_vip(stage, say, &format!("rs setup --vip {vip}"), "up")?;
    // By those who hold connections, too: they were with rs2 all the time.
    traffic.go_on(traffic.held());
    if !traffic.failures().is_empty() {
        return Err(broken("a connection did not survive", traffic));
    }
    say.done(&format!("It is back, and so are all {} connections held open.", traffic.held()));
    Ok(())
}

/// Runs a command on the second real server, and waits until its health is as expected.
fn change_vip(stage: &Stage, say: &Narrator, words: &str, wanted: &str) -> Result<(), DemoError> {
    say.command_on(&name(2), &format!("shunt {words}"));
    say.quote(&stage.real_servers.shunt(&stage.topology, 2, words)?);
    let begun = Instant::now();
    let address = lab::real_server_address(2, Family::V4);
    let noticed = || {
        let Ok(list) = stage.director.shunt("list --json") else { return false };
        let Ok(view) = serde_json::from_str::<ServicesView>(&list) else { return false };
        let mut servers = view.services.iter().flat_map(|service| &service.servers);
        let health = servers.find(|server| server.address == address).map(|rs| &rs.health);
        health.and_then(Option::as_ref).is_some_and(|health| health.state == wanted)
    };
    let until = format!("{} is {wanted}", name(2));
    stage.director.process().wait_until(READY_PATIENCE, &until, noticed)?;
    say.line(&format!("{until} {:.1} s later.", begun.elapsed().as_secs_f32()));
    say.command("shunt list");
    say.quote(&stage.director.shunt("list")?);
    Ok(())
}

/// What an operator would look at.
pub(super) fn listing(stage: &Stage, say: &Narrator) -> Result<(), DemoError> {
    say.step("What shunt says");
    for words in ["list", "list --stats"] {
        say.command(&format!("shunt {words}"));
        say.quote(&stage.director.shunt(words)?);
    }
    Ok(())
}

/// The key lines of the metrics.
pub(super) fn metrics(stage: &Stage, say: &Narrator) -> Result<(), DemoError> {
    say.step(&format!("Metrics for Prometheus, at http://{METRICS}/metrics"));
    let address = METRICS.parse().map_err(|_| DemoError::Broken(format!("bad {METRICS}")))?;
    let answer = get_once(&stage.topology.director, address, "/metrics")?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    for key in KEY_METRICS {
        let mut lines: Vec<&str> = text.lines().filter(|line| line.starts_with(key)).collect();
        if lines.is_empty() {
            return Err(DemoError::Broken(format!("the metrics hold no {key}")));
        }
        lines.sort_unstable();
        lines.iter().for_each(|line| say.quote(line));
    }
    Ok(())
}

/// Commands to try.
pub(super) fn next(stage: &Stage, hold: bool, say: &Narrator) {
    say.title(if hold {
        "Commands to try next, in another terminal:"
    } else {
        "Commands to try next, once `shunt demo --hold` keeps all this up and prints them anew:"
    });
    let topology = &stage.topology;
    let vip = lab::vip(Family::V4);
    let service = stage.service.name();
    let rs1 = lab::real_server_address(1, Family::V4);
    say.command(&stage.director.command_line("list"));
    say.command(&stage.director.command_line("list --flows"));
    let drain = format!("server set {service} {rs1} --weight 0");
    say.command(&stage.director.command_line(&drain));
    let scheduler = format!("service set {service} --scheduler rr");
    say.command(&stage.director.command_line(&scheduler));
    let (client, director) = (topology.client.name(), topology.director.name());
    say.command(&format!("ip netns exec {client} curl -s http://{vip}/"));
    say.command(&format!("ip netns exec {director} curl -s http://{METRICS}/metrics"));
    let first = topology.real_server(1).name();
    say.command(&format!("ip netns exec {first} tcpdump -eni {} tcp port {PORT}", lab::NIC));
}

/// How to have one's own scheduler serve here.
pub(super) fn own_scheduler(reachable: bool, say: &Narrator) {
    if reachable {
        say.title("A scheduler of your own, in another terminal:");
        OWN_SCHEDULER.iter().for_each(|command| say.command(command));
    } else {
        say.line(&format!("{HELD_API} leads to another demo: name this one's socket, as above."));
    }
}

fn names() -> impl Iterator<Item = String> {
    (1..=REAL_SERVERS).map(name)
}

fn change_scheduler(
    stage: &Stage,
    traffic: &mut Traffic,
    say: &Narrator,
    scheduler: &str,
) -> Result<(), DemoError> {
    let service = stage.service.name();
    change(stage, traffic, say, &format!("service set {service} --scheduler {scheduler}"))
}

/// Runs `shunt` with these words while requests go on.
fn change(
    stage: &Stage,
    traffic: &mut Traffic,
    say: &Narrator,
    words: &str,
) -> Result<(), DemoError> {
    say.command(&format!("shunt {words}"));
    traffic.during(|| stage.director.shunt(words))?;
    Ok(())
}

/// A table of who answered the last connections.
fn distribution(traffic: &Traffic, say: &Narrator) {
    for number in 1..=REAL_SERVERS {
        let address = lab::real_server_address(number, Family::V4);
        let count = answered(traffic, &name(number));
        say.share(&format!("{} {address}", name(number)), count, COUNTED);
    }
}

fn answered(traffic: &Traffic, real_server: &str) -> usize {
    traffic.last(COUNTED).iter().filter(|name| *name == real_server).count()
}

/// "6 by rs1, 2 by rs2".
fn held(traffic: &Traffic) -> String {
    let counts: Vec<String> =
        names().map(|name| format!("{} by {name}", traffic.held_by(&name))).collect();
    counts.join(", ")
}

/// What did not hold, with what is known about it.
fn broken(what: &str, traffic: &Traffic) -> DemoError {
    let mut text = format!("The demo failed: {what}.");
    let answers = traffic.last(COUNTED).join(" ");
    text.push_str(&format!("\nThe last connections were answered by: {answers}"));
    for failure in traffic.failures().iter().take(5) {
        text.push_str(&format!("\nA request failed: {failure}"));
    }
    DemoError::Broken(text)
}
