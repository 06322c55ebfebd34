//! Asks the machines around: who has the VIPs, who the real servers are, and whether they serve.

use super::finding::Read;
use super::servers::Asked;
use super::surroundings::Surroundings;
use crate::health::dr::{DrPath, ask};
use crate::layer2::who_has::who_has;
use crate::mac::Mac;
use crate::neighbors::Reach;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How long machines may take to say that they have an address.
const WHO_HAS: Duration = Duration::from_millis(600);
/// How long a real server may take to accept a connection.
const ACCEPT: Duration = Duration::from_secs(1);
/// How many are asked at once: each question has a socket, and answers all come at once.
const AT_ONCE: usize = 32;
/// How many virtual services a real server is asked for at once, so that one which is silent for all
/// of many does not take a second for each.
const SERVICES_AT_ONCE: usize = 8;

/// What a real server is asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// The real server.
    pub server: IpAddr,
    /// Its MAC address, as the running director has it.
    pub known: Option<Mac>,
    /// Virtual services over TCP.
    pub services: Vec<SocketAddr>,
}

/// What it answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Who has its address.
    pub answering: Option<Read<BTreeSet<Mac>>>,
    /// Whether it took a connection to each service.
    pub dr: BTreeMap<SocketAddr, Result<(), Asked>>,
}

/// The link that a machine is on, and how it is asked there.
#[derive(Debug, Clone, Copy)]
struct From {
    link: u32,
    own_mac: Mac,
    source: Option<IpAddr>,
}

/// Asks all real servers that are on the link. What comes from one of the VIPs a real server would
/// drop, as its own.
pub async fn ask_servers(
    around: &Surroundings,
    served: &[u32],
    vips: &[IpAddr],
    questions: Vec<Question>,
) -> BTreeMap<IpAddr, Answer> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for question in questions {
        let Ok(Reach::OnLink { link, source, .. }) = around.reach(served, question.server) else {
            continue;
        };
        let beside = || around.beside(served, vips, question.server).map(|own| own.address);
        let source = source.filter(|source| !vips.contains(source)).or_else(beside);
        let Some(own_mac) = around.row(link).and_then(|row| row.mac) else { continue };
        let turns = turns.clone();
        tasks.spawn(async move {
            let _turn = turns.acquire().await;
            let server = question.server;
            (server, ask_server(From { link, own_mac, source }, question).await)
        });
    }
    tasks.join_all().await.into_iter().collect()
}

async fn ask_server(from: From, question: Question) -> Answer {
    let From { link, own_mac, source } = from;
    let answering = who_has(link, own_mac, question.server, WHO_HAS).await;
    let answering = answering.map_err(|error| error.to_string());
    let only = answering.as_ref().ok().filter(|macs| macs.len() == 1);
    let mac = only.and_then(|macs| macs.first().copied()).or(question.known);
    let Some(server_mac) = mac else {
        return Answer { answering: Some(answering), dr: BTreeMap::new() };
    };
    let asked = move |vip| async move {
        let outcome = match source {
            Some(source) => serves(&DrPath { link, own_mac, source, server_mac }, vip).await,
            None => Err(Asked::Unable(
                "this machine has no address of its own on that network".to_owned(),
            )),
        };
        (vip, outcome)
    };
    let asked = stream::iter(question.services).map(asked);
    let dr = asked.buffer_unordered(SERVICES_AT_ONCE).collect().await;
    Answer { answering: Some(answering), dr }
}

async fn serves(path: &DrPath, vip: SocketAddr) -> Result<(), Asked> {
    ask(path, vip, ACCEPT).await.map_err(|error| match error.is_own() {
        false => Asked::Failed(error.to_string()),
        true => Asked::Unable(error.to_string()),
    })
}

/// Asks who has each VIP, each on its link.
pub async fn ask_for_vips(
    around: &Surroundings,
    vips: &[(IpAddr, u32)],
) -> BTreeMap<IpAddr, Read<BTreeSet<Mac>>> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for &(vip, link) in vips {
        let Some(own_mac) = around.row(link).and_then(|row| row.mac) else { continue };
        let turns = turns.clone();
        tasks.spawn(async move {
            let _turn = turns.acquire().await;
            let answering = who_has(link, own_mac, vip, WHO_HAS).await;
            (vip, answering.map_err(|error| error.to_string()))
        });
    }
    tasks.join_all().await.into_iter().collect()
}
