//! VLAN-tagged packets: real AF_XDP queues, the XDP program and a worker; the test tells the
//! control plane which tags the real servers' link has. (Which those are on a machine with VLAN
//! devices is asked in vlan_devices.rs, by a kernel that can make them.)

mod common;

use common::in_process::{block_on, open, resolve};
use common::{HTTP, PATIENCE, service};
use dataplane::{DropReason, Worker};
use director::{clock, supervisor::Supervisor};
use lab::{
    Capture, Config, Family, MachineLock, Plan, ROUTER_INSIDE, SeenFrame, Topology, Wire, vip,
    wait_until,
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use xsk::XskPort;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// New flows for each combination of tags and family.
const FLOWS: u16 = 10;

/// One way to tag.
struct Tagging {
    vlans: [u16; 2],
    /// The same in the language of tests/frames.
    text: &'static str,
}

const TAGGINGS: [Tagging; 2] = [
    Tagging { vlans: [100, 0], text: "vlan 100 / " },
    Tagging { vlans: [200, 100], text: "vlan 200 / vlan 100 / " },
];

#[test]
fn tags_stay_and_others_are_dropped() {
    let _lock = MachineLock::acquire().unwrap();
    let topology = Plan::new("vlan").ipv6().build().unwrap();
    let config = Config::of(FAMILIES.map(|family| service("tcp", family, "rr", 2)).into());
    topology
        .director
        .run(|| {
            let (mut supervisor, mut workers) = open(&config);
            let mut worker = workers.remove(0);
            let stop = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| turn(&mut worker, &stop));
                // A failed check must not leave the worker turning.
                let _stops = Stops(&stop);
                block_on(supervisor.begin()).unwrap();
                supervisor.attach().unwrap();
                for (number, tagging) in (0..).zip(&TAGGINGS) {
                    forward(&topology, &mut supervisor, tagging, 10_000 + number * 1_000);
                }
            });
        })
        .unwrap();
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn turn(worker: &mut Worker<XskPort>, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        worker.turn(clock::now());
        thread::yield_now();
    }
}

fn syn(tags: &str, family: Family, port: u16) -> Vec<u8> {
    let (ip, client, vip) = match family {
        Family::V4 => ("ip", lab::client_address(family), vip(family)),
        Family::V6 => ("ip6", lab::client_address(family), vip(family)),
    };
    frames::frame(&format!("{tags}{ip} {client} > {vip} / tcp {port} > {HTTP} S"))
}

fn forward(topology: &Topology, supervisor: &mut Supervisor, tagging: &Tagging, first: u16) {
    resolve(supervisor, &FAMILIES, 2, tagging.vlans);
    block_on(supervisor.publish()).unwrap();
    let captures = ["rs1", "rs2"].map(|port| Capture::start(&topology.switch, port).unwrap());
    let wire = Wire::open(&topology.router, ROUTER_INSIDE).unwrap();
    let send = |frame: &[u8]| {
        wire.send_to(lab::director_mac(), lab::router_mac(), frame).unwrap();
    };
    let ports = first..first + FLOWS;
    for family in FAMILIES {
        for port in ports.clone() {
            send(&syn(tagging.text, family, port));
        }
    }
    for family in FAMILIES {
        let mut went = Vec::new();
        for port in ports.clone() {
            let sent = syn(tagging.text, family, port);
            let arrived = |frame: &SeenFrame| {
                frame.outgoing
                    && frame.source() == lab::director_mac()
                    && frame.rest() == &sent[12..]
            };
            wait_until(PATIENCE, "the packet arrives with its tags", || {
                let at =
                    |number: usize| captures[number].frames().iter().filter(|f| arrived(f)).count();
                went.truncate(usize::from(port - first));
                went.push([at(0), at(1)]);
                went.last() != Some(&[0, 0])
            })
            .unwrap();
        }
        for pair in went.windows(2) {
            assert!(pair[0] != pair[1] && pair[0].iter().sum::<usize>() == 1, "{went:?}");
        }
    }
    let counters = supervisor.workers[0].handle.memory.clone();
    let other_vlan = || counters.counters().read().dropped[DropReason::OtherVlan as usize];
    let before = other_vlan();
    for tags in ["", "vlan 101 / ", "vlan 100 / vlan 100 / ", "vlan 200 / vlan 101 / "] {
        for family in FAMILIES {
            send(&syn(tags, family, first + 500));
        }
    }
    wait_until(PATIENCE, "other tags are dropped", || other_vlan() == before + 8).unwrap();
}
