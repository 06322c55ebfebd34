//! Who else says that they have a VIP: heard, named, counted, and over.
//!
//! Somebody who makes MAC addresses up must neither flood the log nor make series of metrics without
//! end: of the claimants that are no real server's, the first `STRANGERS_MAX` within an hour are
//! named, and what the others say is counted. There are only so many real servers.

use crate::layer2;
use crate::mac::{Mac, mac_text as text};
use crate::vips::Act;
use dataplane::Millis;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A claim that was not repeated for so long has ended: three questions without an answer.
pub const CLAIM: Millis = 15_000;
/// Claimants of one VIP that are named although they are no real server's.
const STRANGERS_MAX: usize = 8;
/// How long a silent one keeps its place among those.
const FORGOTTEN: Millis = 3_600_000;
/// How long a claim that comes and goes is not said again.
const SAID_AGAIN: Millis = 60_000;
/// The same of those that are only counted.
const COUNTED_AGAIN: Millis = 600_000;
/// Claimants that one sentence names, and that a listing does.
const IN_A_SENTENCE: usize = 8;
const IN_A_LISTING: usize = 3;

/// Whose a MAC address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// A real server's.
    Server(IpAddr),
    /// That of the director's own link with this name, which is not the one that the VIP is on.
    Own(String),
    /// Nobody's who is known.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    whose: Whose,
    heard: Millis,
    /// It was repeated lately.
    stands: bool,
    /// That was said, and so its end will be.
    told: bool,
    /// When it was said last.
    said: Option<Millis>,
}

/// What those say who are not named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rest {
    count: u64,
    /// The count when it was said last, and when that was.
    told: u64,
    said: Option<Millis>,
    heard: Millis,
    stands: bool,
}

/// The claims of one VIP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    named: BTreeMap<Mac, Claim>,
    rest: Rest,
}

impl Claims {
    /// Somebody claims the VIP. Returns whether that is news.
    pub fn heard(&mut self, mac: Mac, whose: Whose, now: Millis) -> bool {
        if let Some(claim) = self.named.get_mut(&mac) {
            (claim.whose, claim.heard) = (whose, now);
            return !std::mem::replace(&mut claim.stands, true);
        }
        self.named.retain(|_, claim| now < claim.heard + FORGOTTEN);
        let strangers = self.named.values().filter(|claim| claim.whose == Whose::Unknown).count();
        if whose == Whose::Unknown && strangers >= STRANGERS_MAX {
            self.rest.count += 1;
            self.rest.heard = now;
            return !std::mem::replace(&mut self.rest.stands, true);
        }
        let claim = Claim { whose, heard: now, stands: true, told: false, said: None };
        self.named.insert(mac, claim);
        true
    }

    /// This director has the VIP no more: whoever claims it does so by right.
    pub fn end(&mut self) {
        for claim in self.named.values_mut() {
            (claim.stands, claim.told) = (false, false);
        }
        self.rest.stands = false;
        self.rest.told = self.rest.count;
    }

    /// What is to be said now.
    pub fn due(&mut self, vip: IpAddr, now: Millis) -> Vec<Act> {
        let mut acts = Vec::new();
        for (&mac, claim) in self.named.iter_mut().filter(|(_, claim)| claim.stands) {
            if claim.heard + CLAIM <= now {
                claim.stands = false;
                if std::mem::take(&mut claim.told) {
                    acts.push(Act::Say(format!("{} no longer claims VIP {vip}", text(mac))));
                }
            } else if !claim.told && claim.said.is_none_or(|at| at + SAID_AGAIN <= now) {
                (claim.told, claim.said) = (true, Some(now));
                acts.push(Act::Warn(sentence(vip, mac, &claim.whose)));
            }
        }
        let rest = &mut self.rest;
        rest.stands &= rest.heard + CLAIM > now;
        if rest.is_to_be_said() && rest.said.is_none_or(|at| at + COUNTED_AGAIN <= now) {
            let news = rest.count - rest.told;
            (rest.told, rest.said) = (rest.count, Some(now));
            let times = if news == 1 { "time" } else { "times" };
            acts.push(Act::Warn(format!(
                "VIP {vip} was claimed {news} more {times} by others than the {STRANGERS_MAX} machines that were named within the hour: these are only counted; somebody makes MAC addresses up, and the switch knows at which port"
            )));
        }
        acts
    }

    /// When there is something to say.
    pub fn next(&self) -> Option<Millis> {
        let of_claim = |claim: &Claim| {
            let end = claim.heard + CLAIM;
            let again = claim.said.map_or(0, |at| at + SAID_AGAIN);
            if claim.told { end } else { end.min(again) }
        };
        let standing = self.named.values().filter(|claim| claim.stands).map(of_claim).min();
        let rest = &self.rest;
        let end = rest.stands.then_some(rest.heard + CLAIM);
        let counted = rest.is_to_be_said().then(|| rest.said.map_or(0, |at| at + COUNTED_AGAIN));
        [standing, end, counted].into_iter().flatten().min()
    }

    /// The MAC addresses of those that are named and whose claims stand.
    pub fn standing(&self) -> impl Iterator<Item = Mac> {
        self.named.iter().filter(|(_, claim)| claim.stands).map(|(&mac, _)| mac)
    }

    /// How often those claimed it who are not named.
    pub fn unnamed(&self) -> u64 {
        self.rest.count
    }

    /// Who claims it, for a listing.
    pub fn listed(&self) -> Option<String> {
        let mut who: Vec<String> = self.standing().map(text).collect();
        let more = who.len().saturating_sub(IN_A_LISTING);
        who.truncate(IN_A_LISTING);
        if self.rest.stands {
            who.push("many more".to_owned());
        } else if more > 0 {
            who.push(format!("{more} more"));
        }
        enumerated(&who)
    }
}

impl Rest {
    fn is_to_be_said(&self) -> bool {
        self.count > self.told
    }
}

/// "a", "a and b", "a, b and c".
pub fn enumerated(all: &[String]) -> Option<String> {
    let (last, others) = all.split_last()?;
    Some(if others.is_empty() { last.clone() } else { format!("{} and {last}", others.join(", ")) })
}

/// Who claims a VIP: the MAC address, and whose it is.
fn claimant(mac: Mac, server: Option<IpAddr>) -> String {
    match server {
        Some(server) => format!("real server {server} ({})", text(mac)),
        None => format!("{}, which is no real server's,", text(mac)),
    }
}

/// What is said of one claim.
fn sentence(vip: IpAddr, mac: Mac, whose: &Whose) -> String {
    let asked = layer2::question(vip);
    let server = match whose {
        Whose::Own(link) => {
            return format!(
                "this director answers {asked} for VIP {vip} on {link}, too ({}): packets of clients that come there do not reach the real servers; `sysctl -w net.ipv4.conf.{}.arp_ignore=1` ends that",
                text(mac),
                link.replace('.', "/")
            );
        }
        Whose::Server(server) => Some(*server),
        Whose::Unknown => None,
    };
    let duplicate = duplicate(vip, &BTreeMap::from([(mac, server)]));
    format!("{duplicate}: packets of clients may go past this director")
}

/// That other machines answer for a VIP, and what ends it.
pub fn duplicate(vip: IpAddr, by: &BTreeMap<Mac, Option<IpAddr>>) -> String {
    // What somebody makes up must not hide a real server.
    let (servers, strangers): (Vec<_>, Vec<_>) =
        by.iter().map(|(&mac, &server)| (mac, server)).partition(|(_, server)| server.is_some());
    let all = servers.iter().chain(&strangers);
    let named = all.take(IN_A_SENTENCE).map(|&(mac, server)| claimant(mac, server));
    let mut who: Vec<String> = named.collect();
    if by.len() > who.len() {
        who.push(format!("{} more", by.len() - who.len()));
    }
    let mut remedies = Vec::new();
    if !servers.is_empty() {
        remedies.push(format!("`shunt rs setup --vip {vip}` there ends that"));
    }
    if !strangers.is_empty() {
        remedies.push(
            "another director, another NIC of a real server, or a machine that must give it up"
                .to_owned(),
        );
    }
    format!(
        "{} {} {} for VIP {vip} ({})",
        enumerated(&who).unwrap_or_default(),
        if by.len() == 1 { "answers" } else { "answer" },
        layer2::question(vip),
        remedies.join("; else: ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const RS: Mac = [2, 0, 0, 0, 0, 1];

    fn vip() -> IpAddr {
        [172, 17, 100, 100].into()
    }

    fn server() -> IpAddr {
        [172, 17, 100, 1].into()
    }

    fn of_server() -> Whose {
        Whose::Server(server())
    }

    fn stranger(number: u16) -> Mac {
        let [high, low] = number.to_be_bytes();
        [2, 0, 0, 1, high, low]
    }

    /// What was said, in order.
    fn said(claims: &mut Claims, now: Millis) -> Vec<String> {
        let sentence = |act| match act {
            Act::Say(sentence) | Act::Warn(sentence) => sentence,
            other => panic!("{other:?}"),
        };
        claims.due(vip(), now).into_iter().map(sentence).collect()
    }

    #[test]
    fn a_claim_is_said_once_and_its_end_too() {
        let mut claims = Claims::default();
        assert!(claims.heard(RS, of_server(), 1_000));
        assert_eq!(claims.next(), Some(0));
        let [sentence] = &said(&mut claims, 1_000)[..] else { panic!() };
        let expected = "real server 172.17.100.1 (02:00:00:00:00:01) answers ARP for VIP 172.17.100.100 (`shunt rs setup";
        assert!(sentence.starts_with(expected), "{sentence}");
        assert!(!claims.heard(RS, of_server(), 5_000), "no news");
        assert!(said(&mut claims, 5_000).is_empty());
        assert_eq!((claims.next(), claims.standing().count()), (Some(5_000 + CLAIM), 1));
        let end = said(&mut claims, 5_000 + CLAIM);
        assert_eq!(end, ["02:00:00:00:00:01 no longer claims VIP 172.17.100.100"]);
        assert_eq!((claims.next(), claims.standing().count()), (None, 0));
    }

    #[test]
    fn what_comes_and_goes_is_said_once_a_minute() {
        let mut claims = Claims::default();
        let mut lines = 0;
        // For ten minutes it claims for a second, and is silent for twenty.
        for now in (0..600_000).step_by(500) {
            if now % 21_000 < 1_000 {
                claims.heard(RS, of_server(), now);
            }
            lines += said(&mut claims, now).len();
        }
        assert!((10..=20).contains(&lines), "{lines}");
        // One that stands is said at last, however short ago it was said.
        claims.heard(RS, of_server(), 600_000);
        for now in (600_000..660_000).step_by(5_000) {
            claims.heard(RS, of_server(), now);
            said(&mut claims, now);
        }
        assert!(claims.named[&RS].told);
    }

    #[test]
    fn those_who_are_made_up_are_counted_and_only_the_first_are_named() {
        let mut claims = Claims::default();
        let (mut lines, mut names) = (Vec::new(), std::collections::BTreeSet::new());
        // Ten a second for half an hour.
        for number in 0..18_000 {
            let now = u64::from(number) * 100;
            claims.heard(stranger(number), Whose::Unknown, now);
            lines.extend(said(&mut claims, now));
            names.extend(claims.standing());
        }
        assert_eq!(names.len(), STRANGERS_MAX, "series of metrics");
        assert_eq!(claims.unnamed(), 18_000 - STRANGERS_MAX as u64);
        // Each of the named begins and ends; the rest is told of every ten minutes.
        assert_eq!(lines.len(), 2 * STRANGERS_MAX + 3, "{lines:#?}");
        let counted: Vec<&String> = lines.iter().filter(|line| line.contains("counted")).collect();
        assert!(counted[0].contains("claimed 1 more time "), "{counted:#?}");
        assert!(counted[1].contains("claimed 6000 more times"), "{counted:#?}");
        assert_eq!(claims.listed().as_deref(), Some("many more"));
        // A real server is found among them all the same.
        assert!(claims.heard(RS, of_server(), 1_800_000));
        let listed = claims.listed().unwrap();
        assert_eq!(listed, "02:00:00:00:00:01 and many more");
        // It is over, and an hour later others are named again.
        said(&mut claims, 1_900_000);
        assert_eq!(claims.listed(), None);
        assert!(claims.heard(stranger(1), Whose::Unknown, 1_800_000 + FORGOTTEN));
        assert_eq!(claims.standing().collect::<Vec<_>>(), [stranger(1)]);
        assert_eq!(claims.unnamed(), 18_000 - STRANGERS_MAX as u64);
    }

    #[test]
    fn without_the_vip_every_claim_is_over_and_nothing_is_said_of_it() {
        let mut claims = Claims::default();
        for number in 0..20 {
            claims.heard(stranger(number), Whose::Unknown, 0);
        }
        said(&mut claims, 0);
        claims.heard(stranger(30), Whose::Unknown, 100);
        claims.end();
        assert_eq!((claims.listed(), claims.next()), (None, None));
        assert!(said(&mut claims, 700_000).is_empty());
    }

    #[test]
    fn another_link_of_the_directors_own_is_named_with_what_ends_it() {
        let mut claims = Claims::default();
        for number in 0..20 {
            claims.heard(stranger(number), Whose::Unknown, 0);
        }
        assert!(claims.heard(RS, Whose::Own("eth1.5".into()), 0), "however many others there are");
        let lines = said(&mut claims, 0);
        let own = lines.iter().find(|line| line.contains("this director answers ARP")).unwrap();
        let remedy = "`sysctl -w net.ipv4.conf.eth1/5.arp_ignore=1` ends that";
        assert!(
            own.contains("on eth1.5, too (02:00:00:00:00:01)") && own.ends_with(remedy),
            "{own}"
        );
    }

    #[test]
    fn several_are_named_in_one_sentence_real_servers_first() {
        let mut by: BTreeMap<Mac, Option<IpAddr>> =
            (0..20).map(|number| (stranger(number), None)).collect();
        by.insert([0xfe, 0, 0, 0, 0, 1], Some(server()));
        let sentence = duplicate(vip(), &by);
        let expected = "real server 172.17.100.1 (fe:00:00:00:00:01), 02:00:00:01:00:00, which is";
        assert!(sentence.starts_with(expected), "{sentence}");
        for part in ["and 13 more answer ARP for VIP", "there ends that; else: another director"] {
            assert!(sentence.contains(part), "{part} is not in {sentence}");
        }
        let strangers = BTreeMap::from([(stranger(1), None), (stranger(2), None)]);
        let sentence = duplicate("fd00::1".parse().unwrap(), &strangers);
        assert!(sentence.contains("real server's, answer neighbor solicitations"), "{sentence}");
        assert!(!sentence.contains("rs setup"), "{sentence}");
    }
}
