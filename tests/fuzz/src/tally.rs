//! How far executions got, and what was new.

use dataplane::{DropReason, WorkerCounts};
use frames::Verdict;
use std::collections::HashSet;
use std::fmt;

/// How far a packet got in the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Depth {
    /// It was malformed.
    Malformed,
    /// Its protocol is none of ours.
    UnknownProtocol,
    /// It was a fragment.
    Fragment,
    /// There is no such service.
    NoService,
    /// Its flow was looked up.
    FlowTable,
    /// It was forwarded.
    Forwarded,
}

impl Depth {
    const ALL: [(Depth, &'static str); 6] = [
        (Depth::Malformed, "malformed"),
        (Depth::UnknownProtocol, "unknown protocol"),
        (Depth::Fragment, "fragment"),
        (Depth::NoService, "no such service"),
        (Depth::FlowTable, "reached the flow table"),
        (Depth::Forwarded, "forwarded"),
    ];

    /// How far a packet with this verdict got.
    pub fn of(verdict: Verdict) -> Depth {
        match verdict {
            Verdict::Forwarded(_) | Verdict::Dropped(DropReason::TxRingFull) => Depth::Forwarded,
            Verdict::Dropped(DropReason::Malformed) => Depth::Malformed,
            Verdict::Dropped(DropReason::UnknownProtocol) => Depth::UnknownProtocol,
            Verdict::Dropped(DropReason::Fragment) => Depth::Fragment,
            Verdict::Dropped(DropReason::NoService) => Depth::NoService,
            Verdict::Dropped(_) => Depth::FlowTable,
        }
    }
}

/// Counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inputs executed.
    pub executions: u64,
    /// Packets sent.
    pub packets: u64,
    executions_by_depth: [u64; Depth::ALL.len()],
    packets_by_depth: [u64; Depth::ALL.len()],
    dropped: [u64; DropReason::ALL.len()],
    /// What flows did: created, expired, evicted, overflowed, followed an overflow.
    flows: [u64; 5],
    seen: HashSet<u64>,
}

impl Tally {
    /// Notes an execution by its packets' verdicts.
    pub fn note(&mut self, verdicts: &[Verdict]) {
        self.executions += 1;
        let mut reached = [false; Depth::ALL.len()];
        for &verdict in verdicts {
            let depth = Depth::of(verdict);
            self.packets += 1;
            self.packets_by_depth[depth as usize] += 1;
            reached[depth as usize] = true;
            if depth == Depth::Forwarded {
                // On its way it was looked up.
                self.packets_by_depth[Depth::FlowTable as usize] += 1;
                reached[Depth::FlowTable as usize] = true;
            }
            if let Verdict::Dropped(reason) = verdict {
                self.dropped[reason as usize] += 1;
            }
        }
        for (count, reached) in self.executions_by_depth.iter_mut().zip(reached) {
            *count += u64::from(reached);
        }
    }

    /// Adds what a life's flows did.
    pub fn note_life(&mut self, counts: &WorkerCounts) {
        let flows = [
            counts.flows_created,
            counts.flows_expired,
            counts.flows_evicted,
            counts.overflowed,
            counts.overflow_followers,
        ];
        for (sum, count) in self.flows.iter_mut().zip(flows) {
            *sum += count;
        }
    }

    /// Whether any of these was never seen before.
    pub fn is_new(&mut self, features: &[u64]) -> bool {
        features.iter().fold(false, |is_new, &feature| self.seen.insert(feature) | is_new)
    }

    /// Different things seen so far.
    pub fn features(&self) -> usize {
        self.seen.len()
    }

    /// The share of executions of which a packet got this far.
    pub fn share(&self, depth: Depth) -> f64 {
        self.executions_by_depth[depth as usize] as f64 / self.executions.max(1) as f64
    }

    /// The share of packets that got this far.
    pub fn share_of_packets(&self, depth: Depth) -> f64 {
        self.packets_by_depth[depth as usize] as f64 / self.packets.max(1) as f64
    }

    /// The drop reasons that no packet raised.
    pub fn never_dropped_for(&self) -> Vec<&'static str> {
        let reasons = DropReason::ALL.into_iter();
        reasons.filter(|&r| self.dropped[r as usize] == 0).map(DropReason::name).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} executions, {} packets", self.executions, self.packets)?;
        writeln!(f, "{:<24} {:>12} {:>12}", "a packet", "executions", "packets")?;
        for (depth, name) in Depth::ALL {
            let (executions, packets) = (self.share(depth), self.share_of_packets(depth));
            writeln!(f, "{name:<24} {:>11.1}% {:>11.1}%", executions * 100.0, packets * 100.0)?;
        }
        writeln!(f, "packets dropped, by reason:")?;
        for reason in DropReason::ALL {
            writeln!(f, "  {:<22} {:>12}", reason.name(), self.dropped[reason as usize])?;
        }
        let [created, expired, evicted, overflowed, followers] = self.flows;
        writeln!(f, "flows: {created} created, {expired} expired, {evicted} evicted; packets:")?;
        writeln!(f, "  {overflowed} overflowed, {followers} followed an overflow")?;
        write!(f, "{} different things seen", self.seen.len())
    }
}
