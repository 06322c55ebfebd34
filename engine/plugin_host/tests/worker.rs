//! What a worker relies on: other threads, no allocation, latencies, what the plugin is told.

mod common;

use allocation_counter::{AllocationInfo, measure};
use common::*;
use dataplane::Load;
use nix::sys::resource::{UsageWho, getrusage};
use plugin_host::{Params, Placement, STOCK};
use std::net::Ipv6Addr;
use std::thread;

fn allocations(AllocationInfo { count_total, .. }: AllocationInfo) -> u64 {
    count_total
}

#[test]
fn a_worker_that_calls_allocates_nothing() {
    let flow_reader = schedule("(i32.const 0)");
    let flow_reader_table = words(64, &[1, 1, 1024, 4096, 40960, 128]);
    let every_wish = module(&[MEMORY, &flow_reader_table, ABI_VERSION, INIT, SCHEDULE]);
    let host = host();
    let mut plugins: Vec<_> = STOCK.iter().map(|name| host.stock(name).unwrap()).collect();
    plugins.push(host.load("plain", &flow_reader).unwrap());
    plugins.push(host.load("greedy", &every_wish).unwrap());
    let many = candidates(&[3; 1024]);
    let few = candidates(&[1, 2, 0, 4]);
    for plugin in plugins {
        let (mut scheduler, latency) = plugin.scheduler(ALONE, &Params::new()).unwrap();
        let worker = thread::spawn({
            let (many, few) = (many.clone(), few.clone());
            move || {
                plugin_host::prepare_worker_thread();
                let info = measure(|| {
                    for servers in [&many, &few, &many] {
                        scheduler.servers_changed(servers, 0).unwrap();
                        for turn in 0..200 {
                            scheduler.load_changed(turn % 4, Load { active: 1, inactive: 2 });
                            scheduler.choose(&FLOW, 0).unwrap();
                        }
                    }
                });
                // Instances are freed on the control thread.
                (info, scheduler)
            }
        });
        let (info, _scheduler) = worker.join().unwrap();
        assert_eq!(allocations(info), 0, "{}", plugin.name());
        assert_eq!(latency.read().count(), 600u64.div_ceil(64));
    }
}

/// The measurement itself: a trap does allocate.
#[test]
fn a_trap_allocates_and_frees_it_at_once() {
    let mut scheduler = scheduler(&schedule("(unreachable)"));
    let info = measure(|| {
        scheduler.choose(&FLOW, 0).unwrap_err();
    });
    assert_ne!(allocations(info), 0);
    assert_eq!(info.count_current, 0);
}

#[test]
fn instances_work_on_other_threads_than_their_makers() {
    let plugin = host().stock("rr").unwrap();
    let workers: Vec<_> = (0..2)
        .map(|worker| {
            let prepared = plugin
                .scheduler(Placement { worker, workers: 2, seed: 7 }, &Params::new())
                .unwrap();
            thread::spawn(move || {
                plugin_host::prepare_worker_thread();
                let mut scheduler = prepared.0;
                scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
                (0..1000).map(|_| scheduler.choose(&FLOW, 0).unwrap()).collect::<Vec<_>>()
            })
        })
        .collect();
    for (worker, choices) in workers.into_iter().enumerate() {
        let expected: Vec<_> = (0..1000).map(|call| (worker + call) % 2).collect();
        assert_eq!(choices.join().unwrap(), expected);
    }
}

/// A plugin that traps, loops and recurses on one thread leaves another thread's calls alone.
#[test]
fn failing_calls_on_one_thread_do_not_disturb_another() {
    let bad = ["(unreachable)", "(loop (br 0)) (unreachable)", "(i32.load (i32.const -4))"];
    let failing = thread::spawn(move || {
        for body in bad {
            let mut scheduler = scheduler(&schedule(body));
            for _ in 0..100 {
                scheduler.choose(&FLOW, 0).unwrap_err();
            }
        }
    });
    let mut rr = host().stock("rr").unwrap().scheduler(ALONE, &Params::new()).unwrap().0;
    rr.servers_changed(&candidates(&[1, 1, 1]), 0).unwrap();
    let mut call = 0;
    while !failing.is_finished() || call < 1000 {
        assert_eq!(rr.choose(&FLOW, 0), Ok(call % 3));
        call += 1;
    }
    failing.join().unwrap();
}

/// A page fault costs more than a hundred calls.
#[test]
fn the_first_calls_find_their_memory_in_place() {
    let faults = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults();
    plugin_host::prepare_worker_thread();
    let servers = candidates(&[1; 64]);
    for &name in STOCK {
        let plugin = host().stock(name).unwrap();
        let mut faults: Vec<_> = (0..15)
            .map(|_| {
                let (mut scheduler, _) = plugin.scheduler(ALONE, &Params::new()).unwrap();
                let before = faults();
                scheduler.servers_changed(&servers, 0).unwrap();
                scheduler.choose(&FLOW, 0).unwrap();
                faults() - before
            })
            .collect();
        faults.sort_unstable();
        assert_eq!(faults[7], 0, "{name}: {faults:?}");
    }
}

#[test]
fn instances_are_independent_of_each_other() {
    let plugin = host().stock("rr").unwrap();
    let mut one = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    let mut other = plugin.scheduler(ALONE, &Params::new()).unwrap().0;
    one.servers_changed(&candidates(&[1, 1, 1]), 0).unwrap();
    other.servers_changed(&candidates(&[1, 0, 1]), 0).unwrap();
    assert_eq!([one.choose(&FLOW, 0), one.choose(&FLOW, 0)], [Ok(0), Ok(1)]);
    assert_eq!([other.choose(&FLOW, 0), other.choose(&FLOW, 0)], [Ok(0), Ok(2)]);
    assert_eq!(one.choose(&FLOW, 0), Ok(2));
}

/// A scheduler whose answer is a byte, halfword or word of its memory, or of what `shunt_init`
/// was given, which it keeps at 0, 8 and 16. Its table is at 64, its load keys at 40960, its flow
/// at 128.
fn reader(load: &str) -> Vec<u8> {
    let init = r#"(func (export "shunt_init") (param i32 i32 i64) (result i32)
        (i32.store (i32.const 0) (local.get 0))
        (i32.store (i32.const 8) (local.get 1))
        (i64.store (i32.const 16) (local.get 2))
        (i32.const 64))"#;
    let table = words(64, &[1, 1, 1024, 4096, 40960, 128]);
    let schedule = format!(r#"(func (export "shunt_schedule") (result i32) ({load}))"#);
    module(&[MEMORY, &table, ABI_VERSION, init, &schedule])
}

#[test]
fn a_plugin_finds_everything_where_the_contract_says() {
    let host = host();
    let placement = Placement { worker: 3, workers: 5, seed: 0x0102_0304_0506_0708 };
    let mut servers = candidates(&[7, 0, 9]);
    servers[2].address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x42).into();
    let cases = [
        // shunt_init
        ("i32.load (i32.const 0)", 3),
        ("i32.load (i32.const 8)", 5),
        ("i32.load8_u (i32.const 16)", 8),
        ("i32.load8_u (i32.const 23)", 1),
        // the table
        ("i32.load (i32.const 88)", 3),
        ("i32.load (i32.const 92)", 2),
        ("i32.load (i32.const 96)", 3),
        ("i32.load (i32.const 100)", 5),
        // the servers: 10.0.0.0 as ::ffff:10.0.0.0, 2001:db8::42
        ("i32.load (i32.const 4096)", 7),
        ("i32.load (i32.const 4100)", 11),
        ("i32.load (i32.const 4104)", 13),
        ("i32.load8_u (i32.const 4122)", 255),
        ("i32.load8_u (i32.const 4124)", 10),
        ("i32.load (i32.const 4128)", 0),
        ("i32.load (i32.const 4160)", 9),
        ("i32.load8_u (i32.const 4176)", 0x20),
        ("i32.load8_u (i32.const 4191)", 0x42),
        // the load keys
        ("i32.trunc_f64_u (f64.load (i32.const 40960))", (11 * 256 + 13) * 1024),
        ("f64.eq (f64.load (i32.const 40968)) (f64.const inf)", 1),
        ("i32.trunc_f64_u (f64.load (i32.const 40976))", 2),
        ("f64.eq (f64.load (i32.const 40984)) (f64.const inf)", 1),
        ("f64.eq (f64.load (i32.const 49144)) (f64.const inf)", 1),
        // the flow: 192.168.100.11 port 40000 to 172.17.100.100 port 80
        ("i32.load8_u (i32.const 140)", 192),
        ("i32.load8_u (i32.const 143)", 11),
        ("i32.load8_u (i32.const 154)", 255),
        ("i32.load8_u (i32.const 159)", 100),
        ("i32.load16_u (i32.const 160)", 40_000),
        ("i32.load16_u (i32.const 162)", 80),
        ("i32.load (i32.const 164)", 6),
    ];
    for (load, expected) in cases {
        // Answered as 0 or 1, since only slots below `count` are let through.
        let check = format!("i32.ne ({load}) (i32.const {expected})");
        let plugin = host.load("reader", &reader(&check)).unwrap();
        let (mut scheduler, _) = plugin.scheduler(placement, &Params::new()).unwrap();
        assert!(scheduler.wants_load());
        scheduler.servers_changed(&candidates(&[1; 4]), 0).unwrap();
        scheduler.servers_changed(&servers, 0).unwrap();
        scheduler.load_changed(0, Load { active: 11, inactive: 13 });
        assert_eq!(scheduler.choose(&FLOW, 0), Ok(0), "{load} is not {expected}");
    }
}

#[test]
fn without_wishes_nothing_is_written_for_them() {
    let table = words(64, &[1, 0, 1024, 4096]);
    let schedule = r#"(func (export "shunt_schedule") (result i32)
        (i32.or (i32.load (i32.const 4100)) (i32.load (i32.const 0))))"#;
    let mut scheduler = scheduler(&module(&[MEMORY, &table, ABI_VERSION, INIT, schedule]));
    assert!(!scheduler.wants_load());
    scheduler.servers_changed(&candidates(&[1]), 0).unwrap();
    scheduler.load_changed(0, Load { active: 11, inactive: 13 });
    assert_eq!(scheduler.choose(&FLOW, 0), Ok(0));
}
