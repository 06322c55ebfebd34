//! The examples in other languages, as they are committed: plugins/examples.

mod common;

use common::*;
use dataplane::{Candidate, Failure, Load, NewFlow, Scheduler};
use plugin_host::{Error, Limits, Params, Placement, Plugin, PluginHost};
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

const EXAMPLES: [&str; 3] = ["c/affinity.wasm", "wat/random.wat", "assemblyscript/slow_start.wasm"];
const SECOND: u64 = 1000;

fn file(path: &str) -> Vec<u8> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = crate_folder.join("../../plugins/examples").join(path);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn example(path: &str) -> Plugin {
    host().load("example", &file(path)).unwrap()
}

fn params(pairs: &[(&str, &str)]) -> Params {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// An instance with these parameters that knows these servers.
fn start(plugin: &Plugin, pairs: &[(&str, &str)], servers: &[Candidate]) -> Box<dyn Scheduler> {
    let mut scheduler = plugin.scheduler(ALONE, &params(pairs)).unwrap().0;
    scheduler.servers_changed(servers, 0).unwrap();
    scheduler
}

/// Why it does not take these parameters.
fn refusal(plugin: &Plugin, pairs: &[(&str, &str)]) -> String {
    match plugin.check_params(&params(pairs)) {
        Err(Error::Params { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

fn from(client: [u8; 4]) -> NewFlow {
    NewFlow { source: Ipv4Addr::from(client).to_ipv6_mapped().octets(), ..FLOW }
}

/// How often each slot is the answer to flows of these clients.
fn tally(
    scheduler: &mut dyn Scheduler,
    slots: usize,
    clients: impl Iterator<Item = [u8; 4]>,
    now: u64,
) -> Vec<usize> {
    let mut tally = vec![0; slots];
    for client in clients {
        tally[scheduler.choose(&from(client), now).unwrap()] += 1;
    }
    tally
}

/// Clients of so many networks /24, one of each.
fn networks(count: u32) -> impl Iterator<Item = [u8; 4]> {
    (0..count).map(|network| (10 << 24 | network << 8 | 7).to_be_bytes())
}

fn assert_near(found: usize, expected: usize, percent: usize) {
    let near = found.abs_diff(expected) * 100 <= expected * percent;
    assert!(near, "{found}, and {expected} ± {percent} % were expected");
}

#[test]
fn all_of_them_keep_the_contract() {
    for path in EXAMPLES {
        let plugin = example(path);
        assert_eq!(plugin.capacity(), 1024, "{path}");
        let mut scheduler = start(&plugin, &[], &candidates(&[1, 0, 3, 0]));
        let tally = tally(&mut *scheduler, 4, networks(3000), 0);
        assert!(tally[0] > 0 && tally[2] > tally[0], "{path}: {tally:?}");
        assert_eq!((tally[1], tally[3]), (0, 0), "{path} chooses a drained server: {tally:?}");
        for nobody in [&[][..], &[0], &[0, 0, 0]] {
            scheduler.servers_changed(&candidates(nobody), 0).unwrap();
            assert_eq!(scheduler.choose(&FLOW, 0), Err(Failure::Declined), "{path}: {nobody:?}");
        }
        scheduler.servers_changed(&candidates(&[0, 0, 9]), 0).unwrap();
        assert_eq!(scheduler.choose(&FLOW, 0), Ok(2), "{path}");
    }
}

#[test]
fn they_say_what_they_use() {
    let [affinity, random, slow_start] = EXAMPLES.map(example);
    assert_eq!((affinity.label(), random.label()), (Some("1.0.0"), Some("1.0.0")));
    assert_eq!(affinity.imports(), [] as [&str; 0]);
    assert_eq!(random.imports(), ["random"]);
    assert_eq!(slow_start.imports(), ["now_ms", "log"]);
    assert!(affinity.wants_load() && !random.wants_load() && !slow_start.wants_load());
    assert!(affinity.takes_params() && !random.takes_params() && slow_start.takes_params());
    assert!(!affinity.keeps_state() && !random.keeps_state() && slow_start.keeps_state());
}

/// Also for the first call after a change of all servers, which looks at each of them.
#[test]
fn full_tables_take_little_fuel() {
    let limits = Limits {
        schedule_fuel: Limits::default().schedule_fuel * 5 / 6,
        update_fuel: Limits::default().update_fuel / 4,
        ..Limits::default()
    };
    let host = PluginHost::new(limits).unwrap();
    for path in EXAMPLES {
        let mut scheduler = start(&host.load(path, &file(path)).unwrap(), &[], &[]);
        scheduler.servers_changed(&candidates(&[1; 1024]), 5 * SECOND).unwrap();
        for slot in 0..1024 {
            scheduler.load_changed(slot, Load { active: 9, inactive: 9 });
        }
        for client in networks(20) {
            scheduler.choose(&from(client), 6 * SECOND).unwrap();
        }
    }
}

#[test]
fn affinity_keeps_a_network_together_and_follows_the_weights() {
    let affinity = example(EXAMPLES[0]);
    let mut scheduler = start(&affinity, &[], &candidates(&[1, 2, 1]));
    let before: Vec<_> = networks(8000).map(|client| scheduler.choose(&from(client), 0)).collect();
    for (slot, share) in [2000, 4000, 2000].into_iter().enumerate() {
        assert_near(before.iter().filter(|&&choice| choice == Ok(slot)).count(), share, 5);
    }
    for ([a, b, c, _], &choice) in networks(50).zip(&before) {
        assert!((0..=255).all(|d| scheduler.choose(&from([a, b, c, d]), 0) == choice));
    }
    // Another worker chooses alike.
    let placement = Placement { worker: 1, workers: 2, seed: 77 };
    let mut other = affinity.scheduler(placement, &Params::new()).unwrap().0;
    other.servers_changed(&candidates(&[1, 2, 1]), 0).unwrap();
    assert!(networks(500).zip(&before).all(|(c, &choice)| other.choose(&from(c), 0) == choice));
    // A server that leaves moves its own networks, and they return with it.
    scheduler.servers_changed(&candidates(&[1, 0, 1]), 0).unwrap();
    for (client, &choice) in networks(8000).zip(&before) {
        let now = scheduler.choose(&from(client), 0);
        assert!(now != Ok(1) && (choice == Ok(1) || now == choice), "{choice:?} became {now:?}");
    }
    scheduler.servers_changed(&candidates(&[1, 2, 1]), 0).unwrap();
    assert!(
        networks(8000).zip(&before).all(|(c, &choice)| scheduler.choose(&from(c), 0) == choice)
    );
}

#[test]
fn affinity_bounds_what_one_busy_network_does_to_a_server() {
    let affinity = example(EXAMPLES[0]);
    for (bound, most) in [(None, 375), (Some("101"), 253), (Some("200"), 500)] {
        let bound: Vec<_> = bound.iter().map(|&bound| ("bound", bound)).collect();
        let mut scheduler = start(&affinity, &bound, &candidates(&[1; 4]));
        let mut active = [0; 4];
        for _ in 0..1000 {
            let slot = scheduler.choose(&FLOW, 0).unwrap();
            active[slot] += 1;
            scheduler.load_changed(slot, Load { active: active[slot], inactive: 0 });
        }
        let found = *active.iter().max().unwrap();
        assert!((most..=most + 2).contains(&found), "{bound:?}: {active:?}");
        // When the connections are gone, the network is at home again.
        for slot in 0..4 {
            scheduler.load_changed(slot, Load::default());
        }
        let home = scheduler.choose(&FLOW, 0);
        assert!((0..100).all(|_| scheduler.choose(&FLOW, 0) == home));
    }
}

#[test]
fn affinity_takes_the_width_of_a_network_as_a_parameter() {
    let affinity = example(EXAMPLES[0]);
    let mut wide = start(&affinity, &[("prefix-v4", "16")], &candidates(&[1; 8]));
    let mut clients = (0..=255).map(|c| [10, 1, c, 1]);
    let first = wide.choose(&from([10, 1, 0, 0]), 0);
    assert!(clients.all(|client| wide.choose(&from(client), 0) == first));
    let mut narrow = start(&affinity, &[("prefix-v4", "32")], &candidates(&[1; 8]));
    let tally = tally(&mut *narrow, 8, (0..=255).map(|d| [10, 1, 1, d]), 0);
    assert!(tally.iter().all(|&count| count > 10), "{tally:?}");

    let v6 = |fourth_word: u16, last: u16| NewFlow {
        source: std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, fourth_word, 0, 0, 0, last).octets(),
        ..FLOW
    };
    let mut scheduler = start(&affinity, &[], &candidates(&[1; 8]));
    let first = scheduler.choose(&v6(0, 0), 0);
    assert!((0..=0xff).all(|word| scheduler.choose(&v6(word, word), 0) == first));
    assert!((0..=0xff).any(|word| scheduler.choose(&v6(word << 8, 0), 0) != first));
}

#[test]
fn affinity_says_why_it_refuses_parameters() {
    let affinity = example(EXAMPLES[0]);
    let prefix = "prefix-v4 must be 1 to 32, the bits of a network's address";
    for value in ["0", "33", "", "-1", "24 ", "0x18", "4294967320"] {
        assert_eq!(refusal(&affinity, &[("prefix-v4", value)]), prefix, "{value:?}");
    }
    let bound = "bound must be 101 to 1000, percent of a server's share";
    assert_eq!(refusal(&affinity, &[("bound", "100"), ("prefix-v6", "64")]), bound);
    assert_eq!(
        refusal(&affinity, &[("bound", "150"), ("prefix", "24")]),
        "there are the parameters prefix-v4, prefix-v6 and bound, and no others"
    );
}

#[test]
fn random_follows_the_weights_and_its_seed() {
    let random = example(EXAMPLES[1]);
    let weights = [1, 0, 65_535, 0, 3, 32_768];
    let mut scheduler = start(&random, &[], &candidates(&weights));
    let tally = tally(&mut *scheduler, 6, networks(30_000), 0);
    assert_near(tally[2], 20_000, 3);
    assert_near(tally[5], 10_000, 3);

    let choices = |seed| {
        let placement = Placement { worker: 0, workers: 1, seed };
        let mut scheduler = random.scheduler(placement, &Params::new()).unwrap().0;
        scheduler.servers_changed(&candidates(&[1; 16]), 0).unwrap();
        (0..50).map(|_| scheduler.choose(&FLOW, 0).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(choices(1), choices(1));
    assert_ne!(choices(1), choices(2));
}

#[test]
fn slow_start_is_smooth_weighted_round_robin_between_settled_servers() {
    let slow_start = example(EXAMPLES[2]);
    let mut scheduler = start(&slow_start, &[], &candidates(&[5, 1, 1]));
    let choices: Vec<_> = (0..14).map(|_| scheduler.choose(&FLOW, 0).unwrap()).collect();
    // As in nginx: the heavy one is not asked five times in a row.
    assert_eq!(choices, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    let first = |worker| {
        let placement = Placement { worker, workers: 3, seed: 0 };
        let mut scheduler = slow_start.scheduler(placement, &Params::new()).unwrap().0;
        scheduler.servers_changed(&candidates(&[1, 1, 1]), 0).unwrap();
        scheduler.choose(&FLOW, 0).unwrap()
    };
    assert_eq!([first(0), first(1), first(2)], [0, 1, 2]);
}

/// Flows of the last of four servers, of 3100, so many seconds after it came.
fn share_after(scheduler: &mut dyn Scheduler, came: u64, seconds: u64) -> usize {
    tally(scheduler, 4, networks(3100), came + seconds * SECOND)[3]
}

#[test]
fn slow_start_lets_a_newcomer_in_gently() {
    let slow_start = example(EXAMPLES[2]);
    let mut scheduler = start(&slow_start, &[], &candidates(&[1, 1, 1]));
    let came = 100 * SECOND;
    scheduler.servers_changed(&candidates(&[1, 1, 1, 1]), came).unwrap();
    // Of 3100 flows, a tenth of a share is 100 and a whole one 775.
    assert_near(share_after(&mut *scheduler, came, 0), 100, 3);
    assert_near(share_after(&mut *scheduler, came, 15), 3100 * 55 / 355, 3);
    assert_near(share_after(&mut *scheduler, came, 30), 775, 1);
    assert_near(share_after(&mut *scheduler, came, 0), 775, 1);
    // Drained and back: once more.
    scheduler.servers_changed(&candidates(&[1, 1, 1, 0]), 2 * came).unwrap();
    scheduler.servers_changed(&candidates(&[1, 1, 1, 1]), 2 * came).unwrap();
    assert_near(share_after(&mut *scheduler, 2 * came, 0), 100, 3);

    let mut quick = start(&slow_start, &[("seconds", "2")], &candidates(&[1, 1, 1]));
    quick.servers_changed(&candidates(&[1, 1, 1, 1]), came).unwrap();
    assert_near(share_after(&mut *quick, came, 2), 775, 1);
}

#[test]
fn slow_start_hands_over_who_is_on_the_way() {
    let slow_start = example(EXAMPLES[2]);
    let servers = candidates(&[1, 1, 1, 1]);
    let came = 100 * SECOND;
    let mut old = start(&slow_start, &[], &candidates(&[1, 1, 1]));
    old.servers_changed(&servers, came).unwrap();
    let mut new = start(&slow_start, &[], &servers);
    let state = old.save(came).unwrap().to_vec();
    assert_eq!(new.restore(&state, came), Ok(true));
    assert_near(share_after(&mut *new, came, 15), 3100 * 55 / 355, 3);
    // The turn goes on as if nothing had happened.
    let mut heavy = start(&slow_start, &[], &candidates(&[5, 1, 1]));
    let mut again = start(&slow_start, &[], &candidates(&[5, 1, 1]));
    let before: Vec<_> = (0..4).map(|_| heavy.choose(&FLOW, 0).unwrap()).collect();
    assert_eq!(again.restore(heavy.save(0).unwrap(), 0), Ok(true));
    let after: Vec<_> = (0..3).map(|_| again.choose(&FLOW, 0).unwrap()).collect();
    assert_eq!([before, after].concat(), [0, 0, 1, 0, 2, 0, 0]);
    // Another server in its slot is nobody that it knows.
    let mut others = servers.clone();
    others[3].address = Ipv4Addr::new(10, 9, 9, 9).into();
    let mut new = start(&slow_start, &[], &others);
    assert_eq!(new.restore(&state, came), Ok(true));
    assert_near(share_after(&mut *new, came, 0), 775, 1);
    // State of another format, or not whole.
    let mut of_format_2 = state.clone();
    of_format_2[0] = 2;
    for damaged in [&of_format_2[..], &state[..state.len() - 1], &state[..7], &[0xff; 40]] {
        assert_eq!(start(&slow_start, &[], &servers).restore(damaged, came), Ok(false));
    }
}

#[test]
fn slow_start_says_who_comes_and_why_it_refuses_parameters() {
    let slow_start = example(EXAMPLES[2]);
    let mut prepared = slow_start.instantiate(ALONE, &Params::new()).unwrap();
    let mut scheduler = prepared.instance.into_scheduler();
    scheduler.servers_changed(&candidates(&[1, 1]), 0).unwrap();
    scheduler.servers_changed(&candidates(&[1; 124]), 5 * SECOND).unwrap();
    scheduler.servers_changed(&candidates(&[1; 124]), 6 * SECOND).unwrap();
    scheduler.servers_changed(&candidates(&[1; 125]), 7 * SECOND).unwrap();
    let lines: Vec<_> = prepared.log.read().into_iter().map(|line| line.text).collect();
    let [many, one] =
        ["122", "1"].map(|n| n.to_owned() + " new in service, with a tenth of the share at first");
    assert_eq!(lines, [many, one]);

    let range = "seconds must be a whole number from 1 to 86400";
    for value in ["0", "86401", "99999999999999999999999", "1.5", "-1", "", "soon"] {
        assert_eq!(refusal(&slow_start, &[("seconds", value)]), range, "{value:?}");
    }
    for key in ["second", "secondss", "ramp"] {
        let only = "there is the parameter seconds, and no other";
        assert_eq!(refusal(&slow_start, &[(key, "5")]), only, "{key}");
    }
}
