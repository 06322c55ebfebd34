//! `http` and `https`: does the server answer a request as it should?

use super::doing::Doing;
use super::kinds::{CheckError, HttpCheck, Target};
use super::{tcp, tls};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Bytes of an answer's head, and those of its body that are read: an endless answer ends here.
const HEAD_MAX: usize = 64 << 10;
const BODY_MAX: usize = 64 << 10;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_millis(50);
const AGENT: &str = concat!("shunt/", env!("CARGO_PKG_VERSION"));

/// Asks once.
///
/// The director closes first, so that no server has to keep the connection in TIME_WAIT.
pub(super) async fn check(
    target: &Target,
    http: &HttpCheck,
    doing: &Doing,
) -> Result<(), CheckError> {
    let stream = tcp::connect(target, doing).await?;
    let address = target.address();
    let Some(tls) = &http.tls else { return ask(stream, address, http, doing).await.0 };
    let stream = tls::shake_hands(stream, address, http, tls, doing).await?;
    let (result, stream) = ask(stream, address, http, doing).await;
    if let Some(stream) = stream {
        let _ = timeout(GOODBYE, tls::part(stream)).await;
    }
    result
}

/// Asks by a connection, and gives it back if it is still of use. Everything is done within this
/// future, so that nothing stays when it is dropped.
async fn ask<S>(
    stream: S,
    address: SocketAddr,
    http: &HttpCheck,
    doing: &Doing,
) -> (Result<(), CheckError>, Option<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (scheme, usual_port) = if http.tls.is_some() { ("https", 443) } else { ("http", 80) };
    doing.now(format!("GET {scheme}://{address}{}", http.path));
    let host = http.host.clone().unwrap_or_else(|| host(address, usual_port));
    let shaken = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = match shaken {
        Ok(both) => both,
        Err(error) => return (Err(failed(&error, doing)), None),
    };
    let mut connection = pin!(connection.without_shutdown());
    let (result, ended) = {
        let mut answer = pin!(answer(&mut sender, &host, http, doing));
        tokio::select! {
            biased;
            result = &mut answer => (result, None),
            // What the server said before it closed is still to be had.
            ended = &mut connection => (answer.await, Some(ended)),
        }
    };
    drop(sender);
    let ended = match ended {
        Some(ended) => ended.ok(),
        // Without a sender it ends.
        None => timeout(GOODBYE, connection).await.ok().and_then(Result::ok),
    };
    (result, ended.map(|parts| parts.io.into_inner()))
}

/// The value of the header Host (RFC 9110, 7.2): the port only if it is not the usual one.
fn host(address: SocketAddr, usual_port: u16) -> String {
    match address {
        SocketAddr::V6(address) if address.port() == usual_port => format!("[{}]", address.ip()),
        SocketAddr::V4(address) if address.port() == usual_port => address.ip().to_string(),
        other => other.to_string(),
    }
}

async fn answer(
    sender: &mut SendRequest<Empty<Bytes>>,
    host: &str,
    http: &HttpCheck,
    doing: &Doing,
) -> Result<(), CheckError> {
    // Without "Connection: close": who closes first keeps the connection in TIME_WAIT.
    let request = Request::get(&http.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "*/*")
        .body(Empty::new())
        .map_err(|error| doing.unable(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error, doing))?;
    let status = answer.status().as_u16();
    if !http.status.iter().any(|range| range.contains(&status)) {
        return Err(doing.failed(format!("status {status}")));
    }
    let body = read(answer, doing).await?;
    match &http.body {
        Some(pattern) if !pattern.is_match(&body) => {
            Err(doing.failed(format!("the body does not match {pattern}")))
        }
        _ => Ok(()),
    }
}

/// The body up to its end or `BODY_MAX`, whatever comes first.
async fn read(answer: Response<Incoming>, doing: &Doing) -> Result<Vec<u8>, CheckError> {
    doing.late_says("the answer has no end");
    let mut body = answer.into_body();
    let mut content = Vec::new();
    while content.len() < BODY_MAX {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| doing.failed(format!("body: {}", cause(&error))))?;
        if let Some(data) = frame.data_ref() {
            content.extend_from_slice(&data[..data.len().min(BODY_MAX - content.len())]);
        }
    }
    Ok(content)
}

/// The answer did not come.
fn failed(error: &hyper::Error, doing: &Doing) -> CheckError {
    match io_error(error) {
        Some(io) => doing.io(io),
        None => doing.failed(cause(error)),
    }
}

/// What has gone wrong, as short as it can be said.
fn cause(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "closed by the server before the answer was complete".to_owned();
    }
    if error.is_parse_too_large() {
        return format!("the answer's head is larger than {HEAD_MAX} bytes");
    }
    if error.is_parse() || error.is_parse_status() {
        return "the answer is no HTTP".to_owned();
    }
    io_error(error).map_or_else(|| error.to_string(), super::doing::cause)
}

/// What the system said.
fn io_error(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        source = error.source();
    }
    None
}
