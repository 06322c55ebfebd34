//! What is known of the health of each real server of each virtual service.

use super::judge::{Judge, Rules, Verdict};
use super::kinds::HealthCheck;
use crate::services::{ServerEntry, ServiceEntry, Services};
use dataplane::{Millis, ServerState, ServiceKey};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A real server of a virtual service, wherever its index is.
pub type MemberKey = (ServiceKey, IpAddr);

/// What is known of one.
#[derive(Debug, Clone)]
pub struct Member {
    /// What is asked; `None`: nothing.
    pub check: Option<Arc<HealthCheck>>,
    /// What the answers amount to.
    pub judge: Judge,
    /// Checks that passed, and those that failed.
    pub checks: (u64, u64),
    /// How long the last check took.
    pub took: Option<Duration>,
}

impl Member {
    fn new(check: Option<Arc<HealthCheck>>, now: Millis) -> Member {
        Member { check, judge: Judge::new(now), checks: (0, 0), took: None }
    }

    /// The check changes while the server is in use.
    fn change(&mut self, check: Option<Arc<HealthCheck>>, now: Millis) {
        match (&self.check, &check) {
            (None, Some(_)) => self.judge = Judge::of_a_server_in_use(now),
            (Some(_), Some(_)) => self.judge.begin_anew(),
            (_, None) => *self = Member::new(None, now),
        }
        self.check = check;
    }
}

/// How the results of a check are judged.
pub fn rules(check: &HealthCheck) -> Rules {
    let HealthCheck { rise, fall, interval, .. } = *check;
    Rules { rise, fall, interval: interval.as_millis() as Millis }
}

/// How a check ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Of whom.
    pub member: MemberKey,
    /// What was asked.
    pub check: Arc<HealthCheck>,
    /// The answer.
    pub result: Result<(), String>,
    /// How long it took.
    pub took: Duration,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Members {
    of: HashMap<MemberKey, Member>,
}

/// Whether a server of this service is one to look after: it serves, and it is no sorry server.
fn is_member(service: &ServiceEntry, server: &ServerEntry) -> bool {
    !service.removed && server.state == ServerState::Serving && !server.sorry
}

impl Members {
    /// Follows the services: forgets who left, and begins with who is new.
    pub fn follow(&mut self, services: &Services, now: Millis) {
        let mut former = std::mem::take(&mut self.of);
        for (_, service) in services.services() {
            for (_, server) in services.members(service).filter(|(_, s)| is_member(service, s)) {
                let key = (service.key, server.address);
                let check = &service.policy.check;
                let member = match former.remove(&key) {
                    None => Member::new(check.clone(), now),
                    Some(mut member) => {
                        if member.check != *check {
                            member.change(check.clone(), now);
                        }
                        member
                    }
                };
                self.of.insert(key, member);
            }
        }
    }

    /// What is known of one.
    pub fn get(&self, key: &MemberKey) -> Option<&Member> {
        self.of.get(key)
    }

    /// Those that are checked.
    pub fn checked(&self) -> impl Iterator<Item = (&MemberKey, &Arc<HealthCheck>)> {
        self.of.iter().filter_map(|(key, member)| Some((key, member.check.as_ref()?)))
    }

    /// What a server may do as far as its checks are concerned. One that is new, and checked,
    /// waits for its first result; one whose service had no check until now goes on.
    pub fn verdict(&self, service: &ServiceEntry, server: &ServerEntry) -> Verdict {
        if service.policy.check.is_none() {
            return Verdict::Up;
        }
        match self.of.get(&(service.key, server.address)) {
            None => Verdict::Checking,
            Some(Member { check: None, .. }) => Verdict::Up,
            Some(member) => member.judge.verdict(),
        }
    }

    /// A check ended. Returns the verdict if it changed. A result of a check that is no longer the
    /// one to be made says nothing.
    pub fn hear(&mut self, outcome: Outcome, now: Millis) -> Option<Verdict> {
        let member = self.of.get_mut(&outcome.member)?;
        if member.check.as_ref() != Some(&outcome.check) {
            return None;
        }
        let (passed, failed) = &mut member.checks;
        *if outcome.result.is_ok() { passed } else { failed } += 1;
        member.took = Some(outcome.took);
        member.judge.hear(outcome.result, &rules(&outcome.check), now)
    }

    /// Whether there was a first result of each that is checked.
    pub fn settled(&self) -> bool {
        let waits =
            |member: &Member| member.check.is_some() && member.judge.verdict() == Verdict::Checking;
        !self.of.values().any(waits)
    }
}
