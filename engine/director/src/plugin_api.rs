//! The part of the API that is about plugins.

use crate::api::{Refused, Shared, json, read, to_its_end};
use crate::plugin_acts::Current;
use crate::plugin_commands::SIGNATURE_HEADER;
use crate::plugin_report;
use crate::plugin_views::{EventsView, UploadView};
use crate::plugins::{self, PluginVersion, PluginsError};
use crate::scheduler_name::PluginName;
use crate::signatures::SignatureKeys;
use crate::supervisor::{ChangeError, Supervisor};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use plugin_host::{Plugin, PluginHost};
use serde::Deserialize;
use std::time::Instant;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of a body that is too large which are read before it is refused: a client that is cut
/// off while it sends may not read the answer.
const DISCARDED_MAX: usize = 256 << 20;

/// Uploads are compiled one after the other. Who waits keeps its file in memory, as long as its
/// connection lasts.
static COMPILING: Semaphore = Semaphore::const_new(1);

/// A body that says which version to go back to.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    to: Option<u32>,
}

/// The routes about plugins.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/v1/plugins", get(list))
        .route("/v1/plugins/{name}", get(show).put(upload).delete(remove))
        .route("/v1/plugins/{name}/rollback", post(roll_back))
        .route("/v1/events", get(events))
}

/// What the status of a refusal is.
pub fn status(error: &PluginsError) -> StatusCode {
    use PluginsError::*;
    match error {
        Unknown { .. } | UnknownVersion { .. } => StatusCode::NOT_FOUND,
        Failed { .. }
        | NothingBefore { .. }
        | IsCurrent { .. }
        | InUse { .. }
        | RemovesCurrent { .. }
        | Stock { .. }
        | Capacity { .. }
        | Update { .. }
        | TooManyNames
        | TooManyInstances { .. } => StatusCode::CONFLICT,
        Host(plugin_host::Error::Refused { .. } | plugin_host::Error::Params { .. }) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        Host(plugin_host::Error::UnknownStock { .. }) => StatusCode::NOT_FOUND,
        Host(_) => StatusCode::SERVICE_UNAVAILABLE,
        Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn read_name(name: &str) -> Result<PluginName, Refused> {
    name.parse().map_err(Refused::bad)
}

async fn list(State(supervisor): State<Shared>) -> Response {
    json(&plugin_report::plugins(&*supervisor.lock().await))
}

async fn show(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let name = read_name(&name)?;
    let supervisor = supervisor.lock().await;
    let names = supervisor.plugins().names();
    plugins::find(names, &name.clone().into()).map_err(ChangeError::from)?;
    Ok(json(&plugin_report::show(&supervisor, &name)))
}

async fn events(State(supervisor): State<Shared>) -> Response {
    let supervisor = supervisor.lock().await;
    json(&EventsView { events: supervisor.events.last().cloned().collect() })
}

async fn upload(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let name = read_name(&name)?;
    let (host, keys) = {
        let supervisor = supervisor.lock().await;
        let keys = SignatureKeys::parse(&supervisor.config.plugins.signature_keys);
        (supervisor.plugins().host().clone(), keys.map_err(Refused::bad)?)
    };
    let file = receive(body, host.limits().file_size).await?;
    let began = Instant::now();
    let signature = headers.get(SIGNATURE_HEADER).map(read_signature).transpose()?;
    keys.verify(&file, signature.as_deref())
        .map_err(|why| Refused(StatusCode::FORBIDDEN, format!("plugin {name}: {why}")))?;
    // Compiling takes its time, which nobody else should wait for. Clients that have gone leave one
    // file behind at most.
    let turn = COMPILING.acquire().await.ok();
    let (plugin, module) = load(host, name.clone(), file, turn).await?;
    to_its_end(supervisor, move |mut supervisor| async move {
        let current = supervisor.upload(&name, plugin, &module).await?;
        let status = if current.unchanged { StatusCode::OK } else { StatusCode::CREATED };
        Ok((status, json(&view(&supervisor, current, began))).into_response())
    })
    .await
}

fn read_signature(header: &HeaderValue) -> Result<String, Refused> {
    let text =
        STANDARD.decode(header.as_bytes()).ok().and_then(|text| String::from_utf8(text).ok());
    text.ok_or_else(|| {
        Refused::bad(format!(
            "{SIGNATURE_HEADER} is no base64: send the whole .minisig file in base64"
        ))
    })
}

async fn load(
    host: PluginHost,
    name: PluginName,
    file: Bytes,
    turn: Option<SemaphorePermit<'static>>,
) -> Result<(Plugin, Vec<u8>), Refused> {
    let loading = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let plugin = host.load(name.as_str(), &file)?;
        // What it was loaded from, so no text.
        let module = plugin_host::wasm_of(&file).map(|module| module.into_owned());
        let module = module
            .map_err(|refusal| plugin_host::Error::Refused { plugin: name.to_string(), refusal })?;
        Ok::<_, plugin_host::Error>((plugin, module))
    });
    match loading.await {
        Ok(loaded) => Ok(loaded.map_err(PluginsError::from).map_err(ChangeError::from)?),
        Err(panicked) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, panicked.to_string())),
    }
}

/// Reads a body of at most `limit` bytes.
async fn receive(mut body: Body, limit: usize) -> Result<Bytes, Refused> {
    let (mut file, mut size) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refused::bad(format!("the body ended early: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= limit {
            file.extend_from_slice(&data);
        } else if size > DISCARDED_MAX {
            break;
        }
    }
    if size > limit {
        let refusal = plugin_host::Refusal::FileTooLarge { size, limit };
        return Err(Refused(StatusCode::PAYLOAD_TOO_LARGE, refusal.to_string()));
    }
    if file.is_empty() {
        return Err(Refused::bad("the body is empty: send the .wasm or .wat file"));
    }
    Ok(file.into())
}

async fn roll_back(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Refused> {
    let name = read_name(&name)?;
    let RollbackBody { to } =
        if body.is_empty() { RollbackBody::default() } else { read(&body, "{\"to\": 1}")? };
    let began = Instant::now();
    to_its_end(supervisor, move |mut supervisor| async move {
        let current = supervisor.roll_back(&name, to).await?;
        Ok(json(&view(&supervisor, current, began)))
    })
    .await
}

async fn remove(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Refused> {
    let name = read_name(&name)?;
    let unknown =
        |query: &str| Refused::bad(format!("unknown query \"{query}\"; there is ?version=1"));
    let version = match uri.query() {
        None | Some("") => None,
        Some(query) => match query.strip_prefix("version=").map(str::parse) {
            Some(Ok(version)) => Some(version),
            _ => return Err(unknown(query)),
        },
    };
    to_its_end(supervisor, move |mut supervisor| async move {
        supervisor.remove_plugin(&name, version).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

fn view(supervisor: &Supervisor, current: Current, began: Instant) -> UploadView {
    let Current { version, services, unchanged } = current;
    let about = plugin_report::about(supervisor, &version);
    let PluginVersion { name, number } = version;
    UploadView {
        name,
        version: number,
        label: about.label,
        digest: about.digest,
        services,
        milliseconds: began.elapsed().as_secs_f64() * 1e3,
        unchanged,
    }
}
