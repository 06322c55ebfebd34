//! The command line of `shunt plugin`.

use clap::Subcommand;
use workbench::NewArgs;

/// What to do with scheduler plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Write a crate that holds a scheduler to begin with
    ///
    /// It builds, tests and checks as it is, and needs nothing but Rust.
    New(NewArgs),
}
