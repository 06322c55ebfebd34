//! What the commands do, all but `run` and `demo`.

use crate::cli::{ApiArgs, Cli, ListArgs, ServerArgs, ServerCommand};
use crate::client::{Api, ClientError, ask, ask_lines, path_part};
use crate::config::Config;
use crate::listing;
use crate::mac::mac_text;
use crate::plugin_commands::{self, UploadError};
use crate::plugins;
use crate::views::FlowView;
use clap::CommandFactory;
use hyper::Method;
use serde_json::json;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The director has not done it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The config is of no use.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Schedulers that cannot do what the config asks of them, one a line.
    #[error("{0}")]
    Schedulers(String),
    /// The file cannot be uploaded.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// A parameter has two values.
    #[error("the parameter {0} is given twice: give it once")]
    ParamTwice(String),
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// `shunt check`.
pub fn check(path: &Path) -> Result<(), CommandError> {
    let config = Config::read(path, &plugins::known)?;
    let problems = plugin_commands::scheduler_problems(&config);
    if problems.is_empty() {
        return print(&format!("{}: ok\n", path.display()));
    }
    let line = |problem: &String| format!("{}: {problem}", path.display());
    Err(CommandError::Schedulers(problems.iter().map(line).collect::<Vec<_>>().join("\n")))
}

/// `shunt list`.
pub async fn list(arguments: &ListArgs) -> Result<(), CommandError> {
    let api = arguments.api.open()?;
    if arguments.flows {
        return list_flows(&api, arguments.json).await;
    }
    let answer = ask(&api, Method::GET, "/v1/services", "").await?;
    if arguments.json {
        return print(&String::from_utf8_lossy(&answer));
    }
    let view = serde_json::from_slice(&answer).map_err(ClientError::from)?;
    print(&if arguments.stats { listing::statistics(&view) } else { listing::list(&view) })
}

async fn list_flows(api: &Api, as_json: bool) -> Result<(), CommandError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut result = Ok(());
    let mut separator = "[\n";
    if !as_json {
        result = out.write_all(listing::FLOWS_HEAD.as_bytes());
    }
    ask_lines(api, "/v1/flows", |line| {
        let written = if as_json {
            let separator = std::mem::replace(&mut separator, ",\n");
            out.write_all(separator.as_bytes()).and_then(|()| out.write_all(line))
        } else {
            let view: FlowView = serde_json::from_slice(line)?;
            out.write_all(listing::flow(&view).as_bytes())
        };
        let go_on = written.is_ok();
        result = written;
        Ok(go_on)
    })
    .await?;
    if as_json && result.is_ok() {
        let end = if separator == "[\n" { "[]\n" } else { "\n]\n" };
        result = out.write_all(end.as_bytes());
    }
    tolerate_closed(result.and_then(|()| out.flush()))
}

/// `shunt server`.
pub async fn server(command: &ServerCommand) -> Result<(), CommandError> {
    let (ServerCommand::Add { server, .. }
    | ServerCommand::Set { server, .. }
    | ServerCommand::Remove { server, .. }) = command;
    let ServerArgs { service, server: address, api } = server;
    let all = format!("/v1/services/{}/servers", path_part(&service.to_string()));
    let this = format!("{all}/{}", path_part(&address.to_string()));
    let (method, path, body) = match command {
        ServerCommand::Add { weight, mac, .. } => {
            let mut body = json!({ "address": address, "weight": weight });
            if let Some(mac) = mac {
                body["mac"] = mac_text(*mac).into();
            }
            (Method::POST, all, body.to_string())
        }
        ServerCommand::Set { weight, .. } => {
            (Method::PATCH, this, json!({ "weight": weight }).to_string())
        }
        ServerCommand::Remove { expire, .. } => {
            (Method::DELETE, format!("{this}?expire={expire}"), String::new())
        }
    };
    ask(&api.open()?, method, &path, body).await?;
    Ok(())
}

/// `shunt save`.
pub async fn save(arguments: &ApiArgs) -> Result<(), CommandError> {
    let text = ask(&arguments.open()?, Method::GET, "/v1/config", "").await?;
    print(&String::from_utf8_lossy(&text))
}

/// `shunt completions`.
pub fn completions(shell: clap_complete::Shell) -> Result<(), CommandError> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "shunt", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// `shunt man`.
pub fn man(out: Option<&Path>) -> Result<(), CommandError> {
    if let Some(folder) = out {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(Cli::command(), folder)?;
        return Ok(());
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut text)?;
    print(&String::from_utf8_lossy(&text))
}

pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    tolerate_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A reader that has seen enough (`shunt list | head`) is no failure.
fn tolerate_closed(result: io::Result<()>) -> Result<(), CommandError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
