//! `shunt plugin bench`: what schedulers cost, side by side.

use crate::cost::{CALLS, Timed, by_turns, median, ratio};
use crate::named::{NamedError, host, load, read};
use crate::output::write;
use clap::Args;
use plugin_host::{Error, Params, Placement, Plugin};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// What the ratios are to.
const REFERENCE: &str = "rr";
/// How long all rounds together take, about.
const TIME: Duration = Duration::from_secs(8);
/// The fewest rounds.
const ROUNDS_MIN: usize = 11;
/// The most servers of a service.
const SERVERS_MAX: i64 = dataplane::SERVERS_PER_SERVICE_MAX as i64;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Plugins: files (.wasm or .wat), or names of stock plugins
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<String>,
    /// Over so many servers
    #[arg(
        long, value_name = "N,...", value_delimiter = ',', default_values_t = [16, 64, 256, 1024],
        value_parser = clap::value_parser!(u32).range(1..=SERVERS_MAX)
    )]
    pub servers: Vec<u32>,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There is no plugin to measure.
    #[error(transparent)]
    Named(#[from] NamedError),
    /// A plugin was refused, or cannot be run on this machine.
    #[error(transparent)]
    Host(#[from] Error),
    /// A plugin fails.
    #[error("plugin {plugin}: {reason}; see `shunt plugin check {plugin}`")]
    Fails {
        /// The plugin.
        plugin: String,
        /// At what.
        reason: String,
    },
    /// The table cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// Measures and writes the table.
pub fn bench(arguments: &BenchArgs, out: &mut impl Write) -> Result<(), BenchError> {
    bench_for(arguments, TIME, out)
}

pub(crate) fn bench_for(
    arguments: &BenchArgs,
    time: Duration,
    out: &mut impl Write,
) -> Result<(), BenchError> {
    let host = host()?;
    let mut plugins = vec![(REFERENCE.to_owned(), host.stock(REFERENCE)?)];
    for file in arguments.files.iter().filter(|file| *file != REFERENCE) {
        let plugin = load(&host, file, &read(file)?)?;
        plugins.push((label(file), plugin));
    }
    let share = time / arguments.servers.len().max(1) as u32;
    let mut rows = plugins.iter().map(|(label, _)| format!("| {label} |")).collect::<Vec<_>>();
    let mut rounds = usize::MAX;
    for &servers in &arguments.servers {
        let cells = column(&plugins, servers as usize, share, &mut rounds)?;
        for (row, cell) in rows.iter_mut().zip(cells) {
            let _ = write!(row, " {cell} |");
        }
    }
    let heads: String =
        arguments.servers.iter().map(|count| format!(" {count} servers |")).collect();
    let table = format!(
        "ns a call (times {REFERENCE}), median of {rounds} rounds of {CALLS} calls\n\n\
         | scheduler |{heads}\n|---|{}\n{}\n",
        "---|".repeat(arguments.servers.len()),
        rows.join("\n")
    );
    Ok(write(out, &table)?)
}

/// The cells of all plugins over so many servers.
fn column(
    plugins: &[(String, Plugin)],
    servers: usize,
    time: Duration,
    rounds: &mut usize,
) -> Result<Vec<String>, BenchError> {
    let mut timed = Vec::new();
    let fits = |plugin: &Plugin| plugin.capacity() >= servers;
    for (_, plugin) in plugins.iter().filter(|(_, plugin)| fits(plugin)) {
        let alone = Placement { worker: 0, workers: 1, seed: 1 };
        let (scheduler, _) = plugin.scheduler(alone, &Params::new())?;
        timed.push(
            Timed::new(scheduler, servers)
                .map_err(|reason| BenchError::Fails { plugin: plugin.name().to_owned(), reason })?,
        );
    }
    let times = by_turns(&mut timed, ROUNDS_MIN, time);
    *rounds = times.iter().map(Vec::len).fold(*rounds, usize::min);
    let mut figures = times.iter();
    Ok(plugins
        .iter()
        .map(|(_, plugin)| match fits(plugin).then(|| figures.next()).flatten() {
            Some(own) => {
                format!("{:.0} ({:.1})", median(own.clone()), ratio(own, &times[0]))
            }
            None => "–".to_owned(),
        })
        .collect())
}

/// What a plugin is called in the table: a file by its name, without folders and ending.
fn label(file: &str) -> String {
    let stem = Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| file.to_owned()).replace('|', "_")
}

#[cfg(test)]
mod tests;
