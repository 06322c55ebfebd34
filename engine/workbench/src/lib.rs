//! What an author of scheduler plugins works with, offline and without root.
//!
//! ```text
//! new_crate    a crate to begin with, which carries its own copy of the SDK
//! check        the conformance suite
//!   contract     what the host checks when it loads a plugin
//!   params       parameters that make no sense
//!   history      100,000 flows over servers that come and go
//!   handover     state for the instance that takes the place of another
//!   figures      evenness, disruption
//!   replay       a call that failed on a director, called again
//! bench        what schedulers cost, side by side
//! ```
//!
//! `site` is a virtual service without a network, that asks and tells instances as the dataplane
//! does. The program `shunt` has all of this as `shunt plugin new`, and so on.

#![forbid(unsafe_code)]

mod bench;
mod check;
mod contract;
mod cost;
#[cfg(test)]
mod fakes;
mod figures;
mod handover;
mod history;
mod named;
mod new_crate;
mod numbers;
mod output;
mod params;
mod replay;
mod report;
mod server_set;
mod site;
mod subject;

pub use bench::{BenchArgs, BenchError, bench};
pub use check::{CheckArgs, CheckError, check};
pub use figures::{Disruption, Evenness};
pub use named::NamedError;
pub use new_crate::{NewArgs, NewError, new_crate};
pub use replay::ReplayError;
pub use report::{Figures, FuelFigures, Identity, Outcome, Report, Rule};
