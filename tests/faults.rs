//! What goes wrong around a director, one thing at a time and with clients meanwhile: each is
//! noticed, named by `shunt doctor` or `shunt rs check`, and handled. docs/faults.md has the table.
//!
//! The figures of a run: cargo test -p director --test faults -- --nocapture | grep '^|'

mod common;

use common::faults::{Measured, Rig, server};
use lab::{Family, NIC, director_mac, mac_text, real_server_mac, vip};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const VIP: &str = "172.17.100.100";
/// It is asked for the VIP every five seconds; then come the answer, the announcement, and whoever
/// was under way.
const THIEF_OUT: Duration = Duration::from_secs(7);

/// A fault's line in the first table of docs/faults.md: words that each place must have.
struct Fault {
    name: &'static str,
    log: &'static str,
    /// In the line of `shunt list`; nothing for what is over before one can look.
    list: &'static str,
    doctor: &'static str,
    /// What `shunt rs check` says on a real server, where one is at fault.
    rs_check: Option<(u8, &'static str)>,
}

impl Fault {
    /// It shows as the page says.
    fn shows(&self, rig: &Rig) {
        rig.wait_for("it is in the log", || rig.logged(&[self.log]));
        rig.wait_for("it is listed", || {
            rig.director.shunt("list").is_ok_and(|said| said.contains(self.list))
        });
        rig.doctor_says(&[self.doctor]);
        if let Some((number, sentence)) = self.rs_check {
            let (well, said) = rig.rs_check(number);
            assert!(!well && said.contains(sentence), "{sentence} not in {said}");
        }
    }

    /// Prints its figures for the second table of the page. The first must have its words.
    fn record(&self, measured: &Measured) {
        println!("| {} | {} |", self.name, measured.figures());
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/faults.md");
        let page = std::fs::read_to_string(page).unwrap();
        let begin = format!("| {} |", self.name);
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with(&begin)).collect();
        assert_eq!(rows.len(), 2, "docs/faults.md has no two lines {begin}");
        let rs_check = self.rs_check.map(|(_, sentence)| sentence);
        for words in [self.log, self.list, self.doctor].into_iter().chain(rs_check) {
            assert!(
                rows[0].contains(words),
                "docs/faults.md does not say {words:?} in {}",
                rows[0]
            );
        }
    }
}

/// The machine's cable: the switch's port of the same name.
fn cut(rig: &Rig, port: &str) {
    rig.port(port, "down");
}

fn plug_in(rig: &Rig, port: &str) {
    rig.port(port, "up");
}

/// The director's check has found it down.
fn is_down(rig: &Rig, number: u8) -> bool {
    rig.health(number).as_deref() == Some("down")
}

/// Who the router sends packets for the VIP to.
fn router_asks_anew(rig: &Rig) {
    let router = &rig.site.topology.router;
    let _ = router.ip(&format!("neigh del {VIP} dev eth0"));
}

/// The faults that follow each other here are mended in between, but for the last.
#[test]
fn who_answers_for_others_is_named() {
    let mut rig = Rig::start("claims", "dr");
    an_rs_that_answers_arp_for_the_vip_is_named(&mut rig);
    another_machine_with_the_vip_is_named(&mut rig);
    an_rs_behind_a_router_is_refused_with_the_reason(&mut rig);
}

#[test]
fn an_rs_that_does_not_serve_gets_no_new_flows() {
    let mut rig = Rig::start("serving", "dr");
    an_rs_without_the_vip_gets_no_new_flows(&mut rig);
    an_rs_whose_listener_stopped_gets_no_new_flows(&mut rig);
    an_rs_that_is_down_gets_no_new_flows(&mut rig);
}

#[test]
fn links_may_go_and_machines_be_replaced() {
    let mut rig = Rig::start("links", "dr");
    an_rs_whose_cable_is_cut_gets_no_new_flows(&mut rig);
    a_directors_link_may_go_down_and_come_up(&mut rig);
    an_rs_that_is_another_machine_now_is_followed(&mut rig);
}

fn an_rs_that_answers_arp_for_the_vip_is_named(rig: &mut Rig) {
    let fault = Fault {
        name: "`arp_ignore` back to 0 on an RS",
        log: "answers ARP for VIP",
        list: "VIP claimed by",
        doctor: "answers ARP for it and takes clients to itself",
        rs_check: Some((1, "arp_ignore")),
    };
    let thief = format!("real server {} ({})", server(1), mac_text(real_server_mac(1)));
    let measured = rig.measure(
        |rig| {
            let rs1 = rig.site.topology.real_server(1);
            for scope in ["all", "lo"] {
                rs1.sysctl(&format!("net.ipv4.conf.{scope}.arp_ignore"), "0").unwrap();
            }
            router_asks_anew(rig);
        },
        |rig| rig.logged(&[VIP, &thief]),
        |rig| {
            fault.shows(rig);
            rig.doctor_says(&[VIP, &thief, "shunt rs setup"]);
            assert!(rig.rs_check(2).0, "{}", rig.rs_check(2).1);
        },
        SECOND,
    );
    let measured = measured.stolen_by("rs1");
    fault.record(&measured);
    measured.handled_within(THIEF_OUT);
    rig.set_up(1);
    assert!(rig.rs_check(1).0, "{}", rig.rs_check(1).1);
    // A claim is over when it was not repeated for a while.
    rig.wait_for("its end is said", || rig.logged(&["no longer claims VIP", VIP]));
    let claimed = rig.complaints().iter().any(|line| line.contains(fault.doctor));
    assert!(!claimed, "{:?}", rig.complaints());
}

fn an_rs_without_the_vip_gets_no_new_flows(rig: &mut Rig) {
    let fault = Fault {
        name: "VIP removed from an RS's `lo`",
        log: "is down: no answer for",
        list: "no answer for",
        doctor: "no answer for",
        rs_check: Some((1, "rs setup")),
    };
    let measured = rig.measure(
        |rig| {
            let rs1 = rig.site.topology.real_server(1);
            rs1.ip(&format!("address del {VIP}/32 dev lo")).unwrap();
        },
        |rig| is_down(rig, 1),
        |rig| fault.shows(rig),
        SECOND,
    );
    fault.record(&measured);
    measured.handled_within(5 * SECOND);
    rig.set_up(1);
    rig.wait_for_health(1, "up");
}

/// How a machine shows that says nothing any more.
const SILENT: Fault = Fault {
    name: "",
    log: "does not answer ARP",
    list: "neighbor failed",
    doctor: "it does not answer ARP: it is down, or not on this network",
    rs_check: None,
};

fn an_rs_that_is_down_gets_no_new_flows(rig: &mut Rig) {
    let fault = Fault { name: "RS down", ..SILENT };
    let measured = rig.measure(
        |rig| {
            rig.stop_server(1);
            rig.site.topology.real_server(1).ip(&format!("link set {NIC} down")).unwrap();
        },
        |rig| is_down(rig, 1),
        |rig| fault.shows(rig),
        SECOND,
    );
    fault.record(&measured);
    measured.handled_within(6 * SECOND);
}

fn an_rs_whose_cable_is_cut_gets_no_new_flows(rig: &mut Rig) {
    let fault = Fault { name: "cable of an RS cut", ..SILENT };
    let down = |rig: &Rig| is_down(rig, 1);
    let measured = rig.measure(|rig| cut(rig, "rs1"), down, |rig| fault.shows(rig), SECOND);
    fault.record(&measured);
    measured.handled_within(6 * SECOND);
    plug_in(rig, "rs1");
    rig.wait_for_health(1, "up");
}

fn an_rs_that_is_another_machine_now_is_followed(rig: &mut Rig) {
    let fault = Fault {
        name: "RS replaced by another machine with its address",
        log: "has the MAC address",
        list: "",
        doctor: "it answers ARP with",
        rs_check: None,
    };
    let new = mac_text(real_server_mac(3));
    let measured = rig.measure(
        |rig| {
            cut(rig, "rs1");
            let rs3 = rig.site.topology.real_server(3);
            // As a machine that boots: its first packet is an ARP request for its gateway.
            rs3.ip(&format!("address del {}/24 dev {NIC}", server(3))).unwrap();
            rs3.ip(&format!("address add {}/24 dev {NIC}", server(1))).unwrap();
            rs3.ip("route replace default via 172.17.100.253").unwrap();
            rs3.ip("neigh flush all").unwrap();
            let gateway: std::net::SocketAddr = ([172, 17, 100, 253], 9).into();
            let _ = rs3.run(|| std::net::TcpStream::connect_timeout(&gateway, SECOND)).unwrap();
        },
        |rig| rig.logged(&[fault.log, &server(1).to_string(), &new]),
        |rig| {
            assert!(rig.listed(1).is_some_and(|server| server["mac"] == new.as_str()));
            let findings = rig.doctor();
            let said = |finding: &serde_json::Value| {
                finding["subject"] == server(1).to_string().as_str()
                    && finding["sentence"]
                        .as_str()
                        .is_some_and(|text| text.contains(&new) && text.contains(fault.doctor))
            };
            assert!(findings.iter().any(said), "{findings:#?}");
        },
        2 * SECOND,
    );
    fault.record(&measured);
    // What was noticed within a second of the first ARP is followed at once.
    assert!(measured.noticed < 2 * SECOND, "{}", measured.figures());
    measured.handled_within(2 * SECOND);
    assert!(measured.outcome.by_answer().contains_key("rs3"), "{:?}", measured.outcome.by_answer());
}

fn an_rs_whose_listener_stopped_gets_no_new_flows(rig: &mut Rig) {
    let fault = Fault {
        name: "listener stopped",
        log: "refused",
        list: "refused",
        doctor: "refused",
        rs_check: Some((2, "nobody listens on")),
    };
    // The other one: who falls again soon after its return is longer in coming back.
    let down = |rig: &Rig| is_down(rig, 2);
    let measured = rig.measure(|rig| rig.stop_server(2), down, |rig| fault.shows(rig), SECOND);
    fault.record(&measured);
    measured.handled_within(3 * SECOND);
    rig.start_server(2);
    rig.wait_for_health(2, "up");
}

fn an_rs_behind_a_router_is_refused_with_the_reason(rig: &mut Rig) {
    let fault = Fault {
        name: "RS moved behind a router",
        log: "gets no flows",
        list: "neighbor impossible",
        doctor: "it is behind the gateway",
        rs_check: None,
    };
    let measured = rig.measure(
        |rig| {
            // It hangs on the router now, on a network of its own, and the director is told the way.
            cut(rig, "rs1");
            let (router, rs1) = (&rig.site.topology.router, rig.site.topology.real_server(1));
            router.ip(&format!("link add far type veth peer eth1 netns {}", rs1.name())).unwrap();
            rs1.ip(&format!("address flush dev {NIC}")).unwrap();
            rs1.ip(&format!("address add {}/24 dev eth1", server(1))).unwrap();
            rs1.ip("link set eth1 up").unwrap();
            router.ip("link set far up").unwrap();
            router.ip(&format!("route add {}/32 dev far", server(1))).unwrap();
            let director = &rig.site.topology.director;
            director.ip(&format!("route add {}/32 via 172.17.100.253", server(1))).unwrap();
        },
        |rig| rig.listed(1).is_some_and(|server| server["neighbor"] == "impossible"),
        |rig| fault.shows(rig),
        SECOND,
    );
    fault.record(&measured);
    measured.handled_within(6 * SECOND);
}

fn another_machine_with_the_vip_is_named(rig: &mut Rig) {
    let fault = Fault {
        name: "VIP on a third machine, too",
        log: "answers ARP for VIP",
        list: "VIP claimed by",
        doctor: "answers ARP for it and takes clients to itself",
        rs_check: None,
    };
    let thief = mac_text(real_server_mac(3));
    let measured = rig.measure(
        |rig| {
            let rs3 = rig.site.topology.real_server(3);
            rs3.ip(&format!("address del {VIP}/32 dev lo")).unwrap();
            rs3.ip(&format!("address add {VIP}/32 dev {NIC}")).unwrap();
            router_asks_anew(rig);
        },
        |rig| rig.logged(&[VIP, &thief]),
        |rig| {
            fault.shows(rig);
            rig.doctor_says(&[VIP, "another machine", &thief]);
        },
        SECOND,
    );
    let measured = measured.stolen_by("rs3");
    fault.record(&measured);
    measured.handled_within(THIEF_OUT);
    let rs3 = rig.site.topology.real_server(3);
    rs3.ip(&format!("address del {VIP}/32 dev {NIC}")).unwrap();
}

fn a_directors_link_may_go_down_and_come_up(rig: &mut Rig) {
    let fault = Fault {
        name: "the director's own link down and up",
        log: "is down: no packet comes or goes until it is up",
        list: "",
        doctor: "it has no carrier",
        rs_check: None,
    };
    let measured = rig.measure(
        |rig| cut(rig, "director"),
        |rig| rig.logged(&["eth0", "down"]),
        |rig| {
            fault.shows(rig);
            plug_in(rig, "director");
            // Nothing was heard of the real servers meanwhile, so that they have stayed up.
            rig.wait_for("they are checked again", || {
                rig.listed(1).is_some_and(|rs1| rs1["health"]["unmade"].is_null())
            });
            assert_eq!(rig.health(1).as_deref(), Some("up"));
        },
        2 * SECOND,
    );
    fault.record(&measured);
    // Its end is when it is up again; from then on it takes the router's next ARP request at most.
    measured.handled_within(15 * SECOND);
    let answers = measured.outcome.by_answer();
    assert!(answers.contains_key("rs1") && answers.contains_key("rs2"), "{answers:?}");
    let router = rig.site.topology.router.ip("neigh show").unwrap();
    let line = format!("{} dev eth0 lladdr {}", vip(Family::V4), mac_text(director_mac()));
    assert!(router.contains(&line), "{router}");
}
