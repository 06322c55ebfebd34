//! `shunt doctor`: what is wrong around a director, and what mends it.
//!
//! Facts are read first, each into a plain struct; findings are functions of those. What cannot be
//! read is said to be so, and is never as good as ok.
//!
//! ```text
//! examine ─┬─ director, machine, memory              the config, the API, this machine
//!          ├─ interface, program, queues, cores ◀─ nic, ask_kernel
//!          ├─ vip, servers ◀─ site, surroundings, on_the_wire
//!          ├─ settings                               sysctls, firewall, IPVS
//!          └─▶ finding ─▶ report
//! ```

mod ask_kernel;
mod cores;
mod director;
mod examine;
mod finding;
mod interface;
mod machine;
mod memory;
mod nic;
mod on_the_wire;
mod program;
mod queues;
mod report;
mod servers;
mod settings;
mod site;
mod surroundings;
mod vip;

pub use finding::{Area, Finding, State};
pub use report::Report;

use crate::commands::{CommandError, print};
use crate::doctor_cli::DoctorArgs;

/// `shunt doctor`. Returns the exit code: see [`Report::exit_code`].
pub async fn run(arguments: &DoctorArgs) -> Result<u8, CommandError> {
    let report = Report::of(examine::examine(&arguments.config).await);
    let text = match arguments.json {
        true => report.json().map_err(std::io::Error::from)?,
        false => report.text(),
    };
    print(&text)?;
    Ok(report.exit_code())
}
