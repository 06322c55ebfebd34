//! What the XDP program takes, and how it comes and goes.

use crate::frames::*;
use crate::pair::*;
use crate::table::{Case, cases};
use lab::{Wire, wait_until};
use std::io::Read;
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use xsk::{AttachMode, Error, Interface, InterfaceOptions, PassKind, Port, SteerCounts, SteerKey};

/// Sends one frame and checks that it is counted once, as it should be, and comes where it should.
fn check(case: &Case, from: &Wire, interface: &mut Interface, kernel: &Wire) {
    let before = interface.steer.counts().unwrap();
    from.send(&case.frame).unwrap();
    wait_until(PATIENCE, case.name, || total(&interface.steer.counts().unwrap()) > total(&before))
        .unwrap();
    let mut expected = before;
    match case.kind {
        Some(kind) => expected.passed[kind as usize] += 1,
        None => expected.redirected += 1,
    }
    assert_eq!(interface.steer.counts().unwrap(), expected, "{}", case.name);
    let port = &mut interface.ports[0];
    let taken = receive_one(port);
    if case.kind.is_none() {
        assert_eq!(taken.as_ref(), Some(&case.frame), "{}", case.name);
        return;
    }
    assert_eq!(taken, None, "{}", case.name);
    if case.seen {
        let passed = kernel.receive_such(PATIENCE, |seen| !seen.outgoing).unwrap();
        let passed = passed.unwrap_or_else(|| panic!("{}: not passed", case.name));
        // The kernel has taken an outer VLAN tag off by then.
        assert!(passed.bytes.ends_with(case.frame.get(18..).unwrap_or_default()), "{}", case.name);
    }
}

#[test]
fn each_packet_is_taken_or_left_by_its_kind() {
    let pair = Pair::new("xsk-kinds", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let (wire, kernel) = (pair.wire(), Wire::open(&pair.near, NEAR).unwrap());
    let cases = cases();
    for case in &cases {
        check(case, &wire, &mut interface, &kernel);
    }
    for kind in PassKind::ALL.into_iter().filter(|&kind| kind != PassKind::NoSocket) {
        assert!(cases.iter().any(|case| case.kind == Some(kind)), "no case for {}", kind.name());
    }
}

#[test]
fn a_queue_without_a_socket_passes() {
    let pair = Pair::new("xsk-nosock", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    // A closed socket leaves the XSKMAP by itself.
    interface.ports.clear();
    let wire = pair.wire();
    wait_until(PATIENCE, "the queue has no socket", || {
        wire.send(&numbered(1, 1, 60)).unwrap();
        interface.steer.counts().unwrap().passed(PassKind::NoSocket) > 0
    })
    .unwrap();
}

#[test]
fn a_worker_that_cannot_keep_up_is_given_no_more() {
    let pair = Pair::new("xsk-shed", 1);
    let options = InterfaceOptions { frames: 2048, ring_size: 1024, ..InterfaceOptions::new(NEAR) };
    let mut interface = pair.steer(&options, &services());
    let wire = pair.wire();
    let (steer, mut port) = (&interface.steer, interface.ports.remove(0));
    let send_until = |counted: &str, wanted: &dyn Fn(SteerCounts) -> bool| {
        wait_until(PATIENCE, counted, || {
            wire.send(&numbered(1, 1, 60)).unwrap();
            wanted(steer.counts().unwrap())
        })
        .unwrap();
        steer.counts().unwrap()
    };
    // The ring is full before the worker comes: not the program's business.
    let counts = send_until("a full ring", &|counts| counts.redirected > 1100);
    assert_eq!(counts.shed, 0);
    let mut reflector = Reflector::new();
    reflector.turn(&mut port);
    let shed = send_until("more is dropped", &|counts| counts.shed > 10);
    assert!(shed.redirected <= counts.redirected + 1, "one may have been on its way");
    reflector.run_until(&mut port, "most is done", |now, _| now.received > 500);
    let taken = send_until("packets are taken again", &|now| now.redirected > shed.redirected + 10);
    assert!(taken.shed <= shed.shed + 1, "{taken:?}");
    // Nor does a worker that ends in this state leave it behind.
    send_until("a full ring", &|counts| counts.redirected > taken.redirected + 1100);
    reflector.turn(&mut port);
    send_until("more is dropped", &|counts| counts.shed > taken.shed + 10);
    drop(port);
    send_until("the kernel has them", &|counts| counts.passed(PassKind::NoSocket) > 0);
}

#[test]
fn services_come_and_go_while_packets_flow() {
    let pair = Pair::new("xsk-change", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let (mut steer, mut port) = (interface.steer, interface.ports.remove(0));
    let wire = pair.wire();
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0u64;
            while !stop.load(Relaxed) {
                wire.send(&numbered(sent as u16, sent as u32, 60)).unwrap();
                sent += 1;
            }
            sent
        });
        // Always with the first service, each time with other ones beside it.
        for round in 0..300u16 {
            let mut wanted = vec![services()[0]];
            wanted.extend((0..20).map(|n| {
                let address = IpAddr::from([172, 17, (round % 3) as u8, n]);
                SteerKey { address, port: 1000 + round + u16::from(n), protocol: UDP }
            }));
            steer.set_services(&wanted).unwrap();
        }
        stop.store(true, Relaxed);
        sender.join().unwrap()
    });
    wait_until(PATIENCE, "all packets are seen", || total(&steer.counts().unwrap()) >= sent)
        .unwrap();
    let counts = steer.counts().unwrap();
    assert_eq!((counts.redirected, total(&counts)), (sent, sent), "{counts:?}");
    Reflector::new().turn(&mut port);
}

#[test]
fn a_service_that_is_gone_is_left_to_the_kernel() {
    let pair = Pair::new("xsk-gone", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let (wire, kernel) = (pair.wire(), Wire::open(&pair.near, NEAR).unwrap());
    let web = |kind| Case { name: "web", frame: numbered(1, 1, 60), kind, seen: true };
    check(&web(None), &wire, &mut interface, &kernel);
    let dns = SteerKey { address: VIP4.into(), port: 53, protocol: UDP };
    interface.steer.set_services(&[dns]).unwrap();
    check(&web(Some(PassKind::OtherPort)), &wire, &mut interface, &kernel);
    interface.steer.set_services(&[]).unwrap();
    check(&web(Some(PassKind::OtherAddress)), &wire, &mut interface, &kernel);
    interface.steer.set_services(&services()).unwrap();
    check(&web(None), &wire, &mut interface, &kernel);
}

#[test]
fn a_set_that_cannot_be_steered_changes_nothing() {
    let pair = Pair::new("xsk-badset", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let (wire, kernel) = (pair.wire(), Wire::open(&pair.near, NEAR).unwrap());
    let gre = SteerKey { address: VIP4.into(), port: 0, protocol: 47 };
    let error = interface.steer.set_services(&[gre]).unwrap_err();
    assert!(matches!(error, Error::Protocol { protocol: 47 }), "{error}");
    let too_many: Vec<SteerKey> =
        (0..=65535).map(|port| SteerKey { address: CLIENT4.into(), port, protocol: TCP }).collect();
    let error = interface.steer.set_services(&too_many).unwrap_err();
    assert!(matches!(error, Error::TooManyServices { capacity: 65536, .. }), "{error}");
    let web = Case { name: "web", frame: numbered(1, 1, 60), kind: None, seen: true };
    check(&web, &wire, &mut interface, &kernel);
    let other = V4::new(CLIENT4, TCP, transport(TCP, 80)).bytes();
    let kind = Some(PassKind::OtherAddress);
    let other = Case { name: "rolled back", frame: frame(IPV4, &other), kind, seen: true };
    check(&other, &wire, &mut interface, &kernel);
    // Exactly as many as there is room for, the VIP's own entry included.
    interface.steer.set_services(&[]).unwrap();
    interface.steer.set_services(&too_many[..65535]).unwrap();
}

#[test]
fn the_program_is_there_from_attach_to_drop_and_is_a_link() {
    let pair = Pair::new("xsk-attach", 1);
    let mut interface = pair.open();
    assert_eq!(pair.attached(), None);
    pair.attach(&mut interface);
    let shown = pair.attached().unwrap();
    assert!(shown.contains("\"mode\":1"), "not native: {shown}");
    // fdinfo of a bpf_link: bpf_link_show_fdinfo in kernel/bpf/syscall.c.
    let links = std::fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .filter_map(|entry| std::fs::read_to_string(entry.unwrap().path()).ok())
        .filter(|info| info.contains("link_type:\txdp"))
        .count();
    assert_eq!(links, 1);
    interface.steer.detach();
    assert_eq!(pair.attached(), None);
    pair.attach(&mut interface);
    drop(interface);
    assert_eq!(pair.attached(), None);
}

#[test]
fn where_the_driver_refuses_the_network_stack_takes_over() {
    let pair = Pair::new("xsk-generic", 1);
    // veth refuses a native program when its peer may send what does not fit a page.
    pair.far.ip(&format!("link set {FAR} mtu 9000")).unwrap();
    let mut interface = pair.open();
    interface.steer.set_services(&services()).unwrap();
    let mode = pair.near.run(|| interface.steer.attach()).unwrap().unwrap();
    assert_eq!(mode, AttachMode::Generic);
    assert!(interface.steer.native_refusal().is_some());
    assert!(pair.attached().unwrap().contains("\"mode\":2"));
    let (wire, kernel) = (pair.wire(), Wire::open(&pair.near, NEAR).unwrap());
    for case in cases() {
        check(&case, &wire, &mut interface, &kernel);
    }
}

#[test]
fn a_program_that_is_attached_already_is_named() {
    let pair = Pair::new("xsk-second", 1);
    let mut first = pair.open();
    pair.attach(&mut first);
    // Its queues are free again, its program is still there.
    first.ports.clear();
    let mut second = pair.open();
    let error = pair.near.run(|| second.steer.attach()).unwrap().unwrap_err();
    assert!(matches!(error, Error::ProgramBusy { .. }), "{error}");
    assert!(error.to_string().contains(NEAR), "{error}");
    drop(first);
    pair.attach(&mut second);
}

#[test]
fn an_interface_that_is_not_the_one_that_was_opened_is_left_alone() {
    let pair = Pair::new("xsk-other", 1);
    let mut interface = pair.open();
    // Outside of the namespace there is none of this name.
    let error = interface.steer.attach().unwrap_err();
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    // Made anew, it has another index.
    pair.near.ip(&format!("link del {NEAR}")).unwrap();
    pair.near.ip(&format!("link add {NEAR} type veth peer name other0")).unwrap();
    let error = pair.near.run(|| interface.steer.attach()).unwrap().unwrap_err();
    assert!(matches!(error, Error::NoInterface { .. }), "{error}");
    assert_eq!(pair.attached(), None);
}

/// Set in the process that is to be killed.
const VICTIM: &str = "XSK_TEST_VICTIM";

#[test]
fn the_program_goes_with_its_process_however_it_ends() {
    if std::env::var_os(VICTIM).is_some() {
        let mut interface = xsk::open(&small(NEAR)).unwrap();
        interface.steer.set_services(&services()).unwrap();
        interface.steer.attach().unwrap();
        println!("attached");
        loop {
            interface.ports[0].wait(Duration::from_secs(3600));
        }
    }
    let pair = Pair::new("xsk-killed", 1);
    let name = "steering::the_program_goes_with_its_process_however_it_ends";
    let mut victim = pair
        .near
        .command(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = victim.stdout.take().unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"attached\n") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    assert!(pair.attached().is_some());
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until(PATIENCE, "the program is detached", || pair.attached().is_none()).unwrap();
    // And the queue can be had again.
    let mut interface = pair.open();
    pair.attach(&mut interface);
}
