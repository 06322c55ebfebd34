//! The command line of `shunt doctor`.

use crate::cli::CONFIG_DEFAULT;
use clap::Args;
use std::path::PathBuf;

/// What is to be looked at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The config file
    #[arg(long, short, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}
