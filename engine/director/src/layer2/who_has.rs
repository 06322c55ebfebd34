//! Asks on a link who has an address, and listens to who answers.

use crate::layer2::awaited;
use crate::layer2::frames::{
    ARP, Claim, IPV6, arp_filter, arp_probe, duplicate_solicitation, neighbor_filter, read_claim,
};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout_at};
use xsk::PacketSocket;

/// How often it is asked: a frame may get lost.
const PROBES: u32 = 3;
/// More than any message that tells who has an address.
const FRAME_MAX: usize = 1_514;

/// What machines on a link say about who has an address.
#[derive(Debug)]
pub struct Ear {
    socket: AsyncFd<PacketSocket>,
}

impl Ear {
    /// Listens on the link with this index: to ARP, or to neighbor discovery. Needs CAP_NET_RAW.
    pub fn open(link: u32, v4: bool) -> io::Result<Ear> {
        let socket = match v4 {
            true => PacketSocket::open(link, ARP, &arp_filter()),
            false => PacketSocket::open(link, IPV6, &neighbor_filter()),
        }?;
        Ok(Ear { socket: awaited(socket)? })
    }

    /// Sends a frame out of the link.
    pub fn say(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame)
    }

    /// The next claim that somebody else on the link makes. Errors: the link is gone.
    pub async fn hear(&self) -> io::Result<Claim> {
        let mut buffer = [0; FRAME_MAX];
        loop {
            let heard =
                self.socket.async_io(Interest::READABLE, |socket| socket.receive(&mut buffer));
            match heard.await {
                Ok(length) => {
                    if let Some(claim) = read_claim(&buffer[..length]) {
                        return Ok(claim);
                    }
                }
                // Said once when the link goes down; what comes after it is up again is heard.
                Err(error) if error.kind() == ErrorKind::NetworkDown => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The MAC addresses of all who answer for an address on a link within `patience`, but for
/// `own_mac`. It is asked three times in the first three fifths of that.
///
/// The question claims nothing (RFC 5227, 2.1.1; RFC 4862, 5.4.2). It fails when the link is down,
/// is gone, or CAP_NET_RAW is missing.
pub async fn who_has(
    link: u32,
    own_mac: [u8; 6],
    address: IpAddr,
    patience: Duration,
) -> io::Result<BTreeSet<[u8; 6]>> {
    let ear = Ear::open(link, address.is_ipv4())?;
    let probe = match address {
        IpAddr::V4(address) => arp_probe(own_mac, address),
        IpAddr::V6(address) => duplicate_solicitation(own_mac, address),
    };
    let began = Instant::now();
    let mut answered = BTreeSet::new();
    let ask = async {
        for number in 0..PROBES {
            sleep_until(began + patience * 3 / 5 * number / PROBES).await;
            ear.say(&probe)?;
        }
        std::future::pending::<io::Result<()>>().await
    };
    let listen = async {
        loop {
            let claim = ear.hear().await?;
            if claim.address == address && claim.mac != own_mac {
                answered.insert(claim.mac);
            }
        }
    };
    let both = async {
        tokio::select! {
            result = ask => result,
            result = listen => result,
        }
    };
    match timeout_at(began + patience, both).await {
        Ok(Err(error)) => Err(error),
        _ => Ok(answered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::{
        Family, MachineLock, NIC, Plan, director_mac, real_server_address, real_server_mac, vip,
    };
    use nix::net::if_::if_nametoindex;

    const PATIENCE: Duration = Duration::from_millis(500);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn those_who_answer_are_named_and_those_who_must_not_do_not() {
        let _lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("who-has").ipv6().build().unwrap();
        let ask = |address: IpAddr| {
            let asked = topology.director.run(|| {
                let link = if_nametoindex(NIC).unwrap();
                runtime().block_on(who_has(link, director_mac(), address, PATIENCE))
            });
            asked.unwrap().unwrap()
        };
        for family in [Family::V4, Family::V6] {
            let rs1 = real_server_address(1, family);
            assert_eq!(ask(rs1), BTreeSet::from([real_server_mac(1)]));
            // The director has it, and both real servers have it on lo.
            assert_eq!(ask(vip(family)), BTreeSet::new());
        }
        for scope in ["all", "lo"] {
            let setting = format!("net.ipv4.conf.{scope}.arp_ignore");
            topology.real_server(2).sysctl(&setting, "0").unwrap();
        }
        topology
            .real_server(1)
            .ip(&format!("address add {}/128 dev {NIC} nodad", vip(Family::V6)))
            .unwrap();
        assert_eq!(ask(vip(Family::V4)), BTreeSet::from([real_server_mac(2)]));
        assert_eq!(ask(vip(Family::V6)), BTreeSet::from([real_server_mac(1)]));
    }

    #[test]
    fn a_link_that_is_down_is_an_error() {
        let _lock = MachineLock::acquire().unwrap();
        let topology = Plan::new("who-down").build().unwrap();
        let ask = |topology: &lab::Topology| {
            let asked = topology.director.run(|| {
                let link = if_nametoindex(NIC).unwrap();
                runtime().block_on(who_has(link, director_mac(), vip(Family::V4), PATIENCE))
            });
            asked.unwrap()
        };
        topology.director.ip(&format!("link set {NIC} down")).unwrap();
        assert_eq!(ask(&topology).unwrap_err().kind(), ErrorKind::NetworkDown);
        topology.director.ip(&format!("link set {NIC} up")).unwrap();
        assert_eq!(ask(&topology).unwrap(), BTreeSet::new());
    }
}
