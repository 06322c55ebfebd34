//! The program `shunt`.

use anyhow::Context;
use clap::Parser;
use director::cli::{Cli, Command};
use director::plugin_cli::PluginCommand;
use director::rs_cli::RsCommand;
use director::{commands, demo, doctor, plugin_commands, rs, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Exits with 2 at wrong usage, with 0 after --help and --version.
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Demo(arguments) => return demo::run(arguments),
        Command::Plugin(command) => plugin(command),
        Command::Rs(command) => real_server(command),
        Command::Doctor(arguments) => ask(doctor::run(arguments)).map(ExitCode::from),
        other => execute(other).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            for line in format!("{error:#}").lines() {
                eprintln!("shunt: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn execute(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run::run(&arguments.config)?,
        Command::Check(arguments) => commands::check(&arguments.config)?,
        Command::List(arguments) => ask(commands::list(arguments))?,
        Command::Service(command) => ask(plugin_commands::service(command))?,
        Command::Server(command) => ask(commands::server(command))?,
        Command::Save(arguments) => ask(commands::save(arguments))?,
        Command::Completions { shell } => commands::completions(*shell)?,
        Command::Man { out } => commands::man(out.as_deref())?,
        Command::Demo(_) | Command::Plugin(_) | Command::Rs(_) | Command::Doctor(_) => {}
    }
    Ok(())
}

fn plugin(command: &PluginCommand) -> anyhow::Result<ExitCode> {
    match command {
        PluginCommand::New(arguments) => {
            workbench::new_crate(arguments, &mut std::io::stdout())?;
        }
        PluginCommand::Check(arguments) => {
            match workbench::check(arguments, &mut std::io::stdout()) {
                Ok(true) => {}
                Ok(false) => return Ok(ExitCode::FAILURE),
                // 1 says that the dumped call does not fail.
                Err(error) if arguments.replay.is_some() => {
                    eprintln!("shunt: {error}");
                    return Ok(ExitCode::from(2));
                }
                Err(error) => return Err(error.into()),
            }
        }
        PluginCommand::Bench(arguments) => {
            workbench::bench(arguments, &mut std::io::stdout())?;
        }
        PluginCommand::Upload(_)
        | PluginCommand::List { .. }
        | PluginCommand::Show { .. }
        | PluginCommand::Rollback { .. }
        | PluginCommand::Remove { .. } => ask(plugin_commands::plugin(command))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn real_server(command: &RsCommand) -> anyhow::Result<ExitCode> {
    Ok(if ask(rs::execute(command))? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs what speaks to a running director, or to the kernel.
fn ask<T, E>(command: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    Ok(runtime.block_on(command)?)
}
