//! The command line of `shunt plugin`.

use crate::cli::ApiArgs;
use crate::scheduler_name::{PluginName, SchedulerName};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use workbench::{BenchArgs, CheckArgs, NewArgs};

/// What to do with scheduler plugins.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Write a crate that holds a scheduler to begin with
    ///
    /// It builds, tests and checks as it is, and needs nothing but Rust.
    New(NewArgs),
    /// Say whether a plugin keeps the contract, and what it is like
    ///
    /// Offline and without root: loads it under the default limits, asks it about 100,000 flows
    /// over servers that come and go, and measures it. Ends with 1 if it breaks a rule.
    Check(CheckArgs),
    /// Compare what schedulers cost, in a table
    ///
    /// Takes about 10 seconds, on a machine that is at rest.
    Bench(BenchArgs),
    /// Upload a plugin: services that use its current version go over to it
    ///
    /// Established flows stay where they are. A file that the director refuses changes nothing.
    Upload(UploadArgs),
    /// List the plugins of the running director
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        /// The director
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Show everything about a plugin: versions, counts, limits, events
    Show {
        /// The plugin's name
        name: PluginName,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// The director
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Take a plugin back to a former version
    Rollback {
        /// The plugin's name
        name: PluginName,
        /// The version; left out: the last one that worked
        #[arg(long, value_name = "VERSION")]
        to: Option<u32>,
        /// The director
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Remove a plugin, or one version of it; refused while a service uses it
    Remove {
        /// The plugin's name; with @VERSION, that version only
        #[arg(value_name = "NAME[@VERSION]")]
        plugin: SchedulerName,
        /// The director
        #[command(flatten)]
        api: ApiArgs,
    },
}

/// What to upload.
#[derive(Debug, Args)]
pub struct UploadArgs {
    /// The plugin, a .wasm or .wat file
    pub file: PathBuf,
    /// Its name; left out: the file's name without its extension
    #[arg(long)]
    pub name: Option<PluginName>,
    /// Its signature by minisign; left out: FILE.minisig, if there is one
    #[arg(long, value_name = "FILE.minisig")]
    pub signature: Option<PathBuf>,
    /// The director
    #[command(flatten)]
    pub api: ApiArgs,
}
