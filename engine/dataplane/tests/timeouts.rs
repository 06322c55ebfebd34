//! The end of flows: by look-up, by the sweep, and by settings at the edge of what makes sense.

use dataplane::{Capacity, DropReason, FlowState, Settings, Timeouts};
use frames::{Director, Plan, Verdict, client_of, tcp_of, tcp6_of, udp_of};

/// The longest that a flow may outlive its timeout for a look-up: two ticks of 128 ms.
const LATE_LOOK_UP: u64 = 256;
/// And for the sweep, which comes by every 16 s.
const LATE_SWEEP: u64 = 16_000 + LATE_LOOK_UP;

/// The packets that bring flow `number` into each state, and its timeout in milliseconds.
fn lives(number: u32) -> Vec<(FlowState, Vec<Vec<u8>>, u64)> {
    let tcp = |letters: &[&str]| letters.iter().map(|l| tcp_of(number, l)).collect::<Vec<_>>();
    vec![
        (FlowState::SynRecv, tcp(&["S"]), 60_000),
        (FlowState::Established, tcp(&["S", "A"]), 900_000),
        (FlowState::FinWait, tcp(&["S", "A", "FA"]), 120_000),
        (FlowState::TimeWait, tcp(&["S", "F"]), 120_000),
        (FlowState::Close, tcp(&["S", "A", "R"]), 10_000),
        (FlowState::Udp, vec![udp_of(number)], 300_000),
    ]
}

fn state_of(director: &Director, number: u32, state: FlowState) -> Option<FlowState> {
    let (client, port) = client_of(number, false);
    Some(director.flow(0, client, port, state.protocol())?.state)
}

/// The packets may come anywhere within a tick.
const OFFSETS: [u64; 4] = [0, 1, 64, 127];

#[test]
fn a_look_up_finds_a_flow_up_to_its_timeout_and_not_after() {
    for offset in OFFSETS {
        for (state, packets, timeout) in lives(1) {
            for (wait, lives) in [(timeout, true), (timeout + LATE_LOOK_UP, false)] {
                let mut director = Director::new(Plan::standard());
                director.now += offset;
                for packet in &packets {
                    director.send(0, packet);
                }
                assert_eq!(state_of(&director, 1, state), Some(state));
                // No turn comes in between, so no sweep either.
                director.now += wait;
                let expired = director.counts(0).flows_expired;
                let created = director.counts(0).flows_created;
                director.send(0, packets.last().unwrap());
                let counts = director.counts(0);
                assert_eq!(counts.flows_expired - expired, u64::from(!lives), "{state:?} {wait}");
                let begins_anew = !lives && packets.len() == 1;
                assert_eq!(counts.flows_created - created, u64::from(begins_anew));
            }
        }
    }
}

#[test]
fn the_sweep_ends_what_no_packet_asks_for() {
    for offset in OFFSETS {
        for (state, packets, timeout) in lives(1) {
            let mut director = Director::new(Plan::standard());
            director.now += offset;
            for packet in &packets {
                director.send(0, packet);
            }
            director.pass_long(timeout);
            assert_eq!(state_of(&director, 1, state), Some(state), "not before {timeout}");
            director.pass_long(LATE_SWEEP);
            assert_eq!(state_of(&director, 1, state), None, "not after {timeout}");
            assert_eq!(director.counts(0).flows_expired, 1);
            director.check(0);
        }
    }
}

#[test]
fn the_sweep_sees_the_whole_table_while_packets_come() {
    let capacity = Capacity { flows_v4: 20_000, flows_v6: 20_000 };
    let mut director = Director::with(Plan::standard(), 1, capacity);
    director.feed(0, (0..10_000).map(|number| tcp_of(number, "S")));
    director.feed(0, (0..10_000).map(|number| tcp6_of(number, "S")));
    // 60 s later every turn has a packet, of another flow, and there are 50 turns a second.
    director.now += 60_000;
    for _ in 0..LATE_SWEEP / 20 {
        director.now += 20;
        director.workers[0].port_mut().inject(&udp_of(7));
        director.workers[0].turn(director.now);
        director.workers[0].port_mut().sent();
    }
    assert_eq!(director.counts(0).flows_expired, 20_000);
    assert_eq!(director.flows(0).len(), 1);
}

#[test]
fn packets_keep_a_flow_alive() {
    let mut director = Director::new(Plan::standard());
    director.send(0, &tcp_of(1, "S"));
    let first = director.send(0, &tcp_of(1, "A"));
    for _ in 0..50 {
        director.pass_long(899_000);
        assert_eq!(director.send(0, &tcp_of(1, "A")), first);
    }
    assert_eq!(director.counts(0).flows_created, 1);
}

#[test]
fn new_timeouts_hold_for_old_flows_at_once() {
    let mut director = Director::new(Plan::standard());
    director.send(0, &tcp_of(1, "S"));
    director.send(0, &tcp_of(1, "A"));
    director.now += 30_000;
    let timeouts = Timeouts { established: 20, ..Timeouts::default() };
    director.set(Settings { timeouts, ..Settings::default() });
    let unknown = Verdict::Dropped(DropReason::UnknownFlow);
    assert_eq!(director.send(0, &tcp_of(1, "A")), unknown);
}

#[test]
fn a_timeout_of_nothing_lasts_a_moment_and_one_of_everything_for_ever() {
    for (seconds, waits, survives) in [(0, 1_000, false), (u32::MAX, 86_400_000 * 365 * 5, true)] {
        let timeouts = Timeouts {
            established: seconds,
            fin_wait: seconds,
            udp: seconds,
            syn_recv: seconds,
            time_wait: seconds,
            close: seconds,
        };
        for (state, packets, _) in lives(1) {
            let mut director = Director::new(Plan::standard());
            director.set(Settings { timeouts, ..Settings::default() });
            for packet in &packets {
                director.send(0, packet);
            }
            director.now += waits;
            director.send(0, packets.last().unwrap());
            let expired = director.counts(0).flows_expired;
            assert_eq!(expired == 0, survives, "{state:?} after {waits} ms of {seconds} s");
        }
    }
}

#[test]
fn a_clock_that_goes_back_ends_nothing() {
    let mut director = Director::new(Plan::standard());
    director.send(0, &tcp_of(1, "S"));
    let server = director.send(0, &tcp_of(1, "A"));
    director.now -= 500_000;
    director.turn_all();
    assert_eq!(director.send(0, &tcp_of(1, "A")), server);
    director.now += 500_000;
    director.turn_all();
    assert_eq!(director.send(0, &tcp_of(1, "A")), server);
    assert_eq!(director.counts(0).flows_expired, 0);
}

#[test]
fn a_clock_beyond_the_range_of_ticks_goes_on() {
    let mut director = Director::new(Plan::standard());
    // 128 ms short of 2^32 ticks.
    director.now = (1 << 39) - 128;
    director.send(0, &tcp_of(1, "S"));
    let server = director.send(0, &tcp_of(1, "A"));
    director.now += 1_000;
    assert_eq!(director.send(0, &tcp_of(1, "A")), server);
    director.now += 900_000 + LATE_LOOK_UP;
    assert_eq!(director.send(0, &tcp_of(1, "A")), Verdict::Dropped(DropReason::UnknownFlow));
}

#[test]
fn idle_seconds_are_shown() {
    let mut director = Director::new(Plan::standard());
    director.send(0, &tcp_of(1, "S"));
    director.now += 42_900;
    let (client, port) = client_of(1, false);
    let flow = director.flow(0, client, port, dataplane::Protocol::Tcp).unwrap();
    assert!((42..=43).contains(&flow.idle), "{}", flow.idle);
}
