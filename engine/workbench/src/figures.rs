//! What a scheduler is like: how evenly it spreads flows, whom the removal of a server disturbs,
//! what a call costs.

use crate::history::new_flow;
use crate::numbers::Numbers;
use crate::server_set::ServerSet;
use crate::site::{Mishap, Site};
use crate::subject::Subject;
use dataplane::{Millis, NewFlow};
use serde::Serialize;

/// Servers that the figures are about.
const SERVERS: usize = 16;
/// Flows of which evenness is taken.
const FLOWS: usize = 32_000;
/// Flows that are asked about before and after each removal.
const WATCHED: usize = 2_000;
const FLOWS_A_MILLISECOND: usize = 16;

/// How flows spread over 16 servers that stay.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evenness {
    /// Workers that shared the flows.
    pub workers: usize,
    /// The most flows of a server, as a multiple of the mean: 1 is even.
    pub max_over_mean: f64,
    /// Standard deviation of the servers' flows, as a fraction of the mean: 0 is even.
    pub cv: f64,
    /// With weights from 1 to 4: by how much a server's flows differ at most from what its weight
    /// says, as a fraction of that.
    pub weighted_share_error: f64,
}

/// Which flows move when one of 16 servers leaves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Disruption {
    /// Whether the choice depends on the flow and the servers alone, so that it is the same on
    /// every worker and director, whatever came before. The rest says something only then.
    pub by_flow_only: bool,
    /// Whether one server gets every flow, so that nothing could tell what the choice depends on.
    pub one_for_all: bool,
    /// Of the flows whose server stays, the fraction that gets another one: mean over the removal
    /// of each server.
    pub mean: f64,
    /// The same for the worst of the removals.
    pub max: f64,
}

type Flows = Vec<NewFlow>;

fn flows(count: usize, numbers: &mut Numbers) -> Flows {
    (0..count).map(|_| new_flow(numbers, false)).collect()
}

/// A site with these weights.
fn site(subject: &dyn Subject, workers: usize, seed: u64, weights: &[u32]) -> Result<Site, String> {
    let mut site = Site::new(subject, workers, seed, 0)?;
    site.set_servers(&ServerSet::of(weights));
    Ok(site)
}

fn describe(mishap: Mishap) -> String {
    format!("worker {} of it {}", mishap.worker, mishap.what)
}

/// Flows by slot. A flow that is declined counts for nobody.
fn spread(site: &mut Site, workers: usize, seed: u64) -> Result<Vec<usize>, String> {
    let mut numbers = Numbers::new(seed);
    let mut counts = vec![0; SERVERS];
    for flow in flows(FLOWS, &mut Numbers::new(seed ^ 1)) {
        site.now += Millis::from(numbers.once_in(FLOWS_A_MILLISECOND));
        let worker = usize::from(flow.source_port) % workers;
        if let Some(slot) = site.ask(worker, &flow, &mut numbers).map_err(describe)? {
            counts[slot] += 1;
        }
    }
    Ok(counts)
}

/// Measures evenness with so many workers.
pub(crate) fn evenness(
    subject: &dyn Subject,
    workers: usize,
    seed: u64,
) -> Result<Evenness, String> {
    let weights: Vec<u32> = (0..SERVERS as u32).map(|slot| 1 + slot % 4).collect();
    let equal = spread(&mut site(subject, workers, seed, &[1; SERVERS])?, workers, seed)?;
    let weighted = spread(&mut site(subject, workers, seed, &weights)?, workers, seed)?;
    let (max_over_mean, cv) = unevenness(&equal);
    Ok(Evenness {
        workers,
        max_over_mean,
        cv,
        weighted_share_error: share_error(&weighted, &weights),
    })
}

/// Maximum over mean, and coefficient of variation.
fn unevenness(counts: &[usize]) -> (f64, f64) {
    let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
    if mean == 0.0 {
        return (0.0, 0.0);
    }
    let max = counts.iter().copied().max().unwrap_or_default() as f64;
    let squares: f64 = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum();
    (max / mean, (squares / counts.len() as f64).sqrt() / mean)
}

fn share_error(counts: &[usize], weights: &[u32]) -> f64 {
    let total = counts.iter().sum::<usize>() as f64;
    let of_weights = f64::from(weights.iter().sum::<u32>());
    let errors = counts.iter().zip(weights).map(|(&count, &weight)| {
        let expected = total * f64::from(weight) / of_weights;
        if expected == 0.0 { 0.0 } else { (count as f64 - expected).abs() / expected }
    });
    errors.fold(0.0, f64::max)
}

/// The answers about these flows, in this order. The loads follow from them.
fn answers<'a>(
    site: &mut Site,
    worker: usize,
    flows: impl Iterator<Item = &'a NewFlow>,
) -> Result<Vec<Option<usize>>, String> {
    let mut numbers = Numbers::new(0);
    flows
        .map(|flow| {
            site.now += Millis::from(numbers.once_in(FLOWS_A_MILLISECOND));
            site.ask(worker, flow, &mut numbers).map_err(describe)
        })
        .collect()
}

/// Measures disruption.
pub(crate) fn disruption(subject: &dyn Subject, seed: u64) -> Result<Disruption, String> {
    let flows = flows(WATCHED, &mut Numbers::new(seed));
    let before = answers(&mut site(subject, 1, seed, &[1; SERVERS])?, 0, flows.iter())?;
    // Another worker, that other flows went through before, and in another order.
    let mut other = Site::new(subject, 2, !seed, 1_000_000)?;
    other.set_servers(&ServerSet::of(&[1; SERVERS]));
    answers(&mut other, 1, self::flows(100, &mut Numbers::new(!seed)).iter())?;
    let mut again = answers(&mut other, 1, flows.iter().rev())?;
    again.reverse();
    let one_for_all = before.iter().chain(&again).all(|&slot| slot == before[0]);
    let by_flow_only = before == again && !one_for_all;
    let mut moved = Vec::new();
    for removed in 0..SERVERS {
        let mut left = ServerSet::of(&[1; SERVERS]);
        let mut site = Site::new(subject, 1, seed, 0)?;
        site.set_servers(&left);
        answers(&mut site, 0, flows.iter().take(1))?;
        left.remove(removed);
        site.set_servers(&left);
        let after = answers(&mut site, 0, flows.iter())?;
        let stay = before.iter().zip(&after).filter(|(slot, _)| **slot != Some(removed));
        let (all, moving) = stay.fold((0, 0), |(all, moving), (before, after)| {
            (all + 1, moving + usize::from(before != after))
        });
        moved.push(f64::from(moving as u32) / f64::from(all.max(1) as u32));
    }
    Ok(Disruption {
        by_flow_only,
        one_for_all,
        mean: moved.iter().sum::<f64>() / moved.len() as f64,
        max: moved.iter().copied().fold(0.0, f64::max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_counts_have_no_unevenness() {
        assert_eq!(unevenness(&[7; 16]), (1.0, 0.0));
        assert_eq!(unevenness(&[0; 16]), (0.0, 0.0));
        let (max, cv) = unevenness(&[4, 0]);
        assert_eq!((max, cv), (2.0, 1.0));
    }

    #[test]
    fn shares_are_compared_with_weights() {
        assert_eq!(share_error(&[10, 30], &[1, 3]), 0.0);
        assert_eq!(share_error(&[20, 20], &[1, 3]), 1.0);
        assert_eq!(share_error(&[0, 0], &[1, 3]), 0.0);
    }
}
