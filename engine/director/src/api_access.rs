//! The API over TCP: a token for every request, TLS with a certificate, and bounds on what
//! strangers can take up.
//!
//! ```text
//! accept ── at most `connections` at once ── handshake ── head of a request ── token ── routes
//!                                            └── each within its time ──┘
//! ```
//!
//! Every connection is a task of the control thread that waits without holding it up. The
//! supervisor is not asked for before the token was seen. Who keeps all connections busy keeps
//! others from this listener, not from the Unix socket.

use crate::config_api::{ApiListen, TlsFiles};
use crate::secret_files::{Claim, SecretError, Token, read_secret, read_token};
use crate::views::ErrorView;
use crate::warn;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};
use tokio_rustls::server::TlsStream;

/// Time between two lines of the log about those who were turned away.
const REMARKS: Duration = Duration::from_secs(10);
/// Wait after a failed accept(2): what it lacks, file descriptors for one, comes back by others
/// ending.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The first byte of TLS is the type of a record: handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What a client can take up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once. Others wait to be accepted.
    pub connections: usize,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// For a request's head, and between two requests.
    pub head: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { connections: 64, handshake: Duration::from_secs(5), head: Duration::from_secs(10) }
    }
}

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The token or the key is of no use.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The certificate is of no use.
    #[error("{} holds no usable certificate ({cause}): it takes PEM, the director's own first", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The key is of no use, or another certificate's.
    #[error("{} holds no key for the certificate in {} ({cause}): it takes the private key that the certificate was made for, as PEM, without a password", key.display(), certificate.display())]
    Key {
        /// The file.
        key: PathBuf,
        /// The certificate's.
        certificate: PathBuf,
        /// Why.
        cause: String,
    },
}

/// Who is let in, and as whom the director presents itself.
pub struct Access {
    listen: ApiListen,
    secrets: Mutex<Secrets>,
    turned_away: Mutex<TurnedAway>,
}

#[derive(Clone)]
struct Secrets {
    token: Token,
    tls: Option<TlsAcceptor>,
}

impl Access {
    /// Reads token, certificate and key.
    pub fn read(listen: &ApiListen) -> Result<Access, AccessError> {
        let secrets = Mutex::new(Secrets::read(listen)?);
        let turned_away = Mutex::default();
        Ok(Access { listen: listen.clone(), secrets, turned_away })
    }

    /// Reads them again, from the same files: for new connections, and for the token also for
    /// new requests on old ones. When one is of no use, all stay as they were.
    pub fn read_anew(&self) -> Result<(), AccessError> {
        let secrets = Secrets::read(&self.listen)?;
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = secrets;
        Ok(())
    }

    fn secrets(&self) -> Secrets {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn turn_away(&self, peer: IpAddr, why: &str) {
        let mut turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = turned_away.another(peer, why, Instant::now()) {
            warn!("{line}");
        }
    }
}

impl Secrets {
    fn read(listen: &ApiListen) -> Result<Secrets, AccessError> {
        let token = read_token(&listen.token_file)?;
        let tls = listen.tls.as_ref().map(acceptor).transpose()?;
        Ok(Secrets { token, tls })
    }
}

fn acceptor(TlsFiles { certificate, key }: &TlsFiles) -> Result<TlsAcceptor, AccessError> {
    let bad_certificate =
        |cause: String| AccessError::Certificate { path: certificate.clone(), cause };
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| bad_certificate(error.to_string()))?;
    if chain.is_empty() {
        return Err(bad_certificate("there is none in it".into()));
    }
    let bad_key = |cause: String| {
        let (key, certificate) = (key.clone(), certificate.clone());
        AccessError::Key { key, certificate, cause }
    };
    let private = PrivateKeyDer::from_pem_slice(&read_secret(key)?)
        .map_err(|error| bad_key(error.to_string()))?;
    let provider = Arc::new(crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad_certificate(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| bad_key(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Keeps the log readable when many are turned away.
#[derive(Debug, Default)]
struct TurnedAway {
    said: Option<Instant>,
    unsaid: u64,
}

impl TurnedAway {
    /// Another one was turned away. Returns what is to be said, if it is time.
    fn another(&mut self, peer: IpAddr, why: &str, now: Instant) -> Option<String> {
        if self.said.is_some_and(|said| now.duration_since(said) < REMARKS) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        let more = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            more => format!(" (and {more} more were turned away since the last such line)"),
        };
        Some(format!("the API turned {peer} away: {why}{more}"))
    }
}

/// Serves the API to those who have the token, for ever.
pub async fn serve(listener: TcpListener, access: Arc<Access>, routes: Router, bounds: Bounds) {
    let serve = |stream, peer| {
        let (access, routes) = (access.clone(), routes.clone());
        async move { serve_connection(stream, peer, &access, routes, bounds).await }
    };
    accept(listener, bounds, serve).await;
}

/// Serves what anybody may see, for ever. Bounded, too: each connection is a file descriptor, and
/// when these run out every health check fails.
pub async fn serve_anybody(listener: TcpListener, routes: Router, bounds: Bounds) {
    let serve = |stream, _| {
        let routes = TowerToHyperService::new(routes.clone());
        let service = service_fn(move |request: Request<Incoming>| routes.call(request));
        async move { converse(stream, service, bounds).await }
    };
    accept(listener, bounds, serve).await;
}

/// Accepts connections, so many at once, and has them served.
async fn accept<F>(
    listener: TcpListener,
    bounds: Bounds,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(bounds.connections));
    loop {
        // Nobody closes it.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        // A client whose machine has gone gives its place back. Without it a place is lost until
        // the next write fails, which is no reason to refuse the connection.
        let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
        let _ = setsockopt(&stream, sockopt::TcpKeepIdle, &60);
        let served = serve(stream, peer);
        tokio::spawn(async move {
            served.await;
            drop(place);
        });
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    access: &Arc<Access>,
    routes: Router,
    bounds: Bounds,
) {
    let Some(acceptor) = access.secrets().tls else {
        return serve_requests(stream, peer, access, routes, bounds).await;
    };
    match timeout(bounds.handshake, shake_hands(acceptor, stream)).await {
        Ok(Ok(Some(stream))) => serve_requests(stream, peer, access, routes, bounds).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => access.turn_away(peer.ip(), &format!("no TLS, {error}")),
        Err(_) => access.turn_away(peer.ip(), "its TLS handshake took too long"),
    }
}

/// Nothing comes of a connection that ends before it begins: somebody has looked whether there is
/// one.
async fn shake_hands(
    acceptor: TlsAcceptor,
    mut stream: TcpStream,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] != TLS_HANDSHAKE && first[0].is_ascii_alphabetic() {
        let body = "{\"error\": \"this port speaks TLS: write https:// instead of http://\"}\n";
        let answer = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
        // The rest of the request is read first, or the answer would be lost by the RST that
        // unread bytes bring.
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        return Err(io::Error::other("but plain HTTP"));
    }
    acceptor.accept(stream).await.map(Some)
}

async fn serve_requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    access: &Arc<Access>,
    routes: Router,
    bounds: Bounds,
) {
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |request: Request<Incoming>| {
        let refusal = refusal(access, peer, &request);
        let routes = routes.clone();
        async move {
            match refusal {
                Some(refusal) => Ok::<_, Infallible>(refusal),
                None => routes.call(request).await,
            }
        }
    });
    converse(stream, service, bounds).await;
}

async fn converse<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    bounds: Bounds,
) where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
{
    // However a connection ends, the client knows; and that is all that there is to do.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// What a request without the token is answered, and nothing is done.
fn refusal(
    access: &Access,
    peer: SocketAddr,
    request: &Request<Incoming>,
) -> Option<Response<Body>> {
    let (log, error, challenge) = match access.secrets().token.claim(request.headers()) {
        Claim::Right => return None,
        Claim::None => (
            "no token",
            "this needs a token: send \"Authorization: Bearer TOKEN\" with what is in the director's [api] token_file (shunt does with --token-file)",
            "Bearer realm=\"shunt\"",
        ),
        Claim::Wrong => (
            "a wrong token",
            "the token is wrong: send the one that is in the director's [api] token_file",
            "Bearer realm=\"shunt\", error=\"invalid_token\"",
        ),
    };
    access.turn_away(peer.ip(), log);
    // Writing a sentence to memory does not fail.
    let body = serde_json::to_vec_pretty(&ErrorView { error: error.into() }).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Whoever has no token does not keep its place.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Asks, and waits for the first line of the answer.
    async fn ask(stream: &mut TcpStream) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn whoever_needs_no_token_takes_no_more_connections_than_there_may_be() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", axum::routing::get(async || "here"));
        let bounds = Bounds { connections: 2, ..Bounds::default() };
        tokio::spawn(serve_anybody(listener, routes, bounds));
        let mut connected = Vec::new();
        for _ in 0..3 {
            connected.push(TcpStream::connect(address).await.unwrap());
        }
        let [first, second, third] = &mut connected[..] else { panic!("three") };
        assert_eq!(ask(first).await, "HTTP/1.1 200 OK");
        assert_eq!(ask(second).await, "HTTP/1.1 200 OK");
        let waits = timeout(Duration::from_millis(300), ask(third)).await;
        assert!(waits.is_err(), "it waits until another one goes");
        connected.remove(0);
        let mut answer = [0; 15];
        connected[1].read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

    #[test]
    fn many_who_are_turned_away_are_two_lines() {
        let (mut turned_away, start) = (TurnedAway::default(), Instant::now());
        let peer = [192, 0, 2, 1].into();
        let mut lines = Vec::new();
        for millisecond in 0..15_000 {
            let now = start + Duration::from_millis(millisecond);
            lines.extend(turned_away.another(peer, "no token", now));
        }
        let [first, second] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!(first, "the API turned 192.0.2.1 away: no token");
        assert!(second.ends_with("(and 9999 more were turned away since the last such line)"));
    }
}
