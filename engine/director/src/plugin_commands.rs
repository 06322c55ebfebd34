//! What the commands do that speak about plugins: clients of the API.

use crate::cli::ServiceCommand;
use crate::client::{Api, ClientError, ask, ask_with, path_part};
use crate::commands::{CommandError, print};
use crate::config::{Config, ServiceConfig};
use crate::plugin_cli::{PluginCommand, UploadArgs};
use crate::plugin_listing;
use crate::plugin_store::PluginStore;
use crate::plugin_views::UploadView;
use crate::plugins::{self, Plugins, PluginsError};
use crate::scheduler_name::{Params, PluginName};
use crate::service_name::ServiceName;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use plugin_host::PluginHost;
use serde_json::{Map, json};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Header that holds the signature of an upload: a whole .minisig file in base64.
pub const SIGNATURE_HEADER: HeaderName = HeaderName::from_static("minisign-signature");
/// No director can be configured to take more.
const FILE_MAX: u64 = 64 << 20;
/// A .minisig file has some 300 bytes.
const SIGNATURE_MAX: u64 = 4_096;

/// Why a file cannot be uploaded.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// It cannot be read.
    #[error("cannot read {} ({cause}): name the {what}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What the system says.
        cause: io::Error,
    },
    /// There is nothing in it.
    #[error("{} is empty: name the {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// There is more in it than makes sense.
    #[error("{} has more than {limit} bytes: name the {what}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// How much would make sense.
        limit: u64,
    },
    /// Its name is not one that a plugin can have.
    #[error("{cause}; give it another than its file's with --name")]
    Name {
        /// What is wrong with it.
        cause: String,
    },
}

/// `shunt plugin`, all but what needs no director.
pub async fn plugin(command: &PluginCommand) -> Result<(), CommandError> {
    match command {
        PluginCommand::New(_) | PluginCommand::Check(_) | PluginCommand::Bench(_) => Ok(()),
        PluginCommand::Upload(arguments) => upload(arguments).await,
        PluginCommand::List { json, api } => {
            let answer = ask(&api.open()?, Method::GET, "/v1/plugins", "").await?;
            listing(&answer, *json, plugin_listing::list)
        }
        PluginCommand::Show { name, json, api } => {
            let answer = ask(&api.open()?, Method::GET, &path(name), "").await?;
            listing(&answer, *json, plugin_listing::show)
        }
        PluginCommand::Rollback { name, to, api } => {
            let body = to.map_or_else(String::new, |to| json!({ "to": to }).to_string());
            let path = format!("{}/rollback", path(name));
            said(&ask(&api.open()?, Method::POST, &path, body).await?)
        }
        PluginCommand::Remove { plugin, api } => {
            let version = plugin.version.map(|version| format!("?version={version}"));
            let path = path(&plugin.name) + &version.unwrap_or_default();
            ask(&api.open()?, Method::DELETE, &path, "").await?;
            Ok(())
        }
    }
}

fn path(name: &PluginName) -> String {
    format!("/v1/plugins/{}", path_part(name.as_str()))
}

fn listing<View: serde::de::DeserializeOwned>(
    answer: &Bytes,
    as_json: bool,
    show: impl FnOnce(&View) -> String,
) -> Result<(), CommandError> {
    if as_json {
        return print(&String::from_utf8_lossy(answer));
    }
    print(&show(&serde_json::from_slice(answer).map_err(ClientError::from)?))
}

fn said(answer: &Bytes) -> Result<(), CommandError> {
    let view: UploadView = serde_json::from_slice(answer).map_err(ClientError::from)?;
    print(&plugin_listing::uploaded(&view))
}

async fn upload(arguments: &UploadArgs) -> Result<(), CommandError> {
    let UploadArgs { file, name, signature, api } = arguments;
    let name = name.clone().map_or_else(|| name_of(file), Ok)?;
    let content = read(file, FILE_MAX, "plugin's .wasm or .wat file")?;
    let mut headers = HeaderMap::new();
    if let Some(signature) = signature_of(file, signature.as_deref()) {
        let text = read(&signature, SIGNATURE_MAX, "signature that minisign wrote, FILE.minisig")?;
        let value = HeaderValue::from_str(&STANDARD.encode(text));
        headers.insert(SIGNATURE_HEADER, value.expect("base64 is printable"));
    }
    let api: Api = api.open()?;
    said(&ask_with(&api, Method::PUT, &path(&name), &headers, content).await?)
}

/// The name of a plugin after that of its file.
fn name_of(file: &Path) -> Result<PluginName, UploadError> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    stem.parse().map_err(|cause| UploadError::Name { cause })
}

/// The signature's file: the one that is named, or the one beside the plugin.
fn signature_of(file: &Path, named: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = named {
        return Some(named.to_owned());
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".minisig");
    Some(PathBuf::from(beside)).filter(|path| path.exists())
}

fn read(path: &Path, limit: u64, what: &'static str) -> Result<Vec<u8>, UploadError> {
    let path = path.to_owned();
    let mut content = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(limit + 1).read_to_end(&mut content));
    match read {
        Err(cause) => Err(UploadError::Unreadable { path, what, cause }),
        Ok(0) => Err(UploadError::Empty { path, what }),
        Ok(bytes) if bytes as u64 > limit => Err(UploadError::TooLarge { path, what, limit }),
        Ok(_) => Ok(content),
    }
}

/// What the schedulers of a config would say at the start: whether each stored version is as it
/// was uploaded, and whether it takes the parameters that it would get. A sentence for each
/// service where not.
pub fn scheduler_problems(config: &Config) -> Vec<String> {
    let store = match PluginStore::read(&config.state_dir) {
        Ok(store) => store,
        Err(error) => return vec![error.to_string()],
    };
    let mut plugins = match PluginHost::new(config.plugins.limits) {
        Ok(host) => Plugins::new(host, store),
        Err(error) => return vec![error.to_string()],
    };
    let mut judge = |service: &ServiceConfig| -> Result<(), PluginsError> {
        let version = plugins::find(plugins.names(), &service.scheduler)?;
        // A stock plugin that is told nothing needs no compiling to be judged.
        if version.number > 0 || !service.params.is_empty() {
            plugins.plugin(&version)?.check_params(&service.params)?;
        }
        Ok(())
    };
    let problem = |service: &ServiceConfig| {
        let why = judge(service).err()?;
        Some(format!("virtual service {}: {why}", ServiceName(service.key)))
    };
    config.services.iter().filter_map(problem).collect()
}

/// `shunt service`.
pub async fn service(command: &ServiceCommand) -> Result<(), CommandError> {
    let ServiceCommand::Set { service, scheduler, params, no_params, api } = command;
    let path = format!("/v1/services/{}/scheduler", path_part(&service.to_string()));
    let mut body = Map::new();
    if let Some(scheduler) = scheduler {
        body.insert("scheduler".into(), json!(scheduler));
    }
    if *no_params || !params.is_empty() {
        let mut table = Params::new();
        for (key, value) in params {
            if table.insert(key.clone(), value.clone()).is_some() {
                return Err(CommandError::ParamTwice(key.clone()));
            }
        }
        body.insert("params".into(), json!(table));
    }
    ask(&api.open()?, Method::PUT, &path, json!(body).to_string()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_named_after_its_file() {
        for (file, expected) in [
            ("my.wasm", "my"),
            ("/tmp/least-loaded.wat", "least-loaded"),
            ("target/wasm32-unknown-unknown/release/my_own.wasm", "my_own"),
            ("plain", "plain"),
        ] {
            assert_eq!(name_of(Path::new(file)).unwrap().as_str(), expected);
        }
        for (file, expected) in
            [("My.wasm", "\"My\" is no name"), ("my.opt.wasm", "\"my.opt\""), ("/", "needs a name")]
        {
            let error = name_of(Path::new(file)).unwrap_err().to_string();
            assert!(error.contains(expected) && error.ends_with("with --name"), "{error}");
        }
    }

    #[test]
    fn the_signature_beside_the_file_is_taken_if_there_is_one() {
        let folder = std::env::temp_dir().join(format!("shunt-signature-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (file, beside) = (folder.join("my.wasm"), folder.join("my.wasm.minisig"));
        let other = Path::new("/no/such.minisig");
        assert_eq!(signature_of(&file, None), None);
        assert_eq!(signature_of(&file, Some(other)), Some(other.to_owned()));
        std::fs::write(&beside, "signature").unwrap();
        assert_eq!(signature_of(&file, None), Some(beside));
        assert_eq!(signature_of(&file, Some(other)), Some(other.to_owned()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
