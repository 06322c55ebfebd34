//! Health as the API and `shunt list` show it.

use super::judge::Verdict;
use super::members::rules;
use super::quorum::Quorum;
use super::{Policy, weights::Standing};
use crate::clock;
use crate::services::{ServerEntry, ServiceEntry};
use crate::supervisor::Supervisor;
use dataplane::ServerIndex;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What its health checks say of a real server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthView {
    /// up, down, or checking before the first result.
    pub state: String,
    /// Why it is down; while it is up, why the last check failed, if it did.
    pub error: Option<String>,
    /// Seconds since it is so.
    pub since: u64,
    /// The kind of the check.
    pub kind: String,
    /// While it is down, and the last checks have passed: how many of them, and how many must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<(u32, u32)>,
    /// Why the last check could not be made; the state is that of the last one that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmade: Option<String>,
    /// The weight for now, while it is less than its own after a return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<u32>,
}

/// Whether enough real servers of a virtual service are up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumView {
    /// Servers that take new flows.
    pub up: usize,
    /// Servers that would if they were up.
    pub servers: usize,
    /// How many must.
    pub quorum: u16,
    /// Whether there are, or were until hysteresis allows otherwise, too few.
    pub lost: bool,
    /// Whether the sorry server takes the new flows.
    pub sorry: bool,
    /// The sorry server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sorry_server: Option<IpAddr>,
}

/// What its checks say of a server, if it is checked.
pub(crate) fn health(
    supervisor: &Supervisor,
    service: &ServiceEntry,
    (index, server): (ServerIndex, &ServerEntry),
) -> Option<HealthView> {
    let member = supervisor.health.members.get(&(service.key, server.address))?;
    let check = member.check.as_ref()?;
    let judge = &member.judge;
    let state = match judge.verdict() {
        Verdict::Checking => "checking",
        Verdict::Up => "up",
        Verdict::Down => "down",
    };
    let weight = supervisor.health.weights.given(index).weight;
    let returning = judge.verdict() == Verdict::Down && judge.against() > 0;
    let slow = judge.verdict() == Verdict::Up && weight > 0 && weight < server.weight.into();
    Some(HealthView {
        state: state.to_owned(),
        error: judge.error().map(str::to_owned),
        since: clock::now().saturating_sub(judge.since()) / 1_000,
        kind: check.kind.name().to_owned(),
        unmade: member.unmade.why.clone(),
        passed: returning.then(|| (judge.against(), judge.needed(&rules(check)))),
        slow_start: slow.then_some(weight),
    })
}

/// How a service stands, if it has a policy.
pub(crate) fn quorum(supervisor: &Supervisor, service: &ServiceEntry) -> Option<QuorumView> {
    let Policy { quorum, sorry_server, .. } = service.policy;
    if service.removed || service.policy == Policy::default() {
        return None;
    }
    let standing = supervisor.health.weights.standing(&service.key);
    let Standing { quorum: held, count, sorry } = standing;
    let (up, servers, lost) = (count.up, count.all, held == Quorum::Lost);
    Some(QuorumView { up, servers, quorum, lost, sorry, sorry_server })
}

/// What `shunt list` says at the end of a server's line.
pub(crate) fn health_remark(health: &HealthView) -> Option<String> {
    let unmade = health.unmade.as_ref().map(|why| format!("cannot be checked: {why}"));
    let remarks: Vec<String> = state_remark(health).into_iter().chain(unmade).collect();
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

fn state_remark(health: &HealthView) -> Option<String> {
    let error = health.error.as_deref();
    match health.state.as_str() {
        "checking" => Some("not checked yet".to_owned()),
        "down" => {
            let error = error.unwrap_or("its check failed");
            let passed = match health.passed {
                Some((passed, needed)) => format!("; {passed} of {needed} checks passed since"),
                None => String::new(),
            };
            Some(format!("down for {}: {error}{passed}", duration(health.since)))
        }
        _ => match (error, health.slow_start) {
            (Some(error), _) => Some(format!("last check failed: {error}")),
            (None, Some(weight)) => Some(format!("slow start: weight {weight} for now")),
            (None, None) => None,
        },
    }
}

/// What `shunt list` says at the end of a service's line.
pub(crate) fn quorum_remark(view: &QuorumView) -> Option<String> {
    let QuorumView { up, servers, quorum, lost, sorry, .. } = view;
    let flows = if *sorry { "; new flows go to the sorry server" } else { "" };
    lost.then(|| format!("quorum of {quorum} lost: {up} of {servers} up{flows}"))
}

/// Seconds in words, in the greatest unit of which there are two.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
