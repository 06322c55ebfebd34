//! The real servers' side of direct routing: `shunt rs setup`, `shunt rs teardown` and
//! `shunt rs check`.
//!
//! What the usual instructions for a real server say, and what does it here:
//!
//! | by hand | here |
//! |---|---|
//! | `ifconfig lo:0 VIP netmask 255.255.255.255 broadcast VIP up` | VIP/32 on lo; neither the label nor the broadcast address plays a part |
//! | `echo 1 > /proc/sys/net/ipv4/conf/{all,lo}/arp_ignore` | the same |
//! | `echo 2 > /proc/sys/net/ipv4/conf/{all,lo}/arp_announce` | the same |
//! | the four lines in /etc/sysctl.conf | `--persist`: a file of its own in /etc/sysctl.d, and a unit for the VIP |
//! | the gateway is the router, not the VIP (`route -n`) | `shunt rs check` |
//!
//! A real server has the VIP on an interface that answers no ARP, and neither answers nor asks
//! with it on the others: else it takes the director's traffic, or teaches the network a wrong
//! MAC address. What is to be done is decided apart from reading and doing:
//!
//! ```text
//! read ──▶ facts, record ──▶ plan ──▶ steps ──▶ /proc/sys, netlink, files
//!                 └────────▶ check ─▶ findings
//! ```

pub mod check;
pub mod facts;
pub mod finding;
mod look;
pub mod persist;
pub mod plan;
mod read;
pub mod record;
pub mod report;
pub mod steps;

pub use persist::LOOPBACK;

use crate::rs_cli::{RsCheckArgs, RsCommand, SetupArgs, TeardownArgs};
use finding::Findings;
use nix::fcntl::{Flock, FlockArg};
use plan::{Plan, Request};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use steps::ThisMachine;

/// Why nothing was done, one sentence a line.
#[derive(Debug, thiserror::Error)]
pub enum RsError {
    /// It must not be done, or has failed.
    #[error("{0}")]
    Refused(String),
    /// Not root.
    #[error("changing addresses and settings needs root (CAP_NET_ADMIN): repeat with sudo{0}")]
    NotRoot(&'static str),
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] crate::commands::CommandError),
}

impl From<String> for RsError {
    fn from(reason: String) -> RsError {
        RsError::Refused(reason)
    }
}

/// Does what the command says; whether all is well.
pub async fn execute(command: &RsCommand) -> Result<bool, RsError> {
    match command {
        RsCommand::Setup(arguments) => setup(arguments).await.map(|()| true),
        RsCommand::Teardown(arguments) => teardown(arguments).await.map(|()| true),
        RsCommand::Check(arguments) => check(arguments).await,
    }
}

async fn setup(arguments: &SetupArgs) -> Result<(), RsError> {
    if !arguments.dry_run && !read::may_change() {
        return Err(RsError::NotRoot(", or see what it would do with --dry-run"));
    }
    let mut request =
        Request { vips: Vec::new(), interface: arguments.interface.clone(), persist: None };
    for &vip in &arguments.vips {
        if !request.vips.contains(&vip) {
            request.vips.push(vip);
        }
    }
    if arguments.persist {
        request.persist = Some(own_program()?);
    }
    let _turn = if arguments.dry_run { None } else { Some(turn()?) };
    let handle = read::open()?;
    let facts = read::facts(&handle).await?;
    // As it is remembered for a teardown, which may be typed elsewhere.
    let root = std::path::absolute(&arguments.root)
        .map_err(|error| format!("{}: {error}", arguments.root.display()))?;
    let kept = read::kept(Some(&root))?;
    let mut plan = plan::setup(&request, &facts, &kept).map_err(|all| all.join("\n"))?;
    plan.report.dry_run = arguments.dry_run;
    if !arguments.dry_run {
        carry_out(&plan, handle).await?;
    }
    tell(&plan, arguments.json)
}

async fn teardown(arguments: &TeardownArgs) -> Result<(), RsError> {
    if !read::may_change() {
        return Err(RsError::NotRoot(""));
    }
    let _turn = turn()?;
    let handle = read::open()?;
    let facts = read::facts(&handle).await?;
    let kept = read::kept(None)?;
    let plan = plan::teardown(&arguments.vips, &facts, &kept).map_err(|all| all.join("\n"))?;
    carry_out(&plan, handle).await?;
    tell(&plan, arguments.json)
}

async fn check(arguments: &RsCheckArgs) -> Result<bool, RsError> {
    let (known, surroundings) = look::look(arguments).await?;
    let all = surroundings.iter().flat_map(|of| check::check(&known, of)).collect();
    let findings = Findings::new(all);
    let text = if arguments.json { as_json(&findings) } else { findings.to_string() };
    crate::commands::print(&text)?;
    Ok(findings.ok)
}

async fn carry_out(plan: &Plan, handle: rtnetlink::Handle) -> Result<(), RsError> {
    Ok(steps::take_all(&mut ThisMachine { handle }, &plan.steps).await?)
}

fn tell(plan: &Plan, json: bool) -> Result<(), RsError> {
    let text = if json { as_json(&plan.report) } else { plan.report.to_string() };
    Ok(crate::commands::print(&text)?)
}

fn as_json(view: &impl serde::Serialize) -> String {
    // Numbers, strings and lists of them: there is nothing that could not be written.
    let mut text = serde_json::to_string_pretty(view).unwrap_or_default();
    text.push('\n');
    text
}

/// One setup or teardown at a time: the record of one must not overtake that of the other. It
/// lasts as long as what is returned.
fn turn() -> Result<Flock<File>, RsError> {
    let folder = read::RUN;
    let failed = |error: io::Error| {
        format!("cannot use {folder}, where the former values are kept: {error}")
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let folder = File::open(folder).map_err(failed)?;
    let locked = Flock::lock(folder, FlockArg::LockExclusive);
    Ok(locked.map_err(|(_, errno)| failed(errno.into()))?)
}

/// Where shunt is, for the unit that runs it at boot.
fn own_program() -> Result<PathBuf, RsError> {
    let program = std::env::current_exe();
    Ok(program.map_err(|error| format!("cannot tell where the program shunt is: {error}"))?)
}
