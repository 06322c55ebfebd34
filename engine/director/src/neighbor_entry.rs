//! One neighbor entry: what is known of a real server's MAC address, and what to do about it.
//!
//! Pure, with the time as a parameter, like [`crate::neighbors`], whose entries these are.

use crate::mac::Mac;
use crate::neighbor_events::{Events, What, own_mac};
use crate::neighbors::{KernelState, MISSES, NeighborState, REFRESH, Reach};
use dataplane::{Millis, Neighbor};

/// Rest after the kernel failed to find an address, before it is asked again; doubles each time.
const RETRY_FIRST: Millis = 1_000;
/// The longest such rest.
const RETRY_LAST: Millis = 4_000;
/// Time that the kernel gets to find an address: a little more than its three probes take.
const PATIENCE: Millis = 4_000;
/// Time that a machine gets to show that it still has its address when another one claims it. An
/// answer takes less than a millisecond; a changed MAC address is to be followed within a second.
const RIVAL_PATIENCE: Millis = 300;
/// Time between two questions to it meanwhile: the kernel may have asked the other machine instead,
/// which it followed in the same moment.
const RIVAL_AGAIN: Millis = 100;

/// What to ask the kernel for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AskKind {
    /// Find the MAC address out.
    Resolve,
    /// Have this MAC address in the entry, unconfirmed.
    Tell(Mac),
    /// Confirm the MAC address that is known.
    Probe,
}

/// Another machine says that it has the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rival {
    mac: Mac,
    /// When the machine that had it was asked whether it still has.
    asked: Option<Millis>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub reach: Reach,
    /// Set in the config: never asked for, never changed.
    pub fixed: bool,
    /// The last MAC address known: established flows go there even while the entry is failed.
    pub mac: Option<Mac>,
    /// How often the MAC address changed from one to another.
    pub changes: u64,
    /// Why the entry is of no use although there is an answer.
    pub problem: Option<String>,
    pub seen_in_dump: bool,
    kernel: KernelState,
    /// The MAC address in the kernel's entry, if that is valid.
    kernel_mac: Option<Mac>,
    /// Confirmed when it was last asked.
    confirmed: bool,
    /// Gone, and no answer since: while the kernel tries again, it says INCOMPLETE.
    failed: bool,
    /// Probes since the last answer.
    unanswered: u8,
    rival: Option<Rival>,
    ask_at: Millis,
    /// The rest before the next retry; 0 while all is well.
    retry: Millis,
}

impl Entry {
    pub fn new(reach: Reach) -> Entry {
        Entry {
            reach,
            fixed: false,
            mac: None,
            changes: 0,
            problem: None,
            seen_in_dump: false,
            kernel: KernelState::Incomplete,
            kernel_mac: None,
            confirmed: false,
            failed: false,
            unanswered: 0,
            rival: None,
            ask_at: 0,
            retry: 0,
        }
    }

    /// It is reached in another way: what was learned before says nothing about this one.
    pub fn moved(&mut self, reach: Reach) {
        let mut next = Entry { changes: self.changes, ..Entry::new(reach) };
        if self.fixed {
            (next.fixed, next.mac) = (true, self.mac);
            next.problem = self.problem.take();
        }
        *self = next;
    }

    /// The config gives the MAC address, or no longer does.
    pub fn fix(&mut self, mac: Option<Mac>) {
        match mac {
            Some(mac) => {
                let reach = std::mem::take(&mut self.reach);
                let changes = self.changes;
                *self = Entry { fixed: true, mac: Some(mac), changes, ..Entry::new(reach) };
            }
            None => {
                self.fixed = false;
                self.ask_at = 0;
            }
        }
    }

    /// The kernel has an entry with a MAC address of the director's own.
    pub fn learned_own(&mut self, state: KernelState, own: Mac, now: Millis, events: &mut Events) {
        self.kernel = state;
        self.kernel_mac = Some(own);
        if self.fixed {
            self.claimed(own, now, events);
        } else if self.mac.is_some() && !self.failed && state != KernelState::Permanent {
            // The one that is known has to answer.
            self.ask_at = now;
        } else {
            self.refuse(own, now, events);
        }
    }

    /// This MAC address is the director's own: nothing is sent there.
    pub fn refuse(&mut self, own: Mac, now: Millis, events: &mut Events) {
        if self.mac == Some(own) || self.kernel == KernelState::Permanent {
            self.mac = None;
        }
        self.failed = true;
        self.rival = None;
        self.problem = Some(own_mac(own));
        events.say_now_and_then(What::OwnMac(own), now);
    }

    /// The kernel has an entry in this state. `mac` is one that can be used, if there is one.
    pub fn learned(
        &mut self,
        state: KernelState,
        mac: Option<Mac>,
        now: Millis,
        events: &mut Events,
    ) {
        let before = std::mem::replace(&mut self.kernel, state);
        self.kernel_mac = mac;
        if self.fixed {
            if let Some(mac) = mac {
                self.claimed(mac, now, events);
            }
            return;
        }
        match (state, mac) {
            (KernelState::Failed, _) => self.fail(now, events),
            (KernelState::Permanent, Some(mac)) => {
                self.take(mac, events);
                self.confirm(now, events);
            }
            (KernelState::Reachable, Some(mac)) => {
                self.claimed(mac, now, events);
                if self.mac == Some(mac) {
                    self.confirm(now, events);
                }
            }
            (KernelState::Unconfirmed, Some(mac)) => {
                self.claimed(mac, now, events);
                if self.unanswered == 0 {
                    self.confirmed = false;
                }
                // That it is valid again means that something was heard from it.
                let valid = |state| !matches!(state, KernelState::Failed | KernelState::Incomplete);
                if self.failed && !valid(before) && self.mac == Some(mac) {
                    self.answers(events);
                    self.ask_at = self.ask_at.min(now);
                }
            }
            _ => {}
        }
    }

    /// A machine says that it has the address and this MAC address, which can be used.
    pub fn claimed(&mut self, mac: Mac, now: Millis, events: &mut Events) {
        if self.mac == Some(mac) {
            if self.failed {
                self.ask_at = self.ask_at.min(now);
            }
        } else if self.is_set() {
            events.say_now_and_then(What::Differs { claimed: mac }, now);
        } else if self.failed || self.mac.is_none() {
            self.take(mac, events);
            self.answers(events);
            self.ask_at = now;
            if matches!(self.kernel, KernelState::Failed | KernelState::Incomplete) {
                // It will be told.
                self.kernel = KernelState::Unconfirmed;
            }
        } else if self.rival.is_none_or(|rival| rival.mac != mac) {
            // Whoever has it now is asked first: two machines with one address must not take
            // each other's flows in turns.
            // It may have been asked for another claim already: it gets its time, and no more
            // questions, however many claim its address.
            let asked = self.rival.and_then(|rival| rival.asked);
            self.rival = Some(Rival { mac, asked });
            if asked.is_none() {
                self.ask_at = now;
            }
        }
    }

    /// By hand or by the config: nothing that is heard changes it.
    pub fn is_set(&self) -> bool {
        self.fixed || self.kernel == KernelState::Permanent
    }

    /// The kernel has no entry any more, which says nothing about the neighbor.
    pub fn deleted(&mut self, now: Millis) {
        self.kernel = KernelState::Incomplete;
        self.kernel_mac = None;
        self.confirmed = false;
        self.unanswered = 0;
        self.ask_at = self.ask_at.min(now);
    }

    /// All that the kernel has was read, and this was not there.
    pub fn missing(&mut self, now: Millis) {
        // Else it is no news.
        if self.kernel != KernelState::Incomplete {
            self.deleted(now);
        }
    }

    /// The link is up again.
    pub fn link_up(&mut self, now: Millis) {
        if self.failed {
            self.retry = 0;
            self.ask_at = self.ask_at.min(now);
        }
    }

    /// What to ask the kernel for now.
    pub fn due(&mut self, now: Millis, events: &mut Events) -> Vec<AskKind> {
        if self.is_set() {
            return Vec::new();
        }
        if let Some(Rival { mac, asked: Some(asked) }) = self.rival
            && now >= asked + RIVAL_PATIENCE
        {
            self.take(mac, events);
            self.ask_at = now;
        }
        if self.ask_at > now {
            return Vec::new();
        }
        let Some(mac) = self.mac.filter(|_| self.can_be_probed()) else {
            if std::mem::replace(&mut self.unanswered, 1) > 0 && !self.failed {
                // Not a word about it, not even that there is no answer: its table may be full.
                self.fail(now, events);
            }
            self.retry = (self.retry * 2).clamp(RETRY_FIRST, RETRY_LAST);
            self.ask_at = now + PATIENCE;
            // An entry that is valid, and of no use, goes only if it is probed in vain.
            let valid = self.kernel_mac.is_some();
            return vec![if valid { AskKind::Probe } else { AskKind::Resolve }];
        };
        let again = self.rival.is_some_and(|rival| rival.asked.is_some());
        if !again && self.unanswered >= MISSES {
            // The kernel says so too, unless somebody has given it more patience.
            self.fail(now, events);
            self.ask_at = now + PATIENCE;
            return Vec::new();
        }
        if !again {
            self.unanswered += 1;
            self.confirmed &= self.unanswered == 1;
        }
        self.ask_at = now + REFRESH;
        if let Some(rival) = &mut self.rival {
            rival.asked.get_or_insert(now);
            self.ask_at = now + RIVAL_AGAIN;
        }
        // What the kernel is known to have may be old: it follows the other machine as soon as it
        // hears it, and would ask that one.
        let tell =
            (self.rival.is_some() || self.kernel_mac != Some(mac)).then_some(AskKind::Tell(mac));
        tell.into_iter().chain([AskKind::Probe]).collect()
    }

    /// When something is due again.
    pub fn due_at(&self) -> Option<Millis> {
        (!self.is_set()).then_some(self.ask_at)
    }

    /// Whether a question to the one MAC address that is known makes sense, rather than one to
    /// everybody.
    fn can_be_probed(&self) -> bool {
        !self.failed && (self.kernel != KernelState::Incomplete || self.rival.is_some())
    }

    fn take(&mut self, mac: Mac, events: &mut Events) {
        if let Some(from) = self.mac.filter(|&from| from != mac) {
            self.changes += 1;
            events.say(What::Moved { from, to: mac });
        }
        self.mac = Some(mac);
        self.problem = None;
        self.rival = None;
        self.unanswered = 0;
        self.confirmed = false;
    }

    fn confirm(&mut self, now: Millis, events: &mut Events) {
        // What was heard before it was asked proves nothing.
        if let (Some(Rival { mac: other, asked: Some(_) }), Some(at)) = (self.rival, self.mac) {
            events.say_now_and_then(What::TwoMachines { at, other }, now);
            self.rival = None;
        }
        self.answers(events);
        self.confirmed = true;
        self.retry = 0;
        if self.rival.is_none() {
            self.ask_at = now + REFRESH;
        }
    }

    fn answers(&mut self, events: &mut Events) {
        self.problem = None;
        self.unanswered = 0;
        if std::mem::take(&mut self.failed) {
            events.say(What::Answers);
        }
    }

    fn fail(&mut self, now: Millis, events: &mut Events) {
        self.unanswered = 0;
        self.confirmed = false;
        if let Some(rival) = self.rival {
            self.take(rival.mac, events);
            self.ask_at = now;
            return;
        }
        if !std::mem::replace(&mut self.failed, true) {
            events.say(What::Failed);
        }
        // A known address was probed by unicast. A machine that was replaced hears only a
        // broadcast, so the first retry follows at once.
        self.ask_at = now + self.retry;
    }

    /// Where frames go: the interface's position, and the addresses.
    pub fn forwards_to(&self) -> Option<(usize, Neighbor)> {
        match self.reach {
            Reach::OnLink { interface, vlans, .. } => {
                Some((interface, Neighbor { mac: self.mac?, vlans }))
            }
            _ => None,
        }
    }

    pub fn takes_new_flows(&self) -> bool {
        self.mac.is_some() && !self.failed
    }

    pub fn state(&self) -> NeighborState {
        match (&self.reach, self.failed, self.mac) {
            (Reach::Impossible(_), ..) => NeighborState::Impossible,
            (_, true, _) => NeighborState::Failed,
            (_, _, None) => NeighborState::Unresolved,
            _ if self.confirmed || self.is_set() => NeighborState::Reachable,
            _ => NeighborState::Stale,
        }
    }
}
