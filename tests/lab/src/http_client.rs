use crate::content::Content;
use crate::error::{Doing, Error, Result};
use crate::netns::Netns;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a connection may take to come about.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long the other side may be silent, or deaf.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Bytes moved at a time.
const PIECE: usize = 65_536;
/// Longest body that is kept rather than checked on the way, in bytes.
const SHORT_BODY_MAX: u64 = 1 << 20;

/// An answer with a short body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The real server's name for itself, if it is one of ours.
    pub real_server: String,
    /// The client's address and port as the real server sees them.
    pub client: String,
    /// The body.
    pub body: Vec<u8>,
}

struct Head {
    status: u16,
    real_server: String,
    client: String,
    length: u64,
}

/// One connection of a client, kept open between requests.
#[derive(Debug)]
pub struct HttpClient {
    peer: SocketAddr,
    socket: BufReader<TcpStream>,
}

impl HttpClient {
    /// Connects from inside `netns`.
    pub fn connect(netns: &Netns, peer: SocketAddr) -> Result<HttpClient> {
        netns.run(|| HttpClient::connect_here(peer))?
    }

    /// Connects from the namespace of the calling thread.
    pub fn connect_here(peer: SocketAddr) -> Result<HttpClient> {
        HttpClient::connect_here_within(peer, CONNECT_PATIENCE, SILENCE_MAX)
    }

    /// Connects from the namespace of the calling thread, within `patience`. After that the other
    /// side may be silent, or deaf, as long as `silence`.
    pub fn connect_here_within(
        peer: SocketAddr,
        patience: Duration,
        silence: Duration,
    ) -> Result<HttpClient> {
        let connect = || {
            let socket = TcpStream::connect_timeout(&peer, patience)?;
            socket.set_read_timeout(Some(silence))?;
            socket.set_write_timeout(Some(silence))?;
            socket.set_nodelay(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = connect().doing(|| format!("connecting to {peer}"))?;
        Ok(HttpClient { peer, socket: BufReader::new(socket) })
    }

    /// The client's own address and port.
    pub fn local_address(&self) -> Result<SocketAddr> {
        self.socket.get_ref().local_addr().doing(|| "asking for the local address".into())
    }

    /// Sends `GET path` and takes the answer.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.send_get(path)?;
        self.take_answer()
    }

    /// Sends `GET path`; the answer is taken later.
    pub fn send_get(&mut self, path: &str) -> Result<()> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.peer);
        self.send(request.as_bytes())
    }

    /// Takes the answer to an earlier request.
    pub fn take_answer(&mut self) -> Result<Answer> {
        let head = self.take_head()?;
        if head.length > SHORT_BODY_MAX {
            return Err(self.bad(format!("{} bytes are no short body", head.length)));
        }
        let mut body = vec![0; head.length as usize];
        let peer = self.peer;
        self.socket.read_exact(&mut body).doing(|| format!("reading a body from {peer}"))?;
        let Head { status, real_server, client, .. } = head;
        Ok(Answer { status, real_server, client, body })
    }

    /// Downloads `length` bytes and checks each.
    pub fn download(&mut self, length: u64) -> Result<()> {
        self.send_get(&format!("/content/{length}"))?;
        let head = self.take_head()?;
        if (head.status, head.length) != (200, length) {
            return Err(self.bad(format!("status {}, {} bytes", head.status, head.length)));
        }
        let content = Content::default();
        let mut buffer = vec![0; PIECE];
        let mut received = 0;
        while received < length {
            let wanted = usize::try_from(length - received).unwrap_or(PIECE).min(PIECE);
            let peer = self.peer;
            let count = self
                .socket
                .read(&mut buffer[..wanted])
                .doing(|| format!("reading byte {received} of {length} from {peer}"))?;
            if count == 0 {
                return Err(self.bad(format!("the end after {received} of {length} bytes")));
            }
            if let Some(position) = content.first_difference(received, &buffer[..count]) {
                return Err(self.bad(format!("the byte at {position} differs")));
            }
            received += count as u64;
        }
        Ok(())
    }

    /// Uploads `length` bytes, each of which the server checks.
    pub fn upload(&mut self, length: u64) -> Result<()> {
        let peer = self.peer;
        let head =
            format!("POST /content HTTP/1.1\r\nHost: {peer}\r\nContent-Length: {length}\r\n\r\n");
        self.send(head.as_bytes())?;
        let content = Content::default();
        let mut sent = 0;
        while sent < length {
            let piece = content.from(sent, length - sent);
            self.send(piece)?;
            sent += piece.len() as u64;
        }
        let answer = self.take_answer()?;
        let body = String::from_utf8_lossy(&answer.body).trim().to_owned();
        if answer.status != 200 || body != format!("{length} bytes intact") {
            return Err(self.bad(format!("status {}: {body}", answer.status)));
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let peer = self.peer;
        self.socket.get_mut().write_all(bytes).doing(|| format!("sending to {peer}"))
    }

    fn take_head(&mut self) -> Result<Head> {
        let status_line = self.take_line()?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| self.bad(format!("status line {status_line:?}")))?;
        let mut head = Head { status, real_server: "".into(), client: "".into(), length: 0 };
        loop {
            let line = self.take_line()?;
            if line.is_empty() {
                return Ok(head);
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(self.bad(format!("header field {line:?}")));
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "x-real-server" => head.real_server = value.to_owned(),
                "x-client" => head.client = value.to_owned(),
                "content-length" => {
                    head.length = value.parse().map_err(|_| self.bad(format!("length {value}")))?;
                }
                _ => {}
            }
        }
    }

    fn take_line(&mut self) -> Result<String> {
        let mut line = String::new();
        let peer = self.peer;
        let count = self
            .socket
            .read_line(&mut line)
            .doing(|| format!("waiting for an answer from {peer}"))?;
        if count == 0 {
            return Err(self.bad("the end of the connection in place of an answer".into()));
        }
        Ok(line.trim_end().to_owned())
    }

    fn bad(&self, problem: String) -> Error {
        Error::BadAnswer { peer: self.peer.to_string(), problem }
    }
}

/// One request on a connection of its own, from the namespace of the calling thread. Anything but
/// a 200 is an error.
pub fn get_once_here(peer: SocketAddr, path: &str) -> Result<Answer> {
    let mut client = HttpClient::connect_here(peer)?;
    let answer = client.get(path)?;
    match answer.status {
        200 => Ok(answer),
        status => Err(client.bad(format!("status {status}"))),
    }
}

/// One request on a connection of its own, from inside `netns`. Anything but a 200 is an error.
pub fn get_once(netns: &Netns, peer: SocketAddr, path: &str) -> Result<Answer> {
    netns.run(|| get_once_here(peer, path))?
}
