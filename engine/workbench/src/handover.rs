//! What an instance hands to the one that takes its place, and what it makes of bytes that no
//! instance of its own has written.

use crate::history::new_flow;
use crate::numbers::Numbers;
use crate::server_set::ServerSet;
use crate::site::{Mishap, Site};
use crate::subject::{Subject, Tried};
use dataplane::{Millis, NewFlow};
use plugin_host::Placement;

const SERVERS: usize = 16;
/// Flows before the swap, and flows after it.
const BEFORE: usize = 1_000;
const AFTER: usize = 500;
const FLOWS_A_MILLISECOND: usize = 16;

/// State that was handed over.
pub(crate) struct HandedOver {
    pub bytes: usize,
    /// Of the answers after the swap, how many are what they were without a swap.
    pub as_before: usize,
    /// Answers after the swap.
    pub answers: usize,
}

/// Plays the same flows to a scheduler that is replaced on the way by an instance that takes its
/// state over, and to one that is not.
pub(crate) fn goes_on(subject: &dyn Subject, seed: u64) -> Result<HandedOver, String> {
    let undisturbed = play(subject, seed, BEFORE + AFTER, |_| Ok(()))?;
    let mut bytes = 0;
    let swapped = play(subject, seed, BEFORE + AFTER, |site| {
        let state = saved(site)?;
        bytes = state.len();
        let mut successor = start(subject, seed)?;
        // As on the control thread: it is told of the servers before it takes over.
        successor
            .servers_changed(site.servers().slots(), 0)
            .map_err(|reason| format!("the successor fails on the servers ({})", reason.name()))?;
        match successor.restore(&state, site.now) {
            Ok(true) => drop(site.take_over(0, successor)),
            Ok(false) => {
                return Err(format!(
                    "shunt_restore refuses the {bytes} bytes that shunt_save has written"
                ));
            }
            Err(reason) => return Err(format!("shunt_restore failed ({})", reason.name())),
        }
        Ok(())
    })?;
    let after = undisturbed.iter().zip(&swapped).skip(BEFORE);
    let as_before = after.filter(|(one, other)| one == other).count();
    Ok(HandedOver { bytes, as_before, answers: AFTER })
}

/// Offers bytes to `shunt_restore` that no instance of this version has saved. Answers how many.
pub(crate) fn survives_foreign_bytes(subject: &dyn Subject, seed: u64) -> Result<usize, String> {
    let mut own = Vec::new();
    play(subject, seed, BEFORE, |site| {
        own = saved(site)?;
        Ok(())
    })?;
    let fresh = play(subject, seed, AFTER, |_| Ok(()))?;
    let offers = foreign(&own, seed);
    for (what, state) in &offers {
        let mut refused = false;
        let answers = play_from(subject, seed, AFTER, |site| {
            let now = site.now;
            match site.instance(0).restore(state, now) {
                Ok(taken) => refused = !taken,
                Err(reason) => {
                    return Err(format!(
                        "shunt_restore failed ({}) on {what}: refuse what it cannot read",
                        reason.name()
                    ));
                }
            }
            Ok(())
        })
        .map_err(|reason| format!("{reason} (after shunt_restore was given {what})"))?;
        if refused && answers != fresh {
            return Err(format!(
                "shunt_restore refused {what}, but the instance is not as if it was fresh: its \
                 answers differ from those of one that is"
            ));
        }
    }
    Ok(offers.len())
}

/// Bytes that are not what was saved, and what they are.
fn foreign(own: &[u8], seed: u64) -> Vec<(String, Vec<u8>)> {
    let mut offers = Vec::new();
    for length in (1..own.len()).step_by(own.len().div_ceil(16).max(1)) {
        offers.push((format!("its own state cut to {length} bytes"), own[..length].to_vec()));
    }
    let (version, rest) = own.split_at(own.len().min(4));
    for other in [0, 1, 2, 99, u32::MAX] {
        let other = u32::to_le_bytes(other);
        if other != version {
            let state = [&other[..], rest].concat();
            let version = u32::from_le_bytes(other);
            offers.push((format!("its own state under format version {version}"), state));
        }
    }
    let mut numbers = Numbers::new(seed);
    let len = own.len();
    offers.push(("zeros".to_owned(), vec![0; len]));
    offers.push(("ones".to_owned(), [version, &vec![0xff; len - version.len()]].concat()));
    for round in 0..8 {
        let mut state = own.to_vec();
        let bytes = state.iter_mut().skip(version.len());
        bytes.for_each(|byte| *byte = numbers.next() as u8);
        offers.push((format!("bytes at random, number {round}"), state));
    }
    offers
}

fn start(subject: &dyn Subject, seed: u64) -> Result<Box<dyn Tried>, String> {
    subject.start(Placement { worker: 0, workers: 1, seed })
}

fn saved(site: &mut Site) -> Result<Vec<u8>, String> {
    let now = site.now;
    let state = site.instance(0).save(now).map(<[u8]>::to_vec);
    match state {
        Some(state) if state.len() < 4 => Err(format!(
            "shunt_save hands {} bytes over, and the version of their format takes 4",
            state.len()
        )),
        Some(state) => Ok(state),
        None => Err(format!(
            "shunt_save hands nothing over after {BEFORE} flows: it fails, or answers 0 or less, \
             or more than state_capacity"
        )),
    }
}

/// Plays flows on 16 servers; after [`BEFORE`] of them, or at the end, `meanwhile` happens.
fn play(
    subject: &dyn Subject,
    seed: u64,
    flows: usize,
    mut meanwhile: impl FnMut(&mut Site) -> Result<(), String>,
) -> Result<Vec<Option<usize>>, String> {
    let mut site = site(subject, seed)?;
    let mut numbers = Numbers::new(seed);
    let mut answers = Vec::new();
    for flow in 0..flows {
        if flow == BEFORE {
            meanwhile(&mut site)?;
        }
        answers.push(ask(&mut site, &mut numbers)?);
    }
    if flows == BEFORE {
        meanwhile(&mut site)?;
    }
    Ok(answers)
}

/// The same, but `first` happens before the first flow.
fn play_from(
    subject: &dyn Subject,
    seed: u64,
    flows: usize,
    mut first: impl FnMut(&mut Site) -> Result<(), String>,
) -> Result<Vec<Option<usize>>, String> {
    let mut site = site(subject, seed)?;
    let servers = site.servers().clone();
    let told = site.instance(0).servers_changed(servers.slots(), 0);
    told.map_err(|reason| format!("it fails on the servers ({})", reason.name()))?;
    site.note_told(0);
    first(&mut site)?;
    let mut numbers = Numbers::new(seed);
    (0..flows).map(|_| ask(&mut site, &mut numbers)).collect()
}

fn site(subject: &dyn Subject, seed: u64) -> Result<Site, String> {
    let mut site = Site::new(subject, 1, seed, 0)?;
    let weights: Vec<u32> = (0..SERVERS as u32).map(|slot| slot % 5).collect();
    site.set_servers(&ServerSet::of(&weights));
    Ok(site)
}

fn ask(site: &mut Site, numbers: &mut Numbers) -> Result<Option<usize>, String> {
    site.now += Millis::from(numbers.once_in(FLOWS_A_MILLISECOND));
    let flow: NewFlow = new_flow(numbers, false);
    site.ask(0, &flow, numbers).map_err(|Mishap { what, .. }| format!("it {what}"))
}
