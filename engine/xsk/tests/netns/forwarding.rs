//! Packets through the queues: in, rewritten in place, and out again.

use crate::counting_allocator::allocations;
use crate::frames::*;
use crate::pair::*;
use lab::{Capture, wait_until};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use xsk::{BusyPoll, Error, InterfaceOptions, Port, PortCounters};

#[test]
fn a_rewritten_packet_arrives_at_the_peer() {
    let pair = Pair::new("xsk-rewrite", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let port = &mut interface.ports[0];
    assert_eq!(port.mac(), NEAR_MAC);
    let wire = pair.wire();
    let mut reflector = Reflector::new();
    for (number, length) in [60, 61, 590, 1514].into_iter().enumerate() {
        let frame = numbered(7, number as u32, length);
        wire.send(&frame).unwrap();
        reflector.run_until(port, "the packet is back", |now, port| {
            now.sent == number as u64 + 1 && all_sent(port)
        });
        let back = wire.receive_such(PATIENCE, |seen| !seen.outgoing).unwrap().unwrap();
        assert_eq!((back.destination(), back.source()), (&FAR_MAC[..], &NEAR_MAC[..]));
        assert_eq!(back.rest(), &frame[12..]);
    }
    assert!(port.counters().wakeups >= 4, "{:?}", port.counters());
    assert_eq!(faults(&port.counters()), (0, 0));
}

#[test]
fn large_packets_get_large_frames() {
    let pair = Pair::new("xsk-large", 1);
    for (netns, name) in [(&pair.near, NEAR), (&pair.far, FAR)] {
        netns.ip(&format!("link set {name} mtu 3000")).unwrap();
    }
    let mut interface = pair.steer(&small(NEAR), &services());
    let wire = pair.wire();
    let frame = numbered(7, 1, 3014);
    wire.send(&frame).unwrap();
    Reflector::new()
        .run_until(&mut interface.ports[0], "the packet is back", |now, _| now.sent > 0);
    let back = wire.receive_such(PATIENCE, |seen| !seen.outgoing).unwrap().unwrap();
    assert_eq!(back.rest(), &frame[12..]);
}

#[test]
fn frames_are_conserved_under_a_flood_and_nothing_is_lost_silently() {
    const COUNT: u32 = 12_000;
    let pair = Pair::new("xsk-flood", 1);
    // The rings wrap dozens of times.
    let mut interface = pair.steer(&small(NEAR), &services());
    let mut port = interface.ports.remove(0);
    let wire = pair.wire();
    let capture = Capture::start(&pair.far, FAR).unwrap();
    let mut reflector = Reflector::new();
    reflector.drop_every = 7;
    let gone_out = AtomicU32::new(0);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for number in 0..COUNT {
                wire.send(&numbered(number as u16, number, 60)).unwrap();
                gone_out.store(number, Relaxed);
            }
        });
        let mut next_stall = 2000;
        reflector.run_until(&mut port, "the sender is done", |_, _| {
            // Now and then the worker is not there until more has come than its rings hold.
            if gone_out.load(Relaxed) >= next_stall {
                next_stall += 4000;
                // Not beyond the last, however late this thread looks.
                let until = (gone_out.load(Relaxed) + 600).min(COUNT - 1);
                wait_until(PATIENCE, "600 more", || gone_out.load(Relaxed) >= until).unwrap();
            }
            sender.is_finished()
        });
    });
    let statistics = || interface.monitors[0].statistics().unwrap();
    // What the queue did not get, the veth's ring (it counts) or a full ring of ours dropped.
    let counted = |received: u64| {
        let kernel = statistics();
        received + kernel.rx_dropped + kernel.rx_ring_full
    };
    reflector.run_until(&mut port, "every packet is accounted for", |now, port| {
        all_sent(port) && counted(now.received) >= interface.steer.counts().unwrap().redirected
    });
    let redirected = interface.steer.counts().unwrap().redirected;
    assert_eq!(counted(reflector.received), redirected, "{:?}", statistics());
    assert!(reflector.received < redirected, "the stalls were not felt");
    assert_eq!(reflector.received, reflector.sent + reflector.dropped);
    assert!(reflector.dropped >= reflector.received / 7);
    let census = port.census();
    assert_eq!(census.free + census.fill, census.total, "{census:?}");
    // The far end sees each sent packet once.
    let returned = |frames: Vec<lab::SeenFrame>| -> Vec<u32> {
        frames.iter().filter(|seen| !seen.outgoing).map(|seen| number(&seen.bytes)).collect()
    };
    let numbers = returned(capture.finish());
    assert_eq!(numbers.len() as u64, reflector.sent);
    assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), numbers.len(), "one came twice");
}

#[test]
fn every_queue_serves_its_share() {
    const COUNT: u32 = 4000;
    let pair = Pair::new("xsk-queues", 2);
    let mut interface = pair.steer(&small(NEAR), &services());
    assert_eq!(interface.ports.len(), 2);
    assert!(interface.ports.iter().zip([0, 1]).all(|(port, queue)| port.queue() == queue));
    let wire = pair.wire();
    let steer = &interface.steer;
    // What each queue got, the packets that its full rings dropped included.
    let got = [const { AtomicU64::new(0) }; 2];
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for ((port, monitor), got) in interface.ports.iter_mut().zip(&interface.monitors).zip(&got)
        {
            let stop = &stop;
            scope.spawn(move || {
                let mut reflector = Reflector::new();
                reflector.run_until(port, "the end", |now, _| {
                    let kernel = monitor.statistics().unwrap();
                    let dropped = kernel.rx_dropped + kernel.rx_ring_full;
                    got.store(now.received + dropped, Relaxed);
                    stop.load(Relaxed)
                });
            });
        }
        for number in 0..COUNT {
            // The sender's kernel spreads flows over its transmit queues, which a veth keeps.
            wire.send(&numbered(number as u16, number, 60)).unwrap();
        }
        let all = wait_until(PATIENCE, "each packet was got", || {
            let sum: u64 = got.iter().map(|got| got.load(Relaxed)).sum();
            sum == steer.counts().unwrap().redirected && sum > u64::from(COUNT) / 2
        });
        stop.store(true, Relaxed);
        all.unwrap();
    });
    let shares = got.map(AtomicU64::into_inner);
    assert_eq!(shares.iter().sum::<u64>(), interface.steer.counts().unwrap().redirected);
    assert!(shares.iter().all(|&share| share > u64::from(COUNT) * 3 / 10), "{shares:?}");
}

#[test]
fn a_wait_ends_with_a_packet_a_call_or_the_time() {
    let pair = Pair::new("xsk-wait", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let monitor = interface.monitors[0].clone();
    let port = &mut interface.ports[0];
    let wire = pair.wire();
    let timed = |port: &mut xsk::XskPort, timeout: Duration| {
        let start = Instant::now();
        port.wait(timeout);
        start.elapsed()
    };
    // The time: and not before it, rounded up to milliseconds.
    for timeout in [Duration::from_micros(300), Duration::from_millis(30)] {
        assert!(timed(port, timeout) >= timeout);
    }
    // A call from another thread.
    let waker = monitor.waker();
    let woken = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            waker.wake();
        });
        timed(port, PATIENCE)
    });
    assert!(woken < PATIENCE / 2, "{woken:?}");
    // Calls while nobody waits: the next wait hears all of them, once.
    monitor.waker().wake();
    waker.wake();
    assert!(timed(port, PATIENCE) < PATIENCE / 2);
    assert!(timed(port, Duration::from_millis(10)) >= Duration::from_millis(10));
    // A packet.
    let arrived = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            wire.send(&numbered(1, 1, 60)).unwrap();
        });
        timed(port, PATIENCE)
    });
    assert!(arrived < PATIENCE / 2, "{arrived:?}");
    assert!(receive_one(port).is_some());
}

#[test]
fn the_kernels_counters_show_a_worker_that_sleeps() {
    let pair = Pair::new("xsk-stats", 1);
    let options = InterfaceOptions { frames: 64, ring_size: 64, ..InterfaceOptions::new(NEAR) };
    let mut interface = pair.steer(&options, &services());
    let wire = pair.wire();
    for number in 0..100 {
        wire.send(&numbered(1, number, 60)).unwrap();
    }
    let steer = &interface.steer;
    wait_until(PATIENCE, "all are seen", || steer.counts().unwrap().redirected == 100).unwrap();
    let monitor = interface.monitors[0].clone();
    let statistics = monitor.statistics().unwrap();
    let census = interface.ports[0].census();
    assert_eq!((census.rx, census.fill, census.is_conserved()), (64, 0, true), "{census:?}");
    assert!(statistics.rx_fill_ring_empty_descs > 0, "{statistics:?}");
    assert_eq!(statistics.rx_dropped, 36, "{statistics:?}");
    assert_eq!((monitor.queue(), monitor.mode().name()), (0, "copy"));
    // Its turn has come: the first 64 are there, and the port itself saw an empty fill ring.
    let mut reflector = Reflector::new();
    reflector.run_until(&mut interface.ports[0], "the first 64", |now, _| now.received == 64);
    assert!(interface.ports[0].counters().fill_ring_empty > 0);
    drop(interface);
    assert!(matches!(monitor.statistics(), Err(Error::Closed { queue: 0 })));
}

#[test]
fn a_turn_allocates_nothing() {
    let pair = Pair::new("xsk-alloc", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let port = &mut interface.ports[0];
    let wire = pair.wire();
    let mut reflector = Reflector::new();
    reflector.drop_every = 3;
    let mut count = 0;
    for number in 0..300 {
        wire.send(&numbered(1, number, 60)).unwrap();
        if number % 20 == 19 {
            let before = allocations();
            let until = Instant::now() + PATIENCE;
            while reflector.received <= u64::from(number) && Instant::now() < until {
                reflector.turn(port);
                port.wait(Duration::from_millis(1));
            }
            count += allocations() - before;
        }
    }
    assert_eq!((reflector.received, count), (300, 0));
}

#[test]
fn busy_polling_serves_packets_and_puts_the_interrupts_back() {
    let pair = Pair::new("xsk-busy", 1);
    let busy_poll = BusyPoll::default();
    let options = InterfaceOptions { busy_poll: Some(busy_poll), ..small(NEAR) };
    let wire = pair.wire();
    let inside = || {
        // As `ip netns exec` does: /sys shows the interfaces of the namespace it is mounted in.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).unwrap();
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).unwrap();
        let setting = |name: &str| {
            std::fs::read_to_string(format!("/sys/class/net/{NEAR}/{name}"))
                .unwrap()
                .trim()
                .to_owned()
        };
        let settings = || [setting("napi_defer_hard_irqs"), setting("gro_flush_timeout")];
        let before = settings();
        let mut interface = xsk::open(&options).unwrap();
        assert_eq!(settings(), ["2", "200000"]);
        interface.steer.set_services(&services()).unwrap();
        interface.steer.attach().unwrap();
        let mut reflector = Reflector::new();
        for number in 0..200 {
            wire.send(&numbered(1, number, 60)).unwrap();
        }
        let port = &mut interface.ports[0];
        reflector.run_until(port, "all are back", |now, port| now.sent == 200 && all_sent(port));
        drop(interface);
        assert_eq!(settings(), before);
    };
    pair.near.run(inside).unwrap();
}

#[test]
fn another_namespaces_interrupts_are_left_alone() {
    let pair = Pair::new("xsk-sysfs", 1);
    let options = InterfaceOptions { busy_poll: Some(BusyPoll::default()), ..small(NEAR) };
    // In the network namespace, with the host's /sys.
    let error = pair.try_open(&options).unwrap_err();
    assert!(matches!(error, Error::System { .. }), "{error}");
}

#[test]
fn a_port_whose_link_is_down_keeps_its_frames() {
    let pair = Pair::new("xsk-down", 1);
    let mut interface = pair.steer(&small(NEAR), &services());
    let wire = pair.wire();
    for number in 0..100 {
        wire.send(&numbered(1, number, 60)).unwrap();
    }
    let steer = &interface.steer;
    wait_until(PATIENCE, "all are seen", || steer.counts().unwrap().redirected == 100).unwrap();
    pair.near.ip(&format!("link set {NEAR} down")).unwrap();
    let port = &mut interface.ports[0];
    let mut reflector = Reflector::new();
    while reflector.turn(port) > 0 {}
    assert_eq!(reflector.received, 100);
    let unsent = port.census().tx;
    assert_eq!(unsent, 100, "{:?}", port.census());
    pair.near.ip(&format!("link set {NEAR} up")).unwrap();
    reflector.run_until(port, "what was left is sent", |_, port| all_sent(port));
    assert_ne!(port.counters(), PortCounters::default());
}
