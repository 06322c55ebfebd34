//! What is known of the health of each real server of each virtual service.

use super::judge::{Judge, Rules, Verdict};
use super::kinds::{CheckError, HealthCheck};
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
    /// Those that the director could not make.
    pub unmade: Unmade,
    /// How long the last check took.
    pub took: Option<Duration>,
}

/// Checks that the director could not make, for want of a descriptor, for one. They say nothing of
/// the server, which stays what it is.
#[derive(Debug, Clone, Default)]
pub struct Unmade {
    /// All of them.
    pub count: u64,
    /// Those since the last that was made.
    pub in_a_row: u32,
    /// Why the last check could not be made; `None`: it was.
    pub why: Option<String>,
}

impl Unmade {
    /// Whatever comes next counts anew.
    fn end(&mut self) {
        *self = Unmade { count: self.count, ..Unmade::default() };
    }
}

impl Member {
    fn new(check: Option<Arc<HealthCheck>>, now: Millis) -> Member {
        let unmade = Unmade::default();
        Member { check, judge: Judge::new(now), checks: (0, 0), unmade, took: None }
    }

    /// Whether a first result may come any moment.
    pub fn waits(&self) -> bool {
        let unknown = self.check.is_some() && self.judge.verdict() == Verdict::Checking;
        unknown && self.unmade.why.is_none()
    }

    /// Whether so many checks in a row could not be made that the verdict would be another one had
    /// they been made and failed: that is worth a line in the log.
    pub fn is_out_of_sight(&self) -> bool {
        let Some(check) = self.check.as_ref().filter(|_| self.unmade.why.is_some()) else {
            return false;
        };
        let unknown = self.judge.verdict() == Verdict::Checking;
        self.unmade.in_a_row >= if unknown { 1 } else { check.fall }
    }

    /// The check changes while the server is in use.
    fn change(&mut self, check: Option<Arc<HealthCheck>>, now: Millis) {
        match (&self.check, &check) {
            (None, Some(_)) => self.judge = Judge::of_a_server_in_use(now),
            (Some(_), Some(_)) => self.judge.begin_anew(),
            (_, None) => *self = Member::new(None, now),
        }
        self.unmade.end();
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
    pub result: Result<(), CheckError>,
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
    /// one to be made says nothing, and neither does a check that could not be made.
    pub fn hear(&mut self, outcome: Outcome, now: Millis) -> Option<Verdict> {
        let member = self.of.get_mut(&outcome.member)?;
        if member.check.as_ref() != Some(&outcome.check) {
            return None;
        }
        let (passed, failed) = &mut member.checks;
        let found = match outcome.result {
            Ok(()) => Ok(()),
            Err(CheckError::Failed(why)) => Err(why),
            Err(CheckError::Unable(why)) => {
                let Unmade { count, in_a_row, .. } = member.unmade;
                let in_a_row = in_a_row.saturating_add(1);
                member.unmade = Unmade { count: count + 1, in_a_row, why: Some(why) };
                return None;
            }
        };
        *if found.is_ok() { passed } else { failed } += 1;
        member.unmade.end();
        member.took = Some(outcome.took);
        member.judge.hear(found, &rules(&outcome.check), now)
    }

    /// The servers of a service whose checks cannot be made, for longer than a moment.
    pub fn out_of_sight(&self, service: ServiceKey) -> usize {
        let of_service = self.of.iter().filter(|((of, _), _)| *of == service);
        of_service.filter(|(_, member)| member.is_out_of_sight()).count()
    }

    /// Whether there was a first result of each that is checked.
    pub fn settled(&self) -> bool {
        !self.of.values().any(Member::waits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Policy;
    use super::super::kinds::{CheckKind, OnFailure};
    use super::*;
    use crate::scheduler_name::Params;
    use dataplane::Protocol;

    fn key() -> ServiceKey {
        ServiceKey { address: [172, 17, 100, 100].into(), port: 80, protocol: Protocol::Tcp }
    }

    fn rs() -> IpAddr {
        [172, 17, 100, 1].into()
    }

    /// A service of one server that is checked, three failures to its fall.
    fn members() -> Members {
        let second = Duration::from_secs(1);
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            port: None,
            interval: second,
            timeout: second,
            rise: 2,
            fall: 3,
            jitter: 0.0,
            on_failure: OnFailure::Drain,
        };
        let policy = Policy { check: Some(Arc::new(check)), ..Policy::default() };
        let mut services = Services::default();
        services.add_service(key(), "rr".parse().unwrap(), Params::new()).unwrap();
        services.add_server(&key(), rs(), None).unwrap();
        services.set_policy(&key(), policy).unwrap();
        let mut members = Members::default();
        members.follow(&services, 0);
        members
    }

    fn member(members: &Members) -> &Member {
        members.get(&(key(), rs())).unwrap()
    }

    fn hear(members: &mut Members, result: Result<(), CheckError>) -> Option<Verdict> {
        let check = member(members).check.clone().unwrap();
        let outcome = Outcome { member: (key(), rs()), check, result, took: Duration::ZERO };
        members.hear(outcome, 0)
    }

    fn unable() -> Result<(), CheckError> {
        Err(CheckError::Unable("connect: Too many open files".to_owned()))
    }

    fn failed() -> Result<(), CheckError> {
        Err(CheckError::Failed("connect: refused".to_owned()))
    }

    #[test]
    fn what_could_not_be_checked_stays_what_it_was() {
        let mut members = members();
        for (result, verdict) in [(Ok(()), Verdict::Up), (failed(), Verdict::Down)] {
            while hear(&mut members, result.clone()) != Some(verdict) {}
            for _ in 0..10 {
                assert_eq!(hear(&mut members, unable()), None);
                assert_eq!(member(&members).judge.verdict(), verdict);
            }
        }
        assert_eq!(member(&members).checks, (1, 3));
        assert_eq!(member(&members).unmade.count, 20);
        assert_eq!(member(&members).judge.error(), Some("connect: refused"));
        // Nor does it interrupt what goes on.
        hear(&mut members, Ok(()));
        hear(&mut members, unable());
        assert_eq!(hear(&mut members, Ok(())), Some(Verdict::Up));
    }

    #[test]
    fn one_that_was_never_checked_is_not_waited_for() {
        let mut members = members();
        assert!(!members.settled());
        assert_eq!(hear(&mut members, unable()), None);
        assert!(members.settled() && member(&members).judge.verdict() == Verdict::Checking);
        assert_eq!(members.out_of_sight(key()), 1, "no flows because of it: said at once");
        assert_eq!(hear(&mut members, failed()), Some(Verdict::Down));
        assert_eq!(members.out_of_sight(key()), 0);
    }

    #[test]
    fn a_moment_out_of_sight_is_not_worth_a_line() {
        let mut members = members();
        hear(&mut members, Ok(()));
        for expected in [0, 0, 1, 1] {
            hear(&mut members, unable());
            assert_eq!(members.out_of_sight(key()), expected);
        }
        hear(&mut members, Ok(()));
        assert_eq!(members.out_of_sight(key()), 0);
        assert_eq!(member(&members).unmade.why, None);
        hear(&mut members, unable());
        assert_eq!(members.out_of_sight(key()), 0, "it counts anew");
    }
}
