//! What health checks are worth to clients: with one a second, rise 2 and fall 2, a real server
//! whose service dies costs no new connection after three seconds, one whose cable is cut none
//! after six, one that is drained none at all, and one that flaps does not take the service along.

mod common;

use common::faults::{EACH_SECOND, Rig, server};
use common::http;
use common::pressure::Pressure;
use lab::Family;
use std::thread::sleep;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const HELD: usize = 12;

#[test]
fn a_service_that_is_asked_for_the_vip_keeps_its_clients() {
    keeps_its_clients("dr");
}

#[test]
fn a_service_that_is_asked_over_tcp_keeps_its_clients() {
    keeps_its_clients("tcp");
}

fn keeps_its_clients(kind: &str) {
    let mut rig = Rig::start(&format!("keeps-{kind}"), kind);
    draining_costs_nothing(&rig, kind);
    a_service_that_dies(&mut rig, kind);
    a_cable_that_is_cut(&mut rig, kind);
}

fn set_weight(rig: &Rig, number: u8, weight: u16) {
    let service = rig.config.services[0].name();
    let address = server(number);
    rig.director.shunt(&format!("server set {service} {address} --weight {weight}")).unwrap();
}

fn draining_costs_nothing(rig: &Rig, kind: &str) {
    let clients = Pressure::start(&rig.site.topology, http(Family::V4), HELD);
    clients.wait_for_answers(&["rs1", "rs2"]);
    set_weight(rig, 1, 0);
    let drained = Instant::now();
    clients.go_on_for(2 * SECOND);
    // It may have new ones before the command that brings it back has ended.
    let back = Instant::now();
    set_weight(rig, 1, 1);
    clients.wait_for_answers(&["rs1", "rs2"]);
    let outcome = clients.finish();
    println!("| draining, `{kind}` | {} of {} |", outcome.failed().count(), outcome.attempts.len());
    assert_eq!(outcome.failed().count(), 0, "{:#?}", outcome.failed().next());
    assert_eq!(outcome.broken(), 0, "{:#?}", outcome.held);
    let meanwhile = outcome.attempts.iter().filter(|it| it.begun > drained && it.begun < back);
    let mut answers = meanwhile.map(|attempt| attempt.answer.as_deref());
    assert!(answers.all(|answer| answer == Ok("rs2")), "{:?}", outcome.by_answer());
    assert!(outcome.held.iter().any(|end| end.real_server == "rs1" && end.answers > 10));
}

fn a_service_that_dies(rig: &mut Rig, kind: &str) {
    let down = |rig: &Rig| rig.health(1).as_deref() == Some("down");
    let measured = rig.measure(|rig| rig.stop_server(1), down, |_| {}, 2 * SECOND);
    println!("| service dies, `{kind}` | {} |", measured.figures());
    measured.handled_within(3 * SECOND);
    others_are_well(&measured.outcome);
    rig.start_server(1);
    rig.wait_for_health(1, "up");
}

fn a_cable_that_is_cut(rig: &mut Rig, kind: &str) {
    let down = |rig: &Rig| rig.health(1).as_deref() == Some("down");
    let measured = rig.measure(|rig| rig.port("rs1", "down"), down, |_| {}, 2 * SECOND);
    println!("| cable cut, `{kind}` | {} |", measured.figures());
    measured.handled_within(6 * SECOND);
    others_are_well(&measured.outcome);
    rig.port("rs1", "up");
    rig.wait_for_health(1, "up");
    let clients = Pressure::start(&rig.site.topology, http(Family::V4), 0);
    clients.wait_for_answers(&["rs1", "rs2"]);
    assert_eq!(clients.finish().failed().count(), 0);
}

/// Connections that the other real server holds do not notice.
fn others_are_well(outcome: &common::pressure::Outcome) {
    let mut others = outcome.held.iter().filter(|end| end.real_server == "rs2");
    assert!(
        others.clone().count() > 0 && others.all(|end| end.broken.is_none()),
        "{:#?}",
        outcome.held
    );
}

/// Its quorum is two of two, yet one that comes and goes does not lose it: hysteresis.
#[test]
fn an_rs_that_flaps_does_not_take_the_service_along() {
    let more = format!(
        "quorum = 2\nhysteresis = 1\n[virtual_service.health_check]\nkind = \"tcp\"\n{EACH_SECOND}"
    );
    let mut rig = Rig::start_with("flaps", &more);
    let clients = Pressure::start(&rig.site.topology, http(Family::V4), HELD);
    clients.wait_for_answers(&["rs1", "rs2"]);

    // Shorter than the time between two checks: one failure is not enough.
    for _ in 0..3 {
        rig.stop_server(1);
        sleep(Duration::from_millis(400));
        rig.start_server(1);
        clients.go_on_for(2 * SECOND);
        assert_eq!(rig.health(1).as_deref(), Some("up"));
    }
    assert!(!rig.logged(&[&server(1).to_string(), "down"]), "{}", rig.director.process().output());

    // Longer: it goes down and comes back, each time said once, and the service stays.
    for _ in 0..2 {
        rig.stop_server(1);
        rig.wait_for_health(1, "down");
        assert!(!rig.quorum_lost());
        rig.start_server(1);
        rig.wait_for_health(1, "up");
    }
    let outcome = clients.finish();
    assert!(!rig.quorum_lost() && !rig.logged(&["quorum"]));
    others_are_well(&outcome);
}
