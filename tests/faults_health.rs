//! What health checks are worth to clients: with one a second, rise 2 and fall 2, a real server
//! whose service dies costs no new connection after three seconds, one whose cable is cut none
//! after six, one that is drained none at all. (One that flaps: `health.rs`.)

mod common;

use common::faults::{Rig, server};
use common::http;
use common::pressure::Pressure;
use lab::Family;
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
    a_cable_that_is_cut(&mut rig, kind);
    a_service_that_dies(&mut rig, kind);
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

fn a_cable_that_is_cut(rig: &mut Rig, kind: &str) {
    fails(rig, |rig| rig.port("rs1", "down"), &format!("cable cut, `{kind}`"), 6 * SECOND);
    rig.port("rs1", "up");
    rig.wait_for_health(1, "up");
    let clients = Pressure::start(&rig.site.topology, http(Family::V4), 0);
    clients.wait_for_answers(&["rs1", "rs2"]);
    assert_eq!(clients.finish().failed().count(), 0);
}

fn a_service_that_dies(rig: &mut Rig, kind: &str) {
    fails(rig, |rig| rig.stop_server(1), &format!("service dies, `{kind}`"), 3 * SECOND);
}

/// No new connection fails after this time, and those that the other real server holds do not
/// notice.
fn fails(rig: &mut Rig, break_it: impl FnOnce(&mut Rig), what: &str, limit: Duration) {
    let down = |rig: &Rig| rig.health(1).as_deref() == Some("down");
    let measured = rig.measure(break_it, down, |_| {}, 2 * SECOND);
    println!("| {what} | {} |", measured.figures());
    measured.handled_within(limit);
    let held = &measured.outcome.held;
    let mut others = held.iter().filter(|end| end.real_server == "rs2").peekable();
    assert!(others.peek().is_some() && others.all(|end| end.broken.is_none()), "{held:#?}");
}
