//! From which address a real server is asked.
//!
//! A real server drops what comes from a VIP, since that is an address of its own. The kernel would
//! ask from one where it is the first address on their network (IPv4), or the one nearest to the
//! server's (IPv6, unless it is deprecated: RFC 6724, rules 3 and 8 of section 5).

use crate::addresses::{self, OwnAddress};
use crate::neighbors::Reach;
use crate::netlink_read::Connection;
use crate::supervisor::Supervisor;
use std::net::IpAddr;
use tokio::sync::Mutex;

/// Whether an address is a VIP of some service.
pub(super) fn is_vip(supervisor: &Supervisor, address: IpAddr) -> bool {
    supervisor.services().services().any(|(_, service)| service.key.address == address)
}

/// What to ask a server from; `None`: the kernel's choice is right. Errors: one clause.
pub(super) async fn for_sockets(
    supervisor: &Mutex<Supervisor>,
    server: IpAddr,
) -> Result<Option<IpAddr>, String> {
    let link = {
        let supervisor = supervisor.lock().await;
        match supervisor.neighbors.reach(server) {
            Some(&Reach::OnLink { link, source: Some(source), .. })
                if is_vip(&supervisor, source) =>
            {
                link
            }
            _ => return Ok(None),
        }
    };
    beside_the_vips(supervisor, link, server).await.map(Some)
}

/// An address of the director's own, and no VIP, on a server's network. Errors: one clause.
pub(super) async fn beside_the_vips(
    supervisor: &Mutex<Supervisor>,
    link: u32,
    server: IpAddr,
) -> Result<IpAddr, String> {
    let connection = Connection::open()?;
    let own = addresses::list(&connection.handle).await?;
    let supervisor = supervisor.lock().await;
    let fits = |own: &&OwnAddress| {
        own.link == link
            && addresses::holds(own.address, own.prefix, server)
            && !is_vip(&supervisor, own.address)
    };
    let none = "the director has no address of its own on the real server's network";
    own.iter().find(fits).map(|own| own.address).ok_or_else(|| none.to_owned())
}
