//! The other end of the API: how commands speak to a running director.

use crate::api_address::ApiAddress;
use crate::secret_files::{SecretError, read_token};
use crate::views::ErrorView;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// How long a connection over TCP may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// Why a command got no answer, or not the one it wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no shunt answers at {api} ({cause}); start one with `shunt run`, or name its socket with --api"
    )]
    NotRunning {
        /// Where.
        api: ApiAddress,
        /// Why.
        cause: io::Error,
    },
    /// The socket is not for this user.
    #[error(
        "{api} may not be opened by this user; run the command as root or as a member of [api] group"
    )]
    NotAllowed {
        /// The socket.
        api: ApiAddress,
    },
    /// A TCP listener wants a token.
    #[error("{0} needs a token; name the file that holds it with --token-file")]
    NoToken(ApiAddress),
    /// The token would be there for all to read.
    #[error(
        "{0} is another machine, and without TLS the token would cross the network in plain text; use https://"
    )]
    PlainText(ApiAddress),
    /// The token is of no use.
    #[error(transparent)]
    Token(#[from] SecretError),
    /// It cannot be told whether a director is the right one.
    #[error(
        "{0} proves by a certificate that it is the director; name that of the certificate's authority, or a self-signed one itself, with --ca"
    )]
    NoAuthority(ApiAddress),
    /// The authority's certificate is of no use.
    #[error("{} holds no usable certificate ({cause}); --ca takes a PEM file", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The other end is not what it should be.
    #[error("no TLS with {api}: {cause}; {next}")]
    Tls {
        /// Where.
        api: ApiAddress,
        /// Why.
        cause: io::Error,
        /// What to do.
        next: &'static str,
    },
    /// The director refused.
    #[error("{0}")]
    Refused(String),
    /// The answer ended early or makes no sense.
    #[error(
        "the director's answer is of no use ({0}); is it of another version than this command?"
    )]
    Broken(String),
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> ClientError {
        ClientError::Broken(error.to_string())
    }
}

impl From<serde_json::Error> for ClientError {
    fn from(error: serde_json::Error) -> ClientError {
        ClientError::Broken(error.to_string())
    }
}

/// A director, and what it takes to speak to it.
#[derive(Clone)]
pub struct Api {
    address: ApiAddress,
    authorization: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

impl Api {
    /// The director at a Unix socket.
    pub fn at_socket(path: &Path) -> Api {
        Api { address: ApiAddress::socket(path), authorization: None, tls: None }
    }

    /// The director at this address. Over TCP a token is needed, with TLS the authority's
    /// certificate, too; a socket needs neither.
    pub fn new(
        address: &ApiAddress,
        token_file: Option<&Path>,
        authority: Option<&Path>,
    ) -> Result<Api, ClientError> {
        let address = address.clone();
        let ApiAddress::Tcp { tls, .. } = &address else {
            return Ok(Api { address, authorization: None, tls: None });
        };
        let Some(token_file) = token_file else { return Err(ClientError::NoToken(address)) };
        let mut authorization = read_token(token_file)?.authorization();
        authorization.set_sensitive(true);
        let tls = match authority {
            _ if !tls => None,
            None => return Err(ClientError::NoAuthority(address)),
            Some(path) => Some(connector(path)?),
        };
        Ok(Api { address, authorization: Some(authorization), tls })
    }
}

/// Trusts those whom the authority in this file has certified, and nobody else.
fn connector(path: &Path) -> Result<TlsConnector, ClientError> {
    let unusable = |cause: String| ClientError::Authority { path: path.to_owned(), cause };
    let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("there is none in it".into()));
    }
    let mut authorities = RootCertStore::empty();
    for certificate in certificates {
        authorities.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?
            .with_root_certificates(authorities)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Asks and returns the whole answer.
pub async fn ask(
    api: &Api,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> Result<Bytes, ClientError> {
    ask_with(api, method, path, &HeaderMap::new(), body).await
}

/// Asks with further headers and returns the whole answer.
pub async fn ask_with(
    api: &Api,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    body: impl Into<Bytes>,
) -> Result<Bytes, ClientError> {
    let answer = send(api, method, path, headers, body.into()).await?;
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// Asks and hands the answer over line by line, as it comes. `take` returns whether to go on.
pub async fn ask_lines(
    api: &Api,
    path: &str,
    mut take: impl FnMut(&[u8]) -> Result<bool, ClientError>,
) -> Result<(), ClientError> {
    let answer = send(api, Method::GET, path, &HeaderMap::new(), Bytes::new()).await?;
    let mut answer = answer.into_body();
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = answer.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        pending.extend_from_slice(&data);
        let complete = pending.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        for line in pending[..complete].split(|&byte| byte == b'\n') {
            if !line.is_empty() && !take(line)? {
                return Ok(());
            }
        }
        pending.drain(..complete);
    }
    if pending.is_empty() { Ok(()) } else { Err(ClientError::Broken("it ends amid a line".into())) }
}

/// What a connection is, whatever it goes over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn send(
    api: &Api,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response<Incoming>, ClientError> {
    let connection = connect(api).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "shunt")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    for (name, value) in headers {
        request.headers_mut().insert(name, value.clone());
    }
    if let Some(authorization) = &api.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    let answer = sender.send_request(request).await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(refusal(answer.status(), &answer.into_body().collect().await?.to_bytes()))
}

async fn connect(api: &Api) -> Result<Box<dyn Stream>, ClientError> {
    let not_running = |cause: io::Error| match cause.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { api: api.address.clone() },
        _ => ClientError::NotRunning { api: api.address.clone(), cause },
    };
    let (host, port) = match &api.address {
        ApiAddress::Socket(path) => {
            return Ok(Box::new(UnixStream::connect(path).await.map_err(not_running)?));
        }
        ApiAddress::Tcp { host, port, .. } => (host, *port),
    };
    let late = |_| not_running(io::ErrorKind::TimedOut.into());
    let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), port)))
        .await
        .map_err(late)?
        .map_err(not_running)?;
    let Some(connector) = &api.tls else {
        // Before anything is sent.
        let local = stream.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
        return match local {
            true => Ok(Box::new(stream)),
            false => Err(ClientError::PlainText(api.address.clone())),
        };
    };
    let name = ServerName::try_from(host.clone())
        .map_err(|error| not_running(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = timeout(CONNECT, connector.connect(name, stream)).await.map_err(late)?;
    Ok(Box::new(stream.map_err(|cause| no_tls(&api.address, cause))?))
}

fn no_tls(api: &ApiAddress, cause: io::Error) -> ClientError {
    let next = if cause.to_string().contains("certificate") {
        "--ca names the certificate of the one that the director's was issued by, and --api a name or address that is in it"
    } else {
        "has the director a certificate in its [api] section? Without one it is http://"
    };
    ClientError::Tls { api: api.clone(), cause, next }
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorView>(body) {
        Ok(ErrorView { error }) => ClientError::Refused(error),
        Err(_) => ClientError::Broken(format!("status {status}")),
    }
}

/// A part of a path: what is no plain character is written by its number (RFC 3986, 2.1).
pub fn path_part(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b':' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_of_an_ipv6_address_are_written_by_number() {
        assert_eq!(path_part("tcp:172.17.100.100:80"), "tcp:172.17.100.100:80");
        assert_eq!(path_part("tcp:[::1]:80"), "tcp:%5B::1%5D:80");
    }
}
