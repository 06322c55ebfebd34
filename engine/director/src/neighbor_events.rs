//! What there is to say about neighbors: each thing once, in one sentence.

use crate::layer2;
use crate::mac::{Mac, mac_text};
use dataplane::Millis;
use std::fmt;
use std::net::IpAddr;

/// How long what goes on and on is not said again.
const SAID_AGAIN: Millis = 600_000;
/// MAC addresses remembered by an address for that. Somebody who makes them up fills no memory.
const REMEMBERED: usize = 8;

/// What happened to a neighbor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It does not answer.
    Failed,
    /// It answers again.
    Answers,
    /// It has another MAC address.
    Moved {
        /// The one before.
        from: Mac,
        /// The one now.
        to: Mac,
    },
    /// Another machine claims an address that is in use.
    TwoMachines {
        /// The MAC address that still answers, and is kept.
        at: Mac,
        /// The other one.
        other: Mac,
    },
    /// A machine claims an address whose MAC address is set.
    Differs {
        /// The MAC address that it says.
        claimed: Mac,
    },
    /// Its MAC address is the director's own.
    OwnMac(Mac),
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborEvent {
    /// To whom.
    pub address: IpAddr,
    /// What.
    pub what: What,
}

impl NeighborEvent {
    /// Whether an operator should look after it.
    pub fn is_warning(&self) -> bool {
        !matches!(self.what, What::Answers | What::Moved { .. })
    }
}

impl fmt::Display for NeighborEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address;
        match self.what {
            What::Failed => write!(
                f,
                "real server {address} does not answer {}: it gets no new flows until it does",
                layer2::question(address)
            ),
            What::Answers => write!(f, "real server {address} answers again"),
            What::Moved { from, to } => write!(
                f,
                "real server {address} has the MAC address {} now, it had {}: its flows go there",
                mac_text(to),
                mac_text(from)
            ),
            What::TwoMachines { at, other } => write!(
                f,
                "{} claims the address of real server {address} too, which {} still answers for and keeps: take the address off one of the two machines",
                mac_text(other),
                mac_text(at)
            ),
            What::Differs { claimed } => write!(
                f,
                "{} claims the address of real server {address}, whose MAC address is set to another one: change the set one if the machine was replaced, else find out whose that is",
                mac_text(claimed)
            ),
            What::OwnMac(mac) => write!(f, "real server {address} gets no flows: {}", own_mac(mac)),
        }
    }
}

/// Why a MAC address of the director's own is of no use.
pub(crate) fn own_mac(mac: Mac) -> String {
    format!(
        "its MAC address would be {}, the director's own, and what is sent there comes back: correct what answers for it with that one (proxy ARP, a copied machine, a neighbor entry set by hand)",
        mac_text(mac)
    )
}

/// Something that goes on, or did lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Saying {
    what: What,
    /// When it was said.
    said: Millis,
    /// When it was last so.
    last: Millis,
}

impl Saying {
    fn is_of_late(&self, now: Millis) -> bool {
        now < self.last + SAID_AGAIN
    }
}

/// What was said lately of one address.
pub(crate) type Said = Vec<Saying>;

/// The MAC addresses of other machines that claimed an address lately.
pub(crate) fn claims(said: &Said, now: Millis) -> impl Iterator<Item = Mac> {
    let of_late = said.iter().filter(move |saying| saying.is_of_late(now));
    of_late.filter_map(|saying| match saying.what {
        What::TwoMachines { other, .. } => Some(other),
        What::Differs { claimed } => Some(claimed),
        _ => None,
    })
}

/// Where one address says what happened to it.
pub(crate) struct Events<'a> {
    pub address: IpAddr,
    pub to: &'a mut Vec<NeighborEvent>,
    pub said: &'a mut Said,
}

impl Events<'_> {
    pub fn say(&mut self, what: What) {
        self.to.push(NeighborEvent { address: self.address, what });
    }

    /// For what may happen many times a second.
    pub fn say_now_and_then(&mut self, what: What, now: Millis) {
        self.said.retain(|saying| saying.is_of_late(now));
        let full = self.said.len() >= REMEMBERED;
        match self.said.iter_mut().find(|saying| saying.what == what) {
            Some(saying) => {
                saying.last = now;
                if now < saying.said + SAID_AGAIN {
                    return;
                }
                saying.said = now;
            }
            None if full => return,
            None => self.said.push(Saying { what, said: now, last: now }),
        }
        self.say(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(said: &mut Said, what: What, now: Millis) -> usize {
        let mut to = Vec::new();
        let address = [172, 17, 100, 1].into();
        Events { address, to: &mut to, said }.say_now_and_then(what, now);
        to.len()
    }

    #[test]
    fn what_goes_on_is_said_now_and_then() {
        let mut said = Said::new();
        let claim = |last| What::Differs { claimed: [2, 0, 0, 0, 0, last] };
        assert_eq!(say(&mut said, claim(1), 0), 1);
        assert_eq!(say(&mut said, claim(1), SAID_AGAIN - 1), 0);
        assert_eq!(say(&mut said, claim(2), SAID_AGAIN - 1), 1, "of another one");
        assert_eq!(say(&mut said, claim(1), SAID_AGAIN), 1);
        let claimed = |now| claims(&said, now).map(|mac| mac[5]).collect::<Vec<u8>>();
        assert_eq!(claimed(SAID_AGAIN), [1, 2]);
        assert_eq!(claimed(2 * SAID_AGAIN - 1), [1], "the last to be heard");
        assert_eq!(claimed(2 * SAID_AGAIN), [0; 0]);
        let more = (10..255).map(|last| say(&mut said, claim(last), SAID_AGAIN)).sum::<usize>();
        assert_eq!(more, REMEMBERED - 2, "made-up ones flood neither log nor memory");
    }

    #[test]
    fn each_event_is_a_sentence_that_names_the_address() {
        let (at, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 0xab]);
        for (what, warning, expected) in [
            (What::Failed, true, "does not answer ARP: it gets no new flows"),
            (What::Answers, false, "answers again"),
            (What::Moved { from: at, to: other }, false, "02:00:00:00:00:ab now, it had 02:00"),
            (What::TwoMachines { at, other }, true, "02:00:00:00:00:ab claims the address of"),
            (What::Differs { claimed: other }, true, "is set to another one"),
            (What::OwnMac(at), true, "the director's own"),
        ] {
            let event = NeighborEvent { address: [172, 17, 100, 1].into(), what };
            let text = event.to_string();
            assert!(text.contains(expected) && text.contains("172.17.100.1"), "{text}");
            assert_eq!(event.is_warning(), warning, "{text}");
        }
        let address = "fd00::1".parse().unwrap();
        let text = NeighborEvent { address, what: What::Failed }.to_string();
        assert!(text.contains("neighbor solicitations"), "{text}");
    }
}
