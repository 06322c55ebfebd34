//! The control API: JSON over HTTP, on a Unix socket, and over TCP for those who have the token
//! (`api_access`).
//!
//! A change is answered when every worker has adopted it. A refusal has the fitting status and
//! says in one sentence what is wrong and what to do.

use crate::clock;
use crate::config_text;
use crate::exposition;
use crate::plugin_api;
use crate::plugins;
use crate::scheduler_name::{Params, SchedulerName, check_params};
use crate::service_name::{ServiceName, parse_mac, parse_server, protocol_name};
use crate::services::{Removal, Services, ServicesError};
use crate::supervisor::{ChangeError, Supervisor};
use crate::views::{self, ErrorView, FlowView};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use dataplane::{FlowState, ServerIndex, Timeouts};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

pub(crate) type Shared = Arc<Mutex<Supervisor>>;

/// Bytes of flow lines that are sent in one piece.
const FLOWS_PIECE: usize = 64 << 10;
/// Pieces that wait for a slow reader, at most.
const FLOWS_AHEAD: usize = 4;

/// A body that changes a service's scheduler, its parameters, or both.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SchedulerBody {
    scheduler: Option<SchedulerName>,
    params: Option<Params>,
}

/// A body that adds a real server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewServerBody {
    address: String,
    weight: Option<i64>,
    mac: Option<String>,
}

/// A body that changes a real server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerBody {
    weight: i64,
}

/// A refusal.
pub(crate) struct Refused(pub StatusCode, pub String);

impl Refused {
    pub fn bad(message: impl Into<String>) -> Refused {
        Refused(StatusCode::BAD_REQUEST, message.into())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(status, error) = self;
        (status, json(&ErrorView { error })).into_response()
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Refused {
        let status = match &error {
            ChangeError::Services(services) => match services {
                ServicesError::UnknownService { .. } | ServicesError::UnknownServer { .. } => {
                    StatusCode::NOT_FOUND
                }
                ServicesError::NoMember(_) => StatusCode::BAD_REQUEST,
                ServicesError::ServiceExists { .. }
                | ServicesError::ServerExists { .. }
                | ServicesError::ServerRemoved { .. }
                | ServicesError::SorryServer { .. }
                | ServicesError::SorryServes { .. }
                | ServicesError::OtherMac { .. }
                | ServicesError::Full { .. } => StatusCode::CONFLICT,
            },
            ChangeError::Plugins(error) => plugin_api::status(error),
            ChangeError::Steer(_) => StatusCode::INTERNAL_SERVER_ERROR,
            ChangeError::NotAdopted { .. } => StatusCode::GATEWAY_TIMEOUT,
        };
        Refused(status, error.to_string())
    }
}

/// The API's routes.
pub fn routes(supervisor: Shared) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/services/{service}", get(service))
        .route("/v1/services/{service}/scheduler", put(set_scheduler))
        .route("/v1/services/{service}/servers", post(add_server))
        .route("/v1/services/{service}/servers/{server}", patch(set_server).delete(remove_server))
        .route("/v1/flows", get(flows))
        .route("/v1/config", get(config))
        .route("/metrics", get(metrics))
        .merge(plugin_api::routes())
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(supervisor)
}

/// The routes of the metrics endpoint: what anyone who reaches it may see.
pub fn metrics_routes(supervisor: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(|| async { Refused(StatusCode::NOT_FOUND, "there is only /metrics".into()) })
        .method_not_allowed_fallback(wrong_method)
        .with_state(supervisor)
}

async fn unknown_path(uri: Uri) -> Refused {
    let message = format!(
        "there is nothing at {}; there are /v1/status, /v1/services, /v1/plugins, /v1/events, /v1/flows, /v1/config and /metrics",
        uri.path()
    );
    Refused(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(method: axum::http::Method, uri: Uri) -> Refused {
    let message =
        format!("{method} does not apply to {}: the Allow header names what does", uri.path());
    Refused(StatusCode::METHOD_NOT_ALLOWED, message)
}

pub(crate) fn json(view: &impl serde::Serialize) -> Response {
    match serde_json::to_string_pretty(view) {
        Ok(text) => {
            ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text + "\n")
                .into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub(crate) fn read<T: DeserializeOwned>(body: &Bytes, example: &str) -> Result<T, Refused> {
    serde_json::from_slice(body)
        .map_err(|error| Refused::bad(format!("bad JSON in the body: {error}; send {example}")))
}

/// Makes a change to its end. A client that goes away does not stop it half-way, when workers have
/// what the supervisor has not noted: the server drops whatever its client no longer waits for.
pub(crate) async fn to_its_end<T, F>(
    supervisor: Shared,
    change: impl FnOnce(OwnedMutexGuard<Supervisor>) -> F,
) -> Result<T, Refused>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Refused>> + Send + 'static,
{
    // Who still waits for its turn may go, so that no more than one goes on without a client.
    let change = change(supervisor.lock_owned().await);
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(panicked) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, panicked.to_string())),
    }
}

fn read_service(name: &str) -> Result<ServiceName, Refused> {
    name.parse().map_err(Refused::bad)
}

fn read_weight(weight: i64) -> Result<u16, Refused> {
    u16::try_from(weight)
        .map_err(|_| Refused::bad(format!("weight is {weight}: send a number from 0 to 65535")))
}

fn read_server(service: ServiceName, server: &str) -> Result<IpAddr, Refused> {
    parse_server(server, Some(service.0.port)).map_err(Refused::bad)
}

async fn status(State(supervisor): State<Shared>) -> Response {
    json(&views::status(&*supervisor.lock().await))
}

async fn services(State(supervisor): State<Shared>) -> Response {
    json(&views::services(&*supervisor.lock().await))
}

async fn service(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
) -> Result<Response, Refused> {
    let name = read_service(&name)?;
    let supervisor = supervisor.lock().await;
    // One that only drains is still there to be seen.
    if supervisor.services().find(&name.0).is_none() {
        let unknown = supervisor.services().serving(&name.0).map_err(ChangeError::from);
        unknown?;
    }
    let all = views::services(&supervisor);
    let view = all.services.into_iter().find(|view| view.service == name);
    Ok(json(&view))
}

async fn set_scheduler(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let name = read_service(&name)?;
    let body: SchedulerBody = read(&body, "{\"scheduler\": \"rr\"}")?;
    let SchedulerBody { scheduler, params } = body;
    params.as_ref().map_or(Ok(()), check_params).map_err(Refused::bad)?;
    to_its_end(supervisor, |mut supervisor| async move {
        if let Some(scheduler) = &scheduler {
            // It is the body that is wrong, not the path.
            plugins::find(supervisor.plugins().names(), scheduler)
                .map_err(|error| Refused::bad(error.to_string()))?;
        }
        supervisor.set_scheduler(&name.0, scheduler, params).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

async fn add_server(
    State(supervisor): State<Shared>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let name = read_service(&name)?;
    let body: NewServerBody = read(&body, "{\"address\": \"172.17.100.1\", \"weight\": 1}")?;
    let address = read_server(name, &body.address)?;
    let weight = body.weight.map(read_weight).transpose()?;
    let mac = body.mac.map(|mac| parse_mac(&mac)).transpose().map_err(Refused::bad)?;
    to_its_end(supervisor, |mut supervisor| async move {
        let add = |services: &mut Services| {
            services.add_server(&name.0, address, weight)?;
            mac.map_or(Ok(()), |mac| services.give_mac(address, mac))
        };
        supervisor.change(add).await?;
        Ok(StatusCode::CREATED)
    })
    .await
}

async fn set_server(
    State(supervisor): State<Shared>,
    Path((name, server)): Path<(String, String)>,
    body: Bytes,
) -> Result<StatusCode, Refused> {
    let name = read_service(&name)?;
    let address = read_server(name, &server)?;
    let body: ServerBody = read(&body, "{\"weight\": 1}")?;
    let weight = read_weight(body.weight)?;
    to_its_end(supervisor, |mut supervisor| async move {
        supervisor.change(|services| services.set_weight(&name.0, address, weight)).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

async fn remove_server(
    State(supervisor): State<Shared>,
    Path((name, server)): Path<(String, String)>,
    uri: Uri,
) -> Result<StatusCode, Refused> {
    let name = read_service(&name)?;
    let address = read_server(name, &server)?;
    let removal = match uri.query() {
        None | Some("" | "expire=false") => Removal::Drain,
        Some("expire=true") => Removal::Expire,
        Some(other) => {
            return Err(Refused::bad(format!("unknown query \"{other}\"; there is ?expire=true")));
        }
    };
    to_its_end(supervisor, |mut supervisor| async move {
        supervisor.change(|services| services.remove_server(&name.0, address, removal)).await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

async fn config(State(supervisor): State<Shared>) -> Response {
    let supervisor = supervisor.lock().await;
    let text = config_text::write(&supervisor.config, supervisor.services());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/toml"))], text).into_response()
}

async fn metrics(State(supervisor): State<Shared>) -> Response {
    let text = exposition::render(&*supervisor.lock().await);
    // https://prometheus.io/docs/instrumenting/content_negotiation/
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// One flow a line, as they are found: a million of them neither wait for each other nor fill
/// the memory.
async fn flows(State(supervisor): State<Shared>) -> Response {
    let (memories, addresses, timeouts) = {
        let supervisor = supervisor.lock().await;
        let memories: Vec<_> =
            supervisor.workers.iter().map(|worker| worker.handle.memory.clone()).collect();
        (memories, server_addresses(&supervisor), supervisor.config.settings.timeouts)
    };
    let (pieces, mut ready) = mpsc::channel::<Bytes>(FLOWS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let now = clock::now();
        let mut piece = Vec::with_capacity(FLOWS_PIECE + 512);
        for flow in memories.iter().flat_map(|memory| memory.flows(now)) {
            // A flow of a server that came after the addresses were noted is as good as one
            // that came after the listing.
            let Some((virtual_, destination)) = addresses.get(&flow.server) else { continue };
            let view = FlowView {
                protocol: protocol_name(flow.state.protocol()).to_owned(),
                expires: timeout(flow.state, &timeouts).saturating_sub(flow.idle),
                state: flow.state.name().to_owned(),
                source: SocketAddr::new(flow.source, flow.source_port),
                r#virtual: *virtual_,
                destination: *destination,
            };
            // Writing to memory does not fail, and the view holds nothing that JSON cannot.
            let _ = serde_json::to_writer(&mut piece, &view);
            piece.push(b'\n');
            if piece.len() >= FLOWS_PIECE
                && pieces.blocking_send(std::mem::take(&mut piece).into()).is_err()
            {
                return;
            }
        }
        let _ = pieces.blocking_send(piece.into());
    });
    let stream = futures_util::stream::poll_fn(move |context| {
        ready.poll_recv(context).map(|piece| piece.map(Ok::<_, Infallible>))
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(stream)).into_response()
}

/// By server: the service's address and the server's, both with the port.
fn server_addresses(supervisor: &Supervisor) -> HashMap<ServerIndex, (SocketAddr, SocketAddr)> {
    let services = supervisor.services();
    services
        .servers()
        .filter_map(|(index, server)| {
            let key = services.service(server.service)?.key;
            let vip = SocketAddr::new(key.address, key.port);
            Some((index, (vip, SocketAddr::new(server.address, key.port))))
        })
        .collect()
}

fn timeout(state: FlowState, timeouts: &Timeouts) -> u32 {
    match state {
        FlowState::SynRecv => timeouts.syn_recv,
        FlowState::Established => timeouts.established,
        FlowState::FinWait => timeouts.fin_wait,
        FlowState::TimeWait => timeouts.time_wait,
        FlowState::Close => timeouts.close,
        FlowState::Udp => timeouts.udp,
    }
}
