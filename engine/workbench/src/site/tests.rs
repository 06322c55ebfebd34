use super::*;
use crate::fakes::{Native, Told};
use crate::history::new_flow;

fn site(native: &Native, workers: usize, weights: &[u32]) -> Site {
    let mut site = Site::new(native, workers, 1, 0).unwrap();
    site.set_servers(&ServerSet::of(weights));
    site
}

fn ask(site: &mut Site, worker: usize) -> Result<Option<usize>, Mishap> {
    let mut numbers = Numbers::new(7);
    site.ask(worker, &new_flow(&mut Numbers::new(1), false), &mut numbers)
}

/// Answers the number of active and inactive connections that it was told of, as a slot.
fn connections(told: &mut Told, _: &NewFlow, _: Millis) -> Result<usize, Failure> {
    let sum = told.loads.iter().fold(Load::default(), |sum, load| sum + *load);
    Ok((sum.active + 10 * sum.inactive) as usize)
}

#[test]
fn answers_are_held_against_the_servers() {
    let third = Native::new(|_, _, _| Ok(2));
    assert_eq!(ask(&mut site(&third, 1, &[1, 1, 1]), 0), Ok(Some(2)));
    let drained = ask(&mut site(&third, 1, &[1, 1, 0]), 0).unwrap_err();
    assert!(drained.what.contains("answered slot 2 that has weight 0"), "{}", drained.what);
    let beyond = ask(&mut site(&third, 2, &[1, 1]), 1).unwrap_err();
    assert!(beyond.what.contains("answered 2, and there are 2 slots"), "{}", beyond.what);
    assert_eq!(beyond.worker, 1);
    let declines = Native::new(|_, _, _| Err(Failure::Declined));
    assert_eq!(ask(&mut site(&declines, 1, &[1]), 0), Ok(None));
    for (failure, words) in [
        (Native::new(|_, _, _| Err(Failure::Trap)), "trapped"),
        (Native::new(|_, _, _| Err(Failure::OutOfFuel)), "used up its fuel"),
        (Native::new(|_, _, _| Err(Failure::OutOfRange)), "no slot"),
    ] {
        let mishap = ask(&mut site(&failure, 1, &[1]), 0).unwrap_err();
        assert!(mishap.what.contains(words), "{}", mishap.what);
    }
}

#[test]
fn loads_follow_from_the_flows_at_once_here_and_with_the_clock_from_others() {
    let mut site = site(&Native::new(connections), 2, &[1; 64]);
    assert_eq!(ask(&mut site, 0), Ok(Some(0)));
    assert_eq!(ask(&mut site, 0), Ok(Some(1)), "its own flow, at once");
    assert_eq!(ask(&mut site, 1), Ok(Some(2)), "all that there is, the first time");
    assert_eq!(ask(&mut site, 0), Ok(Some(2)), "the other worker's flow is not known yet");
    site.now += 1;
    let active = ask(&mut site, 0).unwrap().unwrap();
    assert!(active >= 3, "{active}: the others' flows with the next millisecond");
}

/// For how many milliseconds the only worker has a flow on slot 0, by its connections.
fn lifetimes(site: &mut Site) -> [Millis; 2] {
    let mut times = [0; 2];
    loop {
        site.let_time_pass();
        match site.workers[0].own[0] {
            Load { active: 1, inactive: 0 } => times[0] += 1,
            Load { active: 0, inactive: 1 } => times[1] += 1,
            Load { active, inactive } => {
                assert_eq!((active, inactive), (0, 0));
                return times;
            }
        }
        site.now += 1;
    }
}

#[test]
fn a_flow_is_active_then_inactive_then_over() {
    let mut site = site(&Native::new(connections), 1, &[1; 64]);
    assert_eq!(ask(&mut site, 0), Ok(Some(0)));
    let [active, inactive] = lifetimes(&mut site);
    assert!(active < ACTIVE_MAX as Millis, "{active}");
    assert_eq!(inactive, INACTIVE);
    assert_eq!(ask(&mut site, 0), Ok(Some(0)), "and the scheduler knows");
}

#[test]
fn a_server_that_leaves_takes_its_connections_along() {
    let mut site = site(&Native::new(connections), 1, &[1; 64]);
    let mut servers = site.servers().clone();
    assert_eq!(ask(&mut site, 0), Ok(Some(0)));
    servers.remove(0);
    servers.add(1);
    site.set_servers(&servers);
    assert_eq!(ask(&mut site, 0), Ok(Some(0)), "the newcomer in its slot has none");
    let [_, inactive] = lifetimes(&mut site);
    assert_eq!(inactive, INACTIVE, "and the end of the former server's flow is not its own");
}
