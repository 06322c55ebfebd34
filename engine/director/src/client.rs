//! The other end of the API: how commands speak to a running director.

use crate::views::ErrorView;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Why a command got no answer, or not the one it wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no shunt answers at {} ({cause}); start one with `shunt run`, or name its socket with --api", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The socket is not for this user.
    #[error("{} may not be opened by this user; run the command as root", socket.display())]
    NotAllowed {
        /// The socket.
        socket: PathBuf,
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

/// Asks and returns the whole answer.
pub async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: String,
) -> Result<Bytes, ClientError> {
    let answer = send(socket, method, path, body).await?;
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// Asks and hands the answer over line by line, as it comes. `take` returns whether to go on.
pub async fn ask_lines(
    socket: &Path,
    path: &str,
    mut take: impl FnMut(&[u8]) -> Result<bool, ClientError>,
) -> Result<(), ClientError> {
    let mut answer = send(socket, Method::GET, path, String::new()).await?.into_body();
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

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: String,
) -> Result<Response<Incoming>, ClientError> {
    let connection = UnixStream::connect(socket).await.map_err(|cause| match cause.kind() {
        io::ErrorKind::PermissionDenied => ClientError::NotAllowed { socket: socket.to_owned() },
        _ => ClientError::NotRunning { socket: socket.to_owned(), cause },
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "shunt")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    let answer = sender.send_request(request).await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    Err(refusal(answer.status(), &answer.into_body().collect().await?.to_bytes()))
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
